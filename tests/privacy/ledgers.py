"""Places for ledgers, real ones: a SQLite file, and a schema of a PostgreSQL server that the tests start."""

import itertools
import multiprocessing
import os
import random
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url

from privacy.accounting import Loss
from privacy.book import Budget
from privacy.chain import BESIDE, NAME
from privacy.ledger import Ledger

ONE = Budget(epsilon=1.0, delta=1e-6)
SLICE = Loss.zcdp(0.005)
"""Four of these fit into ONE, and no fifth."""

FORK = multiprocessing.get_context("fork")
_numbers = itertools.count()


@dataclass(frozen=True)
class Place:
    """Where a ledger lies, with a way behind its back."""

    where: str
    key: Path

    def open(self, **options: Any) -> Ledger:
        return Ledger(self.where, key=self.key, **options)

    @property
    def postgres(self) -> bool:
        return self.where.startswith("postgresql")

    def execute(self, *statements: str) -> None:
        """Runs SQL as somebody with a client of his own would."""
        if not self.postgres:
            with sqlite3.connect(self.where) as connection:
                for statement in statements:
                    connection.execute(statement)
            connection.close()
            return
        engine = create_engine(self.where)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    def tamper(self, *statements: str) -> None:
        """Runs SQL after the triggers were taken away."""
        if self.postgres:
            disable = [f"ALTER TABLE IF EXISTS {table} DISABLE TRIGGER ALL" for table in (NAME, BESIDE)]
            self.execute(*disable, *statements)
        else:
            of = [f"{table}_{what}" for table in (NAME, BESIDE) for what in ("update", "delete", "insert")]
            self.execute(*(f"DROP TRIGGER IF EXISTS {name}" for name in of), *statements)


def sqlite_place(folder: Path) -> Place:
    return Place(str(folder / "ledger.sqlite"), folder / "ledger.key")


def postgres_place(uri: str, folder: Path) -> Place:
    """A schema of its own."""
    url = make_url(uri).set(drivername="postgresql+psycopg")
    schema = f"ledger_{os.getpid()}_{next(_numbers)}"
    url = url.update_query_dict({"options": f"-csearch_path={schema}"})
    place = Place(url.render_as_string(hide_password=False), folder / "ledger.key")
    place.execute(f"CREATE SCHEMA {schema}")
    return place


def elsewhere(work: Callable[[], object]) -> None:
    """Runs something in a process of its own, to its end."""
    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0


def kill_at_random(spend: Callable[[Place, Path], None], place: Place, folder: Path) -> None:
    """Twelve of several processes that spend at once are killed, at random moments."""
    chance, kills, started, running = random.Random(5), 0, 0, list[Any]()
    while kills < 12 or running:
        while len(running) < 4 and kills < 12:
            running.append(FORK.Process(target=spend, args=(place, folder / f"log{started}")))
            running[-1].start()
            started += 1
        time.sleep(chance.uniform(0.01, 0.08))
        if kills < 12:
            chance.choice(running).kill()  # one that has just ended is let be
            kills += 1
        running = [p for p in running if p.is_alive()]
