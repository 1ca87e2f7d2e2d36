"""Tables with a column of small images whose answers are known."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from synth.images import images
from synth.schema import IMAGE, Schema
from tests.synth.tables import kind_of

SIDE = 6

TEMPLATES = np.zeros((3, SIDE, SIDE))
TEMPLATES[0, 1:5, 2] = TEMPLATES[1, 2, 1:5] = 200.0
TEMPLATES[2, range(SIDE), range(SIDE)] = 200.0
"""What an image of each team shows: an upright, a level and a slanted line."""


def drawings(which: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Images of templates, each brighter or darker as a whole, and with noise: uint8 (n, SIDE, SIDE, 1)."""
    light = rng.uniform(0.6, 1.2, (len(which), 1, 1))
    shown = light * TEMPLATES[which] + rng.normal(0, 12, (len(which), SIDE, SIDE))
    return np.clip(shown, 0, 255).astype(np.uint8)[..., None]


def seen(shown: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The template that each image resembles most."""
    flat = shown.reshape(len(shown), -1).astype(float)
    flat = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    templates = TEMPLATES.reshape(3, -1) / np.linalg.norm(TEMPLATES.reshape(3, -1), axis=1, keepdims=True)
    return np.asarray((flat @ templates.T).argmax(1))


def with_pictures(table: pa.Table, *, seed: int, missing: float = 0.0) -> pa.Table:
    """A table whose column `team` (a, b, c) has a drawing of it beside."""
    rng = np.random.default_rng(seed)
    which = table.column("team").to_pandas().map({"a": 0, "b": 1, "c": 2}).to_numpy().astype(np.int64)
    absent = rng.random(len(table)) < missing
    return table.append_column("photo", images(drawings(which, rng), absent=absent, note=None))


def pictured_schema(table: pa.Table) -> Schema:
    """A schema of a table with drawings."""
    columns = []
    for f in table.schema:
        if f.type == IMAGE:
            picture = {"width": SIDE, "height": SIDE, "mode": "L"}
            columns.append({"name": f.name, "kind": "image", "type": str(f.type), "image": picture})
        else:
            columns.append({"name": f.name, "kind": kind_of(f.type), "type": str(f.type)})
    return Schema.model_validate({"columns": columns})
