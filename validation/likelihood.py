"""Likelihood: how likely a model that knows densities takes real rows to be that it never saw.

Beside them stand training rows, which a model that learned them by heart takes for likelier, and rows of its own, which
are as likely as it believes real ones to be.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from privacy.errors import InputError
from synth.schema import Schema
from validation.cells import CONTINUOUS, SIDES, Floats
from validation.features import draw
from validation.markup import Html, element, paragraph, percent, scrolling, section, shown_name

Density = Callable[[pa.Table], Floats]
"""Log-density of each row, float64 (rows,); columns that are not there are integrated out."""

ROWS, COLUMN_ROWS = 2_000, 300
"""Rows of each side for whole rows, and for single columns, each of which is asked for twice."""

COLUMNS = 40
"""Columns of a table that is asked column by column, at most."""

FEWEST = 50

Of = Literal["row", "alone", "given"]


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over the rows that can be, its standard error, and the share of rows that the model says cannot be."""

    value: float
    error: float
    impossible: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Likely:
    """Mean log-densities, in nats and the units of the columns.

    Attributes:
        of: row, whole rows; alone, one column; given, one column given all others.
        column: which; None for whole rows.
        discrete: whether these are probabilities, so that exp(−value) is a perplexity.
        train: of training rows.
        holdout: of held-out rows.
        synthetic: of the model's own rows.
    """

    of: Of
    column: str | None
    discrete: bool
    train: Mean
    holdout: Mean
    synthetic: Mean | None


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """All of them.

    Attributes:
        columns: that a density is of.
        figures: whole rows first.
    """

    columns: int = 0
    figures: tuple[Likely, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        return {"columns": self.columns, "figures": [asdict(f) for f in self.figures]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Likelihood":
        """The inverse of `to_dict`."""
        figures = (
            Likely(**{**f, **{s: None if f[s] is None else Mean(**f[s]) for s in SIDES}})
            for f in data["figures"]
        )
        return cls(columns=data["columns"], figures=tuple(figures))


def likelihood(
    density: Density, tables: Mapping[str, pa.Table], schema: Schema, *, seed: int
) -> Likelihood | None:
    """Asks the model for whole rows, and of tables of few columns for each alone and given the others.

    Args:
        density: the model's.
        tables: of each of `SIDES`.
        schema: what the columns are; those that are not learned have no density.
        seed: of the rows that are drawn.

    Returns:
        The figures; None with too few rows.
    """
    names = [c.name for c in schema if c.learned and c.kind != "empty"]
    if not names or min(t.num_rows for t in tables.values()) < FEWEST:
        return None
    rng = np.random.default_rng(seed)
    drawn = {side: t.select(names).take(draw(t.num_rows, ROWS, rng)) for side, t in tables.items()}
    discrete = {c.name: c.kind not in CONTINUOUS for c in schema}
    whole = {side: density(table) for side, table in drawn.items()}
    means = {side: _mean(values) for side, values in whole.items()}
    if any(m is None for m in means.values()):
        return None
    figures = [Likely(of="row", column=None, discrete=all(discrete[n] for n in names), **means)]  # type: ignore[arg-type]
    if 1 < len(names) <= COLUMNS:
        chosen = {s: rng.permutation(drawn[s].num_rows)[:COLUMN_ROWS] for s in ("train", "holdout")}
        few = {side: drawn[side].take(rows) for side, rows in chosen.items()}
        known = {side: whole[side][rows] for side, rows in chosen.items()}
        for name in names:
            figures += _of_column(density, few, known, name, discrete=discrete[name])
    return Likelihood(columns=len(names), figures=tuple(figures))


def _of_column(
    density: Density,
    tables: Mapping[str, pa.Table],
    whole: Mapping[str, Floats],
    name: str,
    *,
    discrete: bool,
) -> Iterator[Likely]:
    for of in ("alone", "given"):
        try:
            # A row that cannot be has no density given anything: inf − inf.
            with np.errstate(invalid="ignore"):
                found = {
                    side: density(t.select([name]))
                    if of == "alone"
                    else whole[side] - density(t.drop_columns([name]))
                    for side, t in tables.items()
                }
        except InputError:
            # A constraint ties it to other columns, and a part of them has no density.
            continue
        train, holdout = _mean(found["train"]), _mean(found["holdout"])
        if train is not None and holdout is not None:
            yield Likely(of=of, column=name, discrete=discrete, train=train, holdout=holdout, synthetic=None)


def _mean(values: Floats) -> Mean | None:
    """None where hardly any row can be."""
    finite = values[np.isfinite(values)]
    if len(finite) < FEWEST:
        return None
    error = float(finite.std(ddof=1) / math.sqrt(len(finite)))
    return Mean(value=float(finite.mean()), error=error, impossible=1 - len(finite) / len(values))


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────


def render(found: Likelihood) -> Html:
    """The section of the report."""
    whole = [f for f in found.figures if f.column is None]
    by = {(f.of, f.column): f for f in found.figures}
    names = list(dict.fromkeys(f.column for f in found.figures if f.column is not None))
    lead = (
        "How likely the model takes rows to be: the higher, the better it knows them. Real rows that it never saw "
        "should be about as likely as those that it learned from, or it learned some of these by heart, and about as "
        "likely as rows of its own, or it is too sure of itself. Only differences mean something: a density of a "
        "number depends on its unit. A perplexity is among how many equally likely values the model has to choose; 1 "
        "is best."
    )
    every = _table(
        "Mean log-densities of whole rows, with standard errors",
        ("", "Held-out real rows", "Training rows", "Rows of the model’s own"),
        (_whole(f, found.columns) for f in whole),
    )
    columns = _table(
        "Mean log-densities of each column, of held-out and of training rows",
        (
            "Column",
            "By itself, held-out",
            "By itself, training",
            "Others known, held-out",
            "Others known, training",
        ),
        (_column(n, by.get(("alone", n)), by.get(("given", n))) for n in names),
    )
    left = found.columns - len(names)
    told = f"Each of {len(names):,} columns" + (
        f"; of {left:,} parts have no density, since a constraint ties them to others" if left else ""
    )
    folded = element("details", {}, element("summary", {}, told), columns)
    return section(
        "likelihood", "How likely real rows are", paragraph(lead), every, *([folded] if names else [])
    )


def _table(caption: str, heads: Sequence[str], rows: Iterable[Html]) -> Html:
    table = element(
        "table",
        {"class": "plain"},
        element("caption", {}, caption),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *rows),
    )
    return scrolling(caption, table)


def _whole(figure: Likely, columns: int) -> Html:
    # The mean over its columns compares with other tables.
    said = [element("span", {"class": "kind"}, f"perplexities of one of {columns:,} columns")]
    sides = (figure.holdout, figure.train, figure.synthetic)
    return element(
        "tr",
        {},
        element("th", {"scope": "row"}, "Whole rows", *(said if figure.discrete else [])),
        *(_cell(mean, columns, discrete=figure.discrete) for mean in sides),
    )


def _column(name: str, alone: Likely | None, given: Likely | None) -> Html:
    cells = (
        _cell(
            None if figure is None else getattr(figure, side),
            1,
            discrete=figure is not None and figure.discrete,
        )
        for figure in (alone, given)
        for side in ("holdout", "train")
    )
    return element("tr", {}, element("th", {"scope": "row"}, shown_name(name, 28)), *cells)


def _cell(mean: Mean | None, columns: int, *, discrete: bool) -> Html:
    if mean is None:
        return element("td", {}, "–")
    said = []
    if discrete:
        said.append(f"perplexity {math.exp(min(-mean.value / columns, 50.0)):.3g}")
    if mean.impossible:
        said.append(f"but for {percent(mean.impossible)} that cannot be")
    shown = f"{mean.value:.2f} ± {mean.error:.2f}".replace("-", "−")
    return element("td", {}, shown, *(element("span", {"class": "kind"}, text) for text in said))
