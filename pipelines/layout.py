"""Layout: how CSV files are written, as a recipe says it, so that nothing of it follows from their rows."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Layout(BaseModel):
    """How CSV files are written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoding: Annotated[
        Literal["utf-8", "utf-16", "cp1252"],
        Field(description="of the text; a row that is none of it is broken, itself alone"),
    ] = "utf-8"
    delimiter: Annotated[Literal[",", ";", "\t", "|"], Field(description="what stands between cells")] = ","

    @property
    def said(self) -> str:
        """What is not at its default, as a recipe would have it; empty if all is."""
        given = self.model_dump(exclude_defaults=True)
        return ", ".join(f'{name}: "{value}"'.replace("\t", "\\t") for name, value in given.items())


@dataclass(frozen=True, kw_only=True)
class Told:
    """What is known of a CSV before its first byte is read.

    Attributes:
        columns: names that the schema has.
        layout: how it is written.
    """

    columns: tuple[str, ...]
    layout: Layout

    def numbered(self, keys: Collection[str]) -> tuple[str, ...]:
        """The columns column_1, column_2, … of files without a header; none where there is one.

        Args:
            keys: columns that folders name, which are in no file.
        """
        own = [c for c in self.columns if c not in keys]
        plain = tuple(f"column_{i}" for i in range(1, len(own) + 1))
        return plain if own and set(own) == set(plain) else ()
