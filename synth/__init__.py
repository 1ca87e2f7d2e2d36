"""From a table to a model to a table: `fit`, `load`, and the model that they give."""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait for each other in a loop make a fit many times slower on a machine that has other work;
# threads that sleep at once, three times slower on one that has none. So they loop for some microseconds. It can
# be said only before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

if TYPE_CHECKING:
    from synth.table import TableModel, fit, load

__all__ = ["TableModel", "fit", "load"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then: torch alone takes seconds."""
    if name in __all__:
        import synth.table

        return getattr(synth.table, name)
    raise AttributeError(f"module 'synth' has no attribute {name!r}")
