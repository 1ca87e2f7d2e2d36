"""Recipe: one frozen description of a release.

A recipe is what a steward writes; everything that a release depends on is in it, in the schema that it
names, and in the input. Its JSON Schema is published in `docs/recipe.schema.json`.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from privacy.errors import RecipeError
from synth.schema import parse_model
from validation.gates import GateRules


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(_Strict):
    """One release, from input to publication."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$",
            description="name of the release: lower case letters, digits, . _ -",
        ),
    ]
    input: Annotated[str, Field(min_length=1, description="CSV or Parquet, a file or a folder")]
    schema_file: Annotated[str, Field(alias="schema", description="the schema of the table")] = "schema.yaml"
    dataset: Annotated[
        str | None, Field(description="name under which the lifetime of the dataset is kept")
    ] = None
    synthesizer: Annotated[str, Field(description="auto, or a name from `understudy doctor`")] = "auto"
    options: Annotated[dict[str, Any], Field(description="options of the synthesizer")] = {}
    rows: Annotated[
        Literal["source"] | Annotated[int, Field(ge=1)],
        Field(description="rows to release; source: as many as the source has"),
    ] = "source"
    holdout: Annotated[
        Annotated[float, Field(gt=0, lt=1)] | str,
        Field(description="share of units held out of training, or a file that holds them"),
    ] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**63, description="seed of the fit and of the synthetic draw")] = 0
    threads: Annotated[int, Field(ge=1, le=256, description="threads of the fit; part of the model")] = 2
    at_least: Annotated[
        int, Field(ge=0, description="values of fewer units are pooled; 0 turns disclosure control off")
    ] = 10
    fit_rows: Annotated[
        int, Field(ge=100, description="rows that are learned from at most, drawn uniformly by unit")
    ] = 1_000_000
    shard_rows: Annotated[int, Field(ge=1, le=2**24, description="rows of one Parquet file")] = 250_000
    evidence_rows: Annotated[
        int, Field(ge=100, description="rows of each side that the evidence is computed from at most")
    ] = 50_000
    workers: Annotated[int, Field(ge=1, le=256, description="processes that write shards")] = 1
    gate: GateRules = GateRules()
    to: Annotated[str, Field(description="root of the releases")] = "releases"

    @field_validator("input", "schema_file", "to")
    @classmethod
    def _no_nul(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("a path must not hold a NUL byte")
        return value

    def digest(self) -> str:
        """SHA-256 (hex) of the recipe, equal for equal recipes."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, defaults included."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, ensure_ascii=False)

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
        return Recipe.parse(json.dumps(data), source="the recipe with these options")


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
    path = (folder / Path(text).expanduser()).resolve()
    if not any(path.is_relative_to(root) for root in roots):
        raise RecipeError(
            f"an input must lie under the recipe's folder or a declared root, however: {path} does not; "
            f"add --root {path.parent}, or export UNDERSTUDY_ROOTS={path.parent}"
        )
    if not path.exists():
        raise RecipeError(f"an input must exist, however: there is no {path}; correct `input` in the recipe")
    if not (path.is_file() or path.is_dir()):
        raise RecipeError(f"an input must be a file or a folder, however: {path} is neither")
    return path


def slug(text: str) -> str:
    """A name for a release made from any text: lower case, digits, single dashes."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-._")[:60] or "table"
