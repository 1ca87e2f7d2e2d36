"""Evidence: real rows beside synthetic ones, through the door that is for evidence alone.

Only this module opens `privacy.inside.Inside`. What it returns is sealed.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from privacy.attacks import Attacks, attack
from privacy.curator import Batch, ExactCurator, Split
from privacy.inside import Exact, Inside
from synth.rows import RawRows
from synth.schema import Schema
from validation.exposure import sides_of
from validation.fidelity import Fidelity, measure, one_of_each


def compare(
    curator: ExactCurator, rows: RawRows, synthetic: pa.Table, schema: Schema, *, at_least: int, seed: int
) -> Exact[Fidelity]:
    """Measures synthetic rows against the training and held-out rows of a curator.

    Args:
        curator: who reads `rows` and says which are held out.
        rows: the raw rows; where several are of one unit, `at_least` counts units.
        synthetic: the synthetic rows.
        schema: what the columns are.
        at_least: units below which no bin and no category is shown; 0 shows all.
        seed: of what is drawn.
    """

    def evidence(split: Callable[[Split], Iterator[Batch]]) -> Fidelity:
        train = list(split("train"))
        units = np.concatenate([np.empty(0, np.uint64), *(b.unit for b in train)])
        return measure(
            rows.table(train),
            rows.table(split("holdout")),
            synthetic,
            schema,
            at_least=at_least,
            seed=seed,
            units=None if rows.unit_is_row else units,
        )

    return Inside(curator).look(evidence)


def attacked(
    curator: ExactCurator, rows: RawRows, synthetic: pa.Table, schema: Schema, *, seed: int
) -> Exact[Attacks]:
    """Tries what somebody who has the synthetic rows can learn of the training rows; never fits anything.

    Args:
        curator: who reads `rows` and says which are held out.
        rows: the raw rows; of each unit one is drawn, so that guesses are about as many people.
        synthetic: the synthetic rows.
        schema: what the columns are.
        seed: of what is drawn.
    """

    def evidence(split: Callable[[Split], Iterator[Batch]]) -> Attacks:
        train, holdout = (_one_of_each(list(split(side)), rows, seed=seed) for side in ("train", "holdout"))
        return attack(sides_of(train, holdout, synthetic, schema), np.random.default_rng(seed))

    return Inside(curator).look(evidence)


def _one_of_each(batches: list[Batch], rows: RawRows, *, seed: int) -> pa.Table:
    table = rows.table(batches)
    if rows.unit_is_row or not batches:
        return table
    return table.take(one_of_each(np.concatenate([b.unit for b in batches]), seed=seed))
