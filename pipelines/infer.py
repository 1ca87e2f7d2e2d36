"""infer: a regression on the rows of a release, with intervals about those whom the real rows are a sample of.

Nothing but the release is read. What the intervals mean, and when they are honest, is in docs/inference.md.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.released import Released, draws_of, read
from privacy.errors import ReleaseError, UsageError
from synth.schema import Column, nearest
from validation.cells import CONTINUOUS, as_numbers
from validation.inference import combine
from validation.markup import one_line
from validation.regression import Fit, Kind, fit

Floats = npt.NDArray[np.float64]

LEVELS, CLASSES = 50, 20
"""Categories of a column, and classes of a target, at most."""

DAY = 86_400.0

CONSTANT = "(constant)"

_WORD = re.compile(r"\s*(?:`([^`]+)`|([^`+~]+?))\s*(?=[+~]|$)")


@dataclass(frozen=True, kw_only=True)
class Formula:
    """What is explained by what: `income ~ age + sex`; names with + or ~ between backticks, `.` for all others."""

    target: str
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, names: Sequence[str], usable: Sequence[str] | None = None) -> "Formula":
        """Reads a formula about columns of these names, of which `.` means the usable ones (None: all).

        Raises:
            UsageError: it is none, or a name is no column.
        """
        words, at = [], 0
        while at < len(text) and (found := _WORD.match(text, at)):
            sign = text[found.end() : found.end() + 1]
            words.append((found[1] or found[2], sign))
            at = found.end() + 1
        signs = [sign for _, sign in words]
        if len(words) < 2 or at < len(text) or signs != ["~", *["+"] * (len(words) - 2), ""]:
            raise UsageError(
                f"a formula must be a target, ~, and columns with + between, however: {text!r}; "
                "write 'income ~ age + sex'"
            )
        target, *columns = [word for word, _ in words]
        for name in (target, *columns):
            if name not in names and name != ".":
                raise UsageError(
                    f"a formula must name columns, however: {name!r} is none{nearest(name, names)}; "
                    "schema.json in the release has their names"
                )
        if "." in columns and "." not in names:
            columns = [n for n in (names if usable is None else usable) if n != target]
        if target in columns or target not in names:
            raise UsageError(
                f"a target must be a column and not explain itself, however: {text!r}; leave it out"
            )
        return cls(target=target, columns=tuple(dict.fromkeys(columns)))


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """One coefficient; None where the rows do not tell.

    Attributes:
        term: a column, or `column = category` against the one that `Inferred.against` names.
        value: in units of the column (days for times).
        error: standard error.
        low: lower end of the 95 % interval.
        high: its upper end.
    """

    term: str
    value: float | None
    error: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A regression.

    Attributes:
        target: what is explained.
        outcome: the class whose log-odds are, and that which they are held against; None for numbers.
        kind: linear or logistic.
        terms: the coefficients.
    """

    target: str
    outcome: tuple[str, str] | None
    kind: Kind
    terms: tuple[Estimated, ...]


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """What a release says.

    Attributes:
        regressions: one, or one for each class of the target but the commonest.
        rows: of each draw.
        draws: of the table.
        learned_rows: real rows that the model learned from, about.
        complete: share of the rows that miss nothing that was asked; the others are left out.
        against: column → the category, its commonest, that its others are held against.
        factor: how much wider intervals are than those of one table of all rows, taken for real ones.
        notes: what a reader must know.
    """

    regressions: tuple[Explained, ...]
    rows: int
    draws: int
    learned_rows: int
    complete: float
    against: dict[str, str]
    factor: float
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def describe(self) -> str:
        """For a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for found in self.regressions:
            of = (
                one_line(found.target)
                if found.outcome is None
                else f"log-odds that {one_line(found.target)} is {one_line(found.outcome[0])}, "
                f"not {one_line(found.outcome[1])}"
            )
            wide = max(len(one_line(t.term)) for t in found.terms)
            yield f"{found.kind}: {of}"
            yield f"  {'term':<{wide}} {'estimate':>12} {'95 % interval':>27}"
            for term in found.terms:
                name = f"  {one_line(term.term):<{wide}}"
                if term.value is None or term.low is None or term.high is None:
                    yield f"{name} {'not told':>12}"
                    continue
                yield f"{name} {term.value:>12.5g} {f'{term.low:.5g} to {term.high:.5g}':>27}"
        if self.against:
            bases = ", ".join(f"{one_line(c)} with {one_line(v)}" for c, v in self.against.items())
            yield f"categories are compared with the commonest of their column: {bases}"
        drawn = f"{self.draws} draws of {self.rows:,} rows" if self.draws > 1 else f"{self.rows:,} rows"
        yield (
            f"from {drawn}, after about {self.learned_rows:,} real ones; {_complete(self.complete)}; "
            f"intervals are {self.factor:.2f} times as wide as if all rows were real"
        )
        yield from (f"note: {n}" for n in self.notes)


def _complete(share: float) -> str:
    if share == 1:
        return "none misses a value that is asked"
    return f"{100 * (1 - share):.3g} % of them miss a value that is asked and are left out"


def infer(release: Path, formula: str, *, learned: int | None = None) -> Inferred:
    """Estimates from every draw of a release, combined.

    Args:
        release: its folder.
        formula: what is explained by what.
        learned: real rows that the model learned from, where the certificate does not say it.

    Raises:
        ReleaseError: it is no release, or does not say how many rows its model learned from.
        UsageError: the formula cannot be followed.
    """
    about = read(release)
    usable = [c.name for c in about.schema if c.learned and c.image is None]
    asked = Formula.parse(formula, about.schema.names, usable)
    rows, learned_rows = about.rows, learned or about.certificate.get("learned_rows")
    if not isinstance(learned_rows, int) or learned_rows < 1:
        raise ReleaseError(
            "intervals need the number of real rows that the model learned from, however: the certificate of "
            f"{release} does not say it; ask who made the release, and give --learned"
        )
    names = (asked.target, *asked.columns)
    for name in names:
        _check(about.schema[name])
    tables = [_table(folder, names) for folder in draws_of(release)]
    whole = pa.concat_tables(tables).unify_dictionaries()
    known = np.ones(len(whole), np.bool_)
    for name in names:
        known &= ~np.isnan(_numbers(whole, about.schema[name]))
    bounds = np.cumsum([0, *(len(t) for t in tables)])
    x, terms, against, center = _design(whole, [about.schema[n] for n in asked.columns], known)
    of_draw = [np.arange(a, b)[known[a:b]] for a, b in itertools.pairwise(bounds)]
    regressions = tuple(
        _explained(asked.target, outcome, kind, x, y, terms, center, [r[chosen[r]] for r in of_draw],
                   rows=rows, learned=learned_rows)
        for outcome, kind, y, chosen in _outcomes(whole, about.schema[asked.target], known)
    )  # fmt: skip
    return Inferred(
        regressions=regressions,
        rows=rows,
        draws=len(tables),
        learned_rows=learned_rows,
        complete=float(known.mean()),
        against=against,
        factor=float(np.sqrt(len(tables) * rows / learned_rows + 1)),
        notes=tuple(_notes(about, asked.target)),
    )


def _check(column: Column) -> None:
    if not column.learned or column.image is not None:
        raise UsageError(
            f"a regression needs columns that were learned, however: {column.name!r} is kind: {column.kind}; "
            "leave it out"
        )


def _table(folder: Path, names: Sequence[str]) -> pa.Table:
    try:
        return pa.concat_tables(
            [
                pq.read_table(p, columns=list(names), partitioning=None)
                for p in sorted(folder.glob("part-*.parquet"))
            ]
        ).unify_dictionaries()
    except (OSError, pa.ArrowException):
        raise ReleaseError(
            f"data must be Parquet, however: a file of {folder} is not; fetch it again"
        ) from None


def _numbers(table: pa.Table, column: Column) -> Floats:
    """Values of a number (times in days), or codes of categories: float64 (rows,), NaN is missing."""
    values = table.column(column.name)
    if column.kind in CONTINUOUS:
        return as_numbers(values) / (DAY if column.kind == "datetime" else 1.0)
    codes = _codes(values).indices
    return np.asarray(codes.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _codes(values: pa.ChunkedArray) -> pa.DictionaryArray:
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.combine_chunks().dictionary_encode()


def _levels(codes: Floats, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Codes by how common they are."""
    found, counts = np.unique(codes[rows].astype(np.int64), return_counts=True)
    return found[np.argsort(-counts, kind="stable")]


def _design(
    table: pa.Table, columns: Sequence[Column], known: npt.NDArray[np.bool_]
) -> tuple[Floats, list[str], dict[str, str], tuple[Floats, Floats]]:
    """The design matrix with a constant, its terms, what categories are held against, and means and scales of terms."""
    parts, terms = [np.ones(len(table))], [CONSTANT]
    against: dict[str, str] = {}
    for column in columns:
        values = _numbers(table, column)
        if column.kind in CONTINUOUS:
            parts.append(np.nan_to_num(values))
            terms.append(f"{column.name} (days)" if column.kind == "datetime" else column.name)
            continue
        names, levels = _codes(table.column(column.name)).dictionary, _levels(values, known)
        if len(levels) > LEVELS:
            raise UsageError(
                f"a regression takes columns of {LEVELS} categories at most, however: {column.name!r} has "
                f"{len(levels)}; leave it out, or merge categories and use combine from Python"
            )
        if len(levels):
            against[column.name] = str(names[int(levels[0])].as_py())
        for level in levels[1:]:
            parts.append((values == level).astype(np.float64))
            terms.append(f"{column.name} = {names[int(level)].as_py()}")
    x = np.column_stack(parts)
    mean, scale = x[known].mean(axis=0), x[known].std(axis=0)
    marks = np.isin(x, (0.0, 1.0)).all(axis=0)
    mean, scale = np.where(marks, 0.0, mean), np.where(marks | (scale == 0), 1.0, scale)
    return (x - mean) / scale, terms, against, (mean, scale)


def _outcomes(
    table: pa.Table, target: Column, known: npt.NDArray[np.bool_]
) -> Iterator[tuple[tuple[str, str] | None, Kind, Floats, npt.NDArray[np.bool_]]]:
    """What is explained: classes, kind, y, and which rows are asked."""
    y = _numbers(table, target)
    levels = _levels(y, known) if target.kind not in CONTINUOUS else np.unique(y[known])
    if len(levels) < 2:
        raise UsageError(
            f"a target must have two values among complete rows, however: {target.name!r} has {len(levels)}; "
            "name another"
        )
    if target.kind in CONTINUOUS and len(levels) > 2:
        yield None, "linear", y, known
        return
    if len(levels) > CLASSES:
        raise UsageError(
            f"a target must have {CLASSES} classes at most, however: {target.name!r} has {len(levels)}; name another"
        )
    if target.kind in CONTINUOUS:
        names = {float(v): f"{v:.12g}" for v in levels}
    else:
        dictionary = _codes(table.column(target.name)).dictionary
        names = {float(v): str(dictionary[int(v)].as_py()) for v in levels}
    first = float(levels[0])
    for level in map(float, levels[1:]):
        chosen = known & ((y == level) | (y == first))
        yield (names[level], names[first]), "logistic", (y == level).astype(np.float64), chosen


def _explained(
    target: str, outcome: tuple[str, str] | None, kind: Kind, x: Floats, y: Floats, terms: Sequence[str],
    center: tuple[Floats, Floats], draws: Sequence[npt.NDArray[np.int64]], *, rows: int, learned: int,
) -> Explained:  # fmt: skip
    fits = [fit(kind, x[r], y[r]) for r in draws]
    good = [f for f in fits if f is not None]
    if len(good) < len(fits):
        raise UsageError(
            f"a target must not follow exactly from other columns, and needs more rows than terms, however: {target!r} "
            f"does or has too few; leave columns out"
        )
    raw = [_in_units(f, *center) for f in good]
    found = combine([q for q, _ in raw], [v for _, v in raw], rows=rows, learned=learned)
    told = np.isfinite(found.values) & np.isfinite(found.errors)
    return Explained(
        target=target,
        outcome=outcome,
        kind=kind,
        terms=tuple(
            Estimated(term=t, value=float(q), error=float(e), low=float(low), high=float(high))
            if ok
            else Estimated(term=t, value=None, error=None, low=None, high=None)
            for t, q, e, low, high, ok in zip(
                terms, found.values, found.errors, found.low, found.high, told, strict=True
            )
        ),
    )


def _in_units(found: Fit, mean: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Coefficients and variances in units of the columns; the constant is that of a row of zeros."""
    values, variances = found.values / scale, np.diag(found.covariance) / scale**2
    there = np.isfinite(found.values)
    shift = np.where(there, -mean / scale, 0.0)
    shift[0] = 1.0
    values[0] = np.nansum(found.values * shift)
    variances[0] = float(shift[there] @ found.covariance[np.ix_(there, there)] @ shift[there])
    return values, variances


def _notes(about: Released, target: str) -> Iterator[str]:
    yield (
        "intervals are about those whom the real rows are a sample of, and cover what is true of them as often as they "
        "say only where the model kept it (docs/inference.md)"
    )
    if about.certificate.get("formal_guarantee"):
        yield "the model learned from noised answers, and that error is in no interval: these are too narrow"
    parity = about.certificate.get("parity")
    if isinstance(parity, dict):
        named = ", ".join(
            one_line(str(n)) for n in (parity.get("target"), *parity.get("across", ())) if n is not None
        )
        yield f"the recipe asked for parity of {named}, so what depends on them is not as in the real table"
    if about.schema.unit is not None:
        unit = one_line(about.schema.unit)
        yield f"several rows are of one {unit}, which these intervals do not know: they are too narrow"
    found = about.figures.get("regressions")
    if not any(isinstance(own, dict) and own.get("target") == target for own in found or ()):
        yield (
            f"nobody measured whether regressions of {one_line(target)} come out as on the real rows; a release whose "
            "recipe names it in `targets:` says so"
        )
    for own in found if isinstance(found, list) else ():
        if isinstance(own, dict) and own.get("target") == target and own.get("ceiling") is not None:
            of_class = "" if own.get("outcome") is None else f" is {one_line(str(own['outcome']))}"
            yield (
                f"of a regression of {one_line(target)}{of_class} on columns that matter, intervals from as many real "
                f"rows and from these overlap by {own['overlap']:.2f}, those of held-out rows by {own['ceiling']:.2f}"
            )
