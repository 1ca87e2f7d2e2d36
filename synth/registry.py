"""The synthesizers by name. A new one is one file and one line here."""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor

from privacy.curator import Descent, Floats
from privacy.errors import RecipeError
from synth.codec import Encoded, Layout
from synth.layers import training_device
from synth.schema import Schema, nearest

if TYPE_CHECKING:
    from synth.train import Trained


class Model(Protocol):
    """A fitted synthesizer of encoded rows."""

    @property
    def name(self) -> str:
        """In a recipe."""
        ...

    @property
    def exact(self) -> bool:
        """Whether what depends on a condition, and densities, are exact; else both are approximate."""
        ...

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """New rows, or the unknown cells of given rows.

        Args:
            rows: how many; with `given`, one row of it serves all, or it has as many rows.
            rng: the only source of randomness.
            given: what is known; cells in state −1 are drawn from their conditional distribution, exactly
                where the model is `exact`.
            present: whether unknown cells are drawn as not missing.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored."""
        ...


@runtime_checkable
class Dense(Protocol):
    """A model that knows how likely a row is."""

    def log_prob(self, encoded: Encoded) -> Floats:
        """Log-density of each row, unknown cells integrated out: float64 (n,)."""
        ...


@runtime_checkable
class Coded(Protocol):
    """A model in which each row has a code."""

    def embed(self, encoded: Encoded) -> Floats:
        """The code of each row: float64 (n, latent)."""
        ...

    def reconstruct(self, encoded: Encoded, rng: np.random.Generator) -> Encoded:
        """Rows drawn from the codes of rows."""
        ...


@runtime_checkable
class Interpolating(Protocol):
    """A model in which each image has a code, and each code an image."""

    def between(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], *, steps: int
    ) -> NDArray[np.uint8]:
        """Images of the codes on the straight lines between the codes of images: uint8 (n, steps, P).

        Args:
            first: images, uint8 (n, P).
            second: as many others.
            steps: codes on each line, both ends included.
        """
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A model that was trained by gradients."""

    @property
    def trained(self) -> "Trained | None":
        """How it went; None for one that was restored."""
        ...


@runtime_checkable
class Restoring(Protocol):
    """A model that knows what images look like, so that it can mend them."""

    def restored(self, encoded: Encoded, rng: np.random.Generator, *, noise: float, scale: int) -> Encoded:
        """Rows with their images as they probably were before they were damaged, and unknown cells drawn.

        Args:
            encoded: rows.
            rng: the only source of randomness.
            noise: standard deviation of what was added to each pixel, in levels of 256.
            scale: side of the squares, in pixels, of which only the mean is seen; 1: all is seen.
        """
        ...


@runtime_checkable
class Restrained(Protocol):
    """The class of a model some of whose options need exact answers."""

    @property
    def noised(self) -> Mapping[str, tuple[object, ...]]:
        """Options that may only have these values where answers carry noise."""
        ...


@runtime_checkable
class Dividing(Protocol):
    """The class of a model that says what its budget is for."""

    @property
    def shares(self) -> Mapping[str, float]:
        """What it asks for → the part of its budget; they make 1."""
        ...


@runtime_checkable
class Descending(Restrained, Protocol):
    """The class of a model that is trained by gradients, and knows beforehand what it will ask for."""

    @property
    def share(self) -> float:
        """Part of its budget that the steps have."""
        ...

    @property
    def descent(self) -> Callable[[Mapping[str, Any], float], Descent]:
        """Takes (options, rows about) and gives the steps that `fit` asks for."""
        ...


class Synthesizer(Protocol):
    """The class of a model: how it is fitted and restored."""

    @property
    def exact(self) -> bool:
        """See `Model.exact`."""
        ...

    @property
    def private(self) -> bool:
        """Whether it says its shares of a budget, so that a private curator can answer it."""
        ...

    @property
    def options(self) -> type[BaseModel]:
        """The strict model of what a recipe may say under `options`."""
        ...

    @property
    def fit(self) -> Callable[..., Model]:
        """Takes (curator, layout, options, *, seed) and gives a model."""
        ...

    @property
    def restore(self) -> Callable[[Layout, Mapping[str, Tensor]], Model]:
        """The model from its tensors."""
        ...


SYNTHESIZERS: dict[str, str] = {
    "gmm": "synth.gmm:Gmm",
    "circuit": "synth.circuit:Circuit",
    "marginals": "synth.marginals:Marginals",
    "vae": "synth.vae:Vae",
    "ctgan": "synth.ctgan:Ctgan",
}

IMAGES: dict[str, str] = {
    "image-mixture": "synth.image_mixture:ImageMixture",
    "image-vae": "synth.image_vae:IMAGE_VAE",
    "autoencoder": "synth.image_vae:AUTOENCODER",
    "image-diffusion": "synth.image_diffusion:ImageDiffusion",
    "image-gan": "synth.image_gan:ImageGan",
    "dp-merf": "synth.dp_merf:DpMerf",
}
"""Synthesizers of tables with a column of images."""

BASELINES: dict[str, str] = {
    "sdv-gaussian-copula": "synth.sdv:GAUSSIAN_COPULA",
    "sdv-ctgan": "synth.sdv:CTGAN",
    "sdv-tvae": "synth.sdv:TVAE",
    "sdv-copula-gan": "synth.sdv:COPULA_GAN",
}
"""Others' synthesizers behind the same face. They need the rows themselves, and the extra `sdv`."""

ALL = {**SYNTHESIZERS, **IMAGES, **BASELINES}

DEFAULT, PRIVATE = "circuit", "marginals"
"""What `auto` means for a table, and under privacy."""

DEFAULT_IMAGES, LARGE_IMAGES = "image-mixture", "image-diffusion"
"""What `auto` means for a table with images: where networks take long to train, and under privacy; and on a GPU."""


def resolve(name: str, *, private: bool = False, images: bool = False) -> str:
    """The name of the synthesizer that a recipe's word means; of images, `auto` follows from the machine as well.

    Args:
        name: the word.
        private: whether answers are noised.
        images: whether the table has a column of images.

    Raises:
        RecipeError: no synthesizer has that name.
    """
    if name == "auto" and images:
        large = not private and training_device().type == "cuda"
        return LARGE_IMAGES if large else DEFAULT_IMAGES
    if name == "auto":
        return PRIVATE if private else DEFAULT
    if name not in ALL:
        known = ", ".join(("auto", *ALL))
        raise RecipeError(f"a synthesizer must be one of {known}, however: {name!r}{nearest(name, ALL)}")
    return name


def synthesizer(name: str) -> Synthesizer:
    """The synthesizer's class.

    Raises:
        RecipeError: no synthesizer has that name.
        UsageError: it is of a package that is not installed.
    """
    module, _, cls = ALL[resolve(name)].partition(":")
    found: Synthesizer = getattr(import_module(module), cls)
    return found


def check_images(name: str, schema: Schema) -> None:
    """Refuses a synthesizer that knows no images for a table that has some, and the other way round.

    Raises:
        RecipeError: it does not fit the table.
    """
    known = ", ".join(IMAGES)
    if schema.images and name not in IMAGES:
        raise RecipeError(
            f"a table with images needs a synthesizer of images ({known}), however: {schema.images[0].name!r} is kind: "
            f"image and {name} knows none; leave `synthesizer: auto`, or write action: drop with kind: text"
        )
    if not schema.images and name in IMAGES:
        raise RecipeError(
            f"a synthesizer of images needs a column of images, however: the table of {name} has none; choose another"
        )


def check_private(name: str) -> None:
    """Refuses a synthesizer that cannot learn from noised answers, before anything is spent.

    Raises:
        RecipeError: it needs the rows, or many exact answers.
    """
    able = [n for n in (IMAGES if name in IMAGES else SYNTHESIZERS) if synthesizer(n).private]
    if resolve(name) not in able:
        why = (
            "it needs the rows themselves"
            if name in BASELINES
            else "it asks for more exact answers than a budget allows"
        )
        raise RecipeError(
            f"a synthesizer under privacy must learn from noised answers ({', '.join(able)}), however: {name!r} does "
            f"not: {why}; choose another, or leave `synthesizer: auto`"
        )


def descent_of(name: str, options: Mapping[str, Any], units: float | None) -> tuple[Descent, float] | None:
    """The steps that a synthesizer will ask for under privacy and their share of its budget; None if it asks for none.

    They follow from what is public, so they can be reserved before a row is read.

    Args:
        name: of the synthesizer.
        options: its options, as `check_options` lets them pass.
        units: about how many units it learns from, where somebody declared that.

    Raises:
        RecipeError: nobody did, or an option needs exact answers.
    """
    chosen = synthesizer(name)
    for option, allowed in chosen.noised.items() if isinstance(chosen, Restrained) else ():
        if option in options and options[option] not in allowed:
            raise RecipeError(
                f"under privacy no option may need exact answers, however: the options of {resolve(name)} say "
                f"{option}: {json.dumps(options[option])}; leave {option} out"
            )
    if not isinstance(chosen, Descending):
        return None
    if units is None:
        raise RecipeError(
            f"under privacy the steps of {resolve(name)} must follow from a public number of units, however: "
            "`units_about` in the schema is not set; declare about how many there are"
        )
    return chosen.descent(options, units), chosen.share


def shares_of(name: str) -> Mapping[str, float]:
    """What a synthesizer's budget is for, by parts that make 1; empty for one that does not say it."""
    chosen = synthesizer(name)
    return chosen.shares if isinstance(chosen, Dividing) else {}


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Checks the options of a synthesizer before anything is spent.

    Raises:
        RecipeError: the synthesizer or an option does not exist, or an option is out of range.
        UsageError: the synthesizer is of a package that is not installed.
    """
    chosen = synthesizer(name)
    try:
        chosen.options.model_validate(dict(options))
    except ValidationError as e:
        problem = e.errors(include_url=False)[0]
        field = ".".join(str(p) for p in problem["loc"])
        known = chosen.options.model_fields
        if problem["type"] == "extra_forbidden":
            hint = nearest(field, known) or f"; known are {', '.join(known)}"
            raise RecipeError(
                f"options of {resolve(name)} must be known, however: {field!r} is not{hint}"
            ) from None
        said = problem["msg"].removeprefix("Value error, ")
        if not field:
            raise RecipeError(f"options of {resolve(name)}: {said}") from None
        raise RecipeError(
            f"options of {resolve(name)} must be in range, however: {field} is {problem['input']!r}: {said}; "
            "docs/synthesizers.md tells of them"
        ) from None
