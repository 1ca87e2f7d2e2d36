"""Clipped, noised gradients (Abadi et al. 2016, arXiv 1607.00133). The only file that imports opacus.

Guarantee: the steps of `descend` together cost `Loss.sampled_gaussian` of their multiplier, rate and number, for
neighbours that differ by one privacy unit added or removed. It rests on:

- every unit being drawn for every step, by itself, with the public rate, from bits that nobody knows;
- a unit's gradient, summed over its rows, being clipped to norm 1 before it is added: one unit moves a step's sum by
  at most that. Norms and sums are float32: clipping leaves a margin of 2⁻⁹, where a sum of 1,024 rows of norm 1 errs by
  less than 2⁻¹³; the parts are added in float64;
- Gaussian noise of `multiplier` on that sum, in float64, before anything is seen of it; then the public number of
  units that were to be expected divides it. A step that drew nobody is noise alone, and is charged like any other;
- a row's loss being a function of the row, its own luck and the parameters (`check`, and the contract suite).

Noise of floating-point numbers is not exactly Gaussian: its last bits might tell something (Mironov 2012); gradients
are rounded to float32 afterwards, which hides most of that, but there is no proof. How long a step takes is not hidden.

How it is fast: one backward pass gives the gradient of every layer's output; from it and from what the layer read
follow the norm of each unit's gradient without the gradient itself (Goodfellow 2015, arXiv 1510.01799; Li et al. 2022,
arXiv 2110.05679), and then the sum of all, weighted (Bu et al. 2022, arXiv 2210.00038). Hooks live for one pass, and no
`grad` is accumulated.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from privacy.curator import Batch, Descended, Follower, Luck, Reader, move
from privacy.errors import UsageError
from privacy.mechanisms import Noise

MICRO_ROWS = 1024
"""Rows of a pass at most, but for a unit that has more: what bounds the memory of a step, and the error of a sum."""

MARGIN = 2.0**-9
"""Share of the bound that clipping leaves to rounding."""

CHECKED_ROWS = 4


def steps_of(
    players: "Players",
    drawn: "Drawn",
    *,
    steps: int,
    rate: float,
    expected: float,
    multiplier: float,
    noise: Noise,
    luck: Luck,
) -> Iterator[Descended]:
    """The steps: the reader's by clipped and noised gradients, then those of the others, who read no rows.

    Args:
        players: the reader passed `check`.
        drawn: the private rows; there may be none.
        steps: how many were charged.
        rate: probability with which a unit is drawn for a step, as it was charged.
        expected: about how many units a step draws, a public figure: a step is divided by it.
        multiplier: standard deviation of the noise, where a unit moves a sum by 1.
        noise: where noise and draws come from.
        luck: of the losses, known to nobody.
    """
    reader, followers = players.reader, players.followers
    layers = Layers(reader)
    for _ in range(steps):
        total = np.zeros(layers.size)
        for batch, unit in drawn.batches(noise, rate):
            total += layers.clipped(reader, batch, unit, luck)
        total += multiplier * noise.normal(layers.size)
        layers.put(total / expected)
        reader.optimizer.step()
        told = max(1, round(expected))
        for follower in followers:
            move(follower, follower.loss(told))
        yield Descended(rows=told, loss=math.nan)


class Players:
    """Who moves in a descent, and all that they have come to.

    Args:
        reader: the one that reads rows.
        followers: those that read none.
    """

    def __init__(self, reader: Reader, followers: Sequence[Follower]) -> None:
        self.reader, self.followers = reader, tuple(followers)
        self._optimizers = [p.optimizer for p in (reader, *followers)]
        moved = [p for o in self._optimizers for group in o.param_groups for p in group["params"]]
        every = [*reader.module.parameters(), *reader.module.buffers(), *moved]
        self._tensors: list[Tensor] = list({id(t): t for t in every}.values())

    @property
    def shapes(self) -> list[str]:
        """Names and shapes of what the reader's module has."""
        return [f"{name} {tuple(p.shape)}" for name, p in self.reader.module.named_parameters()]

    def kept(self) -> NDArray[np.uint8]:
        """All tensors of the reader's module, all that is moved, and what the optimizers remember."""
        tensors = {f"tensor {i}": t for i, t in enumerate(self._tensors)}
        for i, optimizer in enumerate(self._optimizers):
            for place, held in optimizer.state_dict()["state"].items():
                named = {f"optimizer {i} {place} {name}": t for name, t in held.items()}
                tensors |= {name: t for name, t in named.items() if isinstance(t, Tensor)}
        return np.frombuffer(
            save({n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}), np.uint8
        )

    @torch.no_grad()
    def restore(self, kept: NDArray[np.uint8]) -> None:
        """Goes back to what was kept."""
        found = load(kept.tobytes())
        for i, tensor in enumerate(self._tensors):
            tensor.copy_(found.pop(f"tensor {i}"))
        states: list[dict[int, dict[str, Tensor]]] = [{} for _ in self._optimizers]
        for name, tensor in found.items():
            _, whose, place, own = name.split(" ", 3)
            states[int(whose)].setdefault(int(place), {})[own] = tensor
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(
                {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
            )


class Drawn:
    """Rows of which each step draws units, each by itself.

    Args:
        rows: all that may be drawn.
    """

    def __init__(self, rows: Batch) -> None:
        names, number = np.unique(rows.unit, return_inverse=True)
        order = np.argsort(number, kind="stable")
        self._rows = rows.take(order.astype(np.int64))
        self._unit = number[order].astype(np.int64)
        self._units = len(names)

    def batches(self, noise: Noise, rate: float) -> Iterator[tuple[Batch, NDArray[np.int64]]]:
        """One draw, in batches of bounded size that have units whole: rows, and the place of each row's unit."""
        picked = noise.picks(self._units, rate=rate)
        index = np.flatnonzero(picked[self._unit])
        unit = self._unit[index]
        start = 0
        while start < len(index):
            end = min(start + MICRO_ROWS, len(index))
            if end < len(index):
                end = int(np.searchsorted(unit, unit[end]))
            if end <= start:
                end = int(np.searchsorted(unit, unit[start], side="right"))
            own = np.unique(unit[start:end], return_inverse=True)[1]
            yield self._rows.take(index[start:end]), own.astype(np.int64)
            start = end


def check(reader: Reader, like: Batch) -> None:
    """Refuses a reader of whose losses the gradient of one row cannot be told, or depends on other rows.

    It looks at the layers, and tries the losses on made-up rows, so it reads nothing that is private.

    Args:
        reader: what is to be trained.
        like: rows whose columns say the shapes alone.

    Raises:
        UsageError: names the layer, and what to do.
    """
    Layers(reader).check(reader, _made(like))


def _made(like: Batch) -> Batch:
    """Rows that nobody has, of these shapes; the whole numbers are zeros, since how far they may go is not known."""
    rng = np.random.default_rng(0)

    def column(array: NDArray[np.generic]) -> NDArray[np.generic]:
        shape = (CHECKED_ROWS, *np.shape(array)[1:])
        if array.dtype.kind == "f":
            return rng.normal(size=shape).astype(array.dtype)
        return (
            rng.integers(0, 256, shape, np.uint8) if array.dtype == np.uint8 else np.zeros(shape, array.dtype)
        )

    return Batch(
        unit=np.arange(CHECKED_ROWS, dtype=np.uint64),
        columns={name: column(np.asarray(a)) for name, a in like.columns.items()},
    )


# --- layers


@dataclass(frozen=True)
class _Use:
    """One use of a layer: what it read and gave, and the versions of both, by which changes in place are found."""

    read: Tensor
    gave: Tensor
    versions: tuple[int, int]

    def unchanged(self) -> bool:
        return self.versions == (self.read._version, self.gave._version)


@dataclass(frozen=True)
class _Layer:
    """A layer that owns parameters, and the places of these among the optimizer's."""

    name: str
    module: nn.Module
    places: tuple[int, ...]


class Layers:
    """The layers that hold the parameters of a reader's optimizer, and clipped sums of their gradients.

    Raises:
        UsageError: a layer normalizes over rows, or parameters lie in no layer or in several.
    """

    def __init__(self, reader: Reader) -> None:
        self._parameters: list[nn.Parameter] = [
            p for group in reader.optimizer.param_groups for p in group["params"]
        ]
        places = {id(p): i for i, p in enumerate(self._parameters)}
        self._layers: list[_Layer] = []
        seen: set[int] = set()
        for name, module in reader.module.named_modules():
            _check_type(name, module)
            own = [places[id(p)] for p in module.parameters(recurse=False) if id(p) in places]
            if not own:
                continue
            if seen.intersection(own) or any(True for _ in module.children()):
                raise UsageError(
                    f"a parameter must belong to one layer without layers inside, however: {_named(name, module)} has "
                    "parameters of its own beside other layers, or of another layer; give them a layer of their own"
                )
            seen.update(own)
            self._layers.append(_Layer(name, module, tuple(own)))
        if len(seen) != len(self._parameters):
            raise UsageError(
                f"the module of a reader must hold all that its optimizer moves, however: {len(places) - len(seen)} "
                "parameters are in no layer of it; put them into one"
            )

    @property
    def size(self) -> int:
        """Length of a gradient."""
        return sum(p.numel() for p in self._parameters)

    def clipped(
        self, reader: Reader, batch: Batch, unit: NDArray[np.int64], luck: Luck, *, bound: float = 1.0
    ) -> NDArray[np.float64]:
        """Σ over units of the gradient of their rows' losses, each cut to a norm of at most `bound`: float64 (size,).

        Each of L layers is cut by itself, to bound/√L (He et al. 2023, arXiv 2212.01539): else the last ones, whose
        gradients are the largest, leave the first ones less than the noise. A unit whose gradient is no number adds
        nothing.

        Args:
            reader: whose losses.
            batch: rows, units one after the other.
            unit: the place of each row's unit, from 0 on, int64 (n,).
            luck: of the losses.
            bound: Euclidean norm.
        """
        forms, _ = self._forms(reader, batch, unit, luck)
        squares = torch.stack([form.squares() for form in forms])
        broken = ~squares.sum(0).isfinite()
        if broken.any():
            for form in forms:
                form.drop(broken)
            squares = squares.masked_fill(broken, 0.0)
        each = bound * (1 - MARGIN) / math.sqrt(len(forms))
        return self._flat(forms, (each / squares.clamp_min(1e-30).sqrt()).clamp(max=1.0))

    def put(self, flat: NDArray[np.float64]) -> None:
        """Makes this the gradient of the parameters."""
        parts = torch.split(torch.from_numpy(flat), [p.numel() for p in self._parameters])
        for parameter, part in zip(self._parameters, parts, strict=True):
            parameter.grad = part.reshape(parameter.shape).to(parameter.device, parameter.dtype)

    def check(self, reader: Reader, batch: Batch) -> None:
        """See `check`: on these rows, gradients are those of autograd, and what is of a row passes by all others."""
        n, words = len(batch), _words()
        before = {name: b.detach().clone() for name, b in reader.module.named_buffers()}
        with self._told_apart(np.arange(n), n):
            forms, losses = self._forms(reader, batch, np.arange(n), Luck.of(words), retain=True)
        self._check_buffers(reader.module, before)
        found = torch.autograd.grad(losses.sum(), self._parameters, retain_graph=True, allow_unused=True)
        mine = self._flat(forms, torch.ones(len(forms), n, device=losses.device))
        parts = np.split(mine, np.cumsum([p.numel() for p in self._parameters])[:-1])
        for layer, form in zip(self._layers, forms, strict=True):
            for place in layer.places:
                other = found[place]
                true = np.zeros(1) if other is None else other.double().cpu().numpy().ravel()
                if not np.allclose(
                    parts[place], true, rtol=1e-3, atol=1e-4 * max(1e-6, np.abs(true).max(initial=0))
                ):
                    raise UsageError(
                        f"losses must depend on a layer by what it gives alone, however: they use "
                        f"the weights of {_named(layer.name, layer.module)} otherwise, as "
                        "a penalty on its slope does; take it away, or bound the layer's weights after each step"
                    )
            if any(form.couples(losses[i], i) for i in range(n)):
                raise UsageError(
                    f"a row's loss must be a function of the row alone, however: losses "
                    f"join rows in {_named(layer.name, layer.module)}; normalize layers rather than batches, and do "
                    "not pack rows"
                )
        luck, alone = Luck.of(words), []
        for i in range(n):
            with self._told_apart(np.array([i]), n), torch.no_grad():
                alone.append(reader.losses(batch.take(np.array([i])), luck).double().cpu())
        together = losses.detach().double().cpu()
        near = 1e-4 * max(1e-6, float(together.abs().max()))
        if not torch.allclose(torch.cat(alone), together, rtol=1e-3, atol=near, equal_nan=True):
            raise UsageError(
                "a row's loss must be a function of the row, its luck and the weights, however: it is another where "
                "the row stands alone; compute nothing over the rows of a batch, and draw luck row by row, from the "
                "one that is given"
            )

    def _check_buffers(self, module: nn.Module, before: dict[str, Tensor]) -> None:
        for name, buffer in module.named_buffers():
            if not (name in before and torch.equal(before[name], buffer)):
                layer, _, own = name.rpartition(".")
                raise UsageError(
                    f"a layer must keep nothing of the rows that it reads, however: "
                    f"{_named(layer, module.get_submodule(layer))} changes its buffer {own!r}, which gets no noise; "
                    "leave running statistics out"
                )

    @contextlib.contextmanager
    def _told_apart(self, rows: NDArray[np.int64], n: int) -> Iterator[None]:
        """Adds to what layers give luck of each row's own, which is the same whichever rows stand beside it.

        Of rows that are all alike nothing shows that they are joined, by their variance, say. `rows` are the places,
        among n, of those that are read now.
        """
        places = torch.from_numpy(rows)

        def hook_of(which: int) -> Any:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
                if not isinstance(output, Tensor) or len(output) != len(rows):
                    return None
                generator = torch.Generator().manual_seed(which)
                luck = torch.randn(n, *output.shape[1:], generator=generator)
                return output + luck[places].to(output.device, output.dtype)

            return hook

        with self._hooked(map(hook_of, range(len(self._layers)))):
            yield

    @contextlib.contextmanager
    def _hooked(self, hooks: Iterable[Any]) -> Iterator[None]:
        """Calls one of these after each layer inside of the block."""
        handles = [
            layer.module.register_forward_hook(hook) for layer, hook in zip(self._layers, hooks, strict=True)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _forms(
        self,
        reader: Reader,
        batch: Batch,
        unit: NDArray[np.int64],
        luck: Luck,
        *,
        retain: bool = False,
    ) -> tuple[list["_Form"], Tensor]:
        """For each layer what its gradients follow from, and the losses."""
        with self._recorded() as uses:
            losses = reader.losses(batch, luck)
        n = len(batch)
        if losses.shape != (n,):
            raise UsageError(
                f"a reader must give a loss for each row, however: there are {tuple(losses.shape)} "
                f"for {n} rows"
            )
        for layer, own in zip(self._layers, uses, strict=True):
            _check_uses(layer, own, n)
        outputs = [use.gave for own in uses for use in own]
        slopes = iter(torch.autograd.grad(losses.sum(), outputs, retain_graph=retain, allow_unused=True))
        grouping = _Grouping.of(unit, losses.device)
        forms: list[_Form] = []
        for layer, own in zip(self._layers, uses, strict=True):
            pairs = [(use, next(slopes)) for use in own]
            used = [(use, slope) for use, slope in pairs if slope is not None]
            forms.append(_form_of(layer.module, used, grouping))
        return forms, losses

    def _flat(self, forms: Sequence["_Form"], weights: Tensor) -> NDArray[np.float64]:
        parts: list[Tensor | None] = [None] * len(self._parameters)
        for layer, form, own in zip(self._layers, forms, weights, strict=True):
            for place, part in zip(layer.places, form.weighted(own), strict=True):
                parts[place] = part.flatten()
        whole = torch.cat([p for p in parts if p is not None])
        return np.asarray(whole.double().cpu().numpy())

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[list[list[_Use]]]:
        """What each layer reads and gives inside of the block."""
        uses: list[list[_Use]] = [[] for _ in self._layers]

        def hook_of(own: list[_Use]) -> Any:
            def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
                if torch.is_grad_enabled() and output.requires_grad:
                    read = inputs[0] if len(inputs) == 1 else torch.empty(0)
                    own.append(_Use(read, output, (read._version, output._version)))

            return hook

        with self._hooked(map(hook_of, uses)):
            yield uses


def _words() -> list[int]:
    return [int(word) for word in np.random.SeedSequence().generate_state(8)]


def _named(name: str, module: nn.Module) -> str:
    return f"layer {name!r} ({type(module).__name__})"


def _check_type(name: str, module: nn.Module) -> None:
    """Refuses a layer that is known to make rows depend on each other."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        raise UsageError(
            f"a row's gradient must not depend on other rows, however: {_named(name, module)} normalizes over the "
            "batch; take LayerNorm or GroupNorm"
        )
    if isinstance(module, nn.modules.dropout._DropoutNd | nn.RReLU):
        raise UsageError(
            f"the luck of a row must be its own, however: {_named(name, module)} draws it for a batch, from a seed "
            "that may be known; draw it from the luck that is given"
        )
    if isinstance(module, nn.Embedding | nn.EmbeddingBag) and (
        module.max_norm is not None or module.scale_grad_by_freq
    ):
        raise UsageError(
            f"a row's gradient must not depend on other rows, however: {_named(name, module)} changes vectors by who "
            "looks them up; leave max_norm and scale_grad_by_freq out"
        )
    if isinstance(module, nn.EmbeddingBag) and module.mode != "sum":
        raise UsageError(
            f"bags of vectors must be summed, however: {_named(name, module)} does not; take mode='sum'"
        )


def _check_uses(layer: _Layer, uses: Sequence[_Use], n: int) -> None:
    for use in uses:
        if not len(use.read) == len(use.gave) == n:
            raise UsageError(
                f"a layer must read rows along its first axis, alone, however: {_named(layer.name, layer.module)} "
                f"does not; stack what belongs to a row along a second axis"
            )
        if not use.unchanged():
            raise UsageError(
                f"what a layer reads and gives must stay, however: that of {_named(layer.name, layer.module)} is "
                "changed in place; leave operations in place out"
            )


# --- gradients of units, without the gradients


@dataclass(frozen=True)
class _Grouping:
    """Which rows are of one unit: units have `width` places for rows each, of which rows take `place`."""

    unit: Tensor
    units: int
    place: Tensor
    width: int

    @classmethod
    def of(cls, unit: NDArray[np.int64], device: torch.device) -> "_Grouping":
        counts = np.bincount(unit)
        place = np.arange(len(unit)) - (np.cumsum(counts) - counts)[unit]
        at, where = (torch.from_numpy(a.astype(np.int64)).to(device) for a in (unit, place))
        return cls(at, len(counts), where, int(counts.max(initial=1)))

    @property
    def single(self) -> bool:
        """Whether each row is a unit."""
        return self.width == 1

    def padded(self, rows: Tensor) -> Tensor:
        """(n, …, d) → (units, width · …, d), 0 where a unit has no row."""
        three = rows.reshape(len(rows), math.prod(rows.shape[1:-1]), rows.shape[-1])
        if self.single:
            return three
        out = three.new_zeros(self.units, self.width, *three.shape[1:])
        out[self.unit, self.place] = three
        return out.flatten(1, 2)

    def summed(self, rows: Tensor) -> Tensor:
        """Σ over the rows of each unit: (n, …) → (units, …)."""
        if self.single:
            return rows
        return rows.new_zeros(self.units, *rows.shape[1:]).index_add_(0, self.unit, rows)


class _Form(Protocol):
    """The gradients of units with respect to a layer's parameters."""

    def squares(self) -> Tensor:
        """Squared norm of each unit's: (units,)."""
        ...

    def weighted(self, weights: Tensor) -> list[Tensor]:
        """Σ wᵤ gᵤ, for each of the layer's parameters."""
        ...

    def drop(self, units: Tensor) -> None:
        """Makes those of some units 0; bool (units,)."""
        ...

    def couples(self, loss: Tensor, row: int) -> bool:
        """Whether the loss of a row depends on what the layer gave for others."""
        ...


def _squared(vectors: Tensor) -> Tensor:
    """Squared norm of each: (…, d) → (…)."""
    out: Tensor = torch.linalg.vecdot(vectors, vectors)
    return out


def _slack(lengths: Tensor, terms: int) -> Tensor:
    """What a squared norm is raised by where parts of these lengths, in all, may nearly cancel.

    In float32 the norm of what is left may be told too small then. As the sum errs by at most `terms` roundings of the
    parts' lengths, no clipped part is longer than 1/√(terms · 2⁻²³) times the bound, so that its own error is small.
    """
    return terms * 2.0**-23 * lengths.square()


_Uses = Sequence[tuple[_Use, Tensor]]
"""Uses of a layer, and the slope of the losses with respect to what it gave."""


def _form_of(module: nn.Module, uses: _Uses, grouping: _Grouping) -> _Form:
    if isinstance(module, nn.Linear) and type(module) is nn.Linear:
        return _LinearForm(module, uses, grouping)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return _VectorsForm(module, uses, grouping)
    return _HeldForm(module, uses, grouping)


class _Used:
    """The uses of a layer."""

    def __init__(self, uses: _Uses) -> None:
        self._uses = [use for use, _ in uses]

    def couples(self, loss: Tensor, row: int) -> bool:
        """See `_Form.couples`."""
        gave = [use.gave for use in self._uses]
        slopes = torch.autograd.grad(loss, gave, retain_graph=True, allow_unused=True) if gave else ()
        return any(bool(s[:row].any() or s[row + 1 :].any()) for s in slopes if s is not None)


class _LinearForm(_Used):
    """Σ_t b_t a_tᵀ over the T places of a unit, whose squared norm is Σ_ts (a_t·a_s)(b_t·b_s)."""

    def __init__(self, module: nn.Linear, uses: _Uses, grouping: _Grouping) -> None:
        super().__init__(uses)
        self._biased = "bias" in dict(module.named_parameters(recurse=False))
        reads = [grouping.padded(use.read.detach()) for use, _ in uses]
        slopes = [grouping.padded(slope) for _, slope in uses]
        weight = module.weight
        self._read = torch.cat(reads, 1) if reads else weight.new_zeros(grouping.units, 1, weight.shape[1])
        self._slope = torch.cat(slopes, 1) if slopes else weight.new_zeros(grouping.units, 1, weight.shape[0])

    def squares(self) -> Tensor:
        """See `_Form.squares`."""
        read, slope = self._read, self._slope
        places = read.shape[1]
        of_weight: Tensor
        if places == 1:
            of_weight = _squared(read[:, 0]) * _squared(slope[:, 0])
            return of_weight + _squared(slope[:, 0]) if self._biased else of_weight
        if places**2 <= read.shape[2] * slope.shape[2]:
            of_weight = ((read @ read.mT) * (slope @ slope.mT)).sum((1, 2)).clamp_min(0)
        else:
            of_weight = (slope.mT @ read).square().sum((1, 2))
        lengths = torch.linalg.vector_norm(slope, dim=2)
        error = sum(read.shape[1:]) + slope.shape[2]
        slack = _slack((lengths * torch.linalg.vector_norm(read, dim=2)).sum(1), error)
        if not self._biased:
            return of_weight + slack
        return of_weight + slack + _squared(slope.sum(1)) + _slack(lengths.sum(1), error)

    def weighted(self, weights: Tensor) -> list[Tensor]:
        """See `_Form.weighted`."""
        slope = (self._slope * weights[:, None, None]).flatten(0, 1)
        of_weight = slope.T @ self._read.flatten(0, 1)
        return [of_weight, slope.sum(0)] if self._biased else [of_weight]

    def drop(self, units: Tensor) -> None:
        """See `_Form.drop`."""
        self._read = self._read.masked_fill(units[:, None, None], 0.0)
        self._slope = self._slope.masked_fill(units[:, None, None], 0.0)


class _VectorsForm(_Used):
    """A slope for each vector that a unit looked up, or one slope for all of a bag."""

    def __init__(self, module: nn.Embedding | nn.EmbeddingBag, uses: _Uses, grouping: _Grouping) -> None:
        super().__init__(uses)
        self._weight = module.get_parameter("weight")
        self._padding = -1 if module.padding_idx is None else int(module.padding_idx)
        self._grouping = grouping
        self._pairs = [
            (use.read.reshape(len(use.read), -1), slope.reshape(len(slope), -1, slope.shape[-1]))
            for use, slope in uses
        ]

    def squares(self) -> Tensor:
        """See `_Form.squares`."""
        if self._grouping.single and len(self._pairs) == 1 and self._pairs[0][1].shape[1] == 1:
            index, slope = self._pairs[0]
            ordered = index.sort(1).values
            known = ordered != self._padding
            if not ((ordered[:, 1:] == ordered[:, :-1]) & known[:, 1:]).any():
                return known.sum(1) * _squared(slope[:, 0])
        return self._squares_of_all()

    def _squares_of_all(self) -> Tensor:
        """By the sum of the slopes of each vector that a unit looked up, however often."""
        entries, slopes = [], []
        many = len(self._weight)
        for index, slope in self._pairs:
            known = index != self._padding
            entries.append((self._grouping.unit[:, None] * many + index)[known])
            slopes.append(slope.expand(-1, index.shape[1], -1)[known])
        out = self._weight.new_zeros(self._grouping.units)
        if not entries:
            return out
        lengths = torch.linalg.vector_norm(torch.cat(slopes), dim=1)
        lengths = torch.zeros_like(out).index_add_(0, torch.cat(entries) // many, lengths)
        out = out + _slack(lengths, self._weight.shape[1] + len(lengths))
        own, place = torch.unique(torch.cat(entries), return_inverse=True)
        sums = self._weight.new_zeros(len(own), self._weight.shape[1]).index_add_(0, place, torch.cat(slopes))
        return out.index_add_(0, own // many, _squared(sums))

    def weighted(self, weights: Tensor) -> list[Tensor]:
        """See `_Form.weighted`."""
        total = torch.zeros_like(self._weight)
        of_rows = weights[self._grouping.unit][:, None, None]
        for index, slope in self._pairs:
            wide = (slope * of_rows).expand(-1, index.shape[1], -1)
            total.index_add_(0, index.flatten(), wide.reshape(-1, wide.shape[-1]))
        if self._padding >= 0:
            total[self._padding] = 0.0
        return [total]

    def drop(self, units: Tensor) -> None:
        """See `_Form.drop`."""
        rows = units[self._grouping.unit][:, None, None]
        self._pairs = [(index, slope.masked_fill(rows, 0.0)) for index, slope in self._pairs]


class _HeldForm(_Used):
    """Gradients of units as they are, by opacus, for layers that have few parameters or none of the forms above."""

    def __init__(self, module: nn.Module, uses: _Uses, grouping: _Grouping) -> None:
        super().__init__(uses)
        own = list(module.parameters(recurse=False))
        self._held = [p.new_zeros(grouping.units, *p.shape) for p in own]
        for use, slope in uses:
            of_rows = _per_row(module, use.read.detach(), slope)
            for held, p in zip(self._held, own, strict=True):
                held += grouping.summed(of_rows[p])

    def squares(self) -> Tensor:
        """See `_Form.squares`."""
        return torch.stack([h.flatten(1).square().sum(1) for h in self._held]).sum(0)

    def weighted(self, weights: Tensor) -> list[Tensor]:
        """See `_Form.weighted`."""
        return [torch.tensordot(weights, h, 1) for h in self._held]

    def drop(self, units: Tensor) -> None:
        """See `_Form.drop`."""
        for held in self._held:
            held[units] = 0.0


def _per_row(module: nn.Module, read: Tensor, slope: Tensor) -> dict[nn.Parameter, Tensor]:
    """The gradient of each row with respect to a layer's parameters, by opacus' samplers, or else by `vmap`."""
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import ft_compute_per_sample_gradient

    sampler = GradSampleModule.GRAD_SAMPLERS.get(type(module), ft_compute_per_sample_gradient)
    with torch.no_grad():
        # Opacus cuts patches out of an image by strides, and takes them to be those of its shape.
        found: dict[nn.Parameter, Tensor] = sampler(module, [read.contiguous()], slope.contiguous())
    # Opacus leaves a function on the layer, which keeps the layer from being copied.
    vars(module).pop("ft_compute_sample_grad", None)
    return found
