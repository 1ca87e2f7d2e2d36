"""Fidelity: how close a synthetic table is to the real one, beside what real held-out rows score.

Every figure comes twice: synthetic rows against the training rows, and held-out rows against the training
rows, its ceiling. What is measured reads private rows, so a `Fidelity` is evidence of the inside; with
``at_least`` it shows no bin and no category of fewer real rows than that, or of fewer units where rows have
units: what is named or cut then comes from one drawn row of each unit.
"""

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from synth.draws import numpy_seeded
from synth.schema import Schema
from validation.associations import COMMON, associations, information, keep_common
from validation.ceilings import Groups, errors
from validation.cells import DRAWN, SIDES, Cells, Codes, Floats, cells_of, groups_of, one_of_each

BINS = 40
"""Bins of a numeric overlay at most."""

LABELS = 30
"""Categories that an overlay names at most."""

OTHERS, MISSING = "(all others)", "(missing)"

LOST_FROM = 10
"""Training units from which on a lost category, or missing values that are gone, are listed."""

GROUP_FROM = 0.005
"""Share of the training rows from which on a lost group, two categories that occur together, is listed."""

LISTED = 50
"""Lost categories of a column, and lost groups of a table, that are listed at most: the commonest."""

REPORT_CATEGORIES = 1_000
"""Categories of a column that pair trends tell apart: SDMetrics builds a dense table of each pair."""

UNIQUE = 0.99
"""Share of different values from which on a column is unique, so that held-out rows have none of them."""

_DECIMALS = 14
"""SDMetrics rounds numbers to so many before it compares them."""


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """One column, real and synthetic, as two lines over the same bins or labels.

    Attributes:
        column: its name.
        kind: its kind.
        labels: the categories of a categorical column, then `OTHERS`, then `MISSING`; else empty.
        edges: ``len(real) + 1`` edges of a numeric column: epoch seconds, seconds, or the value; else empty.
            What lies beyond the first or last edge is counted in the bin beside it. Edges are round: multiples
            of 1, 2 or 5 times a power of ten, less a half where all values are whole.
        real: shares of the real rows; of the present ones where there are edges.
        synthetic: the same of the synthetic rows.
    """

    column: str
    kind: str
    labels: tuple[str, ...]
    edges: tuple[float, ...]
    real: tuple[float, ...]
    synthetic: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ColumnFidelity:
    """One column.

    Attributes:
        name: its name.
        kind: its kind.
        shape: SDMetrics column shape, 1 is best; None where it does not apply.
        shape_ceiling: the same for held-out rows.
        shape_error: standard error of that ceiling, by which rows were held out; None where it is not known.
        missing_real: share of missing training values.
        missing_synthetic: share of missing synthetic values.
        missing_holdout: share of missing held-out values.
        lost: categories that `LOST_FROM` training units have and no synthetic row, with their share, commonest first.
        sizes: how many categories have 1, 2–3, 4–7, 8–15, … training rows.
        pooled: share of the present training values whose category has too few units to be released: no synthetic
            row can have them, so the shape score lacks as much.
        taken: of a text, which is never learned, the share of the synthetic values that some training row has.
        taken_holdout: the same of held-out values: what chance gives.
        strongest: the column with the strongest association in the training rows, if there is any.
        association_real: that association in the training rows, in [0, 1].
        association_synthetic: the same pair in the synthetic rows.
        association_holdout: the same pair in the held-out rows.
    """

    name: str
    kind: str
    shape: float | None
    shape_ceiling: float | None
    missing_real: float
    missing_synthetic: float
    missing_holdout: float
    lost: tuple[tuple[str, float], ...]
    strongest: str | None
    association_real: float
    association_synthetic: float
    association_holdout: float = 0.0
    sizes: tuple[int, ...] = ()
    pooled: float = 0.0
    taken: float | None = None
    taken_holdout: float | None = None
    shape_error: float | None = None


@dataclass(frozen=True, kw_only=True)
class LostGroup:
    """Two categories that training rows have together, in `share` of them, and no synthetic row has."""

    columns: tuple[str, str]
    values: tuple[str, str]
    share: float


@dataclass(frozen=True, kw_only=True)
class PairFidelity:
    """Two columns: SDMetrics pair trend (None below its thresholds), its ceiling, the association, shared information.

    Shared information is None where it was not measured: by `sketch`, and between groups of a wide table.
    """

    first: str
    second: str
    trend: float | None
    trend_ceiling: float | None
    association_real: float
    association_synthetic: float
    association_holdout: float = 0.0
    information_real: float | None = None
    information_synthetic: float | None = None
    information_holdout: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """All of it.

    Attributes:
        rows_train: training rows that were measured.
        rows_holdout: held-out rows that were measured.
        rows_synthetic: synthetic rows that were measured.
        shape: SDMetrics Column Shapes, synthetic against train, in [0, 1].
        trend: SDMetrics Column Pair Trends, synthetic against train, in [0, 1].
        shape_ceiling: Column Shapes, holdout against train.
        trend_ceiling: Column Pair Trends, holdout against train.
        shape_error: standard error of that ceiling, by which rows were held out; None where it is not known.
        trend_error: the same of the other ceiling.
        copies: share of synthetic rows that equal some training row in every learned column.
        copies_holdout: the same for the held-out rows: what chance gives.
        copies_rare: share of synthetic rows that equal a training row which few training units share.
        copies_rare_holdout: the same for the held-out rows.
        copies_moved: share of synthetic rows that equal a training row after each unique column on a grid was
            moved by one step: what chance gives where held-out rows cannot have a training value. None where
            there is no such column.
        copies_rare_moved: the same for rare training rows.
        copies_twins: share of training rows that equal another unit's: what chance gives, too, counted on more rows.
        copies_rare_twins: the same of rows that few training units share.
        repeats: share of synthetic rows that equal another one, of as many rows as there are training rows at most.
        repeats_real: the same of training rows, of as many as there are synthetic rows at most.
        groups: lost groups, commonest first.
        noised: whether the real side is what noised answers said (`validation.fitted`), so not rows.
        columns: one for each column of the schema, in order.
        pairs: one for each two learned columns.
        overlays: for the learned columns that can be drawn.
    """

    rows_train: int
    rows_holdout: int
    rows_synthetic: int
    shape: float | None
    trend: float | None
    shape_ceiling: float | None
    trend_ceiling: float | None
    copies: float | None
    copies_holdout: float | None
    columns: tuple[ColumnFidelity, ...]
    pairs: tuple[PairFidelity, ...]
    overlays: tuple[Overlay, ...]
    copies_rare: float | None = None
    copies_rare_holdout: float | None = None
    copies_moved: float | None = None
    copies_rare_moved: float | None = None
    copies_twins: float | None = None
    copies_rare_twins: float | None = None
    repeats: float | None = None
    repeats_real: float | None = None
    groups: tuple[LostGroup, ...] = ()
    noised: bool = False
    shape_error: float | None = None
    trend_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Fidelity":
        """The inverse of `to_dict`."""
        columns = tuple(
            ColumnFidelity(
                **{**c, "lost": tuple((str(k), float(v)) for k, v in c["lost"]), "sizes": tuple(c["sizes"])}
            )
            for c in data["columns"]
        )
        groups = tuple(
            LostGroup(columns=tuple(g["columns"]), values=tuple(g["values"]), share=g["share"])
            for g in data["groups"]
        )
        overlays = tuple(
            Overlay(
                column=o["column"],
                kind=o["kind"],
                labels=tuple(o["labels"]),
                edges=tuple(o["edges"]),
                real=tuple(o["real"]),
                synthetic=tuple(o["synthetic"]),
            )
            for o in data["overlays"]
        )
        pairs = tuple(PairFidelity(**p) for p in data["pairs"])
        return cls(**{**data, "columns": columns, "pairs": pairs, "overlays": overlays, "groups": groups})


def measure(
    train: pa.Table, holdout: pa.Table, synthetic: pa.Table, schema: Schema, *,
    at_least: int, seed: int, units: npt.NDArray[np.uint64] | None = None,
    held_units: npt.NDArray[np.uint64] | None = None,
) -> Fidelity:  # fmt: skip
    """Measures a synthetic table against the rows that it was learned from, and held-out rows beside it.

    Identifiers, texts and empty columns count with their missing rates alone. A column that a table lacks, or
    whose values cannot be read as the schema's type, counts as all missing there.

    SDMetrics draws rows from tables of more than 50,000 with NumPy's global generator: it is seeded around
    the call and then put back. Pair trends tell the 1,000 commonest categories of a column apart. On a table
    of more than 100 learned columns they are measured within random groups of 25 columns, drawn by `seed`,
    which estimates the same mean without a bias; the other pairs have no trend.

    Args:
        train: the training rows.
        holdout: held-out rows; may be empty, then the ceilings are None.
        synthetic: the synthetic rows.
        schema: what the columns are.
        at_least: units (rows where `units` is None) below which no bin and no category is shown; 0 shows all.
        seed: of what is drawn.
        units: uint64 (training rows,), equal for the rows of one unit; None: each row is a unit. Shares are of
            all rows, but which categories and bins exist is decided by one drawn row of each unit.
        held_units: the same of the held-out rows.

    Raises:
        ValueError: `units` has another length than `train`.
    """
    cells = _Measured.of((train, holdout, synthetic), schema, units, seed=seed)
    against = {
        side: _quality(cells.learned, side=side, rows=(train.num_rows, table.num_rows), seed=seed)
        for side, table in (("synthetic", synthetic), ("holdout", holdout))
    }
    found = _measured(cells, against, at_least=at_least, seed=seed)
    groups = Groups.drawn(holdout.num_rows, held_units, seed=seed)
    found = _with_errors(found, cells.learned, against["holdout"], groups)
    found = replace(found, pairs=tuple(_informed(found.pairs, cells.learned, seed=seed)))
    overlays = tuple(o for c in cells.learned if (o := _overlay(c, at_least=at_least)) is not None)
    found = _with_copies(found, cells, at_least=at_least, seed=seed)
    again = _repeats(cells.learned, at_least=at_least, seed=seed)
    return replace(found, overlays=overlays, repeats=again["synthetic"], repeats_real=again["train"])


def sketch(
    train: pa.Table, holdout: pa.Table, synthetic: pa.Table, schema: Schema, *,
    at_least: int, seed: int, units: npt.NDArray[np.uint64] | None = None,
) -> Fidelity:  # fmt: skip
    """As `measure`, without pair trends, errors, copies and overlays: what columns and pairs are held to, quickly.

    Raises:
        ValueError: `units` has another length than `train`.
    """
    cells = _Measured.of((train, holdout, synthetic), schema, units, seed=seed)
    against = {
        side: _Quality(shapes={i: _shape(c, side) for i, c in enumerate(cells.learned)}, trends={})
        for side in ("synthetic", "holdout")
    }
    return _measured(cells, against, at_least=at_least, seed=seed)


def count_copies(
    train: pa.Table, holdout: pa.Table, synthetic: pa.Table, schema: Schema, *,
    at_least: int, seed: int, units: npt.NDArray[np.uint64] | None = None,
) -> Fidelity:  # fmt: skip
    """Copies as `measure` counts them, and nothing else.

    Raises:
        ValueError: `units` has another length than `train`.
    """
    cells = _Measured.of((train, holdout, synthetic), schema, units, seed=seed)
    nothing = Fidelity(
        rows_train=cells.rows[0], rows_holdout=cells.rows[1], rows_synthetic=cells.rows[2],
        shape=None, trend=None, shape_ceiling=None, trend_ceiling=None, copies=None, copies_holdout=None,
        columns=(), pairs=(), overlays=(),
    )  # fmt: skip
    return _with_copies(nothing, cells, at_least=at_least, seed=seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    """The columns of three tables, those of them that are learned, and the unit of each training row."""

    every: list["Cells"]
    learned: list["Cells"]
    rows: tuple[int, int, int]
    units: npt.NDArray[np.uint64] | None

    @classmethod
    def of(
        cls,
        tables: tuple[pa.Table, pa.Table, pa.Table],
        schema: Schema,
        units: npt.NDArray[np.uint64] | None,
        *,
        seed: int,
    ) -> "_Measured":
        if units is not None and len(units) != tables[0].num_rows:
            raise ValueError(
                f"each training row must have a unit, however: {len(units)} for {tables[0].num_rows}"
            )
        drawn = one_of_each(units, seed=seed) if units is not None else None
        every = [cells_of(column, tables, drawn) for column in schema]
        return cls(
            every=every,
            learned=[c for c in every if c.column.learned],
            rows=(tables[0].num_rows, tables[1].num_rows, tables[2].num_rows),
            units=units,
        )


def _measured(cells: _Measured, against: Mapping[str, "_Quality"], *, at_least: int, seed: int) -> Fidelity:
    """Everything but overlays and copies."""
    learned = cells.learned
    strength = associations(learned, at_least=at_least, seed=seed)
    places = {id(c): i for i, c in enumerate(learned)}
    columns = tuple(
        _column(
            c, i=places.get(id(c)), learned=learned, against=against, strength=strength, at_least=at_least
        )
        for c in cells.every
    )
    return Fidelity(
        rows_train=cells.rows[0],
        rows_holdout=cells.rows[1],
        rows_synthetic=cells.rows[2],
        shape=_mean(against["synthetic"].shapes.values()),
        trend=_mean(against["synthetic"].trends.values()),
        shape_ceiling=_mean(against["holdout"].shapes.values()),
        trend_ceiling=_mean(against["holdout"].trends.values()),
        copies=None,
        copies_holdout=None,
        columns=columns,
        pairs=tuple(_pairs(learned, against=against, strength=strength)),
        overlays=(),
        groups=_lost_groups(learned, at_least=at_least),
    )


def _with_errors(found: Fidelity, learned: list[Cells], held: "_Quality", groups: Groups) -> Fidelity:
    """With the standard errors of what held-out rows score."""
    scored = [i for i, s in held.shapes.items() if s is not None]
    own = errors(learned, scored, [p for p, s in held.trends.items() if s is not None], groups)
    of = {learned[i].column.name: e for i, e in own.shapes.items()}
    columns = tuple(replace(c, shape_error=of.get(c.name)) for c in found.columns)
    return replace(found, shape_error=own.shape, trend_error=own.trend, columns=columns)


def _with_copies(found: Fidelity, cells: _Measured, *, at_least: int, seed: int) -> Fidelity:
    learned, units, rare = cells.learned, cells.units, max(at_least, 2)
    copies, copies_rare = _copies(learned, "synthetic", rare=rare, units=units)
    chance, chance_rare = _copies(learned, "holdout", rare=rare, units=units)
    moved = _moved(learned, seed=seed)
    twins, twins_rare = _twins(learned, rare=rare, units=units)
    by_step, by_step_rare = _copies(moved, "synthetic", rare=rare, units=units) if moved else (None, None)
    return replace(
        found,
        copies=copies,
        copies_holdout=chance,
        copies_rare=copies_rare,
        copies_rare_holdout=chance_rare,
        copies_moved=by_step,
        copies_rare_moved=by_step_rare,
        copies_twins=twins,
        copies_rare_twins=twins_rare,
    )


# ── SDMetrics ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class _Quality:
    """SDMetrics scores: shapes by column number, trends by two column numbers (the smaller first)."""

    shapes: Mapping[int, float | None]
    trends: Mapping[tuple[int, int], float | None]


def _quality(learned: list[Cells], *, side: str, rows: tuple[int, int], seed: int) -> _Quality:
    """QualityReport of one side against the training rows."""
    if min(rows) == 0 or not learned:
        return _Quality(shapes={}, trends={})
    shapes: dict[int, float | None] = {}
    trends: dict[tuple[int, int], float | None] = {}
    with numpy_seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for group in groups_of(len(learned), seed=seed):
            found = _report([learned[i] for i in group], side)
            shapes |= {group[i]: score for i, score in found.shapes.items()}
            trends |= {(group[i], group[j]): score for (i, j), score in found.trends.items()}
        shapes |= {i: _total_variation(c, side) for i, c in enumerate(learned) if _many(c)}
    return _Quality(shapes=shapes, trends=trends)


def _report(group: list[Cells], side: str) -> _Quality:
    # One table's report; importing it warns that one for several tables would do, too.
    from sdmetrics.reports.single_table import QualityReport

    report = QualityReport()
    with np.errstate(all="ignore"):
        report.generate(_frame(group, "train"), _frame(group, side), _metadata(group), verbose=False)
    shapes = report.get_details("Column Shapes")
    trends = report.get_details("Column Pair Trends")
    return _Quality(
        shapes={
            int(c[1:]): _score(s) for c, s in zip(shapes["Column"], shapes["Score"], strict=True)
        },
        trends={
            (int(a[1:]), int(b[1:])): _score(s)
            for a, b, s in zip(trends["Column 1"], trends["Column 2"], trends["Score"], strict=True)
        } if len(trends) else {},
    )  # fmt: skip


def diagnosed(learned: Sequence[Cells], side: str) -> float | None:
    """SDMetrics' DiagnosticReport of one side beside the training rows: values within bounds, known categories.

    None where a side has no row.
    """
    group = [c for c in learned if (c.codes["train"] >= 0).any()]
    if not group or not len(group[0].codes["train"]) or not len(group[0].codes[side]):
        return None
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        # As with the other report, one table's.
        from sdmetrics.reports.single_table import DiagnosticReport

        report = DiagnosticReport()
        report.generate(_frame(group, "train"), _frame(group, side), _metadata(group), verbose=False)
    return _score(report.get_score())


def _metadata(group: Sequence[Cells]) -> dict[str, Any]:
    sdtype = {"numerical": "numerical", "duration": "numerical", "datetime": "datetime"}
    kinds = (sdtype.get(c.column.kind, "categorical") for c in group)
    return {"columns": {f"c{i}": {"sdtype": kind} for i, kind in enumerate(kinds)}}


def _frame(group: Sequence[Cells], side: str) -> pd.DataFrame:
    """What SDMetrics reads: numbers, times, and categories as codes; the names of columns are ours."""
    return pd.DataFrame({f"c{i}": _series(c, side) for i, c in enumerate(group)})


def _series(cells: Cells, side: str) -> Floats | npt.NDArray[np.datetime64]:
    if cells.numbers is None:
        codes = cells.codes[side]
        if _many(cells):
            codes = np.append(keep_common(cells.counts("train"), REPORT_CATEGORIES), -1)[codes]
        return np.where(codes < 0, np.nan, codes.astype(np.float64))
    if cells.column.kind != "datetime":
        return cells.numbers[side]
    seconds = cells.numbers[side]
    micros = np.round(np.nan_to_num(seconds) * 1e6).astype("datetime64[us]")
    return np.where(np.isnan(seconds), np.datetime64("NaT", "us"), micros)


def _many(cells: Cells) -> bool:
    return cells.numbers is None and len(cells.values) > REPORT_CATEGORIES


def _shape(cells: Cells, side: str) -> float | None:
    """SDMetrics' column shape without its report and without the p-value, which takes most of its time."""
    if cells.numbers is None:
        return _total_variation(cells, side)
    from scipy.stats import ks_2samp

    real, other = (np.round(_present(cells.numbers[s]), _DECIMALS) for s in ("train", side))
    if not len(real) or not len(other):
        return None
    return _score(1 - ks_2samp(real, other, method="asymp").statistic)


def _total_variation(cells: Cells, side: str) -> float | None:
    """The shape of a column whose rare categories were pooled for the pair trends: from all of them."""
    from sdmetrics.single_column import TVComplement

    if not all((cells.codes[s] >= 0).any() for s in ("train", side)):
        return None
    real, other = (
        np.where(codes < 0, np.nan, codes.astype(np.float64))
        for codes in (cells.codes["train"], cells.codes[side])
    )
    return _score(TVComplement.compute(pd.Series(real), pd.Series(other)))


def _score(value: float) -> float | None:
    return None if not np.isfinite(value) else float(np.clip(value, 0.0, 1.0))


def _mean(scores: Any) -> float | None:
    present = [s for s in scores if s is not None]
    return float(np.mean(present)) if present else None


# ── columns, pairs, copies ──────────────────────────────────────────────────────────────────────────────────


def _column(
    cells: Cells, *, i: int | None, learned: list[Cells],
    against: Mapping[str, _Quality], strength: Mapping[str, Floats], at_least: int,
) -> ColumnFidelity:  # fmt: skip
    partner = None
    if i is not None and len(learned) > 1:
        j = int(np.argmax(strength["train"][i]))
        partner = j if strength["train"][i, j] > 0 else None
    at = {side: float(strength[side][i, partner]) if partner is not None else 0.0 for side in SIDES}
    shapes = {
        side: against[side].shapes.get(i) if i is not None else None for side in ("synthetic", "holdout")
    }
    return ColumnFidelity(
        name=cells.column.name,
        kind=cells.column.kind,
        shape=shapes["synthetic"],
        shape_ceiling=shapes["holdout"],
        missing_real=cells.missing("train"),
        missing_synthetic=cells.missing("synthetic"),
        missing_holdout=cells.missing("holdout"),
        lost=_lost(cells, at_least=at_least),
        strongest=learned[partner].column.name if partner is not None else None,
        association_real=at["train"],
        association_synthetic=at["synthetic"],
        association_holdout=at["holdout"],
        sizes=_sizes(cells),
        pooled=_pooled(cells, at_least=at_least),
        taken=_taken(cells, "synthetic"),
        taken_holdout=_taken(cells, "holdout"),
    )


def _taken(cells: Cells, side: str) -> float | None:
    """Share of the values of a text that training rows have; identifiers may meet by chance."""
    codes = cells.codes[side]
    codes = codes[codes >= 0]
    if cells.column.kind != "text" or not len(codes):
        return None
    return float(np.isin(codes, cells.codes["train"]).mean())


def _sizes(cells: Cells) -> tuple[int, ...]:
    """How many categories have 1, 2–3, 4–7, … training rows."""
    counts = (
        cells.counts("train") if cells.numbers is None and cells.column.learned else np.zeros(0, np.int64)
    )
    return tuple(np.bincount(np.log2(counts[counts > 0]).astype(np.int64)).tolist())


def _pooled(cells: Cells, *, at_least: int) -> float:
    if cells.numbers is not None or not cells.column.learned:
        return 0.0
    real = cells.counts("train")
    return float(real[cells.counts(DRAWN) < at_least].sum() / max(real.sum(), 1))


def _lost(cells: Cells, *, at_least: int) -> tuple[tuple[str, float], ...]:
    rows = len(cells.codes["train"])
    if cells.numbers is not None or not cells.column.learned or rows == 0:
        return ()
    real, synthetic = cells.counts("train"), cells.counts("synthetic")
    shared = cells.counts(DRAWN) >= max(at_least, LOST_FROM)
    gone = np.flatnonzero((synthetic == 0) & shared)
    gone = gone[np.argsort(-real[gone], kind="stable")][:LISTED]
    return tuple((_text(cells, code), float(real[code] / rows)) for code in gone.tolist())


def _lost_groups(learned: list[Cells], *, at_least: int) -> tuple[LostGroup, ...]:
    """Two categories that occur together in `GROUP_FROM` of the training rows and in no synthetic row.

    Missing is no category here, a category that is lost altogether is told of by its column, and columns of more than
    `COMMON` categories are left out.
    """
    words = [c for c in learned if c.numbers is None and 1 < len(c.values) <= COMMON]
    found = (
        g
        for i, first in enumerate(words)
        for second in words[i + 1 :]
        for g in _apart(first, second, at_least)
    )
    return tuple(sorted(found, key=lambda g: -g.share)[:LISTED])


def _apart(first: Cells, second: Cells, at_least: int) -> Iterator[LostGroup]:
    real, units, synthetic = (_together(first, second, side) for side in ("train", DRAWN, "synthetic"))
    least = GROUP_FROM * len(first.codes["train"])
    alive = (synthetic.sum(axis=1) > 0)[:, None] & (synthetic.sum(axis=0) > 0)[None, :]
    gone = (synthetic == 0) & (real >= max(least, 1)) & (units >= max(at_least, LOST_FROM)) & alive
    for i, j in np.argwhere(gone).tolist():
        yield LostGroup(
            columns=(first.column.name, second.column.name),
            values=(_text(first, i), _text(second, j)),
            share=float(real[i, j] / len(first.codes["train"])),
        )


def _together(first: Cells, second: Cells, side: str) -> Codes:
    """Rows of each two categories, int64 (codes of the first, codes of the second)."""
    a, b = first.codes[side], second.codes[side]
    both = (a >= 0) & (b >= 0)
    wide = len(second.values)
    counts = np.bincount(a[both] * wide + b[both], minlength=len(first.values) * wide)
    return counts.reshape(len(first.values), wide).astype(np.int64)


def _pairs(
    learned: list[Cells], *, against: Mapping[str, _Quality], strength: Mapping[str, Floats]
) -> Iterator[PairFidelity]:
    for i, first in enumerate(learned):
        for j in range(i + 1, len(learned)):
            yield PairFidelity(
                first=first.column.name,
                second=learned[j].column.name,
                trend=against["synthetic"].trends.get((i, j)),
                trend_ceiling=against["holdout"].trends.get((i, j)),
                association_real=float(strength["train"][i, j]),
                association_synthetic=float(strength["synthetic"][i, j]),
                association_holdout=float(strength["holdout"][i, j]),
            )


def _informed(pairs: Iterable[PairFidelity], learned: list[Cells], *, seed: int) -> Iterator[PairFidelity]:
    shared = information(learned, seed=seed)
    place = {c.column.name: i for i, c in enumerate(learned)}
    for pair in pairs:
        at = place[pair.first], place[pair.second]
        yield replace(
            pair,
            information_real=shared["train"].get(at),
            information_synthetic=shared["synthetic"].get(at),
            information_holdout=shared["holdout"].get(at),
        )


def _copies(
    learned: list[Cells], side: str, *, rare: int, units: npt.NDArray[np.uint64] | None
) -> tuple[float | None, float | None]:
    """Share of rows that equal some training row, and one that fewer than `rare` training units share.

    Rows are compared by a 64-bit hash of their codes, which are exact: a false match has a chance of about
    rows² / 2⁶⁵.
    """
    if not learned or not len(learned[0].codes[side]) or not len(learned[0].codes["train"]):
        return None, None
    seen, times = np.unique(_by_unit(learned, units), return_counts=True)
    rows = _row_hashes(learned, side)
    place = np.searchsorted(seen, rows).clip(max=len(seen) - 1)
    found = seen[place] == rows
    return float(found.mean()), float((found & (times[place] < rare)).mean())


def _twins(
    learned: list[Cells], *, rare: int, units: npt.NDArray[np.uint64] | None
) -> tuple[float | None, float | None]:
    """Share of training rows that equal another unit's, and one that fewer than `rare` other units have.

    What an honest row would do is what a training row does beside all others.
    """
    if not learned or not len(learned[0].codes["train"]):
        return None, None
    _, place, times = np.unique(_by_unit(learned, units), return_inverse=True, return_counts=True)
    others = times[place] - 1
    return float(np.mean(others > 0)), float(np.mean((others > 0) & (others < rare)))


def _repeats(learned: list[Cells], *, at_least: int, seed: int) -> dict[str, float | None]:
    """Share of the rows of a side that equal another one of it, of equally many rows; rare categories are all one."""
    sides = ("train", "synthetic")
    rows = min((len(learned[0].codes[s]) for s in sides), default=0) if learned else 0
    if rows < 2:
        return dict.fromkeys(sides)
    pooled = [_pooled_rare(c, at_least=at_least) for c in learned]
    out: dict[str, float | None] = {}
    for side in sides:
        chosen = np.random.default_rng(seed).permutation(len(learned[0].codes[side]))[:rows]
        hashes = _row_hashes(pooled, side)[chosen]
        _, place, times = np.unique(hashes, return_inverse=True, return_counts=True)
        out[side] = float(np.mean(times[place] > 1))
    return out


def _pooled_rare(cells: Cells, *, at_least: int) -> Cells:
    """The column with the categories that too few units have as one, since a release has but a word for them."""
    if cells.numbers is not None:
        return cells
    rare = np.append(cells.counts(DRAWN) < at_least, False)
    return replace(cells, codes={s: np.where(rare[c], -2, c) for s, c in cells.codes.items()})


def _by_unit(learned: list[Cells], units: npt.NDArray[np.uint64] | None) -> npt.NDArray[np.uint64]:
    """Hashes of the training rows, equal rows of one unit counted once."""
    trained = _row_hashes(learned, "train")
    return trained if units is None else np.unique(np.column_stack([trained, units]), axis=0)[:, 0]


def _moved(learned: list[Cells], *, seed: int) -> list[Cells]:
    """The columns, with each unique one on a grid moved by a step, up or down, in the synthetic rows.

    Held-out rows have no value of a column that is unique, say an hourly timestamp, so by construction none
    of them is a copy, while a good synthetic row on the same grid hits a training value by chance. A step
    beside, it hits one as often as training values lie beside each other: often on a full grid, hardly ever
    for amounts. A shuffle within the synthetic table was rejected: it keeps memorized values, so where such a
    column stands alone all copies would pass as chance. A row in which all such columns are missing cannot be moved,
    and counts as no copy here: held-out rows tell of those. Empty where there is no such column.
    """
    rng = np.random.default_rng(seed)
    steps = [_step(c) for c in learned]
    if not any(steps):
        return []
    unmoved = np.all(
        [
            np.isnan(c.numbers["synthetic"])
            for c, s in zip(learned, steps, strict=True)
            if s and c.numbers is not None
        ],
        axis=0,
    )
    return [c if s is None else _beside(c, s, unmoved, rng) for c, s in zip(learned, steps, strict=True)]


def _step(cells: Cells) -> float | None:
    """The grid of a unique column: the largest number that all differences of training values divide.

    None where the kind is not continuous, values repeat, or they have more than six decimals.
    """
    if cells.numbers is None:
        return None
    present = cells.numbers["train"][~np.isnan(cells.numbers["train"])]
    values = np.unique(present)
    if len(values) < 3 or len(values) < UNIQUE * len(present):
        return None
    for scale in (1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6):
        ticks = values * scale
        if np.abs(ticks).max() >= 2**53:
            return None
        if np.abs(ticks - np.round(ticks)).max() < 1e-3:
            return float(np.gcd.reduce(np.diff(np.round(ticks).astype(np.int64)))) / scale
    return None


def _beside(cells: Cells, step: float, unmoved: npt.NDArray[np.bool_], rng: np.random.Generator) -> Cells:
    """The column with its synthetic values a step up or down; -2 where no training value is there."""
    assert cells.numbers is not None
    trained, codes = cells.numbers["train"], cells.codes["train"]
    values, first = np.unique(trained[~np.isnan(trained)], return_index=True)
    codes = codes[~np.isnan(trained)][first]
    old = cells.numbers["synthetic"]
    wanted = old + step * rng.choice([-1.0, 1.0], len(old))
    place = np.searchsorted(values, wanted - step / 4).clip(max=len(values) - 1)
    hit = np.abs(values[place] - wanted) < step / 4
    moved = np.where(np.isnan(old), cells.codes["synthetic"], np.where(hit, codes[place], -2))
    moved = np.where(unmoved, -2, moved)
    return replace(cells, codes={**cells.codes, "synthetic": moved})


def _row_hashes(learned: list[Cells], side: str) -> npt.NDArray[np.uint64]:
    """One hash for each row, uint64 (rows,), by splitmix64 (Steele, Lea and Flood 2014) over its codes."""
    state = np.zeros(len(learned[0].codes[side]), np.uint64)
    with np.errstate(over="ignore"):
        for cells in learned:
            z = state + cells.codes[side].astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = z ^ (z >> np.uint64(31))
    return state


# ── overlays ────────────────────────────────────────────────────────────────────────────────────────────────


def _overlay(cells: Cells, *, at_least: int) -> Overlay | None:
    return _labels(cells, at_least=at_least) if cells.numbers is None else _bins(cells, at_least=at_least)


def _labels(cells: Cells, *, at_least: int) -> Overlay | None:
    """Categories by share of all rows; each label stands for `at_least` units at least, or for none."""
    real, synthetic, units = (cells.counts(side) for side in ("train", "synthetic", DRAWN))
    rows = (len(cells.codes["train"]), len(cells.codes["synthetic"]))
    if min(rows) == 0 or len(cells.codes[DRAWN]) < at_least:
        return None
    shared = np.flatnonzero(units >= max(at_least, 1))
    named = shared[np.argsort(-real[shared], kind="stable")][:LABELS].tolist()
    gone = [int((cells.codes[side] < 0).sum()) for side in ("train", "synthetic", DRAWN)]
    # Missing values of too few units are shown with the others.
    pooled, missing = (gone, [0, 0, 0]) if gone[0] and gone[2] < at_least else ([0, 0, 0], gone)

    def rest(counts: Codes, more: int) -> int:
        return int(counts.sum() - counts[named].sum()) + more

    while named and rest(real, pooled[0]) and rest(units, pooled[2]) < at_least:
        named.pop()
    if rest(real, pooled[0]) and rest(units, pooled[2]) < at_least:
        pooled, missing = gone, [0, 0, 0]
    others = rest(real, pooled[0]), rest(synthetic, pooled[1])
    labels, shown = [_text(cells, c) for c in named], [(int(real[c]), int(synthetic[c])) for c in named]
    if any(others):
        labels, shown = [*labels, OTHERS], [*shown, others]
    if any(missing[:2]):
        labels, shown = [*labels, MISSING], [*shown, (missing[0], missing[1])]
    return Overlay(
        column=cells.column.name,
        kind=cells.column.kind,
        labels=tuple(labels),
        edges=(),
        real=tuple(r / rows[0] for r, _ in shown),
        synthetic=tuple(s / rows[1] for _, s in shown),
    )


def _text(cells: Cells, code: int) -> str:
    value = cells.values[code]
    kind = cells.column.arrow_type
    if pa.types.is_temporal(kind):
        value = value.cast(kind)
    return str(value.as_py())


def _bins(cells: Cells, *, at_least: int) -> Overlay | None:
    """Equal bins between the first and last percentile, merged until each holds `at_least` units."""
    assert cells.numbers is not None
    real, synthetic, units = (_present(cells.numbers[side]) for side in ("train", "synthetic", DRAWN))
    if len(units) < max(at_least, 1):
        return None
    edges = _edges(np.sort(units), at_least=at_least)
    if edges is None:
        return None
    counts = np.bincount(np.searchsorted(edges[1:-1], units, side="right"), minlength=len(edges) - 1)
    keep = _merge(counts, at_least=max(at_least, 1))
    edges = np.concatenate([edges[:1], edges[keep]])
    inside = edges[1:-1]

    def shares(values: Floats) -> tuple[float, ...]:
        found = np.bincount(np.searchsorted(inside, values, side="right"), minlength=len(edges) - 1)
        return tuple((found / max(len(values), 1)).tolist())

    return Overlay(
        column=cells.column.name,
        kind=cells.column.kind,
        labels=(),
        edges=tuple(edges.tolist()),
        real=shares(real),
        synthetic=shares(synthetic),
    )


def _present(values: Floats) -> Floats:
    return values[~np.isnan(values)]


def _edges(ordered: Floats, *, at_least: int) -> Floats | None:
    """Edges of at most `BINS` bins between the `at_least`-th value from either end.

    They are round numbers, so that none tells the value of a row: multiples of a width of 1, 2 or 5 times a
    power of ten, for whole numbers less a half. A single value is shown only if `at_least` rows have it. None
    where fewer than `at_least` values lie between the ends, or floats are too coarse for bins.
    """
    n = len(ordered)
    k = min(max(at_least - 1, 0), (n - 1) // 2)
    low = max(float(np.quantile(ordered, 0.01)), float(ordered[k]))
    high = min(float(np.quantile(ordered, 0.99)), float(ordered[n - 1 - k]))
    if not low < high:
        low, high = float(ordered[k]), float(ordered[n - 1 - k])
    if np.count_nonzero((ordered >= low) & (ordered <= high)) < at_least:
        return None
    whole = float(np.all(ordered == np.round(ordered)))
    width = max(_round_up((high + whole) / BINS - low / BINS), whole)
    if width > 0:
        first, last = np.ceil(low / width), np.floor((high + whole) / width)
        edges = np.unique((first + np.arange(max(last - first, 0) + 1)) * width - whole / 2)
        if len(edges) > 1:
            return edges
    # Beyond 2^53, and where all values are one, bins of that width do not exist.
    return np.array([np.nextafter(low, -np.inf), np.nextafter(high, np.inf)]) if low == high else None


def _round_up(width: float) -> float:
    """The next of 1, 2 and 5 times a power of ten; 0 for what is not positive."""
    if not width > 0:
        return 0.0
    power = 10.0 ** np.floor(np.log10(width))
    return next((float(m * power) for m in (1, 2, 5) if m * power >= width), float(10 * power))


def _merge(counts: npt.NDArray[np.int64], *, at_least: int) -> list[int]:
    """Right edges of the bins after neighbours are merged until each holds `at_least`."""
    keep: list[int] = []
    held = 0
    for right, count in enumerate(counts.tolist(), start=1):
        held += count
        if held >= at_least:
            keep.append(right)
            held = 0
    if held or keep[-1] != len(counts):
        keep[-1] = len(counts)
    return keep
