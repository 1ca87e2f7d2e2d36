"""Keys keep the order and bring every value back, whatever its Arrow type."""

import math
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privacy.curator import MISSING
from privacy.errors import InputError
from synth.keys import Dictionary, float_keys, from_keys, is_text, key_floats, to_keys

I64 = np.iinfo(np.int64)
LARGE = (I64.min + 1, I64.max)
DAYS_IN_DATE64 = 100_000_000

INTEGERS = {
    **{
        t: (np.iinfo(str(t)).min, np.iinfo(str(t)).max)
        for t in map(pa.type_for_alias, ("int8", "int16", "int32"))
    },
    **{t: (0, np.iinfo(str(t)).max) for t in map(pa.type_for_alias, ("uint8", "uint16", "uint32"))},
    # One value at the end of the 64-bit types shares a key with its neighbour.
    pa.int64(): LARGE,
    pa.uint64(): (0, 2**64 - 2),
}
TIMES = {
    **{pa.timestamp(u): LARGE for u in ("s", "ms", "us", "ns")},
    **{
        pa.timestamp(u, tz): LARGE
        for u in ("s", "ms", "us", "ns")
        for tz in ("UTC", "Europe/Berlin", "+05:30")
    },
    **{pa.duration(u): LARGE for u in ("s", "ms", "us", "ns")},
    pa.date32(): (-(2**31), 2**31 - 1),
    pa.time32("s"): (0, 86_399),
    pa.time32("ms"): (0, 86_399_999),
    pa.time64("us"): (0, 86_399_999_999),
    pa.time64("ns"): (0, 86_399_999_999_999),
}
DECIMALS = [
    pa.decimal32(9, 2), pa.decimal64(18, 6), pa.decimal128(18, 0), pa.decimal128(12, 12), pa.decimal128(38, 4),
    pa.decimal256(60, 9), pa.decimal128(10, -3),
]  # fmt: skip


def lists(low: int, high: int) -> st.SearchStrategy[list[int | None]]:
    near = [
        v
        for v in (low, low + 1, -1, 0, 1, 2**53, 2**53 + 1, -(2**53) - 1, high - 1, high)
        if low <= v <= high
    ]
    return st.lists(st.none() | st.sampled_from(near) | st.integers(low, high), max_size=30)


def of_integers(values: list[int | None], type: pa.DataType) -> pa.Array:
    """An array of a type whose values lie in memory as integers."""
    if not pa.types.is_temporal(type):
        return pa.array(values, type)
    width = pa.int32() if type.bit_width == 32 else pa.int64()
    return pa.array(values, width).view(type)


def assert_faithful(array: pa.Array, order: list[object]) -> None:
    """Keys sort like `order`, mark nulls, bring the array back, and know of no offset."""
    keys = to_keys(array)
    assert keys.dtype == np.int64
    assert (keys == MISSING).tolist() == [v is None for v in order]
    present = [(v, int(k)) for v, k in zip(order, keys, strict=True) if v is not None]
    assert [k for _, k in sorted(present)] == sorted(k for _, k in present)
    assert len({v for v, _ in present}) == len({k for _, k in present})
    assert from_keys(keys, array.type).equals(array)
    assert to_keys(array.slice(1)).tolist() == keys[1:].tolist()


@pytest.mark.parametrize("type", INTEGERS, ids=str)
@given(data=st.data())
def test_integers_keep_their_order_and_come_back(type: pa.DataType, data: st.DataObject) -> None:
    values = data.draw(lists(*INTEGERS[type]))
    assert_faithful(of_integers(values, type), values)  # type: ignore[arg-type]


@pytest.mark.parametrize("type", TIMES, ids=str)
@given(data=st.data())
def test_times_keep_their_order_and_come_back_to_the_nanosecond(
    type: pa.DataType, data: st.DataObject
) -> None:
    values = data.draw(lists(*TIMES[type]))
    assert_faithful(of_integers(values, type), values)  # type: ignore[arg-type]


@given(lists(-DAYS_IN_DATE64, DAYS_IN_DATE64))
def test_days_in_milliseconds_keep_their_order_and_come_back(days: list[int | None]) -> None:
    values = [None if d is None else d * 86_400_000 for d in days]
    assert_faithful(of_integers(values, pa.date64()), values)  # type: ignore[arg-type]


def test_a_key_between_two_midnights_becomes_the_day_before_and_after_1970() -> None:
    keys = np.array([-1, 0, 86_399_999, 86_400_000], np.int64)
    days = from_keys(keys, pa.date64()).view(pa.int64()).to_pylist()
    assert days == [-86_400_000, 0, 0, 86_400_000]


@pytest.mark.parametrize("type", DECIMALS, ids=str)
@given(data=st.data())
def test_decimals_keep_their_order_and_every_digit(type: pa.DataType, data: st.DataObject) -> None:
    digits = min(type.precision, 18)
    unscaled = data.draw(lists(1 - 10**digits, 10**digits - 1))
    values = [None if u is None else Decimal(u).scaleb(-type.scale) for u in unscaled]
    assert_faithful(pa.array(values, type), values)  # type: ignore[arg-type]


def test_decimals_beyond_64_bits_are_refused_rather_than_cut() -> None:
    with pytest.raises(InputError, match="64 bits"):
        to_keys(pa.array([Decimal(10**30)], pa.decimal128(38, 0)))


def test_decimals_of_many_decimals_keep_fifteen_digits() -> None:
    type = pa.decimal128(38, 18)
    values = [Decimal("1000.25"), None, Decimal("-0.000000000001"), Decimal("123456789012.345")]
    assert from_keys(to_keys(pa.array(values, type)), type).to_pylist() == values


@pytest.mark.parametrize(("type", "width"), [(pa.float16(), 16), (pa.float32(), 32), (pa.float64(), 64)])
@given(data=st.data())
def test_floats_keep_their_order_and_come_back(type: pa.DataType, width: int, data: st.DataObject) -> None:
    floats = st.floats(width=width, allow_nan=False)  # type: ignore[call-overload]
    values = data.draw(st.lists(st.none() | floats, max_size=30))
    made = [None if v is None else (np.float16(v) if width == 16 else v) for v in values]
    assert_faithful(pa.array(made, type), [None if v is None else float(v) for v in values])


@given(st.lists(st.floats(allow_nan=False), min_size=1))
@example(
    [-math.inf, -1.7976931348623157e308, -1.0, -5e-324, -0.0, 0.0, 5e-324, 2.2250738585072014e-308, math.inf]
)
def test_float_keys_compare_as_the_floats_do(values: list[float]) -> None:
    array = np.array(values)
    keys = float_keys(array)
    np.testing.assert_array_equal(keys[:, None] < keys, array[:, None] < array)
    np.testing.assert_array_equal(key_floats(keys), array)
    assert (keys != MISSING).all()


def test_neighbouring_floats_have_neighbouring_keys_on_both_sides_of_zero() -> None:
    for value in (-1.5, -5e-324, 0.0, 5e-324, 1.0, 1e300):
        one, two = float_keys(np.array([value, np.nextafter(value, np.inf)]))
        assert two - one == 1


def test_nan_is_missing() -> None:
    keys = to_keys(pa.array([1.0, math.nan, None]))
    assert (keys == MISSING).tolist() == [False, True, True]
    assert from_keys(keys, pa.float64()).null_count == 2


def test_the_one_integer_that_means_missing_becomes_its_neighbour() -> None:
    array = pa.array([I64.min, None], pa.int64())
    assert from_keys(to_keys(array), pa.int64()).to_pylist() == [I64.min + 1, None]
    top = pa.array([2**64 - 1, 2**64 - 2], pa.uint64())
    assert from_keys(to_keys(top), pa.uint64()).to_pylist() == [2**64 - 2, 2**64 - 2]


@given(st.lists(st.none() | st.booleans()))
def test_booleans_come_back(values: list[bool | None]) -> None:
    assert_faithful(pa.array(values, pa.bool_()), values)  # type: ignore[arg-type]


@pytest.mark.parametrize("index", [pa.int8(), pa.int32(), pa.uint16()], ids=str)
@given(values=st.lists(st.none() | st.integers(-5, 5)))
def test_a_dictionary_of_numbers_has_the_keys_of_its_numbers(
    index: pa.DataType, values: list[int | None]
) -> None:
    type = pa.dictionary(index, pa.int64())
    array = pa.array(values, pa.int64()).dictionary_encode().cast(type)
    keys = to_keys(array)
    assert keys.tolist() == to_keys(pa.array(values, pa.int64())).tolist()
    back = from_keys(keys, type)
    assert back.type == type
    assert back.to_pylist() == values


def test_a_column_without_any_value_comes_back() -> None:
    assert from_keys(to_keys(pa.nulls(3)), pa.null()).equals(pa.nulls(3))


@pytest.mark.parametrize(
    "array", [pa.array([[1]]), pa.array([b"x"]), pa.array([{"a": 1}])], ids=lambda a: str(a.type)
)
def test_a_type_without_order_is_refused_with_a_remedy(array: pa.Array) -> None:
    with pytest.raises(TypeError, match="make it kind: text"):
        to_keys(array)


@given(
    st.lists(st.lists(st.none() | st.text(max_size=3))), st.sampled_from(["string", "large", "dictionary"])
)
def test_a_dictionary_of_strings_remembers_each_string_once_over_all_batches(
    batches: list[list[str | None]], form: str
) -> None:
    dictionary = Dictionary()
    met: list[str] = []
    for values in batches:
        array = pa.array(values, pa.large_string() if form == "large" else pa.string())
        codes = dictionary.codes(array.dictionary_encode() if form == "dictionary" else array)
        assert [None if c == MISSING else dictionary.labels(np.array([c]))[0] for c in codes] == values
        met += [v for v in values if v is not None]
    assert dictionary.labels(np.arange(len(dictionary))) == list(dict.fromkeys(met))


def test_a_null_inside_a_dictionary_is_missing_too() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array([None, "a"]))
    assert (Dictionary().codes(array) == MISSING).tolist() == [True, False, True, True]


def test_strings_are_text_and_numbers_are_not() -> None:
    for type in (pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())):
        assert is_text(type)
    for type in (pa.int64(), pa.dictionary(pa.int8(), pa.int64()), pa.bool_(), pa.date32()):
        assert not is_text(type)
