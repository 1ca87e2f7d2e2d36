"""SDV's own synthesizers behind the same face: baselines that people know. The only file that imports sdv.

They learn from rows, not from a curator's answers, so they need a curator that shows rows, which a private one does
not. What they see are values after disclosure control; what they draw passes the codec as every synthesizer's rows do.
SDV knows how to store its models by pickle alone. What is read back here may name only the classes that its models are
made of, so a file that was made to do something else is refused.
"""

import contextlib
import io
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Option
from torch import Tensor

from privacy.curator import Batch, Curator, Split
from privacy.errors import ConditionError, InputError, RecipeError, UsageError
from synth.codec import UNKNOWN, Codec, Encoded, Layout
from synth.em import encoded_of, slices
from synth.keys import is_text
from synth.layers import Width, seeded
from synth.schema import Column

try:
    import sdv.single_table
    from sdv.metadata import Metadata
except ImportError:  # pragma: no cover
    raise UsageError(
        "SDV's synthesizers need the package sdv, however: it is not installed; "
        "`pip install 'understudy[sdv]'` (Business Source License 1.1), or choose another synthesizer"
    ) from None

TABLE = "table"
"""What SDV calls the table."""

AT_ONCE = 131_072
"""Rows that are drawn at a time."""

Distribution = Literal["norm", "beta", "truncnorm", "uniform", "gamma", "gaussian_kde"]


@runtime_checkable
class _Open(Protocol):
    """A curator that shows rows."""

    def rows(self, split: Split) -> Iterator[Batch]: ...


class CopulaOptions(BaseModel):
    """What a recipe may say about SDV's GaussianCopula; names are SDV's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_distribution: Distribution = Option("beta", description="of numbers")


class CtganOptions(BaseModel):
    """What a recipe may say about SDV's CTGAN; names are SDV's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding_dim: int = Option(128, ge=1, le=4096, description="length of the noise")
    generator_dim: tuple[Width, ...] = Option(
        (256, 256), min_length=1, max_length=8, description="widths of the generator's layers"
    )
    discriminator_dim: tuple[Width, ...] = Option(
        (256, 256), min_length=1, max_length=8, description="widths of the discriminator's layers"
    )
    generator_lr: float = Option(2e-4, gt=0, le=1, description="learning rate of the generator")
    discriminator_lr: float = Option(2e-4, gt=0, le=1, description="learning rate of the discriminator")
    batch_size: int = Option(500, ge=2, le=1_000_000, description="rows of a step, an even number of packs")
    epochs: int = Option(300, ge=1, le=100_000, description="passes over the rows")
    pac: int = Option(10, ge=1, le=1000, description="rows that the discriminator sees together")

    @model_validator(mode="after")
    def _whole_packs(self) -> "CtganOptions":
        if self.batch_size % 2 or self.batch_size % self.pac:
            raise ValueError(
                f"batch_size must be even and a multiple of pac, however: batch_size={self.batch_size}, "
                f"pac={self.pac}; change one of them"
            )
        return self


class CopulaGanOptions(CtganOptions):
    """What a recipe may say about SDV's CopulaGAN; names are SDV's."""

    default_distribution: Distribution = Option("beta", description="of numbers")


class TvaeOptions(BaseModel):
    """What a recipe may say about SDV's TVAE; names are SDV's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    embedding_dim: int = Option(128, ge=1, le=4096, description="length of a code")
    compress_dims: tuple[Width, ...] = Option(
        (128, 128), min_length=1, max_length=8, description="widths of the encoder's layers"
    )
    decompress_dims: tuple[Width, ...] = Option(
        (128, 128), min_length=1, max_length=8, description="widths of the decoder's layers"
    )
    l2scale: float = Option(1e-5, ge=0, le=1, description="weight decay")
    batch_size: int = Option(500, ge=2, le=1_000_000, description="rows of a step")
    epochs: int = Option(300, ge=1, le=100_000, description="passes over the rows")
    loss_factor: float = Option(2, gt=0, le=1e6, description="weight of the reconstruction")


@dataclass(frozen=True)
class Baseline:
    """One of SDV's synthesizers: what `synth.registry.Synthesizer` asks for.

    Attributes:
        name: in a recipe.
        maker: SDV's class.
        options: what a recipe may say.
    """

    name: str
    maker: Any
    options: type[BaseModel]

    exact = False

    def fit(
        self, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int
    ) -> "BaselineModel":
        """Learns from all training rows.

        Args:
            curator: over rows encoded by the codec of `layout`; it must show them.
            layout: the encoded columns.
            options: fields of `options`.
            seed: of the weights, and of what is drawn in training.

        Raises:
            RecipeError: the curator shows no rows.
            InputError: SDV cannot learn from the table.
        """
        if not isinstance(curator, _Open):
            raise RecipeError(
                f"{self.name} must see the rows themselves, however: under a privacy budget none are shown; "
                "choose circuit, gmm, vae or ctgan, or leave the privacy section out for no guarantee"
            )
        chosen = self.options.model_validate(dict(options)).model_dump()
        values = _Values(_codec_of(layout))
        rows = Encoded.joined([encoded_of(batch) for batch in curator.rows("train")])
        with _quietly(), seeded(seed), _numpy_seeded(seed):
            model = self.maker(Metadata.load_from_dict(values.metadata()), **chosen)
            try:
                model.fit({TABLE: values.frame(rows)})
            except Exception as e:  # noqa: BLE001 - whatever SDV and its parts raise; its message may show a value
                raise InputError(
                    f"{self.name} must be able to learn the table, however: SDV failed with {type(e).__name__}; "
                    "choose another synthesizer"
                ) from None
        return BaselineModel(self.name, layout, model, _stored(_without_needless(model)))

    def restore(self, layout: Layout, tensors: Mapping[str, Tensor]) -> "BaselineModel":
        """A model from its tensors.

        Raises:
            ValueError: they hold something else than such a model, or one of other columns.
        """
        try:
            with _quietly():
                model = _Unpickler(tensors).load()
        except (pickle.UnpicklingError, EOFError, AttributeError, IndexError, RuntimeError) as e:
            raise ValueError(f"the model must be readable, however: {type(e).__name__}") from None
        if type(model) is not self.maker:
            raise ValueError(f"the model must be {self.maker.__name__}, however: it is another")
        known = list(model.get_metadata("original").tables[TABLE].columns)
        if known != [f.name for f in _Values(_codec_of(layout)).fields]:
            raise ValueError("the model must be of the layout's columns, however: it is of others")
        return BaselineModel(self.name, layout, model, dict(tensors))


class BaselineModel:
    """A fitted synthesizer of SDV's."""

    exact = False

    def __init__(self, name: str, layout: Layout, model: Any, stored: dict[str, Tensor]) -> None:
        self.name = name
        self._layout = layout
        self._values = _Values(_codec_of(layout))
        self._model = model
        # Two pickles of one model may differ, and a draw of a release depends on what was stored.
        self._stored = stored

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`; conditions are met by SDV's own means, mostly by trying.

        Raises:
            UsageError: `present` is asked for, which SDV does not know.
            ConditionError: too few rows that meet a condition came in SDV's hundred tries.
        """
        if present:
            raise UsageError(
                f"impute needs a synthesizer that knows conditional distributions, however: this is {self.name}; "
                "fit a circuit, a gmm, a vae or a ctgan"
            )
        if rows == 0:
            return self._layout.unknown(0)
        if given is None:
            sizes = [part.stop - part.start for part in slices(rows, AT_ONCE)]
            return Encoded.joined([self._values.encoded(self._sampled(n, rng)) for n in sizes])
        return self._completed(given.take(given.serving(rows)), rng)

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `Baseline.restore`."""
        return self._stored

    def _sampled(self, rows: int, rng: np.random.Generator) -> pd.DataFrame:
        self._set_luck(rng)
        with _quietly():
            frame: pd.DataFrame = self._model.sample(rows)[TABLE]
        return frame

    def _completed(self, given: Encoded, rng: np.random.Generator) -> Encoded:
        """The given rows with their unknown cells drawn, for each set of known columns at a time."""
        known = self._values.known(given)
        patterns, which = np.unique(known, axis=0, return_inverse=True)
        out = Encoded(states=given.states.copy(), scores=given.scores.copy())
        for number, pattern in enumerate(patterns):
            at = np.flatnonzero(which.ravel() == number)
            told = given.take(at)
            if not pattern.any():
                drawn = self._values.encoded(self._sampled(len(at), rng))
            else:
                drawn = self._values.encoded(self._met(self._values.frame(told).loc[:, pattern], rng))
            free = told.states == UNKNOWN
            out.states[at] = np.where(free, drawn.states, told.states)
            for c in self._layout.scored:
                d = self._layout.fields[c].score
                out.scores[at, d] = np.where(free[:, c], drawn.scores[:, d], told.scores[:, d])
        return out

    def _met(self, condition: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
        """Rows that meet the known columns of each row of a frame."""
        self._set_luck(rng)
        found = 0
        try:
            with _quietly():
                frame: pd.DataFrame = self._model.sample_remaining_columns(condition)[TABLE]
            found = len(frame)
        except Exception:  # noqa: BLE001 - SDV raises several kinds where no row came
            found = 0
        if found < len(condition):
            raise ConditionError(
                f"a condition must be met, however: {self.name} found {found} of {len(condition)} rows in SDV's "
                "hundred tries; use circuit, gmm, vae or ctgan, which draw under a condition directly"
            )
        return frame

    def _set_luck(self, rng: np.random.Generator) -> None:
        """All that SDV draws follows from the generator."""
        self._model._set_random_state(int(rng.integers(2**31)))
        for transformer in self._model.get_transformers().values():
            if transformer is not None:
                for method in ("transform", "reverse_transform"):
                    luck = np.random.RandomState(int(rng.integers(2**31)))
                    transformer.set_random_state(luck, method)


BASELINES = tuple(
    Baseline(name, maker, options)
    for name, maker, options in (
        ("sdv-gaussian-copula", sdv.single_table.GaussianCopulaSynthesizer, CopulaOptions),
        ("sdv-ctgan", sdv.single_table.CTGANSynthesizer, CtganOptions),
        ("sdv-tvae", sdv.single_table.TVAESynthesizer, TvaeOptions),
        ("sdv-copula-gan", sdv.single_table.CopulaGANSynthesizer, CopulaGanOptions),
    )
)
GAUSSIAN_COPULA, CTGAN, TVAE, COPULA_GAN = BASELINES


class _Values:
    """Encoded rows ⇄ the frame that SDV sees: numbers, and words for everything else."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        layout = codec.layout
        self.fields = [
            f for f, c in zip(layout.fields, codec.schema, strict=False) if f.states > 1 or c.learned
        ]
        self._columns = [codec.schema[f.name] for f in self.fields]
        self._at = {f.name: i for i, f in enumerate(layout.fields)}

    def metadata(self) -> dict[str, Any]:
        """What SDV is told of the frame."""
        columns = {
            c.name: {"sdtype": "numerical"} if _is_number(c) else {"sdtype": "categorical"}
            for c in self._columns
        }
        return {"METADATA_SPEC_VERSION": "V1", "tables": {TABLE: {"columns": columns}}, "relationships": []}

    def known(self, rows: Encoded) -> NDArray[np.bool_]:
        """Which columns of the frame are known of each row: (n, columns)."""
        known = rows.states != UNKNOWN
        for i, field in enumerate(self._codec.layout.fields):
            if field.group is not None:
                known[:, i] |= rows.states[:, field.group] == 0
        return np.asarray(known[:, [self._at[f.name] for f in self.fields]])

    def frame(self, rows: Encoded) -> pd.DataFrame:
        """The rows as SDV sees them; unknown cells are missing."""
        table = self._codec.decode(
            Encoded(states=np.where(rows.states == UNKNOWN, 0, rows.states), scores=rows.scores)
        )
        return pd.DataFrame({c.name: _for_sdv(table.column(c.name), c) for c in self._columns})

    def encoded(self, frame: pd.DataFrame) -> Encoded:
        """What SDV drew, as rows; a column that it was not shown is there."""
        rows = len(frame)
        usual = np.ones((1, len(self._codec.layout.fields)), np.int32)
        scores = np.zeros((1, len(self._codec.layout.scored)), np.float32)
        filled = self._codec.decode(Encoded(states=usual, scores=scores))
        arrays = []
        for column in self._codec.schema:
            if column.learned:
                arrays.append(_from_sdv(frame[column.name], column))
                continue
            gone = frame[column.name].isna() if column.name in frame else np.zeros(rows, np.bool_)
            arrays.append(
                filled.column(column.name).take(pa.array(np.zeros(rows, np.int64), mask=np.array(gone)))
            )
        return self._codec.encode(pa.Table.from_arrays(arrays, schema=self._codec.schema.arrow))


def _codec_of(layout: Layout) -> Codec:
    if layout.codec is None:
        raise ValueError("SDV's synthesizers must know the table's values, however: the layout has no codec")
    return layout.codec


def _is_number(column: Column) -> bool:
    """Whether SDV sees a number; times are numbers, too."""
    kind = column.arrow_type
    words = (
        column.kind in ("categorical", "boolean", "constant") or is_text(kind) or pa.types.is_boolean(kind)
    )
    return column.learned and not words


def _for_sdv(array: pa.ChunkedArray, column: Column) -> pd.Series:
    """A column as SDV sees it: float64, or strings; of one that is not learned only whether it is there."""
    gone = array.is_null().to_numpy()
    if not column.learned:
        return pd.Series(gone).map({True: None, False: "there"})
    kind = column.arrow_type
    if not _is_number(column):
        plain = array.cast(kind.value_type) if pa.types.is_dictionary(kind) else array
        return pd.Series(plain.cast(pa.string()).to_numpy())
    if pa.types.is_temporal(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(pa.int64())
    return pd.Series(array.cast(pa.float64(), safe=False).to_numpy())


def _from_sdv(values: pd.Series, column: Column) -> pa.Array:
    """The inverse of `_for_sdv` for a column that is learned, in the schema's type."""
    kind = column.arrow_type
    if not _is_number(column):
        words = pa.array(values.where(values.notna(), None), pa.string())
        return (
            words.cast(kind.value_type).dictionary_encode().cast(kind)
            if pa.types.is_dictionary(kind)
            else words.cast(kind)
        )
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    gone = np.isnan(numbers)
    if pa.types.is_floating(kind):
        return pa.array(numbers, mask=gone).cast(kind)
    if pa.types.is_decimal(kind):
        return pa.array(np.round(numbers, kind.scale), mask=gone).cast(kind, safe=False)
    whole = np.clip(np.rint(np.where(gone, 0, numbers)), -(2.0**63), 2.0**63 - 1024).astype(np.int64)
    counts = pa.array(whole, mask=gone)
    if pa.types.is_temporal(kind) and kind.bit_width == 32:
        counts = counts.cast(pa.int32())
    return counts.cast(kind, safe=False)


def _without_needless(model: Any) -> Any:
    """The model without what it does not need in order to draw: which rows had which category, dates of its making."""
    model._synthesizer_id, model._creation_date, model._fitted_date = "", "", ""
    model._data_processor._transformers_by_sdtype = {}
    inner = model._model
    if hasattr(inner, "set_device"):
        inner.set_device(torch.device("cpu"))
    if hasattr(inner, "_data_sampler"):
        inner._data_sampler._rid_by_cat_cols = []
    if hasattr(inner, "_discriminator"):
        inner._discriminator = None
    for owner in (model, inner):
        if hasattr(owner, "loss_values"):
            owner.loss_values = None
    return model


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without SDV's progress bars and warnings, which nobody asked for."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator, which SDV's parts use, starts from a seed inside of the block, and is put back."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(before)


PARTS: dict[str, tuple[str, ...]] = {
    "builtins": ("slice",),
    "collections": ("OrderedDict",),
    "copulas.multivariate.gaussian": ("GaussianMultivariate",),
    "copulas.univariate.beta": ("BetaUnivariate",),
    "copulas.univariate.gamma": ("GammaUnivariate",),
    "copulas.univariate.gaussian": ("GaussianUnivariate",),
    "copulas.univariate.gaussian_kde": ("GaussianKDE",),
    "copulas.univariate.student_t": ("StudentTUnivariate",),
    "copulas.univariate.truncated_gaussian": ("TruncatedGaussian",),
    "copulas.univariate.uniform": ("UniformUnivariate",),
    "ctgan.data_sampler": ("DataSampler",),
    "ctgan.data_transformer": ("ColumnTransformInfo", "DataTransformer", "SpanInfo"),
    "ctgan.synthesizers.ctgan": ("CTGAN", "Generator", "Residual"),
    "ctgan.synthesizers.tvae": ("Decoder", "TVAE"),
    "numpy": ("dtype", "ndarray"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.random.mtrand": ("RandomState",),
    "pandas._libs.internals": ("_unpickle_block",),
    "pandas.core.frame": ("DataFrame",),
    "pandas.core.indexes.base": ("Index", "_new_Index"),
    "pandas.core.indexes.range": ("RangeIndex",),
    "pandas.core.internals.managers": ("BlockManager", "SingleBlockManager"),
    "pandas.core.series": ("Series",),
    "rdt.hyper_transformer": ("HyperTransformer",),
    "rdt.transformers.categorical": ("OneHotEncoder", "UniformEncoder"),
    "rdt.transformers.null": ("NullTransformer",),
    "rdt.transformers.numerical": ("ClusterBasedNormalizer", "FloatFormatter", "GaussianNormalizer"),
    "scipy.stats._kde": ("gaussian_kde",),
    "sdv.data_processing.data_processor": ("DataProcessor",),
    "sdv.data_processing.numerical_formatter": ("NumericalFormatter",),
    "sdv.metadata._single_table": ("_SingleTableMetadata",),
    "sdv.metadata.metadata": ("Metadata",),
    "sdv.single_table.copulagan": ("CopulaGANSynthesizer",),
    "sdv.single_table.copulas": ("GaussianCopulaSynthesizer",),
    "sdv.single_table.ctgan": ("CTGANSynthesizer", "TVAESynthesizer"),
    "sklearn.mixture._bayesian_mixture": ("BayesianGaussianMixture",),
    "torch": ("device",),
    "torch.nn.modules.activation": ("ReLU",),
    "torch.nn.modules.batchnorm": ("BatchNorm1d",),
    "torch.nn.modules.container": ("Sequential",),
    "torch.nn.modules.linear": ("Linear",),
}
"""All that SDV's fitted models are made of, by module."""


class _Pickler(pickle.Pickler):
    """Writes a model without its tensors, which are stored beside it, and without the states of its generators.

    Those are set anew for every draw.

    Attributes:
        tensors: what was left out, in order.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=4)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: object) -> tuple[int, bool] | None:
        """The number of a tensor, and whether it is a parameter."""
        if not isinstance(obj, Tensor):
            return None
        self.tensors.append(obj.detach().cpu())
        return len(self.tensors) - 1, isinstance(obj, torch.nn.Parameter)

    def reducer_override(self, obj: object) -> Any:
        """How a generator is written; everything else in its own way."""
        return (np.random.RandomState, (0,)) if isinstance(obj, np.random.RandomState) else NotImplemented


def _stored(model: Any) -> dict[str, Tensor]:
    """A model of SDV's as tensors."""
    written = io.BytesIO()
    pickler = _Pickler(written)
    pickler.dump(model)
    numbered = {f"tensor.{i}": tensor.clone() for i, tensor in enumerate(pickler.tensors)}
    return {"pickle": torch.frombuffer(bytearray(written.getvalue()), dtype=torch.uint8), **numbered}


class _Unpickler(pickle.Unpickler):
    """Reads what SDV's models are made of, and nothing else: an ordinary unpickler calls whatever a file names."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(io.BytesIO(tensors["pickle"].numpy().tobytes()))
        self._tensors = tensors

    def persistent_load(self, pid: tuple[int, bool]) -> Tensor:
        """The tensor of a number."""
        number, is_parameter = pid
        tensor = self._tensors[f"tensor.{number}"]
        return torch.nn.Parameter(tensor) if is_parameter else tensor

    def find_class(self, module: str, name: str) -> Any:
        """One of `PARTS`.

        Raises:
            ValueError: it is none of them.
        """
        if name not in PARTS.get(module, ()):
            raise ValueError(
                f"a model of SDV's must be made of SDV's parts, however: it names {module}.{name}"
            )
        return super().find_class(module, name)
