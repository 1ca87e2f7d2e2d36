"""Infer: looks at a table once, in a stream, and writes down what it seems to hold.

What comes out is a draft of a `Schema` for a person to review. Its facts are `observed`, and even those are
chosen so that no row stands out: an extreme is the `at_least`-th value, a category is shared by that many
rows. Memory is bounded whatever the table: extremes, grids and forms are folded batch by batch, and distinct
values are counted exactly up to `DISTINCT` of them; beyond that, a sample of the values is, drawn by hash.
"""

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from privacy.errors import InputError
from synth import images
from synth.identifier import Pattern
from synth.people import recognized
from synth.schema import DATES, DAY_OR_MONTH, IMAGE, REPLACED, Column, Picture, Schema, dates_of, parse_type
from synth.suggest import Suggestions

DISTINCT = 200_000
"""Distinct values of one column that are counted exactly; beyond, a hash sample of them is."""

CATEGORIES = 200
"""Categories that are written down at most; a longer list says little to a reader."""

LONGEST_CATEGORY = 60
"""Mean characters of a category at most; what is longer is prose."""

DIRECT = frozenset(
    {
        "e-mail address",
        "phone number",
        "payment card number",
        "IBAN",
        "social security number",
        "national number",
    }
)
"""Findings of `personal` that point at one person, whatever the counts: never learned as a category."""

_DIGITS = 6


def infer(
    batches_factory: Callable[[], Iterator[pa.RecordBatch]], *, at_least: int = 10, blind: bool = False
) -> Schema:
    """Drafts a schema from a table.

    Args:
        batches_factory: gives the table's batches, from the first on, each time it is called.
        at_least: rows that must share what is written down of values; 0 and 1 mean no such rule.
        blind: look at names and types only, at no row.

    Raises:
        InputError: there is no batch, or a type that no schema can name.
    """
    batches = iter(batches_factory())
    first = next(batches, None)
    if first is None or not first.num_columns:
        raise InputError("a table must have columns, however: it has none; give another input")
    for field in first.schema:
        _check_type(field)
    if blind:
        return Schema(columns=tuple(_blind_column(field) for field in first.schema))
    watches = [_Watch(field, at_least=max(at_least, 1)) for field in first.schema]
    suggestions = Suggestions(list(first.schema), at_least=at_least)
    for batch in _chain(first, batches):
        suggestions.add(batch)
        for watch, values in zip(watches, batch.columns, strict=True):
            watch.add(values)
    columns = _about_people([watch.seen() for watch in watches])
    return Schema(columns=columns, suggestions=suggestions.found(columns))


def infer_table(table: pa.Table, *, at_least: int = 10, blind: bool = False) -> Schema:
    """Drafts a schema from a table in memory.

    Raises:
        InputError: it has no column, or a type that no schema can name.

    Examples:
        >>> schema = infer_table(pa.table({"age": [30, 41] * 20, "city": ["Bern", None] * 20}))
        >>> [(c.name, c.kind, c.min, c.categories) for c in schema]
        [('age', 'numerical', 30, None), ('city', 'constant', None, ('Bern',))]
    """
    empty = pa.RecordBatch.from_pylist([], schema=table.schema)
    return infer(lambda: _chain(empty, table.to_batches()), at_least=at_least, blind=blind)


def plain_type(type: pa.DataType) -> pa.DataType:
    """The type that a schema can name for a column of `type`: itself, its storage, or string.

    Examples:
        >>> plain_type(pa.list_(pa.int64()))
        DataType(string)
    """
    if isinstance(type, pa.BaseExtensionType):
        return plain_type(type.storage_type)
    if pa.types.is_dictionary(type):
        inner = plain_type(type.value_type)
        return type if inner == type.value_type and _can_be_named(type) else inner
    if type == IMAGE:
        return type
    return pa.string() if _is_opaque(type) or not _can_be_named(type) else type


def to_plain(values: pa.Array, type: pa.DataType) -> pa.Array:
    """`values` as `type`, safely; what is no plain value (a list, a struct, bytes) becomes `REPLACED`, or an image.

    Raises:
        pyarrow.ArrowInvalid: a value does not convert without loss.
    """
    if values.type == type:
        return values
    if isinstance(values.type, pa.BaseExtensionType):
        return to_plain(values.storage, type)
    if pa.types.is_dictionary(values.type) and not pa.types.is_dictionary(type):
        return to_plain(values.dictionary_decode(), type)
    if type == IMAGE and images.is_image_type(values.type):
        return images.as_images(values)
    if pa.types.is_string(type) and _is_opaque(values.type):
        return pc.if_else(values.is_valid(), pa.scalar(REPLACED), pa.scalar(None, pa.string()))
    return values.cast(type)


def personal(name: str, sample: pa.Array) -> str | None:
    """What personal data a column seems to hold, judged by its name and up to 1,000 of its values.

    Args:
        name: of the column.
        sample: some present values of it, of any type; empty if only the name may be judged.

    Returns:
        The kind of data, e.g. "e-mail address", or None. Never a value.

    Examples:
        >>> personal("contact", pa.array(["ann@example.org", "bob@example.org"]))
        'e-mail address'
        >>> personal("PhoneService", pa.array(["Yes", "No"])) is None
        True
    """
    texts = [str(v) for v in sample.slice(0, 1000).drop_null().to_pylist()]
    for finding in _FINDINGS:
        if texts and finding.by_value is not None and _share(texts, finding.by_value) >= finding.share:
            return finding.label
    words = "_".join(_words(name))
    for finding in _FINDINGS:
        if re.search(finding.by_name, words) and (not texts or _share(texts, finding.plausible) >= 0.5):
            return finding.label
    return None


# ----------------------------------------------------------------------------------------------- what is seen


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What a pass over a column left behind.

    Attributes:
        field: name and type.
        picture: what images are brought to; None where they are none.
        shrunk: whether that is smaller than most of them are.
        at_least: rows that must share what is written down.
        rows: all rows; `present` of them have a value.
        values: distinct values, all of them or a hash sample; empty for floats, decimals and times.
        counts: int64 (len(values),), how often each occurs.
        scale: so many distinct values does one of `values` stand for; 1 where all were counted.
        characters: mean length of a present string.
        low: `at_least`-th smallest value in units of the type, `high` the largest; None where there is none.
        same: whether all present values are equal.
        span: largest minus smallest value, for integers and times.
        step: greatest common divisor of all differences, for integers and times; 0 where there is none.
        digits: decimals that write every float exactly; None beyond 6.
        form: the pattern that every string fits; None where there is none, or fewer than `at_least` strings.
    """

    field: pa.Field
    picture: Picture | None
    shrunk: bool
    at_least: int
    rows: int
    present: int
    values: pa.Array
    counts: npt.NDArray[np.int64]
    scale: int
    characters: float
    low: Any
    high: Any
    same: bool
    span: int
    step: int
    digits: int | None
    form: str | None

    @property
    def name(self) -> str:
        return str(self.field.name)

    @property
    def type(self) -> pa.DataType:
        """The type of the values; of a dictionary, that of its words."""
        return _value_type(self.field.type)

    @property
    def distinct(self) -> int:
        """Distinct values, estimated where there are very many."""
        return len(self.values) * self.scale

    @property
    def unique(self) -> bool:
        """Whether no value occurs twice."""
        return len(self.values) > 0 and bool((self.counts == 1).all())

    @property
    def shared(self) -> float:
        """The share of rows whose value at least `at_least` rows have."""
        total = int(self.counts.sum())
        return float(self.counts[self.counts >= self.at_least].sum()) / total if total else 0.0


@final
class _Watch:
    """Takes a column batch by batch; `seen` says what came by."""

    def __init__(self, field: pa.Field, *, at_least: int) -> None:
        self._field = field
        self._at_least = at_least
        self._rows = self._present = self._characters = 0
        self._tally = _Tally()
        self._extremes = _Extremes(at_least)
        self._grid = _Grid()
        self._digits = _Digits()
        self._form = _Form()
        self._pictures = _Pictures()

    def add(self, column: pa.Array) -> None:
        """Takes the next values."""
        self._rows += len(column)
        if column.type == IMAGE:
            self._present += int((~images.missing(column)).sum())
            self._pictures.add(column)
            return
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        missing = column.is_null(nan_is_null=True)
        values = column.filter(pc.invert(missing)) if pc.any(missing).as_py() else column
        self._present += len(values)
        if len(values):
            self._add_present(values)

    def _add_present(self, values: pa.Array) -> None:
        if _is_text(values.type):
            self._characters += pc.sum(pc.utf8_length(values)).as_py()
            self._form.add(self._tally.add(values))
        elif pa.types.is_boolean(values.type):
            self._tally.add(values)
        elif pa.types.is_floating(values.type):
            numbers = _numbers(values)
            self._digits.add(numbers)
            self._extremes.add(numbers[np.isfinite(numbers)])
        else:
            numbers = _numbers(values)
            self._extremes.add(numbers)
            self._grid.add(numbers)
            if pa.types.is_integer(values.type):
                self._tally.add(values)

    def seen(self) -> _Seen:
        """What came by so far."""
        values, counts, scale = self._tally.result()
        least, low, high, most = self._extremes.result()
        alone = (len(values) == 1 and scale == 1) or (least is not None and least == most)
        return _Seen(
            field=self._field,
            picture=self._pictures.picture,
            shrunk=self._pictures.shrunk,
            at_least=self._at_least,
            rows=self._rows,
            present=self._present,
            values=values,
            counts=counts,
            scale=scale,
            characters=self._characters / max(self._present, 1),
            low=low,
            high=high,
            same=self._present > 0 and alone,
            span=_span(least, most),
            step=self._grid.step,
            digits=self._digits.digits,
            form=self._form.pattern() if len(values) * scale >= self._at_least else None,
        )


def _span(least: Any, most: Any) -> int:
    """Whole steps from one value to another; of the widest doubles, whose difference is infinite, as many as count."""
    if least is None:
        return 0
    wide = most - least
    return int(wide) if math.isfinite(wide) else 2**63


@final
class _Pictures:
    """Looks at the headers of the first images for their sizes and modes."""

    MOST = 2000
    LONGEST = 64
    """Pixels of the longer side that are proposed at most: what models can learn on a processor."""

    def __init__(self) -> None:
        self._sizes: Counter[tuple[int, int]] = Counter()
        self._coloured = False

    def add(self, column: pa.Array) -> None:
        """Takes the next images; broken ones are passed over here, and refused when they are read."""
        for value in pc.struct_field(column, "bytes").drop_null():
            if self._sizes.total() >= self.MOST:
                return
            try:
                image = images.opened(value.as_py())
            except InputError:
                continue
            self._sizes[image.size] += 1
            self._coloured |= image.mode not in images.GREY

    @property
    def shrunk(self) -> bool:
        """Whether the commonest size is larger than what is proposed."""
        return max(self._size) > self.LONGEST

    @property
    def _size(self) -> tuple[int, int]:
        return self._sizes.most_common(1)[0][0] if self._sizes else (0, 0)

    @property
    def picture(self) -> Picture | None:
        """The commonest size, made smaller where it is too large; None where no image could be read."""
        if not self._sizes:
            return None
        width, height = self._size
        factor = min(1.0, self.LONGEST / max(width, height))
        return Picture(
            width=max(1, round(width * factor)),
            height=max(1, round(height * factor)),
            mode="RGB" if self._coloured else "L",
        )


@final
class _Tally:
    """Counts distinct values: all of them while they are few, else those whose hash ends in `level` zeros."""

    def __init__(self) -> None:
        self._level = 0
        self._merged: pa.Table | None = None
        self._pending: list[pa.Table] = []
        self._pending_rows = 0

    def add(self, values: pa.Array) -> pa.Array:
        """Counts the values and returns the distinct ones among them."""
        counted = pc.value_counts(values)
        distinct, counts = counted.flatten()
        self._pending.append(self._sampled(pa.table({"value": distinct, "count": counts})))
        self._pending_rows += self._pending[-1].num_rows
        if self._pending_rows > max(DISTINCT // 4, self._merged.num_rows if self._merged is not None else 0):
            self._merge()
        return distinct

    def result(self) -> tuple[pa.Array, npt.NDArray[np.int64], int]:
        """Values, their counts, and how many distinct values each one stands for."""
        self._merge()
        if self._merged is None:
            return pa.array([], pa.string()), np.zeros(0, np.int64), 1
        table = self._merged.combine_chunks()
        return _one(table["value"]), _one(table["count"]).to_numpy().astype(np.int64), 1 << self._level

    def _merge(self) -> None:
        parts = ([self._merged] if self._merged is not None else []) + self._pending
        self._pending, self._pending_rows = [], 0
        if not parts:
            return
        grouped = pa.concat_tables(parts).group_by("value", use_threads=False).aggregate([("count", "sum")])
        table = grouped.select(["value", "count_sum"]).rename_columns(["value", "count"])
        while table.num_rows > 1 and (table.num_rows > DISTINCT or table.nbytes > 64 << 20):
            self._level += 1
            table = self._sampled(table)
        self._merged = table

    def _sampled(self, table: pa.Table) -> pa.Table:
        if not self._level or not table.num_rows:
            return table
        return table.filter(pa.array(_hash(_one(table["value"])) % (1 << self._level) == 0))


@final
class _Extremes:
    """Keeps the k smallest and the k largest values."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._low: npt.NDArray[Any] | None = None
        self._high: npt.NDArray[Any] | None = None

    def add(self, values: npt.NDArray[Any]) -> None:
        """Takes the next values, (n,) of any ordered dtype."""
        if not len(values):
            return
        k = self._k
        low = values if self._low is None else np.concatenate([self._low, values])
        high = values if self._high is None else np.concatenate([self._high, values])
        self._low = (np.partition(low, k - 1)[:k] if len(low) > k else low).copy()
        self._high = (np.partition(high, len(high) - k)[-k:] if len(high) > k else high).copy()

    def result(self) -> tuple[Any, Any, Any, Any]:
        """Smallest, k-th smallest, k-th largest, largest; the middle two are None if they crossed."""
        if self._low is None or self._high is None:
            return None, None, None, None
        least, most = self._low.min(), self._high.max()
        low, high = self._low.max(), self._high.min()
        known = len(self._low) >= self._k and low <= high
        plain = [v.item() if isinstance(v, np.generic) else v for v in (least, low, high, most)]
        return (plain[0], plain[1] if known else None, plain[2] if known else None, plain[3])


@final
class _Grid:
    """Folds the greatest common divisor of all differences."""

    def __init__(self) -> None:
        self._base: int | None = None
        self.step = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Takes the next values, an integer (n,); objects (decimals) have no grid."""
        if values.dtype == object or self.step == 1:
            return
        base = int(values[0])
        known = base if self._base is None else self._base
        self._base = known
        self.step = math.gcd(self.step, abs(base - known), _gcd(values[:1000]))
        if self.step != 1:
            self.step = math.gcd(self.step, _gcd(values))


def _gcd(values: npt.NDArray[Any]) -> int:
    """The greatest common divisor of all differences; unsigned, since int64 differences may overflow."""
    wide = values if values.dtype == np.uint64 else values.astype(np.int64).view(np.uint64)
    return int(np.gcd.reduce(wide - np.asarray(values.min()).astype(values.dtype).astype(wide.dtype)))


@final
class _Digits:
    """Finds how many decimals write all floats exactly."""

    def __init__(self) -> None:
        self.digits: int | None = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Takes the next values, float (n,)."""
        finite = values[np.isfinite(values)]
        if self.digits is not None:
            fits = (d for d in range(self.digits, _DIGITS + 1) if _is_exact(finite, d))
            self.digits = next(fits, None)


def _is_exact(values: npt.NDArray[Any], digits: int) -> bool:
    scale = 10.0**digits
    rounded = np.rint(values.astype(np.float64) * scale) / scale
    return bool((rounded.astype(values.dtype) == values).all())


@final
class _Form:
    """Folds the template of strings of one length: which characters occur at each position."""

    def __init__(self) -> None:
        self._flags: npt.NDArray[np.uint8] | None = None
        self._low: npt.NDArray[np.uint8] | None = None
        self._high: npt.NDArray[np.uint8] | None = None
        self._broken = False

    def add(self, values: pa.Array) -> None:
        """Takes the next strings, (n,), present ones."""
        if self._broken:
            return
        length = pc.min_max(pc.binary_length(values)).as_py()
        width = length["min"]
        if (
            width != length["max"]
            or not 0 < width <= 64
            or (self._low is not None and len(self._low) != width)
        ):
            self._broken = True
            return
        letters = np.frombuffer(b"".join(pc.cast(values, pa.binary()).to_pylist()), np.uint8).reshape(
            -1, width
        )
        self._fold(np.bitwise_or.reduce(_CLASS[letters], axis=0), letters.min(axis=0), letters.max(axis=0))

    def _fold(
        self, flags: npt.NDArray[np.uint8], low: npt.NDArray[np.uint8], high: npt.NDArray[np.uint8]
    ) -> None:
        if self._flags is not None and self._low is not None and self._high is not None:
            flags, low, high = flags | self._flags, np.minimum(low, self._low), np.maximum(high, self._high)
        self._flags, self._low, self._high = flags, low, high

    def pattern(self) -> str | None:
        """The template, e.g. ``BK[0-9]{6}``; None where the strings share none."""
        if self._broken or self._flags is None or self._low is None or self._high is None:
            return None
        parts: list[str] = []
        for flags, low, high in zip(
            self._flags.tolist(), self._low.tolist(), self._high.tolist(), strict=True
        ):
            part = _literal(low) if low == high else _class_of(flags)
            if part is None:
                return None
            parts.append(part)
        return _compact(parts) if any(p.startswith("[") for p in parts) else None


_TOKEN = re.compile(r"(?s:\\.)|(?P<class>\[[^\]]+\])(?:\{(?P<times>\d+)\})?|(?s:.)")
"""An escaped character, a class with the count of its positions, or a literal of a pattern."""

_DIGIT, _LOW_HEX, _LOWER, _UP_HEX, _UPPER, _ODD = 1, 2, 4, 8, 16, 32
_CLASS = np.full(256, _ODD, np.uint8)
_CLASS[ord("0") : ord("9") + 1] = _DIGIT
_CLASS[ord("a") : ord("z") + 1] = _LOWER
_CLASS[ord("a") : ord("f") + 1] = _LOW_HEX
_CLASS[ord("A") : ord("Z") + 1] = _UPPER
_CLASS[ord("A") : ord("F") + 1] = _UP_HEX
_CLASSES = (
    (_DIGIT, "[0-9]"),
    (_LOWER | _LOW_HEX, "[a-z]"),
    (_UPPER | _UP_HEX, "[A-Z]"),
    (_DIGIT | _LOW_HEX, "[0-9a-f]"),
    (_DIGIT | _UP_HEX, "[0-9A-F]"),
    (_DIGIT | _LOW_HEX | _LOWER, "[a-z0-9]"),
    (_DIGIT | _UP_HEX | _UPPER, "[A-Z0-9]"),
    (_ODD - 1, "[A-Za-z0-9]"),
)


def _class_of(flags: int) -> str | None:
    """The narrowest class of the pattern grammar that holds the characters of one position."""
    return next((text for allowed, text in _CLASSES if not flags & ~allowed), None)


def _literal(code: int) -> str | None:
    if not 32 <= code < 127:
        return None
    return ("\\" if chr(code) in "\\[]{}" else "") + chr(code)


def _compact(parts: Sequence[str]) -> str:
    """Joins the parts; a class that repeats is written once, with its count."""
    text, i = "", 0
    while i < len(parts):
        run = 1
        while parts[i].startswith("[") and i + run < len(parts) and parts[i + run] == parts[i]:
            run += 1
        text += parts[i] + (f"{{{run}}}" if run > 1 else "")
        i += run
    return text


# --------------------------------------------------------------------------------------- what it is taken for


def _about_people(seen: Sequence[_Seen]) -> tuple[Column, ...]:
    """What the columns are taken for; personal data get the locale that most of them speak for.

    Where no kind of personal data stands twice, a row seems to be about one person, and its columns then agree.
    """
    columns = [_column(s) for s in seen]
    if any(c.kind == "image" for c in columns):
        columns = [_labelled(c, s) for c, s in zip(columns, seen, strict=True)]
    votes = [
        v for s, c in zip(seen, columns, strict=True) if c.personal for v in _locales(s, c.personal.what)
    ]
    locale = max(sorted(set(votes)), key=votes.count) if votes else "en_US"
    whats = [c.personal.what for c in columns if c.personal]
    of = "row" if 1 < len(whats) == len(set(whats)) else None
    for i, column in enumerate(columns):
        if column.personal is not None:
            personal = column.personal.model_copy(update={"locale": locale, "of": of})
            columns[i] = column.model_copy(update={"personal": personal})
    return tuple(columns)


def _labelled(column: Column, seen: _Seen) -> Column:
    """A number beside an image that is named like a label, and has few values, is one."""
    named = names_label(column.name)
    few = 2 <= seen.distinct <= CATEGORIES and seen.shared > 0.9
    if column.kind != "numerical" or not pa.types.is_integer(seen.type) or not (named and few):
        return column
    return _categorical(seen)


_LABELS = frozenset(
    {"label", "labels", "class", "target", "category", "fine", "coarse", "y", "digit", "diagnosis"}
)
"""Words of the names of what images are of."""


def names_label(name: str) -> bool:
    """Whether a column beside images is called as what they are of."""
    return not _LABELS.isdisjoint(_words(name))


_COUNTRIES = {
    "US": "en_US", "GB": "en_GB", "UK": "en_GB", "DE": "de_DE", "AT": "de_AT", "CH": "de_CH", "FR": "fr_FR",
    "ES": "es_ES", "IT": "it_IT", "NL": "nl_NL", "PL": "pl_PL", "BR": "pt_BR", "PT": "pt_PT", "SE": "sv_SE",
    "DK": "da_DK", "FI": "fi_FI", "NO": "no_NO", "CZ": "cs_CZ", "TR": "tr_TR",
}  # fmt: skip
_DIALS = {
    "1": "US", "44": "GB", "49": "DE", "43": "AT", "41": "CH", "33": "FR", "34": "ES", "39": "IT", "31": "NL",
    "48": "PL", "55": "BR", "351": "PT", "46": "SE", "45": "DK", "358": "FI", "47": "NO", "420": "CZ", "90": "TR",
}  # fmt: skip


def _locales(seen: _Seen, what: str) -> Iterator[str]:
    """The locale that most values of a column of personal data speak for, if they speak for any."""
    texts = [str(v) for v in seen.values.slice(0, 1000).to_pylist()]
    if what in ("name", "first_name", "last_name"):
        yield recognized(texts)[2]
        return
    if what == "iban":
        codes = [t[:2].upper() for t in texts]
    elif what == "email":
        codes = [t.rsplit(".", 1)[-1].upper() for t in texts]
    elif what == "phone":
        dialled = [re.match(r"(?:\+|00)(351|358|420|1|[2-9][0-9])", t.strip()) for t in texts]
        codes = [_DIALS.get(m[1], "") if m else "" for m in dialled]
    else:
        return
    known = [c for c in codes if c in _COUNTRIES]
    if 2 * len(known) > len(codes):
        yield _COUNTRIES[max(sorted(set(known)), key=known.count)]


def _what(seen: _Seen, finding: str | None) -> str | None:
    """What a column of strings is made up as; None where it is no personal data that can be."""
    if not _is_text(seen.type) or pa.types.is_dictionary(seen.field.type):
        return None
    if finding in _MADE_UP:
        return _MADE_UP[finding]
    if finding == "postal address":
        return "street" if "street" in _words(seen.name) else "address"
    texts = [str(v) for v in seen.values.slice(0, 1000).to_pylist()]
    hinted = finding == "name of a person"
    if not hinted and (finding is not None or len(texts) < 20):
        return None
    called = next((what for word, what in _CALLED.items() if word in _words(seen.name)), None)
    if hinted and called is not None and seen.distinct > 20:
        return called
    what, share, _ = recognized(texts)
    return what if share >= (0.3 if hinted else 0.7) else None


_CALLED = {
    "first": "first_name",
    "given": "first_name",
    "last": "last_name",
    "surname": "last_name",
    "family": "last_name",
    "maiden": "last_name",
    "user": "user_name",
}
"""What a column is called that leaves no doubt which name of a person it holds."""


_MADE_UP = {
    "e-mail address": "email",
    "IBAN": "iban",
    "social security number": "national_number",
    "national number": "national_number",
    "payment card number": "card",
    "phone number": "phone",
}
"""What findings are made up as."""


def _column(seen: _Seen) -> Column:
    """What a column is taken for."""
    finding = _finding(seen)
    what = _what(seen, finding) if seen.present else None
    if what is not None:
        found = finding or "name of a person"
        note = f"may hold personal data: {found}; every value is made up, none is learned"
        personal = {"what": what, "unique": seen.unique}
        return _draft(seen, "text", action="regenerate", personal=personal, note=note)
    column = _taken_for(seen, finding)
    warning = f"may hold personal data: {finding}" if finding else None
    notes = "; ".join(n for n in (warning, _open_dates(seen), column.note) if n) or None
    return column.model_copy(update={"note": notes})


def _open_dates(seen: _Seen) -> str | None:
    if (seen.field.metadata or {}).get(DATES) != DAY_OR_MONTH:
        return None
    return "dates in which day and month may be exchanged; write `type: date32[day]` and e.g. `dates: DD/MM/YYYY`"


def _taken_for(seen: _Seen, finding: str | None) -> Column:
    type = seen.type
    if not seen.present:
        return _draft(seen, "empty")
    if type == IMAGE:
        return _image(seen)
    if finding in DIRECT and (_is_text(type) or pa.types.is_integer(type)):
        return _identifier_or_text(seen)
    if seen.same:
        return _constant(seen)
    if pa.types.is_boolean(type):
        return _draft(seen, "boolean")
    if pa.types.is_dictionary(seen.field.type) and (_is_text(type) or pa.types.is_integer(type)):
        return _categorical(seen)
    if _is_text(type):
        return _strings(seen)
    if pa.types.is_timestamp(type) or pa.types.is_date(type):
        return _draft(seen, "datetime", **_range(seen))
    if pa.types.is_duration(type) or pa.types.is_time(type):
        return _draft(seen, "duration", **_range(seen))
    if pa.types.is_integer(type) and _is_key(seen):
        return _draft(seen, "identifier", **_room(seen), note=_repeats(seen))
    return _draft(seen, "numerical", **_range(seen))


def _image(seen: _Seen) -> Column:
    if seen.picture is None:
        return _draft(seen, "text", action="drop", note="no image could be read; it is left out")
    size = f"{seen.picture.width} × {seen.picture.height}"
    note = f"images are made smaller, to {size} pixels; models on a processor learn small ones"
    return _draft(seen, "image", image=seen.picture, note=note if seen.shrunk else None)


def _draft(seen: _Seen, kind: str, **facts: Any) -> Column:
    nullable = seen.present < seen.rows
    base = {"name": seen.name, "kind": kind, "type": str(seen.field.type), "nullable": nullable}
    return Column.model_validate({**base, "dates": dates_of(seen.field), **facts})


def _constant(seen: _Seen) -> Column:
    """A constant; its value is written down only if enough rows have it."""
    if _is_text(seen.type) or pa.types.is_boolean(seen.type):
        return _draft(seen, "constant", categories=_categories(seen))
    return _draft(seen, "constant", **_range(seen))


def _categorical(seen: _Seen) -> Column:
    rare = "most values are rare and will be pooled" if seen.shared < 0.5 else None
    return _draft(seen, "categorical", categories=_categories(seen), note=rare)


def _categories(seen: _Seen) -> tuple[Any, ...] | None:
    """The values that at least `at_least` rows share, sorted; None where there are none or too many."""
    kept = seen.values.filter(pa.array(seen.counts >= seen.at_least)).to_pylist()
    return tuple(sorted(kept)) if seen.scale == 1 and 0 < len(kept) <= CATEGORIES else None


def _strings(seen: _Seen) -> Column:
    if _is_key(seen) or (seen.form in _UUID_FORMS and seen.distinct > 20):
        return _identifier_or_text(seen)
    few = seen.present < 10 * seen.at_least and seen.distinct <= 20
    if few or (seen.shared >= 0.5 and seen.characters <= LONGEST_CATEGORY):
        return _categorical(seen)
    return _identifier_or_text(seen) if seen.distinct >= 0.95 * seen.present else _text(seen)


def _identifier_or_text(seen: _Seen) -> Column:
    """An identifier where values can be made anew: from the pattern of strings, or between two integers."""
    if pa.types.is_integer(seen.type):
        return _draft(seen, "identifier", **_room(seen), note=_repeats(seen))
    if seen.form is None:
        return _text(seen)
    return _draft(seen, "identifier", pattern=_roomy(seen.form, 2 * seen.rows), note=_repeats(seen))


def _text(seen: _Seen) -> Column:
    note = f"text is not learned: every value becomes {REPLACED}"
    return _draft(seen, "text", action="replace", note=note)


def _repeats(seen: _Seen) -> str | None:
    if seen.unique:
        return None
    return f"values repeat; if they are people, write `unit: {seen.name}` at the end of schema.yaml"


def _is_key(seen: _Seen) -> bool:
    """Whether a column of integers or strings numbers its rows, or those of another table.

    Integers that never repeat are a key if they are named like one or leave few gaps; values that repeat are
    if the name says so and there are too many of them to be a code: more than half of the rows, or more than
    `CATEGORIES`.
    """
    if seen.unique:
        dense = seen.span < 1.5 * seen.present and pa.types.is_integer(seen.type)
        named = _named_like_a_key(seen.name) and pa.types.is_integer(seen.type)
        return seen.present >= 50 and (dense or named)
    many = seen.distinct > 0.5 * seen.present or seen.distinct > CATEGORIES
    return seen.present >= 50 and many and _named_like_an_id(seen.name)


def _room(seen: _Seen) -> dict[str, int]:
    """Bounds between powers of ten, wide enough to draw twice as many integers as there are rows."""
    if seen.low is None or seen.high is None:
        return {}
    info = np.iinfo(seen.type.to_pandas_dtype())
    low = 1 if 0 < seen.low <= seen.rows else _outward(seen.low, down=True)
    high = _outward(max(seen.high, low + 2 * seen.rows), down=False)
    return {"min": max(low, int(info.min)), "max": min(high, int(info.max), 2**63 - 1)}


def _roomy(pattern: str, rows: int) -> str:
    """`pattern`, whose last class stands more often until it makes `rows` different identifiers.

    It takes the place of literals before it that it could make, so that the length stays; then it grows.

    Examples:
        >>> _roomy("C[0-9]{3}-x", 6000)
        'C[0-9]{4}-x'
        >>> _roomy("ID000[0-9]{3}", 2000)
        'ID00[0-9]{4}'
    """
    missing = rows / Pattern.parse(pattern).size
    if missing <= 1:
        return pattern
    last = [token for token in _TOKEN.finditer(pattern) if token["class"]][-1]
    letters = Pattern.parse(last["class"]).positions[0]
    before, times = pattern[: last.start()], int(last["times"] or 1)
    while missing > 1:
        if before and before[-1] in letters and not before[:-1].endswith("\\"):
            before = before[:-1]
        times += 1
        missing /= len(letters)
    return f"{before}{last['class']}{{{times}}}{pattern[last.end() :]}"


def _outward(value: int, *, down: bool) -> int:
    """The next power of ten, or 0, or minus a power of ten, on that side of `value`."""
    if value <= 0:
        return -_outward(-value, down=not down) if value else 0
    floor: int = 10 ** (len(str(value)) - 1)
    return floor if down or value == floor else 10 * floor


def _range(seen: _Seen) -> dict[str, Any]:
    """Bounds and grid as a schema writes them."""
    facts: dict[str, Any] = {}
    if seen.low is not None:
        facts |= {"min": _scalar(seen.low, seen.type), "max": _scalar(seen.high, seen.type)}
    if pa.types.is_floating(seen.type):
        return facts | ({"digits": seen.digits} if seen.present >= seen.at_least else {})
    # A grid of few values would show their differences; that they are whole hours or days shows nothing.
    step = seen.step if facts else math.gcd(seen.step, _day(seen.type)) if seen.step else 0
    return facts | ({"step": step} if step > 1 else {})


def _day(type: pa.DataType) -> int:
    """A day in units of a timestamp's type; 1 for other types."""
    if not pa.types.is_timestamp(type):
        return 1
    return 86_400 * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[str(type.unit)]


def _scalar(value: Any, type: pa.DataType) -> int | float | str:
    """A bound as a schema writes it: numbers as they are, decimals as text, times in ISO 8601.

    A duration is a count of its type's units.
    """
    if pa.types.is_floating(type):
        return float(value)
    if pa.types.is_decimal(type):
        return str(value)
    if pa.types.is_integer(type) or pa.types.is_duration(type):
        return int(value)
    small = pa.types.is_date32(type) or pa.types.is_time32(type)
    units = pa.array([value], pa.int32() if small else pa.int64())
    if pa.types.is_date64(type):
        return str(units.cast(type).cast(pa.date32()).cast(pa.string())[0])
    return str(units.cast(type).cast(pa.string())[0]).replace(" ", "T")


def _blind_column(field: pa.Field) -> Column:
    """A column by its name and type alone."""
    type = _value_type(field.type)
    finding = personal(field.name, pa.array([], pa.string()))
    base: dict[str, Any] = {"name": field.name, "type": str(field.type), "nullable": field.nullable}
    base["dates"] = dates_of(field)
    base["note"] = f"may hold personal data: {finding}, by its name" if finding else None
    return Column.model_validate(base | _blind_kind(field, type))


def _blind_kind(field: pa.Field, type: pa.DataType) -> dict[str, Any]:
    if pa.types.is_null(type):
        return {"kind": "empty"}
    if type == IMAGE:
        return {"kind": "image", "image": Picture(width=64, height=64, mode="RGB")}
    if pa.types.is_dictionary(field.type) and (_is_text(type) or pa.types.is_integer(type)):
        return {"kind": "categorical"}
    if _is_text(type):
        return {"kind": "text", "action": "replace"}
    if pa.types.is_boolean(type):
        return {"kind": "boolean"}
    if pa.types.is_timestamp(type) or pa.types.is_date(type):
        return {"kind": "datetime"}
    if pa.types.is_duration(type) or pa.types.is_time(type):
        return {"kind": "duration"}
    return {
        "kind": "identifier" if pa.types.is_integer(type) and _named_like_a_key(field.name) else "numerical"
    }


# ------------------------------------------------------------------------------------------------------ names


def _words(name: str) -> list[str]:
    """The words of a column name: `customerID` and `customer_id` are the same two."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+", name)]


_ID_WORDS = frozenset({"id", "pid", "uid", "uuid", "guid", "nbr", "identifier"})
_KEY_WORDS = _ID_WORDS | {"no", "nr", "number", "key", "pk"}
_KEY_NAMES = frozenset({"order", "index", "row", "rownum", "unnamed_0"})
_GLUED = re.compile(
    r"(user|customer|client|patient|person|member|account|order|row|record|case|encounter)id$"
)


def _named_like_an_id(name: str) -> bool:
    words = _words(name)
    return bool(words) and (words[-1] in _ID_WORDS or _GLUED.search(words[-1]) is not None)


def _named_like_a_key(name: str) -> bool:
    words = _words(name)
    return _named_like_an_id(name) or not _KEY_WORDS.isdisjoint(words[-1:]) or "_".join(words) in _KEY_NAMES


_UUID_FORMS = frozenset(
    f"{h}{{8}}-{h}{{4}}-{version}-{h}{{4}}-{h}{{12}}"
    for h in ("[0-9a-f]", "[0-9A-F]")
    for version in (f"{h}{{4}}", *(f"{v}{h}{{3}}" for v in "1234567"))
)


# ---------------------------------------------------------------------------------------------- personal data


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """One kind of personal data and how it shows.

    Attributes:
        label: what it is called.
        by_name: regular expression on the words of a name, joined by `_`.
        plausible: what a value must be like for the name to be believed.
        by_value: what a value is like that needs no name; None where values do not tell.
        share: of the values that must be so.
    """

    label: str
    by_name: str
    plausible: Callable[[str], bool]
    by_value: Callable[[str], bool] | None = None
    share: float = 0.5


def _like(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text.strip()) is not None


def _digits_of(text: str) -> str:
    return "".join(c for c in text if c.isdecimal() and c.isascii())


def _is_card(text: str) -> bool:
    """13 to 19 digits whose check digit is right (Luhn, ISO/IEC 7812-1)."""
    digits = _digits_of(text)
    if not 13 <= len(digits) <= 19 or re.search(r"[^0-9 -]", text.strip()):
        return False
    doubled = [int(d) if i % 2 == 0 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_iban(text: str) -> bool:
    """An IBAN whose check digits are right (ISO 13616: modulo 97)."""
    plain = text.replace(" ", "").upper()
    if not re.fullmatch(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}", plain):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _weighed(digits: str, weights: Sequence[int]) -> int:
    return sum(int(d) * w for d, w in zip(digits, weights, strict=False))


def _is_national(text: str) -> bool:
    """A national number whose form and check digits are right; of forms that many numbers would fit by chance, none.

    Spain (DNI, NIE: modulo 23), France (INSEE: 97), Italy (codice fiscale: its form), Brazil (CPF: 11, twice), Poland
    (PESEL: 10, with a month that exists), Germany (tax identifier: ISO 7064, modulo 11, 10), United Kingdom (National
    Insurance: its form), Sweden (personnummer with its hyphen: Luhn).
    """
    plain = re.sub(r"[ .]", "", text.strip().upper())
    if m := re.fullmatch(r"([XYZ]?)([0-9]{7,8})-?([A-Z])", plain):
        number = int({"": "", "X": "0", "Y": "1", "Z": "2"}[m[1]] + m[2])
        return "TRWAGMYFPDXBNJZSQVHLCKE"[number % 23] == m[3]
    if re.fullmatch(r"[A-CEGHJ-PR-TW-Z]{2}[0-9]{6}[A-D]", plain) or re.fullmatch(
        r"[A-Z]{6}[0-9]{2}[A-EHLMPR-T][0-9]{2}[A-Z][0-9]{3}[A-Z]", plain
    ):
        return True
    if m := re.fullmatch(r"([0-9]{6})[-+]([0-9]{4})", plain):
        doubled = [sum(divmod(int(d) * (2 - i % 2), 10)) for i, d in enumerate(m[1] + m[2])]
        return sum(doubled) % 10 == 0
    if re.fullmatch(r"[12][0-9]{4}([0-9]{2}|2[AB])[0-9]{8}", plain):
        # Corsica counts as the department that it was, and its halves.
        born = plain[:5] + {"2A": "19", "2B": "18"}.get(plain[5:7], plain[5:7]) + plain[7:13]
        return (97 - int(born) % 97) == int(plain[13:])
    digits = plain.replace("-", "")
    if not re.fullmatch(r"[0-9]{11}", digits) or len(set(digits)) == 1:
        return False
    return _is_cpf(digits) or _is_pesel(digits) or _is_tax_id(digits)


def _is_cpf(digits: str) -> bool:
    checks = [(10 * _weighed(digits, range(n, 1, -1)) % 11) % 10 for n in (10, 11)]
    return checks == [int(d) for d in digits[9:]]


def _is_pesel(digits: str) -> bool:
    real = 1 <= int(digits[2:4]) % 20 <= 12 and 1 <= int(digits[4:6]) <= 31
    return real and -_weighed(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10 == int(digits[10])


def _is_tax_id(digits: str) -> bool:
    product = 10
    for digit in digits[:10]:
        product = 2 * ((int(digit) + product) % 10 or 10) % 11
    return digits[0] != "0" and (11 - product) % 10 == int(digits[10])


def _has_digits(count: int) -> Callable[[str], bool]:
    return lambda text: len(_digits_of(text)) >= count


_BIRTH, _PLACE = "date of birth", "place of a person or a home"
_FINDINGS = (
    _Finding(
        label="e-mail address",
        by_name=r"(^|_)(e_?mail)(_|$)",
        plausible=lambda text: "@" in text,
        by_value=_like(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}"),
    ),
    _Finding(label="IBAN", by_name=r"(^|_)iban(_|$)", plausible=_has_digits(8), by_value=_is_iban, share=0.8),
    _Finding(
        label="social security number",
        by_name=r"(^|_)(ssn|social_security(_(number|no|nr))?)$",
        plausible=_has_digits(6),
        by_value=_like(r"[0-9]{3}-[0-9]{2}-[0-9]{4}"),
        share=0.9,
    ),
    _Finding(
        label="national number",
        by_name=r"(^|_)(national_(number|no|nr|id)|nino|nhs_?(number|no|nr)|bsn|pesel|personnummer|cpf|dni|nie|nir|insee"
        r"|codice_fiscale|steuer_?id|tax_id)(_|$)",
        plausible=_has_digits(6),
        by_value=_is_national,
        share=0.95,
    ),
    _Finding(
        label="payment card number",
        by_name=r"(^|_)((credit_?|debit_?|payment_?)card|card_(number|no|nr)|cc_?num(ber)?)(_|$)",
        plausible=_has_digits(12),
        by_value=_is_card,
        share=0.9,
    ),
    _Finding(
        label="phone number",
        by_name=r"(^|_)(tele)?(phone|phones|fax|mobile|tel|telefon|cell)(_|$)",
        plausible=_has_digits(7),
        by_value=_like(
            r"\+[0-9][0-9 ().\-/]{6,18}|\([0-9]{2,5}\)[0-9 .\-/]{5,14}"
            r"|([0-9]-)?[0-9]{3}[-. ][0-9]{3}[-. ][0-9]{4}"
        ),
    ),
    _Finding(
        label="passport or licence number",
        by_name=r"(^|_)(passports?|drivers?|driving_licen[cs]e|licen[cs]e_(number|no|nr))(_|$)",
        plausible=_like(r"(?=.*[0-9]{4}).{6,20}"),
    ),
    _Finding(
        label="postal address",
        by_name=r"(^|_)(address|addr|street)(_|$)",
        plausible=_like(r"(?s)(?=.*[0-9])(?=.*[^\W\d_]{2}).*[ ].*"),
    ),
    _Finding(
        label=_BIRTH,
        by_name=r"(^|_)(birth|dob|born|birthday|birth_?date)(_|$)|^birthdate$",
        plausible=_has_digits(2),
    ),
    _Finding(
        label=_PLACE,
        by_name=r"(^|_)(lat|latitude|lon|lng|longitude|geo|gps|coordinates?)(_|$)|^long$",
        plausible=_has_digits(3),
    ),
    _Finding(
        label="name of a person",
        by_name=r"^(name|first|last|maiden|surname)$|(^|_)((first|last|full|sur|family|given|middle|maiden|user)_?name)(_|$)",
        plausible=_like(r"(?s).*[^\W\d_]{2}.*"),
    ),
)


def _share(texts: Sequence[str], test: Callable[[str], bool]) -> float:
    return sum(map(test, texts)) / len(texts)


def _finding(seen: _Seen) -> str | None:
    """What `personal` finds; of times only a date of birth, of fractions a place, since no other finding can be one."""
    if _is_text(seen.type) or pa.types.is_integer(seen.type):
        return personal(seen.name, seen.values.slice(0, 1000)) if seen.present else None
    by_name = personal(seen.name, pa.array([], pa.string())) if seen.present else None
    is_time = pa.types.is_timestamp(seen.type) or pa.types.is_date(seen.type)
    fitting = _BIRTH if is_time else _PLACE if pa.types.is_floating(seen.type) else None
    return by_name if by_name == fitting else None


# ------------------------------------------------------------------------------------------------------ types


def _value_type(type: pa.DataType) -> pa.DataType:
    return type.value_type if pa.types.is_dictionary(type) else type


def _is_text(type: pa.DataType) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type))


def _is_opaque(type: pa.DataType) -> bool:
    """Whether values of a type are no plain values: bytes, lists, structs, maps, intervals."""
    is_bytes = (
        pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_fixed_size_binary(type)
    )
    return bool(
        is_bytes or pa.types.is_nested(type) or pa.types.is_interval(type) or str(type) == "binary_view"
    )


def _can_be_named(type: pa.DataType) -> bool:
    try:
        return bool(parse_type(str(type)) == type)
    except (ValueError, pa.ArrowException):
        return False


def _check_type(field: pa.Field) -> None:
    if plain_type(field.type) != field.type:
        raise InputError(
            f"a column must be of a type that a schema can name, however: {field.name!r} is {field.type}; "
            f"convert it to {plain_type(field.type)} first"
        )


def _numbers(values: pa.Array) -> npt.NDArray[Any]:
    """Numbers and times in units of their type, (n,); decimals are Python objects."""
    if pa.types.is_decimal(values.type):
        return np.array(values.to_pylist(), dtype=object)
    if pa.types.is_temporal(values.type):
        small = pa.types.is_date32(values.type) or pa.types.is_time32(values.type)
        values = values.cast(pa.int32() if small else pa.int64())
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _hash(values: pa.Array) -> npt.NDArray[np.uint64]:
    """A hash of each value, uint64 (n,), the same in every process."""
    if _is_text(values.type):
        return np.fromiter((zlib.crc32(v.encode()) for v in values.to_pylist()), np.uint64, len(values))
    mixed = _numbers(values).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.asarray(mixed >> np.uint64(32))


def _one(column: pa.ChunkedArray) -> pa.Array:
    return (
        column.chunk(0)
        if column.num_chunks == 1
        else pa.concat_arrays(column.chunks or [pa.array([], column.type)])
    )


def _chain(first: pa.RecordBatch, rest: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest
