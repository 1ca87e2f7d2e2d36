"""PrivateCurator: the questions of a curator, answered under differential privacy.

Guarantee: all answers together are ρ-zCDP but for a probability delta, for neighbours that differ by one privacy unit
added or removed, where at most `unit_rows` rows of a unit are kept. `spent` says what they cost so far. It rests on:

- every row's split, which rows of a unit are kept, and the luck that a code may use, being drawn by a key that nobody
  outside knows, for each unit by itself. Where rows are units, a row more shifts the numbers of those after it; their
  draws are alike and independent, so each key has a partner under which the others' are what they were, and the
  bound that holds for such a pair of keys holds for answers, since nobody knows the key;
- statistics and marginals being public functions of one row at a time, and codes of one row and its luck (the contract
  suite checks it);
- noise being drawn for whole numbers. A sum of floats is rounded to a grid first: what rounding and summation may
  add to a unit's influence is part of the sensitivity, but a statistic that itself computes in float32 may differ
  between neighbours by more than float64 summation does; the certificate says so.

It would be void if the key, or the answers' noise, were known, or if somebody looked at rows and chose questions by
what was seen.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from privacy.accounting import Loss, multiplier_for
from privacy.curator import (
    Answer,
    Batch,
    Contribution,
    Counted,
    Descended,
    Descent,
    ExactCurator,
    Floats,
    Follower,
    Luck,
    Marginal,
    Misfit,
    Question,
    Reader,
    Rows,
    Shared,
    Split,
    Statistic,
    Store,
    Strata,
    draw,
    joined,
    scrambled,
)
from privacy.errors import BudgetRefused, ReleaseError, UsageError
from privacy.mechanisms import LARGEST, Noise, SystemNoise

if TYPE_CHECKING:
    from privacy.dpsgd import Players

T = TypeVar("T")

MOST_SUMMED = 2**22
"""Rows of a sum of floats, whose summation error the sensitivity provides for."""

CHECKPOINTS = 10
"""Parts of a descent; a crash loses the steps of the one that it falls into."""

_GRID = 2.0**-20
"""Step of the grid that sums of floats are rounded to, in units of the statistic's bound over √d."""

_ASKS_ELSE = (
    "a resumed run must ask what it asked before, however: it asks something else; remove the run's folder and release "
    "anew, at a new charge"
)


@dataclass(frozen=True, kw_only=True)
class Charge:
    """What one answer cost.

    Attributes:
        question: the kind of question, and about how much.
        rho: zero-concentrated cost; of gradients the part of the account's budget that they were given for.
        delta: probability outside of it.
        noise_std: of each entry of the answer; for a choice the scale of the noise on its scores.
        sensitivity: how far one unit moves the answer: L2, for a choice L∞.
        digest: of the question itself, under the run's key, so that no answer is taken for that to another. It is never
            published: a marginal of learned values is held by codes that follow from the order of rows.
        steps: of gradients; 0 for all other questions.
        rate: probability with which a unit was drawn for each step.
        mechanism: that draws the answer.
        grid: step to which a sum was rounded, in its own units; noise and sensitivity are told in steps of it.
    """

    question: str
    rho: float
    noise_std: float
    sensitivity: float
    delta: float = 0.0
    digest: str = ""
    steps: int = 0
    rate: float = 1.0
    mechanism: str = "discrete Gaussian"
    grid: float = 1.0

    def published(self) -> dict[str, Any]:
        """What a certificate says of it: all but the digest, in the answer's own units.

        The cost of gradients is that of their steps, rate and noise, and no ρ.
        """
        told = {name: value for name, value in asdict(self).items() if name != "digest"}
        return {
            **told,
            "rho": None if self.steps else self.rho,
            "noise_std": self.noise_std * self.grid,
            "sensitivity": self.sensitivity * self.grid,
            "norm": "L∞" if self.mechanism == EXPONENTIAL else "L2",
        }


EXPONENTIAL = "exponential, by Gumbel noise"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a release promises, and how its budget was planned: what the noise on gradients is calibrated to.

    Attributes:
        epsilon: of all that the release spends.
        delta: of all that the release spends.
        others: what other accounts of the release may spend.
        rho: what the account was planned to have; what others left comes on top, but not to gradients.
    """

    epsilon: float
    delta: float
    others: Loss
    rho: float

    def multiplier(self, descent: Descent, share: float) -> float:
        """The smallest noise multiplier for gradients that have a share of the account.

        It follows from public facts alone, so a ledger can reserve its curve before a row is read.
        """
        return multiplier_for(
            self.epsilon, self.delta, others=self._rest(share), rate=descent.rate, steps=descent.steps
        )

    def worst(self, descent: Descent, share: float) -> Loss:
        """What the release costs at most, at every order."""
        gradients = Loss.sampled_gaussian(
            multiplier=self.multiplier(descent, share), rate=descent.rate, steps=descent.steps
        )
        return self._rest(share) + gradients

    def _rest(self, share: float) -> Loss:
        return self.others + Loss.zcdp((1 - share) * self.rho)


class Journal:
    """Charges and answers in the order in which they were made; what a run that is resumed replays.

    A charge is on the disk before its noise is drawn, the answer before anybody sees it.

    Args:
        folder: where they are kept; None keeps them in memory.
        witness: is told the number of each new charge, from 1, when it is on the disk and nothing is drawn yet. What it
            raises keeps the answer from being drawn; where it refuses, the charge is taken back.
    """

    def __init__(self, folder: Path | None = None, *, witness: Callable[[int], None] | None = None) -> None:
        self._folder, self._witness = folder, witness
        self._charges: list[Charge] = []
        self._answers: list[list[NDArray[Any]] | None] = []
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._load(folder)

    def __len__(self) -> int:
        return len(self._charges)

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All so far, those whose draw was lost included."""
        return tuple(self._charges)

    def answer(self, place: int) -> list[NDArray[Any]] | None:
        """The answer at a place; None where the run ended before it was kept."""
        return self._answers[place]

    def charge(self, charge: Charge) -> None:
        """Keeps a charge, before anything is drawn."""
        if self._folder is not None:
            text = json.dumps(asdict(charge), sort_keys=True).encode()
            _write(self._folder / f"{len(self):06d}.json", lambda handle: handle.write(text))
        self._charges.append(charge)
        self._answers.append(None)
        if self._witness is None:
            return
        try:
            self._witness(len(self))
        except BudgetRefused:
            # Nothing was drawn: a folder that was refused must not look whole the next time.
            self._charges.pop()
            self._answers.pop()
            if self._folder is not None:
                (self._folder / f"{len(self):06d}.json").unlink()
            raise

    def keep(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Keeps the answer to the last charge."""
        self._put(len(self) - 1, list(arrays))

    def clear(self, place: int) -> None:
        """Empties the checkpoints of a descent before a place, which a later one has replaced; they stay answered."""
        while place > 0 and self._charges[place - 1].steps:
            place -= 1
            if self._answers[place]:
                self._put(place, [])

    def _put(self, place: int, arrays: list[NDArray[Any]]) -> None:
        if self._folder is not None:
            named = {f"{i:06d}": a for i, a in enumerate(arrays)}
            _write(
                self._folder / f"{place:06d}.npz",
                lambda handle: np.savez(handle, **named),  # type: ignore[arg-type]
            )
        self._answers[place] = arrays

    def _load(self, folder: Path) -> None:
        try:
            for place, file in enumerate(sorted(folder.glob("??????.json"))):
                if int(file.stem) != place:
                    raise ValueError("a charge is missing")
                self._charges.append(Charge(**json.loads(file.read_text("utf-8"))))
                kept = file.with_suffix(".npz")
                self._answers.append(None)
                if kept.exists():
                    with np.load(kept, allow_pickle=False) as arrays:
                        self._answers[place] = [arrays[name] for name in sorted(arrays.files)]
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as e:
            raise ReleaseError(
                f"a journal of answers must be whole, however: {folder}: {type(e).__name__}; what it held stays "
                "charged; remove the run's folder and release anew, at a new charge"
            ) from None


def _write(path: Path, fill: Callable[..., object]) -> None:
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as handle:
        fill(handle)
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Account:
    """A budget, what was taken from it, and the answers that were given for that.

    A draw that was lost when a run ended stays charged, so all that follows has less; a run that is resumed finds
    it in the journal, and comes to the same figures.

    Args:
        rho: the budget, in zero-concentrated differential privacy.
        delta: probability that all selections of values together may fail with, on top.
        journal: what was answered before; a question that stands there is answered by it, at no new charge.
        closed: whether nothing new is answered, since what was spent is settled.
        target: what noise on gradients is calibrated to; without one, there are none.
    """

    def __init__(
        self,
        *,
        rho: float,
        delta: float = 0.0,
        journal: Journal | None = None,
        closed: bool = False,
        target: Target | None = None,
    ) -> None:
        if not (math.isfinite(rho) and rho > 0):
            raise ValueError(f"rho must be finite and > 0, however: rho={rho}")
        if not 0 <= delta < 1:
            raise ValueError(f"delta must be in [0, 1), however: delta={delta}")
        self.rho, self.delta, self._target = rho, delta, target
        self._journal = Journal() if journal is None else journal
        self._closed = closed
        self._descended = False
        self._place = 0
        self._used = 0.0
        self._left = 1.0

    @property
    def charges(self) -> tuple[Charge, ...]:
        """All charges so far, in their order."""
        return self._journal.charges

    @property
    def spent(self) -> Loss:
        """What all charges cost so far."""
        return total_of(self.charges)

    def rho_of(self, share: float) -> float:
        """What a question may cost that has this share of the budget.

        Raises:
            ValueError: it has none.
        """
        if not 0 < share <= 1:
            raise ValueError(f"a private question must say its share of the budget, however: share={share}")
        self._pass_lost()
        if self._left <= 0:
            raise BudgetRefused(
                "a question needs some budget, however: a draw that was lost took all of it; remove the run's folder "
                "and release anew, at a new charge"
            )
        return share * self.rho * self._left

    def multiplier(self, descent: Descent, share: float) -> float:
        """Noise on a step's sum of gradients, where one unit moves it by 1.

        Raises:
            UsageError: there is no target that the whole release must meet.
        """
        if self._target is None:
            raise UsageError(
                "gradients need an account whose release has a target that others left something of, however: this one "
                "has none; give it a `Target`, or release anew where a run that crashed has spent it"
            )
        return self._target.multiplier(descent, share)

    def parts(self, descent: Descent, share: float, *, digest: str) -> list[Charge]:
        """What a descent costs, by the parts that are charged one by one, each before it begins.

        Args:
            descent: steps and rate.
            share: part of the budget.
            digest: of the public question.

        Raises:
            UsageError: there is no target.
            BudgetRefused: the noise was calibrated for one descent, and another one was asked for before.
        """
        multiplier, rho = self.multiplier(descent, share), self.rho_of(share)
        if self._descended:
            raise BudgetRefused(
                "gradients may be taken once for what was reserved, however: they were asked for before; ask for all "
                "steps at once"
            )
        self._afford(f"a descent of {descent.steps} steps", rho)
        self._descended = True
        parts = min(CHECKPOINTS, descent.steps)
        ends = [descent.steps * i // parts for i in range(parts + 1)]
        return [
            Charge(
                question=f"gradients, part {i + 1} of {parts}",
                rho=rho * (end - start) / descent.steps,
                noise_std=multiplier,
                sensitivity=1.0,
                digest=digest,
                steps=end - start,
                rate=descent.rate,
                mechanism="Gaussian, on units drawn by Poisson",
            )
            for i, (start, end) in enumerate(pairwise(ends))
        ]

    def replayed(self, parts: Sequence[Charge]) -> tuple[int, list[NDArray[Any]]]:
        """How many parts of a descent were begun before, and the checkpoint of the last that was finished.

        Parts that a crash interrupted stay charged, and are not made again: then there are fewer steps.

        Raises:
            BudgetRefused: all were begun, and none was finished.
            ReleaseError: the journal holds the answer to another question.
        """
        kept: list[NDArray[Any]] = []
        begun = len(self._journal) - self._place
        for part in parts[:begun]:
            if self.charges[self._place] != part:
                raise ReleaseError(_ASKS_ELSE)
            kept = self._journal.answer(self._place) or kept
            self._take(part)
        if begun >= len(parts) and not kept:
            raise BudgetRefused(
                "of a descent something must be left, however: each part of it was begun, and lost; remove the run's "
                "folder and release anew, at a new charge"
            )
        return min(begun, len(parts)), kept

    def begin(self, charge: Charge) -> None:
        """Charges a part of a descent, before its first step.

        Raises:
            BudgetRefused: the budget does not allow it.
            ReleaseError: what was spent is settled.
        """
        self._check(charge)
        self._journal.charge(charge)
        self._take(charge)

    def keep(self, checkpoint: list[NDArray[Any]]) -> None:
        """Keeps what the part of a descent that was begun last came to; it takes the place of former ones."""
        self._journal.keep(checkpoint)
        self._journal.clear(self._place - 1)

    def answered(
        self, charge: Charge, count: Callable[[], T], draw: Callable[[T], list[Floats]]
    ) -> list[Floats]:
        """The answer that stands in the journal, or a new one at a new charge.

        Args:
            charge: what it costs.
            count: looks at the rows; it takes long, and nothing is charged before it is done.
            draw: adds the noise to that.

        Raises:
            BudgetRefused: the budget does not allow it.
            ReleaseError: the journal holds the answer to another question.
        """
        self._pass_lost()
        if self._place < len(self._journal):
            kept = self._journal.answer(self._place)
            if kept is None or self.charges[self._place] != charge:
                raise ReleaseError(_ASKS_ELSE)
            self._take(charge)
            return kept
        self._check(charge)
        counted = count()
        self._journal.charge(charge)
        self._take(charge)
        found = draw(counted)
        self._journal.keep(found)
        return found

    def _check(self, charge: Charge) -> None:
        """Refuses a new charge that the account does not allow."""
        if self._closed:
            raise ReleaseError(
                "a run that is settled must answer from its journal, however: an answer is not there; remove the run's "
                "folder and release anew, at a new charge"
            )
        self._afford(charge.question, charge.rho, charge.delta)

    def _afford(self, question: str, rho: float, delta: float = 0.0) -> None:
        spent = sum(c.delta for c in self.charges)
        if self._used + rho > self.rho * (1 + 1e-9) or spent + delta > self.delta * (1 + 1e-9):
            raise BudgetRefused(
                f"questions must stay within their budget, however: of rho {self.rho:.4g} and delta "
                f"{self.delta:.4g} there are {self._used:.4g} and {spent:.4g} spent, and "
                f"{question} asks for {rho:.4g} and {delta:.4g}"
            )

    def _take(self, charge: Charge) -> None:
        self._place += 1
        self._used += charge.rho

    def _pass_lost(self) -> None:
        while self._place < len(self._journal) and self._journal.answer(self._place) is None:
            if self.charges[self._place].steps:
                # A lost part of a descent is not made again, so it takes nothing from what follows; see `replayed`.
                return
            before = self.rho - self._used
            self._take(self.charges[self._place])
            self._left *= max(0.0, self.rho - self._used) / before if before > 0 else 0.0


def total_of(charges: Sequence[Charge]) -> Loss:
    """What charges cost together."""
    plain = [c for c in charges if c.steps == 0]
    total = Loss.zcdp(sum(c.rho for c in plain), sum(c.delta for c in plain))
    steps: dict[tuple[float, float], int] = {}
    for charge in charges:
        if charge.steps:
            alike = charge.noise_std / charge.sensitivity, charge.rate
            steps[alike] = steps.get(alike, 0) + charge.steps
    for (multiplier, rate), number in steps.items():
        total += Loss.sampled_gaussian(multiplier=multiplier, rate=rate, steps=number)
    return total


class PrivateCurator:
    """Answers with noise. Each question says the `share` of the budget that it may use; all shares make 1 at most.

    Args:
        rows: the private rows.
        account: what the answers are charged to.
        key: 16 bytes or more that nobody outside knows; the same key draws the same splits.
        unit_rows: rows of a unit that are kept at most.
        holdout: share of the units that are held out; ignored for rows whose source says it itself.
        keep: share of the units that are looked at at all.
        noise: where randomness comes from.
        units_about: about how many units are not held out, a public figure; gradients need one.
    """

    def __init__(
        self,
        rows: Rows,
        account: Account,
        *,
        key: bytes,
        unit_rows: int = 1,
        holdout: float = 0.0,
        keep: float = 1.0,
        noise: Noise | None = None,
        units_about: float | None = None,
    ) -> None:
        if unit_rows < 1:
            raise ValueError(f"unit_rows must be at least 1, however: unit_rows={unit_rows}")
        self._account = account
        self._unit_rows = 1 if rows.unit_is_row else unit_rows
        self._key, self._holdout = key, holdout
        self._noise = SystemNoise() if noise is None else noise
        bounded = rows if rows.unit_is_row else _Bounded(rows, unit_rows, key)
        self._exact = ExactCurator(bounded, key=key, holdout=holdout, keep=keep)
        self._units_about = units_about

    def about(self, split: Split = "train") -> float:
        """About how many units the split has, as somebody declared it.

        Raises:
            UsageError: nobody did, or of another split.
        """
        if self._units_about is None or split != "train":
            raise UsageError(
                f"gradients need the number of units, about, as a public figure, however: that of {split!r} is not "
                "known; set `units_about` in the schema"
            )
        return self._units_about

    def total(self, *, of: Literal["units", "rows"], split: Split = "train", share: float = 0.0) -> Answer:
        """How many units or rows the split has, with discrete Gaussian noise."""
        unit = 1.0 if of == "units" else float(self._unit_rows)

        def counted() -> list[Floats]:
            return [np.atleast_1d(self._exact.total(of=of, split=split).value)]

        values, std = self._noised(
            f"total of {of}", counted, sensitivity=unit, share=share, about=[of, split]
        )
        return Answer(value=values[0].reshape(()), noise_std=std)

    def values(
        self, columns: Sequence[str], *, at_least: int, split: Split = "train", share: float = 0.0
    ) -> tuple[Shared, ...]:
        """Values whose noised count exceeds a threshold that a value of one unit alone passes with probability delta.

        A unit brings at most `unit_rows` values, none of them with more rows; the threshold lies so far above
        that all columns together fail with probability `delta` of the curator (noisy threshold: Korolova et al.
        2009; Desfontaines, Voss & Gipson 2022, arXiv 2006.03684). The tail of discrete Gaussian noise from m on is
        no heavier than the continuous one's from m − 1 on (Canonne et al. 2020, fact 19). `others` is not known.
        """
        delta = self._account.delta
        if delta <= 0:
            raise UsageError(
                f"values may only be learned where some of delta is left for it, however: none is for "
                f'{", ".join(columns)}; declare the categories in the schema, with `facts: "declared: ..."`'
            )
        k, each = self._unit_rows, delta / max(1, len(columns))
        scale = self._scale_of(k * math.sqrt(len(columns)), share)
        threshold = max(at_least, k + 1 + math.ceil(scale * -float(ndtri(each / k))))
        found: list[NDArray[np.int64]] = []

        def counted() -> list[Floats]:
            shared = self._exact.values(columns, at_least=1, split=split)
            found.extend(s.keys for s in shared)
            return [s.counts for s in shared]

        def passing(noised: list[Floats]) -> list[Floats]:
            kept = [n >= threshold for n in noised]
            # Keys leave as two halves, so that a float holds each exactly.
            return [
                np.stack([keys[k] >> 32, keys[k] & 0xFFFFFFFF, n[k]]).astype(np.float64)
                for keys, n, k in zip(found, noised, kept, strict=True)
            ]

        answers, std = self._noised(
            f"values of {len(columns)} columns",
            counted,
            sensitivity=k * math.sqrt(len(columns)),
            share=share,
            about=[*columns, at_least, split],
            delta=delta,
            then=passing,
            mechanism="discrete Gaussian, and a threshold",
        )
        return tuple(
            Shared(
                keys=(a[0].astype(np.int64) << 32) | a[1].astype(np.int64),
                counts=a[2],
                others=math.nan,
                noise_std=std,
            )
            for a in answers
        )

    def histogram(
        self, cells: Sequence[Marginal], *, of: Counted = "rows", split: Split = "train", share: float = 0.0
    ) -> tuple[Answer, ...]:
        """Counts with discrete Gaussian noise; a unit moves m marginals of rows by unit_rows·√m, of units by √m."""

        def counted() -> list[Floats]:
            return [a.value for a in self._exact.histogram(cells, of=of, split=split)]

        values, std = self._noised(
            f"{len(cells)} marginals of {of}, {sum(math.prod(c.shape) for c in cells)} cells",
            counted,
            sensitivity=self._unit_moves(of) * math.sqrt(len(cells)),
            share=share,
            about=[*map(_about, cells), of, split],
        )
        return tuple(
            Answer(value=v.reshape(c.shape), noise_std=std) for v, c in zip(values, cells, strict=True)
        )

    def sum(
        self,
        statistic: Statistic,
        *,
        split: Split = "train",
        rows_hint: int | None = None,
        share: float = 0.0,
    ) -> Answer:
        """Σ f(row) over all rows of the split, each clipped to `bound`, on a grid; a unit adds `unit_rows` of them.

        Not to `bound` over the rows of a unit: rows that are as long as the bound would all be shortened, and what is
        divided by their number be too small. The noise is the same part of either.
        """
        grid = _grid_of(statistic)

        def counted() -> list[Floats]:
            total, rows = np.zeros(statistic.size), 0
            for batch in self._exact.rows(split):
                total += clipped(statistic.of(batch), statistic.bound)
                rows += len(batch)
            if rows > MOST_SUMMED:
                raise ValueError("a private sum may cover 2^22 rows, however: there are more; lower fit_rows")
            return [np.rint(total / grid)]

        values, std = self._noised(
            f"sum of {statistic.size} entries",
            counted,
            sensitivity=self._moves(statistic) / grid,
            share=share,
            about=[type(statistic).__name__, statistic.size, statistic.bound, split],
            grid=grid,
        )
        return Answer(value=values[0] * grid, noise_std=std * grid)

    def choose(self, candidates: Sequence[Misfit], *, split: Split = "train", share: float = 0.0) -> int:
        """A misfit among the largest, by the exponential mechanism; one unit moves each by weight · unit_rows."""
        sensitivity = self._unit_rows * max(c.weight for c in candidates)
        scale = self._scale_of(sensitivity, share)

        def scored() -> Floats:
            counts = self._exact.histogram([c.marginal for c in candidates], split=split)
            return np.array([c.of(a.value) for c, a in zip(candidates, counts, strict=True)])

        def chosen(scores: Floats) -> list[Floats]:
            return [np.array([self._noise.largest(scores, scale=scale)], np.float64)]

        charge = Charge(
            question=f"choice among {len(candidates)}",
            rho=self._account.rho_of(share),
            noise_std=scale,
            sensitivity=sensitivity,
            mechanism=EXPONENTIAL,
            digest=self._digest(
                [*map(_about, (c.marginal for c in candidates)), *(c.expected for c in candidates), split]
            ),
        )
        return int(self._account.answered(charge, scored, chosen)[0][0])

    def descend(
        self,
        reader: Reader,
        followers: Sequence[Follower] = (),
        *,
        steps: int,
        rate: float,
        strata: Strata | None = None,
        split: Split = "train",
        share: float = 0.0,
    ) -> Iterator[Descended]:
        """Steps by clipped gradients of units drawn by Poisson, with noise (`privacy.dpsgd`).

        A step shows neither its loss nor who was drawn. Steps are charged part by part, each part before it begins;
        at its end all that the players have come to is kept. A run that is resumed goes on from there, by the steps
        that are left; those of a part that a crash interrupted are lost, and stay charged.

        Raises:
            UsageError: rows are to be drawn by strata, the number of units is not known, the account has no
                target, or a layer's gradients cannot be clipped row by row.
            BudgetRefused: gradients were asked for before, or all of them were lost.
            ReleaseError: the journal holds the answer to another question, or the account is closed.
        """
        from privacy.dpsgd import Players, check

        if strata is not None:
            raise UsageError(
                "rows must be drawn alike, each by itself, however: strata draw some more often, whose privacy would "
                "be less; leave them out"
            )
        descent, units = Descent(steps=steps, rate=rate), self.about(split)
        like = next(iter(self._exact.source.batches(size=1)), Batch(unit=np.empty(0, np.uint64), columns={}))
        check(reader, like)
        players = Players(reader, followers)
        digest = self._digest([*players.shapes, steps, rate, split, *sorted(like.columns)])
        parts = self._account.parts(descent, share, digest=digest)
        return self._descended(players, parts, split, like, expected=rate * units)

    def _descended(
        self, players: "Players", parts: Sequence[Charge], split: Split, like: Batch, *, expected: float
    ) -> Iterator[Descended]:
        """The parts that are left of a descent."""
        from privacy.dpsgd import Drawn, steps_of

        begun, kept = self._account.replayed(parts)
        if kept:
            players.restore(kept[0])
        if begun == len(parts):
            return
        rows = list(self._exact.rows(split))
        drawn = Drawn(joined(rows) if rows else like.where(np.zeros(len(like), np.bool_)))
        luck = Luck.of(np.frombuffer(os.urandom(32), np.uint64).tolist())
        for part in parts[begun:]:
            self._account.begin(part)
            yield from steps_of(
                players,
                drawn,
                steps=part.steps,
                rate=part.rate,
                expected=expected,
                multiplier=part.noise_std / part.sensitivity,
                noise=self._noise,
                luck=luck,
            )
            self._account.keep([players.kept()])

    def price(self, question: Question, *, share: float = 0.0) -> float:
        """The standard deviation of the noise that an answer would carry, for this share."""
        if isinstance(question, Descent):
            return self._account.multiplier(question, share) / (question.rate * self.about())
        moves = float(self._unit_rows) if isinstance(question, Marginal) else self._moves(question)
        return self._scale_of(moves, share)

    def recode(
        self,
        code: Callable[[Batch], Mapping[str, NDArray[np.generic]]],
        store: Store,
        account: Account | None = None,
    ) -> "PrivateCurator":
        """The same rows behind another code, charged to another account; None keeps the same."""
        recoded = self._exact.recode(code, store)
        return PrivateCurator(
            recoded.source,
            self._account if account is None else account,
            key=self._key,
            unit_rows=self._unit_rows,
            holdout=self._holdout,
            noise=self._noise,
            units_about=self._units_about,
        )

    def _digest(self, about: Sequence[object]) -> str:
        """A digest of a question, which says nothing to who has not the key."""
        digest = hashlib.blake2b(key=self._key[:64], digest_size=8)
        for part in about:
            digest.update(part.tobytes() if isinstance(part, np.ndarray) else str(part).encode())
            digest.update(b"\0")
        return digest.hexdigest()

    def _unit_moves(self, of: Counted) -> float:
        return float(self._unit_rows) if of == "rows" else 1.0

    def _moves(self, statistic: Statistic) -> float:
        """How far one unit moves a statistic's rounded sum, L2, in the statistic's own units.

        Clipping bounds each of a unit's rows by `bound`; rounding moves each of d entries by half a step of the grid on
        either side; and summing n numbers in float64 errs by at most n·2⁻⁵³ of their absolute sum, on either side, of
        which n = 2²² rows of norm `bound` are provided for; more are refused.
        """
        rounding = _grid_of(statistic) * math.sqrt(statistic.size)
        return self._unit_rows * statistic.bound * (1 + 2.0**-8) + rounding

    def _scale_of(self, sensitivity: float, share: float) -> float:
        return sensitivity / math.sqrt(2 * self._account.rho_of(share))

    def _noised(
        self,
        question: str,
        counted: Callable[[], list[Floats]],
        *,
        sensitivity: float,
        share: float,
        about: Sequence[object],
        delta: float = 0.0,
        then: Callable[[list[Floats]], list[Floats]] | None = None,
        mechanism: str = Charge.mechanism,
        grid: float = 1.0,
    ) -> tuple[list[Floats], float]:
        """Charges, counts, adds noise to whole numbers, and keeps what comes of it."""
        scale = self._scale_of(sensitivity, share)

        def noised(exact: list[Floats]) -> list[Floats]:
            flat = np.concatenate([a.ravel() for a in exact]) if exact else np.empty(0)
            drawn = self._noise.gaussian(np.rint(flat).astype(np.int64), scale=scale).astype(np.float64)
            parts = np.split(drawn, np.cumsum([a.size for a in exact])[:-1])
            return parts if then is None else then(parts)

        def checked() -> list[Floats]:
            exact = counted()
            if not all(np.abs(a).max(initial=0.0) <= LARGEST for a in exact):
                raise ValueError("sums must stay below 2^52 steps of their grid, however: one does not")
            return exact

        charge = Charge(
            question=question,
            rho=self._account.rho_of(share),
            noise_std=scale,
            sensitivity=sensitivity,
            delta=delta,
            digest=self._digest(about),
            mechanism=mechanism,
            grid=grid,
        )
        return self._account.answered(charge, checked, noised), charge.noise_std


def _about(marginal: Marginal) -> str:
    """A marginal in words: what it reads, and its own public facts where it holds any."""
    edges = getattr(marginal, "edges", None) or getattr(marginal, "keys", None)
    held = b"" if edges is None else b"".join(np.ascontiguousarray(e).tobytes() for e in edges)
    return f"{marginal.columns} {marginal.shape} {hashlib.blake2b(held, digest_size=8).hexdigest()}"


def _grid_of(statistic: Statistic) -> float:
    return _GRID * statistic.bound / math.sqrt(statistic.size)


def clipped(part: Contribution, most: float) -> Floats:
    """Σ of the rows' vectors, each cut to a norm of at most `most`: float64 (d,)."""
    norms = part.norms()
    if (norms <= most).all():
        return part.weighted(None)
    # A row that is no number counts for nothing; 0 times it would still be no number.
    finite = np.isfinite(norms)
    weights = np.where(finite, most / np.maximum(np.where(finite, norms, most), most), 0.0)
    total = part.weighted(weights)
    if not np.isfinite(total).all():
        raise ValueError("a statistic must be finite for every row, however: it is not")
    return total


def _places(unit: NDArray[np.uint64], order: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The place of each row among those of its unit, as `order` has them, which puts equal units side by side."""
    every = np.arange(len(order))
    first = np.append(True, np.diff(unit[order]) != 0)[: len(order)]
    places = np.empty(len(order), np.uint64)
    places[order] = every - np.maximum.accumulate(np.where(first, every, 0))
    return places


class _Bounded:
    """Rows of which each unit has at most so many; which ones is drawn by a key, whatever they say."""

    def __init__(self, rows: Rows, most: int, key: bytes) -> None:
        self._rows = rows
        units = [b.unit for b in rows.batches(())]
        unit = np.concatenate(units) if units else np.empty(0, np.uint64)
        # By the place among the unit's own rows: whatever other units have, the same ones are kept.
        place = _places(unit, np.argsort(unit, kind="stable"))
        with np.errstate(over="ignore"):
            luck = draw(scrambled(unit, key, "unit") + place, key, "rows of a unit")
        self._kept = _places(unit, np.lexsort((luck, unit))) < most

    @property
    def unit_is_row(self) -> bool:
        return False

    def batches(self, columns: Sequence[str] | None = None, *, size: int | None = None) -> Iterator[Batch]:
        start = 0
        for batch in self._rows.batches(columns, size=size):
            yield batch.where(self._kept[start : start + len(batch)])
            start += len(batch)
