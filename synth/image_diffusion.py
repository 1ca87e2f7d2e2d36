"""image-diffusion: a small network that takes noise out of images, started from a mixture.

First `image-mixture` learns all columns together, images by a linear code. It draws rows, or what is unknown of given
ones, whose images are right as a whole and too smooth. Such an image is covered with noise of standard deviation
`start`, which hides what a linear code cannot hold; then a network takes the noise out again, in few steps, and finds
the details on the way (a diffusion that is cut short, Zheng et al. 2022, arXiv 2202.09671, and as in SDEdit, Meng et
al. 2022, arXiv 2108.01073). A large `start` leaves nothing of the mixture's image, as in an ordinary diffusion.

The network D(x; σ, row) is parametrized, weighted and trained as in EDM (Karras et al. 2022, arXiv 2206.00364, table 1
and equation 8), about the mean image and on noise up to `start`; steps are Heun's along its probability flow (algorithm
1). It is told the other columns of the row, and in a tenth of the rows not, so that it can be guided: D₀ + g (D − D₀),
where D₀ is not told (Ho & Salimans 2022, arXiv 2207.12598). Weights are a moving average.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from privacy.curator import Batch, Curator, Descent, Floats, Luck
from synth.codec import UNKNOWN, Encoded, Layout
from synth.em import encoded_of, slices
from synth.image_mixture import UNSEARCHED, Code, ImageMixture
from synth.image_vae import images_of, pixels_of
from synth.layers import CellsIn, channels_on, filled, normalized, over, seeded, training_device, under
from synth.train import Trained, planned, settled, train

INNER_SIDE = 8
"""Pixels of a side at most where the network is narrowest."""

LEAST_SPREAD = 0.005
"""Of images about their mean, in [−1, 1]."""

MEAN_LOG_NOISE, STD_LOG_NOISE = -1.2, 1.2
"""Of the noise that images of a step are covered with: P_mean and P_std of EDM."""

LEAST_NOISE, BEND = 0.01, 7.0
"""The last noise of a draw, about a level of 256, and how steps gather there: σ_min and ρ of EDM."""

UNTOLD = 0.1
"""Share of the rows of a step of which the network is not told the other columns."""

JUDGED_NOISE = (0.1, 0.3, 0.9)
"""Noise by which rows are judged that were not learned from."""

AT_ONCE = 256
"""Images that pass the network at a time, when nothing is learned."""

STEPS_SHARE = 0.5
"""Of the budget, what the steps have where they carry noise; the mixture has the rest."""

NOISED: Mapping[str, object] = MappingProxyType(
    {"channels": 16, "epochs": 3, "batch_rows": 1024, "learning_rate": 3e-3}
)
"""Defaults where steps carry noise: few, large ones of a small network, as a processor has time for.

Where there is more time, more passes under several noises for each row (`multiplicity`; DPDM, arXiv 2210.09929) are
worth their noise.
"""

LOOKS, PATIENCE = 6, 2
"""Looks at rows that were not learned from, and those without a better one after which training stops."""


class UponMixture(BaseModel):
    """What a recipe may say about the mixture whose images a network gives their details."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int = Option(64, ge=1, le=512, description="numbers of an image's code in the mixture")
    components: int | None = Option(None, ge=1, le=8192, description="of it; none: by held-out likelihood")
    max_components: int = Option(2048, ge=1, le=8192, description="where the search for the number ends")
    by: str | None = Option(
        None, description="column whose values have components of their own; none: the one that explains most"
    )

    def mixture(self, curator: Curator, layout: Layout, *, seed: int, part: float = 1.0) -> ImageMixture:
        """Learns it, for a part of the budget.

        Raises:
            RecipeError: there are several columns of images, or `by` names no column of few values.
        """
        said = self.model_dump(include=set(UponMixture.model_fields))
        return ImageMixture.fit(curator, layout, said, seed=seed, part=part)


class Options(UponMixture):
    """What a recipe may say about a diffusion of images."""

    channels: int | None = Option(
        None, ge=8, le=1024, multiple_of=8, description="of the outermost layer; none: 32, on a GPU 128"
    )
    blocks: int = Option(1, ge=1, le=32, description="residual blocks at each size, down and up")
    epochs: int = Option(200, ge=1, le=100_000, description="passes over the rows at most")
    max_steps: int = Option(4000, ge=1, le=10_000_000, description="steps at most, for many rows")
    batch_rows: int = Option(128, ge=1, le=1_000_000, description="rows of a step")
    learning_rate: float = Option(1e-3, gt=0, le=1, description="of Adam")
    multiplicity: int = Option(1, ge=1, le=256, description="noises that each row of a step is covered with")
    start: float = Option(
        1.0,
        ge=0.05,
        le=80,
        description="noise that a draw begins with; of a mixture's image 80 leaves nothing",
    )
    steps: int = Option(5, ge=1, le=1000, description="of a draw; each but the last asks the network twice")
    guidance: float = Option(
        1.0, ge=0, le=100, description="weight of what the network is told; 1: as it learned it"
    )


def _nothing(channels: int, outputs: int) -> nn.Conv2d:
    """A convolution that begins with adding nothing."""
    layer = nn.Conv2d(channels, outputs, 3, padding=1)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class _Block(nn.Module):
    """Two convolutions whose output is added to the input; between them what the network is told is added."""

    def __init__(self, channels: int, told: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*normalized(channels), nn.Conv2d(channels, channels, 3, padding=1))
        self.told = nn.Linear(told, channels)
        self.second = nn.Sequential(*normalized(channels), _nothing(channels, channels))

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """(n, channels, h, w) → the same shape, told (n, t)."""
        out: Tensor = x + self.second(self.first(x) + self.told(told)[:, :, None, None])
        return out


class Network(nn.Module):
    """A U-Net (Ronneberger et al. 2015, arXiv 1505.04597) over squares of two by two pixels.

    The buffers `mean`, of images, and `spread`, the standard deviation of a pixel about it (σ_data of EDM), are not
    learned by gradients.

    Args:
        shape: height, width and channels of an image.
        channels: of the outermost layer; the next have twice as many.
        blocks: residual blocks at each size, down and up.
        sizes: states of each column.
        scores: number of scores.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int, blocks: int, sizes: tuple[int, ...], scores: int
    ) -> None:
        super().__init__()
        height, width, colours = shape
        halvings = max(0, math.ceil(math.log2(max(height, width) / (2 * INNER_SIDE))))
        self.shape = shape
        self.mean = nn.Buffer(torch.zeros(colours, height, width))
        self.spread = nn.Buffer(torch.ones(()))
        self.outer = tuple(
            math.ceil(side / 2 ** (halvings + 1)) * 2 ** (halvings + 1) for side in (height, width)
        )
        widths = [channels * min(2**i, 2) for i in range(halvings + 1)]
        told = 2 * channels
        self.noise = nn.Linear(2 * len(_FREQUENCIES), told)
        self.cells = CellsIn(sizes, scores, told)
        self.told = nn.Linear(told, told)
        self.into = nn.Conv2d(4 * colours, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.ModuleList(_Block(w, told) for _ in range(blocks)) for w in widths)
        self.halved = nn.ModuleList(
            nn.Conv2d(narrow, wide, 4, stride=2, padding=1) for narrow, wide in itertools.pairwise(widths)
        )
        self.up = nn.ModuleList(nn.ModuleList(_Block(w, told) for _ in range(blocks)) for w in widths)
        self.joined = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths)
        self.doubled = nn.ModuleList(
            nn.Conv2d(wide, 4 * narrow, 3, padding=1) for narrow, wide in itertools.pairwise(widths)
        )
        self.out = nn.Sequential(*normalized(widths[0]), _nothing(widths[0], 4 * colours))

    def forward(self, x: Tensor, noise: Tensor, values: Tensor, scores: Tensor) -> Tensor:
        """D(x; σ, row): images without their noise.

        Args:
            x: (n, channels, height, width), images in [−1, 1] with noise.
            noise: (n,): σ of each.
            values: int64 (n, C): states of the columns; beyond `sizes[c]` where the network is not told.
            scores: (n, D): likewise, 0 there.
        """
        sigma, x = noise[:, None, None, None], x - self.mean
        scale = (sigma**2 + self.spread**2).sqrt()
        found = self.residual(x / scale, noise.log() / 4, values, scores)
        return self.mean + (self.spread / scale) ** 2 * x + sigma * self.spread / scale * found

    def residual(self, x: Tensor, noise: Tensor, values: Tensor, scores: Tensor) -> Tensor:
        """F of EDM: (n, c, h, w), what is added, of images that are scaled and about 0, and of log σ / 4."""
        height, width, _ = self.shape
        x = functional.pad(x, (0, self.outer[1] - width, 0, self.outer[0] - height), mode="replicate")
        waves = noise[:, None] * torch.tensor(_FREQUENCIES, device=x.device)
        told = self.noise(torch.cat([waves.sin(), waves.cos()], 1)) + self.cells(values, scores)
        told = functional.silu(self.told(functional.silu(told)))
        x = self.into(functional.pixel_unshuffle(x, 2))
        kept: list[Tensor] = []
        for level, blocks in enumerate(self.down):
            x = x if level == 0 else self.halved[level - 1](x)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, told)
            kept.append(x)
        for level in reversed(range(len(kept))):
            x = self.joined[level](torch.cat([x, kept[level]], 1))
            for block in self.up[level]:  # type: ignore[attr-defined]
                x = block(x, told)
            x = x if level == 0 else functional.pixel_shuffle(self.doubled[level - 1](x), 2)
        out: Tensor = functional.pixel_shuffle(self.out(x), 2)[..., :height, :width]
        return out


_FREQUENCIES = tuple(2.0**i for i in range(-2, 6))
"""Of the waves by which a network is told the noise, in log σ / 4."""


class _Learner:
    """The player that reads rows: the weighted squared error of each image without its noise."""

    def __init__(self, network: Network, layout: Layout, options: Options) -> None:
        self.module = network
        self._image = layout.images[0].field
        self._most = options.start
        self._multiplicity = options.multiplicity
        self._fixed = torch.from_numpy(
            np.random.default_rng(0).standard_normal((1, layout.pixels), np.float32)
        )
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=1e-4)

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        """The error of each row: (n,)."""
        rows = encoded_of(batch)
        assert rows.pixels is not None
        # All luck of a row, then that of the next: so that it is the same whichever rows stand beside it.
        times = (len(rows), self._multiplicity)
        drawn = torch.from_numpy(luck.normal.standard_normal((*times, 1 + rows.pixels.shape[1]), np.float32))
        sigma = (MEAN_LOG_NOISE + STD_LOG_NOISE * drawn[..., 0]).exp().clamp(LEAST_NOISE, self._most)
        untold = torch.from_numpy(luck.uniform.random(times, np.float32)) < UNTOLD
        errors = [
            self._errors(rows, sigma[:, k], drawn[:, k, 1:], untold[:, k]) for k in range(self._multiplicity)
        ]
        return torch.stack(errors).mean(0)

    def score(self, rows: Encoded) -> Floats:
        """The negative error of each row by the same noise for all: float64 (n,)."""
        with torch.no_grad():
            parts = [self._score(rows.take(s)) for s in slices(len(rows), AT_ONCE)]
        return torch.cat(parts).double().cpu().numpy()

    def _score(self, rows: Encoded) -> Tensor:
        told, noise = torch.zeros(len(rows), dtype=torch.bool), self._fixed.expand(len(rows), -1)
        levels = [torch.full((len(rows),), min(s, self._most)) for s in JUDGED_NOISE]
        return -torch.stack([self._errors(rows, sigma, noise, told) for sigma in levels]).mean(0)

    def _errors(self, rows: Encoded, sigma: Tensor, noise: Tensor, untold: Tensor) -> Tensor:
        assert rows.pixels is not None
        device = self.module.into.weight.device
        images, sigma = images_of(rows.pixels, self.module.shape).to(device), sigma.to(device)
        values, scores = told_of(rows, untold)
        dirty = images + sigma[:, None, None, None] * noise.to(device).reshape(images.shape)
        clean = self.module(dirty, sigma, values.to(device), scores.to(device))
        weight = sigma**-2 + self.module.spread**-2
        errors = weight * ((clean - images) ** 2).flatten(1).mean(1)
        there = torch.from_numpy(rows.states[:, self._image] > 0).to(device)
        return torch.where(there, errors, 0.0)


def told_of(rows: Encoded, untold: Tensor) -> tuple[Tensor, Tensor]:
    """What a network is told of rows: states, int64 (n, C), and scores, float32 (n, D)."""
    values = torch.from_numpy(rows.states).long()
    # Any number from a column's size on means that nothing is told of it.
    values = torch.where(untold[:, None] | (values == UNKNOWN), torch.iinfo(torch.int64).max, values)
    return values, torch.where(untold[:, None], 0.0, torch.from_numpy(rows.scores))


class ImageDiffusion:
    """A fitted diffusion of images."""

    name = "image-diffusion"
    exact = False
    private = True
    options = Options
    share = STEPS_SHARE
    noised = UNSEARCHED

    def __init__(self, layout: Layout, network: Network, mixture: ImageMixture, options: Options) -> None:
        self.trained: Trained | None = None
        self._layout = layout
        self._network = network.to(training_device())
        self._mixture = mixture
        self._options = options
        self._image = layout.images[0].field

    @staticmethod
    def descent(options: Mapping[str, Any], rows: float) -> Descent:
        """See `synth.registry.Descending`."""
        return planned(Options, NOISED, options, rows)

    @classmethod
    def fit(
        cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int
    ) -> "ImageDiffusion":
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns, of which one is of images.
            options: fields of `Options`.
            seed: of the weights.

        Raises:
            RecipeError: there are several columns of images, or `by` names no column of few values.
        """
        chosen, _ = settled(curator, Options, NOISED, options, share=cls.share)
        mixture = chosen.mixture(curator, layout, seed=seed, part=1 - cls.share)
        device = training_device()
        channels = channels_on(device, chosen.channels)
        with seeded(seed):
            network = network_upon(mixture, layout, channels, chosen.blocks)
        trained = train(
            curator,
            _Learner(network.to(device), layout, chosen),
            columns=layout.pixels,
            epochs=chosen.epochs,
            max_steps=chosen.max_steps,
            batch_rows=chosen.batch_rows,
            patience=PATIENCE,
            looks=LOOKS,
            share=cls.share,
        )
        model = cls(layout, network, mixture, chosen)
        model.trained = trained
        return model

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`: rows of the mixture, whose images get their details."""
        start, steps = self._options.start, self._options.steps
        return detailed(
            self._mixture, rows, rng, given=given, present=present,
            details=lambda own: self._cleaned(own, rng, start=start, steps=steps),
        )  # fmt: skip

    def restored(self, encoded: Encoded, rng: np.random.Generator, *, noise: float, scale: int) -> Encoded:
        """See `synth.registry.Restoring`.

        Noise is taken out in one step, which gives the mean of what the image may be. A larger image is drawn, and has
        at each step the means of squares that are given (Wang et al. 2023, arXiv 2212.00490, equation 13).
        """
        filled_in = self._mixture.draw(len(encoded), rng, given=encoded)
        index = np.flatnonzero(encoded.states[:, self._image] > 0)
        assert filled_in.pixels is not None
        for part in slices(len(index), AT_ONCE):
            own = index[part]
            if not len(own):
                continue
            rows = filled_in.take(own)
            if scale == 1:
                rows_pixels = self._denoised(rows, noise / 127.5)
            else:
                rows_pixels = self._cleaned(
                    rows, rng, start=self._options.start, steps=self._options.steps, scale=scale
                )
            filled_in.pixels[own] = rows_pixels
        return filled_in

    def between(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], *, steps: int
    ) -> NDArray[np.uint8]:
        """See `synth.registry.Interpolating`."""
        start, number = self._options.start, self._options.steps
        return lines(
            self._mixture, first, second, steps=steps,
            details=lambda rows, luck: self._cleaned(rows, luck, start=start, steps=number),
        )  # fmt: skip

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        network = {n: t.cpu() for n, t in self._network.state_dict().items()}
        o = self._options
        return {
            **over("network.", network),
            **over("mixture.", self._mixture.tensors()),
            "drawing": torch.tensor([o.start, o.steps, o.guidance], dtype=torch.float64),
        }

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> "ImageDiffusion":
        """A diffusion from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        mixture = ImageMixture.restore(layout, under("mixture.", tensors))
        state = under("network.", tensors)
        network = restored_network(layout, state)
        start, steps, guidance = tensors["drawing"].tolist()
        options = Options.model_validate({"start": start, "steps": int(steps), "guidance": guidance})
        return cls(layout, network, mixture, options)

    @torch.no_grad()
    def _cleaned(
        self, rows: Encoded, rng: np.random.Generator, *, start: float, steps: int, scale: int = 1
    ) -> NDArray[np.uint8]:
        """Images of rows, covered with noise and cleaned in steps: uint8 (n, P).

        Args:
            rows: all cells known.
            rng: of the noise.
            start: the first noise.
            steps: how many.
            scale: side of squares whose means stay.
        """
        assert rows.pixels is not None
        device = self._network.into.weight.device
        images = images_of(rows.pixels, self._network.shape).to(device)
        noise = torch.from_numpy(rng.standard_normal(rows.pixels.shape, np.float32)).to(device)
        x = images + start * noise.reshape(images.shape)
        ends = np.linspace(start ** (1 / BEND), min(LEAST_NOISE, start / 2) ** (1 / BEND), steps) ** BEND
        for now, then in itertools.pairwise([*ends.tolist(), 0.0]):
            slope = (x - self._kept(self._guided(rows, x, now), images, scale)) / now
            along = x + (then - now) * slope
            if then > 0:
                other = (along - self._kept(self._guided(rows, along, then), images, scale)) / then
                along = x + (then - now) * (slope + other) / 2
            x = along
        return pixels_of(x)

    @torch.no_grad()
    def _denoised(self, rows: Encoded, noise: float) -> NDArray[np.uint8]:
        assert rows.pixels is not None
        device = self._network.into.weight.device
        images = images_of(rows.pixels, self._network.shape).to(device)
        return pixels_of(self._guided(rows, images, min(noise, self._options.start)))

    def _kept(self, clean: Tensor, images: Tensor, scale: int) -> Tensor:
        """Clean images that have the means of squares of given ones."""
        if scale == 1:
            return clean
        lacking = functional.avg_pool2d(images - clean, scale, ceil_mode=True)
        height, width, _ = self._network.shape
        return clean + functional.interpolate(lacking, scale_factor=scale)[..., :height, :width]

    def _guided(self, rows: Encoded, x: Tensor, noise: float) -> Tensor:
        """D of images under the columns of rows, guided."""
        sigma, guidance = torch.full((len(rows),), noise, device=x.device), self._options.guidance

        def told(untold: bool) -> Tensor:
            values, scores = told_of(rows, torch.full((len(rows),), untold))
            out: Tensor = self._network(x, sigma, values.to(x.device), scores.to(x.device))
            return out

        if guidance == 1:
            return told(False)
        without = told(True)
        return without + guidance * (told(False) - without)


def usual(layout: Layout, mixture: ImageMixture) -> tuple[Tensor, Tensor]:
    """The mean image, (c, h, w) in [−1, 1], and the standard deviation of a pixel about it, as a mixture knows them."""
    parameters, code = mixture.parameters, mixture.space.code
    assert isinstance(code, Code)
    height, width, colours = layout.images[0].shape
    mean = code.mean.reshape(height, width, colours).permute(2, 0, 1) * 2 - 1
    weights = parameters.columns.log_weights.exp()
    squares = parameters.factors.square().sum((1, 2)) + parameters.means.square().sum(1)
    spread = 2 * (weights @ squares / layout.pixels).sqrt()
    return mean.contiguous(), spread.clamp_min(LEAST_SPREAD)


def network_upon(mixture: ImageMixture, layout: Layout, channels: int, blocks: int) -> Network:
    """A new network for the images and the other columns of a layout, which sees images as a mixture knows them."""
    network = _network(layout, channels, blocks)
    for buffer, value in zip((network.mean, network.spread), usual(layout, mixture), strict=True):
        buffer.copy_(value)
    return network


def restored_network(layout: Layout, state: Mapping[str, Tensor]) -> Network:
    """A network from its tensors.

    Raises:
        ValueError: shapes do not fit the layout.
    """
    blocks = sum(n.startswith("down.0.") and n.endswith(".told.weight") for n in state)
    with seeded(0):
        return filled(_network(layout, state["into.weight"].shape[0], blocks), state)


def _network(layout: Layout, channels: int, blocks: int) -> Network:
    sizes = tuple(f.states for f in layout.fields)
    return Network(layout.images[0].shape, channels, blocks, sizes, len(layout.scored))


def lines(
    mixture: ImageMixture, first: NDArray[np.uint8], second: NDArray[np.uint8], *, steps: int,
    details: Callable[[Encoded, np.random.Generator], NDArray[np.uint8]],
) -> NDArray[np.uint8]:  # fmt: skip
    """A mixture's images between images, made anew with the same luck; see `synth.registry.Interpolating`.

    Args:
        mixture: whose codes lie on lines.
        first: images, uint8 (n, P).
        second: as many others.
        steps: codes on each line, both ends included.
        details: takes rows, of which all cells are known, and luck, and gives their images: uint8 (n, P).
    """
    between = mixture.between(first, second, steps=steps)
    made = []
    for at in range(steps):
        luck = np.random.default_rng(0)
        given = mixture.space.layout.unknown(len(first))
        given.states[:, mixture.space.image] = 1
        rows = mixture.draw(len(first), luck, given=replace(given, pixels=between[:, at]))
        made.append(details(rows, luck))
    return np.stack(made, 1)


def detailed(
    mixture: ImageMixture, rows: int, rng: np.random.Generator, *, given: Encoded | None, present: bool,
    details: Callable[[Encoded], NDArray[np.uint8]],
) -> Encoded:  # fmt: skip
    """Rows of a mixture, whose images are made anew where they were not given; see `synth.registry.Model.draw`.

    Args:
        mixture: it draws all columns.
        rows: how many.
        rng: of the mixture's luck.
        given: what is known.
        present: whether what is not given is there.
        details: takes rows, of which all cells are known, and gives their images: uint8 (n, P).
    """
    drawn = mixture.draw(rows, rng, given=given, present=present)
    image = mixture.space.image
    anew = drawn.states[:, image] > 0
    if given is not None:
        anew &= given.states[given.serving(rows), image] == UNKNOWN
    index = np.flatnonzero(anew)
    assert drawn.pixels is not None
    for part in slices(len(index), AT_ONCE):
        own = index[part]
        if len(own):
            drawn.pixels[own] = details(drawn.take(own))
    return drawn
