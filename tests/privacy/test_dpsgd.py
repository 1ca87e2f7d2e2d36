"""Clipped, noised gradients: beside a slow loop over rows, and neighbours that differ by at most the bound."""

import contextlib
import itertools
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom
from torch import Tensor, nn

from privacy.accounting import Loss
from privacy.curator import Batch, Descent, Floats, Luck, Strata
from privacy.dpsgd import MARGIN, MICRO_ROWS, Drawn, Layers, Players, check
from privacy.errors import BudgetRefused, ReleaseError, UsageError
from privacy.mechanisms import SystemNoise
from privacy.private import Account, Journal, PrivateCurator, Target
from tests.privacy.arrays import KEY, ArrayRows

WIDTH = 6


class Twice(nn.Module):
    """One linear layer that is used twice, the second time with places side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.own(torch.stack([x, self.own(x).tanh()], 1)).sum(1)
        return out


class Words(nn.Module):
    """Vectors that are looked up, one by one or in bags, by some rows twice, and one that counts for nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.words = (
            nn.Embedding(5, WIDTH, padding_idx=4)
            if kind == "embedding"
            else nn.EmbeddingBag(5, WIDTH, mode="sum", padding_idx=4)
        )
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        index = (x[:, :3].abs() * 10).long() % 5
        out: Tensor = self.words(index)
        return x * (out.sum(1) if self.kind == "embedding" else out)


class Shift(nn.Module):
    """A layer that nobody has heard of."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by.sin() + self.by


class Folded(nn.Module):
    def __init__(self, inner: nn.Module, *shape: int) -> None:
        super().__init__()
        self.inner, self.shape = inner, shape

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.reshape(len(x), *self.shape))
        return out.flatten(1)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "without bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "used twice": Twice,
    "many places": lambda: Folded(nn.Linear(2, 2), WIDTH // 2, 2),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "group norm": lambda: Folded(nn.GroupNorm(2, 2), 2, WIDTH // 2),
    "convolution": lambda: Folded(nn.Conv1d(2, 3, 2), 2, WIDTH // 2),
    "embedding": lambda: Words("embedding"),
    "bag": lambda: Words("bag"),
    "shift": Shift,
    "rectifiers": lambda: nn.Sequential(nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.2)),
}


class Learner:
    """Squares of what a network of all sorts of layers makes of a row and its luck."""

    def __init__(self, *blocks: nn.Module, scale: float = 1.0) -> None:
        torch.manual_seed(0)
        self.module = nn.Sequential(nn.Linear(3, WIDTH), *blocks)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1)
        self.scale = scale

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        rows = torch.from_numpy(np.array(batch.columns["x"]))
        noise = torch.from_numpy(luck.normal.standard_normal((len(rows), 3), np.float32))
        return self.scale * (self.module(rows + 0.1 * noise) ** 2).flatten(1).sum(1)


def learner(*kinds: str, scale: float = 1.0) -> Learner:
    torch.manual_seed(1)
    return Learner(*(BLOCKS[kind]() for kind in kinds), scale=scale)


def rows_of(units: NDArray[np.int64], *, seed: int = 0) -> Batch:
    x = np.random.default_rng(seed).normal(size=(len(units), 3)).astype(np.float32)
    return Batch(unit=units.astype(np.uint64), columns={"x": x})


def luck(seed: int = 5) -> Luck:
    return Luck.of([seed])


def slow(reader: Learner, batch: Batch, unit: NDArray[np.int64], bound: float) -> tuple[Floats, Floats]:
    """Norm of each unit's gradient, and the sum with each layer's part clipped: row by row, by autograd."""
    fate = luck()
    layers = [list(m.parameters(recurse=False)) for m in reader.module.modules()]
    layers = [own for own in layers if own]
    total, norms = [], np.zeros(int(unit.max()) + 1)
    rows = []
    for i in range(len(batch)):
        loss = reader.losses(batch.take(np.array([i])), fate).sum()
        rows.append([torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True) for own in layers])
    for place, own in enumerate(layers):
        units = np.zeros((len(norms), sum(p.numel() for p in own)))
        for i, slopes in enumerate(rows):
            pairs = zip(own, slopes[place], strict=True)
            flat = [(torch.zeros_like(p) if s is None else s).flatten() for p, s in pairs]
            units[unit[i]] += torch.cat(flat).double().numpy()
        of_layer = np.linalg.norm(units, axis=1)
        norms += of_layer**2
        weights = np.minimum(1.0, bound / math.sqrt(len(layers)) / np.maximum(of_layer, 1e-30))
        total.append(weights @ units)
    return np.sqrt(norms), np.concatenate(total)


# ----------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("units", ["rows", "units"])
@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("bound", [0.3, 1e9])
def test_clipped_sums_are_those_of_a_loop_over_rows(kind: str, units: str, bound: float) -> None:
    reader = learner(kind, "linear")
    unit = np.arange(7) if units == "rows" else np.array([0, 0, 1, 2, 2, 2, 3])
    batch = rows_of(unit)
    norms, expected = slow(reader, batch, unit, bound * (1 - MARGIN))
    found = Layers(reader).clipped(reader, batch, unit, luck(), bound=bound)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert bound > 1 or (norms > bound).any()
    # The loop tells clipping of units from clipping of rows, and from none.
    if units == "units" and bound < 1:
        _, of_rows = slow(reader, batch, np.arange(7), bound)
        assert np.linalg.norm(of_rows - expected) > 0.1 * np.linalg.norm(expected)


def test_nothing_is_left_on_the_layers() -> None:
    reader = learner(*BLOCKS)
    before = {name: set(vars(m)) for name, m in reader.module.named_modules()}
    Layers(reader).clipped(reader, rows_of(np.arange(5)), np.arange(5), luck())
    assert all(p.grad is None for p in reader.module.parameters())
    assert all(not m._forward_hooks and not m._backward_hooks for m in reader.module.modules())
    assert {name: set(vars(m)) for name, m in reader.module.named_modules()} == before


def test_a_row_whose_gradient_is_no_number_adds_nothing() -> None:
    reader, unit = learner(*BLOCKS), np.arange(6)
    batch = rows_of(unit)
    batch.columns["x"][2] = np.nan  # type: ignore[index]
    batch.columns["x"][4] = 1e25  # type: ignore[index]
    whole = Layers(reader).clipped(reader, batch, unit, luck())
    assert np.isfinite(whole).all()
    assert 0 < np.linalg.norm(whole) <= 4


# ----------------------------------------------------------------------------------------------- sensitivity


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_one_more_unit_moves_the_sum_by_at_most_the_bound(rows: int, scale: float) -> None:
    reader = learner("used twice", "layer norm", "bag", scale=scale)
    layers = Layers(reader)
    unit = np.array([0, 0, 1, 2, 3, 3, *[4] * rows])
    batch = rows_of(unit)
    # The new one comes last, so that the same luck falls to all others.
    without = layers.clipped(reader, batch.take(np.arange(6)), unit[:6], luck())
    moved = np.linalg.norm(layers.clipped(reader, batch, unit, luck()) - without)
    assert moved <= 1.0
    if scale == 1e6:
        assert moved > 0.99


class Differing(Learner):
    """What it makes of a row, less what it makes of nearly the same: two large gradients that all but cancel."""

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        rows = torch.from_numpy(np.array(batch.columns["x"])) * 50
        near, nearer = self.module(torch.stack([rows, rows + 1e-4], 1)).sum(2).unbind(1)
        return self.scale * (near - nearer)


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
def test_gradients_that_all_but_cancel_are_within_the_bound_as_well(scale: float) -> None:
    reader = Differing(nn.Tanh(), nn.Linear(WIDTH, WIDTH), scale=scale)
    layers = Layers(reader)
    for i in range(20):
        batch = rows_of(np.array([0]), seed=i)
        assert np.linalg.norm(layers.clipped(reader, batch, np.array([0]), luck())) <= 1.0


def test_a_sum_of_as_many_rows_as_a_pass_may_have_errs_by_less_than_the_margin() -> None:
    reader = learner("linear", "linear", scale=100.0)
    layers, unit = Layers(reader), np.arange(MICRO_ROWS)
    batch = rows_of(unit)
    moved = layers.clipped(reader, batch, unit, luck()) - layers.clipped(
        reader, batch.take(unit[:-1]), unit[:-1], luck()
    )
    assert np.linalg.norm(moved) <= 1.0


# ----------------------------------------------------------------------------------------------- refused


class Coupled(Learner):
    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        losses = super().losses(batch, luck)
        return losses - losses.mean()


class Scattered(Learner):
    """Variances, whose slopes are zero where all rows are alike."""

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        gave = self.module(torch.from_numpy(np.array(batch.columns["x"])))
        return (gave - gave.mean(0)).square().sum(1)


class Paired(Learner):
    """Rows two by two."""

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        losses = super().losses(batch, luck)
        pairs = len(losses) // 2 * 2
        return torch.cat([losses[:pairs].reshape(-1, 2).sum(1).repeat_interleave(2), losses[pairs:]])


class Centred(Learner):
    """Rows are joined before the first layer."""

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        x = np.array(batch.columns["x"])
        return super().losses(replace(batch, columns={"x": x - x.mean(0)}), luck)


class Seeded(Learner):
    """Luck that follows from a row's place in the batch."""

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        return super().losses(batch, luck) * torch.arange(1, len(batch) + 1)


class Punished(Learner):
    """A penalty on the slope, whose own gradient passes through the weights a second time."""

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        rows = torch.from_numpy(np.array(batch.columns["x"])).requires_grad_()
        (slope,) = torch.autograd.grad((self.module(rows + 1) ** 2).sum(), rows, create_graph=True)
        return super().losses(batch, luck) + slope.square().sum(1)


class Functional(Learner):
    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        first = self.module[0]
        rows = torch.from_numpy(np.array(batch.columns["x"]))
        return super().losses(batch, luck) + nn.functional.linear(rows + 1, first.weight).square().sum(1)


class Averaged(Learner):
    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        return super().losses(batch, luck).mean()


class Stacked(Learner):
    """Two looks at each row, one below the other."""

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        rows = torch.from_numpy(np.array(batch.columns["x"]))
        return self.module(torch.cat([rows, rows + 1])).square().sum(1)[: len(rows)]


class InPlace(Learner):
    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        return self.module(torch.from_numpy(np.array(batch.columns["x"]))).mul_(2).sum(1)


class Loose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.bias = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + self.bias
        return out


REFUSED: dict[str, tuple[Callable[[], Learner], str]] = {
    "batch norm": (
        lambda: Learner(nn.BatchNorm1d(WIDTH)),
        r"layer '1' \(BatchNorm1d\).*LayerNorm or GroupNorm",
    ),
    "max norm": (
        lambda: Learner(nn.Embedding(3, 2, max_norm=1.0)),
        r"layer '1' \(Embedding\).*leave max_norm",
    ),
    "means of bags": (lambda: Learner(nn.EmbeddingBag(3, 2, mode="mean")), r"EmbeddingBag.*mode='sum'"),
    "loose parameters": (lambda: Learner(Loose()), r"layer '1' \(Loose\).*a layer of their own"),
    "coupled losses": (lambda: Coupled(nn.ReLU()), r"losses join rows in layer '0' \(Linear\)"),
    "variances": (lambda: Scattered(nn.ReLU()), r"losses join rows in layer '0' \(Linear\)"),
    "pairs of rows": (lambda: Paired(nn.ReLU()), r"losses join rows in layer '0' \(Linear\)"),
    "a batch's mean": (lambda: Centred(nn.ReLU()), "another where the row stands alone"),
    "luck by place": (lambda: Seeded(nn.ReLU()), "another where the row stands alone"),
    "dropout": (lambda: Learner(nn.Dropout(0.1)), r"layer '1' \(Dropout\) draws it for a batch"),
    "running statistics": (
        lambda: Learner(nn.Unflatten(1, (2, -1)), nn.InstanceNorm1d(2, track_running_stats=True)),
        r"layer '2' \(InstanceNorm1d\) changes its buffer 'running_mean'",
    ),
    "penalty": (lambda: Punished(nn.Tanh()), r"use the weights of layer '0' \(Linear\).*penalty"),
    "weights without their layer": (
        lambda: Functional(nn.ReLU()),
        r"use the weights of layer '0'",
    ),
    "one loss": (lambda: Averaged(nn.ReLU()), "a loss for each row"),
    "rows twice": (lambda: Stacked(nn.ReLU()), "stack what belongs to a row along a second axis"),
    "in place": (lambda: InPlace(), r"layer '0' \(Linear\) is changed in place"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_clipped_row_by_row_is_refused_by_name_before_it_costs_anything(what: str) -> None:
    make, said = REFUSED[what]
    curator, account = curator_of(np.arange(20))
    with pytest.raises(UsageError, match=said):
        curator.descend(make(), steps=2, rate=0.5, share=1)
    assert not account.charges


def test_every_layer_that_is_clipped_passes_the_check() -> None:
    check(learner(*BLOCKS), rows_of(np.arange(2)))


def test_parameters_in_no_layer_are_refused() -> None:
    reader = learner("linear")
    reader.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(UsageError, match="1 parameters are in no layer"):
        Layers(reader)


# ----------------------------------------------------------------------------------------------- draws


def sizes_of(draws: Callable[[], NDArray[np.int64]], times: int) -> NDArray[np.int64]:
    return np.array([len(draws()) for _ in range(times)])


def looks_binomial(sizes: NDArray[np.int64], n: int, rate: float) -> bool:
    """Whether sizes have the mean, the variance and the tails of a binomial, each within five standard errors."""
    mean, var = n * rate, n * rate * (1 - rate)
    close = abs(sizes.mean() - mean) < 5 * math.sqrt(var / len(sizes))
    spread = abs(sizes.var() / var - 1) < 5 * math.sqrt(2 / len(sizes))
    low, high = binom.ppf([0.1, 0.9], n, rate)
    expected = binom.cdf(low, n, rate) + binom.sf(high - 1, n, rate)
    tails = abs(((sizes <= low) | (sizes >= high)).mean() - expected) < 5 * math.sqrt(0.25 / len(sizes))
    return bool(close and spread and tails)


def looks_independent(picked: NDArray[np.bool_], rate: float) -> bool:
    """Whether units are drawn with the rate, each by itself in a step, and anew in the next."""
    steps, n = picked.shape
    each = np.abs(picked.mean(0) - rate).max() < 5.5 * math.sqrt(rate * (1 - rate) / steps)
    centred = (picked - rate) / math.sqrt(rate * (1 - rate))
    # The sum over pairs, and the products of a unit with itself in the next step.
    together = (centred.sum(1) ** 2 - (centred**2).sum(1)).mean() / n
    apart = abs(together) < 5 * math.sqrt(2 / steps)
    anew = abs((centred[1:] * centred[:-1]).mean()) < 5 / math.sqrt(n * (steps - 1))
    return bool(each and apart and anew)


def poisson(n: int, rate: float, steps: int) -> NDArray[np.bool_]:
    drawn = Drawn(rows_of(np.arange(n)))
    picked = np.zeros((steps, n), np.bool_)
    for step in range(steps):
        for batch, _ in drawn.batches(SystemNoise(), rate):
            picked[step, batch.unit.astype(np.int64)] = True
    return picked


def shuffled(n: int, rate: float, steps: int) -> NDArray[np.bool_]:
    """What everybody does, and nobody accounts for."""
    picked = np.zeros((steps, n), np.bool_)
    rng, size = np.random.default_rng(0), int(n * rate)
    order = np.empty(0, np.int64)
    for step in range(steps):
        order = rng.permutation(n) if len(order) < size else order
        picked[step, order[:size]], order = True, order[size:]
    return picked


def test_draws_are_binomial_in_size_and_independent_and_shuffled_batches_are_told_apart() -> None:
    n, rate, steps = 200, 0.1, 3000
    right, wrong = poisson(n, rate, steps), shuffled(n, rate, steps)
    assert looks_binomial(right.sum(1), n, rate)
    assert looks_independent(right, rate)
    assert not looks_binomial(wrong.sum(1), n, rate)
    assert not looks_independent(wrong, rate)
    # Near misses: a tenth more, sizes that are right but always the same units' neighbours, half of a step kept.
    assert not looks_binomial(poisson(n, 1.1 * rate, steps).sum(1), n, rate)
    pairs = np.repeat(poisson(n // 2, rate, steps), 2, 1)
    assert not looks_independent(pairs, rate)
    kept = right.copy()
    kept[1::2, :20] = kept[::2, :20]
    assert not looks_independent(kept, rate)


def test_a_draw_has_units_whole_and_every_row_once_in_batches_of_bounded_size() -> None:
    unit = np.random.default_rng(0).integers(0, 900, 5000)
    rows = Batch(unit=unit.astype(np.uint64), columns={"row": np.arange(5000)})
    batches = list(Drawn(rows).batches(SystemNoise(), 1.0))
    assert sorted(int(r) for b, _ in batches for r in b.columns["row"]) == list(range(5000))
    assert all(len(b) <= MICRO_ROWS for b, _ in batches)
    names = [set(b.unit.tolist()) for b, _ in batches]
    assert all(not one & two for one, two in itertools.combinations(names, 2))
    for batch, place in batches:
        assert (np.diff(place) >= 0).all()
        assert np.array_equal(np.unique(batch.unit)[place], batch.unit)


def test_a_unit_with_more_rows_than_a_pass_stays_whole() -> None:
    unit = np.repeat([3, 1, 2], [MICRO_ROWS + 5, 10, 10])
    batches = list(Drawn(rows_of(unit)).batches(SystemNoise(), 1.0))
    assert sorted(len(b) for b, _ in batches) == [20, MICRO_ROWS + 5]


# ----------------------------------------------------------------------------------------------- curator


@dataclass
class Still:
    """No noise, and everybody is drawn; it remembers how much was asked for."""

    asked: list[int] = field(default_factory=list)
    nobody: bool = False

    def gaussian(self, values: NDArray[np.int64], *, scale: float) -> NDArray[np.int64]:
        return values

    def largest(self, scores: Floats, *, scale: float) -> int:
        return int(np.argmax(scores))

    def normal(self, size: int) -> Floats:
        self.asked.append(size)
        return np.ones(size)

    def picks(self, size: int, *, rate: float) -> NDArray[np.bool_]:
        return np.full(size, not self.nobody)


TARGET = Target(epsilon=3.0, delta=1e-5, others=Loss.zcdp(0.02), rho=0.1)


def curator_of(
    unit: NDArray[np.int64],
    *,
    noise: object = None,
    unit_rows: int = 1,
    target: Target | None = TARGET,
    units_about: float | None = 100.0,
) -> tuple[PrivateCurator, Account]:
    batch = rows_of(unit)
    rows = ArrayRows(batch.unit, batch.columns, unit_is_row=len(set(unit.tolist())) == len(unit))
    account = Account(rho=0.1, target=target)
    curator = PrivateCurator(
        rows, account, key=KEY, unit_rows=unit_rows, noise=noise, units_about=units_about
    )
    return curator, account


def moved(reader: Learner) -> Floats:
    """Where a step without momentum went, in terms of the gradient."""
    start = learner("linear")
    pairs = zip(start.module.parameters(), reader.module.parameters(), strict=True)
    return np.concatenate([((a - b) / 0.1).detach().double().numpy().ravel() for a, b in pairs])


def test_a_step_is_the_clipped_sum_and_the_stated_noise_over_the_public_number() -> None:
    noise = Still()
    curator, account = curator_of(np.arange(30), noise=noise)
    reader = learner("linear")
    (step,) = curator.descend(reader, steps=1, rate=0.2, share=0.5)
    size = sum(p.numel() for p in reader.module.parameters())
    assert noise.asked == [size]
    # 30 rows of norm 1 at most, the noise is one everywhere: divided by a fifth of 100, whatever was drawn.
    multiplier = account.charges[0].noise_std
    summed = moved(reader) * 20 - multiplier
    assert 1 < np.linalg.norm(summed) <= 30
    assert step.rows == 20
    assert math.isnan(step.loss)


def test_neighbours_take_steps_that_differ_by_at_most_the_bound() -> None:
    for units in (np.arange(30), np.repeat(np.arange(10), 3)):
        steps = []
        for keep in (len(units), int((units != units.max()).sum())):
            torch.manual_seed(0)
            curator, _ = curator_of(units[:keep], noise=Still(), unit_rows=2)
            reader = Certain(*(BLOCKS["linear"]() for _ in range(1)), scale=1e4)
            before = torch.cat([p.detach().flatten() for p in reader.module.parameters()]).double()
            list(curator.descend(reader, steps=1, rate=0.2, share=1))
            after = torch.cat([p.detach().flatten() for p in reader.module.parameters()]).double()
            steps.append((before - after).numpy() / 0.1 * 20)
        assert 0.5 < np.linalg.norm(steps[0] - steps[1]) <= 1 + 1e-3


class Certain(Learner):
    """Its losses have no luck, so that neighbours differ by a unit alone."""

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        rows = torch.from_numpy(np.array(batch.columns["x"]))
        return self.scale * (self.module(rows) ** 2).sum(1)


@pytest.mark.parametrize("rows", [0, 30])
def test_a_step_that_draws_nobody_is_noise_and_is_charged(rows: int) -> None:
    noise = Still(nobody=True)
    curator, account = curator_of(np.arange(30), noise=noise)
    reader = learner("linear")
    split = "train" if rows else "holdout"
    if split == "holdout":
        curator.about = lambda split="train": 100.0  # type: ignore[method-assign]
    (step,) = curator.descend(reader, steps=1, rate=0.2, split=split, share=1)
    np.testing.assert_allclose(moved(reader), account.charges[0].noise_std / 20, rtol=1e-3)
    assert step.rows == 20


def test_noise_has_the_stated_size() -> None:
    curator, account = curator_of(np.arange(1) + 5)
    torch.manual_seed(0)
    reader = Learner(nn.Linear(WIDTH, 4000), nn.Linear(4000, 1), scale=1e-9)
    before = torch.cat([p.detach().flatten() for p in reader.module.parameters()]).double()
    list(curator.descend(reader, steps=1, rate=0.5, share=1))
    after = torch.cat([p.detach().flatten() for p in reader.module.parameters()]).double()
    drawn = (before - after).numpy() / 0.1 * 50 / account.charges[0].noise_std
    assert abs(drawn.mean()) < 5 / math.sqrt(len(drawn))
    assert drawn.std() == pytest.approx(1, abs=5 / math.sqrt(2 * len(drawn)))
    # A normal distribution, not another one of that size.
    assert (np.abs(drawn) > 2).mean() == pytest.approx(0.0455, abs=0.006)


def test_the_cryptographic_stream_is_normal_and_never_the_same() -> None:
    one, two = SystemNoise().normal(200_000), SystemNoise().normal(200_000)
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.015
    for x in (one, two):
        assert abs(x.mean()) < 0.012
        assert x.std() == pytest.approx(1, abs=0.008)
        assert (np.abs(x) > 3).mean() == pytest.approx(0.0027, abs=0.0006)
    assert SystemNoise().normal(0).shape == (0,)


class Listening:
    """A follower that is told a number of rows, and nothing else."""

    def __init__(self) -> None:
        self.weight = torch.zeros(1, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.weight], lr=0.1)
        self.told: list[int] = []

    def loss(self, rows: int) -> Tensor:
        self.told.append(rows)
        return ((self.weight - 5) ** 2).sum()


def test_others_move_after_the_reader_and_are_told_a_public_number() -> None:
    curator, _ = curator_of(np.arange(30))
    follower = Listening()
    steps = list(curator.descend(learner("linear"), [follower], steps=3, rate=0.2, share=1))
    assert follower.told == [20, 20, 20] == [s.rows for s in steps]
    assert follower.weight.item() > 2


def test_descents_are_not_seeded() -> None:
    ends = []
    for _ in range(2):
        reader = learner("linear")
        list(curator_of(np.arange(30))[0].descend(reader, steps=2, rate=0.2, share=1))
        ends.append(moved(reader))
    assert not np.allclose(ends[0], ends[1])


# ----------------------------------------------------------------------------------------------- budget


@pytest.mark.parametrize(("rate", "steps", "share"), [(0.01, 400, 1.0), (0.2, 20, 0.5), (1.0, 3, 0.9)])
def test_the_release_meets_its_target_within_a_hundredth_from_below(
    rate: float, steps: int, share: float
) -> None:
    curator, account = curator_of(np.arange(30))
    list(curator.descend(learner("linear"), steps=steps, rate=rate, share=share))
    if share < 1:
        curator.total(of="rows", share=1 - share)
    whole = TARGET.others + account.spent
    assert 0.99 * TARGET.epsilon <= whole.epsilon(TARGET.delta) <= TARGET.epsilon
    # It is what a ledger can reserve beforehand, at every order.
    assert whole.within(TARGET.worst(Descent(steps=steps, rate=rate), share))


def test_a_price_is_the_noise_on_the_mean_gradient() -> None:
    curator, account = curator_of(np.arange(30))
    price = curator.price(Descent(steps=7, rate=0.2), share=1)
    list(curator.descend(learner("linear"), steps=7, rate=0.2, share=1))
    assert price == account.charges[0].noise_std / 20


def test_each_part_is_charged_before_its_first_step() -> None:
    curator, account = curator_of(np.arange(30))
    charged = [
        sum(c.steps for c in account.charges)
        for _ in curator.descend(learner("linear"), steps=25, rate=0.2, share=1)
    ]
    assert len(charged) == 25
    assert all(taken >= number for number, taken in enumerate(charged, 1))
    assert charged[0] <= 3
    assert sum(c.steps for c in account.charges) == 25
    assert sum(c.rho for c in account.charges) == pytest.approx(0.1)


def test_gradients_are_taken_once() -> None:
    curator, account = curator_of(np.arange(30))
    list(curator.descend(learner("linear"), steps=5, rate=0.2, share=0.5))
    before = account.charges
    with pytest.raises(BudgetRefused, match="once"):
        curator.descend(learner("linear"), steps=5, rate=0.2, share=0.5)
    assert account.charges == before


def test_more_than_is_left_is_refused_before_the_first_step() -> None:
    curator, account = curator_of(np.arange(30))
    curator.total(of="rows", share=0.5)
    with pytest.raises(BudgetRefused, match="a descent of 5 steps asks"):
        curator.descend(learner("linear"), steps=5, rate=0.2, share=0.9)
    assert len(account.charges) == 1


# ----------------------------------------------------------------------------------------------- a run that is resumed


class Watched(Learner):
    """Adam, a buffer that steps change, and the power to fail."""

    def __init__(self, *, fails_at: int | None = None) -> None:
        super().__init__(nn.Linear(WIDTH, WIDTH))
        self.optimizer = torch.optim.Adam(self.module.parameters(), lr=0.1)  # type: ignore[assignment]
        self.module.register_buffer("seen", torch.zeros(1), persistent=False)
        self.fails_at, self.steps = fails_at, 0
        self.optimizer.register_step_post_hook(lambda *_: self._stepped())

    def _stepped(self) -> None:
        self.steps += 1
        self.module.get_buffer("seen").add_(1)
        if self.steps == self.fails_at:
            raise KeyboardInterrupt

    def bytes_of(self) -> bytes:
        return Players(self, ()).kept().tobytes()


def resumed(
    folder: Path, reader: Watched, *, steps: int = 40, closed: bool = False, after: bool = False
) -> tuple[int, Account]:
    """Goes on with what a folder holds: how many steps were made, and the account."""
    batch = rows_of(np.arange(30))
    rows = ArrayRows(batch.unit, batch.columns, unit_is_row=True)
    account = Account(rho=0.1, journal=Journal(folder), target=TARGET, closed=closed)
    curator = PrivateCurator(rows, account, key=KEY, units_about=100.0)
    made = 0
    with contextlib.suppress(KeyboardInterrupt):
        for _ in curator.descend(reader, steps=steps, rate=0.2, share=0.5):
            made += 1
    if after:
        curator.total(of="rows", share=0.5)
    return made, account


def test_a_finished_descent_is_replayed_byte_for_byte_at_no_new_charge(tmp_path: Path) -> None:
    first, again = Watched(), Watched()
    made, account = resumed(tmp_path, first, after=True)
    assert made == 40
    # A closed account answers what was answered, and the questions after it as well.
    none, replayed = resumed(tmp_path, again, closed=True, after=True)
    assert none == 0
    assert again.bytes_of() == first.bytes_of() != Watched().bytes_of()
    assert replayed.charges == account.charges


def test_a_run_that_ended_goes_on_from_its_checkpoint_and_what_was_lost_stays_charged(tmp_path: Path) -> None:
    # Ten parts of four steps; it ends in the third.
    _, account = resumed(tmp_path, Watched(fails_at=10))
    assert [c.steps for c in account.charges] == [4, 4, 4]
    folder = tmp_path / "copy"
    shutil.copytree(tmp_path, folder)
    # What it goes on from is where the second part ended, optimizer and buffers included.
    second = Watched()
    (kept,) = Journal(folder).answer(1) or ()
    Players(second, ()).restore(kept)
    assert second.module.get_buffer("seen").item() == 8
    assert second.optimizer.state_dict()["state"][0]["step"].item() == 8
    reader = Watched()
    made, account = resumed(tmp_path, reader)
    assert made == 28
    assert reader.module.get_buffer("seen").item() == 36
    assert [c.steps for c in account.charges] == [4] * 10
    whole = TARGET.others + account.spent + Loss.zcdp(0.05)
    assert whole.within(TARGET.worst(Descent(steps=40, rate=0.2), 0.5))
    assert whole.epsilon(TARGET.delta) <= TARGET.epsilon
    # And once more, at no charge.
    again = Watched()
    none, replayed = resumed(tmp_path, again, closed=True)
    assert (none, replayed.charges) == (0, account.charges)
    assert again.bytes_of() == reader.bytes_of()


def test_one_checkpoint_is_kept(tmp_path: Path) -> None:
    resumed(tmp_path, Watched())
    kept = [Journal(tmp_path).answer(place) for place in range(10)]
    assert [len(answer) for answer in kept if answer is not None] == [0] * 9 + [1]


def test_a_settled_run_takes_no_new_step(tmp_path: Path) -> None:
    resumed(tmp_path, Watched(fails_at=10))
    with pytest.raises(ReleaseError, match="settled"):
        resumed(tmp_path, Watched(), closed=True)
    assert len(Journal(tmp_path)) == 3


def test_a_descent_of_which_everything_was_lost_is_refused(tmp_path: Path) -> None:
    for _ in range(2):
        resumed(tmp_path, Watched(fails_at=1), steps=2)
    with pytest.raises(BudgetRefused, match="begun, and lost"):
        resumed(tmp_path, Watched(), steps=2)
    assert len(Journal(tmp_path)) == 2


def test_the_checkpoint_of_another_descent_is_refused(tmp_path: Path) -> None:
    resumed(tmp_path, Watched())
    with pytest.raises(ReleaseError, match="asks something else"):
        resumed(tmp_path, Watched(), steps=41)
    wider = Watched()
    wider.module.append(nn.Linear(WIDTH, WIDTH))
    with pytest.raises(ReleaseError, match="asks something else"):
        resumed(tmp_path, wider)


def test_an_account_without_a_target_refuses() -> None:
    curator, account = curator_of(np.arange(30), target=None)
    with pytest.raises(UsageError, match="target"):
        curator.descend(learner("linear"), steps=5, rate=0.2, share=1)
    assert not account.charges


def test_an_unknown_number_of_units_is_refused() -> None:
    curator, account = curator_of(np.arange(30), units_about=None)
    with pytest.raises(UsageError, match="units_about"):
        curator.descend(learner("linear"), steps=5, rate=0.2, share=1)
    assert not account.charges


def test_strata_are_refused() -> None:
    curator, account = curator_of(np.arange(30))
    strata = Strata(of=lambda b: np.zeros((len(b), 1), np.int64), shares=np.ones(1), weights=(np.ones(1),))
    with pytest.raises(UsageError, match="strata"):
        curator.descend(learner("linear"), steps=5, rate=0.2, strata=strata, share=1)
    assert not account.charges


@pytest.mark.parametrize(("steps", "rate", "share"), [(0, 0.1, 1), (1, 0, 1), (1, 1.1, 1), (1, 0.1, 0)])
def test_a_descent_out_of_range_is_refused(steps: int, rate: float, share: float) -> None:
    curator, account = curator_of(np.arange(30))
    with pytest.raises(ValueError, match=r"steps|rate|share"):
        curator.descend(learner("linear"), steps=steps, rate=rate, share=share)
    assert not account.charges
