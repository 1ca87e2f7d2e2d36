"""What every synthesizer of images promises, whatever it is made of.

A new line in `synth.registry.IMAGES` is tested here without a change of this file. Images are of 6 × 6 pixels and show
what their row's `team` is; `test_contract` has the other columns.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import synth
from privacy.curator import ExactCurator
from privacy.errors import ConditionError, InputError, RecipeError
from synth.codec import UNKNOWN, Codec
from synth.images import NOTE, images, missing, pixels
from synth.learn import learn
from synth.registry import IMAGES, Dense, Model, check_options, resolve, synthesizer
from synth.rows import EncodedStore, RawRows, table_source
from synth.schema import IMAGE
from synth.table import TableModel, fit_encoded, labels_of
from tests.contracts.test_contract import OnlyTheProtocol, assert_sums, distance, people
from tests.synth.pictures import SIDE, TEMPLATES, drawings, pictured_schema, seen, with_pictures
from tests.synth.tables import KEY

ROWS = 1500

QUICK = {"code": 4, "channels": 16, "blocks": 0, "max_steps": 400, "learning_rate": 0.01}

OPTIONS: dict[str, dict[str, Any]] = {
    "image-mixture": {"code": 8},
    "image-vae": QUICK,
    "autoencoder": QUICK,
    "image-diffusion": {
        **{"code": 8, "channels": 16, "max_steps": 500, "learning_rate": 0.005},
        **{"steps": 4, "start": 0.5},
    },
    "image-gan": {"code": 8, "channels": 16, "max_steps": 200, "learning_rate": 0.002},
    "dp-merf": {"code": 8, "channels": 16, "max_steps": 100, "batch_rows": 200},
}
CLOSE = 0.12
"""Total variation that the other columns may be away: a mixture of images has them beside, with fewer components."""

pytestmark = pytest.mark.parametrize("name", IMAGES)


def pictured(rows: int, *, seed: int) -> pa.Table:
    """The planted dependency of `people`, and a drawing of the team that a twentieth of the rows miss."""
    return with_pictures(people(rows, seed=seed), seed=seed, missing=0.05)


@functools.cache
def fitted(name: str) -> TableModel[pa.Table]:
    table = pictured(ROWS, seed=1)
    return synth.fit(table, name, schema=pictured_schema(table), options=OPTIONS.get(name), seed=7, threads=1)


def shown(table: pa.Table) -> np.ndarray:
    column = pictured_schema(table)["photo"]
    assert column.image is not None
    return pixels(table.column("photo").combine_chunks(), column.image)


def teams(table: pa.Table) -> np.ndarray:
    return np.array(["abc".index(t) for t in table.column("team").to_pylist()])


def there(table: pa.Table) -> np.ndarray:
    return ~missing(table.column("photo"))


def test_auto_means_one_of_them_where_there_are_images(name: str) -> None:
    assert resolve("auto", images=True) in IMAGES
    assert synthesizer(name).name == name
    check_options(name, {})


def test_rows_come_out_in_the_shape_and_types_of_the_table(name: str) -> None:
    drawn = fitted(name).sample(300, seed=1)
    assert drawn.schema.equals(pictured(1, seed=1).schema)
    assert shown(drawn).shape == (300, SIDE, SIDE, 1)
    for rows in (0, 1):
        assert len(fitted(name).sample(rows)) == rows
    kept = drawn.column("photo").drop_null().to_pylist()
    assert all(b"tEXtComment\0" + NOTE.encode() in v["bytes"] for v in kept)
    assert len({v["path"] for v in kept}) == len(kept)


def test_columns_images_and_what_they_have_in_common_are_learned(name: str) -> None:
    drawn = fitted(name).sample(3000, seed=3)
    assert distance(drawn, people(10_000, seed=2)) < CLOSE
    assert abs((~there(drawn)).mean() - 0.05) < 0.02
    right = (seen(shown(drawn)) == teams(drawn))[there(drawn)]
    assert right.mean() > 0.97
    # Brightness differs as much as it does in the table, so no template is repeated.
    light = shown(drawn)[there(drawn)].reshape(-1, SIDE * SIDE).max(1)
    real = shown(pictured(3000, seed=2))[there(pictured(3000, seed=2))].reshape(-1, SIDE * SIDE).max(1)
    np.testing.assert_allclose(
        np.quantile(light, [0.1, 0.5, 0.9]), np.quantile(real, [0.1, 0.5, 0.9]), atol=20
    )


def test_no_image_of_the_table_is_copied(name: str) -> None:
    real = {v.tobytes() for v in shown(pictured(ROWS, seed=1))[there(pictured(ROWS, seed=1))]}
    drawn = fitted(name).sample(ROWS, seed=3)
    assert not real.intersection(v.tobytes() for v in shown(drawn)[there(drawn)])


def test_equal_seeds_give_equal_models_and_rows_and_others_others(name: str) -> None:
    table = pictured(400, seed=1)
    schema, options = pictured_schema(table), OPTIONS.get(name)
    one, again, two = (
        synth.fit(table, name, schema=schema, options=options, seed=s, threads=1) for s in (1, 1, 2)
    )
    assert one.digest() == again.digest() != two.digest()
    assert one.sample(50, seed=5).equals(again.sample(50, seed=5))
    assert not one.sample(50, seed=5).equals(one.sample(50, seed=6))


def test_a_shard_is_a_function_of_model_seed_and_number(name: str) -> None:
    whole = [pa.concat_tables(fitted(name).shard(n, 40, seed=1, first_row=40 * n)) for n in (0, 1, 0)]
    assert whole[0].equals(whole[2])
    assert not np.array_equal(shown(whole[0]), shown(whole[1]))


def test_a_condition_chooses_what_images_show(name: str) -> None:
    for place, team in enumerate("abc"):
        drawn = fitted(name).sample(300, given={"team": team}, seed=9)
        assert set(drawn.column("team").to_pylist()) == {team}
        assert (seen(shown(drawn)) == place)[there(drawn)].mean() > 0.97


def test_an_image_that_is_given_says_what_goes_with_it_and_stays(name: str) -> None:
    (photo,) = images(drawings(np.array([2]), np.random.default_rng(0))).to_pylist()
    drawn = fitted(name).sample(300, given={"photo": photo}, seed=9)
    assert drawn.column("team").to_pylist().count("c") > 290
    assert drawn.column("photo").to_pylist() == [photo] * 300
    drawn = fitted(name).sample(50, given={"photo": None}, seed=9)
    assert drawn.column("photo").null_count == 50
    with pytest.raises(ConditionError, match="photo"):
        fitted(name).sample(5, given={"photo": "a.png"})


def test_images_between_two_images_lead_from_one_to_the_other(name: str) -> None:
    table = pictured(80, seed=8)
    drawn, which = shown(table).astype(np.uint8).reshape(-1, SIDE, SIDE, 1), teams(table)
    there = ~missing(table.column("photo"))
    first, second = drawn[there & (which == 0)][:5], drawn[there & (which == 1)][:5]
    lines = fitted(name).between(first, second, steps=4)
    assert lines is not None
    assert lines.shape == (5, 4, SIDE, SIDE, 1)
    assert (seen(lines[:, 0]) == 0).mean() >= 0.8
    assert (seen(lines[:, -1]) == 1).mean() >= 0.8
    # A line does not jump about: what leads on is less than what lies between its ends.
    steps = np.abs(np.diff(lines.astype(float), axis=1)).mean((0, 2, 3, 4))
    assert steps.max() < np.abs(lines[:, -1].astype(float) - lines[:, 0]).mean()
    assert (lines == fitted(name).between(first, second, steps=4)).all()


def test_missing_cells_are_filled_from_images_and_missing_images_from_cells(name: str) -> None:
    table = pictured(300, seed=6)
    known = there(table)
    blank = table.set_column(0, "team", pa.nulls(300, pa.string()))
    filled = fitted(name).impute(blank, seed=1)
    assert (np.array(filled.column("team").to_pylist()) == np.array(table.column("team").to_pylist()))[
        known
    ].mean() > 0.97
    assert np.array_equal(shown(filled)[known], shown(table)[known])
    assert filled.column("photo").null_count == 0
    unseen = table.set_column(3, "photo", pa.nulls(300, IMAGE))
    drawn = fitted(name).impute(unseen, seed=1)
    assert (seen(shown(drawn)) == teams(table)).mean() > 0.97


def test_likelihoods_know_which_image_goes_with_which_row(name: str) -> None:
    model = fitted(name)
    if not isinstance(model._model, Dense):
        pytest.skip("it knows no densities")
    table = pictured(300, seed=4)
    table = table.filter(pa.array(there(table)))
    other = (teams(table) + 1) % 3
    odd = table.set_column(3, "photo", images(drawings(other, np.random.default_rng(0))))
    assert np.median(model.log_prob(table) - model.log_prob(odd)) > 3
    np.testing.assert_allclose(
        model.log_prob(table)[:20],
        [float(model.log_prob(table.slice(i, 1))[0]) for i in range(20)],
        rtol=1e-4,
        atol=1e-2,
    )


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_network_is_stored_whatever_its_depth(name: str, blocks: int, tmp_path: Path) -> None:
    table = pictured(60, seed=2)
    known = synthesizer(name).options.model_fields
    options = {"code": 4, "components": 1, "blocks": blocks, "channels": 8, "max_steps": 2}
    model = synth.fit(
        table, name, schema=pictured_schema(table), options={k: v for k, v in options.items() if k in known}
    )
    model.save(tmp_path)
    assert synth.load(tmp_path).sample(20, seed=1).equals(model.sample(20, seed=1))


def test_a_stored_model_is_the_same_model(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path)
    again = synth.load(tmp_path)
    assert again.digest() == fitted(name).digest()
    assert again.sample(80, seed=2).equals(fitted(name).sample(80, seed=2))


@functools.cache
def by_protocol(name: str) -> tuple[Model, Codec, OnlyTheProtocol]:
    """A fit by hand, through a curator that has no other door."""
    table = pictured(ROWS, seed=1)
    schema = pictured_schema(table)
    rows = RawRows(schema, table_source(table, batch_rows=500))
    raw = OnlyTheProtocol(ExactCurator(rows, key=KEY, holdout=0.0))
    codec = Codec(schema, learn(schema, raw, labels_of(rows), at_least=10))
    encoded = raw.recode(
        lambda batch: codec.code(batch, rows.dictionaries), EncodedStore(None, unit_is_row=True)
    )
    return fit_encoded(encoded, codec, name, OPTIONS.get(name, {}), seed=7, threads=1), codec, encoded


def test_rows_are_reached_through_the_curators_questions_alone(name: str) -> None:
    model, codec, asked = by_protocol(name)
    assert asked.sums or asked.counted or asked.readers
    drawn = codec.decode(model.draw(1000, np.random.default_rng(3)))
    assert (seen(shown(drawn)) == teams(drawn))[there(drawn)].mean() > 0.97


def test_every_sum_tells_norms_that_no_row_exceeds_and_weighs_its_rows(name: str) -> None:
    _, _, asked = by_protocol(name)
    (first, *_) = asked.inner.rows("train")
    batch = first.where(np.arange(len(first)) < 6)
    states = batch.columns["states"].copy()
    states[3:, 1] = UNKNOWN
    states[5, 3] = 0
    batch = type(batch)(unit=batch.unit, columns={**batch.columns, "states": states}, holdout=batch.holdout)
    for statistic in {(type(s), s.size): s for s in asked.sums}.values():
        assert_sums(statistic, batch)
        norms = np.concatenate([statistic.of(b).norms() for b in asked.inner.rows("train")])
        assert (norms <= statistic.bound).mean() > 0.85


def test_draws_leave_what_is_given_and_know_every_cell(name: str) -> None:
    model, codec, _ = by_protocol(name)
    known = codec.encode(pictured(200, seed=5))
    hidden = known.states.copy()
    hidden[np.random.default_rng(0).random(hidden.shape) < 0.5] = UNKNOWN
    given = type(known)(states=hidden, scores=known.scores, pixels=known.pixels)
    drawn = model.draw(200, np.random.default_rng(1), given=given)
    assert drawn.pixels is not None
    assert known.pixels is not None
    np.testing.assert_array_equal(drawn.states[hidden != UNKNOWN], hidden[hidden != UNKNOWN])
    np.testing.assert_array_equal(
        drawn.pixels[hidden[:, 3] != UNKNOWN], known.pixels[hidden[:, 3] != UNKNOWN]
    )
    assert (drawn.states != UNKNOWN).all()
    assert (drawn.pixels[drawn.states[:, 3] == 0] == 0).all()


def test_a_table_of_images_alone_works(name: str) -> None:
    table = pictured(300, seed=1).select(["photo"])
    model = synth.fit(
        table, name, schema=pictured_schema(table), options=OPTIONS.get(name), seed=7, threads=1
    )
    drawn = shown(model.sample(300, seed=1))
    assert set(seen(drawn[drawn.max((1, 2, 3)) > 100])) == {0, 1, 2}
    nearest = drawn.reshape(len(drawn), -1).astype(float) @ TEMPLATES.reshape(3, -1).T
    assert nearest.max() > 0


@pytest.mark.parametrize("rows", [3, 19])
def test_a_table_of_hardly_any_rows_is_refused(name: str, rows: int) -> None:
    table = pictured(rows, seed=1)
    with pytest.raises(InputError, match=f"at least 20 rows to train on, however: it has {rows};"):
        synth.fit(table, name, schema=pictured_schema(table))


def test_small_and_uniform_tables_work(name: str) -> None:
    table = pictured(20, seed=1)
    assert len(synth.fit(table, name, schema=pictured_schema(table), threads=1).sample(30)) == 30
    black = people(60, seed=1).append_column("photo", images(np.zeros((60, SIDE, SIDE, 1), np.uint8)))
    drawn = synth.fit(black, name, schema=pictured_schema(black), threads=1).sample(30)
    assert shown(drawn).max() <= 2


def test_pandas_goes_in_and_comes_out(name: str) -> None:
    table = pictured(200, seed=1)
    frame = table.to_pandas()
    drawn = synth.fit(frame, name, options=OPTIONS.get(name), threads=1).sample(20)
    assert isinstance(drawn, pd.DataFrame)
    assert set(drawn.loc[drawn["photo"].notna(), "photo"].iloc[0]) == {"bytes", "path"}
    # Plain bytes are taken for what they begin as.
    frame["photo"] = [None if v is None else v["bytes"] for v in frame["photo"]]
    options = OPTIONS[resolve("auto", images=True)]
    assert len(synth.fit(frame, "auto", options=options, threads=1).sample(20)) == 20


@pytest.mark.parametrize("options", [{"colour": 3}])
def test_an_unknown_option_is_refused_with_its_name(name: str, options: Mapping[str, object]) -> None:
    table = pictured(100, seed=1)
    with pytest.raises(RecipeError, match="colour"):
        synth.fit(table, name, schema=pictured_schema(table), options=options)


def test_tables_and_synthesizers_that_do_not_fit_are_refused(name: str) -> None:
    table = pictured(100, seed=1)
    with pytest.raises(
        RecipeError, match=r"needs a synthesizer of images \(.*'photo' is kind: image and gmm"
    ):
        synth.fit(table, "gmm", schema=pictured_schema(table))
    plain = people(100, seed=1)
    with pytest.raises(RecipeError, match=f"needs a column of images, however: the table of {name}"):
        synth.fit(plain, name)
