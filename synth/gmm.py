"""gmm: a mixture with shared components over mixed columns.

One hidden component per row. Given it, columns are independent: a column's state (missing, an atom, the pool,
or "spread") is categorical, and where it is spread its score is Gaussian. What is unknown of a row drops out
of its likelihood, so missing cells, conditions and marginals are exact.

Fitted by expectation maximization on sums that it asks of the curator (`synth.em`). The start is drawn from
the profile, never from rows. Where answers carry noise few passes can be paid, and `synth.gmm_noised` tells how they
are begun.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from privacy.curator import Batch, Curator, Floats, Split
from synth.codec import UNKNOWN, Encoded, Layout
from synth.draws import Tables, from_tables
from synth.em import best_size, encoded_of, grouped, maximize_likelihood, simplex, slices, visits_of

_LOG_2PI = math.log(2 * math.pi)

CLEAR_ROWS = 10.0
"""Rows of a component at least, in standard deviations of the noise on their number."""

PAIRS, PASSES = 0.8, 3
"""Under privacy: share of the budget for counts of pairs, and passes that have the rest, each as much."""


class Options(BaseModel):
    """What a recipe may say about a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    components: int | None = Field(
        None, ge=1, le=4096, description="number; none: by held-out likelihood, under privacy by the noise"
    )
    max_components: int = Field(512, ge=1, le=4096, description="where the search for the number ends")
    passes: int = Field(30, ge=1, le=1000, description="passes over the rows, fewer for many rows")
    smoothing: float = Field(0.5, gt=0, le=1000, description="rows that the prior of a component is worth")
    min_std: float = Field(0.03, gt=0, lt=1, description="smallest standard deviation of a score")


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """K components over S states and D scores.

    Attributes:
        log_weights: float32 (K,).
        log_tables: float32 (S, K): log probability of each state of each column.
        means: float32 (D, K).
        stds: float32 (D, K).
    """

    log_weights: Tensor
    log_tables: Tensor
    means: Tensor
    stds: Tensor

    @property
    def components(self) -> int:
        """Number of components K."""
        return len(self.log_weights)


class Gmm:
    """A fitted mixture."""

    name = "gmm"
    exact = True
    private = True
    options = Options
    noised: Mapping[str, tuple[object, ...]] = MappingProxyType({"passes": (), "smoothing": ()})
    shares: Mapping[str, float] = MappingProxyType(
        {"counts of pairs of columns": PAIRS, f"{PASSES} passes of expectation maximization": 1 - PAIRS}
    )

    def __init__(self, layout: Layout, parameters: Parameters) -> None:
        self._layout = layout
        self._parameters = parameters
        self._scorer = Scorer(layout, parameters)

    @property
    def parameters(self) -> Parameters:
        """The components."""
        return self._parameters

    @classmethod
    def fit(cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int) -> "Gmm":
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns.
            options: fields of `Options`.
            seed: of the start.
        """
        chosen = Options.model_validate(dict(options))
        if noise_of(curator, layout, share=1.0) > 0:
            from synth.gmm_noised import fit_with_pairs

            return cls(layout, fit_with_pairs(curator, layout, chosen, seed=seed))
        components = chosen.components or _best_number(curator, layout, chosen, seed)
        return cls(
            layout, fit_components(curator, layout, chosen, components, split="train", seed=seed, effort=1.0)
        )

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`."""
        if given is None:
            known = self._layout.unknown(rows)
            component = self._weights.draw(rng, np.zeros(rows, np.int64))
        else:
            serving = given.serving(rows)
            component = from_tables(rng, self._posterior(given, present=present).T, serving)
            known = given.take(serving)
        return self.fill(known, component, rng, present=present)

    def log_prob(self, encoded: Encoded) -> Floats:
        """Log-density of states and scores, unknown cells integrated out: float64 (n,)."""
        with torch.no_grad():
            parts = [self._scorer.joint(encoded.take(s)).double().logsumexp(1) for s in slices(len(encoded))]
        return torch.cat(parts).numpy()

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        p = self._parameters
        return {"log_weights": p.log_weights, "log_tables": p.log_tables, "means": p.means, "stds": p.stds}

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> "Gmm":
        """A mixture from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        weights, tables = tensors["log_weights"], tensors["log_tables"]
        expected = {
            "log_tables": (layout.states, len(weights)),
            "means": (len(layout.scored), len(weights)),
            "stds": (len(layout.scored), len(weights)),
        }
        for name, shape in expected.items():
            if tuple(tensors[name].shape) != shape:
                raise ValueError(f"{name} must be {shape}, however: it is {tuple(tensors[name].shape)}")
        return cls(
            layout,
            Parameters(log_weights=weights, log_tables=tables, means=tensors["means"], stds=tensors["stds"]),
        )

    def _posterior(self, given: Encoded, *, present: bool) -> Floats:
        """Probability of each component given what is known: float64 (n, K)."""
        with torch.no_grad():
            joint = torch.cat([self._scorer.joint(given.take(s)) for s in slices(len(given))]).double()
            if present:
                unknown = torch.from_numpy(given.states == UNKNOWN).double()
                joint = joint + unknown @ self._scorer.log_present.double()
            return joint.softmax(1).numpy()

    @cached_property
    def _weights(self) -> Tables:
        """What components are drawn from."""
        return Tables(np.exp(self._parameters.log_weights.double().numpy())[:, None])

    @cached_property
    def _states(self) -> list[Tables]:
        """What the states of each column are drawn from."""
        return [Tables(self._table(i)) for i in range(len(self._layout.fields))]

    def _table(self, column: int) -> Floats:
        """Probability of each state of a column in each component: float64 (S, K)."""
        first, states = self._layout.offsets[column], self._layout.fields[column].states
        return np.asarray(np.exp(self._parameters.log_tables[first : first + states].double().numpy()))

    def fill(
        self, known: Encoded, component: NDArray[np.int64], rng: np.random.Generator, *, present: bool
    ) -> Encoded:
        """Rows whose unknown states, and scores, are drawn from the component of each, int64 (n,)."""
        states, scores = known.states.copy(), known.scores.copy()
        means, stds = self._parameters.means.numpy(), self._parameters.stds.numpy()
        for i, field in enumerate(self._layout.fields):
            unknown = np.flatnonzero(states[:, i] == UNKNOWN)
            if not len(unknown):
                continue
            k = component[unknown]
            if present and field.states > 1:
                table = self._table(i)
                table[0] = 0
                states[unknown, i] = from_tables(rng, table, k)
            else:
                states[unknown, i] = self._states[i].draw(rng, k)
            if field.score is not None:
                drawn = unknown[states[unknown, i] == field.spread]
                k = component[drawn]
                noise = rng.standard_normal(len(drawn), np.float32)
                scores[drawn, field.score] = means[field.score, k] + stds[field.score, k] * noise
        return Encoded(states=states, scores=scores)


class Scorer:
    """log p(row, component) of encoded rows under fixed parameters."""

    def __init__(self, layout: Layout, parameters: Parameters) -> None:
        self._offsets = torch.from_numpy(layout.offsets)
        self._spread = torch.tensor([int(layout.fields[i].spread or 0) for i in layout.scored])
        self._scored = torch.tensor(layout.scored, dtype=torch.int64)
        self._states = layout.states
        p = parameters
        # The last row stands for "unknown" and adds nothing.
        self._tables = torch.cat([p.log_tables, torch.zeros(1, p.components)])
        precision = p.stds**-2
        self._quadratic = torch.cat([-0.5 * precision, p.means * precision])
        constant = -0.5 * (p.means**2 * precision + _LOG_2PI) - p.stds.log()
        for d, i in enumerate(layout.scored):
            self._tables[layout.offsets[i] + self._spread[d]] += constant[d]
        self._log_weights = p.log_weights
        missing = p.log_tables[self._offsets].double().exp()
        self.log_present = torch.log1p(-missing.clamp(max=1 - 1e-12)).float()

    def indices(self, states: NDArray[np.int32]) -> Tensor:
        """Rows of the table for each cell: int64 (n, C); unknown cells point to the last row."""
        s = torch.from_numpy(np.ascontiguousarray(states)).long()
        return torch.where(s == UNKNOWN, self._states, s + self._offsets)

    def powers(self, encoded: Encoded) -> Tensor:
        """[x², x] where the score counts, else 0: float32 (n, 2 D)."""
        x = torch.from_numpy(np.ascontiguousarray(encoded.scores))
        if not len(self._scored):
            return x.new_zeros(len(x), 0)
        states = torch.from_numpy(np.ascontiguousarray(encoded.states)).long()
        x = torch.where(states[:, self._scored] == self._spread, x, 0.0)
        return torch.cat([x * x, x], 1)

    def joint(self, encoded: Encoded) -> Tensor:
        """float32 (n, K)."""
        joint = torch.nn.functional.embedding_bag(self.indices(encoded.states), self._tables, mode="sum")
        return joint + self.powers(encoded) @ self._quadratic + self._log_weights


class _Moments:
    """The sums of the E step: each component's rows, rows in each state, Σ x² and Σ x of its scores.

    A row adds r ⊗ (1, one-hot states, x², x) with r its posterior, so its norm is
    ‖r‖ · √(1 + known columns + Σ x⁴ + Σ x²), without a vector per row.
    """

    def __init__(self, layout: Layout, parameters: Parameters) -> None:
        self._layout = layout
        self._scorer = Scorer(layout, parameters)
        self._components = parameters.components
        scores = len(layout.scored)
        self.size = self._components * (1 + layout.states + 2 * scores)
        # E[x² + x⁴] = 4 for a standard normal score; twice that keeps nearly all rows unclipped.
        self.bound = math.sqrt(1 + len(layout.fields) + 8 * scores)

    def of(self, batch: Batch) -> "MomentsOfBatch":
        """What these rows add."""
        encoded = encoded_of(batch)
        with torch.no_grad():
            posterior = self._scorer.joint(encoded).softmax(1)
        sizes = tuple(f.states for f in self._layout.fields)
        states = torch.from_numpy(np.ascontiguousarray(encoded.states.T)).long()
        return MomentsOfBatch(posterior, states, self._scorer.powers(encoded), sizes)


@dataclass(frozen=True)
class MomentsOfBatch:
    """What rows add to the sums of the E step.

    Attributes:
        posterior: float32 (n, K).
        states: int64 (C, n).
        powers: float32 (n, 2 D), see `Scorer.powers`.
        sizes: states of each column.
    """

    posterior: Tensor
    states: Tensor
    powers: Tensor
    sizes: tuple[int, ...]

    def norms(self) -> Floats:
        """Norm of each row's contribution: float64 (n,)."""
        known = (self.states != UNKNOWN).sum(0)
        squares = 1 + known + (self.powers.double() ** 2).sum(1)
        return np.asarray((self.posterior.double().norm(dim=1) * squares.sqrt()).numpy())

    def weighted(self, weights: Floats | None) -> Floats:
        """Weighted sum of the contributions, flattened in the order weights, states, x², x."""
        r = self.posterior
        if weights is not None:
            r = r * torch.from_numpy(weights).to(r.dtype)[:, None]
        counts = [
            grouped(torch.where(column == UNKNOWN, size, column), r, size + 1)[:size]
            for column, size in zip(self.states, self.sizes, strict=True)
        ]
        parts = [r.sum(0)[None], *counts, self.powers.T @ r]
        return torch.cat(parts).double().flatten().numpy()


def _best_number(curator: Curator, layout: Layout, options: Options, seed: int) -> int:
    """The number of components by the likelihood of rows that the trial fits have not seen."""
    most = int(min(options.max_components, max(1.0, layout.rows / 20)))
    return best_size(
        [s for s in (8, 32, 64, 128, 256, 512, 1024, 2048) if s < most] + [most],
        lambda number: fit_components(curator, layout, options, number, split="fit", seed=seed, effort=0.3),
        lambda parameters: Gmm(layout, parameters).log_prob,
        curator,
        columns=len(layout.fields),
    )


def fit_components(
    curator: Curator,
    layout: Layout,
    options: Options,
    components: int,
    *,
    split: Split,
    seed: int,
    effort: float,
) -> Parameters:
    """Fits a given number of components with a share (`effort`) of the passes that the options allow."""
    rows = max(layout.rows, 1.0)
    return maximize_likelihood(
        curator,
        _start(layout, components, seed),
        lambda parameters: _Moments(layout, parameters),
        lambda moments: maximize(layout, moments.reshape(-1, components), rows, options),
        rows=rows,
        entries=layout.states,
        visits=visits_of(rows, len(layout.fields), options.passes),
        effort=effort,
        split=split,
    )


def fit_noised(
    curator: Curator, layout: Layout, options: Options, *, steps: int, seed: int, share: float
) -> Parameters:
    """Fits by few passes over all rows, where answers carry noise: as many components as it leaves to be told apart.

    Args:
        curator: over encoded rows.
        layout: the encoded columns.
        options: the most components.
        steps: passes.
        seed: of the start.
        share: part of the budget that all passes may use.
    """
    each = share / steps
    clear = layout.rows / (CLEAR_ROWS * max(noise_of(curator, layout, share=each), 1e-9))
    components = max(1, int(min(options.max_components, clear)))
    parameters = _start(layout, components, seed)
    for _ in range(steps):
        answer = curator.sum(_Moments(layout, parameters), share=each).value
        moments = answer.reshape(-1, components) / layout.rows
        parameters = maximize(layout, moments, layout.rows, options)
    return parameters


def noise_of(curator: Curator, layout: Layout, *, share: float) -> float:
    """The noise on each sum of a pass that has this share of the budget."""
    return curator.price(_Moments(layout, _start(layout, 1, 0)), share=share)


def _start(layout: Layout, components: int, seed: int) -> Parameters:
    """Components around candidates that are drawn from the profile's rates, one column at a time."""
    rng = np.random.default_rng([seed, components])
    tables = np.zeros((layout.states, components))
    for field, offset in zip(layout.fields, layout.offsets, strict=True):
        rates = simplex(np.array(field.rates))
        candidate = rng.choice(field.states, components, p=rates)
        table = np.repeat(0.7 * rates[:, None], components, 1)
        table[candidate, np.arange(components)] += 0.3
        tables[offset : offset + field.states] = table
    scores = len(layout.scored)
    return Parameters(
        log_weights=torch.full((components,), -math.log(components)),
        log_tables=torch.from_numpy(np.log(np.maximum(tables, 1e-12))).float(),
        means=torch.from_numpy(rng.standard_normal((scores, components))).float(),
        stds=torch.full((scores, components), 0.8),
    )


def maximize(layout: Layout, moments: Floats, rows: float, options: Options) -> Parameters:
    """The M step, with a prior that is worth `smoothing` rows of the profile's rates in each component.

    Args:
        layout: the encoded columns.
        moments: float64 (1 + S + 2 D, K), per row.
        rows: number of rows that the moments stand for.
        options: the strength of the prior.
    """
    moments = np.maximum(moments, 0) if not len(layout.scored) else moments
    alpha = options.smoothing / rows
    weights = np.maximum(moments[0], 0) + alpha / moments.shape[1]
    tables = np.maximum(moments[1 : 1 + layout.states], 0)
    scores = len(layout.scored)
    squares, sums = np.split(moments[1 + layout.states :], 2)
    held = (
        np.stack([tables[layout.offsets[i] + layout.fields[i].states - 1] for i in layout.scored])
        if scores
        else sums
    )
    means = sums / (held + alpha)
    # The prior variance is that of a standard normal score, worth as many rows as the rest of the prior.
    spread = (squares - 2 * means * sums + means**2 * held + alpha) / (held + alpha)
    log_tables = np.empty_like(tables)
    for field, offset in zip(layout.fields, layout.offsets, strict=True):
        part = slice(offset, offset + field.states)
        smoothed = tables[part] + alpha * simplex(np.array(field.rates))[:, None]
        log_tables[part] = np.log(np.maximum(smoothed / smoothed.sum(0), 1e-12))
    return Parameters(
        log_weights=torch.from_numpy(np.log(weights / weights.sum())).float(),
        log_tables=torch.from_numpy(log_tables).float(),
        means=torch.from_numpy(means).float(),
        stds=torch.from_numpy(np.sqrt(np.maximum(spread, options.min_std**2))).float(),
    )
