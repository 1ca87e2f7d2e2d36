"""Rules: the constraints that a schema states, as a person writes them.

A constraint is a public statement about every row: ``order`` (one column never above another), ``sum`` (a column is the
sum or difference of others), ``combinations`` (only combinations of values that rows show, or that are listed),
``missing`` (a column is missing exactly where another says so) and ``unique`` (no two rows agree). A range needs no
rule: it is a column's declared `min` and `max`. How each is made to hold is `synth.constraints`' to say.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from synth.schema import Column


def _plain(value: object) -> object:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, bool | int | float | str):
        raise ValueError("must be a number, text, true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be finite")
    return value


Scalar = Annotated[bool | int | float | str, BeforeValidator(_plain)]
Value = Scalar | None
Names = Annotated[tuple[str, ...], Field(min_length=2)]


class _Stated(BaseModel):
    """What all constraints say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    facts: Annotated[
        str, Field(pattern=r"^(observed|declared: .+)$", description="where the constraint comes from")
    ] = "observed"
    note: Annotated[str | None, Field(description="a remark for the reader, e.g. why init suggests it")] = (
        None
    )

    @property
    def declared(self) -> bool:
        """Whether the constraint is public by declaration, and so is believed under privacy."""
        return self.facts != "observed"


class Order(_Stated):
    """In every row the columns rise: each that is there is at least (strict: above) the one before it."""

    rule: Literal["order"]
    columns: Names
    strict: Annotated[bool, Field(description="whether equal values are forbidden")] = False

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it is about."""
        return self.columns

    @property
    def pairs(self) -> Iterator[tuple[str, str]]:
        """(lower, upper) for each two neighbours."""
        return zip(self.columns, self.columns[1:], strict=False)

    def __str__(self) -> str:
        return (" < " if self.strict else " <= ").join(self.columns)


class Sum(_Stated):
    """In every row `column` is the sum of `plus` less the sum of `minus`, and missing where one of these is."""

    rule: Literal["sum"]
    column: str
    plus: Annotated[tuple[str, ...], Field(min_length=1)]
    minus: tuple[str, ...] = ()

    @property
    def terms(self) -> tuple[str, ...]:
        """What it is computed from."""
        return (*self.plus, *self.minus)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it is about."""
        return (self.column, *self.terms)

    def __str__(self) -> str:
        return f"{self.column} = {' + '.join(self.plus)}" + "".join(f" - {m}" for m in self.minus)


class Combinations(_Stated):
    """The columns have only combinations of values that rows show, or those that `values` lists."""

    rule: Literal["combinations"]
    columns: Names
    values: Annotated[
        tuple[tuple[Value, ...], ...] | None, Field(description="all combinations there are, where known")
    ] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for row in self.values or ():
            if len(row) != len(self.columns):
                raise ValueError(
                    f"each of `values` must have one value a column, however: one has {len(row)} "
                    f"for {len(self.columns)} columns"
                )
        if self.values is not None and (not self.values or len(set(self.values)) < len(self.values)):
            raise ValueError(
                "`values` must list combinations that differ, however: it is empty or repeats one"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it is about."""
        return self.columns

    def __str__(self) -> str:
        return f"combinations of {', '.join(self.columns)}"


class Missing(_Stated):
    """`column` is missing exactly where `where` has one of `values`; null among them means that `where` is missing."""

    rule: Literal["missing"]
    column: str
    where: str
    values: Annotated[tuple[Value, ...], Field(min_length=1)]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it is about."""
        return (self.column, self.where)

    def __str__(self) -> str:
        return f"{self.column} is missing exactly where {self.where} is {' or '.join(_shown(v) for v in self.values)}"


class Unique(_Stated):
    """No two rows agree in all of the columns; rows in which one of them is missing are not compared."""

    rule: Literal["unique"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that it is about."""
        return self.columns

    def __str__(self) -> str:
        return f"{', '.join(self.columns)} unique"


Constraint = Annotated[Order | Sum | Combinations | Missing | Unique, Field(discriminator="rule")]


def _shown(value: Value) -> str:
    return "missing" if value is None else str(value)


def check(columns: Sequence["Column"], constraints: Iterable[Any]) -> None:
    """Refuses constraints that no table of these columns can meet, or that nobody can follow.

    Raises:
        ValueError: an unknown column, a wrong kind, or constraints that contradict each other.
    """
    known = {c.name: c for c in columns}
    constraints = tuple(constraints)
    for constraint in constraints:
        _check_names(constraint, known)
        if isinstance(constraint, Order | Sum):
            _check_numbers(constraint, known)
        elif isinstance(constraint, Combinations):
            _check_labels(constraint, known)
        elif isinstance(constraint, Missing):
            _check_missing(constraint, known)
    _check_orders([c for c in constraints if isinstance(c, Order)])
    _check_once(constraints)
    acyclic(dependences(constraints))


def _check_names(constraint: Any, known: Mapping[str, "Column"]) -> None:
    for name in constraint.names:
        if name not in known:
            raise ValueError(
                f"a constraint must name columns, however: {constraint}: there is no column {name!r}"
            )
        if known[name].kind in ("empty", "text", "image"):
            raise ValueError(
                f"a constraint must be on columns that hold values, however: {constraint}: {name!r} is kind: "
                f"{known[name].kind}; leave the constraint out"
            )
        if known[name].kind == "identifier" and not isinstance(constraint, Unique | Missing):
            raise ValueError(
                f"identifiers are made anew and follow no constraint but uniqueness, however: {constraint}: "
                f"{name!r} is kind: identifier; leave the constraint out"
            )
    twice = [n for n in constraint.names if constraint.names.count(n) > 1]
    if twice:
        raise ValueError(
            f"a constraint must name a column once, however: {constraint} names {twice[0]!r} twice"
        )


def family(kind: pa.DataType) -> str:
    """The types that a type's values can be compared with: numbers, times with a zone or without, and so on."""
    if pa.types.is_timestamp(kind):
        return "times with a zone" if kind.tz is not None else "times"
    if pa.types.is_date(kind):
        return "times"
    if pa.types.is_time(kind):
        return "times of a day"
    return "durations" if pa.types.is_duration(kind) else "numbers"


def _check_numbers(constraint: "Order | Sum", known: Mapping[str, "Column"]) -> None:
    for name in constraint.names:
        if known[name].kind not in ("numerical", "datetime", "duration"):
            raise ValueError(
                f"{constraint.rule} is for numbers and times, however: {constraint}: {name!r} is kind: "
                f"{known[name].kind}; leave the constraint out, or correct the kind"
            )
    families = {name: family(known[name].arrow_type) for name in constraint.names}
    if len(set(families.values())) > 1:
        first, other = (
            constraint.names[0],
            next(n for n in constraint.names if families[n] != families[constraint.names[0]]),
        )
        raise ValueError(
            f"{constraint.rule} is for columns that can be compared, however: {constraint}: {first!r} holds "
            f"{families[first]} and {other!r} {families[other]}; leave the constraint out"
        )
    if isinstance(constraint, Sum) and set(families.values()) - {"numbers", "durations"}:
        raise ValueError(
            f"sum is for numbers and durations, however: {constraint}: {constraint.column!r} holds "
            f"{families[constraint.column]}; write an order instead"
        )


def _check_labels(constraint: Combinations, known: Mapping[str, "Column"]) -> None:
    for name in constraint.columns:
        column = known[name]
        named = column.kind in ("categorical", "boolean", "constant") or pa.types.is_integer(
            column.arrow_type
        )
        if not named or pa.types.is_floating(column.arrow_type):
            raise ValueError(
                f"combinations are of categories and whole numbers, however: {constraint}: {name!r} is kind: "
                f"{column.kind}, type: {column.type}; leave it out"
            )


def _check_missing(constraint: Missing, known: Mapping[str, "Column"]) -> None:
    if not known[constraint.column].nullable:
        raise ValueError(
            f"a column that is missing somewhere must be nullable, however: {constraint}: {constraint.column!r} "
            "says `nullable: false`; correct one of them"
        )
    where = known[constraint.where]
    if where.kind not in ("categorical", "boolean", "constant") and not pa.types.is_integer(where.arrow_type):
        raise ValueError(
            f"`where` must name categories or whole numbers, however: {constraint}: {constraint.where!r} is "
            f"kind: {where.kind}, type: {where.type}; leave the constraint out"
        )


def _check_orders(orders: Sequence[Order]) -> None:
    """Orders among themselves must not go round."""
    above: dict[str, set[str]] = {}
    for order in orders:
        for low, high in order.pairs:
            above.setdefault(high, set()).add(low)
    acyclic(above)


def _check_once(constraints: Sequence[Any]) -> None:
    """What decides a column alone must do so alone."""
    joined: dict[str, Combinations] = {}
    for constraint in constraints:
        for name in constraint.columns if isinstance(constraint, Combinations) else ():
            if name in joined:
                raise ValueError(
                    f"a column must be in one combination, however: {name!r} is in two; join them into one"
                )
            joined[name] = constraint
    for rule in (Sum, Missing):
        decided = [c.column for c in constraints if isinstance(c, rule)]
        twice = [n for n in decided if decided.count(n) > 1 or n in joined]
        if twice:
            raise ValueError(
                f"a column must follow from one constraint, however: {twice[0]!r} follows from two; keep one"
            )
    totals = {c.column for c in constraints if isinstance(c, Sum)}
    for constraint in constraints:
        if isinstance(constraint, Missing) and constraint.column in totals:
            raise ValueError(
                f"a sum is missing where one of its terms is, however: {constraint.column!r} has a rule of its own; "
                "write it for the term"
            )


def dependences(constraints: Iterable[Any]) -> dict[str, set[str]]:
    """What must be known before a column is: the terms of a sum, and what says where a column is missing."""
    needs: dict[str, set[str]] = {}
    for constraint in constraints:
        if isinstance(constraint, Sum):
            needs.setdefault(constraint.column, set()).update(constraint.terms)
        elif isinstance(constraint, Missing):
            needs.setdefault(constraint.column, set()).add(constraint.where)
    return needs


def acyclic(needs: Mapping[str, set[str]]) -> tuple[str, ...]:
    """The columns that need others, each after those that it needs.

    Raises:
        ValueError: they go round.
    """
    done: dict[str, None] = {}
    on_the_way: dict[str, None] = {}

    def visit(name: str) -> None:
        if name in on_the_way:
            way = list(on_the_way)
            raise ValueError(
                "constraints must not go round, however: "
                f"{' → '.join([*way[way.index(name) :], name])}; leave one of them out"
            )
        if name in done or name not in needs:
            return
        on_the_way[name] = None
        for other in sorted(needs[name]):
            visit(other)
        del on_the_way[name]
        done[name] = None

    for name in needs:
        visit(name)
    return tuple(done)


def goes_round(needs: Mapping[str, set[str]], *, upper: str, lower: str) -> bool:
    """Whether `lower` needs `upper` already."""
    seen, left = set(), [lower]
    while left:
        name = left.pop()
        if name == upper:
            return True
        if name not in seen:
            seen.add(name)
            left += needs.get(name, ())
    return False


def grid_step(steps: Sequence[int | None], starts: Sequence[int | None]) -> int | None:
    """The step of differences of columns that have steps of their own; None where it is not known.

    Examples:
        >>> grid_step([25, 50], [1000, 500])
        25
    """
    known = [s for s in steps if s is not None]
    begins = [b for b in starts if b is not None]
    if len(known) < len(steps) or len(begins) < len(starts):
        return None
    step = math.gcd(*known, *(b - begins[0] for b in begins))
    return step if step > 1 else None
