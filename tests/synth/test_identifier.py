import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import SchemaError
from synth.identifier import Pattern, permuted

CLASSES = ["0-9", "a-z", "A-Za-z", "ABC", "x", "0-9a-f", "ä-ö", "a-", "01-"]


@st.composite
def patterns(draw: st.DrawFn) -> tuple[str, str, int]:
    """A pattern, the regular expression that says the same, and how many strings it allows."""
    text, form, size = "", "", 1
    for _ in range(draw(st.integers(0, 5))):
        times = draw(st.none() | st.integers(0, 4))
        if draw(st.booleans()):
            inside = draw(st.sampled_from(CLASSES))
            token, regex = f"[{inside}]", f"[{inside}]"
            choices = sum(bool(re.fullmatch(regex, chr(c))) for c in range(300))
        else:
            letter = draw(st.characters(codec="utf-8", exclude_characters="\0"))
            token, regex, choices = ("\\" + letter if letter in "\\[]{}" else letter), re.escape(letter), 1
        text += token + ("" if times is None else f"{{{times}}}")
        form += regex + ("" if times is None else f"{{{times}}}")
        size *= choices ** (1 if times is None else times)
    return text, form, size


@given(patterns(), st.integers(0, 10**6))
def test_identifiers_have_the_form_of_their_pattern(made: tuple[str, str, int], first: int) -> None:
    text, form, size = made
    pattern = Pattern.parse(text)
    assert pattern.size == size
    for string in pattern.strings(first, 20):
        assert re.fullmatch(form, string, re.DOTALL)


@given(patterns())
def test_identifiers_are_all_different_as_long_as_there_are_enough(made: tuple[str, str, int]) -> None:
    pattern = Pattern.parse(made[0])
    count = min(pattern.size, 3000)
    assert len(set(pattern.strings(0, count))) == count


@given(patterns(), st.integers(0, 10**4), st.lists(st.integers(0, 50), max_size=4))
def test_shards_one_after_the_other_are_one_draw(
    made: tuple[str, str, int], first: int, shards: list[int]
) -> None:
    pattern = Pattern.parse(made[0])
    parts, at = [], first
    for count in shards:
        parts += pattern.strings(at, count)
        at += count
    assert parts == pattern.strings(first, sum(shards))


@pytest.mark.parametrize("text", ["[0-9]{30}", "[A-Za-z0-9]{64}", "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{24}"])
def test_identifiers_of_huge_spaces_differ_and_do_not_run_in_order(text: str) -> None:
    pattern = Pattern.parse(text)
    for first in (0, 2**31 - 5, 10**12):
        drawn = pattern.strings(first, 2000)
        assert len(set(drawn)) == 2000
        assert drawn != sorted(drawn)


def test_a_million_identifiers_differ() -> None:
    assert len(set(Pattern.parse("BK[0-9]{6}").strings(0, 10**6))) == 10**6


@given(st.integers(1, 4000))
def test_row_numbers_are_permuted(size: int) -> None:
    assert sorted(permuted(0, size, size).tolist()) == list(range(size))
    assert permuted(size, 3, size).tolist() == permuted(0, 3, size).tolist()


@given(st.integers(2**20, 2**80), st.integers(0, 2**40))
def test_a_stretch_of_rows_stays_inside_the_space_and_never_repeats(size: int, first: int) -> None:
    places = permuted(first % size, 300, size).tolist()
    assert all(0 <= p < size for p in places)
    assert len(set(places)) == min(300, size)


def test_neighbouring_rows_land_far_apart() -> None:
    places = np.asarray(permuted(0, 1000, 10**6), np.int64)
    assert np.abs(np.diff(places)).min() > 10**5


@pytest.mark.parametrize(
    "text", ["[", "]", "[]", "{3}", "a}", "[0-9]{x}", "[0-9]{-1}", "\\", "[z-a]", "a{2}{3}", "a\0"]
)
def test_a_broken_pattern_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(SchemaError, match="however"):
        Pattern.parse(text)


@given(st.text())
def test_any_text_is_a_pattern_or_a_schema_error(text: str) -> None:
    try:
        pattern = Pattern.parse(text)
    except SchemaError:
        return
    assert pattern.size == math.prod(len(set(p)) for p in pattern.positions)
