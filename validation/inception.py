"""InceptionV3, from weights that a person has: distances and scores as papers publish them.

The network is that of Szegedy et al. (2016, arXiv 1512.00567). Two sets of weights are told by the number of classes:

- 1008: the port of TensorFlow's network of 2015-12-05, in which Fréchet distances are published (Heusel et al. 2017,
  arXiv 1706.08500; the file is called pt_inception-2015-12-05). Averages of a block leave out the padding, and the last
  block takes maxima in the place of averages, as that graph does. Its classes are told without a bias, as by Salimans
  et al. (2016, arXiv 1606.03498), whose score is of these.
- 1000: those of torchvision, with its averages and its bias. Figures are InceptionV3's, and no published ones.

Features are the 2048 means before the last layer, of images of 299 × 299 (bilinear, without antialiasing) in [−1, 1].
Nothing is downloaded. On a GPU the last digits are others than on a processor.
"""

import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from privacy.errors import InputError
from synth.layers import training_device
from validation.cells import Floats

NAMES: Final[Mapping[int, str]] = {
    1008: "InceptionV3 (TensorFlow port of 2015-12-05)",
    1000: "InceptionV3 (torchvision)",
}
"""Networks, by the number of classes that they tell apart."""

FEATURES = 2048
"""Numbers of an image."""

SIDE = 299
"""Pixels of a side that images are stretched to."""

BATCH = 16
"""Images at a time; the first layers hold 7 MB of each."""

IMAGES = 50_000
"""Images that published figures are of."""

SPLITS = 10
"""Parts of the images whose scores give the mean and the deviation that are published."""

MOST_BYTES = 500_000_000
"""Of a file of weights."""


# ------------------------------------------------------------------------------------------------- what is in evidence


@dataclass(frozen=True, kw_only=True)
class Inception:
    """What InceptionV3 says beyond `Closeness`, whose distances are in its features.

    Attributes:
        name: of the network.
        digest: of the file of weights, SHA-256 in hex.
        images: of each side, for the Fréchet distance and the score beside their ceilings.
        score_sd: standard deviation of the score over `SPLITS` parts.
        score_ceiling_sd: likewise of held-out images.
        most: training and synthetic images, each, for the next figures: held-out ones are mostly fewer.
        most_frechet: Fréchet distance of as many.
        most_score: Inception Score of as many.
        most_score_sd: its standard deviation.
    """

    name: str
    digest: str
    images: int
    score_sd: float
    score_ceiling_sd: float | None
    most: int
    most_frechet: float
    most_score: float
    most_score_sd: float

    @property
    def published(self) -> bool:
        """Whether these are the weights that published figures come from."""
        return self.name == NAMES[1008]


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """The mean, float64 (d,), and the covariance, float64 (d, d), of rows."""

    mean: Floats
    covariance: Floats

    @classmethod
    def of(cls, rows: Floats) -> "Moments":
        """Those of rows, float64 (n, d)."""
        return cls(mean=rows.mean(axis=0), covariance=np.atleast_2d(np.cov(rows.T)))


def frechet(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance between two normal distributions (Dowson and Landau 1982).

    |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁^½ Σ₂ Σ₁^½)^½), whose last trace is that of (Λ^½ Vᵀ Σ₂ V Λ^½)^½ for Σ₁ = V Λ Vᵀ: by
    eigenvalues, which stays real for few rows.
    """
    first, second = a.covariance, b.covariance
    values, vectors = np.linalg.eigh(first)
    # Of fewer rows than numbers most directions have no variance but that of rounding, whose root is no small number.
    some = values > values[-1] * len(values) * np.finfo(np.float64).eps
    half = vectors[:, some] * np.sqrt(values[some])
    middle = np.sqrt(np.maximum(np.linalg.eigvalsh(half.T @ second @ half), 0)).sum()
    gap = a.mean - b.mean
    return max(0.0, float(gap @ gap + np.trace(first) + np.trace(second) - 2 * middle))


# ---------------------------------------------------------------------------------------------------------- the network

Pool = Literal["average", "largest", "reduced", "none"]


@dataclass(frozen=True)
class _Filter:
    """A convolution: what it gives, its kernel (height, width), and its stride.

    Of stride 1 it keeps the size of an image, of stride 2 it halves it without padding.
    """

    out: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1

    @property
    def padding(self) -> tuple[int, int]:
        if self.stride == 2:
            return (0, 0)
        return (self.kernel[0] // 2, self.kernel[1] // 2)


Step = _Filter | tuple[_Filter, ...]
"""One convolution, or several of the same input, side by side."""


class _Convolution(nn.Module):
    """A convolution without a bias, batch normalization, and ReLU."""

    def __init__(self, channels: int, what: _Filter, padding: tuple[int, int] | None = None) -> None:
        super().__init__()
        around = what.padding if padding is None else padding
        self.conv = nn.Conv2d(channels, what.out, what.kernel, what.stride, around, bias=False)
        self.bn = nn.BatchNorm2d(what.out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Several chains of convolutions of one input and a pooled copy of it, side by side.

    A convolution bears the name of its branch, and where there are several of them its number; those that share an
    input have letters, too.
    """

    def __init__(
        self, channels: int, branches: Mapping[str, Sequence[Step]], pool: Pool, padded: bool
    ) -> None:
        super().__init__()
        self.pool, self.padded = pool, padded
        self.chains: list[list[list[str]]] = []
        self.channels = channels if pool == "reduced" else 0
        for name, steps in branches.items():
            chain, width = [], channels
            for number, step in enumerate(steps, 1):
                beside = step if isinstance(step, tuple) else (step,)
                letters = [""] if len(beside) == 1 else ["a", "b"]
                place = name if len(steps) == 1 else f"{name}_{number}"
                chain.append([place + letter for letter in letters])
                for own, what in zip(chain[-1], beside, strict=True):
                    self.add_module(own, _Convolution(width, what))
                width = sum(what.out for what in beside)
            self.chains.append(chain)
            self.channels += width

    def forward(self, x: Tensor) -> Tensor:
        *others, last = self.chains
        if self.pool == "reduced":
            others, pooled = self.chains, functional.max_pool2d(x, 3, stride=2)
        elif self.pool == "largest":
            pooled = self._chained(functional.max_pool2d(x, 3, stride=1, padding=1), last)
        else:
            means = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=self.padded)
            pooled = self._chained(means, last)
        return torch.cat([*(self._chained(x, chain) for chain in others), pooled], 1)

    def _chained(self, x: Tensor, chain: list[list[str]]) -> Tensor:
        for names in chain:
            x = torch.cat([self.get_submodule(name)(x) for name in names], 1)
        return x


_ROW, _COLUMN = (1, 7), (7, 1)


def _same(pooled: int) -> dict[str, Sequence[Step]]:
    """35 × 35: small neighbourhoods."""
    return {
        "branch1x1": [_Filter(64)],
        "branch5x5": [_Filter(48), _Filter(64, (5, 5))],
        "branch3x3dbl": [_Filter(64), _Filter(96, (3, 3)), _Filter(96, (3, 3))],
        "branch_pool": [_Filter(pooled)],
    }


_TO_17: Mapping[str, Sequence[Step]] = {
    "branch3x3": [_Filter(384, (3, 3), 2)],
    "branch3x3dbl": [_Filter(64), _Filter(96, (3, 3)), _Filter(96, (3, 3), 2)],
}


def _long(width: int) -> dict[str, Sequence[Step]]:
    """17 × 17: long rows and columns."""
    return {
        "branch1x1": [_Filter(192)],
        "branch7x7": [_Filter(width), _Filter(width, _ROW), _Filter(192, _COLUMN)],
        "branch7x7dbl": [
            _Filter(width),
            _Filter(width, _COLUMN),
            _Filter(width, _ROW),
            _Filter(width, _COLUMN),
            _Filter(192, _ROW),
        ],
        "branch_pool": [_Filter(192)],
    }


_TO_8: Mapping[str, Sequence[Step]] = {
    "branch3x3": [_Filter(192), _Filter(320, (3, 3), 2)],
    "branch7x7x3": [_Filter(192), _Filter(192, _ROW), _Filter(192, _COLUMN), _Filter(192, (3, 3), 2)],
}

_CROSS = (_Filter(384, (1, 3)), _Filter(384, (3, 1)))

_WIDE: Mapping[str, Sequence[Step]] = {
    "branch1x1": [_Filter(320)],
    "branch3x3": [_Filter(384), _CROSS],
    "branch3x3dbl": [_Filter(448), _Filter(384, (3, 3)), _CROSS],
    "branch_pool": [_Filter(192)],
}

_STEM: Mapping[str, tuple[int, _Filter, int]] = {
    # Name → channels of its input, what it does, and padding.
    "Conv2d_1a_3x3": (3, _Filter(32, (3, 3), 2), 0),
    "Conv2d_2a_3x3": (32, _Filter(32, (3, 3)), 0),
    "Conv2d_2b_3x3": (32, _Filter(64, (3, 3)), 1),
    "Conv2d_3b_1x1": (64, _Filter(80), 0),
    "Conv2d_4a_3x3": (80, _Filter(192, (3, 3)), 0),
}

_BEFORE_POOLING = ("Conv2d_2b_3x3", "Conv2d_4a_3x3")

_BLOCKS: Mapping[str, tuple[Mapping[str, Sequence[Step]], Pool]] = {
    "Mixed_5b": (_same(32), "average"),
    "Mixed_5c": (_same(64), "average"),
    "Mixed_5d": (_same(64), "average"),
    "Mixed_6a": (_TO_17, "reduced"),
    "Mixed_6b": (_long(128), "average"),
    "Mixed_6c": (_long(160), "average"),
    "Mixed_6d": (_long(160), "average"),
    "Mixed_6e": (_long(192), "average"),
    "Mixed_7a": (_TO_8, "reduced"),
    "Mixed_7b": (_WIDE, "average"),
    "Mixed_7c": (_WIDE, "average"),
}


class InceptionV3(nn.Module):
    """The network; its parameters are named as those of torchvision's and pytorch-fid's.

    Args:
        classes: 1008 for TensorFlow's network, 1000 for torchvision's.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.ported = classes == 1008
        for name, (channels, what, padding) in _STEM.items():
            self.add_module(name, _Convolution(channels, what, (padding, padding)))
        width = 192
        for name, (branches, pool) in _BLOCKS.items():
            last: Pool = "largest" if self.ported and name == "Mixed_7c" else pool
            block = _Block(width, branches, last, padded=not self.ported)
            self.add_module(name, block)
            width = block.channels
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, 2048) and the logits of classes (n, classes) of images (n, 3, 299, 299) in [−1, 1]."""
        for name in _STEM:
            x = self.get_submodule(name)(x)
            if name in _BEFORE_POOLING:
                x = functional.max_pool2d(x, 3, stride=2)
        for name in _BLOCKS:
            x = self.get_submodule(name)(x)
        found = x.mean(dim=(2, 3))
        return found, functional.linear(found, self.fc.weight, None if self.ported else self.fc.bias)


# ------------------------------------------------------------------------------------------------------------ weights


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Weights that were read, and what is said of them.

    Attributes:
        module: in evaluation mode, on the device where networks run.
        name: which one it is.
        digest: of the file, SHA-256 in hex.
    """

    module: InceptionV3
    name: str
    digest: str

    def look(self, pixels: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Features (n, 2048) and probabilities of classes (n, classes), float64.

        Args:
            pixels: uint8 (n, height, width, channels); one of grey is shown in all three colours.
        """
        device = self.module.fc.weight.device
        exactly = torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        )
        with torch.inference_mode(), exactly:
            x = torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2).float()
            x = functional.interpolate(x / 127.5 - 1, (SIDE, SIDE), mode="bilinear").expand(-1, 3, -1, -1)
            features, logits = self.module(x.contiguous(memory_format=torch.channels_last))
            chances = logits.double().softmax(dim=1)
        return features.double().cpu().numpy(), chances.cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Which weights a person has.

    Attributes:
        path: of the file.
        images: of each side that the network looks at, at most.
    """

    path: Path
    images: int = IMAGES

    def network(self) -> Network:
        """Reads them.

        Raises:
            InputError: they are none.
        """
        return load(self.path)


def load(path: Path) -> Network:
    """Reads weights: a state dict as PyTorch saves it (no code in it is run), or safetensors.

    Raises:
        InputError: there is no such file, it is larger than `MOST_BYTES`, or it holds something else.
    """
    content = _content(path)
    tensors = _tensors(content, path)
    classes = _classes(tensors, path)
    with torch.device("meta"):
        module = InceptionV3(classes)
    _check(tensors, module, path)
    own = {
        name: torch.zeros((), dtype=torch.long) if name.endswith(_COUNTER) else tensors[name].float()
        for name in module.state_dict()
    }
    module.load_state_dict(own, assign=True)
    module = module.requires_grad_(False).eval().to(training_device())
    return Network(module=module, name=NAMES[classes], digest=hashlib.sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        size = path.stat().st_size if path.is_file() else None
        content = path.read_bytes() if size is not None and size <= MOST_BYTES else b""
    except OSError:
        size, content = None, b""
    if size is None:
        raise InputError(
            f"weights of InceptionV3 must be a readable file, however: {path} is none; correct the path"
        )
    if size > MOST_BYTES:
        raise InputError(
            f"weights of InceptionV3 take about 100 MB, however: {path} has {size / 1e6:,.0f}; give another file"
        )
    return content


_COUNTER = "num_batches_tracked"
"""What batch normalization counts in training, and old files lack."""

_AUXILIARY = "AuxLogits."
"""A second head of torchvision's, for training alone."""


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load as parse

            found: Any = parse(content)
        else:
            found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever a parser says of a strange file, and it may quote it
        found = None
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise InputError(
            f"weights of InceptionV3 must be a state dict, however: {path.name} holds none; give a .pth that "
            "torch.save(network.state_dict()) wrote (no TorchScript), or .safetensors"
        )
    return {str(name): t for name, t in found.items() if not str(name).startswith(_AUXILIARY)}


def _classes(tensors: Mapping[str, Tensor], path: Path) -> int:
    last = tensors.get("fc.weight")
    if last is None or tuple(last.shape) not in {(classes, FEATURES) for classes in NAMES}:
        shape = "it has no fc.weight" if last is None else f"fc.weight has shape {tuple(last.shape)}"
        raise InputError(
            "weights of InceptionV3 must tell 1008 classes (TensorFlow's port) or 1000 (torchvision's) by 2048 "
            f"features, however: in {path.name} {shape}; give pt_inception-2015-12-05 as pytorch-fid uses it"
        )
    return int(last.shape[0])


def _check(tensors: Mapping[str, Tensor], module: nn.Module, path: Path) -> None:
    """Refuses names and shapes that do not fit, and numbers that are none."""
    asked = {n: tuple(t.shape) for n, t in module.state_dict().items() if not n.endswith(_COUNTER)}
    given = {n: tuple(t.shape) for n, t in tensors.items() if not n.endswith(_COUNTER)}
    wrong = [f"{n} is missing" for n in asked if n not in given]
    wrong += [f"{n} is too much" for n in given if n not in asked]
    wrong += [f"{n} has shape {given[n]}, not {s}" for n, s in asked.items() if given.get(n, s) != s]
    wrong += [
        f"{n} holds numbers that are not finite" for n in asked if n in given and not _finite(tensors[n])
    ]
    if wrong:
        more = f" and {len(wrong) - 3:,} more" if len(wrong) > 3 else ""
        raise InputError(
            f"weights of InceptionV3 must have its names and shapes, however: in {path.name} {', '.join(wrong[:3])}"
            f"{more}; give a state dict as torchvision and pytorch-fid name it"
        )


def _finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


# ------------------------------------------------------------------------------------------------------ what it sees


class Tally:
    """Moments of features and the Inception Score of so many images, whatever number is shown at a time.

    Memory: a covariance (2048 × 2048), and `SPLITS` means of classes.

    Attributes:
        count: images at most; later ones are left out.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._seen = 0
        self._about: Floats | None = None
        self._sum = np.zeros(FEATURES)
        self._squares = np.zeros((FEATURES, FEATURES))
        self._parts: Floats | None = None
        self._surprise = np.zeros(SPLITS)
        self._rows = np.zeros(SPLITS)

    def add(self, features: Floats, chances: Floats) -> None:
        """Takes in the next images, until there are as many as were asked for."""
        left = self.count - self._seen
        features, chances = features[:left], chances[:left]
        if not len(features):
            return
        if self._about is None or self._parts is None:
            # Squares are summed about a point among them, so that few digits are lost.
            self._about = features.mean(axis=0)
            self._parts = np.zeros((SPLITS, chances.shape[1]))
        off = features - self._about
        self._sum += off.sum(axis=0)
        self._squares += off.T @ off
        part = (self._seen + np.arange(len(features))) * SPLITS // self.count
        safe = np.clip(chances, 1e-300, None)
        np.add.at(self._parts, part, chances)
        np.add.at(self._surprise, part, (chances * np.log(safe)).sum(axis=1))
        np.add.at(self._rows, part, 1)
        self._seen += len(features)

    def moments(self) -> Moments:
        """Mean and covariance of the features."""
        assert self._about is not None
        mean = self._sum / self._seen
        covariance = (self._squares - self._seen * np.outer(mean, mean)) / (self._seen - 1)
        return Moments(mean=self._about + mean, covariance=covariance)

    def score(self) -> tuple[float, float]:
        """The Inception Score: its mean over the parts, and the standard deviation."""
        assert self._parts is not None
        there = self._rows > 0
        mean = self._parts[there] / self._rows[there, None]
        apart = self._surprise[there] / self._rows[there]
        scores = np.exp(apart - (mean * np.log(np.clip(mean, 1e-300, None))).sum(axis=1))
        return float(scores.mean()), float(scores.std())


def shown(
    network: Network,
    pixels: npt.NDArray[np.uint8],
    order: npt.NDArray[np.int64],
    tallies: Sequence[Tally],
    *,
    kept: int,
) -> Floats:
    """Shows images to the network, in that order, a batch at a time.

    Returns:
        The features of the first `kept` of them, float64 (kept, 2048).
    """
    held: list[Floats] = []
    for batch in _batches(order):
        features, chances = network.look(pixels[batch])
        for tally in tallies:
            tally.add(features, chances)
        left = kept - sum(map(len, held))
        if left > 0:
            held.append(features[:left])
    return np.concatenate(held)


def _batches(order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, math.ceil(len(order) / BATCH)):
        yield order[start * BATCH : (start + 1) * BATCH]
