"""Reference: `${env:NAME}` and `${prefect:BLOCK}` stand for a secret, in the address of a database or on its own.

A recipe is shared, kept and published by its digest, so a secret never stands in one. It is looked up at the moment
of a connection, and is in no log, message, digest or workspace.
"""

import os
import re
from collections.abc import Mapping

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from privacy.errors import RecipeError

_REFERENCE = re.compile(r"\$\{(env|prefect):([A-Za-z0-9_][A-Za-z0-9_-]*)\}")
_SECRET = re.compile(
    r"(?i).*(password|passwd|secret|token|api_?key|private_?key|access_?key|credentials)|pwd|pass"
)
"""Names of options that hold a secret."""


def is_address(text: str) -> bool:
    """Whether an input names a database rather than a path."""
    return "://" in text or _REFERENCE.fullmatch(text) is not None


_DSN = re.compile(r"(?i)(?:^|[\s;])(?:password|passwd|pwd)\s*=")
"""How drivers' own strings write a password: host=db password=…, Server=db;Pwd=…"""


def check_input(text: str) -> None:
    """Refuses an address in which a secret stands for itself, and what is no address, but holds one.

    Raises:
        RecipeError: it is no address, or holds a password; the message shows neither.
    """
    if not is_address(text):
        if _DSN.search(text):
            raise RecipeError(
                "an input must be a path or an address dialect://…, however: it is a driver's own string with a "
                "password; write e.g. postgresql://USER:${env:NAME}@HOST/DATABASE and export NAME"
            )
        return
    if _REFERENCE.fullmatch(text):
        return
    url = _parsed(_masked(text)[0])
    options: list[tuple[str, str]] = [(k, v) for k, values in url.normalized_query.items() for v in values]
    options += [(k, v) for _, text in options for k, _, v in (p.partition("=") for p in text.split(";"))]
    held = [str(v) for k, v in options if _SECRET.fullmatch(str(k).strip())]
    held += [] if url.password is None else [str(url.password)]
    if any(not re.fullmatch(r"(?:ref\d+erence)+", v.strip()) for v in held):
        raise RecipeError(
            "a secret must stand outside of what is written down, however: the address holds one; write "
            "${env:NAME} in its place and export NAME, or ${prefect:BLOCK} for a Prefect secret block"
        )


def check_secret(text: object) -> None:
    """Refuses a secret that stands for itself, and whatever else is no reference to one.

    Raises:
        RecipeError: it is no reference; the message does not show it.
    """
    if not (isinstance(text, str) and _REFERENCE.fullmatch(text)):
        raise RecipeError(
            "a secret must stand outside of what is written down, however: something else than a reference stands in "
            "its place; write ${env:NAME} and export NAME, or ${prefect:BLOCK} for a Prefect secret block"
        )


def secret(text: str) -> str:
    """The secret that a reference leads to.

    Raises:
        RecipeError: it is no reference, or leads nowhere.
    """
    check_secret(text)
    return _look_up(text)


def label_of(text: str) -> str:
    """An address for messages: dialect and database, nothing else."""
    if _REFERENCE.fullmatch(text):
        return "the database"
    url = _parsed(_masked(text)[0])
    return f"{url.get_backend_name()} database {_unmasked(url.database or '', _masked(text)[1])!r}"


def resolve(text: str) -> tuple[URL, tuple[str, ...]]:
    """The address with every reference looked up, and the secrets that it holds.

    Raises:
        RecipeError: a reference leads nowhere.
    """
    masked, found = _masked(text)
    values = {mask: _look_up(reference) for mask, reference in found.items()}
    secrets = tuple(values.values())
    if _REFERENCE.fullmatch(text):
        url = _parsed(secrets[0])
        parts = (url.password, url.username, url.host, url.database)
        return url, (*secrets, *(str(p) for p in parts if p is not None))

    def real(part: str | None) -> str | None:
        return None if part is None else _unmasked(part, values)

    url = _parsed(masked)
    query = {k: tuple(_unmasked(v, values) for v in values_) for k, values_ in url.normalized_query.items()}
    changed = url.set(
        username=real(url.username),
        password=real(url.password),
        host=real(url.host),
        database=real(url.database),
    )
    return changed.set(query=query), secrets


def hidden(text: str, secrets: tuple[str, ...]) -> str:
    """A text in one line without any of the secrets."""
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    return " ".join(text.split())


def _masked(text: str) -> tuple[str, dict[str, str]]:
    """The text with plain words for its references, which an address may hold anywhere, and what they stand for."""
    found: dict[str, str] = {}

    def mask(match: re.Match[str]) -> str:
        word = f"ref{len(found)}erence"
        found[word] = match[0]
        return word

    return _REFERENCE.sub(mask, text), found


def _unmasked(part: str, values: Mapping[str, str]) -> str:
    return re.sub(r"ref\d+erence", lambda m: values.get(m[0], m[0]), part)


def _parsed(text: str) -> URL:
    try:
        return make_url(text)
    except (ArgumentError, ValueError):
        raise RecipeError(
            "an address must be one that SQLAlchemy reads, however: it is not; write "
            "dialect://user:${env:NAME}@host/database"
        ) from None


def _look_up(reference: str) -> str:
    match = _REFERENCE.fullmatch(reference)
    assert match is not None
    kind, name = match[1], match[2]
    if kind == "prefect":
        from pipelines.flows import secret_block

        return secret_block(name)
    value = os.environ.get(name)
    if value is None:
        raise RecipeError(f"a reference must lead to a secret, however: {name} is not set; export {name}")
    return value
