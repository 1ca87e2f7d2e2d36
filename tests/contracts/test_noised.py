"""What every synthesizer promises that learns from noised answers, whatever it is made of.

A synthesizer that says `private` is tested here without a change of this file.
"""

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from privacy.curator import Answer, Batch, Marginal, Rows, Split, Statistic, count
from privacy.private import Account, Journal, PrivateCurator
from synth.codec import Codec
from synth.registry import (
    IMAGES,
    SYNTHESIZERS,
    Model,
    check_private,
    descent_of,
    shares_of,
    synthesizer,
)
from synth.rows import EncodedStore
from synth.table import fit_encoded
from tests.privacy.arrays import KEY
from tests.synth.test_private import OPTIONS as NETWORKS
from tests.synth.test_private import ROWS, TARGET, encoded

NAMES = [name for name in SYNTHESIZERS if synthesizer(name).private]

OPTIONS: dict[str, dict[str, Any]] = {**NETWORKS, "marginals": {"states": 16}, "circuit": {"states": 16}}
"""Networks and trees as small as the table here."""

pytestmark = pytest.mark.parametrize("name", NAMES)


class Watched:
    """A private curator that remembers what it was asked about."""

    def __init__(self, inner: PrivateCurator) -> None:
        self._inner = inner
        self.sums: list[Statistic] = []
        self.told: list[Answer] = []
        self.counted: list[Marginal] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def sum(
        self,
        statistic: Statistic,
        *,
        split: Split = "train",
        rows_hint: int | None = None,
        share: float = 0.0,
    ) -> Answer:
        self.sums.append(statistic)
        self.told.append(self._inner.sum(statistic, split=split, rows_hint=rows_hint, share=share))
        return self.told[-1]

    def histogram(self, cells: Any, **asked: Any) -> tuple[Answer, ...]:
        self.counted += cells
        return self._inner.histogram(cells, **asked)


@functools.cache
def fitted(name: str) -> tuple[Model, Codec, Account, Watched]:
    codec, curator, account = encoded()
    watched = Watched(curator)
    model = fit_encoded(watched, codec, name, OPTIONS.get(name, {}), seed=7, threads=1)
    return model, codec, account, watched


def test_it_is_let_pass_and_images_have_their_own(name: str) -> None:
    check_private(name)
    assert name not in IMAGES


def test_all_of_the_budget_is_spent_and_no_more(name: str) -> None:
    _, _, account, _ = fitted(name)
    assert account.charges
    spent = sum(c.rho for c in account.charges)
    if descent_of(name, OPTIONS.get(name, {}), float(ROWS)) is None:
        assert spent == pytest.approx(account.rho)
    assert spent <= account.rho * (1 + 1e-9)


def test_the_budget_is_divided_as_it_says(name: str) -> None:
    _, _, account, _ = fitted(name)
    said = shares_of(name)
    assert (not said) == (descent_of(name, OPTIONS.get(name, {}), float(ROWS)) is not None)
    if not said:
        pytest.skip("its steps are what it plans")
    assert sum(said.values()) == pytest.approx(1)
    counts = sum(c.rho for c in account.charges if "marginals" in c.question)
    assert counts / account.rho == pytest.approx(said["counts of pairs of columns"])


def test_a_dependency_is_learned_and_a_near_miss_is_told_apart(name: str) -> None:
    if not synthesizer(name).exact:
        pytest.skip("networks as small as these learn little of few rows")
    model, codec, _, _ = fitted(name)
    drawn = codec.decode(model.draw(6000, np.random.default_rng(0)))
    team, place = (np.array(drawn[n].to_pylist()) for n in ("team", "place"))
    height = drawn["height"].to_numpy()

    def kept(place: np.ndarray) -> bool:
        return bool((place[team == "b"] == "y").mean() > 0.8 and (place[team == "c"] == "z").mean() > 0.75)

    assert kept(place)
    assert not kept(np.random.default_rng(0).permutation(place))
    for number, (name_of, rate) in enumerate({"a": 0.5, "b": 0.3, "c": 0.2}.items()):
        # Noise is the system's: a rate came 0.031 off once in some hundred fits.
        assert abs((team == name_of).mean() - rate) < 0.05
        # Noise may have it that a few heights are missing.
        assert abs(np.nanmean(height[team == name_of]) - 10 * number) < 2.0


def test_a_model_is_restored_as_it_was_and_knows_conditions(name: str) -> None:
    model, codec, _, _ = fitted(name)
    again = synthesizer(name).restore(codec.layout, model.tensors())
    one, other = (m.draw(200, np.random.default_rng(1)) for m in (model, again))
    np.testing.assert_array_equal(one.states, other.states)
    np.testing.assert_array_equal(one.scores, other.scores)
    drawn = codec.decode(again.draw(100, np.random.default_rng(2), given=codec.condition({"team": "b"})))
    assert set(drawn["team"].to_pylist()) == {"b"}
    for tensor in model.tensors().values():
        assert bool(tensor.isfinite().all())


def rows(watched: Watched, codec: Codec) -> Batch:
    """The rows and others that hardly occur: every state with every other, scores far out."""
    first = next(iter(watched._inner._exact.rows("train"))).take(np.arange(400))
    rng = np.random.default_rng(0)
    made = np.stack([rng.integers(0, f.states, 400) for f in codec.layout.fields], 1)
    far = rng.choice([-30.0, -1.0, 0.0, 1.0, 30.0], (400, len(codec.layout.scored)))
    return Batch(
        unit=np.arange(800, dtype=np.uint64),
        columns={
            "states": np.concatenate([first.columns["states"], made]).astype(np.int32),
            "scores": np.concatenate([first.columns["scores"], far]).astype(np.float32),
        },
    )


def test_one_more_row_moves_a_sum_by_at_most_its_norm_and_what_is_kept_of_it_by_the_bound(name: str) -> None:
    _, codec, _, watched = fitted(name)
    batch = rows(watched, codec)
    if not watched.sums:
        pytest.skip("it asks for no sums of these rows")
    for statistic in watched.sums:
        contribution = statistic.of(batch)
        norms = contribution.norms()
        for row in range(0, 800, 40):
            one = np.arange(800) == row
            moved = float(np.linalg.norm(contribution.weighted(one.astype(np.float64))))
            assert moved <= norms[row] * (1 + 1e-5)
        # Clipping is for a few rows: what most add is not shortened.
        assert (norms[:400] <= statistic.bound * (1 + 1e-6)).mean() > 0.85


def test_one_row_lies_in_one_cell_of_each_marginal(name: str) -> None:
    _, codec, _, watched = fitted(name)
    batch = rows(watched, codec)
    for marginal in watched.counted:
        assert count(marginal, batch).sum() <= len(batch)
        assert marginal.cell(batch).max() < math.prod(marginal.shape)


def test_the_noise_of_a_sum_is_what_its_charge_and_its_bound_ask_for(name: str) -> None:
    _, _, account, watched = fitted(name)
    if not watched.sums:
        pytest.skip("it asks for no sums of these rows")
    charges = [c for c in account.charges if c.question.startswith("sum")]
    for charge, statistic, answer in zip(charges, watched.sums, watched.told, strict=True):
        least = statistic.bound / math.sqrt(2 * charge.rho)
        # What rounding and summation may add is provided for on top.
        assert least <= answer.noise_std < 1.01 * least


def refit(name: str, codec: Codec, rows: Rows, journal: Path) -> dict[str, torch.Tensor]:
    """The model that a fit comes to whose answers stand in a journal, or go there."""
    account = Account(rho=3.0, target=TARGET, journal=Journal(journal))
    curator = PrivateCurator(rows, account, key=KEY, units_about=float(ROWS))
    options = {**OPTIONS.get(name, {}), **({"max_steps": 12} if name in NETWORKS else {})}
    return dict(fit_encoded(curator, codec, name, options, seed=7, threads=1).tensors())


def follows_from_answers(name: str, journal: Path) -> bool:
    """Whether the answers about one table come to the same model, byte for byte, where quite other rows lie behind."""
    codec, curator, _ = encoded()
    own = curator._exact.source
    before = refit(name, codec, own, journal)
    (few, *_) = own.batches(size=40)
    others = EncodedStore(None, unit_is_row=True)
    columns = {n: np.zeros_like(a) for n, a in few.columns.items()}
    others.write(Batch(unit=few.unit, columns=columns, holdout=np.zeros(len(few), np.bool_)))
    after = refit(name, codec, others.close(), journal)
    return before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_a_model_follows_from_the_answers_whatever_rows_lie_behind_them(name: str, tmp_path: Path) -> None:
    assert follows_from_answers(name, tmp_path)
