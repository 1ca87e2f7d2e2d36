import stat
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from privacy import fingerprint
from privacy.errors import LedgerError
from privacy.fingerprint import SIZE, overlap, seal, siphash, sketch, telling, unseal
from tests.privacy.arrays import KEY

WORDS = st.lists(st.integers(0, 2**64 - 1), max_size=600)
MASK = 2**64 - 1


def units(start: int, stop: int) -> NDArray[np.uint64]:
    return np.arange(start, stop, dtype=np.uint64)


def slow_siphash(message: bytes, key: bytes) -> int:
    """SipHash-2-4 as its paper writes it, one message at a time."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def turn(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) & MASK

    def rounds(times: int) -> None:
        for _ in range(times):
            v[0] = (v[0] + v[1]) & MASK
            v[1] = turn(v[1], 13) ^ v[0]
            v[0] = turn(v[0], 32)
            v[2] = (v[2] + v[3]) & MASK
            v[3] = turn(v[3], 16) ^ v[2]
            v[0] = (v[0] + v[3]) & MASK
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = (v[2] + v[1]) & MASK
            v[1] = turn(v[1], 17) ^ v[2]
            v[2] = turn(v[2], 32)

    padded = message + bytes(-(len(message) + 1) % 8) + bytes([len(message) % 256])
    for (block,) in struct.iter_unpack("<Q", padded):
        v[3] ^= block
        rounds(2)
        v[0] ^= block
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@pytest.mark.parametrize("rows", [90, 3_000])
@pytest.mark.parametrize(("alike", "told"), [(1, True), (2, False)])
def test_rows_are_known_by_their_contents_where_these_tell_them_apart(
    rows: int, alike: int, told: bool
) -> None:
    contents = np.arange(rows, dtype=np.uint64) // np.uint64(alike)
    found = telling(np.array_split(contents, 3), KEY)
    assert found == (sketch([contents], KEY) if told else ())
    assert unseal(seal(found, KEY), KEY).tolist() == list(found)


def test_the_slow_hash_gives_the_value_that_the_paper_prints() -> None:
    assert slow_siphash(bytes(range(15)), bytes(range(16))) == 0xA129CA6149BE45E5


@given(WORDS, st.binary(min_size=16, max_size=16))
def test_the_fast_hash_is_the_slow_one(words: list[int], key: bytes) -> None:
    fast = siphash(np.array(words, np.uint64), key)
    assert fast.tolist() == [slow_siphash(struct.pack("<Q", word), key) for word in words]


@given(st.lists(WORDS, max_size=4))
def test_a_sketch_is_the_smallest_hashes_however_the_units_come(batches: list[list[int]]) -> None:
    slow = sorted({slow_siphash(struct.pack("<Q", unit), KEY) for batch in batches for unit in batch})[:SIZE]
    assert sketch((np.array(b, np.uint64) for b in batches), KEY) == tuple(slow)


def test_a_sketch_of_more_units_than_fit_a_chunk_is_the_smallest_hashes() -> None:
    many = units(0, 3 * fingerprint.CHUNK + 5)
    assert sketch([many], KEY) == tuple(np.sort(siphash(many, KEY))[:SIZE].tolist())


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("size", [200, 20_000])
def test_the_overlap_of_datasets_of_one_size_is_met_within_five_standard_errors(
    share: float, size: int
) -> None:
    common = round(share * size)
    one, other = sketch([units(0, size)], KEY), sketch([units(size - common, 2 * size - common)], KEY)
    # Of the 2·size − common units, about SIZE lie below the last hash, and half of each dataset's are so many.
    spread = 0.0 if size < SIZE else 5 * (share * (1 - share) / (SIZE / (2 - share))) ** 0.5
    assert abs(overlap(one, other) - share) <= spread + 1e-12


@pytest.mark.parametrize("part", [100, 300, 2_000])
def test_a_sample_of_a_dataset_lies_in_it_whole(part: int) -> None:
    whole, sample = sketch([units(0, 3_000)], KEY), sketch([units(7, 7 + part)], KEY)
    assert overlap(whole, sample) == overlap(sample, whole) == 1.0


def test_sketches_under_different_keys_have_nothing_in_common() -> None:
    assert overlap(sketch([units(0, 5_000)], KEY), sketch([units(0, 5_000)], KEY[::-1])) == 0.0


@given(st.sets(st.integers(0, 2**64 - 2), max_size=SIZE), st.binary(min_size=16, max_size=16))
def test_a_sealed_sketch_comes_back_under_its_key_alone(hashes: set[int], key: bytes) -> None:
    plain = tuple(sorted(hashes))
    sealed = seal(plain, key)
    assert tuple(unseal(sealed, key)) == plain
    assert tuple(unseal(sealed, bytes(b ^ 1 for b in key))) != plain


def test_sealed_sketches_tell_neither_size_nor_sameness() -> None:
    few, many = sketch([units(0, 3)], KEY), sketch([units(0, 9_000)], KEY)
    sealed = [seal(few, KEY), seal(few, KEY), seal(many, KEY)]
    assert len({len(s) for s in sealed}) == 1
    blocks = [{s[i : i + 8] for i in range(0, len(s), 8)} for s in sealed]
    assert not (blocks[0] & blocks[1]) | (blocks[0] & blocks[2])
    # A sketch in the clear has leading zeros where units are many; the mask leaves none but by chance.
    ones = np.unpackbits(np.frombuffer(sealed[2], np.uint8)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / (8 * len(sealed[2])) ** 0.5


def test_many_sealed_hashes_come_back_and_their_length_tells_about_how_many() -> None:
    hashes = np.unique(siphash(units(0, 1_000), KEY))
    assert np.array_equal(unseal(seal(hashes, KEY), KEY), hashes)
    sizes = {n: len(seal(hashes[:n], KEY)) for n in (0, SIZE, SIZE + 1, 512, 513, 1_000)}
    assert sizes[0] == sizes[SIZE] < sizes[SIZE + 1] == sizes[512] < sizes[513] == sizes[1_000]


def test_a_key_is_for_its_owner_alone_and_no_two_are_alike(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fingerprint.make_key(tmp_path / "keys" / name)
    path = tmp_path / "keys" / "a"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert fingerprint.read_key(path) == fingerprint.read_key(path)
    assert fingerprint.read_key(path) != fingerprint.read_key(tmp_path / "keys" / "b")
    assert sorted(p.name for p in path.parent.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("text", ["", "abcd", "no key at all", "ü" * 16])
def test_a_damaged_key_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ledger.key"
    path.write_text(text, "utf-8")
    with pytest.raises(LedgerError, match=r"ledger\.key") as refused:
        fingerprint.read_key(path)
    assert not text or text not in str(refused.value)
