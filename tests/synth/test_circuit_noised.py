"""A hidden tree through a curator whose answers carry noise."""

import numpy as np
import pytest
import torch

from privacy.curator import Answer, ExactCurator
from privacy.errors import RecipeError
from privacy.private import Account, PrivateCurator
from synth.circuit import Circuit, Counts
from synth.circuit_noised import LEAST, corrected
from synth.codec import UNKNOWN, Encoded, Layout
from synth.registry import descent_of
from tests.synth.tables import KEY
from tests.synth.test_gmm_noised import ROWS, batch_of, layout_of, store, table

STATES = 6


def exact_of(layout: Layout) -> ExactCurator:
    return ExactCurator(store(table(layout)).close(), key=KEY, holdout=0.0)


def blurred(layout: Layout) -> Circuit:
    """A tree whose links and emissions know half of what they should."""
    tree = Circuit.fit(exact_of(layout), layout, {"states": STATES, "passes": 5, "pairs": 0}, seed=0)
    p = tree.parameters
    emissions = tuple(0.5 * e + 0.5 * (e @ p.prior)[:, None] for e in p.emissions)
    tensors = tree.tensors() | {f"emissions.{c}": e for c, e in enumerate(emissions)}
    return Circuit.restore(layout, tensors)


def told(tree: Circuit, layout: Layout, noise: float) -> Circuit:
    """The tree after one pass with noise of this many rows in each sum."""
    counts = Counts(layout, tree.bins, tree.order, tree.parameters)
    value = exact_of(layout).sum(counts).value
    value = value + noise * np.random.default_rng(0).standard_normal(len(value))
    tables = counts.tables(torch.from_numpy(Answer(value=value, noise_std=noise).value / ROWS).float())
    return Circuit(layout, tree.bins, corrected(layout, tree, tables, noise / ROWS))


@pytest.mark.parametrize("groups", [False, True])
def test_a_pass_brings_a_tree_nearer_to_the_rows_and_noise_alone_does_not_take_it_away(groups: bool) -> None:
    layout = layout_of(groups)
    tree, fresh = blurred(layout), table(layout, seed=9)
    before, exact, noised, drowned = (
        m.log_prob(fresh).mean()
        for m in (tree, told(tree, layout, 0.0), told(tree, layout, 20.0), told(tree, layout, 1e4))
    )
    assert exact > before + 0.05
    assert noised > before + 0.03
    assert abs(drowned - before) < 0.03


@pytest.mark.parametrize("noise", [0.0, 5.0, 300.0, 1e6])
def test_parameters_are_valid_whatever_the_noise(noise: float) -> None:
    layout = layout_of(True)
    before = blurred(layout)
    p = told(before, layout, noise).parameters
    ones = torch.ones(STATES)
    for c, emission in enumerate(p.emissions):
        torch.testing.assert_close(emission.sum(0), ones, rtol=1e-4, atol=1e-4)
        assert float(emission.min()) >= 0
        if int(p.parents[c]) >= 0:
            torch.testing.assert_close(p.transitions[c].sum(0), ones, rtol=1e-4, atol=1e-4)
    # What was possible stays so.
    seen = before.parameters.emissions[0]
    assert bool((p.emissions[0] > 0.1 * LEAST * seen)[seen > 1e-6].all())


def test_a_hidden_state_that_no_row_has_stays_as_it_was() -> None:
    layout = layout_of()
    tree = blurred(layout)
    root = tree.order[0]
    tensors = tree.tensors()
    tensors["prior"] = torch.cat([torch.zeros(1), tensors["prior"][1:] / tensors["prior"][1:].sum()])
    empty = Circuit.restore(layout, tensors)
    after = told(empty, layout, 20.0).parameters.emissions[root]
    torch.testing.assert_close(after[:, 0], tensors[f"emissions.{root}"][:, 0])
    # No row of this column is missing, and none will be.
    assert float(after[0].max()) < 1e-3


def test_the_tables_of_an_answer_are_its_parts() -> None:
    layout = layout_of()
    tree = blurred(layout)
    counts = Counts(layout, tree.bins, tree.order, tree.parameters)
    links, values = counts.tables(torch.from_numpy(exact_of(layout).sum(counts).value))
    assert links.shape == tree.parameters.transitions.shape
    for c, value in enumerate(values):
        assert value.shape == tree.parameters.emissions[c].shape
        # Every row has one value of each column, and one pair of hidden states for each link.
        assert float(value.sum()) == pytest.approx(ROWS, rel=1e-4)
        if int(tree.parameters.parents[c]) >= 0:
            assert float(links[c].sum()) == pytest.approx(ROWS, rel=1e-4)


def test_one_more_row_moves_the_sums_by_at_most_the_bound() -> None:
    layout = layout_of(True)
    tree = blurred(layout)
    counts = Counts(layout, tree.bins, tree.order, tree.parameters)
    rows = table(layout).take(slice(0, 60))
    states = np.where(np.random.default_rng(0).random(rows.states.shape) < 0.3, UNKNOWN, rows.states)
    batch = batch_of(Encoded(states=states.astype(np.int32), scores=1e6 * rows.scores))
    whole = counts.of(batch).weighted(None)
    moved = [
        float(np.linalg.norm(whole - counts.of(batch.take(np.delete(np.arange(60), i))).weighted(None)))
        for i in range(60)
    ]
    assert max(moved) <= counts.bound
    assert max(moved) > 0.3 * counts.bound


def test_it_spends_all_of_its_budget_on_pairs_and_few_passes() -> None:
    layout, account = layout_of(), Account(rho=1.0)
    curator = PrivateCurator(store(table(layout)).close(), account, key=KEY)
    model = Circuit.fit(curator, layout, {"states": STATES}, seed=1)
    assert sum(c.rho for c in account.charges) == pytest.approx(1.0)
    assert {c.question.split()[0] for c in account.charges} == {"1", "sum"}
    assert model.parameters.states == STATES
    drawn = model.draw(20_000, np.random.default_rng(0))
    kind, known = drawn.states[:, 0], drawn.states[:, 1] == 1
    means = [drawn.scores[known & (kind == k), 0].mean() for k in (1, 2, 3)]
    np.testing.assert_allclose(means, [-0.8, 0.4, 1.4], atol=0.25)


def test_options_that_need_exact_answers_are_refused_by_name() -> None:
    assert descent_of("circuit", {"states": 8, "bins": 16, "pairs": 0}, None) is None
    for option, value in (("passes", 3), ("smoothing", 1.0), ("pairs", 100)):
        with pytest.raises(RecipeError, match=f"circuit say {option}: {value}; leave {option} out"):
            descent_of("circuit", {option: value}, None)
