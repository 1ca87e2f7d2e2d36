"""What a tilt promises: pairs as counted, margins as they were, nothing where nothing is lost."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

import synth
from privacy.curator import Floats
from synth import tilt
from synth.bins import Bins, bins_of
from synth.circuit import Circuit, Parameters
from synth.codec import Encoded, Field, Layout
from synth.tilt import Tilt

SIZES = (3, 4, 2)


def bins() -> list[Bins]:
    """Three columns of categories."""
    fields = (
        Field(name="a", rates=(0.2, 0.3, 0.5), score=None),
        Field(name="b", rates=(0.1, 0.2, 0.3, 0.4), score=None),
        Field(name="c", rates=(0.5, 0.5), score=None),
    )
    return bins_of(Layout(fields=fields, rows=1000.0), 10)


def cells() -> tilt.Cells:
    """A cell for each value."""
    return tilt.cells_of(bins(), [np.arange(size) for size in SIZES])


def shares_of(values: NDArray[np.int64]) -> Floats:
    """Shares of rows in each cell of each pair."""
    hot = np.concatenate(
        [np.eye(s)[column] for s, column in zip(SIZES, cells().of(values).T, strict=True)], 1
    )
    return np.asarray(hot.T @ hot / len(values))


def independent(rows: int, *, seed: int = 1) -> NDArray[np.int64]:
    """Values without any dependence."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(len(b.rates), rows, p=b.rates) for b in bins()], 1)


def dependent(rows: int, *, seed: int = 2) -> NDArray[np.int64]:
    """The same margins, and b follows a in half of the rows."""
    out = independent(rows, seed=seed)
    rng = np.random.default_rng(seed + 100)
    order = np.argsort(out[:, 0] + rng.random(rows))
    half = order[rng.random(rows) < 0.5]
    out[half, 1] = np.sort(out[half, 1])
    return out


def learned(counted: NDArray[np.int64]) -> Tilt | None:
    draws = (independent(20_000, seed=seed) for seed in itertools.count(10))
    return tilt.learned(
        cells(), shares_of(counted), float(len(counted)), lambda rows: next(draws)[:rows], most=5
    )


def test_a_pair_comes_out_as_counted_and_margins_stay() -> None:
    counted = dependent(50_000)
    found = learned(counted)
    assert found is not None
    assert found.pairs.tolist() == [[0, 1]]
    values = independent(400_000, seed=3)
    rows = values[found.kept(values, np.random.default_rng(4))]
    np.testing.assert_allclose(shares_of(rows), shares_of(counted), atol=0.01)
    assert np.abs(shares_of(values) - shares_of(counted)).max() > 0.05
    assert np.exp(found.log_weights(values)).mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("rows", [300, 50_000])
def test_where_nothing_is_lost_there_is_no_tilt(rows: int) -> None:
    assert learned(independent(rows, seed=5)) is None


def test_cells_of_few_rows_say_little() -> None:
    few, many = learned(dependent(400)), learned(dependent(50_000))
    assert few is not None
    assert many is not None
    assert np.abs(few.terms[0]).max() < np.abs(many.terms[0]).max()


def test_it_is_restored_from_its_tensors() -> None:
    found = learned(dependent(50_000))
    assert found is not None
    again = tilt.restored(bins(), found.tensors())
    values = independent(1000)
    assert again is not None
    np.testing.assert_array_equal(again.log_weights(values), found.log_weights(values))
    assert again.open(np.array([[0, 4, 1], [0, 1, 2], [3, 1, 0]])).tolist() == [True, False, True]
    assert tilt.restored(bins(), {}) is None


def test_numbers_have_stretches_and_common_values_cells_of_their_own() -> None:
    field = Field(name="x", rates=(0.02, 0.38, 0.6), score=0)
    column = bins_of(Layout(fields=(field,), rows=1e6), 100)
    groups = np.append([0, 1], 2 + np.arange(column[0].size - 2) // 4)
    found = tilt.cells_of(column, [groups]).of_value[0]
    assert found[-1] == -1
    assert (found[1:-1] == found[1]).sum() == 1
    rates = np.bincount(found[:-1], column[0].rates)
    assert len(rates) <= tilt.CELLS
    assert rates[1:].max() < 0.15
    stretches = found[2:-1]
    assert len(np.unique(stretches)) == np.count_nonzero(np.diff(stretches)) + 1


def circuit() -> Circuit:
    """Independent columns, and a tilt that makes b follow a."""
    found = learned(dependent(50_000))
    parameters = Parameters(
        parents=torch.tensor([-1, 0, 0]),
        prior=torch.ones(1),
        transitions=torch.ones(3, 1, 1),
        emissions=tuple(torch.tensor(b.rates, dtype=torch.float32)[:, None] for b in bins()),
    )
    fields = tuple(b.field for b in bins())
    return Circuit(Layout(fields=fields, rows=1000.0), bins(), parameters, found)


def rows_of(values: list[tuple[int, ...]]) -> Encoded:
    return Encoded(states=np.array(values, np.int32), scores=np.zeros((len(values), 0), np.float32))


def test_draws_conditions_and_densities_of_a_circuit_agree() -> None:
    model = circuit()
    every = list(itertools.product(*(range(size) for size in SIZES)))
    density = np.exp(model.log_prob(rows_of(every)))
    assert density.sum() == pytest.approx(1, abs=0.02)
    drawn = model.draw(100_000, np.random.default_rng(0)).states
    index = np.ravel_multi_index(tuple(drawn.T), SIZES)
    np.testing.assert_allclose(np.bincount(index, minlength=24) / 100_000, density, atol=0.01)

    given = model.draw(20_000, np.random.default_rng(1), given=rows_of([(2, -1, -1)])).states
    assert (given[:, 0] == 2).all()
    expected = density.reshape(SIZES)[2].sum(1) / density.reshape(SIZES)[2].sum()
    np.testing.assert_allclose(np.bincount(given[:, 1], minlength=4) / 20_000, expected, atol=0.015)

    partly = np.exp(model.log_prob(rows_of([(2, -1, 0)] * 200)))
    assert partly.mean() == pytest.approx(density.reshape(SIZES)[2, :, 0].sum(), rel=0.2)
    assert np.ptp(partly) == 0
    mixed = [(2, -1, 0), (-1, 1, -1), (0, 1, 1), (1, -1, -1)]
    np.testing.assert_array_equal(model.log_prob(rows_of(mixed)), model.log_prob(rows_of(mixed[::-1]))[::-1])
    assert len(model.draw(0, np.random.default_rng(0))) == 0
    assert len(model.draw(0, np.random.default_rng(0), given=rows_of([(2, -1, -1)]))) == 0


def test_a_column_that_is_not_there_has_a_cell_of_its_own() -> None:
    fields = (
        Field(name="a", rates=(0.2, 0.8), score=None),
        Field(name="b", rates=(0.5, 0.5), score=None, group=2),
        Field(name="missing: b", rates=(0.3, 0.7), score=None),
    )
    three = bins_of(Layout(fields=fields, rows=1000.0), 10)
    found = tilt.cells_of(three, [np.arange(2)] * 3)
    values = np.array([[0, 1, 0], [0, 1, 1], [0, 2, 1], [0, 2, 0], [0, 2, 2]])
    assert (found.of(values)[:, 1] >= 0).tolist() == [False, True, False, False, False]
    one = Tilt(
        cells=found, pairs=np.array([[0, 1]]), terms=(np.arange(5.0),), log_mass=0.0, most=np.exp(10.0)
    )
    assert one.open(values).tolist() == [False, False, True, False, True]
    assert one.log_weights(values)[[0, 3]].tolist() == [4.0, 4.0]


def test_a_condition_that_hardly_any_row_passes_is_met() -> None:
    model = circuit()
    assert model._tilt is not None
    model._tilt.terms[0][:] = -40.0
    rows = model.draw(50, np.random.default_rng(0), given=rows_of([(1, -1, 1)])).states
    assert len(rows) == 50
    assert (rows[:, 0] == 1).all()
    assert (rows >= 0).all()


def test_a_fit_keeps_what_its_tree_has_no_room_for() -> None:
    # With one hidden state the tree has no dependence at all.
    rng = np.random.default_rng(0)
    a = rng.integers(0, 3, 4000)
    frame = pd.DataFrame({"a": a.astype(str), "b": np.where(rng.random(4000) < 0.7, a, 0).astype(str)})

    def together(table: pd.DataFrame) -> float:
        return float((table["a"] == table["b"]).mean())

    plain, put_right = (
        synth.fit(frame, "circuit", options={"states": 1, "pairs": pairs}) for pairs in (0, 10)
    )
    truth = together(frame)
    assert together(plain.sample(4000, seed=1)) < truth - 0.2
    assert together(put_right.sample(4000, seed=1)) == pytest.approx(truth, abs=0.05)
