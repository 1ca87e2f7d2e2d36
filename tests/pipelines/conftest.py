import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server that speaks S3, over HTTP, in this process."""
    from moto.server import ThreadedMotoServer

    found = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    found.start()
    host, port = found.get_host_and_port()
    yield f"http://{host}:{port}"
    found.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket `releases`, and an environment that leads there."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL_S3": server, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    made = boto3.resource("s3").create_bucket(Bucket="releases")
    yield made
    made.objects.all().delete()
    made.delete()
