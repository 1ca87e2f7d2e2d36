"""Evidence: real rows beside synthetic ones, through the door that is for evidence alone.

Only this module opens `privacy.inside.Inside`. What it returns is sealed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from privacy import shadows as shadowing
from privacy.attacks import EXPOSED, FEWEST_GUESSES, Attack, Attacks, attack
from privacy.curator import MISSING, Batch, ExactCurator, Split
from privacy.errors import InputError
from privacy.inside import Exact, Inside
from synth.rows import PIXELS, RawRows
from synth.schema import Column, Schema
from validation.cells import SIDES, cells_of, one_of_each
from validation.detection import Detection, detect
from validation.exposure import sides_of
from validation.fairness import Fairness, fairness
from validation.features import Features
from validation.fidelity import Fidelity, measure
from validation.images import FEWEST, ImageEvidence, image_evidence, sheet_of
from validation.inception import Weights
from validation.inference import Inference, inference
from validation.learning import Learning
from validation.likelihood import Density, Likelihood, likelihood
from validation.noised import Noised
from validation.noised_images import NoisedImages
from validation.recognizer import class_column
from validation.structure import Structure, structure
from validation.utility import Utility, utility


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known of a synthetic table.

    Attributes:
        fidelity: how close it is; under privacy, beside the noised counts that the model was fitted to.
        attacks: what attackers learn from it.
        detection: how well it is told from real rows; None with too few of them.
        utility: what it is good for.
        fairness: for whom; None where no column is protected.
        inference: what regressions say.
        structure: joint counts, coverage, missing patterns, rarity, the calendar.
        likelihood: how likely a model that knows densities takes real rows to be; None for others.
        noised: under privacy, how close it is to rows that were counted anew with noise.
        noised_images: the same of its images.
        images: how close its images are, what they are good for, and whether they are copies.
        learning: how the model learned; None where there is nothing to show of it.

    Under privacy all but `fidelity`, `noised`, `noised_images` and `learning` are None: nothing else is known.
    """

    fidelity: Fidelity
    attacks: Attacks | None = None
    detection: Detection | None = None
    utility: Utility | None = None
    structure: Structure | None = None
    fairness: Fairness | None = None
    inference: Inference | None = None
    likelihood: Likelihood | None = None
    noised: Noised | None = None
    noised_images: NoisedImages | None = None
    images: ImageEvidence | None = None
    learning: Learning | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        parts = {name: getattr(self, name) for name in _PARTS}
        return {name: None if part is None else part.to_dict() for name, part in parts.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Evidence":
        """The inverse of `to_dict`."""
        parts: dict[str, Any] = {
            n: None if data.get(n) is None else part.from_dict(data[n]) for n, part in _PARTS.items()
        }
        return cls(**parts)


_PARTS: Mapping[str, Any] = {
    "fidelity": Fidelity,
    "attacks": Attacks,
    "detection": Detection,
    "utility": Utility,
    "structure": Structure,
    "fairness": Fairness,
    "inference": Inference,
    "likelihood": Likelihood,
    "noised": Noised,
    "noised_images": NoisedImages,
    "images": ImageEvidence,
    "learning": Learning,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """Synthetic images.

    Attributes:
        pixels: uint8 (n, height, width, channels).
        classes: of each, (n,); None where no column says them.
        marked: what images become when they are released, where they get a mark; a copy is one of these then.
    """

    pixels: np.ndarray[Any, np.dtype[np.uint8]]
    classes: pa.Array | None
    marked: Callable[[np.ndarray[Any, np.dtype[np.uint8]]], np.ndarray[Any, np.dtype[np.uint8]]] | None = None


def gather(
    curator: ExactCurator, rows: RawRows, synthetic: pa.Table, schema: Schema, *,
    targets: Sequence[str] = (), protected: Sequence[str] = (), at_least: int, seed: int,
    density: Density | None = None,
) -> Exact[Evidence]:  # fmt: skip
    """Holds synthetic rows against the training and held-out rows of a curator, which are read once.

    Args:
        curator: who reads `rows` and says which are held out.
        rows: the raw rows. Where several are of one unit, `at_least` counts units, and attacks see one row of each,
            so that guesses are about as many people.
        synthetic: the synthetic rows.
        schema: what the columns are.
        targets: columns that models predict; none: those that the schema suggests.
        protected: columns whose groups are compared.
        at_least: units below which no bin, category or group is shown; 0 shows all.
        seed: of what is drawn.
        density: log-density of rows under the model that drew the synthetic ones; None where it knows none.
    """

    def evidence(split: Callable[[Split], Iterator[Batch]]) -> Evidence:
        train, holdout = (_Side.of(rows, list(split(side))) for side in ("train", "holdout"))
        tables = (train.table, holdout.table, synthetic)
        drawn = one_of_each(train.units, seed=seed) if train.units is not None else None
        cells = [cells_of(column, tables, drawn) for column in schema if column.learned]
        features = Features.of(cells)
        used, guesses = utility(cells, features, targets, seed=seed)
        return Evidence(
            fidelity=measure(
                train.table,
                holdout.table,
                synthetic,
                schema,
                at_least=at_least,
                seed=seed,
                units=train.units,
                held_units=holdout.units,
            ),
            attacks=attack(
                sides_of(train.drawn(seed), holdout.drawn(seed), synthetic, schema),
                np.random.default_rng(seed),
            ),
            detection=detect(features, synthetic, seed=seed),
            utility=used,
            structure=structure(cells, features, at_least=at_least, seed=seed, held_units=holdout.units),
            fairness=fairness(cells, protected, guesses, at_least=at_least, seed=seed) if protected else None,
            inference=inference(cells, used, at_least=at_least, seed=seed),
            likelihood=None
            if density is None
            else likelihood(density, dict(zip(SIDES, tables, strict=True)), schema, seed=seed),
        )

    return Inside(curator).look(evidence)


def gather_shadows(
    curator: ExactCurator, rows: RawRows, schema: Schema,
    release: Callable[[pa.Table, np.ndarray[Any, np.dtype[np.uint64]], int], pa.Table], *,
    shadows: int, targets: int, seed: int,
) -> Exact[tuple[Attack, ...]]:  # fmt: skip
    """Attacks by shadow models, each of which learns from about half of all units, held out or not.

    Args:
        curator: who reads `rows`; all of them are held in memory.
        rows: the raw rows.
        schema: what the columns are.
        release: takes rows, the unit of each, and the number of a shadow; fits as a release does, and gives as many
            synthetic rows.
        shadows: how many.
        targets: units that are attacked, one row of each: so many of the most exposed, and as many at random.
        seed: of what is drawn.

    Raises:
        InputError: there are too few units.
    """

    def evidence(split: Callable[[Split], Iterator[Batch]]) -> tuple[Attack, ...]:
        batches = [*split("train"), *split("holdout")]
        every = np.concatenate([np.empty(0, np.uint64), *(b.unit for b in batches)])
        units, unit = np.unique(every, return_inverse=True)
        if len(units) < shadowing.FEWEST:
            raise InputError(
                f"shadow models need {shadowing.FEWEST} units, however: there are {len(units):,}; bring more rows"
            )
        whole, rng = rows.table(batches), np.random.default_rng(seed)
        member = rng.random((shadows, len(units))) < 0.5
        halves = (np.flatnonzero(learned[unit]) for learned in member)
        made = [release(whole.take(half), every[half], s) for s, half in enumerate(halves)]
        drawn = one_of_each(every, seed=seed)
        return _shadowed(whole.take(drawn), made, member[:, unit[drawn]], schema, targets, rng)

    return Inside(curator).look(evidence)


def _shadowed(
    people: pa.Table,
    made: Sequence[pa.Table],
    member: np.ndarray[Any, np.dtype[np.bool_]],
    schema: Schema,
    targets: int,
    rng: np.random.Generator,
) -> tuple[Attack, ...]:
    """The attacks, where each shadow (first axis of `member`) learned from some of the people, one row of each."""
    sides = sides_of(people, people.slice(0, 0), pa.concat_tables(made), schema)
    ends = np.cumsum([len(m) for m in made])
    synthetic = [sides.synthetic.take(np.arange(e - len(m), e)) for m, e in zip(made, ends, strict=True)]
    most = min(targets, max(FEWEST_GUESSES, int(EXPOSED * len(people))))
    attacked = {
        shadowing.AT_RANDOM: rng.permutation(len(people))[:targets],
        shadowing.EXPOSED: shadowing.most_exposed(sides.train, rng)[:most],
    }
    features = (
        shadowing.around(sides.train.take(some), sides.train, synthetic, rng) for some in attacked.values()
    )
    return tuple(
        shadowing.guess(name, seen, member[:, some], rng)
        for (name, some), seen in zip(attacked.items(), features, strict=True)
    )


def gather_images(
    curator: ExactCurator, rows: RawRows, schema: Schema, made: Callable[[Column, Column | None], Made], *,
    targets: Sequence[str] = (), seed: int, inception: Weights | None = None,
) -> Exact[ImageEvidence | None]:  # fmt: skip
    """Holds the images of the first column of images against those of a curator, one of each unit.

    Args:
        curator: who reads `rows` and says which are held out.
        rows: the raw rows, with pixels.
        schema: what the columns are.
        made: takes the column of images and that of their classes, if there is one, and gives the synthetic ones.
        targets: columns that may be the classes; none: one of few values, by its name or the number of its values.
        seed: of what is drawn.
        inception: weights of InceptionV3, for distances as they are published.
    """
    column = schema.images[0]

    def evidence(split: Callable[[Split], Iterator[Batch]]) -> ImageEvidence | None:
        whole = {side: _pictured(list(split(side)), column) for side in ("train", "holdout")}
        if not len(whole["train"]):
            return None
        if not len(whole["holdout"]):
            whole["holdout"] = whole["train"].take(np.empty(0, np.int64))
        real = whole if rows.unit_is_row else {s: _one_of_each(b, seed) for s, b in whole.items()}
        classes = _classes(schema, real["train"], targets)
        synthetic = made(column, classes)
        pixels = {side: batch.columns[PIXELS + column.name] for side, batch in real.items()}
        shape = column.image.shape if column.image is not None else ()
        images = {
            **{side: np.asarray(p, np.uint8).reshape(-1, *shape) for side, p in pixels.items()},
            "synthetic": synthetic.pixels,
        }
        labels = None
        if classes is not None and synthetic.classes is not None:
            labels = {
                **{s: words(rows.values(classes, b.columns[classes.name])) for s, b in real.items()},
                "synthetic": words(synthetic.classes),
            }
        every = np.asarray(whole["train"].columns[PIXELS + column.name], np.uint8).reshape(-1, *shape)
        marked = None if synthetic.marked is None else synthetic.marked(every)
        found = image_evidence(images, labels, seed=seed, searched=every, marked=marked, inception=inception)
        shown = sheet_of(synthetic.pixels, None if labels is None else labels["synthetic"])
        return None if found is None else replace(found, sheet=shown)

    return Inside(curator).look(evidence)


def _pictured(batches: list[Batch], column: Column) -> Batch:
    """Rows that have an image."""
    there = [b.where(np.asarray(b.columns[column.name]) != MISSING) for b in batches]
    return Batch(
        unit=np.concatenate([np.empty(0, np.uint64), *(b.unit for b in there)]),
        columns={
            n: np.concatenate([b.columns[n] for b in there]) for n in (there[0].columns if there else ())
        },
    )


def _one_of_each(batch: Batch, seed: int) -> Batch:
    """One row of each unit, or where that leaves too few to say anything, all rows."""
    drawn = batch.take(one_of_each(batch.unit, seed=seed)) if len(batch) else batch
    return drawn if len(drawn) >= FEWEST else batch


def _classes(schema: Schema, train: Batch, targets: Sequence[str]) -> Column | None:
    """The column of the classes of images: a target, one that is called so, or that of most values."""

    def values(column: Column) -> int:
        return len(np.unique(np.asarray(train.columns[column.name])))

    name = class_column({c.name: values(c) for c in schema if c.learned and c.image is None}, targets)
    return None if name is None else schema[name]


def words(values: pa.Array) -> np.ndarray[Any, Any]:
    """Classes as texts, (n,); missing ones are empty."""
    return np.asarray(values.cast(pa.string()).fill_null("").to_numpy(zero_copy_only=False), str)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Side:
    """Real rows, and which of them belong together: None where each is a unit."""

    table: pa.Table
    units: np.ndarray[Any, np.dtype[np.uint64]] | None

    @classmethod
    def of(cls, rows: RawRows, batches: list[Batch]) -> "_Side":
        units = np.concatenate([np.empty(0, np.uint64), *(b.unit for b in batches)])
        return cls(table=rows.table(batches), units=None if rows.unit_is_row else units)

    def drawn(self, seed: int) -> pa.Table:
        """One row of each unit."""
        if self.units is None or not len(self.units):
            return self.table
        return self.table.take(one_of_each(self.units, seed=seed))
