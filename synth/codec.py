"""Codec: table ⇄ arrays, reversible, a pure function of (schema, profile).

A row becomes one state per column and, for columns that are spread over cells, one score. The states of a
column are, in this order: 0 missing; 1 … a its atoms; a + 1 the pool of rare values, where there is one; then
"spread", whose value is given by the score. A score is the standard normal quantile of the value's place in
the column's distribution, so it is close to N(0, 1) for every column whatever its units and tails. State −1
means "nothing is known of this cell"; models integrate it out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as attribute
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from privacy.curator import MISSING, Batch, Keys
from privacy.errors import ConditionError
from synth import images, people
from synth.absence import UNKNOWN as UNKNOWN
from synth.absence import folded, rates_where_present, unfolded
from synth.identifier import Pattern, permuted
from synth.keys import (
    NOT_A_VALUE,
    Dictionary,
    float_keys,
    from_keys,
    is_real,
    is_text,
    key_floats,
    one,
    to_keys,
)
from synth.profile import ColumnProfile, Profile, declared_bounds
from synth.rows import PIXELS
from synth.schema import OTHER, REPLACED, Column, Schema, nearest, typed

_EDGE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Rows as a model sees them.

    Attributes:
        states: int32 (n, C): a column for each field of the layout; −1 for unknown.
        scores: float32 (n, D): for the D columns that have a spread; 0 where the state says otherwise.
        pixels: uint8 (n, P): of the layout's images, one after the other; None where it has none. A synthesizer that
            had the rows recoded has codes there: float32 (n, d).
    """

    states: NDArray[np.int32]
    scores: NDArray[np.float32]
    pixels: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.states)

    def take(self, index: NDArray[np.int64] | slice) -> "Encoded":
        """Some of the rows."""
        pixels = None if self.pixels is None else self.pixels[index]
        return Encoded(states=self.states[index], scores=self.scores[index], pixels=pixels)

    def serving(self, rows: int) -> NDArray[np.int64]:
        """Which of these rows stands for each of `rows`: the only one for all, or each for itself."""
        return np.zeros(rows, np.int64) if len(self) == 1 else np.arange(rows)

    @classmethod
    def joined(cls, parts: Sequence["Encoded"]) -> "Encoded":
        """The rows of all parts, of which there is one at least."""
        pixels = [p.pixels for p in parts if p.pixels is not None]
        return cls(
            states=np.concatenate([p.states for p in parts]),
            scores=np.concatenate([p.scores for p in parts]),
            pixels=np.concatenate(pixels) if pixels else None,
        )


@dataclass(frozen=True, kw_only=True)
class Field:
    """What a model needs to know of a column, or of a group of columns that are missing together.

    Attributes:
        name: the column, or what is missing.
        rates: rate of each state, from the profile; they make 1.
        score: index of its score, or None.
        borders: scores between the profile's cells, rising; between two of them the values of a cell lie, and the
            column has the cell's rate there. Empty for a column without scores.
        whole: whether it takes only its cells' values; a model that cuts scores into bins must then cut at borders,
            or it would tear values apart.
        group: index of the field that says whether this column is there at all; None where none does. The rates
            of such a column are those of the rows in which it is.
    """

    name: str
    rates: tuple[float, ...]
    score: int | None
    borders: tuple[float, ...] = ()
    whole: bool = False
    group: int | None = None

    @property
    def states(self) -> int:
        """Number of states."""
        return len(self.rates)

    @property
    def spread(self) -> int | None:
        """The state whose value is given by a score: the last, or None."""
        return None if self.score is None else len(self.rates) - 1


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Where the pixels of a column of images are.

    Attributes:
        field: index of its field, whose states are missing and there.
        first: of its numbers among the pixels of a row.
        shape: height, width, channels.
    """

    field: int
    first: int
    shape: tuple[int, int, int]

    @property
    def part(self) -> slice:
        """Its numbers among the pixels of a row."""
        return slice(self.first, self.first + math.prod(self.shape))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The encoded table.

    Attributes:
        fields: its columns, then its groups of columns that are missing together (`synth.absence`).
        rows: number of rows that the profile was learned from.
        images: the columns of images among them; synthesizers that know none are not asked to fit such a table.
        codec: what encoded it, for a synthesizer that must know the table's own values; None where nothing did.
    """

    fields: tuple[Field, ...]
    rows: float
    images: tuple[Pixels, ...] = ()
    codec: "Codec | None" = attribute(default=None, repr=False, compare=False)

    @property
    def states(self) -> int:
        """States of all columns together."""
        return sum(f.states for f in self.fields)

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where the states of each column begin in a vector of all states: int64 (C,)."""
        return np.concatenate([[0], np.cumsum([f.states for f in self.fields])])[:-1].astype(np.int64)

    @cached_property
    def scored(self) -> tuple[int, ...]:
        """Indices of the columns that have a score, in the order of the scores."""
        return tuple(i for i, f in enumerate(self.fields) if f.score is not None)

    def unknown(self, rows: int) -> Encoded:
        """Rows of which nothing is known."""
        return Encoded(
            states=np.full((rows, len(self.fields)), UNKNOWN, np.int32),
            scores=np.zeros((rows, len(self.scored)), np.float32),
            pixels=np.zeros((rows, self.pixels), np.uint8) if self.images else None,
        )

    @property
    def pixels(self) -> int:
        """Numbers of all images of a row."""
        return self.images[-1].part.stop if self.images else 0


class Codec:
    """Encodes and decodes the columns of one schema by one profile."""

    def __init__(self, schema: Schema, profile: Profile) -> None:
        self.schema = schema
        self.profile = profile
        fields: list[Field] = []
        self._columns: list[_ColumnCodec] = []
        scores = 0
        absent = {i: g for g, absence in enumerate(profile.absences) for i in absence.columns}
        for i, (column, learned) in enumerate(zip(schema, profile.columns, strict=True)):
            codec = _ColumnCodec(column, learned)
            rates = codec.rates
            if i in absent:
                rates = rates_where_present(rates, profile.absences[absent[i]])
            fields.append(
                Field(
                    name=column.name,
                    rates=rates,
                    score=scores if codec.spread else None,
                    borders=codec.borders,
                    whole=codec.whole,
                    group=len(schema.names) + absent[i] if i in absent else None,
                )
            )
            scores += codec.spread
            self._columns.append(codec)
        for absence in profile.absences:
            names = ", ".join(schema.names[i] for i in absence.columns)
            fields.append(Field(name=f"missing: {names}", rates=(absence.rate, 1 - absence.rate), score=None))
        pictures: list[Pixels] = []
        for i, column in enumerate(schema):
            if column.image is not None:
                first = pictures[-1].part.stop if pictures else 0
                pictures.append(Pixels(field=i, first=first, shape=column.image.shape))
        self.layout = Layout(fields=tuple(fields), rows=profile.rows, images=tuple(pictures), codec=self)

    def code(self, batch: Batch, dictionaries: Mapping[str, Dictionary]) -> dict[str, NDArray[np.generic]]:
        """Raw keys → the arrays `states` and `scores`, and `pixels` of images; the function by which a curator recodes.

        Args:
            batch: raw columns of the schema, with the pixels of images.
            dictionaries: strings of the codes of the columns of strings.
        """
        keys = {}
        for column, codec in zip(self.schema, self._columns, strict=True):
            raw = np.asarray(batch.columns[column.name], np.int64)
            keys[column.name] = codec.of_codes(raw, dictionaries[column.name]) if codec.text else raw
        encoded = self._encode(keys, len(batch))
        arrays: dict[str, NDArray[np.generic]] = {"states": encoded.states, "scores": encoded.scores}
        if self.layout.images:
            pixels = [batch.columns[PIXELS + c.name] for c in self.schema.images]
            arrays["pixels"] = np.concatenate(pixels, axis=1)
        return arrays

    def encode(self, table: pa.Table | pa.RecordBatch, *, rows: int | None = None) -> Encoded:
        """Rows of a table. Columns that the table lacks are unknown.

        Args:
            table: the rows.
            rows: how many they are, for a table without columns, which does not know.

        Raises:
            InputError: a column has another type than the schema says.
        """
        rows = len(table) if rows is None else rows
        return self._with_pixels(self._encode(self._keys(table), rows), table)

    def encode_with_strange(self, table: pa.Table, *, rows: int) -> tuple[Encoded, NDArray[np.int64]]:
        """Rows of a table, and how many cells of each have a value that no row of the model can have: int64 (n,).

        Such a value is of no state: a category that was never learned, a number beyond what was learned.

        Args:
            table: the rows; columns that it lacks are strange in none.
            rows: how many they are.

        Raises:
            InputError: a column has another type than the schema says.
        """
        keys = self._keys(table)
        total = np.zeros(rows, np.int64)
        for column, codec in zip(self.schema, self._columns, strict=True):
            own = keys[column.name]
            if own is not None and column.learned:
                total += ~codec.gives(own) & (own != MISSING)
        return self._with_pixels(self._encode(keys, rows), table), total

    def _keys(self, table: pa.Table | pa.RecordBatch) -> dict[str, Keys | None]:
        keys: dict[str, Keys | None] = {}
        for column, codec in zip(self.schema, self._columns, strict=True):
            if column.name not in table.schema.names:
                keys[column.name] = None
                continue
            array = table.column(column.name)
            array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
            keys[column.name] = codec.keys(typed(column, array))
        return keys

    def _with_pixels(self, encoded: Encoded, table: pa.Table | pa.RecordBatch) -> Encoded:
        """The rows with the pixels of the images that the table has."""
        if not self.layout.images:
            return encoded
        values = np.zeros((len(encoded), self.layout.pixels), np.uint8)
        for found, column in zip(self.layout.images, self.schema.images, strict=True):
            if column.name in table.schema.names and column.image is not None:
                array = typed(column, table.column(column.name))
                values[:, found.part] = images.pixels(array, column.image).reshape(len(encoded), -1)
        return replace(encoded, pixels=values)

    def condition(self, values: Mapping[str, object]) -> Encoded:
        """One row in which only the given columns are known; None means that the value is missing.

        Raises:
            ConditionError: a column or a value does not exist, or its probability is 0.
        """
        row: dict[str, Keys | None] = dict.fromkeys(self.schema.names)
        for name, value in values.items():
            if name not in self.schema.names:
                raise ConditionError(
                    f"a condition must name a column, however: {name!r} is none{nearest(name, self.schema.names)}"
                )
            at = self.schema.names.index(name)
            column, codec = self.schema.columns[at], self._columns[at]
            if value is not None and not column.learned and column.kind not in ("empty", "image"):
                raise ConditionError(
                    f"a condition must be on a column that is learned, however: {name!r} is kind: {column.kind}, "
                    "whose values are made anew; leave it out"
                )
            key = codec.condition(value)
            row[name] = key
            if not codec.gives(key)[0]:
                raise ConditionError(
                    f"a condition must be possible, however: {name} = {value!r} has no probability; "
                    f"{codec.possible()}"
                )
        self._check_absences(row)
        shown = {c.name: one(values[c.name], c.arrow_type) for c in self.schema.images if c.name in values}
        return self._with_pixels(self._encode(row, 1), pa.table(shown))

    def _check_absences(self, row: Mapping[str, Keys | None]) -> None:
        """Refuses a condition by which a column is missing that never is without its group."""
        for absence in self.profile.absences:
            known = {i: row[self.schema.names[i]] for i in absence.columns}
            gone = [i for i, key in known.items() if key is not None and int(key[0]) == MISSING]
            there = [i for i, key in known.items() if key is not None and int(key[0]) != MISSING]
            alone = [i for i in gone if self.layout.fields[i].rates[0] <= 0]
            if there and alone:
                one, other = self.schema.names[alone[0]], self.schema.names[there[0]]
                raise ConditionError(
                    f"a condition must be possible, however: {one!r} is never missing where {other!r} is not; "
                    "give both or neither"
                )

    def decode(self, encoded: Encoded, *, first_row: int = 0, salt: str = "") -> pa.Table:
        """The table of these rows, in the schema's types.

        Args:
            encoded: rows without unknown states.
            first_row: number of the first row, from which identifiers follow.
            salt: chooses the identifiers of a release.
        """
        arrays = []
        states = unfolded(encoded.states, self.profile.absences)
        drawn: dict[int, NDArray[np.uint8]] = {}
        if encoded.pixels is not None:
            drawn = {p.field: encoded.pixels[:, p.part].reshape(-1, *p.shape) for p in self.layout.images}
        for i, (field, codec) in enumerate(self._own_fields()):
            scores = None if field.score is None else encoded.scores[:, field.score]
            if i in drawn:
                absent = states[:, i] == 0
                arrays.append(images.images(drawn[i], absent=absent, first_row=first_row))
                continue
            personal = self.schema.columns[i].personal
            # Columns that are about the same person draw the same people.
            whose = field.name if personal is None or personal.of is None else f"\0{personal.of}"
            numbered = f"{salt} {whose}"
            arrays.append(codec.decode(states[:, i], scores, first_row, numbered))
        return pa.Table.from_arrays(arrays, schema=self.schema.arrow)

    def released_schema(self) -> Schema:
        """The schema of what `decode` gives: the facts are what the profile learned, and hold for every row."""
        columns = [codec.released(column) for column, codec in zip(self.schema, self._columns, strict=True)]
        return Schema(columns=tuple(columns), unit=None, units_about=None)

    def log_jacobian(self, encoded: Encoded) -> NDArray[np.float64]:
        """Σ log |d score / d value| over the spread columns of each row: float64 (n,).

        Added to a model's log-density of states and scores it gives the log-density of the table's own units.
        A value of an integer or of a column with support counts as a cell of width one.
        """
        total = np.zeros(len(encoded))
        for i, (field, codec) in enumerate(self._own_fields()):
            if field.score is None:
                continue
            spread = encoded.states[:, i] == field.spread
            scores = encoded.scores[spread, field.score].astype(np.float64)
            total[spread] += codec.log_slope(scores)
        return total

    def _encode(self, keys: Mapping[str, Keys | None], rows: int) -> Encoded:
        states = np.full((rows, len(self._columns)), UNKNOWN, np.int32)
        present = np.zeros(states.shape, np.bool_)
        scores = np.zeros((rows, len(self.layout.scored)), np.float32)
        for i, (field, codec) in enumerate(self._own_fields()):
            column = keys[field.name]
            if column is None:
                continue
            states[:, i], spread = codec.encode(column)
            present[:, i] = column != MISSING
            if field.score is not None:
                scores[:, field.score] = spread
        return Encoded(states=folded(states, present, self.profile.absences), scores=scores)

    def _own_fields(self) -> list[tuple[Field, "_ColumnCodec"]]:
        """The fields of columns, without those of groups."""
        return list(zip(self.layout.fields, self._columns, strict=False))


def plain(value: pa.Scalar) -> bool | int | float | str:
    """A scalar as a schema writes it: numbers as numbers, durations as counts, times in ISO 8601, decimals as text."""
    if pa.types.is_boolean(value.type) or pa.types.is_integer(value.type) or pa.types.is_floating(value.type):
        return value.as_py()  # type: ignore[no-any-return]
    if pa.types.is_duration(value.type):
        return int(value.value)
    text = str(value.cast(pa.string()).as_py())
    return text.replace(" ", "T") if pa.types.is_timestamp(value.type) else text


class _ColumnCodec:
    """One column. The keys of strings are places in the sorted list of its atoms; −1 is any other string."""

    def __init__(self, column: Column, profile: ColumnProfile) -> None:
        self._column = column
        self._profile = profile
        self.text = column.learned and is_text(column.arrow_type)
        self.spread = bool(profile.edges)
        self._pool = profile.pooled > 0
        self.rates = (
            profile.missing,
            *profile.atom_rates,
            *((profile.pooled,) if self._pool else ()),
            *((profile.spread,) if self.spread else ()),
        )
        self._atoms = np.array([] if self.text else profile.atoms, np.int64)
        self._order = np.argsort(self._atoms, kind="stable")
        self._edges = np.array(profile.edges, np.int64)
        self._support = np.array(profile.support, np.int64)
        self._cumulative = np.concatenate([[0.0], np.cumsum(profile.cell_rates)])
        if self.spread:
            self._cumulative /= self._cumulative[-1]
        self._float = is_real(column.arrow_type)
        self._pattern = Pattern.parse(column.pattern) if column.pattern is not None else None

    @property
    def borders(self) -> tuple[float, ...]:
        """Scores between the cells."""
        return tuple(float(x) for x in ndtri(self._cumulative[1:-1])) if self.spread else ()

    @property
    def whole(self) -> bool:
        """Whether the cells' values are all that there is."""
        return bool(len(self._support))

    def of_codes(self, codes: Keys, dictionary: Dictionary) -> Keys:
        """Keys of a column of strings from the codes of its dictionary."""
        place = {label: i for i, label in enumerate(self._profile.atoms)}
        table = [place.get(s, -1) for s in dictionary.labels(np.arange(len(dictionary)))]
        lookup = np.array([*table, MISSING], np.int64)
        return lookup[np.where(codes == MISSING, len(table), codes)]

    def keys(self, array: pa.Array) -> Keys:
        """Keys of an Arrow array of this column's type."""
        if not self._column.learned:
            gone = (
                images.missing(array) if self._column.image is not None else array.is_null().to_numpy(False)
            )
            return np.where(gone, MISSING, 0)
        if not self.text:
            return to_keys(array)
        dictionary = Dictionary()
        return self.of_codes(dictionary.codes(array), dictionary)

    def condition(self, value: object) -> Keys:
        """The key of one value."""
        try:
            return self.keys(one(value, self._column.arrow_type))
        except NOT_A_VALUE:
            raise ConditionError(
                f"a condition on {self._column.name!r} must be one value of type {self._column.type}, "
                f"however: it is {type(value).__name__}; draw for each of several values, None means missing"
            ) from None

    def gives(self, keys: Keys) -> NDArray[np.bool_]:
        """Whether a row may have each of these keys; what is outside of what was learned has no probability."""
        if self._pool or not self._column.learned:
            known = np.full(len(keys), self._pool)
        elif self.text:
            known = keys >= 0
        else:
            known = np.isin(keys, self._atoms)
            if len(self._support):
                known |= np.isin(keys, self._support)
            elif self.spread:
                known |= (self._edges[0] <= keys) & (keys < self._edges[-1])
        return np.where(keys == MISSING, self._profile.missing > 0, known)

    def possible(self) -> str:
        """A hint at values that exist."""
        if self._profile.atoms and self.text:
            return "known values are " + ", ".join(repr(a) for a in self._profile.atoms[:8])
        known = self.released(self._column)
        if known.min is not None and self._column.learned:
            return f"known values lie from {known.min} to {known.max}"
        return "leave the column out of the condition"

    def released(self, column: Column) -> Column:
        """The column with the facts of its profile."""
        # A note was made by looking at rows.
        facts: dict[str, object] = {"nullable": self._profile.missing > 0, "note": None}
        kind = column.arrow_type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not column.learned:
            return column.model_copy(update=facts)
        if self.text:
            # The pool may bear the name of a category.
            facts["categories"] = tuple(
                dict.fromkeys((*self._profile.atoms, *((OTHER,) if self._pool else ())))
            )
        elif column.kind in ("categorical", "boolean", "constant"):
            facts["categories"] = tuple(plain(v) for v in from_keys(self._atoms, kind))
        elif len(self._edges) or len(self._atoms):
            ends = self._edges[[0, -1]] if len(self._edges) else self._atoms[:0]
            ends = ends - np.array([0, 1])[: len(ends)]
            keys = np.concatenate([self._atoms, self._support if len(self._support) else ends])
            low, high = from_keys(np.array([keys.min(), keys.max()]), kind)
            # An infinite end is no bound, and JSON has no word for it.
            ends_known = {"min": plain(low), "max": plain(high)}
            facts |= {n: v for n, v in ends_known.items() if v not in (np.inf, -np.inf)}
        # What stands in the schema was looked up in the rows; what is released is what was learned.
        clean = {"min": None, "max": None, "categories": None} if not column.declared else {}
        return column.model_copy(update={**clean, **facts})

    def encode(self, keys: Keys) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """States and scores of keys."""
        rest = self._rest_state()
        if not self._column.learned:
            # An identifier or a text is present or not; no more is known of it.
            known = rest if rest != UNKNOWN else 0
            return np.where(keys == MISSING, 0, known).astype(np.int32), np.zeros(len(keys), np.float32)
        if self.text:
            states = np.where(keys >= 0, keys + 1, rest)
            return np.where(keys == MISSING, 0, states).astype(np.int32), np.zeros(len(keys), np.float32)
        if self._column.declared and self._column.kind in ("numerical", "datetime", "duration"):
            keys = np.where(keys == MISSING, MISSING, np.clip(keys, *declared_bounds(self._column)))
        states = np.full(len(keys), rest, np.int64)
        if len(self._atoms):
            ordered = self._atoms[self._order]
            place = np.minimum(np.searchsorted(ordered, keys), len(ordered) - 1)
            found = ordered[place] == keys
            states = np.where(found, self._order[place] + 1, states)
            if not self.spread and not self._pool and self._column.kind != "categorical":
                states = np.where(found, states, self._order[self._nearest(ordered, keys)] + 1)
        states = np.where(keys == MISSING, 0, states)
        if not self.spread:
            return states.astype(np.int32), np.zeros(len(keys), np.float32)
        return states.astype(np.int32), np.where(states == rest, self._score(keys), 0).astype(np.float32)

    def decode(
        self, states: NDArray[np.int32], scores: NDArray[np.float32] | None, first_row: int, salt: str
    ) -> pa.Array:
        """Values of states and scores."""
        missing = states == 0
        if not self._column.learned:
            return self._filled(missing, first_row, salt)
        if self.text:
            values = self._labels.take(pa.array(states - 1, mask=missing if missing.any() else None))
            return values.cast(self._column.arrow_type) if self._column.type != "string" else values
        keys = self._keys_of_states[states]
        if self.spread and scores is not None:
            spread = np.flatnonzero(states == len(self.rates) - 1)
            keys[spread] = self._value(scores[spread].astype(np.float64))
        return from_keys(keys, self._column.arrow_type)

    @cached_property
    def _labels(self) -> pa.Array:
        """The word of each state after the first."""
        return pa.array([*self._profile.atoms, OTHER], pa.string())

    @cached_property
    def _keys_of_states(self) -> Keys:
        """The key of each state: int64 (states,)."""
        keys = np.full(len(self.rates), MISSING, np.int64)
        keys[1 : 1 + len(self._atoms)] = self._atoms
        if self._pool and len(self._atoms):
            # A rare number cannot be named; the commonest one of its column stands for it.
            keys[1 + len(self._atoms)] = self._atoms[int(np.argmax(self._profile.atom_rates))]
        return keys

    def log_slope(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log |d score / d value| at these scores."""
        u = ndtr(scores)
        cell = self._cell(u)
        rate = np.diff(self._cumulative)[cell]
        width = np.ones(len(u)) if len(self._support) else self._widths()[cell]
        log_normal = -0.5 * scores**2 - 0.5 * np.log(2 * np.pi)
        return np.asarray(np.log(np.maximum(rate, 1e-300)) - np.log(width) - log_normal)

    def _rest_state(self) -> int:
        """The state of a value that is no atom."""
        return len(self.rates) - 1 if self.spread or self._pool else UNKNOWN

    def _nearest(self, ordered: Keys, keys: Keys) -> NDArray[np.int64]:
        place = np.clip(np.searchsorted(ordered, keys), 1, len(ordered) - 1) if len(ordered) > 1 else None
        if place is None:
            return np.zeros(len(keys), np.int64)
        below, above = ordered[place - 1].astype(float), ordered[place].astype(float)
        return np.where(keys.astype(float) - below <= above - keys.astype(float), place - 1, place)

    def _widths(self) -> NDArray[np.float64]:
        if not self._float:
            # Floats would lose the widths of cells beyond 2^53.
            return (self._edges[1:].view(np.uint64) - self._edges[:-1].view(np.uint64)).astype(np.float64)
        with np.errstate(over="ignore"):
            width = np.diff(key_floats(self._edges))
        return np.where(np.isfinite(width) & (width > 0), width, 1.0)

    def _score(self, keys: Keys) -> NDArray[np.float64]:
        last = len(self._edges) - 2
        inside = np.clip(keys, self._edges[0], self._edges[-1] - 1)
        cell = np.clip(np.searchsorted(self._edges, inside, side="right") - 1, 0, last)
        share = np.full(len(keys), 0.5)
        if not len(self._support):
            # Offsets inside a cell are small, so integers beyond 2^53 keep their place.
            half = 0.0 if self._float else 0.5
            with np.errstate(over="ignore", invalid="ignore"):
                offset = (
                    key_floats(inside) - key_floats(self._edges[cell])
                    if self._float
                    else (inside - self._edges[cell]).astype(np.float64)
                )
            share = np.clip((offset + half) / self._widths()[cell], 0.0, 1.0)
            share = np.where(np.isfinite(share), share, 0.5)
            # What was cut belongs to the outermost cell; at its very end it would look like far outliers.
            share = np.where((keys < self._edges[0]) | (keys >= self._edges[-1]), 0.5, share)
        low, high = self._cumulative[cell], self._cumulative[cell + 1]
        return np.asarray(ndtri(np.clip(low + share * (high - low), _EDGE, 1 - _EDGE)))

    def _cell(self, u: NDArray[np.float64]) -> NDArray[np.int64]:
        cell = np.searchsorted(self._cumulative, u, side="right") - 1
        return np.asarray(np.clip(cell, 0, len(self._cumulative) - 2))

    def _value(self, scores: NDArray[np.float64]) -> Keys:
        u = ndtr(scores)
        cell = self._cell(u)
        if len(self._support):
            return np.asarray(self._support[cell])
        low, high = self._cumulative[cell], self._cumulative[cell + 1]
        share = np.clip((u - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
        if self._float:
            return self._float_value(cell, share)
        widths = np.diff(self._edges)[cell]
        offset = np.minimum((share * widths).astype(np.int64), widths - 1)
        keys = self._edges[cell] + offset
        step = self._column.step
        if step is None or step == 1:
            return np.asarray(keys, np.int64)
        # The first edge is a value of the grid, so distances from it are multiples of the step.
        steps = np.rint((keys - self._edges[0]) / step).astype(np.int64)
        return np.asarray(np.minimum(self._edges[0] + steps * step, self._edges[-1] - 1), np.int64)

    def _float_value(self, cell: NDArray[np.int64], share: NDArray[np.float64]) -> Keys:
        left, right = key_floats(self._edges[cell]), key_floats(self._edges[cell + 1])
        values = left * (1 - share) + right * share
        if self._column.digits is not None:
            values = np.round(values, self._column.digits)
        ends = key_floats(self._edges[[0, -1]] - np.array([0, 1]))
        return float_keys(np.clip(values, ends[0], ends[1]))

    def _filled(self, missing: NDArray[np.bool_], first_row: int, salt: str) -> pa.Array:
        """New identifiers, or the word that stands for a text."""
        column, rows = self._column, len(missing)
        kind = column.arrow_type
        if column.kind == "empty" or pa.types.is_null(kind):
            return pa.nulls(rows, kind)
        if column.personal is not None:
            made = people.values(column.personal, first_row, rows, salt=salt)
            return pa.array(made, pa.string(), mask=missing).cast(kind)
        if column.kind == "text":
            whole = pa.array([REPLACED], pa.string()).take(pa.array(np.zeros(rows, np.int64), mask=missing))
            return whole.cast(kind) if is_text(kind) else pa.nulls(rows, kind)
        if is_text(kind):
            pattern = self._pattern or Pattern.parse("[A-Z0-9]{12}")
            return pa.array(pattern.strings(first_row, rows, salt=salt), pa.string(), mask=missing).cast(kind)
        first = int(column.min) if column.min is not None else 1
        last = int(column.max) if column.max is not None else 10**9
        numbers = permuted(first_row, rows, max(1, last - first + 1), salt=salt)
        return pa.array(numbers.astype(np.int64) + first, mask=missing).cast(kind)
