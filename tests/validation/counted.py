"""Encoded rows of a few columns that depend on each other, and noisy answers about them."""

import numpy as np

from privacy.curator import Floats
from synth.codec import Encoded, Field, Layout
from tests.privacy.arrays import ArrayRows
from validation.coarse import Crossing, Recount, coarse
from validation.noised import Drawn, Noised, noised

STATES, COLUMNS = 6, 4
NAMES = {c: f"c{c}" for c in range(COLUMNS)}


def encoded(rows: int, *, seed: int, strength: float = 0.8, moved: float = 0.0) -> Encoded:
    """Rows whose columns share a factor; the last column is a score."""
    rng = np.random.default_rng(seed)
    factor = rng.standard_normal((rows, 1))
    values = strength * factor + np.sqrt(1 - strength**2) * rng.standard_normal((rows, COLUMNS)) + moved
    states = np.clip(np.floor(values * 1.2 + STATES / 2), 0, STATES - 1).astype(np.int32)
    states[:, -1] = 1
    return Encoded(states=states, scores=values[:, -1:].astype(np.float32))


def layout_of(rows: Encoded) -> Layout:
    """What a profile would say of them."""
    fields = [
        Field(
            name=NAMES[c],
            rates=tuple(np.bincount(rows.states[:, c], minlength=STATES) / len(rows)),
            score=None,
        )
        for c in range(COLUMNS - 1)
    ]
    fields.append(Field(name=NAMES[COLUMNS - 1], rates=(0.0, 1.0), score=0))
    return Layout(fields=tuple(fields), rows=float(len(rows)))


def arrays_of(rows: Encoded, unit: np.ndarray | None = None) -> ArrayRows:  # type: ignore[type-arg]
    """The same for a curator."""
    return ArrayRows(
        np.arange(len(rows), dtype=np.uint64) if unit is None else unit,
        {"states": rows.states, "scores": rows.scores},
        unit_is_row=unit is None,
        batch_rows=max(4, len(rows) // 3),
    )


def marginals_of(layout: Layout, *, alone: int = 6, paired: int = 4) -> tuple[Crossing, ...]:
    """All columns, then all pairs."""
    fine = [coarse(layout, c, alone) for c in range(COLUMNS)]
    few = [coarse(layout, c, paired) for c in range(COLUMNS)]
    pairs = [(a, b) for a in range(COLUMNS) for b in range(a + 1, COLUMNS)]
    return (*(Crossing(axes=(a,)) for a in fine), *(Crossing(axes=(few[a], few[b])) for a, b in pairs))


def shares_of(marginals: tuple[Crossing, ...], rows: Encoded) -> list[Floats]:
    """Exact shares of all cells."""
    return [np.bincount(m.cells(rows), minlength=np.prod(m.shape)) / len(rows) for m in marginals]


def recounted(
    marginals: tuple[Crossing, ...], rows: Encoded, *, noise: float, seed: int, held_out: bool = True
) -> Recount:
    """Noisy counts."""
    rng = np.random.default_rng(seed)
    counts = tuple(
        np.rint(s * len(rows) + noise * rng.standard_normal(s.shape)).reshape(m.shape)
        for m, s in zip(marginals, shares_of(marginals, rows), strict=True)
    )
    return Recount(marginals=marginals, counts=counts, noise_std=noise, unit_rows=1, held_out=held_out)


def figures(recount: Recount, synthetic: Encoded) -> Noised:
    """Noised figures of synthetic rows."""
    found = noised(recount, NAMES, [Drawn.of(m, synthetic) for m in recount.marginals])
    assert found is not None
    return found
