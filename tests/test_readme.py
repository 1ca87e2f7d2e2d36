"""What the README shows works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text("utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_every_python_example_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error:::synth", "-c", code], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


def test_every_command_that_the_readme_shows_exists() -> None:
    shown = set(re.findall(r"^ +understudy (\w+)", TEXT, re.MULTILINE))
    assert shown
    assert shown <= set(COMMANDS)


def test_every_file_that_the_readme_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (README.parent / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:`|^ +)make ([a-z]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_core_works_with_sdv_absent(tmp_path: Path) -> None:
    code = """
import sys
for name in ("sdv", "rdt", "copulas", "ctgan", "deepecho"):
    sys.modules[name] = None  # importing it now raises ImportError
import numpy as np, pyarrow as pa, synth
table = pa.table({"a": np.arange(400) % 7, "b": np.random.default_rng(0).normal(size=400)})
assert synth.fit(table, seed=1).sample(5).num_rows == 5
import pipelines.steps, pipelines.commands, pipelines.doctor, validation.fidelity, validation.expectations
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(README.parent)},
    )
    assert done.returncode == 0, done.stderr.decode()
