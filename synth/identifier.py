"""Identifiers: new ones from a pattern, all different, the same for the same row number.

A pattern is made of literal characters and classes such as ``[0-9]`` or ``[A-Za-z]``, each of which may be
followed by ``{n}``; a backslash makes the next character literal. The n-th identifier is found directly: row
numbers are permuted by a fixed affine map of the pattern's space, so shards need not know of each other.
"""

import hashlib
import math
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.errors import SchemaError

_TOKEN = re.compile(r"\\(?P<escaped>.)|\[(?P<range>[^\]]+)\]|(?P<literal>[^\\\[\]{}])", re.DOTALL)
_TIMES = re.compile(r"\{(\d+)\}")
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Pattern:
    """Positions of an identifier, each with the characters that may stand there."""

    positions: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Reads a pattern.

        Raises:
            SchemaError: it breaks the grammar.

        Examples:
            >>> Pattern.parse("BK[0-9]{3}").size
            1000
        """
        if "\0" in text:
            # NumPy's strings end there.
            raise SchemaError(
                f"a pattern must not hold the character NUL, however: {text!r} does; leave it out"
            )
        positions: list[str] = []
        at = 0
        while at < len(text):
            token = _TOKEN.match(text, at)
            if token is None:
                raise SchemaError(
                    f"a pattern must be literals and classes like [0-9]{{6}}, however: {text!r} breaks at "
                    f"position {at}; put a backslash before a literal bracket or brace"
                )
            at = token.end()
            allowed = (
                _characters(token["range"]) if token["range"] else (token["escaped"] or token["literal"])
            )
            if token["range"] is None and len(allowed) > 1:
                allowed = allowed[-1]
            times = _TIMES.match(text, at)
            if times is not None:
                at = times.end()
            positions += [allowed] * (int(times[1]) if times is not None else 1)
        return cls(tuple(positions))

    @property
    def size(self) -> int:
        """How many different identifiers there are."""
        return math.prod(len(p) for p in self.positions)

    def strings(self, first: int, count: int, *, salt: str = "") -> list[str]:
        """Identifiers of the rows first … first + count − 1; they differ as long as row numbers are below `size`."""
        rest = permuted(first, count, self.size, salt=salt)
        columns: list[NDArray[np.str_]] = []
        for allowed in reversed(self.positions):
            letters = np.array(list(allowed))
            if len(letters) == 1:
                columns.append(np.full(count, allowed))
                continue
            columns.append(letters[(rest % len(letters)).astype(np.int64)])
            rest = rest // len(letters)
        out = np.zeros(count, dtype="U0") if not columns else columns[-1]
        for column in reversed(columns[:-1]):
            out = np.char.add(out, column)
        return [str(s) for s in out]


def permuted(first: int, count: int, size: int, *, salt: str = "") -> NDArray[np.int64] | NDArray[np.object_]:
    """Where rows first … first + count − 1 go under a permutation of range(size) that `salt` chooses.

    i → (a·i + b) mod size with a near size/φ and coprime to size: neighbours land far apart. Columns and releases
    have salts of their own, so that equal rows of two of them do not meet. Beyond `size` rows it starts again
    from the beginning.

    Returns:
        int64 (count,), or Python integers where the space is larger than 64 bits allow.
    """
    a = max(1, round(size * _GOLDEN)) if size < 2**50 else size * 618033988749894848 // 10**18
    chosen = int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=32).digest(), "big")
    a, b = a + chosen % (size // 5 + 1), (chosen >> 128) % size
    while math.gcd(a, size) != 1:
        a += 1
    if size < 2**31 and a < 2**31:
        return (np.arange(first, first + count, dtype=np.int64) % size * a + b) % size
    return np.array([(a * i + b) % size for i in range(first, first + count)], dtype=object)


def _characters(text: str) -> str:
    """The characters of a class: `0-9a-f` → `0123456789abcdef`."""
    out = ""
    i = 0
    while i < len(text):
        if i + 2 < len(text) and text[i + 1] == "-":
            out += "".join(chr(c) for c in range(ord(text[i]), ord(text[i + 2]) + 1))
            i += 3
        else:
            out += text[i]
            i += 1
    if not out:
        raise SchemaError(f"a class must hold characters in rising order, however: [{text}] holds none")
    return "".join(dict.fromkeys(out))
