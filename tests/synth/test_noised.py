"""What a profile says where every answer carries noise, beside the rows themselves."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from privacy.curator import MISSING
from privacy.errors import InputError
from privacy.private import Account, PrivateCurator
from synth.codec import Codec
from synth.keys import float_keys, from_keys, key_floats, to_keys
from synth.learn import learn
from synth.noised import Listed, _Counted, _deconvolved, _joined, _numeric, _shares
from synth.profile import ColumnProfile, Profile
from synth.rows import RawRows, table_source
from synth.schema import Schema
from synth.table import labels_of
from tests.privacy.arrays import numbered
from tests.synth.tables import KEY, mixed, mixed_schema, schema_for


def noised(
    table: pa.Table, schema: Schema, *, rho: float = 0.05, delta: float = 1e-6, at_least: int = 10
) -> tuple[dict[str, ColumnProfile], Profile, Account]:
    rows = RawRows(schema, table_source(table))
    account = Account(rho=rho, delta=delta)
    curator = PrivateCurator(rows, account, key=KEY)
    profile = learn(schema, curator, labels_of(rows), at_least=at_least)
    return {c.name: c for c in profile.columns}, profile, account


def declared(**facts: object) -> dict[str, object]:
    return {"facts": "declared: the test", **facts}


def told(profile: ColumnProfile) -> set[int | str]:
    return {*profile.atoms, *profile.edges, *(e - 1 for e in profile.edges)}


# ----------------------------------------------------------------------------------------------- faithful


def test_columns_of_every_kind_come_back_through_a_noised_profile() -> None:
    table = mixed(20_000)
    known, profile, account = noised(table, mixed_schema(table), rho=1.0)
    assert profile.rows == pytest.approx(20_000, rel=0.01)
    codec = Codec(mixed_schema(table), profile)
    encoded = codec.encode(table)
    again = codec.decode(encoded)
    assert again.schema == table.schema
    for name in ("age", "income", "seen", "wait", "price"):
        real = to_keys(table[name].combine_chunks())
        made = to_keys(again[name].combine_chunks())
        assert np.array_equal(real == MISSING, made == MISSING)
        assert known[name].missing == pytest.approx((real == MISSING).mean(), abs=0.01)
        there = real != MISSING
        assert np.corrcoef(real[there].argsort().argsort(), made[there].argsort().argsort())[0, 1] > 0.98
    assert known["city"].atoms == ("$name", "0301", "Köln", "Oslo", "Ulm")
    assert account.spent.curve[0] <= 1.1 * 1.0 * (1 + 1e-9)


def test_rates_are_those_of_the_rows_within_the_noise() -> None:
    rng = np.random.default_rng(0)
    gain = np.where(rng.random(30_000) < 0.9, 0, rng.integers(1, 100_000, 30_000))
    table = pa.table({"gain": gain, "grade": rng.choice(["a", "b", "c"], 30_000, p=[0.6, 0.3, 0.1])})
    schema = schema_for(
        table, gain=declared(min=0, max=99_999), grade=declared(categories=("c", "a", "b", "never"))
    )
    known, _, _ = noised(table, schema, rho=0.01)
    assert known["gain"].atoms == (0,)
    assert known["gain"].atom_rates[0] == pytest.approx((gain == 0).mean(), abs=0.01)
    assert known["grade"].atoms == ("a", "b", "c", "never")
    assert known["grade"].atom_rates == pytest.approx([0.6, 0.3, 0.1, 0], abs=0.01)
    for profile in known.values():
        rates = (profile.missing, *profile.atom_rates, profile.pooled, *profile.cell_rates)
        assert sum(rates) == pytest.approx(1)
        assert min(rates) >= 0


@pytest.mark.parametrize("real", [True, False])
def test_a_number_without_declared_bounds_is_found_wherever_it_lies(real: bool) -> None:
    rng = np.random.default_rng(1)
    values = np.concatenate([rng.normal(-5e6, 1e5, 10_000), rng.normal(7e6, 1e5, 10_000)])
    table = pa.table({"x": pa.array(values if real else values.astype(np.int64))})
    known, _, _ = noised(table, schema_for(table))
    edges = from_keys(np.array(known["x"].edges, np.int64), table.schema.field("x").type).to_numpy()
    rates = np.array(known["x"].cell_rates)
    middles = (edges[1:].astype(float) + edges[:-1].astype(float)) / 2
    assert rates[(middles > -5.5e6) & (middles < -4.5e6)].sum() == pytest.approx(0.5, abs=0.03)
    assert rates[(middles > 6.5e6) & (middles < 7.5e6)].sum() == pytest.approx(0.5, abs=0.03)
    assert rates[(middles > -4e6) & (middles < 6e6)].sum() < 0.01
    assert ((middles > -5.5e6) & (middles < -4.5e6)).sum() > 30


def test_values_that_stand_out_are_atoms_and_those_that_do_not_are_none() -> None:
    rng = np.random.default_rng(2)
    hours = np.where(rng.random(20_000) < 0.4, 40, rng.integers(1, 100, 20_000))
    table = pa.table({"hours": hours})
    known, _, _ = noised(table, schema_for(table, hours=declared(min=1, max=99)))
    assert known["hours"].atoms == (40,)
    assert known["hours"].atom_rates[0] == pytest.approx((hours == 40).mean(), abs=0.01)


def test_whole_numbers_in_a_column_of_floats_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(3)
    values = rng.choice([2.0, 3.0, 4.0, 6.0], 20_000, p=[0.4, 0.3, 0.2, 0.1])
    table = pa.table({"persons": values})
    schema = schema_for(table, persons=declared(min=1.0, max=9.0, digits=0))
    known, profile, _ = noised(table, schema, rho=0.05)
    codec = Codec(schema, profile)
    assert codec.decode(codec.encode(table))["persons"].to_pylist() == values.tolist()
    found = [
        1 + np.searchsorted(key_floats(np.array(known["persons"].edges)), v, side="right") for v in (2, 3, 4)
    ]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("keys", "counts", "edges"),
    [
        # A drowned end is joined to its neighbour, as long as that is not much narrower; a wide one is no part of it.
        ([0, 10, 20, 30], [-5.0, 1000.0, 900.0], (0, 20, 30)),
        ([0, 10, 20, 35], [1000.0, 900.0, -5.0], (0, 10, 35)),
        ([0, 90, 100, 110], [-5.0, 1000.0, 900.0], (0, 90, 100, 110)),
        ([0, 10, 20, 90], [1000.0, 900.0, -5.0], (0, 10, 20, 90)),
    ],
)
@pytest.mark.parametrize("real", [False, True])
def test_what_noise_drowns_at_an_end_of_the_range(
    keys: list[int], counts: list[float], edges: tuple[int, ...], real: bool
) -> None:
    def places(values: tuple[int, ...] | list[int]) -> np.ndarray:
        whole = np.array(values, np.int64)
        return float_keys(whole.astype(np.float64)) if real else whole

    kind = pa.float64() if real else pa.int64()
    column = schema_for(pa.table({"x": pa.array([], kind)}))["x"]
    counted = _Counted(edges=places(keys), counts=np.array(counts), variances=np.full(3, 100.0))
    profile = _numeric(column, 0.0, counted, sum(counts), 10)
    assert profile.edges == tuple(places(edges).tolist())


def test_counts_without_noise_are_nearer_to_what_was_counted() -> None:
    rng = np.random.default_rng(4)
    true = np.concatenate([np.full(150, 5.0), np.full(50, 30.0), [900.0, 2000.0]])
    noisy = true + rng.normal(0, 40, len(true))
    found = _deconvolved(noisy, 40.0)
    total = true.sum()
    plain = _shares(noisy, total) * total
    assert np.abs(found / found.sum() * total - true).sum() < 0.8 * np.abs(plain - true).sum()
    assert found[-1] == pytest.approx(2000, abs=150)
    assert _deconvolved(true, 0.0) is true


# ----------------------------------------------------------------------------------------------- disclosure


@pytest.mark.parametrize("seed", range(3))
def test_what_one_row_has_alone_is_told_nowhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    secret = 987_654_321
    numbers = np.concatenate([rng.integers(0, 1000, 5000), [secret]])
    words = [*rng.choice(["a", "b"], 5000).tolist(), "only me"]
    table = pa.table({"x": numbers, "w": words, "y": np.concatenate([rng.normal(size=5000), [1e30]])})
    known, _, _ = noised(table, schema_for(table), at_least=1)
    assert secret not in told(known["x"])
    assert max(known["x"].edges) < 2**20
    assert "only me" not in known["w"].atoms
    assert max(from_keys(np.array(known["y"].edges, np.int64), pa.float64()).to_numpy()) < 1e3


def test_facts_that_were_taken_from_rows_are_not_believed() -> None:
    table = pa.table({"x": np.arange(2000) % 50, "w": ["a"] * 2000})
    schema = schema_for(
        table,
        x={"min": -777, "max": 123_456, "step": 7, "nullable": False},
        w={"categories": ("a", "not there")},
    )
    known, _, _ = noised(table, schema.public(unit=None))
    assert not {-777, 123_456} & told(known["x"])
    assert known["w"].atoms == ("a",)
    assert schema.public(unit=None)["x"].step is None


def test_nothing_is_asked_beyond_the_budget_and_only_a_handful_of_questions() -> None:
    table = mixed(3000)
    _, _, account = noised(table, mixed_schema(table))
    assert len(account.charges) <= 5
    assert sum(c.rho for c in account.charges) <= 0.05 * (1 + 1e-9)


def test_a_table_that_noise_drowns_is_refused() -> None:
    table = pa.table({f"x{i}": np.arange(30) for i in range(4)})
    with pytest.raises(InputError, match="noise"):
        noised(table, schema_for(table), rho=1e-4)


# ----------------------------------------------------------------------------------------------- parts


@given(st.lists(st.sampled_from([3, -5, 7, 2**62, int(MISSING)]), min_size=1, max_size=20))
def test_each_key_is_counted_in_its_own_cell(keys: list[int]) -> None:
    listed = Listed(columns=("k",), keys=np.array([7, 3, 2**62], np.int64))
    batch = next(iter(numbered(len(keys), k=np.array(keys, np.int64)).batches()))
    expected = [{7: 1, 3: 2, 2**62: 3, int(MISSING): 0}.get(int(k), 4) for k in batch.columns["k"]]
    assert listed.cell(batch).tolist() == expected


@given(st.lists(st.floats(-50, 200), min_size=2, max_size=8), st.floats(1, 500))
def test_shares_are_the_nearest_that_are_rates(counts: list[float], rows: float) -> None:
    values = np.array(counts)
    shares = _shares(values, rows)
    assert shares.sum() == pytest.approx(1)
    assert shares.min() >= 0
    if values.max() <= 0:
        return
    start = np.full(len(values), 1 / len(values))
    slow = minimize(
        lambda s: ((s - values / rows) ** 2).sum(),
        start,
        bounds=[(0, None)] * len(values),
        constraints={"type": "eq", "fun": lambda s: s.sum() - 1},
        method="SLSQP",
    )
    assert ((shares - values / rows) ** 2).sum() <= slow.fun * (1 + 1e-6) + 1e-6


def test_two_rounds_of_counts_are_joined_by_least_squares() -> None:
    rng = np.random.default_rng(3)
    coarse = _Counted(edges=np.array([0, 10, 20]), counts=rng.normal(50, 5, 2), variances=np.full(2, 9.0))
    fine = _Counted(edges=np.array([0, 5, 7, 10, 20]), counts=rng.normal(20, 5, 4), variances=np.full(4, 4.0))
    # Unknown are the four fine counts; both rounds observe them.
    design = np.array([[1, 1, 1, 0], [0, 0, 0, 1], *np.eye(4)])
    seen = np.concatenate([coarse.counts, fine.counts])
    weights = 1 / np.sqrt(np.concatenate([coarse.variances, fine.variances]))
    slow = np.linalg.lstsq(design * weights[:, None], seen * weights, rcond=None)[0]
    joined = _joined(coarse, fine)
    assert joined.counts == pytest.approx(slow)
    assert joined.variances[3] == pytest.approx(1 / (1 / 9 + 1 / 4))
