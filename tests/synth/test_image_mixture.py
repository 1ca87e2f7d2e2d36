import functools
import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from scipy.stats import multivariate_normal

import synth
from privacy.curator import ExactCurator
from privacy.errors import RecipeError
from synth.codec import Codec, Encoded
from synth.em import encoded_of
from synth.image_mixture import (
    ImageMixture,
    Moments,
    Options,
    Parameters,
    _best_number,
    _code,
    _grown,
    _Scorer,
    _strata,
    cut,
)
from synth.images import images as encode
from synth.images import pixels
from synth.learn import learn
from synth.rows import EncodedRows, EncodedStore, RawRows, table_source
from synth.schema import Picture
from synth.table import labels_of
from tests.contracts.test_contract import people
from tests.synth.pictures import SIDE, pictured_schema, with_pictures
from tests.synth.tables import KEY


def pictured(rows: int, *, seed: int = 1, missing: float = 0.1) -> pa.Table:
    return with_pictures(people(rows, seed=seed), seed=seed, missing=missing)


@functools.cache
def encoded(rows: int = 600) -> tuple[ExactCurator, Codec]:
    table = pictured(rows)
    schema = pictured_schema(table)
    raw = RawRows(schema, table_source(table))
    curator = ExactCurator(raw, key=KEY, holdout=0.0)
    codec = Codec(schema, learn(schema, curator, labels_of(raw), at_least=10))
    store = EncodedStore(None, unit_is_row=True)
    return curator.recode(lambda batch: codec.code(batch, raw.dictionaries), store), codec


@functools.cache
def fitted(components: int = 12) -> ImageMixture:
    curator, codec = encoded()
    return ImageMixture.fit(curator, codec.layout, {"components": components, "code": 5}, seed=1)


def rows_of(curator: ExactCurator) -> Encoded:
    (batch,) = curator.rows("train")
    return encoded_of(batch)


def images_of(rows: Encoded) -> np.ndarray:
    assert rows.pixels is not None
    return rows.pixels[rows.states[:, 3] > 0] / 255.0


def test_the_code_is_that_of_principal_components() -> None:
    curator, codec = encoded()
    code = _code(curator, codec.layout, 4, seed=3)
    shown = images_of(rows_of(curator))
    np.testing.assert_allclose(code.mean.numpy(), shown.mean(0), atol=1e-5)
    _, _, axes = np.linalg.svd(shown - shown.mean(0), full_matrices=False)
    basis = code.basis.numpy()
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-5)
    # The first two stand out from the noise and are found to the last digit, one by one.
    assert np.abs((axes[:2] * basis[:, :2].T).sum(1)).min() > 0.999


def test_the_code_explains_as_much_as_any_of_its_size_could() -> None:
    curator, codec = encoded()
    basis = _code(curator, codec.layout, 6, seed=3).basis.numpy()
    shown = images_of(rows_of(curator))
    centred = shown - shown.mean(0)
    best = (np.linalg.svd(centred, compute_uv=False)[:6] ** 2).sum()
    assert ((centred @ basis) ** 2).sum() > 0.99 * best


def slow_joint(model: ImageMixture, rows: Encoded) -> np.ndarray:
    """log p(row, component), one at a time; the strata's column is `team`."""
    p, space = model.parameters, model.space
    layout, out = space.layout, np.empty((len(rows), p.components))
    assert rows.pixels is not None
    for i in range(len(rows)):
        z = (rows.pixels[i] / 255.0 - space.code.mean.numpy()) @ space.code.basis.numpy()
        for k in range(p.components):
            total = float(p.columns.log_weights[k])
            for c, field in enumerate(layout.fields):
                state = rows.states[i, c]
                if state >= 0:
                    total += float(p.columns.log_tables[layout.offsets[c] + state, k])
                    if field.score is not None and state == field.spread:
                        mean, std = p.columns.means[field.score, k], p.columns.stds[field.score, k]
                        normal = multivariate_normal(float(mean), float(std) ** 2)
                        total += normal.logpdf(rows.scores[i, field.score])
            if rows.states[i, space.image] > 0:
                factor = p.factors[k].double().numpy()
                normal = multivariate_normal(p.means[k].double().numpy(), factor @ factor.T)
                total += normal.logpdf(z)
            stratum = rows.states[i, space.by]
            out[i, k] = total if stratum in (-1, int(p.strata[k])) else -np.inf
    return out


def some_rows() -> Encoded:
    """Twelve rows of which parts are unknown: the team, the image, other columns."""
    rows = rows_of(encoded()[0]).take(slice(0, 12))
    states = rows.states.copy()
    states[2:5, 0] = states[4:7, 3] = states[6:9, 1] = states[8:10, 2] = -1
    return replace(rows, states=states)


def test_the_joint_density_is_that_of_a_slow_oracle() -> None:
    model, rows = fitted(), some_rows()
    assert model.space.layout.fields[model.space.by].name == "team"
    slow = slow_joint(model, rows)
    fast = _Scorer(model.space, model.parameters).joint(rows).numpy()
    possible = np.isfinite(slow)
    np.testing.assert_allclose(fast[possible], slow[possible], rtol=1e-3, atol=2e-2)
    assert (fast[~possible] < -1e20).all()
    expected = np.log(np.exp(slow - slow.max(1, keepdims=True)).sum(1)) + slow.max(1)
    np.testing.assert_allclose(model.log_prob(rows), expected, rtol=1e-3, atol=2e-2)


def test_draws_choose_components_as_likely_as_they_are() -> None:
    model = fitted()
    rows = some_rows().take(slice(3, 4))
    assert rows.states[0, 0] == -1
    slow = slow_joint(model, rows)[0]
    weights = np.exp(slow - slow.max())
    expected = [weights[model.parameters.strata.numpy() == s].sum() / weights.sum() for s in (1, 2, 3)]
    drawn = model.draw(4000, np.random.default_rng(0), given=rows)
    found = [(drawn.states[:, 0] == s).mean() for s in (1, 2, 3)]
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_moments_are_those_of_a_slow_oracle() -> None:
    curator, _ = encoded()
    model = fitted()
    statistic = Moments(model.space, model.parameters)
    (batch,) = curator.rows("train")
    rows = encoded_of(batch).take(slice(0, 40))
    part = batch.where(np.arange(len(batch)) < 40)
    slow = slow_joint(model, rows)
    posterior = np.exp(slow - slow.max(1, keepdims=True))
    posterior /= posterior.sum(1, keepdims=True)
    posterior[posterior < 0.01] = 0
    posterior /= posterior.sum(1, keepdims=True)
    codes = model.space.code.of(rows.pixels).double().numpy()  # type: ignore[arg-type]
    codes[rows.states[:, 3] == 0] = 0
    found = statistic.of(part).weighted(None)
    components = model.parameters.components
    of_columns, sums, squares = np.split(found, np.cumsum([statistic.entries, 5]) * components)
    np.testing.assert_allclose(of_columns[:components], posterior.sum(0), atol=0.05)
    np.testing.assert_allclose(sums.reshape(components, 5), posterior.T @ codes, atol=0.05)
    outer = np.einsum("nk,ni,nj->kij", posterior, codes, codes)
    np.testing.assert_allclose(squares.reshape(components, 5, 5), outer, atol=0.05)


def test_growing_explains_rows_ever_better_that_it_learns_from() -> None:
    curator, _ = encoded()
    space, rows = fitted().space, rows_of(curator)
    options = Options.model_validate({"code": 5, "shrinkage": 1.0})
    grown = list(_grown(curator, space, options, 24, split="train"))
    assert [p.components for p in grown] == sorted({p.components for p in grown})
    assert grown[0].components == 3
    fits = [_Scorer(space, p).log_prob(rows).mean() for p in grown]
    assert fits[-1] > fits[0] + 0.5
    assert all(b > a - 0.05 for a, b in itertools.pairwise(fits))
    # What is taken is not the largest that could be: rows that were not learned from decide.
    assert _best_number(curator, space, options) <= 30


def covariance(p: Parameters, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and weight of some components together."""
    weights = p.columns.log_weights.double().exp().numpy()[which]
    means, factors = p.means.double().numpy()[which], p.factors.double().numpy()[which]
    total = weights.sum()
    mean = weights @ means / total
    spread = np.einsum("k,kij->ij", weights / total, factors @ factors.transpose(0, 2, 1))
    away = means - mean
    return mean, spread + np.einsum("k,ki,kj->ij", weights / total, away, away), total


def test_halves_have_together_the_moments_of_what_was_cut() -> None:
    model = fitted(3)
    before = model.parameters
    after = cut(model.space, before, 3)
    assert after.components == 6
    for k in range(3):
        own = np.flatnonzero(after.strata.numpy() == int(before.strata[k]))
        assert len(own) == 2
        for one, two in zip(covariance(before, np.array([k])), covariance(after, own), strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-4)
    # Nothing is cut that would be left with hardly any rows.
    few = replace(model.space, layout=replace(model.space.layout, rows=50.0))
    assert cut(few, before, 3).components == 3


def test_drawn_images_differ_as_much_as_real_ones_and_have_no_noise() -> None:
    curator, _ = encoded()
    model = fitted()
    drawn = model.draw(3000, np.random.default_rng(0))
    real, made = images_of(rows_of(curator)), images_of(drawn)
    np.testing.assert_allclose(made.mean(0), real.mean(0), atol=0.04)
    np.testing.assert_allclose(made.std(0), real.std(0), atol=0.06)
    # A drawn image is the image of its code, but for what is cut off below black.
    code = model.space.code
    again = (code.of(drawn.pixels) @ code.basis.T + code.mean).numpy()  # type: ignore[arg-type]
    shown = drawn.states[:, 3] > 0
    assert np.abs(again[shown].clip(0, 1) - made).mean() < 0.02


def test_the_column_that_explains_images_makes_the_strata() -> None:
    curator, codec = encoded()
    code = _code(curator, codec.layout, 4, seed=0)
    assert _strata(curator, codec.layout, code, None) == 0
    assert _strata(curator, codec.layout, code, "place") == 1
    order = np.random.default_rng(5).permutation(600)
    table = pictured(600)
    table = table.set_column(3, "photo", table.column("photo").take(pa.array(order)))
    schema = pictured_schema(table)
    raw = RawRows(schema, table_source(table))
    other = ExactCurator(raw, key=KEY, holdout=0.0)
    codec = Codec(schema, learn(schema, other, labels_of(raw), at_least=10))
    store = EncodedStore(None, unit_is_row=True)
    unrelated = other.recode(lambda batch: codec.code(batch, raw.dictionaries), store)
    assert _strata(unrelated, codec.layout, _code(unrelated, codec.layout, 4, seed=0), None) == -1


@pytest.mark.parametrize(
    ("options", "said"),
    [({"by": "height"}, "'team', 'place'"), ({"by": "town"}, "'town' is none")],
)
def test_strata_by_a_column_that_has_none_are_refused(options: Mapping[str, Any], said: str) -> None:
    table = pictured(200)
    with pytest.raises(RecipeError, match=said):
        synth.fit(table, "image-mixture", schema=pictured_schema(table), options=options, threads=1)


def test_two_columns_of_images_are_refused() -> None:
    table = pictured(200)
    table = table.append_column("other", table.column("photo"))
    with pytest.raises(RecipeError, match="one column of images can be learned, however: there are 2"):
        synth.fit(table, "image-mixture", schema=pictured_schema(table), threads=1)


def test_rows_in_pieces_of_any_size_give_the_same_sums() -> None:
    curator, _ = encoded()
    model = fitted()
    (whole,) = curator.rows("train")
    arrays = {"unit": whole.unit, "holdout": np.zeros(len(whole), bool), **whole.columns}
    pieces = EncodedRows(dict(arrays), unit_is_row=True).batches(size=100)
    statistic = Moments(model.space, model.parameters)
    total = sum(statistic.of(piece).weighted(None) for piece in pieces)
    np.testing.assert_allclose(total, statistic.of(whole).weighted(None), rtol=1e-3, atol=0.05)
    assert torch.isfinite(torch.from_numpy(total)).all()
    assert total.shape == (statistic.size,)
    assert model.space.layout.pixels == SIDE * SIDE


def test_a_stratum_of_one_row_is_no_picture_of_this_person() -> None:
    rng = np.random.default_rng(0)
    shown = rng.random((400, 6)) @ rng.random((6, 100)) / 3 * 255 + rng.normal(0, 3, (400, 100))
    pictures = np.clip(shown, 0, 255).astype(np.uint8).reshape(400, 10, 10, 1)
    label = np.array(["a", "b"])[rng.integers(0, 2, 400)].astype(object)
    pictures[label == "b"] = 255 - pictures[label == "b"]
    # One person without a label, whose picture is like no other.
    label[7] = None
    pictures[7] = 0
    pictures[7, 3:6, 3:6] = 255
    table = pa.table({"image": encode(pictures, note=None), "label": pa.array(label, pa.string())})
    model = synth.fit(table, "image-mixture", seed=0)
    picture = Picture(width=10, height=10, mode="L")

    def alike(drawn: pa.Table) -> np.ndarray:
        made = pixels(drawn.column("image").combine_chunks(), picture).reshape(len(drawn), -1)
        return np.array([np.corrcoef(row, pictures[7].ravel())[0, 1] for row in made])

    assert np.quantile(alike(model.sample(500, seed=1, given={"label": None})), 0.9) < 0.5
    whole = model.sample(20_000, seed=2)
    # Rows without a label are drawn as often as there are, and look like all others.
    assert 20 < whole.column("label").null_count < 110
    assert np.quantile(alike(whole.filter(pc.is_null(whole.column("label")))), 0.9) < 0.5
