"""Audit: a lower bound on epsilon from one run, to find promises that are broken.

Canaries, rows that somebody made up, are put into the table or left out by fair coins. The mechanism runs once; an
attacker who sees what it published scores each canary, guesses the highest to be in and the lowest to be out, and
keeps silent about the others. Under (epsilon, delta)-differential privacy he can be right only so often (Steinke,
Nasr & Jagielski 2023, arXiv 2305.08846, theorem 5.2 and its code in appendix D). A bound above what is promised
shows that the promise is broken; one below it proves nothing.

That bound holds whatever the mechanism is, and is loose. If the mechanism trades errors as a Gaussian one does, more
can be said from the same guesses (Mahloujifar, Melis & Chaudhuri 2025, arXiv 2410.22235, algorithms 3 and 4): it is
stated beside the other, and no promise is called broken by it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from privacy.accounting import gaussian_epsilon
from privacy.curator import Floats

GUESSED = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the canaries that are guessed; the best counts, at a confidence that is divided among all."""

_LARGEST = 50.0

_MOST_APART = 8.0
"""Standard deviations between two normal densities at most; an epsilon of about 70."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What one audit found.

    Attributes:
        attack: what the guesses were made from.
        epsilon: lower bound, with the confidence.
        gaussian: the same for a mechanism that trades errors as some Gaussian one does.
        delta: at which.
        confidence: probability that a mechanism that keeps a smaller epsilon is not said to exceed it.
        canaries: that were put in or left out.
        guesses: that the best bound rests on.
        correct: of these.
    """

    epsilon: float
    gaussian: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int
    attack: str = ""

    def to_dict(self) -> dict[str, Any]:
        """For a certificate."""
        return {"kind": "lower bound, not proof", **asdict(self)}


def strongest(
    attacks: Mapping[str, Floats], included: NDArray[np.bool_], *, delta: float, confidence: float = 0.95
) -> Audit:
    """What the attack finds that finds most, at a confidence that is divided among all.

    Args:
        attacks: by name, scores of the canaries, float64 (m,).
        included: see `audit`.
        delta: see `audit`.
        confidence: that the bound holds, whichever attack it comes from.
    """
    each = 1 - (1 - confidence) / len(attacks)
    found = [
        replace(audit(scores, included, delta=delta, confidence=each), confidence=confidence, attack=name)
        for name, scores in attacks.items()
    ]
    best = max(found, key=lambda a: (a.epsilon, a.gaussian))
    return replace(best, gaussian=max(a.gaussian for a in found))


def audit(scores: Floats, included: NDArray[np.bool_], *, delta: float, confidence: float = 0.95) -> Audit:
    """The largest epsilon that the guesses contradict.

    Args:
        scores: of the canaries, float64 (m,): the higher, the more likely to have been in.
        included: which were, bool (m,), drawn by independent fair coins.
        delta: of the promise.
        confidence: of the bound, over all numbers of guesses that are tried.

    Raises:
        ValueError: there are no canaries, or shapes differ.
    """
    if scores.shape != included.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(
            f"each canary must have a score, however: {scores.shape} scores for {included.shape} canaries"
        )
    # Equal scores are in no order, so that none follows from the order of the canaries.
    order = np.lexsort((np.random.default_rng(0).permutation(len(scores)), scores))
    tried = sorted(
        {max(2, 2 * round(share * len(scores) / 2)) for share in GUESSED} & set(range(len(scores) + 1))
    )
    risk = (1 - confidence) / max(1, len(tried))
    epsilon = gaussian = 0.0
    best = (0, 0)
    for guesses in tried:
        half = guesses // 2
        correct = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
        found = _contradicted(len(scores), guesses, correct, delta, risk)
        if found > epsilon:
            epsilon, best = found, (guesses, correct)
        gaussian = max(gaussian, _contradicted_gaussian(len(scores), guesses, correct, delta, risk))
    return Audit(
        epsilon=epsilon,
        gaussian=gaussian,
        delta=delta,
        confidence=confidence,
        canaries=len(scores),
        guesses=best[0],
        correct=best[1],
    )


def _contradicted(canaries: int, guesses: int, correct: int, delta: float, risk: float) -> float:
    """The largest epsilon under which as many correct guesses are less likely than the risk."""
    low, high = 0.0, _LARGEST
    if likely(canaries, guesses, correct, 0.0, delta) >= risk:
        return 0.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        unlikely = likely(canaries, guesses, correct, middle, delta) < risk
        low, high = (middle, high) if unlikely else (low, middle)
    return low


def likely(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """A bound on the probability of at least so many correct guesses under (epsilon, delta).

    Each guess is right with probability at most e^ε / (1 + e^ε), independently, but for what delta adds.
    """
    right = 1 / (1 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    # max over i of P(correct − i ≤ Binomial < correct) / i
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    more = float((below / np.arange(1, len(below) + 1)).max(initial=0.0))
    return min(1.0, tail + 2 * canaries * delta * more)


def _contradicted_gaussian(canaries: int, guesses: int, correct: int, delta: float, risk: float) -> float:
    """The epsilon of the largest Gaussian trade-off that the guesses contradict."""
    low, high = 0.0, _MOST_APART
    if delta <= 0 or not _gaussian_rejected(canaries, guesses, correct, 1e-6, risk):
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        if _gaussian_rejected(canaries, guesses, correct, middle, risk):
            low = middle
        else:
            high = middle
    return gaussian_epsilon(low, delta)


def _gaussian_rejected(canaries: int, guesses: int, correct: int, apart: float, risk: float) -> bool:
    """Whether so many correct guesses are less likely than the risk, for normal densities that lie `apart`.

    If they were as likely, then fewer correct ones would need more probability than there is: from the given number
    down, the probability of a further wrong guess is at least what the trade-off gives (algorithms 3 and 4).
    """
    share = guesses / canaries
    right = risk * share * correct / guesses
    wrong = risk * share * (guesses - correct) / guesses
    for i in range(correct - 1, -1, -1):
        more = max(wrong, float(ndtr(ndtri(right) - apart)))
        right += i / (guesses - i) * (more - wrong)
        wrong = more
        if right + wrong > share:
            return True
    return False
