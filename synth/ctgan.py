"""ctgan: a conditional generative adversarial network of mixed columns.

After CTGAN (Xu et al. 2019, arXiv 1907.00503): a generator makes rows of noise and a condition, a critic tells them
from real ones, trained as a Wasserstein game with gradient penalty (Gulrajani et al. 2017, arXiv 1704.00028); a number
is a mode and a place in it, and in training rare categories are drawn more often than they occur. What differs: modes
are quantile bins of the profile, so nothing is fitted before the first step; a condition is any part of a row, and the
row that comes out has it as it is; many categories are written in two digits; training keeps the average of the
weights that explains unseen rows best, by pairs of columns; last, the rates of columns are corrected.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option
from torch import Tensor, nn

from privacy.curator import Batch, Curator, Descent, Floats, Luck, Strata
from synth.bins import Bins, bins_from, bins_of, cuts_of, values_of
from synth.codec import UNKNOWN, Encoded, Layout
from synth.em import encoded_of, slices
from synth.layers import Width, correct_rates, filled, over, seeded, training_device, under
from synth.rows import EncodedStore
from synth.train import Trained, planned, settled, train
from synth.vectors import Vectors

BETAS = (0.5, 0.9)
"""Of Adam, as Gulrajani et al. have them."""

SHARE_OF_NUMBERS = 0.25
"""How often a number is a condition, in training and in draws, for each time that a column of categories is."""

FREQUENCY = 1e5
"""Rows whose frequencies are meant where values are drawn by the logarithm of their frequency."""

PATIENCE = 25
"""Looks of `synth.train` without a better one; games go back and forth before they settle."""

NOISED: Mapping[str, object] = MappingProxyType(
    {"layers": (128, 128), "epochs": 60, "max_steps": 30_000, "batch_rows": 800, "balanced": False}
)
"""Defaults where steps carry noise: of fewer weights, and of rows that are drawn alike."""

LONGEST = 1.0
"""How much longer a layer of the critic may make anything, where its weights are bounded."""

JUDGED_ROWS = 8192
"""Rows that are drawn to judge the generator."""

JUDGED_PAIRS = 300
"""Pairs of columns by which unseen rows are explained."""

JUDGED_GROUPS = 100
"""Groups of a column's values in the table of a pair: the most frequent values alone, all others together."""

JUDGED_PRIOR = 20.0
"""Rows that independence is worth in the table of a pair."""

MOST_ENTRIES = 4_000_000
"""Entries of vectors that are drawn at a time."""


class Options(BaseModel):
    """What a recipe may say about a conditional generative adversarial network."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[Width, ...] = Option(
        (256, 256), min_length=1, max_length=8, description="widths of the hidden layers of both networks"
    )
    latent: int = Option(128, ge=1, le=4096, description="length of the noise")
    epochs: int = Option(300, ge=1, le=100_000, description="passes over the rows at most")
    max_steps: int = Option(10_000, ge=1, le=10_000_000, description="steps at most, for many rows")
    batch_rows: int = Option(500, ge=1, le=1_000_000, description="rows of a step")
    pack: int = Option(
        1, ge=1, le=1000, description="rows that the critic sees together; more than one without privacy only"
    )
    balanced: bool = Option(
        True, description="whether training draws rare categories more often; without privacy only"
    )
    masked: float = Option(
        0.25,
        ge=0,
        lt=1,
        description="share of the rows that are not drawn along a column; half of these show any part",
    )
    learning_rate: float = Option(1e-3, gt=0, le=1, description="of Adam, for both networks")
    weight_decay: float = Option(1e-6, ge=0, le=1, description="of the generator")
    penalty: float = Option(10.0, ge=0, le=1e6, description="weight of the gradient penalty")
    modes: int = Option(10, ge=8, le=1000, description="modes of a number, about")


class Ctgan:
    """A fitted conditional generative adversarial network."""

    name = "ctgan"
    exact = False
    private = True
    options = Options
    share = 1.0
    noised: Mapping[str, tuple[object, ...]] = MappingProxyType({"pack": (1,), "balanced": (False,)})

    def __init__(self, layout: Layout, network: "Generator", conditions: "Conditions") -> None:
        self.trained: Trained | None = None
        self._layout = layout
        self._network = network
        self._conditions = conditions

    @staticmethod
    def descent(options: Mapping[str, Any], rows: float) -> Descent:
        """See `synth.registry.Descending`."""
        return planned(Options, NOISED, options, rows)

    @classmethod
    def fit(cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int) -> "Ctgan":
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns.
            options: fields of `Options`.
            seed: of the weights, and of the generator's noise in training.
        """
        chosen, noised = settled(curator, Options, NOISED, options, share=cls.share)
        bins = bins_of(layout, chosen.modes)
        with seeded(seed):
            generator = Generator(bins, chosen.layers, chosen.latent)
            critic = Critic(generator.vectors.length + len(bins), chosen.layers, chosen.pack)

        def written(batch: Batch) -> dict[str, Any]:
            rows = encoded_of(batch)
            values = values_of(bins, rows)
            places = generator.vectors.places(values, torch.from_numpy(rows.scores))
            return {"states": values.numpy().astype(np.int32), "scores": places.numpy()}

        rows = curator.recode(written, EncodedStore(None, unit_is_row=False))
        device = training_device()
        conditions = Conditions(bins, balanced=chosen.balanced, masked=chosen.masked)
        game = _Game(
            generator=generator.to(device), critic=critic.to(device), conditions=conditions, options=chosen
        )
        trained = train(
            rows,
            _CriticPlayer(game, bounded=noised),
            [_GeneratorPlayer(game, seed)],
            columns=len(bins),
            epochs=chosen.epochs,
            max_steps=chosen.max_steps,
            batch_rows=chosen.batch_rows,
            patience=PATIENCE,
            strata=conditions.strata if chosen.balanced else None,
            share=cls.share,
        )
        generator.to("cpu")
        model = cls(layout, generator, conditions)
        model._correct(np.random.default_rng(seed))
        model.trained = trained
        return model

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`; what is given stays, and the generator makes the rest of it."""
        known = self._layout.unknown(rows) if given is None else given.take(given.serving(rows))
        at_once = max(256, min(8192, MOST_ENTRIES // self._network.vectors.length))
        return Encoded.joined(
            [self._complete(known.take(s), rng, present=present) for s in slices(rows, at_once)]
        )

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        return {**over("network.", self._network.state_dict()), **cuts_of(self._network.bins)}

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> "Ctgan":
        """A network from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        bins = bins_from(layout, tensors)
        state = under("network.", tensors)
        layers = [
            len(state[f"norms.{i}.weight"]) for i in range(sum(n.startswith("norms.") for n in state) // 2)
        ]
        latent = state["linears.0.weight"].shape[1]
        with seeded(0):
            network = filled(Generator(bins, layers, latent), state)
        return cls(layout, network, Conditions(bins, balanced=False, masked=0.0))

    def _complete(self, known: Encoded, rng: np.random.Generator, *, present: bool) -> Encoded:
        """The rows with their unknown cells drawn."""
        network = self._network
        values = values_of(network.bins, known)
        places = network.vectors.places(values, torch.from_numpy(known.scores))
        free = np.flatnonzero((known.states == UNKNOWN).all(1))
        if len(free) and not present:
            at = torch.from_numpy(free)
            values[at], places[at] = self._conditions.natural(rng, len(free))
        drawn, new = network.rows(values, places, rng, present=present)
        scores = network.vectors.scores(drawn, new).numpy()
        out = Encoded(states=known.states.copy(), scores=known.scores.copy())
        for c, b in enumerate(network.bins):
            unknown = known.states[:, c] == UNKNOWN
            out.states[unknown, c] = drawn[:, c].clamp(max=b.plain).numpy()[unknown]
            if b.field.score is not None:
                out.scores[unknown, b.field.score] = scores[unknown, b.field.score]
        return out

    def _correct(self, rng: np.random.Generator) -> None:
        """Shifts the last layer until what is drawn has the rates of the profile; it asks nothing of any row."""
        network = self._network

        def drawn(rows: int) -> Iterator[tuple[Tensor, Tensor]]:
            for part in slices(rows):
                values, places = self._conditions.natural(rng, part.stop - part.start)
                raw, mask = network.raw(values, places, rng)
                written = network.vectors.write(values, places)
                yield raw[:, : network.vectors.width], network.vectors.free(raw, written, mask)

        bias = network.linears[-1].get_parameter("bias")[: network.vectors.width]
        correct_rates(bias, network.vectors.digits, network.vectors.rates, drawn)


class Conditions:
    """What rows are conditioned on: one cell, along an axis that is a column; in training sometimes any of their cells.

    Attributes:
        strata: how training draws rows: along each column, the rarer values more often than they occur; last plainly.
        plain: the axis that stands for a plain draw.
    """

    def __init__(self, bins: Sequence[Bins], *, balanced: bool, masked: float) -> None:
        self._sizes = torch.tensor([b.size for b in bins])
        self._smooth = np.array([not b.field.whole for b in bins if b.field.score is not None], np.float32)
        # A value of a column that may be absent with its group would say that the group is there.
        self._axes = np.array(
            [c for c, b in enumerate(bins) if b.rates.max() < 1 and b.field.group is None], int
        )
        self.plain = len(self._axes)
        rates = [bins[c].rates for c in self._axes]
        # By the logarithm of their frequency, as Xu et al. have it.
        weights = [np.log1p(FREQUENCY * r) for r in rates] if balanced else rates
        shares = np.array([1.0 if bins[c].field.score is None else SHARE_OF_NUMBERS for c in self._axes])
        shares = shares / max(shares.sum(), 1e-12)
        of_all = np.append((1 - masked) * shares, masked if rates else 1.0)
        self.strata = Strata(of=self._cells, shares=of_all, weights=(*weights, np.ones(1)))
        of_none = rates or [np.ones(1)]
        self._natural = Strata(of=self._cells, shares=shares if rates else np.ones(1), weights=tuple(of_none))

    def _cells(self, batch: Batch) -> NDArray[np.integer]:
        values = np.asarray(batch.columns["states"], np.int64)
        return np.append(values[:, self._axes], np.zeros((len(values), 1), np.int64), 1)

    def shown(self, values: Tensor, axis: NDArray[np.int64], luck: Tensor) -> Tensor:
        """Which cells of rows are their condition: bool (n, C).

        Args:
            values: int64 (n, C).
            axis: along which each row was drawn, (n,).
            luck: uniform, (n, C + 2): half of those that were drawn plainly show nothing, half a share of their cells.
        """
        plain = torch.from_numpy(axis == self.plain)
        mask = (luck[:, 2:] < luck[:, :1]) & (luck[:, 1:2] < 0.5) & plain[:, None]
        along = np.flatnonzero(axis < self.plain)
        mask[torch.from_numpy(along), torch.from_numpy(self._axes[axis[along]])] = True
        return mask & (values < self._sizes)

    def drawn(self, rng: np.random.Generator, rows: int) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Cells along the axes that `strata` draws: values (n, C), everything else unknown, places (n, D), axes."""
        axis, cell = self.strata.draw(rng, rows)
        return *self._along(axis, cell, rng), axis

    def natural(self, rng: np.random.Generator, rows: int) -> tuple[Tensor, Tensor]:
        """Cells along one axis each as the profile has them: values (n, C), everything else unknown, places (n, D)."""
        return self._along(*self._natural.draw(rng, rows), rng)

    def _along(
        self, axis: NDArray[np.int64], cell: NDArray[np.int64], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        values = self._sizes.repeat(len(axis), 1)
        rows = np.flatnonzero(axis < self.plain)
        values[torch.from_numpy(rows), torch.from_numpy(self._axes[axis[rows]])] = torch.from_numpy(
            cell[rows]
        )
        # Modes are quantile bins, so places are uniform; the values of a column that takes few lie amid their cells.
        places = torch.from_numpy(rng.uniform(-1, 1, (len(axis), len(self._smooth))).astype(np.float32))
        places = places * torch.from_numpy(self._smooth)
        return values, places


class Generator(nn.Module):
    """Noise and a condition → a row; every layer adds its outputs to its inputs, as in Xu et al.

    Of a condition only the cells that are shown are read: each gives a vector to every hidden layer.

    Args:
        bins: the values of each column.
        layers: widths of the hidden layers.
        latent: length of the noise.
    """

    def __init__(self, bins: Sequence[Bins], layers: Sequence[int], latent: int) -> None:
        super().__init__()
        self.bins, self.latent = tuple(bins), latent
        self.vectors = Vectors(bins)
        self._layers = list(layers)
        wide = list(itertools.accumulate(layers, initial=latent))
        outputs = [*layers, self.vectors.length]
        self.linears = nn.ModuleList(nn.Linear(i, o) for i, o in zip(wide, outputs, strict=True))
        # Layers rather than batches are normalized: a row does not depend on those beside it.
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in layers)
        nothing = self.vectors.width
        self.cells = nn.EmbeddingBag(nothing + 1, sum(layers), mode="sum", padding_idx=nothing)
        scores = len(self.vectors.scored)
        self.of_places = nn.Linear(scores, sum(layers), bias=False) if scores else None
        with torch.no_grad():
            self.cells.weight.uniform_(-1, 1).div_(math.sqrt(latent))[nothing] = 0
            bias = self.linears[-1].get_parameter("bias")
            bias.zero_()[: self.vectors.width] = self.vectors.rates.clamp_min(1e-6).log()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.vectors.owner.device

    def forward(self, noise: Tensor, values: Tensor, places: Tensor, mask: Tensor) -> Tensor:
        """What `Vectors` draws from, (n, length).

        Args:
            noise: (n, latent).
            values: int64 (n, C).
            places: (n, D).
            mask: the cells that are shown, bool (n, C).
        """
        shown = self.cells(*self.vectors.entries(values, mask))
        if self.of_places is not None:
            shown = shown + self.of_places(places * mask[:, self.vectors.scored])
        out = noise
        for linear, norm, own in zip(
            self.linears, self.norms, torch.split(shown, self._layers, 1), strict=False
        ):
            out = torch.cat([norm(linear(out) + own).relu(), out], 1)
        last: Tensor = self.linears[-1](out)
        return last

    def raw(self, values: Tensor, places: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Outputs for rows of which the known cells are shown, and which cells these are."""
        values, places = self.vectors.without_absent(values.to(self.device), places.to(self.device))
        mask = values < self.vectors.sizes
        noise = torch.from_numpy(rng.standard_normal((len(values), self.latent), np.float32))
        with torch.no_grad():
            return self(noise.to(self.device), values, places, mask), mask

    def rows(
        self, values: Tensor, places: Tensor, rng: np.random.Generator, *, present: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Rows with the known cells as they are and the others drawn: values (n, C) and places (n, D)."""
        raw, mask = self.raw(values, places, rng)
        luck = torch.from_numpy(rng.random((len(values), self.vectors.width), np.float32))
        drawn, new = self.vectors.drawn(raw, gumbel(luck.to(self.device)), present=present)
        mask = mask.cpu()
        known = mask[:, self.vectors.scored]
        return torch.where(mask, values, drawn.cpu()), torch.where(known, places, new.cpu())


def _steepness(critic: "Critic", fake: Tensor, real: Tensor, between: Tensor) -> Tensor:
    """(‖slope‖ − 1)² of the critic somewhere between fakes and real packs: (n,)."""
    point = torch.lerp(fake, real, between[: len(real)]).requires_grad_()
    (slope,) = torch.autograd.grad(critic(point).sum(), point, create_graph=True)
    steep: Tensor = (slope.norm(dim=1) - 1) ** 2
    return steep


def gumbel(luck: Tensor) -> Tensor:
    """Standard Gumbel noise from uniform numbers in [0, 1)."""
    return -(-luck.clamp(1e-12, 1 - 1e-7).log()).log()


class Critic(nn.Module):
    """Packs of rows, each with what is shown of it, → a number for each pack, larger for real ones.

    Args:
        length: of a row.
        layers: widths of the hidden layers.
        pack: rows of a pack.
    """

    def __init__(self, length: int, layers: Sequence[int], pack: int) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for i, o in itertools.pairwise([pack * length, *layers]):
            blocks += [nn.Linear(i, o), nn.LeakyReLU(0.2)]
        self.blocks = nn.Sequential(*blocks, nn.Linear(layers[-1], 1))
        self._linears = [b for b in self.blocks if isinstance(b, nn.Linear)]
        for i, b in enumerate(self._linears):
            along = torch.full((b.in_features,), b.in_features**-0.5)
            self.register_buffer(f"along_{i}", along, persistent=False)

    def forward(self, packs: Tensor) -> Tensor:
        """float32 (…, pack · length) → (…)."""
        out: Tensor = self.blocks(packs)
        return out[..., 0]

    @torch.no_grad()
    def bound(self) -> None:
        """Makes no layer lengthen anything more than `LONGEST` times (spectral norm: Miyato et al. 2018).

        Weights are cut rather than divided in the forward pass, so gradients are those of plain layers; each call
        takes one round of the power iteration, since weights change little between two.
        """
        for i, linear in enumerate(self._linears):
            weight, along = linear.weight, self.get_buffer(f"along_{i}")
            across = nn.functional.normalize(weight @ along, dim=0)
            along.copy_(nn.functional.normalize(weight.T @ across, dim=0))
            longest = across @ weight @ along
            weight.mul_((LONGEST / longest.clamp_min(1e-12)).clamp(max=1.0))


@dataclass(frozen=True, kw_only=True)
class _Game:
    """What both players have."""

    generator: Generator
    critic: Critic
    conditions: Conditions
    options: Options

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.generator.device

    def faked(
        self, values: Tensor, places: Tensor, written: Tensor, mask: Tensor, noise: Tensor, luck: Tensor
    ) -> Tensor:
        """Rows that have what is shown of others as it is, and the rest of the generator."""
        raw = self.generator(noise, values, places, mask)
        return self.generator.vectors.relaxed(raw, gumbel(luck), written, mask)

    def made(self, rng: np.random.Generator, rows: int) -> tuple[Tensor, Tensor]:
        """Rows as the generator would draw them now: values (n, C) and places (n, D), as real ones have them."""
        values, places = self.generator.rows(*self.conditions.natural(rng, rows), rng)
        values, places = self.generator.vectors.without_absent(values.to(self.device), places.to(self.device))
        return values.cpu(), places.cpu()

    def packs(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Rows with what is shown of them, side by side; the first rows fill up the last pack."""
        with_mask = torch.cat([rows, mask.float()], 1)
        pack = self.options.pack
        full = -(-len(rows) // pack) * pack
        index = torch.arange(full, device=rows.device) % len(rows)
        return with_mask[index].reshape(full // pack, -1) if pack > 1 else with_mask


class _CriticPlayer:
    """The player that reads rows: tells them from rows that the generator made of the same conditions.

    Args:
        game: what both players have.
        bounded: whether the critic's weights are bounded after each step, rather than its slope punished.
    """

    def __init__(self, game: _Game, *, bounded: bool) -> None:
        self._game, self._bounded = game, bounded
        # Both networks are kept and judged, though only one is moved here.
        self.module = nn.ModuleDict({"generator": game.generator, "critic": game.critic})
        self.optimizer = torch.optim.Adam(
            game.critic.parameters(), lr=game.options.learning_rate, betas=BETAS, fused=True
        )
        self._steps = 0
        self._judge: tuple[int, _Judge] | None = None
        self.optimizer.register_step_post_hook(lambda *_: self._stepped())

    def _stepped(self) -> None:
        self._steps += 1
        if self._bounded:
            self._game.critic.bound()

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        """What the critic thinks of a fake, less what it thinks of the row, and the gradient penalty: (n,).

        All rows of a pack have the loss of their pack, which is then a function of all of them: packs of more than one
        row are for exact curators alone.
        """
        game, vectors = self._game, self._game.generator.vectors
        rows = encoded_of(batch)
        n, columns = rows.states.shape
        even = torch.from_numpy(luck.uniform.random((n, 1 + columns + 2 + vectors.width + 1), np.float32))
        noise = torch.from_numpy(luck.normal.standard_normal((n, game.generator.latent), np.float32))
        axis = batch.columns.get("axis", game.conditions.strata.axis_of(even[:, 0].numpy()))
        values, places = torch.from_numpy(rows.states).long(), torch.from_numpy(rows.scores).to(game.device)
        mask = game.conditions.shown(values, np.asarray(axis), even[:, 1 : columns + 3]).to(game.device)
        values, even, noise = (
            values.to(game.device),
            even[:, columns + 3 :].to(game.device),
            noise.to(game.device),
        )
        real = vectors.write(values, places)
        with torch.no_grad():
            fake = game.faked(values, places, real, mask, noise, even[:, :-1])
        real, fake = game.packs(real, mask), game.packs(fake, mask)
        # Side by side, so that the first axis is that of the packs.
        of_fake, of_real = game.critic(torch.stack([fake, real], 1)).unbind(1)
        losses: Tensor = of_fake - of_real
        if not self._bounded:
            losses = losses + game.options.penalty * _steepness(game.critic, fake, real, even[:, -1:])
        return losses.repeat_interleave(game.options.pack)[:n]

    def score(self, rows: Encoded) -> Floats:
        """How well pairs of cells of each row are explained by what the generator draws now: float64 (n,)."""
        if self._judge is None or self._judge[0] != self._steps:
            self._judge = (self._steps, _Judge.of(self._game))
        return self._judge[1].score(rows.states)


class _GeneratorPlayer:
    """The player that reads no rows: its conditions are of the profile, or of rows that it made itself."""

    def __init__(self, game: _Game, seed: int) -> None:
        self._game = game
        self.optimizer = torch.optim.Adam(
            game.generator.parameters(),
            lr=game.options.learning_rate,
            betas=BETAS,
            weight_decay=game.options.weight_decay,
            fused=True,
        )
        self._rng = np.random.default_rng([seed, 2])

    def loss(self, rows: int) -> Tensor:
        """What the critic thinks of so many fakes, with the sign turned."""
        game, vectors, rng = self._game, self._game.generator.vectors, self._rng
        n = rows
        values, places, axis = game.conditions.drawn(rng, n)
        plain = torch.from_numpy(np.flatnonzero(axis == game.conditions.plain))
        if len(plain):
            values[plain], places[plain] = game.made(rng, len(plain))
        luck = torch.from_numpy(rng.random((n, values.shape[1] + 2), np.float32))
        mask = game.conditions.shown(values, axis, luck).to(game.device)
        noise = torch.from_numpy(rng.standard_normal((n, game.generator.latent), np.float32)).to(game.device)
        luck = torch.from_numpy(rng.random((n, vectors.width), np.float32)).to(game.device)
        values, places = vectors.without_absent(values.to(game.device), places.to(game.device))
        fake = game.faked(values, places, vectors.write(values, places), mask, noise, luck)
        # Only passed through: its own gradient would be thrown away.
        game.critic.requires_grad_(False)
        likes: Tensor = game.critic(game.packs(fake, mask))
        game.critic.requires_grad_(True)
        return -likes.mean()


@dataclass(frozen=True)
class _Judge:
    """Log-probabilities of pairs of values, as drawn rows have them.

    Attributes:
        pairs: indices of the columns.
        tables: for each pair float64 (groups, groups), the last of each for unknown, of which nothing is said.
        groups: for each column the group of each of its values, the last of which is unknown.
    """

    pairs: tuple[tuple[int, int], ...]
    tables: tuple[Floats, ...]
    groups: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, game: _Game) -> "_Judge":
        """Draws rows and counts pairs, which lean on independence.

        The rates of columns are corrected after training, so tables have the margins of the profile, and say only what
        pairs share beyond them; but for columns that may be absent, whose profile is of the rows in which they are.
        """
        bins, rng = game.generator.bins, np.random.default_rng(0)
        groups = tuple(_groups(b) for b in bins)
        pairs = list(itertools.combinations(range(len(bins)), 2))
        chosen = tuple(pairs[i] for i in rng.permutation(len(pairs))[:JUDGED_PAIRS])
        values = game.made(rng, JUDGED_ROWS)[0].numpy()
        drawn = [g[v] for g, v in zip(groups, values.T, strict=True)]
        tables = []
        for a, b in chosen:
            shape = groups[a][-1] + 1, groups[b][-1] + 1
            counts = np.bincount(drawn[a] * shape[1] + drawn[b], minlength=shape[0] * shape[1])
            known = counts.reshape(shape)[:-1, :-1].astype(np.float64)
            rates = [np.bincount(groups[c][:-1], bins[c].rates) for c in (a, b)]
            usual = np.asarray(np.outer(*rates), np.float64)
            table = known + JUDGED_PRIOR * usual
            if bins[a].field.group is None and bins[b].field.group is None:
                table = _fitted(table, usual)
            logs = np.zeros(shape)
            logs[:-1, :-1] = np.log(np.maximum(table / table.sum(), 1e-9))
            tables.append(logs)
        return cls(chosen, tuple(tables), groups)

    def score(self, values: NDArray[np.int32]) -> Floats:
        """Mean over the pairs, for as many pairs as there are columns: float64 (n,)."""
        coded = [g[v] for g, v in zip(self.groups, values.T, strict=True)]
        total = np.zeros(len(values))
        for (a, b), table in zip(self.pairs, self.tables, strict=True):
            total += table[coded[a], coded[b]]
        return np.asarray(total * values.shape[1] / max(1, len(self.pairs)))


def _groups(bins: Bins) -> NDArray[np.int64]:
    """The group of each value, and last of unknown: int64 (size + 1,)."""
    group = np.minimum(np.argsort(np.argsort(-bins.rates, kind="stable"), kind="stable"), JUDGED_GROUPS - 1)
    return np.append(group, group.max() + 1).astype(np.int64)


def _fitted(table: Floats, usual: Floats) -> Floats:
    """A table scaled to the margins of another (iterative proportional fitting: Deming & Stephan 1940)."""
    for axis in (0, 1) * 5:
        now = table.sum(axis, keepdims=True)
        table = table * np.divide(usual.sum(axis, keepdims=True), now, out=np.zeros_like(now), where=now > 0)
    return table
