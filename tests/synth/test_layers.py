"""Blocks of networks beside their slow and obvious twins."""

import torch
from torch import nn

from synth.layers import CellsIn, hidden_layers, log_likelihoods, log_present

SIZES = (3, 1, 7)


def test_cells_in_is_a_linear_layer_over_one_hot_codes() -> None:
    torch.manual_seed(0)
    layer = CellsIn(SIZES, 2, 5)
    values = torch.stack([torch.randint(0, s + 1, (40,)) for s in SIZES], 1)
    scores = torch.randn(40, 2)
    hot = torch.cat([nn.functional.one_hot(values[:, c], s + 1)[:, :s] for c, s in enumerate(SIZES)], 1)
    slow = hot.float() @ layer.cells.weight[:-1] + layer.scores(scores)
    torch.testing.assert_close(layer(values, scores), slow)


def test_an_unknown_cell_adds_nothing_and_learns_nothing() -> None:
    layer = CellsIn(SIZES, 0, 5)
    out = layer(torch.tensor([list(SIZES)]), torch.empty(1, 0))
    torch.testing.assert_close(out[0], layer.scores.bias)
    out.sum().backward()
    assert layer.cells.weight.grad is not None
    assert not layer.cells.weight.grad.any()


def test_log_likelihoods_are_cross_entropies_of_the_known_cells() -> None:
    torch.manual_seed(1)
    values = torch.stack([torch.randint(0, s + 1, (30,)) for s in SIZES], 1)
    logits = torch.randn(4, 30, sum(SIZES))
    slow = torch.zeros(4, 30)
    for i, part in enumerate(logits):
        at = 0
        for c, size in enumerate(SIZES):
            logs = part[:, at : at + size].log_softmax(1)
            for row in range(30):
                if values[row, c] < size:
                    slow[i, row] += logs[row, values[row, c]]
            at += size
    torch.testing.assert_close(log_likelihoods(logits, values, SIZES), slow)


def test_hidden_layers_have_the_widths_that_were_asked_for() -> None:
    assert hidden_layers([4, 3, 2])(torch.zeros(5, 4)).shape == (5, 2)


def test_log_present_is_of_the_unknown_cells_that_may_be_missing() -> None:
    torch.manual_seed(2)
    values = torch.tensor([[3, 1, 2], [0, 1, 7]])
    logits = torch.randn(2, sum(SIZES))
    first = 1 - logits[0, :3].softmax(0)[0]
    last = 1 - logits[1, 4:].softmax(0)[0]
    torch.testing.assert_close(log_present(logits, values, SIZES), torch.stack([first, last]).log())
