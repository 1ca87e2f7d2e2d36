import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipelines.steps import STEPS
from tests.pipelines.killer import CHANGES

ROOT = Path(__file__).parents[2]
MOMENTS = [(step, moment, 0) for step in STEPS for moment in ("started", "wrote")]
MOMENTS += [("publish", "changing", changes) for changes in CHANGES]

Found = Mapping[str, Any]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What became of every release that was killed, and of one that was left in peace."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipelines.killer", str(tmp_path_factory.mktemp("killed"))],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result: Found = json.loads(done.stdout)
    return result


@pytest.fixture(params=MOMENTS, ids=lambda m: "-".join(map(str, m)))
def tried(found: Found, request: pytest.FixtureRequest) -> Found:
    """What became of one release that was killed."""
    (one,) = [t for t in found["tried"] if (t["step"], t["moment"], t["changes"]) == request.param]
    return dict(one)


def test_the_kill_came_in_the_step_that_it_was_meant_for(tried: Found) -> None:
    before = list(STEPS)[: list(STEPS).index(tried["step"])]
    assert tried["killed"]
    assert sorted(tried["finished_before"]) == sorted(before)


def test_a_killed_release_that_is_resumed_is_the_undisturbed_one_byte_for_byte(
    found: Found, tried: Found
) -> None:
    assert tried["resumed"] == 0
    assert len(found["calm"]["sums"]) == 1
    assert tried["sums"] == found["calm"]["sums"]
    assert tried["latest"] == found["calm"]["latest"]


def test_a_reader_of_the_root_never_sees_half_a_release(found: Found, tried: Found) -> None:
    assert tried["looks"] > 20
    assert tried["broken"] == []
    assert tried["seen"] == [found["calm"]["latest"]]


def test_nothing_half_done_stays_in_the_root(found: Found, tried: Found) -> None:
    assert tried["left"] == [".lock", found["calm"]["latest"], "latest"]
    assert tried["root"] == [".catalog.lock", "catalog.json", "index.html", "visits"]


def test_the_catalogue_lists_what_was_published_in_the_end(found: Found, tried: Found) -> None:
    assert tried["listed"] == [f"visits/{found['calm']['latest']}/"]
