"""What `marginals` promises beyond what every synthesizer does: how it deals with noise, and with what it costs."""

import itertools

import numpy as np
import pytest
import torch

from privacy.curator import Batch, ExactCurator, count
from synth.bins import Axis, Bins, Crossed, bins_of
from synth.codec import UNKNOWN, Field, Layout
from synth.marginals import (
    Marginals,
    Mixture,
    _axes,
    _Measured,
    _measured,
    _together,
    blocks,
    corrected,
    information,
)
from synth.rows import EncodedStore
from tests.synth.noisy import Noisy
from tests.synth.tables import KEY

ROWS = 20_000
OPTIONS = {"components": 60, "mixtures": 2, "rows": 8000, "states": 24, "passes": 10}


def hidden(rows: int, columns: int, values: int, *, seed: int) -> np.ndarray:
    """Columns that all follow one hidden state, each in three rows of four."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, values, rows)
    noise = rng.integers(0, values, (rows, columns))
    return np.where(rng.random((rows, columns)) < 0.75, state[:, None], noise)


def layout_of(codes: np.ndarray) -> Layout:
    fields = []
    for c, column in enumerate(codes.T):
        rates = np.bincount(column + 1) / len(column)
        fields.append(Field(name=f"c{c}", rates=tuple(rates), score=None))
    return Layout(fields=tuple(fields), rows=float(len(codes)))


def curator_of(states: np.ndarray, scores: np.ndarray | None = None) -> ExactCurator:
    store = EncodedStore(None, unit_is_row=True)
    rows = len(states)
    columns = {
        "states": states.astype(np.int32),
        "scores": np.zeros((rows, 0), np.float32) if scores is None else scores.astype(np.float32),
    }
    store.write(
        Batch(unit=np.arange(rows, dtype=np.uint64), columns=columns, holdout=np.zeros(rows, np.bool_))
    )
    return ExactCurator(store.close(), key=KEY, holdout=0.0)


def pair_error(made: np.ndarray, real: np.ndarray) -> float:
    """Mean total variation distance of all pairs of columns of states."""
    size = int(max(made.max(), real.max())) + 1
    errors = []
    for a, b in itertools.combinations(range(real.shape[1]), 2):
        p, q = (np.bincount(t[:, a] * size + t[:, b], minlength=size**2) / len(t) for t in (made, real))
        errors.append(np.abs(p - q).sum() / 2)
    return float(np.mean(errors))


# --------------------------------------------------------------------------------------------------- cells


def test_the_rare_values_of_a_column_share_a_cell_and_are_drawn_by_their_rates() -> None:
    rates = (0.0, 0.6, 0.3, 0.05, 0.04, 0.01)
    field = Field(name="c", rates=rates, score=None)
    axis = Axis(0, Bins(field, np.empty(0)), absent=None, least=0.06)
    assert axis.size == 3
    np.testing.assert_allclose(axis.rates, (0.6, 0.3, 0.1))
    batch = Batch(
        unit=np.arange(6, dtype=np.uint64),
        columns={"states": np.array([[1], [2], [3], [4], [5], [UNKNOWN]]), "scores": np.zeros((6, 0))},
    )
    np.testing.assert_array_equal(axis.of(batch), [0, 1, 2, 2, 2, -1])
    drawn = axis.draw(np.full(20_000, 2), np.random.default_rng(0))
    assert set(drawn) == {3, 4, 5}
    np.testing.assert_allclose(np.bincount(drawn, minlength=6)[3:] / 20_000, (0.5, 0.4, 0.1), atol=0.015)
    np.testing.assert_array_equal(axis.draw(np.array([0, 1]), np.random.default_rng(0)), [1, 2])


def test_crossed_cells_count_rows_as_a_loop_does_and_know_who_lacks_a_group() -> None:
    rng = np.random.default_rng(0)
    fields = (
        Field(name="a", rates=(0.0, 0.5, 0.5), score=None),
        Field(name="b", rates=(0.0, 0.4, 0.6), score=0, group=2),
        Field(name="missing: b, c", rates=(0.2, 0.8), score=None),
    )
    bins = Bins(fields[1], np.array([-0.5, 0.5]))
    first = Axis(0, Bins(fields[0], np.empty(0)), absent=None, least=0.0)
    second = Axis(1, bins, absent=0.2, least=0.0)
    there = rng.random(500) < 0.8
    b = np.where(there, rng.integers(1, 3, 500), UNKNOWN)
    states = np.stack([rng.integers(1, 3, 500), b, there], 1)
    scores = rng.normal(size=(500, 1))
    batch = Batch(unit=np.arange(500, dtype=np.uint64), columns={"states": states, "scores": scores})
    found = count(Crossed(axes=(first, second)), batch)
    slow = np.zeros((3, 6))
    for row in range(500):
        value = int(np.searchsorted((-0.5, 0.5), np.float32(scores[row, 0])))
        cell = 5 if not there[row] else 1 if b[row] == 1 else 2 + value
        slow[states[row, 0], cell] += 1
    np.testing.assert_array_equal(found, slow)


def test_the_more_an_answer_costs_the_fewer_bins_a_score_has() -> None:
    field = Field(name="x", rates=(0.0, 1.0), score=0)
    layout = Layout(fields=(field, field), rows=30_000.0)
    exact = curator_of(np.ones((10, 2)), np.zeros((10, 2)))
    sizes = []
    for curator in (exact, Noisy(exact, rho=0.1, seed=0), Noisy(exact, rho=1e-4, seed=0)):
        sizes.append(_axes(curator, layout, [0, 1], 32, share=1.0)[0].size)  # type: ignore[arg-type]
    assert sizes[0] == bins_of(layout, 32)[0].size
    assert sizes[0] >= sizes[1] > sizes[2] >= 3


# --------------------------------------------------------------------------------------------------- the mixture


def test_blocks_are_the_joint_probabilities_that_a_loop_over_components_finds() -> None:
    codes = hidden(300, 3, 3, seed=0)
    layout = layout_of(codes)
    axes = [Axis(c, Bins(f, np.empty(0)), absent=None, least=0.0) for c, f in enumerate(layout.fields)]
    weights, tables = Mixture(layout, axes, 5, torch.Generator().manual_seed(0)).tables()
    slow = torch.zeros(4, 8)
    for k in range(5):
        for v, u in itertools.product(range(4), range(8)):
            slow[v, u] += weights[k] * tables[0][k, v] * torch.cat([tables[1], tables[2]], 1)[k, u]
    torch.testing.assert_close(blocks(weights, tables)[0], slow)


def test_columns_of_one_group_are_absent_in_the_same_rows_of_a_mixture() -> None:
    own = (0.0, 0.3, 0.7)
    fields = (
        Field(name="a", rates=own, score=None, group=2),
        Field(name="b", rates=own, score=None, group=2),
        Field(name="missing: a, b", rates=(0.2, 0.8), score=None),
    )
    layout = Layout(fields=fields, rows=100.0)
    axes = [Axis(c, Bins(fields[c], np.empty(0)), absent=0.2, least=0.0) for c in (0, 1)]
    mixture = Mixture(layout, axes, 40, torch.Generator().manual_seed(0))
    with torch.no_grad():
        joint = blocks(*mixture.tables())[0][:, :4]
    assert float(joint[3, :3].sum() + joint[:3, 3].sum()) == 0.0
    assert 0.1 < float(joint[3, 3]) < 0.3
    assert float(joint.sum()) == pytest.approx(1)


def test_an_answer_corrects_the_mixture_where_it_is_clear_and_never_its_rates() -> None:
    generator = torch.Generator().manual_seed(0)
    found, told = (torch.rand(4, 5, generator=generator) for _ in range(2))
    found, told = found / found.sum(), told / told.sum()
    # Rates alike, so that all of the difference is dependence.
    for _ in range(200):
        told = told * (found.sum(1) / told.sum(1))[:, None]
        told = told * (found.sum(0) / told.sum(0))[None]
    torch.testing.assert_close(corrected(found, told, 0.0), told, atol=1e-5, rtol=1e-3)
    torch.testing.assert_close(corrected(found, told, 1e3), found, atol=1e-5, rtol=1e-3)
    between = corrected(found, told, 0.01)
    torch.testing.assert_close(between.sum(1), found.sum(1), atol=1e-5, rtol=1e-3)
    assert (between - told).abs().sum() < (found - told).abs().sum()
    assert information(torch.outer(found.sum(1), found.sum(0))) == pytest.approx(0, abs=1e-6)


def test_answers_that_are_noise_alone_correct_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    found = torch.full((6, 7), 1 / 42)
    told = found + 0.01 * torch.randn(6, 7, generator=generator)
    torch.testing.assert_close(corrected(found, told, 0.01), found, atol=2e-4, rtol=0)


def test_a_mixture_is_nearer_to_the_truth_than_the_answers_that_it_was_fitted_to() -> None:
    codes = hidden(ROWS, 6, 6, seed=0)
    layout = layout_of(codes)
    pairs = list(itertools.combinations(range(6), 2))
    noisy = Noisy(curator_of(codes + 1), rho=0.002, seed=1)
    axes = [Axis(c, Bins(f, np.empty(0)), absent=None, least=0.0) for c, f in enumerate(layout.fields)]
    told = _measured(noisy, axes, pairs, layout.rows, share=1.0)  # type: ignore[arg-type]
    truth = _measured(curator_of(codes + 1), axes, pairs, layout.rows, share=1.0)
    mixture = Mixture(layout, axes, 60, torch.Generator().manual_seed(0))
    mixture.fit(told, 200, 300.0)
    with torch.no_grad():
        found = blocks(*mixture.tables())

    def error(shares: tuple[torch.Tensor, ...] | list[torch.Tensor]) -> float:
        return sum(float((s - t).abs().sum()) for s, t in zip(shares, truth.shares, strict=True))

    assert error(found) < 0.5 * error(told.shares)


# --------------------------------------------------------------------------------------------------- the whole


@pytest.mark.parametrize(("rho", "asked"), [(1.0, [6]), (0.001, [6, 4])])
def test_all_of_the_budget_is_spent_and_a_second_question_is_for_large_noise(
    rho: float, asked: list[int]
) -> None:
    codes = hidden(3000, 4, 3, seed=0)
    curator = Noisy(curator_of(codes + 1), rho=rho, seed=1)
    Marginals.fit(curator, layout_of(codes), OPTIONS, seed=0)  # type: ignore[arg-type]
    assert curator.spent == pytest.approx(1)
    assert curator.asked == asked


def test_two_answers_count_by_their_precision() -> None:
    def told(share: float, precision: float) -> _Measured:
        shares = (torch.full((1, 1), share), torch.zeros(1, 0))
        precisions = (torch.full((1, 1), precision), torch.zeros(1, 0))
        return _Measured(shares=shares, precision=precisions, noise=0.1, single=0.1)

    both = _together(told(0.2, 1.0), told(0.6, 3.0))
    assert float(both.shares[0]) == pytest.approx(0.5)
    assert float(both.precision[0]) == pytest.approx(4.0)
    assert float(_together(told(0.2, 1.0), told(0.0, 0.0)).shares[0]) == pytest.approx(0.2)


@pytest.mark.parametrize(("rho", "near"), [(0.02, 0.06), (None, 0.05)])
def test_pairs_are_learned_from_noisy_counts_and_a_near_miss_is_told_apart(
    rho: float | None, near: float
) -> None:
    codes = hidden(ROWS, 6, 4, seed=0)
    exact = curator_of(codes + 1)
    curator = exact if rho is None else Noisy(exact, rho=rho, seed=1)
    model = Marginals.fit(curator, layout_of(codes), OPTIONS, seed=0)  # type: ignore[arg-type]
    drawn = model.draw(ROWS, np.random.default_rng(0)).states
    fresh = hidden(ROWS, 6, 4, seed=9) + 1
    assert pair_error(drawn, fresh) < near
    # Rows of which one column in six follows nothing any more.
    shuffled = drawn.copy()
    np.random.default_rng(1).shuffle(shuffled[:, 3])
    assert pair_error(shuffled, fresh) > 1.5 * near


def test_equal_answers_and_seeds_give_equal_models() -> None:
    codes = hidden(2000, 4, 3, seed=0)
    models = [
        Marginals.fit(Noisy(curator_of(codes + 1), rho=0.05, seed=1), layout_of(codes), OPTIONS, seed=s)  # type: ignore[arg-type]
        for s in (3, 3, 4)
    ]
    first, again, other = ([*m.tensors().values()] for m in models)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
