import functools

import numpy as np
import pyarrow as pa
import pytest
import torch

import synth
from privacy.curator import Batch, Luck
from privacy.dpsgd import Layers
from privacy.errors import RecipeError
from synth.codec import UNKNOWN, Encoded, Field, Layout, Pixels
from synth.image_diffusion import ImageDiffusion, Network, Options, _Learner, told_of, usual
from synth.image_mixture import ImageMixture
from synth.registry import check_private, descent_of
from synth.table import TableModel
from tests.contracts.test_contract import people
from tests.contracts.test_images import OPTIONS
from tests.synth.pictures import SIDE, pictured_schema, seen, with_pictures
from tests.synth.test_image_vae import clean, images, shown

NOTHING = torch.iinfo(torch.int64).max


@functools.cache
def fitted() -> TableModel[pa.Table]:
    table = with_pictures(people(1000, seed=1), seed=1, missing=0.05)
    options = OPTIONS["image-diffusion"]
    return synth.fit(
        table, "image-diffusion", schema=pictured_schema(table), options=options, seed=3, threads=1
    )


def model() -> ImageDiffusion:
    found = fitted()._model
    assert isinstance(found, ImageDiffusion)
    return found


@pytest.mark.parametrize("shape", [(6, 6, 1), (5, 9, 3), (28, 28, 1), (40, 64, 3), (1, 1, 1)])
def test_images_of_any_size_pass_and_a_new_network_knows_the_mean_alone(shape: tuple[int, int, int]) -> None:
    network = Network(shape, 8, 1, (2, 3), 1)
    x = torch.randn(4, shape[2], *shape[:2])
    values, scores = torch.tensor([[0, 1]] * 4), torch.zeros(4, 1)
    for noise in (0.1, 3.0):
        found = network(x, torch.full((4,), noise), values, scores)
        # It begins with the best linear guess, for spread 1 about 0 (EDM's c_skip).
        torch.testing.assert_close(found, x / (1 + noise**2), rtol=1e-4, atol=1e-2 * noise)


def test_what_is_told_hides_what_is_unknown_and_all_of_some_rows() -> None:
    rows = Encoded(states=np.array([[1, UNKNOWN], [0, 2]], np.int32), scores=np.ones((2, 1), np.float32))
    values, scores = told_of(rows, torch.tensor([False, True]))
    assert values.tolist() == [[1, NOTHING], [NOTHING, NOTHING]]
    assert scores.tolist() == [[1.0], [0.0]]


def test_mean_and_spread_are_those_of_the_images() -> None:
    table = with_pictures(people(1000, seed=1), seed=1, missing=0.05).drop_null()
    real = shown(table) / 127.5 - 1
    mean, spread = usual(model()._layout, model()._mixture)
    np.testing.assert_allclose(mean.numpy()[0], real.mean(0)[..., 0], atol=0.02)
    # The linear code leaves a part of the noise.
    assert 0.8 < float(spread) / np.sqrt(real.var(0).mean()) < 1.02


def check_details(mixture: ImageMixture, fitted: TableModel[pa.Table]) -> None:
    """Images of a model that starts from a mixture's have the details that the mixture loses."""
    table, _ = clean(1500, seed=9)
    real = shown(table)
    smooth = mixture.draw(1500, np.random.default_rng(0)).pixels
    assert smooth is not None
    drawn = shown(fitted.sample(1500, seed=0))
    corner = (slice(None), 0, SIDE - 1)  # noise and nothing else, but for slanted lines' neighbourhood
    want = real[corner].std()
    assert abs(drawn[corner].std() - want) < 0.35 * want
    assert abs(drawn[corner].std() - want) < abs(smooth.reshape(real.shape)[corner].std() - want)


def test_details_are_drawn_that_a_mixture_loses() -> None:
    check_details(model()._mixture, fitted())


def test_guidance_weighs_what_the_network_is_told() -> None:
    one = model()
    rows = one._mixture.draw(5, np.random.default_rng(0))
    x = torch.randn(5, 1, SIDE, SIDE)
    with torch.no_grad():
        guided = {}
        for g in (0.0, 1.0, 3.0):
            one_of = ImageDiffusion(
                one._layout, one._network, one._mixture, one._options.model_copy(update={"guidance": g})
            )
            guided[g] = one_of._guided(rows, x, 0.4)
    torch.testing.assert_close(
        guided[3.0], guided[0.0] + 3 * (guided[1.0] - guided[0.0]), rtol=1e-3, atol=1e-4
    )
    assert not torch.equal(guided[0.0], guided[1.0])


def test_noise_is_taken_out_and_small_images_are_enhanced() -> None:
    table, which = clean(100, seed=7)
    rng = np.random.default_rng(1)
    spoiled = np.clip(shown(table) + rng.normal(0, 50, shown(table).shape), 0, 255).astype(np.uint8)
    mended = fitted().denoise(table.set_column(3, "photo", images(spoiled, note=None)), noise=50)
    before, after = (
        np.sqrt(((x - shown(table)) ** 2).mean()) for x in (spoiled.astype(float), shown(mended))
    )
    assert after < 0.7 * before
    small = shown(table).reshape(-1, SIDE // 2, 2, SIDE // 2, 2, 1).mean((2, 4))
    rough = small.repeat(2, 1).repeat(2, 2)
    shrunk = table.set_column(3, "photo", images(rough.astype(np.uint8), note=None))
    larger = shown(fitted().enhance(shrunk, scale=2))
    again = larger.reshape(-1, SIDE // 2, 2, SIDE // 2, 2, 1).mean((2, 4))
    # Squares keep their means, but for what is cut at black.
    assert np.median(np.abs(again - small)) < 3
    before, after = (np.sqrt(((x - shown(table)) ** 2).mean()) for x in (rough, larger))
    assert after < 0.8 * before
    assert (seen(larger) == which).mean() > 0.95


def test_gradients_are_told_row_by_row_under_one_noise_or_several() -> None:
    layout = Layout(
        fields=(
            Field(name="photo", rates=(0.1, 0.9), score=None),
            Field(name="x", rates=(0.0, 1.0), score=0),
        ),
        rows=6,
        images=(Pixels(field=0, first=0, shape=(SIDE, SIDE, 1)),),
    )
    batch = Batch(
        unit=np.arange(6, dtype=np.uint64),
        columns={
            "states": np.array([[1, 1], [1, 1], [0, 1], [1, 1], [1, 1], [1, 1]], np.int32),
            "scores": np.zeros((6, 1), np.float32),
            "pixels": np.random.default_rng(0).integers(0, 256, (6, SIDE * SIDE), np.uint8),
        },
    )
    torch.manual_seed(1)
    network = Network((SIDE, SIDE, 1), 8, 1, (2, 2), 1)
    spread = {}
    for noises in (1, 16):
        learner = _Learner(network, layout, Options.model_validate({"multiplicity": noises}))
        Layers(learner).check(learner, batch)
        losses = learner.losses(batch, Luck.of([3]))
        assert losses[2] == 0
        assert (losses[[0, 1, 3, 4, 5]] > 0).all()
        tries = torch.stack([learner.losses(batch, Luck.of([s])).detach() for s in range(30)])
        spread[noises] = float(tries[:, 0].std())
    assert spread[16] < 0.5 * spread[1]


def test_steps_are_planned_from_public_numbers_and_no_search_is_asked_for_under_privacy() -> None:
    check_private("image-diffusion")
    few, many = (descent_of("image-diffusion", {"epochs": n}, 50_000.0) for n in (3, 6))
    assert few is not None
    assert many is not None
    assert many[0].steps == pytest.approx(2 * few[0].steps, abs=1)
    assert 0 < few[1] < 1
    with pytest.raises(RecipeError, match="components: 5"):
        descent_of("image-diffusion", {"components": 5}, 1_000.0)
