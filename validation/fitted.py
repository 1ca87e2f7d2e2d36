"""Fitted: figures of a release under privacy, from what the model was fitted to.

The profile holds noised counts of every column, which were charged when they were asked for. To hold the synthetic
rows against them costs nothing more and tells nothing more. It is no comparison with rows that were held out: it shows
what the model lost of what it was told, not what noise took from that.
"""

import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from privacy.curator import MISSING, Floats
from synth.keys import from_keys, is_text, to_keys
from synth.profile import ColumnProfile, Profile
from synth.schema import OTHER, Column, Schema
from validation.cells import as_numbers
from validation.fidelity import MISSING as MISSING_LABEL
from validation.fidelity import OTHERS, ColumnFidelity, Fidelity, Overlay

BARS, BINS = 12, 40
"""Categories, and bins of a number, that an overlay shows at most."""


def fitted(schema: Schema, profile: Profile, synthetic: pa.Table) -> Fidelity:
    """Synthetic rows beside the profile that the model was fitted to.

    Args:
        schema: the columns.
        profile: noised rates of each.
        synthetic: the rows, in the schema's types.
    """
    sides = [
        _Sides.of(column, learned, synthetic.column(column.name))
        for column, learned in zip(schema, profile.columns, strict=True)
        if column.learned
    ]
    by_name = {s.column.name: s for s in sides}
    columns = tuple(_column(c, p, by_name) for c, p in zip(schema, profile.columns, strict=True))
    shapes = [c.shape for c in columns if c.shape is not None]
    return Fidelity(
        rows_train=round(profile.rows),
        rows_holdout=0,
        rows_synthetic=len(synthetic),
        shape=float(np.mean(shapes)) if shapes else None,
        trend=None,
        shape_ceiling=None,
        trend_ceiling=None,
        copies=None,
        copies_holdout=None,
        columns=columns,
        pairs=(),
        overlays=tuple(o for s in sides if (o := s.overlay()) is not None),
        noised=True,
    )


class _Sides:
    """One column as rates of the same values on both sides: first missing, then values in their order.

    Args:
        column: what it is.
        names: of the values, for categories; else empty.
        keys: where the values begin, int64, for numbers; else empty.
        real: noised rates, float64 (1 + values,).
        synthetic: rates of the rows, of the same shape.
    """

    def __init__(
        self, column: Column, names: list[str], keys: NDArray[np.int64], real: Floats, synthetic: Floats
    ) -> None:
        self.column, self.names, self.keys = column, names, keys
        self.real, self.synthetic = real, synthetic

    @classmethod
    def of(cls, column: Column, learned: ColumnProfile, values: pa.ChunkedArray) -> "_Sides":
        """A column's profile beside its synthetic values."""
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        rows = max(1, len(values))
        if is_text(column.arrow_type):
            names = [str(a) for a in learned.atoms]
            place = pc.index_in(values.cast(pa.string()), pa.array(names, pa.string()))
            found = place.fill_null(len(names)).to_numpy(zero_copy_only=False)
            found = np.where(values.is_null().to_numpy(zero_copy_only=False), len(names) + 1, found)
            counts = np.bincount(found, minlength=len(names) + 2) / rows
            real = np.array([learned.missing, *learned.atom_rates, learned.pooled])
            return cls(column, [*names, OTHER], np.empty(0, np.int64), real, np.roll(counts, 1))
        keys = to_keys(values)
        present = keys[keys != MISSING]
        # The last edge begins a cell without rows, so that it is known where the one before ends.
        starts = np.array([*learned.atoms, *learned.edges], np.int64)
        rates = np.array([*learned.atom_rates, *learned.cell_rates, *[0.0] * bool(learned.edges)])
        counts = np.bincount(_places(learned, present), minlength=len(starts)) / rows
        # An atom stands before the cell that begins with it, which is empty.
        order = np.lexsort((np.arange(len(starts)) >= len(learned.atoms), starts))
        named = column.kind in ("categorical", "boolean")
        return cls(
            column,
            [str(v) for v in from_keys(starts, column.arrow_type).take(order).to_pylist()] if named else [],
            starts[order],
            np.concatenate([[learned.missing], rates[order]]),
            np.concatenate([[1 - len(present) / rows], counts[order]]),
        )

    def shape(self) -> float | None:
        """1 less the total variation of categories, or the Kolmogorov–Smirnov distance of numbers, where present."""
        real, synthetic = (side[1:] / max(side[1:].sum(), 1e-300) for side in (self.real, self.synthetic))
        if not len(real) or not self.real[1:].sum() > 0 or not self.synthetic[1:].sum() > 0:
            return None
        gap = real - synthetic
        if self.names:
            return float(1 - np.abs(gap).sum() / 2)
        return float(1 - np.abs(np.cumsum(gap)).max())

    def lost(self) -> Iterator[tuple[str, float]]:
        """Categories that no synthetic row has."""
        # A number has no names; then nothing is lost by name.
        for name, real, synthetic in zip(self.names, self.real[1:], self.synthetic[1:], strict=False):
            if real > 0 and synthetic == 0:
                yield name, float(real)

    def overlay(self) -> Overlay | None:
        """Both sides as two lines."""
        return self._bars() if self.names else self._bins()

    def _bars(self) -> Overlay:
        order = np.argsort(-self.real[1:], kind="stable")[:BARS]
        sides = []
        for side in (self.real, self.synthetic):
            named = side[1:][order]
            rest = max(0.0, float(side[1:].sum() - named.sum()))
            sides.append([*named.tolist(), rest, float(side[0])])
        labels = [*(self.names[i] for i in order), OTHERS, MISSING_LABEL]
        shown = [i for i, *pair in zip(range(len(labels)), *sides, strict=True) if max(pair) > 1e-9]
        return Overlay(
            column=self.column.name,
            kind=self.column.kind,
            labels=tuple(labels[i] for i in shown),
            edges=(),
            real=tuple(sides[0][i] for i in shown),
            synthetic=tuple(sides[1][i] for i in shown),
        )

    def _bins(self) -> Overlay | None:
        starts = np.unique(self.keys)
        if len(starts) < 2:
            return None
        values = as_numbers(pa.chunked_array([from_keys(starts, self.column.arrow_type)]))
        first, last = values[0], values[-1]
        if not (np.isfinite(values).all() and last > first):
            return None
        edges = np.linspace(first, last, BINS + 1)
        if pa.types.is_integer(self.column.arrow_type):
            edges = np.arange(first, last + 1, math.ceil((last - first) / BINS))
            edges = np.append(edges, last) if edges[-1] < last else edges
        sides = [self._shares(side, values, edges) for side in (self.real, self.synthetic)]
        return Overlay(
            column=self.column.name,
            kind=self.column.kind,
            labels=(),
            edges=tuple(edges.tolist()),
            real=sides[0],
            synthetic=sides[1],
        )

    def _shares(self, side: Floats, values: Floats, edges: Floats) -> tuple[float, ...]:
        """Shares of bins, each cell spread evenly up to where the next begins."""
        mass = np.bincount(np.unique(self.keys, return_inverse=True)[1], side[1:], minlength=len(values))
        reached = np.interp(edges, values, np.concatenate([[0.0], np.cumsum(mass[:-1])]))
        shares = np.diff(reached)
        shares[-1] += mass[-1]
        return tuple((shares / max(shares.sum(), 1e-300)).tolist())


def _places(learned: ColumnProfile, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of a profile's atoms, or of the cells after them, each key is in: int64 (n,)."""
    cells = np.array(learned.edges[:-1], np.int64)
    place = len(learned.atoms) + np.searchsorted(cells, keys, side="right") - 1
    for i, atom in enumerate(learned.atoms):
        place[keys == atom] = i
    return np.asarray(place.clip(0), np.int64)


def _column(column: Column, learned: ColumnProfile, sides: dict[str, _Sides]) -> ColumnFidelity:
    side = sides.get(column.name)
    return ColumnFidelity(
        name=column.name,
        kind=column.kind,
        shape=None if side is None else side.shape(),
        shape_ceiling=None,
        missing_real=learned.missing,
        missing_synthetic=learned.missing if side is None else float(side.synthetic[0]),
        missing_holdout=learned.missing,
        lost=() if side is None else tuple(side.lost()),
        strongest=None,
        association_real=0.0,
        association_synthetic=0.0,
    )
