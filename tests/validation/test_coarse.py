"""The question that figures of a private release are made of: public, coarse, and of bounded sensitivity."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.curator import Batch, Marginal
from privacy.private import Account, PrivateCurator
from synth.codec import UNKNOWN, Encoded, Field, Layout
from tests.privacy.arrays import KEY
from tests.privacy.test_private import Quiet
from tests.validation.counted import COLUMNS, STATES, arrays_of, encoded, layout_of, marginals_of
from validation.coarse import FEWEST, MOST, Recount, ask, coarse, question, resolution

ROWS = encoded(300, seed=1)
LAYOUT = layout_of(ROWS)


def asked(
    rows: Encoded, *, rho: float = 0.5, unit: object = None, unit_rows: int = 1
) -> tuple[Recount, Account]:
    account = Account(rho=rho)
    curator = PrivateCurator(
        arrays_of(rows, unit),  # type: ignore[arg-type]
        account, key=KEY, unit_rows=unit_rows, noise=Quiet(),
    )  # fmt: skip
    recount, _ = ask(curator, LAYOUT, range(COLUMNS), split="train", unit_rows=unit_rows, seed=0)
    return recount, account


@settings(max_examples=25, deadline=None)
@given(st.integers(0, STATES - 1), st.floats(-4, 4), st.integers(1, 3))
def test_one_more_unit_moves_the_answer_by_at_most_the_sensitivity_that_was_charged(
    state: int, score: float, unit_rows: int
) -> None:
    more = Encoded(
        states=np.full((unit_rows + 1, COLUMNS), state, np.int32),
        scores=np.full((unit_rows + 1, 1), score, np.float32),
    )
    more.states[:, -1] = 1
    units = np.arange(len(ROWS), dtype=np.uint64)
    smaller, account = asked(ROWS, unit=units, unit_rows=unit_rows)
    larger, _ = asked(
        Encoded.joined([ROWS, more]),
        unit=np.append(units, [np.uint64(9999)] * len(more)),
        unit_rows=unit_rows,
    )
    apart = np.concatenate([(a - b).ravel() for a, b in zip(larger.counts, smaller.counts, strict=True)])
    # All rows of a unit are alike here, so the bound is reached, and no smaller one would do.
    assert np.linalg.norm(apart) == pytest.approx(account.charges[0].sensitivity)


def test_it_is_one_question_that_spends_the_budget_and_the_price_is_the_noise() -> None:
    recount, account = asked(ROWS)
    assert len(account.charges) == 1
    assert account.charges[0].rho == pytest.approx(0.5)
    assert recount.noise_std == account.charges[0].noise_std == pytest.approx(np.sqrt(len(recount.marginals)))


def test_the_question_follows_from_public_facts_alone() -> None:
    other = encoded(300, seed=2, strength=0.1)
    told = [asked(rows)[1].charges[0].digest for rows in (ROWS, other)]
    assert told[0] == told[1]
    # But another partition is another question, whatever its shape.
    moved = Layout(fields=LAYOUT.fields[::-1], rows=LAYOUT.rows)
    assert Recount.from_json(asked(ROWS)[0].to_json(), LAYOUT).marginals[0].shape == (
        asked(ROWS)[0].marginals[0].shape
    )
    assert moved.fields[0] != LAYOUT.fields[0]


def test_each_row_is_in_one_cell_also_where_nothing_is_known_of_it() -> None:
    unknown = Encoded(states=np.full((5, COLUMNS), UNKNOWN, np.int32), scores=np.zeros((5, 1), np.float32))
    batch = Batch(unit=np.zeros(5, np.uint64), columns={"states": unknown.states, "scores": unknown.scores})
    for marginal in marginals_of(LAYOUT):
        assert isinstance(marginal, Marginal)
        assert 0 <= marginal.cell(batch).min() <= marginal.cell(batch).max() < np.prod(marginal.shape)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(lambda r: sum(r) > 0), st.integers(2, 8))
def test_groups_are_few_and_none_is_light(rates: list[float], most: int) -> None:
    shares = np.array(rates) / sum(rates)
    layout = Layout(fields=(Field(name="a", rates=tuple(shares), score=None),), rows=100.0)
    axis = coarse(layout, 0, most)
    weights = np.bincount(axis.groups[:-1], shares, minlength=axis.size)
    assert 1 <= axis.size <= most
    assert axis.size == 1 or weights.min() >= (0.01 if axis.size == 2 else 1 / (4 * most)) - 1e-9


@given(st.floats(100, 1e7), st.integers(1, 200), st.floats(0.1, 1e4))
def test_more_rows_for_the_noise_are_never_counted_more_coarsely(
    rows: float, columns: int, noise: float
) -> None:
    small, large = (resolution(rows=r, columns=columns, noise_of_one=noise) for r in (rows, 10 * rows))
    assert FEWEST <= small.groups <= MOST
    assert small.pairs <= large.pairs <= columns * (columns - 1) // 2
    assert small.groups <= large.groups or small.pairs < large.pairs
    assert small.noise_std >= noise


def test_of_many_pairs_some_are_asked_about_and_each_column_is_in_two() -> None:
    fields = tuple(Field(name=str(c), rates=(0.3, 0.7), score=None) for c in range(30))
    curator = PrivateCurator(arrays_of(ROWS), Account(rho=1e-3), key=KEY)
    marginals = question(curator, Layout(fields=fields, rows=500.0), range(30), seed=3)
    pairs = [tuple(a.column for a in m.axes) for m in marginals if len(m.axes) == 2]
    assert len(pairs) == 30
    assert set(np.bincount(np.ravel(pairs), minlength=30)) == {2}
    again = question(curator, Layout(fields=fields, rows=500.0), range(30), seed=3)
    assert [tuple(a.column for a in m.axes) for m in again if len(m.axes) == 2] == pairs


def test_a_column_of_one_value_is_not_asked_about() -> None:
    fields = (*LAYOUT.fields, Field(name="same", rates=(1.0, 0.0), score=None))
    curator = PrivateCurator(arrays_of(ROWS), Account(rho=1.0), key=KEY)
    marginals = question(curator, Layout(fields=fields, rows=300.0), range(COLUMNS + 1), seed=0)
    assert {a.column for m in marginals for a in m.axes} == set(range(COLUMNS))


def test_an_answer_comes_back_from_its_text() -> None:
    recount, _ = asked(ROWS)
    again = Recount.from_json(recount.to_json(), LAYOUT)
    assert again.to_json() == recount.to_json()
    for a, b in zip(again.marginals, recount.marginals, strict=True):
        np.testing.assert_array_equal(a.cells(ROWS), b.cells(ROWS))
