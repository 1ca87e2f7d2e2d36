"""Overheard: a private curator whose every answer an attacker hears, for audits.

What is promised holds for all answers together; a model is made of them without rows. So the attacker hears answers,
which tell more than the model does. He knows all rows but which of the canaries are there:

- of counts and sums he takes off what is to be expected, the other rows and half of each canary. What is left is
  compared with what each canary adds, and all coins are guessed at once (`Heard.attacks`);
- gradients are of units that are drawn anew for each step, among which one is lost. So each canary gets a parameter of
  its own that nothing else moves (a Dirac canary: Nasr et al. 2023, arXiv 2302.07956), with a slope that must be
  clipped. The steps, rate, noise and clipping are those of the descent. A layer more takes a part of each bound.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privacy.curator import (
    Answer,
    Batch,
    Descended,
    Floats,
    Follower,
    Luck,
    Marginal,
    Reader,
    Rows,
    Statistic,
    Store,
    count,
    joined,
    scrambled,
)
from privacy.private import Account, PrivateCurator, clipped

MARK = "\0canary"
"""Name of the column that says which canary a row is; as many as there are for none."""

SLOPE = 1e3
"""Of a canary's loss along its own parameter: much longer than any bound."""


PRIOR = 4.0
"""One over the variance of a coin."""

MOST_HELD = 100_000_000
"""Entries of all canaries' vectors that are held at once, in float32; of longer ones none is compared with another."""


BLOCK = 16
"""Canaries whose vectors are told at once."""


class Heard:
    """What an attacker has gathered about each canary.

    Args:
        canaries: how many there are.
    """

    def __init__(self, canaries: int) -> None:
        self._along = np.zeros(canaries)
        self._alike = np.zeros((canaries, canaries))
        self.gradients: Floats | None = None

    def add(self, along: Floats, alike: Floats) -> None:
        """Takes in an answer.

        Args:
            along: ⟨answer − expected, f(canary)⟩ / σ² of each: float64 (m,).
            alike: ⟨f(canary), f(other)⟩ / σ² of each two: float64 (m, m).
        """
        self._along += along
        self._alike += alike

    def attacks(self) -> dict[str, Floats]:
        """Scores of canaries by the ways to guess; the higher, the more likely one is there.

        The best linear guess of all coins at once, for the noise that was stated, and for hardly any: then
        canaries that are alike are told from each other, which shows noise that was left out.
        """
        every = np.eye(len(self._along))
        attacks: dict[str, Floats] = {
            name: np.asarray(np.linalg.solve(self._alike + PRIOR * noise * every, self._along), np.float64)
            for name, noise in (("answers", 1.0), ("answers, as if hardly noised", 1e-5))
            if self._along.any()
        }
        return attacks if self.gradients is None else {**attacks, "gradients": self.gradients}


class Marked:
    """Rows that say which canary they are.

    Args:
        rows: all of them; the last are canaries, those of one side by side.
        among: which of all rows are there.
        canaries: how many canaries there are, whether there or not.
        each: rows of a canary.
    """

    def __init__(self, rows: Rows, among: NDArray[np.bool_], *, canaries: int, each: int = 1) -> None:
        self._rows, self._among = rows, among
        place = np.arange(len(among)) - (len(among) - canaries * each)
        self._mark = np.where(place < 0, canaries, place // each)

    @property
    def unit_is_row(self) -> bool:
        """Whether each row is a unit of its own."""
        return self._rows.unit_is_row

    def batches(self, columns: Sequence[str] | None = None, *, size: int | None = None) -> Iterator[Batch]:
        """The rows that are there."""
        start = 0
        for batch in self.every(columns, size=size):
            yield batch.where(self._among[start : start + len(batch)])
            start += len(batch)

    def every(self, columns: Sequence[str] | None = None, *, size: int | None = None) -> Iterator[Batch]:
        """All rows."""
        start = 0
        for batch in self._rows.batches(columns, size=size):
            mark = self._mark[start : start + len(batch)]
            yield replace(batch, columns={**batch.columns, MARK: mark})
            start += len(batch)


class Overheard(PrivateCurator):
    """A private curator whose answers are heard.

    Args:
        rows: the rows that are there, with their marks.
        every: all rows, canaries that are not there among them.
        canaries: how many there are, each of rows that are all alike.
        heard: where it is written down.
        account: see `PrivateCurator`.
        key: see `PrivateCurator`.
        more: see `PrivateCurator`.
    """

    def __init__(
        self,
        rows: Rows,
        every: Sequence[Batch],
        canaries: int,
        heard: Heard,
        account: Account,
        *,
        key: bytes,
        **more: Any,
    ) -> None:
        super().__init__(rows, account, key=key, **more)
        self._every, self._canaries, self._heard, self._more = every, canaries, heard, more

    def histogram(self, cells: Sequence[Marginal], **asked: Any) -> tuple[Answer, ...]:
        """See `PrivateCurator.histogram`."""
        answers = super().histogram(cells, **asked)
        canaries, each = self._of_canaries()
        for marginal, answer in zip(cells, answers, strict=True):
            left = answer.value.ravel().copy()
            for weight, batch in self._expected():
                left -= weight * count(marginal, batch).ravel()
            cell = np.asarray(marginal.cell(canaries))
            found = np.where(cell >= 0, left[cell], 0.0)
            alike = (cell[:, None] == cell) & (cell >= 0)
            self._heard.add(each * found / answer.noise_std**2, each**2 * alike / answer.noise_std**2)
        return answers

    def sum(self, statistic: Statistic, **asked: Any) -> Answer:
        """See `PrivateCurator.sum`."""
        answer = super().sum(statistic, **asked)
        left = answer.value.copy()
        for weight, batch in self._expected():
            left -= weight * clipped(statistic.of(batch), statistic.bound)
        canaries, each = self._of_canaries()
        size = statistic.size if len(canaries) * statistic.size <= MOST_HELD else 0
        held = np.zeros((len(canaries), size), np.float32)
        along, squares = np.zeros(len(canaries)), np.zeros(len(canaries))
        for start in range(0, len(canaries), BLOCK):
            part = canaries.take(np.arange(start, min(start + BLOCK, len(canaries))))
            found = statistic.of(part)
            shares = np.minimum(1.0, statistic.bound / np.maximum(found.norms(), 1e-300))
            for i, share_of in enumerate(np.diag(shares)):
                own = found.weighted(share_of)
                along[start + i], squares[start + i] = left @ own, own @ own
                held[start + i] = own[:size]
        alike = (held @ held.T).astype(np.float64) if size else np.diag(squares)
        self._heard.add(each * along / answer.noise_std**2, each**2 * alike / answer.noise_std**2)
        return answer

    def descend(
        self, reader: Reader, followers: Sequence[Follower] = (), **asked: Any
    ) -> Iterator[Descended]:
        """See `PrivateCurator.descend`; the reader gets a layer more, by which canaries are known."""
        marked = _MarkedReader(reader, self._canaries)
        if self._heard.gradients is None:
            self._heard.gradients = np.zeros(self._canaries)
        heard = self._heard.gradients

        def hear(*_: object) -> None:
            found = marked.marks.weight.grad
            assert found is not None
            heard[:] += found[: self._canaries, 0].double().cpu().numpy()

        handle = marked.optimizer.register_step_pre_hook(hear)
        return _until_done(super().descend(marked, followers, **asked), handle.remove)

    def recode(
        self,
        code: Callable[[Batch], Mapping[str, NDArray[np.generic]]],
        store: Store,
        account: Account | None = None,
    ) -> "Overheard":
        """See `PrivateCurator.recode`."""

        def marked(batch: Batch) -> dict[str, NDArray[np.generic]]:
            return {**code(batch), MARK: batch.columns[MARK]}

        every = []
        for batch in self._every:
            # The attacker knows no key, so luck is another for him.
            veiled = replace(batch, unit=scrambled(batch.unit, b"an attacker's own key", "luck"))
            every.append(replace(batch, columns=marked(veiled)))
        return Overheard(
            self._exact.recode(marked, store).source,
            every,
            self._canaries,
            self._heard,
            self._account if account is None else account,
            key=self._key,
            **self._more,
        )

    def _expected(self) -> Iterator[tuple[float, Batch]]:
        """All rows, with how many of each are to be expected: canaries count half."""
        for batch in self._every:
            canary = _mark(batch) < self._canaries
            for weight, chosen in ((1.0, ~canary), (0.5, canary)):
                if chosen.any():
                    yield weight, batch.where(chosen)

    def _of_canaries(self) -> tuple[Batch, int]:
        """A row of each canary, and how many like it there are."""
        found = joined([b.where(_mark(b) < self._canaries) for b in self._every])
        first = np.unique(_mark(found), return_index=True)[1]
        return found.take(first.astype(np.int64)), len(found) // self._canaries


def _mark(batch: Batch) -> NDArray[np.int64]:
    return np.asarray(batch.columns[MARK], np.int64)


def _until_done(walk: Iterator[Descended], then: Callable[[], None]) -> Iterator[Descended]:
    try:
        yield from walk
    finally:
        then()


class _MarkedReader:
    """A reader with a parameter for each canary, along which its loss has a steep slope."""

    def __init__(self, reader: Reader, canaries: int) -> None:
        self._reader, self._canaries = reader, canaries
        # The last is for all other rows, whose slope is zero.
        self.marks = nn.Embedding(canaries + 1, 1)
        nn.init.zeros_(self.marks.weight)
        self.marks.to(next(reader.module.parameters()).device)
        self.module = nn.ModuleDict({"own": reader.module, "marks": self.marks})
        self.optimizer = reader.optimizer
        self.optimizer.add_param_group({"params": [self.marks.weight], "lr": 0.0})

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        """The reader's losses, to which a canary's own parameter adds."""
        own = self._reader.losses(batch, luck)
        mark = torch.from_numpy(_mark(batch)).to(own.device)
        slope = SLOPE * (mark < self._canaries).to(own.dtype)
        marked: Tensor = self.marks(mark)
        return own + slope * marked[:, 0]
