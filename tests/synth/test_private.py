"""Synthesizers that are trained by gradients, through a private curator."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from privacy.accounting import Loss
from privacy.curator import Batch, ExactCurator, Floats, Luck
from privacy.errors import RecipeError, UsageError
from privacy.private import Account, Journal, PrivateCurator, Target
from synth import ctgan, train
from synth.codec import Codec, Encoded
from synth.learn import learn
from synth.registry import SYNTHESIZERS, Model, descent_of, synthesizer
from synth.rows import EncodedStore, RawRows, table_source
from synth.table import fit_encoded, labels_of
from tests.synth.tables import KEY, schema_for

ROWS = 3000
OPTIONS: dict[str, dict[str, Any]] = {
    "vae": {"layers": [32, 32], "latent": 8, "epochs": 6, "batch_rows": 150, "components": 8},
    "ctgan": {"layers": [32, 32], "latent": 8, "epochs": 6, "batch_rows": 150},
}
EPSILON, DELTA = 20.0, 1e-5
TARGET = Target(epsilon=EPSILON, delta=DELTA, others=Loss.zcdp(1.0), rho=3.0)

pytestmark = pytest.mark.parametrize("name", OPTIONS)


def people(rows: int) -> pa.Table:
    """A dependency that is hard to miss: place follows team."""
    rng = np.random.default_rng(0)
    team = rng.choice(3, rows, p=[0.5, 0.3, 0.2])
    return pa.table(
        {
            "team": np.array(["a", "b", "c"])[team],
            "place": np.array(["x", "y", "z"])[np.where(rng.random(rows) < 0.9, team, 0)],
            "height": rng.normal(10.0 * team, 3.0).clip(-10, 40).round(1),
        }
    )


def encoded() -> tuple[Codec, PrivateCurator, Account]:
    table = people(ROWS)
    known = {"facts": "declared: the test"}
    schema = schema_for(
        table,
        team={**known, "categories": ("a", "b", "c")},
        place={**known, "categories": ("x", "y", "z")},
        height={**known, "min": -10.0, "max": 40.0},
    )
    rows = RawRows(schema, table_source(table))
    raw = PrivateCurator(rows, Account(rho=1.0), key=KEY)
    codec = Codec(schema, learn(schema, raw, labels_of(rows), at_least=10))
    coded = ExactCurator(rows, key=KEY, holdout=0.0).recode(
        lambda batch: codec.code(batch, rows.dictionaries), EncodedStore(None, unit_is_row=True)
    )
    account = Account(rho=3.0, target=TARGET)
    return codec, PrivateCurator(coded.source, account, key=KEY, units_about=float(ROWS)), account


def fitted(name: str, **options: object) -> tuple[Model, Codec, Account]:
    codec, curator, account = encoded()
    model = fit_encoded(curator, codec, name, {**OPTIONS[name], **options}, seed=7, threads=1)
    return model, codec, account


def test_a_fit_asks_for_nothing_but_what_was_planned_and_meets_its_target(name: str) -> None:
    model, codec, account = fitted(name)
    chosen = synthesizer(name)
    planned = descent_of(name, OPTIONS[name], float(ROWS))
    assert planned is not None
    descent, share = planned
    steps = [c for c in account.charges if c.steps]
    others = [c for c in account.charges if not c.steps]
    assert (sum(c.steps for c in steps), steps[0].rate) == (descent.steps, descent.rate)
    # No look at rows that were held back: what else is asked are the five sums of the codes.
    assert len(others) == (5 if name == "vae" else 0)
    whole = TARGET.others + account.spent
    assert whole.within(TARGET.worst(descent, share))
    assert 0.99 * EPSILON <= whole.epsilon(DELTA) <= EPSILON
    drawn = codec.decode(model.draw(500, np.random.default_rng(0)))
    assert drawn.schema.names == ["team", "place", "height"]
    assert chosen.restore(codec.layout, model.tensors()).tensors().keys() == model.tensors().keys()


def test_two_fits_with_one_seed_differ(name: str) -> None:
    one, two = (fitted(name, max_steps=3)[0].tensors() for _ in range(2))
    assert any(not torch.equal(one[key], two[key]) for key in one if one[key].is_floating_point())


def test_a_number_of_units_that_nobody_declared_is_refused_by_name(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name}.*`units_about` in the schema is not set"):
        descent_of(name, {}, None)


@pytest.mark.parametrize("options", [{"pack": 10}, {"balanced": True}])
def test_options_that_need_exact_answers_are_refused_by_name(name: str, options: dict[str, Any]) -> None:
    if name != "ctgan":
        pytest.skip("it has no such options")
    (option,) = options
    with pytest.raises(RecipeError, match=f"ctgan say {option}: .*; leave {option} out"):
        descent_of(name, options, 1000.0)
    # By hand they reach the curator, who refuses them as well, at no charge.
    codec, curator, account = encoded()
    with pytest.raises(UsageError):
        fit_encoded(curator, codec, name, {**OPTIONS[name], **options}, seed=7, threads=1)
    assert not account.charges


def test_synthesizers_that_take_no_steps_plan_none(name: str) -> None:
    for other in set(SYNTHESIZERS) - set(OPTIONS):
        assert descent_of(other, {}, None) is None


def test_a_critic_whose_slope_is_punished_is_refused(name: str) -> None:
    if name != "ctgan":
        pytest.skip("it has no critic")
    codec, curator, account = encoded()
    game = game_of(codec)
    with pytest.raises(UsageError, match="penalty on its slope"):
        curator.recode(written(game), EncodedStore(None, unit_is_row=False)).descend(
            ctgan._CriticPlayer(game, bounded=False), steps=1, rate=0.1, share=1
        )
    assert not account.charges


def test_a_bounded_critic_lengthens_nothing(name: str) -> None:
    if name != "ctgan":
        pytest.skip("it has no critic")
    critic = game_of(encoded()[0]).critic
    with torch.no_grad():
        for linear in critic._linears:
            linear.weight.mul_(7)
    for _ in range(200):
        critic.bound()
    for linear in critic._linears:
        assert torch.linalg.matrix_norm(linear.weight, 2) <= 1.01 * ctgan.LONGEST


def game_of(codec: Codec) -> ctgan._Game:
    chosen = ctgan.Options.model_validate(OPTIONS["ctgan"])
    bins = ctgan.bins_of(codec.layout, chosen.modes)
    generator = ctgan.Generator(bins, chosen.layers, chosen.latent)
    critic = ctgan.Critic(generator.vectors.length + len(bins), chosen.layers, 1)
    conditions = ctgan.Conditions(bins, balanced=False, masked=chosen.masked)
    return ctgan._Game(generator=generator, critic=critic, conditions=conditions, options=chosen)


def written(game: ctgan._Game) -> Any:
    def code(batch: Batch) -> dict[str, Any]:
        rows = ctgan.encoded_of(batch)
        values = ctgan.values_of(game.generator.bins, rows)
        places = game.generator.vectors.places(values, torch.from_numpy(rows.scores))
        return {"states": values.numpy().astype(np.int32), "scores": places.numpy()}

    return code


class Nosy:
    """Would be told by a look at rows that the first step was the best."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.01)
        self.looked = 0

    def losses(self, batch: Batch, luck: Luck) -> torch.Tensor:
        rows = torch.from_numpy(np.array(batch.columns["scores"], np.float32))
        return self.module(rows[:, :1])[:, 0] ** 2

    def score(self, rows: Encoded) -> Floats:
        self.looked += 1
        return np.full(len(rows), -float(self.looked))


def test_training_does_not_look_and_keeps_the_last_average(name: str) -> None:
    _, curator, account = encoded()
    learner = Nosy()
    trained = train.train(
        curator, learner, columns=3, epochs=4, max_steps=1000, batch_rows=150, patience=1, share=1.0
    )
    assert trained == dataclasses.replace(trained, steps=80, best=80)
    assert learner.looked == 0
    assert sum(c.steps for c in account.charges) == 80


def test_a_fit_is_replayed_byte_for_byte(name: str, tmp_path: Path) -> None:
    codec, curator, _ = encoded()
    fits = []
    for _ in range(2):
        account = Account(rho=3.0, target=TARGET, journal=Journal(tmp_path))
        again = curator.recode(lambda batch: batch.columns, EncodedStore(None, unit_is_row=True), account)
        model = fit_encoded(again, codec, name, {**OPTIONS[name], "max_steps": 12}, seed=7, threads=1)
        fits.append((model.tensors(), account.charges))
    (one, before), (two, after) = fits
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert before == after
