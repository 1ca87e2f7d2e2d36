"""Recipe: one frozen description of a release.

A recipe is what a steward writes; everything that a release depends on is in it, in the schema that it
names, and in the input. Its JSON Schema is published in `docs/recipe.schema.json`.
"""

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError

from pipelines.layout import Layout
from pipelines.reference import check_input, check_secret, is_address
from pipelines.scans import Scans
from privacy.errors import RecipeError
from synth.parity import Parity
from synth.schema import parse_model
from synth.watermark import LEVELS
from validation.gates import GateRules

Whole = Annotated[int, Field(strict=True)]
"""A whole number; `yes` and "7" are none."""


def _no_answer(value: object) -> object:
    """Options of the command are texts, so a number may be one; `yes` would be 1."""
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


_NUMBER = BeforeValidator(_no_answer)
"""Of a number, or a text of one; after its `Field`, whose limits the published schema would not know otherwise."""

Share = Annotated[float, Field(strict=True, gt=0, lt=1)]


def today() -> date:
    """The day in UTC, so that a team's machines agree."""
    return datetime.now(UTC).date()


def _or_say(rule: str) -> WrapValidator:
    """One sentence about a value that may be of several types, in place of one sentence for each."""

    def check(value: object, inner: ValidatorFunctionWrapHandler) -> object:
        try:
            return inner(value)
        except ValidationError:
            raise ValueError(rule) from None

    return WrapValidator(check)


REPORT, PROFILE = 0.05, 0.3
"""Share of the budget that the report has, and of what it leaves that of the profile, where nobody says."""


class Shares(BaseModel):
    """How the budget is divided; what the profile leaves goes to the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Annotated[Share, Field(description="columns one by one")] = PROFILE * (1 - REPORT)
    model: Annotated[Share, Field(description="the synthesizer")] = (1 - PROFILE) * (1 - REPORT)
    report: Annotated[
        float, Field(strict=True, ge=0, lt=1, description="noised figures of the release; 0: none")
    ] = REPORT

    @model_validator(mode="before")
    @classmethod
    def _filled(cls, data: Any) -> Any:
        """What is not said follows from what is: shares that already make 1 leave none for the report."""
        if not isinstance(data, dict) or not all(isinstance(v, int | float) for v in data.values()):
            return data
        said = dict(data)
        parts = sum(said.get(name, 0.0) for name in ("profile", "model"))
        whole = {"profile", "model"} <= set(said)
        report = said.setdefault("report", max(0.0, min(REPORT, round(1 - parts, 12))) if whole else REPORT)
        left = 1 - report
        if "profile" not in said:
            said["profile"] = round(left - said["model"], 12) if "model" in said else PROFILE * left
        said.setdefault("model", round(left - said["profile"], 12))
        return said

    @model_validator(mode="after")
    def _within_one(self) -> Self:
        total = self.profile + self.model + self.report
        if total > 1 + 1e-9:
            raise ValueError(f"shares must make 1 at most, however: they make {total:g}")
        return self


class Target(BaseModel):
    """A budget: (epsilon, delta)-differential privacy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epsilon: Annotated[
        float, Field(gt=0, le=100, allow_inf_nan=False, description="privacy loss at most"), _NUMBER
    ]
    delta: Annotated[
        float,
        Field(gt=0, lt=1, allow_inf_nan=False, description="probability that the loss is larger"),
        _NUMBER,
    ]


class Privacy(Target):
    """A formal guarantee: whoever adds or removes one unit changes what is published by hardly more than epsilon."""

    unit: Annotated[
        str | None, Field(description="column whose equal values mean one person; none: each row is a unit")
    ] = None
    max_rows_per_unit: Annotated[
        Whole, Field(ge=1, le=1_000_000, description="rows of a unit that are kept, drawn at random")
    ] = 1
    shares: Annotated[Shares, Field(description="how the budget is divided")] = Shares()
    lifetime: Annotated[
        Target | None,
        Field(
            description="budget of the dataset, or of each of its blocks, for ever; none: that of its first release"
        ),
    ] = None
    edition: Annotated[
        str,
        Field(description="a new word fits anew, at a new charge; `%Y-%m` is a new one each month, in UTC"),
    ] = ""
    block: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9%][A-Za-z0-9%._-]{0,39}$",
            # A recipe without blocks keeps the digest that it had before there were any, and so its run.
            exclude_if=lambda block: block is None,
            description="of growing data: the block of units that are seen for the first time, as 2026-03, or `%Y-%m` "
            "for that of the month; none: no blocks",
        ),
    ] = None
    exact_report: Annotated[
        bool,
        Field(
            strict=True,
            description="make the exact report as well, for the workspace alone; the certificate says so",
        ),
    ] = False

    @field_validator("edition", "block", mode="after")
    @classmethod
    def _dated(cls, name: str | None) -> str | None:
        """A recipe that a schedule runs says when to fit anew by the day on which it is read."""
        if name is None or "%" not in name:
            return name
        if unknown := re.sub(r"%[YmdGV]", "", name).count("%"):
            raise ValueError(
                f"a name may hold %Y, %m, %d, %G and %V (year, month, day, year and number of the week), however: "
                f"{unknown} % stand before something else"
            )
        return today().strftime(name)


class Watermark(BaseModel):
    """A mark in every released image, which whoever has the key finds again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: Annotated[
        str,
        Field(description="where the key is: ${env:NAME} or ${prefect:BLOCK}; never the key itself"),
    ]
    levels: Annotated[
        float,
        Field(gt=0, le=16, allow_inf_nan=False, description="grey levels that a pixel is moved by"),
    ] = LEVELS


class Recipe(BaseModel):
    """One release, from input to publication."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
            description="name of the release: lower case letters, digits, . _ -",
        ),
    ]
    input: Annotated[
        str,
        Field(
            min_length=1,
            description="CSV, Parquet or images, a file or a folder; or the address of a database",
        ),
    ]
    query: Annotated[str | None, Field(min_length=1, description="what a database is asked: a SELECT")] = None
    broken_rows: Annotated[
        Whole,
        Field(
            ge=0,
            description="rows of CSV files with too many or too few cells, and images that cannot be read, that are "
            "set aside at most",
        ),
    ] = 0
    csv: Annotated[
        Layout | None,
        Field(
            # A recipe that says nothing keeps the digest that it had before it could.
            exclude_if=lambda csv: csv is None,
            description="how CSV files are written; none: found out from them, under `privacy` UTF-8 and commas",
        ),
    ] = None
    scans: Annotated[Scans, Field(description="how DICOM and NIfTI files become images and columns")] = (
        Scans()
    )
    allow_drift: Annotated[
        bool,
        Field(strict=True, description="read an input whose columns are not those of the schema, and say so"),
    ] = False
    schema_file: Annotated[str, Field(alias="schema", description="the schema of the table")] = "schema.yaml"
    dataset: Annotated[
        str | None,
        Field(min_length=1, description="name under which the lifetime of the dataset is kept"),
    ] = None
    synthesizer: Annotated[str, Field(description="auto, or a name from `understudy doctor`")] = "auto"
    options: Annotated[dict[str, JsonValue], Field(description="options of the synthesizer")] = {}
    rows: Annotated[
        Literal["source"] | Annotated[Whole, Field(ge=1)],
        Field(description="rows to release; source: as many as the source has"),
        _or_say("rows must be `source` or a whole number from 1 on"),
    ] = "source"
    holdout: Annotated[
        Share | Annotated[str, Field(min_length=1)],
        Field(description="share of units held out of training, or a file that holds them"),
        _or_say("holdout must be a share between 0 and 1, or a file"),
    ] = 0.2
    draws: Annotated[
        Whole,
        Field(ge=1, le=100, description="times that the table is drawn, so that intervals may be combined"),
    ] = 1
    seed: Annotated[Whole, Field(ge=0, lt=2**63, description="seed of the fit and of the synthetic draw")] = 0
    threads: Annotated[Whole, Field(ge=1, le=256, description="threads of the fit; part of the model")] = 2
    at_least: Annotated[
        Whole, Field(ge=0, description="values of fewer units are pooled; 0 turns disclosure control off")
    ] = 10
    fit_rows: Annotated[
        Whole, Field(ge=100, description="rows that are learned from at most, drawn uniformly by unit")
    ] = 1_000_000
    shard_rows: Annotated[Whole, Field(ge=1, le=2**24, description="rows of one Parquet file")] = 250_000
    evidence_rows: Annotated[
        Whole, Field(ge=100, description="rows of each side that the evidence is computed from at most")
    ] = 50_000
    inception: Annotated[
        str | None,
        Field(
            min_length=1,
            description="weights of InceptionV3, .pth or .safetensors, for distances of images as they are published",
        ),
    ] = None
    inception_images: Annotated[
        Whole, Field(ge=100, description="images of each side that InceptionV3 looks at at most")
    ] = 50_000
    workers: Annotated[Whole, Field(ge=1, le=256, description="processes that write shards")] = 1
    privacy: Annotated[
        Privacy | None, Field(description="a formal guarantee; none: disclosure control alone")
    ] = None
    targets: Annotated[
        tuple[str, ...],
        Field(
            description="columns that models predict, to see what the rows are good for; none: as the table suggests"
        ),
    ] = ()
    protected: Annotated[
        tuple[str, ...],
        Field(
            description="columns such as sex or origin, whose groups are compared: are they there, and treated alike?"
        ),
    ] = ()
    parity: Annotated[
        Parity | None, Field(description="groups that the draw shall treat alike, exactly; none: as learned")
    ] = None
    watermark: Annotated[
        Watermark | None, Field(description="a keyed mark in released images; none: no mark")
    ] = None
    gate: Annotated[GateRules, Field(description="limits of the gate that decides about publication")] = (
        GateRules()
    )
    to: Annotated[str, Field(description="root of the releases")] = "releases"

    @field_validator("options")
    @classmethod
    def _finite(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            raise ValueError("numbers of options must be finite, however: one is not") from None
        return value

    @field_validator("watermark", mode="before")
    @classmethod
    def _no_key(cls, value: object) -> object:
        # Before anything else looks at it: what is wrong with a field is told with its value.
        if value is not None:
            check_secret(value.get("key") if isinstance(value, Mapping) else None)
        return value

    @field_validator("input", "schema_file", "holdout", "inception", "to")
    @classmethod
    def _no_nul(cls, value: object) -> object:
        # What is wrong with a field is told with its value, so not of an address, which may hold a secret.
        if isinstance(value, str) and "\0" in value and not is_address(value):
            raise ValueError("a path must not hold a NUL byte")
        return value

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        if "://" in self.to:
            raise ValueError(
                "to must be a folder, however: it is an address; `understudy push` fills object stores"
            )
        for text in (self.input, self.holdout):
            if isinstance(text, str):
                check_input(text)
        return self

    def digest(self) -> str:
        """SHA-256 (hex) of what the bytes of a release depend on: of all but `to` and `workers`."""
        data = self.model_dump(mode="json", by_alias=True, exclude={"to", "workers"})
        return hashlib.sha256(canonical(data).encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, defaults included."""
        return canonical(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def parse(cls, text: str, *, source: str) -> "Recipe":
        """Reads a recipe.

        Raises:
            RecipeError: it is not YAML or breaks a rule; file and field are named.
        """
        return parse_model(cls, text, source=source, error=RecipeError)

    def with_fields(self, changes: Mapping[str, Any]) -> "Recipe":
        """The same recipe with some fields changed, validated anew.

        Raises:
            RecipeError: a field does not exist or a value breaks a rule.
        """
        data = self.model_dump(mode="json", by_alias=True) | dict(changes)
        return Recipe.parse(canonical(data), source="the recipe with these options")


def canonical(data: object) -> str:
    """JSON with sorted keys, such that YAML reads the same from it."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False)
    # YAML reads escaped pairs of surrogates as two letters, but these it takes for line ends or refuses.
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda m: f"\\u{ord(m[0]):04x}", text)


def load(path: Path) -> Recipe:
    """Reads the recipe at `path`.

    Raises:
        RecipeError: there is no such file, or it breaks a rule.
    """
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"a recipe must exist, however: there is no {path}; `understudy init DATA` writes one"
        ) from None
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"a recipe must be a readable UTF-8 file, however: {path}: {e}") from None
    return Recipe.parse(text, source=path.name)


def resolve_input(text: str, *, folder: Path, extra_roots: tuple[Path, ...] = ()) -> Path:
    """The absolute path of an input, after checking that the recipe may read it.

    Inputs lie under the recipe's folder, a folder of the variable UNDERSTUDY_ROOTS, or `extra_roots`, after
    symbolic links are followed: a recipe that somebody else wrote must not reach the rest of the machine.

    Raises:
        RecipeError: the path lies elsewhere, does not exist, or is no regular file or folder.
    """
    from_env = (Path(p) for p in os.environ.get("UNDERSTUDY_ROOTS", "").split(os.pathsep) if p)
    roots = [r.resolve() for r in (folder, *from_env, *extra_roots)]
    try:
        path = (folder / Path(text).expanduser()).resolve()
        exists = path.exists()
    except (OSError, RuntimeError) as e:  # a loop of links, a user that is not there, a name too long
        raise RecipeError(f"an input must be a path that can be followed, however: {text!r}: {e}") from None
    if not any(path.is_relative_to(root) for root in roots):
        raise RecipeError(
            f"an input must lie in the recipe's folder or in a root that you name, however: {path} does not; add "
            f"`--root {shlex.quote(str(path.parent))}` to the command, or export "
            f"UNDERSTUDY_ROOTS={shlex.quote(str(path.parent))}"
        )
    if not exists:
        raise RecipeError(f"an input must exist, however: there is no {path}; correct its path in the recipe")
    if not (path.is_file() or path.is_dir()):
        raise RecipeError(f"an input must be a file or a folder, however: {path} is neither")
    return path


def slug(text: str) -> str:
    """A name for a release made from any text: lower case, digits, single dashes."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._")[:60] or "table"
