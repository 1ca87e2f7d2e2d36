"""Objects are stored as data: what comes back is equal, and nothing that is not listed comes back."""

from collections import OrderedDict
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch

from synth.objects import read, written


class Plain:
    """An object of attributes."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def __setstate__(self, state: object) -> None:
        raise AssertionError("nothing of a class is called")


class Place(NamedTuple):
    across: int
    up: float


CLASSES = (f"{__name__}:Plain", f"{__name__}:Place")


@pytest.mark.parametrize(
    "thing",
    [
        None, True, 3, -2.5, float("inf"), "word", [1, [2, ()]], (1, "a"), {"a": 1, 2: [None]}, {3, 1, 2},
        OrderedDict([("b", 1), ("a", 2)]), Place(1, 2.0), np.float32(2.5), np.bool_(True),
        np.dtype("float32"), np.dtype(object), Plain,
    ],
)  # fmt: skip
def test_plain_things_come_back(thing: object) -> None:
    again = read(written(thing, CLASSES), CLASSES)
    assert again == thing
    assert type(again) is type(thing)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3), np.zeros((0, 2), np.int64), np.array(["a", None, 3.5], object),
        np.array([True, False]), np.array(["ab", "c"]), np.array([2**63], np.uint64), np.array(5),
        np.asfortranarray(np.arange(6).reshape(2, 3)), np.array([1, 2], ">i4"),
    ],
)  # fmt: skip
def test_arrays_come_back(array: Any) -> None:
    again = read(written(array, CLASSES), CLASSES)
    np.testing.assert_array_equal(again, array)
    assert again.dtype == array.dtype.newbyteorder("=")


def test_frames_tensors_and_parameters_come_back() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=pd.Index([5, 7], name="row"))
    tensors = {"weight": torch.nn.Parameter(torch.ones(2, 3)), "plain": torch.arange(3)}
    again = read(written([frame, frame["a"], tensors], CLASSES), CLASSES)
    pd.testing.assert_frame_equal(again[0], frame)
    pd.testing.assert_series_equal(again[1], frame["a"])
    assert isinstance(again[2]["weight"], torch.nn.Parameter)
    assert torch.equal(again[2]["weight"], tensors["weight"])
    assert torch.equal(again[2]["plain"], tensors["plain"])


def test_an_object_that_stands_twice_is_one_and_may_hold_itself() -> None:
    inner = Plain(size=3)
    outer = Plain(one=inner, two=[inner])
    outer.itself = outer  # type: ignore[attr-defined]
    again: Any = read(written(outer, CLASSES), CLASSES)
    assert again.one is again.two[0]
    assert again.itself is again
    assert again.one.size == 3


def test_equal_things_give_equal_bytes() -> None:
    one, two = (
        written({"set": set(words), "n": np.arange(3)}, CLASSES) for words in (["a", "b"], ["b", "a"])
    )
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_what_is_not_listed_is_neither_written_nor_read() -> None:
    for thing in (Fraction(1, 2), Fraction, [print], Plain(a=Fraction(1, 2))):
        with pytest.raises(TypeError, match="must be made of listed classes"):
            written(thing, CLASSES)
    stored = written(Plain(a=1), CLASSES)
    with pytest.raises(ValueError, match="must be made of listed classes"):
        read(stored, ())


@pytest.mark.parametrize(
    "described",
    [
        "", "{", '["_object"]', '["thing", 1]', '["object", "os:system", []]', '["class", "builtins:eval"]',
        f'["named", "{CLASSES[0]}", []]', '["same", 3]', '["array", 0, [5]]', '["items", "|O8,i4", [1], [1]]',
        '["scalar", "|O", "AAAAAAAA"]', '["dtype", "O8,i8"]', '["items", "|V8", [1], ["a"]]', '["array", "../x", [1]]',
    ],
)  # fmt: skip
def test_damaged_or_hostile_descriptions_are_refused(described: str) -> None:
    tensors = {"described": torch.tensor(list(described.encode()), dtype=torch.uint8)}
    with pytest.raises(ValueError):
        read(tensors, CLASSES)
