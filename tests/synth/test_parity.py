"""Parity in the draw: groups alike in what was asked, and as learned in all else."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy import stats

import synth
from privacy.errors import RecipeError, SchemaError
from synth.parity import Parity
from synth.schema import Schema
from synth.table import TableModel

ROWS = 20_000


def people(rows: int = 6000) -> pd.DataFrame:
    """Pay depends on sex, and hours on sex and pay."""
    rng = np.random.default_rng(0)
    sex = rng.choice(["f", "m"], rows, p=[0.3, 0.7])
    rich = rng.random(rows) < np.where(sex == "m", 0.5, 0.1)
    hours = rng.normal(35 + 5 * (sex == "m") + 8 * rich, 3).round(1)
    return pd.DataFrame(
        {
            "sex": sex,
            "rich": np.where(rich, "yes", "no"),
            "hours": hours,
            "site": rng.choice(["a", "b"], rows),
        }
    )


@pytest.fixture(scope="module", params=["gmm", "circuit"])
def model(request: pytest.FixtureRequest) -> TableModel:
    options = {"gmm": {"components": 12, "passes": 15}, "circuit": {"states": 12, "passes": 8}}[request.param]
    return synth.fit(people(), request.param, seed=0, options=options, threads=1)


def drawn(model: TableModel, parity: Parity | None) -> pd.DataFrame:
    return pa.concat_tables(model.shard(0, ROWS, seed=1, first_row=0, parity=parity)).to_pandas()


def share(frame: pd.DataFrame, **where: str) -> float:
    for name, value in where.items():
        frame = frame[frame[name] == value]
    return float((frame["rich"] == "yes").mean())


def test_a_target_does_not_depend_on_the_group_and_both_are_as_common_as_learned(model: TableModel) -> None:
    plain, level = drawn(model, None), drawn(model, Parity(across=("sex",), target="rich"))
    assert share(plain, sex="m") - share(plain, sex="f") > 0.3
    counts = pd.crosstab(level["sex"], level["rich"])
    assert stats.chi2_contingency(counts).pvalue > 0.001
    assert share(level) == pytest.approx(share(plain), abs=0.02)
    assert (level["sex"] == "f").mean() == pytest.approx((plain["sex"] == "f").mean(), abs=0.02)


def test_within_a_group_and_a_value_all_else_is_as_learned(model: TableModel) -> None:
    plain, level = drawn(model, None), drawn(model, Parity(across=("sex",), target="rich"))
    for sex in ("f", "m"):
        for rich in ("yes", "no"):
            hours = [f[(f["sex"] == sex) & (f["rich"] == rich)]["hours"] for f in (plain, level)]
            assert stats.ks_2samp(*hours).pvalue > 1e-4
    # And so a rich woman still works less than a rich man.
    rich = level[level["rich"] == "yes"].groupby("sex")["hours"].mean()
    assert rich["m"] - rich["f"] > 2


def test_groups_of_equal_sizes_have_what_was_learned_of_each(model: TableModel) -> None:
    plain, level = drawn(model, None), drawn(model, Parity(across=("sex", "site"), sizes="equal"))
    sizes = level.groupby(["sex", "site"]).size()
    assert stats.chisquare(sizes).pvalue > 0.001
    assert share(level, sex="f") == pytest.approx(share(plain, sex="f"), abs=0.025)


def test_a_number_may_be_the_target(model: TableModel) -> None:
    level = drawn(model, Parity(across=("sex",), target="hours", sizes="equal"))
    by_sex = [level[level["sex"] == s]["hours"] for s in ("f", "m")]
    assert stats.ks_2samp(*by_sex).pvalue > 0.001


def test_it_is_the_same_for_the_same_seed_and_leaves_draws_without_it_alone(model: TableModel) -> None:
    asked = Parity(across=("sex",), target="rich")
    assert drawn(model, asked).equals(drawn(model, asked))
    assert not drawn(model, asked).equals(drawn(model, None))


SCHEMA = Schema.model_validate(
    {
        "columns": [
            {"name": "sex", "kind": "categorical", "type": "string"},
            {"name": "age", "kind": "numerical", "type": "int64"},
            {"name": "code", "kind": "identifier", "type": "string"},
        ]
    }
)


@pytest.mark.parametrize(
    ("name", "asked", "error", "match"),
    [
        ("vae", {"across": ["sex"], "sizes": "equal"}, RecipeError, "exact"),
        ("ctgan", {"across": ["sex"], "sizes": "equal"}, RecipeError, "exact"),
        ("gmm", {"across": ["age"], "sizes": "equal"}, RecipeError, "categories"),
        ("gmm", {"across": ["sex"], "target": "code"}, RecipeError, "learned"),
        ("gmm", {"across": ["sexx"], "sizes": "equal"}, SchemaError, "sexx"),
    ],
)
def test_what_cannot_be_met_exactly_is_refused_before_anything_is_done(name, asked, error, match) -> None:
    with pytest.raises(error, match=match):
        Parity.model_validate(asked).check(name, SCHEMA)


@pytest.mark.parametrize(
    "asked",
    [
        {"across": ["sex"]},
        {"across": []},
        {"across": ["a"], "target": "a"},
        {"across": ["a", "a"], "target": "b"},
    ],
)
def test_what_asks_for_nothing_or_twice_is_refused(asked) -> None:
    with pytest.raises(ValueError, match=r"parity must|at least 1"):
        Parity.model_validate(asked)
