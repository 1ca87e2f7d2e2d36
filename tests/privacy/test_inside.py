import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.curator import ExactCurator
from privacy.errors import LeakRefused, UnderstudyError
from privacy.inside import Exact, Inside
from tests.privacy.arrays import KEY, numbered


def look() -> Exact[float]:
    """A figure that evidence took from forty private rows."""
    curator = ExactCurator(numbered(40), key=KEY, holdout=0.5)
    return Inside(curator).look(lambda rows: sum(float(b.columns["row"].sum()) for b in rows("train")))  # type: ignore[attr-defined]


def test_evidence_sees_the_rows_of_the_split_that_it_asks_for() -> None:
    curator = ExactCurator(numbered(40), key=KEY, holdout=0.5)
    assert look().open(formal_guarantee=False) == sum(
        float(b.columns["row"].sum())  # type: ignore[attr-defined]
        for b in curator.rows("train")
    )


def test_exact_evidence_cannot_be_opened_under_a_formal_guarantee() -> None:
    with pytest.raises(LeakRefused, match="formal guarantee"):
        look().open(formal_guarantee=True)


@given(st.text(min_size=5))
def test_neither_the_sealed_value_nor_its_refusal_prints_what_is_inside(secret: str) -> None:
    sealed = Exact(f"<{secret}>")
    with pytest.raises(LeakRefused) as refused:
        sealed.open(formal_guarantee=True)
    for text in (repr(sealed), str(sealed), str(refused.value)):
        assert repr(f"<{secret}>") not in text


def test_a_refused_leak_ends_the_command_with_a_failure() -> None:
    assert issubclass(LeakRefused, UnderstudyError)
    assert LeakRefused.exit_code == 1


def test_what_is_kept_inside_comes_back_to_nobody() -> None:
    written: list[float] = []
    assert look().keep(written.append) is None  # type: ignore[func-returns-value]
    assert written == [look().open(formal_guarantee=False)]
