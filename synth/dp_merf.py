"""dp-merf: a generator of images that is fitted to one noised mean of features, for as long as one likes.

After DP-MERF (Harder, Adamczewski & Park 2021, arXiv 2002.11603): the mean over rows of label ⊗ features of the image
is asked once, with noise. Then a generator learns to draw images whose features have that mean (by their maximum mean
discrepancy, Gretton et al. 2012), and nothing that it does costs any more. What differs:

- It begins where `image-mixture` ends, which has a part of the budget and draws rows, or what is unknown of given ones.
  The generator is that of `image-gan`: the network of `image-diffusion`, asked once for what such an image lacks.
- Features are not random waves of pixels. A small network learns from the mixture's own images, which cost nothing, to
  tell their strata (labels, mostly); features are what its layers say, and what random filters of edges do, each about
  its mean in the mixture's images of the row's stratum, and in units of how it varies there. So what is asked is how
  real images differ from the mixture's, and all of a row's length goes to that.
- Beside the features stand products of two of them, of the directions in which they vary most: a mean alone would not
  say how images differ among each other.
- What noise leaves of the answer is told by how far it stands out (James & Stein 1961).
- The discrepancy is told without bias, by two halves of a batch: the squared mean of one would ask for images that
  are alike.

Whoever learns here reads the mixture's rows, which were drawn once, in the one training loop, through a curator that
answers exactly: they are nobody's.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from privacy.curator import Answer, Batch, Curator, ExactCurator, Floats, Luck
from synth.codec import Encoded, Layout
from synth.em import encoded_of, slices
from synth.image_diffusion import Network, UponMixture, network_upon
from synth.image_gan import BETAS, ImageGan, Noise, generated
from synth.image_mixture import UNSEARCHED, ImageMixture, Products, Space, held
from synth.image_vae import images_of
from synth.layers import seeded, training_device
from synth.rows import EncodedRows
from synth.train import train

SHARE = 0.2
"""Of the budget, what the embedding has; the mixture has the rest."""

FEWEST_DRAWN, MOST_DRAWN = 2000, 20_000
"""Rows of the mixture that everybody learns from here: as many as there are real ones, within these."""

HELD, WIDER = 0.9, 1.3
"""Length of features that so many of the mixture's images do not exceed, and how much longer real ones may be."""

PRODUCTS = 64
"""Directions of features whose products are asked for."""

FILTERS = 24
"""Random filters of edges, of five by five pixels."""

PLACES = 4
"""Places along a side that what a layer says is gathered in."""

TELLER_PASSES, TELLER_ROWS = 4, 256
"""Over the mixture's rows, by the network whose layers features are of, and rows of a step."""

LEAST_SPREAD = 0.01
"""Of a feature about its mean, in what features vary by in the mean."""

FEWEST_ROWS = 20.0
"""Rows of a stratum at least, to divide by."""

JUDGED_ROWS = 1000
"""Rows whose images are drawn to judge the generator."""

AT_ONCE = 500
"""Images that pass a network at a time, when nothing is learned."""

SCALE = 100.0
"""What discrepancies are multiplied by, which are about 1 at first then."""

LOOKS, PATIENCE = 10, 4
"""Looks at rows that were not learned from, and those without a better one after which training stops."""


class Options(UponMixture):
    """What a recipe may say about a generator that is fitted to a mean embedding."""

    channels: int = Option(16, ge=8, le=1024, multiple_of=8, description="of the outermost layer")
    blocks: int = Option(1, ge=1, le=32, description="residual blocks at each size, down and up")
    max_steps: int = Option(
        300, ge=1, le=10_000_000, description="of the generator at most; they cost no privacy"
    )
    batch_rows: int = Option(400, ge=2, le=1_000_000, description="images of a step")
    learning_rate: float = Option(2e-3, gt=0, le=1, description="of Adam")
    noise: Noise = 0.3


class Teller(nn.Module):
    """Images → scores of their strata; features are what its layers, and random filters of edges, say on the way.

    Args:
        shape: height, width and channels of an image.
        strata: how many.
    """

    def __init__(self, shape: tuple[int, int, int], strata: int) -> None:
        super().__init__()
        colours = shape[2]
        edges = torch.randn(FILTERS, colours, 5, 5)
        edges -= edges.mean((1, 2, 3), keepdim=True)
        self.edges = nn.Buffer(edges / edges.flatten(1).norm(dim=1)[:, None, None, None])
        self.first = nn.Conv2d(colours, 16, 5, padding=2)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.third = nn.Linear(32 * (2 * PLACES) ** 2, 64)
        self.out = nn.Linear(64, strata)

    def forward(self, images: Tensor) -> Tensor:
        """(n, c, h, w) in [−1, 1] → (n, strata)."""
        out: Tensor = self.out(self._layers(images)[-1])
        return out

    def features(self, images: Tensor) -> Tensor:
        """(n, c, h, w) in [−1, 1] → (n, D)."""
        *places, last = self._layers(images)
        edges = functional.conv2d(functional.pad(images, (2, 2, 2, 2), mode="replicate"), self.edges).abs()
        gathered = [functional.adaptive_avg_pool2d(x, PLACES) for x in places]
        gathered.append(functional.adaptive_avg_pool2d(edges, 2 * PLACES - 1))
        return torch.cat([*(x.flatten(1) for x in gathered), last], 1)

    def _layers(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first = functional.max_pool2d(functional.relu(self.first(images)), 2, ceil_mode=True)
        second = functional.max_pool2d(functional.relu(self.second(first)), 2, ceil_mode=True)
        wide = functional.adaptive_avg_pool2d(second, 2 * PLACES)
        return first, second, functional.relu(self.third(wide.flatten(1)))


@dataclass(frozen=True, kw_only=True)
class Features:
    """Vectors of images, none longer than 1, and 0 in the mean of the mixture's images of each stratum.

    Attributes:
        teller: says the features.
        means: of features in strata, (S, D).
        units: what the differences to these are multiplied by, (D,).
        directions: of which products are asked, (D, d).
        centres: of the vectors in strata, (S, D + d (d + 1) / 2).
    """

    teller: Teller
    means: Tensor
    units: Tensor
    directions: Tensor
    centres: Tensor

    @property
    def parts(self) -> tuple[int, int]:
        """Numbers of a vector that are features, and that are products."""
        return self.means.shape[1], self.centres.shape[1] - self.means.shape[1]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.means.device

    @classmethod
    def upon(cls, teller: Teller, drawn: "Drawn") -> "Features":
        """By how features vary in images of a mixture."""
        with torch.no_grad():
            found = torch.cat([teller.features(images).cpu() for images, _ in drawn.parts()])
        hot = drawn.hot
        means = (hot.T @ found) / hot.sum(0).clamp_min(1.0)[:, None]
        apart = (found - hot @ means)[hot.sum(1) > 0]
        stds = apart.std(0)
        units = 1 / (stds + LEAST_SPREAD * stds.mean()).clamp_min(1e-9)
        apart *= units
        values, axes = torch.linalg.eigh((apart.T @ apart / len(apart)).double())
        number = min(PRODUCTS, len(values))
        directions = (axes[:, -number:] / values[-number:].clamp_min(1e-9).sqrt()).float()
        longest = [WIDER * v.norm(dim=1).quantile(HELD).clamp_min(1e-9) for v in (apart, apart @ directions)]
        device = drawn.device
        rough = cls(
            teller=teller,
            means=means.to(device),
            units=(units / longest[0]).to(device),
            directions=(units[:, None] * directions / longest[1]).to(device),
            centres=torch.zeros(len(means), len(units) + number * (number + 1) // 2, device=device),
        )
        return replace(rough, centres=drawn.means(rough))

    def of(self, images: Tensor, strata: Tensor) -> Tensor:
        """(n, c, h, w) in [−1, 1], and their strata, int64 (n,) → (n, numbers)."""
        return held(self._vectors(images, strata) - self.centres[strata])

    def _vectors(self, images: Tensor, strata: Tensor) -> Tensor:
        apart = self.teller.features(images) - self.means[strata]
        some = held(apart @ self.directions)
        one, other = torch.triu_indices(some.shape[1], some.shape[1], device=some.device)
        # Off the diagonal each stands for two.
        products = some[:, one] * some[:, other] * torch.where(one == other, 1.0, math.sqrt(2))
        return math.sqrt(0.5) * torch.cat([held(apart * self.units), products], 1)


class Drawn:
    """Rows of a mixture, as everybody here learns from them.

    Args:
        mixture: it draws them.
        seed: of the draw.
        device: where networks are.
    """

    def __init__(self, mixture: ImageMixture, seed: int, device: torch.device) -> None:
        number = int(np.clip(mixture.space.layout.rows, FEWEST_DRAWN, MOST_DRAWN))
        self.rows = mixture.draw(number, np.random.default_rng([seed, 3]))
        self.space, self.device = mixture.space, device
        self._key = f"drawn rows {seed}".encode()

    @cached_property
    def hot(self) -> Tensor:
        """The stratum of each row that has one and an image: float32 (n, S) in {0, 1}."""
        return hot_of(self.rows, self.space)

    @property
    def shares(self) -> Tensor:
        """Of all rows those that have an image and lie in each stratum: float32 (S,)."""
        return self.hot.mean(0)

    def curator(self) -> ExactCurator:
        """Of these rows, which are nobody's."""
        assert self.rows.pixels is not None
        arrays: dict[str, NDArray[np.generic]] = {
            "unit": np.arange(len(self.rows), dtype=np.uint64),
            "holdout": np.zeros(len(self.rows), np.bool_),
            "states": self.rows.states,
            "scores": self.rows.scores,
            "pixels": self.rows.pixels,
        }
        return ExactCurator(EncodedRows(arrays, unit_is_row=True), key=self._key, holdout=0.0)

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, (m, c, h, w), and their strata, int64 (m,), part by part."""
        for part in slices(len(self.rows), AT_ONCE):
            yield seen_of(self.rows.take(part), self.space, self.device)

    @torch.no_grad()
    def means(self, features: Features) -> Tensor:
        """Of vectors in each stratum: (S, numbers)."""
        hots = torch.split(self.hot.to(self.device), AT_ONCE)
        sums = sum(hot.T @ features.of(*seen) for hot, seen in zip(hots, self.parts(), strict=True))
        return torch.as_tensor(sums) / self.hot.sum(0).clamp_min(1.0)[:, None].to(self.device)


def hot_of(rows: Encoded, space: Space) -> Tensor:
    """The stratum of each row that has one and an image: float32 (n, S) in {0, 1}."""
    strata = np.where(space.shown(rows.states), space.strata_of(rows.states), -1)
    return torch.from_numpy((strata[:, None] == np.arange(space.strata)).astype(np.float32))


def seen_of(rows: Encoded, space: Space, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images, (n, c, h, w) in [−1, 1], and their strata, int64 (n,), any number where there is none."""
    assert rows.pixels is not None
    strata = torch.from_numpy(np.maximum(space.strata_of(rows.states), 0))
    return images_of(rows.pixels, space.layout.images[0].shape).to(device), strata.to(device)


class Embedding:
    """Σ stratum ⊗ vector over rows that have an image and a stratum with components of its own.

    A row's vector is not longer than 1, whatever its image shows, since `Features` shortens it.
    """

    bound = 1.0

    def __init__(self, features: Features, space: Space) -> None:
        self._features, self._space = features, space
        self.size = features.centres.numel()

    @torch.no_grad()
    def of(self, batch: Batch) -> Products:
        """What these rows add."""
        rows = encoded_of(batch)
        seen = (seen_of(rows.take(s), self._space, self._features.device) for s in slices(len(rows), AT_ONCE))
        return Products(hot_of(rows, self._space), torch.cat([self._features.of(*s).cpu() for s in seen]))


def target_of(answer: Answer, rows: Floats, parts: Sequence[int]) -> Tensor:
    """The means of vectors in strata, as far as they stand out from the noise: float32 (S, numbers).

    Args:
        answer: to the question of `Embedding`.
        rows: of each stratum, about, float64 (S,).
        parts: numbers of a vector that are alike.
    """
    held_rows = np.maximum(rows, FEWEST_ROWS)[:, None]
    means = answer.value.reshape(len(rows), -1) / held_rows
    noise = (answer.noise_std / held_rows) ** 2
    for part in np.split(means, np.cumsum(parts)[:-1], axis=1):
        power = np.maximum((part**2).sum(1, keepdims=True), 1e-300)
        part *= np.maximum(0.0, 1 - part.shape[1] * noise / power)
    return torch.from_numpy(means).float()


class _TellerPlayer:
    """Learns strata from images of the mixture."""

    def __init__(self, teller: Teller, drawn: Drawn) -> None:
        self.module, self._drawn = teller, drawn
        self.optimizer = torch.optim.Adam(teller.parameters(), lr=2e-3)

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        """The cross-entropy of each row that has an image: (n,)."""
        return self._losses(encoded_of(batch))

    @torch.no_grad()
    def score(self, rows: Encoded) -> Floats:
        """Log-probability of each row's stratum: float64 (n,)."""
        parts = [self._losses(rows.take(s)) for s in slices(len(rows), AT_ONCE)]
        return -torch.cat(parts).double().cpu().numpy()

    def _losses(self, rows: Encoded) -> Tensor:
        space, device = self._drawn.space, self._drawn.device
        images, strata = seen_of(rows, space, device)
        losses = functional.cross_entropy(self.module(images), strata, reduction="none")
        return losses * hot_of(rows, space).sum(1).to(device)


class _GeneratorPlayer:
    """Learns to draw images that have the means of vectors that were told.

    Args:
        generator: adds to a mixture's image what it lacks.
        features: says the vectors.
        target: their means in strata, (S, numbers).
        drawn: rows of the mixture.
        options: what a recipe says.
    """

    def __init__(
        self, generator: Network, features: Features, target: Tensor, drawn: Drawn, options: Options
    ) -> None:
        self.module = generator
        self._features, self._target, self._drawn = features, target.to(drawn.device), drawn
        self._noise, self._shares = options.noise, drawn.shares.to(drawn.device)
        self.optimizer = torch.optim.Adam(generator.parameters(), lr=options.learning_rate, betas=BETAS)
        self._steps = 0
        self._judge: tuple[int, Tensor] | None = None
        self.optimizer.register_step_post_hook(lambda *_: self._stepped())

    def _stepped(self) -> None:
        self._steps += 1

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        """The squared discrepancy, told by two halves of the batch, of which all rows have it: (n,)."""
        rows = encoded_of(batch)
        lacking, hot = self._lacking(rows, luck.normal)
        one, two = (
            hot[half].T @ lacking[half] / max(1, len(hot[half]))
            for half in (slice(0, None, 2), slice(1, None, 2))
        )
        return self._squared(one, two).expand(len(rows))

    @torch.no_grad()
    def score(self, rows: Encoded) -> Floats:
        """What each row adds to minus the discrepancy, with drawn ones for the other half: float64 (n,)."""
        if self._judge is None or self._judge[0] != self._steps:
            own = self._drawn.rows.take(np.arange(min(JUDGED_ROWS, len(self._drawn.rows))))
            self._judge = (self._steps, self._sums(own) / len(own))
        rng, lacking = np.random.default_rng(1), []
        for part in slices(len(rows), AT_ONCE):
            found, hot = self._lacking(rows.take(part), rng)
            weighed = hot @ (self._judge[1] / self._shares.clamp_min(1e-9)[:, None])
            lacking.append((found * weighed).sum(1))
        return -SCALE * torch.cat(lacking).double().cpu().numpy()

    def _sums(self, rows: Encoded) -> Tensor:
        rng, parts = np.random.default_rng(0), []
        for part in slices(len(rows), AT_ONCE):
            lacking, hot = self._lacking(rows.take(part), rng)
            parts.append(hot.T @ lacking)
        return torch.stack(parts).sum(0)

    def _lacking(self, rows: Encoded, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """How far images that are drawn now are from their target, (n, numbers), and their strata, (n, S)."""
        images = generated(self.module, rows, rng, self._noise)
        _, strata = seen_of(rows, self._drawn.space, self._drawn.device)
        hot = hot_of(rows, self._drawn.space).to(self._drawn.device)
        return self._features.of(images, strata) - self._target[strata], hot

    def _squared(self, one: Tensor, two: Tensor) -> Tensor:
        return SCALE * ((one * two).sum(1) / self._shares.clamp_min(1e-9)).sum()


class DpMerf:
    """How a generator is fitted to a mean embedding; the model is that of `image-gan`."""

    name = "dp-merf"
    exact = False
    private = True
    options = Options
    noised = UNSEARCHED

    @classmethod
    def fit(cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int) -> ImageGan:
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns, of which one is of images.
            options: fields of `Options`.
            seed: of the weights, and of the mixture's rows that networks learn from.

        Raises:
            RecipeError: there are several columns of images, or `by` names no column of few values.
        """
        chosen = Options.model_validate(dict(options))
        mixture = chosen.mixture(curator, layout, seed=seed, part=1 - SHARE)
        device = training_device()
        with seeded(seed):
            teller = Teller(layout.images[0].shape, mixture.space.strata).to(device)
            generator = network_upon(mixture, layout, chosen.channels, chosen.blocks)
        drawn = Drawn(mixture, seed, device)
        train(
            drawn.curator(),
            _TellerPlayer(teller, drawn),
            columns=1,
            epochs=TELLER_PASSES,
            max_steps=TELLER_PASSES * MOST_DRAWN,
            batch_rows=TELLER_ROWS,
            patience=PATIENCE,
            looks=LOOKS,
        )
        teller.requires_grad_(False)
        features = Features.upon(teller, drawn)
        answer = curator.sum(Embedding(features, mixture.space), share=SHARE)
        rows = drawn.shares.double().numpy() * layout.rows
        player = _GeneratorPlayer(
            generator.to(device), features, target_of(answer, rows, features.parts), drawn, chosen
        )
        # How it went is about no real row, so it is not told as how a model learned.
        train(
            drawn.curator(),
            player,
            columns=layout.pixels,
            epochs=chosen.max_steps,
            max_steps=chosen.max_steps,
            batch_rows=chosen.batch_rows,
            patience=PATIENCE,
            looks=LOOKS,
        )
        return ImageGan(layout, generator, mixture, chosen.noise, name=cls.name)

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> ImageGan:
        """A generator from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        return ImageGan.restore(layout, tensors, name=cls.name)
