"""SDV's synthesizers keep the promises that they can; `tests/contracts` is for our own."""

import functools
import hashlib
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save

import synth
from privacy.errors import ConditionError, InputError, RecipeError, ReleaseError, UsageError
from synth.registry import BASELINES, check_options, synthesizer
from synth.table import TableModel
from tests.contracts.test_contract import houses, people
from tests.synth.tables import mixed, mixed_schema

pytest.importorskip("sdv")

FEW: dict[str, dict[str, Any]] = {
    "sdv-gaussian-copula": {},
    "sdv-ctgan": {"epochs": 2, "generator_dim": [16], "discriminator_dim": [16], "embedding_dim": 8},
    "sdv-tvae": {"epochs": 20, "compress_dims": [32], "decompress_dims": [32], "embedding_dim": 8},
    "sdv-copula-gan": {"epochs": 2, "generator_dim": [16], "discriminator_dim": [16], "embedding_dim": 8},
}
"""Options of a model that need not be good."""

all_of_them = pytest.mark.parametrize("name", BASELINES)


@functools.cache
def wide(name: str) -> TableModel[pa.Table]:
    table = mixed(600)
    return synth.fit(table, name, schema=mixed_schema(table), options=FEW[name], seed=7, threads=1)


@functools.cache
def of_people(name: str) -> TableModel[pa.Table]:
    return synth.fit(people(1500, seed=1), name, options=FEW[name], seed=7, threads=1)


@all_of_them
def test_rows_come_out_in_the_shape_and_types_of_the_table(name: str) -> None:
    table = mixed(600)
    drawn = wide(name).sample(300, seed=1)
    assert drawn.schema.equals(table.schema)
    assert len(drawn) == 300
    assert drawn.column("age").null_count == 0
    assert drawn.column("void").null_count == 300
    assert set(drawn.column("one").to_pylist()) == {"x"}
    assert len(set(drawn.column("id").to_pylist())) == 300
    assert len(wide(name).sample(0)) == 0


@all_of_them
def test_equal_seeds_give_equal_models_and_rows(name: str) -> None:
    again = synth.fit(people(1500, seed=1), name, options=FEW[name], seed=7, threads=1)
    assert again.digest() == of_people(name).digest()
    drawn = of_people(name).sample(100, seed=5)
    assert again.sample(100, seed=5).equals(drawn)
    assert not of_people(name).sample(100, seed=6).equals(drawn)
    # Nothing is left over of earlier draws.
    assert of_people(name).sample(100, seed=5).equals(drawn)


@all_of_them
def test_fitting_leaves_the_global_generators_as_they_were(name: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    expected = np.random.random(), float(torch.rand(1))
    torch.manual_seed(1)
    np.random.seed(1)
    synth.fit(people(300, seed=1), name, options=FEW[name], seed=3, threads=1).sample(5)
    assert (np.random.random(), float(torch.rand(1))) == expected


@all_of_them
def test_a_stored_model_draws_the_same_rows(name: str, tmp_path: Path) -> None:
    wide(name).save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]
    again = synth.load(tmp_path)
    assert again.digest() == wide(name).digest()
    assert again.sample(80, seed=2).equals(wide(name).sample(80, seed=2))


@pytest.mark.parametrize("distribution", ["norm", "beta", "truncnorm", "uniform", "gamma", "gaussian_kde"])
def test_every_distribution_can_be_stored(distribution: str, tmp_path: Path) -> None:
    options = {"default_distribution": distribution}
    model = synth.fit(people(300, seed=1), "sdv-gaussian-copula", options=options, threads=1)
    model.save(tmp_path)
    assert synth.load(tmp_path).sample(20, seed=2).equals(model.sample(20, seed=2))


@all_of_them
def test_a_model_does_not_keep_which_rows_it_has_seen(name: str) -> None:
    stored = of_people(name)._model.tensors()
    more = synth.fit(people(15_000, seed=1), name, options={**FEW[name], **LONG.get(name, {})}, threads=1)
    larger = more._model.tensors()
    assert sum(t.nbytes for t in larger.values()) < sum(t.nbytes for t in stored.values()) + 10_000


LONG: dict[str, dict[str, Any]] = {
    "sdv-ctgan": {"epochs": 1},
    "sdv-copula-gan": {"epochs": 1},
    "sdv-tvae": {"epochs": 1},
}


def replace_description(folder: Path, described: bytes) -> None:
    """Puts another description into a stored model, checksum included."""
    weights = save({"described": torch.frombuffer(bytearray(described), dtype=torch.uint8)}, {"format": "pt"})
    (folder / "model.safetensors").write_bytes(weights)
    description = json.loads((folder / "model.json").read_text("utf-8"))
    description["weights"] = hashlib.sha256(weights).hexdigest()
    (folder / "model.json").write_text(json.dumps(description), "utf-8")


@pytest.mark.parametrize(
    "described",
    [
        b".",
        b"[1, 2]",
        b'["object", "subprocess:Popen", []]',
        b'["object", "sdv.single_table.copulas:GaussianCopulaSynthesizer", []]',
        b'["scalar", "|O", "AAAAAAAA"]',
        pickle.dumps({"a": 1}),
    ],
)
def test_a_model_file_of_something_else_is_refused(described: bytes, tmp_path: Path) -> None:
    of_people("sdv-gaussian-copula").save(tmp_path)
    replace_description(tmp_path, described)
    with pytest.raises(ReleaseError, match="was changed"):
        synth.load(tmp_path)


CODE = """
import sys, synth
from tests.contracts.test_contract import people
from tests.synth.test_sdv import FEW
for name in FEW:
    print(synth.fit(people(300, seed=1), name, options=FEW[name], threads=1).digest())
"""


def test_equal_seeds_give_equal_models_in_other_processes() -> None:
    said = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.split())
    assert said[0] == said[1]
    assert len(set(said[0])) == 4


def test_values_of_every_kind_and_type_come_back() -> None:
    rng = np.random.default_rng(0)
    few, many = rng.integers(0, 5, 300), rng.integers(0, 10**6, 300)
    types = [
        pa.int8(), pa.uint64(), pa.float32(), pa.date32(), pa.time32("s"), pa.time64("us"), pa.duration("ms"),
        pa.timestamp("us", "UTC"), pa.bool_(), pa.decimal128(22, 2), pa.large_string(),
    ]  # fmt: skip
    columns: dict[str, pa.Array] = {"weight": pa.array(rng.normal(size=300))}
    for kind in types:
        whole = pa.array(few > 2) if pa.types.is_boolean(kind) else pa.array(few)
        narrow = pa.types.is_date32(kind) or pa.types.is_time32(kind)
        whole = whole.cast(pa.int32()) if narrow else whole
        columns[f"few {kind}"] = whole.cast(kind)
        columns[f"one {kind}"] = pa.array([columns[f"few {kind}"][0].as_py()] * 300, kind)
        if pa.types.is_temporal(kind) or pa.types.is_decimal(kind) or pa.types.is_uint64(kind):
            wide = pa.array(many % 80_000)
            columns[f"many {kind}"] = (wide.cast(pa.int32()) if narrow else wide).cast(kind)
    columns["huge"] = pa.array(many.astype(np.uint64) * np.uint64(10**12) + np.uint64(2**63))
    columns["coded"] = pa.array(few).cast(pa.string()).dictionary_encode()
    table = pa.table(columns)
    drawn = synth.fit(table, "sdv-gaussian-copula", threads=1).sample(400, seed=1)
    assert drawn.schema.names == table.schema.names
    for name in table.schema.names:
        assert drawn.schema.field(name).type == table.schema.field(name).type
        assert drawn.column(name).null_count == 0, name
        if not name.startswith(("many", "huge", "weight")):
            assert set(drawn.column(name).to_pylist()) <= set(table.column(name).to_pylist()), name
        else:
            assert len(set(drawn.column(name).to_pylist())) > 100, name


def test_a_table_of_nothing_to_learn_is_refused() -> None:
    with pytest.raises(InputError, match="must be able to learn the table"):
        synth.fit(pa.table({"void": pa.nulls(60)}), "sdv-gaussian-copula", threads=1)


@all_of_them
def test_a_model_of_another_table_or_class_is_refused(name: str) -> None:
    tensors = of_people(name)._model.tensors()
    with pytest.raises(ValueError, match="of the layout's columns"):
        synthesizer(name).restore(wide(name).codec.layout, tensors)
    other = next(n for n in BASELINES if n != name)
    with pytest.raises(ValueError, match="it is another"):
        synthesizer(other).restore(of_people(name).codec.layout, tensors)


@all_of_them
def test_conditions_are_met(name: str) -> None:
    drawn = of_people(name).sample(40, given={"team": "b"}, seed=3)
    assert drawn.column("team").to_pylist() == ["b"] * 40
    assert len(set(drawn.column("height").to_pylist())) > 20
    assert drawn.equals(of_people(name).sample(40, given={"team": "b"}, seed=3))


def test_a_condition_that_sdv_finds_no_row_for_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(
        ConditionError, match=r"found 0 of 20 rows in SDV's hundred tries; train it longer, or use circuit"
    ):
        of_people("sdv-tvae").sample(20, given={"team": "c", "place": "x", "height": 26.0}, seed=3)


def test_a_copula_learns_shares_and_a_link() -> None:
    drawn = of_people("sdv-gaussian-copula").sample(4000, seed=3).to_pandas()
    fresh = people(4000, seed=2).to_pandas()
    for column in ("team", "place"):
        shares = (f[column].value_counts(normalize=True, dropna=False) for f in (drawn, fresh))
        assert np.abs(next(shares) - next(shares)).max() < 0.05
    assert drawn.groupby("place")["height"].mean()["z"] > drawn.groupby("place")["height"].mean()["x"]


def test_a_missing_category_is_a_condition_for_the_copula_alone() -> None:
    model = synth.fit(houses(400, seed=1), "sdv-tvae", options=FEW["sdv-tvae"], seed=1, threads=1)
    with pytest.raises(
        ConditionError, match="finds no row in which the category 'cellar' is missing; use circuit"
    ):
        model.sample(5, given={"cellar": None})


def test_columns_that_are_missing_together_stay_so_where_it_is_said() -> None:
    model = synth.fit(houses(800, seed=1), "sdv-gaussian-copula", seed=1, threads=1)
    drawn = model.sample(50, given={"cellar": None}, seed=1)
    assert drawn.column("cellar").null_count == drawn.column("cellar_size").null_count == 50


def test_a_pandas_frame_comes_back_as_one() -> None:
    frame = people(400, seed=1).to_pandas()
    drawn = synth.fit(frame, "sdv-gaussian-copula", threads=1).sample(30)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.dtypes.to_dict() == frame.dtypes.to_dict()


def test_a_curator_that_shows_no_rows_is_refused() -> None:
    model = of_people("sdv-gaussian-copula")
    with pytest.raises(RecipeError, match="under a privacy budget none are shown; choose circuit"):
        synthesizer("sdv-gaussian-copula").fit(
            SimpleNamespace(total=None, sum=None), model.codec.layout, {}, seed=0
        )


def test_what_a_baseline_cannot_do_it_refuses() -> None:
    with pytest.raises(UsageError, match="impute needs a synthesizer that knows conditional distributions"):
        of_people("sdv-gaussian-copula").impute(people(5, seed=1))
    with pytest.raises(UsageError, match="log_prob needs a synthesizer that knows densities"):
        of_people("sdv-gaussian-copula").log_prob(people(5, seed=1))


def test_a_failure_of_sdv_is_told_without_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    import sdv.single_table

    def fail(self: object, data: object) -> None:
        raise RuntimeError("the value 12345 of a private row")

    monkeypatch.setattr(sdv.single_table.GaussianCopulaSynthesizer, "fit", fail)
    with pytest.raises(InputError, match="SDV failed with RuntimeError; choose another") as caught:
        synth.fit(people(300, seed=1), "sdv-gaussian-copula", threads=1)
    assert "12345" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("sdv-ctgan", {"batch_size": 500, "pac": 7}, "a multiple of pac, however: batch_size=500, pac=7"),
        ("sdv-ctgan", {"epochs": 0}, "epochs"),
        ("sdv-tvae", {"pac": 2}, "'pac' is not"),
        ("sdv-gaussian-copula", {"default_distribution": "poisson"}, "default_distribution"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        check_options(name, options)


def test_without_the_package_the_name_is_refused_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [m for m in sys.modules if m == "sdv" or m.startswith("sdv.")]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "synth.sdv", raising=False)
    monkeypatch.setitem(sys.modules, "sdv", None)
    try:
        with pytest.raises(UsageError, match=r"pip install 'understudy\[sdv\]'"):
            check_options("sdv-ctgan", {})
    finally:
        monkeypatch.undo()
        importlib.import_module("synth.sdv")
