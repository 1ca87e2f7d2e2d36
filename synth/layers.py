"""Network blocks that several models share."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


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
        self.scores = nn.Linear(scores, width, bias=False) if scores else None
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, values: Tensor, scores: Tensor) -> Tensor:
        """Sums the vectors of a row's cells."""
        known = values < self.sizes
        index = torch.where(known, values + self.starts, self.nothing)
        out: Tensor = self.cells(index) + self.bias
        return out if self.scores is None else out + self.scores(scores)


def hidden_layers(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with rectifiers before each: widths[0] → widths[-1]."""
    blocks: list[nn.Module] = []
    for i in range(len(widths) - 1):
        blocks += [nn.ReLU(), nn.Linear(widths[i], widths[i + 1])]
    return nn.Sequential(*blocks)


def log_likelihoods(logits: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Σ over the known cells of a row of the log-probability of its value: (…, n).

    Args:
        logits: (…, n, Σ sizes).
        values: int64 (n, C); `sizes[c]` stands for unknown.
        sizes: number of values of each column.
    """
    total = torch.zeros(logits.shape[:-1], device=logits.device)
    for c, part in enumerate(torch.split(logits, list(sizes), dim=-1)):
        known = values[:, c] < sizes[c]
        index = torch.where(known, values[:, c], 0)[:, None].expand(*part.shape[:-1], 1)
        own = part.gather(-1, index)[..., 0] - part.logsumexp(-1)
        total = total + torch.where(known, own, 0.0)
    return total


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
