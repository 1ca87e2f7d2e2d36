"""circuit: a hidden tree over the columns, a probabilistic circuit with exact answers.

Each column c has a hidden state z_c with K values; the hidden states form a tree, linked along the Chow–Liu
tree of the columns, and each column depends on its own hidden state only (hidden Chow–Liu tree: Liu & Van den
Broeck 2021, arXiv 2106.02264; as a generator of tables: TabPC, arXiv 2603.23016). A column is discrete to it:
its states, with "spread" cut into bins of its score; inside a bin a score is drawn as the column's own
distribution has it there. One upward pass gives the exact likelihood of a batch whatever is unknown in it, a
downward pass the expected counts of expectation maximization, which the curator sums. It starts from a fitted
flat mixture (`synth.gmm`), which is a tree whose links copy the hidden state. Where answers carry noise it starts from
counts of pairs, and one pass is asked for (`synth.circuit_noised`).

A tree of many columns loses the dependence of pairs that lie far apart in it. Where the counts that the tree was made
from show such pairs, rows are weighed so that they come out as counted (`synth.tilt`); elsewhere all is exact.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option
from scipy.ndimage import gaussian_filter1d
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.special import ndtr
from torch import Tensor

from privacy.curator import Batch, Curator, Floats, Split
from synth import tilt
from synth.bins import Bins, Crossed, bins_from, bins_of, cuts_of, log_densities, values_of
from synth.codec import UNKNOWN, Encoded, Layout
from synth.draws import Tables, from_tables, rowwise
from synth.em import best_size, encoded_of, grouped, maximize_likelihood, simplex, slices, visits_of
from synth.gmm import Options as MixtureOptions
from synth.gmm import Parameters as MixtureParameters
from synth.gmm import fit_components
from synth.tilt import Tilt

_FLOOR = 1e-30

MOST_TRIED = 10_000_000
"""Cells that are drawn at a time where not all rows are kept."""

ATTEMPTS = 20
"""Times that rows under a condition are drawn anew where none is kept."""


class Options(BaseModel):
    """What a recipe may say about a circuit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    states: int | None = Option(
        None, ge=1, le=1024, description="hidden states K; none: by held-out likelihood"
    )
    max_states: int = Option(128, ge=1, le=1024, description="where the search for K ends")
    passes: int = Option(30, ge=1, le=1000, description="passes over the rows, fewer for many rows")
    smoothing: float = Option(
        0.3, gt=0, le=1000, description="rows that the prior of a hidden state is worth"
    )
    bins: int = Option(100, ge=2, le=2000, description="bins of a score at most")
    pairs: int = Option(
        100,
        ge=0,
        le=1000,
        description="pairs of columns at most that are put right where the tree loses them",
    )


PAIRS = 0.9
"""Under privacy: share of the budget for counts of pairs; one pass over the rows has the rest."""

GROUPS = 32
"""Groups of a column's values between which dependence is measured for the tree."""

MOST_PAIRS = 100_000_000
"""Entries of the table of all pairs at most."""

BLUR = 1 / 50
"""Share of a column's bins over which a state's density is blurred: the standard deviation of the kernel."""

BLUR_ROWS = 30.0
"""Rows that the blurred density is worth in each hidden state."""

LOOSENED = 0.2
"""Share of a link that forgets the parent's hidden state when the flat mixture is loosened into a tree."""

TREE_ROWS, MOST_TREE_ROWS, TREE_CELL_ROWS = 50_000, 300_000, 4
"""Rows that the tree is learned from, where an exact curator allows a part: as many as give each cell of the widest
pair of columns four, between the first two figures."""

CELL_ROWS = 2
"""Rows for each cell of two columns' table above which its shares are taken for what they are."""

SMOOTHINGS = (0.5, 2.0, 8.0, 32.0, 128.0, 512.0)
"""Rows that independence is worth, of which the best is taken, where two columns' table has hardly any rows a cell."""


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """A tree over C columns with K hidden states each.

    Attributes:
        parents: int64 (C,): the parent of each column, −1 for the root.
        prior: float32 (K,): of the root's hidden state.
        transitions: float32 (C, K, K): entry [c, k, j] is P(z_c = k | z_parent = j); unused for the root.
        emissions: for each column float32 (B_c, K): P(value | hidden state).
    """

    parents: Tensor
    prior: Tensor
    transitions: Tensor
    emissions: tuple[Tensor, ...]

    @property
    def states(self) -> int:
        """Number of hidden states K."""
        return len(self.prior)


class Circuit:
    """A fitted hidden tree."""

    name = "circuit"
    exact = True
    private = True
    options = Options
    noised: Mapping[str, tuple[object, ...]] = MappingProxyType(
        {"passes": (), "smoothing": (), "pairs": (0,)}
    )
    shares: Mapping[str, float] = MappingProxyType(
        {"counts of pairs of columns": PAIRS, "one pass of expectation maximization": 1 - PAIRS}
    )

    def __init__(
        self, layout: Layout, bins: Sequence[Bins], parameters: Parameters, tilted: Tilt | None = None
    ) -> None:
        self._layout = layout
        self._bins = bins
        self._parameters = parameters
        self._tilt = tilted
        self._order = _from_root(parameters.parents.numpy())

    @property
    def parameters(self) -> Parameters:
        """The tree."""
        return self._parameters

    @property
    def bins(self) -> Sequence[Bins]:
        """The columns' values."""
        return self._bins

    @property
    def order(self) -> Sequence[int]:
        """Columns, parents before children."""
        return self._order

    @classmethod
    def fit(cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int) -> "Circuit":
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns.
            options: fields of `Options`.
            seed: of the start.
        """
        chosen = Options.model_validate(dict(options))
        if curator.price(Crossed(axes=()), share=1.0) > 0:
            from synth.circuit_noised import fit_with_pairs

            return fit_with_pairs(curator, layout, chosen, seed=seed)
        bins = bins_of(layout, chosen.bins)
        joint = _joint(curator, layout, bins)
        learner = _Learner(curator, layout, bins, _tree(joint), chosen, seed)
        number = chosen.states or learner.best_number()
        tree = cls(layout, bins, learner.em(number, split="train", effort=1.0))
        if not chosen.pairs or len(bins) < 2 or not joint.rows:
            return tree
        cells = tilt.cells_of(bins, joint.coarse)
        rng = np.random.default_rng(seed)
        found = tilt.learned(
            cells, joint.shares(cells), joint.rows, lambda rows: tree._values(rows, rng), most=chosen.pairs
        )
        return cls(layout, bins, tree._parameters, found)

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`."""
        if given is None:
            return self._ancestral(rows, rng)
        serving = given.serving(rows)
        return Encoded.joined(
            [
                self._conditional(given.take(serving[s]), rng, present=present)
                for s in slices(rows, self._slice)
            ]
        )

    @property
    def _slice(self) -> int:
        """Rows that are worked on at a time."""
        return int(max(256, 4_000_000 // self._parameters.states // len(self._bins)))

    def log_prob(self, encoded: Encoded) -> Floats:
        """Log-density of states and scores, unknown cells integrated out: float64 (n,)."""
        out = np.zeros(len(encoded))
        with torch.no_grad():
            for part in slices(len(encoded)):
                rows = encoded.take(part)
                values = values_of(self._bins, rows)
                out[part] = _upward(self._parameters, self._order, values, present=False).log_likelihood
                out[part] += log_densities(self._bins, values, rows)
                if self._tilt is not None:
                    out[part] += self._log_weights(values)
        return out

    def _log_weights(self, values: Tensor) -> Floats:
        """Log of the mean weight of the rows that these, int64 (n, C), may be: float64 (n,)."""
        assert self._tilt is not None
        out = self._tilt.log_weights(values.numpy())
        unknown = np.flatnonzero(self._tilt.open(values.numpy()))
        for part in slices(len(unknown), self._slice // tilt.CANDIDATES + 1):
            known = values[unknown[part]]
            with torch.no_grad():
                up = _upward(self._parameters, self._order, known, present=False)
            row = np.arange(len(known)).repeat(tilt.CANDIDATES)
            # The same luck for every row, so that a row's density does not depend on the others.
            drawn = self._below(up, known, row, lambda c: _Alike(tilt.CANDIDATES, c), present=False)
            weights = np.exp(self._tilt.log_weights(drawn).reshape(-1, tilt.CANDIDATES))
            out[unknown[part]] = np.log(weights.mean(1))
        return out

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        p = self._parameters
        emissions = {f"emissions.{c}": e for c, e in enumerate(p.emissions)}
        return {
            "parents": p.parents,
            "prior": p.prior,
            "transitions": p.transitions,
            **emissions,
            **cuts_of(self._bins),
            **({} if self._tilt is None else self._tilt.tensors()),
        }

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> "Circuit":
        """A circuit from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        bins = bins_from(layout, tensors)
        for c, b in enumerate(bins):
            if len(tensors[f"emissions.{c}"]) != b.size:
                raise ValueError(
                    f"column {c} must have {b.size} values, however: {len(tensors[f'emissions.{c}'])}"
                )
        emissions = tuple(tensors[f"emissions.{c}"] for c in range(len(bins)))
        parameters = Parameters(
            parents=tensors["parents"],
            prior=tensors["prior"],
            transitions=tensors["transitions"],
            emissions=emissions,
        )
        return cls(layout, bins, parameters, tilt.restored(bins, tensors))

    @cached_property
    def _tables(self) -> tuple[list[Tables], list[Tables]]:
        """What hidden states and values are drawn from, for each column."""
        p = self._parameters
        hidden = [
            Tables((p.prior[:, None] if parent < 0 else p.transitions[c]).double().numpy())
            for c, parent in enumerate(p.parents.tolist())
        ]
        return hidden, [Tables(e.double().numpy()) for e in p.emissions]

    def _values(self, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Values of new rows of the tree: int64 (rows, C)."""
        of_hidden, of_values = self._tables
        root = np.zeros(rows, np.int64)
        hidden: dict[int, NDArray[np.int64]] = {}
        out = np.empty((rows, len(self._bins)), np.int64)
        for c in self._order:
            hidden[c] = of_hidden[c].draw(rng, hidden.get(int(self._parameters.parents[c]), root))
            out[:, c] = of_values[c].draw(rng, hidden[c])
        return out

    def _ancestral(self, rows: int, rng: np.random.Generator) -> Encoded:
        if self._tilt is None:
            return self._encoded(self._values(rows, rng), rng)
        found = [np.empty((0, len(self._bins)), np.int64)]
        left, most = rows, max(1000, MOST_TRIED // len(self._bins))
        while left > 0:
            values = self._values(int(min(most, math.ceil(1.1 * left * self._tilt.most))), rng)
            found.append(values[self._tilt.kept(values, rng)][:left])
            left -= len(found[-1])
        return self._encoded(np.concatenate(found), rng)

    def _encoded(self, values: NDArray[np.int64], rng: np.random.Generator) -> Encoded:
        out = self._layout.unknown(len(values))
        for c in range(len(self._bins)):
            self._put(out, c, slice(None), values[:, c], rng)
        return out

    def _below(
        self,
        up: "_Upward",
        known: Tensor,
        row: NDArray[np.int64],
        luck: Callable[[int], np.random.Generator],
        *,
        present: bool,
    ) -> NDArray[np.int64]:
        """Draws of rows of the tree whose known values are given: int64 (m, C).

        Args:
            up: of the given rows.
            known: int64 (n, C).
            row: int64 (m,): which of them each draw is of.
            luck: column → what its hidden states, and then its values, are drawn with.
            present: whether unknown means "known not to be missing".
        """
        p = self._parameters
        out = known.numpy()[row]
        at = torch.from_numpy(row)
        hidden: dict[int, NDArray[np.int64]] = {}
        for c in self._order:
            rng, parent = luck(c), int(p.parents[c])
            prior = p.prior[None] if parent < 0 else p.transitions[c].T[torch.from_numpy(hidden[parent])]
            hidden[c] = rowwise(rng, (up.beliefs[c][at] * prior).double().numpy())
            unknown = np.flatnonzero(out[:, c] == self._bins[c].size)
            if len(unknown):
                table = p.emissions[c].double().numpy().copy()
                if present and len(table) > 1:
                    table[0] = 0
                out[unknown, c] = from_tables(rng, table, hidden[c][unknown])
        return out

    def _drawn(self, known: Tensor, rng: np.random.Generator, *, present: bool) -> NDArray[np.int64]:
        """Values of new rows whose known values, int64 (n, C), are these: int64 (n, C)."""
        with torch.no_grad():
            up = _upward(self._parameters, self._order, known, present=present)
        left = np.arange(len(known))
        out = self._below(up, known, left, lambda _: rng, present=present)
        if self._tilt is None:
            return out
        # Where a row's weight does not depend on what is drawn, its draw is as good as any.
        left = left[self._tilt.open(known.numpy())]
        left = left[~self._tilt.kept(out[left], rng)]
        many = math.ceil(self._tilt.most)
        for attempt in range(ATTEMPTS):
            kept = np.zeros(len(left), np.bool_)
            for part in slices(len(left), self._slice // many + 1) if len(left) else ():
                of = left[part]
                drawn = self._below(up, known, of.repeat(many), lambda _: rng, present=present)
                keeps = self._tilt.kept(drawn, rng).reshape(-1, many)
                chosen = np.argmax(keeps, 1)
                if attempt == ATTEMPTS - 1:
                    # Hardly any row of such a condition passes: the last ones compete with each other alone.
                    log_weights = self._tilt.log_weights(drawn).reshape(-1, many)
                    chosen = rowwise(rng, np.exp(log_weights - log_weights.max(1, keepdims=True)))
                    keeps = np.ones_like(keeps)
                kept[part] = keeps.any(1)
                new = drawn.reshape(-1, many, drawn.shape[1])[np.arange(len(of)), chosen]
                out[of[kept[part]]] = new[kept[part]]
            left = left[~kept]
        return out

    def _conditional(self, given: Encoded, rng: np.random.Generator, *, present: bool) -> Encoded:
        values = self._drawn(values_of(self._bins, given), rng, present=present)
        out = Encoded(states=given.states.copy(), scores=given.scores.copy())
        for c in range(len(self._bins)):
            unknown = np.flatnonzero(given.states[:, c] == UNKNOWN)
            if len(unknown):
                self._put(out, c, unknown, values[unknown, c], rng)
        return out

    def _put(
        self,
        out: Encoded,
        column: int,
        rows: NDArray[np.int64] | slice,
        values: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> None:
        states, scores = self._bins[column].draw(values, rng)
        out.states[rows, column] = states
        score = self._bins[column].field.score
        if score is not None:
            out.scores[rows, score] = scores


class _Alike(np.random.Generator):
    """Luck that is the same for every stretch of so many draws, and another in every column."""

    def __init__(self, many: int, column: int) -> None:
        super().__init__(np.random.PCG64(column))
        self._many = many

    def random(self, size: int) -> Floats:  # type: ignore[override]
        """The same numbers again and again: float64 (size,)."""
        return np.resize(super().random(self._many), size)


@dataclass(frozen=True)
class _Upward:
    """What an upward pass leaves: for each column the scaled likelihood of what hangs below it, (n, K)."""

    beliefs: dict[int, Tensor]
    messages: dict[int, Tensor]
    log_likelihood: Floats


def _upward(p: Parameters, order: Sequence[int], values: Tensor, *, present: bool) -> _Upward:
    """From the leaves to the root.

    Args:
        p: the tree.
        order: columns, parents before children.
        values: int64 (n, C); the number of values of a column stands for unknown.
        present: whether unknown means "known not to be missing".
    """
    beliefs: dict[int, Tensor] = {}
    messages: dict[int, Tensor] = {}
    scale = torch.zeros(len(values), dtype=torch.float64)
    for c in reversed(order):
        emission = p.emissions[c]
        unknown = 1 - emission[:1] if present and len(emission) > 1 else torch.ones(1, p.states)
        own = torch.nn.functional.embedding(values[:, c], torch.cat([emission, unknown]))
        belief = own if c not in beliefs else own * beliefs[c]
        top = belief.amax(1, keepdim=True).clamp_min(_FLOOR)
        belief = belief / top
        scale += top[:, 0].double().log()
        beliefs[c] = belief
        parent = int(p.parents[c])
        if parent >= 0:
            message = (belief @ p.transitions[c]).clamp_min(_FLOOR)
            messages[c] = message
            beliefs[parent] = message if parent not in beliefs else beliefs[parent] * message
    likelihood = (beliefs[order[0]] @ p.prior).double().clamp_min(_FLOOR).log()
    return _Upward(beliefs, messages, (scale + likelihood).numpy())


class Counts:
    """The sums of the E step: expected counts of the root's state, of each transition and of each emission.

    A row's counts of each kind add up to one at most, so its vector's norm is at most √(2 C) for C columns.
    """

    def __init__(self, layout: Layout, bins: Sequence[Bins], order: Sequence[int], p: Parameters) -> None:
        self._bins, self._order, self._p = bins, order, p
        self.size = p.states + p.transitions.numel() + sum(b.size for b in bins) * p.states
        self.bound = math.sqrt(2 * len(layout.fields))

    def tables(self, sums: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The sums of the links, (C, K, K), and those of each column's values, (B_c, K)."""
        p = self._p
        sizes = [p.states, p.transitions.numel(), *(b.size * p.states for b in self._bins)]
        _, links, *values = torch.split(sums, sizes)
        return links.reshape(p.transitions.shape), tuple(v.reshape(-1, p.states) for v in values)

    def of(self, batch: Batch) -> "_CountsOfBatch":
        """What these rows add."""
        return _CountsOfBatch(self._bins, self._order, self._p, values_of(self._bins, encoded_of(batch)))


class _CountsOfBatch:
    def __init__(self, bins: Sequence[Bins], order: Sequence[int], p: Parameters, values: Tensor) -> None:
        self._bins, self._order, self._p, self._values = bins, order, p, values

    def norms(self) -> Floats:
        """A bound on the norm of each row's counts: float64 (n,)."""
        return np.full(len(self._values), math.sqrt(2 * len(self._bins)))

    def weighted(self, weights: Floats | None) -> Floats:
        """Weighted counts, flattened in the order prior, transitions, emissions."""
        p = self._p
        w = None if weights is None else torch.from_numpy(weights).float()[:, None]
        transitions = torch.zeros_like(p.transitions)
        emissions: dict[int, Tensor] = {}
        posterior: dict[int, Tensor] = {}
        root = self._order[0]
        with torch.no_grad():
            up = _upward(p, self._order, self._values, present=False)
            for c in self._order:
                parent = int(p.parents[c])
                if parent < 0:
                    joint = up.beliefs[c] * p.prior
                    posterior[c] = joint / joint.sum(1, keepdim=True).clamp_min(_FLOOR)
                    posterior[c] = posterior[c] if w is None else posterior[c] * w
                else:
                    # P(z_c = k, z_up = j | row) = belief_c[k] · T[k, j] · posterior_up[j] / message[j]
                    outside = posterior[parent] / up.messages[c]
                    transitions[c] = p.transitions[c] * (up.beliefs[c].T @ outside)
                    posterior[c] = up.beliefs[c] * (outside @ p.transitions[c].T)
                size = self._bins[c].size
                emissions[c] = grouped(self._values[:, c], posterior[c], size + 1)[:size]
        parts = [posterior[root].sum(0), transitions.flatten()]
        parts += [emissions[c].flatten() for c in range(len(self._bins))]
        return torch.cat(parts).double().numpy()


class _Learner:
    """Expectation maximization of a tree whose links are known."""

    def __init__(
        self,
        curator: Curator,
        layout: Layout,
        bins: Sequence[Bins],
        parents: NDArray[np.int64],
        options: Options,
        seed: int,
    ) -> None:
        self._curator, self._layout, self._bins = curator, layout, bins
        self._parents, self._options, self._seed = parents, options, seed
        self._order = _from_root(parents)

    def best_number(self) -> int:
        """The number of hidden states by the likelihood of rows that the trial fits have not seen."""
        most = int(min(self._options.max_states, max(1.0, self._layout.rows / 20)))
        return best_size(
            [s for s in (16, 32, 64, 128, 256, 512) if s < most] + [most],
            lambda number: self.em(number, split="fit", effort=0.3),
            lambda p: Circuit(self._layout, self._bins, p).log_prob,
            self._curator,
            columns=len(self._bins),
        )

    def em(self, number: int, *, split: Split, effort: float) -> Parameters:
        """Fits K hidden states with a share (`effort`) of the passes that the options allow."""
        rows = max(self._layout.rows, 1.0)
        return maximize_likelihood(
            self._curator,
            self._start(number, split, effort),
            lambda p: Counts(self._layout, self._bins, self._order, p),
            lambda counts: self._maximize(counts, number),
            rows=rows,
            entries=sum(b.size for b in self._bins),
            visits=visits_of(rows, len(self._bins), self._options.passes),
            effort=effort,
            split=split,
        )

    def _start(self, number: int, split: Split, effort: float) -> Parameters:
        """A fitted flat mixture, which is the tree whose links copy the hidden state; then loosened links.

        From loose random links the same algorithm ends in much worse optima, whatever the links start from.
        """
        options = MixtureOptions.model_validate({"passes": self._options.passes})
        mixture = fit_components(
            self._curator, self._layout, options, number, split=split, seed=self._seed, effort=effort
        )
        weights = mixture.log_weights.double().exp().numpy()
        link = (1 - LOOSENED) * np.eye(number) + LOOSENED * weights[:, None]
        offsets = self._layout.offsets
        return Parameters(
            parents=torch.from_numpy(self._parents),
            prior=torch.from_numpy(weights).float(),
            transitions=torch.from_numpy(link).float().repeat(len(self._bins), 1, 1),
            emissions=tuple(
                torch.from_numpy(_mixture_emission(b, int(o), mixture)).float()
                for b, o in zip(self._bins, offsets, strict=True)
            ),
        )

    def _maximize(self, counts: Floats, number: int) -> Parameters:
        """The M step, with a prior that is worth `smoothing` rows in each hidden state."""
        alpha = self._options.smoothing / max(self._layout.rows, 1.0)
        columns = len(self._bins)
        counts = np.maximum(counts, 0)
        prior = simplex(counts[:number] + alpha / number)
        at = number + columns * number * number
        links = counts[number:at].reshape(columns, number, number) + alpha / number
        links /= links.sum(1, keepdims=True)
        emissions = []
        for b in self._bins:
            table = counts[at : at + b.size * number].reshape(b.size, number)
            table = _evened(table, b, self._layout.rows) + alpha * b.rates[:, None]
            emissions.append(torch.from_numpy(table / table.sum(0)).float())
            at += b.size * number
        return Parameters(
            parents=torch.from_numpy(self._parents),
            prior=torch.from_numpy(prior).float(),
            transitions=torch.from_numpy(links).float(),
            emissions=tuple(emissions),
        )


def _evened(table: Floats, bins: Bins, rows: float) -> Floats:
    """Emissions whose bins lean on their neighbours, the more the fewer rows a hidden state has.

    Bins are ordered, and a state with few rows knows little of each. Their prior is the state's own density
    relative to the column's, blurred over some bins, and worth `BLUR_ROWS` rows; what a state gives to all bins
    together stays as it is.

    Args:
        table: expected rates, float64 (B, K).
        bins: the column.
        rows: number of rows.
    """
    spread = table[bins.plain :]
    if len(spread) < 4:
        return table
    usual = np.maximum(bins.rates[bins.plain :, None], 1e-12)
    total = spread.sum(0)
    blurred = usual * gaussian_filter1d(spread / usual, BLUR * len(spread), axis=0, mode="nearest")
    blurred *= total / np.maximum(blurred.sum(0), 1e-300)
    own = total * rows / (total * rows + BLUR_ROWS)
    return np.concatenate([table[: bins.plain], own * spread + (1 - own) * blurred])


def _mixture_emission(bins: Bins, offset: int, mixture: MixtureParameters) -> Floats:
    """P(value | component) of a fitted mixture: float64 (B, K)."""
    field = bins.field
    table = np.asarray(mixture.log_tables[offset : offset + field.states].double().exp().numpy())
    if field.score is None:
        return table
    mean, std = mixture.means[field.score].double().numpy(), mixture.stds[field.score].double().numpy()
    ends = np.concatenate([[-np.inf], bins.cuts, [np.inf]])
    shares = np.diff(ndtr((ends[:, None] - mean) / std), axis=0) + 1e-9
    return np.asarray(np.concatenate([table[:-1], table[-1] * shares / shares.sum(0)]))


def _from_root(parents: NDArray[np.int64]) -> list[int]:
    """Columns, parents before children."""
    order = [int(np.flatnonzero(parents < 0)[0])]
    for c in order:
        order += [int(d) for d in np.flatnonzero(parents == c)]
    return order


# --- the tree


class _Pairs:
    """Σ of fine ⊗ coarse one-hot codes of all columns: every pair's joint counts at once.

    A row adds C² ones, so its norm is C.
    """

    def __init__(
        self, bins: Sequence[Bins], fine: Sequence[NDArray[np.int64]], coarse: Sequence[NDArray[np.int64]]
    ):
        self._bins, self._fine, self._coarse = bins, fine, coarse
        self.fine_offsets = np.concatenate([[0], np.cumsum([f.max() + 1 for f in fine])]).astype(np.int64)
        self.coarse_offsets = np.concatenate([[0], np.cumsum([g.max() + 1 for g in coarse])]).astype(np.int64)
        self.shape = (int(self.fine_offsets[-1]), int(self.coarse_offsets[-1]))
        self.size = self.shape[0] * self.shape[1]
        self.bound = float(len(bins))

    def of(self, batch: Batch) -> "_PairsOfBatch":
        """What these rows add."""
        values = values_of(self._bins, encoded_of(batch)).numpy()
        known = values < np.array([b.size for b in self._bins])
        values = np.where(known, values, 0)
        fine = np.stack([f[values[:, c]] for c, f in enumerate(self._fine)], 1) + self.fine_offsets[:-1]
        coarse = np.stack([g[values[:, c]] for c, g in enumerate(self._coarse)], 1) + self.coarse_offsets[:-1]
        return _PairsOfBatch(fine, coarse, known, self.shape)


class _PairsOfBatch:
    def __init__(
        self,
        fine: NDArray[np.int64],
        coarse: NDArray[np.int64],
        known: NDArray[np.bool_],
        shape: tuple[int, int],
    ) -> None:
        self._fine, self._coarse, self._known, self._shape = fine, coarse, known, shape

    def norms(self) -> Floats:
        """Norm of each row's counts: float64 (n,)."""
        return np.asarray(self._known.sum(1), np.float64)

    def weighted(self, weights: Floats | None) -> Floats:
        """Weighted joint counts, flattened from (fine, coarse)."""
        rows, columns = self._fine.shape
        w = np.ones(rows) if weights is None else weights
        hot = torch.zeros(rows, self._shape[1])
        hot.scatter_(1, torch.from_numpy(self._coarse), torch.from_numpy(self._known).float())
        hot *= torch.from_numpy(w).float()[:, None]
        out = torch.zeros(self._shape)
        for c in range(columns):
            keep = torch.from_numpy(self._known[:, c]).float()[:, None]
            out.index_add_(0, torch.from_numpy(self._fine[:, c]), hot * keep)
        return out.double().numpy().ravel()


@dataclass(frozen=True, kw_only=True)
class _Joint:
    """Joint counts of all pairs of columns.

    Attributes:
        pairs: what was asked.
        fine: for each column the fine group of each value.
        coarse: the coarse one.
        counts: float64 (fine groups, coarse groups), all columns' after one another.
    """

    pairs: _Pairs
    fine: tuple[NDArray[np.int64], ...]
    coarse: tuple[NDArray[np.int64], ...]
    counts: Floats

    def block(self, first: int, second: int) -> Floats:
        """Counts of two columns' groups, fine and coarse."""
        fine, coarse = self.pairs.fine_offsets, self.pairs.coarse_offsets
        return self.counts[fine[first] : fine[first + 1], coarse[second] : coarse[second + 1]]

    @property
    def rows(self) -> float:
        """Rows that were counted."""
        return max(float(self.block(c, c).sum()) for c in range(len(self.fine)))

    def shares(self, cells: tilt.Cells) -> Floats:
        """Shares of rows in each cell of each pair: float64 (cells, cells); cells are unions of coarse groups."""
        offsets = np.concatenate([[0], np.cumsum(cells.sizes)])

        def places(groups: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
            out = []
            for c, group in enumerate(groups):
                first = np.unique(group, return_index=True)[1]
                out.append(offsets[c] + cells.of_value[c][first])
            return np.concatenate(out)

        rows = np.zeros((int(offsets[-1]), self.counts.shape[1]))
        np.add.at(rows, places(self.fine), self.counts)
        out = np.zeros((int(offsets[-1]), int(offsets[-1])))
        np.add.at(out.T, places(self.coarse), rows.T)
        return out / self.rows


def _joint(curator: Curator, layout: Layout, bins: Sequence[Bins]) -> _Joint:
    """Counts of all pairs of columns, in one question."""
    columns = len(bins)
    groups = int(max(4, min(GROUPS, 4000 // columns)))
    coarse = [_groups(b, groups) for b in bins]
    # Categories keep their own rows; numbers are grouped on both sides.
    fine = [np.arange(b.size) if b.field.score is None else g for b, g in zip(bins, coarse, strict=True)]
    if sum(int(f.max()) + 1 for f in fine) * sum(int(g.max()) + 1 for g in coarse) > MOST_PAIRS:
        fine = coarse
    pairs = _Pairs(bins, fine, coarse)
    largest = max(int(f.max()) + 1 for f in fine) * groups
    hint = max(TREE_ROWS, min(MOST_TREE_ROWS, TREE_CELL_ROWS * largest))
    answer = curator.sum(pairs, rows_hint=hint)
    counts = np.maximum(answer.value, 0).reshape(pairs.shape)
    return _Joint(pairs=pairs, fine=tuple(fine), coarse=tuple(coarse), counts=counts)


def _tree(joint: _Joint) -> NDArray[np.int64]:
    """The tree of largest mutual information (Chow & Liu 1968): each column's parent, −1 for the root."""
    columns = len(joint.fine)
    information = np.zeros((columns, columns))
    for a in range(columns):
        for b in range(columns):
            # Weighed by the rows that know both: what holds among few of them says less of the table.
            if a != b:
                information[a, b] = joint.block(a, b).sum() * _mutual_information(joint.block(a, b))
    return _spanning_tree(np.maximum(information, information.T))


def _spanning_tree(information: Floats) -> NDArray[np.int64]:
    """Parents in the tree of largest total information, rooted at the column that shares most."""
    if len(information) == 1:
        return np.array([-1])
    # All trees have as many links, so a constant changes nothing; scipy takes what is near 0 for no link.
    cost = information.min() - information - 1.0
    np.fill_diagonal(cost, 0)
    root = int(np.argmax(information.sum(1)))
    _, parents = breadth_first_order(
        minimum_spanning_tree(cost), root, directed=False, return_predecessors=True
    )
    return np.where(parents < 0, -1, parents).astype(np.int64)


def _groups(bins: Bins, most: int) -> NDArray[np.int64]:
    """A group for each value: common states alone, all other states together, neighbouring bins joined."""
    group = np.zeros(bins.size, np.int64)
    plain = np.argsort(-bins.rates[: bins.plain], kind="stable")
    room = most - (most // 2 if bins.field.score is not None else 0)
    group[plain] = np.minimum(np.arange(len(plain)), max(0, room - 1))
    if bins.field.score is not None:
        first = min(len(plain), room)
        rates = bins.rates[bins.plain :]
        place = np.cumsum(rates) - rates / 2
        group[bins.plain :] = first + np.minimum(
            (place / max(rates.sum(), 1e-300) * (most - first)).astype(np.int64), most - first - 1
        )
    return np.unique(group, return_inverse=True)[1].astype(np.int64)


def _mutual_information(joint: Floats) -> float:
    """Mutual information of two columns, in nats, as far as the rows show it.

    Where cells have rows it is the plug-in estimate with the correction of Miller 1955 for cells that chance alone
    fills. Where most have none, that is far too large, and columns of thousands of categories would draw all links
    to themselves. There each row is predicted from all others, which the counts alone allow: the mean gain in
    log-likelihood of its coarse group given the fine one, smoothed towards independence by the best of some weights,
    over the coarse group alone.

    Args:
        joint: counts of (fine, coarse) groups, float64 (A, B).
    """
    total = joint.sum()
    rows, columns = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    filled = int((rows > 0).sum()), int((columns > 0).sum())
    if total <= 1 or min(filled) < 2:
        return 0.0
    seen = joint > 0
    count = joint[seen]
    if total >= CELL_ROWS * filled[0] * filled[1]:
        gain = float((count * np.log(count * total / (rows @ columns)[seen])).sum() / total)
        return gain - float((len(count) - sum(filled) + 1) / (2 * total))
    usual = np.broadcast_to(columns / total, joint.shape)[seen]
    others = np.maximum(np.broadcast_to(rows, joint.shape)[seen] - 1, 0)
    alike = np.maximum(count - 1, 0) / usual
    return max(float((count * np.log((alike + w) / (others + w))).sum() / total) for w in SMOOTHINGS)
