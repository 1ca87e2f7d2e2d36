"""Curator: the questions that may be asked of private rows.

Private rows live behind a curator and nowhere else. It sees arrays: a raw column is an array of 64-bit keys
(numbers and times in their own order, strings as codes), an encoded table is a matrix of states and one of
scores. Who wants to know something asks, and gets an `Answer` that says how much noise it carries; rules
about bins, iterations and sizes read that figure and never a flag, so the same code serves the curator that
answers exactly and the one that answers under differential privacy.

Splits are drawn here as well, by a keyed hash of the unit, so that all rows of one person are on one side.
"""

import hashlib
import itertools
import math
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

Keys = NDArray[np.int64]
Floats = NDArray[np.float64]

MISSING = np.iinfo(np.int64).min
"""The key of a missing value in a raw column. It is the smallest 64-bit integer."""

Split = Literal["train", "fit", "select", "holdout"]
"""`train` is what models learn from; it falls into `fit` and `select` (a tenth, for choosing between models).
`holdout` is what evidence is measured on."""

SELECT_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows: for each its unit, and arrays whose first axis is the row.

    Attributes:
        unit: uint64 (n,): equal numbers mean the same privacy unit.
        columns: name → array (n, …): raw columns are int64 (n,), encoded matrices may be wider.
        holdout: bool (n,) where the source itself says which rows are held out, else None.
    """

    unit: NDArray[np.uint64]
    columns: Mapping[str, NDArray[np.generic]]
    holdout: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.unit)

    def take(self, index: NDArray[np.int64]) -> "Batch":
        """Some of the rows, in this order."""
        return Batch(
            unit=self.unit[index],
            columns={name: array[index] for name, array in self.columns.items()},
            holdout=None if self.holdout is None else self.holdout[index],
        )

    def where(self, keep: NDArray[np.bool_]) -> "Batch":
        """The rows for which `keep` (bool, (n,)) holds."""
        if keep.all():
            return self
        return Batch(
            unit=self.unit[keep],
            columns={name: array[keep] for name, array in self.columns.items()},
            holdout=None if self.holdout is None else self.holdout[keep],
        )


class Rows(Protocol):
    """Where a curator finds its rows: something that can be streamed as often as needed, in a fixed order."""

    @property
    def unit_is_row(self) -> bool:
        """Whether each row is a unit of its own."""
        ...

    def batches(self, columns: Sequence[str] | None = None, *, size: int | None = None) -> Iterator[Batch]:
        """All rows with these columns (None: all), batch by batch; `size` is a wish for rows a batch."""
        ...


class Store(Protocol):
    """Where a recoded table is put: it takes batches and is then read like `Rows`."""

    def write(self, batch: Batch) -> None:
        """Appends rows."""
        ...

    def close(self) -> Rows:
        """Ends the writing; what was written can be read now."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the curator says.

    Attributes:
        value: float64 array, the shape depends on the question.
        noise_std: standard deviation of the noise in each entry; 0 when the answer is exact.
        part: share of the rows asked about that the answer covers; below 1 only where the asker allowed it.
    """

    value: Floats
    noise_std: float = 0.0
    part: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Shared:
    """Values that many units share.

    Attributes:
        keys: int64 (m,), increasing.
        counts: float64 (m,): rows with that value.
        others: units that have some other value, one that too few share.
        noise_std: as in `Answer`.
    """

    keys: Keys
    counts: Floats
    others: float
    noise_std: float = 0.0


@runtime_checkable
class Marginal(Protocol):
    """A partition of rows into cells by a public function of one row at a time.

    Each row lies in one cell, or in none, so one row moves the counts by at most 1 in a single cell, which a curator
    checks.
    """

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the batches that it reads."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis."""
        ...

    def cell(self, batch: Batch) -> NDArray[np.int64]:
        """The cell of each row, counted in row-major order: int64 (n,) in [−1, cells), −1 for none."""
        ...


def count(marginal: Marginal, batch: Batch) -> Floats:
    """Rows of the batch in each cell: float64 of the marginal's shape.

    Raises:
        ValueError: rows do not lie in one cell each.
    """
    cells, size = marginal.cell(batch), math.prod(marginal.shape)
    if cells.shape != (len(batch),) or (len(cells) and not -1 <= cells.min() <= cells.max() < size):
        raise ValueError("a marginal must give each row one cell, however: it does not")
    return np.bincount(cells[cells >= 0], minlength=size).reshape(marginal.shape).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """How far a marginal's counts lie from what somebody expects: weight · (Σ |count − expected| − allowance).

    One row moves it by at most `weight`.

    Attributes:
        marginal: what is counted.
        expected: counts, float64 of its shape.
        weight: positive.
        allowance: what would be no surprise, for instance what noise alone adds.
    """

    marginal: Marginal
    expected: Floats
    weight: float = 1.0
    allowance: float = 0.0

    def of(self, counts: Floats) -> float:
        """The misfit of these counts."""
        return float(self.weight * (np.abs(counts - self.expected).sum() - self.allowance))


@dataclass(frozen=True, kw_only=True)
class Cells:
    """One marginal over declared cells of one or more raw columns.

    A column with m edges has m + 2 cells: 0 for missing, then below the first edge, between the edges (an edge
    belongs to the cell above it), and from the last edge on.

    Attributes:
        columns: names of the columns.
        edges: for each column int64 (m,), strictly increasing.
    """

    columns: tuple[str, ...]
    edges: tuple[Keys, ...]

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.edges) or not self.columns:
            raise ValueError(
                f"cells need one array of edges per column, however: {len(self.columns)} columns, "
                f"{len(self.edges)} arrays"
            )
        if any(np.any(np.diff(e.astype(object)) <= 0) for e in self.edges):
            raise ValueError("edges must increase strictly, however: they do not; sort and deduplicate them")

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each column."""
        return tuple(len(e) + 2 for e in self.edges)

    def cell(self, batch: Batch) -> NDArray[np.int64]:
        """The cell of each row: int64 (n,)."""
        flat = np.zeros(len(batch), np.int64)
        for name, edges, size in zip(self.columns, self.edges, self.shape, strict=True):
            flat = flat * size + cell_of(batch.columns[name], edges)
        return flat


def cell_of(keys: NDArray[np.generic], edges: Keys) -> NDArray[np.int64]:
    """The cell of each key, int64 (n,) in [0, len(edges) + 2), as `Cells` numbers them."""
    return np.where(keys == MISSING, 0, np.searchsorted(edges, keys, side="right") + 1)


class Contribution(Protocol):
    """What the rows of one batch add to a statistic, without a vector per row."""

    def norms(self) -> Floats:
        """Euclidean norm of each row's vector: float64 (n,)."""
        ...

    def weighted(self, weights: Floats | None) -> Floats:
        """Σ wᵢ f(rowᵢ): float64 (d,); None means that all weights are 1."""
        ...


@dataclass(frozen=True)
class Held:
    """A contribution whose vectors are short enough to be held: float64 (n, d)."""

    rows: Floats

    def norms(self) -> Floats:
        """Euclidean norm of each row's vector: float64 (n,)."""
        return np.asarray(np.linalg.norm(self.rows, axis=1))

    def weighted(self, weights: Floats | None) -> Floats:
        """Σ wᵢ f(rowᵢ): float64 (d,)."""
        return np.asarray(self.rows.sum(0) if weights is None else weights @ self.rows)


class Statistic(Protocol):
    """A vector f(row) that is summed over rows.

    A curator that adds noise clips each row's vector to `bound`, by giving weights below 1, so that one unit
    moves the sum by at most `bound` in Euclidean norm for each of its rows that are kept.
    """

    @property
    def bound(self) -> float:
        """Euclidean norm that a row's vector is clipped to where clipping is needed."""
        ...

    @property
    def size(self) -> int:
        """Length d of the vector."""
        ...

    def of(self, batch: Batch) -> Contribution:
        """What these rows add."""
        ...


@dataclass(frozen=True, kw_only=True)
class Luck:
    """What the noise in a player's losses is drawn from.

    The curator brings it: if somebody could foresee it, then the noise that falls to a row would tell how many rows
    came before. Each stream is drawn row by row, in their order, so that rows have the same luck alone and together.

    Attributes:
        normal: for standard normal numbers.
        uniform: for uniform numbers.
    """

    normal: np.random.Generator
    uniform: np.random.Generator

    @classmethod
    def of(cls, seed: Sequence[int]) -> "Luck":
        """Two streams that follow from a seed."""
        return cls(normal=np.random.default_rng([*seed, 0]), uniform=np.random.default_rng([*seed, 1]))


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How much of `descend` somebody asks for: its price is the noise on a step's mean gradient, clipped to norm 1.

    Attributes:
        steps: at most so many.
        rate: share of the rows that a step looks at, in (0, 1].
    """

    steps: int
    rate: float

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, however: steps={self.steps}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate must be in (0, 1], however: rate={self.rate}")


class Player(Protocol):
    """Somebody whose parameters are moved by gradients; without rows, unless it is a `Reader`."""

    @property
    def optimizer(self) -> "Optimizer":
        """What moves its parameters."""
        ...


class Reader(Player, Protocol):
    """The one player of a game that reads rows."""

    @property
    def module(self) -> "Module":
        """Layers that hold, among others, every parameter that its optimizer moves."""
        ...

    def losses(self, batch: Batch, luck: Luck) -> "Tensor":
        """A loss for each row, a function of this row, its luck and the parameters alone: float (n,)."""
        ...


class Follower(Player, Protocol):
    """A player that reads no rows."""

    def loss(self, rows: int) -> "Tensor | None":
        """Its loss: a scalar, or none to stay; `rows` is how many the step before was about, for one of like size."""
        ...


@dataclass(frozen=True, kw_only=True)
class Strata:
    """Cells along several axes, between which rows are drawn more evenly than they occur.

    A row is drawn in three throws: an axis by its share, a cell of this axis by its weight, a row of this cell.

    Attributes:
        of: the cell of each row along each axis, int (n, A), not negative: a public function of one row at a time.
            A row with a number past the last cell is never drawn along that axis.
        shares: of the axes, float64 (A,).
        weights: of the cells of each axis, float64 (cells,).
    """

    of: Callable[[Batch], NDArray[np.integer]]
    shares: Floats
    weights: tuple[Floats, ...]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where the cells of each axis begin in a list of all: int64 (A,)."""
        return np.cumsum([0, *(len(w) for w in self.weights)])[:-1].astype(np.int64)

    @cached_property
    def _line(self) -> Floats:
        """All axes' cumulative weights, one after the other on one line, so that one search serves all draws."""
        return np.concatenate([i + _cumulative(w) for i, w in enumerate(self.weights)])

    @cached_property
    def _axes(self) -> Floats:
        return _cumulative(self.shares * np.array([w.sum() > 0 for w in self.weights]))

    def axis_of(self, luck: NDArray[np.floating]) -> NDArray[np.int64]:
        """The first throw: axes for uniform numbers in [0, 1), int64 (n,)."""
        axis = np.searchsorted(self._axes, luck, side="right").clip(max=len(self.shares) - 1)
        return np.asarray(axis, np.int64)

    def draw(self, rng: np.random.Generator, rows: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first two throws: axes and cells, int64 (rows,) both."""
        axis = self.axis_of(rng.random(rows))
        flat = np.searchsorted(self._line, axis + rng.random(rows), side="right")
        most = np.array([len(w) - 1 for w in self.weights])
        return axis, np.clip(flat - self.starts[axis], 0, most[axis])


def _cumulative(weights: Floats) -> Floats:
    total = np.cumsum(weights)
    return np.asarray(total / max(total[-1], 1e-300))


@dataclass(frozen=True, kw_only=True)
class Descended:
    """A step of `descend`.

    Attributes:
        rows: rows that it looked at; where a curator shows none, how many units were to be expected.
        loss: their mean loss; NaN where a curator shows none.
    """

    rows: int
    loss: float


Question = Marginal | Statistic | Descent
"""What `price` can be asked about."""

Counted = Literal["rows", "units", "lowest", "highest"]
"""What a histogram counts: every row, or every unit once, in the cell of one of its keys: one that is drawn, its
lowest or its highest."""


class Curator(Protocol):
    """The questions that may be asked of private rows. `share` is the part of the budget a question may use."""

    def about(self, split: Split = "train") -> float:
        """About how many rows a split has, under privacy how many units: what may be known at no charge."""
        ...

    def total(self, *, of: Literal["units", "rows"], split: Split = "train", share: float = 0.0) -> Answer:
        """How many there are: value of shape ()."""
        ...

    def values(
        self, columns: Sequence[str], *, at_least: int, split: Split = "train", share: float = 0.0
    ) -> tuple[Shared, ...]:
        """For each raw column the values that at least `at_least` units share, with their rows."""
        ...

    def histogram(
        self, cells: Sequence[Marginal], *, of: Counted = "rows", split: Split = "train", share: float = 0.0
    ) -> tuple[Answer, ...]:
        """Counts in each cell of one or many marginals, in one pass.

        Units are counted (`of` is not "rows") for marginals of a single column only; a missing value counts
        for a unit that has no other.
        """
        ...

    def sum(
        self,
        statistic: Statistic,
        *,
        split: Split = "train",
        rows_hint: int | None = None,
        share: float = 0.0,
    ) -> Answer:
        """Σ f(row), shape (d,). `rows_hint` allows an exact curator to cover about that many rows only."""
        ...

    def choose(self, candidates: Sequence[Misfit], *, split: Split = "train", share: float = 0.0) -> int:
        """The place of the largest misfit, or under privacy of one that is likely among the largest."""
        ...

    def descend(
        self,
        reader: Reader,
        followers: Sequence[Follower] = (),
        *,
        steps: int,
        rate: float,
        strata: Strata | None = None,
        split: Split = "train",
        share: float = 0.0,
    ) -> Iterator[Descended]:
        """Moves the players by gradients, one step for each that is asked for: the reader first, then the others.

        Args:
            reader: its losses are averaged over rows that the curator draws.
            followers: players that read no rows.
            steps: at most so many.
            rate: share of the rows that a step looks at, in (0, 1].
            strata: between which rows are drawn; the column "axis" of a batch says along which each was. Only an
                exact curator can: what a row counts in a step is not bounded by the rate any more.
            split: where rows are drawn.
            share: the part of the budget that all steps may use.
        """
        ...

    def price(self, question: Question, *, share: float = 0.0) -> float:
        """The standard deviation of the noise that an answer would carry."""
        ...

    def recode(self, code: Callable[[Batch], Mapping[str, NDArray[np.generic]]], store: Store) -> "Curator":
        """A curator of the same rows after `code`, a public function of one row at a time, was applied.

        Nothing leaves: the rows go from one store of the inside to another. Splits stay as they are. A
        function that works row by row has stability 1, so whatever is promised about answers afterwards is
        promised about the rows before.

        A code that needs luck draws it from the `unit` of the batch that it is given, which the curator's key has
        scrambled: the number of a row says where it stands, and luck that anybody can work out from it would move
        with every row before it.
        """
        ...


class ExactCurator:
    """Answers exactly. There is no formal guarantee; disclosure control is the asker's `at_least`.

    Args:
        rows: the private rows.
        key: 16 bytes or more; the same key draws the same splits.
        holdout: share of the units that are held out; ignored for rows whose source says it itself.
        keep: share of the units that are looked at at all, held out or not.
    """

    def __init__(self, rows: Rows, *, key: bytes, holdout: float = 0.2, keep: float = 1.0) -> None:
        if not 0 <= holdout < 1:
            raise ValueError(f"holdout must be in [0, 1), however: holdout={holdout}")
        if not 0 < keep <= 1:
            raise ValueError(f"keep must be in (0, 1], however: keep={keep}")
        self._rows = rows
        self._key = key
        self._holdout = holdout
        self._keep = keep
        self._stream: dict[Split, Iterator[Batch]] = {}
        self._counts: dict[Split, int] = {}

    @property
    def source(self) -> Rows:
        """Where the rows are streamed from."""
        return self._rows

    def about(self, split: Split = "train") -> float:
        """How many rows the split has."""
        return float(self._count(split))

    def total(self, *, of: Literal["units", "rows"], split: Split = "train", share: float = 0.0) -> Answer:
        """How many units or rows the split has."""
        if of == "rows" or self._rows.unit_is_row:
            return Answer(value=np.float64(sum(len(b) for b in self.rows(split, columns=()))))  # type: ignore[arg-type]
        units = [np.unique(b.unit) for b in self.rows(split, columns=())]
        return Answer(value=np.float64(len(np.unique(np.concatenate(units))) if units else 0))  # type: ignore[arg-type]

    def values(
        self, columns: Sequence[str], *, at_least: int, split: Split = "train", share: float = 0.0
    ) -> tuple[Shared, ...]:
        """The values that at least `at_least` units share, by counting them all."""
        tallies = {name: _Tally(by_unit=not self._rows.unit_is_row) for name in columns}
        for batch in self.rows(split, columns=columns):
            for name, tally in tallies.items():
                tally.add(np.asarray(batch.columns[name], np.int64), batch.unit)
        return tuple(tally.shared(at_least) for tally in tallies.values())

    def histogram(
        self, cells: Sequence[Marginal], *, of: Counted = "rows", split: Split = "train", share: float = 0.0
    ) -> tuple[Answer, ...]:
        """Counts in each cell."""
        columns = sorted({n for c in cells for n in c.columns})
        batches: Iterable[Batch] = self.rows(split, columns=columns)
        if of != "rows" and not self._rows.unit_is_row:
            batches = _one_each(batches, columns, of)
        counts = [np.zeros(c.shape) for c in cells]
        for batch in batches:
            for total, c in zip(counts, cells, strict=True):
                if c.columns[0] in batch.columns:
                    total += count(c, batch)
        return tuple(Answer(value=total) for total in counts)

    def sum(
        self,
        statistic: Statistic,
        *,
        split: Split = "train",
        rows_hint: int | None = None,
        share: float = 0.0,
    ) -> Answer:
        """Σ f(row) over all rows of the split, or over the next `rows_hint` of them, going round and round.

        No row counts twice in one answer.
        """
        total = np.zeros(statistic.size)
        if rows_hint is None:
            for batch in self.rows(split):
                total += statistic.of(batch).weighted(None)
            return Answer(value=total)
        rows = self._count(split)
        parts: list[Batch] = []
        wanted = min(rows_hint, rows)
        while wanted > 0:
            parts.append(self._next(split, rows_hint, at_most=wanted))
            wanted -= len(parts[-1])
        # In one piece: a split leaves out rows of each batch, and two small pieces cost nearly twice one.
        if parts:
            total += statistic.of(joined(parts)).weighted(None)
        return Answer(value=total, part=min(rows_hint, rows) / rows if rows else 1.0)

    def choose(self, candidates: Sequence[Misfit], *, split: Split = "train", share: float = 0.0) -> int:
        """The place of the largest misfit; the first of equals."""
        counts = self.histogram([c.marginal for c in candidates], split=split)
        return int(np.argmax([c.of(answer.value) for c, answer in zip(candidates, counts, strict=True)]))

    def descend(
        self,
        reader: Reader,
        followers: Sequence[Follower] = (),
        *,
        steps: int,
        rate: float,
        strata: Strata | None = None,
        split: Split = "train",
        share: float = 0.0,
    ) -> Iterator[Descended]:
        """Plain mini-batches: each pass over the rows is drawn in a new order, or by strata each row by itself.

        A loss that is not finite moves nobody.

        The rows of the split are held in memory meanwhile.
        """
        if not 0 < rate <= 1:
            raise ValueError(f"rate must be in (0, 1], however: rate={rate}")
        rows = joined(list(self.rows(split)))
        size = max(1, round(rate * len(rows)))
        words = hashlib.blake2b(b"descend", key=self._key[:64], digest_size=16).digest()
        seed = np.frombuffer(words, np.uint64)
        rng, luck = np.random.default_rng(seed), Luck.of(seed.tolist())
        drawn = _orders(rows, size, rng) if strata is None else _stratified(rows, size, rng, strata)
        for batch in itertools.islice(drawn, steps):
            loss = reader.losses(batch, luck).mean()
            value = float(loss.detach())
            if np.isfinite(value):
                move(reader, loss)
                for follower in followers:
                    move(follower, follower.loss(len(batch)))
            yield Descended(rows=len(batch), loss=value)

    def price(self, question: Question, *, share: float = 0.0) -> float:
        """Exact answers carry no noise."""
        return 0.0

    def recode(
        self, code: Callable[[Batch], Mapping[str, NDArray[np.generic]]], store: Store
    ) -> "ExactCurator":
        """The same rows behind another code; rows that `keep` leaves out are not written."""
        for batch in self._kept(None):
            veiled = replace(batch, unit=scrambled(batch.unit, self._key, "luck"))
            store.write(Batch(unit=batch.unit, columns=code(veiled), holdout=self._held_out(batch)))
        return ExactCurator(store.close(), key=self._key, holdout=self._holdout)

    def rows(
        self, split: Split, *, columns: Sequence[str] | None = None, size: int | None = None
    ) -> Iterator[Batch]:
        """The private rows themselves. Only an exact curator has this; a private one has not."""
        for batch in self._kept(columns, size):
            chosen = batch.where(self._in_split(batch, split))
            if len(chosen):
                yield chosen

    def _kept(self, columns: Sequence[str] | None, size: int | None = None) -> Iterator[Batch]:
        for batch in self._rows.batches(columns, size=size):
            yield batch if self._keep == 1 else batch.where(draw(batch.unit, self._key, "keep") < self._keep)

    def _held_out(self, batch: Batch) -> NDArray[np.bool_]:
        if batch.holdout is not None:
            return batch.holdout
        return draw(batch.unit, self._key, "holdout") < self._holdout

    def _in_split(self, batch: Batch, split: Split) -> NDArray[np.bool_]:
        held = self._held_out(batch)
        if split == "holdout":
            return held
        if split == "train":
            return ~held
        select = draw(batch.unit, self._key, "select") < SELECT_SHARE
        return ~held & (select if split == "select" else ~select)

    def _next(self, split: Split, size: int, *, at_most: int) -> Batch:
        """The next rows of an endless walk through a split that has some."""
        batch = None
        while batch is None:
            if split not in self._stream:
                self._stream[split] = self.rows(split, size=size)
            batch = next(self._stream[split], None)
            if batch is None:
                del self._stream[split]
        if len(batch) > at_most:
            index = np.arange(len(batch))
            rest = batch.take(index[at_most:])
            self._stream[split] = itertools.chain([rest], self._stream[split])
            batch = batch.take(index[:at_most])
        return batch

    def _count(self, split: Split) -> int:
        if split not in self._counts:
            self._counts[split] = int(self.total(of="rows", split=split).value)
        return self._counts[split]


def move(player: Player, loss: "Tensor | None") -> None:
    """A step down the gradient of a loss; none where there is no loss."""
    if loss is None:
        return
    player.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    player.optimizer.step()


def _orders(rows: Batch, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    """An endless walk through the rows, each pass in a new order."""
    order = np.empty(0, np.int64)
    while True:
        if len(order) < size:
            order = rng.permutation(len(rows))
        yield rows.take(np.sort(order[:size]))
        order = order[size:]


def _stratified(rows: Batch, size: int, rng: np.random.Generator, strata: Strata) -> Iterator[Batch]:
    """Rows drawn by strata, with the column "axis"."""
    cells = strata.of(rows)
    order = np.argsort(cells, axis=0, kind="stable").astype(np.int32)
    counts = [
        np.bincount(c, minlength=len(w))[: len(w)] for c, w in zip(cells.T, strata.weights, strict=True)
    ]
    filled = tuple(w * (n > 0) for w, n in zip(strata.weights, counts, strict=True))
    possible = replace(strata, weights=filled)
    del cells
    first = np.concatenate([np.cumsum(n) - n for n in counts])
    count = np.concatenate(counts)
    while True:
        axis, cell = possible.draw(rng, size)
        at = strata.starts[axis] + cell
        batch = rows.take(
            order[first[at] + (rng.random(size) * count[at]).astype(np.int64), axis].astype(np.int64)
        )
        yield replace(batch, columns={**batch.columns, "axis": axis})


def joined(batches: Sequence[Batch]) -> Batch:
    """All rows of some batches in one.

    Raises:
        ValueError: there are none.
    """
    if not batches:
        raise ValueError("a split must have rows, however: it has none")
    names = batches[0].columns
    return Batch(
        unit=np.concatenate([b.unit for b in batches]),
        columns={name: np.concatenate([b.columns[name] for b in batches]) for name in names},
    )


def _one_each(batches: Iterable[Batch], columns: Sequence[str], of: Counted) -> Iterator[Batch]:
    """For each column one batch that has every unit once, with one of its keys."""
    parts = list(batches)
    for name in columns:
        unit = np.concatenate([b.unit for b in parts]) if parts else np.empty(0, np.uint64)
        keys = np.concatenate([b.columns[name] for b in parts]) if parts else np.empty(0, np.int64)
        # The last of a unit's rows in this order stands for it; a missing value only where it has no other.
        with np.errstate(over="ignore"):
            drawn = _mix(_mix(keys.astype(np.int64).view(np.uint64)) + unit)
        rank = {"highest": keys, "lowest": -keys, "units": drawn}[of]
        order = np.lexsort((rank, keys != MISSING, unit))
        last = np.append(np.diff(unit[order]) != 0, True)[: len(order)]
        yield Batch(unit=unit[order][last], columns={name: keys[order][last]})


class _Tally:
    """Counts of the distinct values of one column, by rows and by units, in bounded batches."""

    def __init__(self, *, by_unit: bool) -> None:
        self._by_unit = by_unit
        self._keys: Keys = np.empty(0, np.int64)
        self._counts: Floats = np.empty(0)
        self._pairs: list[NDArray[np.void]] = []

    def add(self, keys: Keys, unit: NDArray[np.uint64]) -> None:
        present = keys != MISSING
        keys, unit = keys[present], unit[present]
        new, counts = np.unique(keys, return_counts=True)
        merged, where = np.unique(np.concatenate([self._keys, new]), return_inverse=True)
        weights = np.concatenate([self._counts, counts.astype(np.float64)])
        self._counts = np.bincount(where, weights, minlength=len(merged)).astype(np.float64)
        self._keys = merged
        if self._by_unit and len(keys):
            pairs = np.empty(len(keys), dtype=[("key", np.int64), ("unit", np.uint64)])
            pairs["key"], pairs["unit"] = keys, unit
            self._pairs.append(np.unique(pairs))

    def shared(self, at_least: int) -> Shared:
        if self._by_unit and self._pairs:
            pairs = np.unique(np.concatenate(self._pairs))
            enough = np.unique(pairs["key"], return_counts=True)[1] >= at_least
            others = len(np.unique(pairs["unit"][~enough[np.searchsorted(self._keys, pairs["key"])]]))
        else:
            enough = self._counts >= at_least
            others = int(self._counts[~enough].sum())
        return Shared(keys=self._keys[enough], counts=self._counts[enough], others=others)


def draw(unit: NDArray[np.uint64], key: bytes, purpose: str) -> Floats:
    """A uniform number in [0, 1) for each unit, a function of unit, key and purpose.

    Two rounds of the splitmix64 finalizer (Steele, Lea & Flood 2014) with words that BLAKE2b derives from the
    key. It is a good hash and fast on whole columns; it is not meant to withstand someone who chooses units.

    Args:
        unit: uint64 (n,).
        key: any bytes.
        purpose: draws for different purposes are independent.

    Returns:
        float64 (n,).
    """
    return (scrambled(unit, key, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def scrambled(unit: NDArray[np.uint64], key: bytes, purpose: str) -> NDArray[np.uint64]:
    """A number for each unit, another for another unit, that says nothing to who has not the key: uint64 (n,)."""
    first, second = struct.unpack(
        "<QQ", hashlib.blake2b(purpose.encode(), key=key[:64], digest_size=16).digest()
    )
    with np.errstate(over="ignore"):
        return _mix(_mix(unit ^ np.uint64(first)) + np.uint64(second))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
