"""Evidence: real rows beside synthetic ones, through the door that is for evidence alone.

Only this module opens `privacy.inside.Inside`. What it returns is sealed.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from privacy.attacks import Attacks, attack
from privacy.curator import Batch, ExactCurator, Split
from privacy.inside import Exact, Inside
from synth.rows import RawRows
from synth.schema import Schema
from validation.exposure import sides_of
from validation.fidelity import Fidelity, measure, one_of_each


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known of a synthetic table.

    Attributes:
        fidelity: how close it is; under privacy, beside the noised counts that the model was fitted to.
        attacks: what attackers learn from it. None under privacy, where nothing but `fidelity` is known.
    """

    fidelity: Fidelity
    attacks: Attacks | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        return {
            "fidelity": self.fidelity.to_dict(),
            "attacks": None if self.attacks is None else self.attacks.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Evidence":
        """The inverse of `to_dict`."""
        return cls(
            fidelity=Fidelity.from_dict(data["fidelity"]),
            attacks=None if data["attacks"] is None else Attacks.from_dict(data["attacks"]),
        )


def gather(
    curator: ExactCurator, rows: RawRows, synthetic: pa.Table, schema: Schema, *, at_least: int, seed: int
) -> Exact[Evidence]:
    """Holds synthetic rows against the training and held-out rows of a curator, which are read once.

    Args:
        curator: who reads `rows` and says which are held out.
        rows: the raw rows. Where several are of one unit, `at_least` counts units, and attacks see one row of each,
            so that guesses are about as many people.
        synthetic: the synthetic rows.
        schema: what the columns are.
        at_least: units below which no bin and no category is shown; 0 shows all.
        seed: of what is drawn.
    """

    def evidence(split: Callable[[Split], Iterator[Batch]]) -> Evidence:
        train, holdout = (_Side.of(rows, list(split(side))) for side in ("train", "holdout"))
        return Evidence(
            fidelity=measure(
                train.table, holdout.table, synthetic, schema, at_least=at_least, seed=seed, units=train.units
            ),
            attacks=attack(
                sides_of(train.drawn(seed), holdout.drawn(seed), synthetic, schema),
                np.random.default_rng(seed),
            ),
        )

    return Inside(curator).look(evidence)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """Real rows, and which of them belong together: None where each is a unit."""

    table: pa.Table
    units: np.ndarray[Any, np.dtype[np.uint64]] | None

    @classmethod
    def of(cls, rows: RawRows, batches: list[Batch]) -> "_Side":
        units = np.concatenate([np.empty(0, np.uint64), *(b.unit for b in batches)])
        return cls(table=rows.table(batches), units=None if rows.unit_is_row else units)

    def drawn(self, seed: int) -> pa.Table:
        """One row of each unit."""
        if self.units is None or not len(self.units):
            return self.table
        return self.table.take(one_of_each(self.units, seed=seed))
