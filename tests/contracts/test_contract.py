"""What every synthesizer promises, whatever it is made of.

A new line in `synth.registry.SYNTHESIZERS` is tested here without a change of this file.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

import synth
from privacy.curator import (
    Answer,
    Batch,
    Counted,
    Descended,
    ExactCurator,
    Follower,
    Luck,
    Marginal,
    Question,
    Reader,
    Shared,
    Split,
    Statistic,
    Store,
    Strata,
)
from privacy.errors import ConditionError, InputError, RecipeError, ReleaseError, UsageError
from synth.codec import UNKNOWN, Codec, Encoded
from synth.constraints import breaks
from synth.learn import learn
from synth.registry import SYNTHESIZERS, Model, synthesizer
from synth.rows import EncodedStore, RawRows, table_source
from synth.schema import Schema
from synth.table import TableModel, fit_encoded, labels_of
from tests.synth.tables import KEY, mixed, mixed_schema, schema_for

ROWS = 2500

pytestmark = pytest.mark.parametrize("name", SYNTHESIZERS)

OPTIONS: dict[str, dict[str, Any]] = {
    # A network as small as the tables here: its defaults would take minutes.
    "ctgan": {"layers": [64, 64], "latent": 16, "epochs": 200, "batch_rows": 250},
}
FEW: dict[str, dict[str, Any]] = {"ctgan": {**OPTIONS["ctgan"], "max_steps": 100}}
"""For tests that need a model, but not a good one."""


def people(rows: int, *, seed: int) -> pa.Table:
    """A planted dependency: team → place → height, with a tenth of the places missing."""
    rng = np.random.default_rng(seed)
    team = rng.choice(3, rows, p=[0.5, 0.3, 0.2])
    place = np.where(rng.random(rows) < 0.8, team, rng.choice(3, rows))
    height = rng.normal(10.0 * place, 3.0)
    return pa.table(
        {
            "team": np.array(["a", "b", "c"])[team],
            "place": pa.array(np.array(["x", "y", "z"])[place], mask=rng.random(rows) < 0.1),
            "height": height,
        }
    )


def houses(rows: int, *, seed: int) -> pa.Table:
    """Old houses have no cellar: then what it is like is missing, and how large it is."""
    rng = np.random.default_rng(seed)
    age = rng.gamma(4.0, 10.0, rows)
    none = rng.random(rows) < np.where(age > 55, 0.5, 0.03)
    dry = rng.random(rows) < 0.6
    size = rng.normal(np.where(dry, 60.0, 30.0), 8.0)
    return pa.table(
        {
            "age": age,
            "cellar": pa.array(np.where(dry, "dry", "wet"), mask=none),
            "cellar_size": pa.array(size, mask=none),
        }
    )


@functools.cache
def fitted(name: str) -> TableModel[pa.Table]:
    """The synthesizer with its defaults, on `people`."""
    return synth.fit(people(ROWS, seed=1), name, options=OPTIONS.get(name), seed=7, threads=1)


@functools.cache
def fitted_wide(name: str) -> TableModel[pa.Table]:
    """The synthesizer with its defaults, on a table of all kinds of columns."""
    table = mixed(600)
    return synth.fit(table, name, schema=mixed_schema(table), options=FEW.get(name), seed=7, threads=1)


# --------------------------------------------------------------------------------------------------- shapes


def test_rows_come_out_in_the_shape_and_types_of_the_table(name: str) -> None:
    table = mixed(600)
    drawn = fitted_wide(name).sample(300, seed=1)
    assert drawn.schema.equals(table.schema)
    assert len(drawn) == 300
    for column in table.schema.names:
        if table.column(column).null_count in (0, len(table)):
            assert drawn.column(column).null_count in (0, 300)
    assert drawn.column("age").null_count == 0
    assert drawn.column("void").null_count == 300
    assert set(drawn.column("one").to_pylist()) == {"x"}
    assert len(set(drawn.column("id").to_pylist())) == 300


def test_no_rows_and_one_row_can_be_drawn(name: str) -> None:
    for rows in (0, 1):
        assert len(fitted_wide(name).sample(rows)) == rows
        assert len(fitted(name).sample(rows, given={"team": "a"})) == rows
        assert len(fitted_wide(name).impute(mixed(2).slice(0, rows))) == rows


# --------------------------------------------------------------------------------------------------- constraints

SHIFTS: tuple[dict[str, Any], ...] = (
    {"rule": "order", "columns": ["begin", "end"]},
    {"rule": "sum", "column": "pay", "plus": ["base", "bonus"]},
    {"rule": "combinations", "columns": ["ward", "floor"]},
    {"rule": "missing", "column": "end", "where": "state", "values": ["runs"]},
    {"rule": "unique", "columns": ["badge"]},
)


def shifts(rows: int) -> pa.Table:
    rng = np.random.default_rng(1)
    begin, base = rng.integers(0, 10**7, rows), rng.integers(10**4, 10**5, rows) / 100
    bonus, ward = rng.integers(0, 10**4, rows) / 100, rng.choice(4, rows)
    state = rng.choice(["runs", "done"], rows, p=[0.3, 0.7])
    end = pa.array(begin + rng.integers(0, 10**4, rows), mask=state == "runs")
    return pa.table(
        {
            "begin": pa.array(begin).cast(pa.timestamp("s")), "end": end.cast(pa.timestamp("s")),
            "state": state, "base": base, "bonus": bonus, "pay": np.round(base + bonus, 2),
            "ward": np.array(["a", "b", "c", "d"])[ward], "floor": ward // 2,
            "badge": rng.permutation(20 * rows)[:rows],
        }
    )  # fmt: skip


def test_every_row_meets_the_constraints_of_the_schema(name: str) -> None:
    table = shifts(600)
    money = {"digits": 2}
    plain = schema_for(table, base=money, bonus=money, pay=money)
    schema = Schema.model_validate({**plain.model_dump(), "constraints": SHIFTS})
    fitted = synth.fit(table, name, schema=schema, options=FEW.get(name), seed=7, threads=1)
    rows = [
        fitted.sample(500, seed=1),
        fitted.sample(60, given={"ward": "b"}, seed=2),
        fitted.impute(table.slice(0, 30)),
    ]
    for drawn in rows:
        assert drawn.schema.types == table.schema.types
        for constraint in schema.constraints:
            assert not breaks(constraint, drawn, schema).any(), str(constraint)
    assert set(rows[1]["ward"].to_pylist()) == {"b"}
    # Rows of the same columns, each shuffled by itself, do not.
    order = np.random.default_rng(0).permutation(500)
    for constraint in schema.constraints[:4]:
        column = constraint.names[0]
        at = rows[0].column_names.index(column)
        mixed_up = rows[0].set_column(at, column, rows[0][column].take(pa.array(order)))
        known = {"combinations": [*zip(*(table[n].to_pylist() for n in ("ward", "floor")), strict=True)]}
        listed = (
            constraint.model_copy(update={"values": tuple(dict.fromkeys(known["combinations"]))})
            if constraint.rule == "combinations"
            else constraint
        )
        assert breaks(listed, mixed_up, schema).sum() > 50


# --------------------------------------------------------------------------------------------------- determinism


def test_equal_seeds_give_equal_models_and_rows(name: str) -> None:
    again = synth.fit(people(ROWS, seed=1), name, options=OPTIONS.get(name), seed=7, threads=1)
    assert again.digest() == fitted(name).digest()
    assert again.sample(100, seed=5).equals(fitted(name).sample(100, seed=5))


def test_other_seeds_give_other_models_and_rows(name: str) -> None:
    assert not fitted(name).sample(100, seed=5).equals(fitted(name).sample(100, seed=6))
    table = people(600, seed=1)
    one, two = (synth.fit(table, name, options=FEW.get(name), seed=s, threads=1) for s in (1, 2))
    assert one.digest() != two.digest()


WITHOUT_DENSITY = {"ctgan"}


def dense(name: str) -> bool:
    return name not in WITHOUT_DENSITY


def test_a_synthesizer_without_densities_says_so(name: str) -> None:
    if dense(name):
        assert fitted_wide(name).log_prob(mixed(2)).shape == (2,)
        assert fitted_wide(name).log_prob(mixed(2).slice(0, 0)).shape == (0,)
    else:
        with pytest.raises(UsageError, match=f"knows densities, however: this is {name}"):
            fitted_wide(name).log_prob(mixed(2))


def test_a_row_scores_the_same_alone_and_among_others(name: str) -> None:
    if not dense(name):
        pytest.skip("it knows no densities")
    table = mixed(60, seed=3)
    whole = fitted_wide(name).log_prob(table)
    alone = [float(fitted_wide(name).log_prob(table.slice(i, 1))[0]) for i in range(60)]
    np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-3)


# --------------------------------------------------------------------------------------------------- learning


def cells(table: pa.Table) -> NDArray[np.int64]:
    """The joint cell of each row: team × place × height in fifths."""
    team = table.column("team").to_pandas().map({"a": 0, "b": 1, "c": 2}).to_numpy()
    place = table.column("place").to_pandas().map({"x": 0, "y": 1, "z": 2}).fillna(3).to_numpy().astype(int)
    height = np.searchsorted([-1.0, 4.0, 9.0, 16.0], table.column("height").to_numpy())
    return np.asarray((team * 4 + place) * 5 + height, np.int64)


def distance(one: pa.Table, two: pa.Table) -> float:
    """Total variation distance between two tables' joint cells."""
    p, q = (np.bincount(cells(t), minlength=60) / len(t) for t in (one, two))
    return float(np.abs(p - q).sum() / 2)


def shuffled(table: pa.Table, column: str) -> pa.Table:
    order = np.random.default_rng(0).permutation(len(table))
    return table.set_column(
        table.schema.get_field_index(column), column, table.column(column).take(pa.array(order))
    )


def close(name: str) -> float:
    """Two real samples of this size are about 0.03 apart, and 0.045 with what `ROWS` rows leave open.

    Where a network's training ends hangs on its seed and on the last digits of a processor: 0.059 to 0.085 in six games
    of `ctgan`, 0.057 to 0.084 in eight fits of `vae`.
    """
    return 0.1 if name in ("ctgan", "vae") else 0.08


def test_a_known_distribution_is_learned_and_a_wrong_one_is_told_apart(name: str) -> None:
    fresh = people(10_000, seed=2)
    drawn = fitted(name).sample(10_000, seed=3)
    assert distance(drawn, fresh) < close(name)
    # The same test refuses rows whose columns have the right marginals and no dependency, one column at a time.
    for column in ("team", "place", "height"):
        assert distance(shuffled(drawn, column), fresh) > 1.5 * close(name)


def test_fresh_rows_are_likelier_than_rows_without_the_dependency(name: str) -> None:
    if not dense(name):
        pytest.skip("it knows no densities")
    fresh = people(2000, seed=4)
    likelihood = fitted(name).log_prob(fresh).mean()
    for column in ("team", "place", "height"):
        assert likelihood > fitted(name).log_prob(shuffled(fresh, column)).mean() + 0.2


def test_what_was_never_learned_makes_a_row_unlikely(name: str) -> None:
    if not dense(name):
        pytest.skip("it knows no densities")
    table = people(500, seed=4)
    usual = fitted(name).log_prob(table)
    for column, strange in (("team", "z"), ("height", 1e6), ("height", -1e6)):
        place = table.schema.get_field_index(column)
        values = pa.array([strange] * 500, table.schema.field(column).type)
        odd = fitted(name).log_prob(table.set_column(place, column, values))
        assert np.median(odd - usual) < -3
        assert odd.mean() < np.quantile(usual, 0.05)
    # Values that were learned cost nothing, missing ones included.
    one = fitted(name).as_arrow()
    assert (one.codec.encode_with_strange(table, rows=500)[1] == 0).mean() > 0.97


def test_no_row_of_the_table_is_copied(name: str) -> None:
    real = set(people(ROWS, seed=1).column("height").to_pylist())
    drawn = fitted(name).sample(ROWS, seed=3).column("height").to_pylist()
    # Only the two bounds of a column are values of single rows.
    assert len(real.intersection(drawn)) <= 2


# --------------------------------------------------------------------------------------------------- conditions


def test_a_condition_is_honoured_by_every_row_and_by_what_depends_on_it(name: str) -> None:
    model = fitted(name)
    many = model.sample(60_000, seed=8)
    for given in ({"team": "b"}, {"place": None}, {"place": "z", "team": "a"}):
        drawn = model.sample(4000, given=given, seed=9)
        keep = np.ones(len(many), bool)
        for column, value in given.items():
            assert set(drawn.column(column).to_pylist()) == {value}
            keep &= np.array([v == value for v in many.column(column).to_pylist()])
        kept = many.filter(pa.array(keep))
        assert distance(drawn, kept) < (0.1 if synthesizer(name).exact else 0.15)
        if given.get("place", "") is not None:
            assert distance(drawn, many) > 0.3


def test_a_condition_on_a_number_moves_what_depends_on_it(name: str) -> None:
    model = fitted(name)
    for height, place in ((-3.0, "x"), (23.0, "z")):
        drawn = model.sample(1000, given={"height": height}, seed=1)
        assert set(drawn.column("height").to_pylist()) == {height}
        present = drawn.column("place").drop_null().to_pylist()
        assert present.count(place) > 0.85 * len(present)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"town": "x"}, "'town'"),
        ({"place": "q"}, "place = 'q'"),
        ({"team": None}, "team = None"),
        ({"height": "tall"}, "'height'"),
    ],
)
def test_a_condition_that_no_row_can_meet_is_refused_by_name(
    name: str, given: Mapping[str, Any], said: str
) -> None:
    with pytest.raises(ConditionError, match=said):
        fitted(name).sample(5, given=given)


def test_missing_cells_are_filled_from_what_is_known_and_others_stay(name: str) -> None:
    table = people(3000, seed=6)
    blank = table.set_column(1, "place", pa.nulls(3000, pa.string()))
    filled = fitted(name).impute(blank, seed=1)
    assert filled.column("place").null_count == 0
    for column in ("team", "height"):
        assert filled.column(column).equals(table.column(column))
    known = table.column("place").is_valid().to_numpy()
    right = (
        np.array(filled.column("place").to_pylist())[known]
        == np.array(table.column("place").to_pylist())[known]
    )
    assert right.mean() > 0.75


def test_columns_that_are_missing_together_stay_missing_together(name: str) -> None:
    table = houses(4000, seed=8)
    model = synth.fit(table, name, options=OPTIONS.get(name), seed=7, threads=1)
    drawn = model.sample(4000, seed=2)
    gone = [drawn.column(c).is_null().to_numpy() for c in ("cellar", "cellar_size")]
    assert np.array_equal(*gone)
    assert 0.08 < gone[0].mean() < 0.16
    # What the cellar depends on, and what depends on its absence.
    assert_close(drawn, table, "age", given=("cellar", None))
    assert_close(drawn, table, "cellar_size", given=("cellar", "dry"))
    asked = model.sample(2000, seed=3, given={"cellar": None})
    assert asked.column("cellar_size").null_count == 2000
    assert_close(asked, table, "age", given=("cellar", None))
    blank = table.set_column(1, "cellar", pa.nulls(4000, pa.string()))
    assert model.impute(blank, seed=4).column("cellar").null_count == 0


def assert_close(made: pa.Table, real: pa.Table, number: str, *, given: tuple[str, str | None]) -> None:
    """The mean of a number, in the rows that a category picks, is that of the real rows within a third of a std."""
    means = []
    for frame in (made.to_pandas(), real.to_pandas()):
        picked = frame[given[0]].isna() if given[1] is None else frame[given[0]] == given[1]
        means.append(frame.loc[picked, number].mean())
    assert abs(means[0] - means[1]) < real.column(number).to_pandas().std() / 3


def test_what_is_unknown_of_a_row_is_integrated_out(name: str) -> None:
    if not dense(name):
        pytest.skip("it knows no densities")
    model = fitted(name).as_arrow()
    codec = model.codec
    teams = [*codec.profile.columns[0].atoms]
    places = [*codec.profile.columns[1].atoms, None]
    every = pa.table(
        {"team": [t for t in teams for _ in places], "place": [p for _ in teams for p in places]}
    )
    joint = np.exp(model.log_prob(every)).reshape(len(teams), len(places))
    near = 1e-3 if synthesizer(name).exact else 0.1
    assert joint.sum() == pytest.approx(1, abs=near)
    np.testing.assert_allclose(np.exp(model.log_prob(pa.table({"team": teams}))), joint.sum(1), atol=near)


# --------------------------------------------------------------------------------------------------- files


def test_a_stored_model_is_the_same_model(name: str, tmp_path: Path) -> None:
    model = fitted_wide(name)
    model.save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    again = synth.load(tmp_path)
    assert again.digest() == model.digest()
    assert again.sample(80, seed=2).equals(model.sample(80, seed=2))
    if dense(name):
        np.testing.assert_array_equal(again.log_prob(mixed(30)), model.log_prob(mixed(30)))


def test_a_model_of_another_schema_is_refused(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path / "a")
    fitted_wide(name).save(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(ReleaseError, match="was changed"):
        synth.load(tmp_path / "a")


def test_tensors_of_another_layout_are_refused(name: str) -> None:
    tensors = by_protocol(name)[0].tensors()
    with pytest.raises((ValueError, KeyError)):
        synthesizer(name).restore(fitted_wide(name).codec.layout, tensors)


# --------------------------------------------------------------------------------------------------- curator


class OnlyTheProtocol:
    """A curator that offers the questions of the protocol and nothing else, and remembers what it was asked."""

    def __init__(self, curator: ExactCurator) -> None:
        def total(*, of: Literal["units", "rows"], split: Split = "train", share: float = 0.0) -> Answer:
            return curator.total(of=of, split=split, share=share)

        def values(
            columns: Sequence[str], *, at_least: int, split: Split = "train", share: float = 0.0
        ) -> tuple[Shared, ...]:
            return curator.values(columns, at_least=at_least, split=split, share=share)

        def histogram(
            cells: Sequence[Marginal], *, of: Counted = "rows", split: Split = "train", share: float = 0.0
        ) -> tuple[Answer, ...]:
            self.counted.extend(cells)
            return curator.histogram(cells, of=of, split=split, share=share)

        def sum_of(
            statistic: Statistic, *, split: Split = "train", rows_hint: int | None = None, share: float = 0.0
        ) -> Answer:
            self.sums.append(statistic)
            return curator.sum(statistic, split=split, rows_hint=rows_hint, share=share)

        def descend(
            reader: Reader,
            followers: Sequence[Follower] = (),
            *,
            steps: int,
            rate: float,
            strata: Strata | None = None,
            split: Split = "train",
            share: float = 0.0,
        ) -> Iterator[Descended]:
            self.readers.append(reader)
            return curator.descend(
                reader, followers, steps=steps, rate=rate, strata=strata, split=split, share=share
            )

        def about(split: Split = "train") -> float:
            return curator.about(split)

        def price(question: Question, *, share: float = 0.0) -> float:
            return curator.price(question, share=share)

        def recode(
            code: Callable[[Batch], Mapping[str, NDArray[np.generic]]], store: Store
        ) -> "OnlyTheProtocol":
            self.codes.append(code)
            self.children.append(OnlyTheProtocol(curator.recode(code, store)))
            return self.children[-1]

        # For the tests alone.
        self.inner = curator
        self.sums: list[Statistic] = []
        self.counted: list[Marginal] = []
        self.readers: list[Reader] = []
        self.codes: list[Callable[[Batch], Mapping[str, NDArray[np.generic]]]] = []
        self.children: list[OnlyTheProtocol] = []
        self.descend = descend
        self.total, self.values, self.histogram, self.sum = total, values, histogram, sum_of
        self.about, self.price, self.recode = about, price, recode


@functools.cache
def by_protocol(name: str) -> tuple[Model, Codec, OnlyTheProtocol, ExactCurator]:
    """The fit of `fitted` by hand, through a curator that has no other door."""
    table = people(ROWS, seed=1)
    schema = schema_for(table)
    rows = RawRows(schema, table_source(table))
    raw = OnlyTheProtocol(ExactCurator(rows, key=KEY, holdout=0.0))
    codec = Codec(schema, learn(schema, raw, labels_of(rows), at_least=10))
    store = EncodedStore(None, unit_is_row=True)
    encoded = raw.recode(lambda batch: codec.code(batch, rows.dictionaries), store)
    model = fit_encoded(encoded, codec, name, OPTIONS.get(name, {}), seed=7, threads=1)
    again = ExactCurator(rows, key=KEY, holdout=0.0).recode(
        lambda batch: codec.code(batch, rows.dictionaries), EncodedStore(None, unit_is_row=True)
    )
    return model, codec, encoded, again


def test_rows_are_reached_through_the_curators_questions_alone(name: str) -> None:
    model, codec, asked, _ = by_protocol(name)
    assert any(curator.sums or curator.counted for curator in (asked, *asked.children))
    drawn = codec.decode(model.draw(10_000, np.random.default_rng(3)))
    assert distance(drawn, people(10_000, seed=2)) < close(name)


def one_row(batch: Batch, i: int) -> Batch:
    return batch.where(np.arange(len(batch)) == i)


def test_every_sum_tells_norms_that_no_row_exceeds_and_weighs_its_rows(name: str) -> None:
    _, _, encoded, _ = by_protocol(name)
    for asked in (encoded, *encoded.children):
        (first, *_) = asked.inner.rows("train")
        batch = first.where(np.arange(len(first)) < 6)
        # A part of the cells is unknown in the second half of the rows.
        states = batch.columns["states"].copy()
        states[3:, 1] = UNKNOWN
        batch = Batch(unit=batch.unit, columns={**batch.columns, "states": states}, holdout=batch.holdout)
        for statistic in {(type(s), s.size): s for s in asked.sums}.values():
            assert_sums(statistic, batch)


def assert_sums(statistic: Statistic, batch: Batch) -> None:
    """Norms and weighted sums of six rows are those of the rows one by one."""
    weights = np.array([0.0, 0.25, 1.0, 0.5, 2.0, 0.125])
    assert statistic.bound > 0
    vectors = np.stack([statistic.of(one_row(batch, i)).weighted(None) for i in range(6)])
    assert vectors.shape == (6, statistic.size)
    whole = statistic.of(batch)
    norms, told = np.linalg.norm(vectors, axis=1), whole.norms()
    # A norm may be told too large, but only where it is the bound; too small, it would void a guarantee.
    assert (told >= norms * (1 - 1e-3)).all()
    assert (np.isclose(told, norms, rtol=1e-3) | (told <= statistic.bound)).all()
    scale = np.abs(vectors).max()
    np.testing.assert_allclose(whole.weighted(None), vectors.sum(0), rtol=1e-3, atol=1e-4 * scale)
    np.testing.assert_allclose(whole.weighted(weights), weights @ vectors, rtol=1e-3, atol=1e-4 * scale)


def test_a_code_is_of_one_row_and_its_luck_whatever_rows_stand_beside_it(name: str) -> None:
    _, _, encoded, _ = by_protocol(name)
    (first, *_) = encoded.inner.rows("train")
    batch = first.where(np.arange(len(first)) < 6)
    order = np.array([4, 2, 5, 0])
    for code in encoded.codes:
        together = code(batch)
        for other in (code(batch), {n: a[np.argsort(order)] for n, a in code(batch.take(order)).items()}):
            at = np.arange(6) if len(next(iter(other.values()))) == 6 else np.sort(order)
            for column, array in other.items():
                np.testing.assert_allclose(array, together[column][at], rtol=1e-5, atol=1e-6)


def test_the_losses_of_a_batch_are_the_losses_of_its_rows(name: str) -> None:
    _, _, encoded, again = by_protocol(name)
    curators = [(encoded, again), *((child, child.inner) for child in encoded.children)]
    players = [(reader, curator) for asked, curator in curators for reader in asked.readers]
    assert players or synthesizer(name).exact
    for reader, curator in players:
        (first, *_) = curator.rows("train")
        batch = first.where(np.arange(len(first)) < 6)
        # Noise is drawn row by row, so the same luck falls to a row alone and among others.
        together, luck = reader.losses(batch, Luck.of([1])), Luck.of([1])
        one_by_one = torch.cat([reader.losses(one_row(batch, i), luck) for i in range(6)])
        assert together.shape == (6,)
        torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-4)


def test_most_rows_stay_within_the_bound_that_a_private_curator_would_clip_to(name: str) -> None:
    _, _, encoded, _ = by_protocol(name)
    for asked in (encoded, *encoded.children):
        for statistic in {type(s): s for s in asked.sums}.values():
            norms = np.concatenate([statistic.of(b).norms() for b in asked.inner.rows("train")])
            assert (norms <= statistic.bound).mean() > 0.85


def test_draws_leave_what_is_given_and_know_every_cell(name: str) -> None:
    model, codec, _, _ = by_protocol(name)
    table = people(200, seed=5)
    known = codec.encode(table)
    hidden = known.states.copy()
    hidden[np.random.default_rng(0).random(hidden.shape) < 0.5] = UNKNOWN
    drawn = model.draw(200, np.random.default_rng(1), given=Encoded(states=hidden, scores=known.scores))
    np.testing.assert_array_equal(drawn.states[hidden != UNKNOWN], hidden[hidden != UNKNOWN])
    kept = (hidden[:, 2] != UNKNOWN) & (known.states[:, 2] == codec.layout.fields[2].spread)
    np.testing.assert_array_equal(drawn.scores[kept, 0], known.scores[kept, 0])
    assert (drawn.states != UNKNOWN).all()
    assert np.isfinite(drawn.scores).all()
    for i, field in enumerate(codec.layout.fields):
        assert drawn.states[:, i].max() < field.states


# --------------------------------------------------------------------------------------------------- bad input


def test_an_unknown_option_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(RecipeError, match="colour"):
        synth.fit(people(100, seed=1), name, options={"colour": 3})


def test_every_option_out_of_range_or_of_another_type_is_refused_with_its_name(name: str) -> None:
    fields = synthesizer(name).options.model_json_schema()["properties"]
    assert fields
    for field, rule in fields.items():
        ranges = [rule, *rule.get("anyOf", [])]
        low = min((r.get("minimum", r.get("exclusiveMinimum", np.inf)) for r in ranges), default=np.inf)
        high = max((r.get("maximum", r.get("exclusiveMaximum", -np.inf)) for r in ranges), default=-np.inf)
        wrong: list[object] = ["many", [0], []] if rule.get("type") == "array" else ["many", [1]]
        wrong += [low - 1] if np.isfinite(low) else []
        wrong += [high + 1] if np.isfinite(high) else []
        for value in wrong:
            with pytest.raises(RecipeError, match=field):
                synth.fit(people(100, seed=1), name, options={field: value})


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_table_of_hardly_any_rows_is_refused(name: str, rows: int) -> None:
    with pytest.raises(InputError, match=f"at least 20 rows to train on, however: it has {rows};"):
        synth.fit(people(max(1, rows), seed=1).slice(0, rows), name, schema=schema_for(people(1, seed=1)))


def test_a_table_just_large_enough_works(name: str) -> None:
    drawn = synth.fit(people(20, seed=1), name, options=FEW.get(name), threads=1).sample(30)
    assert len(drawn) == 30


def test_a_batch_may_be_larger_than_the_table(name: str) -> None:
    if "batch_rows" not in synthesizer(name).options.model_fields:
        pytest.skip("it has no batches")
    options = {**FEW.get(name, {}), "batch_rows": 1_000_000}
    assert len(synth.fit(people(60, seed=1), name, options=options, threads=1).sample(30)) == 30


def test_a_table_of_one_constant_column_works(name: str) -> None:
    for values in (["x"] * 50, [None] * 50, [1.5] * 50):
        table = pa.table({"x": pa.array(values)})
        assert (
            synth.fit(table, name, options=FEW.get(name), threads=1).sample(5).column("x").to_pylist()
            == values[:5]
        )


# --------------------------------------------------------------------------------------------------- scale, units


def test_a_column_of_very_many_categories_works(name: str) -> None:
    # Gradients need more rows of a code than two to learn what goes with it.
    codes = 5000 if synthesizer(name).exact else 1000
    rng = np.random.default_rng(0)
    code = rng.permutation(np.arange(10_000) % codes)
    low = code < codes // 2
    table = pa.table({"code": [f"c{c:04}" for c in code], "half": np.where(low, "low", "high")})
    model = synth.fit(
        table, name, schema=schema_for(table), options=OPTIONS.get(name), at_least=2, threads=1, seed=1
    )
    drawn = model.sample(5000, seed=2)
    found = drawn.column("code").to_pylist()
    assert len(set(found)) > codes // 3
    assert set(found) <= set(table.column("code").to_pylist())
    of_code = np.array([int(c[1:]) < codes // 2 for c in found])
    right = (np.array(drawn.column("half").to_pylist()) == "low") == of_code
    assert right.mean() > 0.6


def test_rows_of_the_same_person_count_as_one_unit(name: str) -> None:
    table = people(1000, seed=1)
    person = np.arange(1000) // 5
    lonely = ["mine"] * 5 + ["ours"] * 995
    table = table.append_column("who", pa.array(person)).append_column("word", pa.array(lonely))
    schema = schema_for(table, unit="who", who={"kind": "identifier"})
    drawn = synth.fit(table, name, schema=schema, options=OPTIONS.get(name), at_least=6, threads=1).sample(
        400
    )
    assert set(drawn.column("word").to_pylist()) == {"ours"}
    assert drawn.schema.equals(table.schema)
    assert distance(drawn.select(["team", "place", "height"]), people(10_000, seed=2)) < 0.25


def test_pandas_goes_in_and_comes_out(name: str) -> None:
    frame = people(300, seed=1).to_pandas()
    drawn = synth.fit(frame, name, options=FEW.get(name), threads=1).sample(50)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.dtypes.equals(frame.dtypes)
