"""Small real tables and the folders of recipes that release them."""

import csv
import datetime
import random
from pathlib import Path

from pipelines.init import initialize
from pipelines.recipe import Recipe, load
from pipelines.run import Run, Watch, open_run
from pipelines.workspace import Record

HOSTILE = ("<script>alert(1)</script>", "sm😀ile", 'say "hi"', "$x", "two\nlines", "a, b")
"""Names that break what does not escape them."""

QUICK = {"synthesizer": "gmm", "options": {"components": 8, "passes": 10}, "threads": 1}
"""A model that is fitted in a moment, and good enough for the default gate."""


def write_table(path: Path, *, rows: int = 1_000, seed: int = 1) -> Path:
    """Writes a CSV of every kind: numbers, categories, times, missing, identifier, text, constant, empty."""
    draw = random.Random(seed)
    script, smile, quoted, dollar, lines, comma = HOSTILE
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = None
        for number in range(rows):
            age = draw.randint(18, 90)
            begin = datetime.datetime(2020, 1, 1) + datetime.timedelta(minutes=draw.randint(0, 500_000))
            row = {
                "age": age,
                "income": "" if draw.random() < 0.1 else round(100 * age + draw.gauss(0, 500), 2),
                script: draw.choice("abc"),
                smile: "old" if age > 50 else "young",
                quoted: draw.choice(["yes", "no"]),
                dollar: draw.choice([0, 1]),
                lines: draw.choice(["p", "q", ""]),
                comma: draw.choice(["007", "008"]),
                "booked": begin.isoformat(" "),
                "code": f"ID{number:06d}",
                "story": " ".join(draw.choice(["rain", "storm", "cloud", "fog"]) for _ in range(30))
                + str(number),
                "same": "always",
                "nothing": "",
            }
            if writer is None:
                writer = csv.DictWriter(handle, list(row))
                writer.writeheader()
            writer.writerow(row)
    return path


def write_visits(path: Path, *, patients: int = 600, seed: int = 1) -> Path:
    """Writes a CSV where a patient has one to six rows."""
    draw = random.Random(seed)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["patient", "age", "ward", "cost"])
        for patient in range(patients):
            age, ward = draw.randint(18, 90), draw.choice(["north", "south"])
            for _ in range(draw.randint(1, 6)):
                writer.writerow([f"P{patient:05d}", age, ward, round(draw.gauss(10 * age, 30), 2)])
    return path


def prepare(folder: Path, table: Path, **fields: object) -> Recipe:
    """The recipe that releases a table of that folder, with its schema beside it."""
    initialize(table, folder, blind=False, force=True)
    # The name that `init` gives a dataset comes from its path; here folders shall not differ.
    return load(folder / "recipe.yaml").with_fields({**QUICK, "dataset": "people", **fields})


def opened(folder: Path, *, watch: Watch | None = None, **fields: object) -> Run:
    """A run in a new folder, of the table of every kind."""
    folder.mkdir(parents=True, exist_ok=True)
    return open_run(prepare(folder, write_table(folder / "people.csv"), **fields), folder, watch=watch)


class Ran:
    """A watch that remembers which steps ran and which were kept."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kept: list[str] = []

    def started(self, step: str) -> None:
        pass

    def wrote(self, step: str, path: Path) -> None:
        pass

    def ended(self, step: str, record: Record, *, cached: bool) -> None:
        (self.kept if cached else self.ran).append(step)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
