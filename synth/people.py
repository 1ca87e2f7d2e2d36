"""People: made-up personal data, the same for the same row number, from nothing that any row says.

Names, streets and towns are Faker's, of a locale; numbers have the form that Faker gives them there. The n-th person is
found directly, as the n-th identifier is (`synth.identifier`): row numbers are permuted, and a person's number chooses
the first and the last name and fills the digits. So shards need not know of each other, columns that are of the same
person agree in a row, and people differ as long as there are names for them; later ones are told apart by a number.

E-mail addresses end in domains that are reserved for examples (RFC 2606), and US social security numbers begin with 9,
which is never given to anybody. Cards (Luhn) and IBANs (ISO 13616) have right check digits; other numbers need not.
"""

import functools
import unicodedata
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from synth.identifier import permuted

What = Literal[
    "name", "first_name", "last_name", "user_name", "email", "phone", "address", "street", "city", "postcode", "card",
    "iban", "national_number",
]  # fmt: skip

WHATS: tuple[str, ...] = get_args(What)

NAMES, TOWNS, DRAWS = 600, 400, 4000
"""Names and towns of a pool at most, and draws that fill it."""

LAST_FIRST = frozenset({"hu_HU", "ja_JP", "ko_KR", "zh_CN", "zh_TW"})
DOMAINS = ("example.com", "example.org", "example.net")
HOUSES = 199
_SCATTER = 7_368_787
"""A prime: multiplied by it, neighbouring numbers share no digits."""


class Personal(BaseModel):
    """What a column of personal data is made up as."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: What
    locale: Annotated[str, Field(description="Faker's locale, e.g. de_DE")] = "en_US"
    of: Annotated[
        str | None, Field(description="columns with the same word are about the same person of a row")
    ] = None
    unique: Annotated[bool, Field(description="whether no two rows share a value")] = False

    @field_validator("locale")
    @classmethod
    def _known_locale(cls, value: str) -> str:
        from faker.config import AVAILABLE_LOCALES

        if value not in AVAILABLE_LOCALES:
            raise ValueError("locale must be one of Faker's, e.g. en_US, de_DE, fr_FR")
        return value


def values(personal: Personal, first: int, count: int, *, salt: str) -> list[str]:
    """Made-up values of the rows first … first + count − 1.

    Args:
        personal: what they are.
        first: number of the first row.
        count: rows.
        salt: chooses the people of a release; equal salts give equal people.

    Examples:
        >>> values(Personal(what="email"), 0, 1, salt="x")[0].split("@")[1].split(".")[0]
        'example'
    """
    pool = _pool(personal.locale)
    size = len(pool.first) * len(pool.last)
    makers: dict[str, Callable[[_Pool, int, int], str]] = _MAKERS
    make = makers[personal.what]
    people = permuted(first, count, size, salt=salt)
    made = []
    for row, person in zip(range(first, first + count), people, strict=True):
        again = row // size
        value = make(pool, int(person), again)
        told_apart = personal.what in ("email", "user_name", "phone", "card", "iban", "national_number")
        if personal.unique and not told_apart:
            value = _told_apart(pool, personal.what, value, int(person), again)
        made.append(value)
    return made


def _told_apart(pool: "_Pool", what: str, value: str, person: int, again: int) -> str:
    """A value that no other person has: where a pool is smaller than the people, with a number."""
    several = {"first_name": person // len(pool.first), "last_name": person % len(pool.first)}
    many = len(pool.first) * len(pool.last)
    if what in ("city", "postcode", "street"):
        number = person + again * many
    else:
        number = several.get(what, 0) + again * (many if what in several else 1)
    return f"{value} {number + 1}" if number else value


class _Pool:
    """What values of a locale are made of; the same in every process."""

    def __init__(self, locale: str) -> None:
        from faker import Faker

        fake = Faker(locale)
        fake.seed_instance(0)
        self.locale = locale
        self.first = _distinct(fake.first_name, NAMES)
        self.last = _distinct(fake.last_name, NAMES)
        self.cities = _distinct(fake.city, TOWNS)
        self.streets = _distinct(fake.street_name, TOWNS)
        self.postcodes = _distinct(fake.postcode, TOWNS)
        self.numbered_first = any(a[:1].isdigit() for a in (fake.street_address() for _ in range(5)))
        phones = _distinct(fake.phone_number, 200)
        self.phones = [p for p in phones if "x" not in p and _digits(p) >= 8] or ["+00 000 0000000"]
        self.iban = fake.iban() if hasattr(fake, "iban") else "GB00AAAA00000000000000"
        try:
            self.national = fake.ssn()
        except (AttributeError, NotImplementedError):
            self.national = "000-00-0000"


@functools.lru_cache(maxsize=8)
def _pool(locale: str) -> _Pool:
    return _Pool(locale)


def _distinct(draw: Callable[[], Any], most: int) -> list[str]:
    found: dict[str, None] = {}
    for _ in range(DRAWS):
        found.setdefault(str(draw()))
        if len(found) == most:
            break
    return list(found)


def _digits(text: str) -> int:
    return sum(c.isdecimal() and c.isascii() for c in text)


def _filled(form: str, number: int, *, keep: int) -> str:
    """`form` with its digits after the first `keep` ones replaced by those of a number, so that numbers differ."""
    places = [i for i, c in enumerate(form) if c.isdecimal() and c.isascii()][keep:]
    text = str(number * _SCATTER % 10 ** len(places)).zfill(len(places)) if places else ""
    letters = list(form)
    for place, digit in zip(places, text, strict=True):
        letters[place] = digit
    return "".join(letters)


def _first(pool: _Pool, person: int, again: int) -> str:
    return pool.first[person % len(pool.first)]


def _last(pool: _Pool, person: int, again: int) -> str:
    return pool.last[person // len(pool.first) % len(pool.last)]


def _name(pool: _Pool, person: int, again: int) -> str:
    first, last = _first(pool, person, again), _last(pool, person, again)
    return f"{last} {first}" if pool.locale in LAST_FIRST else f"{first} {last}"


def _user(pool: _Pool, person: int, again: int) -> str:
    parts = [_plain(_first(pool, person, again)), _plain(_last(pool, person, again))]
    # Two names may be the same word without accents; the person's number keeps them apart.
    number = _number(pool, person, again)
    return f"{'.'.join(p for p in parts if p) or 'person'}{number}"


def _email(pool: _Pool, person: int, again: int) -> str:
    return f"{_user(pool, person, again)}@{DOMAINS[person % len(DOMAINS)]}"


def _number(pool: _Pool, person: int, again: int) -> int:
    return person + again * len(pool.first) * len(pool.last)


def _phone(pool: _Pool, person: int, again: int) -> str:
    # One form for all: two forms of different lengths could come to the same number.
    form = pool.phones[0]
    return _filled(form, _number(pool, person, again), keep=max(0, _digits(form) - 9))


def _street(pool: _Pool, person: int, again: int) -> str:
    number = _number(pool, person, again)
    street, house = pool.streets[number % len(pool.streets)], 1 + number // len(pool.streets) % HOUSES
    return f"{house} {street}" if pool.numbered_first else f"{street} {house}"


def _city(pool: _Pool, person: int, again: int) -> str:
    return pool.cities[_number(pool, person, again) // (len(pool.streets) * HOUSES) % len(pool.cities)]


def _postcode(pool: _Pool, person: int, again: int) -> str:
    return pool.postcodes[_number(pool, person, again) % len(pool.postcodes)]


def _address(pool: _Pool, person: int, again: int) -> str:
    where = f"{_postcode(pool, person, again)} {_city(pool, person, again)}"
    return f"{_street(pool, person, again)}, {where}"


def _card(pool: _Pool, person: int, again: int) -> str:
    digits = "4" + str(_number(pool, person, again) * _SCATTER % 10**14).zfill(14)
    doubled = [int(d) if i % 2 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(reversed(digits))]
    return digits + str(-sum(doubled) % 10)


def _iban(pool: _Pool, person: int, again: int) -> str:
    country, account = pool.iban[:2], pool.iban[4:]
    account = _filled(account, _number(pool, person, again), keep=max(0, _digits(account) - 12))
    checked = int("".join(str(int(c, 36)) for c in account + country + "00"))
    return f"{country}{98 - checked % 97:02}{account}"


def _national(pool: _Pool, person: int, again: int) -> str:
    number = _number(pool, person, again)
    if pool.locale == "en_US":
        text = str(number * _SCATTER % 10**8).zfill(8)
        return f"9{text[:2]}-{text[2:4]}-{text[4:]}"
    return _filled(pool.national, number, keep=0)


def _plain(name: str) -> str:
    """A name as a part of an address: small ASCII letters."""
    text = unicodedata.normalize("NFKD", name.lower().replace("ß", "ss"))
    return "".join(c for c in text if c.isascii() and c.isalnum())


_MAKERS: dict[str, Callable[[_Pool, int, int], str]] = {
    "name": _name,
    "first_name": _first,
    "last_name": _last,
    "user_name": _user,
    "email": _email,
    "phone": _phone,
    "address": _address,
    "street": _street,
    "city": _city,
    "postcode": _postcode,
    "card": _card,
    "iban": _iban,
    "national_number": _national,
}


# ------------------------------------------------------------------------------------------------- dictionary

LOCALES = (
    "en_US", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "pt_BR", "sv_SE", "da_DK", "fi_FI", "no_NO",
    "cs_CZ", "tr_TR",
)  # fmt: skip
"""Locales whose names are looked up."""


@functools.lru_cache(maxsize=1)
def _dictionary() -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """First and last names of each locale, in small letters."""
    from importlib import import_module

    found = {}
    for locale in LOCALES:
        provider = import_module(f"faker.providers.person.{locale}").Provider
        first = {str(n).lower() for n in _listed(provider, "first_name")}
        last = {str(n).lower() for n in _listed(provider, "last_name")}
        found[locale] = (frozenset(first), frozenset(last))
    return found


def _listed(provider: type, kind: str) -> set[str]:
    """All names that a provider lists, by whatever it calls the list."""
    lists = [getattr(provider, a) for a in dir(provider) if kind in a and not callable(getattr(provider, a))]
    return {n for names in lists for n in names if isinstance(n, str)}


def recognized(texts: list[str]) -> tuple[str | None, float, str]:
    """What names values are, the share of them that is known, and the locale that knows most.

    Args:
        texts: values, e.g. of a column; matching is done word by word.

    Returns:
        "name", "first_name", "last_name" or None; share in [0, 1]; a locale.

    Examples:
        >>> recognized(["Mary Smith", "John Brown", "Robert Miller"])[0]
        'name'
    """
    words = [[w.strip(".,0123456789").lower() for w in t.split()] for t in texts if t.strip()]
    if not words:
        return None, 0.0, LOCALES[0]
    best: tuple[str | None, float, str] = (None, 0.0, LOCALES[0])
    for locale, (first, last) in _dictionary().items():
        # A last name may be of several words: van der Berg.
        tails = [{*w, *(" ".join(w[i:]) for i in range(1, len(w)))} for w in words]
        whole = np.mean(
            [len(w) > 1 and bool(first & {*w}) and bool(last & t) for w, t in zip(words, tails, strict=True)]
        )
        alone = [w[0] if len(w) == 1 else "" for w in words]
        shares = {
            "name": float(whole),
            "first_name": float(np.mean([w in first for w in alone])),
            "last_name": float(np.mean([w in last for w in alone])),
        }
        what = max(shares, key=shares.__getitem__)
        if shares[what] > best[1]:
            best = (what, shares[what], locale)
    return best
