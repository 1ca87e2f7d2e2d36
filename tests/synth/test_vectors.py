"""Rows as vectors: what is written comes back, whatever the kind of column."""

import numpy as np
import pytest
import torch

from synth.bins import Bins, bins_of
from synth.codec import Field, Layout
from synth.vectors import Vectors

MANY = 2500


def layout() -> Layout:
    """A narrow column, one of thousands, a number with an atom, one that may be absent, and its group."""
    rng = np.random.default_rng(0)
    many = rng.dirichlet(np.full(MANY, 0.3))
    fields = (
        Field(name="narrow", rates=(0.1, 0.5, 0.4), score=None),
        Field(name="many", rates=(0.05, *(0.95 * many)), score=None),
        Field(name="number", rates=(0.1, 0.2, 0.7), score=0),
        Field(name="part", rates=(0.1, 0.9), score=1, group=4),
        Field(name="missing: part", rates=(0.3, 0.7), score=None),
    )
    return Layout(fields=fields, rows=50_000.0)


@pytest.fixture(scope="module")
def bins() -> list[Bins]:
    return bins_of(layout(), 10)


@pytest.fixture(scope="module")
def vectors(bins: list[Bins]) -> Vectors:
    return Vectors(bins)


def values(bins: list[Bins], rows: int) -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(np.stack([rng.integers(0, b.size, rows) for b in bins], 1))


def no_noise(vectors: Vectors, rows: int) -> torch.Tensor:
    return torch.zeros(rows, vectors.width)


def nothing(vectors: Vectors, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Nothing written, nothing shown."""
    return torch.zeros(rows, vectors.length), torch.zeros(rows, 5, dtype=torch.bool)


def test_thousands_of_values_take_about_a_hundred_entries(vectors: Vectors, bins: list[Bins]) -> None:
    assert bins[1].size == MANY + 1
    assert vectors.length < 3 + 110 + 3 * 12 + 2 + 2


def test_what_is_written_is_what_is_drawn_from_it(vectors: Vectors, bins: list[Bins]) -> None:
    possible = values(bins, 4000)
    possible[:, 0] = possible[:, 0].clamp(min=1)
    places = torch.linspace(-0.9, 0.9, 8000).reshape(4000, 2)
    written = vectors.write(possible, places)
    raw = torch.cat([50 * written[:, : vectors.width], written[:, vectors.width :].atanh()], 1)
    drawn, again = vectors.drawn(raw, no_noise(vectors, 4000))
    torch.testing.assert_close(drawn, possible)
    torch.testing.assert_close(again, places)


def test_scores_come_back_from_their_places(vectors: Vectors, bins: list[Bins]) -> None:
    scores = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    states = np.array([[1, 1, 2, 1, 1]] * 500)
    columns = [
        b.of(states[:, c].astype(np.int32), None if c not in (2, 3) else scores[:, c - 2].numpy())
        for c, b in enumerate(bins)
    ]
    rows = torch.from_numpy(np.stack(columns, 1))
    places = vectors.places(rows, scores)
    assert places.abs().max() <= 1
    torch.testing.assert_close(vectors.scores(rows, places), scores, atol=1e-4, rtol=1e-4)
    # An atom has no place, and its score is 0.
    rows[:, 2] = 1
    assert (vectors.places(rows, scores)[:, 0] == 0).all()
    assert (vectors.scores(rows, places)[:, 0] == 0).all()


def test_of_an_unknown_value_nothing_is_written(vectors: Vectors, bins: list[Bins]) -> None:
    unknown = torch.tensor([[b.size for b in bins]])
    assert (vectors.write(unknown, torch.zeros(1, 2)) == 0).all()


def test_draws_follow_the_logits(vectors: Vectors, bins: list[Bins]) -> None:
    rows = 40_000
    raw = torch.zeros(rows, vectors.length)
    raw[:, : vectors.width] = vectors.rates.clamp_min(1e-12).log().float()
    luck = torch.rand(rows, vectors.width, generator=torch.Generator().manual_seed(0)).clamp(1e-9, 1 - 1e-7)
    drawn, _ = vectors.drawn(raw, -(-luck.log()).log())
    for c in (0, 2, 4):
        found = np.bincount(drawn[:, c].numpy(), minlength=bins[c].size) / rows
        np.testing.assert_allclose(found, bins[c].rates, atol=0.015)
    assert (drawn[:, 1] == 0).float().mean() == pytest.approx(0.05, abs=0.01)
    present, _ = vectors.drawn(raw, -(-luck.log()).log(), present=True)
    assert (present > 0).all()


def test_a_relaxed_draw_is_a_vector_whose_digits_make_one(vectors: Vectors) -> None:
    raw = torch.randn(50, vectors.length, generator=torch.Generator().manual_seed(0), requires_grad=True)
    soft = vectors.relaxed(raw, no_noise(vectors, 50), *nothing(vectors, 50))
    assert soft.shape == (50, vectors.length)
    assert (soft.abs() <= 1 + 1e-6).all()
    torch.testing.assert_close(soft[:, :3].sum(1), torch.ones(50))
    soft.sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_a_column_counts_as_far_as_its_group_is_there(vectors: Vectors, bins: list[Bins]) -> None:
    start = int((vectors.owner[: vectors.width] < 3).sum())
    group = int((vectors.owner[: vectors.width] < 4).sum())
    raw = torch.zeros(2, vectors.length)
    raw[0, group], raw[1, group + 1] = 100.0, 100.0
    soft = vectors.relaxed(raw, no_noise(vectors, 2), *nothing(vectors, 2))
    assert soft[0, start:group].abs().max() < 1e-6
    assert soft[1, start:group].sum() == pytest.approx(1, abs=1e-5)
    rows = torch.tensor([[1, 1, 1, 2, 0], [1, 1, 1, 2, 1]])
    hidden, places = vectors.without_absent(rows, torch.ones(2, 2))
    assert hidden[:, 3].tolist() == [bins[3].size, 2]
    assert places.tolist() == [[0, 0], [0, 1]]
    shown = torch.tensor([[True, False, False, False, False]] * 2)
    free = vectors.free(raw, torch.zeros(2, vectors.length), shown)
    assert free.shape == (2, len(vectors.digits))
    assert free[:, 0].tolist() == [0, 0]
    assert free[:, 1].tolist() == [1, 1]
    torch.testing.assert_close(free[:, -2], torch.tensor([0.0, 1.0]), atol=1e-5, rtol=0)


def test_a_group_that_is_shown_says_whether_its_columns_are_there(vectors: Vectors, bins: list[Bins]) -> None:
    start = int((vectors.owner[: vectors.width] < 3).sum())
    group = int((vectors.owner[: vectors.width] < 4).sum())
    raw = torch.zeros(2, vectors.length)
    # The network would say the opposite of what is shown.
    raw[0, group + 1], raw[1, group] = 100.0, 100.0
    unknown = [b.size for b in bins[:4]]
    written = vectors.write(torch.tensor([[*unknown, 0], [*unknown, 1]]), torch.zeros(2, 2))
    shown = torch.tensor([[False, False, False, False, True]] * 2)
    soft = vectors.relaxed(raw, no_noise(vectors, 2), written, shown)
    assert soft[0, start:group].abs().max() == 0
    assert soft[1, start:group].sum() == pytest.approx(1, abs=1e-5)
    assert soft[:, group : group + 2].tolist() == [[1, 0], [0, 1]]
    assert vectors.free(raw, written, shown)[:, -2:].tolist() == [[0, 0], [1, 0]]
