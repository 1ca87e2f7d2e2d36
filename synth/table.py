"""A fitted model of a whole table: what `fit` gives, `load` reads and people work with."""

import hashlib
import json
import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from privacy.curator import Curator, ExactCurator, Floats, Keys
from privacy.errors import InputError, RecipeError, ReleaseError, SchemaError, UsageError
from synth.codec import Codec, Encoded
from synth.em import slices
from synth.infer import infer_table
from synth.keys import NOT_CONVERTED, one
from synth.learn import learn
from synth.profile import Labels, Profile
from synth.registry import Coded, Dense, Model, check_options, synthesizer
from synth.rows import EncodedStore, RawRows, table_source
from synth.schema import Schema

Frame = TypeVar("Frame", pd.DataFrame, pa.Table)

FORMAT = 2
"""Version of the files of a stored model."""

PART_ROWS, AHEAD = 32_768, 4
"""Rows that are drawn at a time, which what is done to them then finds in the processor's cache; and parts that may
wait to be taken."""


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
    ) -> None:
        self._codec = codec
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
        return self._codec.schema

    @property
    def codec(self) -> Codec:
        """Table ⇄ arrays."""
        return self._codec

    @property
    def synthesizer(self) -> str:
        """Name of the synthesizer."""
        return self._model.name

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
            UsageError: `rows`, `seed` or `first_row` is negative.
            ConditionError: a condition names what does not exist or has no probability.
        """
        _at_least(0, rows=rows, seed=seed, first_row=first_row)
        if given is not None and not isinstance(given, Mapping):
            raise UsageError(
                f"given must be columns and their values, however: it is {type(given).__name__}; "
                "write given={'column': value}"
            )
        parts = self._drawn(rows, np.random.PCG64DXSM(seed), given, first_row, f"{seed}")
        table = pa.concat_tables(parts).unify_dictionaries()
        for name, value in (given or {}).items():
            i = table.schema.get_field_index(name)
            kind = table.schema.field(i).type
            same = one(value, kind).take(pa.array(np.zeros(rows, np.int64)))
            table = table.set_column(i, table.schema.field(i), same)
        return self._out(table)

    def shard(self, number: int, rows: int, *, seed: int, first_row: int) -> Iterator[pa.Table]:
        """The rows of one shard of a release, in parts: a function of (model digest, seed, shard number) alone."""
        words = hashlib.sha256(f"{self.digest()} {seed} {number}".encode()).digest()
        bits = np.random.PCG64DXSM(int.from_bytes(words[:16]))
        return self._drawn(rows, bits, None, first_row, f"{self.digest()} {seed}")

    def _drawn(
        self,
        rows: int,
        bits: np.random.PCG64DXSM,
        given: Mapping[str, object] | None,
        first_row: int,
        salt: str,
    ) -> Iterator[pa.Table]:
        """Rows in parts, each from a stream of its own; while one is decoded the next is drawn."""
        condition = self._codec.condition(given) if given else None
        waiting: deque[Future[pa.Table]] = deque()
        with ThreadPoolExecutor(1) as other:
            for number, part in enumerate(slices(rows, PART_ROWS)):
                rng = np.random.Generator(bits.jumped(number))
                drawn = self._model.draw(part.stop - part.start, rng, given=condition)
                start = first_row + part.start
                waiting.append(other.submit(self._codec.decode, drawn, first_row=start, salt=salt))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            yield from (w.result() for w in waiting)

    def log_prob(self, frame: Frame) -> Floats:
        """Log-density of each row in the units of its columns: float64 (n,).

        Columns that the frame lacks are integrated out; a missing value counts as what it is, missing. Rare
        values that were pooled share the probability of their pool. A value that no row of the model can have, a
        category that was never learned or a number beyond what was learned, counts as likely as the largest
        share of the rows that disclosure control may have hidden there.

        Raises:
            UsageError: the synthesizer knows no densities.
            InputError: a column has another type than the schema says.
        """
        if not isinstance(self._model, Dense):
            raise UsageError(
                f"log_prob needs a synthesizer that knows densities, however: this is {self._model.name}; "
                "fit a circuit, a gmm or a vae"
            )
        encoded, strange = self._codec.encode_with_strange(self._known(frame), rows=len(frame))
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
        encoded = self._codec.encode(table, rows=len(frame))
        # What is never learned stays missing; whether a group is there is drawn with its columns.
        learned = np.array([c.learned for c in self.schema] + [True] * len(self._codec.profile.absences))
        unknown = Encoded(
            states=np.where((encoded.states == 0) & learned, -1, encoded.states).astype(np.int32),
            scores=encoded.scores,
        )
        rng = np.random.Generator(np.random.Philox(seed))
        filled = self._codec.decode(self._model.draw(len(frame), rng, given=unknown, present=True))
        out = table if table.num_columns else filled.select([])
        for column in self.schema:
            i, field = out.schema.get_field_index(column.name), self.schema.arrow.field(column.name)
            new = filled.column(column.name)
            if i < 0:
                out = out.append_column(field, new)
                continue
            known = table.column(column.name).cast(column.arrow_type)
            if pa.types.is_floating(known.type):
                known = pc.if_else(pc.is_nan(known), pa.scalar(None, known.type), known)
            out = out.set_column(i, field, pc.coalesce(known, new))
        if not isinstance(frame, pd.DataFrame):
            return self._out(out)
        result, values = frame.rename(columns=str), pd.DataFrame(self._out(out)).set_axis(frame.index)
        for name in values:
            result[name] = values[name]
        return result

    def embed(self, frame: Frame) -> Floats:
        """The code of each row, for models that have one: float64 (n, latent).

        Raises:
            UsageError: the synthesizer has no codes.
        """
        return self._with_codes().embed(self._codec.encode(self._known(frame), rows=len(frame)))

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
        drawn = self._with_codes().reconstruct(self._codec.encode(self._known(frame), rows=len(frame)), rng)
        out = self._out(self._codec.decode(drawn, salt=f"reconstructed {seed}"))
        return out.set_axis(frame.index) if isinstance(frame, pd.DataFrame) else out

    def _with_codes(self) -> Coded:
        if not isinstance(self._model, Coded):
            raise UsageError(
                f"embed and reconstruct need a synthesizer with codes, however: this is {self._model.name}; "
                "fit a vae"
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
            self._codec, self._model, frame=pa.Table, threads=self._threads, dtypes=self._dtypes
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
    known = schema or infer_table(table)
    absent = [n for n in known.names if n not in table.column_names]
    if absent:
        raise InputError(f"a table must have the columns of its schema, however: {absent[0]!r} is not there")
    rows = RawRows(known, table_source(_typed(table, known)))
    key = hashlib.blake2b(f"fit {seed}".encode(), digest_size=16).digest()
    curator = ExactCurator(rows, key=key, holdout=0.0)
    codec = Codec(known, learn(known, curator, labels_of(rows), at_least=at_least))
    store = EncodedStore(None, unit_is_row=rows.unit_is_row)
    encoded = curator.recode(lambda batch: codec.code(batch, rows.dictionaries), store)
    model = fit_encoded(encoded, codec, synthesizer_name, options or {}, seed=seed, threads=threads)
    return TableModel(codec, model, frame=type(frame), threads=threads, dtypes=_extension_dtypes(frame))


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
    check_options(synthesizer_name, options)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    # Numbers that have all but vanished take ten times as long as others, and change nothing.
    torch.set_flush_denormal(True)
    try:
        model: Model = synthesizer(synthesizer_name).fit(curator, codec.layout, options, seed=seed)
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
        if tuple(c.name for c in profile.columns) != schema.names:
            raise ValueError("its profile is of other columns")
        codec = Codec(schema, profile)
        model = synthesizer(description["synthesizer"]).restore(codec.layout, load_tensors(weights))
        frame = {"pandas": pd.DataFrame, "arrow": pa.Table}[description["frame"]]
        threads, dtypes = int(description["threads"]), dict(description["dtypes"])
        return TableModel(codec, model, frame=frame, threads=threads, dtypes=dtypes)
    except (KeyError, TypeError, ValueError, RecipeError, SchemaError) as e:
        # Pydantic's and torch's complaints about a damaged file are of these.
        raise ReleaseError(
            f"a model must fit its schema, however: {source} was changed ({type(e).__name__}: {e}); fit it again"
        ) from None


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
        return frame
    named = frame.rename(columns=str)
    try:
        return pa.Table.from_pandas(named, preserve_index=False).replace_schema_metadata(None)
    except NOT_CONVERTED:
        faulty = next((n for n in named if not _converts(named[n])), "one of them")
        raise InputError(
            f"a column must hold values of one plain type, however: {faulty!r} does not; convert it, e.g. to str"
        ) from None


def _converts(column: pd.Series) -> bool:
    try:
        pa.Array.from_pandas(column)
    except NOT_CONVERTED:
        return False
    return True


def _typed(table: pa.Table, schema: Schema) -> pa.Table:
    """The columns of the schema in its order and types."""
    arrays = []
    for column in schema:
        array = table.column(column.name)
        try:
            arrays.append(array if array.type == column.arrow_type else array.cast(column.arrow_type))
        except NOT_CONVERTED:
            raise InputError(
                f"column {column.name!r} must be {column.type}, however: it is {array.type}; "
                "correct the schema or the column"
            ) from None
    return pa.Table.from_arrays(arrays, names=list(schema.names))
