"""Certificate: what may be promised about a release, as data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What is promised about one release, and how it was made. Nothing in it says when or where.

    Attributes:
        statement: the promise in plain words.
        formal_guarantee: None, or the parameters of differential privacy.
        disclosure_control: the rules that pooled rare values, or None where they were turned off.
        synthesizer: name of the model.
        model_digest: SHA-256 of the model.
        recipe_digest: SHA-256 of the recipe.
        schema_digest: SHA-256 of the released schema.
        rows: rows released.
        shards: files of data.
        seed: of the synthetic draw.
        warnings: findings of the gate that did not refuse the release.
        versions: of the packages that the numbers depend on.
    """

    statement: str
    formal_guarantee: Mapping[str, Any] | None
    disclosure_control: Mapping[str, Any] | None
    synthesizer: str
    model_digest: str
    recipe_digest: str
    schema_digest: str
    rows: int
    shards: int
    seed: int
    warnings: int
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As the release carries it."""
        return {"format": FORMAT, "synthetic": True, **asdict(self)}


def without_guarantee(at_least: int) -> tuple[str, dict[str, Any] | None]:
    """The promise of a release without a privacy section: statement, and the rules of disclosure control.

    Args:
        at_least: units that had to share a value; 0 means that disclosure control was off.
    """
    formal = (
        "No formal privacy guarantee: the model learned from the private rows exactly. Rows are drawn from "
        "the model, not taken from the table, but nothing bounds what a release says about one person."
    )
    if at_least == 0:
        return f"{formal} Disclosure control was turned off: rare values and extremes may be real ones.", None
    control = (
        f"Disclosure control: values that fewer than {at_least} units share were pooled, and extremes were cut "
        f"at the value of rank {at_least}."
    )
    return f"{formal} {control}", {"at_least": at_least, "pooled": "rare values", "cut": "extremes"}
