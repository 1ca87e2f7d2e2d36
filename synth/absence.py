"""Columns that are missing together: no basement, a cancelled flight, an application without a second person.

Where one thing is absent, several columns are missing in the same rows. Models see that as one more column, with
the states "all missing" and "not all missing"; in rows where all are missing the columns themselves are unknown,
so a model need not learn the same fact once for each of them, and none of them is drawn without the others.
Nothing is lost: a row in which only some of them are missing says so itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.curator import MISSING, Batch, Curator, Floats, Held

UNKNOWN = -1

MISSING_STATE = 0
"""The state of a missing cell, and of a group that is missing."""

TOGETHER = 0.9
"""Share of the rows with either column missing in which both must be missing."""


@dataclass(frozen=True, kw_only=True)
class Absence:
    """A group of columns that are missing together.

    Attributes:
        columns: their places in the schema, rising.
        rate: share of the rows in which they are missing together.
    """

    columns: tuple[int, ...]
    rate: float


def learn_absences(curator: Curator, names: Sequence[str], often: Sequence[int]) -> tuple[Absence, ...]:
    """Finds the groups by two sums over raw rows.

    Args:
        curator: over raw columns.
        names: all columns.
        often: places of the columns that enough units have missing, and enough present.
    """
    if len(often) < 2:
        return ()
    answer = curator.sum(_Both([names[i] for i in often]))
    both = np.maximum(answer.value, 0).reshape(len(often), -1)
    alone = np.diag(both)
    either = alone[:, None] + alone[None] - both
    alike = both >= TOGETHER * np.maximum(either, 1e-300)
    groups: list[list[int]] = []
    for i in range(len(often)):
        fitting = [g for g in groups if alike[i, g].all()]
        if fitting:
            fitting[0].append(i)
        else:
            groups.append([i])
    found = [tuple(often[i] for i in g) for g in groups if len(g) > 1]
    if not found:
        return ()
    *gone, rows = curator.sum(_All([[names[i] for i in g] for g in found])).value
    return tuple(
        Absence(columns=g, rate=float(np.clip(n / max(rows, 1.0), 0.0, 1.0)))
        for g, n in zip(found, gone, strict=True)
    )


class _Both:
    """Σ of m mᵀ with m the row's missing columns: a row adds at most C² ones, so its norm is at most C."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self.size = len(names) ** 2
        self.bound = float(len(names))

    def of(self, batch: Batch) -> "_BothOfBatch":
        """What these rows add."""
        missing = [np.asarray(batch.columns[name]) == MISSING for name in self._names]
        return _BothOfBatch(np.stack(missing, 1).astype(np.float64))


class _BothOfBatch:
    def __init__(self, missing: Floats) -> None:
        self._missing = missing

    def norms(self) -> Floats:
        return np.asarray(self._missing.sum(1))

    def weighted(self, weights: Floats | None) -> Floats:
        scaled = self._missing if weights is None else self._missing * weights[:, None]
        return np.asarray(scaled.T @ self._missing).ravel()


class _All:
    """Σ of (1 for each group that is missing, 1): a row adds at most G + 1 ones."""

    def __init__(self, groups: Sequence[Sequence[str]]) -> None:
        self._groups = groups
        self.size = len(groups) + 1
        self.bound = float(np.sqrt(self.size))

    def of(self, batch: Batch) -> Held:
        """What these rows add."""
        gone = [
            np.all([np.asarray(batch.columns[name]) == MISSING for name in group], 0)
            for group in self._groups
        ]
        return Held(np.stack([*gone, np.ones(len(batch), np.bool_)], 1).astype(np.float64))


def folded(
    states: NDArray[np.int32], present: NDArray[np.bool_], absences: Sequence[Absence]
) -> NDArray[np.int32]:
    """States with one more column for each group.

    Where only some columns of a group are known and all of these are missing, the group is taken for missing.

    Args:
        states: int32 (n, C).
        present: bool (n, C): cells that are known to hold a value, though perhaps one of no state.
        absences: G groups.

    Returns:
        int32 (n, C + G).
    """
    columns = states.shape[1]
    states = np.concatenate([states, np.full((len(states), len(absences)), UNKNOWN, np.int32)], 1)
    for g, absence in enumerate(absences, start=columns):
        own = states[:, absence.columns]
        there = present[:, absence.columns].any(1)
        gone = (own == MISSING_STATE).any(1) & ~there
        states[:, g] = np.where(gone, MISSING_STATE, np.where(there, 1, UNKNOWN))
        states[:, absence.columns] = np.where(gone[:, None], UNKNOWN, own)
    return states


def unfolded(states: NDArray[np.int32], absences: Sequence[Absence]) -> NDArray[np.int32]:
    """The inverse of `folded` for rows without unknown groups: int32 (n, C + G) → (n, C)."""
    columns = states.shape[1] - len(absences)
    out = states[:, :columns].copy()
    for g, absence in enumerate(absences, start=columns):
        out[:, absence.columns] = np.where(
            states[:, [g]] == MISSING_STATE, MISSING_STATE, out[:, absence.columns]
        )
    return out


def rates_where_present(rates: Sequence[float], absence: Absence) -> tuple[float, ...]:
    """Rates of a column's states in the rows where its group is not missing; the first is of missing."""
    rest = max(1 - absence.rate, 1e-12)
    return (max(0.0, rates[0] - absence.rate) / rest, *(r / rest for r in rates[1:]))
