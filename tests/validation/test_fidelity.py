"""What `measure` says of tables whose answer is known, beside slow and obvious computations."""

import json
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from synth.schema import Column, Schema
from validation import fidelity as module
from validation.associations import associations, information
from validation.cells import Cells
from validation.fidelity import MISSING, OTHERS, Fidelity, measure

CITIES = np.array(["Ulm", "Köln", "Rom <script>", "$name", "Oslo"])


def people(rows: int, *, seed: int) -> pa.Table:
    """A table of every kind of column, with associations, missing values and names that are hard to bear."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, rows)
    city = CITIES[np.clip((age - 18) // 15 + rng.integers(-1, 2, rows), 0, 4)]
    income = np.round(age * 700 + rng.normal(0, 6_000, rows), 2)
    seen = np.datetime64("1960-01-01", "us") + (age * 200 + rng.integers(0, 900, rows)).astype(
        "timedelta64[D]"
    )
    return pa.table(
        {
            "age": pa.array(age, pa.int64()),
            "in\ncome 🐘": pa.array(income, mask=rng.random(rows) < 0.2),
            "$city\"'": pa.array(city, mask=rng.random(rows) < 0.05),
            "<script>alert(1)</script>": pa.array(age + rng.normal(0, 10, rows) > 50),
            "seen": pa.array(seen, pa.timestamp("us", tz="UTC")),
            "wait": pa.array(
                (age * 3 + rng.integers(0, 60, rows)).astype("timedelta64[s]"), pa.duration("s")
            ),
            "price": pa.array([Decimal(int(a)) / 4 for a in rng.integers(1, 999, rows)], pa.decimal128(9, 2)),
            "id": pa.array([f"P{seed:02}{i:06}" for i in range(rows)]),
            "note": pa.array([f"note {i} of {seed}" for i in range(rows)]),
            "void": pa.nulls(rows, pa.string()),
            "one": pa.array(["x"] * rows),
        }
    )


def schema_of(table: pa.Table) -> Schema:
    """The schema of `people`, with what is publicly known of it."""
    kinds = ["numerical", "numerical", "categorical", "boolean", "datetime", "duration", "numerical",
             "identifier", "text", "empty", "constant"]  # fmt: skip
    more: dict[str, dict[str, object]] = {
        "age": {"min": 18, "max": 89, "nullable": False},
        "in\ncome 🐘": {"digits": 2},
        "$city\"'": {"categories": tuple(CITIES.tolist())},
        "<script>alert(1)</script>": {"categories": (True, False)},
        "seen": {"min": "1960-01-01T00:00:00Z", "max": "2030-01-01T00:00:00"},
        "id": {"pattern": "P[0-9]{8}"},
        "note": {"action": "replace"},
        "one": {"categories": ("x",)},
    }
    return Schema.model_validate(
        {
            "columns": [
                {"name": f.name, "kind": kind, "type": str(f.type), **more.get(f.name, {})}
                for f, kind in zip(table.schema, kinds, strict=True)
            ]
        }
    )


def changed(table: pa.Table, name: str, values: object) -> pa.Table:
    """The table with other values in one column."""
    return table.set_column(table.schema.names.index(name), name, values)


def shuffled(table: pa.Table, name: str) -> pa.Table:
    """The table with one column in another order."""
    order = np.random.default_rng(5).permutation(table.num_rows)
    return changed(table, name, table[name].take(pa.array(order)))


TRAIN, HOLDOUT, HALF = people(3000, seed=1), people(1500, seed=2), people(3000, seed=3)
SCHEMA = schema_of(TRAIN)


@pytest.fixture(scope="module")
def good() -> Fidelity:
    return measure(TRAIN, HOLDOUT, HALF, SCHEMA, at_least=10, seed=0)


def column(found: Fidelity, name: str) -> module.ColumnFidelity:
    return next(c for c in found.columns if c.name == name)


def cells(frame: dict[str, pa.Array], kinds: dict[str, str]) -> list[Cells]:
    table = pa.table(frame)
    out = []
    for name, kind in kinds.items():
        of = Column(name=name, kind=kind, type=str(table.schema.field(name).type))  # type: ignore[arg-type]
        out.append(module.cells_of(of, (table, table, table)))
    return out


def test_real_rows_score_as_their_ceiling(good: Fidelity) -> None:
    assert good.shape == pytest.approx(good.shape_ceiling, abs=0.02)
    assert good.trend == pytest.approx(good.trend_ceiling, abs=0.02)
    assert good.shape > 0.95
    assert (good.rows_train, good.rows_holdout, good.rows_synthetic) == (3000, 1500, 3000)


def test_it_survives_json_without_loss(good: Fidelity) -> None:
    assert Fidelity.from_dict(json.loads(json.dumps(good.to_dict()))) == good


def test_only_learned_columns_have_shapes_and_pairs_and_all_have_missing_rates(good: Fidelity) -> None:
    unlearned = {"id", "note", "void"}
    assert [c.name for c in good.columns] == list(SCHEMA.names)
    assert {c.name for c in good.columns if c.shape is None} == unlearned
    assert not unlearned & {n for p in good.pairs for n in (p.first, p.second)}
    assert not unlearned & {o.column for o in good.overlays}
    assert column(good, "void").missing_synthetic == 1.0
    assert len(good.pairs) == 8 * 7 // 2


def test_a_constant_has_no_association(good: Fidelity) -> None:
    assert column(good, "one").strongest is None
    assert all(p.association_real == 0 for p in good.pairs if "one" in (p.first, p.second))


def test_the_same_seed_gives_the_same_figures_and_leaves_the_global_generator_alone(good: Fidelity) -> None:
    before = np.random.get_state()[1].tolist()
    assert measure(TRAIN, HOLDOUT, HALF, SCHEMA, at_least=10, seed=0) == good
    assert np.random.get_state()[1].tolist() == before


def test_shapes_and_trends_are_those_of_sdmetrics_on_the_plain_table() -> None:
    from sdmetrics.reports.single_table import QualityReport

    def frame(table: pa.Table) -> pd.DataFrame:
        return pd.DataFrame(
            {
                "a": table["age"].to_numpy(),
                "b": table["in\ncome 🐘"].to_numpy(),
                "c": table["$city\"'"].to_pandas(),
                "d": table["seen"].to_pandas().dt.tz_localize(None),
            }
        )

    names = ["age", "in\ncome 🐘", "$city\"'", "seen"]
    types = dict(zip("abcd", ["numerical", "numerical", "categorical", "datetime"], strict=True))
    report = QualityReport()
    report.generate(
        frame(TRAIN), frame(HALF), {"columns": {k: {"sdtype": v} for k, v in types.items()}}, verbose=False
    )
    theirs = report.get_properties().set_index("Property")["Score"]
    small = SCHEMA.model_copy(update={"columns": tuple(SCHEMA[n] for n in names)})
    ours = measure(TRAIN.select(names), HOLDOUT.select(names), HALF.select(names), small, at_least=10, seed=0)
    assert ours.shape == pytest.approx(theirs["Column Shapes"], abs=1e-9)
    assert ours.trend == pytest.approx(theirs["Column Pair Trends"], abs=1e-3)


# ── associations ────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(20, 300))
def test_numbers_are_associated_as_scipys_spearman_says(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 12, rows)
    y = x + rng.normal(0, 5, rows)
    holes = rng.random(rows) < 0.2
    found = associations(
        cells({"x": pa.array(x), "y": pa.array(y, mask=holes)}, {"x": "numerical", "y": "numerical"}),
        at_least=0, seed=0,
    )["train"]  # fmt: skip
    filled = np.zeros(rows)  # the mean rank
    ranks = stats.rankdata(y[~holes])
    filled[~holes] = ranks - ranks.mean()
    slow = np.corrcoef(stats.rankdata(x), filled)[0, 1]
    assert found[0, 1] == pytest.approx(abs(slow), abs=1e-5)
    plain = associations(
        cells({"x": pa.array(x), "y": pa.array(y)}, {"x": "numerical", "y": "numerical"}), at_least=0, seed=0
    )["train"]
    assert plain[0, 1] == pytest.approx(abs(stats.spearmanr(x, y).statistic), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(30, 300))
def test_categories_are_associated_as_the_slow_formulas_say(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 4, rows)
    b = np.where(rng.random(rows) < 0.5, a, rng.integers(0, 6, rows))
    x = a + rng.normal(0, 2, rows)
    hole = rng.random(rows) < 0.1
    found = associations(
        cells(
            {"a": pa.array(a.astype(str)), "b": pa.array(b.astype(str), mask=hole), "x": pa.array(x)},
            {"a": "categorical", "b": "categorical", "x": "numerical"},
        ),
        at_least=0,
        seed=0,
    )["train"]
    labels = np.where(hole, -1, b)
    assert found[0, 1] == pytest.approx(_slow_cramer(a, labels), abs=1e-6)
    assert found[2, 1] == pytest.approx(_slow_ratio(stats.rankdata(x), labels), abs=1e-5)
    np.testing.assert_allclose(found, found.T, atol=1e-12)


def _slow_cramer(a: np.ndarray, b: np.ndarray) -> float:
    table = pd.crosstab(a, b).to_numpy()
    n, (r, c) = table.sum(), table.shape
    phi2 = max(0, stats.chi2_contingency(table, correction=False).statistic / n - (r - 1) * (c - 1) / (n - 1))
    return float(np.sqrt(phi2 / (min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1)).clip(0, 1))


def _slow_ratio(ranks: np.ndarray, groups: np.ndarray) -> float:
    n, labels = len(ranks), np.unique(groups)
    within = sum(((ranks[groups == g] - ranks[groups == g].mean()) ** 2).sum() for g in labels)
    total = ((ranks - ranks.mean()) ** 2).sum()
    return float(np.sqrt(max(0.0, 1 - within / total * (n - 1) / (n - len(labels)))))


def test_categories_that_have_nothing_to_do_with_each_other_are_not_associated_however_many() -> None:
    rng = np.random.default_rng(0)
    frame = {k: pa.array(rng.integers(0, 40, 500).astype(str)) for k in "ab"} | {
        "x": pa.array(rng.normal(size=500))
    }
    found = associations(
        cells(frame, {"a": "categorical", "b": "categorical", "x": "numerical"}), at_least=0, seed=0
    )
    assert found["train"].max() < 0.25


def test_a_shuffled_column_loses_its_association() -> None:
    found = measure(TRAIN, HOLDOUT, shuffled(HALF, "age"), SCHEMA, at_least=10, seed=0)
    age = column(found, "age")
    assert age.association_real > 0.8
    assert age.association_holdout > 0.8
    assert age.association_synthetic < 0.1


# ── copies ──────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_copies_are_what_a_set_of_rows_says(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def table(rows: int) -> pa.Table:
        x = pa.array(rng.choice([0.0, -0.0, 1.5, np.nan], rows), from_pandas=True)
        return pa.table(
            {
                "x": x,
                "n": pa.array(2**60 + rng.integers(0, 3, rows)),
                "s": pa.array(rng.choice(["a", "b", "ab"], rows), mask=rng.random(rows) < 0.3),
                "id": pa.array(np.arange(rows)),
            }
        )

    kinds = {"x": "numerical", "n": "numerical", "s": "categorical", "id": "identifier"}
    train, holdout, synthetic = table(40), table(15), table(30)
    schema = Schema.model_validate(
        {"columns": [{"name": k, "kind": v, "type": str(train[k].type)} for k, v in kinds.items()]}
    )
    found = measure(train, holdout, synthetic, schema, at_least=3, seed=0)

    def rows(of: pa.Table) -> list[tuple[object, ...]]:
        return [tuple(r.values()) for r in of.drop(["id"]).to_pylist()]

    times = Counter(rows(train))
    assert found.copies == pytest.approx(np.mean([times[r] > 0 for r in rows(synthetic)]))
    assert found.copies_holdout == pytest.approx(np.mean([times[r] > 0 for r in rows(holdout)]))
    assert found.copies_rare == pytest.approx(np.mean([0 < times[r] < 3 for r in rows(synthetic)]))


def test_a_row_that_one_unit_has_many_times_is_rare() -> None:
    table, units, schema = visits()
    mine = table.slice(1200)
    found = measure(table, table.slice(0, 9), mine, schema, at_least=10, seed=0, units=units)
    assert (found.copies, found.copies_rare) == (1.0, 1.0)
    assert measure(table, table.slice(0, 9), mine, schema, at_least=10, seed=0).copies_rare == 0.0


def test_a_step_beside_hits_as_often_as_training_values_lie_beside_each_other() -> None:
    rng = np.random.default_rng(0)
    schema = Schema.model_validate({"columns": [{"name": "n", "kind": "numerical", "type": "double"}]})

    def moved(values: np.ndarray) -> float | None:
        table = pa.table({"n": pa.array(values)})
        return measure(table, table, table, schema, at_least=10, seed=0).copies_moved

    grid = rng.permutation(10_000) / 4
    assert moved(grid[:8000]) == pytest.approx(0.8, abs=0.02)
    assert moved(np.unique(np.round(rng.normal(0, 1e6, 3000), 2))) == pytest.approx(0, abs=0.01)
    assert moved(rng.normal(size=3000)) is None
    assert moved(rng.integers(0, 100, 3000)) is None


def test_numbers_that_differ_beyond_the_precision_of_floats_are_no_copies() -> None:
    schema = Schema.model_validate({"columns": [{"name": "n", "kind": "numerical", "type": "int64"}]})
    train = pa.table({"n": pa.array([2**60, 2**60 + 2])})
    found = measure(train, train, pa.table({"n": pa.array([2**60 + 1, 2**60])}), schema, at_least=0, seed=0)
    assert found.copies == 0.5


# ── categories, overlays ────────────────────────────────────────────────────────────────────────────────────


def test_a_category_that_is_gone_is_named_with_its_share() -> None:
    kept = HALF.filter(pa.array([v != "Oslo" for v in HALF["$city\"'"].to_pylist()]))
    found = column(measure(TRAIN, HOLDOUT, kept, SCHEMA, at_least=10, seed=0), "$city\"'")
    share = sum(v == "Oslo" for v in TRAIN["$city\"'"].to_pylist()) / TRAIN.num_rows
    assert found.lost == (("Oslo", pytest.approx(share)),)


@pytest.mark.parametrize("at_least", [0, 1, 10, 200])
def test_no_bin_and_no_label_stands_for_fewer_real_rows(at_least: int) -> None:
    found = measure(TRAIN, HOLDOUT, HALF, SCHEMA, at_least=at_least, seed=0)
    for overlay in found.overlays:
        real = TRAIN[overlay.column]
        rows = TRAIN.num_rows - real.null_count if overlay.edges else TRAIN.num_rows
        assert all(s == 0 or round(s * rows) >= at_least for s in overlay.real)
        assert sum(overlay.real) == pytest.approx(1)
        assert sum(overlay.synthetic) == pytest.approx(1)
        assert len(overlay.real) == len(overlay.synthetic) <= 40
        if overlay.edges:
            assert len(overlay.edges) == len(overlay.real) + 1
            assert list(overlay.edges) == sorted(set(overlay.edges))
        else:
            assert len(overlay.labels) == len(overlay.real)


def test_rare_categories_and_few_missing_values_are_pooled() -> None:
    values = ["a"] * 50 + ["b"] * 30 + ["rare"] * 3 + [None] * 4
    table = pa.table({"c": pa.array(values)})
    schema = Schema.model_validate({"columns": [{"name": "c", "kind": "categorical", "type": "string"}]})
    (overlay,) = measure(table, table, table, schema, at_least=5, seed=0).overlays
    assert overlay.labels == ("a", "b", OTHERS)
    assert overlay.real[-1] == pytest.approx(7 / 87)
    (shown,) = measure(table, table, table, schema, at_least=0, seed=0).overlays
    assert shown.labels == ("a", "b", "rare", MISSING)


def test_no_edge_shows_one_of_the_extremes() -> None:
    table = pa.table({"x": pa.array([-1e9, *range(100), 1e9])})
    schema = Schema.model_validate({"columns": [{"name": "x", "kind": "numerical", "type": "double"}]})
    (overlay,) = measure(table, table, table, schema, at_least=10, seed=0).overlays
    assert overlay.edges[0] >= 8
    assert overlay.edges[-1] <= 91


def test_bins_exist_where_floats_are_coarse() -> None:
    schema = Schema.model_validate({"columns": [{"name": "n", "kind": "numerical", "type": "int64"}]})
    for values in (
        [2**60] * 5,
        [2**60, 2**60 + 2],
        [2**53 + i for i in range(30)],
        [-(2**63), 2**63 - 1],
        [0, 0],
    ):
        table = pa.table({"n": pa.array(values)})
        (overlay,) = measure(table, table, table, schema, at_least=0, seed=0).overlays
        assert list(overlay.edges) == sorted(set(overlay.edges))
        assert sum(overlay.real) == pytest.approx(1)


def visits() -> tuple[pa.Table, np.ndarray, Schema]:
    """400 patients of 3 visits each, and one of 70 with a diagnosis and a value that are only theirs."""
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "diag": pa.array([*rng.choice(["A", "B", "C"], 1200), *["RAREDX"] * 70]),
            "x": pa.array([*np.round(rng.normal(300, 50, 1200), 2), *[777.77] * 70]),
            "hole": pa.array([*rng.choice(["y", "z"], 1200), *[None] * 70]),
            "note": pa.array([*[None] * 1195, *["few"] * 5, *["mine"] * 70]),
        }
    )
    kinds = {"diag": "categorical", "x": "numerical", "hole": "categorical", "note": "categorical"}
    schema = Schema.model_validate(
        {"columns": [{"name": k, "kind": v, "type": str(table[k].type)} for k, v in kinds.items()]}
    )
    return table, np.array([*np.repeat(np.arange(400), 3), *[400] * 70], np.uint64), schema


def test_what_one_unit_alone_has_is_not_shown_however_many_rows_it_has() -> None:
    table, units, schema = visits()
    other = table.slice(0, 1200)
    found = measure(table, other, other, schema, at_least=10, seed=0, units=units)
    plain = measure(table, other, other, schema, at_least=10, seed=0)
    assert column(plain, "diag").lost[0][0] == "RAREDX"
    assert all(word not in json.dumps(found.to_dict()) for word in ("RAREDX", "777.77", "mine", "few"))
    overlays = {o.column: o for o in found.overlays}
    # One unit alone cannot be the others, so a third category is with it.
    assert overlays["diag"].labels[-1] == OTHERS
    assert len(set(overlays["diag"].labels) & {"A", "B", "C"}) == 2
    assert overlays["x"].edges[-1] < 700
    assert MISSING not in overlays["hole"].labels
    assert (column(found, "diag").shape, found.rows_train) == (column(plain, "diag").shape, 1270)
    assert measure(table, other, other, schema, at_least=10, seed=0, units=units) == found


def test_the_share_of_values_too_rare_to_release_is_known() -> None:
    table, units, schema = visits()
    released = table.set_column(
        0, "diag", pc.if_else(pc.equal(table["diag"], "RAREDX"), "(other)", table["diag"])
    )
    plain, by_unit = (
        column(measure(table, table, released, schema, at_least=10, seed=0, units=u), "diag")
        for u in (None, units)
    )
    # 70 of 1,270 rows have it, all of one unit.
    assert (plain.pooled, by_unit.pooled) == (0, pytest.approx(70 / 1270))
    assert by_unit.shape is not None
    assert by_unit.shape + by_unit.pooled == pytest.approx(1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 12))
def test_every_label_and_every_bin_is_shared_by_enough_units(seed: int, at_least: int) -> None:
    rng = np.random.default_rng(seed)
    units = rng.zipf(1.5, 300).clip(max=90).astype(np.uint64)
    values = np.round(units * 7.3 + rng.normal(0, 3, 300), 2)
    table = pa.table({"c": pa.array((units % 40).astype(str), mask=units % 7 == 0), "x": pa.array(values)})
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": "c", "kind": "categorical", "type": "string"},
                {"name": "x", "kind": "numerical", "type": "double"},
            ]
        }
    )
    found = measure(table, table, table.slice(0, 3), schema, at_least=at_least, seed=seed, units=units)
    codes = table["c"].to_pandas()
    have = {label: len(np.unique(units[(codes == label).to_numpy()])) for label in codes.dropna().unique()}
    have[MISSING] = len(np.unique(units[codes.isna().to_numpy()]))
    assert all(have[label] >= at_least for label, _ in found.columns[0].lost)
    for overlay in found.overlays:
        assert sum(overlay.real) == pytest.approx(1)
        if overlay.edges:
            bins = np.searchsorted(overlay.edges[1:-1], values, side="right")
            assert all(len(np.unique(units[bins == b])) >= at_least for b in range(len(overlay.real)))
            continue
        named = [label for label in overlay.labels if label != OTHERS]
        assert all(have[label] >= at_least for label in named)
        others = ~codes.isin(named) & (codes.notna() | (MISSING not in named))
        assert OTHERS not in overlay.labels or len(np.unique(units[others.to_numpy()])) >= at_least


def test_units_of_another_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="each training row must have a unit"):
        measure(TRAIN, HOLDOUT, HALF, SCHEMA, at_least=10, seed=0, units=np.zeros(3, np.uint64))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(10, 500), st.sampled_from([1e-9, 0.1, 1.0, 1e7, 1e200]))
def test_edges_are_round_increasing_and_no_value_of_a_row(seed: int, rows: int, scale: float) -> None:
    values = np.sort(np.random.default_rng(seed).normal(size=rows) * scale)
    edges = module._edges(values, at_least=5)
    if rows < 14:
        return  # fewer than 5 values may lie between the ends
    assert edges is not None
    assert 2 <= len(edges) <= 41
    assert np.all(np.diff(edges) > 0)
    assert not np.isin(edges, values).any()
    assert values[4] <= edges[0] < edges[-1] <= values[-5]
    width = np.diff(edges).mean()
    leading = width / 10 ** np.floor(np.log10(width * 1.001))
    assert min(abs(leading - m) for m in (1, 2, 5)) < 1e-6


def test_a_middle_that_few_rows_have_is_not_drawn() -> None:
    lonely = np.array([*range(9), 777.77, *range(1000, 1009)]) + 0.3
    assert module._edges(lonely, at_least=10) is None
    edges = module._edges(np.full(10, 777.77), at_least=10)
    assert edges is not None
    assert len(edges) == 2


# ── what must not crash ─────────────────────────────────────────────────────────────────────────────────────


def test_a_synthetic_column_of_another_type_or_none_counts_as_missing() -> None:
    broken = changed(HALF, "age", pa.array(["many"] * HALF.num_rows)).drop(["seen"])
    found = measure(TRAIN, HOLDOUT, broken, SCHEMA, at_least=10, seed=0)
    assert column(found, "age").missing_synthetic == 1.0
    assert column(found, "seen").missing_synthetic == 1.0
    assert column(found, "age").shape is None
    assert column(found, "seen").shape is None


@pytest.mark.parametrize(
    ("train", "holdout", "synthetic"), [(0, 0, 0), (1, 0, 1), (5, 1, 0), (2, 2, 2), (0, 3, 3)]
)
def test_tables_of_hardly_any_rows_are_measured(train: int, holdout: int, synthetic: int) -> None:
    found = measure(
        TRAIN.slice(0, train),
        HOLDOUT.slice(0, holdout),
        HALF.slice(0, synthetic),
        SCHEMA,
        at_least=10,
        seed=0,
    )
    assert Fidelity.from_dict(found.to_dict()) == found


def test_columns_that_are_all_missing_infinite_or_of_a_million_categories_are_measured() -> None:
    rows = 3000
    table = pa.table(
        {
            "gone": pa.nulls(rows, pa.float64()),
            "endless": pa.array([np.inf, -np.inf, 1.0] * (rows // 3)),
            "many": pa.array([f"v{i}" for i in range(rows)]),
            "more": pa.array([f"w{i // 2}" for i in range(rows)]),
            "day": pa.array(np.arange(rows, dtype=np.int32)).cast(pa.date32()),
            "coded": pa.array(["a", "b", None] * (rows // 3)).dictionary_encode(),
        }
    )
    kinds = ["numerical", "numerical", "categorical", "categorical", "datetime", "categorical"]
    schema = Schema.model_validate(
        {
            "columns": [
                {"name": f.name, "kind": k, "type": str(f.type)}
                for f, k in zip(table.schema, kinds, strict=True)
            ]
        }
    )
    found = measure(table, table, table, schema, at_least=10, seed=0)
    assert column(found, "gone").shape is None
    assert column(found, "many").shape == pytest.approx(1.0)
    assert column(found, "coded").shape == pytest.approx(1.0)
    assert found.copies == 1.0


def test_a_very_wide_table_is_measured_within_groups_of_columns() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=300)
    table = pa.table({f"x{i}": base + 0.1 * rng.normal(size=300) for i in range(120)})
    schema = Schema.model_validate(
        {"columns": [{"name": n, "kind": "numerical", "type": "double"} for n in table.schema.names]}
    )
    found = measure(table, table, table, schema, at_least=10, seed=0)
    scored = [p for p in found.pairs if p.trend is not None]
    assert len(found.pairs) == 120 * 119 // 2
    assert 0 < len(scored) < len(found.pairs) / 3
    assert found.trend == pytest.approx(1.0)
    assert all(c.shape == pytest.approx(1.0) for c in found.columns)
    assert all(c.association_real > 0.9 for c in found.columns)


def test_a_sketch_is_what_measure_says_of_columns_pairs_and_copies() -> None:
    asked: dict[str, int] = {"at_least": 10, "seed": 0}
    whole = measure(TRAIN, HOLDOUT, HALF, SCHEMA, at_least=10, seed=0)
    columns = module.sketch(TRAIN, HOLDOUT, HALF, SCHEMA, at_least=10, seed=0)
    copies = module.count_copies(TRAIN, HOLDOUT, HALF, SCHEMA, **asked)
    for sketched, measured in zip(columns.columns, whole.columns, strict=True):
        assert sketched.shape == pytest.approx(measured.shape, abs=1e-12)
        assert sketched.shape_ceiling == pytest.approx(measured.shape_ceiling, abs=1e-12)
        plain = {"shape": None, "shape_ceiling": None, "shape_error": None}
        assert replace(sketched, **plain) == replace(measured, **plain)
    assert columns.groups == whole.groups
    assert [p.association_synthetic for p in columns.pairs] == [p.association_synthetic for p in whole.pairs]
    named = [f for f in vars(whole) if f.startswith(("copies", "rows"))]
    assert {f: getattr(copies, f) for f in named} == {f: getattr(whole, f) for f in named}


def test_shared_information_is_that_of_a_slow_computation() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, 20_000), rng.integers(0, 3, 20_000)
    b = np.where(rng.random(20_000) < 0.5, a % 3, b)

    def entropy(values: list[object]) -> float:
        p = np.array(list(Counter(values).values())) / 20_000
        return float(-(p * np.log(p)).sum())

    h = entropy(a.tolist()), entropy(b.tolist()), entropy(list(zip(a.tolist(), b.tolist(), strict=True)))
    found = information([codes_of("a", a), codes_of("b", b)], seed=0)["train"][0, 1]
    assert found == pytest.approx((h[0] + h[1] - h[2]) / ((h[0] + h[1]) / 2), abs=0.001)


@pytest.mark.parametrize("categories", [5, 50, 1_000, 5_000])
def test_many_categories_and_few_rows_make_up_no_information(categories: int) -> None:
    rng = np.random.default_rng(0)
    columns = []
    for name in "ab":
        sides = {
            s: rng.integers(0, categories, n)
            for s, n in (("train", 20_000), ("holdout", 4_000), ("synthetic", 20_000))
        }
        column = codes_of(name, np.arange(categories))
        columns.append(replace(column, codes={**sides, "drawn": sides["train"]}))
    found = information(columns, seed=0)
    assert all(found[side][0, 1] < 0.02 for side in ("train", "holdout", "synthetic"))


def test_shared_information_sees_what_has_no_direction_and_nothing_where_there_is_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=4000)
    numbers = [numbers_of("x", x), numbers_of("y", np.abs(x)), numbers_of("z", rng.normal(size=4000))]
    shared = information(numbers, seed=0)["train"]
    assert shared[0, 1] > 0.5
    assert shared[0, 2] < 0.005
    assert associations(numbers, at_least=0, seed=0)["train"][0, 1] < 0.1


def codes_of(name: str, codes: np.ndarray) -> Cells:
    sides = dict.fromkeys(("train", "holdout", "synthetic", "drawn"), codes.astype(np.int64))
    column = Column(name=name, kind="categorical", type="string")
    return Cells(
        column=column, codes=sides, numbers=None, values=pa.array([str(i) for i in range(codes.max() + 1)])
    )


def numbers_of(name: str, values: np.ndarray) -> Cells:
    codes = np.unique(values, return_inverse=True)[1].astype(np.int64)
    sides = ("train", "holdout", "synthetic", "drawn")
    return Cells(
        column=Column(name=name, kind="numerical", type="double"), codes=dict.fromkeys(sides, codes),
        numbers=dict.fromkeys(sides, values), values=pa.nulls(0),
    )  # fmt: skip
