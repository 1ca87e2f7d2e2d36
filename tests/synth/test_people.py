"""Made-up people: the same for the same row, different for different rows, and of no row's data."""

import pyarrow as pa
import pytest
from faker import Faker
from hypothesis import given, settings
from hypothesis import strategies as st

import synth
from privacy.errors import SchemaError
from synth.infer import _is_card, _is_iban, _is_national, infer_table
from synth.metadata import from_sdv, to_sdv
from synth.people import LOCALES, WHATS, Personal, recognized, values
from synth.schema import Column, Schema
from synth.table import TableModel


def customers(rows: int = 300, *, locale: str = "de_DE", seed: int = 3) -> pa.Table:
    fake = Faker(locale)
    fake.seed_instance(seed)
    return pa.table(
        {
            "first_name": [fake.first_name() for _ in range(rows)],
            "surname": [fake.last_name() for _ in range(rows)],
            "contact": pa.array(
                [fake.unique.email() for _ in range(rows)], mask=[i % 5 == 0 for i in range(rows)]
            ),
            "iban": [fake.iban() for _ in range(rows)],
            "age": [i % 60 for i in range(rows)],
        }
    )


def model(table: pa.Table, schema: Schema | None = None) -> TableModel[pa.Table]:
    return synth.fit(table, "gmm", schema=schema, threads=1)


# ---------------------------------------------------------------------------------------------------- made up


@given(
    what=st.sampled_from(WHATS), first=st.integers(0, 10**6), count=st.integers(0, 40), cut=st.integers(0, 40)
)
@settings(max_examples=60, deadline=None)
def test_a_value_depends_on_its_row_alone_so_shards_need_not_know_of_each_other(
    what: str, first: int, count: int, cut: int
) -> None:
    personal = Personal(what=what, unique=True)  # type: ignore[arg-type]
    whole = values(personal, first, count, salt="s")
    cut = min(cut, count)
    assert whole == values(personal, first, cut, salt="s") + values(
        personal, first + cut, count - cut, salt="s"
    )


@pytest.mark.parametrize("what", WHATS)
@pytest.mark.parametrize("locale", ["en_US", "de_DE", "ja_JP"])
def test_unique_values_differ_however_many_there_are(what: str, locale: str) -> None:
    # More than there are Japanese names, so that some people have the names of others.
    made = values(Personal(what=what, locale=locale, unique=True), 0, 4000, salt="s")  # type: ignore[arg-type]
    assert len(set(made)) == 4000
    assert all(made)


def test_without_being_unique_values_repeat_as_names_do() -> None:
    made = values(Personal(what="first_name"), 0, 4000, salt="s")
    assert 100 < len(set(made)) < 1000


def test_other_releases_have_other_people() -> None:
    one, two = (values(Personal(what="email", unique=True), 0, 500, salt=s) for s in ("a", "b"))
    assert len(set(one) & set(two)) < 20


def test_numbers_have_right_check_digits_and_addresses_reach_nobody() -> None:
    cards = values(Personal(what="card"), 0, 300, salt="s")
    assert all(map(_is_card, cards))
    for locale in ("de_DE", "fr_FR", "en_GB", "it_IT"):
        assert all(map(_is_iban, values(Personal(what="iban", locale=locale), 0, 200, salt="s"))), locale
    mails = values(Personal(what="email", locale="tr_TR"), 0, 300, salt="s")
    assert {m.split("@")[1] for m in mails} <= {"example.com", "example.org", "example.net"}
    assert all(m.isascii() for m in mails)
    assert all(v.startswith("9") for v in values(Personal(what="national_number"), 0, 50, salt="s"))


def test_columns_of_one_person_agree_in_a_row_and_others_do_not() -> None:
    whats = ("first_name", "last_name", "name", "email")
    columns = [
        *({"name": w, "personal": {"what": w, "of": "buyer"}} for w in whats),
        {"name": "seller", "personal": {"what": "name"}},
    ]
    made = [{"kind": "text", "type": "string", "action": "regenerate", **c} for c in columns]
    schema = Schema.model_validate(
        {"columns": [*made, {"name": "age", "kind": "numerical", "type": "int64"}]}
    )
    table = pa.table({**{c["name"]: ["x"] * 100 for c in columns}, "age": [i % 7 for i in range(100)]})
    drawn = model(table, schema).sample(200, seed=1)
    for row in drawn.to_pylist():
        assert row["name"] == f"{row['first_name']} {row['last_name']}"
        assert row["email"].startswith(row["first_name"].lower()[:1])
    same = sum(r["seller"] == r["name"] for r in drawn.to_pylist())
    assert same < 5


# ---------------------------------------------------------------------------------------------------- found


def test_init_finds_personal_data_says_why_and_nothing_of_them_is_released() -> None:
    table = customers()
    schema = infer_table(table)
    found = {c.name: (c.personal.what, c.personal.locale, c.personal.of) for c in schema if c.personal}
    assert found == {
        "first_name": ("first_name", "de_DE", "row"),
        "surname": ("last_name", "de_DE", "row"),
        "contact": ("email", "de_DE", "row"),
        "iban": ("iban", "de_DE", "row"),
    }
    assert all("personal data" in (c.note or "") for c in schema if c.personal)
    assert schema["contact"].personal is not None
    assert schema["contact"].personal.unique
    drawn = model(table, schema).sample(300, seed=1)
    for name in ("contact", "iban"):
        assert not set(drawn[name].drop_null().to_pylist()) & set(table[name].to_pylist())
        assert len(set(drawn[name].drop_null().to_pylist())) == len(drawn) - drawn[name].null_count
    assert 0.1 < drawn["contact"].null_count / 300 < 0.3


def test_other_values_in_the_rows_change_nothing_of_what_is_made_up() -> None:
    schema = infer_table(customers())
    one, two = (customers(seed=s).set_column(4, "age", customers()["age"]) for s in (3, 4))
    two = two.set_column(2, "contact", pa.array(two["contact"].to_pylist(), pa.string()))
    first, second = (model(t, schema).sample(50, seed=1) for t in (one, two))
    assert first.equals(second)


@pytest.mark.parametrize(
    ("locale", "number"),
    [
        ("es_ES", "nif"),
        ("it_IT", "ssn"),
        ("pl_PL", "pesel"),
        ("pt_BR", "cpf"),
        ("fr_FR", "ssn"),
        ("sv_SE", "ssn"),
    ],
)
def test_national_numbers_are_known_by_their_check_digits(locale: str, number: str) -> None:
    fake = Faker(locale)
    fake.seed_instance(1)
    real = [str(getattr(fake, number)()) for _ in range(60)]
    assert all(map(_is_national, real))
    column = infer_table(pa.table({"x": real, "n": range(60)}))["x"]
    assert column.personal is not None
    assert column.personal.what == "national_number"


def test_numbers_without_check_digits_are_no_national_numbers() -> None:
    chance = [str(10**10 + 7919 * i * i % 10**11).zfill(11)[:11] for i in range(1, 1000)]
    assert sum(map(_is_national, chance)) < 250
    assert infer_table(pa.table({"x": chance}))["x"].personal is None


@pytest.mark.parametrize("locale", LOCALES)
def test_names_of_every_locale_are_recognized(locale: str) -> None:
    fake = Faker(locale)
    fake.seed_instance(2)
    what, share, _ = recognized([f"{fake.first_name()} {fake.last_name()}" for _ in range(100)])
    assert what == "name"
    assert share > 0.7


def test_a_column_that_is_called_a_first_name_is_one_in_any_language_unless_it_is_a_category() -> None:
    words = [
        f"{a}{b}" for a in ("Ng", "Li", "Oke", "Zu", "Ama") for b in ("wa", "ri", "tu", "lo", "ke", "si")
    ]
    found = infer_table(pa.table({"first_name": words * 3}))["first_name"]
    assert found.personal is not None
    assert found.personal.what == "first_name"
    assert infer_table(pa.table({"last": ["won", "lost"] * 50}))["last"].kind == "categorical"


def test_names_of_things_are_not_names_of_people() -> None:
    things = [
        "Delta Air Lines Inc.",
        "JetBlue Airways",
        "Envoy Air",
        "SkyWest Airlines",
        "Hawaiian Airlines",
    ] * 5
    assert recognized(things)[1] < 0.3
    assert infer_table(pa.table({"name": things}))["name"].personal is None


# ---------------------------------------------------------------------------------------------------- schema


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"action": "regenerate"}, "belong together"),
        ({"action": "replace", "personal": {"what": "email"}}, "belong together"),
        ({"action": "regenerate", "personal": {"what": "mail"}}, "Input should be 'name'"),
        ({"action": "regenerate", "personal": {"what": "email", "locale": "xx_XX"}}, "one of Faker's"),
        ({"action": "regenerate", "type": "int64", "personal": {"what": "phone"}}, "made up as strings"),
    ],
)
def test_a_schema_says_what_is_wrong_with_a_column_of_personal_data(
    facts: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        Column.model_validate({"name": "c", "kind": "text", "type": "string", **facts})


def test_dropped_columns_are_not_in_the_table_that_is_learned() -> None:
    table = customers()
    columns = [
        c.model_copy(update={"action": "drop", "personal": None}) if c.name == "iban" else c
        for c in infer_table(table)
    ]
    schema = Schema(columns=tuple(columns))
    assert "iban" not in model(table, schema).sample(5).column_names
    with pytest.raises(SchemaError, match="must keep a column"):
        _ = Schema(columns=tuple(c for c in columns if c.name == "iban")).kept


def test_under_privacy_nothing_that_values_showed_is_believed() -> None:
    believed = infer_table(customers()).public(unit=None)["contact"].personal
    assert believed == Personal(what="email", of="row")


def test_sdv_knows_the_same_personal_data() -> None:
    columns = {w: {"sdtype": w} for w in ("email", "phone_number", "credit_card_number", "ssn", "first_name")}
    schema = from_sdv({"METADATA_SPEC_VERSION": "SINGLE_TABLE_V1", "columns": columns})
    assert [c.personal.what for c in schema if c.personal] == [
        "email", "phone", "card", "national_number", "first_name",
    ]  # fmt: skip
    assert {n: c["sdtype"] for n, c in to_sdv(schema)["tables"]["table"]["columns"].items()} == {
        n: c["sdtype"] for n, c in columns.items()
    }
