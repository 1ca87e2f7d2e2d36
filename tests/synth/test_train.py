"""The training loop, on a learner whose best weight is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privacy.curator import Batch, ExactCurator, Floats, Luck
from privacy.errors import UnderstudyError
from synth.codec import Encoded
from synth.em import encoded_of
from synth.rows import EncodedRows
from synth.train import train


class Mean:
    """Learns the mean of one score; `spoil` says at which step its loss is no number, `explode` its gradient."""

    def __init__(self, *, spoil: range = range(0), explode: int = 0, rate: float = 0.05) -> None:
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.module.weight, 9.0)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=rate)
        self.spoil, self.explode, self.calls = spoil, explode, 0
        self.batches: list[int] = []

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        self.calls += 1
        self.batches.append(len(batch))
        if self.calls == self.explode:
            return torch.sqrt(self.module.weight[0, 0].clamp(0, 0)).expand(len(batch))
        far = torch.from_numpy(encoded_of(batch).scores[:, 0]) - self.module.weight[0, 0]
        return far**2 * (math.nan if self.calls in self.spoil else 1.0)

    def score(self, rows: Encoded) -> Floats:
        return -np.asarray((rows.scores[:, 0] - self.module.weight.item()) ** 2, np.float64)


def curator(rows: int = 2000, units: int = 2000) -> ExactCurator:
    rng = np.random.default_rng(0)
    return ExactCurator(
        EncodedRows(
            {
                "unit": (np.arange(rows) % units).view(np.uint64),
                "holdout": np.zeros(rows, np.uint8),
                "states": np.ones((rows, 1), np.int32),
                "scores": rng.normal(3.0, 1.0, (rows, 1)).astype(np.float32),
            },
            unit_is_row=units == rows,
        ),
        key=b"sixteen bytes or",
    )


def trained(learner: Mean, **more: int) -> Mean:
    asked = {"epochs": 200, "max_steps": 100_000, "batch_rows": 100, **more}
    train(curator(), learner, columns=1, **asked)
    return learner


def test_the_weights_that_explain_other_rows_best_are_kept() -> None:
    learner = trained(Mean())
    assert learner.module.weight.item() == pytest.approx(3.0, abs=0.1)
    assert not learner.module.training


def test_training_stops_when_nothing_gets_better() -> None:
    result = train(curator(), Mean(), columns=1, epochs=10_000, max_steps=10**6, batch_rows=100)
    assert result.best < result.steps < 10_000 * 20


def test_steps_are_bounded_for_many_rows_and_batches_small_for_few() -> None:
    assert trained(Mean(), max_steps=7).calls == 7
    assert max(trained(Mean(), max_steps=3, batch_rows=1000).batches) <= 2000 / 20


def test_a_loss_that_is_no_number_now_and_then_does_no_harm() -> None:
    learner = trained(Mean(spoil=range(30, 40)))
    assert learner.module.weight.item() == pytest.approx(3.0, abs=0.1)


def test_weights_that_are_no_number_are_taken_back() -> None:
    learner = trained(Mean(explode=30))
    assert learner.calls > 31
    assert learner.module.weight.item() == pytest.approx(3.0, abs=0.1)


def test_few_units_of_many_rows_train_on_all_of_them_to_the_end() -> None:
    learner = Mean()
    one = train(curator(units=1), learner, columns=1, epochs=20, max_steps=10**6, batch_rows=100)
    assert one.best == one.steps == 400
    assert learner.module.weight.item() == pytest.approx(3.0, abs=0.1)


def test_a_short_training_without_any_finite_loss_ends_with_a_reason() -> None:
    with pytest.raises(UnderstudyError, match="losses must be finite"):
        trained(Mean(spoil=range(10**9)), max_steps=5)


def test_losses_that_stay_no_number_end_training_with_a_reason() -> None:
    with pytest.raises(UnderstudyError, match=r"losses must be finite.*lower learning_rate"):
        trained(Mean(spoil=range(5, 10**9)))


def test_a_training_says_what_each_look_saw_and_nothing_where_nobody_may_look() -> None:
    result = train(curator(), Mean(), columns=1, epochs=40, max_steps=100_000, batch_rows=100)
    steps, scores = zip(*result.looks, strict=True)
    assert list(steps) == sorted(set(steps))
    assert max(scores) == result.score
    assert dict(result.looks)[result.best] == result.score
    assert scores[0] < scores[-1]
    assert train(curator(units=1), Mean(), columns=1, epochs=20, max_steps=10**6, batch_rows=100).looks == ()
