"""Rows of a mixed table to attack: of clusters, with missing values, atoms, whole numbers and duplicates."""

import numpy as np

from privacy.attacks import Sides
from privacy.metric import Records


def people(rng: np.random.Generator, rows: int, *, kind: str = "mixed") -> Records:
    """Rows drawn from one distribution; `kind` leaves columns out: mixed, categories, numbers or few (duplicates)."""
    cluster = rng.integers(0, 6, rows)
    codes = np.stack(
        [(cluster + rng.integers(0, 2, rows)) % 6, rng.integers(0, 3, rows),
         np.where(rng.random(rows) < 0.1, -1, cluster % 2), rng.poisson(2, rows)], 1,
    ).astype(np.int32)  # fmt: skip
    numbers = np.stack(
        [cluster + rng.normal(size=rows), np.where(rng.random(rows) < 0.7, 0, rng.gamma(1, 100, rows)),
         np.round(rng.normal(40, 12, rows) + cluster), np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows))],
        1,
    )  # fmt: skip
    columns = {
        "mixed": (4, [0, 1, 2, 3]),
        "categories": (4, []),
        "numbers": (0, [0, 1, 2, 3]),
        "few": (3, [2]),
    }
    width, kept = columns[kind]
    return Records(codes=codes[:, :width], numbers=numbers[:, kept])


def joined(*parts: Records) -> Records:
    """Rows below rows."""
    return Records(
        codes=np.concatenate([p.codes for p in parts]), numbers=np.concatenate([p.numbers for p in parts])
    )


def noised(records: Records, rng: np.random.Generator, share: float) -> Records:
    """The rows with noise of this share of a standard deviation in each number."""
    spread = share * np.nanstd(records.numbers, 0)
    return Records(
        codes=records.codes, numbers=records.numbers + spread * rng.normal(size=records.numbers.shape)
    )


def fresh(seed: int, *, rows: int = 1200, held: int = 600, kind: str = "mixed") -> Sides:
    """Three sides that know nothing of each other."""
    rng = np.random.default_rng(seed)
    return Sides(
        train=people(rng, rows, kind=kind),
        holdout=people(rng, held, kind=kind),
        synthetic=people(rng, rows, kind=kind),
    )


def leaky(seed: int, share: float, *, noise: float = 0.0, rows: int = 1200, held: int = 600) -> Sides:
    """As `fresh`, but for a share of the synthetic rows that are training rows, copied or noised."""
    sides = fresh(seed, rows=rows, held=held)
    count = round(share * rows)
    some = sides.train.take(np.arange(count))
    some = noised(some, np.random.default_rng(seed + 1), noise) if noise else some
    rest = sides.synthetic.take(np.arange(count, rows))
    return Sides(train=sides.train, holdout=sides.holdout, synthetic=joined(some, rest))
