"""Watermark: released images get the mark of a recipe's key, and images anywhere are searched for it.

The key is looked up when it is needed and kept nowhere; its number stands in the certificate. What is marked is what
the model drew, so under privacy it is post-processing. Evidence is about marked images, since these are released.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines import ingest as reading
from pipelines.aside import Aside
from pipelines.export import rows_of
from pipelines.gallery import IMAGE_COLUMN, image_blocks
from pipelines.publish import SUMS, check_sums
from pipelines.recipe import Recipe
from pipelines.recipe import Watermark as Asked
from pipelines.reference import secret
from pipelines.released import read
from pipelines.source import Source
from privacy.errors import RecipeError, UsageError
from synth.images import as_images, decoding, images, missing, opened, pixels
from synth.schema import IMAGE, Schema
from synth.watermark import FALSE_ALARM, LEVELS, Detector, Key, Pattern, Sighting, check_size

ROWS = 1024
"""Images that are decoded and encoded at a time."""


def key_of(reference: str) -> Key:
    """The key that a reference leads to.

    Raises:
        RecipeError: it is no reference, or leads nowhere.
        UsageError: the key is too short.
    """
    return Key.of(secret(reference))


def check(recipe: Recipe, schema: Schema) -> None:
    """Finds out before anything is spent whether images can be marked; the key is not needed for that.

    Raises:
        UsageError: there is no column of images, or one is too small.
    """
    if recipe.watermark is None:
        return
    if not schema.images:
        raise RecipeError(
            "a watermark is for images, however: the schema has no column of them; leave it out"
        )
    for column in schema.images:
        assert column.image is not None
        check_size(column.image.height, column.image.width)


def number_of(recipe: Recipe) -> dict[str, str]:
    """What the synthetic rows depend on and what may be told of it: the number of the key, if there is one.

    Raises:
        UsageError: the key cannot be had, or is too short.
    """
    return {} if recipe.watermark is None else {"watermark": key_of(recipe.watermark.key).number}


def certified(asked: Asked | None, number: str | None) -> dict[str, Any] | None:
    """What a certificate says of the mark."""
    if asked is None:
        return None
    return {
        "key": number,
        "levels": asked.levels,
        "statement": "Every image carries a mark that whoever has the key finds by `understudy watermark`. It says "
        "where an image is from, and is no part of what is promised about privacy.",
    }


class Marker:
    """Marks the images of released tables.

    Args:
        asked: what the recipe says.
        schema: the columns.
    """

    def __init__(self, asked: Asked, schema: Schema) -> None:
        key = key_of(asked.key)
        self._columns = [
            (c, c.image, Pattern(key=key, height=c.image.height, width=c.image.width, levels=asked.levels))
            for c in schema.images
            if c.image is not None
        ]

    def pattern(self, name: str) -> Pattern:
        """What the key means for a column of images."""
        return next(pattern for column, _, pattern in self._columns if column.name == name)

    def mark(self, table: pa.Table) -> pa.Table:
        """The table with the mark in each of its images; names and all else stay."""
        for column, picture, pattern in self._columns:
            place = table.schema.get_field_index(column.name)
            parts = []
            for batch in table.select([column.name]).to_batches(max_chunksize=ROWS):
                before = batch.column(0)
                absent = missing(before)
                shown = pixels(before, picture)
                shown[~absent] = pattern.mark(shown[~absent])
                content = images(shown, absent=absent).field("bytes")
                parts.append(
                    pa.StructArray.from_arrays(
                        [content, before.field("path")], fields=list(IMAGE), mask=pa.array(absent)
                    )
                )
            table = table.set_column(place, table.schema.field(place), pa.chunked_array(parts, IMAGE))
        return table


# ---------------------------------------------------------------------------------------------------- searching


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What a search found.

    Attributes:
        place: where.
        key: the number of the key.
        levels: strength that was looked for.
        sighting: what the images say.
    """

    place: Path
    key: str
    levels: float
    sighting: Sighting

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold."""
        return {
            "place": str(self.place), "key": self.key, "levels": self.levels, "found": self.sighting.found,
            "threshold": FALSE_ALARM, **asdict(self.sighting),
        }  # fmt: skip

    def describe(self) -> str:
        """For a person."""
        seen = self.sighting
        skipped = f", {seen.skipped:,} passed over as too small or of too many sizes" if seen.skipped else ""
        chance = f"at most {max(seen.false_alarm, 1e-300):.1g}"
        return (
            f"{'Found' if seen.found else 'Not found'}: the mark of key {self.key} in {self.place}\n"
            f"  images       {seen.images:,}{skipped}\n"
            f"  z            {seen.z:.1f}\n"
            f"  false alarm  {chance}, for images made without this key; found means {FALSE_ALARM:g} or less"
        )


def search(place: Path, reference: str, *, levels: float | None = None, most: int = 10_000) -> Looked:
    """Looks for a key's mark in a release, or in images of any form that `init` reads.

    Args:
        place: a release, a file or a folder.
        reference: where the key is: env:NAME or prefect:BLOCK, in ${…} or not.
        levels: strength of the mark; None: what the release says, else the usual one.
        most: images that are looked at, the first ones.

    Raises:
        RecipeError: the reference is none, or leads nowhere.
        ReleaseError: the release is damaged.
        InputError: what lies there cannot be read.
        UsageError: there are no images, or a number is out of range.
    """
    key = key_of(reference if reference.startswith("${") else f"${{{reference}}}")
    if most < 1 or not (levels is None or (math.isfinite(levels) and 0 < levels <= 16)):
        raise UsageError(
            f"a search needs an image and 0 to 16 levels, however: {most} and {levels}; correct them"
        )
    released = (place / SUMS).is_file()
    if levels is None:
        said = read(place).certificate.get("watermark") if released else None
        found = said.get("levels") if isinstance(said, dict) else None
        levels = float(found) if isinstance(found, int | float) and 0 < found <= 16 else LEVELS
    detector = Detector(key, levels)
    left = most
    for column in _released(place) if released else _columns(place):
        for value in column.drop_null().slice(0, left):
            detector.look(_shown(value.as_py()))
            left -= 1
        if left <= 0:
            break
    return Looked(place=place, key=key.number, levels=levels, sighting=detector.sighting())


def _released(release: Path) -> Iterator[pa.Array]:
    """The images of a release, as bytes."""
    check_sums(release)
    names = [c.name for c in read(release).schema.images]
    if not names:
        raise UsageError("a watermark is in images, however: this release has none; give one that has")
    for batch in rows_of(release):
        for name in names:
            yield as_images(batch.column(name)).field("bytes")


def _columns(place: Path) -> Iterator[pa.Array]:
    """The images of a source, as bytes."""
    source, aside = reading.find(str(place), None, lambda text: Path(text).resolve()), Aside(most=10**9)
    if isinstance(source, Source) and source.holds_images:
        yield from (block.column(IMAGE_COLUMN).field("bytes") for block in image_blocks(source, aside))
        return
    types = reading.infer_types(source, aside)
    names = [field.name for field in types if field.type == IMAGE]
    if not names:
        raise UsageError(f"a watermark is in images, however: {place} has none; give a folder that has")
    for batch in reading.batches(source, types, aside=aside):
        for name in names:
            yield as_images(batch.column(name)).field("bytes")


def _shown(content: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The pixels of one image in its own size: uint8 (1, height, width, 1 or 3)."""
    with opened(content) as image, decoding():
        grey = image.mode in ("1", "L", "I;16", "I")
        plain = np.asarray(image if image.mode == "L" else image.convert("L" if grey else "RGB"), np.uint8)
    return plain.reshape(1, image.height, image.width, -1)
