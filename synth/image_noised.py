"""How a mixture of images is learned where every answer carries noise: few components, by few questions.

What an image may be is public, so the code starts from cosines, those of low frequencies, in which images of all kinds
have most of what they show. Asked is, in this order:

1. the mean image. It is told less by noise the smoother it is taken for, by Stein's rule in bands of frequencies
   (James & Stein 1961);
2. how long images are when that is taken off: a length that nine of ten do not exceed bounds what one row may add;
3. the second moments of the low frequencies, whose eigenvectors that stand out from the noise are the code
   (Dwork, Talwar, Thakurta & Zhang 2014, "Analyze Gauss");
4. where several columns could be the strata, the means of each of their values;
5. for each stratum the rows, the sums and the second moments of codes, in which all directions vary alike, and beside
   them the states and scores of the other columns. A row adds to its own stratum alone;
6. as long as noise allows to tell them apart, components are cut in two along their longest axes, and the same is asked
   of each: one pass of expectation maximization. What it says of whole strata is put to what was said before.

What noise, and the number of rows, leave of an answer is estimated by how far it lies from what is usual: a
component's covariance from that of its stratum, a stratum's from that of all, entry by entry in the axes of the latter,
and rates likewise (empirical Bayes).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from scipy.fft import dctn, idctn
from torch import Tensor

from privacy.curator import Answer, Batch, Curator, Floats
from synth import gmm
from synth.codec import Layout
from synth.image_mixture import (
    EXPLAINS,
    LEAST_ROWS,
    MOST_STRATA,
    Code,
    Coder,
    Moments,
    MomentsOfBatch,
    Options,
    Parameters,
    Products,
    Space,
    common,
    cut,
    has_image,
    held,
    one_each,
    shown,
    tied,
)

MEAN, LENGTH, DIRECTIONS, STRATA = 0.03, 0.01, 0.2, 0.1
"""Shares of the budget: the mean image, either length, second moments, and the choice of strata where there is one."""

FREQUENCIES = 256
"""Cosines at most that the code is made of."""

TINT = 0.1
"""Cycles a pixel that the difference between channels counts for, beside the frequencies of an image."""

BAND = 24
"""Frequencies that share one factor of the mean image."""

LENGTHS = 96
"""Cells of an image's length, each a tenth longer than the one before."""

HELD = 0.9
"""Share of the images that are not shortened."""

CLEAR = 2.0
"""A direction's second moment is so many times what noise alone may show at least."""

CLEAR_ROWS = 70.0
"""Rows of a component at least, in those that noise makes of one direction among d, s √d."""

COLUMNS, SUMS = 0.1, 0.2
"""What of a row's squared length each of its columns has, and of the rest the sum of codes; second moments have what
is left."""

MOST_COLUMNS = 0.4

THINNEST = 0.01
"""Variance of a stratum along any axis, in parts of what is usual."""

MOST_MOMENTS = 2**22
"""Numbers of one answer."""

AT_ONCE = 2**22
"""Pixels that are held in 64 bits at once."""


def fit_noised(
    curator: Curator, layout: Layout, options: Options, *, part: float = 1.0, coder: Coder | None = None
) -> tuple[Space, Parameters]:
    """Learns as many components as noise allows to tell apart.

    Args:
        curator: over encoded rows, of which one column is of images.
        layout: the encoded columns.
        options: the numbers of a code, and the strata.
        part: of the budget that all of it may use.
        coder: the code, whose numbers are about normal; none: it is asked for.
    """
    measure = _measured(curator, layout, options.code, part) if coder is None else _normal(coder)
    fields = _candidates(layout, measure.size, options.by)
    share = 1.0 if coder is not None else 1 - MEAN - 2 * LENGTH - DIRECTIONS
    by = fields[0] if fields else -1
    if len(fields) > 1:
        share -= STRATA
        by = _chosen(curator, layout, measure, fields, part)
    space = Space(layout=layout, code=measure.coder, by=by)
    share *= part
    parameters = usual = one_each(space)
    cuts = _cuts(space, measure, curator.price(_Told(space, measure, parameters), share=share))
    totals: _Moments | None = None
    for made in range(cuts + 1):
        told = _Told(space, measure, parameters)
        answer = curator.sum(told, share=share / (cuts + 1))
        table, moments = told.read(answer)
        columns = _columns(space, parameters, usual, table, told.noise(answer)[0], options.smoothing)
        totals = moments.of_strata() if totals is None else totals.with_more(moments.of_strata())
        parameters = _parameters(measure, columns, moments, totals)
        if made == 0:
            usual = parameters
        if made < cuts:
            parameters = cut(space, parameters, parameters.components)
    return space, parameters


# ---------------------------------------------------------------------------------------------------- the code


@dataclass(frozen=True, kw_only=True)
class _Measure:
    """A code, and what its numbers are divided by so that all vary alike, and few vectors are longer than 1.

    Attributes:
        coder: images to numbers.
        unit: float64 (d,).
        variances: float64 (d,), of the divided numbers.
    """

    coder: Coder
    unit: Floats
    variances: Floats

    @property
    def size(self) -> int:
        """Numbers of a code."""
        return len(self.unit)

    def of(self, batch: Batch, layout: Layout) -> Tensor:
        """Divided codes of the images of a batch, none longer than 1, 0 where there is none: float32 (n, d)."""
        codes = self.coder.of(np.array(batch.columns["pixels"])) / torch.from_numpy(self.unit).float()
        return held(codes) * has_image(batch, layout)


def _measured(curator: Curator, layout: Layout, size: int, part: float) -> _Measure:
    pixels, rows = layout.images[0], _rows(layout)
    order = _frequencies(pixels.shape)
    answer = curator.sum(_Shades(layout), share=part * MEAN)
    mean = _smoothed(answer, pixels.shape, order, rows)
    cosines = _cosines(pixels.shape, order[:FREQUENCIES])
    length = _length(curator, _Lengths(layout, mean, cosines), rows, part)
    answer = curator.sum(_Squares(layout, mean, cosines, length), share=part * DIRECTIONS)
    directions, variances = _directions(answer, rows, size)
    basis = cosines @ torch.from_numpy(directions).float()
    spread = np.sqrt(variances)
    lengths = _Lengths(layout, mean, basis / torch.from_numpy(spread).float())
    unit = spread * _length(curator, lengths, rows, part)
    return _Measure(coder=Code(mean=mean, basis=basis), unit=unit, variances=variances / unit**2)


def _normal(coder: Coder) -> _Measure:
    """Of codes that were learned to be about N(0, 1): nothing is asked, and nine of ten are not shortened."""
    unit = np.full(coder.size, math.sqrt(stats.chi2.ppf(HELD, coder.size)))
    return _Measure(coder=coder, unit=unit, variances=unit**-2)


def _rows(layout: Layout) -> float:
    """About how many rows have an image."""
    return max(1.0, layout.rows * (1 - layout.fields[layout.images[0].field].rates[0]))


def _frequencies(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """The cosines of an image by their frequencies, low ones first: int64 (P,)."""
    height, width, channels = (np.arange(n) for n in shape)
    parts = np.meshgrid(height / (2 * shape[0]), width / (2 * shape[1]), TINT * channels, indexing="ij")
    return np.argsort(sum(p**2 for p in parts).ravel(), kind="stable")


def _cosines(shape: tuple[int, ...], chosen: NDArray[np.int64]) -> Tensor:
    """Orthonormal cosines of images: float32 (P, frequencies)."""
    one = np.zeros((len(chosen), math.prod(shape)))
    one[np.arange(len(chosen)), chosen] = 1.0
    waves = idctn(one.reshape(-1, *shape), axes=(1, 2, 3), norm="ortho")
    return torch.from_numpy(waves.reshape(len(chosen), -1).T.copy()).float()


def _smoothed(answer: Answer, shape: tuple[int, ...], order: NDArray[np.int64], rows: float) -> Tensor:
    """The mean image, each band of frequencies as far as it stands out from the noise: float32 (P,) in [0, 1]."""
    waves = dctn(answer.value.reshape(shape) / rows, norm="ortho").ravel()
    noise = (answer.noise_std / rows) ** 2
    for start in range(1, len(order), BAND):
        band = order[start : start + BAND]
        power = float((waves[band] ** 2).sum())
        waves[band] *= max(0.0, 1 - len(band) * noise / power) if power > 0 else 0.0
    mean = idctn(waves.reshape(shape), norm="ortho").ravel() + GREY
    return torch.from_numpy(np.clip(mean, 0.0, 1.0)).float()


GREY = 0.5
"""What is taken off each pixel before they are summed, which halves what a row may add."""


class _Shades:
    """Σ (x − grey) over images x."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.size = layout.pixels
        self.bound = GREY * math.sqrt(layout.pixels)

    def of(self, batch: Batch) -> Products:
        """What these rows add."""
        there, images = shown(batch, self._layout)
        return Products(there, images - GREY)


class _Lengths:
    """Rows by the length of their images' codes; those without an image are in no cell."""

    columns = ("states", "pixels")
    shape = (LENGTHS + 1,)

    def __init__(self, layout: Layout, mean: Tensor, basis: Tensor) -> None:
        self._layout, self._mean, self._basis = layout, mean, basis
        # No image is longer than this.
        most = math.sqrt(layout.pixels) * float(basis.norm(dim=0).max())
        self.edges = (most * 1.1 ** np.arange(-LENGTHS + 1, 1.0),)

    def cell(self, batch: Batch) -> NDArray[np.int64]:
        """The cell of each row: int64 (n,)."""
        there, images = shown(batch, self._layout)
        # In 64 bits: no row may come to lie in another cell because of the rows beside it in a product.
        parts = torch.split(images, max(1, AT_ONCE // self._layout.pixels))
        codes = [(p - self._mean).double() @ self._basis.double() for p in parts]
        lengths = torch.cat([c.norm(dim=1) for c in codes]).numpy()
        cells = np.searchsorted(self.edges[0], lengths).astype(np.int64)
        return np.where(there[:, 0].numpy() > 0, cells, -1)


def _length(curator: Curator, lengths: _Lengths, rows: float, part: float) -> float:
    """A length that about nine of ten images do not exceed."""
    (answer,) = curator.histogram([lengths], share=part * LENGTH)
    edges = lengths.edges[0]
    enough = np.flatnonzero(np.cumsum(answer.value) >= HELD * rows)
    return float(edges[min(int(enough[0]) if len(enough) else len(edges), len(edges) - 1)])


class _Squares:
    """Σ w wᵀ over images, with w their cosines, shortened to a length."""

    def __init__(self, layout: Layout, mean: Tensor, cosines: Tensor, length: float) -> None:
        self._layout, self._mean, self._cosines, self._length = layout, mean, cosines, length
        self.size = cosines.shape[1] ** 2
        self.bound = length**2

    def of(self, batch: Batch) -> Products:
        """What these rows add."""
        there, images = shown(batch, self._layout)
        waves = held((images - self._mean) @ self._cosines, self._length) * there
        return Products(waves, waves)


def _directions(answer: Answer, rows: float, most: int) -> tuple[Floats, Floats]:
    """The eigenvectors that stand out from the noise, one at least, and the variances along them.

    Noise of standard deviation s off the diagonal takes an eigenvalue λ for λ + n s² / λ, and hides it below s √n
    (Benaych-Georges & Nadakuditi 2011, arXiv 0910.2120), which is taken off.
    """
    size = math.isqrt(len(answer.value))
    moments = answer.value.reshape(size, size)
    noise = answer.noise_std * math.sqrt(size / 2)
    values, vectors = np.linalg.eigh((moments + moments.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    clear = int((values > max(CLEAR * noise, 1e-9 * float(np.abs(values).max()))).sum())
    number = int(np.clip(min(clear, most, rows - 1), 1, size))
    kept = np.maximum(values[:number], 1e-9)
    cleaned = (kept + np.sqrt(np.maximum(kept**2 - 4 * noise**2, 0.0))) / 2
    return vectors[:, :number].copy(), cleaned / rows


# -------------------------------------------------------------------------------------------------- the strata


def _candidates(layout: Layout, size: int, by: str | None) -> list[int]:
    """Fields whose states may be the strata."""
    image = layout.images[0].field
    named = [i for i, f in enumerate(layout.fields) if f.score is None and i != image]
    named = [i for i in named if 2 <= layout.fields[i].states <= MOST_STRATA]
    if by is not None:
        named = [i for i in named if layout.fields[i].name == by]
    most = MOST_MOMENTS // _moments(layout, size)
    return [i for i in named if (1 if by else 2) <= common(layout, i).sum() <= most]


def _chosen(curator: Curator, layout: Layout, measure: _Measure, fields: Sequence[int], part: float) -> int:
    """The field whose states explain most of how codes differ, or −1 where none explains much."""
    answer = curator.sum(_Means(layout, measure, fields), share=part * STRATA)
    sums = answer.value.reshape(-1, measure.size)
    lengths = np.maximum((sums**2).sum(1) - measure.size * answer.noise_std**2, 0.0)
    total = _rows(layout) * float(measure.variances.sum())
    shares, first = [], 0
    for i in fields:
        own = common(layout, i)
        held = np.maximum(np.array(layout.fields[i].rates) * _rows(layout), 1.0)
        part = lengths[first : first + len(own)]
        shares.append(float((part / held)[own].sum()) / total)
        first += len(own)
    best = int(np.argmax(shares))
    return fields[best] if shares[best] > EXPLAINS else -1


class _Means:
    """Σ z over the divided codes of images, for each state of some fields."""

    def __init__(self, layout: Layout, measure: _Measure, fields: Sequence[int]) -> None:
        self._layout, self._measure, self._fields = layout, measure, list(fields)
        self._states = [layout.fields[i].states for i in fields]
        self.size = sum(self._states) * measure.size
        self.bound = math.sqrt(len(fields))

    def of(self, batch: Batch) -> Products:
        """What these rows add."""
        states = torch.from_numpy(np.array(batch.columns["states"], np.int64))[:, self._fields]
        hot = [_hot(own, size) for own, size in zip(states.T, self._states, strict=True)]
        return Products(torch.cat(hot, 1), self._measure.of(batch, self._layout))


def _hot(places: Tensor, size: int) -> Tensor:
    """One where the place is, nothing where it is negative: float32 (n, size)."""
    hot = torch.zeros(len(places), size + 1)
    return hot.scatter_(1, torch.where(places < 0, size, places)[:, None], 1.0)[:, :size]


# ------------------------------------------------------------------------------------------------- the moments


def _cuts(space: Space, measure: _Measure, noise: float) -> int:
    """How often the components of all strata may be cut in two, so that what is asked of each still stands out.

    Noise of standard deviation s in each entry of second moments takes an eigenvalue as far as s √d.
    """
    least = CLEAR_ROWS * math.sqrt(measure.size) * max(noise, 1.0)
    most = min(_rows(space.layout) / least, MOST_MOMENTS / _moments(space.layout, measure.size))
    return max(0, math.floor(math.log2(max(1.0, most / float(space.common.sum())))))


def _moments(layout: Layout, size: int) -> int:
    """Numbers that are asked of one component."""
    return 1 + layout.states + 2 * len(layout.scored) + size + size**2


class _Told:
    """For each component Σ r of what a row adds in `gmm`, of z and of z zᵀ, with r its posterior.

    Each part is weighed, so that a row's vector is 1 at most. Scores are beyond that for a few rows, which the curator
    shortens.
    """

    bound = 1.0

    def __init__(self, space: Space, measure: _Measure, parameters: Parameters) -> None:
        layout, number = space.layout, parameters.components
        self._inner = Moments(space, parameters)
        self._unit = torch.from_numpy(measure.unit).float()
        self._strata, self._image, self._layout = parameters.strata.numpy(), space.image, layout
        self.shapes = ((self._inner.entries, number), (number, measure.size), (number, *[measure.size] * 2))
        self.size = sum(math.prod(s) for s in self.shapes)
        # Squared length of a row in `gmm`, for nearly all rows.
        length = 1 + len(layout.fields) + 8 * len(layout.scored)
        columns = min(MOST_COLUMNS, COLUMNS * max(1, len(layout.fields) - 1))
        squared = (columns / length, SUMS * (1 - columns), (1 - SUMS) * (1 - columns))
        self.weights = tuple(math.sqrt(w) for w in squared)

    def of(self, batch: Batch) -> "_Weighed":
        """What these rows add."""
        inner = self._inner.of(batch)
        sizes = tuple(math.prod(s) for s in self.shapes)
        return _Weighed(replace(inner, codes=held(inner.codes / self._unit)), sizes, self.weights)

    def noise(self, answer: Answer) -> tuple[float, float, float]:
        """Standard deviation of each number of the three parts."""
        columns, sums, squares = (answer.noise_std / w for w in self.weights)
        return columns, sums, squares

    def read(self, answer: Answer) -> tuple[Floats, "_Moments"]:
        """The sums of `gmm`, float64 (entries, K), and those of codes."""
        parts = np.split(answer.value, np.cumsum([math.prod(s) for s in self.shapes])[:-1])
        table, sums, squares = (
            (part / weight).reshape(shape)
            for part, weight, shape in zip(parts, self.weights, self.shapes, strict=True)
        )
        first = 1 + int(self._layout.offsets[self._image])
        held = table[first + 1 : first + self._layout.fields[self._image].states].sum(0)
        _, of_sums, of_squares = self.noise(answer)
        number = len(held)
        return table, _Moments(
            strata=np.unique(self._strata, return_inverse=True)[1],
            rows=held,
            sums=sums,
            squares=(squares + squares.transpose(0, 2, 1)) / 2,
            of_sums=np.full(number, of_sums),
            of_squares=np.full(number, of_squares),
        )


@dataclass(frozen=True)
class _Weighed:
    """Moments of which each part has a weight."""

    inner: MomentsOfBatch
    sizes: tuple[int, ...]
    weights: tuple[float, ...]

    def norms(self) -> Floats:
        """Norm of each row's contribution: float64 (n,)."""
        columns, sums, squares = self.weights
        lengths = (self.inner.codes.double() ** 2).sum(1).numpy()
        posterior = (self.inner.columns.posterior.double() ** 2).sum(1).numpy()
        images = posterior * (sums**2 * lengths + squares**2 * lengths**2)
        return np.asarray(np.sqrt(columns**2 * self.inner.columns.norms() ** 2 + images))

    def weighted(self, weights: Floats | None) -> Floats:
        """Weighted sum of the contributions, flattened."""
        return np.asarray(self.inner.weighted(weights) * np.repeat(self.weights, self.sizes))


# ------------------------------------------------------------------------------------------------ the estimates


@dataclass(frozen=True, kw_only=True)
class _Moments:
    """What was answered of the codes in some components.

    Attributes:
        strata: int64 (K,): the stratum of each, numbered from 0 on.
        rows: float64 (K,).
        sums: float64 (K, d).
        squares: float64 (K, d, d), symmetric.
        of_sums: standard deviation of the noise in each number of `sums`: float64 (K,).
        of_squares: the same of the answers that the numbers of `squares` are means of: float64 (K,).
    """

    strata: NDArray[np.int64]
    rows: Floats
    sums: Floats
    squares: Floats
    of_sums: Floats
    of_squares: Floats

    @property
    def number(self) -> Floats:
        """Rows of each, enough to divide by: float64 (K,)."""
        return np.maximum(self.rows, LEAST_ROWS)

    @property
    def error(self) -> Floats:
        """Variance of the noise in each number of a mean: float64 (K, 1)."""
        return (self.of_sums / self.number)[:, None] ** 2

    @property
    def covariances(self) -> Floats:
        """As they were answered: float64 (K, d, d)."""
        raw = self.sums / self.number[:, None]
        found = self.squares / self.number[:, None, None] - raw[:, :, None] * raw[:, None, :]
        return np.asarray(found + self.error[:, :, None] * np.eye(raw.shape[1]))

    def nearer(self, place: int, usual: Floats) -> Floats:
        """The covariance of a component, which leans to what is usual."""
        rows = self.number[place]
        # Off the diagonal a symmetric matrix is the mean of two answers.
        noise = self.of_squares[place] / math.sqrt(2) / rows
        return _nearer(self.covariances[place], usual, noise, rows)

    def of_strata(self) -> "_Moments":
        """The same of whole strata."""
        hot = (self.strata == np.arange(self.strata.max() + 1)[:, None]).astype(np.float64)
        return _Moments(
            strata=np.arange(len(hot)),
            rows=hot @ self.rows,
            sums=hot @ self.sums,
            squares=np.einsum("sk,kij->sij", hot, self.squares),
            of_sums=np.sqrt(hot @ self.of_sums**2),
            of_squares=np.sqrt(hot @ self.of_squares**2),
        )

    def with_more(self, others: "_Moments") -> "_Moments":
        """The mean with other answers about the same, each as far as it has no noise."""
        own = self.of_squares**-2 / (self.of_squares**-2 + others.of_squares**-2)
        rest = 1 - own
        return replace(
            self,
            rows=own * self.rows + rest * others.rows,
            sums=own[:, None] * self.sums + rest[:, None] * others.sums,
            squares=own[:, None, None] * self.squares + rest[:, None, None] * others.squares,
            of_sums=np.sqrt((own * self.of_sums) ** 2 + (rest * others.of_sums) ** 2),
            of_squares=np.sqrt((own * self.of_squares) ** 2 + (rest * others.of_squares) ** 2),
        )


def _parameters(measure: _Measure, columns: Parameters, moments: _Moments, totals: _Moments) -> Parameters:
    """Components of codes beside those of columns.

    Args:
        measure: the code.
        columns: of which states, scores and weights are known.
        moments: of the components.
        totals: of the strata, by all answers so far.
    """
    means, covariances = _strata(totals, measure.variances)
    if len(means) < len(moments.rows):
        parts = [_parted(moments, j, means[j], covariances[j]) for j in range(len(means))]
        own = [np.flatnonzero(moments.strata == j) for j in range(len(means))]
        back = np.argsort(np.concatenate(own))
        means, covariances = (np.concatenate([p[i] for p in parts])[back] for i in (0, 1))
    factors = np.linalg.cholesky(covariances) * measure.unit[:, None]
    return replace(
        columns,
        means=torch.from_numpy(means * measure.unit).float(),
        factors=torch.from_numpy(factors).float(),
    )


def _strata(totals: _Moments, variances: Floats) -> tuple[Floats, Floats]:
    """Means (S, d) and covariances (S, d, d) of the strata.

    Args:
        totals: what was answered.
        variances: float64 (d,), of all rows along each axis: the axes are uncorrelated.
    """
    rows, error = totals.number[:, None], totals.error
    whole = float(rows.sum())
    centre = totals.sums.sum(0) / whole
    away = totals.sums / rows - centre
    between = np.maximum((rows * (away**2 - error)).sum(0) / whole, LEAST_BETWEEN * variances)
    means = centre + away * between / (between + error)
    usual = (rows[:, :, None] * totals.covariances).sum(0) / whole
    noise = math.sqrt(float((totals.of_squares**2).sum()) / 2) / whole
    pooled = _nearer(usual, np.diag(variances), noise, whole)
    return means, np.stack([totals.nearer(j, pooled) for j in range(len(means))])


LEAST_BETWEEN = 1e-3
"""Variance of means along an axis at least, in parts of what all rows have there."""


def _parted(moments: _Moments, stratum: int, mean: Floats, whole: Floats) -> tuple[Floats, Floats]:
    """Means (k, d) and covariances (k, d, d) of the components of a stratum, whose own are known better.

    Args:
        moments: of all components.
        stratum: its number.
        mean: float64 (d,).
        whole: its covariance, float64 (d, d).
    """
    own = np.flatnonzero(moments.strata == stratum)
    rows, error = moments.number[own][:, None], moments.error[own]
    values, axes = np.linalg.eigh(whole)
    away = (moments.sums[own] / rows - mean) @ axes
    between = np.maximum((rows * (away**2 - error)).sum(0) / rows.sum(), LEAST_BETWEEN * values)
    away *= between / (between + error)
    away -= (rows * away).sum(0) / rows.sum()
    # What lies between components does not lie within them.
    units = np.sqrt(values)
    scaled = away / units
    left, turn = np.linalg.eigh(np.eye(len(units)) - (rows * scaled).T @ scaled / rows.sum())
    back = axes * units @ turn
    within = (back * np.maximum(left, LEFT)) @ back.T
    return mean + away @ axes.T, np.stack([moments.nearer(int(k), within) for k in own])


LEFT = 0.2
"""Part of a stratum's variance along any axis that lies within its components at least."""


def _columns(
    space: Space, parameters: Parameters, usual: Parameters, table: Floats, noise: float, smoothing: float
) -> Parameters:
    """Components with states, scores and weights as they were answered.

    Args:
        space: code and strata.
        parameters: what the answer was taken under.
        usual: a component for each stratum, to which the answer leans.
        table: the sums of `gmm`, float64 (entries, K).
        noise: standard deviation of each.
        smoothing: see `Options`.
    """
    layout, rows = space.layout, max(space.layout.rows, 1.0)
    place = np.searchsorted(usual.strata.numpy(), parameters.strata.numpy())
    columns = gmm.maximize(
        layout,
        _leaning(layout, table, noise, usual.columns, place) / rows,
        rows,
        gmm.Options.model_validate({"smoothing": smoothing}),
    )
    # How many rows a stratum has the profile knows better.
    held = np.maximum(table[0], 1.0)
    shares = held / np.bincount(place, held)[place]
    rates = usual.columns.log_weights[torch.from_numpy(place)] + torch.from_numpy(np.log(shares)).float()
    return replace(parameters, columns=tied(space, replace(columns, log_weights=rates), parameters.strata))


def _leaning(
    layout: Layout, table: Floats, noise: float, usual: gmm.Parameters, place: NDArray[np.int64]
) -> Floats:
    """Sums of `gmm` with less noise: they lean to what is usual in the stratum.

    Args:
        layout: the encoded columns.
        table: float64 (entries, K), as `gmm` has them.
        noise: standard deviation of each.
        usual: components of the strata.
        place: int64 (K,): which of these each component leans to.
    """
    found, rows = table.copy(), np.maximum(table[0], LEAST_ROWS)
    found[0] = rows
    rates = usual.log_tables.double().exp().numpy()[:, place]
    for field, first in zip(layout.fields, layout.offsets, strict=True):
        states = slice(int(first), int(first) + field.states)
        expected = np.where(np.array(field.rates)[:, None] > 0, rates[states] * rows, 0.0)
        away = table[1:][states] - expected
        power = np.maximum((away**2).sum(0), 1e-12)
        nearer = expected + np.maximum(0.0, 1 - field.states * noise**2 / power) * away
        # What no row has, no row of a component has.
        found[1:][states] = np.where(expected > 0, np.maximum(nearer, 0.0), 0.0)
    if not layout.scored:
        return found
    held = np.stack([found[int(layout.offsets[i]) + layout.fields[i].states] for i in layout.scored])
    kept = held**2 / (held**2 + noise**2 + 1e-12)
    means, stds = (t.double().numpy()[:, place] for t in (usual.means, usual.stds))
    both = np.concatenate([held * (means**2 + stds**2), held * means])
    found[1 + layout.states :] = both + np.tile(kept, (2, 1)) * (table[1 + layout.states :] - both)
    return found


def _nearer(found: Floats, usual: Floats, noise: float, rows: float) -> Floats:
    """A covariance as it is expected to be, given how far such ones lie from what is usual.

    In the axes of the usual one, and in their units, each entry's difference is taken for normal. Its variance is what
    all entries together show clearly beyond what noise and the number of rows do.

    Args:
        found: float64 (d, d), symmetric.
        usual: float64 (d, d), positive definite.
        noise: standard deviation of the noise off the diagonal; on it, it is √2 times that.
        rows: that it was taken from.
    """
    values, axes = np.linalg.eigh(usual)
    units = np.sqrt(np.maximum(values, 1e-12))
    twice = 1 + np.eye(len(units))
    away = axes.T @ (found - usual) @ axes / np.outer(units, units)
    error = (noise / np.outer(units, units)) ** 2 + 1 / rows
    weights = (error + DIFFERS**2) ** -2.0
    spread = float(((away**2 / twice - error) * weights).sum() / weights.sum())
    # Less what chance may show where there is none: one standard error.
    chance = float(np.sqrt(2 * (weights**2 * error**2).sum()) / weights.sum())
    spread = max(spread - chance, 0.0)
    values, turn = np.linalg.eigh(np.eye(len(units)) + away * spread / (spread + error))
    back = axes * units @ turn
    return np.asarray((back * np.maximum(values, THINNEST)) @ back.T)


DIFFERS = 0.02
"""How far entries of covariances lie apart at least, in their units, for the weight of each."""
