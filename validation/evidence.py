"""Evidence: real rows beside synthetic ones, through the door that is for evidence alone.

Only this module opens `privacy.inside.Inside`. What it returns is sealed.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from privacy.curator import Batch, ExactCurator, Split
from privacy.inside import Exact, Inside
from synth.rows import RawRows
from synth.schema import Schema
from validation.fidelity import Fidelity, measure


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
