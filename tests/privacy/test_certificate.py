import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.certificate import Certificate, without_guarantee


def certificate(**changes: object) -> Certificate:
    statement, control = without_guarantee(10)
    plain = Certificate(
        statement=statement,
        formal_guarantee=None,
        disclosure_control=control,
        synthesizer="gmm",
        model_digest="m",
        recipe_digest="r",
        schema_digest="s",
        rows=1,
        shards=1,
        seed=0,
        warnings=0,
        versions={"torch": "2"},
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@given(st.integers(1, 10_000))
def test_without_a_budget_the_statement_denies_a_formal_guarantee_and_tells_the_threshold(
    at_least: int,
) -> None:
    statement, control = without_guarantee(at_least)
    assert statement.startswith("No formal privacy guarantee")
    assert f"fewer than {at_least} units" in statement
    assert control is not None
    assert control["at_least"] == at_least


def test_the_statement_says_that_disclosure_control_was_off() -> None:
    statement, control = without_guarantee(0)
    assert statement.startswith("No formal privacy guarantee")
    assert "turned off" in statement
    assert "pooled" not in statement
    assert control is None


def test_a_certificate_says_that_the_data_are_synthetic_and_goes_into_json() -> None:
    data = json.loads(json.dumps(certificate().to_dict()))
    assert data["synthetic"] is True
    assert data["format"] == 1
    assert data["disclosure_control"]["at_least"] == 10


def test_a_certificate_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        certificate().rows = 2  # type: ignore[misc]


def test_a_certificate_has_no_place_for_a_time_or_a_host() -> None:
    names = {f.name for f in dataclasses.fields(Certificate)}
    assert not [
        n for n in names if any(word in n for word in ("time", "date", "host", "second", "user", "path"))
    ]
