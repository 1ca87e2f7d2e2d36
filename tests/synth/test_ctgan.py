"""The adversarial network's own promises, beyond those that every synthesizer keeps."""

import numpy as np
import pyarrow as pa
import pytest
import torch

import synth
from privacy.curator import Batch, Luck
from synth.bins import bins_of
from synth.codec import Field, Layout
from synth.ctgan import (
    Conditions,
    Critic,
    Generator,
    Options,
    _CriticPlayer,
    _fitted,
    _Game,
    _GeneratorPlayer,
    _Judge,
)
from tests.synth.tables import schema_for

LAYOUT = Layout(
    fields=(
        Field(name="rare", rates=(0.0, 0.98, 0.02), score=None),
        Field(name="number", rates=(0.1, 0.9), score=0),
        Field(name="part", rates=(0.0, 0.5, 0.5), score=None, group=3),
        Field(name="missing: part", rates=(0.4, 0.6), score=None),
    ),
    rows=5000.0,
)
BINS = bins_of(LAYOUT, 10)
LUCK = Luck.of([3])
FEW = {"layers": [32], "latent": 4, "max_steps": 300}


def game(**options: object) -> _Game:
    chosen = Options.model_validate({"layers": (16, 16), "latent": 8, "batch_rows": 40, **options})
    torch.manual_seed(0)
    generator = Generator(BINS, chosen.layers, chosen.latent)
    critic = Critic(generator.vectors.length + len(BINS), chosen.layers, chosen.pack)
    conditions = Conditions(BINS, balanced=chosen.balanced, masked=chosen.masked)
    return _Game(generator=generator, critic=critic, conditions=conditions, options=chosen)


def rows(number: int) -> Batch:
    rng = np.random.default_rng(3)
    values = np.stack([rng.integers(1, b.size, number) for b in BINS], 1).astype(np.int32)
    values[::5, 2], values[::5, 3] = BINS[2].size, 0
    places = rng.uniform(-1, 1, (number, 1)).astype(np.float32)
    return Batch(unit=np.arange(number, dtype=np.uint64), columns={"states": values, "scores": places})


def test_training_conditions_are_rare_values_more_often_than_they_occur() -> None:
    rng = np.random.default_rng(0)
    seen = {}
    for balanced in (True, False):
        values, _, axis = Conditions(BINS, balanced=balanced, masked=0.25).drawn(rng, 20_000)
        assert (axis == 3).mean() == pytest.approx(0.25, abs=0.02)
        # Nothing but the cell along the axis is known, and never one of a column that may be absent.
        known = values < torch.tensor([b.size for b in BINS])
        assert (known.sum(1).numpy() == (axis < 3)).all()
        assert not known[:, 2].any()
        seen[balanced] = (values[axis == 0, 0] == 2).float().mean().item()
    assert seen[False] == pytest.approx(0.02, abs=0.01)
    assert seen[True] > 0.3


def test_what_is_shown_is_the_axis_or_any_part_of_a_row_and_never_what_is_unknown() -> None:
    batch = rows(4000)
    values = torch.from_numpy(np.asarray(batch.columns["states"])).long()
    axis = np.random.default_rng(0).integers(0, 4, 4000)
    luck = torch.rand(4000, 6, generator=torch.Generator().manual_seed(0))
    mask = Conditions(BINS, balanced=True, masked=0.25).shown(values, axis, luck)
    columns = [0, 1, 3]
    for a, c in enumerate(columns):
        assert mask[axis == a, c].all()
        assert mask[axis == a].sum() == (axis == a).sum()
    plain = mask[axis == 3].sum(1)
    assert (plain == 0).float().mean() > 0.4
    assert set(plain.tolist()) > {0, 1, 2, 3}
    assert not mask[::5, 2].any()


def test_shown_cells_stand_in_the_fake_as_they_are() -> None:
    g = game()
    vectors = g.generator.vectors
    batch = rows(30)
    values, places = (torch.from_numpy(np.asarray(batch.columns[n])) for n in ("states", "scores"))
    written = vectors.write(values.long(), places)
    mask = torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    noise, luck = torch.zeros(30, 8), torch.full((30, vectors.width), 0.5)
    fake = g.faked(values.long(), places, written, mask, noise, luck)
    shown = mask[:, vectors.owner]
    torch.testing.assert_close(fake[shown], written[shown])
    assert not torch.allclose(fake[~shown], written[~shown])


def test_all_rows_of_a_pack_have_its_loss() -> None:
    critic = _CriticPlayer(game(pack=10), bounded=False)
    losses = critic.losses(rows(40), LUCK)
    assert losses.shape == (40,)
    assert torch.unique(losses).numel() == 4
    assert torch.equal(losses[:10], losses[:1].expand(10))
    assert critic.losses(rows(7), LUCK).shape == (7,)


def test_the_generator_learns_from_the_critic_alone_and_leaves_it_as_it_is() -> None:
    g = game()
    _GeneratorPlayer(g, seed=0).loss(24).backward()
    assert all(p.grad is None and p.requires_grad for p in g.critic.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in g.generator.parameters())


def test_the_judge_sees_what_pairs_share_and_not_their_margins() -> None:
    usual = np.outer([0.5, 0.5], [0.9, 0.1])
    strong = np.array([[0.5, 0.0], [0.4, 0.1]])
    tilted = strong * np.array([[3.0], [1.0]]) * np.array([[1.0, 7.0]])
    np.testing.assert_allclose(_fitted(tilted + 1e-9, usual), _fitted(strong + 1e-9, usual), atol=1e-3)
    np.testing.assert_allclose(_fitted(tilted + 1e-9, usual).sum(0), [0.9, 0.1], atol=1e-3)


def test_the_judge_says_nothing_of_what_is_unknown_and_prefers_likely_rows() -> None:
    judge = _Judge.of(game())
    unknown = np.array([[b.size for b in BINS]], np.int32)
    assert judge.score(unknown).tolist() == [0]
    often, seldom = np.array([[1, 3, 1, 1]], np.int32), np.array([[2, 3, 1, 1]], np.int32)
    assert judge.score(often)[0] > judge.score(seldom)[0] + 1


def test_the_generator_makes_as_many_rows_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    g = game(batch_rows=1_000_000)
    asked: list[int] = []
    drawn = g.conditions.drawn
    monkeypatch.setattr(g.conditions, "drawn", lambda rng, n: asked.append(n) or drawn(rng, n))
    _GeneratorPlayer(g, seed=0).loss(24)
    assert asked == [24]


def test_rows_come_from_one_cell_of_a_column_of_a_hundred_thousand() -> None:
    codes = np.arange(100_000).repeat(2)
    table = pa.table({"code": pa.array(codes).cast(pa.string()), "even": pa.array(codes % 2 == 0)})
    model = synth.fit(table, "ctgan", schema=schema_for(table), options=FEW, at_least=2, threads=1)
    drawn = model.sample(500, seed=1, given={"code": "99999"})
    assert set(drawn.column("code").to_pylist()) == {"99999"}
    assert len(set(model.sample(500, seed=1).column("code").to_pylist())) > 400
