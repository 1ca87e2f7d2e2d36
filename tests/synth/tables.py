"""Tables whose answers are known, and the way from a table to its profile and its codec."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from privacy.curator import Batch, ExactCurator
from synth.codec import Codec, Encoded
from synth.infer import infer_table
from synth.learn import learn
from synth.profile import ColumnProfile, Profile
from synth.rows import RawRows, table_source
from synth.schema import Schema
from synth.table import labels_of

KEY = b"sixteen bytes or"


def kind_of(type: pa.DataType) -> str:
    """The kind that a column of this type has when its values are learned."""
    if pa.types.is_dictionary(type):
        return kind_of(type.value_type)
    if pa.types.is_boolean(type):
        return "boolean"
    if pa.types.is_timestamp(type) or pa.types.is_date(type):
        return "datetime"
    if pa.types.is_duration(type) or pa.types.is_time(type):
        return "duration"
    if pa.types.is_string(type) or pa.types.is_large_string(type):
        return "categorical"
    return "empty" if pa.types.is_null(type) else "numerical"


def schema_for(table: pa.Table, *, unit: str | None = None, **facts: Mapping[str, object]) -> Schema:
    """A schema of a table by its types; `facts` say more of a column."""
    columns = [
        {
            "name": f.name,
            "kind": "identifier" if f.name == unit else kind_of(f.type),
            "type": str(f.type),
            **facts.get(f.name, {}),
        }
        for f in table.schema
    ]
    return Schema.model_validate({"columns": columns, "unit": unit})


@dataclass(frozen=True)
class Learned:
    """A table, its curator without a holdout, and what was learned of it."""

    rows: RawRows
    curator: ExactCurator
    schema: Schema
    profile: Profile

    def __getitem__(self, name: str) -> ColumnProfile:
        return next(c for c in self.profile.columns if c.name == name)

    @property
    def codec(self) -> Codec:
        return Codec(self.schema, self.profile)


def learned(
    table: pa.Table, schema: Schema | None = None, *, at_least: int = 10, batch_rows: int = 1000
) -> Learned:
    """What is learned of a table."""
    known = schema or infer_table(table)
    rows = RawRows(known, table_source(table, batch_rows=batch_rows))
    curator = ExactCurator(rows, key=KEY, holdout=0.0)
    return Learned(rows, curator, known, learn(known, curator, labels_of(rows), at_least=at_least))


def coded(known: Learned) -> Encoded:
    """The rows as a curator recodes them."""
    parts: list[Batch | Mapping[str, np.ndarray]] = [
        known.codec.code(batch, known.rows.dictionaries) for batch in known.rows.batches()
    ]
    return Encoded(
        states=np.concatenate([p["states"] for p in parts]),  # type: ignore[index]
        scores=np.concatenate([p["scores"] for p in parts]),  # type: ignore[index]
    )


def mixed(rows: int, *, seed: int = 0) -> pa.Table:
    """A table with a column of every kind, dependent on each other, and with missing values."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, rows)
    city = np.array(["Ulm", "Köln", "0301", "$name", "Oslo"])[
        np.clip((age - 18) // 15 + rng.integers(-1, 2, rows), 0, 4)
    ]
    seconds = (age * 900_000 + rng.integers(0, 800_000, rows) - 40_000_000).astype(np.int64)
    income = np.round(age * 700 + rng.normal(0, 6_000, rows), 2)
    return pa.table(
        {
            "age": pa.array(age, pa.int16()),
            "income": pa.array(np.where(rng.random(rows) < 0.1, 0.0, income), mask=rng.random(rows) < 0.2),
            "city": pa.array(city, mask=rng.random(rows) < 0.05),
            "member": pa.array(age + rng.normal(0, 10, rows) > 50),
            "seen": pa.array(seconds * 10**9 + 123_456_789, pa.int64()).view(pa.timestamp("ns", "Europe/Berlin")),
            "born": pa.array((-age * 365 + rng.integers(0, 365, rows)).astype(np.int32)).view(pa.date32()),
            "wait": pa.array(age * 3 + rng.integers(0, 60, rows), pa.int64()).view(pa.duration("s")),
            "price": pa.array(rng.integers(1, 99_999, rows)).cast(pa.decimal128(19, 0)).cast(pa.decimal128(19, 2)),
            "big": pa.array(2**60 + rng.integers(0, 10**6, rows), mask=rng.random(rows) < 0.1),
            "grade": pa.array(rng.choice(list("abc"), rows)).dictionary_encode(),
            "id": pa.array([f"P{seed:02}{i:06}" for i in range(rows)]),
            "note": pa.array([f"note {i} of {seed}" for i in range(rows)], mask=rng.random(rows) < 0.3),
            "void": pa.nulls(rows, pa.string()),
            "one": pa.array(["x"] * rows),
        }
    )  # fmt: skip


def mixed_schema(table: pa.Table) -> Schema:
    """The schema of `mixed`."""
    return schema_for(
        table,
        income={"digits": 2},
        id={"kind": "identifier", "pattern": "P[0-9]{8}"},
        note={"kind": "text", "action": "replace"},
        void={"kind": "empty"},
        one={"kind": "constant"},
    )
