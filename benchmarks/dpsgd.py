"""What privacy adds to a step: seconds of one of vae's, and of one of ctgan's critic, with privacy and without.

usage: python benchmarks/dpsgd.py [--batch 512] [--columns 15] [--steps 100] [--rounds 5]

Both are of the synthesizers' own players with their default networks, on made-up rows of as many columns as Adult has,
with the real losses, the real draw and the real source of noise. Steps with and without privacy take turns, round by
round, on one thread; a figure is the fastest round's. Prints one line of JSON for each player.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from privacy.curator import Batch, Descended, ExactCurator, Floats, Luck, Reader
from privacy.dpsgd import Drawn, Players, steps_of
from privacy.mechanisms import SystemNoise
from synth import ctgan, vae
from synth.bins import bins_of
from synth.codec import Field, Layout
from synth.rows import EncodedRows

ROWS = 30_000


def layout_of(columns: int) -> Layout:
    """A third of the columns are numbers, the others have 2 to 42 categories."""
    fields = []
    for c in range(columns):
        if c % 3 == 0:
            fields.append(Field(name=f"number {c}", rates=(0.0, 1.0), score=c // 3))
        else:
            size = 2 + 4 * (c % 11)
            fields.append(Field(name=f"category {c}", rates=(0.0, *[1 / size] * size), score=None))
    return Layout(fields=tuple(fields), rows=float(ROWS))


def rows_of(layout: Layout) -> Batch:
    rng = np.random.default_rng(0)
    states = np.stack([rng.integers(1, len(f.rates), ROWS) for f in layout.fields], 1)
    scores = rng.standard_normal((ROWS, len(layout.scored)))
    return Batch(
        unit=np.arange(ROWS, dtype=np.uint64),
        columns={"states": states.astype(np.int32), "scores": scores.astype(np.float32)},
    )


def of_vae(layout: Layout) -> Reader:
    chosen = vae.Options()
    bins = bins_of(layout, chosen.bins)
    latent = max(8, min(64, 2 * len(bins)))
    network = vae.Network(bins, len(layout.scored), chosen.layers, latent)
    return vae._Learner(network, bins, chosen)


def of_critic(layout: Layout, *, bounded: bool) -> Reader:
    chosen = ctgan.Options()
    bins = bins_of(layout, chosen.modes)
    generator = ctgan.Generator(bins, chosen.layers, chosen.latent)
    critic = ctgan.Critic(generator.vectors.length + len(bins), chosen.layers, 1)
    conditions = ctgan.Conditions(bins, balanced=False, masked=chosen.masked)
    game = ctgan._Game(generator=generator, critic=critic, conditions=conditions, options=chosen)
    return ctgan._CriticPlayer(game, bounded=bounded)


def private(reader: Reader, rows: Batch, batch: int, steps: int) -> Iterator[Descended]:
    return steps_of(
        Players(reader, ()),
        Drawn(rows),
        steps=steps,
        rate=batch / ROWS,
        expected=float(batch),
        multiplier=1.0,
        noise=SystemNoise(),
        luck=Luck.of([1]),
    )


def plain(reader: Reader, rows: Batch, batch: int, steps: int) -> Iterator[Descended]:
    arrays = {"unit": rows.unit, "holdout": np.zeros(ROWS, np.uint8), **rows.columns}
    curator = ExactCurator(EncodedRows(arrays, unit_is_row=True), key=b"sixteen bytes or", holdout=0.0)
    return curator.descend(reader, steps=steps, rate=batch / ROWS)


def fastest(walks: Sequence[Callable[[int], Iterator[Descended]]], steps: int, rounds: int) -> list[float]:
    """Seconds of a step of each, in the fastest of some rounds in which all take turns."""
    best = [np.inf] * len(walks)
    for _ in range(rounds):
        for i, walk in enumerate(walks):
            steps_left = walk(steps + 3)
            for _ in range(3):
                next(steps_left)
            began = time.perf_counter()
            for _ in steps_left:
                pass
            best[i] = min(best[i], (time.perf_counter() - began) / steps)
    return best


def measured(name: str, with_it: Reader, without: Reader, rows: Batch, args: argparse.Namespace) -> None:
    walks = [
        lambda steps: private(with_it, rows, args.batch, steps),
        lambda steps: plain(without, rows, args.batch, steps),
    ]
    with_privacy, without_privacy = fastest(walks, args.steps, args.rounds)
    weights = sum(p.numel() for group in with_it.optimizer.param_groups for p in group["params"])
    line = {
        "player": name,
        "batch": args.batch,
        "columns": args.columns,
        "parameters": weights,
        "private_ms": round(1e3 * with_privacy, 2),
        "plain_ms": round(1e3 * without_privacy, 2),
        "times": round(with_privacy / without_privacy, 2),
    }
    print(json.dumps(line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--columns", type=int, default=15)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    layout = layout_of(args.columns)
    rows = rows_of(layout)
    measured("vae", of_vae(layout), of_vae(layout), rows, args)
    bins = bins_of(layout, ctgan.Options().modes)
    critic = of_critic(layout, bounded=True)
    written = critic_rows(critic, rows, bins)
    measured("ctgan critic, weights bounded in both", critic, of_critic(layout, bounded=True), written, args)
    penalty = of_critic(layout, bounded=False)
    measured("ctgan critic, without privacy by penalty", critic, penalty, written, args)


def critic_rows(critic: Reader, rows: Batch, bins: Sequence[object]) -> Batch:
    """Rows as the critic reads them: values and places."""
    vectors = critic._game.generator.vectors
    values = ctgan.values_of(bins, ctgan.encoded_of(rows))
    places = vectors.places(values, torch.from_numpy(np.asarray(rows.columns["scores"])))
    columns: dict[str, Floats] = {"states": values.numpy().astype(np.int32), "scores": places.numpy()}
    return replace(rows, columns=columns)


if __name__ == "__main__":
    main()
