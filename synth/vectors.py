"""Vectors: rows as networks write them, every entry between −1 and 1.

A column of discrete values is a one-hot code; a score is the code of its bin, which is its mode, and its place in it
from −1 to 1. A column of many values is written in two digits, so that a hundred thousand categories take 640 entries.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from synth.bins import Bins
from synth.layers import NEVER

WIDEST = 100
"""Values that a column without scores writes in one digit."""

TEMPERATURE = 0.2
"""Of relaxed draws (Jang et al. 2017, arXiv 1611.01144)."""

_EDGE = 1e-6


class Vectors(nn.Module):
    """The way of rows with C columns and D scores to vectors of `length` entries, and back.

    The first `width` entries are digits, the other D places. A network that draws rows gives a logit for each entry of
    a digit, and for each place a number that `tanh` brings between −1 and 1.

    Args:
        bins: the values of each column.
    """

    def __init__(self, bins: Sequence[Bins]) -> None:
        super().__init__()
        written = [_Written.of(b) for b in bins]
        owner = [c for c, w in enumerate(written) for _ in w.digits]
        self.digits = tuple(int(d.max()) + 1 for w in written for d in w.digits)
        """Number of entries of each digit."""
        self.width = sum(self.digits)
        self.scored = [c for c, b in enumerate(bins) if b.field.score is not None]
        self.length = self.width + len(self.scored)
        begins = np.cumsum([0, *self.digits])[:-1]
        first = np.array([owner.index(c) for c in range(len(bins))])
        starts = np.cumsum([0, *(b.size + 1 for b in bins)])[:-1]
        codes = np.full((sum(b.size + 1 for b in bins), 2), self.width)
        rates = np.zeros(self.width)
        low, gap = np.zeros(len(codes)), np.zeros(len(codes))
        spread = np.zeros((self.width, len(self.scored)), np.float32)
        for c, (b, w) in enumerate(zip(bins, written, strict=True)):
            for d, digit in enumerate(w.digits):
                entries = begins[first[c] + d] + digit
                codes[starts[c] : starts[c] + b.size, d] = entries
                np.add.at(rates, entries, b.rates)
            if b.field.score is not None:
                modes = slice(starts[c] + b.plain, starts[c] + b.size)
                low[modes], gap[modes] = b.places[:-1], np.diff(b.places)
                spread[codes[modes, 0], self.scored.index(c)] = 1
        self.rates = torch.from_numpy(rates)
        """Rate of each entry of a digit, from the profile: float64 (width,)."""
        groups = [b.field.group for b in bins]
        # The entry that says that a column is there; one that is always 1 for most.
        there = np.array([self.width if g is None else begins[first[g]] + 1 for g in groups])
        self.grouped = any(g is not None for g in groups)
        of_entries = np.array([*np.repeat(owner, self.digits), *self.scored], np.int64)
        self.owner = _buffer(of_entries)
        self.sizes = _buffer(np.array([b.size for b in bins]))
        self._starts = _buffer(starts)
        self._codes = _buffer(codes)
        self._never = _buffer(np.where(rates > 0, 0.0, NEVER).astype(np.float32))
        self._leads = _buffer(begins)
        self._low, self._gap, self._spread = _buffer(low), _buffer(gap), _buffer(spread)
        self._there = _buffer(there[of_entries])
        self._in_group = _buffer(np.array([g is not None for g in groups]))
        self._group = _buffer(np.array([g or 0 for g in groups]))
        self._first = _buffer(first)
        second = [
            f + 1 if len(w.digits) > 1 else len(self.digits) for f, w in zip(first, written, strict=True)
        ]
        self._second = _buffer(np.array(second))
        self._base = _buffer(np.array([w.values.shape[1] for w in written]))
        self._values = _buffer(np.concatenate([w.values.ravel() for w in written]))
        self._begins = _buffer(np.cumsum([0, *(w.values.size for w in written)])[:-1])

    def places(self, values: Tensor, scores: Tensor) -> Tensor:
        """The place of each score in its mode: float32 (n, D), 0 where the column has none.

        Args:
            values: int64 (n, C).
            scores: float32 (n, D).
        """
        low, gap = self._modes(values)
        place = 2 * (torch.special.ndtr(scores.double()) - low) / gap.clamp_min(1e-12) - 1
        return torch.where(gap > 0, place.clamp(-1, 1), 0.0).float()

    def scores(self, values: Tensor, places: Tensor) -> Tensor:
        """The inverse of `places`: float32 (n, D)."""
        low, gap = self._modes(values)
        u = (low + (places.double() + 1) / 2 * gap).clamp(_EDGE, 1 - _EDGE)
        return torch.where(gap > 0, torch.special.ndtri(u), 0.0).float()

    def write(self, values: Tensor, places: Tensor) -> Tensor:
        """Rows as vectors: (n, C) and (n, D) → float32 (n, length); of an unknown value all entries are 0."""
        hot = torch.zeros(len(values), self.width + 1, device=values.device)
        hot.scatter_(1, self._codes[values + self._starts].flatten(1), 1.0)
        return torch.cat([hot[:, : self.width], places], 1)

    def entries(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The entries of the cells of a mask, bool (n, C), for an `EmbeddingBag`: indices, and where each row begins.

        The index `width` stands for no entry.
        """
        counts = 2 * mask.sum(1)
        return self._codes[(values + self._starts)[mask]].flatten(), counts.cumsum(0) - counts

    def free(self, raw: Tensor, written: Tensor, mask: Tensor) -> Tensor:
        """How likely each digit is drawn freely: its cell not shown, its column not absent: float32 (n, digits).

        Arguments are those of `relaxed`.
        """
        soft = self._softmax(raw[:, : self.width] + self._never)
        soft = torch.where(mask[:, self.owner[: self.width]], written[:, : self.width], soft)
        gate = torch.cat([soft, soft.new_ones(len(soft), 1)], 1)[:, self._there]
        return ((~mask).float()[:, self.owner] * gate)[:, self._leads]

    def without_absent(self, values: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as real ones are: unknown where the group of a column is missing, and no place outside a mode."""
        if self.grouped:
            gone = values[:, self._group] == 0
            values = torch.where(self._in_group & gone, self.sizes, values)
        return values, torch.where(self._modes(values)[1] > 0, places, 0.0)

    def relaxed(self, raw: Tensor, noise: Tensor, written: Tensor, mask: Tensor) -> Tensor:
        """Rows that have what is shown of others, and draws through which gradients pass (Gumbel-softmax) elsewhere.

        Args:
            raw: what the network gives, (n, length).
            noise: standard Gumbel, (n, width).
            written: the others, (n, length).
            mask: which of their cells are shown, bool (n, C).

        Returns:
            float32 (n, length).
        """
        shown = mask[:, self.owner]
        soft = self._softmax((raw[:, : self.width] + self._never + noise) / TEMPERATURE)
        # Before anything follows from it: a group that is shown says whether its columns are there.
        soft = torch.where(shown[:, : self.width], written[:, : self.width], soft)
        out = torch.cat([soft, raw[:, self.width :].tanh() * (soft @ self._spread)], 1)
        if self.grouped:
            out = out * torch.cat([soft, soft.new_ones(len(soft), 1)], 1)[:, self._there]
        return torch.where(shown, written, out)

    def drawn(self, raw: Tensor, noise: Tensor, *, present: bool = False) -> tuple[Tensor, Tensor]:
        """Draws: values (n, C) and places (n, D); as `present`, no value is missing that can be there."""
        logits = raw[:, : self.width] + self._never + noise
        if present:
            # Value 0 is alone under its first digit; a column of one value cannot be anything else.
            logits[:, self._leads[self._first[self.sizes > 1]]] = -math.inf
        digits = [own.argmax(1) for own in torch.split(logits, list(self.digits), 1)]
        chosen = torch.stack([*digits, torch.zeros_like(digits[0])], 1)
        at = chosen[:, self._first] * self._base + chosen[:, self._second]
        return self._values[self._begins + at], raw[:, self.width :].tanh()

    def _softmax(self, logits: Tensor) -> Tensor:
        """Of each digit: (n, width) → (n, width)."""
        return torch.cat([own.softmax(1) for own in torch.split(logits, list(self.digits), 1)], 1)

    def _modes(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Lower end and width of each score's mode, as shares of the column: float64 (n, D); width 0 for none."""
        at = (values + self._starts)[:, self.scored]
        return self._low[at], self._gap[at]


class _Written:
    """How a column is written.

    Attributes:
        digits: one or two arrays, int64 (size,): the digits of each value.
        values: int64: the value of each pair of digits. Pairs that stand for none repeat others of their first digit.
    """

    def __init__(self, digits: Sequence[NDArray[np.int64]], values: NDArray[np.int64]) -> None:
        self.digits, self.values = digits, values

    @classmethod
    def of(cls, bins: Bins) -> "_Written":
        """One digit, or two for many values: the missing value has the first for itself, frequent ones share one."""
        if bins.size <= WIDEST or bins.field.score is not None:
            return cls([np.arange(bins.size)], np.arange(bins.size)[:, None])
        base = math.ceil(math.sqrt(bins.size))
        rank = np.zeros(bins.size, np.int64)
        rank[1 + np.argsort(-bins.rates[1:], kind="stable")] = base + np.arange(bins.size - 1)
        first, second = np.divmod(rank, base)
        values = np.empty((int(first.max()) + 1, base), np.int64)
        for digit in range(len(values)):
            own = np.flatnonzero(first == digit)
            values[digit] = np.resize(own[np.argsort(second[own])], base)
        return cls([first, second], values)


def _buffer(array: NDArray[np.generic]) -> Tensor:
    return nn.Buffer(torch.from_numpy(np.ascontiguousarray(array)), persistent=False)
