"""Network blocks that several models share."""

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, TypeVar

import torch
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

N = TypeVar("N", bound=nn.Module)

Width = Annotated[int, Option(ge=1, le=65_536)]
"""Of a hidden layer, in a recipe."""

NEVER = -1e4
"""Logit of a value that never occurs."""


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights that are drawn inside of the block depend on the seed alone, and what is drawn after it does not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed % 2**63)
        yield


def training_device() -> torch.device:
    """Where networks are trained."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def channels_on(device: torch.device, asked: int | None) -> int:
    """Channels of a network of images: as asked, or as many as are worth their time there."""
    return asked or (128 if device.type == "cuda" else 32)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def over(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with a prefix before their names; the inverse of `under`."""
    return {f"{prefix}{name}": t for name, t in tensors.items()}


def filled(network: N, weights: Mapping[str, Tensor]) -> N:
    """The network with these weights, not in training.

    Raises:
        ValueError: they are of another network.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError:
        raise ValueError("the network must fit the layout, however: it is of another") from None
    return network.eval()


class CellsIn(nn.Module):
    """The first layer of a network that reads rows of discrete values and scores.

    It is a linear layer over the one-hot codes of all columns, without the codes: a row's output is the sum of
    one learned vector per cell, so a column of many values costs no more than one of few. An unknown cell adds
    nothing.

    Args:
        sizes: number of values of each column.
        scores: number of scores.
        width: outputs.

    Shape:
        values int64 (n, C), of which `sizes[c]` stands for unknown; scores float32 (n, D) → float32 (n, width).
    """

    def __init__(self, sizes: Sequence[int], scores: int, width: int) -> None:
        super().__init__()
        self.nothing = sum(sizes)
        self.sizes = nn.Buffer(torch.tensor(list(sizes)), persistent=False)
        self.starts = nn.Buffer(self.sizes.cumsum(0) - self.sizes, persistent=False)
        self.cells = nn.EmbeddingBag(self.nothing + 1, width, mode="sum", padding_idx=self.nothing)
        nn.init.uniform_(self.cells.weight, -1 / math.sqrt(len(sizes)), 1 / math.sqrt(len(sizes)))
        # It has the bias as well, so that every parameter lies in a layer whose gradients are known row by row.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.scores = nn.Linear(scores, width, bias=False)
        self.scores.bias = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor, scores: Tensor) -> Tensor:
        """Sums the vectors of a row's cells."""
        known = values < self.sizes
        index = torch.where(known, values + self.starts, self.nothing)
        out: Tensor = self.cells(index) + self.scores(scores)
        return out


def hidden_layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with rectifiers before each: widths[0] → widths[-1]."""
    blocks: list[nn.Module] = []
    for i in range(len(widths) - 1):
        blocks += [nn.ReLU(), nn.Linear(widths[i], widths[i + 1])]
    return nn.Sequential(*blocks)


def normalized(channels: int) -> tuple[nn.Module, nn.Module]:
    """What stands before a convolution: groups of eight channels are normalized, then comes SiLU."""
    return nn.GroupNorm(max(1, channels // 8), channels), nn.SiLU()


class ImageBlock(nn.Module):
    """Two convolutions whose output is added to the input: (n, channels, h, w) → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *normalized(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            *normalized(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Adds what the convolutions give."""
        out: Tensor = x + self.layers(x)
        return out


CORRECTIONS, CORRECTING_ROWS, MOST_CORRECTION = 4, 16_384, 2.0
"""Times that rates are corrected, the rows that are drawn for each, and the factor that a rate moves by at most."""


def correct_rates(
    bias: Tensor,
    sizes: Sequence[int],
    rates: Tensor,
    drawn: Callable[[int], Iterable[tuple[Tensor, Tensor]]],
) -> None:
    """Shifts the last layer until what is drawn has given rates; it asks nothing of any row.

    Args:
        bias: of the logits of all values of all columns, (Σ sizes,): changed in place.
        sizes: number of values of each column.
        rates: what they should be, float64 (Σ sizes,).
        drawn: draws a number of rows in parts: their logits (n, Σ sizes), and how much each row counts for each
            column, (n, C).
    """
    for _ in range(CORRECTIONS):
        seen = torch.zeros(sum(sizes), dtype=torch.float64)
        with torch.no_grad():
            for logits, weights in drawn(CORRECTING_ROWS):
                columns = torch.split(logits.double(), list(sizes), -1)
                of_column = [c.softmax(-1).T @ w for c, w in zip(columns, weights.double().T, strict=True)]
                seen += torch.cat(of_column)
            total = torch.cat(
                [s.sum().clamp_min(1e-12).expand(len(s)) for s in torch.split(seen, list(sizes))]
            )
            ratio = (rates / (seen / total).clamp_min(1e-12)).clamp(1 / MOST_CORRECTION, MOST_CORRECTION)
            bias.add_(torch.where((rates > 0) & (seen > 0), ratio.log(), 0.0).float())


def log_likelihoods(logits: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Σ over the known cells of a row of the log-probability of its value: (…, n).

    Args:
        logits: (…, n, Σ sizes).
        values: int64 (n, C); `sizes[c]` stands for unknown.
        sizes: number of values of each column.
    """
    total = torch.zeros(logits.shape[:-1].numel(), device=logits.device)
    for c, part in enumerate(torch.split(logits.flatten(0, -2), list(sizes), dim=-1)):
        target = values[:, c].expand(logits.shape[:-1]).flatten()
        total = total - cross_entropy(part, target, ignore_index=sizes[c], reduction="none")
    return total.reshape(logits.shape[:-1])


def log_present(logits: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Σ over the unknown cells of a row of the log-probability of not being missing, which is value 0: (…, n).

    Arguments are those of `log_likelihoods`; a column of one value cannot be anything else.
    """
    total = torch.zeros(logits.shape[:-1], device=logits.device)
    for c, part in enumerate(torch.split(logits, list(sizes), dim=-1)):
        if sizes[c] > 1:
            own = part[..., 1:].logsumexp(-1) - part.logsumexp(-1)
            total = total + torch.where(values[:, c] < sizes[c], 0.0, own)
    return total
