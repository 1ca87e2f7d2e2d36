"""The circuit's own promises, beyond those that every synthesizer keeps."""

import numpy as np
import pytest

from privacy.curator import Batch, ExactCurator
from synth.bins import bins_of
from synth.circuit import _joint, _mutual_information, _tree
from synth.codec import Encoded, Field, Layout
from synth.rows import EncodedStore
from tests.synth.tables import KEY


def joint(rows: int, fine: int, coarse: int, dependent: float, *, seed: int = 0) -> np.ndarray:
    """Counts of pairs (a, b) of which a share has b = a modulo the number of groups."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, fine, rows)
    b = np.where(rng.random(rows) < dependent, a % coarse, rng.integers(0, coarse, rows))
    counts = np.zeros((fine, coarse))
    np.add.at(counts, (a, b), 1)
    return counts


@pytest.mark.parametrize("fine", [4, 300, 3000])
def test_columns_that_share_nothing_have_no_information(fine: int) -> None:
    assert -0.01 < _mutual_information(joint(6000, fine, 20, 0.0)) < 0.01


@pytest.mark.parametrize("fine", [300, 3000])
def test_with_hardly_any_rows_a_cell_a_part_of_the_information_is_found(fine: int) -> None:
    p = np.full((20, 20), 0.2 / 400) + np.eye(20) * 0.8 / 20
    truth = (p * np.log(p * 400)).sum()
    assert 0.05 * truth < _mutual_information(joint(6000, fine, 20, 0.8)) < truth


def test_with_many_rows_the_information_is_the_plug_in_estimate() -> None:
    counts = joint(400_000, 10, 5, 0.4)
    p = counts / counts.sum()
    plug_in = (p * np.log(p / (p.sum(1, keepdims=True) @ p.sum(0, keepdims=True)))).sum()
    assert _mutual_information(counts) == pytest.approx(plug_in, rel=0.01)


def test_information_needs_rows_and_knows_none_in_empty_counts() -> None:
    assert _mutual_information(np.zeros((3, 3))) == 0.0
    assert _mutual_information(np.eye(3)) == 0.0


def test_a_column_of_thousands_of_categories_does_not_draw_the_links_to_itself() -> None:
    rng = np.random.default_rng(0)
    rows, tails = 6000, 2000
    a = rng.integers(0, 12, rows)
    b = np.where(rng.random(rows) < 0.5, a, rng.integers(0, 12, rows))
    tail = rng.integers(0, tails, rows)
    codes = np.stack([tail, a, b], 1)
    fields = tuple(
        Field(name=name, rates=(0.0, *np.full(n, 1 / n)), score=None)
        for name, n in (("tail", tails), ("a", 12), ("b", 12))
    )
    layout = Layout(fields=fields, rows=float(rows))
    encoded = Encoded(states=(codes + 1).astype(np.int32), scores=np.zeros((rows, 0), np.float32))
    store = EncodedStore(None, unit_is_row=True)
    columns = {"states": encoded.states, "scores": encoded.scores}
    store.write(Batch(unit=np.arange(rows, dtype=np.uint64), columns=columns, holdout=np.zeros(rows, bool)))
    parents = _tree(_joint(ExactCurator(store.close(), key=KEY), layout, bins_of(layout, 100)))
    assert parents[1] == 2 or parents[2] == 1
