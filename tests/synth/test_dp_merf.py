import functools
from dataclasses import replace

import numpy as np
import pytest
import torch

import synth
from privacy.curator import Answer, Luck
from privacy.errors import RecipeError
from synth.codec import UNKNOWN, Encoded
from synth.dp_merf import (
    Drawn,
    Embedding,
    Features,
    Options,
    Teller,
    _GeneratorPlayer,
    _TellerPlayer,
    target_of,
)
from synth.image_diffusion import network_upon
from synth.image_mixture import ImageMixture
from synth.registry import check_private
from synth.train import train
from tests.contracts.test_contract import people
from tests.synth.pictures import SIDE, pictured_schema, with_pictures
from tests.synth.test_image_gan import batch, fitted, model
from tests.synth.test_image_vae import clean, shown

CPU = torch.device("cpu")


def mixture() -> ImageMixture:
    """A mixture of drawings, whose strata are teams."""
    return model()._mixture


@functools.cache
def drawn() -> Drawn:
    return Drawn(mixture(), 0, CPU)


@functools.cache
def features() -> Features:
    """What a network that told teams says of images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        teller = Teller((SIDE, SIDE, 1), mixture().space.strata)
    train(
        drawn().curator(), _TellerPlayer(teller, drawn()), columns=1, epochs=3, max_steps=300, batch_rows=100
    )
    return Features.upon(teller.requires_grad_(False), drawn())


def real(rows: int) -> Encoded:
    """Rows of the table, encoded."""
    table = with_pictures(people(rows, seed=11), seed=11, missing=0.05)
    return fitted().codec.encode(table)


def player(target: torch.Tensor, **options: object) -> _GeneratorPlayer:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = network_upon(mixture(), mixture().space.layout, 8, 1)
    return _GeneratorPlayer(network, features(), target, drawn(), Options.model_validate(options))


def test_the_network_tells_strata_and_the_mixtures_images_are_at_nought() -> None:
    images, strata = next(drawn().parts())
    there = drawn().hot[: len(images)].sum(1) > 0
    guesses = features().teller(images).argmax(1)
    assert (guesses == strata)[there].float().mean() > 0.9
    means = drawn().means(features())
    # Hardly any is shortened at the last, so they are all but at nought.
    assert means[drawn().shares > 0.01].norm(dim=1).max() < 0.05


def test_vectors_are_no_longer_than_1_whatever_an_image_shows() -> None:
    images = torch.cat([torch.rand(20, 1, SIDE, SIDE) * 2 - 1, torch.ones(1, 1, SIDE, SIDE)])
    images = torch.cat([images, -images[-1:], images[:20].sign(), 50 * images[:20]])
    strata = torch.arange(len(images)) % mixture().space.strata
    lengths = features().of(images, strata).double().norm(dim=1)
    assert lengths.max() <= 1 + 1e-6
    assert lengths.min() > 0.05


def test_one_more_row_moves_the_embedding_by_at_most_the_bound_and_none_by_no_image() -> None:
    rows = real(60)
    assert rows.pixels is not None
    rows.pixels[-1], rows.states[-1, mixture().space.image] = 255, 1
    statistic = Embedding(features(), mixture().space)
    whole = statistic.of(batch(rows)).weighted(None)
    less = statistic.of(batch(rows.take(np.arange(59)))).weighted(None)
    moved = np.linalg.norm(whole - less)
    assert 0.3 < moved <= statistic.bound + 1e-5
    assert whole.shape == (statistic.size,)
    # Neither one without an image nor one without a stratum adds anything.
    states = rows.states.copy()
    states[:30, mixture().space.image] = 0
    states[30:, mixture().space.by] = UNKNOWN
    nobody = statistic.of(batch(replace(rows, states=states)))
    assert (nobody.norms() == 0).all()
    assert (nobody.weighted(None) == 0).all()


def test_an_answer_is_believed_as_far_as_it_stands_out_from_the_noise() -> None:
    rng, rows, parts = np.random.default_rng(0), np.array([2000.0, 500.0, 0.0]), (300, 700)
    true = np.zeros((3, 1000))
    true[0, :300] = rng.normal(0, 0.02, 300)
    sums = true * rows[:, None]
    exact = target_of(Answer(value=sums.ravel()), rows, parts)
    np.testing.assert_allclose(exact.numpy(), true, atol=1e-6)
    noised = target_of(
        Answer(value=(sums + rng.normal(0, 20, sums.shape)).ravel(), noise_std=20.0), rows, parts
    ).numpy()
    plain = (sums + np.random.default_rng(1).normal(0, 20, sums.shape)) / np.maximum(rows, 20)[:, None]
    # What is noise alone is all but gone, and what is known keeps most of its length.
    assert np.linalg.norm(noised[1]) < 0.3 * np.linalg.norm(plain[1])
    kept = (noised[0, :300] @ true[0, :300]) / (true[0, :300] @ true[0, :300])
    assert 0.6 < kept < 0.95
    assert np.linalg.norm(noised[0] - true[0]) < np.linalg.norm(plain[0] - true[0])


def test_the_discrepancy_is_told_without_bias_whatever_the_size_of_a_batch() -> None:
    """Of a generator that hits its target it is 0 in the mean, though each batch misses it by chance."""
    told = player(drawn().means(features()), noise=0.0)
    rows = drawn().rows
    rng = np.random.default_rng(0)
    one = [
        float(
            told.losses(batch(rows.take(rng.choice(len(rows), 40, replace=False))), Luck.of([i]))[0].detach()
        )
        for i in range(150)
    ]
    error = np.std(one) / np.sqrt(len(one))
    assert abs(np.mean(one)) < 4 * error
    with torch.no_grad():
        lacking, hot = told._lacking(rows.take(np.arange(40)), np.random.default_rng(0))
    squared = float(told._squared(hot.T @ lacking / 40, hot.T @ lacking / 40))
    # The squared mean of a batch is not: it is as large as one batch differs from another.
    assert squared > 8 * error


def test_images_come_nearer_to_what_was_told_of_real_ones() -> None:
    statistic, space = Embedding(features(), mixture().space), mixture().space
    rows = real(1500)
    answer = statistic.of(batch(rows)).weighted(None)
    target = target_of(Answer(value=answer), drawn().shares.double().numpy() * 1500, features().parts)
    learner = player(target)
    before = learner.score(drawn().rows.take(np.arange(1000, 2000))).mean()
    trained = train(
        drawn().curator(),
        learner,
        columns=space.layout.pixels,
        epochs=100,
        max_steps=120,
        batch_rows=200,
        looks=2,
    )
    after = learner.score(drawn().rows.take(np.arange(1000, 2000))).mean()
    assert trained.steps == 120
    assert before < 0
    assert after > 0.6 * before


def test_details_are_drawn_that_a_mixture_loses() -> None:
    table = with_pictures(people(1000, seed=1), seed=1, missing=0.05)
    options = {"code": 8, "components": 12, "max_steps": 150, "batch_rows": 200, "learning_rate": 0.004}
    found = synth.fit(table, "dp-merf", schema=pictured_schema(table), options=options, seed=3, threads=1)
    assert found._model.name == "dp-merf"
    # A corner of a drawing shows noise and nothing else.
    smooth = found._model._mixture.draw(1500, np.random.default_rng(0)).pixels  # type: ignore[attr-defined]
    drawn, real = (
        shown(t)[:, 0, SIDE - 1].std() for t in (found.sample(1500, seed=0), clean(1500, seed=9)[0])
    )
    assert abs(drawn - real) < 0.65 * abs(smooth[:, SIDE - 1].std() - real)


def test_a_score_is_of_the_row_alone() -> None:
    learner, rows = player(torch.zeros_like(features().centres), noise=0.0), drawn().rows.take(np.arange(30))
    together = learner.score(rows)
    for i in range(3):
        np.testing.assert_allclose(learner.score(rows.take(np.array([i]))), together[i], rtol=1e-3, atol=1e-4)


def test_it_learns_under_privacy_and_options_out_of_range_are_refused() -> None:
    check_private("dp-merf")
    table = with_pictures(people(60, seed=1), seed=1)
    for option, value in {"noise": -0.1, "channels": 12, "batch_rows": 1}.items():
        with pytest.raises(RecipeError, match=f"options of dp-merf must be in range, however: {option}"):
            synth.fit(table, "dp-merf", schema=pictured_schema(table), options={option: value})
