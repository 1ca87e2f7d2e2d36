"""Recognizer: a small network that tells classes of images apart, and the features that figures of images are made of.

Features are what the network holds before its last layer (as Inception's are used, and nothing is downloaded). Without
classes they are the first principal components of what a network of fixed random filters shows: those see textures and
shapes, not what they mean. One thread computes, so that a machine's cores change no digit.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from validation.cells import Floats
from validation.features import draw, one_thread

Pixels = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int64]

SIDE = 32
"""Pixels of a side that images are shrunk to where they have more."""

CLASSES = 20
"""Values that a column has at most to serve as the classes of images."""

NAMED = frozenset({"label", "labels", "class", "target", "y"})
"""What the column of an image's class is mostly called."""

STEPS, BATCH, WIDTH = 500, 128, 64
"""Steps of a classifier, its batch, and the number of features."""

COMPONENTS_ROWS = 4_000
"""Images at most that components of random filters are taken from."""


def class_column(sizes: Mapping[str, int], targets: Sequence[str]) -> str | None:
    """The column of the classes of images: a target, one that is called so, or that of most values.

    Args:
        sizes: number of values of each column that may be meant.
        targets: what the recipe says is to be predicted.
    """
    able = [name for name, size in sizes.items() if 2 <= size <= CLASSES]
    named = [n for n in able if n in targets] or [n for n in able if n.lower() in NAMED]
    return named[0] if named else max(able, key=lambda n: sizes[n], default=None)


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One thread and a generator of its own for torch, whose state outside stays as it is."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def network_input(pixels: Pixels) -> Tensor:
    """Pixels as float32 (n, channels, height, width) in [−1, 1], shrunk to `SIDE`."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    height, width = x.shape[2:]
    if max(height, width) <= SIDE:
        return x
    size = (min(SIDE, height), min(SIDE, width))
    return functional.adaptive_avg_pool2d(x, size)


def in_pieces(pixels: Pixels, function: Callable[[Tensor], Tensor]) -> npt.NDArray[np.float32]:
    """A function of images, a thousand at a time: float32 (n, …)."""
    with torch.no_grad():
        parts = [function(network_input(pixels[i : i + 1000])).numpy() for i in range(0, len(pixels), 1000)]
    return np.concatenate(parts).astype(np.float32)


class Classifier(nn.Module):
    """Two convolutions and two layers: input (n, channels, height, width), output (n, classes)."""

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Flatten(),
            nn.Linear(64 * math.ceil(height / 4) * math.ceil(width / 4), WIDTH),
            nn.ReLU(),
        )
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes: (n, classes)."""
        return torch.as_tensor(self.head(functional.dropout(self.body(x), 0.3, self.training)))

    def features(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """What it holds before its last layer: float32 (n, `WIDTH`)."""
        return in_pieces(pixels, self.body)

    def guesses(self, pixels: Pixels) -> Floats:
        """The probability of each class: float64 (n, classes)."""
        return in_pieces(pixels, lambda x: self.head(self.body(x)).softmax(dim=1)).astype(np.float64)


def taught(
    pixels: Pixels, codes: Codes, classes: int, *, rows: int, rng: np.random.Generator, seed: int
) -> Classifier:
    """A classifier: AdamW, one cycle of the learning rate, `STEPS` steps.

    Args:
        pixels: uint8 (n, height, width, channels).
        codes: int64 (n,) in [0, classes), or −1 where nobody knows.
        classes: how many there are.
        rows: of known class, that it learns from at most.
        rng: draws them.
        seed: of the weights and of the steps.
    """
    known = np.flatnonzero(codes >= 0)
    drawn = known[draw(len(known), rows, rng)]
    x, y = network_input(pixels[drawn]), torch.from_numpy(codes[drawn])
    torch.manual_seed(seed)
    model = Classifier(x.shape[1], x.shape[2], x.shape[3], classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=STEPS)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(STEPS):
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return model.eval()


def random_features(train: Pixels, rng: np.random.Generator) -> Callable[[Pixels], npt.NDArray[np.float32]]:
    """Features without classes: principal components of what fixed random filters show of images.

    Two layers of random filters (He et al. 2015) with ReLU, means over 4 × 4 places; scales and components are those
    of up to `COMPONENTS_ROWS` training rows.
    """
    channels = train.shape[3]
    net = nn.Sequential(
        nn.Conv2d(channels, 64, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
    )
    for layer in net:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    shown = in_pieces(train[draw(len(train), COMPONENTS_ROWS, rng)], net)
    mean, spread = shown.mean(axis=0), shown.std(axis=0) + 1e-6
    _, sizes, axes = np.linalg.svd((shown - mean) / spread, full_matrices=False)
    axes = axes[: min(WIDTH, int((sizes > 1e-3 * sizes[0]).sum()))]
    scale = sizes[0] / math.sqrt(len(shown))
    middle, width = torch.from_numpy(mean), torch.from_numpy(spread)
    turn = torch.from_numpy(np.ascontiguousarray(axes.T / scale, np.float32))
    return lambda pixels: in_pieces(pixels, lambda x: (net(x) - middle) / width @ turn)
