"""What a profile may say of a table, beside counting by hand."""

import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy.curator import MISSING
from privacy.errors import InputError, SchemaError
from synth.keys import from_keys, to_keys
from synth.learn import ATOM_SHARE
from synth.profile import ColumnProfile, Profile
from tests.synth.tables import Learned, learned, mixed, mixed_schema, schema_for

RNG_SEEDS = st.integers(0, 2**32 - 1)


def named(profile: ColumnProfile) -> set[int | str]:
    """Every value that the profile of a column tells, as a key or a string."""
    return {*profile.atoms, *profile.edges, *profile.support, *(e - 1 for e in profile.edges)}


def rates(profile: ColumnProfile) -> float:
    return profile.missing + sum(profile.atom_rates) + profile.pooled + sum(profile.cell_rates)


# --------------------------------------------------------------------------------------------------- disclosure


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from("abcdefgh") | st.none()), min_size=30, max_size=120
    ),
    st.integers(2, 8),
    st.booleans(),
)
def test_exactly_the_categories_of_enough_units_are_named(
    rows: list[tuple[int, str | None]], at_least: int, by_unit: bool
) -> None:
    table = pa.table({"who": [u for u, _ in rows], "what": pa.array([w for _, w in rows], pa.string())})
    known = learned(table, schema_for(table, unit="who" if by_unit else None), at_least=at_least)
    units: dict[str, set[int]] = {}
    for i, (unit, what) in enumerate(rows):
        if what is not None:
            units.setdefault(what, set()).add(unit if by_unit else i)
    expected = sorted(w for w, us in units.items() if len(us) >= at_least)
    assert list(known["what"].atoms) == expected
    rare = sum(what is not None and what not in expected for _, what in rows)
    theirs = {u if by_unit else i for i, (u, w) in enumerate(rows) if w is not None and w not in expected}
    if len(theirs) < at_least:
        assert known["what"].pooled == 0
    elif rare >= at_least:
        counts = Counter(what for _, what in rows)
        assert known["what"].pooled == pytest.approx(rare / len(rows))
        assert known["what"].atom_rates == pytest.approx([counts[w] / len(rows) for w in expected])
    else:
        assert known["what"].pooled == 0


def planted(rng: np.random.Generator, rows: int, *, shared: int) -> tuple[NDArray[np.float64], set[float]]:
    """Numbers of which all are unique, but one that `shared` rows share; and the set of all of them."""
    values = rng.lognormal(8, 1, rows)
    values[:shared] = values[0]
    rng.shuffle(values)
    return values, set(values.tolist())


@settings(max_examples=15)
@given(RNG_SEEDS, st.integers(2, 20))
def test_a_number_of_fewer_than_enough_rows_is_never_told_but_for_the_bounds(
    seed: int, at_least: int
) -> None:
    values, private = planted(np.random.default_rng(seed), 1500, shared=at_least - 1)
    table = pa.table({"x": values})
    known = learned(table, schema_for(table), at_least=at_least)["x"]
    ordered = to_keys(pa.array(np.sort(values)))
    allowed = {int(ordered[at_least - 1]), int(ordered[-at_least])}
    told = named(known) & {int(k) for k in to_keys(pa.array(sorted(private)))}
    assert told <= allowed
    # The same value, shared by enough, would be told.
    enough, _ = planted(np.random.default_rng(seed), 1500, shared=max(at_least, 16))
    again = learned(pa.table({"x": enough}), schema_for(table), at_least=at_least)["x"]
    assert (
        Counter(enough.tolist()).most_common(1)[0][0]
        in from_keys(np.array(again.atoms, np.int64), pa.float64()).to_pylist()
    )


@pytest.mark.parametrize("type", [pa.float64(), pa.int64()], ids=str)
def test_a_number_that_fills_many_rows_of_one_unit_is_never_told(type: pa.DataType) -> None:
    rng = np.random.default_rng(5)
    secret = 123_457.789 if type == pa.float64() else 123_457_789_012
    scale = 1 if type == pa.float64() else 1_000_000
    others = rng.normal(123_000, 40_000, 1000) * scale
    values = np.concatenate([others, np.full(300, secret)])
    unit = np.concatenate([np.arange(1000), np.full(300, 5000)])
    table = pa.table({"x": pa.array(values).cast(type, safe=False), "who": unit})
    known = learned(table, schema_for(table, unit="who"))
    key = int(to_keys(pa.array([secret], type))[0])
    assert key not in named(known["x"])


def test_a_string_of_many_rows_of_one_unit_is_never_told() -> None:
    table = pa.table({"x": ["common"] * 500 + ["only me"] * 300, "who": [*range(500), *[999] * 300]})
    assert learned(table, schema_for(table, unit="who"))["x"].atoms == ("common",)
    assert learned(table, schema_for(table, who={"kind": "numerical"}))["x"].atoms == ("common", "only me")


def test_a_pool_of_too_few_units_is_dissolved() -> None:
    table = pa.table({"x": ["common"] * 500 + ["only me"] * 300, "who": [*range(500), *[999] * 300]})
    assert learned(table, schema_for(table, unit="who"))["x"].pooled == 0


def test_numbers_of_too_few_units_have_no_bounds_and_give_no_value() -> None:
    rng = np.random.default_rng(0)
    values = [*[None] * 500, *rng.normal(50, 1, 60).tolist()]
    table = pa.table({"x": pa.array(values, pa.float64()), "who": [*range(500), *[998, 999, 1000] * 20]})
    known = learned(table, schema_for(table, unit="who"))["x"]
    assert (known.atoms, known.edges) == ((), ())


@settings(max_examples=20)
@given(RNG_SEEDS, st.integers(1, 15), st.sampled_from(["float", "integer", "time"]), st.booleans())
def test_bounds_are_the_values_of_the_rank_that_is_asked_for(
    seed: int, at_least: int, form: str, by_unit: bool
) -> None:
    rng = np.random.default_rng(seed)
    unit = rng.integers(0, 300, 900)
    numbers = rng.standard_cauchy(900) * 1e6
    array = pa.array(numbers) if form == "float" else pa.array(numbers.astype(np.int64))
    if form == "time":
        array = array.view(pa.timestamp("us", "UTC"))
    table = pa.table({"x": array, "who": unit})
    known = learned(table, schema_for(table, unit="who" if by_unit else None), at_least=at_least)["x"]
    keys = to_keys(array)
    if by_unit:
        low = np.sort([keys[unit == u].min() for u in np.unique(unit)])
        high = np.sort([keys[unit == u].max() for u in np.unique(unit)])
    else:
        low = high = np.sort(keys)
    assert (known.edges[0], known.edges[-1] - 1) == (low[at_least - 1], high[-at_least])


@settings(max_examples=15)
@given(RNG_SEEDS, st.integers(1, 30))
def test_every_cell_holds_enough_rows_or_none(seed: int, at_least: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.concatenate([rng.normal(0, 1, 700), rng.normal(1e6, 1, 600), rng.exponential(1e-3, 400)])
    table = pa.table({"x": values})
    known = learned(table, schema_for(table), at_least=at_least)["x"]
    held = np.array(known.cell_rates) * len(values)
    assert ((held > at_least - 1e-6) | (held == 0)).all()
    # The cells are where the rows are: counted again by hand, they hold what they say.
    keys = np.clip(to_keys(pa.array(values)), known.edges[0], known.edges[-1] - 1)
    cells = zip(known.edges[:-1], known.edges[1:], strict=True)
    counts = [int(((keys >= a) & (keys < b)).sum()) for a, b in cells]
    np.testing.assert_allclose(held, counts, atol=1e-6)
    assert max(counts) < max(4 * at_least, 40)


def test_without_disclosure_control_everything_is_kept() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 1, 200)
    table = pa.table({"word": [f"w{i}" for i in range(200)], "x": values})
    known = learned(table, schema_for(table), at_least=0)
    assert known.profile.at_least == 0
    assert known["word"].atoms == tuple(sorted(f"w{i}" for i in range(200)))
    assert known["word"].pooled == 0
    ends = from_keys(np.array([known["x"].edges[0], known["x"].edges[-1] - 1]), pa.float64()).to_pylist()
    assert ends == [values.min(), values.max()]


@pytest.mark.parametrize("rows", [1, 3, 19])
def test_a_table_with_too_few_rows_is_refused_with_a_remedy(rows: int) -> None:
    table = pa.table({"x": list(range(rows))})
    with pytest.raises(InputError, match=r"at least 20 rows.*at_least: 0"):
        learned(table, schema_for(table))


def test_the_order_of_rows_and_batches_leaves_no_trace() -> None:
    table = mixed(600)
    shuffled = table.take(np.random.default_rng(1).permutation(600))
    first = learned(table, mixed_schema(table)).profile.to_json()
    assert learned(shuffled, mixed_schema(table), batch_rows=37).profile.to_json() == first


# --------------------------------------------------------------------------------------------------- shape


def test_a_value_that_stands_out_is_an_atom_and_a_near_miss_is_not() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(50, 10, 4000)
    values[:400] = 0.0
    values[400:450] = 99.5
    values[450 : 450 + int(0.6 * ATOM_SHARE * 4000)] = 33.0
    table = pa.table({"x": values})
    known = learned(table, schema_for(table))["x"]
    assert from_keys(np.array(known.atoms), pa.float64()).to_pylist() == [0.0, 99.5]
    assert known.atom_rates == pytest.approx([0.1, 0.0125])


def test_integers_spread_evenly_have_a_support_and_no_atoms() -> None:
    values = np.random.default_rng(3).integers(0, 100, 5000)
    table = pa.table({"x": values})
    known = learned(table, schema_for(table))["x"]
    assert (known.atoms, known.support) == ((), tuple(range(100)))
    assert known.cell_rates == pytest.approx(np.bincount(values) / 5000)


def test_few_values_are_all_atoms() -> None:
    table = pa.table({"x": [1, 2, 3, None] * 50})
    known = learned(table, schema_for(table))["x"]
    assert (known.atoms, known.missing, known.edges) == ((1, 2, 3), 0.25, ())


def test_no_row_is_spread_over_a_gap() -> None:
    rng = np.random.default_rng(4)
    values = np.concatenate([rng.uniform(0, 1, 1000), rng.uniform(1000, 1001, 1000)])
    table = pa.table({"x": values})
    known = learned(table, schema_for(table))["x"]
    ends = from_keys(np.array(known.edges), pa.float64()).to_numpy()
    inside = np.array(known.cell_rates)[(ends[:-1] >= 1.5) & (ends[1:] <= 990)]
    assert len(inside)
    assert inside.sum() == 0


floats = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(max_examples=40)
@given(
    st.lists(st.none() | st.sampled_from([0.0, 1.5, -7.0]) | floats, min_size=40, max_size=150),
    st.integers(0, 20),
)
def test_rates_make_one_and_edges_rise_whatever_the_numbers(
    values: list[float | None], at_least: int
) -> None:
    table = pa.table({"x": pa.array(values, pa.float64())})
    known = learned(table, schema_for(table), at_least=at_least)["x"]
    assert rates(known) == pytest.approx(1)
    assert min([known.missing, known.pooled, *known.atom_rates, *known.cell_rates]) >= 0
    assert known.missing >= sum(v is None for v in values) / len(values) - 1e-9
    assert len(known.edges) == (len(known.cell_rates) + 1 if known.cell_rates else 0)
    assert all(a < b for a, b in zip(known.edges, known.edges[1:], strict=False))
    assert len(known.support) in (0, len(known.cell_rates))
    assert MISSING not in known.atoms


def test_rates_of_every_kind_of_column_make_one() -> None:
    table = mixed(800)
    known = learned(table, mixed_schema(table))
    for profile in known.profile.columns:
        assert rates(profile) == pytest.approx(1)
        nulls = table.column(profile.name).null_count
        assert profile.missing == pytest.approx(nulls / 800)
    assert known["id"].atoms == known["note"].atoms == known["void"].atoms == ()


@pytest.mark.parametrize("ends", [(2**63 - 1, 2**63 - 1), (-(2**63) + 1, 2**63 - 1)])
@pytest.mark.parametrize("unique", [False, True])
def test_the_largest_integers_there_are_have_cells(ends: tuple[int, int], unique: bool) -> None:
    rng = np.random.default_rng(0)
    middle = rng.integers(-(10**6), 10**6, 300) if unique else np.arange(300) % 100
    table = pa.table({"x": [*ends * 3, *middle.tolist() * (1 if unique else 20)]})
    for at_least in (0, 3):
        known = learned(table, schema_for(table), at_least=at_least)["x"]
        assert all(a < b for a, b in zip(known.edges, known.edges[1:], strict=False))
        assert rates(known) == pytest.approx(1)


@pytest.mark.parametrize("low", [-60.0, -1e300])
def test_a_support_may_lie_on_both_sides_of_zero(low: float) -> None:
    values = [*np.linspace(low, -10, 60).tolist(), *np.linspace(10, 60, 60).tolist()]
    table = pa.table({"x": values * 20})
    known = learned(table, schema_for(table))["x"]
    assert len(known.support) == 120
    assert all(a < b for a, b in zip(known.edges, known.edges[1:], strict=False))


# --------------------------------------------------------------------------------------------------- facts, files


def test_declared_categories_bind() -> None:
    table = pa.table({"x": ["a"] * 50 + ["b"] * 40 + ["c"] * 30})
    schema = schema_for(table, x={"facts": "declared: form", "categories": ["a", "c"]})
    known = learned(table, schema)["x"]
    assert known.atoms == ("a", "c")
    assert known.pooled == pytest.approx(40 / 120)
    observed = schema_for(table, x={"categories": ["a", "c"]})
    assert learned(table, observed)["x"].atoms == ("a", "b", "c")


def test_declared_categories_of_numbers_bind() -> None:
    table = pa.table({"x": [1] * 50 + [2] * 40 + [3] * 30})
    schema = schema_for(table, x={"kind": "categorical", "facts": "declared: form", "categories": [1, 3]})
    assert learned(table, schema)["x"].atoms == (1, 3)


def test_declared_bounds_bind_and_observed_ones_do_not() -> None:
    values = np.random.default_rng(0).normal(50, 10, 1000)
    table = pa.table({"x": values})

    def bounds(facts: str) -> list[float]:
        known = learned(table, schema_for(table, x={"facts": facts, "min": 0.0, "max": 120.0}))["x"]
        ends: list[float] = from_keys(
            np.array([known.edges[0], known.edges[-1] - 1]), pa.float64()
        ).to_pylist()
        return ends

    assert bounds("declared: instrument") == [0.0, 120.0]
    ordered = np.sort(values)
    assert bounds("observed") == [ordered[9], ordered[-10]]


def test_declared_bounds_of_times_bind() -> None:
    numbers = np.random.default_rng(0).integers(0, 10**9, 1000)
    table = pa.table({"x": pa.array(numbers).view(pa.timestamp("s"))})
    facts = {"facts": "declared: opened then", "min": "1960-01-01T00:00:00", "max": "2030-01-01T00:00:00"}
    known = learned(table, schema_for(table, x=facts))["x"]
    assert [
        str(v) for v in from_keys(np.array([known.edges[0], known.edges[-1] - 1]), pa.timestamp("s"))
    ] == [
        "1960-01-01 00:00:00",
        "2030-01-01 00:00:00",
    ]


@pytest.mark.parametrize(
    ("type", "least", "most", "ends"),
    [
        (pa.time32("s"), "06:00:00", "22:30:00", [21_600, 81_000]),
        (pa.time64("ns"), "00:00:00", "23:59:59.999999999", [0, 86_399_999_999_999]),
        (pa.duration("ms"), 0, 10**9, [0, 10**9]),
        (pa.decimal128(12, 2), "0", "1000.5", [0, 100_050]),
        (pa.uint64(), 0, 2**64 - 9, [-(2**63) + 1, 2**63 - 8]),
        (
            pa.timestamp("s", "Europe/Berlin"),
            "1970-01-01T01:00:00+0100",
            "2000-01-01T00:00:00Z",
            [0, 946_684_800],
        ),
        (pa.timestamp("s", "UTC"), "1970-01-01T00:00:00", "2000-01-01T00:00:00", [0, 946_684_800]),
        (pa.date32(), "1970-01-02", "1970-12-31", [1, 364]),
    ],
    ids=str,
)
def test_declared_bounds_of_any_type_bind(
    type: pa.DataType, least: object, most: object, ends: list[int]
) -> None:
    rng = np.random.default_rng(0)
    low, high = max(ends[0], -(2**62)), min(ends[1], 2**62)
    keys = rng.integers(low, high, 2000)
    table = pa.table({"x": from_keys(keys, type)})
    facts = {"facts": "declared: by law", "min": least, "max": most}
    known = learned(table, schema_for(table, x=facts), at_least=2)["x"]
    told = [known.edges[0], known.edges[-1] - 1] if not known.support else ends
    assert told == ends


@pytest.mark.parametrize(
    ("type", "least"),
    [(pa.int64(), "ten"), (pa.time32("s"), "noon"), (pa.duration("s"), "long"), (pa.date32(), 3.5)],
    ids=str,
)
def test_a_declared_bound_that_is_no_value_of_the_column_is_refused_by_name(
    type: pa.DataType, least: object
) -> None:
    table = pa.table({"x": from_keys(np.random.default_rng(0).integers(0, 80_000, 500), type)})
    with pytest.raises(SchemaError, match="column 'x'"):
        learned(table, schema_for(table, x={"facts": "declared: by law", "min": least}))


def known_mixed() -> Learned:
    table = mixed(500)
    return learned(table, mixed_schema(table))


def test_a_profile_comes_back_from_json_and_equal_ones_give_equal_text() -> None:
    profile = known_mixed().profile
    text = profile.to_json()
    assert Profile.from_json(text) == profile
    assert known_mixed().profile.to_json() == text
    assert isinstance(json.loads(text), dict)


def test_of_identifiers_and_texts_a_profile_tells_nothing_but_how_often_they_are_missing() -> None:
    text = known_mixed().profile.to_json()
    assert "note 1" not in text
    assert "P00" not in text


@pytest.mark.parametrize("known", [10, 15, 22, 29])
@pytest.mark.parametrize("kind", [pa.float64(), pa.int64()])
def test_few_values_are_spread_between_round_ends_and_not_squeezed_onto_one(
    known: int, kind: pa.DataType
) -> None:
    rng = np.random.default_rng(known)
    values = rng.uniform(12_000, 88_000, known).round(0 if kind == pa.int64() else 2)
    column = pa.array([*values, *[None] * (500 - known)], pa.float64()).cast(kind)
    table = pa.table({"payout": column})
    profile = learned(table, schema_for(table), at_least=10).profile.columns[0]
    assert profile.missing == pytest.approx(1 - known / 500)
    ends = from_keys(np.array(profile.edges, np.int64)[[0, -1]] - np.array([0, 1]), kind).to_pylist()
    assert ends[1] - ends[0] > 5_000
    assert not {float(e) for e in ends} & set(values)
