"""A mixture of columns through a curator whose answers carry noise."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from privacy.curator import Answer, Batch, ExactCurator, Statistic
from privacy.errors import RecipeError
from privacy.private import Account, PrivateCurator
from synth.bins import Axis, Bins
from synth.codec import UNKNOWN, Encoded, Field, Layout
from synth.gmm import Gmm, noise_of
from synth.gmm_noised import CLEAR_ROWS, Cells, _Counted, _parameters
from synth.registry import descent_of
from synth.rows import EncodedStore
from tests.contracts.test_noised import follows_from_answers
from tests.synth.tables import KEY

ROWS = 6000


def layout_of(groups: bool = False) -> Layout:
    """A category, a number, and where asked two columns that are missing together."""
    fields = [
        Field(name="kind", rates=(0.0, 0.5, 0.3, 0.2), score=None),
        Field(name="size", rates=(0.1, 0.9), score=0),
    ]
    if groups:
        own = (0.0, 0.6, 0.4)
        fields += [
            Field(name="a", rates=own, score=None, group=4),
            Field(name="b", rates=own, score=None, group=4),
            Field(name="missing: a, b", rates=(0.3, 0.7), score=None),
        ]
    return Layout(fields=tuple(fields), rows=float(ROWS))


def table(layout: Layout, *, seed: int = 0) -> Encoded:
    """Size follows kind; where there are such, a and b follow kind and each other."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, ROWS, p=[0.5, 0.3, 0.2])
    size = rng.normal(np.array([-0.8, 0.4, 1.4])[kind], 0.5).astype(np.float32)
    columns = [kind + 1, (rng.random(ROWS) >= 0.1).astype(int)]
    if len(layout.fields) > 2:
        there = rng.random(ROWS) < 0.7
        a = np.where(rng.random(ROWS) < 0.9, 1 + (kind > 0), 1)
        b = np.where(rng.random(ROWS) < 0.9, a, 1)
        columns += [np.where(there, a, UNKNOWN), np.where(there, b, UNKNOWN), there]
    states = np.stack(columns, 1).astype(np.int32)
    return Encoded(states=states, scores=np.where(states[:, 1] == 1, size, 0)[:, None].astype(np.float32))


def store(rows: Encoded) -> EncodedStore:
    out = EncodedStore(None, unit_is_row=True)
    out.write(batch_of(rows))
    return out


def batch_of(rows: Encoded) -> Batch:
    n = len(rows)
    return Batch(
        unit=np.arange(n, dtype=np.uint64),
        columns={"states": rows.states, "scores": rows.scores},
        holdout=np.zeros(n, np.bool_),
    )


def fitted(rho: float, *, groups: bool = False, **options: object) -> tuple[Gmm, Account]:
    layout, account = layout_of(groups), Account(rho=rho)
    curator = PrivateCurator(store(table(layout)).close(), account, key=KEY)
    return Gmm.fit(curator, layout, options, seed=1), account


# ------------------------------------------------------------------------------------------------ what is learned


@pytest.mark.parametrize("groups", [False, True])
def test_columns_that_hang_together_still_do_and_a_near_miss_is_told_apart(groups: bool) -> None:
    model, account = fitted(1.0, groups=groups)
    drawn = model.draw(20_000, np.random.default_rng(0))
    kind, known = drawn.states[:, 0], drawn.states[:, 1] == 1
    means = np.array([drawn.scores[known & (kind == k), 0].mean() for k in (1, 2, 3)])
    np.testing.assert_allclose(means, [-0.8, 0.4, 1.4], atol=0.25)
    shuffled = np.random.default_rng(1).permutation(kind)
    flat = np.array([drawn.scores[known & (shuffled == k), 0].mean() for k in (1, 2, 3)])
    assert np.abs(flat - [-0.8, 0.4, 1.4]).max() > 0.5
    np.testing.assert_allclose(np.bincount(kind, minlength=4)[1:] / 20_000, [0.5, 0.3, 0.2], atol=0.03)
    assert sum(c.rho for c in account.charges) == pytest.approx(account.rho)
    if groups:
        a, b, there = drawn.states[:, 2:].T
        np.testing.assert_allclose((there == 1).mean(), 0.7, atol=0.03)
        assert (a[there == 1] == b[there == 1]).mean() > 0.8


def test_columns_of_a_group_are_likely_or_not_whether_it_is_there_or_not() -> None:
    model, _ = fitted(1.0, groups=True)
    layout = layout_of(True)
    rows = table(layout, seed=9)
    assert np.isfinite(model.log_prob(rows)).all()
    given = layout.unknown(1)
    given.states[0, 4] = 0
    assert (model.draw(50, np.random.default_rng(0), given=given).states[:, 4] == 0).all()


def test_more_noise_leaves_fewer_components() -> None:
    few, many = fitted(1e-5)[0], fitted(0.01)[0]
    assert 2 <= few.parameters.components < many.parameters.components
    assert fitted(10.0, components=7)[0].parameters.components == 7
    assert fitted(10.0, max_components=5)[0].parameters.components == 5


@pytest.mark.parametrize("rho", [1e-4, 1.0, 1e4])
def test_parameters_are_valid_whatever_the_noise(rho: float) -> None:
    p = fitted(rho, groups=True, min_std=0.2)[0].parameters
    offsets = [*layout_of(True).offsets, layout_of(True).states]
    torch.testing.assert_close(p.log_weights.exp().sum(), torch.tensor(1.0), rtol=1e-3, atol=1e-3)
    for first, last in itertools.pairwise(offsets):
        rates = p.log_tables[first:last].exp().sum(0)
        torch.testing.assert_close(rates, torch.ones_like(rates), rtol=1e-3, atol=1e-3)
    assert float(p.stds.min()) >= 0.2 - 1e-6
    assert bool(p.means.isfinite().all())


def test_without_noise_the_start_is_the_profiles_and_options_of_passes_hold() -> None:
    layout = layout_of()
    exact = ExactCurator(store(table(layout)).close(), key=KEY, holdout=0.0)
    assert noise_of(exact, layout, share=1.0) == 0
    one, many = (Gmm.fit(exact, layout, {"components": 6, "passes": p}, seed=1) for p in (1, 60))
    rows = table(layout, seed=3)
    assert many.log_prob(rows).mean() > one.log_prob(rows).mean() - 0.005
    assert many.parameters.components == 6


def test_options_that_need_exact_answers_are_refused_by_name() -> None:
    assert descent_of("gmm", {"components": 8, "min_std": 0.1}, None) is None
    for option, value in (("passes", 3), ("smoothing", 1.0)):
        with pytest.raises(RecipeError, match=f"gmm say {option}: {value}; leave {option} out"):
            descent_of("gmm", {option: value}, None)


# ------------------------------------------------------------------------------------------------ what is asked


def cells_of(layout: Layout, components: int, *, seed: int = 0) -> Cells:
    rng = np.random.default_rng(seed)
    groups = {f.group for f in layout.fields}
    axes = [
        Axis(
            c,
            Bins(f, np.array([-0.5, 0.5]) if f.score is not None else np.empty(0)),
            absent=None if f.group is None else 0.3,
            least=0.0,
        )
        for c, f in enumerate(layout.fields)
        if c not in groups
    ]
    weights = torch.from_numpy(rng.dirichlet(np.ones(components))).float()
    tables = [torch.from_numpy(rng.dirichlet(np.full(a.size, 0.1), components)).float() for a in axes]
    return Cells(axes, weights, tables)


@pytest.mark.parametrize("components", [1, 4, 40])
def test_no_row_is_longer_than_the_bound_and_one_more_moves_the_sum_by_as_much(components: int) -> None:
    layout = layout_of(True)
    told = cells_of(layout, components)
    rows = table(layout).take(slice(0, 300))
    # Nothing bounds a score, and some cells are not known.
    scores = rows.scores * 1e6
    states = np.where(np.random.default_rng(0).random(rows.states.shape) < 0.2, UNKNOWN, rows.states)
    batch = batch_of(Encoded(states=states.astype(np.int32), scores=scores))
    norms = told.of(batch).norms()
    assert (norms <= told.bound * (1 + 1e-6)).all()
    assert norms.max() > 0.3 * told.bound
    without = told.of(batch.take(np.arange(299))).weighted(None)
    moved = np.linalg.norm(told.of(batch).weighted(None) - without)
    assert moved == pytest.approx(norms[-1], rel=1e-3)
    assert moved <= told.bound


def test_sums_are_those_of_a_loop_over_rows_and_components() -> None:
    layout = layout_of(True)
    told = cells_of(layout, 3)
    rows = table(layout).take(slice(0, 40))
    axes, tables = told._axes, told._tables.exp().numpy()
    slow = np.zeros((1 + sum(told.sizes), 3))
    for row in range(40):
        batch = batch_of(rows.take(slice(row, row + 1)))
        places, first = [], 0
        for axis in axes:
            cell = int(axis.of(batch)[0])
            places += [] if cell < 0 else [first + cell]
            first += axis.size
        joint = np.exp(told._weights.numpy()) * np.prod(tables[places], 0)
        slow[[0, *(1 + p for p in places)]] += joint / joint.sum()
    found = told.of(batch_of(rows)).weighted(None).reshape(-1, 3)
    np.testing.assert_allclose(found, slow, rtol=1e-3, atol=1e-4)


def test_a_mixture_misses_nothing_of_its_own_sums_and_more_of_others() -> None:
    layout = layout_of()
    rows = table(layout)
    exact = ExactCurator(store(rows).close(), key=KEY, holdout=0.0)
    model, told = 3, cells_of(layout, 3)
    answer = exact.sum(told)
    sums = torch.from_numpy(answer.value / ROWS).float().reshape(-1, model)
    weights = sums[0]
    tables = [part.T / weights[:, None] for part in torch.split(sums[1:], list(told.sizes))]
    counted = _Counted(told, answer, float(ROWS))
    assert float(counted.misfit(weights, tables)) < 1e-3
    turned = [tables[0].roll(1, 1), *tables[1:]]
    assert float(counted.misfit(weights, turned)) > 100


def test_a_components_scores_have_the_moments_that_its_cells_say() -> None:
    field = Field(name="x", rates=(0.1, 0.9), score=0)
    layout = Layout(fields=(field,), rows=100.0)
    bins = Bins(field, np.array([-1.0, 0.0, 0.7]))
    axis = Axis(0, bins, absent=None, least=0.0)
    # All of the column; the second bin alone; missing always.
    usual = np.append(0.1, 0.9 * np.diff(bins.places))
    table_ = torch.from_numpy(np.stack([usual, [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]])).float()
    p = _parameters(layout, [axis], torch.full((3,), 1 / 3), [table_], 0.01)
    inside = stats.truncnorm(-1.0, 0.0)
    np.testing.assert_allclose(p.means[0].numpy(), [0.0, inside.mean(), 0.0], atol=1e-4)
    np.testing.assert_allclose(p.stds[0].numpy(), [1.0, inside.std(), 1.0], atol=1e-4)
    np.testing.assert_allclose(p.log_tables.exp()[0].numpy(), [0.1, 0.0, 1.0], atol=1e-5)


def test_the_number_of_components_follows_from_the_noise_of_a_count() -> None:
    model, account = fitted(1e-5)
    (pairs,) = (c for c in account.charges if "marginals" in c.question)
    assert model.parameters.components == max(2, int(ROWS / (CLEAR_ROWS * pairs.noise_std)))
    assert math.isclose(pairs.rho, 0.8 * account.rho)


def exactly(curator: PrivateCurator, statistic: Statistic, **asked: Any) -> Answer:
    """A fault: rows are summed behind the curator's back."""
    answer = noised(curator, statistic, **asked)
    return replace(answer, value=curator._exact.sum(statistic).value)


kept: list[Batch] = []


def keeping(curator: PrivateCurator, statistic: Statistic, **asked: Any) -> Answer:
    """A fault: a statistic keeps the rows that it is shown, and what it was told is not what is learned."""
    kept.extend(curator._exact.rows("train"))
    answer = noised(curator, statistic, **asked)
    total = sum((statistic.of(b).weighted(None) for b in kept), np.zeros(statistic.size))
    return replace(answer, value=np.asarray(total))


noised = PrivateCurator.sum


@pytest.mark.parametrize("fault", [exactly, keeping])
def test_who_learns_from_rows_and_not_from_answers_is_found(
    fault: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.clear()
    assert follows_from_answers("gmm", tmp_path / "right")
    monkeypatch.setattr(PrivateCurator, "sum", fault)
    assert not follows_from_answers("gmm", tmp_path / "wrong")
