"""Regressions on real and synthetic rows: against independent oracles, and intervals that cover what is true."""

import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from synth.schema import Schema
from validation.cells import cells_of
from validation.features import Features
from validation.inference import Inference, Interval, combine, inference, overlap, render
from validation.public import interval_of
from validation.regression import fit
from validation.utility import utility

SCHEMA = Schema.model_validate(
    {
        "columns": [
            {"name": n, "kind": k, "type": "string" if k == "categorical" else "double"}
            for n, k in {
                "x": "numerical", "group": "categorical", "label": "categorical", "y": "numerical",
                "three": "categorical",
            }.items()
        ]
    }
)  # fmt: skip


def table(rows: int, seed: int, *, slope: float = 1.0) -> pa.Table:
    """`y` and `label` follow from `x` (by `slope`) and `group`."""
    rng = np.random.default_rng(seed)
    x, group = rng.normal(size=rows), rng.choice(["a", "b", "(missing)"], rows, p=[0.5, 0.3, 0.2])
    y = slope * x + 0.5 * (group == "b") + rng.normal(size=rows)
    label = np.where(slope * x + 0.8 * (group == "b") + rng.logistic(size=rows) > 0, "yes", "no")
    three = np.where(label == "yes", rng.choice(["u", "v"], rows), "w")
    return pa.table(
        {
            "x": pa.array(x, mask=rng.random(rows) < 0.05),
            "group": group,
            "label": label,
            "y": y,
            "three": three,
        }
    )


TRAIN, HOLDOUT = table(3000, 0), table(1000, 1)


def found(synthetic: pa.Table, *targets: str, train: pa.Table = TRAIN, at_least: int = 10) -> Inference:
    cells = [cells_of(c, (train, HOLDOUT, synthetic)) for c in SCHEMA]
    used, _ = utility(cells, Features.of(cells), targets, seed=0)
    return inference(cells, used, at_least=at_least, seed=0)


def test_a_category_of_one_person_is_not_named_however_many_rows_it_has() -> None:
    group = TRAIN.column("group").to_pylist()
    owned = [i for i, g in enumerate(group) if g == "b"][:60]
    for i in owned:
        group[i] = "one person's"
    train = TRAIN.set_column(TRAIN.schema.get_field_index("group"), "group", pa.array(group))
    others = np.setdiff1d(np.arange(len(train)), owned[1:])
    for drawn, named in ((None, True), (others, False)):
        cells = [cells_of(c, (train, HOLDOUT, train), drawn) for c in SCHEMA]
        used, _ = utility(cells, Features.of(cells), ("y",), seed=0)
        (only,) = inference(cells, used, at_least=10, seed=0).regressions
        assert ("one person's" in {c.level for c in only.coefficients}) == named


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_linear_fit_is_that_of_least_squares_with_the_textbooks_standard_errors() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(300), rng.normal(size=(300, 2)), rng.random(300) < 0.2])
    y = x @ [1.0, 2.0, 0.0, -1.0] + rng.normal(size=300)
    own = fit("linear", x, y)
    beta, rest, *_ = np.linalg.lstsq(x, y, rcond=None)
    errors = np.sqrt(rest[0] / 296 * np.diag(np.linalg.pinv(x.T @ x)))
    assert own is not None
    assert own.values == pytest.approx(beta)
    assert own.errors == pytest.approx(errors)


def test_a_logistic_fit_is_the_maximum_and_its_errors_are_the_curvature_there() -> None:
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(500), rng.normal(size=500), rng.random(500) < 0.3])
    y = (x @ [-0.5, 1.0, 0.7] + rng.logistic(size=500) > 0).astype(float)
    own = fit("logistic", x, y)
    oracle = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    assert own is not None
    assert own.values == pytest.approx(oracle.coef_[0], abs=1e-5)

    def loss(beta: np.ndarray) -> float:
        return float(np.logaddexp(0, x @ beta).sum() - y @ (x @ beta))

    # The curvature by finite differences, which know nothing of the formula.
    steps = 1e-4 * np.eye(3)
    hessian = [
        [
            (
                loss(own.values + a + b)
                - loss(own.values + a - b)
                - loss(own.values - a + b)
                + loss(own.values - a - b)
            )
            / 4e-8
            for b in steps
        ]
        for a in steps
    ]
    assert own.errors == pytest.approx(np.sqrt(np.diag(np.linalg.inv(hessian))), rel=1e-3)


def test_columns_that_say_nothing_have_no_coefficient_and_the_others_keep_theirs() -> None:
    rng = np.random.default_rng(2)
    x = np.column_stack([np.ones(400), rng.normal(size=400), np.zeros(400), rng.normal(size=400)])
    x[:, 2] = 3 * x[:, 1] - 1
    y = (x[:, 1] + rng.logistic(size=400) > 0).astype(float)
    alone = fit("logistic", x[:, [0, 1, 3]], y)
    own = fit("logistic", x, y)
    assert own is not None
    assert alone is not None
    assert np.isnan(own.values[2])
    assert own.values[[0, 1, 3]] == pytest.approx(alone.values)
    # A mark that one class has only.
    x[:, 2] = (y == 1) & (rng.random(400) < 0.1)
    own = fit("logistic", x, y)
    assert own is not None
    assert np.isnan(own.values[2])
    assert np.isfinite(own.errors[[0, 1, 3]]).all()


@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_what_follows_exactly_is_no_regression(kind: str) -> None:
    x = np.column_stack([np.ones(100), np.linspace(-1, 1, 100)])
    y = 2 * x[:, 1] if kind == "linear" else (x[:, 1] > 0).astype(float)
    assert fit(kind, x, y) is None
    assert fit(kind, x[:2], y[:2]) is None
    assert fit(kind, x, np.ones(100)) is None


def test_a_class_that_ends_at_a_value_gives_no_endless_coefficient() -> None:
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(300), rng.normal(size=300), np.maximum(rng.normal(size=300), 0)])
    y = np.where(x[:, 2] > 0, 1.0, (rng.random(300) < 0.5).astype(float))
    own = fit("logistic", x, y)
    assert own is None or np.isnan(own.values[2])


# ── overlap ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_overlap_is_the_mean_share_that_both_have_in_common() -> None:
    a = Interval(value=0.0, error=1.0)
    assert overlap(a, a) == pytest.approx(1.0)
    assert overlap(a, Interval(value=0.0, error=2.0)) == pytest.approx(0.75)
    assert overlap(a, Interval(value=a.high, error=1.0)) == pytest.approx(0.5)
    assert overlap(a, Interval(value=9.0, error=1.0)) == 0.0


def test_rows_like_the_real_ones_overlap_as_held_out_rows_do() -> None:
    for r in found(table(3000, 2), "y", "label").regressions:
        assert r.ceiling is not None
        assert r.synthetic.overlap > 0.45
        assert abs(r.synthetic.overlap - r.ceiling.overlap) < 0.4
        assert r.rows == 3000
        assert {(c.column, c.level) for c in r.coefficients} >= {("x", None), ("group", "b")}
    number = found(table(3000, 2), "y").regressions[0]
    x = next(c for c in number.coefficients if (c.column, c.level) == ("x", None))
    # In standard deviations of both.
    known = TRAIN["x"].drop_null().to_numpy()
    assert x.real.value == pytest.approx(known.std() / TRAIN["y"].to_numpy().std(), rel=0.1)
    assert x.same_sign
    assert x.same_conclusion


def test_a_slope_that_is_lost_is_seen() -> None:
    kept, lost = (found(table(3000, 2, slope=s), "y").regressions[0] for s in (1.0, 0.0))
    x = next(c for c in lost.coefficients if (c.column, c.level) == ("x", None))
    assert x.overlap == 0
    assert not x.same_conclusion
    assert x.difference is not None
    assert x.difference < -20
    assert lost.synthetic.overlap < kept.synthetic.overlap
    assert lost.ceiling == kept.ceiling


def test_a_target_of_three_classes_has_a_regression_of_each_against_the_commonest() -> None:
    three = [r.outcome for r in found(table(3000, 2), "three").regressions]
    assert sorted(three) == [("u", "w"), ("v", "w")]


def test_a_category_that_is_called_missing_is_not_what_is_missing() -> None:
    r = found(table(3000, 2), "label").regressions[0]
    marks = [(c.column, c.level, c.rows) for c in r.coefficients if c.level == "(missing)"]
    assert [(c, n > 100) for c, _, n in marks] == [("group", True)] or len(marks) == 2


def test_categories_of_few_units_are_not_named() -> None:
    rare = TRAIN.set_column(1, "group", pa.array(["RARE"] * 8 + TRAIN["group"].to_pylist()[8:]))
    told = json.dumps(found(table(3000, 2), "y", "label", train=rare).to_dict())
    assert "RARE" not in told


def test_all_of_it_is_json_and_back() -> None:
    own = found(table(3000, 2), "y", "label", "group")
    assert Inference.from_dict(json.loads(json.dumps(own.to_dict(), allow_nan=False))) == own
    page = render(own)
    assert "Log-odds that" in page
    assert "whiskers" in page


def test_what_cannot_be_done_is_said() -> None:
    twin = TRAIN.append_column("z", TRAIN["y"])
    schema = Schema.model_validate(
        {"columns": [{"name": n, "kind": "numerical", "type": "double"} for n in ("y", "z")]}
    )
    cells = [cells_of(c, (twin, twin, twin)) for c in schema]
    used, _ = utility(cells, Features.of(cells), ("z",), seed=0)
    own = inference(cells, used, at_least=10, seed=0)
    assert not own.regressions
    assert "follows exactly" in own.skipped["z"]
    assert "follows exactly" in render(own)


# ── what leaves ─────────────────────────────────────────────────────────────────────────────────────────────


def test_outside_a_coefficient_does_not_resolve_few_rows() -> None:
    """The share of a group, as a linear regression on a constant gives it: ten people more or fewer are one step."""
    rows, error = 400, 0.5 / 20
    values = [interval_of(Interval(value=k / rows, error=error), rows, 10).value for k in range(100, 150)]
    steps = np.unique(np.diff(np.unique(values)))
    assert len(np.unique(values)) < 10
    assert steps.min() >= 10 / rows * 0.5
    exact = interval_of(Interval(value=0.123456, error=0.0123456), 1e9, 0)
    assert (exact.value, exact.error) == (0.123, 0.012)


# ── honest intervals ────────────────────────────────────────────────────────────────────────────────────────


def simulated(draws: int, rows: int, learned: int, *, times: int, rule: str = "ours") -> float:
    """How often 95 % intervals cover a slope, where a normal line is learned from real rows and drawn from."""
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(times):
        x = rng.normal(size=learned)
        y = 0.3 * x + rng.normal(size=learned)
        slope, level = np.polyfit(x, y, 1)
        spread, mean, std = (y - slope * x - level).std(), x.mean(), x.std()
        estimates, variances = [], []
        for _ in range(draws):
            made = rng.normal(mean, std, rows)
            own = fit(
                "linear",
                np.column_stack([np.ones(rows), made]),
                slope * made + level + rng.normal(0, spread, rows),
            )
            assert own is not None
            estimates.append(own.values[1])
            variances.append(own.errors[1] ** 2)
        if rule == "ours":
            got = combine(estimates, variances, rows=rows, learned=learned)
            hits += int(got.low[0] <= 0.3 <= got.high[0])
        else:
            error = np.sqrt(np.mean(variances) / draws)
            hits += int(abs(np.mean(estimates) - 0.3) <= 1.96 * error)
    return hits / times


@pytest.mark.parametrize(
    ("draws", "rows", "learned"), [(1, 200, 200), (5, 200, 200), (3, 400, 150), (1, 100, 400)]
)
def test_intervals_cover_what_is_true_where_the_model_is(draws: int, rows: int, learned: int) -> None:
    # Three standard errors of 600 trials are 2.7 points.
    assert simulated(draws, rows, learned, times=600) == pytest.approx(0.95, abs=0.027)


def test_draws_that_are_taken_for_more_real_rows_cover_far_less() -> None:
    assert simulated(5, 200, 200, times=300, rule="naive") < 0.75


def test_many_draws_and_one_of_as_many_rows_give_one_interval() -> None:
    many = combine([1.0] * 4, [0.04] * 4, rows=100, learned=80)
    whole = combine([1.0], [0.01], rows=400, learned=80)
    assert many.errors == pytest.approx(whole.errors)
    assert np.isnan(whole.between).all()


@pytest.mark.parametrize(
    ("estimates", "variances", "rows", "learned"),
    [
        ([], [], 1, 1),
        ([1.0], [1.0, 2.0], 1, 1),
        ([1.0], [-1.0], 1, 1),
        ([1.0], [1.0], 0, 1),
        ([1.0], [1.0], 1, -5),
    ],
)
def test_what_cannot_be_combined_is_refused(estimates, variances, rows, learned) -> None:
    with pytest.raises(ValueError, match="must"):
        combine(estimates, variances, rows=rows, learned=learned)
