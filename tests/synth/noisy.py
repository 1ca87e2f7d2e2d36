"""A curator with Gaussian noise, for tests of what is learned from noisy answers. It promises nothing."""

import math
from collections.abc import Sequence

import numpy as np

from privacy.curator import Answer, Counted, ExactCurator, Marginal, Question, Split


class Noisy:
    """Counts with noise whose size follows from a budget as under zero-concentrated differential privacy.

    Args:
        inner: the exact answers.
        rho: the budget of all questions together.
        seed: of the noise.
    """

    def __init__(self, inner: ExactCurator, *, rho: float, seed: int) -> None:
        self._inner, self._rho = inner, rho
        self._rng = np.random.default_rng(seed)
        self.spent = 0.0
        self.asked: list[int] = []

    def histogram(
        self, cells: Sequence[Marginal], *, of: Counted = "rows", split: Split = "train", share: float = 0.0
    ) -> tuple[Answer, ...]:
        """m marginals at once: σ = √(m / 2ρ) in each cell."""
        self.spent += share
        self.asked.append(len(cells))
        std = math.sqrt(len(cells) / (2 * share * self._rho))
        return tuple(
            Answer(value=a.value + np.rint(self._rng.normal(0, std, a.value.shape)), noise_std=std)
            for a in self._inner.histogram(cells, of=of, split=split)
        )

    def price(self, question: Question, *, share: float = 0.0) -> float:
        """The noise of one marginal."""
        return math.sqrt(1 / (2 * share * self._rho))
