"""image-vae and autoencoder: a convolutional network's code of images, and a mixture over codes and all other columns.

A variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114) learns from images alone a code of few numbers that a
decoder can draw the image from. Then the curator recodes the rows: in the place of its image each has a code drawn from
what the encoder says of it, and `image-mixture` learns codes and all other columns together, in the space of this code
instead of a linear one (two stages, as in Dai & Wipf 2019, arXiv 1903.05789). So labels, and whatever else goes with an
image, choose what is drawn, and images tell what goes with them, as exactly as the mixture knows the codes.

The autoencoder is the same with a small noise on codes that is always the same, and a small weight of their
divergence, which then counts their squares (nearly a regularized autoencoder, Ghosh et al. 2020, arXiv 1903.12436):
codes say more of an image, and less lies between them that is one.

What is drawn is the decoder's mean, not its noise. Convolutions are normalized in groups (Wu & He 2018, arXiv
1803.08494), so that a row's loss is its own.
"""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option
from scipy.special import ndtri
from torch import Tensor, nn
from torch.nn import functional

from privacy.curator import Batch, Curator, Descent, Floats, Luck
from privacy.curator import draw as uniform_of
from synth import image_mixture
from synth.codec import Encoded, Layout
from synth.em import encoded_of, slices
from synth.image_mixture import ImageMixture
from synth.layers import ImageBlock, channels_on, filled, normalized, over, seeded, training_device, under
from synth.rows import EncodedStore
from synth.train import Trained, planned, settled, train

INNER_SIDE = 8
"""Pixels of a side at most where the network is narrowest."""

LEAST_LOG_STD, MOST_LOG_STD = -6.0, 3.0

LEAST_LOG_SCALE, MOST_LOG_SCALE = -6.0, 1.0
"""Of a pixel's distribution, in units of half its range."""

FIXED_LOG_STD, FIXED_DIVERGENCE = -3.0, 0.02
"""Of an autoencoder's codes: their noise, and the weight of their divergence."""

AT_ONCE = 512
"""Images that pass the network at a time."""

LOOKS, PATIENCE = 12, 3
"""Looks at rows that were not learned from, and those without a better one after which training stops."""

TRIES = 8
"""Codes of an image by which its probability is bounded."""

REPAIRS, REPAIR_RATE = 150, 0.05
"""Steps by which the code of a damaged image is searched, and their size in standard deviations of codes."""


STEPS_SHARE = 0.6
"""Of the budget, what the steps have where they carry noise; the mixture of codes has the rest."""

NOISED: Mapping[str, object] = MappingProxyType({"code": 16, "channels": 16, "epochs": 6, "batch_rows": 1024})
"""Defaults where steps carry noise: few, large ones, and short codes, of which moments are told better."""


class AutoencoderOptions(BaseModel):
    """What a recipe may say about an autoencoder of images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int = Option(32, ge=1, le=1024, description="numbers of an image's code")
    channels: int | None = Option(
        None, ge=8, le=1024, multiple_of=8, description="of the outermost layer; none: 32, on a GPU 128"
    )
    blocks: int = Option(
        1, ge=0, le=32, description="residual blocks of each half, where images are smallest"
    )
    epochs: int = Option(100, ge=1, le=100_000, description="passes over the rows at most")
    max_steps: int = Option(3000, ge=1, le=10_000_000, description="steps at most, for many rows")
    batch_rows: int = Option(128, ge=1, le=1_000_000, description="rows of a step")
    learning_rate: float = Option(2e-3, gt=0, le=1, description="of Adam")
    weight_decay: float = Option(1e-4, ge=0, le=1, description="of Adam")
    components: int | None = Option(None, ge=1, le=8192, description="of codes; none: by held-out likelihood")
    max_components: int = Option(2048, ge=1, le=8192, description="where the search for the number ends")
    by: str | None = Option(
        None, description="column whose values have components of their own; none: the one that explains most"
    )


class Options(AutoencoderOptions):
    """What a recipe may say about a variational autoencoder of images."""

    divergence: float = Option(
        1.0, gt=0, le=100, description="weight of the divergence of codes from N(0, 1)"
    )


class Network(nn.Module):
    """Encoder and decoder.

    Args:
        shape: height, width and channels of an image.
        channels: of the outermost layer; each halving of the sides doubles them, up to four times.
        blocks: residual blocks of each half, where sides are smallest.
        code: numbers of a code.
        log_std: of the noise on codes; None: the encoder says it of each.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int, blocks: int, code: int, log_std: float | None
    ) -> None:
        super().__init__()
        height, width, colours = shape
        halvings = max(1, math.ceil(math.log2(max(height, width) / INNER_SIDE)))
        self.shape, self.size, self._log_std = shape, code, log_std
        self.inner = tuple(math.ceil(side / 2**halvings) for side in (height, width))
        self.outer = tuple(side * 2**halvings for side in self.inner)
        widths = [channels * min(2**i, 4) for i in range(halvings)]
        into: list[nn.Module] = [nn.Conv2d(colours, widths[0], 4, stride=2, padding=1)]
        for narrow, wide in itertools.pairwise(widths):
            into += [*normalized(narrow), nn.Conv2d(narrow, wide, 4, stride=2, padding=1)]
        into += [ImageBlock(widths[-1]) for _ in range(blocks)]
        self.into = nn.Sequential(*into, *normalized(widths[-1]))
        numbers = widths[-1] * math.prod(self.inner)
        self.coded = nn.Linear(numbers, 2 * code if log_std is None else code)
        self.first = nn.Linear(code, numbers)
        out: list[nn.Module] = [ImageBlock(widths[-1]) for _ in range(blocks)]
        for wide, narrow in itertools.pairwise(widths[::-1]):
            out += [*normalized(wide), nn.Conv2d(wide, 4 * narrow, 3, padding=1), nn.PixelShuffle(2)]
        out += [*normalized(widths[0]), nn.Conv2d(widths[0], 8 * colours, 3, padding=1), nn.PixelShuffle(2)]
        self.out = nn.Sequential(*out)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the standard deviation of each image's code: (n, c, h, w) in [−1, 1] → (n, d) both."""
        more = (0, self.outer[1] - self.shape[1], 0, self.outer[0] - self.shape[0])
        found = self.coded(self.into(functional.pad(images, more, mode="replicate")).flatten(1))
        if self._log_std is not None:
            return found, torch.full_like(found, self._log_std)
        mean, log_std = found.chunk(2, 1)
        return mean, log_std.clamp(LEAST_LOG_STD, MOST_LOG_STD)

    def decode(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the scale of each pixel: (n, d) → (n, c, h, w) both; means may lie beyond [−1, 1]."""
        height, width, _ = self.shape
        out = self.out(self.first(codes).unflatten(1, (-1, *self.inner)))[..., :height, :width]
        mean, log_scale = out.chunk(2, 1)
        return mean, (log_scale - 3).clamp(LEAST_LOG_SCALE, MOST_LOG_SCALE)


def images_of(pixels: NDArray[np.uint8], shape: tuple[int, int, int]) -> Tensor:
    """uint8 (n, P) → float32 (n, channels, height, width) in [−1, 1]."""
    return torch.from_numpy(pixels).reshape(-1, *shape).permute(0, 3, 1, 2).float() / 127.5 - 1


def pixels_of(images: Tensor) -> NDArray[np.uint8]:
    """The inverse of `images_of`; what lies beyond [−1, 1] is cut."""
    values = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return values.permute(0, 2, 3, 1).flatten(1).cpu().numpy()


def log_likelihoods(images: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """Log-probability of images of 256 levels under a discretized logistic distribution of each pixel: (n,).

    As in Salimans et al. 2017 (arXiv 1701.05517): black and white have all that lies beyond them.
    """
    rate = torch.exp(-log_scale)
    upper = torch.where(images > 1 - 1e-3, 1e2, (images - mean + 1 / 255) * rate)
    lower = torch.where(images < -1 + 1e-3, -1e2, (images - mean - 1 / 255) * rate)
    # log(σ(u) − σ(l)) = log σ(u) + log σ(−l) + log(1 − e^(l − u))
    inside = torch.log(-torch.expm1((lower - upper).clamp(max=-1e-6)))
    found: Tensor = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + inside
    return found.flatten(1).sum(1)


class _Learner:
    """The player that reads rows: the negative lower bound of each image."""

    def __init__(
        self, network: Network, layout: Layout, divergence: float, options: AutoencoderOptions
    ) -> None:
        self.module = network
        self._field = layout.images[0].field
        self._divergence = divergence
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        """Reconstruction and divergence of each row: (n,)."""
        rows = encoded_of(batch)
        noise = luck.normal.standard_normal((len(rows), self.module.size), np.float32)
        return -self._bound(rows, torch.from_numpy(noise))

    def score(self, rows: Encoded) -> Floats:
        """The lower bound of each row, by its mean code: float64 (n,)."""
        nothing = torch.zeros(1, self.module.size)
        with torch.no_grad():
            parts = [self._bound(rows.take(s), nothing) for s in slices(len(rows), AT_ONCE)]
        return torch.cat(parts).double().cpu().numpy()

    def _bound(self, rows: Encoded, noise: Tensor) -> Tensor:
        assert rows.pixels is not None
        device = self.module.first.weight.device
        images = images_of(rows.pixels, self.module.shape).to(device)
        mean, log_std = self.module.encode(images)
        codes = mean + log_std.exp() * noise.to(device)
        found = log_likelihoods(images, *self.module.decode(codes))
        divergence = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(1)
        found = found - self._divergence * divergence
        there = torch.from_numpy(rows.states[:, self._field] > 0).to(device)
        return torch.where(there, found, 0.0)


@dataclass(frozen=True)
class NetworkCode:
    """The code of a network, as a mixture takes it."""

    network: Network

    @property
    def size(self) -> int:
        """Numbers of a code."""
        return self.network.size

    def of(self, pixels: NDArray[Any]) -> Tensor:
        """Mean codes of images, uint8 (n, P): float32 (n, d)."""
        return self.proposed(pixels)[0]

    @torch.no_grad()
    def proposed(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """Mean and log of the standard deviation of the codes of images: (n, d) both."""
        images = images_of(pixels, self.network.shape)
        parts = [self.network.encode(images[s]) for s in slices(len(images), AT_ONCE)]
        return torch.cat([m for m, _ in parts]), torch.cat([s for _, s in parts])

    @torch.no_grad()
    def images(self, codes: Tensor) -> NDArray[np.uint8]:
        """The mean images of codes, float32 (n, d): uint8 (n, P)."""
        return np.concatenate(
            [pixels_of(self.network.decode(codes[s])[0]) for s in slices(len(codes), AT_ONCE)]
        )


@dataclass(frozen=True)
class _Recoded:
    """The code of rows that have codes in the place of images."""

    size: int

    def of(self, pixels: NDArray[Any]) -> Tensor:
        return torch.from_numpy(pixels)

    def images(self, codes: Tensor) -> NDArray[np.uint8]:
        raise NotImplementedError("codes are learned here, and no image is drawn")


class ImageVae:
    """A fitted autoencoder of images, and the mixture of its codes and all other columns."""

    exact = False
    private = False

    def __init__(self, name: str, layout: Layout, network: Network, mixture: ImageMixture) -> None:
        self.name = name
        self.trained: Trained | None = None
        self._layout = layout
        self._network = network
        self._code = NetworkCode(network)
        self._mixture = mixture
        self._image = layout.images[0].field
        # One set of noise for every row, so that a row's figures do not depend on the rows beside it.
        self._noise = torch.from_numpy(
            np.random.default_rng(0).standard_normal((TRIES, 1, network.size), np.float32)
        )

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`; what depends on an image depends on its mean code."""
        return self._mixture.draw(rows, rng, given=given, present=present)

    def log_prob(self, encoded: Encoded) -> Floats:
        """A lower bound on the log-probability of states, scores and pixels: float64 (n,).

        log p(row) ≥ E log 1/S Σ p(image | code) p(code, columns) / q(code | image), by S codes that the encoder
        proposes (Burda et al. 2016, arXiv 1509.00519). Unknown cells are integrated out.
        """
        parts = [self._bound(encoded.take(s)) for s in slices(len(encoded), AT_ONCE)]
        return np.concatenate(parts)

    def embed(self, encoded: Encoded) -> Floats:
        """The mean code of each row's image, no numbers (NaN) where there is none: float64 (n, d)."""
        assert encoded.pixels is not None
        codes = self._code.of(encoded.pixels).double().numpy()
        codes[encoded.states[:, self._image] <= 0] = np.nan
        return codes

    def reconstruct(self, encoded: Encoded, rng: np.random.Generator) -> Encoded:
        """Rows whose images are drawn from the mean codes of images, and all else given those."""
        return self._shown(encoded, self._code.of, rng)

    def restored(self, encoded: Encoded, rng: np.random.Generator, *, noise: float, scale: int) -> Encoded:
        """See `synth.registry.Restoring`: by the code that is most likely given what is seen and known.

        That is the z of least |(x − y) / noise|² / 2 − log p(z, known columns), where y is what is seen of the image
        and x the same of the decoder's image (Bora et al. 2017, arXiv 1703.03208, whose |z|² is a density here).
        """
        index = np.flatnonzero(encoded.states[:, self._image] > 0)
        out = encoded.pixels.copy()  # type: ignore[union-attr]
        for part in slices(len(index), AT_ONCE):
            own = index[part]
            if len(own):
                out[own] = self._code.images(self._searched(encoded.take(own), noise=noise, scale=scale))
        given = replace(encoded, pixels=out)
        return self._mixture.draw(len(encoded), rng, given=given)

    def between(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], *, steps: int
    ) -> NDArray[np.uint8]:
        """See `synth.registry.Interpolating`."""
        return self._mixture.between(first, second, steps=steps)

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        return {
            **over("network.", self._network.state_dict()),
            **over("mixture.", self._mixture.components()),
        }

    def _shown(
        self, encoded: Encoded, code: Callable[[NDArray[np.uint8]], Tensor], rng: np.random.Generator
    ) -> Encoded:
        """Rows of which only the images are given, as decoded from their codes."""
        assert encoded.pixels is not None
        given = self._layout.unknown(len(encoded))
        given.states[:, self._image] = encoded.states[:, self._image]
        drawn = self._mixture.draw(len(encoded), rng, given=replace(given, pixels=encoded.pixels))
        index = np.flatnonzero(encoded.states[:, self._image] > 0)
        assert drawn.pixels is not None
        if len(index):
            drawn.pixels[index] = self._code.images(code(encoded.pixels[index]))
        return drawn

    def _bound(self, rows: Encoded) -> Floats:
        out = self._mixture.log_prob(rows)
        index = np.flatnonzero(rows.states[:, self._image] > 0)
        if not len(index):
            return out
        own = rows.take(index)
        assert own.pixels is not None
        images = images_of(own.pixels, self._network.shape)
        mean, log_std = self._code.proposed(own.pixels)
        tries = []
        for noise in self._noise:
            codes = mean + log_std.exp() * noise
            with torch.no_grad():
                fits = log_likelihoods(images, *self._network.decode(codes)).double()
            by_encoder = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1).double()
            by_mixture = self._mixture.joint(own, codes).double().logsumexp(1)
            tries.append(fits + by_mixture - by_encoder)
        out[index] = (torch.stack(tries).logsumexp(0) - math.log(TRIES)).numpy()
        return out

    def _searched(self, rows: Encoded, *, noise: float, scale: int) -> Tensor:
        """The most likely codes of images that are seen with noise or in squares: (n, d)."""
        assert rows.pixels is not None

        def seen(images: Tensor) -> Tensor:
            return functional.avg_pool2d(images, scale, ceil_mode=True) if scale > 1 else images

        target = seen(images_of(rows.pixels, self._network.shape))
        std = max(noise, 1.0) / 127.5
        start = self._code.of(rows.pixels)
        codes = start.clone().requires_grad_()
        optimizer = torch.optim.Adam(
            [codes], lr=REPAIR_RATE * float(start.std()) if len(start) > 1 else REPAIR_RATE
        )
        for _ in range(REPAIRS):
            image = self._network.decode(codes)[0].clamp(-1.5, 1.5)
            misfit = ((seen(image) - target) ** 2).sum() / (2 * std**2)
            loss = misfit - self._mixture.joint(rows, codes).logsumexp(1).sum()
            (slope,) = torch.autograd.grad(loss, codes)
            codes.grad = slope
            optimizer.step()
        return codes.detach()


@dataclass(frozen=True, kw_only=True)
class Family:
    """One of the two: what `synth.registry.Synthesizer` asks for.

    Attributes:
        name: in a recipe.
        options: what a recipe may say.
        log_std: of the noise on codes; None: the encoder says it of each.
        private: whether codes are learned to be about N(0, 1), so that noised moments of them say enough.
    """

    name: str
    options: type[AutoencoderOptions]
    log_std: float | None
    private: bool

    exact = False
    share = STEPS_SHARE
    noised: ClassVar[Mapping[str, tuple[object, ...]]] = image_mixture.UNSEARCHED

    def descent(self, options: Mapping[str, Any], rows: float) -> Descent:
        """See `synth.registry.Descending`."""
        return planned(self.options, NOISED, options, rows)

    def fit(self, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int) -> ImageVae:
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns, of which one is of images.
            options: fields of `options`.
            seed: of the weights.

        Raises:
            RecipeError: there are several columns of images, or `by` names no column of few values.
        """
        chosen, _ = settled(curator, self.options, NOISED, options, share=self.share)
        image_mixture.check(layout, chosen.by)
        device = training_device()
        channels = channels_on(device, chosen.channels)
        divergence = chosen.divergence if isinstance(chosen, Options) else FIXED_DIVERGENCE
        with seeded(seed):
            network = Network(layout.images[0].shape, channels, chosen.blocks, chosen.code, self.log_std)
        trained = train(
            curator,
            _Learner(network.to(device), layout, divergence, chosen),
            columns=layout.pixels,
            epochs=chosen.epochs,
            max_steps=chosen.max_steps,
            batch_rows=chosen.batch_rows,
            patience=PATIENCE,
            looks=LOOKS,
            share=self.share,
        )
        code = NetworkCode(network.to("cpu"))
        key = f"codes {seed}".encode()

        def coded(batch: Batch) -> dict[str, NDArray[np.generic]]:
            rows = encoded_of(batch)
            assert rows.pixels is not None
            mean, log_std = code.proposed(rows.pixels)
            # By the luck that the curator's key has put in the place of the unit: see `Curator.recode`.
            noise = [ndtri(uniform_of(batch.unit, key, f"{i}") + 2.0**-54) for i in range(code.size)]
            codes = mean.numpy() + log_std.exp().numpy() * np.stack(noise, 1)
            # A row whose code is no number must not be told from the others by an error.
            pixels = np.nan_to_num(codes, nan=0.0, posinf=0.0, neginf=0.0).astype(np.float32)
            return {"states": rows.states, "scores": rows.scores, "pixels": pixels}

        recoded = curator.recode(coded, EncodedStore(None, unit_is_row=False))
        of_mixture = chosen.model_dump(include={"components", "max_components", "by"})
        learned = ImageMixture.over(
            recoded,
            layout,
            _Recoded(code.size),
            image_mixture.Options.model_validate(of_mixture),
            part=1 - self.share,
        )
        model = ImageVae(self.name, layout, network, learned.in_space_of(code))
        model.trained = trained
        return model

    def restore(self, layout: Layout, tensors: Mapping[str, Tensor]) -> ImageVae:
        """A model from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        if len(layout.images) != 1:
            raise ValueError("a code of images must have one column of them, however: it has another layout")
        state = under("network.", tensors)
        blocks = sum(n.startswith("into.") and n.endswith(".layers.0.weight") for n in state)
        channels, code = state["into.0.weight"].shape[0], state["first.weight"].shape[1]
        with seeded(0):
            network = filled(Network(layout.images[0].shape, channels, blocks, code, self.log_std), state)
        mixture = ImageMixture.with_code(layout, under("mixture.", tensors), NetworkCode(network))
        return ImageVae(self.name, layout, network, mixture)


IMAGE_VAE = Family(name="image-vae", options=Options, log_std=None, private=True)
AUTOENCODER = Family(name="autoencoder", options=AutoencoderOptions, log_std=FIXED_LOG_STD, private=False)
