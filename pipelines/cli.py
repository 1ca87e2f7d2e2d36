"""The command `understudy`: names, help and exit codes. What a command does is in `pipelines.commands`."""

import importlib.metadata
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence

import cyclopts

HELP = "Turn a private table into a synthetic one that can be shared, with evidence."
EPILOGUE = """\
Exit codes: 0 done, 1 failure, 2 wrong recipe or usage, 3 a gate refused,
4 the privacy budget refused, 5 somebody else is at it.
Every command takes --help, and --debug for a traceback."""

COMMANDS = {
    "init": "Look at a table and write schema.yaml and recipe.yaml to review.",
    "plan": "Say what a recipe would do and cost; no row is learned from.",
    "trial": "Compare synthesizers on one split; nothing is published.",
    "release": "Release: ingest, profile, fit, sample, validate, gate, publish.",
    "resume": "Go on with a run that was interrupted.",
    "evaluate": "Judge a synthetic table that any tool made, beside real rows.",
    "report": "Write or find the report of a run, and open it.",
    "compare": "Say what changed between two releases of one dataset.",
    "infer": "Regress on a release, with honest intervals.",
    "catalog": "List all releases below a root, as a page and as data.",
    "sample": "Draw more rows from a fitted model; costs no budget.",
    "denoise": "Take noise out of images by a fitted model; for inside.",
    "enhance": "Enlarge images by a fitted model; for inside.",
    "verify": "Check a release: checksums, data against its schema, signature.",
    "export": "Write a release as CSV, or its images as PNG or DICOM files.",
    "push": "Put a release into an object store (S3), whole or not at all.",
    "pull": "Fetch a release from an object store, and check it.",
    "keygen": "Make a pair of keys to sign releases with.",
    "sign": "Sign a release; any minisign checks it.",
    "watermark": "Look for a key's mark in images, and say how surely.",
    "budget": "Show, set or check the privacy budgets of datasets.",
    "audit": "Attack a recipe: its promise, or its rows by shadow models.",
    "metadata": "Write a schema as SDV metadata JSON, to stdout.",
    "expectations": "Write a suite for Great Expectations, JSON to stdout.",
    "doctor": "Check this installation: versions, licences, telemetry, disk.",
}

app = cyclopts.App(
    name="understudy",
    help=HELP,
    help_format="plaintext",
    help_formatter="plain",
    help_epilogue=EPILOGUE,
    version=lambda: importlib.metadata.version("understudy"),
    version_flags=["--version"],
    print_error=False,
    suppress_keyboard_interrupt=False,
    exit_on_error=False,
)
for _name, _help in COMMANDS.items():
    # As text, so that `understudy --help` imports none of them.
    app.command(f"pipelines.commands:{_name}", name=_name, help=_help)
app.register_install_completion_command(help="Install completion for this shell.")


QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
}
"""What keeps every dependency from reporting home."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits with its code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    signal.signal(signal.SIGTERM, _terminate)
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    sys.exit(run([a for a in given if a != "--debug"], debug=debug))


def run(arguments: Sequence[str], *, debug: bool = False) -> int:
    """Runs one command line.

    Returns:
        The exit code.
    """
    as_json = "--json" in arguments
    if not arguments or list(arguments) in (["--help"], ["-h"]):
        print(overview())
        return 0
    try:
        app(list(arguments), result_action="return_value")
    except cyclopts.CycloptsError as e:
        print(f"understudy: {_plain(e)}\nTry `understudy --help`.", file=sys.stderr)
        if as_json:
            print(json.dumps({"error": _plain(e), "exit": 2, "run": None}, ensure_ascii=False))
        return 2
    except KeyboardInterrupt as e:
        where = shlex.quote(e.__notes__[0]) if getattr(e, "__notes__", None) else "RUN"
        print(
            f"understudy: stopped; `understudy resume {where}` goes on from the last finished step",
            file=sys.stderr,
        )
        return 143 if isinstance(e, Terminated) else 130
    except Exception as e:  # noqa: BLE001 - the last frame: every failure becomes an exit code and a sentence
        from pipelines.console import fail

        return fail(e, debug=debug, as_json=as_json)
    return 0


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what is finished is kept, as with ctrl-C."""


def _terminate(*_: object) -> None:
    raise Terminated


def overview() -> str:
    """The help of the whole command. Not by cyclopts, which would import rich to print it."""
    widest = max(len(name) for name in COMMANDS)
    commands = "\n".join(f"  {name:<{widest}}  {text}" for name, text in COMMANDS.items())
    return (
        f"Usage: understudy COMMAND\n\n{HELP}\n\nCommands:\n{commands}\n\n"
        "Other options: --version, --install-completion\n\n" + EPILOGUE
    )


def _plain(e: cyclopts.CycloptsError) -> str:
    """One line of what cyclopts has to say."""
    return " ".join(str(e).split())


if __name__ == "__main__":
    main()
