"""Distances: exact, the nearest the nearest, whatever the table is like."""

import numpy as np
import pytest

from privacy.metric import ATTRIBUTES, Metric, Records, nearest, two_nearest
from tests.privacy.people import people


def points(rows: int, *, seed: int = 0) -> np.ndarray:
    records = people(np.random.default_rng(seed), rows)
    return Metric(people(np.random.default_rng(9), 300), np.random.default_rng(0)).of(records)


def slowly(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return ((first[:, None, :].astype(np.int64) - second[None, :, :].astype(np.int64)) ** 2).sum(2)


def test_the_nearest_is_the_nearest_to_the_last_unit() -> None:
    some, among = points(70, seed=1), points(201, seed=2)
    gaps = slowly(some, among)
    distances, places = nearest(some, among)
    assert np.array_equal(places[:, 0], gaps.argmin(1))
    assert np.array_equal(distances[:, 0], gaps.min(1))


def test_each_part_has_its_nearest() -> None:
    some, among = points(30, seed=1), points(203, seed=2)
    distances, places = nearest(some, among, parts=8)
    assert np.array_equal(distances.min(1), slowly(some, among).min(1))
    edges = np.linspace(0, 203, 9).astype(int)
    assert all(np.all((edges[i] <= places[:, i]) & (places[:, i] < edges[i + 1])) for i in range(8))
    assert np.array_equal(distances, np.take_along_axis(slowly(some, among), places, 1))


def test_the_next_is_the_next() -> None:
    some, among = points(70, seed=1), points(201, seed=2)
    distances, places = two_nearest(some, among)
    ordered = np.sort(slowly(some, among), 1)
    assert np.array_equal(distances, ordered[:, :2])
    assert np.array_equal(slowly(some, among)[np.arange(70), places], ordered[:, 0])


def test_many_rows_are_searched_bit_by_bit() -> None:
    few, many = points(40, seed=1), points(300_000, seed=2)
    distances, places = nearest(few, many)
    assert np.array_equal(distances[:, 0], ((few - many[places[:, 0]]) ** 2).sum(1))
    assert np.all(distances[:, 0] <= slowly(few, many[:1000]).min(1))


@pytest.mark.parametrize("attributes", [1, 3, ATTRIBUTES, 3 * ATTRIBUTES])
def test_squared_distances_are_whole_numbers_below_two_to_the_24(attributes: int) -> None:
    rng = np.random.default_rng(0)
    wild = np.where(rng.random((50, attributes)) < 0.1, np.nan, rng.standard_cauchy((50, attributes)) * 1e6)
    wild[0] = np.inf
    records = Records(codes=np.zeros((50, 0), np.int32), numbers=wild)
    found = Metric(records, rng).of(records)
    assert np.array_equal(found, np.round(found))
    assert np.square(found.astype(np.float64)).sum(1).max() * 3 <= 2**24
    assert np.array_equal(nearest(found, found)[0][:, 0], np.zeros(50))


def test_a_category_that_differs_is_as_far_as_the_ends_of_a_number() -> None:
    known = Records(
        codes=np.array([[0], [1], [2], [-1]] * 30, np.int32), numbers=np.linspace(0, 1, 120)[:, None]
    )
    metric = Metric(known, np.random.default_rng(0))
    low, high = metric._scales[0]
    ends = Records(
        codes=np.array([[0], [0], [1], [-1]], np.int32), numbers=np.array([[low], [high], [low], [low]])
    )
    gaps = slowly(metric.of(ends), metric.of(ends))
    assert gaps[0, 1:] == pytest.approx([gaps[0, 1]] * 3, rel=0.01)
    assert gaps[2, 3] == pytest.approx(gaps[0, 1], rel=0.01)


def test_a_missing_number_is_farther_than_any_other() -> None:
    known = Records(codes=np.zeros((100, 0), np.int32), numbers=np.arange(100.0)[:, None])
    metric = Metric(known, np.random.default_rng(0))
    found = metric.of(Records(codes=np.zeros((3, 0), np.int32), numbers=np.array([[np.nan], [1.0], [99.0]])))
    assert found[0, 0] < found[1, 0] < found[2, 0]


def test_a_little_noise_is_a_little_way_even_where_one_value_has_most_rows() -> None:
    amounts = np.append(np.zeros(900), np.linspace(1, 1000, 100))[:, None]
    known = Records(codes=np.zeros((1000, 0), np.int32), numbers=amounts)
    metric = Metric(known, np.random.default_rng(0))
    zero, noised = (
        metric.of(Records(codes=np.zeros((1, 0), np.int32), numbers=np.array([[x]]))) for x in (0.0, 3.0)
    )
    assert abs(zero - noised).max() < metric.unit / 50


def test_columns_of_one_value_or_of_none_do_not_matter() -> None:
    numbers = np.column_stack([np.full(50, 7.0), np.full(50, np.nan), np.arange(50.0)])
    records = Records(codes=np.full((50, 1), -1, np.int32), numbers=numbers)
    found = Metric(records, np.random.default_rng(0)).of(records)
    assert np.isfinite(found).all()
    assert len(np.unique(found, axis=0)) == 50


def test_categories_that_nobody_knows_have_a_place() -> None:
    known = Records(codes=np.zeros((10, 1), np.int32), numbers=np.zeros((10, 0)))
    strange = Records(codes=np.array([[99], [-1]], np.int32), numbers=np.zeros((2, 0)))
    assert np.isfinite(Metric(known, np.random.default_rng(0)).of(strange)).all()


def test_the_rows_that_are_drawn_do_not_depend_on_their_order() -> None:
    records = people(np.random.default_rng(0), 500)
    turned = records.take(np.random.default_rng(1).permutation(500))
    drawn = [r.draw(np.random.default_rng(2), 100).values() for r in (records, turned)]
    assert np.array_equal(*drawn, equal_nan=True)


def test_matrices_of_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="two matrices of as many rows"):
        Records(codes=np.zeros((2, 1), np.int32), numbers=np.zeros((3, 1)))
