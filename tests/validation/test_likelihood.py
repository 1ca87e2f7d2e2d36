"""How likely rows are: beside a density that everybody knows."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from privacy.errors import InputError
from synth.schema import Schema
from tests.validation.test_report import fidelity_of
from validation.cells import Floats
from validation.evidence import Evidence
from validation.likelihood import Likelihood, Mean, likelihood, render
from validation.public import outside

SCHEMA = Schema.model_validate(
    {
        "columns": [
            {"name": "coin", "kind": "categorical", "type": "string"},
            {"name": "side", "kind": "categorical", "type": "string"},
            {"name": "x<b>", "kind": "numerical", "type": "double"},
            {"name": "id", "kind": "identifier", "type": "string"},
        ]
    }
)


def table(rows: int, seed: int) -> pa.Table:
    """A fair coin, its other side, and a standard normal number."""
    rng = np.random.default_rng(seed)
    coin = rng.integers(0, 2, rows)
    return pa.table(
        {
            "coin": np.array(["h", "t"])[coin], "side": np.array(["t", "h"])[coin], "x<b>": rng.normal(size=rows),
            "id": [str(i) for i in range(rows)],
        }
    )  # fmt: skip


def density(rows: pa.Table) -> Floats:
    """The truth; nobody may be asked for a column that is not learned."""
    assert "id" not in rows.column_names
    out = np.zeros(rows.num_rows)
    if {"coin", "side"} & {*rows.column_names}:
        out += math.log(0.5)
    if "x<b>" in rows.column_names:
        out += -0.5 * rows["x<b>"].to_numpy() ** 2 - 0.5 * math.log(2 * math.pi)
    return out


TABLES = {"train": table(3000, 0), "holdout": table(1000, 1), "synthetic": table(2500, 2)}


def test_figures_are_those_of_the_density() -> None:
    found = likelihood(density, TABLES, SCHEMA, seed=0)
    assert found is not None
    assert found.columns == 3
    by = {(f.of, f.column): f for f in found.figures}
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    whole = by["row", None]
    assert whole.holdout.value == pytest.approx(-math.log(2) - entropy, abs=5 * whole.holdout.error)
    assert whole.synthetic is not None
    assert 0 < whole.synthetic.error < whole.holdout.error
    # A coin by itself is a choice among two, and no choice once its other side is known.
    assert math.exp(-by["alone", "coin"].holdout.value) == pytest.approx(2)
    assert math.exp(-by["given", "coin"].holdout.value) == pytest.approx(1)
    assert by["alone", "x<b>"].holdout.value == pytest.approx(by["given", "x<b>"].holdout.value)
    assert (by["alone", "coin"].discrete, by["alone", "x<b>"].discrete) == (True, False)


def test_a_column_of_which_a_part_has_no_density_is_left_out() -> None:
    def tied(rows: pa.Table) -> Floats:
        if len({"coin", "side"} & {*rows.column_names}) == 1:
            raise InputError("tied")
        return density(rows)

    found = likelihood(tied, TABLES, SCHEMA, seed=0)
    assert found is not None
    assert {f.column for f in found.figures} == {None, "x<b>"}


def test_rows_of_a_column_are_drawn_from_everywhere_and_not_from_the_beginning() -> None:
    ordered = {s: t.sort_by("x<b>") for s, t in TABLES.items()}
    found = likelihood(density, ordered, SCHEMA, seed=0)
    assert found is not None
    (x,) = (f for f in found.figures if (f.of, f.column) == ("alone", "x<b>"))
    assert x.train.value == pytest.approx(-0.5 * math.log(2 * math.pi * math.e), abs=5 * x.train.error)


def test_rows_that_cannot_be_are_counted_and_not_averaged() -> None:
    def strict(rows: pa.Table) -> Floats:
        return np.where(np.arange(rows.num_rows) % 10 == 0, -np.inf, -1.0)

    found = likelihood(strict, TABLES, SCHEMA, seed=0)
    assert found is not None
    assert found.figures[0].holdout == Mean(value=-1.0, error=0.0, impossible=pytest.approx(0.1))
    assert "but for 10.0\xa0% that cannot be" in render(found)
    assert likelihood(lambda rows: np.full(rows.num_rows, -np.inf), TABLES, SCHEMA, seed=0) is None


def test_a_public_page_has_the_perplexities_of_an_inside_one() -> None:
    found = likelihood(density, TABLES, SCHEMA.model_copy(update={"columns": SCHEMA.columns[:2]}), seed=0)
    assert found is not None
    whole = Evidence(fidelity=fidelity_of(["coin"]), likelihood=found)
    told = outside(whole, at_least=10).likelihood
    assert told is not None
    assert "perplexity 1.41" in render(found)
    assert "perplexity 1.41" in render(told)


def test_with_few_rows_or_nothing_learned_nothing_is_said() -> None:
    assert likelihood(density, {**TABLES, "holdout": table(49, 1)}, SCHEMA, seed=0) is None
    only = Schema(columns=(SCHEMA["id"],))
    assert likelihood(density, TABLES, only, seed=0) is None


def test_a_wide_table_is_asked_for_whole_rows_alone() -> None:
    names = [f"c{i}" for i in range(41)]
    wide = Schema.model_validate(
        {"columns": [{"name": n, "kind": "numerical", "type": "double"} for n in names]}
    )
    tables = {s: pa.table({n: np.zeros(60) for n in names}) for s in TABLES}
    found = likelihood(lambda rows: np.arange(rows.num_rows) * 1.0, tables, wide, seed=0)
    assert found is not None
    assert [f.of for f in found.figures] == ["row"]


def test_it_survives_json_and_is_inert_on_a_page() -> None:
    found = likelihood(density, TABLES, SCHEMA, seed=0)
    assert found is not None
    assert Likelihood.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    page = render(found)
    assert "<b>" not in page
    assert "perplexity 2" in page
