"""image-gan: a network that draws images so that another cannot tell them from real ones, started from a mixture.

First `image-mixture` learns all columns together, images by a linear code. It draws rows, or what is unknown of given
ones, whose images are right as a whole and too smooth. The generator, the network of `image-diffusion`, sees such an
image, with noise on it, and the other columns, and is asked once for what the image lacks: so the mixture's
code and the noise are what is called the latent vector elsewhere (Goodfellow et al. 2014, arXiv 1406.2661).

The critic is told the other columns of the row as well, by a product of what it sees and what it is told (Miyato &
Koyama 2018, arXiv 1802.05637). Losses are hinges (Lim & Ye 2017, arXiv 1705.02894), with a penalty on the critic's
slope at real images (R1 of Mescheder, Geiger & Nowozin 2018, arXiv 1801.04406). Of few images the critic sees some
moved, cut and brightened, real and drawn ones alike, and the generator learns through that (Zhao et al. 2020, arXiv
2006.10738): only a share of them, so that it does not become a habit to draw them like this (Karras et al. 2020, arXiv
2006.06676). Weights are a moving average. No layer looks across a batch.

The critic alone reads rows, and a row's loss is of the row and its own luck: the image beside it is of a row that the
mixture drew beforehand. So it learns from noised gradients as well, without the penalty, whose slope has no gradient of
a row alone, and in several steps for each of the generator (Bie, Kamath & Zhang 2023, arXiv 2302.02936).
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from privacy.curator import Batch, Curator, Descent, Floats, Luck
from synth.codec import Encoded, Layout
from synth.em import encoded_of, slices
from synth.image_diffusion import (
    Network,
    UponMixture,
    detailed,
    lines,
    network_upon,
    restored_network,
    told_of,
)
from synth.image_mixture import UNSEARCHED, ImageMixture
from synth.image_vae import images_of, pixels_of
from synth.layers import CellsIn, channels_on, over, seeded, training_device, under
from synth.train import Trained, planned, settled, train

INNER_SIDE = 4
"""Pixels of a side at most where the critic is narrowest."""

BETAS = (0.0, 0.99)
"""Of Adam, as Karras et al. have them."""

PENALIZED = 0.25
"""Share of the rows of a step at which the critic's slope is looked at, each of which counts the more."""

FEW = 2000
"""Images of which half are augmented; of more, fewer."""

MOVED, CUT = 1 / 8, 1 / 2
"""How far images are moved at most, and the sides of what is cut out of them, in sides of an image."""

DRAWN_ROWS = 20_000
"""Rows that the mixture draws, whose images stand beside those of real ones."""

STEPS_SHARE = 0.5
"""Of the budget, what the critic's steps have where they carry noise; the mixture has the rest."""

NOISED: Mapping[str, object] = MappingProxyType(
    {"channels": 16, "epochs": 3, "batch_rows": 1024, "penalty": 0.0, "critic_steps": 2}
)
"""Defaults where steps carry noise: few, large ones of small networks, as a processor has time for."""

JUDGED_ROWS = 1000
"""Images that are drawn to judge the generator."""

AT_ONCE = 256
"""Images that pass the network at a time, when nothing is learned."""

LOOKS, PATIENCE = 12, 6
"""Looks at rows that were not learned from, and those without a better one after which training stops."""


Noise = Annotated[
    float,
    Option(
        ge=0,
        le=100,
        description="noise on the mixture's image as the generator sees it, in standard deviations of a pixel",
    ),
]
"""Of a generator that starts from a mixture, in a recipe."""


class Options(UponMixture):
    """What a recipe may say about an adversarial network of images."""

    channels: int | None = Option(
        None, ge=8, le=1024, multiple_of=8, description="of the outermost layers; none: 32, on a GPU 128"
    )
    blocks: int = Option(
        1, ge=1, le=32, description="residual blocks of the generator at each size, down and up"
    )
    epochs: int = Option(200, ge=1, le=100_000, description="passes over the rows at most")
    max_steps: int = Option(3000, ge=1, le=10_000_000, description="steps at most, for many rows")
    batch_rows: int = Option(64, ge=1, le=1_000_000, description="rows of a step")
    learning_rate: float = Option(5e-4, gt=0, le=1, description="of Adam, for both networks")
    penalty: float = Option(
        0.05,
        ge=0,
        le=1000,
        description="weight of the critic's squared slope, by how far images are from their mean",
    )
    augment: float | None = Option(
        None,
        ge=0,
        le=1,
        description="share of the images that the critic sees moved, cut and brightened, each; none: by their number",
    )
    critic_steps: int = Option(1, ge=1, le=1000, description="of the critic for each of the generator")
    noise: Noise = 0.3


class Critic(nn.Module):
    """Images, each with its row's other columns, → a number each, larger for real ones.

    Args:
        shape: height, width and channels of an image.
        channels: the first layer, at half the sides, has twice and all others four times as many.
        sizes: states of each column.
        scores: number of scores.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int, sizes: tuple[int, ...], scores: int
    ) -> None:
        super().__init__()
        height, width, colours = shape
        halvings = max(1, math.ceil(math.log2(max(height, width) / INNER_SIDE)))
        inner = [math.ceil(side / 2**halvings) for side in (height, width)]
        self.more = (0, inner[1] * 2**halvings - width, 0, inner[0] * 2**halvings - height)
        widths = [colours, *(channels * min(2 * 2**i, 4) for i in range(halvings))]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise(widths):
            layers += [nn.Conv2d(narrow, wide, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.seen = nn.Linear(widths[-1] * math.prod(inner), widths[-1])
        self.cells = CellsIn(sizes, scores, widths[-1])
        self.out = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor, values: Tensor, scores: Tensor) -> Tensor:
        """(n, c, h, w) in [−1, 1], states int64 (n, C), scores (n, D) → (n,)."""
        found = self.layers(functional.pad(images, self.more, mode="replicate"))
        found = functional.leaky_relu(self.seen(found.flatten(1)), 0.2)
        fits = (self.cells(values, scores) * found).sum(1) / math.sqrt(found.shape[1])
        out: Tensor = self.out(found)[:, 0] + fits
        return out


def share_of(rows: float) -> float:
    """The share of so many images that is augmented, in three ways each."""
    return 0.5 * min(1.0, FEW / max(1.0, rows))


def augmented(images: Tensor, luck: Tensor, share: float) -> Tensor:
    """Images of which a share is brightened, one is moved and one is cut, each by its own luck.

    Gradients pass. Zhao et al. do all of it to every image; here what comes in from beyond an edge is the edge, since
    not every image is grey about.

    Args:
        images: (n, c, h, w) in [−1, 1].
        luck: uniform in [0, 1), (n, 10).
        share: of the images for each of the three.
    """
    if share == 0:
        return images
    bright, moved, cut = ((luck[:, i] < share)[:, None, None, None] for i in range(3))
    u = luck[:, 3:, None, None, None].unbind(1)
    lighter = images + u[0] - 0.5
    grey = lighter.mean(1, keepdim=True)
    lighter = grey + (lighter - grey) * 2 * u[1]
    mean = lighter.mean((1, 2, 3), keepdim=True)
    images = torch.where(bright, mean + (lighter - mean) * (0.5 + u[2]), images)
    height, width = images.shape[2:]
    rows, columns = (torch.arange(side, device=images.device) for side in (height, width))
    down, right = (
        torch.where(moved, (v * (2 * most + 1)).floor() - most, 0).long()
        for v, most in ((u[3], round(MOVED * height)), (u[4], round(MOVED * width)))
    )
    y = (rows[None, None, :, None] + down).clamp(0, height - 1).expand_as(images)
    x = (columns[None, None, None, :] + right).clamp(0, width - 1).expand_as(images)
    images = images.gather(2, y).gather(3, x)
    of_y = (rows[None, None, :, None] + 0.5 - u[5] * height).abs() < CUT * height / 2
    of_x = (columns[None, None, None, :] + 0.5 - u[6] * width).abs() < CUT * width / 2
    return torch.where(cut & of_y & of_x, 0.0, images)


class _Drawn:
    """Rows of a mixture, of which each takes one by its own luck.

    Args:
        mixture: it draws them.
        seed: of the draw.
    """

    def __init__(self, mixture: ImageMixture, seed: int) -> None:
        self._space = mixture.space
        rows = mixture.draw(DRAWN_ROWS, np.random.default_rng([seed, 3]))
        there = self._space.shown(rows.states)
        rows = rows.take(np.flatnonzero(there | ~there.any()))
        strata = self._space.strata_of(rows.states)
        self._rows = rows.take(np.argsort(strata, kind="stable"))
        self._starts = np.searchsorted(np.sort(strata), np.arange(self._space.strata + 1))

    def beside(self, rows: Encoded, luck: NDArray[np.float32]) -> Encoded:
        """For each row one of its stratum, or any one where none is of it.

        Args:
            rows: n of them.
            luck: uniform in [0, 1), (n,).
        """
        strata = self._space.strata_of(rows.states)
        first, last = self._starts[strata], self._starts[strata + 1]
        none = (strata < 0) | (first == last)
        first, last = np.where(none, 0, first), np.where(none, len(self._rows), last)
        return self._rows.take(first + (luck.astype(np.float64) * (last - first)).astype(np.int64))


@dataclass(frozen=True, kw_only=True)
class _Game:
    """What both players have.

    Attributes:
        drawn_rows: of the mixture, all with an image.
        augment: share of the images that the critic sees brightened, moved and cut.
    """

    generator: Network
    critic: Critic
    mixture: ImageMixture
    drawn_rows: _Drawn
    options: Options
    augment: float

    @property
    def image(self) -> int:
        """Index of the field that says whether there is an image."""
        return self.mixture.space.image

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.generator.into.weight.device

    def drawn(self, rows: Encoded, rng: np.random.Generator) -> Tensor:
        """The generator's images of rows of the mixture: (n, c, h, w)."""
        return generated(self.generator, rows, rng, self.options.noise)

    def likes(self, images: Tensor, rows: Encoded, luck: NDArray[np.float32]) -> Tensor:
        """What the critic says of images beside their rows: (n,)."""
        seen = augmented(images, torch.from_numpy(luck).to(self.device), self.augment)
        values, scores = _columns(rows, self.device)
        out: Tensor = self.critic(seen, values, scores)
        return out

    def there(self, rows: Encoded) -> Tensor:
        """Which rows have an image: float32 (n,)."""
        return torch.from_numpy((rows.states[:, self.image] > 0).astype(np.float32)).to(self.device)


def generated(network: Network, rows: Encoded, rng: np.random.Generator, noise: float) -> Tensor:
    """Images of rows that have a mixture's, to which a new network adds nothing: (n, c, h, w), about in [−1, 1].

    Args:
        network: it sees images about their mean, in standard deviations.
        rows: all cells known.
        rng: of the noise.
        noise: on each image, in standard deviations of a pixel.
    """
    assert rows.pixels is not None
    device = network.into.weight.device
    images = images_of(rows.pixels, network.shape).to(device)
    drawn = torch.from_numpy(rng.standard_normal(rows.pixels.shape, np.float32)).to(device)
    values, scores = _columns(rows, device)
    seen = (images - network.mean) / network.spread + noise * drawn.reshape(images.shape)
    level = seen.new_zeros(len(rows))
    lacking = network.residual(seen / math.sqrt(1 + noise**2), level, values, scores)
    out: Tensor = images + network.spread * lacking
    return out


def _columns(rows: Encoded, device: torch.device) -> tuple[Tensor, Tensor]:
    """What both networks are told of rows: states, int64 (n, C), and scores, float32 (n, D)."""
    values, scores = told_of(rows, torch.zeros(len(rows), dtype=torch.bool))
    return values.to(device), scores.to(device)


class _CriticPlayer:
    """The player that reads rows: tells them from rows that have the same columns and an image that was drawn."""

    def __init__(self, game: _Game) -> None:
        self._game = game
        # Both networks are kept and judged, though only one is moved here.
        self.module = nn.ModuleDict({"generator": game.generator, "critic": game.critic})
        self.optimizer = torch.optim.Adam(
            game.critic.parameters(), lr=game.options.learning_rate, betas=BETAS
        )
        self._steps = 0
        self._judge: tuple[int, _Judge] | None = None
        self.optimizer.register_step_post_hook(lambda *_: self._stepped())

    def _stepped(self) -> None:
        self._steps += 1

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        """The hinges of each row's image and of one that is drawn for it, and the penalty of the former: (n,)."""
        game, rows = self._game, encoded_of(batch)
        assert rows.pixels is not None
        even = luck.uniform.random((len(rows), 22), np.float32)
        fakes = game.drawn_rows.beside(rows, even[:, 21])
        with torch.no_grad():
            fake = game.drawn(fakes, luck.normal)
        of_fake = game.likes(fake, fakes, even[:, :10])
        real = images_of(rows.pixels, game.generator.shape).to(game.device)
        of_real = game.likes(real, rows, even[:, 10:20])
        losses = functional.relu(1 - of_real) + functional.relu(1 + of_fake)
        chosen = np.flatnonzero(even[:, 20] < PENALIZED)
        if game.options.penalty and len(chosen):
            at = torch.from_numpy(chosen).to(game.device)
            steep = self._steepness(real[at], rows.take(chosen), even[chosen, 10:20])
            losses = losses.index_add(0, at, steep, alpha=game.options.penalty / PENALIZED)
        out: Tensor = losses * game.there(rows)
        return out

    def _steepness(self, images: Tensor, rows: Encoded, luck: NDArray[np.float32]) -> Tensor:
        """The squared slope of the critic at images, by the mean square of how far images are from their mean: (n,)."""
        seen = augmented(
            images, torch.from_numpy(luck).to(images.device), self._game.augment
        ).requires_grad_()
        values, scores = _columns(rows, images.device)
        (slope,) = torch.autograd.grad(self._game.critic(seen, values, scores).sum(), seen, create_graph=True)
        # The farther images are apart, the flatter the slope that tells them apart: so one weight serves all sizes.
        far = self._game.generator.spread.square() * slope[0].numel()
        steep: Tensor = far * slope.square().sum((1, 2, 3))
        return steep

    def score(self, rows: Encoded) -> Floats:
        """How well images that are drawn now explain each row's: float64 (n,)."""
        if self._judge is None or self._judge[0] != self._steps:
            self._judge = (self._steps, _Judge.of(self._game))
        return self._judge[1].score(rows)


class _GeneratorPlayer:
    """The player that reads no rows: its own are the mixture's."""

    def __init__(self, game: _Game, seed: int) -> None:
        self._game = game
        self.optimizer = torch.optim.Adam(
            game.generator.parameters(), lr=game.options.learning_rate, betas=BETAS
        )
        self._rng = np.random.default_rng([seed, 2])
        self._asked = 0

    def loss(self, rows: int) -> Tensor | None:
        """What the critic thinks of so many drawn images, with the sign turned; none but every few steps."""
        game, rng = self._game, self._rng
        self._asked += 1
        if self._asked % game.options.critic_steps:
            return None
        fakes = game.mixture.draw(rows, rng)
        images = game.drawn(fakes, rng)
        # Only passed through: its own gradient would be thrown away.
        game.critic.requires_grad_(False)
        likes = game.likes(images, fakes, rng.random((rows, 10), np.float32))
        game.critic.requires_grad_(True)
        there = game.there(fakes)
        return -(likes * there).sum() / there.sum().clamp_min(1)


@dataclass(frozen=True)
class _Judge:
    """Images that were drawn, and how far they are apart.

    Attributes:
        drawn: (m, P) in [−1, 1].
        image: index of the field that says whether there is an image.
        apart: mean distance of two of them.
    """

    drawn: Tensor
    image: int
    apart: float

    @classmethod
    def of(cls, game: _Game) -> "_Judge":
        """Draws rows, the same ones at each look but for what the generator has learned since."""
        rng = np.random.default_rng(0)
        rows = game.mixture.draw(JUDGED_ROWS, rng)
        rows = rows.take(np.flatnonzero(rows.states[:, game.image] > 0))
        with torch.no_grad():
            parts = [
                game.drawn(rows.take(s), rng).clamp(-1, 1).flatten(1) for s in slices(len(rows), AT_ONCE)
            ]
        drawn = torch.cat(parts).cpu()
        pairs = max(1, len(drawn) * (len(drawn) - 1))
        return cls(drawn, game.image, float(torch.cdist(drawn, drawn).double().sum()) / pairs)

    def score(self, rows: Encoded) -> Floats:
        """The negative energy score, ½ E|X − X′| − E|X − x|; 0 for rows without an image: float64 (n,).

        It is best in the mean if drawn images X are as images x are (Gneiting & Raftery 2007, section 4.3).
        """
        assert rows.pixels is not None
        if not len(self.drawn):
            return np.zeros(len(rows))
        seen = rows.pixels.astype(np.float32) / 127.5 - 1
        far = torch.cdist(torch.from_numpy(seen), self.drawn).double().mean(1).numpy()
        return np.where(rows.states[:, self.image] > 0, self.apart / 2 - far, 0.0)


class ImageGan:
    """A fitted generator of images, and the mixture that it starts from; `dp-merf` teaches one otherwise."""

    name = "image-gan"
    exact = False
    private = True
    options = Options
    share = STEPS_SHARE
    noised: Mapping[str, tuple[object, ...]] = MappingProxyType({**UNSEARCHED, "penalty": (0, 0.0)})

    def __init__(
        self,
        layout: Layout,
        network: Network,
        mixture: ImageMixture,
        noise: float,
        *,
        name: str = "image-gan",
    ) -> None:
        self.name = name
        self._layout = layout
        self._network = network.to(training_device())
        self._mixture = mixture
        self._noise = noise
        self.trained: Trained | None = None

    @staticmethod
    def descent(options: Mapping[str, Any], rows: float) -> Descent:
        """See `synth.registry.Descending`."""
        return planned(Options, NOISED, options, rows)

    @classmethod
    def fit(cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int) -> "ImageGan":
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns, of which one is of images.
            options: fields of `Options`.
            seed: of the weights, and of what the generator draws in training.

        Raises:
            RecipeError: there are several columns of images, or `by` names no column of few values.
        """
        chosen, _ = settled(curator, Options, NOISED, options, share=cls.share)
        mixture = chosen.mixture(curator, layout, seed=seed, part=1 - cls.share)
        device = training_device()
        channels = channels_on(device, chosen.channels)
        with seeded(seed):
            generator = network_upon(mixture, layout, channels, chosen.blocks)
            sizes = tuple(f.states for f in layout.fields)
            critic = Critic(layout.images[0].shape, channels, sizes, len(layout.scored))
        game = _Game(
            generator=generator.to(device),
            critic=critic.to(device),
            mixture=mixture,
            drawn_rows=_Drawn(mixture, seed),
            options=chosen,
            augment=share_of(curator.about()) if chosen.augment is None else chosen.augment,
        )
        trained = train(
            curator,
            _CriticPlayer(game),
            [_GeneratorPlayer(game, seed)],
            columns=layout.pixels,
            epochs=chosen.epochs,
            max_steps=chosen.max_steps,
            batch_rows=chosen.batch_rows,
            patience=PATIENCE,
            looks=LOOKS,
            share=cls.share,
        )
        model = cls(layout, generator, mixture, chosen.noise)
        model.trained = trained
        return model

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`: rows of the mixture, whose images the generator makes anew."""
        return detailed(
            self._mixture, rows, rng, given=given, present=present, details=lambda own: self._made(own, rng)
        )

    def between(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], *, steps: int
    ) -> NDArray[np.uint8]:
        """See `synth.registry.Interpolating`."""
        return lines(self._mixture, first, second, steps=steps, details=self._made)

    @torch.no_grad()
    def _made(self, rows: Encoded, rng: np.random.Generator) -> NDArray[np.uint8]:
        return pixels_of(generated(self._network, rows, rng, self._noise))

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        network = {n: t.cpu() for n, t in self._network.state_dict().items()}
        return {
            **over("network.", network),
            **over("mixture.", self._mixture.tensors()),
            "noise": torch.tensor(self._noise, dtype=torch.float64),
        }

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor], *, name: str = "image-gan") -> "ImageGan":
        """A generator from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        mixture = ImageMixture.restore(layout, under("mixture.", tensors))
        network = restored_network(layout, under("network.", tensors))
        return cls(layout, network, mixture, float(tensors["noise"]), name=name)
