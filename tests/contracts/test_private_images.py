"""What every synthesizer of images promises that may learn from noised answers.

One that says `private` is tested here without a change of this file.
"""

import functools
from typing import Any

import numpy as np
import pytest
import torch

from privacy.accounting import Loss
from privacy.curator import Batch, ExactCurator, Luck
from privacy.dpsgd import Layers
from privacy.errors import RecipeError
from privacy.private import Account, PrivateCurator, Target
from synth.codec import Codec
from synth.images import pixels
from synth.learn import learn
from synth.registry import IMAGES, Model, descent_of, synthesizer
from synth.rows import EncodedStore, RawRows, table_source
from synth.table import fit_encoded, labels_of
from tests.contracts.test_contract import OnlyTheProtocol
from tests.synth.pictures import SIDE, seen
from tests.synth.tables import KEY
from tests.synth.test_image_noised import pictures, schema_of

ROWS = 2500
STEPS = {"channels": 8, "epochs": 2, "batch_rows": 250}
OPTIONS: dict[str, dict[str, Any]] = {
    "image-mixture": {"code": 12},
    "image-vae": {"code": 4, **STEPS},
    "image-diffusion": {"code": 12, **STEPS, "epochs": 6},
    "image-gan": {"code": 12, **STEPS},
    "dp-merf": {"code": 12, "channels": 8, "max_steps": 30, "batch_rows": 200},
}
RHO, EPSILON, DELTA = 3.0, 20.0, 1e-5
TARGET = Target(epsilon=EPSILON, delta=DELTA, others=Loss.zcdp(1.0), rho=RHO)

pytestmark = pytest.mark.parametrize("name", [n for n in IMAGES if synthesizer(n).private])


def asked(name: str, **options: object) -> tuple[Model, Codec, Account, OnlyTheProtocol]:
    """A fit through a private curator that has no other door, its account, and what it was asked."""
    table = pictures(ROWS, missing=0.05)
    schema = schema_of(table, nullable=True)
    rows = RawRows(schema, table_source(table))
    codec = Codec(schema, learn(schema, PrivateCurator(rows, Account(rho=1.0), key=KEY), labels_of(rows)))
    coded = ExactCurator(rows, key=KEY, holdout=0.0).recode(
        lambda batch: codec.code(batch, rows.dictionaries), EncodedStore(None, unit_is_row=True)
    )
    account = Account(rho=RHO, target=TARGET)
    curator = PrivateCurator(coded.source, account, key=KEY, units_about=float(ROWS))
    questions = OnlyTheProtocol(curator)  # type: ignore[arg-type]
    chosen = {**OPTIONS.get(name, {}), **options}
    return fit_encoded(questions, codec, name, chosen, seed=7, threads=1), codec, account, questions


@functools.cache
def fitted(name: str) -> tuple[Model, Codec, Account, OnlyTheProtocol]:
    return asked(name)


def hostile(codec: Codec) -> Batch:
    """Rows of every kind of image and of every state, with scores that are usual."""
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 256, (400, SIDE**2), np.uint8)
    shown[:100], shown[100:200] = 0, 255
    shown[200:300] = 255 * rng.integers(0, 2, (100, SIDE**2), np.uint8)
    states = np.stack([rng.integers(0, f.states, 400) for f in codec.layout.fields], 1).astype(np.int32)
    scores = rng.uniform(-0.5, 0.5, (400, len(codec.layout.scored))).astype(np.float32)
    columns = {"states": states, "scores": scores, "pixels": shown}
    return Batch(unit=np.arange(400, dtype=np.uint64), columns=columns)


def test_a_fit_spends_what_was_planned_and_draws_rows_of_the_table(name: str) -> None:
    model, codec, account, _ = fitted(name)
    chosen = synthesizer(name)
    planned = descent_of(name, OPTIONS[name], float(ROWS))
    steps = [c for c in account.charges if c.steps]
    assert sum(c.steps for c in steps) == (planned[0].steps if planned else 0)
    whole = TARGET.others + account.spent
    if planned:
        assert whole.within(TARGET.worst(*planned))
        assert 0.98 * EPSILON <= whole.epsilon(DELTA) <= EPSILON
    else:
        assert whole.within(TARGET.others + Loss.zcdp(RHO * (1 + 1e-9)))
    drawn = codec.decode(model.draw(500, np.random.default_rng(0)))
    assert drawn.schema.names == ["side", "team", "place", "height", "photo"]
    again = chosen.restore(codec.layout, model.tensors())
    assert codec.decode(again.draw(500, np.random.default_rng(0))).equals(drawn)


def test_images_go_with_their_labels(name: str) -> None:
    model, codec, *_ = fitted(name)
    if name == "image-vae":
        pytest.skip("its decoder begins with nothing, and has made twenty steps")
    drawn = codec.decode(model.draw(1000, np.random.default_rng(1)))
    image = codec.schema["photo"].image
    assert image is not None
    there = np.array([v is not None for v in drawn.column("photo").to_pylist()])
    shown = seen(pixels(drawn.column("photo").combine_chunks(), image))
    teams = np.array(["abc".index(t) for t in drawn.column("team").to_pylist()])
    assert (shown == teams)[there].mean() > 0.9


def test_no_row_adds_more_to_a_sum_than_its_bound_whatever_its_image_shows(name: str) -> None:
    _, codec, _, questions = fitted(name)
    batch = hostile(codec)
    if questions.children:
        questions = questions.children[-1]
        batch = Batch(
            unit=batch.unit, columns={**batch.columns, "pixels": np.full((400, 4), 1e6, np.float32)}
        )
    assert questions.sums
    for statistic in questions.sums:
        added = statistic.of(batch)
        assert (added.norms() <= statistic.bound * (1 + 1e-5)).all()
        # And norms are those of what is added.
        for row in (0, 150, 250, 350):
            weights = np.zeros(400)
            weights[row] = 1.0
            assert np.linalg.norm(added.weighted(weights)) <= statistic.bound * (1 + 1e-5)


def test_gradients_are_told_row_by_row_and_the_same_alone_and_together(name: str) -> None:
    _, codec, _, questions = fitted(name)
    if not questions.readers:
        pytest.skip("nobody reads rows")
    batch = hostile(codec).take(np.array([0, 150, 250, 350, 399]))
    states = np.array(batch.columns["states"])
    states[:4, 4], states[4, 4] = 1, 0
    batch = Batch(unit=batch.unit, columns={**batch.columns, "states": states})
    for reader in questions.readers:
        Layers(reader).check(reader, batch)
        together = reader.losses(batch, Luck.of([1])).detach()
        for n in (1, 2, 4):
            alone = reader.losses(batch.take(np.arange(n)), Luck.of([1])).detach()
            torch.testing.assert_close(alone, together[:n], rtol=1e-4, atol=1e-4)


def test_two_fits_with_one_seed_differ(name: str) -> None:
    one, two = (asked(name, **({"max_steps": 2} if "max_steps" in fields(name) else {}))[0] for _ in "ab")
    assert any(
        not torch.equal(t, two.tensors()[n]) for n, t in one.tensors().items() if t.is_floating_point()
    )


def fields(name: str) -> set[str]:
    return set(synthesizer(name).options.model_fields)


def test_a_search_for_components_is_refused_before_anything_is_asked(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} say components: 5; leave components out"):
        descent_of(name, {"components": 5}, 1000.0)
