"""Rows that have given marginals of all pairs, beside a slow oracle."""

import itertools

import numpy as np
import pytest
import torch

from synth.chain import Ridge, Variable, drawn

NO_RIDGE = Ridge(noise=0.0, least=1.0)


def fitted_slowly(pairs: dict[tuple[int, int], np.ndarray], shape: tuple[int, int, int]) -> np.ndarray:
    """The joint distribution of largest entropy with these marginals of pairs: iterative proportional fitting."""
    joint = np.full(shape, 1 / np.prod(shape))
    for _ in range(3000):
        for (a, b), target in pairs.items():
            (other,) = {0, 1, 2} - {a, b}
            joint = joint * np.expand_dims(target / joint.sum(other), other)
    return joint


def test_three_columns_have_the_distribution_of_largest_entropy_and_not_only_its_pairs() -> None:
    rng = np.random.default_rng(0)
    shape = (2, 3, 4)
    truth = rng.dirichlet(np.full(24, 0.7)).reshape(shape)
    pairs = {(a, b): truth.sum(({0, 1, 2} - {a, b}).pop()) for a, b in itertools.combinations(range(3), 2)}
    slow = fitted_slowly(pairs, shape)
    variables = [
        Variable(rates=torch.from_numpy(truth.sum(tuple({0, 1, 2} - {c}))).float()) for c in range(3)
    ]
    tables = {k: torch.from_numpy(v).float() for k, v in pairs.items()}
    cells = drawn(
        variables,
        lambda a, b: tables[a, b] if a < b else tables[b, a].T,
        [2, 0, 1],
        rows=100_000,
        ridge=NO_RIDGE,
        steps=150,
        rng=np.random.default_rng(1),
    ).numpy()
    found = np.bincount((cells[:, 0] * 3 + cells[:, 1]) * 4 + cells[:, 2], minlength=24).reshape(shape)
    found = found / len(cells)
    assert np.abs(found - slow).sum() / 2 < 0.012
    # The truth has the same pairs, and is told apart.
    assert np.abs(found - truth).sum() / 2 > 0.02


def test_a_column_that_is_not_there_takes_its_last_cell_and_no_other_row_does() -> None:
    joint = torch.tensor([[0.0, 0.0, 0.3], [0.5, 0.2, 0.0]])
    variables = [
        Variable(rates=torch.tensor([0.3, 0.7])),
        Variable(rates=torch.tensor([0.5, 0.2, 0.3]), there=0),
    ]
    cells = drawn(
        variables,
        lambda a, b: joint if a < b else joint.T,
        [0, 1],
        rows=20_000,
        ridge=NO_RIDGE,
        steps=50,
        rng=np.random.default_rng(0),
    ).numpy()
    np.testing.assert_array_equal(cells[:, 1] == 2, cells[:, 0] == 0)
    assert (cells[:, 1] == 0).mean() == pytest.approx(0.5, abs=0.02)


def test_a_cell_without_a_rate_is_never_drawn() -> None:
    variables = [
        Variable(rates=torch.tensor([0.0, 0.5, 0.5])),
        Variable(rates=torch.tensor([0.6, 0.0, 0.4])),
    ]
    # Noise gave the cells some probability all the same.
    joint = torch.full((3, 3), 1 / 9)
    cells = drawn(
        variables,
        lambda a, b: joint,
        [0, 1],
        rows=50_000,
        ridge=NO_RIDGE,
        steps=50,
        rng=np.random.default_rng(0),
    )
    assert (cells[:, 0] != 0).all()
    assert (cells[:, 1] != 1).all()


def test_a_ridge_holds_to_independence_what_noise_could_have_made() -> None:
    joint = torch.tensor([[0.27, 0.23], [0.23, 0.27]])
    variables = [Variable(rates=torch.tensor([0.5, 0.5]))] * 2
    dependence = []
    for noise in (0.0, 1.0):
        cells = drawn(
            variables,
            lambda a, b: joint,
            [0, 1],
            rows=100_000,
            ridge=Ridge(noise=noise, least=1e-4),
            steps=100,
            rng=np.random.default_rng(0),
        )
        dependence.append(float((cells[:, 0] == cells[:, 1]).float().mean()))
    assert dependence[0] == pytest.approx(0.54, abs=0.01)
    assert dependence[1] == pytest.approx(0.50, abs=0.01)
