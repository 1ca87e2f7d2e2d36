"""vae: a variational autoencoder of mixed columns.

After TVAE (Xu et al. 2019, arXiv 1907.00503), trained by the evidence lower bound (Kingma & Welling 2014, arXiv
1312.6114). What differs: columns are discrete, with quantile bins for modes, so every output is a table of
probabilities and a row has a proper likelihood; missing values are values; a share of the rows is shown with a
part of their cells only, whose own bound is learned, so that the encoder also knows rows that are partly known
(as in Nazabal et al. 2020, arXiv 1807.03653); and what is drawn from is not N(0, 1) but a mixture fitted to the
codes of the rows, which the curator sums (two stages, as in Dai & Wipf 2019, arXiv 1903.05789).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from pydantic import Field as Option
from scipy.special import ndtri
from scipy.stats.qmc import Sobol
from torch import Tensor, nn

from privacy.curator import Batch, Curator, Descent, Floats, Luck
from privacy.curator import draw as uniform_of
from synth.bins import Bins, bins_from, bins_of, cuts_of, log_densities, values_of
from synth.codec import UNKNOWN, Encoded, Field, Layout
from synth.draws import rowwise
from synth.em import encoded_of, slices
from synth.gmm import Gmm, fit_noised, noise_of
from synth.gmm import Options as MixtureOptions
from synth.layers import (
    NEVER,
    CellsIn,
    Width,
    correct_rates,
    filled,
    hidden_layers,
    log_likelihoods,
    log_present,
    over,
    seeded,
    training_device,
    under,
)
from synth.rows import EncodedStore
from synth.train import Trained, planned, settled, train

CANDIDATES = 64
"""Codes that the encoder proposes for a row, and as many that are drawn without looking at it."""

MOST_LOGITS = 16_000_000
"""Logits that are held at a time."""

LEAST_LOG_STD, MOST_LOG_STD = -6.0, 3.0

STEPS_SHARE, CODES_SHARE = 0.9, 0.1
"""Shares of the budget: the steps, and the mixture of codes."""

NOISED: Mapping[str, object] = MappingProxyType(
    {"latent": 12, "epochs": 40, "batch_rows": 1600, "divergence": 0.1}
)
"""Defaults where steps carry noise: fewer, larger ones, and short codes that are worth their divergence sooner."""

CODES_PASSES = 5
"""Passes over noised sums that the mixture of codes gets."""


class Options(BaseModel):
    """What a recipe may say about a variational autoencoder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[Width, ...] = Option(
        (128, 128), min_length=1, max_length=8, description="widths of the hidden layers"
    )
    latent: int | None = Option(
        None, ge=1, le=1024, description="length of a code; none: two for each column, from 8 to 64"
    )
    epochs: int = Option(100, ge=1, le=100_000, description="passes over the rows at most")
    max_steps: int = Option(10_000, ge=1, le=10_000_000, description="steps at most, for many rows")
    batch_rows: int = Option(500, ge=1, le=1_000_000, description="rows of a step")
    learning_rate: float = Option(1e-3, gt=0, le=1, description="of Adam")
    weight_decay: float = Option(1e-5, ge=0, le=1, description="of Adam")
    divergence: float = Option(
        0.5, ge=0, le=100, description="weight of the divergence of codes from N(0, 1)"
    )
    hidden: float = Option(0.25, ge=0, le=1, description="share of the rows whose cells are partly hidden")
    bins: int = Option(100, ge=2, le=2000, description="bins of a score at most")
    components: int = Option(64, ge=1, le=1024, description="components of the mixture of codes at most")


class Vae:
    """A fitted variational autoencoder."""

    name = "vae"
    exact = False
    private = True
    options = Options
    share = STEPS_SHARE
    noised: Mapping[str, tuple[object, ...]] = MappingProxyType({})

    def __init__(self, layout: Layout, bins: Sequence[Bins], network: "Network", prior: Gmm) -> None:
        self.trained: Trained | None = None
        self._layout = layout
        self._bins = bins
        self._network = network
        self._prior = prior
        # One set of noise for every row, so that a row's figures do not depend on the rows beside it.
        # It is spread evenly (a scrambled Sobol sequence), so that few codes are as good as many drawn ones.
        rng = np.random.default_rng(0)
        even = Sobol(network.latent, rng=0).random(CANDIDATES)
        self._noise = torch.from_numpy(ndtri(even).astype(np.float32))[:, None]
        self._others = prior.draw(CANDIDATES, rng).scores[:, None]

    @staticmethod
    def descent(options: Mapping[str, Any], rows: float) -> Descent:
        """See `synth.registry.Descending`."""
        return planned(Options, NOISED, options, rows)

    @classmethod
    def fit(cls, curator: Curator, layout: Layout, options: Mapping[str, Any], *, seed: int) -> "Vae":
        """Learns from the curator's answers.

        Args:
            curator: over rows encoded by the codec of `layout`.
            layout: the encoded columns.
            options: fields of `Options`.
            seed: of the weights.
        """
        chosen, _ = settled(curator, Options, NOISED, options, share=cls.share)
        bins = bins_of(layout, chosen.bins)
        latent = chosen.latent or max(8, min(64, 2 * len(bins)))
        with seeded(seed):
            network = Network(bins, len(layout.scored), chosen.layers, latent)
        learner = _Learner(network.to(training_device()), bins, chosen)
        trained = train(
            curator,
            learner,
            columns=len(bins),
            epochs=chosen.epochs,
            max_steps=chosen.max_steps,
            batch_rows=chosen.batch_rows,
            share=STEPS_SHARE,
        )
        network.to("cpu")
        key = f"codes {seed}".encode()

        def codes(batch: Batch) -> dict[str, Any]:
            rows = encoded_of(batch)
            with torch.no_grad():
                mean, log_std = network.encode(values_of(bins, rows), torch.from_numpy(rows.scores))
            # By the luck that the curator's key has put in the place of the unit: see `Curator.recode`.
            noise = np.stack(
                [ndtri(uniform_of(batch.unit, key, f"{i}") + 2.0**-54) for i in range(latent)], 1
            )
            scores = mean.numpy() + log_std.exp().numpy() * noise
            return {"states": np.ones(scores.shape, np.int32), "scores": scores.astype(np.float32)}

        coded = curator.recode(codes, EncodedStore(None, unit_is_row=False))
        prior = _mixture(coded, _layout_of_codes(latent, layout.rows), chosen.components, seed)
        _correct(network, bins, prior, np.random.default_rng(seed))
        model = cls(layout, bins, network, prior)
        model.trained = trained
        return model

    def draw(
        self, rows: int, rng: np.random.Generator, *, given: Encoded | None = None, present: bool = False
    ) -> Encoded:
        """See `synth.registry.Model.draw`; conditions are met by importance resampling of codes."""
        if given is None:
            parts = []
            for part in slices(rows, self._network.rows_at_once(1)):
                nothing = self._layout.unknown(part.stop - part.start)
                codes = torch.from_numpy(self._prior.draw(len(nothing), rng).scores)
                parts.append(self._decode(nothing, codes, rng))
            return Encoded.joined(parts)
        serving = given.serving(rows)
        parts = []
        for part in slices(rows, self._network.rows_at_once(2 * CANDIDATES)):
            known = given.take(serving[part])
            codes = self._resampled(known, rng, present=present)
            parts.append(self._decode(known, codes, rng, present=present))
        return Encoded.joined(parts)

    def log_prob(self, encoded: Encoded) -> Floats:
        """The log-density of states and scores, estimated by many codes: float64 (n,).

        In expectation over the codes a lower bound (Burda et al. 2016, arXiv 1509.00519); the codes' luck is the
        same for all rows. Unknown cells are integrated out.
        """
        out = np.zeros(len(encoded))
        for part in slices(len(encoded), self._network.rows_at_once(2 * CANDIDATES)):
            rows = encoded.take(part)
            values = values_of(self._bins, rows)
            _, weights = self._weighed(rows, values, self._noise, self._others)
            out[part] = (weights.logsumexp(0) - math.log(len(weights))).numpy()
            out[part] += log_densities(self._bins, values, rows)
        return out

    def embed(self, encoded: Encoded) -> Floats:
        """The mean code of each row: float64 (n, latent)."""
        parts = []
        with torch.no_grad():
            for part in slices(len(encoded)):
                rows = encoded.take(part)
                mean, _ = self._network.encode(values_of(self._bins, rows), torch.from_numpy(rows.scores))
                parts.append(mean.double())
        return torch.cat(parts).numpy()

    def reconstruct(self, encoded: Encoded, rng: np.random.Generator) -> Encoded:
        """Rows drawn from the mean codes of rows."""
        return self._decode(
            self._layout.unknown(len(encoded)), torch.from_numpy(self.embed(encoded)).float(), rng
        )

    def tensors(self) -> dict[str, Tensor]:
        """What must be stored; the inverse is `restore`."""
        network, prior = self._network.state_dict(), self._prior.tensors()
        return {**over("network.", network), **over("prior.", prior), **cuts_of(self._bins)}

    @classmethod
    def restore(cls, layout: Layout, tensors: Mapping[str, Tensor]) -> "Vae":
        """A variational autoencoder from its tensors.

        Raises:
            ValueError: shapes do not fit the layout.
        """
        bins = bins_from(layout, tensors)
        state = under("network.", tensors)
        layers: list[int] = []
        while f"into.{2 * len(layers) + 1}.weight" in state:
            layers.append(state[f"into.{2 * len(layers) + 1}.weight"].shape[1])
        latent = state["first.weight"].shape[1]
        with seeded(0):
            network = filled(Network(bins, len(layout.scored), layers, latent), state)
        prior = Gmm.restore(_layout_of_codes(latent, layout.rows), under("prior.", tensors))
        return cls(layout, bins, network, prior)

    def _weighed(
        self,
        rows: Encoded,
        values: Tensor,
        noise: Tensor,
        others: NDArray[np.float32],
        *,
        present: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Candidate codes of rows and their log importance weights.

        Half of the candidates are the encoder's, half are drawn without looking at the row, and the weights are
        those of the mixture of both, so that none is ever large (defensive sampling: Hesterberg 1995).

        Args:
            rows: n rows.
            values: their values.
            noise: float32 (S, n or 1, latent), for the encoder's candidates.
            others: float32 (S, n or 1, latent), drawn from the mixture of codes.
            present: whether unknown cells are known not to be missing.

        Returns:
            Codes (2 S, n, latent), and weights (2 S, n), float64.
        """
        with torch.no_grad():
            mean, log_std = self._network.encode(values, torch.from_numpy(rows.scores))
            own = mean + log_std.exp() * noise
            codes = torch.cat([own, torch.from_numpy(others).expand_as(own)])
            logits = self._network.decode(codes)
            fits = log_likelihoods(logits, values, self._network.sizes).double()
            if present:
                fits = fits + log_present(logits, values, self._network.sizes).double()
            far = ((codes - mean) / log_std.exp()).double()
            by_encoder = (-0.5 * far**2 - log_std.double() - 0.5 * math.log(2 * math.pi)).sum(-1)
            by_mixture = torch.from_numpy(self._density(codes.numpy())).reshape(fits.shape)
        return codes, fits + by_mixture - torch.logaddexp(by_encoder, by_mixture) + math.log(2)

    def _density(self, codes: NDArray[np.float32]) -> Floats:
        """Log-density of codes (…, latent) in the mixture, flattened."""
        flat = codes.reshape(-1, codes.shape[-1])
        return self._prior.log_prob(Encoded(states=np.ones(flat.shape, np.int32), scores=flat))

    def _resampled(self, given: Encoded, rng: np.random.Generator, *, present: bool) -> Tensor:
        """For each row a code that is drawn, nearly, from its distribution given what is known: (n, latent)."""
        shape = (CANDIDATES, len(given), self._network.latent)
        noise = torch.from_numpy(rng.standard_normal(shape, np.float32))
        others = self._prior.draw(shape[0] * shape[1], rng).scores.reshape(shape)
        codes, weights = self._weighed(given, values_of(self._bins, given), noise, others, present=present)
        chosen = rowwise(rng, weights.softmax(0).T.numpy())
        return codes[torch.from_numpy(chosen), torch.arange(len(given))]

    def _decode(
        self, given: Encoded, codes: Tensor, rng: np.random.Generator, *, present: bool = False
    ) -> Encoded:
        """The given rows with their unknown cells drawn by their codes."""
        out = Encoded(states=given.states.copy(), scores=given.scores.copy())
        for part in slices(len(given), self._network.rows_at_once(1)):
            with torch.no_grad():
                logits = torch.split(self._network.decode(codes[part]), list(self._network.sizes), -1)
            for c, b in enumerate(self._bins):
                unknown = np.flatnonzero(given.states[part, c] == UNKNOWN)
                if not len(unknown):
                    continue
                own = logits[c] if len(unknown) == len(logits[c]) else logits[c][torch.from_numpy(unknown)]
                if present and own.shape[1] > 1:
                    own[:, 0] = -math.inf
                states, scores = b.draw(rowwise(rng, own.softmax(-1).numpy()), rng)
                out.states[part.start + unknown, c] = states
                if b.field.score is not None:
                    out.scores[part.start + unknown, b.field.score] = scores
        return out


class Network(nn.Module):
    """Encoder and decoder.

    Args:
        bins: the values of each column; one that never occurs gets no probability.
        scores: number of scores.
        layers: widths of the hidden layers of each half.
        latent: length of a code.
    """

    def __init__(self, bins: Sequence[Bins], scores: int, layers: Sequence[int], latent: int) -> None:
        super().__init__()
        self.sizes, self.latent = tuple(b.size for b in bins), latent
        rates = torch.from_numpy(np.concatenate([b.rates for b in bins]))
        self.never = nn.Buffer(torch.where(rates > 0, 0.0, NEVER).float(), persistent=False)
        self.cells = CellsIn(self.sizes, scores, layers[0])
        self.into = hidden_layers([*layers, 2 * latent])
        self.first = nn.Linear(latent, layers[-1])
        self.out = hidden_layers([*reversed(layers), sum(self.sizes)])
        # What columns look like one by one is known, so that steps are left for what goes with what.
        with torch.no_grad():
            last = self.get_submodule(f"out.{len(self.out) - 1}").get_parameter("bias")
            last.copy_(rates.clamp_min(1e-6).log())

    def encode(self, values: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the standard deviation of each row's code: (n, latent) both."""
        mean, log_std = self.into(self.cells(values, scores)).chunk(2, -1)
        return mean, log_std.clamp(LEAST_LOG_STD, MOST_LOG_STD)

    def decode(self, codes: Tensor) -> Tensor:
        """Logits of all values of all columns: (…, latent) → (…, Σ sizes)."""
        out: Tensor = self.out(self.first(codes)) + self.never
        return out

    def rows_at_once(self, codes: int) -> int:
        """Rows whose logits, for so many codes each, take a bounded part of the memory."""
        return max(1, min(16_384, MOST_LOGITS // (codes * sum(self.sizes))))


class _Learner:
    """The player that reads rows: the negative lower bound of each, with a share of the cells hidden."""

    def __init__(self, network: Network, bins: Sequence[Bins], options: Options) -> None:
        self.module = network
        self._bins = bins
        self._options = options
        self._sizes = torch.tensor(network.sizes)
        self._fixed = torch.from_numpy(
            np.random.default_rng(0).standard_normal((1, network.latent), np.float32)
        )
        # Decoupled (Loshchilov & Hutter 2019), or the vectors of rare values would decay as fast as they learn.
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
        )

    def losses(self, batch: Batch, luck: Luck) -> Tensor:
        """Reconstruction and divergence of each row: (n,)."""
        rows = encoded_of(batch)
        noise = luck.normal.standard_normal((len(rows), self.module.latent), np.float32)
        hiding = torch.from_numpy(luck.uniform.random((len(rows), len(self._bins) + 2), np.float32))
        share = torch.where(hiding[:, 0] < self._options.hidden, hiding[:, 1], 0.0)
        return -self._bound(rows, torch.from_numpy(noise), hiding[:, 2:] < share[:, None])

    def score(self, rows: Encoded) -> Floats:
        """The lower bound of each row by one and the same noise: float64 (n,)."""
        with torch.no_grad():
            nothing = torch.zeros(len(rows), len(self._bins), dtype=torch.bool)
            return self._bound(rows, self._fixed, nothing).double().cpu().numpy()

    def _bound(self, rows: Encoded, noise: Tensor, hidden: Tensor) -> Tensor:
        device = self.module.first.weight.device
        values = torch.where(hidden, self._sizes, values_of(self._bins, rows)).to(device)
        scores = torch.from_numpy(rows.scores)
        for c, b in enumerate(self._bins):
            if b.field.score is not None:
                scores[:, b.field.score] *= ~hidden[:, c]
        mean, log_std = self.module.encode(values, scores.to(device))
        codes = mean + log_std.exp() * noise.to(device)
        fits = log_likelihoods(self.module.decode(codes), values, self.module.sizes)
        divergence = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
        return fits - self._options.divergence * divergence


def _mixture(curator: Curator, layout: Layout, most: int, seed: int) -> Gmm:
    """The mixture of codes, by many passes, or by few where each carries noise."""
    options = {"max_components": most}
    if noise_of(curator, layout, share=CODES_SHARE) == 0:
        return Gmm.fit(curator, layout, options, seed=seed)
    chosen = MixtureOptions.model_validate(options)
    return Gmm(layout, fit_noised(curator, layout, chosen, steps=CODES_PASSES, seed=seed, share=CODES_SHARE))


def _correct(network: Network, bins: Sequence[Bins], prior: Gmm, rng: np.random.Generator) -> None:
    """Gives drawn columns the rates of the profile.

    The rates of a column whose group may be missing are those where it is not, so codes count for it by how
    likely its group is there.
    """

    def drawn(rows: int) -> Iterator[tuple[Tensor, Tensor]]:
        for part in slices(rows, network.rows_at_once(1)):
            codes = torch.from_numpy(prior.draw(part.stop - part.start, rng).scores)
            logits = network.decode(codes)
            columns = torch.split(logits, list(network.sizes), -1)
            there = [
                torch.ones(len(codes)) if g is None else columns[g].softmax(-1)[:, 1]
                for g in (b.field.group for b in bins)
            ]
            yield logits, torch.stack(there, 1)

    rates = torch.from_numpy(np.concatenate([b.rates for b in bins]))
    bias = network.get_submodule(f"out.{len(network.out) - 1}").get_parameter("bias")
    correct_rates(bias, network.sizes, rates, drawn)


def _layout_of_codes(latent: int, rows: float) -> Layout:
    """Codes as columns that are never missing and are spread all over."""
    fields = tuple(Field(name=f"code {i}", rates=(0.0, 1.0), score=i) for i in range(latent))
    return Layout(fields=fields, rows=rows)
