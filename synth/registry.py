"""The synthesizers by name. A new one is one file and one line here."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from privacy.curator import Floats
from privacy.errors import RecipeError
from synth.codec import Encoded, Layout
from synth.schema import nearest


class Model(Protocol):
    """A fitted synthesizer of encoded rows."""

    name: ClassVar[str]

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """New rows, or given rows with their unknown cells drawn."""
        ...

    def log_prob(self, encoded: Encoded) -> Floats:
        """Log-density of each row, unknown cells integrated out: float64 (n,)."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored."""
        ...


class Synthesizer(Protocol):
    """The class of a model: how it is fitted and restored."""

    @property
    def fit(self) -> Callable[..., Model]:
        """fit(curator, layout, options, *, seed) → model."""
        ...

    @property
    def restore(self) -> Callable[[Layout, Mapping[str, Tensor]], Model]:
        """The model from its tensors."""
        ...


SYNTHESIZERS: dict[str, str] = {
    "gmm": "synth.gmm:Gmm",
    "circuit": "synth.circuit:Circuit",
}

DEFAULT = "circuit"
"""What `auto` means for a table."""


def resolve(name: str) -> str:
    """The name of the synthesizer that a recipe's word means.

    Raises:
        RecipeError: no synthesizer has that name.
    """
    if name == "auto":
        return DEFAULT
    if name not in SYNTHESIZERS:
        known = ", ".join(("auto", *SYNTHESIZERS))
        raise RecipeError(
            f"a synthesizer must be one of {known}, however: {name!r}{nearest(name, SYNTHESIZERS)}"
        )
    return name


def synthesizer(name: str) -> Any:
    """The synthesizer's class.

    Raises:
        RecipeError: no synthesizer has that name.
    """
    module, _, cls = SYNTHESIZERS[resolve(name)].partition(":")
    return getattr(import_module(module), cls)
