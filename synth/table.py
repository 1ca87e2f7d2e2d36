"""A fitted model of a whole table: what `fit` gives, `load` reads and people work with."""

import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from privacy.curator import Curator, ExactCurator, Floats, Keys
from privacy.errors import InputError, RecipeError, ReleaseError, SchemaError, UsageError
from synth.codec import UNKNOWN, Codec, Encoded
from synth.constraints import Constraints, breaks, unique_keys
from synth.em import slices
from synth.images import as_images, holds_images
from synth.infer import infer_table
from synth.keys import NOT_CONVERTED, one
from synth.learn import learn
from synth.parity import Leveled, Parity
from synth.profile import Labels, Profile
from synth.registry import (
    Coded,
    Dense,
    Interpolating,
    Model,
    Restoring,
    Stepwise,
    check_images,
    check_options,
    resolve,
    synthesizer,
)
from synth.rows import EncodedStore, RawRows, table_source
from synth.rules import Unique
from synth.schema import IMAGE, Schema, typed
from synth.train import Trained

Frame = TypeVar("Frame", pd.DataFrame, pa.Table)

FORMAT = 2
"""Version of the files of a stored model."""

REJECTED = b"rejected"
"""Key under which a part's metadata say how many drawn rows were rejected for it."""

MOST_DRAWN, MOST_FILLED = 50, 20
"""Rows that are drawn at most for one that meets the constraints, and draws that a row may take to be filled; a row
that cannot be filled so that constraints hold keeps what it misses."""

PART_ROWS, AHEAD = 32_768, 4
"""Rows that are drawn at a time, which what is done to them then finds in the processor's cache; and parts that may
wait to be taken."""

PART_PIXELS = 16_000_000
"""Numbers of images that are drawn at a time."""


class TableModel(Generic[Frame]):
    """A model of a table: draws rows, conditions, scores and fills rows; the same kind of frame in and out."""

    def __init__(
        self,
        codec: Codec,
        model: Model,
        *,
        frame: type[Frame],
        threads: int,
        dtypes: Mapping[str, str] | None = None,
        constraints: Constraints | None = None,
    ) -> None:
        self._codec = codec
        self._constraints = constraints or Constraints(codec.schema)
        self._model = model
        self._frame: type[Frame] = frame
        self._dtypes = dict(dtypes or {})
        self._threads = threads
        tensors = {name: tensor.contiguous() for name, tensor in model.tensors().items()}
        # A single metadata key: safetensors writes several in random order.
        self._weights: bytes = save_tensors(tensors, {"format": "pt"})

    @property
    def schema(self) -> Schema:
        """The columns."""
        return self._constraints.schema

    @property
    def codec(self) -> Codec:
        """Table ⇄ arrays; the columns are those of `Constraints.coded`."""
        return self._codec

    @property
    def synthesizer(self) -> str:
        """Name of the synthesizer."""
        return self._model.name

    @property
    def density(self) -> Callable[[Frame], Floats] | None:
        """`log_prob`; None where the synthesizer knows no exact densities."""
        return self.log_prob if isinstance(self._model, Dense) and self._model.exact else None

    def sample(
        self, rows: int, *, given: Mapping[str, object] | None = None, seed: int = 0, first_row: int = 0
    ) -> Frame:
        """New rows.

        Args:
            rows: how many.
            given: values that some columns shall have; None means missing. The others are drawn from their
                distribution under that condition, exactly where the synthesizer is exact. Of columns that
                are missing together, one that is said to be missing stands for all that nothing is said of.
            seed: of the draw; equal seeds give equal rows.
            first_row: number of the first row, from which identifiers follow.

        Raises:
            UsageError: `rows`, `seed` or `first_row` is negative, or constraints leave too little room.
            ConditionError: a condition names what does not exist, has no probability or breaks a constraint.
        """
        _at_least(0, rows=rows, seed=seed, first_row=first_row)
        if given is not None and not isinstance(given, Mapping):
            raise UsageError(
                f"given must be columns and their values, however: it is {type(given).__name__}; "
                "write given={'column': value}"
            )
        parts = self._drawn(rows, np.random.PCG64DXSM(seed), given, first_row, f"{seed}")
        table = pa.concat_tables(parts).unify_dictionaries()
        return self._out(_fixed(table, given or {}).replace_schema_metadata(None))

    def shard(
        self,
        number: int,
        rows: int,
        *,
        seed: int,
        first_row: int,
        of: int = 1,
        draw: int = 1,
        parity: Parity | None = None,
    ) -> Iterator[pa.Table]:
        """The rows of one shard of a release, in parts: a function of (model digest, seed, number, shards, draw).

        The metadata of a part say how many drawn rows were rejected for it, if any (`REJECTED`).

        Args:
            number: of the shard.
            rows: how many.
            seed: of the release.
            first_row: number of the first row, from which identifiers follow.
            of: shards that there are, among which constraints of uniqueness divide what rows may be.
            draw: of several tables from the same model and seed, which; each is one of its own.
            parity: what shall be alike in groups.

        Raises:
            UsageError: constraints leave too little room for so many rows.
            RecipeError: parity cannot be met.
        """
        salt = f"{self.digest()} {seed}" + (f" draw {draw}" if draw > 1 else "")
        words = hashlib.sha256(f"{salt} {number}".encode()).digest()
        bits = np.random.PCG64DXSM(int.from_bytes(words[:16]))
        if parity is None:
            return self._drawn(rows, bits, None, first_row, salt, share=(number, of))
        parity.check(self.synthesizer, self.schema)
        return self._drawn_freely(rows, bits, Leveled(parity, self._codec, self._model), first_row, salt)

    def _drawn(
        self,
        rows: int,
        bits: np.random.PCG64DXSM,
        given: Mapping[str, object] | None,
        first_row: int,
        salt: str,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[pa.Table]:
        """Rows in parts, each from a stream of its own; while one is decoded the next is drawn."""
        condition = self._condition(given) if given else None
        if self._constraints.schema.constraints:
            return self._drawn_constrained(rows, bits, given or {}, condition, first_row, salt, share)
        return self._drawn_freely(rows, bits, condition, first_row, salt)

    @property
    def _part_rows(self) -> int:
        """Rows of a part: of large images fewer."""
        return min(PART_ROWS, max(1, PART_PIXELS // max(1, self._codec.layout.pixels)))

    def _drawn_freely(
        self,
        rows: int,
        bits: np.random.PCG64DXSM,
        condition: "_Condition | Leveled | None",
        first_row: int,
        salt: str,
    ) -> Iterator[pa.Table]:
        waiting: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(1) as other:
            for number, part in enumerate(slices(rows, self._part_rows)):
                rng = np.random.Generator(bits.jumped(number))
                size = part.stop - part.start
                drawn = self._model.draw(size, rng, given=condition.of(size, rng) if condition else None)
                start = first_row + part.start
                waiting.append(other.submit(self._codec.decode, drawn, first_row=start, salt=salt))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            yield from (w.result() for w in waiting)

    def _drawn_constrained(
        self,
        rows: int,
        bits: np.random.PCG64DXSM,
        given: Mapping[str, object],
        condition: "_Condition | None",
        first_row: int,
        salt: str,
        share: tuple[int, int],
    ) -> Iterator[pa.Table]:
        """Rows that meet the constraints: what is built in does, and of the others those that do are kept."""
        seen = [_Seen(unique, share) for unique in self._constraints.unique]
        done = drawn_rows = number = 0
        while done < rows or number == 0:
            if drawn_rows > 1000 + MOST_DRAWN * rows:
                raise UsageError(
                    f"constraints must leave room for the rows, however: of {drawn_rows:,} drawn rows {done:,} of "
                    f"{rows:,} could be kept; release fewer rows, or leave out what is rarely met: "
                    + "; ".join(map(str, self.schema.constraints))
                )
            # After the first part it is known how many rows are kept.
            kept_share = max(done, 1) / max(drawn_rows, 1) if drawn_rows else 1.0
            size = int(min(self._part_rows, math.ceil((rows - done) / kept_share)))
            rng = np.random.Generator(bits.jumped(number))
            drawn = self._model.draw(size, rng, given=condition.of(size, rng) if condition else None)
            drawn = self._with_what_is_there(drawn, rng, given)
            table = self._table_of(drawn, given, first_row=first_row + done, salt=salt)
            kept = ~self._constraints.broken(table) & _meets(table, given)
            for unique in seen:
                kept &= unique.new(table, kept)
            index = np.flatnonzero(kept)[: rows - done]
            drawn_rows, number = drawn_rows + size, number + 1
            if len(index) < size:
                # Identifiers are numbered by the rows that are kept.
                table = self._table_of(drawn.take(index), given, first_row=first_row + done, salt=salt)
            done += len(index)
            rejected = size - len(index) if done < rows else int((~kept[: _last(kept, index)]).sum())
            yield table.replace_schema_metadata({REJECTED: str(rejected)} if rejected else None)

    def _table_of(
        self, drawn: Encoded, given: Mapping[str, object], *, first_row: int = 0, salt: str = ""
    ) -> pa.Table:
        """Drawn rows in the table's columns; what is given is there to its last digit before constraints follow."""
        coded = self._codec.decode(drawn, first_row=first_row, salt=salt)
        exact = {n: v for n, v in given.items() if n in coded.column_names and n in self.schema.names}
        return self._constraints.decode(_fixed(coded, exact), self._codec.profile)

    def _with_what_is_there(
        self, drawn: Encoded, rng: np.random.Generator, given: Mapping[str, object]
    ) -> Encoded:
        """Rows whose columns that must not be missing are drawn given all others, exactly where the model is."""
        if not self._constraints.may_miss:
            return drawn
        names = list(self._codec.schema.names)
        table = self._table_of(drawn, given)
        gone = drawn.states.copy()
        for rows, name in self._constraints.said_missing(table):
            field = self._codec.layout.fields[names.index(name)]
            if field.group is not None and field.rates[0] <= 0:
                # It is never missing without its group, so the others of the group are missing with it.
                gone[rows, field.group] = 0
        drawn = replace(drawn, states=gone)
        for missing, columns in self._constraints.to_draw_anew(table):
            index = np.flatnonzero(missing)
            if not len(index) or any(c in given for c in columns):
                continue
            states = drawn.states[index].copy()
            for column in columns:
                at = names.index(column)
                group: int | None = self._codec.layout.fields[at].group
                together = [at] if group is None else [group, *self._together(group)]
                lacking = np.isin(states[:, together], (0, UNKNOWN))
                states[:, together] = np.where(lacking, UNKNOWN, states[:, together])
            unknown = replace(drawn.take(index), states=states)
            anew = self._model.draw(len(index), rng, given=unknown, present=True)
            whole, scores = drawn.states.copy(), drawn.scores.copy()
            whole[index], scores[index] = anew.states, anew.scores
            # Pixels stay: what is drawn anew is drawn given them.
            drawn = replace(drawn, states=whole, scores=scores)
        return drawn

    def _together(self, group: int | None) -> list[int]:
        """The columns that a group says are there."""
        return [i for i, f in enumerate(self._codec.layout.fields) if f.group == group]

    def _condition(self, given: Mapping[str, object]) -> "_Condition":
        """Conditions as a model knows them: where several codes mean the same, as often as they are likely."""
        choices = self._constraints.conditions(given, self._codec.profile)
        rows = Encoded.joined([self._codec.condition(c) for c in choices])
        if len(rows) == 1:
            return _Condition(rows, np.ones(1))
        if isinstance(self._model, Dense):
            logs = self._model.log_prob(rows)
            return _Condition(rows, np.exp(logs - logs.max()))
        weights = np.ones(len(rows))
        for i, field in enumerate(self._codec.layout.fields):
            if len(set(rows.states[:, i].tolist())) > 1:
                weights *= np.array(field.rates)[rows.states[:, i]]
        return _Condition(rows, weights)

    def log_prob(self, frame: Frame) -> Floats:
        """Log-density of each row in the units of its columns: float64 (n,).

        Columns that the frame lacks are integrated out; a missing value counts as what it is, missing. Rare
        values that were pooled share the probability of their pool. A value that no row of the model can have, a
        category that was never learned or a number beyond what was learned, counts as likely as the largest
        share of the rows that disclosure control may have hidden there; so does a row that breaks a constraint. A
        column that follows from others has no density of its own.

        Raises:
            UsageError: the synthesizer knows no densities.
            InputError: a column has another type than the schema says, or some columns that a constraint ties
                together are there and others are not.
        """
        if not isinstance(self._model, Dense):
            raise UsageError(
                f"log_prob needs a synthesizer that knows densities, however: this is {self._model.name}; "
                "fit a circuit, a gmm or a vae, or of images an image-mixture"
            )
        known = self._known(frame)
        encoded, strange = self._codec.encode_with_strange(self._constraints.encode(known), rows=len(frame))
        strange = strange + self._broken(known, len(frame))
        profile = self._codec.profile
        hidden = math.log(max(1, profile.at_least) / max(profile.rows, 1.0))
        return self._model.log_prob(encoded) + self._codec.log_jacobian(encoded) + hidden * strange

    def impute(self, frame: Frame, *, seed: int = 0) -> Frame:
        """The frame with its missing values drawn from their conditional distribution.

        Args:
            frame: rows; columns that it lacks are added at the end, columns that the model does not know stay.
            seed: of the draw.

        Raises:
            UsageError: `seed` is negative.
            InputError: a column has another type than the schema says.
        """
        _at_least(0, seed=seed)
        table = self._known(frame)
        encoded = self._codec.encode(self._constraints.encode(table), rows=len(frame))
        # What is never learned stays missing; whether a group is there is drawn with its columns.
        drawn = [c.learned or c.kind == "image" for c in self._codec.schema]
        drawn += [True] * len(self._codec.profile.absences)
        states = np.where((encoded.states == 0) & np.array(drawn), UNKNOWN, encoded.states).astype(np.int32)
        unknown = replace(encoded, states=states)
        rng = np.random.Generator(np.random.Philox(seed))
        out = self._filled(table, unknown, rng)
        if not isinstance(frame, pd.DataFrame):
            return self._out(out)
        result, values = frame.rename(columns=str), pd.DataFrame(self._out(out)).set_axis(frame.index)
        for name in values:
            result[name] = values[name]
        return result

    def _filled(self, table: pa.Table, unknown: Encoded, rng: np.random.Generator) -> pa.Table:
        """The table with what is missing from drawn rows; what is drawn against a constraint is drawn again."""
        rows, out = len(unknown), table
        left = np.arange(rows)
        for _ in range(MOST_FILLED if self.schema.constraints else 1):
            part = unknown if len(left) == rows else unknown.take(left)
            drawn = self._model.draw(len(left), rng, given=part, present=True)
            made = self._constraints.decode(self._codec.decode(drawn), self._codec.profile)
            known = table if len(left) == rows else table.take(pa.array(left))
            filled = self._coalesced(known, made)
            broken = self._broken(filled, len(left))
            out = filled if len(left) == rows else _placed(out, filled, left, ~broken)
            if not broken.any():
                return out
            # A row stays as it came until it can be filled.
            out = (
                _placed(out, self._coalesced(known, made.slice(0, 0)), left, broken)
                if len(left) == rows
                else out
            )
            left = left[broken]
        return out

    def _coalesced(self, table: pa.Table, made: pa.Table) -> pa.Table:
        """A table whose missing values are those of made rows; where none were made, only its columns are added."""
        out = table if table.num_columns else made.select([])
        for column in self.schema:
            i, field = out.schema.get_field_index(column.name), self.schema.arrow.field(column.name)
            new = made.column(column.name) if len(made) else pa.nulls(len(table), field.type)
            if i < 0:
                out = out.append_column(field.with_nullable(True), new)
                continue
            known = table.column(column.name).cast(column.arrow_type)
            if pa.types.is_floating(known.type):
                known = pc.if_else(pc.is_nan(known), pa.scalar(None, known.type), known)
            out = out.set_column(i, field, pc.coalesce(known, new))
        return out

    def _broken(self, table: pa.Table, rows: int) -> NDArray[np.bool_]:
        """Which rows break a constraint of which all columns are there."""
        found = np.zeros(rows, np.bool_)
        for constraint in self.schema.constraints:
            if not isinstance(constraint, Unique) and set(constraint.names) <= set(table.column_names):
                found |= breaks(constraint, self._constraints.typed(table, constraint.names), self.schema)
        return found

    def embed(self, frame: Frame) -> Floats:
        """The code of each row, for models that have one: float64 (n, latent).

        Raises:
            UsageError: the synthesizer has no codes.
        """
        return self._with_codes().embed(self._encoded(frame))

    def _encoded(self, frame: Frame) -> Encoded:
        return self._codec.encode(self._constraints.encode(self._known(frame)), rows=len(frame))

    def reconstruct(self, frame: Frame, *, seed: int = 0) -> Frame:
        """Rows drawn from the codes of rows, for models that have one.

        Args:
            frame: rows.
            seed: of the draw.

        Raises:
            UsageError: the synthesizer has no codes, or `seed` is negative.
        """
        _at_least(0, seed=seed)
        rng = np.random.Generator(np.random.Philox(seed))
        drawn = self._with_codes().reconstruct(self._encoded(frame), rng)
        coded = self._codec.decode(self._with_what_is_there(drawn, rng, {}), salt=f"reconstructed {seed}")
        out = self._out(self._constraints.decode(coded, self._codec.profile))
        return out.set_axis(frame.index) if isinstance(frame, pd.DataFrame) else out

    def denoise(self, frame: Frame, *, noise: float = 25.0, seed: int = 0) -> Frame:
        """The frame with images as they probably were before noise was added, for models that can tell.

        Args:
            frame: rows; columns that the model does not know stay, and so do images that are missing.
            noise: its standard deviation, in levels of 256.
            seed: of what is drawn.

        Raises:
            UsageError: the synthesizer cannot mend images, or `noise` is not positive, or `seed` is negative.
        """
        if not 0 < noise <= 255:
            raise UsageError(f"noise must be above 0 and at most 255 levels, however: it is {noise}")
        return self._restored(frame, noise=noise, scale=1, seed=seed)

    def enhance(self, frame: Frame, *, scale: int = 2, seed: int = 0) -> Frame:
        """The frame with images in the model's size as they probably were before they were shrunk.

        What is added is what images of the model have in common, not what was there: it is no evidence of anything.

        Args:
            frame: rows, whose images may be of the smaller size; columns that the model does not know stay.
            scale: how many times smaller they were, in each direction.
            seed: of what is drawn.

        Raises:
            UsageError: the synthesizer cannot mend images, or `scale` is below 2, or `seed` is negative.
        """
        _at_least(2, scale=scale)
        return self._restored(frame, noise=1.0, scale=scale, seed=seed)

    def _restored(self, frame: Frame, *, noise: float, scale: int, seed: int) -> Frame:
        _at_least(0, seed=seed)
        if not isinstance(self._model, Restoring):
            raise UsageError(
                f"denoise and enhance need a synthesizer that can mend images, however: this is {self._model.name}; "
                "fit an image-vae"
            )
        table = self._known(frame)
        encoded = self._codec.encode(self._constraints.encode(table), rows=len(frame))
        rng = np.random.Generator(np.random.Philox(seed))
        coded = self._codec.decode(self._model.restored(encoded, rng, noise=noise, scale=scale))
        out = table
        for column in self.schema.images:
            i = table.schema.get_field_index(column.name)
            if i >= 0:
                out = out.set_column(i, column.name, coded.column(column.name))
        if not isinstance(frame, pd.DataFrame):
            return self._out(out)
        result, values = frame.rename(columns=str), pd.DataFrame(self._out(out)).set_axis(frame.index)
        for column in self.schema.images:
            if column.name in values:
                result[column.name] = values[column.name]
        return result

    def between(
        self, first: NDArray[np.uint8], second: NDArray[np.uint8], *, steps: int = 8
    ) -> NDArray[np.uint8] | None:
        """Images on the straight lines between the codes of images, for models in which each code has an image.

        Args:
            first: images, uint8 (n, height, width, channels).
            second: as many others.
            steps: images on each line, both ends included, as their codes show them.

        Returns:
            uint8 (n, steps, height, width, channels); None where the synthesizer has no codes of images.
        """
        if not isinstance(self._model, Interpolating):
            return None
        flat = [images.reshape(len(images), -1) for images in (first, second)]
        return self._model.between(*flat, steps=steps).reshape(len(first), steps, *first.shape[1:])

    @property
    def trained(self) -> Trained | None:
        """How its training by gradients went; None where there was none, or where the model was loaded."""
        return self._model.trained if isinstance(self._model, Stepwise) else None

    def _with_codes(self) -> Coded:
        if not isinstance(self._model, Coded):
            raise UsageError(
                f"embed and reconstruct need a synthesizer with codes, however: this is {self._model.name}; "
                "fit a vae, or of images an image-vae"
            )
        return self._model

    def save(self, folder: Path | str) -> None:
        """Writes `model.safetensors` and `model.json` into a folder, which is made if it is not there.

        Raises:
            UsageError: the folder is a file.
        """
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise UsageError(f"a model must be stored in a folder, however: {target} is a file; name another")
        target.mkdir(parents=True, exist_ok=True)
        (target / "model.safetensors").write_bytes(self._weights)
        (target / "model.json").write_text(self._describe(), "utf-8")

    def digest(self) -> str:
        """SHA-256 (hex) of everything that a draw depends on."""
        return hashlib.sha256(self._describe().encode()).hexdigest()

    def as_arrow(self) -> "TableModel[pa.Table]":
        """The same model with Arrow tables in and out."""
        return TableModel(
            self._codec,
            self._model,
            frame=pa.Table,
            threads=self._threads,
            dtypes=self._dtypes,
            constraints=self._constraints,
        )

    def _describe(self) -> str:
        description = {
            "format": FORMAT,
            "synthesizer": self._model.name,
            "weights": hashlib.sha256(self._weights).hexdigest(),
            "threads": self._threads,
            "frame": "pandas" if self._frame is pd.DataFrame else "arrow",
            "dtypes": self._dtypes,
            "schema": json.loads(self.schema.to_json()),
            "profile": json.loads(self._codec.profile.to_json()),
        }
        return json.dumps(description, ensure_ascii=False, indent=1) + "\n"

    def _known(self, frame: Frame) -> pa.Table:
        """The frame as Arrow; of pandas only the columns that the model knows, others may hold anything."""
        if not isinstance(frame, pd.DataFrame):
            return _arrow(frame)
        return _arrow(frame.loc[:, [str(n) in self.schema.names for n in frame.columns]])

    def _out(self, table: pa.Table) -> Frame:
        if self._frame is pa.Table:
            return table  # type: ignore[no-any-return]
        # By the extension's own reader, or integers with missing values would pass through floats.
        types: dict[str, Any] = {n: pd.api.types.pandas_dtype(d) for n, d in self._dtypes.items()}
        plain = table.drop_columns(list(types)).to_pandas()
        for name, dtype in types.items():
            plain[name] = dtype.__from_arrow__(table.column(name))
        return plain[table.column_names]  # type: ignore[no-any-return]


def fit(
    frame: Frame,
    synthesizer_name: str = "auto",
    *,
    schema: Schema | None = None,
    seed: int = 0,
    at_least: int = 10,
    threads: int = 2,
    options: Mapping[str, Any] | None = None,
) -> TableModel[Frame]:
    """Fits a model to a table in memory, exactly: there is no formal privacy guarantee.

    Args:
        frame: pandas or Arrow.
        synthesizer_name: a name from `synth.registry.ALL`, or `auto`.
        schema: what is known of the columns; without it, it is inferred from the frame.
        seed: of the start of the fit.
        at_least: values that fewer units share are pooled; 0 turns this off.
        threads: of the fit; sums differ with their number, so it is part of the model.
        options: options of the synthesizer.

    Raises:
        UsageError: `seed` or `at_least` is negative, or `threads` is below 1.
        InputError: the frame is no table, lacks a column of the schema, or has too few rows.
        RecipeError: the synthesizer or an option does not exist.

    Examples:
        >>> import numpy as np, pandas as pd, synth
        >>> rng = np.random.default_rng(7)
        >>> frame = pd.DataFrame({"origin": rng.choice(["EWR", "JFK"], 500), "hours": rng.normal(3, 1, 500)})
        >>> model = synth.fit(frame, "gmm", seed=7)
        >>> model.sample(3, given={"origin": "JFK"}, seed=1)["origin"].tolist()
        ['JFK', 'JFK', 'JFK']
        >>> model.log_prob(frame).shape
        (500,)
    """
    _at_least(0, seed=seed, at_least=at_least)
    _at_least(1, threads=threads)
    table = _arrow(frame)
    known = (schema or infer_table(table)).kept
    absent = [n for n in known.names if n not in table.column_names]
    if absent:
        raise InputError(f"a table must have the columns of its schema, however: {absent[0]!r} is not there")
    constraints = Constraints(known)
    rows = RawRows(constraints.coded, constraints.source(table_source(_typed(table, known))))
    key = hashlib.blake2b(f"fit {seed}".encode(), digest_size=16).digest()
    curator = ExactCurator(rows, key=key, holdout=0.0)
    codec = Codec(constraints.coded, learn(constraints.coded, curator, labels_of(rows), at_least=at_least))
    store = EncodedStore(None, unit_is_row=rows.unit_is_row)
    encoded = curator.recode(lambda batch: codec.code(batch, rows.dictionaries), store)
    model = fit_encoded(encoded, codec, synthesizer_name, options or {}, seed=seed, threads=threads)
    return TableModel(
        codec,
        model,
        frame=type(frame),
        threads=threads,
        dtypes=_extension_dtypes(frame),
        constraints=constraints,
    )


def fit_encoded(
    curator: Curator,
    codec: Codec,
    synthesizer_name: str,
    options: Mapping[str, Any],
    *,
    seed: int,
    threads: int,
) -> Model:
    """Fits a synthesizer to rows that are already encoded.

    Sums depend on the number of threads, so it is set here whatever the environment says, and set back.

    Raises:
        RecipeError: the synthesizer or an option does not exist, or is out of range.
    """
    chosen = resolve(synthesizer_name, images=bool(codec.layout.images))
    check_images(chosen, codec.schema)
    check_options(chosen, options)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    # Numbers that have all but vanished take ten times as long as others, and change nothing.
    torch.set_flush_denormal(True)
    try:
        model: Model = synthesizer(chosen).fit(curator, codec.layout, options, seed=seed)
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
    return model


def labels_of(rows: RawRows) -> Labels:
    """The strings of codes, from the dictionaries of these rows."""

    def labels(column: str, codes: Keys) -> list[str]:
        known = rows.dictionaries[column]
        if len(codes) and int(codes.max()) >= len(known):
            # The answer that named these codes was replayed, so the rows have not been read in this process.
            for _ in rows.batches([column]):
                pass
        return known.labels(codes)

    return labels


def load(folder: Path | str) -> TableModel[Any]:
    """Reads a model that `save` wrote.

    Raises:
        ReleaseError: files are missing, were changed, or are of another version.
    """
    source = Path(folder)
    try:
        description = json.loads((source / "model.json").read_text("utf-8"))
        weights = (source / "model.safetensors").read_bytes()
    except OSError as e:
        raise ReleaseError(
            f"a model must be a folder with model.json and model.safetensors, however: {source}: {e.strerror}; "
            "give the folder that `save` wrote"
        ) from None
    except ValueError:
        raise ReleaseError(
            f"a model must be readable, however: {source}/model.json is not; fit it again"
        ) from None
    version = description.get("format") if isinstance(description, dict) else None
    if version != FORMAT:
        raise ReleaseError(
            f"a model must be of format {FORMAT}, however: {source} has format={version}; "
            "fit it again with this version"
        )
    if hashlib.sha256(weights).hexdigest() != description.get("weights"):
        raise ReleaseError(
            f"a model's weights must be what was stored, however: {source} was changed; fit it again"
        )
    try:
        schema = Schema.model_validate(description["schema"])
        profile = Profile.from_json(json.dumps(description["profile"]))
        constraints = Constraints(schema)
        if tuple(c.name for c in profile.columns) != constraints.coded.names:
            raise ValueError("its profile is of other columns")
        codec = Codec(constraints.coded, profile)
        model = synthesizer(description["synthesizer"]).restore(codec.layout, load_tensors(weights))
        frame = {"pandas": pd.DataFrame, "arrow": pa.Table}[description["frame"]]
        threads, dtypes = int(description["threads"]), dict(description["dtypes"])
        return TableModel(codec, model, frame=frame, threads=threads, dtypes=dtypes, constraints=constraints)
    except (KeyError, TypeError, ValueError, RecipeError, SchemaError) as e:
        # Pydantic's and torch's complaints about a damaged file are of these.
        raise ReleaseError(
            f"a model must fit its schema, however: {source} was changed ({type(e).__name__}: {e}); fit it again"
        ) from None


class _Condition:
    """Rows of conditions of which each drawn row has to meet one.

    Args:
        rows: the conditions.
        weights: how likely each is: float64 (rows,), which need not be normalized.
    """

    def __init__(self, rows: Encoded, weights: Floats) -> None:
        self._rows = rows
        self._weights = weights / weights.sum()

    def of(self, rows: int, rng: np.random.Generator) -> Encoded:
        """The condition of each of `rows` drawn rows."""
        if len(self._rows) == 1:
            return self._rows
        return self._rows.take(rng.choice(len(self._rows), rows, p=self._weights))


class _Seen:
    """The values of a constraint of uniqueness that rows have so far; shards divide all values among themselves."""

    def __init__(self, rule: Unique, share: tuple[int, int]) -> None:
        self._rule, (self._number, self._of) = rule, share
        self._hashes = np.zeros(0, np.uint64)

    def new(self, table: pa.Table, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows have values that no row before has: bool (n,)."""
        hashes, known = unique_keys(self._rule, table)
        kept = (
            (hashes % np.uint64(self._of) == self._number)
            & ~np.isin(hashes, self._hashes)
            & candidates
            & known
        )
        first = np.zeros(len(table), np.bool_)
        index = np.flatnonzero(kept)
        first[index[np.unique(hashes[index], return_index=True)[1]]] = True
        self._hashes = np.concatenate([self._hashes, hashes[first]])
        return first | (~known & candidates)


def _last(kept: NDArray[np.bool_], index: NDArray[np.int64]) -> int:
    """Rows up to the last one that was used."""
    return int(index[-1]) + 1 if len(index) else len(kept)


def _fixed(table: pa.Table, given: Mapping[str, object]) -> pa.Table:
    """The table with columns that have a given value in every row."""
    for name, value in given.items():
        i = table.schema.get_field_index(name)
        same = one(value, table.schema.field(i).type).take(pa.array(np.zeros(len(table), np.int64)))
        table = table.set_column(i, table.schema.field(i), same)
    return table


def _meets(table: pa.Table, given: Mapping[str, object]) -> NDArray[np.bool_]:
    """Which rows are missing what is given to be missing, and have what is given to be there."""
    met = np.ones(len(table), np.bool_)
    for name, value in given.items():
        missing = table.column(name).is_null(nan_is_null=True).to_numpy()
        met &= missing == (value is None or value != value)
    return met


def _placed(table: pa.Table, part: pa.Table, rows: NDArray[np.int64], which: NDArray[np.bool_]) -> pa.Table:
    """A table with rows of a part in the places of its own."""
    order = np.arange(len(table))
    order[rows[which]] = len(table) + np.flatnonzero(which)
    whole = pa.concat_tables([table, part.cast(table.schema)]).unify_dictionaries()
    return whole.take(pa.array(order))


def _at_least(least: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise UsageError(f"{name} must be a whole number, however: it is {value!r}")
        if value < least:
            raise UsageError(f"{name} must be at least {least}, however: it is {value}")


def _extension_dtypes(frame: pd.DataFrame | pa.Table) -> dict[str, str]:
    """Columns of pandas' nullable types and of its Arrow types, by the names that pandas reads back."""
    if not isinstance(frame, pd.DataFrame):
        return {}
    plain = pd.DatetimeTZDtype | pd.CategoricalDtype
    named = {
        str(name): f"string[{dtype.storage}]" if isinstance(dtype, pd.StringDtype) else str(dtype)
        for name, dtype in frame.dtypes.items()
        if hasattr(dtype, "__from_arrow__") and not isinstance(dtype, plain)
    }
    return {name: text for name, text in named.items() if _readable(text)}


def _readable(dtype: str) -> bool:
    """Whether pandas reads the name of a type; not of all that it writes."""
    try:
        pd.api.types.pandas_dtype(dtype)
    except (TypeError, ValueError, NotImplementedError):
        return False
    return True


def _arrow(frame: pd.DataFrame | pa.Table) -> pa.Table:
    if not isinstance(frame, pa.Table | pd.DataFrame):
        raise InputError(
            f"a table must be a pandas DataFrame or an Arrow Table, however: {type(frame).__name__}; "
            "read a file first, e.g. with pandas.read_parquet"
        )
    names = [str(n) for n in (frame.column_names if isinstance(frame, pa.Table) else frame.columns)]
    twice = [n for n, times in Counter(names).items() if times > 1]
    if twice:
        raise InputError(f"column names must differ, however: {twice[0]!r} stands twice; rename one")
    if isinstance(frame, pa.Table):
        return _with_images(frame)
    named = frame.rename(columns=str)
    try:
        return _with_images(pa.Table.from_pandas(named, preserve_index=False).replace_schema_metadata(None))
    except NOT_CONVERTED:
        faulty = next((n for n in named if not _converts(named[n])), "one of them")
        raise InputError(
            f"a column must hold values of one plain type, however: {faulty!r} does not; convert it, e.g. to str"
        ) from None


def _with_images(table: pa.Table) -> pa.Table:
    """The table with bytes that are images as columns of images."""
    for i, name in enumerate(table.column_names):
        if table.schema.field(i).type != IMAGE and any(holds_images(c) for c in table.column(i).chunks):
            table = table.set_column(i, name, as_images(table.column(i)))
    return table


def _converts(column: pd.Series) -> bool:
    try:
        pa.Array.from_pandas(column)
    except NOT_CONVERTED:
        return False
    return True


def _typed(table: pa.Table, schema: Schema) -> pa.Table:
    """The columns of the schema in its order and types."""
    arrays = [
        typed(column, table.column(column.name), remedy="correct the schema or the column")
        for column in schema
    ]
    return pa.Table.from_arrays(arrays, names=list(schema.names))
