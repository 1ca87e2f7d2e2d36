import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.steps import Outcome, release
from tests.pipelines.tables import opened

Understudy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def done(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A release of the table of every kind. Nobody changes it or its run."""
    return release(opened(tmp_path_factory.mktemp("done")))


@pytest.fixture
def copied(done: Outcome, tmp_path: Path) -> Path:
    """A copy of that release, to be changed."""
    return Path(shutil.copytree(done.release, tmp_path / "copy"))


@pytest.fixture(scope="session")
def understudy() -> Understudy:
    """Runs the command in a process of its own."""

    def call(
        *arguments: str, cwd: Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name("understudy")), *arguments],
            cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    return call
