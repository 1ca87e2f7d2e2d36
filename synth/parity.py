"""Parity: rows in which groups are treated alike, drawn by exact conditions from a model that learned otherwise.

Demographic parity: the target does not depend on the group, P(t | g) = P(t). Two rows are drawn from the model, one for
the groups g and another for the target t, which so are independent and each as the model has it; then the rest of the
row is drawn from P(rest | g, t), exactly where the model's conditions are exact. Nothing is thrown away or relabelled:
within a group, a row with a target value looks as such rows of that group do.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from privacy.errors import RecipeError
from synth.schema import Schema

if TYPE_CHECKING:
    from synth.codec import Codec, Encoded
    from synth.registry import Model

MISSING, UNKNOWN = 0, -1
"""States of a cell (`synth.codec`)."""


class Parity(BaseModel):
    """What shall be alike in groups: the distribution of a target, or the sizes of the groups, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    across: Annotated[
        tuple[str, ...],
        Field(min_length=1, description="columns whose groups, taken together, are made alike"),
    ]
    target: Annotated[
        str | None, Field(description="column that shall not depend on the group; none: only sizes are asked")
    ] = None
    sizes: Annotated[
        Literal["kept", "equal"], Field(description="equal: as many rows of each group; kept: as learned")
    ] = "kept"

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if self.target is None and self.sizes == "kept":
            raise ValueError("parity must ask for a target or `sizes: equal`, however: it asks for neither")
        if self.target in self.across or len(set(self.across)) < len(self.across):
            raise ValueError("parity must name each column once, however: one stands twice")
        return self

    @property
    def columns(self) -> frozenset[str]:
        """All columns that it names: what they have to do with each other is no longer what was learned."""
        return frozenset(self.across if self.target is None else (*self.across, self.target))

    @property
    def statement(self) -> str:
        """What holds in the rows, in plain words."""
        groups = ", ".join(repr(n) for n in self.across)
        parts = []
        if self.target is not None:
            parts.append(
                f"{self.target!r} was drawn independently of {groups}, so that each of its values is equally likely in "
                "each group (demographic parity)"
            )
        if self.sizes == "equal":
            parts.append(f"each group of {groups} was drawn with the same probability, and none without one")
        return (
            f"As the recipe asked, {' and '.join(parts)}. All else was drawn under these by exact conditional "
            "sampling. Shares of a sample still differ by chance, and the real table is not like this."
        )

    def check(self, name: str, schema: Schema) -> None:
        """Refuses what cannot be met exactly, before anything is spent.

        Args:
            name: of the synthesizer.
            schema: the columns.

        Raises:
            RecipeError: the synthesizer has no exact conditions, the schema has constraints, or a column does not fit.
            SchemaError: a name is no column.
        """
        # A recipe is read where no model is.
        from synth.registry import synthesizer

        if not synthesizer(name).exact:
            raise RecipeError(
                f"parity needs a synthesizer whose conditions are exact, however: those of {name} are not; choose "
                "circuit, gmm or marginals, or leave parity out"
            )
        if schema.constraints:
            raise RecipeError(
                "parity needs rows that are drawn freely, however: the schema has constraints, and what breaks one is "
                "drawn again, which would undo parity; leave either out"
            )
        for column in (schema[n] for n in (*self.across, *filter(None, [self.target]))):
            if not column.learned or column.image is not None:
                raise RecipeError(
                    f"parity needs columns that are learned, however: {column.name!r} is kind: {column.kind}; "
                    "name another"
                )
        for column in (schema[n] for n in self.across):
            if column.kind not in ("categorical", "boolean"):
                raise RecipeError(
                    f"groups of parity must be categories, however: {column.name!r} is kind: {column.kind}; name "
                    "another, or say kind: categorical in the schema"
                )


class Leveled:
    """Conditions on rows, under which a model's draws have parity.

    Args:
        parity: what is asked.
        codec: the columns.
        model: whose conditions are exact.

    Raises:
        RecipeError: a column is missing together with others, so that it has no state of its own.
    """

    def __init__(self, parity: Parity, codec: "Codec", model: "Model") -> None:
        names, fields = codec.schema.names, codec.layout.fields
        self._model, self._equal = model, parity.sizes == "equal"
        self._groups = [names.index(n) for n in parity.across]
        self._target = [] if parity.target is None else [names.index(parity.target)]
        for i in (*self._groups, *self._target):
            if fields[i].group is not None:
                raise RecipeError(
                    f"parity needs columns that are missing by themselves, however: {names[i]!r} is missing together "
                    "with others; name another column"
                )
        self._fields = fields

    def of(self, rows: int, rng: np.random.Generator) -> "Encoded":
        """The condition of each of `rows` drawn rows."""
        drawn = self._model.draw(rows, rng)
        states = np.full_like(drawn.states, UNKNOWN)
        scores = np.zeros_like(drawn.scores)
        for i in self._groups:
            states[:, i] = self._uniform(i, rows, rng) if self._equal else drawn.states[:, i]
        # Where nothing is asked of a target, groups alone are the condition.
        other = self._model.draw(rows, rng) if self._target else drawn
        for i in self._target:
            states[:, i] = other.states[:, i]
            if (score := self._fields[i].score) is not None:
                scores[:, score] = other.scores[:, score]
        return replace(drawn, states=states, scores=scores)

    def _uniform(self, field: int, rows: int, rng: np.random.Generator) -> NDArray[np.int32]:
        """States that are values and occur, each as likely."""
        rates = np.array(self._fields[field].rates)
        able = np.flatnonzero(rates > 0)
        return rng.choice(able[able != MISSING], rows).astype(np.int32)
