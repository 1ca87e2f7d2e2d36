"""Keys: every Arrow value as a 64-bit integer in the value's own order, and back.

The curator sees raw columns as keys, so that one kind of question serves integers beyond 2^53, decimals,
floats, times before 1970 and strings. Integers, times and unscaled decimals are their own keys; floats map by
the order-preserving reading of their bits; strings map to codes, whose dictionary stays with the rows.
"""

from collections.abc import Sequence
from decimal import Context, Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from privacy.curator import MISSING, Keys
from privacy.errors import InputError

NOT_CONVERTED = (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError)
"""What Arrow raises where values cannot be had in another type."""

NOT_A_VALUE = (ValueError, TypeError, NotImplementedError, OverflowError)
"""What `one` raises where an object is no value of a type; Arrow's errors are of these."""

_LARGEST = np.iinfo(np.int64).max
_UINT64_OFFSET = np.uint64((1 << 63) - 1)
"""Maps 0 to the smallest key that is not `MISSING`; the largest two of the 2^64 share a key."""


class Dictionary:
    """Codes for strings: of known ones their places, of others the order in which they are first met. It stays inside.

    Args:
        known: strings that are public.
    """

    def __init__(self, known: Sequence[str] = ()) -> None:
        self._labels: list[str] = list(known)
        self._codes: dict[str, int] = {label: code for code, label in enumerate(known)}

    def codes(self, array: pa.Array) -> Keys:
        """The codes of an array of strings, int64 (n,), `MISSING` for nulls; new strings get new codes."""
        encoded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
        labels = encoded.dictionary.cast(pa.string()).to_pylist()
        table = np.array([self._code(label) for label in labels] + [MISSING], np.int64)
        indices = encoded.indices.cast(pa.int64()).fill_null(len(labels)).to_numpy(zero_copy_only=False)
        keys: Keys = table[indices]
        return keys

    def labels(self, codes: Keys) -> list[str]:
        """The strings of these codes."""
        return [self._labels[c] for c in codes]

    def __len__(self) -> int:
        return len(self._labels)

    def _code(self, label: str | None) -> int:
        if label is None:
            return int(MISSING)
        code = self._codes.setdefault(label, len(self._codes))
        if code == len(self._labels):
            self._labels.append(label)
        return code


def is_text(kind: pa.DataType) -> bool:
    """Whether values of this Arrow type are strings, and so are known by codes."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def one(value: object, kind: pa.DataType) -> pa.Array:
    """An array of this one value, or of one null, converted to a type.

    Raises:
        Exception: one of `NOT_A_VALUE`: it does not convert.
    """
    # Without the type Arrow takes a large number for a signed one, and a time of pandas for microseconds.
    large = pa.types.is_uint64(kind) and isinstance(value, int)
    exact = pa.types.is_timestamp(kind) or pa.types.is_duration(kind)
    if large or (exact and (hasattr(value, "nanosecond") or hasattr(value, "nanoseconds"))):
        return pa.array([value], kind)
    return pa.array([value]).cast(kind)


def is_real(kind: pa.DataType) -> bool:
    """Whether keys of this type are those of floats.

    Floats, and decimals of so many decimals that 64 bits would leave few digits before the point; such a
    decimal keeps 15 significant digits.
    """
    many = pa.types.is_decimal(kind) and kind.precision > 18 and kind.scale > 9
    return bool(pa.types.is_floating(kind) or many)


def to_keys(array: pa.Array) -> Keys:
    """Keys of an array of numbers, booleans or times: int64 (n,), `MISSING` for nulls and NaN.

    Raises:
        TypeError: the type has no order-preserving key.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        return to_keys(array.dictionary_decode())
    if pa.types.is_null(kind):
        return np.full(len(array), MISSING, np.int64)
    missing = _is_null(array)
    if is_real(kind):
        floats = array.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        return np.where(np.isnan(floats), MISSING, float_keys(floats))
    if pa.types.is_decimal(kind):
        return _decimal_keys(array, missing)
    if pa.types.is_uint64(kind):
        values = array.fill_null(0).to_numpy(zero_copy_only=False)
        keys = (np.minimum(values, np.uint64(2**64 - 2)) - _UINT64_OFFSET).view(np.int64)
    elif pa.types.is_boolean(kind):
        keys = array.fill_null(False).to_numpy(zero_copy_only=False).astype(np.int64)
    elif pa.types.is_integer(kind):
        keys = array.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    elif pa.types.is_temporal(kind):
        keys = _time_keys(array)
    else:
        raise TypeError(f"a column of type {kind} has no keys; make it kind: text")
    # The one integer that means missing moves to its neighbour.
    return np.where(missing, MISSING, np.maximum(keys, MISSING + 1))


def from_keys(keys: Keys, kind: pa.DataType) -> pa.Array:
    """The inverse of `to_keys` for an Arrow type that is not text; `MISSING` becomes null."""
    missing = keys == MISSING
    if pa.types.is_null(kind):
        return pa.nulls(len(keys))
    if pa.types.is_dictionary(kind):
        return from_keys(keys, kind.value_type).dictionary_encode().cast(kind)
    if pa.types.is_floating(kind):
        return pa.array(key_floats(np.where(missing, 0, keys)), mask=missing).cast(kind)
    if is_real(kind):
        return _wide_decimals(key_floats(np.where(missing, 0, keys)), missing, kind)
    safe = np.where(missing, 0, keys)
    if pa.types.is_decimal(kind):
        return _decimals(safe, missing, kind)
    if pa.types.is_uint64(kind):
        return pa.array(np.where(missing, 0, safe.view(np.uint64) + _UINT64_OFFSET), mask=missing)
    if pa.types.is_boolean(kind):
        return pa.array(safe.astype(bool), mask=missing)
    if pa.types.is_temporal(kind):
        return _times(safe, missing, kind)
    return pa.array(safe, mask=missing).cast(kind)


def float_keys(values: NDArray[np.float64]) -> Keys:
    """Order-preserving 64-bit keys of floats without NaN; both zeros share one key.

    Args:
        values: float64 (n,).

    Returns:
        int64 (n,): x < y exactly if key(x) < key(y).
    """
    bits = (np.asarray(values, np.float64) + 0.0).view(np.int64)
    return np.where(bits >= 0, bits, -(bits & _LARGEST))


def key_floats(keys: Keys) -> NDArray[np.float64]:
    """The inverse of `float_keys`: float64 (n,)."""
    keys = np.asarray(keys, np.int64)
    negative = (-keys) | np.int64(MISSING)
    return np.where(keys >= 0, keys, negative).view(np.float64)


def _is_null(array: pa.Array) -> NDArray[np.bool_]:
    nulls: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return nulls


def _width(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if pa.types.is_date32(kind) or pa.types.is_time32(kind) else pa.int64()


def _time_keys(array: pa.Array) -> Keys:
    plain = array.cast(pa.timestamp(array.type.unit)) if pa.types.is_timestamp(array.type) else array
    keys: Keys = plain.view(_width(plain.type)).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return keys


def _times(keys: Keys, missing: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    if pa.types.is_date64(kind):
        day = 86_400_000
        keys = np.floor_divide(keys, day) * day
    return pa.array(keys, mask=missing).cast(_width(kind)).view(kind)


def _decimal_keys(array: pa.Array, missing: NDArray[np.bool_]) -> Keys:
    scale = array.type.scale
    unscaled = [0 if v is None else int(v.scaleb(scale)) for v in array.to_pylist()]
    if any(abs(v) > _LARGEST for v in unscaled):
        raise InputError(
            f"a decimal must fit 64 bits without its point, however: a value of {array.type} does not; "
            "convert the column to double or to fewer digits"
        )
    return np.where(missing, MISSING, np.array(unscaled, np.int64))


def _wide_decimals(floats: NDArray[np.float64], missing: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    grid = Decimal(1).scaleb(-kind.scale)
    exact = Context(prec=76)
    values = [
        None if m else Decimal(format(f, ".15g")).quantize(grid, context=exact)
        for f, m in zip(floats, missing, strict=True)
    ]
    return pa.array(values, kind)


def _decimals(keys: Keys, missing: NDArray[np.bool_], kind: pa.DataType) -> pa.Array:
    values = [None if m else Decimal(int(k)).scaleb(-kind.scale) for k, m in zip(keys, missing, strict=True)]
    return pa.array(values, kind)
