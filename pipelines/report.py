"""report: where the page of a run or of a release lies, and how it gets onto the screen."""

import webbrowser
from pathlib import Path

from pipelines.console import note
from pipelines.judging import write_report
from pipelines.publish import SUMS
from pipelines.run import REPORT, reopen_run
from privacy.errors import ReleaseError


def page_of(folder: Path) -> Path:
    """The page of a release, as it was published; or that of a run, which is for the inside, written anew.

    Raises:
        ReleaseError: it is neither, or the run was not judged, or the release has no report.
    """
    if not (folder / SUMS).is_file():
        return write_report(reopen_run(folder))
    page = folder.resolve() / REPORT
    if not page.is_file():
        raise ReleaseError(f"a release must be whole, however: {REPORT} is missing; fetch the release again")
    return page


def show(page: Path) -> None:
    """Opens a page in the browser of this machine; says so where there is none."""
    if not webbrowser.open(page.as_uri()):
        note("no browser was found; open the file yourself")
