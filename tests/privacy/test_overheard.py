"""An attacker who hears a curator's answers finds noise that is missing, and hardly anything where it is right."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from privacy.accounting import rho_for
from privacy.audit import Audit, strongest
from privacy.curator import Batch, Cells, Floats, Held
from privacy.mechanisms import Noise, SystemNoise
from privacy.overheard import MARK, Heard, Marked, Overheard
from privacy.private import Account
from tests.privacy.arrays import KEY, ArrayRows, ListStore

DELTA = 1e-5
OTHERS, CANARIES = 400, 200


@dataclass(frozen=True)
class Share:
    """Noise of a share of what is charged for."""

    share: float

    def gaussian(self, values: NDArray[np.int64], *, scale: float) -> NDArray[np.int64]:
        return SystemNoise().gaussian(values, scale=self.share * scale) if self.share else values

    def largest(self, scores: Floats, *, scale: float) -> int:
        raise NotImplementedError


@dataclass(frozen=True)
class Places:
    """f(row) is √½ at each of its two places."""

    size: int = 80
    bound: float = 1.0

    def of(self, batch: Batch) -> Held:
        vectors = np.zeros((len(batch), self.size))
        every = np.arange(len(batch))
        vectors[every, np.asarray(batch.columns["a"], np.int64)] = 0.5**0.5
        vectors[every, 40 + np.asarray(batch.columns["b"], np.int64)] = 0.5**0.5
        return Held(vectors)


def audited(question: str, noise: Noise, *, epsilon: float = 1.0, seed: int = 0, each: int = 1) -> Audit:
    """Canaries that are more than places for them, so that most share some."""
    rng = np.random.default_rng(seed)
    unit = np.append(np.arange(OTHERS), OTHERS + np.repeat(np.arange(CANARIES), each))
    columns = {n: rng.integers(0, 40, OTHERS + CANARIES)[unit] for n in ("a", "b", "c", "d", "e", "f")}
    rows = ArrayRows(unit.astype(np.uint64), columns, unit_is_row=each == 1)
    included = rng.random(CANARIES) < 0.5
    among = np.append(np.ones(OTHERS, np.bool_), np.repeat(included, each))
    marked = Marked(rows, among, canaries=CANARIES, each=each)
    heard = Heard(CANARIES)
    account = Account(rho=rho_for(epsilon, DELTA))
    every = [*marked.every()]
    curator = Overheard(marked, every, CANARIES, heard, account, key=KEY, noise=noise, unit_rows=each)
    if question == "sum":
        curator.recode(lambda batch: batch.columns, ListStore(unit_is_row=True)).sum(Places(), share=1)
    else:
        edges = np.arange(41)
        pairs = [("a", "b"), ("c", "d"), ("e", "f"), ("a", "d"), ("b", "e"), ("c", "f")]
        curator.histogram([Cells(columns=pair, edges=(edges, edges)) for pair in pairs], share=1)
    return strongest(heard.attacks(), included, delta=DELTA)


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_counts_whose_noise_is_missing_or_too_little_are_found(share: float) -> None:
    found = audited("histogram", Share(share))
    assert found.epsilon > 1.0
    assert found.attack.startswith("answers")


def test_units_of_many_rows_that_have_the_noise_of_one_row_are_found() -> None:
    assert audited("histogram", SystemNoise(), each=20).epsilon <= 1.0
    assert audited("histogram", Share(1 / 20), each=20).epsilon > 1.0


def test_sums_whose_noise_is_missing_are_found_in_a_recoded_table() -> None:
    # 80 entries cannot tell 200 canaries from each other, but most of them.
    assert audited("sum", Share(0.0)).epsilon > 1.0


@pytest.mark.parametrize("question", ["histogram", "sum"])
def test_noise_as_it_was_charged_for_is_hardly_ever_said_to_be_too_little(question: str) -> None:
    found = [audited(question, SystemNoise(), seed=seed) for seed in range(20)]
    # Each may be wrong with probability 0.05; four of twenty would be a fault (p < 0.02).
    assert sum(a.epsilon > 1.0 for a in found) <= 3


def test_what_is_loud_is_heard_by_who_expects_the_stated_noise() -> None:
    found = audited("histogram", SystemNoise(), epsilon=30.0)
    assert 1.0 < found.epsilon < 30.0


def test_marks_go_with_rows_and_say_nothing_of_others() -> None:
    rows = ArrayRows(np.arange(6, dtype=np.uint64), {"a": np.arange(6)}, batch_rows=4)
    marked = Marked(rows, np.array([1, 1, 1, 0, 1, 1], np.bool_), canaries=3)
    there = [(b.columns["a"].tolist(), b.columns[MARK].tolist()) for b in marked.batches()]
    assert there == [([0, 1, 2], [3, 3, 3]), ([4, 5], [1, 2])]
    assert [b.columns[MARK].tolist() for b in marked.every(("a",))] == [[3, 3, 3, 0], [1, 2]]


def test_the_confidence_is_divided_among_attacks() -> None:
    rng = np.random.default_rng(0)
    included = rng.random(200) < 0.5
    right, blind = included + rng.normal(size=200) * 0.3, rng.normal(size=200)
    alone, among = (
        strongest(attacks, included, delta=DELTA)
        for attacks in ({"one": right}, {"one": right, "other": blind, "third": blind})
    )
    assert among.attack == "one"
    assert among.epsilon < alone.epsilon
    assert among.confidence == alone.confidence == 0.95
