"""From a table to a model to a table: `fit`, `load`, and the model that they give."""

import os
from typing import TYPE_CHECKING, Any

# Threads that wait in a loop for each other make a fit many times slower on a machine that has other work.
# Before torch is imported is the only time to say so.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from synth.table import TableModel, fit, load

__all__ = ["TableModel", "fit", "load"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then: torch alone takes seconds."""
    if name in __all__:
        import synth.table

        return getattr(synth.table, name)
    raise AttributeError(f"module 'synth' has no attribute {name!r}")
