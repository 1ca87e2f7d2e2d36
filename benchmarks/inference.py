"""Inference: how often do 95 % intervals from synthetic rows cover what is true?

usage: python benchmarks/inference.py [--times 200] [--rows 2000] [--only NAME]

Prints one JSON object a line. Rows are made up again and again, a model learns from them, tables are drawn, and a
regression on each is combined (`validation.inference.combine`) beside two other rules: a table taken for real rows, and
the rule for draws from a posterior (Raghunathan, Reiter and Rubin 2003). Truth is that of the maker, computed from
500,000 of its rows.
"""

import argparse
import json
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa

import synth
from validation.inference import combine
from validation.regression import fit

DRAWS = 3
MODELS = {
    "gmm": {"components": 12, "passes": 20},
    "circuit": {"states": 16, "passes": 10},
    "marginals": {},
}


def made(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Categories in two hidden classes, a number that depends on them, and a class that depends on both."""
    hidden = rng.random(rows) < 0.4
    a = np.where(rng.random(rows) < np.where(hidden, 0.7, 0.2), "u", "v")
    b = np.array(["p", "q", "r"])[
        (rng.random(rows)[:, None] > np.where(hidden[:, None], [0.5, 0.8], [0.2, 0.5])).sum(1)
    ]
    x = rng.normal(np.where(hidden, 1.0, 0.0), 1.0)
    y = 0.5 * x + 0.4 * (a == "u") + rng.normal(size=rows)
    c = np.where(0.6 * x + 0.7 * (b == "r") - 0.5 + rng.logistic(size=rows) > 0, "yes", "no")
    return pd.DataFrame({"a": a, "b": b, "x": x.round(3), "y": y.round(3), "c": c})


def regressions(frame: pd.DataFrame) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, coefficients and variances of three regressions: of categories alone, of numbers, and of both."""
    ones = np.ones(len(frame))
    a, q, r = (np.asarray(m, float) for m in (frame["a"] == "u", frame["b"] == "q", frame["b"] == "r"))
    x, y, c = (np.asarray(v, float) for v in (frame["x"], frame["y"], frame["c"] == "yes"))
    for name, kind, columns, target in (
        ("a on b, categories", "logistic", (q, r), a),
        ("y on x and a", "linear", (x, a), y),
        ("c on x and b", "logistic", (x, q, r), c),
    ):
        found = fit(kind, np.column_stack([ones, *columns]), target)
        assert found is not None
        yield name, found.values[1:], found.errors[1:] ** 2


def drawn(model: str, rows: int, seed: int) -> list[pd.DataFrame]:
    """Tables from a model of made-up rows."""
    frame = made(rows, np.random.default_rng([7, seed]))
    fitted = synth.fit(frame, model, seed=seed, options=MODELS[model], threads=1)
    parts = (
        pa.concat_tables(fitted.shard(0, rows, seed=1, first_row=0, draw=d)) for d in range(1, DRAWS + 1)
    )
    return [p.to_pandas() for p in parts]


def coverage(model: str, rows: int, times: int) -> Iterator[dict[str, object]]:
    """One line for each regression: the mean over its coefficients."""
    truth = {n: q for n, q, _ in regressions(made(500_000, np.random.default_rng(0)))}
    hits: dict[str, dict[str, list[np.ndarray]]] = {
        n: {r: [] for r in ("ours", "one", "as real", "posterior", "real")} for n in truth
    }
    for seed in range(times):
        tables = [list(regressions(t)) for t in drawn(model, rows, seed)]
        real = {n: (q, v) for n, q, v in regressions(made(rows, np.random.default_rng([7, seed])))}
        for i, name in enumerate(truth):
            q, v = (np.array([t[i][k] for t in tables]) for k in (1, 2))
            ours = combine(q, v, rows=rows, learned=rows)
            one = combine(q[:1], v[:1], rows=rows, learned=rows)
            posterior = np.sqrt(np.maximum((1 + 1 / DRAWS) * q.var(axis=0, ddof=1) - v.mean(axis=0), 0))
            for rule, centre, error in (
                ("ours", ours.values, ours.errors), ("one", one.values, one.errors),
                ("as real", q[0], np.sqrt(v[0])), ("posterior", q.mean(axis=0), posterior),
                ("real", real[name][0], np.sqrt(real[name][1])),
            ):  # fmt: skip
                hits[name][rule].append(np.abs(centre - truth[name]) <= 1.96 * error)
    for name, by_rule in hits.items():
        shares = {rule: round(float(np.mean(h)), 3) for rule, h in by_rule.items()}
        least = {
            f"{rule}, worst": round(float(np.mean(by_rule[rule], axis=0).min()), 3) for rule in ("ours",)
        }
        yield {"model": model, "rows": rows, "times": times, "regression": name, **shares, **least}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--only", choices=list(MODELS))
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    for model in [given.only] if given.only else MODELS:
        for line in coverage(model, given.rows, given.times):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
