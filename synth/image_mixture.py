"""image-mixture: a mixture over images and all other columns, in the space of a linear code.

An image x, in [0, 1], is taken for m + V z: its code z has d numbers, and V has orthonormal columns, the directions in
which images vary most (principal components, found by subspace iteration: Halko, Martinsson & Tropp 2011, arXiv
0909.4061, §4.5). Rows have one hidden component k. Given it the columns are independent, as in `synth.gmm`, and the
code is Gaussian with a full covariance: N(μₖ, Σₖ). What a code leaves of an image is lost: drawn as noise, it makes
images worse. Given columns choose components, and given images do by their codes, so conditions are exact. The density
of an image is that of its code.

Where a column explains much of how images differ (a label, mostly), each component belongs to one of its states, its
stratum. Components grow: from one in each stratum, each is cut in two along its longest axis, expectation maximization
follows, and so on, until more of them do not explain better images that were not learned from. The start needs no
example, all that is asked are sums.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from privacy.curator import Batch, Curator, Floats, Held, Split
from privacy.errors import RecipeError
from synth import gmm
from synth.codec import UNKNOWN, Encoded, Layout
from synth.draws import from_tables
from synth.em import encoded_of, loses, simplex, slices

_LOG_2PI = math.log(2 * math.pi)

NEVER = -1e4
"""Log probability of a state outside of a component's stratum."""

MOST_STRATA = 1000
"""States of a column that may be strata."""

EXPLAINS = 0.02
"""Share of the variance of codes that the strata's column explains at least."""

APART = 0.8
"""Where the halves of a component start: so many standard deviations along its longest axis from its mean."""

LEAST_SHARE = 0.01
"""Share of a row in a component below which it counts for nothing."""


class Options(BaseModel):
    """What a recipe may say about a mixture of images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int = Field(64, ge=1, le=512, description="numbers of an image's code")
    components: int | None = Field(None, ge=1, le=8192, description="number; none: by held-out likelihood")
    max_components: int = Field(2048, ge=1, le=8192, description="where the search for the number ends")
    by: str | None = Field(
        None, description="column whose values the strata are; none: the one that explains most"
    )
    passes: int | None = Field(
        None,
        ge=1,
        le=100,
        description="over the rows at each number of components; none: 3 of many, 10 of few",
    )
    shrinkage: float = Field(
        20.0, gt=0, le=1e6, description="rows that the pooled covariance counts in each component"
    )
    smoothing: float = Field(
        0.5, gt=0, le=1000, description="rows that the prior of a component's states is worth"
    )


UNSEARCHED: Mapping[str, tuple[object, ...]] = MappingProxyType({"components": (None,), "max_components": ()})
"""What a recipe may say of components under noise: each stratum has as many as noise allows to tell apart."""


class Coder(Protocol):
    """Images ⇄ codes; a synthesizer that learns codes of its own has a mixture of them, too."""

    @property
    def size(self) -> int:
        """Numbers of a code."""
        ...

    def of(self, pixels: NDArray[Any]) -> Tensor:
        """Codes of images, uint8 (n, P): float32 (n, d)."""
        ...

    def images(self, codes: Tensor) -> NDArray[np.uint8]:
        """Images of codes, float32 (n, d): uint8 (n, P)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Code:
    """The linear code of images.

    Attributes:
        mean: float32 (P,) in [0, 1].
        basis: float32 (P, d), orthonormal.
    """

    mean: Tensor
    basis: Tensor

    @property
    def size(self) -> int:
        """Numbers of a code."""
        return self.basis.shape[1]

    def of(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Codes of images, uint8 (n, P): float32 (n, d)."""
        return (_units(pixels) - self.mean) @ self.basis

    def images(self, codes: Tensor) -> NDArray[np.uint8]:
        """Images of codes, float32 (n, d): uint8 (n, P)."""
        values = self.mean + codes @ self.basis.T
        return (values * 255).round_().clamp_(0, 255).to(torch.uint8).numpy()


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """K components.

    Attributes:
        columns: of states and scores, see `gmm.Parameters`.
        means: float32 (K, d).
        factors: float32 (K, d, d): lower triangular, L Lᵀ is the covariance.
        strata: int64 (K,): the stratum of each.
    """

    columns: gmm.Parameters
    means: Tensor
    factors: Tensor
    strata: Tensor

    @property
    def components(self) -> int:
        """Number of components K."""
        return len(self.means)


@dataclass(frozen=True, kw_only=True)
class Space:
    """What stays as it is while components grow.

    Attributes:
        layout: the encoded columns.
        code: of images.
        by: index of the field whose states are the strata; −1 where all rows are of one.
    """

    layout: Layout
    code: Coder
    by: int

    @property
    def image(self) -> int:
        """Index of the field that says whether there is an image."""
        return self.layout.images[0].field

    @property
    def strata(self) -> int:
        """Number of strata."""
        return 1 if self.by < 0 else self.layout.fields[self.by].states

    @property
    def common(self) -> NDArray[np.bool_]:
        """Which strata have components of their own: of few rows these would be these people's images."""
        return np.ones(1, np.bool_) if self.by < 0 else common(self.layout, self.by)

    def strata_of(self, states: NDArray[np.int32]) -> NDArray[np.int64]:
        """The stratum of each row, −1 where it is unknown or has no components of its own: int64 (n,)."""
        if self.by < 0:
            return np.zeros(len(states), np.int64)
        own = states[:, self.by].astype(np.int64)
        return np.where((own >= 0) & self.common[own], own, -1)

    def shown(self, states: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which rows have an image that is known: bool (n,)."""
        return np.asarray(states[:, self.image] > 0)


class ImageMixture:
    """A fitted mixture of images."""

    name = "image-mixture"
    exact = True
    private = True
    options = Options
    noised: Mapping[str, tuple[object, ...]] = MappingProxyType(
        {**UNSEARCHED, "passes": (None,), "shrinkage": ()}
    )

    def __init__(self, space: Space, parameters: Parameters) -> None:
        self._space = space
        self._parameters = parameters
        self._columns = gmm.Gmm(space.layout, parameters.columns)
        self._scorer = _Scorer(space, parameters)

    @property
    def space(self) -> Space:
        """Code and strata."""
        return self._space

    @property
    def parameters(self) -> Parameters:
        """The components."""
        return self._parameters

    @classmethod
    def fit(
        cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int, part: float = 1.0
    ) -> "ImageMixture":
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns, of which one is of images.
            options: fields of `Options`.
            seed: of the directions in which the search for a code begins.
            part: of the budget that all of it may use.

        Raises:
            RecipeError: there are several columns of images, or `by` names no column of few values.
        """
        chosen = Options.model_validate(dict(options))
        check(layout, chosen.by)
        if _noised(curator, layout):
            return cls._of_noised(curator, layout, chosen, part=part)
        return cls.over(curator, layout, _code(curator, layout, chosen.code, seed), chosen)

    @classmethod
    def over(
        cls, curator: Curator, layout: Layout, code: Coder, options: Options, *, part: float = 1.0
    ) -> "ImageMixture":
        """Learns the mixture in the space of a code.

        Args:
            curator: over rows whose `pixels` the code takes.
            layout: the encoded columns.
            code: of images.
            options: of the mixture.
            part: of the budget that all of it may use. Where answers carry noise codes have to be about N(0, 1).
        """
        if _noised(curator, layout):
            return cls._of_noised(curator, layout, options, part=part, coder=code)
        space = Space(layout=layout, code=code, by=_strata(curator, layout, code, options.by))
        most = options.components or _best_number(curator, space, options)
        *_, parameters = _grown(curator, space, options, most, split="train")
        return cls(space, parameters)

    @classmethod
    def _of_noised(
        cls, curator: Curator, layout: Layout, options: Options, *, part: float, coder: Coder | None = None
    ) -> "ImageMixture":
        from synth.image_noised import fit_noised

        return cls(*fit_noised(curator, layout, options, part=part, coder=coder))

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`."""
        if given is None:
            known = self._space.layout.unknown(rows)
            weights = np.exp(self._parameters.columns.log_weights.double().numpy())
            component = from_tables(rng, weights[:, None], np.zeros(rows, np.int64))
        else:
            serving = given.serving(rows)
            component = from_tables(rng, self._posterior(given, present=present).T, serving)
            known = given.take(serving)
        filled = self._columns.fill(known, component, rng, present=present)
        pixels = np.zeros((rows, self._space.layout.pixels), np.uint8)
        if known.pixels is not None:
            pixels[:] = known.pixels
        image = self._space.image
        anew = (known.states[:, image] == UNKNOWN) & (filled.states[:, image] > 0)
        index = np.flatnonzero(anew)
        pixels[index] = self._images(component[index], rng)
        pixels[filled.states[:, image] == 0] = 0
        return replace(filled, pixels=pixels)

    def between(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], *, steps: int
    ) -> NDArray[np.uint8]:
        """See `synth.registry.Interpolating`."""
        code = self._space.code
        share = torch.linspace(0, 1, steps)[None, :, None]
        lines = torch.lerp(code.of(first)[:, None], code.of(second)[:, None], share)
        return code.images(lines.flatten(0, 1)).reshape(len(first), steps, -1)

    def log_prob(self, encoded: Encoded) -> Floats:
        """Log-density of states, scores and codes of images, unknown cells integrated out: float64 (n,)."""
        return self._scorer.log_prob(encoded)

    def joint(self, encoded: Encoded, codes: Tensor) -> Tensor:
        """Log-density of rows whose images have these codes, (n, d), together with each component: float32 (n, K)."""
        return self._scorer.joint(encoded, codes)

    def in_space_of(self, code: Coder) -> "ImageMixture":
        """The same mixture, of codes that another coder gives."""
        return ImageMixture(replace(self._space, code=code), self._parameters)

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        code = self._space.code
        assert isinstance(code, Code)
        return {**self.components(), "image_mean": code.mean, "basis": code.basis}

    def components(self) -> dict[str, Tensor]:
        """What must be stored besides the code; the inverse is `with_code`."""
        p = self._parameters
        return {
            "log_weights": p.columns.log_weights,
            "log_tables": p.columns.log_tables,
            "means": p.columns.means,
            "stds": p.columns.stds,
            "code_means": p.means,
            "code_factors": p.factors,
            "strata": p.strata,
            "by": torch.tensor(self._space.by),
        }

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> "ImageMixture":
        """A mixture from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        code = Code(mean=tensors["image_mean"], basis=tensors["basis"])
        _check_shapes(
            tensors, {"image_mean": (layout.pixels,), "basis": (layout.pixels, code.basis.shape[-1])}
        )
        return cls.with_code(layout, tensors, code)

    @classmethod
    def with_code(cls, layout: Layout, tensors: Mapping[str, Tensor], code: Coder) -> "ImageMixture":
        """A mixture from the tensors of `components`, and a code.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        columns = gmm.Gmm.restore(layout, tensors).parameters
        components, size = len(columns.log_weights), code.size
        by = int(tensors["by"])
        if len(layout.images) != 1 or not -1 <= by < len(layout.fields):
            raise ValueError(
                "a mixture of images must have one column of them, however: it has another layout"
            )
        space = Space(layout=layout, code=code, by=by)
        expected = {
            "code_means": (components, size),
            "code_factors": (components, size, size),
            "strata": (components,),
        }
        _check_shapes(tensors, expected)
        parameters = Parameters(
            columns=columns,
            means=tensors["code_means"],
            factors=tensors["code_factors"],
            strata=tensors["strata"],
        )
        return cls(space, parameters)

    def _posterior(self, given: Encoded, *, present: bool) -> Floats:
        """Probability of each component given what is known: float64 (n, K)."""
        joint = torch.cat([self._scorer.joint(given.take(s)) for s in slices(len(given))]).double()
        if present:
            unknown = torch.from_numpy(given.states == UNKNOWN).double()
            joint = joint + unknown @ self._scorer.columns.log_present.double()
        return joint.softmax(1).numpy()

    def _images(self, component: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
        """Images of these components: uint8 (n, P)."""
        p, code = self._parameters, self._space.code
        codes = torch.from_numpy(rng.standard_normal((len(component), code.size), np.float32))
        for k in np.unique(component):
            own = torch.from_numpy(np.flatnonzero(component == k))
            codes[own] = p.means[k] + codes[own] @ p.factors[k].T
        return code.images(codes)


def check(layout: Layout, by: str | None) -> None:
    """Refuses what no model of images can learn yet.

    Raises:
        RecipeError: there are several columns of images, or `by` names no column of few values.
    """
    if len(layout.images) != 1:
        raise RecipeError(
            f"one column of images can be learned, however: there are {len(layout.images)}; drop the others (kind: "
            "text, action: drop)"
        )
    names = [f.name for f in layout.fields if f.score is None and 2 <= f.states <= MOST_STRATA]
    if by is not None and by not in names:
        raise RecipeError(
            f"`by` must name a column of few values, however: {by!r} is none; such are "
            + (", ".join(map(repr, names)) or "none")
        )


def _check_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ValueError(f"{name} must be {shape}, however: it is {tuple(tensors[name].shape)}")


def _units(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 in [0, 255] → float32 in [0, 1]."""
    return torch.from_numpy(pixels).float() / 255


# ------------------------------------------------------------------------------------------------------ code


def _code(curator: Curator, layout: Layout, size: int, seed: int) -> Code:
    """The mean of all images, and the directions in which they vary most."""
    numbers = layout.pixels
    total = curator.sum(_Pixels(layout)).value
    rows = max(total[0], 1.0)
    mean = torch.from_numpy(total[1:] / rows).float()
    size = int(min(size, numbers, max(1, rows - 1)))
    # A few directions more than are kept, and a few rounds, find those that are kept.
    wide = min(numbers, size + EXTRA)
    rng = np.random.default_rng([seed, numbers])
    basis = _orthonormal(rng.standard_normal((numbers, wide)))
    for _ in range(ROUNDS):
        found = curator.sum(_Spread(layout, mean, basis)).value.reshape(numbers, wide)
        basis = _orthonormal(found)
    # Turned so that the numbers of a code are uncorrelated, and those that vary most come first.
    found = curator.sum(_Spread(layout, mean, basis)).value.reshape(numbers, wide)
    inner = basis.double().numpy().T @ found
    _, turn = np.linalg.eigh((inner + inner.T) / 2)
    turned = basis.double() @ torch.from_numpy(turn[:, ::-1][:, :size].copy())
    return Code(mean=mean, basis=turned.float().contiguous())


EXTRA, ROUNDS = 16, 3
"""Directions that are looked for beyond those that are kept, and rounds."""


def _orthonormal(columns: Floats) -> Tensor:
    return torch.from_numpy(np.linalg.qr(columns)[0]).float()


def _noised(curator: Curator, layout: Layout) -> bool:
    """Whether answers carry noise."""
    return curator.price(_Pixels(layout), share=1.0) > 0


class _Pixels:
    """Σ of (1, x) over images x."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.size = 1 + layout.pixels
        self.bound = math.sqrt(1 + layout.pixels)

    def of(self, batch: Batch) -> Held:
        """What these rows add."""
        there, images = shown(batch, self._layout)
        return Held(torch.cat([there, images * there], 1).double().numpy())


class _Spread:
    """Σ of (x − m) (x − m)ᵀ Q over images x, with Q of a few columns."""

    def __init__(self, layout: Layout, mean: Tensor, basis: Tensor) -> None:
        self._layout, self._mean, self._basis = layout, mean, basis
        self.size = basis.numel()
        self.bound = float(layout.pixels)

    def of(self, batch: Batch) -> "Products":
        """What these rows add."""
        there, images = shown(batch, self._layout)
        centred = (images - self._mean) * there
        return Products(centred, centred @ self._basis)


@dataclass(frozen=True)
class Products:
    """Outer products of the rows of two matrices."""

    left: Tensor
    right: Tensor

    def norms(self) -> Floats:
        """Norm of each row's contribution: float64 (n,)."""
        return np.asarray((self.left.double().norm(dim=1) * self.right.double().norm(dim=1)).numpy())

    def weighted(self, weights: Floats | None) -> Floats:
        """Weighted sum of the contributions, flattened."""
        right = self.right
        if weights is not None:
            right = right * torch.from_numpy(weights).to(right.dtype)[:, None]
        return (self.left.T @ right).double().flatten().numpy()


def held(vectors: Tensor, most: float = 1.0) -> Tensor:
    """Vectors that are shortened to a length: (n, d)."""
    shortened: Tensor = vectors * (most / vectors.norm(dim=1, keepdim=True).clamp_min(most))
    return shortened


def shown(batch: Batch, layout: Layout) -> tuple[Tensor, Tensor]:
    """Whether each row of a batch has an image, float32 (n, 1) in {0, 1}, and which: float32 (n, P) in [0, 1]."""
    return has_image(batch, layout), _units(np.array(batch.columns["pixels"], np.uint8))


def has_image(batch: Batch, layout: Layout) -> Tensor:
    """Whether each row of a batch has an image: float32 (n, 1) in {0, 1}."""
    there = np.asarray(batch.columns["states"])[:, layout.images[0].field] > 0
    return torch.from_numpy(there).float()[:, None]


# ---------------------------------------------------------------------------------------------------- strata


def _strata(curator: Curator, layout: Layout, code: Coder, by: str | None) -> int:
    """The field whose states explain most of how codes differ, or −1 where none explains much."""
    image = layout.images[0].field
    fields = [
        i
        for i, f in enumerate(layout.fields)
        if f.score is None and i != image and 2 <= f.states <= MOST_STRATA
    ]
    if by is not None:
        named = next(i for i in fields if layout.fields[i].name == by)
        return named if common(layout, named).any() else -1
    fields = [i for i in fields if common(layout, i).sum() >= 2]
    if not fields:
        return -1
    statistic = _Means(layout, code, fields)
    parts = np.split(curator.sum(statistic).value.reshape(statistic.states + 1, -1), statistic.borders)
    *of_fields, whole = parts
    rows, variance = max(whole[0, 0], 1.0), whole[0, 1] - (whole[0, 2:] ** 2).sum() / max(whole[0, 0], 1.0)
    shares = [_explained(part, rows, variance) for part in of_fields]
    best = int(np.argmax(shares))
    return fields[best] if shares[best] > EXPLAINS else -1


def common(layout: Layout, field: int) -> NDArray[np.bool_]:
    """The states of a column that rows enough for a component have: bool (states,)."""
    return np.array(layout.fields[field].rates) * layout.rows >= LEAST_ROWS


def _explained(part: Floats, rows: float, variance: float) -> float:
    """Share of the variance that lies between the states of a column, less what chance would put there."""
    filled = part[part[:, 0] > 0.5]
    sums = filled[:, 2:].sum(0)
    between = ((filled[:, 2:] ** 2).sum(1) / filled[:, 0]).sum() - (sums**2).sum() / rows
    chance = (len(filled) - 1) * max(variance - between, 0.0) / max(rows - len(filled), 1.0)
    return float((between - chance) / max(variance, 1e-12))


class _Means:
    """Σ of (1, |z|², z) over the codes of images, for each state of some columns, and for all rows."""

    def __init__(self, layout: Layout, code: Coder, fields: list[int]) -> None:
        self._layout, self._code, self._fields = layout, code, fields
        self.borders = np.cumsum([layout.fields[i].states for i in fields])
        self.states = int(self.borders[-1])
        self.size = (self.states + 1) * (2 + code.size)
        self.bound = math.sqrt((1 + len(fields)) * (1 + layout.pixels + layout.pixels**2))

    def of(self, batch: Batch) -> Products:
        """What these rows add."""
        codes = self._code.of(np.array(batch.columns["pixels"]))
        states = torch.from_numpy(np.array(batch.columns["states"], np.int64))[:, self._fields]
        hot = torch.zeros(len(states), self.states + 1)
        first = torch.from_numpy(np.concatenate([[0], self.borders[:-1]]))
        hot.scatter_(1, torch.where(states < 0, self.states, states + first), 1.0)
        hot[:, -1] = 1.0
        there = has_image(batch, self._layout)
        values = torch.cat([torch.ones(len(codes), 1), (codes**2).sum(1, keepdim=True), codes], 1)
        return Products(hot * there, values)


# ------------------------------------------------------------------------------------------------ expectation


class _Scorer:
    """log p(row, component) of encoded rows under fixed parameters."""

    def __init__(self, space: Space, parameters: Parameters) -> None:
        self.columns = gmm.Scorer(space.layout, parameters.columns)
        self._space = space
        self._strata = parameters.strata
        eye = torch.eye(space.code.size).expand_as(parameters.factors)
        self._whiten = torch.linalg.solve_triangular(parameters.factors, eye, upper=False)
        self._offsets = (self._whiten @ parameters.means[:, :, None])[:, :, 0]
        logs = parameters.factors.diagonal(dim1=1, dim2=2).log().sum(1)
        self._constants = -logs - 0.5 * space.code.size * _LOG_2PI

    def joint(self, encoded: Encoded, codes: Tensor | None = None) -> Tensor:
        """float32 (n, K)."""
        joint = self.columns.joint(encoded)
        strata, shown = self._space.strata_of(encoded.states), self._space.shown(encoded.states)
        if codes is None and shown.any():
            assert encoded.pixels is not None
            codes = self._space.code.of(encoded.pixels)
        for stratum in np.unique(strata):
            own = torch.ones_like(self._strata, dtype=torch.bool) if stratum < 0 else self._strata == stratum
            rows = torch.from_numpy(np.flatnonzero(strata == stratum))
            joint[rows] += torch.where(own, 0.0, _NOWHERE)
            rows = torch.from_numpy(np.flatnonzero((strata == stratum) & shown))
            if codes is not None and len(rows):
                self._add(joint, codes, rows, own.nonzero()[:, 0])
        return joint

    def log_prob(self, encoded: Encoded) -> Floats:
        """Log-density of each row: float64 (n,)."""
        parts = [self.joint(encoded.take(s)).double().logsumexp(1) for s in slices(len(encoded))]
        return torch.cat(parts).numpy()

    def _add(self, joint: Tensor, codes: Tensor, rows: Tensor, components: Tensor) -> None:
        """Adds the log-density of codes of some rows in some components."""
        size = codes.shape[1]
        for part in torch.split(components, max(1, _AT_ONCE // (size * len(rows)))):
            whiten = self._whiten[part].reshape(-1, size)
            white = codes[rows] @ whiten.T - self._offsets[part].flatten()
            squares = (white**2).reshape(len(rows), len(part), size).sum(2)
            joint[rows[:, None], part] += self._constants[part] - 0.5 * squares


_NOWHERE = -1e30
"""What is added to the log probability of components of other strata than a row's."""

_AT_ONCE = 1 << 24
"""Numbers that are held at once."""


class Moments:
    """The sums of the E step: those of `gmm`, and Σ z and Σ z zᵀ of each component.

    A row adds r ⊗ (what it adds in `gmm`, z, z zᵀ) with r its posterior.
    """

    def __init__(self, space: Space, parameters: Parameters) -> None:
        self._space = space
        self._scorer = _Scorer(space, parameters)
        self._components, self._code = parameters.components, space.code.size
        layout = space.layout
        self.entries = 1 + layout.states + 2 * len(layout.scored)
        self.size = self._components * (self.entries + self._code + self._code**2)
        pixels = float(layout.pixels)
        self.bound = math.sqrt(1 + len(layout.fields) + 8 * len(layout.scored) + pixels + pixels**2)

    def of(self, batch: Batch) -> "MomentsOfBatch":
        """What these rows add."""
        encoded = encoded_of(batch)
        assert encoded.pixels is not None
        codes = self._space.code.of(encoded.pixels)
        posterior = self._scorer.joint(encoded, codes).softmax(1)
        posterior = torch.where(posterior < LEAST_SHARE, 0.0, posterior)
        posterior /= posterior.sum(1, keepdim=True).clamp(min=1e-12)
        columns = gmm.MomentsOfBatch(
            posterior,
            torch.from_numpy(np.ascontiguousarray(encoded.states.T)).long(),
            self._scorer.columns.powers(encoded),
            tuple(f.states for f in self._space.layout.fields),
        )
        codes[torch.from_numpy(~self._space.shown(encoded.states))] = 0.0
        return MomentsOfBatch(columns, codes)


@dataclass(frozen=True)
class MomentsOfBatch:
    """What rows add to the sums of the E step.

    Attributes:
        columns: what they add in `gmm`.
        codes: float32 (n, d).
    """

    columns: gmm.MomentsOfBatch
    codes: Tensor

    def norms(self) -> Floats:
        """Norm of each row's contribution: float64 (n,)."""
        squares = (self.codes.double() ** 2).sum(1)
        posterior = self.columns.posterior.double().norm(dim=1)
        images = posterior * (squares + squares**2).sqrt()
        return np.asarray(np.hypot(self.columns.norms(), images.numpy()))

    def weighted(self, weights: Floats | None) -> Floats:
        """Weighted sum of the contributions, flattened: those of `gmm`, Σ z, Σ z zᵀ."""
        posterior, codes = self.columns.posterior, self.codes
        if weights is not None:
            posterior = posterior * torch.from_numpy(weights).to(posterior.dtype)[:, None]
        size = codes.shape[1]
        squares = torch.zeros(posterior.shape[1], size, size)
        components, rows = posterior.T.nonzero(as_tuple=True)
        counts = torch.bincount(components, minlength=posterior.shape[1])
        for k, own in enumerate(torch.split(rows, counts.tolist())):
            if len(own):
                squares[k] = (codes[own] * posterior[own, k, None]).T @ codes[own]
        parts = [self.columns.weighted(weights), (posterior.T @ codes).double().flatten().numpy()]
        return np.concatenate([*parts, squares.double().flatten().numpy()])


# ----------------------------------------------------------------------------------------------- maximization


def _grown(
    curator: Curator, space: Space, options: Options, most: int, *, split: Split
) -> Iterator[Parameters]:
    """Fits one component for each stratum, then about twice as many again and again, `most` at last."""
    parameters = one_each(space)
    passes = options.passes or int(np.clip(ROWS_SEEN / max(1.0, space.layout.rows), 3, 10))
    while True:
        for _ in range(passes):
            moments = Moments(space, parameters)
            answer = curator.sum(moments, split=split)
            parameters = _maximize(space, moments.entries, parameters, answer.value, options)
        yield parameters
        # Each stratum has one, however few are wanted.
        wanted = max(parameters.components, min(most, 2 * parameters.components))
        halved = cut(space, parameters, wanted - parameters.components)
        if halved.components == parameters.components:
            return
        parameters = halved


ROWS_SEEN = 150_000
"""Rows that are looked at, in all passes at one number of components, before fewer passes than ten are made."""


def one_each(space: Space) -> Parameters:
    """A component for each stratum that has rows enough, each as wide as an image can be."""
    layout, size = space.layout, space.code.size
    rates = np.ones(1) if space.by < 0 else np.array(layout.fields[space.by].rates)
    strata = np.flatnonzero(space.common)
    tables = np.concatenate([np.log(np.maximum(simplex(np.array(f.rates)), 1e-12)) for f in layout.fields])
    columns = gmm.Parameters(
        log_weights=torch.from_numpy(np.log(simplex(rates[strata]))).float(),
        log_tables=torch.from_numpy(np.repeat(tables[:, None], len(strata), 1)).float(),
        means=torch.zeros(len(layout.scored), len(strata)),
        stds=torch.ones(len(layout.scored), len(strata)),
    )
    return Parameters(
        columns=tied(space, columns, torch.from_numpy(strata)),
        means=torch.zeros(len(strata), size),
        factors=torch.eye(size).repeat(len(strata), 1, 1),
        strata=torch.from_numpy(strata),
    )


def tied(space: Space, columns: gmm.Parameters, strata: Tensor) -> gmm.Parameters:
    """Parameters in which a component has no state but its stratum's, and rare ones, which have none of their own."""
    if space.by < 0:
        return columns
    first, states = int(space.layout.offsets[space.by]), space.layout.fields[space.by].states
    tables = columns.log_tables.clone()
    rare = np.where(space.common, 0.0, space.layout.fields[space.by].rates)
    everywhere = torch.from_numpy(np.where(rare > 0, np.log(np.maximum(rare, 1e-300)), NEVER)).to(
        tables.dtype
    )
    tables[first : first + states] = everywhere[:, None]
    tables[first + strata, torch.arange(len(strata))] = math.log1p(-float(rare.sum()))
    return replace(columns, log_tables=tables)


def _maximize(
    space: Space, entries: int, before: Parameters, moments: Floats, options: Options
) -> Parameters:
    """The M step; covariances are drawn towards what is usual within the components of their stratum.

    Args:
        space: code and strata.
        entries: sums of states and scores for each component.
        before: what the moments were taken under.
        moments: float64, as `Moments` has them.
        options: the strength of the priors.
    """
    layout, size, number = space.layout, space.code.size, before.components
    rows = max(layout.rows, 1.0)
    of_columns, of_means, of_squares = np.split(moments, np.cumsum([entries, size]) * number)
    table = of_columns.reshape(entries, number)
    # A component of few rows would be these people: it leans on what is usual, as if it had `LEAST_ROWS` of them.
    lent = np.maximum(0.0, LEAST_ROWS - table[0])
    leaned = table + lent * (table.sum(1, keepdims=True) / max(float(table[0].sum()), 1.0))
    leaned[0] = table[0]
    columns = gmm.maximize(
        layout, leaned / rows, rows, gmm.Options.model_validate({"smoothing": options.smoothing})
    )
    first = 1 + int(layout.offsets[space.image])
    held = np.maximum(table[first + 1 : first + layout.fields[space.image].states].sum(0), 0.0)
    sums, squares = of_means.reshape(number, size), of_squares.reshape(number, size, size)
    strata = np.unique(before.strata.numpy(), return_inverse=True)[1]
    every = np.zeros((strata.max() + 1, number))
    every[strata, np.arange(number)] = 1.0
    per_stratum = every @ held
    usual = sums.sum(0) / max(held.sum(), 1.0)
    centres = (every @ sums + PRIOR_ROWS * usual) / (per_stratum + PRIOR_ROWS)[:, None]
    alpha = options.smoothing + np.maximum(0.0, LEAST_ROWS - held)
    means = (sums + alpha[:, None] * centres[strata]) / (held + alpha)[:, None]
    within = squares - means[:, :, None] * sums[:, None, :] - sums[:, :, None] * means[:, None, :]
    within += held[:, None, None] * means[:, :, None] * means[:, None, :]
    whole = within.sum(0) / max(held.sum(), 1.0)
    pooled = np.einsum("sk,kij->sij", every, within) + PRIOR_ROWS * whole
    pooled /= (per_stratum + PRIOR_ROWS)[:, None, None]
    prior = options.shrinkage + np.maximum(0.0, LEAST_ROWS - held)
    covariances = (within + prior[:, None, None] * pooled[strata]) / (held + prior)[:, None, None]
    floor = FLOOR * max(float(np.trace(whole)) / size, 1e-6)
    covariances += floor * np.eye(size)
    return Parameters(
        columns=tied(space, columns, before.strata),
        means=torch.from_numpy(means).float(),
        factors=torch.from_numpy(np.linalg.cholesky(covariances)).float(),
        strata=before.strata,
    )


PRIOR_ROWS = 20.0
"""Rows that what is usual in all strata counts in each, for its centre and for its covariance."""

FLOOR = 1e-3
"""Smallest variance of a component along any axis, in mean variances within components."""


def cut(space: Space, parameters: Parameters, number: int) -> Parameters:
    """Cuts `number` components, those that hold most of what is unexplained, in two along their longest axes."""
    covariances = (parameters.factors @ parameters.factors.transpose(1, 2)).double()
    values, axes = torch.linalg.eigh(covariances)
    longest, axis = values[:, -1], axes[:, :, -1]
    weights = parameters.columns.log_weights.double().exp()
    large = weights * space.layout.rows >= 2 * LEAST_ROWS
    order = torch.argsort(torch.where(large, weights * longest, -1.0), descending=True, stable=True)
    chosen = order[: min(number, int(large.sum()))]
    if not len(chosen):
        return parameters
    away = (APART * longest.sqrt())[:, None] * axis
    inner = covariances - APART**2 * longest[:, None, None] * axis[:, :, None] * axis[:, None, :]
    factors = torch.linalg.cholesky(inner[chosen]).float()
    means, columns = parameters.means.clone(), parameters.columns
    means[chosen] -= away[chosen].float()
    lower = parameters.factors.clone()
    lower[chosen] = factors
    log_weights = columns.log_weights.clone()
    log_weights[chosen] -= math.log(2)
    doubled = torch.cat([torch.arange(parameters.components), chosen])
    halves = gmm.Parameters(
        log_weights=log_weights[doubled],
        log_tables=columns.log_tables[:, doubled],
        means=columns.means[:, doubled],
        stds=columns.stds[:, doubled],
    )
    touched = torch.cat([chosen, torch.arange(parameters.components, len(doubled))])
    halves = tied(space, _apart(space.layout, halves, touched.numpy()), parameters.strata[doubled])
    return Parameters(
        columns=halves,
        means=torch.cat([means, (parameters.means + away.float())[chosen]]),
        factors=torch.cat([lower, factors]),
        strata=parameters.strata[doubled],
    )


def _apart(layout: Layout, columns: gmm.Parameters, touched: NDArray[np.int64]) -> gmm.Parameters:
    """Components of which those that were cut lean towards values that they hold, so that halves differ in all columns.

    Halves that only differ in images would never tell other columns apart.
    """
    rng = np.random.default_rng([len(columns.log_weights), len(touched)])
    tables, means = columns.log_tables.double().exp(), columns.means.clone()
    for field, offset in zip(layout.fields, layout.offsets, strict=True):
        table = tables[offset : offset + field.states].numpy()
        own = table[:, touched]
        leaning = from_tables(rng, own, np.arange(len(touched)))
        table[:, touched] = (1 - LEANING) * own / own.sum(0)
        table[leaning, touched] += LEANING
    shifts = torch.from_numpy(rng.standard_normal((len(means), len(touched)), np.float32))
    means[:, touched] += LEANING * shifts * columns.stds[:, touched]
    return replace(columns, log_tables=tables.clamp(min=1e-12).log().float(), means=means)


LEANING = 0.3
"""How far the halves of a component lean to one value of each column."""

LEAST_ROWS = 20.0
"""Rows of a component at least after a cut."""


def _best_number(curator: Curator, space: Space, options: Options) -> int:
    """The number of components after which more do not explain rows better that were not learned from."""
    best: Parameters | None = None
    columns = len(space.layout.fields) + space.code.size
    for found in _grown(curator, space, options, options.max_components, split="fit"):
        if best is not None:
            before, now = (_Scorer(space, p).log_prob for p in (best, found))
            if loses(curator, before, now, columns=columns):
                break
        best = found
    assert best is not None
    return best.components
