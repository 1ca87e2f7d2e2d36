import contextlib
import dataclasses
import json
import math
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.commands import Changes
from pipelines.layout import Layout
from pipelines.recipe import Privacy, Recipe, Shares, load, resolve_input, slug
from privacy.errors import RecipeError
from tests.fields import pages

DOCS = Path(__file__).parents[2] / "docs"
MINIMAL = {"name": "flights", "input": "flights.csv"}

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary()
NUMBERS = st.integers() | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(), lambda inner: st.lists(inner), max_leaves=4
)
ANYTHING = st.recursive(
    PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
KEYS = sorted({f.alias or name for name, f in Recipe.model_fields.items()})


def parse(text: str) -> Recipe:
    return Recipe.parse(text, source="recipe.yaml")


def refusal(**fields: object) -> str:
    with pytest.raises(RecipeError) as caught:
        parse(yaml.safe_dump(MINIMAL | fields))
    return str(caught.value)


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("key", "nearest"), [("synthesiser", "synthesizer"), ("at_leasst", "at_least"), ("fitrows", "fit_rows")]
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(key: str, nearest: str) -> None:
    assert refusal(**{key: 1}) == f"recipe.yaml: {key}: unknown key; did you mean {nearest!r}?"


def test_an_unknown_key_of_the_gate_is_refused_with_the_nearest_known_one() -> None:
    assert "gate.copies: unknown key; did you mean 'copies_z'?" in refusal(gate={"copies": 3})


def test_the_schema_goes_by_its_written_name_only() -> None:
    assert parse("{name: a, input: b, schema: c.yaml}").schema_file == "c.yaml"
    assert "schema_file: unknown key" in refusal(schema_file="c.yaml")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rows", 0), ("rows", "twelve"), ("rows", True), ("rows", 1.5), ("rows", None),
        ("holdout", 0), ("holdout", 1.0), ("holdout", True), ("holdout", ""), ("holdout", float("nan")),
        ("seed", True), ("seed", "7"), ("seed", -1), ("seed", 2**63), ("threads", 0), ("workers", 0),
        ("name", "../up"), ("name", "Upper"), ("name", ""), ("name", "a\n"), ("name", ".."),
        ("name", ".lock"),
        ("input", ""), ("input", "a\0b"), ("holdout", "a\0b"), ("to", "a\0b"), ("at_least", -1),
        ("options", {"key": b"\xff"}),
        ("options", {"rate": float("inf")}),
        ("gate", {"warn_only": ["everything"]}), ("gate", {"copies_z": 0}),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_in_one_line_that_names_the_field(field: str, value: object) -> None:
    said = refusal(**{field: value})
    assert re.match(rf"recipe\.yaml: {field}\b", said)
    assert "\n" not in said
    assert "literal" not in said


def test_a_date_is_no_option_and_is_text_where_nothing_says_that_it_is_one() -> None:
    with pytest.raises(RecipeError, match=r"^recipe\.yaml: options\b"):
        parse(yaml.safe_dump(MINIMAL) + "options: {since: !!timestamp 2020-01-01}\n")
    assert parse(yaml.safe_dump(MINIMAL) + "options: {since: 2020-01-01}\n").options == {
        "since": "2020-01-01"
    }


def test_every_broken_rule_is_said_at_once() -> None:
    said = refusal(seed=-1, threads=0, sed=3).splitlines()
    assert [line.split(":")[1].strip() for line in said] == ["seed", "threads", "sed"]


@pytest.mark.parametrize(
    "text",
    ["", "- a", "a: [", "name: a\nname: b\ninput: c", "{name: a, input: !!python/object:os.system x}",
     "name: a\ninput: b\noptions: &x {y: *x}", "[" * 5000, "name: \x00", "? [a]\n: b", "name: '\ud800'"],
)  # fmt: skip
def test_what_is_no_recipe_is_refused_as_one(text: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml"):
        parse(text)


def test_a_recipe_that_is_not_there_is_refused_with_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="understudy init"):
        load(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="readable"):
        load(tmp_path)
    (tmp_path / "latin").write_bytes(b"name: caf\xe9")
    with pytest.raises(RecipeError, match="UTF-8"):
        load(tmp_path / "latin")


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_whatever_text_it_is_only_a_recipe_error_comes_out(text: str) -> None:
    with contextlib.suppress(RecipeError):
        parse(text)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), ANYTHING, max_size=4))
def test_whatever_values_it_has_it_is_refused_or_reads_back_as_itself(fields: dict[str, Any]) -> None:
    try:
        recipe = parse(yaml.safe_dump(MINIMAL | fields))
    except RecipeError:
        return
    again = Recipe.parse(recipe.to_json(), source="json")
    assert again == recipe
    assert again.digest() == recipe.digest()


@given(
    st.text(min_size=1),
    st.dictionaries(st.text(), JSON, max_size=4),
    st.floats(min_value=1e-9, exclude_min=True),
)
@example("sm😀ile\x85\u2028.csv", {"rate": 1e-7, "\ufeff": "\x7f"}, math.inf)
def test_whatever_letters_and_numbers_it_has_they_read_back(
    text: str, options: dict[str, Any], points: float
) -> None:
    try:
        recipe = Recipe.model_validate(
            {"name": "a", "input": text, "options": options, "gate": {"shape_points": points}}
        )
    except ValidationError:
        return
    assert Recipe.parse(recipe.to_json(), source="json") == recipe
    assert recipe.with_fields({"seed": 0}) == recipe


# ---------------------------------------------------------------------------------------------- what it means


def test_the_digest_is_of_the_meaning_not_of_the_writing() -> None:
    short = parse("{name: flights, input: flights.csv}")
    long = parse("# a remark\ninput: 'flights.csv'\nseed: 0\nrows: source\nholdout: 0.20\nname: flights\n")
    assert short.digest() == long.digest()
    assert short.digest() == parse(short.to_json()).digest()


def test_the_digest_of_a_recipe_stays_what_it_is() -> None:
    # Workspaces and certificates name recipes by it: a change here must be meant, and said in the CHANGELOG.
    canonical = json.loads(parse("{name: flights, input: flights.csv}").to_json())
    canonical.pop("gate")
    assert canonical == {
        "name": "flights", "input": "flights.csv", "schema": "schema.yaml", "dataset": None, "broken_rows": 0,
        "query": None, "allow_drift": False, "scans": {"headers": [], "window": None, "axis": "axial"},
        "synthesizer": "auto", "options": {}, "rows": "source", "holdout": 0.2, "seed": 0, "threads": 2,
        "at_least": 10, "fit_rows": 1_000_000, "shard_rows": 250_000, "evidence_rows": 50_000, "workers": 1,
        "inception": None, "inception_images": 50_000,
        "to": "releases", "privacy": None, "targets": [], "protected": [],
        "draws": 1, "parity": None, "watermark": None,
    }  # fmt: skip


@pytest.mark.parametrize("field", KEYS)
def test_every_field_that_a_byte_of_the_release_depends_on_moves_the_digest(field: str) -> None:
    other: dict[str, Any] = {
        "options": {"components": 3}, "rows": 5, "holdout": 0.3, "seed": 1, "threads": 1, "at_least": 5,
        "fit_rows": 200, "shard_rows": 10, "evidence_rows": 200, "workers": 2, "gate": {"copies_z": 3},
        "privacy": {"epsilon": 1, "delta": 1e-6}, "broken_rows": 1,
        "allow_drift": True, "targets": ["age"], "protected": ["age"], "scans": {"axis": "coronal"},
        "draws": 2, "parity": {"across": ["age"], "sizes": "equal"}, "inception_images": 500,
        "watermark": {"key": "${env:KEY}"}, "csv": {"delimiter": ";"},
    }  # fmt: skip
    recipe = Recipe.model_validate(MINIMAL)
    moved = recipe.with_fields({field: other.get(field, "other")}).digest() != recipe.digest()
    assert moved == (field not in ("to", "workers"))


def test_fields_are_changed_and_validated_anew() -> None:
    recipe = Recipe.model_validate(MINIMAL)
    changed = recipe.with_fields({"rows": 5, "schema": "s.yaml"})
    assert (changed.rows, changed.schema_file, recipe.rows) == (5, "s.yaml", "source")
    with pytest.raises(RecipeError, match="rows must be"):
        recipe.with_fields({"rows": 0})
    with pytest.raises(RecipeError, match="did you mean 'seed'"):
        recipe.with_fields({"sead": 0})


def test_any_field_of_a_recipe_is_an_option_of_the_command() -> None:
    assert {f.name for f in dataclasses.fields(Changes)} == set(KEYS)


def test_options_of_the_command_mean_what_they_would_in_the_recipe() -> None:
    changes = Changes(
        rows="500",
        holdout="0.3",
        options={"max-components": "8"},
        gate={"copies_z": "5"},
        privacy={"epsilon": "2", "delta": "1e-6", "max-rows-per-unit": "3"},
    )
    recipe = changes.apply(Recipe.model_validate({**MINIMAL, "options": {"passes": 3}}))
    assert recipe.privacy == Privacy(epsilon=2, delta=1e-6, max_rows_per_unit=3)
    again = Changes(privacy={"epsilon": "1"}).apply(recipe)
    assert again.privacy == Privacy(epsilon=1, delta=1e-6, max_rows_per_unit=3)
    assert (recipe.rows, recipe.holdout, recipe.gate.copies_z) == (500, 0.3, 5.0)
    assert recipe.options == {"passes": 3, "max_components": 8}
    assert Changes(rows="source", holdout="test.csv").apply(recipe).holdout == "test.csv"
    written = Changes(csv={"delimiter": ";"}).apply(recipe)
    assert Changes(csv={"encoding": "cp1252"}).apply(written).csv == Layout(encoding="cp1252", delimiter=";")


def test_no_options_leave_the_recipe_as_it_is() -> None:
    recipe = Recipe.model_validate(MINIMAL)
    assert Changes().apply(recipe) is recipe


@given(st.text())
def test_a_name_is_made_of_any_text(text: str) -> None:
    assert Recipe.model_validate({**MINIMAL, "name": slug(text)})


# ------------------------------------------------------------------------------------------------------ input


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recipe's folder with a table in it, and a secret beside the folder."""
    (tmp_path / "recipes" / "data").mkdir(parents=True)
    (tmp_path / "recipes" / "data" / "t.csv").write_text("a\n1\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.csv").write_text("a\n1\n")
    return tmp_path / "recipes"


def test_an_input_under_the_folder_is_found(folder: Path) -> None:
    for text in ("data/t.csv", "data", ".", "data/../data/t.csv", str(folder / "data" / "t.csv")):
        assert resolve_input(text, folder=folder).is_relative_to(folder.resolve())


OUTSIDE = [
    "../elsewhere/secret.csv", "data/../../elsewhere/secret.csv", "..", "link.csv", "linked/secret.csv",
    "/dev/zero", "/etc/passwd", "~/x",
]  # fmt: skip


@pytest.mark.parametrize("text", OUTSIDE)
def test_an_input_outside_is_refused_with_what_to_add(folder: Path, text: str) -> None:
    (folder / "link.csv").symlink_to(folder.parent / "elsewhere" / "secret.csv")
    (folder / "linked").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(RecipeError, match=r"must lie in .* add `--root .* UNDERSTUDY_ROOTS="):
        resolve_input(text, folder=folder)


def test_a_declared_root_opens_what_lies_under_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = folder.parent / "elsewhere" / "secret.csv"
    assert resolve_input(str(secret), folder=folder, extra_roots=(secret.parent,)) == secret.resolve()
    monkeypatch.setenv("UNDERSTUDY_ROOTS", os.pathsep.join(["/nowhere", str(secret.parent)]))
    assert resolve_input("../elsewhere/secret.csv", folder=folder) == secret.resolve()
    monkeypatch.setenv("UNDERSTUDY_ROOTS", "")
    with pytest.raises(RecipeError):
        resolve_input(str(secret), folder=folder)


def test_a_folder_whose_name_begins_alike_is_another_folder(folder: Path) -> None:
    (folder.parent / "recipes-old").mkdir()
    (folder.parent / "recipes-old" / "t.csv").write_text("a\n1\n")
    with pytest.raises(RecipeError, match="must lie in the recipe"):
        resolve_input("../recipes-old/t.csv", folder=folder)


def test_pipes_and_sockets_are_no_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "pipe")
    monkeypatch.chdir(folder)
    with socket.socket(socket.AF_UNIX) as door:
        door.bind("door")
        for text in ("pipe", "door"):
            with pytest.raises(RecipeError, match="must be a file or a folder"):
                resolve_input(text, folder=folder)
    with pytest.raises(RecipeError, match="must be a file or a folder"):
        resolve_input("/dev/zero", folder=folder, extra_roots=(Path("/dev"),))


@pytest.mark.parametrize("text", ["round", "~nobody-of-this-name/x", "x" * 5000, "gone.csv"])
def test_a_path_that_leads_nowhere_is_a_recipe_error(folder: Path, text: str) -> None:
    (folder / "round").symlink_to("round")
    with pytest.raises(RecipeError, match="an input must"):
        resolve_input(text, folder=folder)


# ------------------------------------------------------------------------------------------ published schemas


@pytest.mark.parametrize(("path", "expected"), pages().items(), ids=lambda v: getattr(v, "name", ""))
def test_what_is_published_of_fields_is_what_the_models_say(path: Path, expected: str) -> None:
    assert path.exists(), "run `make schemas`"
    assert path.read_text("utf-8") == expected, f"{path.name} is out of date; run `make schemas`"


def test_the_published_json_schema_takes_what_the_recipe_takes() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((DOCS / "recipe.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(Recipe.model_validate(MINIMAL).to_json()), schema)
    for wrong in ({"rows": 0}, {"sead": 1}, {"name": "../up"}, {"holdout": 1.5}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(MINIMAL | wrong, schema)


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"epsilon": 0, "delta": 1e-6}, "epsilon"),
        ({"epsilon": -1, "delta": 1e-6}, "epsilon"),
        ({"epsilon": math.inf, "delta": 1e-6}, "epsilon"),
        ({"epsilon": math.nan, "delta": 1e-6}, "epsilon"),
        ({"epsilon": 1}, "delta"),
        ({"epsilon": 1, "delta": 0}, "delta"),
        ({"epsilon": 1, "delta": 1}, "delta"),
        ({"epsilon": 1, "delta": math.nan}, "delta"),
        ({"epsilon": 1, "delta": 1e-6, "max_rows_per_unit": 0}, "max_rows_per_unit"),
        ({"epsilon": 1, "delta": 1e-6, "shares": {"profile": 0.5, "model": 0.6}}, "shares must make 1"),
        ({"epsilon": 1, "delta": 1e-6, "shares": {"report": -0.1}}, "report"),
        ({"epsilon": 1, "delta": 1e-6, "shares": {"report": "5 %"}}, "report"),
        ({"epsilon": 1, "delta": 1e-6, "shares": {"model": 0.97}}, "profile"),
        ({"epsilon": 1, "delta": 1e-6, "exact_report": "yes"}, "exact_report"),
        ({"epsilon": 1, "delta": 1e-6, "lifetime": {"epsilon": 1}}, "delta"),
        ({"epsilon": True, "delta": 1e-6}, "epsilon"),
        ({"epsilon": 1, "delta": True}, "delta"),
        ({"epsilon": 1, "delta": 1e-6, "lifetime": {"epsilon": True, "delta": 1e-6}}, "epsilon"),
        ({"epsilon": 1, "delta": 1e-6, "noise": 3}, "noise"),
    ],
)
def test_a_budget_that_is_none_is_refused(privacy: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse(yaml.safe_dump({**MINIMAL, "privacy": privacy}))


def test_numbers_of_a_budget_are_whole_or_not_and_written_as_in_json() -> None:
    for epsilon, delta in ((1, "1e-6"), (0.5, "0.000001")):
        recipe = parse(f"name: x\ninput: x.csv\nprivacy: {{epsilon: {epsilon}, delta: {delta}}}\n")
        assert recipe.privacy is not None
        assert (recipe.privacy.epsilon, recipe.privacy.delta) == (epsilon, 1e-6)


def test_a_dataset_has_a_name() -> None:
    with pytest.raises(RecipeError, match="dataset"):
        parse(yaml.safe_dump({**MINIMAL, "dataset": ""}))


@pytest.mark.parametrize(
    ("said", "parts"),
    [
        ({}, (0.285, 0.665, 0.05)),
        ({"report": 0}, (0.3, 0.7, 0)),
        ({"report": 0.2}, (0.24, 0.56, 0.2)),
        ({"profile": 0.3, "model": 0.7}, (0.3, 0.7, 0)),
        ({"profile": 0.3, "model": 0.6}, (0.3, 0.6, 0.05)),
        ({"profile": 0.3, "model": 0.68}, (0.3, 0.68, 0.02)),
        ({"profile": 0.4}, (0.4, 0.55, 0.05)),
        ({"model": 0.5}, (0.45, 0.5, 0.05)),
        ({"profile": 0.4, "report": 0.1}, (0.4, 0.5, 0.1)),
    ],
)
def test_shares_that_are_not_said_follow_from_those_that_are(
    said: dict[str, float], parts: tuple[float, float, float]
) -> None:
    found = Shares.model_validate(said)
    assert (found.profile, found.model, found.report) == pytest.approx(parts)
    assert Shares.model_validate(found.model_dump()) == found


@pytest.mark.parametrize(
    ("field", "asked"),
    [
        ("targets: 5", "targets: must be a list, as [a, b], however: targets=5"),
        ("protected: age", "protected: must be a list, as [a, b], however: protected='age'"),
        ("privacy: {epsilon: yes, delta: 1e-6}", "must be a number, however: epsilon=True"),
        ("privacy: {epsilon: one, delta: 1e-6}", "must be a number, however: epsilon='one'"),
    ],
)
def test_a_field_of_another_kind_is_told_in_words_of_yaml(field: str, asked: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(asked)):
        Recipe.parse(f"name: x\ninput: x.csv\ndataset: x\n{field}\n", source="recipe.yaml")
