"""What the variational autoencoder offers beyond what every synthesizer does."""

import functools

import numpy as np
import pandas as pd
import pytest

import synth
from privacy.errors import UsageError
from synth.table import TableModel

ROWS = 1500


def table(rows: int, *, seed: int) -> pd.DataFrame:
    """Two groups that differ in everything."""
    rng = np.random.default_rng(seed)
    group = rng.random(rows) < 0.4
    return pd.DataFrame(
        {
            "kind": np.where(group, "in", "out"),
            "size": rng.normal(np.where(group, 8.0, -8.0), 1.0),
            "word": np.where(group ^ (rng.random(rows) < 0.05), "a", "b"),
        }
    )


@functools.cache
def model() -> TableModel[pd.DataFrame]:
    return synth.fit(table(ROWS, seed=0), "vae", seed=1, threads=1, options={"epochs": 60})


def test_a_row_that_is_drawn_from_its_code_is_of_its_group() -> None:
    rows = table(400, seed=2)
    again = model().reconstruct(rows, seed=3)
    assert again.columns.tolist() == rows.columns.tolist()
    assert (again["kind"] == rows["kind"]).mean() > 0.95
    assert np.corrcoef(again["size"], rows["size"])[0, 1] > 0.9
    assert again.equals(model().reconstruct(rows, seed=3))
    framed = rows.set_axis(np.arange(len(rows)) * 2)
    assert model().reconstruct(framed, seed=3).index.equals(framed.index)


def test_codes_tell_the_groups_apart() -> None:
    rows = table(400, seed=4)
    codes = model().embed(rows)
    assert codes.shape == (400, 8)
    centre = [codes[rows["kind"] == k].mean(0) for k in ("in", "out")]
    nearer = np.linalg.norm(codes - centre[0], axis=1) < np.linalg.norm(codes - centre[1], axis=1)
    assert (nearer == (rows["kind"] == "in")).mean() > 0.95


def test_an_odd_row_scores_lower_than_its_like() -> None:
    rows = table(400, seed=5)
    odd = rows.assign(size=-rows["size"])
    assert (model().log_prob(rows) > model().log_prob(odd)).mean() > 0.95


def test_rates_of_columns_are_those_of_the_table() -> None:
    drawn = model().sample(20_000, seed=6)
    real = table(ROWS, seed=0)
    for column in ("kind", "word"):
        for value in real[column].unique():
            assert abs((drawn[column] == value).mean() - (real[column] == value).mean()) < 0.02


def test_a_model_without_codes_says_so() -> None:
    plain = synth.fit(table(200, seed=0), "gmm", threads=1, options={"components": 2})
    for ask in (plain.embed, plain.reconstruct):
        with pytest.raises(UsageError, match="codes, however: this is gmm; fit a vae"):
            ask(table(5, seed=1))
