"""The flows: the same steps as Prefect tasks, with schedules, retries, progress, and links to the release; and audits.

A task takes the path of a workspace and gives back paths, digests and small facts, never rows. The workspace
knows which steps are finished, so Prefect caches nothing, and a flow run that was killed is gone on with by
the next one. What a Prefect server is told (progress, verdicts, messages of errors) belongs inside, like the
workspace: a verdict may name columns and the categories that were lost.
"""

import contextlib
import json
import logging
import os
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

# Telemetry is off unless somebody turned it on, and Prefect looks when it is imported.
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# Where there is no server, the flow starts one for itself, which a busy machine does not do in 20 seconds.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")

import httpx
from prefect import State, Task, flow, get_run_logger, task
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.blocks.system import Secret
from prefect.client.schemas.objects import TaskRun
from prefect.states import Failed
from pydantic import Field

from pipelines import watermark
from pipelines.audit import ROWS, examine
from pipelines.console import DOING
from pipelines.drawing import all_shards
from pipelines.recipe import Recipe, load
from pipelines.run import VERDICT, Run, open_run, reopen_run
from pipelines.shadows import FEWEST_MODELS, FEWEST_TARGETS, MODELS, TARGETS, Asked, attack, judge
from pipelines.steps import STEPS, check, outcome, perform, told
from pipelines.workspace import Record
from privacy.errors import Busy, InputError, NoRoom, RecipeError, UnderstudyError
from validation.gates import Verdict

RETRIED = ("ingest", "publish")
"""Steps that wait for disks, shares and other publishers. The others only compute: they would fail alike."""

AWAY = (httpx.HTTPError, RuntimeError)
"""What Prefect's client raises where its server is down, slow or unable."""

RETRY_SECONDS = [10.0, 60.0]
"""Delays before the second and the third attempt."""


@flow(name="release", persist_result=True, result_serializer="json", validate_parameters=True)
def release_flow(
    recipe: str,
    root: list[str] | None = None,
    name: str | None = None,
    synthesizer: str | None = None,
    rows: Annotated[int, Field(ge=1)] | Literal["source"] | None = None,
    holdout: Annotated[float, Field(gt=0, lt=1)] | str | None = None,
    seed: Annotated[int, Field(ge=0)] | None = None,
    workers: Annotated[int, Field(ge=1, le=256)] | None = None,
    to: str | None = None,
) -> dict[str, Any] | State[Any]:
    """Makes a release of a recipe: ingest, profile, fit, sample, validate, gate, publish.

    What is left empty stays as the recipe has it.

    Args:
        recipe: path of the recipe on the worker's machine.
        root: folders that inputs may lie in, besides the recipe's own.
        name: name of the release.
        synthesizer: auto, or a name from `understudy doctor`.
        rows: rows to release; source: as many as the source has.
        holdout: share of units held out of training, or a file that holds them.
        seed: seed of the fit and of the synthetic draw.
        workers: processes that write shards.
        to: root of the releases.

    Returns:
        Release, run, verdict, rows, and seconds by step; or the state of a run that failed, with the reason.
    """
    changes = {
        "name": name,
        "synthesizer": synthesizer,
        "rows": rows,
        "holdout": holdout,
        "seed": seed,
        "workers": workers,
        "to": to,
    }
    try:
        run = _open(Path(recipe), [Path(r) for r in root or ()], changes)
        with run.workspace.locked():
            return _walk(run)
    except UnderstudyError as e:
        # Returned rather than raised: the state says why.
        return Failed(message=str(e), data=_bare(e))


@flow(name="audit", persist_result=True, result_serializer="json", validate_parameters=True)
def audit_flow(
    recipe: str,
    root: list[str] | None = None,
    rows: Annotated[int, Field(ge=200)] = ROWS,
    shadows: Annotated[int, Field(ge=FEWEST_MODELS)] = MODELS,
    targets: Annotated[int, Field(ge=FEWEST_TARGETS)] = TARGETS,
) -> dict[str, Any] | State[Any]:
    """Audits a recipe: a private one on made-up rows, any other by shadow models. The next release cites it.

    Args:
        recipe: path of the recipe on the worker's machine.
        root: folders that inputs may lie in, besides the recipe's own.
        rows: made-up rows, or real ones at most, of which each shadow model learns half.
        shadows: shadow models that are fitted.
        targets: rows that they are attacked with: so many of the most exposed, and as many at random.

    Returns:
        What a certificate cites; or the state of a run that failed, with the reason.
    """
    command = "audit"
    try:
        run = _open(Path(recipe), [Path(r) for r in root or ()], {})
        if run.recipe.privacy is not None:
            audited = examine(run, rows=rows)
            audited.raise_if_broken()
            return audited.found.to_dict()
        command = "audit --thorough"
        found = attack(run, Asked(models=shadows, targets=targets, rows=rows))
        judge(run, found)
        return found.cited()
    except Exception as e:  # noqa: BLE001 - the last frame of ours: a traceback or a text may quote a row
        reason = _reason(e, recipe, command=command)
        return Failed(message=str(reason), data=reason)


def _open(path: Path, roots: list[Path], changes: dict[str, Any]) -> Run:
    recipe: Recipe = load(path)
    given = {field: value for field, value in changes.items() if value is not None}
    run = open_run(recipe.with_fields(given) if given else recipe, path.parent, roots=roots)
    check(run)
    watermark.number_of(run.recipe)
    return run


def _walk(run: Run) -> dict[str, Any] | State[Any]:
    """Walks all steps, and stops at the first that fails."""
    get_run_logger().info("run %s", run.workspace.path)
    progress = create_progress_artifact(0.0, key=artifact_key(run, "progress"))
    before = run.workspace.records()
    for step in STEPS:
        state = TASKS[step](str(run.workspace.path), step, progress, return_state=True)
        if not state.is_completed():
            return Failed(message=state.message, data=state.result(raise_on_failure=False))
    done = outcome(run, before)
    for what, path in (("release", done.release), ("report", done.release / "report.html")):
        create_link_artifact(path.as_uri(), link_text=str(path), key=artifact_key(run, what))
    return done.to_dict()


def _may_heal(_task: Task[..., Any], _task_run: TaskRun, state: State[Any]) -> bool:
    """Whether another attempt may fare better: a disk comes back, a file is copied, a publisher goes."""
    return isinstance(state.data, OSError | InputError | NoRoom | Busy)


# A key of its own for each attempt: what is stored is never found again, so nothing is cached. Without the
# count, a second attempt would find the failure of the first, and Prefect would call that a success.
@task(
    persist_result=True,
    result_serializer="json",
    result_storage_key="{task_run.id}-{task_run.run_count}.json",
)
def perform_step(workspace: str, step: str, progress: UUID) -> dict[str, Any] | State[Any]:
    """Performs one step of the run at a path.

    Args:
        workspace: path of the run's workspace.
        step: name of the step.
        progress: the progress artifact of the flow run.

    Returns:
        Digests of the inputs, paths and digests of the outputs, small facts and seconds; or a failed state.
    """
    run = reopen_run(Path(workspace))
    try:
        return asdict(told(run, step, perform(replace(run, watch=Told(run, progress)), step)))
    except Exception as e:  # noqa: BLE001 - the last frame of ours: a traceback or a text may quote a row
        reason = _reason(e, workspace)
        return Failed(message=f"{step}: {reason}", data=reason)


def _reason(e: Exception, about: str, *, command: str = "resume") -> Exception:
    """What may be said of an error outside the workspace; a command about a workspace or a recipe shows the rest."""
    if isinstance(e, UnderstudyError):
        return _bare(e)
    if isinstance(e, OSError) and e.strerror:
        return OSError(f"the system refused: {e.strerror}{f': {e.filename}' if e.filename else ''}")
    kind = OSError if isinstance(e, OSError) else UnderstudyError
    return kind(
        f"an error that nobody foresaw: {type(e).__name__}; `understudy {command} {about} --debug` shows it"
    )


def secret_block(name: str) -> str:
    """What Prefect keeps in a secret block.

    Raises:
        RecipeError: there is no such block, or it cannot be loaded.
    """
    try:
        block = Secret.load(name)
        assert isinstance(block, Secret)
        return str(block.get())
    except Exception as e:  # noqa: BLE001 - whatever Prefect raises may hold what the block holds
        raise RecipeError(
            f"a reference must lead to a secret, however: the Prefect secret block {name!r} cannot be loaded "
            f"({type(e).__name__}); make it, and set PREFECT_API_URL"
        ) from None


def _bare(e: UnderstudyError) -> UnderstudyError:
    """An error without its frames and what caused it, which may quote a row."""
    e.__cause__ = e.__context__ = None
    return e.with_traceback(None)


class _NoTraceback(logging.Filter):
    """Takes the traceback from a record about an error of ours; its message says what, where and how to mend it."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], UnderstudyError):
            record.msg, record.args, record.exc_info = "%s", (str(record.exc_info[1]),), None
        return True


# A worker's engine raises what a failed flow returned, and logs that to the server.
logging.getLogger("prefect.flow_runs").addFilter(_NoTraceback())


TASKS: dict[str, Task[[str, str, UUID], dict[str, Any] | State[Any]]] = {
    step: perform_step.with_options(
        name=step,
        task_run_name=step,
        retries=len(RETRY_SECONDS) if step in RETRIED else 0,
        retry_delay_seconds=RETRY_SECONDS,
        retry_condition_fn=_may_heal,
    )
    for step in STEPS
}
"""Step → its task."""


class Told:
    """Tells Prefect how a run goes on: progress, a line per step, the verdict."""

    def __init__(self, run: Run, progress: UUID) -> None:
        self._run = run
        self._progress = progress
        self._shards = 0

    def started(self, step: str) -> None:
        """A step begins."""
        self._tell(step, 0.0)

    def wrote(self, step: str, path: Path) -> None:
        """A step wrote an artifact."""
        if step == "sample":
            self._shards += 1
            self._tell(step, self._shards / len(all_shards(self._run)))
        if step == "gate":
            page = verdict_page(path)
            with contextlib.suppress(*AWAY):
                create_markdown_artifact(page, key=artifact_key(self._run, "verdict"))

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        """A step is finished, or was found finished."""
        if step == "gate" and cached:
            self.wrote(step, self._run.workspace.path / VERDICT)
        took = "unchanged, kept" if cached else f"{record.seconds:.1f} s"
        facts = ", ".join(f"{k} {v}" for k, v in record.facts.items())
        get_run_logger().info("%s: %s; %s", step, took, facts)
        self._tell(step, 1.0)

    def _tell(self, step: str, part: float) -> None:
        percent = 100 * (list(STEPS).index(step) + part) / len(STEPS)
        # A server that is away for a moment must not cost the work of a step.
        with contextlib.suppress(*AWAY):
            update_progress_artifact(
                self._progress, percent, description=DOING[step] if part < 1 else f"{step} is done"
            )


def artifact_key(run: Run, what: str) -> str:
    """The key of an artifact: one history per release name. Keys take lower case, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", f"{run.recipe.name}-{what}")


def verdict_page(path: Path) -> str:
    """The verdict at a path as Markdown."""
    verdict = Verdict.from_dict(json.loads(path.read_text("utf-8")))
    lines = [f"# {'Passed' if verdict.passed else 'Refused'}", _escaped(verdict.summary)]
    lines += [f"- **{f.level}**, {f.rule}: {_escaped(f.message)}" for f in verdict.findings]
    return "\n\n".join(lines)


def _escaped(text: str) -> str:
    """On one line, with every character that means something in Markdown or HTML taken by its word."""
    return re.sub(r"([\\`*_{}\[\]()<>#|&~!])", r"\\\1", " ".join(text.split()))
