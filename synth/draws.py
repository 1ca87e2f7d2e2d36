"""Draws from tables of probabilities, many at once and from one generator."""

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from privacy.curator import Floats


@contextlib.contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator, which libraries of others draw from, seeded inside of the block and then put back."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


def from_tables(rng: np.random.Generator, table: Floats, column: NDArray[np.int64]) -> NDArray[np.int64]:
    """One draw from column `column[i]` of `table` for each i.

    All cumulative tables stand one after the other on one line, so a single binary search serves all rows.

    Args:
        rng: the only source of randomness.
        table: float64 (S, K): K distributions, which need not be normalized.
        column: int64 (n,) in [0, K).

    Returns:
        int64 (n,) in [0, S).
    """
    return _looked_up(_on_a_line(table), len(table), column, rng.random(len(column)))


def _on_a_line(table: Floats) -> Floats:
    """The cumulative shares of distribution k from k to k + 1, one after the other: (K · S,)."""
    cumulative = np.cumsum(table, 0)
    cumulative = cumulative / np.maximum(cumulative[-1], 1e-300)
    return np.asarray((cumulative + np.arange(table.shape[1])).T.ravel())


def _looked_up(
    line: Floats, size: int, column: NDArray[np.int64], luck: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Where luck, uniform in [0, 1), falls on the stretch of each distribution, in [0, size): int64 (n,)."""
    at = np.searchsorted(line, column + luck, side="right") - column * size
    return np.asarray(np.clip(at, 0, size - 1), np.int64)


class Tables:
    """Distributions from which many draws are made, each in constant time (alias method: Walker 1977, Vose 1991).

    A distribution over S values is cut into S parts of equal probability, of which each holds one value or two.

    Args:
        table: float64 (S, K): K distributions, which need not be normalized.
    """

    MOST = 4096
    """Values above which a binary search takes the place of the parts, which take S steps to make."""

    def __init__(self, table: Floats) -> None:
        self._size = len(table)
        self._line: Floats | None = None
        if self._size > self.MOST:
            self._line = _on_a_line(table)
            return
        self._stays, self._way = _parts(table)

    def draw(self, rng: np.random.Generator, column: NDArray[np.int64]) -> NDArray[np.int64]:
        """One draw from distribution `column[i]` for each i: int64 (n,) in [0, S).

        Args:
            rng: the only source of randomness.
            column: int64 (n,) in [0, K).
        """
        luck = rng.random(len(column))
        if self._line is not None:
            return _looked_up(self._line, self._size, column, luck)
        luck *= self._size
        part = luck.astype(np.int64)
        luck -= part
        at = column * self._size + part
        # Without a choice for each row, which a processor cannot foresee.
        part += (luck >= self._stays[at]) * self._way[at]
        return part


def _parts(table: Floats) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """For each of the S equal parts of K distributions the share of its own value, and the way to its other: (K · S,).

    The least probable value that is left fills a part with what it has, and the most probable one the rest of it.
    """
    size, columns = table.shape
    whole = table.sum(0)
    # A distribution of nothing at all is never asked for.
    share = np.where(whole > 0, table / np.maximum(whole, 1e-300), 1 / size) * size
    order = np.argsort(share, axis=0, kind="stable")
    stays, way = np.ones((size, columns), np.float32), np.zeros((size, columns), np.int16)
    every = np.arange(columns)
    least, most = np.zeros(columns, np.int64), np.full(columns, size - 1)
    left = share[order[most, every], every]
    for _ in range(size - 1):
        # A giver that has less than a part left is the next to be filled, by the giver after it.
        gave_all = left < 1
        giver = order[most, every]
        filled = np.where(gave_all, giver, order[np.minimum(least, size - 1), every])
        has = np.where(gave_all, left, share[filled, every])
        most = np.maximum(np.where(gave_all, most - 1, most), 0)
        least = np.where(gave_all, least, least + 1)
        giver = order[most, every]
        left = np.where(gave_all, share[giver, every], left) - (1 - has)
        stays[filled, every], way[filled, every] = has, giver - filled
    return np.ascontiguousarray(stays.T).ravel(), np.ascontiguousarray(way.T).ravel()


def rowwise(rng: np.random.Generator, weights: NDArray[np.floating]) -> NDArray[np.int64]:
    """One draw from each row of `weights`, float (n, K), which need not be normalized: int64 (n,)."""
    cumulative = np.cumsum(weights, 1, dtype=np.float64)
    luck = rng.random(len(weights)) * cumulative[:, -1]
    at = np.count_nonzero(cumulative <= luck[:, None], 1)
    # Rounding may bring luck to the very end, where the last values may have no weight.
    last = weights.shape[1] - 1 - np.argmax(weights[:, ::-1] > 0, 1)
    return np.asarray(np.minimum(at, last), np.int64)
