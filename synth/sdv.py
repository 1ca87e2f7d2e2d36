"""SDV's own synthesizers behind the same face: baselines that people know. The only file that imports sdv.

They learn from rows, not from a curator's answers, so they need a curator that shows rows, which a private one does
not. What they see are values after disclosure control; what they draw passes the codec as every synthesizer's rows do.
SDV knows how to store its models by pickle alone, which runs whatever a file says; here they are stored as data
(`synth.objects`).
"""

import contextlib
import io
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
from synth.absence import unfolded
from synth.codec import UNKNOWN, Codec, Encoded, Layout
from synth.draws import numpy_seeded
from synth.em import encoded_of
from synth.keys import is_text
from synth.layers import Width, seeded
from synth.objects import read, written
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

INSTEAD = "use circuit, gmm, vae or ctgan, which draw under a condition directly"

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


@dataclass(frozen=True, kw_only=True)
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
    private = False

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
        try:
            with _quietly(), seeded(seed), numpy_seeded(seed):
                model = self.maker(Metadata.load_from_dict(values.metadata()), **chosen)
                model.fit({TABLE: values.frame(rows)})
                stored = written(_without_needless(model), PARTS)
        except Exception as e:  # noqa: BLE001 - whatever SDV and its parts raise; its message may show a value
            raise InputError(
                f"{self.name} must be able to learn the table, however: SDV failed with {type(e).__name__}; "
                "choose another synthesizer"
            ) from None
        return BaselineModel(self.name, layout, model, stored)

    def restore(self, layout: Layout, tensors: Mapping[str, Tensor]) -> "BaselineModel":
        """A model from its tensors.

        Raises:
            ValueError: they hold something else than such a model, or one of other columns.
        """
        model = read(tensors, PARTS)
        if type(model) is not self.maker:
            raise ValueError(f"the model must be {self.maker.__name__}, however: it is another")
        columns = getattr(getattr(model, "_data_processor", None), "_hyper_transformer", None)
        if getattr(columns, "_input_columns", None) != _Values(_codec_of(layout)).names:
            raise ValueError("the model must be of the layout's columns, however: it is of others")
        return BaselineModel(self.name, layout, model, dict(tensors))


class BaselineModel:
    """A fitted synthesizer of SDV's."""

    exact = False
    private = False

    def __init__(self, name: str, layout: Layout, model: Any, stored: dict[str, Tensor]) -> None:
        self.name = name
        self._layout = layout
        self._values = _Values(_codec_of(layout))
        self._model = model
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
            return self._values.encoded(self._sampled(rows, rng))
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
        blank = [
            name for name in condition if condition[name].dtype == object and condition[name].isna().any()
        ]
        if blank and self.name != "sdv-gaussian-copula":
            raise ConditionError(
                f"a condition must be one that SDV knows, however: {self.name} finds no row in which the category "
                f"{blank[0]!r} is missing; {INSTEAD}"
            )
        try:
            with _quietly():
                frame: pd.DataFrame = self._model.sample_remaining_columns(condition)[TABLE]
        except ValueError:
            # So SDV says that not one row came.
            frame = condition.iloc[:0]
        if len(frame) < len(condition):
            raise ConditionError(
                f"a condition must be met, however: {self.name} found {len(frame)} of {len(condition)} rows in SDV's "
                f"hundred tries; train it longer, or {INSTEAD}"
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


GAUSSIAN_COPULA = Baseline(
    name="sdv-gaussian-copula", maker=sdv.single_table.GaussianCopulaSynthesizer, options=CopulaOptions
)
CTGAN = Baseline(name="sdv-ctgan", maker=sdv.single_table.CTGANSynthesizer, options=CtganOptions)
TVAE = Baseline(name="sdv-tvae", maker=sdv.single_table.TVAESynthesizer, options=TvaeOptions)
COPULA_GAN = Baseline(
    name="sdv-copula-gan", maker=sdv.single_table.CopulaGANSynthesizer, options=CopulaGanOptions
)


class _Values:
    """Encoded rows ⇄ the frame that SDV sees: numbers as they are, of every other column the state, as a word."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        learned = zip(codec.layout.fields, codec.schema, strict=False)
        self._at = [i for i, (f, c) in enumerate(learned) if f.states > 1 or c.learned]
        self._columns = [codec.schema.columns[i] for i in self._at]
        self.names = [c.name for c in self._columns]

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
        return np.asarray(known[:, self._at])

    def frame(self, rows: Encoded) -> pd.DataFrame:
        """The rows as SDV sees them; unknown cells are missing."""
        filled = Encoded(states=np.where(rows.states == UNKNOWN, 0, rows.states), scores=rows.scores)
        table = self._codec.decode(filled)
        states = unfolded(filled.states, self._codec.profile.absences)
        return pd.DataFrame(
            {
                c.name: _numbers(table.column(c.name)) if _is_number(c) else _words(states[:, i])
                for i, c in zip(self._at, self._columns, strict=True)
            }
        )

    def encoded(self, frame: pd.DataFrame) -> Encoded:
        """What SDV drew, as rows; a column that it was not shown is there."""
        fields = len(self._codec.layout.fields)
        states = np.ones((len(frame), fields), np.int32)
        for i, c in zip(self._at, self._columns, strict=True):
            if not _is_number(c):
                states[:, i] = pd.to_numeric(frame[c.name]).fillna(0).to_numpy(np.int32)
        scores = np.zeros((len(frame), len(self._codec.layout.scored)), np.float32)
        table = self._codec.decode(Encoded(states=states, scores=scores))
        for i, c in enumerate(self._codec.schema):
            if _is_number(c):
                table = table.set_column(i, table.schema.field(i), _from_numbers(frame[c.name], c.arrow_type))
        return self._codec.encode(table)


def _codec_of(layout: Layout) -> Codec:
    if layout.codec is None:
        raise ValueError("SDV's synthesizers must know the table's values, however: the layout has no codec")
    return layout.codec


def _is_number(column: Column) -> bool:
    """Whether SDV sees a number; times are numbers, too."""
    kind = column.arrow_type
    return column.kind in ("numerical", "datetime", "duration") and not (
        is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
    )


def _words(states: NDArray[np.int32]) -> pd.Series:
    """States as words; missing is missing."""
    words = np.array([None, *map(str, range(1, int(states.max(initial=0)) + 1))], object)
    return pd.Series(words[states])


def _numbers(array: pa.ChunkedArray) -> pd.Series:
    """Numbers and times as float64, which holds 53 bits of them."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _numbers(array.cast(kind.value_type))
    if pa.types.is_temporal(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64()).cast(pa.int64())
    return pd.Series(array.cast(pa.float64(), safe=False).to_numpy())


def _from_numbers(values: pd.Series, kind: pa.DataType) -> pa.Array:
    """The inverse of `_numbers`."""
    if pa.types.is_dictionary(kind):
        return _from_numbers(values, kind.value_type).dictionary_encode().cast(kind)
    numbers = values.to_numpy(np.float64, na_value=np.nan)
    gone = np.isnan(numbers)
    if pa.types.is_floating(kind):
        return pa.array(numbers, mask=gone).cast(kind)
    if pa.types.is_decimal(kind):
        return pa.array(np.round(numbers, kind.scale), mask=gone).cast(kind, safe=False)
    numbers = np.rint(np.where(gone, 0, numbers))
    if pa.types.is_uint64(kind):
        return pa.array(np.clip(numbers, 0, 2.0**64 - 2048).astype(np.uint64), mask=gone)
    counts = pa.array(np.clip(numbers, -(2.0**63), 2.0**63 - 1024).astype(np.int64), mask=gone)
    if pa.types.is_temporal(kind) and kind.bit_width == 32:
        counts = counts.cast(pa.int32(), safe=False)
    return counts.cast(kind, safe=False)


def _without_needless(model: Any) -> Any:
    """The model without what it does not need in order to draw: which rows had which category, dates of its making."""
    model._synthesizer_id, model._creation_date, model._fitted_date = "", "", ""
    transformers = [model._data_processor._hyper_transformer]
    if hasattr(model, "_gaussian_normalizer_hyper_transformer"):
        transformers.append(model._gaussian_normalizer_hyper_transformer)
    for transformer in transformers:
        # They come in the order of sets of words, which differs from process to process.
        transformer.field_sdtypes = dict(sorted(transformer.field_sdtypes.items()))
        transformer.field_transformers = dict(sorted(transformer.field_transformers.items()))
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


PARTS = (
    "copulas.multivariate.gaussian:GaussianMultivariate",
    "copulas.univariate.beta:BetaUnivariate",
    "copulas.univariate.gamma:GammaUnivariate",
    "copulas.univariate.gaussian:GaussianUnivariate",
    "copulas.univariate.gaussian_kde:GaussianKDE",
    "copulas.univariate.student_t:StudentTUnivariate",
    "copulas.univariate.truncated_gaussian:TruncatedGaussian",
    "copulas.univariate.uniform:UniformUnivariate",
    "ctgan.data_sampler:DataSampler",
    "ctgan.data_transformer:ColumnTransformInfo",
    "ctgan.data_transformer:DataTransformer",
    "ctgan.data_transformer:SpanInfo",
    "ctgan.synthesizers.ctgan:CTGAN",
    "ctgan.synthesizers.ctgan:Generator",
    "ctgan.synthesizers.ctgan:Residual",
    "ctgan.synthesizers.tvae:Decoder",
    "ctgan.synthesizers.tvae:TVAE",
    "rdt.hyper_transformer:HyperTransformer",
    "rdt.transformers.categorical:OneHotEncoder",
    "rdt.transformers.categorical:UniformEncoder",
    "rdt.transformers.null:NullTransformer",
    "rdt.transformers.numerical:ClusterBasedNormalizer",
    "rdt.transformers.numerical:FloatFormatter",
    "rdt.transformers.numerical:GaussianNormalizer",
    "scipy.stats._kde:gaussian_kde",
    "sdv.data_processing.data_processor:DataProcessor",
    "sdv.data_processing.numerical_formatter:NumericalFormatter",
    "sdv.metadata._single_table:_SingleTableMetadata",
    "sdv.metadata.metadata:Metadata",
    "sdv.single_table.copulagan:CopulaGANSynthesizer",
    "sdv.single_table.copulas:GaussianCopulaSynthesizer",
    "sdv.single_table.ctgan:CTGANSynthesizer",
    "sdv.single_table.ctgan:TVAESynthesizer",
    "sklearn.mixture._bayesian_mixture:BayesianGaussianMixture",
    "torch.nn.modules.activation:ReLU",
    "torch.nn.modules.batchnorm:BatchNorm1d",
    "torch.nn.modules.container:Sequential",
    "torch.nn.modules.linear:Linear",
)
"""All classes that SDV's fitted models are made of."""
