"""What a person or a program at the command line sees: progress, results, errors."""

import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pipelines.run import Watch
from pipelines.steps import STEPS
from pipelines.workspace import Record
from privacy.errors import UnderstudyError

DOING = {
    "ingest": "reading the input",
    "profile": "asking about each column",
    "fit": "training the model",
    "sample": "drawing rows",
    "validate": "comparing real and synthetic rows",
    "gate": "judging the evidence",
    "publish": "publishing",
}


class Lines:
    """One plain line per finished step, on stderr: for logs and pipes."""

    def started(self, step: str) -> None:
        """A step begins."""

    def wrote(self, step: str, path: Path) -> None:
        """A step wrote an artifact."""

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        """A step is finished."""
        note(_ended(step, record, cached))


class Spinner:
    """A status line that moves, and one line per finished step: for a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")

    def started(self, step: str) -> None:
        """A step begins."""
        number = list(STEPS).index(step) + 1
        self._status.update(f"[{number}/{len(STEPS)}] {DOING[step]} …")
        self._status.start()

    def wrote(self, step: str, path: Path) -> None:
        """A step wrote an artifact."""

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        """A step is finished."""
        self._status.stop()
        self._console.print(Text(" ✓ ", "green") + Text(_ended(step, record, cached)))


def watch() -> Watch:
    """The watch that fits where stderr goes."""
    console = Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR")))
    return Spinner(console) if console.is_terminal else Lines()


def _ended(step: str, record: Record, cached: bool) -> str:
    facts = ", ".join(f"{k.replace('_', ' ')} {_figure(v)}" for k, v in record.facts.items() if _small(v))
    took = "unchanged, kept" if cached else f"{record.seconds:.1f} s"
    return f"{step:<9} {took:>15}  {facts}"


def _small(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, str) and len(value) < 60)


def _figure(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def say(text: str) -> None:
    """A result for a person, on stdout."""
    sys.stdout.write(f"{text}\n")


def say_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """A result for a program, on stdout."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")


def note(text: str) -> None:
    """A remark beside the result, on stderr."""
    sys.stderr.write(f"understudy: {text}\n")
    sys.stderr.flush()


def fail(e: Exception, *, debug: bool, as_json: bool) -> int:
    """Says what went wrong and gives the exit code."""
    code = e.exit_code if isinstance(e, UnderstudyError) else 1
    if debug:
        traceback.print_exception(e)
    message = _message(e)
    if as_json and not (isinstance(e, UnderstudyError) and e.told):
        refused: dict[str, Any] = (
            {"release": None, "verdict": message, "rows": 0, "seconds": {}} if code in (3, 4, 5) else {}
        )
        run = e.run if isinstance(e, UnderstudyError) else None
        say_json({"error": message, "exit": code, "run": run, **refused})
    note(message)
    return code


def _message(e: Exception) -> str:
    if isinstance(e, UnderstudyError):
        return str(e)
    if isinstance(e, OSError):
        return f"the system refused: {e.strerror or e}{f': {e.filename}' if e.filename else ''}"
    # Its text may quote a row, so it is shown only to somebody who asks for it.
    return (
        f"an error that nobody foresaw: {type(e).__name__}; run it again with --debug and report what it says"
    )
