"""Coarse: the one question about rows that figures of a private release are made of.

Rows are counted over a coarse partition of each column, and of pairs of columns, all in one charged answer with noise
of its own: not the noise that the model has seen. How fine, and about how many pairs, follows from the price of an
answer and from the noised profile, so from nothing that touches rows; the partition is a public function of one row.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.curator import Batch, Curator, Floats, Marginal, Split
from synth.bins import Bins, cuts, cuts_along
from synth.codec import Encoded, Field, Layout

MOST_PAIRS = 2000
"""Pairs of columns that are asked about at most."""

CLEAR = 60.0
"""Of more pairs than columns only so many are asked about that all rows are so many times the noise of a count."""

FEWEST, MOST = 3, 8
"""Groups of a column in a pair. A column alone has as many as cells of a pair: its noise is the same then."""

MOST_ALONE = 32

EXACT = 0.05
"""Groups are so few that noise alone takes no pair's distance for more than this."""

LIGHT = 4.0
"""A group has this part of an even share at least, or it joins another;"""

SEEN = 0.01
"""but of the last two each has only to have this share of the rows."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """How finely rows are counted.

    Attributes:
        pairs: pairs of columns that are asked about.
        groups: of a column in a pair, at most.
        noise_std: of each count.
        distance: what noise alone may show (95 %), as a share, of a column, of a pair, of a column's pairs together.
    """

    pairs: int
    groups: int
    noise_std: float
    distance: tuple[float, float, float]


def resolution(*, rows: float, columns: int, noise_of_one: float, more: int = 0) -> Resolution:
    """How finely rows can be counted, from public figures alone.

    The squared distance of a pair with C cells of like mass has the standard deviation √2/4 · C^1.5 (σ/n)² under
    noise σ (`validation.noised`), which says how many groups are too many.

    Args:
        rows: about how many rows are counted, n.
        columns: how many are learned.
        noise_of_one: standard deviation of a count if a single histogram had the whole budget.
        more: marginals beside those of columns and pairs.
    """
    every = columns * (columns - 1) // 2
    affordable = int((rows / (CLEAR * noise_of_one)) ** 2) - columns - more
    pairs = min(every, MOST_PAIRS, max(columns, affordable))
    std = noise_of_one * math.sqrt(max(1, columns + pairs + more))
    finest = (EXACT**2 / (1.96 * math.sqrt(2) / 4)) ** (1 / 3) * (rows / std) ** (2 / 3)
    groups = int(np.clip(round(finest), FEWEST, MOST))

    def shown(cells: int, together: float) -> float:
        return math.sqrt(1.96 * math.sqrt(2 / together) / 4 * cells**1.5) * std / rows

    of_column = max(1.0, 2 * pairs / max(1, columns))
    distance = (shown(min(groups**2, MOST_ALONE), 1), shown(groups**2, 1), shown(groups**2, of_column))
    return Resolution(pairs=pairs, groups=groups, noise_std=std, distance=distance)


@dataclass(frozen=True, kw_only=True, eq=False)
class Coarse:
    """One column in a few groups of values.

    Attributes:
        column: index of its field.
        bins: its values.
        groups: group of each value, and last of a row of which nothing is known: int64 (values + 1,).
    """

    column: int
    bins: Bins
    groups: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1

    def of(self, states: NDArray[np.generic], scores: NDArray[np.generic]) -> NDArray[np.int64]:
        """The group of each row: int64 (n,)."""
        at = self.bins.field.score
        own = None if at is None else np.asarray(scores, np.float32)[:, at]
        return np.asarray(self.groups[self.bins.of(np.asarray(states, np.int32)[:, self.column], own)])


@dataclass(frozen=True, kw_only=True, eq=False)
class Crossing:
    """A marginal of encoded rows over the groups of one column or two: each row is in one cell."""

    axes: tuple[Coarse, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of a batch."""
        return ("states", "scores")

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of groups of each column."""
        return tuple(a.size for a in self.axes)

    @property
    def edges(self) -> tuple[NDArray[np.generic], ...]:
        """The public facts of the partition, so that a journal takes no answer for that to another question."""
        parts = [(np.array([a.column]), a.bins.cuts, a.groups) for a in self.axes]
        return tuple(array for part in parts for array in part)

    def cell(self, batch: Batch) -> NDArray[np.int64]:
        """The cell of each row: int64 (n,)."""
        groups = [axis.of(batch.columns["states"], batch.columns["scores"]) for axis in self.axes]
        return np.asarray(np.ravel_multi_index(groups, self.shape), np.int64)

    def cells(self, rows: Encoded) -> NDArray[np.uint8]:
        """The cell of each synthetic row: uint8 (n,), since there are 64 at most."""
        columns = {"states": rows.states, "scores": rows.scores}
        return self.cell(Batch(unit=np.zeros(len(rows), np.uint64), columns=columns)).astype(np.uint8)


def coarse(layout: Layout, column: int, most: int) -> Coarse:
    """A column in at most so many groups of like mass, by the noised rates of its profile."""
    field = layout.fields[column]
    absent = 0.0 if field.group is None else layout.fields[field.group].rates[0]
    spread = field.rates[-1] * (1 - absent) if field.score is not None else 0.0
    number = max(1, round(most * spread))
    along = cuts_along(field, number) if field.borders else cuts(field, number)
    bins = Bins(field, along)
    return Coarse(
        column=column, bins=bins, groups=_grouped(np.append(bins.rates * (1 - absent), absent), most)
    )


def _grouped(rates: Floats, most: int) -> NDArray[np.int64]:
    """Values in groups: the two lightest are joined until all are heavy enough, and few enough."""
    members = [[i] for i in range(len(rates))]
    weights = [float(r) for r in rates]
    while len(members) > 1:
        lightest, second = np.argsort(weights, kind="stable")[:2]
        least = SEEN if len(members) == 2 else 1 / (LIGHT * most)
        if len(members) <= most and weights[lightest] >= least:
            break
        low, high = sorted((int(lightest), int(second)))
        members[low] += members.pop(high)
        weights[low] += weights.pop(high)
    groups = np.zeros(len(rates), np.int64)
    for i, joined in enumerate(members):
        groups[joined] = i
    return groups


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Rows, counted anew with noise.

    Attributes:
        counts: float64 of each marginal's shape.
        noise_std: of each count.
        unit_rows: rows of a unit that were kept at most.
        held_out: whether the rows were held out of training; else the model has learned from them.
    """

    counts: tuple[Floats, ...]
    noise_std: float
    unit_rows: int
    held_out: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Recount(Asked):
    """Rows, counted anew by their columns.

    Attributes:
        marginals: of each learned column that has two groups or more, then of pairs of these.
    """

    marginals: tuple[Crossing, ...]

    def to_json(self) -> str:
        """JSON text; the inverse is `from_json`."""
        data = {
            "noise_std": self.noise_std,
            "unit_rows": self.unit_rows,
            "held_out": self.held_out,
            "marginals": [
                {
                    "axes": [
                        {"column": a.column, "cuts": a.bins.cuts.tolist(), "groups": a.groups.tolist()}
                        for a in m.axes
                    ],
                    "counts": c.tolist(),
                }
                for m, c in zip(self.marginals, self.counts, strict=True)
            ],
        }
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str, layout: Layout) -> "Recount":
        """The answer from its text; `layout` is the one that was asked about."""
        data = json.loads(text)
        marginals = tuple(
            Crossing(axes=tuple(_axis(layout.fields[a["column"]], a) for a in m["axes"]))
            for m in data["marginals"]
        )
        return cls(
            marginals=marginals,
            counts=tuple(np.array(m["counts"], np.float64) for m in data["marginals"]),
            noise_std=data["noise_std"],
            unit_rows=data["unit_rows"],
            held_out=data["held_out"],
        )


def _axis(field: Field, data: dict[str, Any]) -> Coarse:
    return Coarse(
        column=data["column"],
        bins=Bins(field, np.array(data["cuts"], np.float64)),
        groups=np.array(data["groups"], np.int64),
    )


def ask(
    curator: Curator,
    layout: Layout,
    learned: Sequence[int],
    *,
    split: Split,
    unit_rows: int,
    seed: int,
    more: Sequence[Marginal] = (),
) -> tuple[Recount, Asked]:
    """Counts rows anew, for all of the curator's budget.

    Args:
        curator: over rows encoded by the codec of `layout`.
        layout: the encoded columns.
        learned: indices of the fields that are learned columns.
        split: which rows.
        unit_rows: rows of a unit that are kept at most.
        seed: draws the pairs where not all are asked about.
        more: further marginals, which are counted in the same answer.

    Returns:
        Rows by their columns, and by `more`.
    """
    marginals = question(curator, layout, learned, seed=seed, more=len(more))
    all_of = (*marginals, *more)
    answers = curator.histogram(all_of, split=split, share=1.0) if all_of else ()
    counts = tuple(a.value for a in answers)
    noise_std, held_out = answers[0].noise_std if answers else 0.0, split == "holdout"
    facts: dict[str, Any] = {"noise_std": noise_std, "unit_rows": unit_rows, "held_out": held_out}
    return (
        Recount(marginals=marginals, counts=counts[: len(marginals)], **facts),
        Asked(counts=counts[len(marginals) :], **facts),
    )


def question(
    curator: Curator, layout: Layout, learned: Sequence[int], *, seed: int, more: int = 0
) -> tuple[Crossing, ...]:
    """The marginals that are asked about: of columns, then of pairs. A column in one group says nothing.

    `more` is how many others are asked about beside them.
    """
    columns = [c for c in learned if coarse(layout, c, FEWEST).size > 1]
    if not columns:
        return ()
    one = Crossing(axes=(coarse(layout, columns[0], FEWEST),))
    chosen = resolution(
        rows=max(layout.rows, 1.0),
        columns=len(columns),
        more=more,
        noise_of_one=max(curator.price(one, share=1.0), 1e-9),
    )
    alone = [coarse(layout, c, min(chosen.groups**2, MOST_ALONE)) for c in columns]
    paired = [coarse(layout, c, chosen.groups) for c in columns]
    pairs = _pairs(len(columns), chosen.pairs, seed)
    return (
        *(Crossing(axes=(axis,)) for axis in alone),
        *(Crossing(axes=(paired[a], paired[b])) for a, b in pairs),
    )


def _pairs(columns: int, most: int, seed: int) -> list[tuple[int, int]]:
    """All pairs, or so many of them: a ring in which each column has two, then others as they are drawn."""
    every = list(combinations(range(columns), 2))
    if len(every) <= most:
        return every
    rng = np.random.default_rng(seed)
    order = [int(i) for i in rng.permutation(columns)]
    ring = {(min(a, b), max(a, b)) for a, b in zip(order, [*order[1:], order[0]], strict=True)}
    others = [p for p in (every[i] for i in rng.permutation(len(every))) if p not in ring]
    return sorted([*ring, *others[: most - len(ring)]])
