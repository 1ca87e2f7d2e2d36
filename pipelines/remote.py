"""Remote: releases in an object store that speaks S3, such that a reader never sees half of one.

A release is made on a disk and then pushed. Its objects lie under the digest of its checksums, so two publishers with
other bytes never meet. `SHA256SUMS` is written last: without it there is no release. `latest.json`, the catalogue of a
name, is swapped only if nobody swapped it meanwhile (conditional writes of S3: If-None-Match, If-Match).
"""

import base64
import hashlib
import importlib
import importlib.util
import json
import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.machine import check_disk
from pipelines.publish import SIGNATURE, SUMS, check_sums
from privacy.errors import Busy, InputError, ReleaseError, UsageError

LATEST = "latest.json"

TRIES = 5
"""How often the catalogue is read anew after somebody else changed it."""


def push(release: Path, address: str) -> str:
    """Puts a whole release into an object store and makes it the latest of its name; what is there already stays.

    Args:
        release: its folder, `<name>/<digest>`.
        address: `s3://bucket/prefix`, under which names lie.

    Returns:
        The address of the release.

    Raises:
        ReleaseError: the release is damaged, or the store holds other bytes under its digest.
        Busy: others change the catalogue all the time.
        InputError: the store cannot be reached, or refuses.
        UsageError: the address is none.
    """
    release = release.resolve()
    check_sums(release)
    sums = (release / SUMS).read_bytes()
    number, name = hashlib.sha256(sums).hexdigest()[:16], release.parent.name
    bucket, prefix = place_of(address)
    store = Store(bucket)
    home = f"{prefix}{name}/"
    files = sorted(p for p in release.rglob("*") if p.is_file() and p.name not in (SUMS, SIGNATURE))
    for path in files:
        store.put_once(f"{home}{number}/{path.relative_to(release).as_posix()}", path.read_bytes())
    # From here on it is a release.
    store.put_once(f"{home}{number}/{SUMS}", sums)
    if (release / SIGNATURE).exists():
        store.put(f"{home}{number}/{SIGNATURE}", (release / SIGNATURE).read_bytes())
    _make_latest(store, f"{home}{LATEST}", number)
    return f"s3://{bucket}/{home}{number}"


def pull(address: str, folder: Path) -> Path:
    """Fetches a release from an object store and checks every file of it.

    Args:
        address: `s3://bucket/prefix/name` for the latest, or that of one release.
        folder: where the folder of the release goes.

    Raises:
        ReleaseError: there is none, or what was fetched is not what its checksums say; nothing is left then.
        InputError: the store cannot be reached, or refuses.
        UsageError: the address is none, or the folder holds the release already.
        NoRoom: the disk is too small.
    """
    bucket, prefix = place_of(address)
    store = Store(bucket)
    listed = store.get(f"{prefix}{LATEST}")
    if listed is not None:
        prefix = f"{prefix}{releases_of(listed[0])[-1]}/"
    sums = store.get(f"{prefix}{SUMS}")
    if sums is None:
        raise ReleaseError(f"an address must be that of a release or a name, however: {address} is neither")
    number = hashlib.sha256(sums[0]).hexdigest()[:16]
    target, part = folder / number, folder / f".{number}.part"
    if target.exists():
        raise UsageError(f"pull overwrites nothing, however: {target} is there")
    shutil.rmtree(part, ignore_errors=True)
    try:
        _fetch(store, prefix, sums[0], part)
        check_sums(part)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _fetch(store: "Store", prefix: str, sums: bytes, part: Path) -> None:
    names = [line.partition("  ")[2] for line in sums.decode("utf-8", errors="replace").splitlines()]
    part.mkdir(parents=True)
    for name in names:
        path = (part / name).resolve()
        if not name or not path.is_relative_to(part.resolve()):
            raise ReleaseError(f"{SUMS} must list files of the release, however: it lists {name!r}")
        found = store.get(f"{prefix}{name}")
        if found is None:
            raise ReleaseError(f"a release must be whole, however: {name} is missing in the store")
        check_disk(part, len(found[0]), what=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found[0])
    (part / SUMS).write_bytes(sums)
    signature = store.get(f"{prefix}{SIGNATURE}")
    if signature is not None:
        (part / SIGNATURE).write_bytes(signature[0])


def _make_latest(store: "Store", key: str, number: str) -> None:
    """Puts a release at the end of its name's catalogue, unless it is there."""
    for _ in range(TRIES):
        found = store.get(key)
        known, tag = ([], None) if found is None else (releases_of(found[0]), found[1])
        if known and known[-1] == number:
            return
        text = json.dumps({"releases": [*(n for n in known if n != number), number]}, indent=1) + "\n"
        if store.swap(key, text.encode(), tag):
            return
    raise Busy(f"one process at a time may change {key}, however: others do all the time; push again later")


def releases_of(text: bytes) -> list[str]:
    """The releases of a name, the latest last, as `latest.json` lists them.

    Raises:
        ReleaseError: it lists none.
    """
    try:
        releases = json.loads(text)["releases"]
        if releases and all(re.fullmatch(r"[0-9a-f]{16}", r) for r in releases):
            return list(releases)
    except (ValueError, KeyError, TypeError):
        pass
    raise ReleaseError(
        f"a catalogue must list releases, however: {LATEST} in the store does not; mend it by hand"
    )


def place_of(address: str) -> tuple[str, str]:
    """Bucket and prefix of an address, the prefix with `/` at its end unless it is empty.

    Raises:
        UsageError: the address is none.
    """
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", address)
    if match is None:
        raise UsageError(
            "an object store must be named s3://bucket/prefix, however: the address is not; keys belong into the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), another server into AWS_ENDPOINT_URL_S3"
        )
    prefix = (match[2] or "").strip("/")
    return match[1], f"{prefix}/" if prefix else ""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One object as a store lists it: its bytes, and when it was written."""

    size: int
    written: datetime


class Store:
    """One bucket. Keys and server come from the environment, as every tool of S3 reads them."""

    def __init__(self, bucket: str) -> None:
        if importlib.util.find_spec("boto3") is None:
            raise InputError(
                "S3 needs the package boto3, however: it is not installed; pip install understudy[s3]"
            )
        self._bucket = bucket
        self._client: Any = importlib.import_module("boto3").client("s3")

    def get(self, key: str) -> tuple[bytes, str] | None:
        """An object and its tag; None where there is none."""
        answer = self._ask("get_object", Key=key)
        return None if answer is None else (answer["Body"].read(), str(answer["ETag"]))

    def list(self, prefix: str) -> dict[str, Listed]:
        """All objects below a prefix, by their keys."""
        found: dict[str, Listed] = {}
        more: dict[str, str] = {}
        while True:
            answer = self._ask("list_objects_v2", Prefix=prefix, **more)
            for one in answer.get("Contents", ()):
                found[one["Key"]] = Listed(size=one["Size"], written=one["LastModified"])
            if not answer.get("IsTruncated"):
                return found
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def put(self, key: str, content: bytes) -> None:
        """Writes an object."""
        self._ask("put_object", Key=key, Body=content, **_summed(content))

    def put_once(self, key: str, content: bytes) -> None:
        """Writes an object that must be this or not be there."""
        if self.swap(key, content, None):
            return
        found = self.get(key)
        if found is None or found[0] != content:
            raise ReleaseError(
                f"what lies under the digest of a release must be that release, however: {key} in the store is not; "
                "remove it there"
            )

    def swap(
        self, key: str, content: bytes, tag: str | None, *, type: str = "application/octet-stream"
    ) -> bool:
        """Writes an object if it still has this tag, or with None if there is none; whether it did."""
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        answer = self._ask(
            "put_object", Key=key, Body=content, ContentType=type, **condition, **_summed(content)
        )
        return answer is not None

    def _ask(self, what: str, **arguments: Any) -> Any:
        errors: Any = importlib.import_module("botocore.exceptions")
        try:
            return getattr(self._client, what)(Bucket=self._bucket, **arguments)
        except errors.ClientError as e:
            code = str(e.response.get("Error", {}).get("Code", ""))
            if code in ("NoSuchKey", "404", "PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                return None
            raise InputError(
                f"an object store must answer, however: it says {code} to {what} in {self._bucket}"
            ) from None
        except errors.BotoCoreError as e:
            raise InputError(
                f"an object store must answer, however: {type(e).__name__}; see AWS_ENDPOINT_URL_S3 and the keys"
            ) from None


def _summed(content: bytes) -> dict[str, str]:
    """The checksum that the store holds an upload against: what broke off is refused by it."""
    return {"ChecksumSHA256": base64.b64encode(hashlib.sha256(content).digest()).decode()}
