"""Aside: what of an input cannot be read, and how much of it a release may go without."""

from dataclasses import asdict, dataclass, field
from typing import Any

from privacy.errors import RowError


@dataclass(frozen=True, kw_only=True)
class Broken:
    """A row of a CSV with too many or too few cells, or that does not decode; it belongs inside.

    Attributes:
        file: name of its file.
        line: the line it begins in, from 1 on.
        cells: how many it has.
        text: its cells.
        encoding: the one that it is no text of; empty where its cells are too many or too few.
    """

    file: str
    line: int
    cells: int
    text: tuple[str, ...]
    encoding: str = ""

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.file} line {self.line}"

    def to_dict(self) -> dict[str, Any]:
        """For the workspace."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An image that cannot be read; its name belongs inside.

    Attributes:
        file: relative name of its file, and where in it the image stands.
        reason: what is wrong; nothing of what the file holds.
    """

    file: str
    reason: str

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.file} ({self.reason})"

    def to_dict(self) -> dict[str, Any]:
        """For the workspace."""
        return asdict(self)


@dataclass(kw_only=True)
class Aside:
    """Takes what is broken.

    Attributes:
        most: how many at most.
        rows: those that it took.
    """

    most: int = 0
    rows: list[Broken | Unreadable] = field(default_factory=list)

    @property
    def lines(self) -> str:
        """Where the first of them stand."""
        shown = ", ".join(b.place for b in self.rows[:5])
        return shown + (f" and {len(self.rows) - 5} more" if len(self.rows) > 5 else "")

    def put(self, found: Unreadable) -> None:
        """Takes an image that cannot be read.

        Raises:
            RowError: it took as many as it may.
        """
        if len(self.rows) >= self.most:
            raise RowError(
                f"an image must be readable, however: more than `broken_rows: {self.most}` allows are not",
                f", the last is {found.file}: {found.reason}",
                "; mend the file, or set such images aside with a larger broken_rows in the recipe",
            )
        self.rows.append(found)
