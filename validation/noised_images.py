"""Noised images: how images of a private release look beside real ones, by counts that are charged.

A network (`validation.recognizer`) learns the classes of images that the model drew, which costs nothing. Real rows are
then counted by their class and whether the network says it of their image: how often it is right is what the release is
good for, beside how often it is right about drawn images that it did not learn from. And its
features of drawn images fall into regions: real rows are counted by the region that their image lies in, and whether
it lies farther out than all but 5 % of drawn ones do. Where many do, images were drawn that are alike, or too smooth.

Network and regions follow from drawn images alone, so each cell is a public function of one row, and both counts join
the one question of `validation.coarse`. Intervals are those of a ratio of noised counts (Fieller 1954), for the noise
and for the luck of who is in the table.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import stats
from sklearn.cluster import KMeans

from privacy.curator import Batch, Floats
from privacy.estimate import Z_SURE, Estimate, Z
from synth.codec import Codec, Encoded, Layout
from synth.registry import Model
from validation.coarse import Asked
from validation.features import draw
from validation.gates import Judged
from validation.images import FEWEST, sheet
from validation.markup import Html, element, paragraph, percent, scrolling, section, shown_name
from validation.noised import MISSED, Score, distance
from validation.recognizer import Codes, Pixels, class_column, random_features, reproducible, taught

TAUGHT, LOOKED = 12_000, 4_000
"""Images that are drawn to learn from at most, and those beside which real ones are held."""

REGIONS = 16
"""Regions of features at most; of few images fewer, a hundred in each."""

FAR = 0.05
"""Share of the drawn images of a region that lie far out."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the network knows of a class.

    Attributes:
        name: of the class.
        right: share of its real images that are taken for it; None where noise hides whether there are any.
        drawn: the same share of drawn images.
    """

    name: str
    right: Estimate | None
    drawn: float


@dataclass(frozen=True, kw_only=True)
class NoisedImages:
    """All noised figures of images.

    Attributes:
        rows: real images that were counted, a noised number.
        noise_std: of each count.
        held_out: whether the model has not learned from these.
        taught: drawn images that the network learned from.
        label: the column of the classes; None without one.
        right: share of the real images of a known class whose class it says; never of a class that the model did not
            draw. None without classes.
        right_drawn: the same share of drawn images that it did not learn from.
        chance: share of the commonest class of real images.
        classes: each class that was drawn.
        far: share of the real images that lie far from drawn ones.
        far_drawn: the same share of drawn images.
        regions: how alike real and drawn images spread over the regions.
        sheet: some of the released images, a row for each class, as a PNG in base64.
    """

    rows: int
    noise_std: float
    held_out: bool
    taught: int
    label: str | None
    right: Estimate | None
    right_drawn: float | None
    chance: float | None
    classes: tuple[Known, ...]
    far: Estimate
    far_drawn: float
    regions: Score
    sheet: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        return {**asdict(self), "classes": [asdict(c) for c in self.classes]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NoisedImages":
        """The inverse of `to_dict`."""
        return cls(
            **{
                **data,
                "right": _estimate(data["right"]),
                "far": Estimate(**data["far"]),
                "regions": Score(**data["regions"]),
                "classes": tuple(Known(**{**c, "right": _estimate(c["right"])}) for c in data["classes"]),
            }
        )


def _estimate(data: Mapping[str, float] | None) -> Estimate | None:
    return None if data is None else Estimate(**data)


# ------------------------------------------------------------------------------------------------ what is asked


@dataclass(frozen=True, kw_only=True, eq=False)
class Looked:
    """A marginal of encoded rows by what is seen of their image; a row without one is in no cell.

    Attributes:
        what: `guess`: class, then whether the network says it, and last the classes that it was never shown, where
            there are any; `place`: region, then whether it is far out.
        shape: number of cells along each.
    """

    lens: "Lens"
    what: Literal["guess", "place"]
    shape: tuple[int, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """What it reads of a batch."""
        return ("states", "pixels")

    @property
    def edges(self) -> tuple[NDArray[np.generic], ...]:
        """Public facts, so that a journal takes no answer for that to another question."""
        return (np.array([ord(self.what[0]), self.lens.label or 0, self.lens.seed]),)

    def cell(self, batch: Batch) -> Codes:
        """The cell of each row: int64 (n,)."""
        states, pixels = (
            np.asarray(batch.columns["states"], np.int32),
            np.asarray(batch.columns["pixels"], np.uint8),
        )
        return self.lens.cells(self.what, states, pixels)


class Lens:
    """What drawn images teach: a network that tells classes apart, and regions of its features.

    Args:
        layout: of the encoded rows.
        drawn: rows that have an image each.
        label: index of the field of the classes, or None.
        names: of the states of that field.
        seed: of the network, and of which images it learns from.
    """

    def __init__(
        self,
        layout: Layout,
        drawn: Encoded,
        *,
        label: int | None,
        names: Mapping[int, str] = MappingProxyType({}),
        seed: int,
    ) -> None:
        self._picture, self.seed = layout.images[0], seed
        self._kept: tuple[Pixels, NDArray[np.float32]] | None = None
        last = len(drawn) * LOOKED // (TAUGHT + LOOKED)
        looked, learned = drawn.take(slice(0, last)), drawn.take(slice(last, len(drawn)))
        self.taught = len(learned)
        images = self._images(learned)
        codes, self._states = _codes(learned, label)
        self.names = [names[int(s)] for s in self._states]
        self.classes = None if label is None else layout.fields[label].name
        self.label = label if len(self.names) > 1 else None
        # Missing is a state, and no class.
        all_of = 0 if label is None else layout.fields[label].states - 1
        self._told = len(self.names) + (all_of > len(self.names))
        with reproducible(seed):
            rng = np.random.default_rng(seed)
            self._network = (
                None
                if self.label is None
                else taught(images, codes, len(self.names), rows=TAUGHT, rng=rng, seed=seed)
            )
            self._features: Callable[[Pixels], NDArray[np.float32]] = (
                random_features(images, rng) if self._network is None else self._network.features
            )
            # Regions are those of images that the network did not learn from: it sees others less clearly.
            own, rest = looked.take(slice(0, last // 2)), looked.take(slice(last // 2, last))
            assert own.pixels is not None
            seen = self._seen(own.pixels)
            number = max(1, min(REGIONS, len(seen) // 100))
            some = seen[draw(len(seen), LOOKED, rng)]
            self._middles = KMeans(number, n_init=1, random_state=seed).fit(some).cluster_centers_
            region, apart = self._nearest(seen)
            self._reach = np.array(
                [
                    np.quantile(apart[region == r], 1 - FAR) if (region == r).any() else 0.0
                    for r in range(number)
                ]
            )
        self.asked = (
            Looked(lens=self, what="place", shape=(number, 2)),
            *(() if self.label is None else (Looked(lens=self, what="guess", shape=(self._told, 2)),)),
        )
        self.looked = rest

    def _images(self, rows: Encoded) -> Pixels:
        assert rows.pixels is not None
        return rows.pixels[:, self._picture.part].reshape(-1, *self._picture.shape)

    def _seen(self, pixels: Pixels) -> NDArray[np.float32]:
        """Features of the images of rows, float32 (n, F), which both marginals ask for one after the other."""
        if self._kept is None or self._kept[0] is not pixels:
            # A copy: what a store maps into memory cannot be written, which torch warns of.
            shape = (1, *self._picture.shape)
            with reproducible(self.seed):
                # Each by itself, so that no row comes to lie in another cell because of the rows beside it.
                seen = [self._features(np.array(row[self._picture.part]).reshape(shape)) for row in pixels]
            self._kept = pixels, np.concatenate(seen)
        return self._kept[1]

    def _nearest(self, seen: NDArray[np.float32]) -> tuple[Codes, Floats]:
        """The region of each row of features, and how far it is from the middle: (n,) both."""
        squares = np.stack([((seen - m) ** 2).sum(1) for m in self._middles], 1)
        region = squares.argmin(1)
        return region, np.sqrt(squares[np.arange(len(seen)), region]).astype(np.float64)

    def _guess(self, seen: NDArray[np.float32]) -> Codes:
        """The class that the network says, for each row of features: int64 (n,)."""
        assert self._network is not None
        weight, bias = (p.detach().numpy() for p in self._network.head.parameters())
        said = np.stack([(seen * w).sum(1) + b for w, b in zip(weight, bias, strict=True)], 1)
        return np.asarray(said.argmax(1))

    def cells(self, what: str, states: NDArray[np.integer], pixels: Pixels) -> Codes:
        """The cell of each row: int64 (n,)."""
        there = states[:, self._picture.field] > 0
        if not there.any():
            return np.full(len(states), -1, np.int64)
        seen = self._seen(pixels)
        if what == "place":
            region, apart = self._nearest(seen)
            return np.where(there, 2 * region + (apart > self._reach[region]), -1)
        states = states[:, self.label or 0]
        own = np.where(
            np.isin(states, self._states), np.searchsorted(self._states, states), len(self._states)
        )
        # Not by what it says instead: the noise of so many more cells would hide how often it is right.
        return np.where(there & (states > 0), 2 * own + (self._guess(seen) == own), -1)


def _codes(rows: Encoded, label: int | None) -> tuple[Codes, NDArray[np.int64]]:
    """Classes of rows as codes, −1 where there is none, and the states that they are."""
    states = np.zeros(len(rows), np.int64) if label is None else rows.states[:, label].astype(np.int64)
    names = np.unique(states[states > 0])
    return np.where(states > 0, np.searchsorted(names, states), -1), names


def lens_of(
    model: Model, codec: Codec, *, targets: Sequence[str], seed: int, most: int = TAUGHT + LOOKED
) -> Lens | None:
    """Draws images and learns from them; None where too few rows have one.

    Args:
        model: it draws rows.
        codec: of the encoded rows.
        targets: columns that may be the classes, before others.
        seed: of the draw and of the network.
        most: images that fit into memory.
    """
    layout = codec.layout
    rows = int(min(TAUGHT + LOOKED, most, max(layout.rows, 1.0)))
    drawn = model.draw(rows, np.random.default_rng([seed, 3]))
    drawn = drawn.take(np.flatnonzero(drawn.states[:, layout.images[0].field] > 0))
    if len(drawn) < 8 * FEWEST:
        return None
    fields = {c.name: i for i, c in enumerate(codec.schema) if c.learned and layout.fields[i].score is None}
    sizes = {n: len(np.unique(drawn.states[:, i])) for n, i in fields.items() if i != layout.images[0].field}
    name = class_column(sizes, targets)
    if name is None:
        return Lens(layout, drawn, label=None, seed=seed)
    states, first = np.unique(drawn.states[:, fields[name]], return_index=True)
    words = codec.decode(drawn.take(first)).column(name).cast(pa.string()).fill_null("").to_pylist()
    names = dict(zip(states.tolist(), words, strict=True))
    return Lens(layout, drawn, label=fields[name], names=names, seed=seed)


def figures_of(lens: Lens, asked: Asked) -> NoisedImages | None:
    """The figures that follow from noised counts.

    Args:
        lens: what was counted by.
        asked: counts of its marginals, in their order.

    Returns:
        The figures; None where noise hides whether there are images at all.
    """
    drawn = [lens.cells(m.what, lens.looked.states, _all_pixels(lens.looked)) for m in lens.asked]
    places = distance(asked.counts[0].ravel(), drawn[0][drawn[0] >= 0], asked)
    ratio = _Ratio(noise=asked.noise_std, unit_rows=asked.unit_rows)
    far = ratio.of(asked.counts[0][:, 1], asked.counts[0])
    if places is None or far is None:
        return None
    figures = NoisedImages(
        rows=round(float(asked.counts[0].sum())), noise_std=asked.noise_std, held_out=asked.held_out,
        taught=lens.taught, label=None, right=None, right_drawn=None, chance=None, classes=(),
        far=far, far_drawn=float((drawn[0] % 2 == 1).mean()), regions=places,
    )  # fmt: skip
    if len(lens.asked) == 1:
        return figures
    counts = asked.counts[1]
    right = ratio.of(counts[:, 1], counts)
    cells = drawn[1][drawn[1] >= 0]
    if right is None or not len(cells):
        return figures
    made = np.bincount(cells, minlength=counts.size).reshape(counts.shape)
    # All classes hold together.
    each = replace(ratio, z=float(stats.norm.isf(MISSED / 2 / len(lens.names))))
    known = tuple(
        Known(
            name=name,
            right=each.of(counts[i, 1:], counts[i]),
            drawn=float(made[i, 1] / max(1, made[i].sum())),
        )
        for i, name in enumerate(lens.names)
    )
    return replace(
        figures,
        label=lens.classes,
        right=right,
        right_drawn=float(made[:, 1].sum() / made.sum()),
        chance=float(np.clip(counts.sum(1).max() / counts.sum(), 0, 1)),
        classes=known,
    )


def _all_pixels(rows: Encoded) -> Pixels:
    assert rows.pixels is not None
    return rows.pixels


@dataclass(frozen=True, kw_only=True)
class _Ratio:
    """Shares of noised counts.

    Attributes:
        noise: standard deviation of the noise in each count.
        unit_rows: rows of one unit, which may be all alike.
        z: standard errors of an interval.
    """

    noise: float
    unit_rows: int
    z: float = Z

    def of(self, part: Floats, whole: Floats) -> Estimate | None:
        """The share that some cells have of all that they belong to; None where noise hides whether there are any."""
        most, all_of = float(part.sum()), float(whole.sum())
        if all_of <= max(1.0, 3 * self.noise * math.sqrt(whole.size)):
            return None
        value = min(1.0, max(0.0, most / all_of))
        low, high = self._ends(most, all_of, part.size, whole.size, self.z)
        surely, _ = self._ends(most, all_of, part.size, whole.size, max(self.z, Z_SURE))
        return Estimate(value=value, low=min(low, value), high=max(high, value), surely=min(surely, value))

    def _ends(self, most: float, all_of: float, cells: int, every: int, z: float) -> tuple[float, float]:
        """All θ for which most − θ · all_of is no surprise, given noise in both and sampling θ (1 − θ) / n."""
        noise, luck = (z * self.noise) ** 2, z**2 * self.unit_rows * all_of
        square = all_of**2 - noise * every + luck
        middle = most * all_of - noise * cells + luck / 2
        rest = most**2 - noise * cells
        if square <= 0:
            return 0.0, 1.0
        reach = math.sqrt(max(0.0, middle**2 - square * rest))
        return max(0.0, (middle - reach) / square), min(1.0, (middle + reach) / square)


# ------------------------------------------------------------------------------------------------------ in words


def render(found: NoisedImages, judged: Sequence[Judged]) -> Html:
    """The section of a report; of the verdicts it shows those on images."""
    outcome = next((j.outcome for j in judged if j.rule == "utility"), "")
    whose = "held out of training" if found.held_out else "that the model has learned from"
    lead = (
        f"About {found.rows:,} real images (a noised number) {whose}, were counted by what a small network takes them "
        f"for, each count with noise of ± {found.noise_std:,.0f} rows; this was charged to the privacy budget. The "
        f"network learned from {found.taught:,} images that the model drew, and has seen no real one. Intervals hold "
        "with 95 %, for noise and for sampling."
    )
    named = [(shown_name(name, 48), *texts) for name, *texts in lines(found, outcome)]
    classes = [
        (shown_name(c.name, 28), "–" if c.right is None else told(c.right), percent(c.drawn), "")
        for c in found.classes
    ]
    return section(
        "images",
        "Images",
        paragraph(lead),
        *([] if found.sheet is None else [sheet(found.sheet)]),
        scrolling("Figures of images, by noised counts", _table("Figures of images", named)),
        *(
            [scrolling("Classes of images, by noised counts", _table("Right about each class", classes))]
            if classes
            else []
        ),
    )


def lines(found: NoisedImages, outcome: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every figure: its name, for real images, for drawn ones, and what it means; `outcome` is what the gate says."""
    if found.right is not None:
        guess = f"guessing {percent(found.chance)}{f'; {outcome}' if outcome else ''}"
        yield "A classifier of drawn images is right", told(found.right), percent(found.right_drawn), guess
    yield (
        "Far from what is drawn",
        told(found.far),
        percent(found.far_drawn),
        "lie farther out than 95 % of drawn ones",
    )
    spread = found.regions
    yield (
        "Spread over the same regions",
        f"{100 * spread.value:.1f} ({100 * spread.low:.1f} to {100 * spread.high:.1f})",
        f"{100 * spread.ceiling:.1f}",
        "100 is alike",
    )


def _table(caption: str, rows: Sequence[tuple[str, ...]]) -> Html:
    heads = ("", "Real images", "Drawn images", "")
    shown = [
        element("tr", {}, element("th", {"scope": "row"}, name), *(element("td", {}, t) for t in texts))
        for name, *texts in rows
    ]
    return element(
        "table",
        {"class": "plain"},
        element("caption", {}, caption),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *shown),
    )


def told(share: Estimate) -> str:
    """A share with its interval: `93.1 % (92.0 % to 94.2 %)`."""
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"
