"""Fingerprint: a small keyed sketch of a dataset's units, by which a known source is met again.

The sketch is bottom-k (Cohen & Kaplan 2007; Beyer et al. 2007): the k smallest of the units' keyed hashes. Two
sketches under one key share hashes exactly where the datasets share units. The hash is SipHash-2-4 (Aumasson
& Bernstein 2012), a pseudorandom function for short inputs: without the key nobody can compute the hash of a
unit that he guesses.

A bare sketch still tells how many units there are, since the k-th smallest hash of n lies near k/n, and that
number is private. So a sketch is kept sealed: masked with a stream of its own under the same key, always at
the same length. Who holds the key and the sealed sketches can open them, count units within some percent,
see how far datasets overlap, and test a guess of one unit (which shows in a sketch with probability k/n). Who
holds the sealed sketches alone learns no more than that they exist. The map of units into blocks is sealed likewise,
all hashes of it: its key tells of any unit whether and when it was seen first, and its length about how many there are.
"""

import hashlib
import os
import secrets
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privacy.errors import LedgerError

Hashes = NDArray[np.uint64]

SIZE = 256
"""Hashes in a sketch. The standard error of an overlap of a half is 3 % between datasets of one size."""

TELLING = 0.8
"""From which share of distinct contents on rows are known by them.

At less, rows of other people are alike by chance: where all contents are as likely, as many rows drawn anew have 37 %
of theirs in common with rows of this share, and half at 72 %.
"""

KEY_BYTES = 16
CHUNK = 1 << 15
_NONCE_BYTES = 16
_PADDING = 2**64 - 1


def sketch(batches: Iterable[Hashes], key: bytes) -> tuple[int, ...]:
    """The smallest keyed hashes of the units in these batches.

    Args:
        batches: uint64 (n,) each. Equal numbers must mean the same unit in every dataset under this key: a
            digest of the unit's identifier, or of a row's content where rows are units; never a row number.
        key: `KEY_BYTES` secret bytes.

    Returns:
        At most `SIZE` distinct hashes, increasing; all of them where there are fewer units.
    """
    least: Hashes = np.empty(0, np.uint64)
    for batch in batches:
        for start in range(0, len(batch), CHUNK):
            hashes = siphash(batch[start : start + CHUNK], key)
            if len(least) == SIZE:
                hashes = hashes[hashes < least[-1]]
            least = np.unique(np.concatenate([least, hashes]))[:SIZE]
    return tuple(least.tolist())


def telling(contents: Iterable[Hashes], key: bytes) -> tuple[int, ...]:
    """The sketch of rows by what is in them; empty where too many rows are alike, as of people's age and sex alone.

    Args:
        contents: uint64 (n,) each: a digest of each row's content.
        key: `KEY_BYTES` secret bytes.
    """
    rows = 0

    def counted() -> Iterator[Hashes]:
        nonlocal rows
        for batch in contents:
            rows += len(batch)
            yield batch

    found = sketch(counted(), key)
    # The k-th smallest of n uniform hashes lies near k/n: within 6 % for a full sketch.
    distinct = len(found) if len(found) < SIZE else (SIZE - 1) * 2.0**64 / found[-1]
    return found if distinct >= TELLING * rows else ()


def overlap(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """About which share of the smaller dataset's units the larger one has, too: 0 where the sketches cannot tell.

    Below the smaller of two full sketches' last hashes both are complete, and what lies there is a uniform
    sample of each dataset. Of a dataset that is m times as small as the other, about k/m hashes lie there: a
    sample below a hundredth of a source is mostly not recognized.
    """
    bound = min((s[-1] for s in (one, other) if len(s) == SIZE), default=_PADDING)
    first, second = ({h for h in s if h <= bound} for s in (one, other))
    return len(first & second) / max(1, min(len(first), len(second)))


def siphash(words: Hashes, key: bytes) -> Hashes:
    """SipHash-2-4 of 64-bit words, each as eight little-endian bytes.

    Args:
        words: uint64 (n,).
        key: `KEY_BYTES` bytes.

    Returns:
        uint64 (n,).
    """
    k0, k1 = (np.uint64(k) for k in struct.unpack("<QQ", key))
    v0 = np.full(len(words), k0 ^ np.uint64(0x736F6D6570736575))
    v1 = np.full(len(words), k1 ^ np.uint64(0x646F72616E646F6D))
    v2 = np.full(len(words), k0 ^ np.uint64(0x6C7967656E657261))
    v3 = np.full(len(words), k1 ^ np.uint64(0x7465646279746573))
    # The second block holds nothing but the length of the message.
    for block in (words, np.uint64(8 << 56)):
        v3 = v3 ^ block
        v0, v1, v2, v3 = _rounds(2, v0, v1, v2, v3)
        v0 = v0 ^ block
    v0, v1, v2, v3 = _rounds(4, v0, v1, v2 ^ np.uint64(0xFF), v3)
    return v0 ^ v1 ^ v2 ^ v3


def _rounds(
    times: int, v0: Hashes, v1: Hashes, v2: Hashes, v3: Hashes
) -> tuple[Hashes, Hashes, Hashes, Hashes]:
    for _ in range(times):
        v0 = v0 + v1
        v2 = v2 + v3
        v1 = _turn(v1, 13) ^ v0
        v3 = _turn(v3, 16) ^ v2
        v0 = _turn(v0, 32) + v3
        v2 = v2 + v1
        v1 = _turn(v1, 17) ^ v2
        v3 = _turn(v3, 21) ^ v0
        v2 = _turn(v2, 32)
    return v0, v1, v2, v3


def _turn(x: Hashes, bits: int) -> Hashes:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


def seal(hashes: Sequence[int] | Hashes, key: bytes) -> bytes:
    """Hashes that only the key opens; no two sealings are alike.

    A sketch has always the same length; of more hashes the length is that of the next power of two.
    """
    nonce = secrets.token_bytes(_NONCE_BYTES)
    padded = np.full(max(SIZE, 1 << (len(hashes) - 1).bit_length()), _PADDING, "<u8")
    padded[: len(hashes)] = hashes
    return nonce + (padded ^ _stream(nonce, key, len(padded))).tobytes()


def unseal(sealed: bytes, key: bytes) -> Hashes:
    """The hashes that were sealed."""
    masked = np.frombuffer(sealed[_NONCE_BYTES:], "<u8").astype(np.uint64)
    padded = masked ^ _stream(sealed[:_NONCE_BYTES], key, len(masked))
    hashes: Hashes = padded[padded != _PADDING]
    return hashes


def name(key: bytes) -> str:
    """By which a key is told from others (hex), without telling it."""
    return hashlib.shake_256(b"name" + key).hexdigest(8)


def make_key(path: Path) -> None:
    """Writes a new key, whole, for its owner's eyes alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as handle:
        handle.write(secrets.token_hex(KEY_BYTES) + "\n")
        handle.flush()
        os.fsync(handle.fileno())
    part.replace(path)


def read_key(path: Path) -> bytes:
    """The key in a file.

    Raises:
        LedgerError: it holds none.
    """
    try:
        key = bytes.fromhex(path.read_text("ascii"))
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise LedgerError(
            f"the key of a ledger's fingerprints must be {KEY_BYTES} bytes in hexadecimal, however: {path} is not; "
            "restore it"
        )
    return key


def _stream(nonce: bytes, key: bytes, size: int) -> Hashes:
    return np.frombuffer(hashlib.shake_256(b"seal" + key + nonce).digest(8 * size), "<u8").astype(np.uint64)
