"""Evidence: real rows beside synthetic ones, through the door that is for evidence alone.

Only this module opens `privacy.inside.Inside`. What it returns is sealed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from privacy.attacks import Attacks, attack
from privacy.curator import Batch, ExactCurator, Split
from privacy.inside import Exact, Inside
from synth.rows import RawRows
from synth.schema import Schema
from validation.detection import Detection, detect
from validation.exposure import sides_of
from validation.fairness import Fairness, fairness
from validation.features import Features
from validation.fidelity import Fidelity, cells_of, measure, one_of_each
from validation.noised import Noised
from validation.structure import Structure, structure
from validation.utility import Utility, utility


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known of a synthetic table.

    Attributes:
        fidelity: how close it is; under privacy, beside the noised counts that the model was fitted to.
        attacks: what attackers learn from it.
        detection: how well it is told from real rows; None with too few of them.
        utility: what it is good for.
        fairness: for whom; None where no column is protected.
        structure: joint counts, coverage, missing patterns, rarity, the calendar.
        noised: under privacy, how close it is to rows that were counted anew with noise.

    Under privacy all but `fidelity` and `noised` are None: nothing else is known.
    """

    fidelity: Fidelity
    attacks: Attacks | None = None
    detection: Detection | None = None
    utility: Utility | None = None
    structure: Structure | None = None
    fairness: Fairness | None = None
    noised: Noised | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        parts = {name: getattr(self, name) for name in _PARTS}
        return {name: None if part is None else part.to_dict() for name, part in parts.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Evidence":
        """The inverse of `to_dict`."""
        parts: dict[str, Any] = {
            n: None if data[n] is None else part.from_dict(data[n]) for n, part in _PARTS.items()
        }
        return cls(**parts)


_PARTS: Mapping[str, Any] = {
    "fidelity": Fidelity,
    "attacks": Attacks,
    "detection": Detection,
    "utility": Utility,
    "structure": Structure,
    "fairness": Fairness,
    "noised": Noised,
}


def gather(
    curator: ExactCurator, rows: RawRows, synthetic: pa.Table, schema: Schema, *,
    targets: Sequence[str] = (), protected: Sequence[str] = (), at_least: int, seed: int,
) -> Exact[Evidence]:  # fmt: skip
    """Holds synthetic rows against the training and held-out rows of a curator, which are read once.

    Args:
        curator: who reads `rows` and says which are held out.
        rows: the raw rows. Where several are of one unit, `at_least` counts units, and attacks see one row of each,
            so that guesses are about as many people.
        synthetic: the synthetic rows.
        schema: what the columns are.
        targets: columns that models predict; none: those that the schema suggests.
        protected: columns whose groups are compared.
        at_least: units below which no bin, category or group is shown; 0 shows all.
        seed: of what is drawn.
    """

    def evidence(split: Callable[[Split], Iterator[Batch]]) -> Evidence:
        train, holdout = (_Side.of(rows, list(split(side))) for side in ("train", "holdout"))
        tables = (train.table, holdout.table, synthetic)
        drawn = one_of_each(train.units, seed=seed) if train.units is not None else None
        cells = [cells_of(column, tables, drawn) for column in schema if column.learned]
        features = Features.of(cells)
        used, guesses = utility(cells, features, targets, seed=seed)
        return Evidence(
            fidelity=measure(
                train.table, holdout.table, synthetic, schema, at_least=at_least, seed=seed, units=train.units
            ),
            attacks=attack(
                sides_of(train.drawn(seed), holdout.drawn(seed), synthetic, schema),
                np.random.default_rng(seed),
            ),
            detection=detect(features, synthetic, seed=seed),
            utility=used,
            structure=structure(cells, features, seed=seed),
            fairness=fairness(cells, protected, guesses, at_least=at_least, seed=seed) if protected else None,
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
