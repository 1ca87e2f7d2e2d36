"""What a run is: a recipe, the folder of its paths, and the workspace in which its steps leave what they made."""

import functools
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipelines import ingest as reading
from pipelines.layout import Layout, Told
from pipelines.recipe import Recipe, canonical, resolve_input
from pipelines.workspace import Record, Workspace, digest_of, sha256, write_atomic
from privacy.errors import InputError, RowError, SchemaError
from synth.schema import Schema

if TYPE_CHECKING:
    from validation.inception import Weights


ROWS = "rows.parquet"
ASIDE = "set-aside.jsonl"
REFUSED = "refused.txt"
PROFILE = "profile.json"
ENCODED = "encoded"
RUNS = Path(".understudy", "runs")
"""Where the runs of a recipe lie, beside it."""

RECOUNT = "recount.json"
SEEN = "seen.json"
CURVE = "curve.json"
DATA = "data"
DRAWS = "draws"
EVIDENCE = "evidence.json"
EXACT = "exact-evidence.json"
EXACT_PAGE = "exact-report.html"
CHECKS = "checks.json"
VERDICT = "verdict.json"
SHADOWS = "shadows.json"
SCHEMA = "schema.json"
RELEASE = "release.json"
REPORT = "report.html"

NOISED_ROWS = "noised_rows"
"""Under which name the profile's number of rows is told under privacy."""

ENCODED_BYTES = 400_000_000
"""What the encoded rows may take at most; wider tables learn from fewer rows."""

IMAGE_ROWS, IMAGE_BYTES = 60_000, 200_000_000
"""Images of each side, and bytes of their pixels, that evidence looks at at most."""

IMAGES_SHOWN = 1_000
"""Synthetic images among which the ends of strips are sought."""


class Watch(Protocol):
    """Who is told how a run goes on."""

    def started(self, step: str) -> None:
        """A step begins."""
        ...

    def wrote(self, step: str, path: Path) -> None:
        """A step wrote an artifact."""
        ...

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        """A step is finished, or was found finished."""
        ...


class Silent:
    """Tells nobody."""

    def started(self, step: str) -> None:
        """A step begins."""

    def wrote(self, step: str, path: Path) -> None:
        """A step wrote an artifact."""

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        """A step is finished, or was found finished."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A recipe, the folder that its paths are relative to, and the workspace of its run."""

    recipe: Recipe
    folder: Path
    roots: tuple[Path, ...]
    workspace: Workspace
    watch: Watch

    @property
    def schema(self) -> Schema:
        """The columns that are released; under privacy, what of them may be believed."""
        return self.source_schema.kept

    @property
    def source_schema(self) -> Schema:
        """The columns that the source has, those that are dropped included; under privacy, what may be believed."""
        privacy, stated = self.recipe.privacy, self.stated
        return stated if privacy is None else stated.public(unit=privacy.unit)

    @property
    def stated(self) -> Schema:
        """The schema as it is written.

        Raises:
            SchemaError: it is not there or breaks a rule.
        """
        return schema_of(self.recipe, self.folder)

    @property
    def most_rows(self) -> int:
        """Rows to learn from at most."""
        return min(self.recipe.fit_rows, max(1, ENCODED_BYTES // encoded_bytes(self.schema)))

    @property
    def release_root(self) -> Path:
        """Where releases go."""
        return (self.folder / Path(self.recipe.to).expanduser()).resolve()

    def source(self) -> reading.Table:
        """The input, checked and recognized."""
        return self._find(self.recipe.input, self.recipe.query)

    def holdout_source(self) -> reading.Table | None:
        """The input that is held out, where the recipe names one."""
        return self._find(self.recipe.holdout, None) if isinstance(self.recipe.holdout, str) else None

    def named_sources(self) -> Iterator[reading.Table]:
        """Those inputs whose columns may be told before a row is read: under privacy tables, else all of them."""
        for text, query in ((self.recipe.input, self.recipe.query), (self.recipe.holdout, None)):
            if isinstance(text, str) and (
                self.recipe.privacy is None or reading.has_names(text, self._locate)
            ):
                yield self._find(text, query)

    def _find(self, text: str, query: str | None) -> reading.Table:
        said = self.recipe.csv
        told = None
        if said is not None or self.recipe.privacy is not None:
            # Under privacy nothing of how all rows are read may follow from some of them.
            told = Told(columns=self.source_schema.names, layout=said or Layout())
        return reading.find(text, query, self._locate, scans=self.recipe.scans, told=told)

    @property
    def inception(self) -> "Weights | None":
        """Weights of InceptionV3, where the recipe names them.

        Raises:
            RecipeError: they are not there, or lie where the recipe may not read.
        """
        from validation.inception import Weights

        path = None if self.recipe.inception is None else self._locate(self.recipe.inception)
        return None if path is None else Weights(path=path, images=self.recipe.inception_images)

    def _locate(self, text: str) -> Path:
        return resolve_input(text, folder=self.folder, extra_roots=self.roots)


def schema_of(recipe: Recipe, folder: Path) -> Schema:
    """The schema of a recipe as it is written.

    Raises:
        SchemaError: it is not there or breaks a rule.
    """
    path = folder / recipe.schema_file
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise SchemaError(
            f"a schema must be a readable UTF-8 file, however: {path}: {getattr(e, 'strerror', e)}; "
            "`understudy init DATA` writes one"
        ) from None
    return Schema.parse(text, source=path.name)


def encoded_bytes(schema: Schema) -> int:
    """Bytes of an encoded row: four for a state or a score, nine for unit and split, one for a number of an image."""
    return 8 * len(schema) + 9 + sum(c.image.size for c in schema if c.image is not None)


def open_run(
    recipe: Recipe,
    folder: Path,
    *,
    roots: Sequence[Path] = (),
    watch: Watch | None = None,
    begin: bool = True,
) -> Run:
    """The run of a recipe: the same recipe in the same folder always has the same workspace.

    Without `begin` nothing is written, and there may be no workspace yet.
    """
    folder = folder.resolve()
    path = folder / RUNS / f"{recipe.name}-{recipe.digest()[:12]}"
    workspace = Workspace(path)
    if begin:
        workspace.create(
            {
                "recipe": json.loads(recipe.to_json()),
                "folder": str(folder),
                "roots": [str(Path(r).resolve()) for r in roots],
            }
        )
    return Run(recipe=recipe, folder=folder, roots=tuple(roots), workspace=workspace, watch=watch or Silent())


def reopen_run(path: Path, *, watch: Watch | None = None) -> Run:
    """The run whose workspace lies at `path`, or has that name among the runs of this folder.

    Raises:
        ReleaseError: there is none.
    """
    named = RUNS / path
    workspace = Workspace((named if not path.exists() and named.is_dir() else path).resolve())
    about = workspace.about()
    recipe = Recipe.parse(canonical(about["recipe"]), source=str(workspace.manifest))
    roots = tuple(Path(r) for r in about["roots"])
    return Run(
        recipe=recipe, folder=Path(about["folder"]), roots=roots, workspace=workspace, watch=watch or Silent()
    )


def refusal_of(run: Run, e: RowError) -> InputError:
    """What may be said outside of rows that are not what they should be: under privacy not where, nor how many."""
    if run.recipe.privacy is None:
        return e
    if not e.args[1]:
        return e.public()
    write_atomic(run.workspace.path / REFUSED, f"{e}\n".encode())
    return InputError(f"{e.public()}; the rest is private: {REFUSED} in the folder of the run says it")


@functools.cache
def code_digest() -> str:
    """SHA-256 (hex) of our own source files: another version, or another checkout, computes anew."""
    here = Path(__file__).parent.parent
    sources = sorted(
        p for room in ("pipelines", "privacy", "synth", "validation") for p in here.glob(f"{room}/*")
    )
    return digest_of({str(p.relative_to(here)): sha256(p) for p in sources if p.is_file()})


def synthesizer_of(recipe: Recipe, schema: Schema) -> str:
    """The synthesizer that a recipe means: `auto` follows from whether answers are noised, and from the columns."""
    from synth.registry import resolve

    images = any(c.action != "drop" for c in schema.images)
    return resolve(recipe.synthesizer, private=recipe.privacy is not None, images=images)


def read_json(run: Run, name: str) -> Any:
    """What a file of the run holds."""
    return json.loads((run.workspace.path / name).read_text("utf-8"))


def versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    names = (
        "understudy",
        "numpy",
        "scipy",
        "torch",
        "pyarrow",
        "pandas",
        "pillow",
        "safetensors",
        "sdmetrics",
        "scikit-learn",
    )
    return {name: importlib.metadata.version(name) for name in names}
