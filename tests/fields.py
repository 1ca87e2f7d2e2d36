"""The pages about what a person writes, made from the models: `make schemas` writes them, a test holds them true."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipelines.recipe import Recipe
from synth.registry import IMAGES, SYNTHESIZERS, synthesizer
from synth.schema import Schema

DOCS = Path(__file__).resolve().parent.parent / "docs"

LIMITS = {
    "minimum": "≥ {}", "maximum": "≤ {}", "exclusiveMinimum": "> {}", "exclusiveMaximum": "< {}",
    "multipleOf": "a multiple of {}", "maxLength": "at most {} characters", "minItems": "at least {}",
    "maxItems": "at most {}", "pattern": "`{}`",
}  # fmt: skip
"""What JSON Schema calls limits, in words."""

LEAD = """# What a recipe says

Made from the models by `make schemas`. Fields that are left out have their defaults; `recipe.schema.json` beside this
file tells editors the same. What a schema says of columns stands in `schema.schema.json` and [sources.md](sources.md).
"""


def pages() -> dict[Path, str]:
    """Path → content."""
    found = {DOCS / f"{m.__name__.lower()}.schema.json": _json(m) for m in (Recipe, Schema)}
    return {**found, DOCS / "recipe.md": "\n".join(_recipe()) + "\n"}


def _json(model: type[BaseModel]) -> str:
    return json.dumps(model.model_json_schema(by_alias=True), indent=1) + "\n"


def _recipe() -> Iterator[str]:
    yield LEAD
    about = Recipe.model_json_schema(by_alias=True)
    yield from _table("Recipe", about)
    yield from (line for name, d in about["$defs"].items() if "properties" in d for line in _table(name, d))
    yield "## Options of the synthesizers\n"
    yield "`options:` of a recipe; [synthesizers.md](synthesizers.md) says what each is good for.\n"
    for name in (*SYNTHESIZERS, *IMAGES):
        given: dict[str, Any] = synthesizer(name).options.model_json_schema(by_alias=True)
        yield from _table(f"`{name}`", given, level=3)


def _table(name: str, about: Mapping[str, Any], *, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {name}\n"
    if level == 2 and about.get("description"):
        yield f"{about['description'].splitlines()[0]}\n"
    yield "| field | what it is | kind | default |\n|---|---|---|---|"
    required = about.get("required", ())
    for field, own in about.get("properties", {}).items():
        default = "required" if field in required else _shown(own.get("default"))
        yield f"| `{field}` | {_cell(own.get('description', ''))} | {_cell(_kind(own))} | {_cell(default)} |"
    yield ""


def _shown(value: object) -> str:
    if value is None or isinstance(value, dict):
        return "none" if value is None else "its own"
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`"


def _kind(own: Mapping[str, Any]) -> str:
    """Type and limits of a field."""
    if "anyOf" in own:
        return " or ".join(dict.fromkeys(_kind(k) for k in own["anyOf"] if k.get("type") != "null"))
    if "$ref" in own:
        name = own["$ref"].rpartition("/")[2]
        return "anything" if name == "JsonValue" else f"[{name}](#{name.lower()})"
    if "enum" in own:
        return ", ".join(f"`{v}`" for v in own["enum"])
    if "const" in own:
        return f"`{own['const']}`"
    kind = {"array": "list", "object": "fields", "string": "text", "boolean": "true or false"}.get(
        own.get("type", ""), own.get("type", "anything")
    )
    if kind == "list" and "items" in own:
        item = _kind(own["items"])
        kind = f"list of ({item})" if "," in item else f"list of {item}"
    if kind == "list" and "prefixItems" in own:
        return f"list of {', '.join(_kind(k) for k in own['prefixItems'])}"
    limits = [text.format(_limit(own[key])) for key, text in LIMITS.items() if key in own]
    return ", ".join([kind, *limits])


def _limit(value: object) -> str:
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    for file, content in pages().items():
        file.write_text(content, "utf-8")
