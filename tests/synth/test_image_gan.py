import functools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

import synth
from privacy.curator import Batch, Luck, move
from privacy.dpsgd import Layers
from privacy.errors import RecipeError, UsageError
from synth.codec import UNKNOWN, Encoded
from synth.image_diffusion import Network
from synth.image_gan import (
    CUT,
    FEW,
    MOVED,
    Critic,
    ImageGan,
    Options,
    _CriticPlayer,
    _Drawn,
    _Game,
    _GeneratorPlayer,
    _Judge,
    augmented,
    generated,
    share_of,
)
from synth.image_vae import images_of
from synth.registry import check_private, descent_of
from synth.table import TableModel
from tests.contracts.test_contract import people
from tests.contracts.test_images import OPTIONS
from tests.synth.pictures import SIDE, pictured_schema, seen, with_pictures
from tests.synth.test_image_diffusion import check_details
from tests.synth.test_image_vae import shown


@functools.cache
def fitted() -> TableModel[pa.Table]:
    table = with_pictures(people(1000, seed=1), seed=1, missing=0.05)
    options = {**OPTIONS["image-gan"], "components": 12}
    return synth.fit(table, "image-gan", schema=pictured_schema(table), options=options, seed=3, threads=1)


def model() -> ImageGan:
    found = fitted()._model
    assert isinstance(found, ImageGan)
    return found


def game(**options: float) -> _Game:
    """The two networks before their first step, beside a fitted mixture."""
    sizes, shape = tuple(f.states for f in model()._layout.fields), (SIDE, SIDE, 1)
    scores = len(model()._layout.scored)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = Network(shape, 8, 1, sizes, scores), Critic(shape, 8, sizes, scores)
    chosen = Options.model_validate(options)
    return _Game(
        generator=networks[0],
        critic=networks[1],
        mixture=model()._mixture,
        drawn_rows=_Drawn(model()._mixture, 0),
        options=chosen,
        augment=chosen.augment or 0.0,
    )


def some(rows: int) -> Encoded:
    return model()._mixture.draw(rows, np.random.default_rng(0))


def batch(rows: Encoded) -> Batch:
    assert rows.pixels is not None
    columns = {"states": rows.states, "scores": rows.scores, "pixels": rows.pixels}
    return Batch(unit=np.arange(len(rows), dtype=np.uint64), columns=columns)


@pytest.mark.parametrize("shape", [(6, 6, 1), (5, 9, 3), (28, 28, 1), (32, 32, 3), (40, 64, 3), (1, 1, 1)])
def test_images_of_any_size_pass_and_a_new_generator_leaves_the_mixtures(shape: tuple[int, int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, int(np.prod(shape))), np.uint8)
    rows = Encoded(
        states=np.array([[0, 1]] * 4, np.int32), scores=np.zeros((4, 1), np.float32), pixels=pixels
    )
    found = generated(Network(shape, 8, 1, (2, 3), 1), rows, np.random.default_rng(0), 0.5)
    torch.testing.assert_close(found, images_of(pixels, shape))
    values = torch.from_numpy(rows.states).long()
    said = Critic(shape, 8, (2, 3), 1)(found, values, torch.zeros(4, 1))
    assert said.shape == (4,)
    assert said.isfinite().all()


def test_the_critic_says_of_a_row_the_same_alone_and_together() -> None:
    one, rows = game().critic, some(5)
    assert rows.pixels is not None
    images = images_of(rows.pixels, (SIDE, SIDE, 1))
    values, scores = torch.from_numpy(rows.states).long(), torch.from_numpy(rows.scores)
    together = one(images, values, scores)
    for i in range(5):
        torch.testing.assert_close(
            one(images[i : i + 1], values[i : i + 1], scores[i : i + 1])[0], together[i]
        )
    # And it is told the columns.
    other = values.clone()
    other[:, 0] = values[:, 0] % 3 + 1
    assert not torch.isclose(one(images, other, scores), together).any()


def luck_of(chosen: int, *, rest: float = 0.5) -> Tensor:
    """Luck by which one of brightness, place and a cut is changed."""
    luck = torch.full((1, 10), rest)
    luck[0, :3] = 0.9
    luck[0, chosen] = 0.0
    return luck


def test_augmented_images_are_moved_to_the_edge_cut_and_brightened_each_by_its_own_luck() -> None:
    images = torch.rand(1, 2, 16, 24) * 2 - 1
    assert augmented(images, torch.zeros(1, 10), 0.0) is images
    torch.testing.assert_close(augmented(images, luck_of(0, rest=0.0) + 1, 0.5), images)
    luck = luck_of(1)
    luck[0, 6:8] = torch.tensor([0.9999, 0.0])
    down, right = 16 * MOVED, 24 * MOVED
    moved = augmented(images, luck, 0.5)
    assert torch.equal(
        moved[..., : 16 - int(down), int(right) :], images[..., int(down) :, : 24 - int(right)]
    )
    assert torch.equal(moved[..., -1, 5], images[..., -1, 5 - int(right)])
    cut = augmented(images, luck_of(2), 0.5)
    assert (cut[..., 4:12, 6:18] == 0).all()
    assert int((cut == 0).sum()) == 2 * 16 * 24 * CUT**2
    bright = luck_of(0)
    bright[0, 3] = 0.75
    torch.testing.assert_close(augmented(images, bright, 0.5), images + 0.25)
    bright[0, 3:6] = torch.tensor([0.5, 0.5, 0.0])
    mean = images.mean()
    torch.testing.assert_close(augmented(images, bright, 0.5), mean + 0.5 * (images - mean))


def test_gradients_pass_augmentation_and_no_image_depends_on_another() -> None:
    torch.manual_seed(0)
    images, luck = torch.rand(6, 1, 7, 5, requires_grad=True), torch.rand(6, 10)
    found = augmented(images, luck, 0.8)
    for i in range(6):
        alone = augmented(images[i : i + 1], luck[i : i + 1], 0.8)
        torch.testing.assert_close(alone[0], found[i])
    (slope,) = torch.autograd.grad(found.sum(), images)
    assert (slope.abs().sum((1, 2, 3)) > 0).all()


def test_fewer_images_are_augmented_the_more_there_are() -> None:
    assert share_of(10) == share_of(FEW) == 0.5
    assert share_of(10 * FEW) == pytest.approx(0.05)


def test_losses_are_hinges_of_the_row_and_of_a_drawn_one_and_nothing_without_an_image() -> None:
    one, rows = game(penalty=0.0), some(40)
    rows = replace(rows, states=rows.states.copy())
    rows.states[:4, one.image] = 0
    player = _CriticPlayer(one)
    with torch.no_grad():
        for layer in (one.critic.out, one.critic.cells.cells, one.critic.cells.scores):
            for parameter in layer.parameters():
                parameter.zero_()
    undecided = player.losses(batch(rows), Luck.of([1]))
    torch.testing.assert_close(
        undecided, torch.from_numpy(np.where(rows.states[:, one.image] > 0, np.float32(2), np.float32(0)))
    )
    with torch.no_grad():
        one.critic.out.bias += 3
    # Sure of real ones costs nothing, sure of drawn ones is wrong by one more than it is sure.
    wrong = player.losses(batch(rows), Luck.of([1]))
    torch.testing.assert_close(wrong, 2 * undecided)


def test_the_penalty_is_the_squared_slope_at_images_whatever_their_units() -> None:
    one, rows = game(augment=0.0), some(3)
    one.generator.spread.fill_(0.5)
    player = _CriticPlayer(one)
    assert rows.pixels is not None
    images = images_of(rows.pixels, (SIDE, SIDE, 1))
    found = player._steepness(images, rows, np.zeros((3, 10), np.float32))
    slopes = torch.zeros(3, SIDE * SIDE)
    values, scores = torch.from_numpy(rows.states).long(), torch.from_numpy(rows.scores)
    with torch.no_grad():
        for i in range(SIDE * SIDE):
            step = torch.zeros(1, 1, SIDE, SIDE)
            step.view(-1)[i] = 1e-3
            slopes[:, i] = (
                one.critic(images + step, values, scores) - one.critic(images - step, values, scores)
            ) / 2e-3
    torch.testing.assert_close(found, 0.25 * SIDE**2 * slopes.square().sum(1), rtol=0.02, atol=1e-6)


def test_each_player_moves_its_own_network_alone() -> None:
    one = game()
    critic, generator = _CriticPlayer(one), _GeneratorPlayer(one, 0)

    def weights() -> list[Tensor]:
        return [
            torch.cat([p.detach().flatten().clone() for p in m.parameters()])
            for m in (one.critic, one.generator)
        ]

    before = weights()
    move(critic, critic.losses(batch(some(20)), Luck.of([1])).mean())
    after = weights()
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    move(generator, generator.loss(20))
    last = weights()
    assert torch.equal(after[0], last[0])
    assert not torch.equal(after[1], last[1])


def test_a_rows_gradient_is_of_the_row_and_its_own_luck_alone() -> None:
    one, rows = game(penalty=0.0, augment=0.5), some(6)
    rows = replace(rows, states=rows.states.copy())
    rows.states[2, one.image] = 0
    player = _CriticPlayer(one)
    Layers(player).check(player, batch(rows))
    for n in range(1, 6):
        alone = player.losses(batch(rows.take(np.arange(n))), Luck.of([4]))
        torch.testing.assert_close(alone, player.losses(batch(rows), Luck.of([4]))[:n])
    assert player.losses(batch(rows), Luck.of([4]))[2] == 0
    # The penalty looks at some of the rows alone, and at slopes of slopes.
    punished = _CriticPlayer(game(augment=0.0))
    with pytest.raises(UsageError, match="must read rows along its first axis, alone"):
        Layers(punished).check(punished, batch(some(40)))


def test_beside_a_row_stands_one_of_its_stratum_that_its_luck_chooses() -> None:
    mixture = model()._mixture
    drawn, rows = _Drawn(mixture, 0), some(200)
    found = drawn.beside(rows, np.random.default_rng(0).random(200, np.float32))
    strata = mixture.space.strata_of(rows.states)
    assert mixture.space.strata > 2
    np.testing.assert_array_equal(mixture.space.strata_of(found.states), strata)
    assert mixture.space.shown(found.states).all()
    for i in (0, 7):
        one = drawn.beside(rows.take(np.array([i])), np.array([0.3], np.float32))
        np.testing.assert_array_equal(
            one.pixels[0], drawn.beside(rows, np.full(200, 0.3, np.float32)).pixels[i]
        )
    # Nothing is known of the stratum: any of all rows.
    rows.states[:, mixture.space.by] = UNKNOWN
    for luck in (0.0, 1 - 2.0**-24):
        assert len(drawn.beside(rows, np.full(200, luck, np.float32))) == 200


def test_the_generator_moves_once_for_several_steps_of_the_critic() -> None:
    player = _GeneratorPlayer(game(critic_steps=3), 0)
    assert [player.loss(8) is not None for _ in range(7)] == [False, False, True] * 2 + [False]
    before = [p.clone() for p in player._game.generator.parameters()]
    move(player, player.loss(8))
    assert all(torch.equal(p, q) for p, q in zip(before, player._game.generator.parameters(), strict=True))


def test_the_judge_prefers_images_that_vary_as_unseen_ones_do() -> None:
    rng = np.random.default_rng(0)
    unseen = np.clip(128 + rng.normal(0, 20, (500, 36)), 0, 255).astype(np.uint8)
    rows = Encoded(states=np.ones((500, 1), np.int32), scores=np.zeros((500, 0), np.float32), pixels=unseen)

    def score(spread: float, shift: float = 0.0) -> float:
        drawn = torch.from_numpy(rng.normal(shift, spread * 20 / 127.5, (1000, 36)).astype(np.float32))
        apart = float(torch.cdist(drawn, drawn).sum()) / (1000 * 999)
        return float(_Judge(drawn, 0, apart).score(rows).mean())

    assert score(1.0) > max(score(0.7), score(1.4), score(0.01), score(1.0, 0.1))
    rows.states[:10] = 0
    assert (_Judge(torch.zeros(2, 36), 0, 0.0).score(rows)[:10] == 0).all()


def test_how_it_learned_is_known_look_by_look() -> None:
    trained = fitted().trained
    assert trained is not None
    assert len(trained.looks) > 1


def test_details_are_drawn_that_a_mixture_loses() -> None:
    check_details(model()._mixture, fitted())


def test_rows_without_an_image_stay_without_and_a_condition_is_met() -> None:
    given = fitted().sample(200, given={"team": "b"}, seed=4)
    assert set(given.column("team").to_pylist()) == {"b"}
    there = np.array([v is not None for v in given.column("photo").to_pylist()])
    assert (seen(shown(given))[there] == 1).mean() > 0.97
    assert (shown(given)[~there] == 0).all()


def test_privacy_and_options_out_of_range_are_refused_in_words() -> None:
    check_private("image-gan")
    for option, value in {"penalty": 0.05, "components": 5}.items():
        with pytest.raises(RecipeError, match=f"image-gan say {option}: .*; leave {option} out"):
            descent_of("image-gan", {option: value}, 1_000.0)
    table = with_pictures(people(60, seed=1), seed=1)
    for option, value in {"augment": 1.5, "noise": -0.1, "penalty": -1, "channels": 12}.items():
        with pytest.raises(RecipeError, match=f"options of image-gan must be in range, however: {option}"):
            synth.fit(table, "image-gan", schema=pictured_schema(table), options={option: value})
