"""How a hidden tree is learned where every answer carries noise: a start from counts of pairs, then one pass.

The start is the tree of `marginals`, learned from the counts of all pairs of columns with most of the budget. What
pairs do not say, how three columns go together, the rows do: one pass of expectation maximization asks for the sums of
the E step, the expected rows of each link and of each emission. A link of K states has K² of them, mostly of few rows,
so how far an answer corrects what the tree says itself is chosen for each table by Stein's estimate, as `marginals`
chooses it for a pair of columns: a little where noise is large, and all of it where there is none.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from privacy.curator import Curator
from synth import marginals
from synth.circuit import PAIRS, Circuit, Counts, Options, Parameters
from synth.codec import Layout

LEAST = 0.01
"""What is left of a probability at least, whatever an answer says."""


def fit_with_pairs(curator: Curator, layout: Layout, options: Options, *, seed: int) -> Circuit:
    """Learns a tree. All of the budget is spent.

    Args:
        curator: over encoded rows.
        layout: the encoded columns.
        options: the number of hidden states, or the most, and of bins.
        seed: of all that is drawn after the answers.
    """
    usual = marginals.Options.model_validate({})
    states = options.states or min(options.max_states, usual.states)
    chosen = usual.model_copy(update={"states": states, "bins": min(options.bins, usual.bins)})
    tree = marginals.learned(curator, layout, chosen, seed=seed, part=PAIRS)
    rows = max(layout.rows, 1.0)
    counts = Counts(layout, tree.bins, tree.order, tree.parameters)
    answer = curator.sum(counts, share=1 - PAIRS)
    told = counts.tables(torch.from_numpy(answer.value / rows).float())
    return Circuit(layout, tree.bins, corrected(layout, tree, told, answer.noise_std / rows))


def corrected(
    layout: Layout, tree: Circuit, told: tuple[Tensor, tuple[Tensor, ...]], noise: float
) -> Parameters:
    """The tree, corrected by the sums of an E step under it.

    Args:
        layout: the encoded columns.
        tree: as it was.
        told: shares of rows of the links, float32 (C, K, K), and for each column of its values, float32 (B, K).
        noise: standard deviation of each.
    """
    p = tree.parameters
    links, emissions = p.transitions.clone(), list(p.emissions)
    shares: dict[int, Tensor] = {}
    for c in tree.order:
        parent = int(p.parents[c])
        if parent < 0:
            shares[c] = p.prior
        else:
            shares[c] = p.transitions[c] @ shares[parent]
            links[c] = _nearer(p.transitions[c], shares[parent], told[0][c], noise)
        # Of a column that may not be there some rows tell nothing, and those are not like the others.
        if layout.fields[c].group is None:
            emissions[c] = _nearer(p.emissions[c], shares[c], told[1][c], noise)
    return replace(p, transitions=links, emissions=tuple(emissions))


def _nearer(table: Tensor, shares: Tensor, told: Tensor, noise: float) -> Tensor:
    """Conditional probabilities, float32 (A, B), of which each column makes 1, corrected as far as an answer is clear.

    Args:
        table: as they were.
        shares: probability of each column, float32 (B,).
        told: joint probabilities, as they were answered.
        noise: standard deviation of an answered one.
    """
    found = table * shares
    away, part = told - found, marginals.kept(found, told, noise)
    # Of a few cells luck alone may look like something: a gain must be larger than its standard error.
    both = part * (2 - part)
    gain = float((both * away**2).sum() - 2 * noise**2 * part.sum())
    if gain <= noise**2 * math.sqrt(2 * float((both**2).sum())):
        return table
    # Nor may noise make impossible what the tree has seen.
    joint = torch.maximum(found + part * away, LEAST * found)
    whole = joint.sum(0)
    return torch.where(whole > 0, joint / whole.clamp_min(1e-30), table)
