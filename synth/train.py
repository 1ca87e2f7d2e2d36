"""The one training loop, for every model that is trained by gradients.

It asks a curator for steps, keeps a moving average of the weights, looks now and then at rows that were not
learned from, and stops when they are not explained better any more. Where steps carry noise, a look would cost what
steps could be bought for: then it learns from all rows, to the end, and the last average is kept.
"""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from privacy.curator import Batch, Curator, Descent, Floats, Follower, Held, Reader, Split, Strata
from privacy.errors import UnderstudyError
from synth.codec import Encoded
from synth.em import encoded_of

M = TypeVar("M", bound=BaseModel)

AVERAGED = 0.998
"""Share of the moving average that stays at a step (Polyak & Juditsky 1992; exponential as in Karras et al. 2018)."""

PATIENCE = 8
"""Looks without a better one after which training stops."""

FEWEST_BATCHES = 20
"""Batches of a pass at least, of at least `FEWEST_BATCH_ROWS` rows."""

FEWEST_BATCH_ROWS = 32

LOOKS = 60
"""Looks at the rows that were not learned from, in a training of full length."""

MOST_TROUBLES = 20
"""Losses or weights that are not finite, one after the other, before training is given up."""


class Learner(Reader, Protocol):
    """A player that reads rows; all weights of its module are kept and judged."""

    def score(self, rows: Encoded) -> Floats:
        """How well each row is explained, a function of the row alone, larger is better: float64 (n,)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a training went.

    Attributes:
        steps: steps that were made.
        best: the step whose average of weights was kept.
        score: mean score of the rows that were not learned from, at that step; its number where there are none.
        looks: each look at those rows, (step, mean score of the averaged weights); none where there are no such rows,
            and where steps carry noise.
    """

    steps: int
    best: int
    score: float
    looks: tuple[tuple[int, float], ...] = ()


def train(
    curator: Curator,
    learner: Learner,
    followers: Sequence[Follower] = (),
    *,
    columns: int,
    epochs: int,
    max_steps: int,
    batch_rows: int,
    patience: int = PATIENCE,
    looks: int = LOOKS,
    strata: Strata | None = None,
    share: float = 0.0,
) -> Trained:
    """Trains on the split "fit" and leaves in `learner.module` the averaged weights that explain "select" best.

    Where the splits are so few units that one of them is empty, or where steps carry noise, it trains on all rows and
    to the end.

    Args:
        curator: over encoded rows.
        learner: reads rows.
        followers: players that read none.
        columns: number of columns, which bounds what a row may count in a score.
        epochs: passes over the rows at most.
        max_steps: steps at most.
        batch_rows: rows of a step.
        patience: looks without a better one after which training stops.
        looks: at the rows that were not learned from, in a training of full length.
        strata: between which the rows of a step are drawn; none: plainly.
        share: part of the budget that all steps may use.

    Raises:
        UnderstudyError: losses or weights were not finite again and again.
    """
    whole = descent_of(curator.about("train"), epochs=epochs, max_steps=max_steps, batch_rows=batch_rows)
    noised = curator.price(whole, share=share) > 0
    judged = not noised and min(curator.about("fit"), curator.about("select")) >= 1
    side: Split = "fit" if judged else "train"
    asked = descent_of(curator.about(side), epochs=epochs, max_steps=max_steps, batch_rows=batch_rows)
    steps = asked.steps
    every = max(1, steps // looks)
    average = _Average(learner.module)
    best = Trained(steps=0, best=0, score=-math.inf)
    looked: list[tuple[int, float]] = []
    kept = copy.deepcopy(learner.module.state_dict())
    troubles = number = 0
    players = (learner, *followers)
    walk = curator.descend(
        _Averaged(learner, average),
        followers,
        steps=steps,
        rate=asked.rate,
        strata=strata,
        split=side,
        share=share,
    )
    for number, step in enumerate(walk, 1):
        if (noised or math.isfinite(step.loss)) and average.add():
            troubles = 0
        else:
            troubles += 1
            average.restore()
            for player in players:
                _forget(player.optimizer)
            if troubles > MOST_TROUBLES:
                break
        if number % every and number != steps:
            continue
        for player in players:
            _without_denormals(player.optimizer)
        if not judged:
            continue
        with average.in_place():
            score = _mean_score(curator, learner, columns)
            looked.append((number, score))
            if score > best.score:
                best = Trained(steps=number, best=number, score=score)
                kept = copy.deepcopy(learner.module.state_dict())
        if number - best.best > patience * every:
            break
    # A run that is resumed replays steps without walking them again, but the average has counted them.
    number = max(number, average.steps)
    if not judged and average.steps:
        best = Trained(steps=number, best=number, score=float(number))
        with average.in_place():
            kept = copy.deepcopy(learner.module.state_dict())
    if troubles > MOST_TROUBLES or not average.steps or not math.isfinite(best.score):
        raise UnderstudyError(
            f"losses must be finite, however: the last {max(troubles, 1)} were not; lower learning_rate"
        )
    learner.module.load_state_dict(kept)
    learner.module.eval()
    return Trained(steps=number, best=best.best, score=best.score, looks=tuple(looked))


class Steps(Protocol):
    """Options that say how many steps there are."""

    epochs: int
    max_steps: int
    batch_rows: int


def planned(options: type[M], noised: Mapping[str, object], said: Mapping[str, Any], rows: float) -> Descent:
    """The steps that a fit asks for where they carry noise, from public facts: see `synth.registry.Descending`.

    Args:
        options: their class.
        noised: defaults where steps carry noise.
        said: by a recipe.
        rows: about how many there are.
    """
    chosen = cast(Steps, options.model_validate({**noised, **said}))
    return descent_of(rows, epochs=chosen.epochs, max_steps=chosen.max_steps, batch_rows=chosen.batch_rows)


def settled(
    curator: Curator, options: type[M], noised: Mapping[str, object], said: Mapping[str, Any], *, share: float
) -> tuple[M, bool]:
    """The options of a fit, and whether its steps carry noise, in which case `noised` are the defaults."""
    dear = curator.price(planned(options, noised, said, curator.about()), share=share) > 0
    return options.model_validate({**noised, **said} if dear else dict(said)), dear


def descent_of(rows: float, *, epochs: int, max_steps: int, batch_rows: int) -> Descent:
    """The steps that are asked for where there are about so many rows."""
    rate = min(1.0, batch_of(batch_rows, rows) / max(rows, 1.0))
    return Descent(steps=min(max_steps, math.ceil(epochs / rate)), rate=rate)


def batch_of(batch_rows: int, rows: float) -> int:
    """Rows of a step for so many rows: a small table needs many small steps, as a large one does."""
    return max(FEWEST_BATCH_ROWS, min(batch_rows, int(rows / FEWEST_BATCHES)))


def _forget(optimizer: torch.optim.Optimizer) -> None:
    """Forgets the moving averages of gradients, which one that is no number has spoiled."""
    optimizer.state.clear()


def _without_denormals(optimizer: torch.optim.Optimizer) -> None:
    """Sets to 0 the averages of gradients that have all but vanished: smaller ones take ten times as long."""
    with torch.no_grad():
        for state in optimizer.state.values():
            for tensor in state.values():
                if isinstance(tensor, Tensor):
                    tensor.masked_fill_(tensor.abs() < 1e-25, 0.0)


class _Average:
    """An exponential moving average of the weights of a module.

    Attributes:
        held: the average and how many steps are in it, as tensors: a curator's checkpoint keeps them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._weights = [p.detach().clone() for p in module.parameters()]
        self._count = torch.zeros((), dtype=torch.int64)
        self.held = nn.Module()
        for i, tensor in enumerate([self._count, *self._weights]):
            self.held.register_buffer(f"held_{i}", tensor)

    @property
    def steps(self) -> int:
        """How many steps are in it."""
        return int(self._count)

    def add(self) -> bool:
        """Takes the present weights in, unless they are not finite; the first ones count for little."""
        with torch.no_grad():
            live = [p.detach() for p in self._module.parameters()]
            if not torch.stack(torch._foreach_norm(live)).sum().isfinite():
                return False
            self._count += 1
            stays = min(AVERAGED, self.steps / (self.steps + 10))
            torch._foreach_lerp_(self._weights, live, 1 - stays)
        return True

    def restore(self) -> None:
        """Goes back to the average."""
        _put(self._module, self._weights)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the average inside of the block."""
        live = [p.detach().clone() for p in self._module.parameters()]
        self.restore()
        yield
        _put(self._module, live)


class _Averaged:
    """A learner, with the average of its weights among what a curator's checkpoint keeps."""

    def __init__(self, learner: Learner, average: _Average) -> None:
        self.module = nn.ModuleDict({"learner": learner.module, "average": average.held})
        self.optimizer = learner.optimizer
        self.losses = learner.losses


def _put(module: nn.Module, weights: Sequence[Tensor]) -> None:
    """Overwrites the parameters of a module."""
    with torch.no_grad():
        for parameter, weight in zip(module.parameters(), weights, strict=True):
            parameter.copy_(weight)


def _mean_score(curator: Curator, learner: Learner, columns: int) -> float:
    total, rows = curator.sum(_Scores(learner, columns), split="select").value
    return float(total / max(rows, 1.0))


class _Scores:
    """Σ of (score, 1) over rows; a row counts within ± 20 per column, which bounds its vector."""

    size = 2

    def __init__(self, learner: Learner, columns: int) -> None:
        self._learner = learner
        self._most = 20.0 * columns
        self.bound = math.sqrt(self._most**2 + 1)

    def of(self, batch: Batch) -> Held:
        """What these rows add."""
        scores = np.nan_to_num(self._learner.score(encoded_of(batch)), nan=-self._most)
        scores = np.clip(scores, -self._most, self._most)
        return Held(np.stack([scores, np.ones(len(scores))], 1))
