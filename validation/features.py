"""Features: columns of real and synthetic rows as the numbers that a classifier reads, the same way on each side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from privacy.estimate import Estimate, estimate
from validation.cells import SIDES, Cells, Floats

Weights = npt.NDArray[np.float64]

TREE_CATEGORIES = 250
"""Categories that trees tell apart without an order; of a column with more, codes are numbers, the commonest first."""

HOT = 20
"""Categories that a linear model tells apart; rarer ones are one."""

TAUGHT, LEAST_ROWS = 18_000_000, 500
"""Values that trees see at most, times trees grown at once, and the rows that they see in any case."""

RESAMPLES = 200
"""Weighted samples that intervals come from."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """The same columns for trees and for linear models, by side.

    Attributes:
        names: of the columns.
        trees: float64 (rows, columns): numbers, or codes of categories by how common they are; NaN is missing.
        nominal: bool (columns,): which of those are codes without an order.
    """

    names: tuple[str, ...]
    trees: dict[str, Floats]
    nominal: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, cells: Sequence[Cells]) -> "Features":
        """The columns of three tables."""
        orders = [_by_count(c) for c in cells]
        blank = {side: np.zeros((len(cells[0].codes[side]) if cells else 0, 0)) for side in SIDES}
        trees = {
            side: np.column_stack(
                [blank[side], *(_coded(c, o, side) for c, o in zip(cells, orders, strict=True))]
            )
            for side in SIDES
        }
        return cls(
            names=tuple(c.column.name for c in cells),
            trees=trees,
            nominal=np.array([o is not None and len(o) <= TREE_CATEGORIES for o in orders], np.bool_),
        )

    def without(self, place: int) -> "Features":
        """All columns but one."""
        keep = np.arange(len(self.names)) != place
        return Features(
            names=tuple(n for i, n in enumerate(self.names) if i != place),
            trees={side: x[:, keep] for side, x in self.trees.items()},
            nominal=self.nominal[keep],
        )

    def linear(self) -> dict[str, Floats]:
        """The columns for a linear model, by side: float64 (rows, features).

        Numbers are cut at their 0.1 % ends and standardized, missing at 0 with a mark of its own; of categories the
        commonest are one-hots. Scales are those of the training rows.
        """
        return {side: np.column_stack([x[:, :0], *self._linear(side)]) for side, x in self.trees.items()}

    def _linear(self, side: str) -> Iterator[Floats]:
        for i, nominal in enumerate(self.nominal):
            own, values = self.trees["train"][:, i], self.trees[side][:, i]
            if nominal:
                top = int(min(HOT, np.nanmax(own, initial=-1) + 1))
                yield (values[:, None] == np.arange(top)[None, :]).astype(np.float64)
                continue
            gone = np.isnan(own).any()
            present = own[np.isfinite(own)]
            if not len(present):
                continue
            # Squares of the largest floats overflow, and a scale is taken out below anyway.
            size = scale_of(present)
            present, values = present / size, values / size
            low, high = np.quantile(present, [0.001, 0.999])
            spread = np.clip(present, low, high).std() or 1.0
            yield (np.nan_to_num((np.clip(values, low, high) - np.clip(present, low, high).mean()) / spread))[
                :, None
            ]
            if gone:
                yield np.isnan(values).astype(np.float64)[:, None]


def _by_count(cells: Cells) -> npt.NDArray[np.int64] | None:
    """Code → rank of how common it is over all sides; None for numbers."""
    if cells.numbers is not None:
        return None
    counts = sum((cells.counts(side) for side in SIDES), np.zeros(len(cells.values), np.int64))
    order = np.empty(len(counts), np.int64)
    order[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    return order


def _coded(cells: Cells, order: npt.NDArray[np.int64] | None, side: str) -> Floats:
    if order is None:
        assert cells.numbers is not None
        return cells.numbers[side]
    codes = cells.codes[side]
    ranks = np.append(order, 0)[codes].astype(np.float64)
    return np.where(codes < 0, np.nan, ranks)


LARGEST = 1e100
"""A number whose square is one as well."""


def scale_of(values: Floats) -> float:
    """What numbers are divided by so that their squares do not overflow; 1 unless they are huge."""
    most = float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
    return most if most > LARGEST else 1.0


def teachable(x: Floats) -> Floats:
    """Features with 0 in those columns of which no row knows anything: scikit-learn's trees cannot cut nothing."""
    return np.where(np.isnan(x).all(axis=0), 0.0, x)


@contextmanager
def one_thread() -> Iterator[None]:
    """Trees add in an order that depends on the number of threads; evidence must not depend on the machine."""
    with threadpool_limits(1):
        yield


def bounded(most: int, columns: int, classes: int = 2, *, values: int = TAUGHT) -> int:
    """Rows that trees see at most: `most`, and fewer of many columns or classes, since time grows with all three.

    One tree is grown for two classes or a number, and one for each of more.
    """
    trees = classes if classes > 2 else 1
    return min(most, max(LEAST_ROWS, values // max(columns * trees, 1)))


def draw(rows: int, most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Numbers of at most `most` of so many rows, drawn uniformly, ascending."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(rng.choice(rows, most, replace=False)).astype(np.int64)


def resampled(rows: int, rng: np.random.Generator) -> Weights:
    """Weights of the rows, float64 (1 + RESAMPLES, rows): first all 1, then those of Poisson's bootstrap."""
    return np.concatenate([np.ones((1, rows)), rng.poisson(1.0, (RESAMPLES, rows)).astype(np.float64)])


def from_resamples(values: Floats) -> Estimate:
    """The first value, with an interval of the others' standard deviation."""
    value, error = float(values[0]), float(np.std(values[1:], ddof=1))
    return estimate(value, lambda z: (value - z * error, value + z * error))


def weighted_auc(scores: Floats, positive: npt.NDArray[np.bool_], weights: Weights) -> Floats:
    """Area under the curve under each row of weights, equals by half: float64 (weights,); 0.5 without both classes."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0)
    ordered = weights[:, order]
    up = np.add.reduceat(ordered * positive[order], starts, axis=1)
    down = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    won = (up * (np.cumsum(down, axis=1) - down / 2)).sum(axis=1)
    all_pairs = up.sum(axis=1) * down.sum(axis=1)
    return np.where(all_pairs > 0, won / np.maximum(all_pairs, 1e-300), 0.5)


def weighted_r2(truth: Floats, guess: Floats, weights: Weights) -> Floats:
    """Share of the variance that is explained under each row of weights, at least −1: float64 (weights,)."""
    total = weights.sum(axis=1)
    mean = (weights @ truth) / np.maximum(total, 1e-300)
    variance = weights @ truth**2 - total * mean**2
    left = weights @ (truth - guess) ** 2
    explained: Floats = np.clip(1 - left / np.maximum(variance, 1e-300), -1.0, 1.0)
    return explained
