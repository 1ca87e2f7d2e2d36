"""Gate: real held-out rows must pass it, damaged tables must not.

usage: python benchmarks/gate.py DATA [--rows 8000] [--draws 100] [--damages 3] [--tables adult,…]

For each real table, prints one JSON object a line. `honest`: how many of so many draws pass in which the synthetic
rows are real rows that are neither training nor held-out rows, and what refused the others. `damaged`: the same rows
with one kind of damage, how many draws were refused, by which rules, and what got through. All evidence but models that
predict is computed; attacks only on honest rows and on copies, since they say nothing of other damage.
"""

import argparse
import itertools
import json
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from privacy.attacks import attack
from synth.infer import infer_table
from synth.schema import Schema
from validation.cells import cells_of
from validation.exposure import sides_of
from validation.features import Features
from validation.fidelity import Fidelity, measure
from validation.gates import GateRules, Verdict, verdict
from validation.structure import structure

TABLES = {
    "adult": ("adult/adult_train.parquet", "adult/adult_test.parquet"),
    "credit_default": ("credit_default/credit_default.parquet",),
    "bank_marketing": ("bank_marketing/bank_marketing.parquet",),
    "california_housing": ("california_housing/california_housing.parquet",),
    "nist_acs": ("nist_acs_ma2019/nist_acs_ma2019.parquet",),
}
IDENTIFIERS = ("ID",)
UNITS = 10


def judged(
    sides: tuple[pa.Table, ...], schema: Schema, *, seed: int, attacked: bool
) -> tuple[Verdict, Fidelity]:
    """The default gate's verdict, and what it goes by."""
    fidelity = measure(*sides, schema, at_least=UNITS, seed=seed)
    attacks = attack(sides_of(*sides, schema), np.random.default_rng(seed)) if attacked else None
    cells = [cells_of(column, sides) for column in schema]
    beyond = structure(cells, Features.of(cells), seed=seed)
    return verdict(fidelity, (), GateRules(), attacks, structure=beyond), fidelity


def undamaged(fidelity: Fidelity, what: str) -> bool:
    """Whether a pair keeps most of its association by way of the third column."""
    names = set(what.split(" given ")[0].split(", "))
    pair = next(p for p in fidelity.pairs if {p.first, p.second} == names)
    return pair.association_synthetic > 0.4 * pair.association_real


def drawn(frame: pd.DataFrame, rows: int, seed: int) -> tuple[pd.DataFrame, ...]:
    """Training rows, a quarter as many held-out rows, and as many others."""
    order = np.random.default_rng(seed).permutation(len(frame))
    cuts = (rows, rows + rows // 4, 2 * rows + rows // 4)
    parts = np.split(order[: cuts[-1]], cuts[:-1])
    return tuple(frame.iloc[p].reset_index(drop=True) for p in parts)


def damages(
    train: pd.DataFrame, made: pd.DataFrame, schema: Schema, rng: np.random.Generator
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Kind of damage, what was damaged, and the table."""
    words = [c.name for c in schema if c.kind in ("categorical", "boolean")]
    for name in made:
        yield "a column shuffled", name, made.assign(**{name: rng.permutation(made[name].to_numpy(object))})
        gone = made[name].isna()
        if train[name].isna().sum() >= UNITS:
            present = made[name][~gone].to_numpy(object)
            full = made[name].to_numpy(object, copy=True)
            full[gone] = rng.choice(present, int(gone.sum()))
            yield "missing values gone", name, made.assign(**{name: full})
    for name in words:
        counts = train[name].value_counts()
        shared = counts[counts >= UNITS]
        if len(shared) > 1:
            yield "a category lost", f"{name}, {shared.iloc[-1]} units", made[made[name] != shared.index[-1]]
    yield from paired(made, words, rng)
    twins = made.copy()
    place = rng.choice(len(made), len(made) // 100, replace=False)
    twins.iloc[place] = train.iloc[rng.choice(len(train), len(place), replace=False)].to_numpy(object)
    yield "1 % of rows copied", "", twins
    yield "the real table copied", "", train
    for few in (20, 100):
        yield "a model collapsed", f"to {few} rows", made.iloc[rng.integers(0, few, len(made))]
    yield from unpatterned(made, rng)
    most = made.mode().iloc[0]
    yield (
        "a model collapsed",
        "half to one row",
        made.where(pd.Series(rng.random(len(made)) < 0.5), most, axis=1),
    )


def unpatterned(made: pd.DataFrame, rng: np.random.Generator) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Columns that are missing together, no longer so, though each is missing as often as before."""
    gone = made.isna()
    often = [n for n in made if 0.1 < gone[n].mean() < 0.9]
    for first, second in itertools.pairwise(often):
        if (gone[first] == gone[second]).mean() > 0.9:
            moved = made[second].to_numpy(object)[rng.permutation(len(made))]
            yield "missing values apart", f"{first}, {second}", made.assign(**{second: moved})


def paired(
    made: pd.DataFrame, words: list[str], rng: np.random.Generator
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Pairs that hang together: one column shuffled within the values of a third, or two categories never together."""
    ranks = made.apply(
        lambda s: s.astype("category").cat.codes if s.name in words else s.astype(float)
    ).rank()
    strength = ranks.corr().abs().to_numpy(copy=True)
    np.fill_diagonal(strength, 0)
    names = list(made.columns)
    for at in np.argsort(-np.nan_to_num(strength), axis=None)[:6:2]:
        first, second = (names[i] for i in np.unravel_index(at, strength.shape))
        rest = [w for w in words if w not in (first, second)]
        if rest:
            third = rest[int(rng.integers(len(rest)))]
            moved = made.groupby(third, dropna=False)[first].transform(
                lambda s: rng.permutation(s.to_numpy(object))
            )
            yield "a pair decorrelated", f"{first}, {second} given {third}", made.assign(**{first: moved})
    for first, second in itertools.pairwise(words):
        shares = made.groupby([first, second]).size() / len(made)
        shares = shares[(shares > 0.02) & (shares < 0.3)]
        if len(shares):
            a, b = shares.index[int(rng.integers(len(shares)))]
            kept = made[~((made[first] == a) & (made[second] == b))]
            yield "a group dropped", f"{first}, {second}", kept


def report(name: str, frame: pd.DataFrame, given: argparse.Namespace) -> Iterator[dict[str, object]]:
    """All lines of one table."""
    schema = infer_table(pa.Table.from_pandas(frame, preserve_index=False)).public(unit=None)
    frame = frame[[c.name for c in schema if c.learned]]
    schema = Schema(columns=tuple(c for c in schema if c.learned))
    rows = min(given.rows, int(len(frame) / 2.25))

    def table(part: pd.DataFrame) -> pa.Table:
        return pa.Table.from_pandas(part, schema=schema.arrow, preserve_index=False)

    passed, why = 0, Counter[str]()
    for seed in range(given.draws):
        found, _ = judged(tuple(table(p) for p in drawn(frame, rows, seed)), schema, seed=seed, attacked=True)
        passed += found.passed
        why.update({f.rule for f in found.critical})
    yield {
        "what": "honest",
        "table": name,
        "rows": rows,
        "draws": given.draws,
        "passed": passed,
        "refused_by": dict(why),
    }
    tried, refused, through = Counter[str](), Counter[str](), dict[str, list[str]]()
    rules: dict[str, Counter[str]] = {}
    for seed in range(given.damages):
        train, holdout, made = drawn(frame, rows, seed)
        rng = np.random.default_rng(seed)
        for kind, what, damaged in damages(train, made, schema, rng):
            sides = (table(train), table(holdout), table(damaged.reset_index(drop=True)))
            found, seen = judged(sides, schema, seed=seed, attacked="cop" in kind)
            if kind == "a pair decorrelated" and undamaged(seen, what):
                continue
            tried[kind] += 1
            refused[kind] += not found.passed
            rules.setdefault(kind, Counter()).update({f.rule for f in found.critical})
            if found.passed:
                through.setdefault(kind, []).append(what)
    for kind, times in tried.items():
        yield {
            "what": "damaged", "table": name, "rows": rows, "damage": kind, "tried": times, "refused": refused[kind],
            "refused_by": dict(rules[kind]), "through": through.get(kind, []),
        }  # fmt: skip


def main() -> None:
    """Reads tables and prints lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=int, default=8_000)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--damages", type=int, default=3)
    parser.add_argument("--tables", default=",".join(TABLES))
    given = parser.parse_args()
    for name in given.tables.split(","):
        frame = pd.concat(
            [pd.read_parquet(given.data / "tabular" / f) for f in TABLES[name]], ignore_index=True
        )
        for line in report(name, frame.drop(columns=[c for c in IDENTIFIERS if c in frame]), given):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
