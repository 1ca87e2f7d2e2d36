"""A model of a table as people use it, beside sums over all rows that there could be."""

import datetime
import doctest
import itertools
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

import synth
import synth.table
from privacy.errors import ConditionError, InputError, RecipeError, ReleaseError, UsageError
from synth.schema import OTHER
from synth.table import PART_ROWS, TableModel
from tests.synth.tables import mixed, mixed_schema, schema_for

SMALL: Mapping[str, Any] = {"components": 12, "passes": 5}


def fitted(frame: Any, **more: Any) -> TableModel[Any]:
    """A small mixture, fitted in no time."""
    return synth.fit(frame, "gmm", threads=1, options=SMALL, **more)


def dependent(rows: int, *, seed: int = 0) -> pd.DataFrame:
    """Two columns of categories and a number, dependent on each other, with missing values."""
    rng = np.random.default_rng(seed)
    size = rng.choice(["S", "M", "L"], rows, p=[0.5, 0.3, 0.2])
    shift = pd.Series(size).map({"S": 0, "M": 1, "L": 2}).to_numpy()
    colour = np.array(["red", "green", "blue"])[(shift + (rng.random(rows) < 0.2)) % 3].astype(object)
    colour[rng.random(rows) < 0.05 + 0.15 * shift] = None
    return pd.DataFrame({"size": size, "colour": colour, "weight": rng.normal(10 * shift, 2.0, rows)})


@pytest.fixture(scope="module")
def model() -> TableModel[pd.DataFrame]:
    return fitted(dependent(3000))


@pytest.fixture(scope="module")
def wide() -> TableModel[pa.Table]:
    table = mixed(1500)
    return fitted(table, schema=mixed_schema(table))


# --------------------------------------------------------------------------------------------------- frames


def test_pandas_in_pandas_out_with_the_same_names_and_dtypes() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "i8": rng.integers(0, 100, 300).astype(np.int8),
            "i64": rng.integers(-(2**60), 2**60, 300),
            "u32": rng.integers(0, 2**32, 300).astype(np.uint32),
            "f32": rng.normal(0, 1, 300).astype(np.float32),
            "f64": np.where(rng.random(300) < 0.2, np.nan, rng.normal(0, 1, 300)),
            "flag": rng.random(300) < 0.5,
            "word": rng.choice(["a", "b"], 300),
            "kind": pd.Categorical(rng.choice(["x", "y"], 300)),
            "time": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 10**6, 300), "s"),
            "zone": pd.Timestamp("1969-01-01", tz="Europe/Berlin")
            + pd.to_timedelta(rng.integers(0, 10**6, 300), "s"),
            "wait": pd.to_timedelta(rng.integers(0, 10**6, 300), "ms"),
        }
    )
    drawn = fitted(frame).sample(50)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.dtypes.to_dict() == frame.dtypes.to_dict()
    assert len(drawn) == 50


def test_nullable_and_arrow_types_of_pandas_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "count": pd.array(rng.integers(2**60, 2**60 + 50, 300), dtype="Int64"),
            "flag": pd.array(rng.random(300) < 0.5, dtype="boolean"),
            "word": pd.array(rng.choice(["a", "b"], 300), dtype="string"),
            "real": pd.array(rng.normal(size=300), dtype="Float32"),
            "arrow": pd.array(rng.integers(0, 9, 300), dtype="int16[pyarrow]"),
            "text": pd.array(rng.choice(["c", "d"], 300), dtype="string[pyarrow]"),
        }
    )
    frame.loc[::3] = pd.NA
    model = fitted(frame)
    model.save(tmp_path)
    for drawn in (model.sample(60), synth.load(tmp_path).sample(60), model.impute(frame)):
        assert drawn.dtypes.to_dict() == frame.dtypes.to_dict()
    whole = model.impute(frame)
    assert not whole.isna().any().any()
    assert whole[frame["count"].notna()].equals(frame[frame["count"].notna()])
    assert model.as_arrow().sample(5).schema.field("count").type == pa.int64()


def test_a_type_that_pandas_cannot_read_back_comes_out_as_arrow_gives_it() -> None:
    cents = pd.array([Decimal(i % 7) / 4 for i in range(300)], dtype=pd.ArrowDtype(pa.decimal128(10, 2)))
    drawn = fitted(pd.DataFrame({"cents": cents, "self": np.arange(300) % 5})).sample(20)
    assert set(drawn["cents"]) <= {Decimal(i) / 4 for i in range(7)}


def test_frames_without_a_known_column_keep_their_rows(model: TableModel[pd.DataFrame]) -> None:
    strange = pd.DataFrame({"z": [1, 2, 3]}, index=[7, 8, 9])
    assert model.log_prob(strange) == pytest.approx(0, abs=1e-6)
    filled = model.impute(strange)
    assert filled.columns.tolist() == ["z", "size", "colour", "weight"]
    assert filled.index.tolist() == [7, 8, 9]
    named = fitted(pd.DataFrame({"self": np.arange(300) % 5.0}))
    assert named.impute(pd.DataFrame({"self": [np.nan, 1.0]}))["self"].notna().all()


def test_arrow_in_arrow_out_with_the_same_schema(wide: TableModel[pa.Table]) -> None:
    drawn = wide.sample(40)
    assert isinstance(drawn, pa.Table)
    assert drawn.schema.equals(mixed(10).schema)
    assert wide.sample(0).schema.equals(mixed(10).schema)


def test_a_model_of_pandas_can_be_asked_for_arrow(model: TableModel[pd.DataFrame]) -> None:
    assert model.as_arrow().sample(30).to_pandas().equals(model.sample(30))


HOSTILE = [
    "", " ", "a\nb", "unit", "holdout", "states", "scores", "\0held out", "$x", "<script>", "'\"", "ä", "🐘", "../x",
    "0", "None", "*",
]  # fmt: skip


def test_hostile_names_of_columns_survive_fit_sample_save_and_conditions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(["p", "q"], 120) for name in HOSTILE})
    one = fitted(frame)
    one.save(tmp_path)
    again = synth.load(tmp_path)
    drawn = again.sample(20, given={"": "p", "\0held out": "q"})
    assert drawn.columns.tolist() == HOSTILE
    assert set(drawn[""]) == {"p"}
    assert set(drawn["\0held out"]) == {"q"}


def test_columns_of_the_same_name_are_refused() -> None:
    two = pd.DataFrame(np.zeros((50, 2)), columns=["x", "x"])
    numbered = pd.DataFrame(np.zeros((50, 2)), columns=pd.Index([1, "1"], dtype=object))
    arrow = pa.Table.from_arrays([pa.array(range(50))] * 2, names=["x", "x"])
    for frame in (two, numbered, arrow):
        with pytest.raises(InputError, match="stands twice"):
            fitted(frame)


@pytest.mark.parametrize(
    "frame",
    [
        [1, 2],
        "data.csv",
        {"x": [1]},
        pd.DataFrame(),
        pd.DataFrame({"x": []}),
        pa.table({}),
        pd.DataFrame({"x": [[1], "a"] * 30}),
    ],
    ids=lambda f: type(f).__name__,
)
def test_what_is_no_usable_table_is_refused(frame: Any) -> None:
    with pytest.raises(InputError, match="however"):
        fitted(frame)


def test_a_table_that_is_not_what_the_schema_says_is_refused_by_column() -> None:
    table = pa.table({"x": ["a", "b"] * 30, "y": range(60)})
    with pytest.raises(InputError, match="'z'"):
        fitted(table, schema=schema_for(table.append_column("z", table.column("y"))))
    wrong = schema_for(table.set_column(0, "x", table.column("y")))
    with pytest.raises(InputError, match="column 'x' must be int64"):
        fitted(table, schema=wrong)


def test_what_is_no_number_no_condition_and_no_folder_is_refused(
    model: TableModel[pd.DataFrame], tmp_path: Path
) -> None:
    for rows in ("5", 1.5, True):
        with pytest.raises(UsageError, match="rows must be a whole number, however: it is"):
            model.sample(rows)  # type: ignore[arg-type]
    for wrong in ("size", [{"size": "S"}], pd.DataFrame({"size": ["S"]})):
        with pytest.raises(UsageError, match="given must be columns and their values"):
            model.sample(1, given=wrong)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file is a file; name another"):
        model.save(tmp_path / "file")


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.sample(-1),
        lambda m: m.sample(1, seed=-1),
        lambda m: m.sample(1, first_row=-1),
        lambda m: m.impute(dependent(5), seed=-1),
        lambda _: fitted(dependent(50), seed=-1),
        lambda _: fitted(dependent(50), at_least=-1),
        lambda _: synth.fit(dependent(50), threads=0),
    ],
)
def test_numbers_below_their_least_are_refused(model: TableModel[pd.DataFrame], ask: Any) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        ask(model)


def test_an_unknown_synthesizer_is_refused_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'gmm'"):
        synth.fit(dependent(50), "gmn")


def test_the_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(synth.table)
    assert result.attempted > 0
    assert result.failed == 0


# --------------------------------------------------------------------------------------------------- draws


def test_equal_seeds_give_equal_rows_and_other_seeds_others(model: TableModel[pd.DataFrame]) -> None:
    assert model.sample(100, seed=3).equals(model.sample(100, seed=3))
    assert not model.sample(100, seed=3).equals(model.sample(100, seed=4))


def test_equal_seeds_give_equal_models_and_other_seeds_others() -> None:
    digests = [fitted(dependent(400), seed=seed).digest() for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_a_shard_is_a_function_of_model_seed_and_number(
    model: TableModel[pd.DataFrame], tmp_path: Path
) -> None:
    def shard(of: TableModel[Any], number: int, seed: int) -> pa.Table:
        return pa.concat_tables(of.shard(number, 50, seed=seed, first_row=50 * number))

    model.save(tmp_path)
    other_process = synth.load(tmp_path)
    shard(other_process, 7, 1)
    shards = {(seed, number): shard(model, number, seed) for seed in (1, 2) for number in (0, 1, 2)}
    for (seed, number), drawn in reversed(shards.items()):
        assert shard(other_process, number, seed).equals(drawn)
    for one, two in itertools.combinations(shards.values(), 2):
        assert not one.equals(two)
    assert not shard(fitted(dependent(400)), 0, 1).equals(shards[1, 0])


def test_identifiers_go_on_from_shard_to_shard_and_from_part_to_part(wide: TableModel[pa.Table]) -> None:
    shards = [pa.concat_tables(wide.shard(k, 40_000, seed=1, first_row=40_000 * k)) for k in range(2)]
    ids = [v for shard in shards for v in shard.column("id").to_pylist()]
    assert len(set(ids)) == len(ids) == 80_000
    rest = wide.shard(0, 40_000, seed=1, first_row=0)
    assert [len(part) for part in rest] == [PART_ROWS, 40_000 - PART_ROWS]


def test_parts_of_a_draw_differ_and_a_longer_draw_begins_with_the_same_whole_parts(
    model: TableModel[pd.DataFrame],
) -> None:
    rows = model.sample(2 * PART_ROWS, seed=3)
    one, two = rows[:PART_ROWS].reset_index(drop=True), rows[PART_ROWS:].reset_index(drop=True)
    assert not one.equals(two)
    pd.testing.assert_frame_equal(one, model.sample(PART_ROWS, seed=3))


# --------------------------------------------------------------------------------------------------- conditions


def frequencies(values: pd.Series) -> Mapping[Any, int]:
    return values.fillna("missing").value_counts().to_dict()


def agree(one: pd.Series, two: pd.Series) -> float:
    """p-value of the hypothesis that two samples of categories come from the same distribution."""
    counts = pd.DataFrame([frequencies(one), frequencies(two)]).fillna(0)
    return float(stats.chi2_contingency(counts.to_numpy() + 1e-9).pvalue)


@pytest.fixture(scope="module")
def many(model: TableModel[pd.DataFrame]) -> pd.DataFrame:
    return model.sample(200_000, seed=11)


@pytest.mark.parametrize("given", [{"size": "M"}, {"colour": None}, {"colour": "blue"}])
def test_a_condition_on_a_category_gives_what_filtering_would_give(
    model: TableModel[pd.DataFrame], many: pd.DataFrame, given: Mapping[str, Any]
) -> None:
    ((name, value),) = given.items()
    drawn = model.sample(10_000, given=given, seed=5)
    kept = many[many[name].isna() if value is None else many[name] == value]
    assert drawn[name].isna().all() if value is None else (drawn[name] == value).all()
    other = "colour" if name == "size" else "size"
    assert agree(drawn[other], kept[other]) > 1e-4
    assert stats.ks_2samp(drawn["weight"], kept["weight"]).pvalue > 1e-4
    # Rows that the condition had no hold on would be seen.
    assert agree(drawn[other], many[other][:10_000]) < 1e-6
    assert stats.ks_2samp(drawn["weight"], many["weight"][:10_000]).pvalue < 1e-6


def test_a_condition_on_a_number_gives_what_filtering_around_it_would_give(
    model: TableModel[pd.DataFrame], many: pd.DataFrame
) -> None:
    drawn = model.sample(10_000, given={"weight": 5.0}, seed=5)
    assert (drawn["weight"] == 5.0).all()
    kept = many[(many["weight"] - 5).abs() < 0.1]
    for name in ("size", "colour"):
        one, two = (frequencies(f[name]) for f in (drawn, kept))
        for value in one:
            four_errors = 4 * (0.25 / len(kept)) ** 0.5
            assert abs(one[value] / len(drawn) - two.get(value, 0) / len(kept)) < four_errors
    assert agree(drawn["size"], many["size"][:10_000]) < 1e-6


def test_two_conditions_hold_together(model: TableModel[pd.DataFrame], many: pd.DataFrame) -> None:
    drawn = model.sample(5_000, given={"size": "S", "colour": "green"}, seed=6)
    kept = many[(many["size"] == "S") & (many["colour"] == "green")]
    assert stats.ks_2samp(drawn["weight"], kept["weight"]).pvalue > 1e-4


@pytest.mark.parametrize(
    ("given", "said"),
    [({"sise": "M"}, "did you mean 'size'"), ({"size": "XL"}, "'L', 'M', 'S'"), ({"size": None}, "size = None"),
     ({"weight": "heavy"}, "'weight'"), ({"weight": 10**6}, "weight = 1000000")],
)  # fmt: skip
def test_a_condition_that_no_row_can_meet_is_refused(
    model: TableModel[pd.DataFrame], given: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(ConditionError, match=said):
        model.sample(10, given=given)


def test_a_condition_on_what_is_never_learned_is_refused_but_its_absence_is_none(
    wide: TableModel[pa.Table],
) -> None:
    with pytest.raises(ConditionError, match="'id' is kind: identifier, whose values are made anew"):
        wide.sample(3, given={"id": wide.sample(1).column("id")[0].as_py()})
    with pytest.raises(ConditionError, match="id = None has no probability"):
        wide.sample(3, given={"id": None})


def test_a_condition_may_be_a_time_a_decimal_or_a_category_of_a_dictionary(
    wide: TableModel[pa.Table],
) -> None:
    known = wide.sample(1, seed=1).to_pylist()[0]
    for name in ("seen", "born", "price", "grade", "wait", "big", "member"):
        if known[name] is not None:
            drawn = wide.sample(5, given={name: known[name]}).column(name)
            assert drawn.to_pylist() == [known[name]] * 5
            assert drawn.type == wide.schema[name].arrow_type


# --------------------------------------------------------------------------------------------------- density


def test_the_probabilities_of_all_discrete_rows_make_one() -> None:
    frame = dependent(600).drop(columns="weight")
    frame.loc[:14, "size"] = [f"rare {i}" for i in range(15)]
    one = fitted(pa.Table.from_pandas(frame))
    sizes = [v if v != OTHER else "never seen" for v in [*(one.codec.profile.columns[0].atoms), OTHER]]
    rows = list(itertools.product([*sizes, None], [*one.codec.profile.columns[1].atoms, None]))
    every = pa.table({"size": [r[0] for r in rows], "colour": [r[1] for r in rows]})
    assert np.exp(one.log_prob(every)).sum() == pytest.approx(1, abs=1e-5)
    # And each margin is what the sum over the other column gives.
    joint = np.exp(one.log_prob(every)).reshape(len(sizes) + 1, -1).sum(1)
    alone = np.exp(one.log_prob(pa.table({"size": pa.array([*sizes, None])})))
    np.testing.assert_allclose(alone, joint, atol=1e-5)


def test_the_density_of_a_number_integrates_to_one() -> None:
    one = fitted(dependent(3000)[["weight"]])
    ends = one.codec.released_schema()["weight"]
    grid = np.linspace(float(ends.min), float(ends.max), 40_001)  # type: ignore[arg-type]
    middle = (grid[1:] + grid[:-1]) / 2
    density = np.exp(one.log_prob(pd.DataFrame({"weight": middle})))
    assert (density * np.diff(grid)).sum() == pytest.approx(1, abs=0.02)


def test_the_probabilities_of_all_integers_make_one() -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(0, 5000, 4000)).astype(np.int64)
    one = fitted(pd.DataFrame({"x": values}))
    ends = one.codec.released_schema()["x"]
    every = pd.DataFrame({"x": np.arange(ends.min, ends.max + 1)})  # type: ignore[arg-type,operator]
    assert np.exp(one.log_prob(every)).sum() == pytest.approx(1, abs=0.02)


def test_density_and_discrete_parts_make_one_together(model: TableModel[pd.DataFrame]) -> None:
    ends = model.codec.released_schema()["weight"]
    grid = np.linspace(float(ends.min), float(ends.max), 8_001)  # type: ignore[arg-type]
    middle = (grid[1:] + grid[:-1]) / 2
    total = 0.0
    for size, colour in itertools.product("SML", ["red", "green", "blue", None]):
        rows = pd.DataFrame(
            {"size": size, "colour": pd.Series([colour] * len(middle), dtype=object), "weight": middle}
        )
        total += float((np.exp(model.log_prob(rows)) * np.diff(grid)).sum())
    assert total == pytest.approx(1, abs=0.02)


def test_real_rows_are_likelier_than_shuffled_ones(model: TableModel[pd.DataFrame]) -> None:
    rows = dependent(1000, seed=9)
    shuffled = rows.assign(weight=rows["weight"].sample(frac=1, random_state=0).to_numpy())
    assert model.log_prob(rows).mean() > model.log_prob(shuffled).mean() + 0.5


def test_every_row_of_a_table_of_all_kinds_has_a_finite_density(wide: TableModel[pa.Table]) -> None:
    assert np.isfinite(wide.log_prob(mixed(300, seed=5))).all()
    assert wide.log_prob(mixed(10).slice(0, 0)).shape == (0,)


# --------------------------------------------------------------------------------------------------- impute


def test_imputing_fills_missing_cells_and_touches_no_other(wide: TableModel[pa.Table]) -> None:
    table = mixed(400, seed=3)
    filled = wide.impute(table, seed=1)
    assert filled.schema.equals(table.schema)
    for column in wide.schema:
        before, after = table.column(column.name), filled.column(column.name)
        if column.learned:
            assert after.null_count == 0
        kept = before.is_valid().to_pylist()
        assert [
            v for v, k in zip(after.to_pylist(), kept, strict=True) if k
        ] == before.drop_null().to_pylist()


def test_nan_in_an_arrow_table_is_missing_and_filled(model: TableModel[pd.DataFrame]) -> None:
    table = pa.table({"size": ["S"] * 20, "colour": ["red"] * 20, "weight": [math.nan, 1.0] * 10})
    filled = model.as_arrow().impute(table).column("weight").to_numpy()
    assert not np.isnan(filled).any()
    assert (filled[1::2] == 1.0).all()


def test_a_column_that_is_not_there_is_added_and_follows_the_others(model: TableModel[pd.DataFrame]) -> None:
    rows = dependent(6000, seed=4)
    filled = model.impute(rows[["size"]], seed=2)
    assert filled.columns.tolist() == ["size", "colour", "weight"]
    for size in "SML":
        real, made = (f.loc[f["size"] == size, "weight"] for f in (rows, filled))
        assert abs(real.mean() - made.mean()) < 1


def test_imputing_keeps_the_index_and_the_columns_that_the_model_does_not_know(
    model: TableModel[pd.DataFrame],
) -> None:
    rows = dependent(50, seed=5).assign(note=[object() for _ in range(50)]).drop(columns="weight")
    rows.index = pd.Index(range(100, 150), name="visit")
    rows = rows[["note", "colour", "size"]]
    filled = model.impute(rows)
    assert filled.columns.tolist() == ["note", "colour", "size", "weight"]
    assert filled.index.equals(rows.index)
    assert filled[["note", "size"]].equals(rows[["note", "size"]])
    table = pa.table({"note": ["x"], "size": ["S"]})
    assert model.as_arrow().impute(table).column_names == ["note", "size", "colour", "weight"]


def test_imputed_values_follow_the_distribution_given_the_rest(
    model: TableModel[pd.DataFrame], many: pd.DataFrame
) -> None:
    blank = pd.DataFrame(
        {"size": ["M"] * 8000, "colour": pd.Series([None] * 8000, dtype=object), "weight": [10.0] * 8000}
    )
    filled = model.impute(blank, seed=3)["colour"]
    near = many[(many["size"] == "M") & ((many["weight"] - 10).abs() < 0.3) & many["colour"].notna()][
        "colour"
    ]
    for colour in ("red", "green", "blue"):
        assert abs((filled == colour).mean() - (near == colour).mean()) < 0.05


# --------------------------------------------------------------------------------------------------- files


def test_a_stored_model_is_the_same_model(wide: TableModel[pa.Table], tmp_path: Path) -> None:
    wide.save(tmp_path / "deep" / "folder")
    again = synth.load(tmp_path / "deep" / "folder")
    assert again.digest() == wide.digest()
    assert again.synthesizer == "gmm"
    assert again.schema == wide.schema
    assert again.sample(50, seed=2).equals(wide.sample(50, seed=2))
    np.testing.assert_array_equal(again.log_prob(mixed(40)), wide.log_prob(mixed(40)))


def test_storing_twice_writes_the_same_bytes(wide: TableModel[pa.Table], tmp_path: Path) -> None:
    for name in ("a", "b"):
        wide.save(tmp_path / name)
    for file in ("model.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["model.json", "model.safetensors"]


ONE_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


@ONE_FOLDER
@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_changed_weights_are_refused(
    model: TableModel[pd.DataFrame], tmp_path: Path, at: float, flip: int
) -> None:
    model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = bytearray(path.read_bytes())
    weights[int(at * len(weights))] ^= flip
    path.write_bytes(weights)
    with pytest.raises(ReleaseError, match="was changed"):
        synth.load(tmp_path)


def descriptions(text: str) -> dict[str, str]:
    """Damaged versions of a stored description, by what was done to them."""
    data = json.loads(text)
    damaged = {"cut": text[:-30], "empty": "", "list": "[]", "nothing": "{}", "number": "3"}
    for name in data:
        damaged[f"without {name}"] = json.dumps({k: v for k, v in data.items() if k != name})
        damaged[f"{name} is null"] = json.dumps({**data, name: None})
        damaged[f"{name} is a list"] = json.dumps({**data, name: [1]})
    other = [dict(c, kind="constant", name=str(i)) for i, c in enumerate(data["schema"]["columns"])]
    damaged["other names"] = json.dumps({**data, "schema": {"columns": other}})
    damaged["fewer columns"] = json.dumps({**data, "schema": {"columns": other[:1]}})
    damaged["later version"] = json.dumps({**data, "format": 99})
    damaged["other synthesizer"] = json.dumps({**data, "synthesizer": "gmn"})
    return damaged


PARTS = dict.fromkeys(["format", "synthesizer", "weights", "threads", "frame", "profile"], 1)


@pytest.mark.parametrize("done", descriptions(json.dumps({**PARTS, "schema": {"columns": []}})))
def test_a_damaged_description_is_refused(model: TableModel[pd.DataFrame], tmp_path: Path, done: str) -> None:
    model.save(tmp_path)
    path = tmp_path / "model.json"
    path.write_text(descriptions(path.read_text("utf-8"))[done], "utf-8")
    with pytest.raises(ReleaseError, match="however"):
        synth.load(tmp_path)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="nowhere"):
        synth.load(tmp_path / "nowhere")


def test_the_seed_the_threshold_and_the_threads_are_part_of_the_digest() -> None:
    frame = dependent(300)
    base = synth.fit(frame, "gmm", threads=1, options=SMALL)
    others = [
        synth.fit(frame, "gmm", threads=2, options=SMALL),
        synth.fit(frame, "gmm", threads=1, options=SMALL, seed=1),
        synth.fit(frame, "gmm", threads=1, options=SMALL, at_least=0),
    ]
    assert len({m.digest() for m in [base, *others]}) == 4


def test_dates_before_1970_and_nanoseconds_survive() -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "t": pa.array(rng.integers(-(10**18), 10**18, 300)).view(pa.timestamp("ns")),
            "d": pa.array(
                [datetime.date(1850, 1, 1) + datetime.timedelta(int(i)) for i in rng.integers(0, 9000, 300)]
            ),
        }
    )
    drawn = fitted(table).sample(100)
    assert drawn.schema.types == table.schema.types
    assert {1850 <= d.year <= 1874 for d in drawn.column("d").to_pylist()} == {True}
    assert any(v % 1000 for v in drawn.column("t").cast(pa.int64()).to_pylist())
