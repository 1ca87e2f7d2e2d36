"""Small real rows for a curator: arrays in memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privacy.curator import Batch

KEY = b"sixteen bytes or"


@dataclass(frozen=True)
class ArrayRows:
    """Rows that lie in arrays, given out in small batches."""

    unit: NDArray[np.uint64]
    columns: Mapping[str, NDArray[np.generic]]
    unit_is_row: bool = True
    holdout: NDArray[np.bool_] | None = None
    batch_rows: int = 4

    def batches(self, columns: Sequence[str] | None = None, *, size: int | None = None) -> Iterator[Batch]:
        names = self.columns if columns is None else columns
        rows = min(size or self.batch_rows, self.batch_rows)
        for start in range(0, len(self.unit), rows):
            part = slice(start, start + rows)
            yield Batch(
                unit=self.unit[part],
                columns={n: self.columns[n][part] for n in names},
                holdout=None if self.holdout is None else self.holdout[part],
            )


@dataclass
class ListStore:
    """Keeps recoded batches in the order in which they come."""

    unit_is_row: bool
    written: list[Batch] = field(default_factory=list)

    def write(self, batch: Batch) -> None:
        self.written.append(batch)

    def close(self) -> "ListStore":
        return self

    def batches(self, columns: Sequence[str] | None = None, *, size: int | None = None) -> Iterator[Batch]:
        for batch in self.written:
            names = batch.columns if columns is None else columns
            yield Batch(unit=batch.unit, columns={n: batch.columns[n] for n in names}, holdout=batch.holdout)


def numbered(rows: int, **arrays: NDArray[np.generic]) -> ArrayRows:
    """Rows of which each is a unit of its own; without other arrays, one column `row` with their numbers."""
    columns = arrays or {"row": np.arange(rows, dtype=np.int64)}
    return ArrayRows(np.arange(rows, dtype=np.uint64), columns, batch_rows=max(4, rows // 7))
