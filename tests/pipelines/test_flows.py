import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv as csv
import pytest
import yaml
from prefect.states import Failed

from pipelines import flows
from pipelines.flows import RETRIED, TASKS, artifact_key, release_flow, verdict_page
from pipelines.init import initialize
from pipelines.publish import check_sums
from pipelines.recipe import load
from pipelines.run import open_run
from pipelines.steps import STEPS
from privacy.errors import (
    BudgetRefused,
    Busy,
    GateRefused,
    InputError,
    SchemaError,
    UnderstudyError,
    UsageError,
)
from validation.gates import Finding, Verdict

ROOT = Path(__file__).parents[2]
PREFECT = [sys.executable, "-m", "prefect"]
PLACES = ("Ouagadougou", "Llanfairpwll", "Szczebrzeszyn")
"""Values of the private table; they occur nowhere else."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private table of 2,000 rows with its schema and a recipe."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(7)
    age = rng.normal(40, 12, 2000).round(1)
    pay = (100 * age + rng.normal(0, 300, 2000)).round(2)
    csv.write_csv(
        pa.table({"age": age, "pay": pay, "place": rng.choice(PLACES, 2000)}), folder / "people.csv"
    )
    initialize(folder / "people.csv", folder, blind=False, force=False)
    text = (folder / "recipe.yaml").read_text("utf-8").replace("synthesizer: auto", "synthesizer: gmm")
    (folder / "recipe.yaml").write_text(f"{text}options: {{components: 8}}\n", "utf-8")
    # One component cannot know that pay depends on age: the gate refuses it.
    (folder / "poor.yaml").write_text(f"{text}options: {{components: 1}}\n", "utf-8")
    return folder


# ---------------------------------------------------------------------------------------------- with a server


@dataclass(frozen=True, kw_only=True)
class Server:
    """A Prefect server in a process of its own, and the environment in which to talk to it."""

    api: httpx.Client
    environment: dict[str, str]
    home: Path

    def post(self, path: str, **body: Any) -> Any:
        return self._ask("POST", path, json=body)

    def flow_run(self, identifier: str) -> dict[str, Any]:
        return dict(self._ask("GET", f"/flow_runs/{identifier}"))

    def _ask(self, method: str, path: str, **body: Any) -> Any:
        """Asks again while the server says 503: its SQLite file is busy. Prefect's own client does so, too."""
        for seconds in (0.5, 1, 2, 4, 8):
            reply = self.api.request(method, path, **body)
            if reply.status_code != 503:
                break
            time.sleep(seconds)
        reply.raise_for_status()
        return reply.json() if reply.content else None

    def of_run(self, what: str, identifier: str) -> list[dict[str, Any]]:
        """Artifacts, task runs or logs of a flow run."""
        if what == "logs":
            return list(self.post("/logs/filter", logs={"flow_run_id": {"any_": [identifier]}}))
        return list(self.post(f"/{what}/filter", flow_runs={"id": {"any_": [identifier]}}))

    def finished(self, identifier: str, *, tasks: int) -> dict[str, Any]:
        """The flow run, once it is over and its last events and logs have arrived."""
        wait_for(lambda: self.flow_run(identifier)["state_type"] in ("COMPLETED", "FAILED", "CRASHED"))
        over = ("COMPLETED", "FAILED")
        wait_for(lambda: sum(t["state_type"] in over for t in self.of_run("task_runs", identifier)) == tasks)
        wait_for(lambda: any("Finished in" in r["message"] for r in self.of_run("logs", identifier)))
        return self.flow_run(identifier)


def wait_for(seen: Callable[[], Any], *, seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := seen():
            return found
        time.sleep(0.25)
    raise AssertionError(f"waited for {seconds} s in vain")


@contextlib.contextmanager
def process(*arguments: str, environment: dict[str, str], log: Path) -> Iterator[None]:
    """Runs a process, and ends it with all that it started, however the test ends."""
    with log.open("wb") as out:
        started = subprocess.Popen(
            arguments, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield
    except Exception as e:
        e.add_note(log.read_text("utf-8", "replace")[-4000:])
        raise
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            tree = [*psutil.Process(started.pid).children(recursive=True), psutil.Process(started.pid)]
            for one in tree:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        started.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("prefect")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | {
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
        "PREFECT_API_URL": url,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
        "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    command = [*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (
        process(*command, environment=environment, log=home / "server.log"),
        httpx.Client(base_url=url, timeout=30) as api,
    ):

        def healthy() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return api.get("/health").is_success
            return False

        wait_for(healthy)
        yield Server(api=api, environment=environment, home=home)


@pytest.fixture(scope="module")
def deployment(server: Server, folder: Path) -> Iterator[dict[str, Any]]:
    """The repository's `prefect.yaml`, but for recipe and schedule, deployed, and a worker for it."""
    plan = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))
    nightly, weekly = plan["deployments"]
    weekly["parameters"]["recipe"] = str(folder / "recipe.yaml")
    pool = nightly["work_pool"]["name"]
    worker = [*PREFECT, "worker", "start", "--pool", pool, "--type", "process"]
    with process(*worker, environment=server.environment, log=server.home / "worker.log"):
        wait_for(lambda: server.api.get(f"/work_pools/{pool}").is_success)
        nightly["parameters"]["recipe"] = str(folder / "recipe.yaml")
        soon = datetime.now(UTC) + timedelta(seconds=10)
        # Not longer: where the deployment takes its time, the next one must not be far.
        nightly["schedules"] = [{"interval": 20, "anchor_date": soon.isoformat()}]
        path = server.home / "prefect.yaml"
        path.write_text(yaml.safe_dump(plan), "utf-8")
        deploy = [*PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
        done = subprocess.run(
            deploy, cwd=ROOT, env=server.environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield dict(server.api.get("/deployments/name/release/nightly").raise_for_status().json())


@pytest.fixture(scope="module")
def scheduled(server: Server, deployment: dict[str, Any]) -> dict[str, Any]:
    """The first run that the schedule brought, when it is over."""
    chosen = {"deployment_id": {"any_": [deployment["id"]]}}
    runs = wait_for(
        lambda: server.post("/flow_runs/filter", flow_runs=chosen, sort="EXPECTED_START_TIME_ASC")
    )
    assert runs[0]["auto_scheduled"]
    assert runs[0]["state_type"] in ("SCHEDULED", "PENDING", "RUNNING")
    wait_for(lambda: server.flow_run(runs[0]["id"])["state_type"] not in ("SCHEDULED", "PENDING"))
    server.post(f"/deployments/{deployment['id']}/pause_deployment")
    return server.finished(runs[0]["id"], tasks=len(STEPS))


@pytest.fixture(scope="module")
def refused(
    server: Server, deployment: dict[str, Any], scheduled: dict[str, Any], folder: Path
) -> dict[str, Any]:
    """A run whose gate refuses, when it is over."""
    parameters = {"recipe": str(folder / "poor.yaml"), "name": "poor", "rows": "source", "seed": 1}
    run = server.post(f"/deployments/{deployment['id']}/create_flow_run", parameters=parameters)
    return server.finished(run["id"], tasks=list(STEPS).index("gate") + 1)


def test_the_repository_deploys_a_nightly_release_that_runs_one_at_a_time(
    deployment: dict[str, Any],
) -> None:
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert deployment["entrypoint"] == "pipelines/flows.py:release_flow"
    assert [list(step) for step in deployment["pull_steps"]] == [
        ["prefect.deployments.steps.set_working_directory"]
    ]
    kept = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf-8"))["deployments"]
    assert all(k["schedules"][0]["cron"] for k in kept)


def test_audits_have_a_deployment_and_a_schedule_of_their_own(
    server: Server, deployment: dict[str, Any]
) -> None:
    found = server.api.get("/deployments/name/audit/weekly").raise_for_status().json()
    assert found["entrypoint"] == "pipelines/flows.py:audit_flow"
    assert found["schedules"][0]["schedule"]["cron"]
    assert all(field["description"] for field in found["parameter_openapi_schema"]["properties"].values())


def test_the_form_of_parameters_is_typed_and_described(deployment: dict[str, Any]) -> None:
    form = deployment["parameter_openapi_schema"]
    assert form["required"] == ["recipe"]
    assert {"type": "string", "const": "source"} in form["properties"]["rows"]["anyOf"]
    assert all(field["description"] for field in form["properties"].values())


def test_a_form_that_breaks_a_type_is_refused_by_the_server(
    server: Server, deployment: dict[str, Any]
) -> None:
    wrong = {"parameters": {"recipe": "recipe.yaml", "rows": "many"}}
    assert server.api.post(f"/deployments/{deployment['id']}/create_flow_run", json=wrong).is_client_error


def test_a_scheduled_run_publishes_a_release(server: Server, scheduled: dict[str, Any], folder: Path) -> None:
    assert scheduled["state_type"] == "COMPLETED", scheduled["state"]["message"]
    assert check_sums((folder / "releases" / "people" / "latest").resolve()) >= 5
    ran = server.of_run("task_runs", scheduled["id"])
    assert {t["name"]: t["state_type"] for t in ran} == dict.fromkeys(STEPS, "COMPLETED")


def test_a_release_shows_its_progress_its_verdict_and_where_it_lies(
    server: Server, scheduled: dict[str, Any], folder: Path
) -> None:
    shown = {a["key"]: a for a in server.of_run("artifacts", scheduled["id"]) if a["key"]}
    assert shown.keys() == {"people-progress", "people-verdict", "people-release", "people-report"}
    assert shown["people-progress"]["data"] == 100
    assert shown["people-verdict"]["data"].startswith("# Passed")
    report = (folder / "releases" / "people" / "latest").resolve() / "report.html"
    assert report.as_uri() in shown["people-report"]["data"]


def test_a_refused_gate_fails_the_run_with_the_reason_and_publishes_nothing(
    server: Server, refused: dict[str, Any], folder: Path
) -> None:
    assert refused["state_type"] == "FAILED"
    assert "gate: the gate refused this release" in refused["state"]["message"]
    assert "'pay'" in refused["state"]["message"]
    assert not (folder / "releases" / "poor").exists()
    shown = {a["key"]: a for a in server.of_run("artifacts", refused["id"]) if a["key"]}
    assert shown.keys() == {"poor-progress", "poor-verdict"}
    assert shown["poor-verdict"]["data"].startswith("# Refused")


def test_a_refusal_sends_no_traceback_to_the_server(server: Server, refused: dict[str, Any]) -> None:
    def said() -> list[str]:
        return [r["message"] for r in server.of_run("logs", refused["id"])]

    # The last thing that the flow's process says is the error that its engine raises.
    wait_for(lambda: any(message.startswith("the gate refused this release") for message in said()))
    # A busy machine may make Prefect log troubles of its own; the refusal is ours.
    assert not [m for m in said() if "Traceback" in m and "GateRefused" in m]


@pytest.mark.usefixtures("scheduled", "refused")
def test_results_are_json_that_holds_paths_and_digests_and_no_rows(server: Server) -> None:
    stored = [json.loads(p.read_bytes()) for p in (server.home / "storage").iterdir()]
    results = [json.loads(s["result"]) if "result" in s else s for s in stored]
    of_tasks = [r for r in results if "outputs" in r]
    assert len(of_tasks) >= len(STEPS)
    for result in of_tasks:
        assert result.keys() == {"inputs", "outputs", "facts", "seconds"}
        assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in result["outputs"].values())
        assert all(isinstance(fact, int | str) for fact in result["facts"].values())


@pytest.mark.usefixtures("scheduled", "refused")
def test_nothing_that_prefect_keeps_holds_a_private_value(server: Server) -> None:
    kept = [p for p in server.home.rglob("*") if p.is_file()]
    assert any(p.suffix == ".db" for p in kept)
    for path in kept:
        content = path.read_bytes()
        assert not any(place.encode() in content for place in PLACES), path


BROKEN_INPUT = """
import json, sys
from pathlib import Path
from prefect import flow
from prefect.artifacts import create_progress_artifact
from pipelines import flows

workspace, table, whole = sys.argv[1:]
retried = flows.TASKS["ingest"].with_options(retry_delay_seconds=0.1)

def mended(task, run, state):
    Path(table).write_text(Path(whole).read_text())
    return flows._may_heal(task, run, state)

@flow
def attempts():
    progress = create_progress_artifact(0.0, key="attempts")
    stays = retried(workspace, "ingest", progress, return_state=True)
    heals = retried.with_options(retry_condition_fn=mended)(workspace, "ingest", progress, return_state=True)
    return [stays.type.value, heals.type.value, heals.result()["facts"]]

print(json.dumps(attempts()))
"""


def test_an_input_that_is_whole_at_the_second_attempt_is_read_and_one_that_stays_broken_fails(
    server: Server, folder: Path, tmp_path: Path
) -> None:
    for name in ("recipe.yaml", "schema.yaml"):
        (tmp_path / name).write_text((folder / name).read_text("utf-8"), "utf-8")
    table = tmp_path / "people.csv"
    table.write_bytes((folder / "people.csv").read_bytes()[:9000] + b"\0")
    run = open_run(load(tmp_path / "recipe.yaml"), tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_INPUT, str(run.workspace.path), str(table), str(folder / "people.csv")],
        cwd=tmp_path, env=server.environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = {"rows": 2000, "columns": 3}
    assert json.loads(done.stdout) == ["FAILED", "COMPLETED", facts]


# ------------------------------------------------------------------------------------------- without a server


def test_a_release_from_the_command_line_never_imports_prefect(folder: Path) -> None:
    program = (
        "import sys; from pipelines.cli import run; code = run(sys.argv[1:]); "
        "assert 'pipelines.steps' in sys.modules; assert 'prefect' not in sys.modules; sys.exit(code)"
    )
    release = ["release", str(folder / "recipe.yaml"), "--name", "alone", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *release], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert Path(json.loads(done.stdout)["release"]).is_dir()


def test_a_server_that_is_down_stops_a_flow_at_once_and_a_running_step_never(folder: Path) -> None:
    before = sorted(p.name for p in folder.rglob("*"))
    lonely = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}

    def call(code: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-c", code, str(folder)]
        return subprocess.run(
            command, env=lonely, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
        )

    flow = call(
        "import sys; from pipelines.flows import release_flow; release_flow(sys.argv[1] + '/recipe.yaml')"
    )
    assert flow.returncode != 0
    assert "Failed to reach API" in flow.stderr
    assert sorted(p.name for p in folder.rglob("*")) == before
    told = call(
        "import sys, uuid, json; from pathlib import Path; from pipelines.flows import Told, open_run, load\n"
        "folder = Path(sys.argv[1]); run = open_run(load(folder / 'recipe.yaml'), folder / 'other')\n"
        "verdict = folder / 'verdict.json'\n"
        "verdict.write_text(json.dumps({'passed': True, 'findings': [], 'summary': 'passed'}))\n"
        "told = Told(run, uuid.uuid4()); told.started('fit'); told.wrote('gate', verdict); print('went on')"
    )
    assert told.stdout.strip().endswith("went on"), told.stderr


def test_only_steps_that_wait_for_something_are_tried_again() -> None:
    assert {step for step, task in TASKS.items() if task.retries} == set(RETRIED) == {"ingest", "publish"}


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (OSError("the share is away"), True),
        (InputError("half a file"), True),
        (Busy("somebody publishes"), True),
        (UsageError("a typo"), False),
        (SchemaError("a typo"), False),
        (GateRefused("no"), False),
        (BudgetRefused("no"), False),
        (UnderstudyError("nobody foresaw it"), False),
    ],
)
def test_what_cannot_heal_is_not_tried_again(error: Exception, again: bool) -> None:
    assert flows._may_heal(TASKS["publish"], None, Failed(data=error)) is again


@pytest.mark.parametrize("error", [ValueError(PLACES[0]), OSError(PLACES[0]), KeyError(PLACES[0])])
def test_the_text_of_an_unforeseen_error_stays_inside(error: Exception) -> None:
    reason = str(flows._reason(error, "/runs/people"))
    assert PLACES[0] not in reason
    assert "resume /runs/people --debug" in reason


def test_the_system_s_refusal_is_told_and_may_heal() -> None:
    reason = flows._reason(PermissionError(13, "Permission denied", "/data"), "/runs/people")
    assert isinstance(reason, OSError)
    assert str(reason) == "the system refused: Permission denied: /data"


def test_a_recipe_that_is_not_there_fails_the_run_in_a_sentence(tmp_path: Path) -> None:
    state = release_flow.fn(recipe=str(tmp_path / "none.yaml"))
    assert state.is_failed()
    assert "there is no" in state.message


def test_a_run_that_somebody_else_holds_fails_as_busy(folder: Path) -> None:
    run = open_run(load(folder / "recipe.yaml").with_fields({"seed": 99}), folder)
    with run.workspace.locked():
        state = release_flow.fn(recipe=str(folder / "recipe.yaml"), seed=99)
    assert state.is_failed()
    assert isinstance(state.data, Busy)


def test_keys_of_artifacts_have_lower_case_digits_and_dashes_only(folder: Path) -> None:
    recipe = load(folder / "recipe.yaml").with_fields({"name": "a.b_c-2"})
    assert artifact_key(open_run(recipe, folder), "report") == "a-b-c-2-report"


def test_a_verdict_cannot_smuggle_markup_into_its_page(tmp_path: Path) -> None:
    name = "<img src=x>[click](javascript:x)\n# big"
    finding = Finding(
        rule="missing", level="critical", columns=(name,), message=f"{name} is off", value=0.3, limit=0.1
    )
    path = tmp_path / "verdict.json"
    path.write_text(json.dumps(Verdict(findings=(finding,)).to_dict()), "utf-8")
    page = verdict_page(path)
    assert page.startswith("# Refused")
    assert r"\<img src=x\>\[click\]\(javascript:x\) \# big" in page
    assert not re.search(r"(?<!\\)[<\[]", page)
