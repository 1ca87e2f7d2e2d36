"""The mixture's own promises, beyond those that every synthesizer keeps."""

import numpy as np
import pytest
from scipy import stats

from privacy.curator import Batch, Curator, ExactCurator, Floats
from synth.codec import Encoded, Field, Layout
from synth.gmm import Gmm, Parameters, _Moments
from synth.rows import EncodedStore

LAYOUT = Layout(
    fields=(
        Field(name="a", rates=(0.1, 0.5, 0.4), score=None),
        Field(name="b", rates=(0.2, 0.3, 0.5), score=0),
        Field(name="c", rates=(0.0, 1.0), score=1),
    ),
    rows=1000.0,
)


def mixture(components: int = 3, *, seed: int = 0) -> Gmm:
    """A mixture with drawn parameters."""
    import torch

    rng = np.random.default_rng(seed)
    tables = np.concatenate([rng.dirichlet([1] * f.states, components).T for f in LAYOUT.fields])
    tables[LAYOUT.offsets[2]], tables[LAYOUT.offsets[2] + 1] = 1e-12, 1.0
    return Gmm(
        LAYOUT,
        Parameters(
            log_weights=torch.from_numpy(np.log(rng.dirichlet([2] * components))).float(),
            log_tables=torch.from_numpy(np.log(tables)).float(),
            means=torch.from_numpy(rng.normal(0, 1, (2, components))).float(),
            stds=torch.from_numpy(rng.uniform(0.3, 1, (2, components))).float(),
        ),
    )


def rows_of(model: Gmm, rows: int, *, seed: int = 0) -> Encoded:
    return model.draw(rows, np.random.default_rng(seed))


def slow_log_prob(model: Gmm, row: Encoded) -> float:
    """log Σ_k w_k Π_c p(cell c | k), one term at a time."""
    t = {name: tensor.double().numpy() for name, tensor in model.tensors().items()}
    total = 0.0
    for k in range(len(t["log_weights"])):
        p = np.exp(t["log_weights"][k])
        for i, (field, offset) in enumerate(zip(LAYOUT.fields, LAYOUT.offsets, strict=True)):
            state = int(row.states[0, i])
            if state == -1:
                continue
            p *= np.exp(t["log_tables"][offset + state, k])
            if field.score is not None and state == field.spread:
                p *= stats.norm.pdf(
                    row.scores[0, field.score], t["means"][field.score, k], t["stds"][field.score, k]
                )
        total += p
    return float(np.log(total))


def with_unknown(encoded: Encoded, share: float) -> Encoded:
    states = encoded.states.copy()
    states[np.random.default_rng(1).random(states.shape) < share] = -1
    return Encoded(states=states, scores=encoded.scores)


@pytest.mark.parametrize("unknown", [0.0, 0.5, 1.0])
def test_the_density_is_the_sum_over_components(unknown: float) -> None:
    model = mixture()
    rows = with_unknown(rows_of(model, 40), unknown)
    slow = [slow_log_prob(model, rows.take(slice(i, i + 1))) for i in range(40)]
    np.testing.assert_allclose(model.log_prob(rows), slow, rtol=1e-4, atol=1e-4)


def batch_of(encoded: Encoded) -> Batch:
    n = len(encoded)
    return Batch(
        unit=np.arange(n, dtype=np.uint64),
        columns={"states": encoded.states, "scores": encoded.scores},
        holdout=np.zeros(n, bool),
    )


@pytest.mark.parametrize("unknown", [0.0, 0.4])
def test_norms_and_weighted_sums_are_those_of_explicit_vectors(unknown: float) -> None:
    model = mixture(4)
    statistic = _Moments(LAYOUT, model._parameters)
    rows = with_unknown(rows_of(model, 30), unknown)
    vectors = np.stack([statistic.of(batch_of(rows.take(slice(i, i + 1)))).weighted(None) for i in range(30)])
    whole = statistic.of(batch_of(rows))
    assert vectors.shape == (30, statistic.size)
    np.testing.assert_allclose(whole.norms(), np.linalg.norm(vectors, axis=1), rtol=1e-4)
    weights = np.random.default_rng(2).random(30)
    np.testing.assert_allclose(whole.weighted(weights), weights @ vectors, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(whole.weighted(None), vectors.sum(0), rtol=1e-3, atol=1e-4)


def curator_of(encoded: Encoded) -> ExactCurator:
    store = EncodedStore(None, unit_is_row=True)
    store.write(batch_of(encoded))
    return ExactCurator(store.close(), key=b"sixteen bytes or", holdout=0.0)


def likelihood(model: Gmm, rows: Encoded) -> float:
    return float(model.log_prob(rows).mean())


def fitted(curator: Curator, **options: object) -> Gmm:
    return Gmm.fit(curator, LAYOUT, options, seed=1)


def test_a_mixture_finds_a_mixture_again() -> None:
    truth = mixture(3, seed=4)
    curator = curator_of(rows_of(truth, 8000))
    fresh = rows_of(truth, 4000, seed=9)
    found = fitted(curator, components=6)
    assert likelihood(found, fresh) > likelihood(truth, fresh) - 0.03
    # Too few components to say it would be seen.
    assert likelihood(fitted(curator, components=1), fresh) < likelihood(truth, fresh) - 0.1


def test_more_passes_do_not_lower_the_likelihood() -> None:
    truth = mixture(3, seed=4)
    rows = rows_of(truth, 4000)
    one, many = (likelihood(fitted(curator_of(rows), components=6, passes=p), rows) for p in (3, 40))
    assert many > one - 0.005


def test_the_number_of_components_stays_below_its_limit() -> None:
    found = fitted(curator_of(rows_of(mixture(), 1000)), max_components=5, passes=2)
    assert len(found.tensors()["log_weights"]) <= 5


def test_a_standard_deviation_never_falls_below_the_smallest() -> None:
    rows = rows_of(mixture(), 800)
    tight = Encoded(states=rows.states, scores=np.zeros_like(rows.scores))
    found = fitted(curator_of(tight), components=4, min_std=0.2)
    assert float(found.tensors()["stds"].min()) >= 0.2 - 1e-6


def quantiles(scores: Floats) -> Floats:
    return np.asarray(np.quantile(scores, np.linspace(0.05, 0.95, 7)))


def test_draws_follow_the_density() -> None:
    model = mixture(3, seed=2)
    drawn = rows_of(model, 40_000)
    every = np.array([[a, b, 1] for a in range(3) for b in range(3)], np.int32)
    for state_a in range(3):
        known = Encoded(states=np.array([[state_a, -1, -1]], np.int32), scores=np.zeros((1, 2), np.float32))
        expected = float(np.exp(model.log_prob(known))[0])
        share = (drawn.states[:, 0] == state_a).mean()
        error = 5 * np.sqrt(expected * (1 - expected) / 40_000) + 1e-9
        assert abs(share - expected) < error
        assert abs(share - expected - 0.03) > error
    assert len(np.unique(drawn.states, axis=0)) <= len(every)
    held = drawn.scores[:, 1]
    t = model.tensors()
    weights, means, stds = (t[n].double().numpy() for n in ("log_weights", "means", "stds"))

    def cdf(x: Floats) -> Floats:
        return np.asarray((np.exp(weights) * stats.norm.cdf(x[:, None], means[1], stds[1])).sum(1))

    assert stats.kstest(held, cdf).pvalue > 1e-4
    assert stats.kstest(held + 0.05, cdf).pvalue < 1e-4
