"""Images through a private curator."""

import functools
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.accounting import rho_for
from privacy.audit import audit
from privacy.curator import Answer, Batch, ExactCurator
from privacy.errors import RecipeError
from privacy.private import Account, PrivateCurator
from synth.codec import Codec, Field, Layout, Pixels
from synth.image_mixture import ImageMixture, Space, cut, one_each
from synth.image_noised import (
    FREQUENCIES,
    GREY,
    _chosen,
    _cosines,
    _directions,
    _frequencies,
    _Lengths,
    _Means,
    _measured,
    _nearer,
    _normal,
    _Shades,
    _smoothed,
    _Squares,
    _Told,
)
from synth.image_vae import _Recoded
from synth.images import images
from synth.learn import learn
from synth.registry import check_private, descent_of
from synth.rows import EncodedStore, RawRows, table_source
from synth.schema import Schema
from synth.table import labels_of
from tests.privacy.arrays import numbered
from tests.synth.pictures import SIDE, drawings, seen
from tests.synth.tables import KEY

ROWS = 3000


class Seeded:
    """Noise that is the same in every run, or none, though its size is told."""

    def __init__(self, part: float = 1.0) -> None:
        self._part, self._rng = part, np.random.default_rng(5)

    def gaussian(self, values: np.ndarray, *, scale: float) -> np.ndarray:
        return values + np.rint(self._part * scale * self._rng.standard_normal(len(values))).astype(np.int64)

    def largest(self, scores: np.ndarray, *, scale: float) -> int:
        return int(np.argmax(scores))


def pictures(rows: int, *, missing: float = 0.0) -> pa.Table:
    """A drawing of the row's team, a place that follows the team, a side that follows nothing, and a height."""
    rng = np.random.default_rng(3)
    team = rng.choice(3, rows, p=[0.5, 0.3, 0.2])
    return pa.table(
        {
            "side": np.array(["left", "right"])[rng.integers(0, 2, rows)],
            "team": np.array(["a", "b", "c"])[team],
            "place": np.array(["x", "y", "z"])[np.where(rng.random(rows) < 0.9, team, 0)],
            "height": rng.normal(10.0 * team, 3.0).clip(-10, 40).round(1),
            "photo": images(drawings(team, rng), absent=rng.random(rows) < missing, note=None),
        }
    )


def schema_of(table: pa.Table, *, nullable: bool = False) -> Schema:
    facts: dict[str, dict[str, Any]] = {
        "side": {"kind": "categorical", "categories": ["left", "right"]},
        "team": {"kind": "categorical", "categories": ["a", "b", "c"]},
        "place": {"kind": "categorical", "categories": ["x", "y", "z"]},
        "height": {"kind": "numerical", "min": -10.0, "max": 40.0},
        "photo": {
            "kind": "image",
            "nullable": nullable,
            "image": {"width": SIDE, "height": SIDE, "mode": "L"},
        },
    }
    columns = [
        {
            "name": f.name,
            "type": str(f.type),
            "nullable": False,
            "facts": "declared: the test",
            **facts[f.name],
        }
        for f in table.schema
    ]
    return Schema.model_validate({"columns": columns})


def encoded(table: pa.Table, *, rho: float, nullable: bool = False) -> tuple[Codec, PrivateCurator, Account]:
    """A private curator over encoded rows, whose account nobody has asked yet."""
    schema = schema_of(table, nullable=nullable)
    rows = RawRows(schema, table_source(table))
    noise = Seeded()
    raw = PrivateCurator(rows, Account(rho=rho), key=KEY, noise=noise)
    codec = Codec(schema, learn(schema, raw, labels_of(rows), at_least=10))
    account = Account(rho=rho)
    curator = raw.recode(
        lambda batch: codec.code(batch, rows.dictionaries), EncodedStore(None, unit_is_row=True), account
    )
    return codec, curator, account


@functools.cache
def fitted(rho: float = 3.0, by: str | None = None) -> tuple[ImageMixture, Codec, Account]:
    codec, curator, account = encoded(pictures(ROWS), rho=rho)
    return ImageMixture.fit(curator, codec.layout, {"by": by, "code": 12}, seed=0), codec, account


def shares(words: pa.ChunkedArray) -> dict[str, float]:
    values, counts = np.unique(words.to_pylist(), return_counts=True)
    return dict(zip(values.tolist(), (counts / counts.sum()).tolist(), strict=True))


# ------------------------------------------------------------------------------------------------ what is drawn


def test_images_labels_and_other_columns_are_learned_together() -> None:
    model, codec, _ = fitted()
    drawn = model.draw(4000, np.random.default_rng(0))
    table = codec.decode(drawn)
    assert drawn.pixels is not None
    shown = np.array(["a", "b", "c"])[seen(drawn.pixels.reshape(-1, SIDE, SIDE, 1))]
    team = np.array(table["team"].to_pylist())
    assert (shown == team).mean() > 0.97
    for name, rate in {"a": 0.5, "b": 0.3, "c": 0.2}.items():
        assert abs((team == name).mean() - rate) < 0.03
    place = np.array(table["place"].to_pylist())
    assert abs((place[team == "b"] == "y").mean() - 0.9) < 0.05
    height = table["height"].to_numpy()
    assert abs(height[team == "c"].mean() - 20) < 1.5
    assert height[team == "c"].std() < 5.5


def test_conditions_choose_images_and_images_choose_columns() -> None:
    model, codec, _ = fitted()
    rng = np.random.default_rng(0)
    drawn = model.draw(300, rng, given=codec.condition({"team": "c"}))
    assert drawn.pixels is not None
    assert (seen(drawn.pixels.reshape(-1, SIDE, SIDE, 1)) == 2).mean() > 0.97
    (photo,) = images(drawings(np.array([1]), rng)).to_pylist()
    told = codec.decode(model.draw(300, rng, given=codec.condition({"photo": photo})))
    assert shares(told["team"])["b"] > 0.97


def test_the_strata_are_the_column_that_explains_images() -> None:
    model, codec, account = fitted()
    assert codec.layout.fields[model.space.by].name == "team"
    assert sum(c.rho for c in account.charges) == pytest.approx(account.rho)
    named, _, spent = fitted(by="place")
    assert named.space.by == 2
    # Nobody is asked which one it is.
    assert len(spent.charges) < len(account.charges)
    assert sum(c.rho for c in spent.charges) == pytest.approx(spent.rho)


def test_a_column_that_explains_nothing_is_no_stratum() -> None:
    codec, curator, _ = encoded(pictures(ROWS), rho=3.0)
    measure = _measured(curator, codec.layout, 12, 1.0)
    assert _chosen(curator, codec.layout, measure, [0], 1.0) == -1
    assert _chosen(curator, codec.layout, measure, [0, 2], 1.0) == 2


def test_more_noise_leaves_fewer_components_and_shorter_codes() -> None:
    low, high = fitted(0.02)[0], fitted(100.0)[0]
    assert low.parameters.components == 3
    assert high.parameters.components > 3
    assert low.space.code.size < high.space.code.size
    drawn = low.draw(200, np.random.default_rng(0))
    assert np.isfinite(low.log_prob(drawn)).all()


def test_images_are_missing_as_often_as_they_were_and_never_where_they_must_not_be() -> None:
    codec, curator, _ = encoded(pictures(ROWS, missing=0.2), rho=3.0, nullable=True)
    model = ImageMixture.fit(curator, codec.layout, {"by": "team"}, seed=0)
    there = model.draw(4000, np.random.default_rng(0)).states[:, 4] > 0
    assert abs(there.mean() - 0.8) < 0.03
    assert (fitted()[0].draw(4000, np.random.default_rng(0)).states[:, 4] > 0).all()


def test_a_model_is_restored_as_it_was() -> None:
    model, codec, _ = fitted()
    again = ImageMixture.restore(codec.layout, model.tensors())
    one, other = (m.draw(50, np.random.default_rng(1)) for m in (model, again))
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.states, other.states)


def test_a_table_of_images_alone_is_learned() -> None:
    table = pictures(800).select(["photo"])
    codec, curator, account = encoded(table, rho=3.0)
    model = ImageMixture.fit(curator, codec.layout, {}, seed=0)
    drawn = model.draw(900, np.random.default_rng(0))
    assert drawn.pixels is not None
    found = np.bincount(seen(drawn.pixels.reshape(-1, SIDE, SIDE, 1)), minlength=3) / 900
    assert (found > 0.08).all()
    assert model.space.by == -1
    assert sum(c.rho for c in account.charges) == pytest.approx(account.rho)


def test_options_that_need_exact_answers_are_refused_before_anything_is_asked() -> None:
    check_private("image-mixture")
    assert descent_of("image-mixture", {"code": 32, "by": "label"}, None) is None
    for option, value in (("components", 100), ("passes", 3), ("shrinkage", 5.0), ("max_components", 9)):
        with pytest.raises(RecipeError, match=f"{option}: {value}; leave {option} out"):
            descent_of("image-mixture", {option: value}, None)


# ------------------------------------------------------------------------------------------------ sensitivity


@functools.cache
def questions() -> tuple[Codec, tuple[Any, ...]]:
    """Every sum that is asked, under parameters of a fit."""
    codec, curator, _ = encoded(pictures(400), rho=3.0)
    layout = codec.layout
    measure = _measured(curator, layout, 12, 1.0)
    space = Space(layout=layout, code=measure.coder, by=1)
    start = one_each(space)
    order = _frequencies((SIDE, SIDE, 1))
    mean = torch.full((SIDE * SIDE,), 0.5)
    cosines = _cosines((SIDE, SIDE, 1), order)
    return codec, (
        _Shades(layout),
        _Squares(layout, mean, cosines, 1.5),
        _Means(layout, measure, [0, 1, 2]),
        _Told(space, measure, start),
        _Told(space, measure, cut(space, start, 3)),
    )


@st.composite
def rows(draw: st.DrawFn) -> Batch:
    """Encoded rows with the most extreme images and cells that there can be."""
    codec, _ = questions()
    size = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(
        st.lists(st.sampled_from(["black", "white", "checked", "any"]), min_size=size, max_size=size)
    )
    made = {
        "black": lambda: np.zeros(SIDE * SIDE),
        "white": lambda: np.full(SIDE * SIDE, 255),
        "checked": lambda: 255 * rng.integers(0, 2, SIDE * SIDE),
        "any": lambda: rng.integers(0, 256, SIDE * SIDE),
    }
    fields = codec.layout.fields
    return Batch(
        unit=np.arange(size, dtype=np.uint64),
        columns={
            "states": np.stack([rng.integers(0, f.states, size) for f in fields], 1).astype(np.int32),
            "scores": rng.normal(0, 1, (size, 1)).astype(np.float32),
            "pixels": np.stack([made[k]() for k in kinds]).astype(np.uint8),
        },
    )


@settings(max_examples=60, deadline=None)
@given(rows(), st.integers(0, 4))
def test_norms_are_those_of_what_a_row_adds(batch: Batch, which: int) -> None:
    statistic = questions()[1][which]
    contribution = statistic.of(batch)
    assert len(contribution.weighted(None)) == statistic.size
    for row, norm in enumerate(contribution.norms()):
        alone = contribution.weighted(np.eye(len(batch))[row])
        assert np.linalg.norm(alone) <= norm * (1 + 1e-5) + 1e-6


@settings(max_examples=60, deadline=None)
@given(rows(), st.integers(0, 4))
def test_no_row_is_longer_than_the_bound_but_for_its_scores(batch: Batch, which: int) -> None:
    batch.columns["scores"][:] = np.clip(batch.columns["scores"], -1.5, 1.5)  # type: ignore[index]
    statistic = questions()[1][which]
    assert (statistic.of(batch).norms() <= statistic.bound * (1 + 1e-5)).all()


@pytest.mark.parametrize("size", [1.0, 1e3, 1e18])
def test_learned_codes_of_any_size_are_within_the_bound(size: float) -> None:
    codec, _ = questions()
    measure = _normal(_Recoded(12))
    space = Space(layout=codec.layout, code=measure.coder, by=1)
    fields, rng = codec.layout.fields, np.random.default_rng(0)
    batch = Batch(
        unit=np.arange(200, dtype=np.uint64),
        columns={
            "states": np.stack([rng.integers(0, f.states, 200) for f in fields], 1).astype(np.int32),
            "scores": rng.uniform(-1.5, 1.5, (200, 1)).astype(np.float32),
            "pixels": (size * rng.normal(size=(200, 12))).astype(np.float32),
        },
    )
    for statistic in (_Means(codec.layout, measure, [0, 1]), _Told(space, measure, one_each(space))):
        norms = statistic.of(batch).norms()
        assert (norms <= statistic.bound * (1 + 1e-5)).all()
        assert (norms > 0).any()
    # Nine of ten codes that are normal are not shortened.
    lengths = measure.of(batch, codec.layout).norm(dim=1)
    there = batch.columns["states"][:, codec.layout.images[0].field] > 0
    if size == 1:
        assert (lengths[there] < 0.999).float().mean() == pytest.approx(0.9, abs=0.06)


@settings(max_examples=30, deadline=None)
@given(rows())
def test_a_row_lies_in_one_cell_of_lengths_whatever_lies_beside_it(batch: Batch) -> None:
    codec, _ = questions()
    cosines = _cosines((SIDE, SIDE, 1), _frequencies((SIDE, SIDE, 1)))
    lengths = _Lengths(codec.layout, torch.full((SIDE * SIDE,), 0.5), cosines)
    together = lengths.cell(batch)
    alone = [int(lengths.cell(batch.take(np.array([i])))[0]) for i in range(len(batch))]
    assert together.tolist() == alone
    assert ((together >= 0) == (batch.columns["states"][:, 4] > 0)).all()
    assert (together < lengths.shape[0]).all()
    gone = dict(batch.columns)
    gone["states"] = np.zeros_like(gone["states"])
    assert (lengths.cell(Batch(unit=batch.unit, columns=gone)) == -1).all()


def test_one_more_row_moves_every_answer_by_at_most_what_was_charged() -> None:
    """The whole fit's first questions, whose noise is switched off, on a table and on it with a white image more."""
    table = pictures(200)
    white = images(np.full((1, SIDE, SIDE, 1), 255, np.uint8), note=None)
    more = table.slice(0, 1).set_column(4, "photo", white)
    codec, _, _ = encoded(table, rho=3.0)
    statistic = _Shades(codec.layout)
    answers, charges = [], []
    for rows in (table, pa.concat_tables([table, more])):
        raw = RawRows(codec.schema, table_source(rows))
        exact = ExactCurator(raw, key=KEY, holdout=0.0)
        store = EncodedStore(None, unit_is_row=True)
        source = exact.recode(lambda batch, raw=raw: codec.code(batch, raw.dictionaries), store).source  # type: ignore[misc]
        account = Account(rho=1.0)
        curator = PrivateCurator(source, account, key=KEY, noise=Seeded(0.0))
        answers.append(curator.sum(statistic, share=1.0))
        charges.append(account.charges[0])
    moved = np.linalg.norm(answers[1].value - answers[0].value)
    assert moved == pytest.approx(GREY * SIDE, rel=1e-5)
    grid = answers[0].noise_std / charges[0].noise_std
    assert moved <= charges[0].sensitivity * grid


def audited(noise: float) -> float:
    """A lower bound on epsilon of the mean image's question, asked at epsilon 2, by the likeness of images to it."""
    rng = np.random.default_rng(1)
    pixels = Pixels(field=0, first=0, shape=(48, 48, 1))
    layout = Layout(fields=(Field(name="photo", rates=(0.0, 1.0), score=None),), rows=500.0, images=(pixels,))
    canaries = rng.integers(0, 2, (500, layout.pixels)).astype(np.uint8) * np.uint8(255)
    included = rng.random(500) < 0.5
    shown = canaries[included]
    rows = numbered(len(shown), states=np.ones((len(shown), 1), np.int32), pixels=shown)
    account = Account(rho=rho_for(2.0, 1e-5))
    curator = PrivateCurator(rows, account, key=KEY, noise=Seeded(noise))
    found = curator.sum(_Shades(layout), share=1.0).value
    return audit((canaries / 255 - GREY) @ found, included, delta=1e-5).epsilon


def test_an_audit_finds_less_than_is_promised_and_finds_noise_that_is_left_out() -> None:
    assert audited(1.0) <= 2.0
    assert audited(0.0) > 2.0


# ------------------------------------------------------------------------------------------------ the estimates


def test_cosines_are_orthonormal_and_the_lowest_are_smoothest() -> None:
    shape = (5, 7, 3)
    order = _frequencies(shape)
    waves = _cosines(shape, order)
    torch.testing.assert_close(waves.T @ waves, torch.eye(105), atol=1e-5, rtol=0)
    assert waves[:, 0].std() < 1e-6
    rough = waves.T.reshape(105, *shape).diff(dim=1).square().sum((1, 2, 3))
    assert rough[:20].mean() < 0.3 * rough[-20:].mean()
    assert FREQUENCIES >= 64


def test_a_mean_image_loses_noise_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    shape, rows = (16, 16, 1), 1000.0
    down, along = np.meshgrid(np.linspace(0, 3, 16), np.linspace(0, 2, 16))
    true = (0.3 + 0.2 * np.sin(down) * np.cos(along)).ravel()
    order = _frequencies(shape)
    exact = _smoothed(Answer(value=(true - GREY) * rows), shape, order, rows).numpy()
    np.testing.assert_allclose(exact, true, atol=1e-6)
    noised = (true - GREY) * rows + rng.normal(0, 50, 256)
    found = _smoothed(Answer(value=noised, noise_std=50.0), shape, order, rows).numpy()
    assert np.abs(found - true).mean() < 0.6 * np.abs(noised / rows + GREY - true).mean()


def test_directions_stand_out_from_noise_and_their_variances_are_not_raised_by_it() -> None:
    rng = np.random.default_rng(0)
    size, rows = 60, 1000.0
    true = np.zeros(size)
    true[:3] = 5.0, 3.0, 1.5
    turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
    moments = rows * (turn * true) @ turn.T
    noise = 60.0
    answer = Answer(value=(moments + rng.normal(0, noise, (size, size))).ravel(), noise_std=noise)
    axes, variances = _directions(answer, rows, 20)
    assert axes.shape[1] == 3
    np.testing.assert_allclose(variances, true[:3], rtol=0.06)
    assert (np.abs((axes * turn[:, :3]).sum(0)) > 0.9).all()
    exact_axes, exact = _directions(Answer(value=moments.ravel()), rows, 20)
    np.testing.assert_allclose(exact, true[:3], rtol=1e-6)
    assert np.abs((exact_axes * turn[:, :3]).sum(0)).min() > 1 - 1e-9


def test_a_covariance_leans_to_what_is_usual_as_far_as_noise_hides_it() -> None:
    rng = np.random.default_rng(0)
    size, rows = 20, 1e9
    usual = np.diag(np.linspace(4.0, 0.5, size))
    change = rng.normal(0, 0.1, (size, size))
    true = usual + np.sqrt(np.outer(usual.diagonal(), usual.diagonal())) * (change + change.T) / 2

    def noisy(noise: float) -> np.ndarray:
        drawn = rng.normal(0, math.sqrt(2) * noise, (size, size))
        return np.asarray(true + (drawn + drawn.T) / 2)

    np.testing.assert_allclose(_nearer(true, usual, 0.0, rows), true, atol=1e-6)
    for noise in (0.1, 0.3):
        found = noisy(noise)
        leant = _nearer(found, usual, noise, rows)
        assert np.linalg.norm(leant - true) < 0.9 * np.linalg.norm(found - true)
        assert np.linalg.eigvalsh(leant).min() > 0
    drowned = _nearer(noisy(50.0), usual, 50.0, rows)
    assert np.linalg.norm(drowned - usual) < 0.5 * np.linalg.norm(usual)
