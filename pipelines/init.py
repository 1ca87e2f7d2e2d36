"""init: looks at a table and writes the schema and the recipe that a person then reviews."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from pipelines import ingest as reading
from pipelines.aside import Aside, Unreadable
from pipelines.layout import Layout
from pipelines.private import dataset_for
from pipelines.query import Query
from pipelines.recipe import resolve_input, slug
from pipelines.reference import label_of
from pipelines.scans import PATIENT, Scans
from pipelines.source import Source
from privacy.errors import InputError, RecipeError, SchemaError, UsageError
from synth.infer import infer
from synth.metadata import from_sdv
from synth.schema import Column, Schema
from validation.markup import one_line

J = TypeVar("J", dict[str, Any], list[Any])

HEADER = """\
# The schema of {source}. Review it: it is the only thing that is known of the columns.
# What was taken from the rows is marked `facts: observed`. Bounds and categories marked so are for your review
# and learned anew at each release; where you know them from a public source, write
# `facts: "declared: the source"`, and they bind. Kind, type, step, digits and pattern hold as written;
# under `privacy` all of them but kind and type are forgotten unless declared (docs/privacy.md).
# Constraints at the end, where there are any, hold in every released row: take out what only happens to hold.
"""

RECIPE = """\
# One release, from input to publication. `understudy plan recipe.yaml` says what it would do.
name: {name}
input: {input}
schema: schema.yaml
dataset: {dataset}      # name under which this dataset's lifetime is kept
synthesizer: auto
rows: source            # as many as the source has; or a number
holdout: 0.2            # share that is held out of training, to measure against; or a file that holds it
seed: 0
at_least: 10            # values that fewer units share are pooled; 0 turns disclosure control off
# targets: [a, b]       # what models predict, to see what the rows are good for; else the table's last columns
to: releases
"""


MOST_BROKEN = 1_000
"""Broken rows of a table that init still takes for one."""

FEWEST_ROWS = 25
"""Rows of which four fifths, what is trained on, are about twice what the recipe's `at_least` asks for."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `initialize` wrote.

    Attributes:
        schema: path of the schema.
        recipe: path of the recipe.
        columns: number of columns.
        kinds: kind → number of columns.
        warnings: what a person must look at.
        suggestions: constraints that all rows meet, with the reason; none binds before somebody moves it.
        command: what makes a release of it.
    """

    schema: str
    recipe: str
    columns: int
    kinds: dict[str, int]
    warnings: tuple[str, ...]
    suggestions: tuple[str, ...]
    command: str

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def describe(self) -> str:
        """For a person."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.items())
        lines = [f"Wrote {self.schema} and {self.recipe}: {self.columns} columns ({kinds})."]
        lines += [f"  ! {w}" for w in self.warnings]
        if self.suggestions:
            lines += [
                "All rows meet these; move those that must hold in every released row to `constraints:`"
            ]
            lines += [f"  = {c}" for c in self.suggestions]
        lines += [f"Review both, then: {self.command}"]
        return "\n".join(lines)


def initialize(
    source: Path | str,
    folder: Path,
    *,
    blind: bool,
    force: bool,
    query: str | None = None,
    sdv_metadata: Path | None = None,
    sdv_constraints: Path | None = None,
    scans: Scans | None = None,
) -> Written:
    """Writes `schema.yaml` and `recipe.yaml` for a table.

    Args:
        source: CSV, Parquet or images, a file or a folder, or a database; anywhere, since a person names it.
        query: what a database is asked.
        folder: where the two files go.
        blind: whether nothing is taken from the rows but the types of their columns.
        force: whether files that are there are overwritten.
        sdv_metadata: SDV metadata JSON, which then says the kinds; nothing is taken from the rows but types.
        sdv_constraints: JSON of SDV's constraints, beside the metadata.
        scans: which headers of DICOM files become columns.

    Raises:
        UsageError: a file is there already, or there are SDV's constraints without metadata.
        InputError: the table cannot be read.
    """
    if sdv_constraints is not None and sdv_metadata is None:
        raise UsageError(
            "SDV's constraints are read beside SDV's metadata, however: there are none; add --sdv-metadata"
        )
    # Before it says that a file is there: whoever misspells the input must not be told to overwrite a schema.
    found = reading.find(str(source), query, lambda text: Path(text).resolve(), scans=scans)
    targets = check_targets(folder, force=force)
    if scans is not None and scans.headers and not (isinstance(found, Source) and found.format == "scans"):
        raise UsageError(
            f"headers are those of DICOM files, however: {found.label} holds none; leave them out"
        )
    aside = Aside(most=MOST_BROKEN)
    types = reading.infer_types(found, aside)
    seen: list[int] = []
    if sdv_metadata is None:
        schema = _by_patient(found, infer(lambda: _rows(found, types, seen), blind=blind))
    else:
        constraints = [] if sdv_constraints is None else _json_of(sdv_constraints, list)
        schema = from_sdv(_json_of(sdv_metadata, dict), types, constraints)
    place = _place_of(found)
    name = slug(place.stem)
    text = RECIPE.format(name=name, input=_input(found, folder), dataset=dataset_for(place, name, folder))
    if aside.rows:
        text += f"broken_rows: {len(aside.rows)}  # {_what(aside)}, set aside at most\n"
    text += _written(found)
    if isinstance(found, Source) and found.scans.headers:
        text += f"scans: {{headers: [{', '.join(found.scans.headers)}]}}\n"
    outside = [] if isinstance(found, Query) and found.file is None else _outside(place, folder)
    root = f" --root {shlex.quote(str(place.parent))}" if outside else ""
    targets[0].write_text(HEADER.format(source=one_line(place.name)) + schema.to_yaml(), "utf-8")
    targets[1].write_text(text, "utf-8")
    return Written(
        schema=targets[0].name,
        recipe=targets[1].name,
        columns=len(schema),
        kinds=_kinds(schema),
        warnings=(*outside, *_few(seen), *_broken(aside), *_nameless(found), *_notes(schema)),
        suggestions=tuple(f"{c}: {c.note}" if c.note else str(c) for c in schema.suggestions),
        command=f"understudy release recipe.yaml{root}",
    )


def _rows(found: reading.Table, types: pa.Schema, seen: list[int]) -> Iterator[pa.RecordBatch]:
    """The rows, of which there must be some: of none nothing can be written down; `seen` gets their number."""
    rows = 0
    for batch in reading.batches(found, types, aside=Aside(most=MOST_BROKEN)):
        rows += len(batch)
        yield batch
    if not rows:
        raise InputError(
            f"a table must have rows, however: {found.label} has none; give one that has, or --blind"
        )
    seen.append(rows)


def _by_patient(found: reading.Table, schema: Schema) -> Schema:
    """The schema with the pseudonyms of scans as its unit: a person's scans stay on one side of the split."""
    if not (isinstance(found, Source) and PATIENT in found.columns and found.format == "scans"):
        return schema
    unit = Column(name=PATIENT, kind="identifier", type="string", nullable=False, pattern="[0-9a-f]{16}")
    columns = tuple(unit if c.name == PATIENT else c for c in schema)
    return schema.model_copy(update={"columns": columns, "unit": PATIENT})


def _place_of(found: reading.Table) -> Path:
    """Where a table lies: a path, or for an address what serves as one."""
    if isinstance(found, Source):
        return found.path
    return found.file or Path("/", re.sub(r"[^a-z0-9]+", "-", label_of(found.address)).strip("-"))


def _input(found: reading.Table, folder: Path) -> str:
    """The lines of a recipe that say what is read."""
    if isinstance(found, Query) and found.file is None:
        return f"{_quoted(found.address)}\nquery: {_quoted(found.text)}"
    path, home = _place_of(found), folder.resolve()
    line = _quoted(str(path.relative_to(home) if path.is_relative_to(home) else path))
    return line if isinstance(found, Source) else f"{line}\nquery: {_quoted(found.text)}"


def check_targets(folder: Path, *, force: bool) -> tuple[Path, Path]:
    """The two files that init writes into a folder.

    Raises:
        UsageError: one is there already, and `force` does not allow to overwrite it.
    """
    targets = (folder / "schema.yaml", folder / "recipe.yaml")
    for target in targets:
        if target.exists() and not force:
            raise UsageError(f"init overwrites nothing, however: {target.name} is there; add --force")
    return targets


def _json_of(path: Path, kind: type[J]) -> J:
    try:
        data: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise SchemaError(
            f"SDV's metadata and constraints must be readable JSON files, however: {path}: "
            f"{getattr(e, 'strerror', None) or 'no JSON'}"
        ) from None
    if not isinstance(data, kind):
        wanted = "an object" if kind is dict else "a list"
        raise SchemaError(f"JSON of SDV must be {wanted}, however: {path} holds {type(data).__name__}")
    return data


def _written(found: reading.Table) -> str:
    """The line of a recipe that says how CSV files are written, where they are not as nobody needs to say."""
    if not (isinstance(found, Source) and found.format == "csv"):
        return ""
    said = Layout.model_validate({"encoding": found.encoding, "delimiter": found.delimiter}).said
    return f"csv: {{{said}}}  # how it is written\n" if said else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _kinds(schema: Schema) -> dict[str, int]:
    kinds = [c.kind for c in schema]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def _notes(schema: Schema) -> list[str]:
    return [f"{c.name!r}: {c.note}" for c in schema if c.note]


def _few(seen: list[int]) -> list[str]:
    if not seen or seen[0] >= FEWEST_ROWS:
        return []
    return [
        f"the table has only {seen[0]} rows: while `at_least` is 10 a release needs 20 to train on beside those that "
        "are held out, and will be refused; a public list needs no release, or set `at_least: 0` for it"
    ]


def _broken(aside: Aside) -> list[str]:
    if not aside.rows:
        return []
    those = "images cannot be read" if _are_images(aside) else "rows have too many or too few cells"
    return [
        f"{len(aside.rows)} {those}: {aside.lines}; a release sets them aside, into "
        "its run, up to `broken_rows`; mend the file if they matter"
    ]


def _what(aside: Aside) -> str:
    return "images that cannot be read" if _are_images(aside) else "rows with too many or too few cells"


def _are_images(aside: Aside) -> bool:
    return isinstance(aside.rows[0], Unreadable)


def _nameless(found: reading.Table) -> list[str]:
    if isinstance(found, Query) or found.header or found.holds_images:
        return []
    return [
        f"{one_line(found.path.name)} has no header line; columns are named column_1 … "
        f"column_{len(found.columns)}; if its first line does hold names, give them names that are no values"
    ]


def _outside(path: Path, folder: Path) -> list[str]:
    """What to know where the input lies elsewhere: nothing is wrong, and every later command needs the root."""
    try:
        resolve_input(str(path), folder=folder)
    except RecipeError:
        place = shlex.quote(str(path.parent))
        return [
            "the input lies outside the recipe's folder, and a recipe reads only what lies in it or in a root that you "
            f"name: give `--root {place}` to each command that takes this recipe, as below; or export "
            f"UNDERSTUDY_ROOTS={place} once; or move the input here and run init again"
        ]
    return []
