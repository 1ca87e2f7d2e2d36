"""Audit: a lower bound on epsilon from one run, to find promises that are broken.

Canaries, rows that somebody made up, are put into the table or left out by fair coins. The mechanism runs once; an
attacker who sees what it published scores each canary, guesses the highest to be in and the lowest to be out, and
keeps silent about the others. Under (epsilon, delta)-differential privacy he can be right only so often (Steinke,
Nasr & Jagielski 2023, arXiv 2305.08846, theorem 5.2 and its code in appendix D). A bound above what is promised
shows that the promise is broken; one below it proves nothing.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from privacy.curator import Floats

GUESSED = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the canaries that are guessed; the best counts, at a confidence that is divided among all."""

_LARGEST = 50.0


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What one audit found.

    Attributes:
        epsilon: lower bound, with the confidence.
        delta: at which.
        confidence: probability that a mechanism that keeps a smaller epsilon is not said to exceed it.
        canaries: that were put in or left out.
        guesses: that the best bound rests on.
        correct: of these.
    """

    epsilon: float
    delta: float
    confidence: float
    canaries: int
    guesses: int
    correct: int

    def to_dict(self) -> dict[str, Any]:
        """For a certificate."""
        return {"kind": "lower bound, not proof", **asdict(self)}


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
    best = Audit(epsilon=0.0, delta=delta, confidence=confidence, canaries=len(scores), guesses=0, correct=0)
    for guesses in tried:
        half = guesses // 2
        correct = int(included[order[-half:]].sum() + (~included[order[:half]]).sum())
        epsilon = _contradicted(len(scores), guesses, correct, delta, risk)
        if epsilon > best.epsilon:
            best = Audit(
                epsilon=epsilon,
                delta=delta,
                confidence=confidence,
                canaries=len(scores),
                guesses=guesses,
                correct=correct,
            )
    return best


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
