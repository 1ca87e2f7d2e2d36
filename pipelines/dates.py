"""Dates: the other ways of writing one, rewritten as ISO 8601.

Arrow's own reader of formats takes the 31st of February for the 3rd of March, so values are rewritten and then read as
strictly as those that were ISO 8601 from the start.
"""

import re
from typing import get_args

import pyarrow as pa
import pyarrow.compute as pc

from synth.schema import Dates

WRITTEN: tuple[Dates, ...] = get_args(Dates)

_PARTS = {"DD": "([0-9]{1,2})", "MM": "([0-9]{1,2})", "YYYY": "([0-9]{4})"}


def iso(values: pa.Array, dates: Dates | None) -> pa.Array:
    """Dates, with times of day or without, in ISO 8601; what is not written so stays as it is.

    Args:
        values: string (n,).
        dates: how the dates are written; None: in ISO 8601.
    """
    if dates is None:
        return values
    values = pc.utf8_trim_whitespace(values.cast(pa.string()))
    separator = dates.strip("DMY")[0]
    parts = dates.split(separator)
    form = f"^{re.escape(separator).join(_PARTS[p] for p in parts)}([T ].*)?$"
    written = pc.match_substring_regex(values, form)
    if not pc.any(written).as_py():
        # Most columns of text hold no date at all, and are asked about each way of writing one.
        return values
    place = {part: rf"\{i}" for i, part in enumerate(parts, start=1)}
    found = pc.replace_substring_regex(values, form, rf"{place['YYYY']}-{place['MM']}-{place['DD']}\4")
    # In RE2 a reference has one digit, so \10 is the first group and a nought.
    for short, padded in (
        ("^([0-9]{4})-([0-9])-", r"\1-0\2-"),
        ("^([0-9]{4}-[0-9]{2})-([0-9])($|[T ])", r"\1-0\2\3"),
        ("([T ])([0-9]):", r"\10\2:"),
    ):
        found = pc.replace_substring_regex(found, short, padded)
    return pc.if_else(written, found, values)
