"""The exact curator beside slow and obvious loops over the same rows."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.curator import (
    MISSING,
    Batch,
    Cells,
    Counted,
    ExactCurator,
    Floats,
    Luck,
    Misfit,
    Split,
    Strata,
    cell_of,
    count,
    draw,
)
from tests.privacy.arrays import KEY, ArrayRows, ListStore, numbered

SPLITS: tuple[Split, ...] = ("train", "fit", "select", "holdout")
LARGEST = int(np.iinfo(np.int64).max)
MISSING_KEY = int(MISSING)

splits = st.sampled_from(SPLITS)
keys = st.sampled_from([MISSING_KEY, MISSING_KEY + 1, -3, -1, 0, 1, 2, 7, LARGEST])


@st.composite
def tables(draw: st.DrawFn) -> ArrayRows:
    """Up to 40 rows with the columns a and b, of units with one or several rows, split by hash or by the source."""
    size = draw(st.integers(0, 40))
    several = draw(st.booleans())
    units = draw(st.lists(st.integers(0, 9), min_size=size, max_size=size)) if several else range(size)
    columns = {
        name: np.array(draw(st.lists(keys, min_size=size, max_size=size)), np.int64) for name in ("a", "b")
    }
    held = draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size))
    return ArrayRows(
        np.array(units, np.uint64),
        columns,
        unit_is_row=not several,
        holdout=None if held is None else np.array(held, bool),
        batch_rows=draw(st.integers(1, 9)),
    )


def curator_of(rows: Any, *, key: bytes = KEY, holdout: float = 0.3, keep: float = 1.0) -> ExactCurator:
    return ExactCurator(rows, key=key, holdout=holdout, keep=keep)


def listed(curator: ExactCurator, split: Split) -> list[tuple[int, dict[str, int]]]:
    """(unit, {column: key}) of each row of a split."""
    return [
        (int(batch.unit[i]), {name: int(array[i]) for name, array in batch.columns.items()})  # type: ignore[call-overload]
        for batch in curator.rows(split)
        for i in range(len(batch))
    ]


def cell(key: int, edges: list[int]) -> int:
    """The cell of a key, by walking past the edges."""
    if key == MISSING_KEY:
        return 0
    at = 1
    for edge in edges:
        if key >= edge:
            at += 1
    return at


# --------------------------------------------------------------------------------------------------- questions


@given(tables(), splits)
def test_the_total_is_the_number_of_rows_or_of_different_units(rows: ArrayRows, split: Split) -> None:
    curator = curator_of(rows)
    facts = listed(curator, split)
    assert curator.total(of="rows", split=split).value == len(facts)
    assert curator.total(of="units", split=split).value == len({unit for unit, _ in facts})


@given(tables(), splits, st.integers(1, 5))
def test_a_value_is_shared_by_the_units_that_have_it_and_counts_their_rows(
    rows: ArrayRows, split: Split, at_least: int
) -> None:
    curator = curator_of(rows)
    facts = listed(curator, split)
    answers = curator.values(["b", "a"], at_least=at_least, split=split)
    for name, shared in zip(("b", "a"), answers, strict=True):
        units: dict[int, set[int]] = {}
        for unit, row in facts:
            if row[name] != MISSING_KEY:
                units.setdefault(row[name], set()).add(unit)
        counts = Counter(row[name] for _, row in facts)
        expected = {key: counts[key] for key in sorted(units) if len(units[key]) >= at_least}
        assert dict(zip(shared.keys.tolist(), shared.counts.tolist(), strict=True)) == expected
        assert shared.keys.tolist() == sorted(expected)


edges = st.lists(
    st.integers(MISSING_KEY + 1, LARGEST) | keys.filter(lambda k: k != MISSING_KEY), max_size=4
).map(lambda cuts: np.array(sorted(set(cuts)), np.int64))
marginals = st.lists(
    st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2, unique=True).flatmap(
        lambda names: st.tuples(*[edges] * len(names)).map(
            lambda cuts: Cells(columns=tuple(names), edges=tuple(cuts))
        )
    ),
    min_size=1,
    max_size=4,
)


@given(tables(), splits, marginals)
def test_a_histogram_counts_the_rows_of_each_cell_of_each_marginal(
    rows: ArrayRows, split: Split, cells: list[Cells]
) -> None:
    curator = curator_of(rows)
    answers = curator.histogram(cells, split=split)
    for one, answer in zip(cells, answers, strict=True):
        expected = np.zeros([len(e) + 2 for e in one.edges])
        for _, row in listed(curator, split):
            expected[
                tuple(cell(row[n], e.tolist()) for n, e in zip(one.columns, one.edges, strict=True))
            ] += 1
        np.testing.assert_array_equal(answer.value, expected)
        assert answer.noise_std == 0


@given(tables(), splits, st.sampled_from(["lowest", "highest"]), st.lists(edges, min_size=1, max_size=3))
def test_a_histogram_of_units_counts_each_once_where_its_extreme_key_lies(
    rows: ArrayRows, split: Split, of: Counted, cuts: list[NDArray[np.int64]]
) -> None:
    curator = curator_of(rows)
    cells = [Cells(columns=("ab"[i % 2],), edges=(e,)) for i, e in enumerate(cuts)]
    for one, answer in zip(cells, curator.histogram(cells, of=of, split=split), strict=True):
        held: dict[int, list[int]] = {}
        for unit, row in listed(curator, split):
            held.setdefault(unit, []).append(row[one.columns[0]])
        expected = np.zeros(len(one.edges[0]) + 2)
        for values in held.values():
            present = [v for v in values if v != MISSING_KEY] or [MISSING_KEY]
            expected[cell(min(present) if of == "lowest" else max(present), one.edges[0].tolist())] += 1
        np.testing.assert_array_equal(answer.value, expected)


@given(st.lists(keys), edges)
def test_a_key_lies_in_the_cell_above_the_last_edge_that_it_reaches(
    values: list[int], cuts: NDArray[np.int64]
) -> None:
    assert cell_of(np.array(values, np.int64), cuts).tolist() == [cell(v, cuts.tolist()) for v in values]


@pytest.mark.parametrize(
    ("columns", "cuts"),
    [((), ()), (("a",), ()), (("a",), ([2, 1],)), (("a",), ([1, 1],)), (("a",), ([LARGEST, MISSING_KEY],))],
)
def test_cells_need_rising_edges_for_each_column(
    columns: tuple[str, ...], cuts: tuple[list[int], ...]
) -> None:
    with pytest.raises(ValueError, match="however"):
        Cells(columns=columns, edges=tuple(np.array(c, np.int64) for c in cuts))


@dataclass(frozen=True)
class Vectors:
    """A statistic with a vector per row: (1, a mod 5, b mod 7)."""

    bound: float = 1.0
    size: int = 3

    def of(self, batch: Batch) -> "Vectors.Part":
        a, b = (np.asarray(batch.columns[n], np.int64) for n in "ab")
        return Vectors.Part(np.stack([np.ones(len(batch)), a % 5, b % 7], 1).astype(np.float64))

    @dataclass(frozen=True)
    class Part:
        vectors: Floats

        def norms(self) -> Floats:
            return np.linalg.norm(self.vectors, axis=1)

        def weighted(self, weights: Floats | None) -> Floats:
            return (np.ones(len(self.vectors)) if weights is None else weights) @ self.vectors


@given(tables(), splits)
def test_the_sum_adds_the_vectors_of_all_rows_of_the_split(rows: ArrayRows, split: Split) -> None:
    curator = curator_of(rows)
    expected = np.zeros(3)
    for _, row in listed(curator, split):
        expected += [1, row["a"] % 5, row["b"] % 7]
    answer = curator.sum(Vectors(), split=split)
    np.testing.assert_allclose(answer.value, expected)
    assert (answer.part, answer.noise_std) == (1, 0)


@given(tables(), keys, keys, edges, edges)
def test_one_more_row_moves_a_histogram_by_one_and_the_sum_by_its_norm(
    rows: ArrayRows, a: int, b: int, first: NDArray[np.int64], second: NDArray[np.int64]
) -> None:
    more = ArrayRows(
        np.append(rows.unit, np.uint64(99)),
        {"a": np.append(rows.columns["a"], a), "b": np.append(rows.columns["b"], b)},
        unit_is_row=rows.unit_is_row,
        batch_rows=rows.batch_rows,
    )
    without = ArrayRows(rows.unit, rows.columns, unit_is_row=rows.unit_is_row, batch_rows=rows.batch_rows)
    before, after = curator_of(without, holdout=0), curator_of(more, holdout=0)
    cells = [Cells(columns=("a", "b"), edges=(first, second)), Cells(columns=("a",), edges=(first,))]
    for old, new in zip(before.histogram(cells), after.histogram(cells), strict=True):
        assert np.abs(new.value - old.value).sum() == 1
    row = Batch(unit=np.zeros(1, np.uint64), columns={"a": np.array([a]), "b": np.array([b])})
    moved = np.linalg.norm(after.sum(Vectors()).value - before.sum(Vectors()).value)
    assert moved <= Vectors().of(row).norms()[0] + 1e-9


def test_exact_answers_are_free_of_noise() -> None:
    assert curator_of(numbered(5)).price(Vectors()) == 0


# --------------------------------------------------------------------------------------------------- splits


@given(tables())
def test_train_and_holdout_share_out_the_rows_and_train_falls_into_fit_and_select(rows: ArrayRows) -> None:
    curator = curator_of(rows)
    by_split = {split: Counter(repr(fact) for fact in listed(curator, split)) for split in SPLITS}
    names = list(rows.columns)
    every = Counter(
        repr((int(u), dict(zip(names, map(int, values), strict=True))))
        for u, *values in zip(rows.unit, *rows.columns.values(), strict=True)
    )
    assert by_split["train"] + by_split["holdout"] == every
    assert by_split["fit"] + by_split["select"] == by_split["train"]


@given(tables().filter(lambda rows: rows.holdout is None))
def test_all_rows_of_a_unit_are_on_one_side(rows: ArrayRows) -> None:
    curator = curator_of(rows, holdout=0.5)
    sides = {split: {unit for unit, _ in listed(curator, split)} for split in SPLITS}
    assert not sides["train"] & sides["holdout"]
    assert not sides["fit"] & sides["select"]


@given(tables().filter(lambda rows: rows.holdout is not None), st.binary(min_size=16, max_size=64))
def test_a_holdout_that_the_source_declares_is_respected_whatever_the_key(
    rows: ArrayRows, key: bytes
) -> None:
    assert rows.holdout is not None
    curator = curator_of(rows, key=key, holdout=0.9)
    assert [u for u, _ in listed(curator, "holdout")] == rows.unit[rows.holdout].tolist()


def members(curator: ExactCurator, split: Split, rows: int) -> NDArray[np.bool_]:
    inside = np.zeros(rows, bool)
    for batch in curator.rows(split, columns=()):
        inside[batch.unit.astype(np.int64)] = True
    return inside


ROWS = 40_000


def binomial_error(share: float, rows: int = ROWS) -> float:
    """Five standard deviations of a share of so many rows."""
    return 5 * math.sqrt(share * (1 - share) / rows)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_holdout_has_the_share_that_was_asked_for(share: float) -> None:
    found = members(curator_of(numbered(ROWS), holdout=share), "holdout", ROWS).mean()
    assert abs(found - share) < binomial_error(share)
    # A near miss would be seen.
    assert abs(found - share - 0.03) > binomial_error(share)


def test_a_tenth_of_what_is_trained_on_selects_models() -> None:
    curator = curator_of(numbered(ROWS), holdout=0.2)
    train, select = (members(curator, split, ROWS) for split in ("train", "select"))  # type: ignore[arg-type]
    found = select[train].mean()
    assert abs(found - 0.1) < binomial_error(0.1, int(train.sum()))
    assert abs(found - 0.12) > binomial_error(0.1, int(train.sum()))


def test_the_same_key_draws_the_same_splits_and_another_key_independent_ones() -> None:
    first, again, other = (
        members(curator_of(numbered(ROWS), key=key, holdout=0.5), "holdout", ROWS)
        for key in (KEY, KEY, b"another sixteen.")
    )
    assert (first == again).all()
    assert abs((first == other).mean() - 0.5) < binomial_error(0.5)


def test_draws_are_uniform_and_independent_between_neighbours_and_purposes() -> None:
    units = np.arange(ROWS, dtype=np.uint64)
    one, two = draw(units, KEY, "holdout"), draw(units, KEY, "select")
    assert one.min() >= 0
    assert one.max() < 1
    for x, y in ((one, two), (one[1:], one[:-1])):
        counts = np.histogram2d(x, y, bins=10, range=[[0, 1], [0, 1]])[0].ravel()
        expected = len(x) / 100
        # 99 degrees of freedom: mean 99, standard deviation 14.
        assert ((counts - expected) ** 2 / expected).sum() < 99 + 6 * 14


def test_a_holdout_or_a_part_out_of_range_is_refused() -> None:
    for wrong in ({"holdout": 1.0}, {"holdout": -0.1}, {"keep": 0.0}, {"keep": 1.5}):
        with pytest.raises(ValueError, match="however"):
            curator_of(numbered(3), **wrong)


# --------------------------------------------------------------------------------------------------- keep, recode


def units_of_five(rows: int) -> ArrayRows:
    return ArrayRows(
        np.arange(rows, dtype=np.uint64) // np.uint64(5),
        {"row": np.arange(rows, dtype=np.int64)},
        unit_is_row=False,
        batch_rows=97,
    )


def test_a_subsample_takes_or_leaves_whole_units_and_holds_out_the_same_share_of_them() -> None:
    curator = curator_of(units_of_five(ROWS), holdout=0.2, keep=0.3)
    held = {split: [u for u, _ in listed(curator, split)] for split in SPLITS}
    kept = Counter(held["train"] + held["holdout"])
    assert set(kept.values()) == {5}
    assert abs(len(kept) / (ROWS / 5) - 0.3) < binomial_error(0.3, ROWS // 5)
    assert abs(len(set(held["holdout"])) / len(kept) - 0.2) < binomial_error(0.2, len(kept))


@pytest.mark.parametrize("keep", [1.0, 0.4])
def test_recoded_rows_are_the_kept_ones_in_their_old_splits(keep: float) -> None:
    curator = curator_of(units_of_five(500), keep=keep)

    def halved(batch: Batch) -> Mapping[str, NDArray[np.generic]]:
        return {"half": batch.columns["row"] / 2}

    recoded = curator.recode(halved, ListStore(unit_is_row=False))
    assert isinstance(recoded, ExactCurator)
    for split in SPLITS:
        before = [row["row"] / 2 for _, row in listed(curator, split)]
        after = [h for batch in recoded.rows(split) for h in batch.columns["half"].tolist()]
        assert after == before
    assert recoded.total(of="units").value == curator.total(of="units").value


# --------------------------------------------------------------------------------------------------- rows_hint


@dataclass(frozen=True)
class Visits:
    """How often each row was seen."""

    size: int
    bound: float = 1.0

    def of(self, batch: Batch) -> "Visits.Part":
        return Visits.Part(np.asarray(batch.columns["row"], np.int64), self.size)

    @dataclass(frozen=True)
    class Part:
        row: NDArray[np.int64]
        size: int

        def norms(self) -> Floats:
            return np.ones(len(self.row))

        def weighted(self, weights: Floats | None) -> Floats:
            return np.bincount(self.row, weights, minlength=self.size).astype(np.float64)


@given(st.integers(1, 60), st.lists(st.integers(1, 40), min_size=1, max_size=12), splits)
def test_a_hint_walks_round_the_split_and_says_which_part_it_covered(
    size: int, hints: list[int], split: Split
) -> None:
    curator = curator_of(ArrayRows(np.arange(size, dtype=np.uint64), {"row": np.arange(size)}, batch_rows=7))
    inside = members(curator, split, size)
    seen = np.zeros(size)
    for hint in hints:
        answer = curator.sum(Visits(size), split=split, rows_hint=hint)
        seen += answer.value
        count, rows = answer.value.sum(), inside.sum()
        assert count == min(hint, rows)
        assert answer.value.max() <= 1
        assert answer.part == pytest.approx(count / rows if rows else 1)
    assert (seen[~inside] == 0).all()
    if inside.any():
        assert seen[inside].max() - seen[inside].min() <= 1


def test_walks_through_two_splits_do_not_disturb_each_other() -> None:
    alone, between = curator_of(numbered(100)), curator_of(numbered(100))
    expected = [alone.sum(Visits(100), split="fit", rows_hint=10).value for _ in range(8)]
    for value in expected:
        between.sum(Visits(100), split="holdout", rows_hint=9)
        np.testing.assert_array_equal(between.sum(Visits(100), split="fit", rows_hint=10).value, value)


# --------------------------------------------------------------------------------------------------- descend


class Player:
    """Learns the mean row number, and remembers which rows it read; a follower's loss reads none."""

    def __init__(self, *, spoiled: int = -1) -> None:
        self.weight = torch.zeros(1, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.spoiled = spoiled
        self.read: list[list[int]] = []

    def losses(self, batch: Batch, luck: Luck) -> torch.Tensor:
        row = np.asarray(batch.columns["row"], np.float32)
        self.read.append([int(r) for r in row])
        losses = (torch.from_numpy(row) - self.weight) ** 2
        return losses * math.nan if len(self.read) == self.spoiled else losses

    def loss(self, rows: int) -> torch.Tensor:
        return ((self.weight - 5) ** 2).sum()


def test_descending_looks_at_each_row_once_in_a_pass_and_in_a_new_order_in_the_next() -> None:
    curator, reader = curator_of(numbered(200)), Player()
    inside = np.flatnonzero(members(curator, "train", 200)).tolist()
    rate = 1 / 7
    size = round(rate * len(inside))
    batches = len(inside) // size
    steps = list(curator.descend(reader, steps=2 * batches, rate=rate, split="train"))
    assert {s.rows for s in steps} == {size} == {len(r) for r in reader.read}
    passes = [[row for read in reader.read[i : i + batches] for row in read] for i in (0, batches)]
    for one in passes:
        assert len(set(one)) == len(one) == batches * size
        assert set(one) <= set(inside)
    assert passes[0] != passes[1]


def test_descending_takes_the_step_of_the_mean_loss_then_those_of_the_others() -> None:
    reader, follower = Player(), Player()
    curator = curator_of(numbered(50))
    walk = curator.descend(reader, (follower,), steps=2, rate=1.0)
    first = next(walk)
    mean = float(np.mean(reader.read[0]))
    assert first.loss == pytest.approx(np.mean(np.square(reader.read[0])))
    assert reader.weight.item() == pytest.approx(0.2 * mean)
    assert follower.weight.item() == pytest.approx(1.0)
    assert len(list(walk)) == 1


def test_a_loss_that_is_no_number_moves_nobody() -> None:
    reader, follower = Player(spoiled=1), Player()
    (step,) = curator_of(numbered(50)).descend(reader, (follower,), steps=1, rate=1.0)
    assert math.isnan(step.loss)
    assert reader.weight.item() == follower.weight.item() == 0


def test_equal_keys_descend_through_equal_batches() -> None:
    read = []
    for key in (KEY, KEY, b"another key of 16"):
        reader = Player()
        list(curator_of(numbered(100), key=key, holdout=0.0).descend(reader, steps=3, rate=0.2))
        read.append(reader.read)
    assert read[0] == read[1] != read[2]


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, math.nan])
def test_a_rate_out_of_range_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=r"rate must be in \(0, 1\]"):
        next(curator_of(numbered(10)).descend(Player(), steps=1, rate=rate))


def test_a_split_without_rows_cannot_be_descended() -> None:
    with pytest.raises(ValueError, match="a split must have rows"):
        next(curator_of(numbered(10), holdout=0.0).descend(Player(), steps=1, rate=1.0, split="holdout"))


# --------------------------------------------------------------------------------------------------- strata


class Listening(Player):
    """Keeps the batches that it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []

    def losses(self, batch: Batch, luck: Luck) -> torch.Tensor:
        self.batches.append(batch)
        return super().losses(batch, luck)


def strata_of(axes: NDArray[np.int64], shares: Sequence[float], *weights: Sequence[float]) -> Strata:
    return Strata(
        of=lambda batch: axes[np.asarray(batch.columns["row"], np.int64)],
        shares=np.array(shares),
        weights=tuple(np.array(w, np.float64) for w in weights),
    )


def test_strata_draw_axes_by_share_and_cells_by_weight() -> None:
    strata = strata_of(np.zeros((1, 3), np.int64), [1.0, 3.0, 5.0], [1, 0, 1], [0, 1], [0, 0])
    axis, cell = strata.draw(np.random.default_rng(0), 40_000)
    # An axis without a cell that can be drawn is never drawn.
    assert np.bincount(axis, minlength=3) / 40_000 == pytest.approx([0.25, 0.75, 0.0], abs=0.01)
    assert np.bincount(cell[axis == 0], minlength=3) / (axis == 0).sum() == pytest.approx(
        [0.5, 0, 0.5], abs=0.02
    )
    assert set(cell[axis == 1]) == {1}


def test_rows_are_drawn_by_strata_and_say_along_which_axis() -> None:
    rows = 600
    # A rare cell, a cell without rows, and numbers past the last cell, which are none.
    cells = np.stack([(np.arange(rows) < 6).astype(np.int64), np.where(np.arange(rows) % 2, 0, 5)], 1)
    strata = strata_of(cells, [1.0, 1.0], [1, 1, 7], [1, 1])
    curator = ExactCurator(numbered(rows), key=KEY, holdout=0.0)
    seen = Listening()
    steps = list(curator.descend(seen, steps=200, rate=0.1, strata=strata))
    assert [s.rows for s in steps] == [60] * 200
    row, axis = (np.concatenate([np.asarray(b.columns[n]) for b in seen.batches]) for n in ("row", "axis"))
    assert (axis == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (row[axis == 0] < 6).mean() == pytest.approx(0.5, abs=0.03)
    assert (row[axis == 1] % 2 == 1).all()
    again = Listening()
    list(curator.descend(again, steps=200, rate=0.1, strata=strata))
    np.testing.assert_array_equal(np.concatenate([b.columns["row"] for b in again.batches]), row)


@dataclass(frozen=True)
class Placed:
    """A marginal whose cells are written down for each row."""

    cells: NDArray[np.int64]
    columns: tuple[str, ...] = ("row",)
    shape: tuple[int, ...] = (3,)

    def cell(self, batch: Batch) -> NDArray[np.int64]:
        return self.cells


@pytest.mark.parametrize("cells", [[0, 1, 3], [0, 1, -2], [0, 1], [[0, 1, 2]]])
def test_a_marginal_that_gives_rows_no_single_cell_is_refused(cells: list[int]) -> None:
    batch = next(iter(numbered(3).batches()))
    with pytest.raises(ValueError, match="one cell"):
        count(Placed(np.array(cells, np.int64)), batch)


def test_rows_of_no_cell_are_not_counted() -> None:
    batch = next(iter(numbered(3).batches()))
    assert count(Placed(np.array([2, -1, 2], np.int64)), batch).tolist() == [0, 0, 2]


@given(tables(), st.lists(st.floats(0, 5), min_size=4, max_size=4))
def test_choose_gives_the_marginal_that_is_furthest_from_what_was_expected(
    rows: ArrayRows, expected: list[float]
) -> None:
    curator = curator_of(rows)
    cells = [Cells(columns=(name,), edges=(np.array([0, 5]),)) for name in ("a", "b")]
    candidates = [
        Misfit(marginal=c, expected=np.array(expected), weight=w, allowance=1.5)
        for c, w in zip(cells, (1.0, 2.0), strict=True)
    ]
    slow = []
    for c, candidate in zip(("a", "b"), candidates, strict=True):
        counted = Counter(cell(row[c], [0, 5]) for _, row in listed(curator, "train"))
        gap = sum(abs(counted[i] - e) for i, e in enumerate(expected))
        slow.append(candidate.weight * (gap - 1.5))
    chosen = curator.choose(candidates)
    assert slow[chosen] == pytest.approx(max(slow))
