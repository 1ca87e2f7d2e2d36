"""Draws from tables of probabilities, many at once and from one generator."""

import numpy as np
from numpy.typing import NDArray

from privacy.curator import Floats


def categorical(rng: np.random.Generator, weights: Floats, rows: int) -> NDArray[np.int64]:
    """Independent draws from one distribution.

    Args:
        rng: the only source of randomness.
        weights: float64 (K,), not negative.
        rows: how many.

    Returns:
        int64 (rows,) in [0, K).
    """
    cumulative = np.cumsum(weights)
    drawn = np.searchsorted(cumulative, rng.random(rows) * cumulative[-1], side="right")
    return np.asarray(np.minimum(drawn, len(weights) - 1), np.int64)


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
    cumulative = np.cumsum(table, 0)
    cumulative = cumulative / np.maximum(cumulative[-1], 1e-300)
    line = (cumulative + np.arange(table.shape[1])).T.ravel()
    at = np.searchsorted(line, column + rng.random(len(column)), side="right") - column * len(table)
    return np.asarray(np.clip(at, 0, len(table) - 1), np.int64)


def rowwise(rng: np.random.Generator, weights: Floats) -> NDArray[np.int64]:
    """One draw from each row of `weights`, float64 (n, K), which need not be normalized: int64 (n,)."""
    cumulative = np.cumsum(weights, 1)
    at = (cumulative < rng.random(len(weights))[:, None] * cumulative[:, -1:]).sum(1)
    return np.asarray(np.minimum(at, weights.shape[1] - 1), np.int64)
