"""Sign: signatures of releases in minisign's format, by Ed25519.

A signature is of `SHA256SUMS`, which lists every file, so it is of the whole release. Any minisign checks it:
`minisign -Vm SHA256SUMS -p understudy.pub`. The format is that of https://jedisct1.github.io/minisign/, prehashed.
"""

import base64
import binascii
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pipelines.publish import SIGNATURE, SUMS, check_sums
from pipelines.workspace import write_atomic
from privacy.errors import ReleaseError, UsageError

_KEY, _SIGNED, _NO_KDF, _CHECK = b"Ed", b"ED", b"\0\0", b"B2"
_SALT_BYTES = 48
"""Salt and limits of a password, which our secret keys do not have."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Where a pair of keys lies.

    Attributes:
        secret: the file of the secret key, for its owner alone.
        public: the file of the public key.
        number: the number of the pair, as minisign shows it.
    """

    secret: Path
    public: Path
    number: str


def keygen(stem: Path) -> Keys:
    """Makes a pair of keys, `<stem>.key` and `<stem>.pub`; the secret one has no password.

    Raises:
        UsageError: one of the files is there already.
    """
    secret, public = stem.with_name(f"{stem.name}.key"), stem.with_name(f"{stem.name}.pub")
    for path in (secret, public):
        if path.exists():
            raise UsageError(f"keygen overwrites nothing, however: {path} is there; choose another name")
    private, number = Ed25519PrivateKey.generate(), secrets.token_bytes(8)
    seed, point = private.private_bytes_raw(), private.public_key().public_bytes_raw()
    held = number + seed + point
    check = hashlib.blake2b(_KEY + held, digest_size=32).digest()
    data = _KEY + _NO_KDF + _CHECK + bytes(_SALT_BYTES) + held + check
    stem.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(_text("minisign secret key, made by understudy", data))
    write_atomic(public, _text(f"minisign public key {_shown(number)}", _KEY + number + point))
    return Keys(secret=secret, public=public, number=_shown(number))


def sign(release: Path, key: Path) -> Path:
    """Signs a release whose files are as listed; a signature that was there is replaced.

    Returns:
        The file of the signature.

    Raises:
        ReleaseError: the release is damaged.
        UsageError: the key is none, or has a password.
    """
    check_sums(release)
    number, private = _secret(key)
    content = (release / SUMS).read_bytes()
    signature = private.sign(hashlib.blake2b(content).digest())
    comment = f"understudy release {hashlib.sha256(content).hexdigest()[:16]}"
    text = _text(f"signature by key {_shown(number)}", _SIGNED + number + signature)
    whole = private.sign(signature + comment.encode())
    path = release / SIGNATURE
    write_atomic(path, text + f"trusted comment: {comment}\n".encode() + base64.b64encode(whole) + b"\n")
    return path


def check_signature(release: Path, public_key: Path) -> str:
    """Checks the signature of a release, and says by which key it is.

    Raises:
        ReleaseError: there is none, or it is not of this release by this key.
        UsageError: the key is none.
    """
    number, public = _public(public_key)
    path = release / SIGNATURE
    try:
        lines = path.read_text("utf-8").splitlines()
        data, whole = base64.b64decode(lines[1], validate=True), base64.b64decode(lines[3], validate=True)
    except FileNotFoundError:
        raise ReleaseError(f"a release must be signed, however: {release} has no {SIGNATURE}") from None
    except (OSError, UnicodeDecodeError, IndexError, binascii.Error, ValueError):
        raise ReleaseError(f"a signature must be one of minisign's, however: {path} is none") from None
    if len(data) != 74 or data[:2] not in (_SIGNED, _KEY) or not lines[2].startswith("trusted comment: "):
        raise ReleaseError(f"a signature must be one of minisign's, however: {path} is none")
    if data[2:10] != number:
        raise ReleaseError(
            f"a signature must be by the key that is given, however: it is by {_shown(data[2:10])} and the key is "
            f"{_shown(number)}; ask for the signer's public key"
        )
    content = (release / SUMS).read_bytes()
    try:
        public.verify(data[10:], hashlib.blake2b(content).digest() if data[:2] == _SIGNED else content)
        public.verify(whole, data[10:] + lines[2].removeprefix("trusted comment: ").encode())
    except InvalidSignature:
        raise ReleaseError(
            f"a signature must be of its release, however: that of {release} is not; fetch the release again"
        ) from None
    return f"valid, by key {_shown(number)}"


def _text(comment: str, data: bytes) -> bytes:
    return f"untrusted comment: {comment}\n".encode() + base64.b64encode(data) + b"\n"


def _shown(number: bytes) -> str:
    """A key's number as minisign shows it: little-endian, in hexadecimal."""
    return number[::-1].hex().upper()


def _decoded(path: Path, length: int, what: str) -> bytes:
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        data = base64.b64decode(lines[-1], validate=True)
    except (OSError, UnicodeDecodeError, IndexError, binascii.Error, ValueError):
        data = b""
    if len(data) != length or data[:2] != _KEY:
        raise UsageError(
            f"a key must be a {what} of minisign's, however: {path} is none; `understudy keygen` makes one"
        )
    return data


def _public(path: Path) -> tuple[bytes, Ed25519PublicKey]:
    data = _decoded(path, 42, "public key")
    return data[2:10], Ed25519PublicKey.from_public_bytes(data[10:])


def _secret(path: Path) -> tuple[bytes, Ed25519PrivateKey]:
    data = _decoded(path, 158, "secret key")
    if data[2:4] != _NO_KDF:
        raise UsageError(
            f"a key for jobs must have no password, however: {path} has one; `understudy keygen`, or `minisign -G -W`"
        )
    held, check = data[6 + _SALT_BYTES : -32], data[-32:]
    if hashlib.blake2b(_KEY + held, digest_size=32).digest() != check:
        raise UsageError(f"a key must be whole, however: {path} is damaged; restore it")
    return held[:8], Ed25519PrivateKey.from_private_bytes(held[8:40])
