import functools

import numpy as np
import pyarrow as pa
import pytest
import torch

import synth
from privacy.curator import Batch, Luck
from privacy.dpsgd import Layers
from privacy.errors import RecipeError, UsageError
from synth.codec import Layout, Pixels
from synth.image_vae import FIXED_LOG_STD, Network, Options, _Learner, images_of, log_likelihoods, pixels_of
from synth.images import images, missing, pixels
from synth.registry import check_private, descent_of
from synth.table import TableModel
from tests.contracts.test_contract import people
from tests.contracts.test_images import QUICK
from tests.synth.pictures import SIDE, TEMPLATES, drawings, pictured_schema, seen, with_pictures

SHAPE = (SIDE, SIDE, 1)


@functools.cache
def fitted(name: str = "image-vae") -> TableModel[pa.Table]:
    table = with_pictures(people(1000, seed=1), seed=1, missing=0.05)
    return synth.fit(table, name, schema=pictured_schema(table), options=QUICK, seed=3, threads=1)


def shown(table: pa.Table) -> np.ndarray:
    column = pictured_schema(table)["photo"]
    assert column.image is not None
    return pixels(table.column("photo").combine_chunks(), column.image).astype(float)


def clean(rows: int, *, seed: int) -> tuple[pa.Table, np.ndarray]:
    """Rows whose images are all there, and the place of each one's template."""
    table = people(rows, seed=seed)
    which = np.array(["abc".index(t) for t in table.column("team").to_pylist()])
    drawn = drawings(which, np.random.default_rng(seed))
    return table.append_column("photo", images(drawn, note=None)), which


@pytest.mark.parametrize("shape", [(6, 6, 1), (5, 9, 3), (28, 28, 1), (64, 40, 3), (1, 1, 1)])
@pytest.mark.parametrize("log_std", [None, -3.0])
def test_images_of_any_size_become_codes_and_images_again(
    shape: tuple[int, int, int], log_std: float | None
) -> None:
    network = Network(shape, 8, 1, 5, log_std)
    values = np.random.default_rng(0).integers(0, 256, (3, shape[0] * shape[1] * shape[2]), np.uint8)
    turned = images_of(values, shape)
    assert turned.shape == (3, shape[2], *shape[:2])
    np.testing.assert_array_equal(pixels_of(turned), values)
    mean, stds = network.encode(turned)
    assert mean.shape == stds.shape == (3, 5)
    assert network.decode(mean)[0].shape == turned.shape


def test_the_levels_of_a_pixel_have_a_probability_of_one_together() -> None:
    mean, log_scale = torch.tensor([-1.4, -0.2, 0.99]), torch.tensor([-5.0, -1.0, -3.0])
    levels = images_of(np.arange(256, dtype=np.uint8)[:, None], (1, 1, 1))
    for m, s in zip(mean, log_scale, strict=True):
        total = log_likelihoods(levels, m.expand_as(levels), s.expand_as(levels)).exp().sum()
        assert abs(float(total) - 1) < 1e-3


def test_what_is_drawn_again_shows_what_was_shown() -> None:
    table, which = clean(200, seed=5)
    for name in ("image-vae", "autoencoder"):
        again = fitted(name).reconstruct(table)
        assert (seen(shown(again)) == which).mean() > 0.97
        # Much nearer than any image of the same template is, which differs in brightness.
        error = np.abs(shown(again) - shown(table)).mean()
        others = np.abs(TEMPLATES[which][..., None] - shown(table)).mean()
        assert error < 0.8 * others
        codes = fitted(name).embed(table)
        assert codes.shape == (200, QUICK["code"])
        apart = np.linalg.norm(codes[which == 0].mean(0) - codes[which == 1].mean(0))
        assert apart > codes[which == 0].std(0).mean()


def test_a_row_without_an_image_has_no_code() -> None:
    table = with_pictures(people(50, seed=4), seed=4, missing=0.5)
    gone = missing(table.column("photo"))
    codes = fitted().embed(table)
    np.testing.assert_array_equal(np.isnan(codes).all(1), gone)
    np.testing.assert_array_equal(missing(fitted().reconstruct(table).column("photo")), gone)


def test_strange_images_are_less_likely() -> None:
    table, _ = clean(150, seed=6)
    turned = shown(table).astype(np.uint8)[:, ::-1]
    odd = table.set_column(3, "photo", images(255 - turned, note=None))
    for name in ("image-vae", "autoencoder"):
        assert np.quantile(fitted(name).log_prob(odd), 0.95) < np.quantile(fitted(name).log_prob(table), 0.05)


def test_noise_is_taken_out() -> None:
    table, which = clean(60, seed=7)
    rng = np.random.default_rng(1)
    spoiled = np.clip(shown(table) + rng.normal(0, 50, shown(table).shape), 0, 255).astype(np.uint8)
    dirty = table.set_column(3, "photo", images(spoiled, note=None)).append_column("more", pa.array(which))
    mended = fitted().denoise(dirty, noise=50)
    assert mended.column_names == dirty.column_names
    assert mended.drop_columns(["photo"]).equals(dirty.drop_columns(["photo"]))
    before, after = (
        np.sqrt(((x - shown(table)) ** 2).mean()) for x in (spoiled.astype(float), shown(mended))
    )
    assert after < 0.6 * before
    assert mended.equals(fitted().denoise(dirty, noise=50))


def test_small_images_are_enhanced_by_what_images_look_like() -> None:
    table, which = clean(60, seed=8)
    small = shown(table).reshape(-1, SIDE // 2, 2, SIDE // 2, 2, 1).mean((2, 4))
    rough = small.repeat(2, 1).repeat(2, 2)
    shrunk = table.set_column(3, "photo", images(rough.astype(np.uint8), note=None))
    # Nothing else tells what it was.
    alone = shrunk.select(["photo"])
    larger = shown(fitted().enhance(alone, scale=2))
    before, after = (np.sqrt(((x - shown(table)) ** 2).mean()) for x in (rough, larger))
    assert after < 0.6 * before
    assert (seen(larger) == which).mean() > 0.95
    assert fitted().enhance(shrunk, scale=2).column("team").equals(shrunk.column("team"))


def test_what_is_missing_stays_missing_and_what_is_wrong_is_refused() -> None:
    table = with_pictures(people(30, seed=4), seed=4, missing=0.5)
    mended = fitted().denoise(table)
    np.testing.assert_array_equal(missing(mended.column("photo")), missing(table.column("photo")))
    with pytest.raises(UsageError, match="noise must be above 0 and at most 255 levels, however: it is 0"):
        fitted().denoise(table, noise=0)
    with pytest.raises(UsageError, match="scale must be at least 2, however: it is 1"):
        fitted().enhance(table, scale=1)
    mixture = synth.fit(table, "image-mixture", schema=pictured_schema(table), threads=1)
    with pytest.raises(UsageError, match="can mend images, however: this is image-mixture; fit an image-vae"):
        mixture.denoise(table)
    with pytest.raises(UsageError, match="with codes, however: this is image-mixture"):
        mixture.embed(table)


def test_a_descents_clipped_sum_is_that_of_gradients_one_by_one() -> None:
    layout = Layout(fields=(), rows=6, images=(Pixels(field=0, first=0, shape=SHAPE),))
    rng = np.random.default_rng(0)
    batch = Batch(
        unit=np.arange(6, dtype=np.uint64),
        columns={
            "states": np.array([[1], [1], [0], [1], [1], [1]], np.int32),
            "scores": np.zeros((6, 0), np.float32),
            "pixels": rng.integers(0, 256, (6, SIDE * SIDE), np.uint8),
        },
    )
    for log_std in (None, FIXED_LOG_STD):
        torch.manual_seed(1)
        learner = _Learner(Network(SHAPE, 8, 1, 3, log_std), layout, 1.0, Options.model_validate({}))
        layers = Layers(learner)
        layers.check(learner, batch)
        parameters = [p for g in learner.optimizer.param_groups for p in g["params"]]
        names = {id(p): n.rpartition(".")[0] for n, p in learner.module.named_parameters()}
        groups = list(dict.fromkeys(names[id(p)] for p in parameters))
        total = np.zeros(layers.size)
        losses = learner.losses(batch, Luck.of([5]))
        for i in range(6):
            slopes = torch.autograd.grad(losses[i], parameters, retain_graph=True)
            norms = dict.fromkeys(groups, 0.0)
            for p, slope in zip(parameters, slopes, strict=True):
                norms[names[id(p)]] += float(slope.double().square().sum())
            each = [
                slope.double().flatten()
                * min(1.0, 1 / (len(groups) * max(norms[names[id(p)]], 1e-30)) ** 0.5)
                for p, slope in zip(parameters, slopes, strict=True)
            ]
            total += torch.cat(each).numpy()
        clipped = layers.clipped(learner, batch, np.arange(6), Luck.of([5]))
        np.testing.assert_allclose(clipped, total, atol=0.003 * np.abs(total).max())
        # The row without an image moves nothing.
        alone = layers.clipped(learner, batch.take(np.array([2])), np.zeros(1, np.int64), Luck.of([5]))
        assert np.abs(alone).max() == 0


def test_codes_that_are_about_normal_are_learned_under_privacy_and_others_are_not() -> None:
    check_private("image-vae")
    planned = descent_of("image-vae", {"epochs": 2}, 50_000.0)
    assert planned is not None
    assert planned[0].steps == 98
    assert 0 < planned[1] < 1
    with pytest.raises(RecipeError, match="max_components: 9"):
        descent_of("image-vae", {"max_components": 9}, 50_000.0)
    with pytest.raises(RecipeError, match="must learn from noised answers"):
        check_private("autoencoder")


def test_codes_between_two_images_lead_from_one_to_the_other() -> None:
    table, which = clean(40, seed=8)
    drawn = shown(table).astype(np.uint8).reshape(-1, *SHAPE)
    first, second = drawn[which == 0][:3], drawn[which == 1][:3]
    for name in ("image-vae", "autoencoder"):
        lines = fitted(name).between(first, second, steps=5)
        assert lines is not None
        assert lines.shape == (3, 5, *SHAPE)
        assert (seen(lines[:, 0]) == 0).all()
        assert (seen(lines[:, -1]) == 1).all()
        # Each step leads away from the beginning.
        gone = np.abs(lines.astype(float) - lines[:, :1]).mean((2, 3, 4))
        assert (np.diff(gone, axis=1) > 0).mean() > 0.9
        trained = fitted(name).trained
        assert trained is not None
        assert trained.looks


def test_only_models_whose_codes_are_images_have_images_between() -> None:
    table, _ = clean(60, seed=8)
    drawn = shown(table).astype(np.uint8).reshape(-1, *SHAPE)
    linear = synth.fit(
        table, "image-mixture", schema=pictured_schema(table), options={"code": 5, "components": 3}
    )
    lines = linear.between(drawn[:2], drawn[2:4], steps=3)
    assert lines is not None
    halfway = (lines[:, 0].astype(float) + lines[:, 2]) / 2
    assert np.abs(lines[:, 1] - halfway).mean() < 4  # but for what is cut at black and white
    assert linear.trained is None
    plain = synth.fit(people(200, seed=1), "gmm", options={"components": 2})
    assert plain.between(drawn[:2], drawn[2:4]) is None
