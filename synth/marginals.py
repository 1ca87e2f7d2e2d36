"""marginals: a synthesizer that learns from noisy counts of all pairs of columns, the one for tables under privacy.

It asks how many rows lie in each cell of each pair of columns, in one question, or where noise is large in two: the
second is about the pairs that seem strongest. All else touches no row:

1. A mixture of products is fitted to all counts at once, in the manner of GEM (Liu, Vietri & Wu 2021, arXiv
   2106.07153), with each component's entropy as the prior. What noise does to single cells it does not follow, since
   few components explain all pairs; a cell whose count stands far above the noise corrects it.
2. A chain (`synth.chain`) draws rows that have these marginals and as much entropy as its order allows. A mixture
   says little of how several columns act together on another; the chain adds their effects up.
3. A hidden tree (`synth.circuit`) is fitted to these rows, and is the model: exact conditions, densities, fast draws.

Rates of single columns are the layout's, which the profile has paid for already. How finely columns are cut follows
from the price of an answer. All of the curator's budget is spent on counts: to choose pairs one by one, as AIM does
(McKenna et al. 2022, arXiv 2201.12677), gave less here (docs/decisions/0017-marginals.md).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option
from torch import Tensor

from privacy.curator import Batch, Curator, ExactCurator, Floats
from synth.bins import Axis, Bins, Crossed, cuts, cuts_along
from synth.chain import Ridge, Variable, drawn
from synth.circuit import Circuit
from synth.codec import UNKNOWN, Encoded, Layout
from synth.rows import EncodedStore


class Options(BaseModel):
    """What a recipe may say about it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    components: int = Option(300, ge=2, le=4096, description="of a mixture that takes the noise out")
    mixtures: int = Option(
        3, ge=1, le=100, description="fitted from other starts, of which the mean is taken"
    )
    steps: int = Option(250, ge=1, le=10_000, description="of its fit; more follow the noise")
    entropy: float = Option(300.0, ge=0, le=1e6, description="weight of the components' entropy")
    bins: int = Option(32, ge=2, le=1000, description="bins of a score at most; fewer where noise is large")
    rows: int = Option(60_000, ge=1000, le=10_000_000, description="that the chain draws at most")
    states: int = Option(96, ge=1, le=1024, description="hidden states of the tree")
    passes: int = Option(20, ge=1, le=1000, description="of the tree's fit over the chain's rows")


BINS_PER_ROOT = 0.67
"""Bins of a score for each square root of its rows over the noise: then a cell of two such columns stands out alike
whatever the table."""

RARE = 0.25
"""A value whose rows are fewer than this part of the noise shares a cell with others as rare."""

MOST_PAIRS = 2000
"""Pairs that are asked about; of more, so many are drawn."""

MOST_CELLS = 30_000_000
"""Cells of all pairs together; where there are more, more values are taken for rare."""

CHAIN_CELLS, CHAIN_WORK, CHAIN_ROWS = 40_000_000, 12_000_000_000, 8000
"""Rows times cells of all columns that a chain holds; rows times their square, which its time goes with, as far as so
many rows remain."""

DRAWN_ROWS = 10
"""Rows that a chain draws for each that was learned from: they are free but for the time."""

MIXTURE_CELLS = 500_000
"""Components times cells of all columns at most."""

SAMPLING_ROWS = 300
"""A mixture follows exact counts, which would stop it from moving on, to √(rows / this) rows only."""

PROFILE_SHARE = 0.4
"""What the profile is taken to have spent on single columns, as a part of what this curator has."""

LEARNING_RATE = 0.1
SPREAD = 1.0
"""Standard deviation of what sets components apart at the start, in logits."""

HOLD = 0.35
"""Noise that the chain sees in what the mixture left of it, as a part of an answer's."""

CHAIN_STEPS = 40

ERRORS = (0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.0, 2.0)
"""Relative errors of which one is taken for the mixture's in a pair of columns."""

CLEAR, FIRST = 300.0, 0.6
"""Where all rows are fewer than so many times the noise, only this share goes to all pairs, and the rest to as many of
them as there are columns: those that then seem to share most."""


class Marginals:
    """A fitted model; what it does, a hidden tree does for it."""

    name = "marginals"
    exact = True
    private = True
    options = Options
    shares: Mapping[str, float] = MappingProxyType({"counts of pairs of columns": 1.0})

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit

    @classmethod
    def fit(cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int) -> "Marginals":
        """Learns from counts of pairs of columns, for which it spends all of its budget.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns.
            options: fields of `Options`.
            seed: of all that is drawn after the answers.
        """
        return cls(learned(curator, layout, Options.model_validate(dict(options)), seed=seed))

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`."""
        return self._circuit.draw(rows, rng, given=given, present=present)

    def log_prob(self, encoded: Encoded) -> Floats:
        """Log-density of states and scores, unknown cells integrated out: float64 (n,)."""
        return self._circuit.log_prob(encoded)

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        return self._circuit.tensors()

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> "Marginals":
        """A model from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        return cls(Circuit.restore(layout, tensors))


def learned(curator: Curator, layout: Layout, options: Options, *, seed: int, part: float = 1.0) -> Circuit:
    """The hidden tree that counts of pairs of columns lead to.

    Args:
        curator: over encoded rows.
        layout: the encoded columns.
        options: of all steps.
        seed: of all that is drawn after the answers.
        part: of the budget that all of it may use.
    """
    generator = torch.Generator().manual_seed(seed)
    axes, measured = asked(curator, layout, options, generator, seed=seed, part=part)
    mixture = _fitted(layout, axes, measured, options, generator)
    new = _chained(layout, axes, mixture, measured, options, np.random.default_rng(seed))
    return _tree_of(new, layout, axes, options, seed)


# --- the question


def _pairs(columns: int, seed: int) -> list[tuple[int, int]]:
    """The pairs of columns that are asked about."""
    pairs = list(combinations(range(columns), 2))
    if len(pairs) <= MOST_PAIRS:
        return pairs
    chosen = np.random.default_rng(seed).choice(len(pairs), MOST_PAIRS, replace=False)
    return [pairs[i] for i in np.sort(chosen)]


def believed(noise: float, rows: float) -> float:
    """Standard deviation that a count is taken to have, in rows."""
    return max(noise, math.sqrt(rows / SAMPLING_ROWS))


def _axes(curator: Curator, layout: Layout, columns: Sequence[int], most: int, *, share: float) -> list[Axis]:
    """The columns, cut as finely as counts that cost `share` each can show."""
    rows = max(layout.rows, 1.0)

    def axes(most: int, least: float, noise: float) -> list[Axis]:
        return [_axis(layout, c, rows / believed(noise, rows), most, least) for c in columns]

    noise = curator.price(Crossed(axes=tuple(axes(2, 0.0, 0.0)[:1])), share=share)
    least = RARE * noise / rows
    while True:
        found = axes(most, least, noise)
        sizes = np.array([a.size for a in found], np.float64)
        if (sizes.sum() ** 2 - (sizes**2).sum()) / 2 <= MOST_CELLS or (most == 2 and least > 1):
            return found
        most, least = max(2, most // 2), max(2 * least, 1e-5)


def _axis(layout: Layout, column: int, clear: float, most: int, least: float) -> Axis:
    """One column; `clear` is the number of times that all rows exceed the noise."""
    field = layout.fields[column]
    absent = None if field.group is None else layout.fields[field.group].rates[0]
    share = field.rates[-1] * (1 - (absent or 0.0))
    number = int(np.clip(round(BINS_PER_ROOT * math.sqrt(share * clear)), 2, most))
    # Between cells, whose rates are known: elsewhere a bin's rate would be a guess, wrong where values are few.
    along = cuts_along(field, number) if field.borders else cuts(field, number)
    return Axis(column, Bins(field, along), absent=absent, least=least)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What was answered, as shares of all rows.

    Attributes:
        shares: for each column its joint shares with all columns after it, float32 (cells, cells of those after).
        precision: one over the variance of each; 0 where nothing was asked.
        noise: standard deviation of the noise in a share.
        single: standard deviation that the rates of single columns are taken to have.
    """

    shares: tuple[Tensor, ...]
    precision: tuple[Tensor, ...]
    noise: float
    single: float


def _measured(
    curator: Curator, axes: Sequence[Axis], pairs: Sequence[tuple[int, int]], rows: float, *, share: float
) -> _Measured:
    """Asks about pairs at once. A column of one value says nothing."""
    sizes = [a.size for a in axes]
    ends = np.cumsum(sizes)
    known = [(a, b) for a, b in pairs if min(sizes[a], sizes[b]) > 1]
    shares = [torch.zeros(size, int(ends[-1] - end)) for size, end in zip(sizes, ends, strict=True)]
    precision = [torch.zeros_like(s) for s in shares]
    crossed = [Crossed(axes=(axes[a], axes[b])) for a, b in known]
    noise = 0.0
    for (a, b), answer in zip(known, curator.histogram(crossed, share=share) if crossed else (), strict=True):
        noise = answer.noise_std
        part = slice(int(ends[b] - sizes[b] - ends[a]), int(ends[b] - ends[a]))
        shares[a][:, part] = torch.from_numpy(answer.value / rows).float()
        precision[a][:, part] = (rows / believed(noise, rows)) ** 2
    single = curator.price(Crossed(axes=(axes[0],)), share=PROFILE_SHARE / len(axes))
    return _Measured(
        shares=tuple(shares),
        precision=tuple(precision),
        noise=noise / rows,
        single=believed(single, rows) / rows,
    )


def _together(first: _Measured, again: _Measured) -> _Measured:
    """Two answers as one, each counting by its precision."""
    both = [p + q for p, q in zip(first.precision, again.precision, strict=True)]
    sums = [
        p * s + q * t
        for p, s, q, t in zip(first.precision, first.shares, again.precision, again.shares, strict=True)
    ]
    shares = tuple(s / p.clamp_min(1e-30) for s, p in zip(sums, both, strict=True))
    return replace(first, shares=shares, precision=tuple(both))


def asked(
    curator: Curator,
    layout: Layout,
    options: Options,
    generator: torch.Generator,
    *,
    seed: int,
    part: float = 1.0,
) -> tuple[list[Axis], _Measured]:
    """All pairs at once, and on a table where that is mostly noise, the strongest again.

    Which are strongest follows from the first answer alone, so it costs nothing.

    Args:
        curator: over encoded rows.
        layout: the encoded columns.
        options: of the cells, and of the mixture that says which are strongest.
        generator: of its start.
        seed: of the choice of pairs where there are very many.
        part: of the budget that all of it may use.
    """
    groups = {f.group for f in layout.fields}
    columns = [c for c in range(len(layout.fields)) if c not in groups]
    pairs, rows = _pairs(len(columns), seed), max(layout.rows, 1.0)
    share = part / max(1, len(pairs))
    axes = _axes(curator, layout, columns, options.bins, share=share)
    noise = curator.price(Crossed(axes=tuple(axes[:1])), share=share)
    if len(pairs) <= len(axes) or rows >= CLEAR * noise:
        return axes, _measured(curator, axes, pairs, rows, share=part)
    first = _measured(curator, axes, pairs, rows, share=part * FIRST)
    mixture = _fitted(layout, axes, first, options.model_copy(update={"mixtures": 1}), generator)
    with torch.no_grad():
        joints = _joints(*mixture, first)
    strong = sorted(pairs, key=lambda pair: -information(joints[pair]))[: len(axes)]
    return axes, _together(first, _measured(curator, axes, strong, rows, share=part * (1 - FIRST)))


# --- the mixture that takes the noise out


class Mixture:
    """K products over the cells of all columns.

    Whether a group of columns is there is no matter of probability in a component: it is there or it is not. So the
    joint probabilities of any two columns are E_aᵀ diag(w) E_b, of two columns of one group as well.

    Args:
        layout: the encoded columns.
        axes: their cells.
        components: K, two at least, and fewer where there are very many cells.
        generator: of the start.
    """

    def __init__(
        self, layout: Layout, axes: Sequence[Axis], components: int, generator: torch.Generator
    ) -> None:
        components = max(2, min(components, MIXTURE_CELLS // sum(a.size for a in axes)))
        self._axes = axes
        self._groups = _groups(axes)
        self._base = [torch.from_numpy(a.rates[: a.values]).float().log() for a in axes]
        self._logits = [
            (SPREAD * torch.randn(components, a.values, generator=generator)).requires_grad_() for a in axes
        ]
        weights = torch.zeros(components)
        self._there: dict[int, Tensor] = {}
        for g in self._groups:
            absent = float(np.clip(layout.fields[g].rates[0], 1e-6, 1 - 1e-6))
            part = min(max(absent, 0.1), 0.9)
            there = (torch.rand(components, generator=generator) >= part).float()
            there[0], there[1] = 1.0, 0.0
            self._there[g] = there
            weights += torch.where(there > 0, math.log((1 - absent) / (1 - part)), math.log(absent / part))
        self._weights = weights.requires_grad_()

    def tables(self) -> tuple[Tensor, list[Tensor]]:
        """Weights, float32 (K,); for each column, then each group, the probability of its cells, float32 (K, cells)."""
        tables = []
        for axis, base, logits in zip(self._axes, self._base, self._logits, strict=True):
            own = (base + logits).softmax(1)
            if axis.group is not None:
                there = self._there[axis.group][:, None]
                own = torch.cat([own * there, 1 - there], 1)
            tables.append(own)
        tables += [torch.stack([1 - self._there[g], self._there[g]], 1) for g in self._groups]
        return self._weights.softmax(0), tables

    def fit(
        self, measured: _Measured, steps: int, entropy: float, counted: Callable[..., Tensor] | None = None
    ) -> None:
        """Adam (Kingma & Ba 2015) on half the squared errors over their variances, less the weighted entropy.

        The entropy is that of a row given its component. It stops after `steps`, before noise is followed.

        Args:
            measured: what was answered.
            steps: of the search, which goes on from where it stands.
            entropy: its weight.
            counted: (weights, tables) → what else is to be as small as possible.
        """
        rates = [torch.from_numpy(a.rates).float() for a in self._axes]
        optimizer = torch.optim.Adam([self._weights, *self._logits], lr=LEARNING_RATE, betas=(0.9, 0.99))
        threads = torch.get_num_threads()
        # Its matrices are small: two threads take longer than one, many times so beside other work.
        torch.set_num_threads(1)
        for _ in range(steps):
            weights, tables = self.tables()
            tables = tables[: len(self._axes)]
            loss = torch.zeros(())
            for found, told, precision in zip(
                blocks(weights, tables), measured.shares, measured.precision, strict=True
            ):
                loss = loss + 0.5 * (precision * (found - told) ** 2).sum()
            for table, rate in zip(tables, rates, strict=True):
                loss = loss + 0.5 * ((weights @ table - rate) ** 2).sum() / measured.single**2
                loss = loss + entropy * (weights[:, None] * table * (table + 1e-9).log()).sum()
            if counted is not None:
                loss = loss + counted(weights, tables)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        torch.set_num_threads(threads)


def _groups(axes: Sequence[Axis]) -> list[int]:
    """The groups of columns that are missing together."""
    return sorted({a.group for a in axes if a.group is not None})


def _fitted(
    layout: Layout,
    axes: Sequence[Axis],
    measured: _Measured,
    options: Options,
    generator: torch.Generator,
) -> tuple[Tensor, list[Tensor]]:
    """Several mixtures, side by side as one: where noise leaves it open, their mean is nearer than each of them."""
    parts = []
    for _ in range(options.mixtures):
        mixture = Mixture(layout, axes, options.components, generator)
        mixture.fit(measured, options.steps, options.entropy)
        with torch.no_grad():
            parts.append(mixture.tables())
    tables = [torch.cat(same) for same in zip(*(t for _, t in parts), strict=True)]
    return torch.cat([w for w, _ in parts]) / len(parts), tables


def blocks(weights: Tensor, tables: Sequence[Tensor]) -> list[Tensor]:
    """Joint probabilities of each column with all after it: float32 (cells, cells of those after).

    Args:
        weights: of K components, float32 (K,).
        tables: for each column float32 (K, cells).
    """
    together = torch.cat(list(tables), 1)
    found, end = [], 0
    for table in tables:
        end += table.shape[1]
        found.append((table * weights[:, None]).T @ together[:, end:])
    return found


# --- rows that have these marginals, and the model of them


def kept(found: Tensor, told: Tensor, noise: float) -> Tensor:
    """How far each answered probability counts beside the one that a model has: float32 of their shape, in [0, 1].

    A probability's error is taken for normal with standard deviation τ × probability, so the answer counts for
    (τ p)² / ((τ p)² + noise²) of the difference. τ is the one that Stein's unbiased estimate of the squared error
    (Stein 1981) finds best for the whole table.

    Args:
        found: by the model, float32.
        told: answered, float32 of the same shape.
        noise: standard deviation of an answered probability; 0 if it is exact.
    """

    def weight(error: float) -> Tensor:
        prior = (error * found) ** 2
        return prior / (prior + noise**2 + 1e-30)

    def risk(error: float) -> float:
        part = weight(error)
        return float((((1 - part) * (told - found)) ** 2 + (2 * part - 1) * noise**2).sum())

    return weight(min(ERRORS, key=risk))


def corrected(found: Tensor, told: Tensor, noise: float) -> Tensor:
    """Joint probabilities of two columns by the mixture, corrected by what was answered where that is clear.

    Mostly nothing is kept of an answer (`kept`), and much where one column follows from the other, which no mixture
    of few components says well. The rates of both columns stay.

    Args:
        found: by the mixture, float32 (A, B).
        told: answered, float32 (A, B).
        noise: standard deviation of an answered share; 0 if it is exact.
    """
    rows, columns = found.sum(1, keepdim=True), found.sum(0, keepdim=True)

    def without_rates(rest: Tensor) -> Tensor:
        across, down = rest.sum(1, keepdim=True), rest.sum(0, keepdim=True)
        return rest - across * columns - rows * down + rest.sum() * rows * columns

    rest = without_rates(told - found) * kept(found, told, noise)
    return (found + without_rates(rest)).clamp_min(0)


def information(joint: Tensor) -> float:
    """Mutual information of two columns, in nats: joint is float32 (A, B)."""
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return float((joint * (joint.clamp_min(1e-12) / apart.clamp_min(1e-12)).log()).sum())


def _chained(
    layout: Layout,
    axes: Sequence[Axis],
    mixture: tuple[Tensor, list[Tensor]],
    measured: _Measured,
    options: Options,
    rng: np.random.Generator,
) -> Encoded:
    """New rows by a chain over all columns and groups, those first that share most with the others."""
    with torch.no_grad():
        weights, tables = mixture
        joints = _joints(weights, tables, measured)
        place = {g: len(axes) + i for i, g in enumerate(_groups(axes))}
        there = [None if a.group is None else place[a.group] for a in axes] + [None] * len(place)
        variables = [Variable(rates=weights @ t, there=group) for t, group in zip(tables, there, strict=True)]
        shared = np.zeros(len(variables))
        for (a, b), joint in joints.items():
            shared[[a, b]] += information(joint)
        for c, group in enumerate(there):
            if group is not None:
                # What says whether a column is there stands before it.
                shared[group] = max(shared[group], shared[c] + 1e-9)
        size = sum(t.shape[1] for t in tables)
        most = min(CHAIN_CELLS // size, max(CHAIN_ROWS, CHAIN_WORK // size**2))
        rows = int(min(options.rows, most, max(5000, DRAWN_ROWS * layout.rows)))
        noise = HOLD * max(measured.noise, 1 / max(layout.rows, 1.0))
        cells = drawn(
            variables,
            lambda a, c: joints[a, c] if a < c else joints[c, a].T,
            [int(c) for c in np.argsort(-shared, kind="stable")],
            rows=rows,
            ridge=Ridge(noise=noise, least=1 / max(layout.rows, 1.0)),
            steps=CHAIN_STEPS,
            rng=rng,
        )
    return _encoded(layout, axes, place, cells, rng)


def _joints(weights: Tensor, tables: Sequence[Tensor], measured: _Measured) -> dict[tuple[int, int], Tensor]:
    """Joint probabilities of each two variables (a < b)."""
    sizes = [t.shape[1] for t in tables]
    joints = {}
    for a, found in enumerate(blocks(weights, tables)):
        start = 0
        for b in range(a + 1, len(tables)):
            part = slice(start, start + sizes[b])
            start += sizes[b]
            joint = found[:, part]
            if a < len(measured.shares) and part.stop <= measured.shares[a].shape[1]:
                told, precision = measured.shares[a][:, part], float(measured.precision[a][:, part].max())
                noise = precision**-0.5 if precision > 0 and measured.noise > 0 else 0.0
                joint = corrected(joint, told, noise) if precision > 0 else joint
            joints[a, b] = joint
    return joints


def _encoded(
    layout: Layout, axes: Sequence[Axis], place: Mapping[int, int], cells: Tensor, rng: np.random.Generator
) -> Encoded:
    """Rows of cells as a model sees rows; inside a cell values are drawn by the column's own rates."""
    rows = layout.unknown(len(cells))
    for g, at in place.items():
        rows.states[:, g] = cells[:, at].numpy()
    for c, axis in enumerate(axes):
        own = cells[:, c].numpy()
        known = np.flatnonzero(own < axis.values)
        states, scores = axis.bins.draw(axis.draw(own[known], rng), rng)
        rows.states[known, axis.column] = states
        if axis.bins.field.score is not None:
            rows.scores[known, axis.bins.field.score] = scores
    assert ((rows.states != UNKNOWN) | np.array([f.group is not None for f in layout.fields])).all()
    return rows


def _tree_of(rows: Encoded, layout: Layout, axes: Sequence[Axis], options: Options, seed: int) -> Circuit:
    """A hidden tree fitted to rows that a chain has drawn. They are no one's, so the curator over them is exact.

    It cuts scores where the chain did, or values that were told apart would be mixed again.
    """
    store = EncodedStore(None, unit_is_row=True)
    columns = {"states": rows.states, "scores": rows.scores}
    unit = np.arange(len(rows), dtype=np.uint64)
    store.write(Batch(unit=unit, columns=columns, holdout=np.zeros(len(rows), np.bool_)))
    chosen = {
        "states": min(options.states, max(1, len(rows) // 20)),
        "passes": options.passes,
        "bins": options.bins,
        "pairs": 0,
    }
    curator = ExactCurator(store.close(), key=b"drawn by a chain", holdout=0.0)
    fields = list(layout.fields)
    for axis in axes:
        cut = tuple(float(x) for x in axis.bins.cuts)
        fields[axis.column] = replace(fields[axis.column], borders=cut, whole=True)
    theirs = replace(layout, fields=tuple(fields), rows=float(len(rows)))
    circuit = Circuit.fit(curator, theirs, chosen, seed=seed)
    return Circuit.restore(layout, circuit.tensors())
