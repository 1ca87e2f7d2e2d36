"""Inside: the second door to private rows, for evidence alone.

Evidence has to look at real rows. It comes in by this door, and what it takes out is an `Exact`: a value that
was computed from rows without noise or charge. An `Exact` stays inside, where it may be written down. Only a
release that promises nothing formal may open one; under a formal guarantee opening it is an error, so that exact
evidence cannot slip into a release or into a gate's verdict.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from privacy.curator import Batch, ExactCurator, Split
from privacy.errors import LeakRefused

T = TypeVar("T")


@dataclass(frozen=True)
class Exact(Generic[T]):
    """A value that was computed from private rows, exactly; `publish` takes none of these."""

    _value: T = field(repr=False)

    def open(self, *, formal_guarantee: bool) -> T:
        """The value, for a release without a formal guarantee.

        Raises:
            LeakRefused: the release has a formal guarantee, which this value would void.
        """
        if formal_guarantee:
            raise LeakRefused(
                "exact evidence must not leave under a formal guarantee, however: something asked for it; "
                "publish noised figures instead"
            )
        return self._value

    def keep(self, write: Callable[[T], None]) -> None:
        """Hands the value to what writes it into the workspace, which is inside; nothing comes back."""
        write(self._value)


class Inside:
    """The rows behind an exact curator, to be read by validation only."""

    def __init__(self, curator: ExactCurator) -> None:
        self._curator = curator

    def look(self, evidence: Callable[[Callable[[Split], Iterator[Batch]]], T]) -> Exact[T]:
        """Runs `evidence` on a function that gives the rows of a split, and seals what it returns."""
        return Exact(evidence(self._curator.rows))
