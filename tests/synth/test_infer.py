import datetime
import itertools
import math
import string
import uuid
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privacy.errors import InputError
from synth import infer as module
from synth.identifier import Pattern
from synth.infer import infer, infer_table, personal, plain_type, to_plain
from synth.schema import Column, Schema

QUICK = settings(max_examples=60, deadline=None)


def one(values: object, type: pa.DataType | None = None, *, name: str = "x", at_least: int = 10) -> Column:
    array = values if isinstance(values, pa.Array) else pa.array(values, type)
    return infer_table(pa.table({name: array}), at_least=at_least)[name]


# --------------------------------------------------------------------------------------------------- kinds


def codes(form: str, count: int) -> list[str]:
    return Pattern.parse(form).strings(0, count)


def uuids(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [str(uuid.UUID(bytes=rng.bytes(16), version=4)) for _ in range(count)]


DAY = datetime.date(1969, 1, 1)
KINDS = {
    "all missing": ([None] * 50, pa.int64(), "x", "empty"),
    "null type": ([None] * 50, pa.null(), "x", "empty"),
    "no rows": ([], pa.string(), "x", "empty"),
    "all nan": ([math.nan] * 50, pa.float64(), "x", "empty"),
    "one string": (["a", None] * 50, pa.string(), "x", "constant"),
    "one number": ([7] * 50, pa.int64(), "x", "constant"),
    "one time": ([0] * 50, pa.timestamp("us"), "x", "constant"),
    "one truth": ([True] * 50, pa.bool_(), "x", "constant"),
    "truth": ([True, False] * 50, pa.bool_(), "x", "boolean"),
    "dates": ([DAY + datetime.timedelta(i) for i in range(99)], pa.date32(), "x", "datetime"),
    "timestamps": (range(99), pa.timestamp("ns", tz="UTC"), "x", "datetime"),
    "durations": (range(99), pa.duration("s"), "x", "duration"),
    "clock times": (range(99), pa.time64("us"), "x", "duration"),
    "few integers": ([0, 1] * 99, pa.int64(), "x", "numerical"),
    "floats": (np.linspace(0, 1, 99), pa.float64(), "id", "numerical"),
    "decimals": ([Decimal("1.50"), Decimal("2.25")] * 50, pa.decimal128(6, 2), "x", "numerical"),
    "unique integers named id": ([i * i for i in range(99)], pa.int64(), "customerID", "identifier"),
    "unique integers of another name": ([i * i for i in range(99)], pa.int64(), "area", "numerical"),
    "a dense permutation": (range(1, 100), pa.int32(), "x", "identifier"),
    "a short permutation": (range(1, 50), pa.int32(), "x", "numerical"),
    "repeated ids": ([*range(80), *range(0, 400, 10)], pa.int64(), "patient_nbr", "identifier"),
    "codes named id": ([i % 8 for i in range(999)], pa.int64(), "admission_type_id", "numerical"),
    "a unit's ids": ([i * 7 % 300 for i in range(9000)], pa.int64(), "id", "identifier"),
    "repeated strings": (["a", "b", "c"] * 50, pa.string(), "x", "categorical"),
    "few strings in a small table": (["a", "b", "c", "d"], pa.string(), "x", "categorical"),
    "a category of pandas": (pa.array(codes("[a-z]{3}", 300)).dictionary_encode(), None, "x", "categorical"),
    "booking numbers": (codes("BK[0-9]{6}", 300), pa.string(), "x", "identifier"),
    "uuids": (uuids(300), pa.string(), "x", "identifier"),
    "repeated uuids": (uuids(30) * 20, pa.string(), "patient", "identifier"),
    "few uuids": (uuids(5) * 100, pa.string(), "payer", "categorical"),
    "words of many lengths": (
        [w * (i % 7 + 1) for i, w in enumerate(codes("[a-z]{4}", 300))],
        None,
        "x",
        "text",
    ),
    "prose": ([c * 100 for c in "abc"] * 50, pa.string(), "x", "text"),
    "rare strings": (codes("[a-z]{3}", 50) * 3, pa.string(), "x", "text"),
    "large strings": (["a", "b"] * 50, pa.large_string(), "x", "categorical"),
}


@pytest.mark.parametrize(("values", "type", "name", "kind"), KINDS.values(), ids=KINDS)
def test_the_kind_is(values: object, type: pa.DataType | None, name: str, kind: str) -> None:
    array = values if isinstance(values, pa.Array) else pa.array(values, type)
    found = one(array, name=name)
    assert found.kind == kind
    assert found.arrow_type == array.type


def test_floats_are_never_identifiers() -> None:
    assert one([float(i) for i in range(500)], name="id").kind == "numerical"


def test_ids_that_repeat_suggest_a_unit() -> None:
    note = one([i // 2 for i in range(1000)], name="patient_id").note
    assert note is not None
    assert "values repeat; if they are people, write `unit: patient_id` at the end of schema.yaml" in note


def test_text_comes_with_a_warning() -> None:
    found = one([w * (i % 7 + 1) for i, w in enumerate(codes("[a-z]{4}", 300))])
    assert found.action == "replace"
    assert found.note is not None


def test_nullable_says_whether_a_value_was_missing() -> None:
    assert not one([1, 2] * 20).nullable
    assert one([1, None] * 20).nullable
    assert one([1.0, math.nan] * 20).nullable


# --------------------------------------------------------------------------------------------------- facts


@QUICK
@given(
    values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5), min_size=1, max_size=60),
    at_least=st.integers(0, 12),
)
def test_an_extreme_is_the_value_of_its_rank(values: list[int], at_least: int) -> None:
    found = one(values, pa.int64(), at_least=at_least)
    k, ordered = max(at_least, 1), sorted(values)
    known = len(values) >= k and ordered[k - 1] <= ordered[-k]
    assert (found.min, found.max) == ((ordered[k - 1], ordered[-k]) if known else (None, None))


@QUICK
@given(
    words=st.lists(st.sampled_from(string.ascii_letters), min_size=1, max_size=400),
    at_least=st.integers(1, 12),
)
def test_no_category_is_rarer_than_at_least(words: list[str], at_least: int) -> None:
    found = one(words, at_least=at_least)
    kept = sorted(w for w, n in Counter(words).items() if n >= at_least)
    if found.kind in ("categorical", "constant"):
        assert found.categories == (tuple(kept) or None)


def test_many_categories_are_not_listed() -> None:
    found = one([f"{i}" for i in range(201)] * 10)
    assert (found.kind, found.categories) == ("categorical", None)
    assert len(one([f"{i}" for i in range(200)] * 10).categories or ()) == 200


def test_a_constant_of_few_rows_is_not_written_down() -> None:
    found = one(["secret", *[None] * 99])
    assert (found.kind, found.categories, found.min) == ("constant", None, None)
    assert one([5, *[None] * 99]).min is None


@QUICK
@given(
    base=st.integers(-(2**62), 2**62),
    step=st.integers(1, 2**40),
    steps=st.lists(st.integers(0, 2**20), min_size=2, max_size=40),
)
def test_the_step_divides_every_difference_and_is_the_largest_to_do_so(
    base: int, step: int, steps: list[int]
) -> None:
    values = [base + step * s for s in steps]
    found = one(values, pa.int64(), at_least=1)
    oracle = math.gcd(*(v - values[0] for v in values))
    assert found.step == (oracle if oracle > 1 else None)


def test_the_step_of_int64s_that_lie_far_apart_is_right() -> None:
    found = one([-(2**63), 2**63 - 2, 0] * 20, pa.int64())
    assert found.step == 2


def test_whole_hours_have_a_step_of_an_hour() -> None:
    hours = pa.array([i * 3_600_000_000 for i in range(99)], pa.timestamp("us"))
    assert one(hours).step == 3_600_000_000


def test_of_few_times_no_more_is_told_than_whole_hours() -> None:
    assert one(pa.array([0, 5 * 3600], pa.timestamp("s"))).step == 3600
    assert one(pa.array([0, 40], pa.int64())).step is None


@QUICK
@given(
    digits=st.integers(0, 6),
    values=st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=40),
    type=st.sampled_from([pa.float64(), pa.float32()]),
)
def test_digits_are_the_fewest_that_write_every_float(
    digits: int, values: list[int], type: pa.DataType
) -> None:
    floats = pa.array([v / 10**digits for v in values], type)
    found = one(floats, at_least=1)
    exact = floats.to_numpy()
    if found.kind == "numerical":
        assert found.digits is not None
        assert found.digits <= digits
        assert (np.round(exact.astype(np.float64), found.digits).astype(exact.dtype) == exact).all()


def test_floats_of_more_digits_have_none() -> None:
    assert one(np.random.default_rng(0).random(50)).digits is None


def test_facts_of_times_are_written_in_iso() -> None:
    assert one([DAY, DAY, datetime.date(2020, 2, 29)] * 20).min == "1969-01-01"
    assert one(pa.array([-1, 0] * 20, pa.timestamp("us"))).min == "1969-12-31T23:59:59.999999"
    assert one(pa.array([-1, 0] * 20, pa.timestamp("ns", tz="UTC"))).max == "1970-01-01T00:00:00.000000000Z"
    assert one(pa.array([0, 60] * 20, pa.time32("s"))).max == "00:01:00"
    assert one([Decimal("1.50"), Decimal("2.25")] * 20, pa.decimal128(6, 2)).min == "1.50"


def test_infinities_are_no_extremes() -> None:
    found = one([*[math.inf] * 20, *[1.5, 2.5] * 20])
    assert (found.min, found.max, found.digits) == (1.5, 2.5, 1)


@pytest.mark.parametrize("type", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint64()])
def test_new_identifiers_have_room_within_their_type(type: pa.DataType) -> None:
    found = one(range(1, 101), type, name="id")
    assert isinstance(found.min, int)
    assert isinstance(found.max, int)
    assert found.max - found.min + 1 >= 100
    pa.array([found.min, found.max], type)


def test_bounds_of_identifiers_do_not_show_an_identifier() -> None:
    found = one([4711 + 13 * i for i in range(99)], name="id")
    assert (found.min, found.max) == (1000, 10000)


# ---------------------------------------------------------------------------------------------- identifiers


@pytest.mark.parametrize(
    "form",
    [
        "BK[0-9]{6}",
        "[A-Z]{2}-[0-9]{4}",
        "[0-9a-f]{12}",
        "[0-9A-F]{12}",
        "[A-Z0-9]{8}",
        "[A-Za-z0-9]{8}",
        r"\[[0-9]{5}\]\\",
        r"a\{[a-z]{5}\}",
        "[0-9]{5}x[0-9]",
    ],
)
def test_the_pattern_of_identifiers_is_found(form: str) -> None:
    found = one(codes(form, 3000))
    assert (found.kind, found.pattern) == ("identifier", form)


@QUICK
@given(
    st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=6, max_size=6), min_size=50)
)
def test_every_value_fits_the_pattern_that_is_found(values: list[str]) -> None:
    found = one([f"ID{i:06d}{v[:2]}" for i, v in enumerate(values)])
    if found.pattern is not None:
        positions = Pattern.parse(found.pattern).positions
        for i, v in enumerate(values):
            assert all(c in allowed for c, allowed in zip(f"ID{i:06d}{v[:2]}", positions, strict=True))


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        ([f"C{i % 300:03d}" for i in range(3000)], "C[0-9]{4}"),
        ([f"C{i:03d}-x" for i in range(1000)], "C[0-9]{4}-x"),
        ([f"\\{i % 10}[{i // 10}" for i in range(60)], r"\\[0-9]\[[0-9]{2}"),
        ([f"{chr(65 + i % 26)}{i // 26}" for i in range(260)], "[A-Z][0-9]{2}"),
        (codes("[A-F0-9]{2}", 256), "[0-9A-F]{3}"),
    ],
)
def test_new_identifiers_of_twice_the_rows_are_unique(values: list[str], pattern: str) -> None:
    found = one(values, name="customer_id")
    assert (found.kind, found.pattern) == ("identifier", pattern)
    assert len(set(codes(pattern, 2 * len(values)))) == 2 * len(values)


@QUICK
@given(rows=st.integers(1, 10**7), form=st.sampled_from(["[0-9]{2}", "a[a-z]{2}b", r"\[[0-9A-F]{2}\\"]))
def test_a_pattern_is_given_no_more_positions_than_it_needs(rows: int, form: str) -> None:
    found = Pattern.parse(module._roomy(form, rows))
    assert found.size >= rows
    wider = len(found.positions) > len(Pattern.parse(form).positions)
    assert not wider or found.size // len(found.positions[1]) < rows


# ------------------------------------------------------------------------------------------------ streaming


def in_parts(table: pa.Table, size: int) -> Schema:
    return infer(lambda: iter(table.to_batches(max_chunksize=size)))


@QUICK
@given(size=st.integers(1, 400), seed=st.integers(0, 5))
def test_the_cut_into_batches_does_not_matter(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = pa.table(
        {
            "i": rng.integers(0, 50, 400) * 3,
            "f": np.round(rng.normal(size=400), 2),
            "s": rng.choice(["a", "b", "rare"], 400, p=[0.6, 0.39, 0.01]),
            "k": codes("K[0-9]{5}", 400),
            "t": pa.array(rng.integers(-(10**6), 10**6, 400) * 1000, pa.timestamp("us")),
            "m": pa.array([None, 1] * 200),
        }
    )
    assert in_parts(table, size) == in_parts(table, 400)


@pytest.mark.parametrize("values", [pa.array(range(40_000)), pa.array(codes("[a-z]{8}", 40_000))])
def test_distinct_values_beyond_the_cap_are_estimated(
    values: pa.Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DISTINCT", 2000)
    tally = module._Tally()
    for start in range(0, len(values), 1000):
        tally.add(values.slice(start, 1000))
    found, counts, scale = tally.result()
    assert len(found) <= 2000
    assert (counts == 1).all()
    assert abs(len(found) * scale / len(values) - 1) < 0.2


def test_counts_beyond_the_cap_are_exact_for_the_values_that_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "DISTINCT", 500)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5000, 50_000)
    tally = module._Tally()
    for part in np.array_split(values, 37):
        tally.add(pa.array(part))
    found, counts, scale = tally.result()
    assert scale > 1
    truth = Counter(values.tolist())
    assert dict(zip(found.to_pylist(), counts.tolist(), strict=True)) == {
        v: truth[v] for v in found.to_pylist()
    }


def test_beyond_the_cap_kinds_stay_what_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "id": range(20_000),
            "code": codes("K[0-9]{7}", 20_000),
            "amount": rng.integers(0, 10**6, 20_000),
            "shared": [f"w{i}" for i in rng.integers(0, 900, 20_000)],
            "prose": [w * (i % 5 + 1) for i, w in enumerate(codes("[a-z]{5}", 20_000))],
        }
    )
    before = [c.kind for c in in_parts(table, 1000)]
    monkeypatch.setattr(module, "DISTINCT", 300)
    assert [c.kind for c in in_parts(table, 1000)] == before
    assert before == ["identifier", "identifier", "numerical", "categorical", "text"]


def test_a_table_without_batches_is_refused() -> None:
    with pytest.raises(InputError, match="columns"):
        infer(lambda: iter(()))


def test_a_type_that_no_schema_can_name_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="'tags'"):
        infer_table(pa.table({"tags": [[1], [2]]}))


# ---------------------------------------------------------------------------------------------------- blind


def test_blind_looks_at_no_row() -> None:
    fields = [("id", pa.int64()), ("city", pa.string()), ("at", pa.timestamp("us")), ("on", pa.bool_())]
    fields += [("c", pa.dictionary(pa.int8(), pa.string())), ("e_mail", pa.string()), ("x", pa.float64())]
    schema = pa.schema(fields)

    def first_then_fail() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist([], schema=schema)
        raise AssertionError("blind must not read on")

    found = infer(first_then_fail, blind=True)
    assert [c.kind for c in found] == [
        *("identifier", "text", "datetime", "boolean", "categorical", "text", "numerical"),
    ]
    assert all(c.min is None and c.categories is None and c.pattern is None for c in found)
    assert "e-mail" in (found["e_mail"].note or "")


def test_blind_is_the_same_whatever_the_rows() -> None:
    a, b = pa.table({"x": ["a"], "n": [1]}), pa.table({"x": ["b", None], "n": [2, None]})
    assert infer_table(a, blind=True) == infer_table(b, blind=True)


# -------------------------------------------------------------------------------------------------- personal

PEOPLE = {
    "mail by value": ("contact", ["ann@example.org", "bob@example.co.uk"], "e-mail address"),
    "mail by name": ("customer_email", [], "e-mail address"),
    "phone by value": ("contact", ["+41 79 123 45 67", "(555) 123-4567", "555-123-4567"], "phone number"),
    "phone by name": ("Phone", ["5551234567"], "phone number"),
    "card": ("c", ["4111 1111 1111 1111", "5500000000000004"], "payment card number"),
    "iban": ("c", ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000"], "IBAN"),
    "ssn": ("c", ["078-05-1120", "219-09-9999"], "social security number"),
    "birth": ("BirthDate", [], "date of birth"),
    "place": ("pickup_latitude", [], "place of a person or a home"),
    "no place": ("lateness", [], None),
    "name": ("first_name", ["Ann", "Bob"], "name of a person"),
    "address": ("home_address", ["1 Main Street", "22 High Road"], "postal address"),
    "passport": ("PASSPORT", ["X12345678X"], "passport or licence number"),
    "flag about phones": ("PhoneService", ["Yes", "No"], None),
    "surface of a street": ("Street", ["Pave", "Grvl"], None),
    "dates": ("d", ["05-02-2010", "2010-02-05"], None),
    "plain numbers": ("n", ["4111111111111112", "5500000000000005"], None),
    "codes": ("zip", ["98001", "98002"], None),
    "nothing": ("x", [], None),
}


@pytest.mark.parametrize(("name", "values", "finding"), PEOPLE.values(), ids=PEOPLE)
def test_personal_data_is_found_by_name_and_value(name: str, values: list[str], finding: str | None) -> None:
    assert personal(name, pa.array(values, pa.string())) == finding


def test_mail_addresses_are_text_however_often_they_repeat() -> None:
    found = one(["ann@example.org", "bob@example.org"] * 50)
    assert found.kind == "text"
    assert "e-mail" in (found.note or "")


def test_where_people_live_is_noticed_in_numbers() -> None:
    numbers = pa.array([47.5 + i / 1000 for i in range(100)])
    found = infer_table(pa.table({"lat": numbers, "long": numbers, "long_run": numbers, "weight": numbers}))
    assert [("place of a person" in (c.note or "")) for c in found] == [True, True, False, False]
    assert [c.kind for c in found] == ["numerical"] * 4


def test_the_form_of_few_values_is_not_written_down() -> None:
    assert one(["999-01-0001", "999-02-0002"] * 50, name="ssn").pattern is None


def test_social_security_numbers_are_made_anew() -> None:
    found = one(codes("[0-9]{3}-[0-9]{2}-[0-9]{4}", 300), name="SSN")
    assert (found.kind, found.action, found.pattern) == ("text", "regenerate", None)
    assert found.personal is not None
    assert (found.personal.what, found.personal.unique) == ("national_number", True)


def test_card_numbers_in_integers_are_identifiers() -> None:
    heads = range(400_000_000_000_000, 400_000_000_000_100)
    cards = [next(n for n in range(h * 10, h * 10 + 10) if module._is_card(str(n))) for h in heads]
    found = one(list(itertools.chain(cards, cards)), name="c")
    assert found.kind == "identifier"
    assert "card" in (found.note or "")


def test_no_note_shows_a_value() -> None:
    words = [f"{w * (i % 3 + 1)}@example.org" for i, w in enumerate(codes("secret[a-z]{5}", 200))]
    assert "secret" not in infer_table(pa.table({"x": words, "email": words})).to_yaml()


# ----------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("type", "plain"),
    [
        (pa.int8(), pa.int8()),
        (pa.string_view(), pa.string()),
        (pa.list_(pa.int64()), pa.string()),
        (pa.binary(), pa.string()),
        (pa.uuid(), pa.string()),
        (pa.month_day_nano_interval(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int8(), pa.string())),
        (pa.dictionary(pa.int8(), pa.timestamp("us")), pa.timestamp("us")),
        (pa.decimal128(10, 2), pa.decimal128(10, 2)),
    ],
)
def test_every_type_has_one_that_a_schema_can_name(type: pa.DataType, plain: pa.DataType) -> None:
    assert plain_type(type) == plain
    assert to_plain(pa.nulls(3, type), plain).null_count == 3


# ----------------------------------------------------------------------------------------------- constraints


def _trips(rows: int = 400, *, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    begin = rng.integers(0, 10**8, rows)
    net, tax = rng.integers(100, 10**6, rows) / 100, rng.integers(100, 10**5, rows) / 100
    city = rng.integers(0, 4, rows)
    state = rng.choice(["runs", "done"], rows)
    return {
        "begin": pa.array(begin).cast(pa.timestamp("s")),
        "end": pa.array(begin + rng.integers(0, 10**6, rows), mask=state == "runs").cast(pa.timestamp("s")),
        "state": state,
        "total": np.round(net + tax, 2),
        "net": net,
        "tax": tax,
        "city": np.array(["Bern", "Ulm", "Oslo", "Köln"])[city],
        "land": np.array(["CH", "DE", "NO", "DE"])[city],
    }


def test_what_all_rows_meet_is_suggested_and_says_why() -> None:
    schema = infer_table(pa.table(_trips()))
    assert {str(c) for c in schema.suggestions} == {
        "begin <= end",
        "total = net + tax",
        "combinations of city, land",
        "end is missing exactly where state is runs",
    }
    assert all(not c.declared and c.note for c in schema.suggestions)
    assert infer_table(pa.table(_trips()), blind=True).suggestions == ()


@pytest.mark.parametrize("batch_rows", [7, 150, 400])
def test_one_row_that_breaks_a_constraint_is_enough_wherever_it_stands(batch_rows: int) -> None:
    columns = _trips()
    table = pa.table(columns)
    for name, value in (
        ("end", columns["begin"][399].as_py().replace(year=1960)),
        ("tax", -5.0),
        ("land", "FR"),
    ):
        values = table.column(name).to_pylist()
        at = next(i for i in reversed(range(400)) if values[i] is not None)
        values[at] = value
        wrong = table.set_column(table.column_names.index(name), name, pa.array(values, table[name].type))
        batches = wrong.to_batches(max_chunksize=batch_rows)
        found = infer(lambda batches=batches: iter(batches)).suggestions
        assert not any(name in c.names and c.rule != "missing" for c in found), name
        assert len(found) >= (2 if batch_rows > 20 else 1)


def test_what_holds_by_chance_or_says_nothing_is_not_suggested() -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "small": rng.integers(0, 100, 500),
            "large": rng.integers(1000, 2000, 500),
            "wide": rng.integers(0, 100, 500) + rng.integers(100, 10_000, 500),
            "word": rng.choice(["a", "b", "c"], 500),
            "other": rng.choice(["x", "y"], 500),
            "same": np.zeros(500, np.int64),
        }
    )
    assert infer_table(table).suggestions == ()


def test_a_gap_that_would_lose_the_digits_of_its_column_is_not_suggested() -> None:
    rng = np.random.default_rng(0)
    low = np.round(rng.uniform(0, 1000, 500), 2)
    whole = pa.table({"low": low, "high": np.ceil(low) + rng.integers(0, 3, 500)})
    assert infer_table(whole).suggestions == ()
    exact = pa.table({"low": low, "high": np.round(low + rng.integers(0, 300, 500) / 100, 2)})
    assert [str(c) for c in infer_table(exact).suggestions] == ["low <= high"]


def test_a_gap_that_would_lose_round_numbers_is_not_suggested() -> None:
    rng = np.random.default_rng(0)
    loan = rng.integers(1, 40, 2000) * 1000
    balance = np.round(loan * rng.uniform(0.6, 1, 2000), 2)
    assert infer_table(pa.table({"balance": balance, "loan": loan * 1.0})).suggestions == ()


def test_values_of_few_rows_are_not_written_into_a_constraint() -> None:
    state = np.array(["open"] * 200 + ["shut"] * 200 + ["odd"] * 3)
    table = pa.table(
        {"state": state, "x": pa.array(np.random.default_rng(0).normal(size=403), mask=state == "odd")}
    )
    assert infer_table(table).suggestions == ()


def test_three_terms_are_found_and_the_rest_of_the_sum_is_not_said_again() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.integers(1, 1000, 300) for _ in range(3))
    table = pa.table({"a": a, "b": b, "c": c, "all": a + b + c})
    assert [str(x) for x in infer_table(table).suggestions] == ["all = a + b + c"]
