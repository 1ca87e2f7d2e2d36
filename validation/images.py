"""Images: how close synthetic images are to real ones, what they are good for, and whether they are copies.

All of it is about arrays of pixels: training rows, held-out rows that no model saw, and synthetic rows. Every figure of
distance stands beside its ceiling: the same figure for held-out rows in the synthetic rows' place, of the same number.

- Features are those of a small network (`validation.recognizer`) that learns here the classes of the training rows.
- Fréchet distance: Heusel et al. (2017, arXiv 1706.08500). Kernel distance, unbiased: Bińkowski et al. (2018, arXiv
  1801.01401). Precision and recall: Kynkäänniemi et al. (2019, arXiv 1904.06991); density and coverage: Naeem et al.
  (2020, arXiv 2002.09797). Class score: as the Inception Score of Salimans et al. (2016, arXiv 1606.03498). Figures in
  other features than Inception's compare with their ceilings only, not with published ones.
- Who has weights of InceptionV3 gives them (`validation.inception`): distances and scores are then in its features, as
  they are published. Classifiers and copies, which the gate judges, stay in those of the network trained here.
- Rows are drawn uniformly, by a seed, where there are more than the figures are computed from (the constants below);
  how many were is part of the result. One thread computes, so that a machine's cores change no digit.
"""

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import stats

from privacy.estimate import Z_SURE, Estimate, Z, estimate, wilson
from validation.cells import SIDES, Floats
from validation.features import draw, from_resamples, resampled, weighted_auc
from validation.inception import IMAGES, SPLITS, Inception, Moments, Tally, Weights, frechet, shown
from validation.markup import Html, element, paragraph, scrolling, section
from validation.recognizer import Classifier, Codes, Pixels, in_pieces, random_features, reproducible, taught

ROWS = 4_000
"""Rows of each side that distances are computed from at most."""

TAUGHT = 20_000
"""Rows that a classifier learns from at most; as many synthetic ones as real ones."""

TESTED = 10_000
"""Held-out rows that classifiers are tested on at most."""

SEARCHED = {"pixels": 60_000, "features": 20_000}
"""Training rows that nearest ones are looked for among at most."""

FEWEST = 50
"""Rows of a side without which there are no figures."""

NEIGHBOURS = 5
"""k of precision, recall, density and coverage, as Naeem et al. choose it."""

BLOCKS = 10
"""Disjoint blocks of rows whose kernel distances give its interval."""

CLOSE = 0.05
"""Share of held-out rows that count as close to a training row: the threshold is their quantile."""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A figure of the synthetic rows, and of held-out rows in their place; None with too few of those."""

    value: Estimate
    ceiling: Estimate | None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Beside":
        """The inverse of `dataclasses.asdict`."""
        ceiling = data["ceiling"]
        return cls(value=Estimate(**data["value"]), ceiling=None if ceiling is None else Estimate(**ceiling))


@dataclass(frozen=True, kw_only=True)
class Closeness:
    """How close images are to training images, in the space of features.

    Attributes:
        rows: of each side.
        features: classifier, or random where there are no classes; inception where weights were given.
        frechet: Fréchet distance, 0 is best; it grows with fewer rows, so look at its ceiling.
        frechet_ceiling: None with too few held-out rows.
        kernel: squared kernel distance, 0 is best; the unbiased estimate may be below.
        precision: share of the images that lie where training images do.
        recall: share of the training images that lie where images do.
        density: how many training images' neighbourhoods an image lies in, 1 is best and may be exceeded.
        coverage: share of the training images with an image in their neighbourhood.
        score: exp of the mean divergence of an image's classes from those of all, 1 to the number of classes; None
            without classes. Of InceptionV3 the Inception Score.
        score_ceiling: likewise of held-out rows.
        inception: what else InceptionV3 says; None without its weights.
    """

    rows: int
    features: Literal["classifier", "random", "inception"]
    frechet: float
    frechet_ceiling: float | None
    kernel: Beside
    precision: Beside
    recall: Beside
    density: Beside
    coverage: Beside
    score: float | None
    score_ceiling: float | None
    inception: Inception | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Closeness":
        """The inverse of `dataclasses.asdict`."""
        figures = ("kernel", "precision", "recall", "density", "coverage")
        told = {**data, **{n: Beside.from_dict(data[n]) for n in figures}}
        inception = data.get("inception")
        return cls(**{**told, "inception": None if inception is None else Inception(**inception)})


@dataclass(frozen=True, kw_only=True)
class Use:
    """What a classifier of synthetic images knows of held-out ones, beside one of as many training images.

    Attributes:
        taught: rows that each classifier learned from.
        tested: held-out rows that both were tested on.
        chance: accuracy of naming the commonest class.
        accuracy: synthetic-trained; the ceiling is real-trained.
        auc: area under the curve, the mean over classes against the rest; likewise.
    """

    taught: int
    tested: int
    chance: float
    accuracy: Beside
    auc: Beside


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """Whether images lie closer to training images than held-out ones do.

    Attributes:
        space: pixels or features.
        searched: training rows that nearest ones were looked for among.
        rows: synthetic rows that were looked at.
        close: share of them closer to a training image than all but 5 % of one half of the held-out rows.
        close_ceiling: the same share of the other half of the held-out rows, about 5 %.
        nearer: share of them whose nearest image, among as many training as held-out ones, is a training image: 0.5 if
            training and held-out rows are the same to them. Smooth images lie close to all others, which raises
            `close` but not this.
    """

    space: Literal["pixels", "features"]
    searched: int
    rows: int
    close: Estimate
    close_ceiling: Estimate
    nearer: Estimate


@dataclass(frozen=True, kw_only=True)
class ImageEvidence:
    """All that is known of synthetic images.

    Attributes:
        rows: training, held-out and synthetic rows that were given.
        closeness: how close they are.
        use: what they are good for; None without classes on all sides.
        nearness: whether they are copies, in pixels and in features; empty with too few held-out rows.
        identical: share of the synthetic images that are, pixel by pixel, a training image.
        identical_ceiling: the same share of the held-out images; None without any.
        sheet: some of the synthetic images, a row for each class, as a PNG in base64.
    """

    rows: tuple[int, int, int]
    closeness: Closeness
    use: Use | None
    nearness: tuple[Nearness, ...]
    identical: float
    identical_ceiling: float | None
    sheet: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        return {**asdict(self), "rows": list(self.rows), "nearness": [asdict(n) for n in self.nearness]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ImageEvidence":
        """The inverse of `to_dict`."""
        use = data["use"]
        near = ("close", "close_ceiling", "nearer")
        return cls(
            rows=tuple(data["rows"]),
            closeness=Closeness.from_dict(data["closeness"]),
            use=None
            if use is None
            else Use(**{**use, **{n: Beside.from_dict(use[n]) for n in ("accuracy", "auc")}}),
            nearness=tuple(
                Nearness(**{**n, **{f: Estimate(**n[f]) for f in near}}) for n in data["nearness"]
            ),
            identical=data["identical"],
            identical_ceiling=data["identical_ceiling"],
            sheet=data["sheet"],
        )


def image_evidence(
    pixels: Mapping[str, Pixels],
    labels: Mapping[str, npt.NDArray[Any]] | None,
    *,
    seed: int,
    searched: Pixels | None = None,
    inception: Weights | None = None,
    marked: Pixels | None = None,
) -> ImageEvidence | None:
    """Holds synthetic images against training and held-out ones.

    Takes one to two minutes of one core for images of 28 × 28, and a quarter of that without classes; InceptionV3 takes
    0.12 s for each image.

    Args:
        pixels: for each of train, holdout and synthetic, uint8 (n, height, width, channels), of one size; where several
            images are of one unit, one of each, or the intervals are too narrow.
        labels: likewise (n,), of one type; None, or fewer than two classes among the training rows: there are none.
        seed: of the rows that are drawn, and of the classifiers.
        searched: all training images, among which copies are looked for; None: those of `pixels`.
        inception: weights of InceptionV3, in whose features distances are measured; None: in those of the network here.
        marked: those with the mark that synthetic images have, which copies would be equal to; None: there is no mark.

    Returns:
        The evidence; None with fewer than `FEWEST` training or synthetic rows.
    """
    count = {side: len(pixels[side]) for side in SIDES}
    every = pixels["train"] if searched is None else searched
    if min(count["train"], count["synthetic"]) < FEWEST:
        return None
    with reproducible(seed):
        rng = np.random.default_rng(seed)
        classes = _Classes.of(labels)
        real = made = None
        if classes is not None:
            most = min(TAUGHT, len(classes.known("train")))
            learned = min(most, len(classes.known("synthetic")))
            real = classes.taught("train", pixels, most, rng, seed)
            if learned >= FEWEST:
                made = classes.taught("synthetic", pixels, learned, rng, seed)
        look = real.features if real is not None else random_features(pixels["train"], rng)
        use = None
        if classes is not None and real is not None and made is not None and count["holdout"] >= FEWEST:
            beside = real if learned == most else classes.taught("train", pixels, learned, rng, seed)
            use = _use(pixels["holdout"], classes, beside, made, learned, rng)
        near = _nearness({**pixels, "train": every}, look, rng) if count["holdout"] >= 2 * FEWEST else ()
        return ImageEvidence(
            rows=(count["train"], count["holdout"], count["synthetic"]),
            closeness=_closeness(pixels, look, real, rng)
            if inception is None
            else _seen_by_inception(pixels, inception, rng),
            use=use,
            nearness=near,
            identical=_identical(
                pixels["synthetic"], every if marked is None else np.concatenate([every, marked])
            ),
            identical_ceiling=_identical(pixels["holdout"], every) if count["holdout"] else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Classes:
    """The classes of rows as codes: those of the training rows, which are at least two, and −1 for others."""

    codes: dict[str, Codes]
    count: int

    @classmethod
    def of(cls, labels: Mapping[str, npt.NDArray[Any]] | None) -> "_Classes | None":
        if labels is None:
            return None
        names = np.unique(labels["train"])
        if len(names) < 2:
            return None
        codes = {}
        for side in SIDES:
            place = np.clip(np.searchsorted(names, labels[side]), 0, len(names) - 1)
            codes[side] = np.where(names[place] == labels[side], place, -1).astype(np.int64)
        return cls(codes=codes, count=len(names))

    def known(self, side: str) -> npt.NDArray[np.int64]:
        """Rows of a side whose class is one of the training rows'."""
        return np.flatnonzero(self.codes[side] >= 0).astype(np.int64)

    def taught(
        self, side: str, pixels: Mapping[str, Pixels], rows: int, rng: np.random.Generator, seed: int
    ) -> Classifier:
        """A classifier of so many rows of a side."""
        return taught(pixels[side], self.codes[side], self.count, rows=rows, rng=rng, seed=seed)


# ---------------------------------------------------------------------------------------------------- distances


def _closeness(
    pixels: Mapping[str, Pixels],
    look: Callable[[Pixels], npt.NDArray[np.float32]],
    real: Classifier | None,
    rng: np.random.Generator,
) -> Closeness:
    held = len(pixels["holdout"]) >= FEWEST
    sides = SIDES if held else tuple(s for s in SIDES if s != "holdout")
    rows = min(ROWS, *(len(pixels[side]) for side in sides))
    drawn = {side: pixels[side][draw(len(pixels[side]), rows, rng)] for side in sides}
    seen = _standardized({side: look(values).astype(np.float64) for side, values in drawn.items()})
    blocks = rng.permutation(rows)
    found = {side: _figures(seen["train"], seen[side], blocks) for side in sides if side != "train"}
    score = {side: None if real is None else _score(real.guesses(drawn[side])) for side in found}
    moments = {side: Moments.of(x) for side, x in seen.items()}
    near = _figures_beside(found)
    return Closeness(
        rows=rows,
        features="random" if real is None else "classifier",
        frechet=frechet(moments["train"], moments["synthetic"]),
        frechet_ceiling=frechet(moments["train"], moments["holdout"]) if held else None,
        kernel=near["kernel"],
        precision=near["precision"],
        recall=near["recall"],
        density=near["density"],
        coverage=near["coverage"],
        score=score["synthetic"],
        score_ceiling=score.get("holdout"),
    )


def _figures_beside(found: Mapping[str, dict[str, Estimate]]) -> dict[str, Beside]:
    """Each of `_figures` of synthetic rows beside that of held-out ones, where there are any."""
    ceiling = found.get("holdout", {})
    return {
        name: Beside(value=value, ceiling=ceiling.get(name)) for name, value in found["synthetic"].items()
    }


def _seen_by_inception(pixels: Mapping[str, Pixels], weights: Weights, rng: np.random.Generator) -> Closeness:
    """Distances and scores in the features of InceptionV3, as they are: what papers publish is not standardized.

    Fréchet distance and score are of many images, held as their moments; the other figures need their distances from
    each other, and are of `ROWS` of them.
    """
    network = weights.network()
    held = len(pixels["holdout"]) >= FEWEST
    sides = SIDES if held else tuple(s for s in SIDES if s != "holdout")
    most = min(weights.images, len(pixels["train"]), len(pixels["synthetic"]))
    same = min(most, *(len(pixels[side]) for side in sides))
    rows = min(ROWS, same)
    seen: dict[str, Floats] = {}
    tallies = {
        side: [Tally(n) for n in sorted({same, same if side == "holdout" else most})] for side in sides
    }
    for side in sides:
        order = rng.permutation(len(pixels[side]))[: tallies[side][-1].count]
        seen[side] = shown(network, pixels[side], order, tallies[side], kept=rows)
    blocks = rng.permutation(rows)
    found = {side: _figures(seen["train"], seen[side], blocks) for side in sides if side != "train"}
    near = _figures_beside(found)
    train, synthetic = ([tally.moments() for tally in tallies[side]] for side in ("train", "synthetic"))
    score, most_score = tallies["synthetic"][0].score(), tallies["synthetic"][-1].score()
    ceiling = tallies["holdout"][0] if held else None
    of_held = (None, None) if ceiling is None else ceiling.score()
    apart = [frechet(a, b) for a, b in zip(train, synthetic, strict=True)]
    return Closeness(
        rows=rows,
        features="inception",
        frechet=apart[0],
        frechet_ceiling=None if ceiling is None else frechet(train[0], ceiling.moments()),
        kernel=near["kernel"],
        precision=near["precision"],
        recall=near["recall"],
        density=near["density"],
        coverage=near["coverage"],
        score=score[0],
        score_ceiling=of_held[0],
        inception=Inception(
            name=network.name,
            digest=network.digest,
            images=same,
            score_sd=score[1],
            score_ceiling_sd=of_held[1],
            most=most,
            most_frechet=apart[-1],
            most_score=most_score[0],
            most_score_sd=most_score[1],
        ),
    )


def _standardized(seen: Mapping[str, Floats]) -> dict[str, Floats]:
    """Features about the training rows' mean, in units of their mean variance: a network's scale means nothing."""
    train = seen["train"]
    scale = math.sqrt(float(train.var(axis=0).mean())) or 1.0
    return {side: (x - train.mean(axis=0)) / scale for side, x in seen.items()}


def _figures(train: Floats, other: Floats, order: npt.NDArray[np.int64]) -> dict[str, Estimate]:
    """Kernel distance, precision, recall, density and coverage of as many rows."""
    radius, own = _radii(train), _radii(other)
    apart = _distances(train, other)
    inside = apart <= radius[:, None]
    precision, coverage = inside.any(axis=0), inside.any(axis=1)
    recall = (apart <= own[None, :]).any(axis=1)
    rows = len(other)
    return {
        "kernel": _kernel_estimate(train, other, order),
        "precision": share_of(float(precision.mean()), rows),
        "recall": share_of(float(recall.mean()), rows),
        "density": _mean(inside.sum(axis=0) / NEIGHBOURS),
        "coverage": share_of(float(coverage.mean()), rows),
    }


def share_of(share: float, rows: int) -> Estimate:
    """A share of so many rows, with Wilson's intervals."""
    return estimate(share, lambda z: wilson(share, rows, z))


def _around(value: float, reach: float, sure: float) -> Estimate:
    return Estimate(value=value, low=value - reach, high=value + reach, surely=value - sure)


def _mean(values: Floats) -> Estimate:
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return _around(float(values.mean()), Z * error, Z_SURE * error)


def _distances(a: Floats, b: Floats) -> Floats:
    """Euclidean distances: (a rows, b rows)."""
    squares = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2 * a @ b.T
    found: Floats = np.sqrt(np.maximum(squares, 0))
    return found


def _radii(x: Floats) -> Floats:
    """The distance of each row to its `NEIGHBOURS`-th nearest other row."""
    apart = _distances(x, x)
    np.fill_diagonal(apart, np.inf)
    found: Floats = np.partition(apart, NEIGHBOURS - 1, axis=1)[:, NEIGHBOURS - 1]
    return found


def kernel_distance(a: Floats, b: Floats) -> float:
    """Squared maximum mean discrepancy under (x·y / d + 1)³, the unbiased estimate."""
    dims, m, n = a.shape[1], len(a), len(b)

    def kernel(x: Floats, y: Floats) -> Floats:
        found: Floats = (x @ y.T / dims + 1) ** 3
        return found

    aa, bb = kernel(a, a), kernel(b, b)
    within = (aa.sum() - np.trace(aa)) / (m * (m - 1)) + (bb.sum() - np.trace(bb)) / (n * (n - 1))
    return float(within - 2 * kernel(a, b).mean())


def _kernel_estimate(a: Floats, b: Floats, order: npt.NDArray[np.int64]) -> Estimate:
    """The kernel distance of all rows; its interval from that of disjoint blocks, by Student's t."""
    blocks = np.array_split(order, BLOCKS)
    parts = np.array([kernel_distance(a[block], b[block]) for block in blocks])
    error = float(parts.std(ddof=1)) / math.sqrt(BLOCKS)
    reach, sure = (float(stats.t.ppf(1 - p, BLOCKS - 1)) * error for p in (0.025, 0.0005))
    return _around(kernel_distance(a, b), reach, sure)


def _score(guesses: Floats) -> float:
    """The exponential of the mean divergence of an image's classes from the mean over images."""
    safe = np.clip(guesses, 1e-12, None)
    return float(np.exp((safe * np.log(safe / safe.mean(axis=0))).sum(axis=1).mean()))


# ---------------------------------------------------------------------------------------------------------- use


def _use(
    holdout: Pixels,
    classes: _Classes,
    real: Classifier,
    made: Classifier,
    learned: int,
    rng: np.random.Generator,
) -> Use | None:
    known = classes.known("holdout")
    drawn = known[draw(len(known), TESTED, rng)]
    truth = classes.codes["holdout"][drawn]
    if len(drawn) < FEWEST or len(np.unique(truth)) < 2:
        return None
    weights = resampled(len(drawn), rng)
    guesses = [model.guesses(holdout[drawn]) for model in (made, real)]
    accuracy = [share_of(float((g.argmax(axis=1) == truth).mean()), len(truth)) for g in guesses]
    areas = [_areas(g, truth, weights) for g in guesses]
    return Use(
        taught=learned,
        tested=len(truth),
        chance=float(np.bincount(truth).max() / len(truth)),
        accuracy=Beside(value=accuracy[0], ceiling=accuracy[1]),
        auc=Beside(value=areas[0], ceiling=areas[1]),
    )


def _areas(guesses: Floats, truth: Codes, weights: Floats) -> Estimate:
    """Area under the curve of each class against the rest, the mean over those that are there."""
    there = [c for c in range(guesses.shape[1]) if 0 < (truth == c).sum() < len(truth)]
    found = [weighted_auc(guesses[:, c], truth == c, weights) for c in there]
    return from_resamples(np.mean(found, axis=0))


# ------------------------------------------------------------------------------------------------------- copies


def _nearness(
    pixels: Mapping[str, Pixels],
    look: Callable[[Pixels], npt.NDArray[np.float32]],
    rng: np.random.Generator,
) -> tuple[Nearness, ...]:
    held, made = (pixels[s][draw(len(pixels[s]), ROWS, rng)] for s in ("holdout", "synthetic"))
    held = held[rng.permutation(len(held))]
    flat: Callable[[Pixels], npt.NDArray[np.float32]] = lambda p: in_pieces(p, lambda x: x.flatten(1))  # noqa: E731
    found = []
    for space, see in (("pixels", flat), ("features", look)):
        train = see(pixels["train"][draw(len(pixels["train"]), SEARCHED[space], rng)])
        found.append(_near(space, train, see(held), see(made), rng))  # type: ignore[arg-type]
    return tuple(found)


def _near(
    space: Literal["pixels", "features"],
    train: npt.NDArray[np.float32],
    held: npt.NDArray[np.float32],
    made: npt.NDArray[np.float32],
    rng: np.random.Generator,
) -> Nearness:
    half = len(held) // 2
    to_train, held_to_train = _nearest(made, train), _nearest(held, train)
    threshold = float(np.quantile(held_to_train[:half], CLOSE))
    rest = held_to_train[half:]
    same = min(len(train), len(held))
    some = train[draw(len(train), same, rng)]
    apart = _nearest(made, some), _nearest(made, held[draw(len(held), same, rng)])
    nearer = float((apart[0] < apart[1]).mean() + (apart[0] == apart[1]).mean() / 2)
    return Nearness(
        space=space,
        searched=len(train),
        rows=len(made),
        close=share_of(float((to_train < threshold).mean()), len(made)),
        close_ceiling=share_of(float((rest < threshold).mean()), len(rest)),
        nearer=share_of(nearer, len(made)),
    )


def _nearest(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> Floats:
    """The distance of each row of `a` to the nearest of `b`; their mean is taken off, so that few digits suffice."""
    mean = b.mean(axis=0)
    a, b = a - mean, b - mean
    squares = np.full(len(a), np.inf)
    for start in range(0, len(b), 4096):
        piece = b[start : start + 4096]
        apart = (piece**2).sum(axis=1)[None, :] - 2 * a @ piece.T
        squares = np.minimum(squares, apart.min(axis=1))
    found: Floats = np.sqrt(np.maximum(squares + (a.astype(np.float64) ** 2).sum(axis=1), 0))
    return found


def _identical(images: Pixels, train: Pixels) -> float:
    known = {image.tobytes() for image in train}
    return float(np.mean([image.tobytes() in known for image in images]))


# ------------------------------------------------------------------------------------------------------ pictures

SHEET = 10
"""Images in a row of the sheet, and rows at most."""

SHEET_PIXELS = 64
"""Pixels of a side of an image on the sheet, about."""


def sheet_of(images: Pixels, labels: npt.NDArray[Any] | None) -> str | None:
    """The first images of each of the first classes, in rows, as a PNG in base64; None without images."""
    if not len(images):
        return None
    groups = (
        [np.arange(SHEET * SHEET)[i * SHEET : (i + 1) * SHEET] for i in range(SHEET)]
        if labels is None
        else [np.flatnonzero(labels == name)[:SHEET] for name in np.unique(labels)[:SHEET]]
    )
    rows = [images[g[g < len(images)]] for g in groups]
    return pasted([r for r in rows if len(r)])


def pasted(rows: Sequence[Pixels]) -> str:
    """Images in rows, as a PNG in base64; large ones are shrunk, so that a page holds many.

    Args:
        rows: uint8 (n, height, width, channels) each, of one size; at least one, `SHEET` images at most in each.
    """
    rows = [_shrunk(row) for row in rows]
    _, height, width, channels = rows[0].shape
    gap, times = 1, max(1, round(SHEET_PIXELS / max(height, width)))
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * (height + gap), columns * (width + gap), channels), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet[y * (height + gap) :, x * (width + gap) :][:height, :width] = image
    large = sheet.repeat(times, axis=0).repeat(times, axis=1)
    stream = io.BytesIO()
    Image.fromarray(large[:, :, 0] if channels == 1 else large).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def _shrunk(images: Pixels) -> Pixels:
    """Images of `SHEET_PIXELS` a side at most, by the means of areas."""
    _, height, width, channels = images.shape
    share = SHEET_PIXELS / max(height, width)
    if share >= 1:
        return images
    size = max(1, round(width * share)), max(1, round(height * share))
    flat = images[..., 0] if channels == 1 else images
    small = [np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX)) for image in flat]
    return np.stack(small).reshape(len(images), size[1], size[0], channels)


# ------------------------------------------------------------------------------------------------------ in words


def render(found: ImageEvidence | None) -> Html:
    """The section of the report."""
    title = "Images"
    if found is None:
        return section("images", title, paragraph(f"Not compared: fewer than {FEWEST} images of a side."))
    return section(
        "images",
        title,
        paragraph(
            _measured(found.closeness),
            " Beside each figure stands what real images that were held out score in the synthetic ones\u2019 place.",
        ),
        *([] if found.sheet is None else [sheet(found.sheet)]),
        scrolling("Figures of images", _table(found)),
    )


def _measured(close: Closeness) -> Html:
    """In which features, of how many images."""
    if close.inception is None:
        learned = close.features == "classifier"
        of = "that learned the classes of the training images" if learned else "of random filters"
        text = f"Distances are of {close.rows:,} images of each side in the features of a small network {of}."
        return element("span", {}, text)
    by = close.inception
    published = (
        f"Published Fréchet distances and scores are of {IMAGES:,} images; those of fewer are worse."
        if by.published
        else "Published figures are of other weights, TensorFlow\u2019s, and compare with none of these."
    )
    return element(
        "span",
        {},
        f"Distances are in the features of {by.name}, weights SHA-256 ",
        element("code", {}, by.digest),
        f": Fréchet distance and score of {by.images:,} images of each side, the others of {close.rows:,}. {published} "
        "Use and copies are in the features of a small network of our own.",
    )


def sheet(images: str) -> Html:
    """Released images, a PNG in base64, as a figure of the page."""
    picture = element(
        "img",
        {
            "src": f"data:image/png;base64,{images}",
            "alt": "Synthetic images, a row for each class",
            "class": "sheet",
        },
    )
    return element("figure", {}, element("figcaption", {}, "Synthetic images, a row for each class"), picture)


def _table(found: ImageEvidence) -> Html:
    rows = [
        element("tr", {}, element("th", {"scope": "row"}, name), *(element("td", {}, text) for text in texts))
        for name, *texts in _lines(found)
    ]
    heads = ("", "Synthetic images", "Held-out images", "")
    return element(
        "table",
        {"class": "plain"},
        element("caption", {}, "Figures of images, with 95 % intervals"),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *rows),
    )


def _lines(found: ImageEvidence) -> Iterator[tuple[str, str, str, str]]:
    close = found.closeness
    if found.use is not None:
        use = found.use
        taught = (
            f"trained on {use.taught:,}, tested on {use.tested:,} held-out images; guessing {use.chance:.2f}"
        )
        yield "Accuracy of a classifier", *_beside(use.accuracy), taught
        yield "Its AUC", *_beside(use.auc), "beside one that learned from as many real images"
    fid, kid = ("", "") if close.inception is None else (" (FID)", " (KID)")
    yield f"Fréchet distance{fid}", f"{close.frechet:.2f}", _one(close.frechet_ceiling), "0 is best"
    yield f"Kernel distance{kid}", *_beside(close.kernel), "0 is best"
    yield "Precision", *_beside(close.precision), "lie where training images do"
    yield "Recall", *_beside(close.recall), "of the training images lie where these do"
    yield "Density", *_beside(close.density), "1 is best"
    yield "Coverage", *_beside(close.coverage), "of the training images have one near"
    if close.inception is not None:
        yield from _scores(close, close.inception)
    elif close.score is not None:
        yield "Class score", f"{close.score:.2f}", _one(close.score_ceiling), "1 to the number of classes"
    for near in found.nearness:
        told = f"closer to a training image than {100 * (1 - CLOSE):.0f} % of held-out ones"
        yield f"Close, in {near.space}", _told(near.close), _told(near.close_ceiling), told
        yield (
            f"Nearer, in {near.space}",
            _told(near.nearer),
            "0.5",
            "to training images than to held-out ones",
        )
    yield "Identical", f"{found.identical:.4f}", _one(found.identical_ceiling), "equal a training image"


def _scores(close: Closeness, by: Inception) -> Iterator[tuple[str, str, str, str]]:
    """Inception Scores, and what is of more images than there are held-out ones."""
    parts = f"mean ± deviation over {SPLITS} parts"

    def told(value: float | None, deviation: float | None) -> str:
        return "–" if value is None or deviation is None else f"{value:.2f} ± {deviation:.2f}"

    yield (
        "Inception Score",
        told(close.score, by.score_sd),
        told(close.score_ceiling, by.score_ceiling_sd),
        parts,
    )
    if by.most > by.images:
        yield (
            f"FID of {by.most:,} images",
            f"{by.most_frechet:.2f}",
            "–",
            "of each side; held-out ones are fewer",
        )
        yield f"Score of {by.most:,} images", told(by.most_score, by.most_score_sd), "–", parts


def _beside(figure: Beside) -> tuple[str, str]:
    return _told(figure.value), "–" if figure.ceiling is None else _told(figure.ceiling)


def _told(figure: Estimate) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _one(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
