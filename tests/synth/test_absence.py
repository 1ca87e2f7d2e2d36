"""Columns that are missing together."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from privacy.errors import ConditionError
from synth.absence import MISSING_STATE, UNKNOWN, Absence, folded, rates_where_present, unfolded
from synth.codec import Codec
from synth.profile import Profile
from tests.synth.tables import Learned, learned, schema_for

GROUPS = (Absence(columns=(0, 2), rate=0.1), Absence(columns=(1, 3, 4), rate=0.3))
STATES = st_numpy.arrays(np.int32, st.tuples(st.integers(0, 30), st.just(6)), elements=st.integers(0, 2))


def table(rows: int, *, apart: int = 0) -> pa.Table:
    """Three columns that are missing in the same tenth of the rows, of which one in `apart` rows more."""
    rng = np.random.default_rng(0)
    gone = np.arange(rows) % 10 == 0
    alone = gone | (np.arange(rows) < apart)
    return pa.table(
        {
            "a": pa.array(rng.normal(size=rows), mask=gone),
            "b": pa.array(rng.choice(["x", "y"], rows), mask=gone),
            "c": pa.array(rng.normal(size=rows), mask=alone),
            "other": pa.array(rng.normal(size=rows), mask=rng.random(rows) < 0.1),
            "whole": rng.normal(size=rows),
        }
    )


def fold(states: np.ndarray) -> np.ndarray:
    """Where every cell with a value has a state."""
    return folded(states, states > MISSING_STATE, GROUPS)


def of(source: pa.Table) -> Learned:
    return learned(source, schema_for(source))


@given(STATES)
def test_folding_is_undone_by_unfolding(states: np.ndarray) -> None:
    assert np.array_equal(unfolded(fold(states), GROUPS), states)


@given(STATES)
def test_a_group_is_missing_where_all_its_columns_are(states: np.ndarray) -> None:
    whole = fold(states)
    for g, absence in enumerate(GROUPS, start=states.shape[1]):
        gone = (states[:, absence.columns] == MISSING_STATE).all(1)
        assert np.array_equal(whole[:, g] == MISSING_STATE, gone)
        assert (whole[gone][:, absence.columns] == UNKNOWN).all()
        assert np.array_equal(whole[~gone][:, absence.columns], states[~gone][:, absence.columns])


def test_what_is_not_known_leaves_a_group_open() -> None:
    states = np.array([[UNKNOWN] * 6, [0, UNKNOWN, UNKNOWN, 1, UNKNOWN, UNKNOWN]], np.int32)
    whole = fold(states)
    assert whole[:, 6].tolist() == [UNKNOWN, MISSING_STATE]
    assert whole[:, 7].tolist() == [UNKNOWN, 1]


def test_a_value_without_a_state_is_there_all_the_same() -> None:
    states = np.array([[MISSING_STATE, 1, UNKNOWN, 1, 1, 1], [UNKNOWN, 1, UNKNOWN, 1, 1, 1]], np.int32)
    present = states > MISSING_STATE
    present[:, 2] = True
    whole = folded(states, present, GROUPS)
    assert whole[:, 6].tolist() == [1, 1]
    assert np.array_equal(whole[:, :6], states)


def test_a_group_needs_enough_units_and_not_rows_alone() -> None:
    source = table(1000)
    person = np.arange(1000)
    person[::10] = 5
    source = source.append_column("who", pa.array(person))
    schema = schema_for(source, unit="who", who={"kind": "identifier"})
    assert learned(source, schema).profile.absences == ()
    assert of(table(1000)).profile.absences != ()


def test_the_rate_of_a_group_is_of_all_its_columns_together() -> None:
    gone = np.arange(1000) < 500
    columns = {}
    for i in range(6):
        mask = gone.copy()
        mask[i * 20 : (i + 1) * 20] = False
        columns[f"c{i}"] = pa.array(np.arange(1000.0), mask=mask)
    (absence,) = of(pa.table(columns)).profile.absences
    assert absence.columns == (0, 1, 2, 3, 4, 5)
    assert absence.rate == pytest.approx(0.38)


def test_columns_of_the_same_missing_rows_make_a_group() -> None:
    (absence,) = of(table(1000)).profile.absences
    assert absence.columns == (0, 1, 2)
    assert absence.rate == pytest.approx(0.1)


def test_a_few_rows_apart_do_not_break_a_group_but_many_do() -> None:
    (absence,) = of(table(1000, apart=10)).profile.absences
    assert absence.columns == (0, 1, 2)
    (absence,) = of(table(1000, apart=40)).profile.absences
    assert absence.columns == (0, 1)


def test_what_is_missing_in_too_few_rows_makes_no_group() -> None:
    assert of(table(90)).profile.absences == ()


def test_rows_come_back_missing_cells_and_all() -> None:
    source = table(1000, apart=10)
    codec = of(source).codec
    encoded = codec.encode(source)
    assert encoded.states.shape == (1000, len(codec.layout.fields)) == (1000, 6)
    back = codec.decode(encoded)
    for name in source.column_names:
        assert back.column(name).is_null().equals(source.column(name).is_null())
    assert back.column("b").equals(source.column("b"))


def test_a_condition_that_tears_a_group_apart_is_refused_unless_rows_do_so() -> None:
    codec = of(table(1000)).codec
    with pytest.raises(ConditionError, match="'a' is never missing where 'b' is not"):
        codec.condition({"a": None, "b": "x"})
    assert codec.condition({"a": None, "b": None}).states[0, -1] == MISSING_STATE
    torn = of(table(1000, apart=10)).codec
    assert torn.condition({"c": None, "b": "x"}).states[0, 2] == MISSING_STATE


def test_the_rates_of_a_column_are_those_of_the_rows_that_have_its_group() -> None:
    assert rates_where_present((0.2, 0.6, 0.2), Absence(columns=(0,), rate=0.2)) == pytest.approx(
        (0, 0.75, 0.25)
    )
    source = table(1000, apart=10)
    codec = of(source).codec
    states = codec.encode(source).states
    for i, field in enumerate(codec.layout.fields):
        known = states[:, i][states[:, i] != UNKNOWN]
        seen = np.bincount(known, minlength=field.states) / len(known)
        assert seen == pytest.approx(field.rates, abs=0.01)
        assert sum(field.rates) == pytest.approx(1)


def test_a_profile_keeps_its_groups_in_json() -> None:
    made = of(table(1000))
    again = Profile.from_json(made.profile.to_json())
    assert again == made.profile
    assert Codec(made.schema, again).layout == made.codec.layout
