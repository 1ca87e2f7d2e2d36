"""Images: how well a classifier does that learned from synthetic images, and how near these are to real ones.

    python benchmarks/images.py /path/to/data mnist --synthesizer image-mixture [--epsilon 1] [--evidence]

The folder holds imaging/mnist (the four IDX files), imaging/pneumoniamnist and imaging/cifar10_jpeg (Parquet). A small
convolutional network learns from synthetic images, and from real ones, and is tested on the real test images. A copy
would be nearer to a training image than test images are: the distances of both are compared. With --epsilon a whole
release is made under (epsilon, 1e-5)-differential privacy but for its evidence; labels, sizes and about how many images
there are are public, as in the papers that these figures are compared with.
"""

import argparse
import functools
import gzip
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import synth
from synth.images import images, pixels
from synth.schema import IMAGE, Column, Picture, Schema
from validation.images import ImageEvidence, image_evidence

DELTA = 1e-5
SHOWN = 12


def idx(path: Path) -> np.ndarray:
    """An IDX file of bytes (LeCun's format: magic number, sizes, values)."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def mnist(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    name = {"train": "train", "test": "t10k"}[part]
    shown = idx(folder / "mnist" / f"{name}-images-idx3-ubyte.gz")
    return shown[..., None], idx(folder / "mnist" / f"{name}-labels-idx1-ubyte.gz").astype(np.int64)


def parquet(folder: Path, name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    table = pq.read_table(next((folder / name).glob(f"*_{part}.parquet")))
    shown = [np.asarray(Image.open(io.BytesIO(v))) for v in table["image"].to_pylist()]
    stacked = np.stack(shown)
    return stacked.reshape(*stacked.shape[:3], -1), table["label"].to_numpy().astype(np.int64)


def load(folder: Path, name: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 (n, h, w, c), and labels, int64 (n,)."""
    return mnist(folder, part) if name == "mnist" else parquet(folder, name, part)


def table_of(shown: np.ndarray, labels: np.ndarray) -> tuple[pa.Table, Schema]:
    picture = Picture(height=shown.shape[1], width=shown.shape[2], mode="L" if shown.shape[3] == 1 else "RGB")
    schema = Schema(
        columns=(
            Column(name="image", kind="image", type=str(IMAGE), image=picture, nullable=False),
            Column(name="label", kind="categorical", type="int64", nullable=False),
        )
    )
    return pa.table({"image": images(shown, note=None), "label": labels}), schema


def privately(table: pa.Table, schema: Schema, arguments: argparse.Namespace) -> Callable[[int], pa.Table]:
    """A model of the whole pipeline under one epsilon, which everything that touches a row has a share of."""
    from pipelines.recipe import Recipe
    from pipelines.run import open_run
    from pipelines.steps import perform
    from pipelines.workspace import MODEL
    from synth.table import load as load_model

    folder = Path(tempfile.mkdtemp(prefix="understudy-bench-"))
    pq.write_table(table, folder / "rows.parquet")
    about = json.loads(schema.to_json())
    for column in about["columns"]:
        column["facts"] = "declared: the benchmark"
    about["columns"][1]["categories"] = np.unique(table["label"].to_numpy()).tolist()
    about["units_about"] = len(table)
    (folder / "schema.yaml").write_text(json.dumps(about))
    recipe = {
        "name": "benchmark", "dataset": "benchmark", "input": "rows.parquet", "schema": "schema.yaml",
        "synthesizer": arguments.synthesizer, "options": json.loads(arguments.options), "seed": arguments.seed,
        "threads": arguments.threads, "fit_rows": len(table),
        "privacy": {"epsilon": arguments.epsilon, "delta": DELTA},
    }  # fmt: skip
    run = open_run(Recipe.parse(json.dumps(recipe), source="recipe"), folder)
    for step in ("ingest", "profile", "fit"):
        perform(run, step)
    model = load_model(run.workspace.path / MODEL)
    return lambda rows: model.sample(rows, seed=arguments.seed)


class Network(nn.Module):
    """Two convolutions and two layers: what learns digits to 99 % in three passes."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        height, width, channels = shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * (height // 4) * (width // 4), 64), nn.ReLU(),
            nn.Linear(64, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def tensor(shown: np.ndarray) -> Tensor:
    return torch.from_numpy(shown.transpose(0, 3, 1, 2).copy()).float() / 255


def classifier(shown: np.ndarray, labels: np.ndarray, *, steps: int, seed: int, classes: int) -> Network:
    torch.manual_seed(seed)
    network, rng = Network(shown.shape[1:], classes), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    order = np.empty(0, np.int64)
    for _ in range(steps):
        if len(order) < 256:
            order = rng.permutation(len(shown))
        index, order = order[:256], order[256:]
        loss = nn.functional.cross_entropy(network(tensor(shown[index])), torch.from_numpy(labels[index]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def score(network: Network, shown: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    with torch.no_grad():
        parts = [network(tensor(shown[i : i + 1000])) for i in range(0, len(shown), 1000)]
    guesses = torch.cat(parts)
    found = {"accuracy": round(float((guesses.argmax(1).numpy() == labels).mean()), 4)}
    if guesses.shape[1] == 2:
        found["auc"] = round(float(roc_auc_score(labels, guesses.softmax(1)[:, 1].numpy())), 4)
    return found


def nearest(some: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Distance of each image to the nearest training image, in [0, 1] a pixel: float (n,)."""
    a, b = (x.reshape(len(x), -1).astype(np.float32) / 255 for x in (some, train))
    squares = (b**2).sum(1)
    parts = [
        ((x**2).sum(1)[:, None] + squares - 2 * x @ b.T).min(1)
        for x in np.array_split(a, max(1, len(a) // 250))
    ]
    return np.sqrt(np.maximum(np.concatenate(parts), 0))


def told(evidence: ImageEvidence | None) -> dict[str, object]:
    """The figures of evidence, each beside what held-out images score."""
    if evidence is None:
        return {}
    close = evidence.closeness
    figures = {n: getattr(close, n) for n in ("precision", "recall", "density", "coverage")}
    return {
        "frechet": [round(close.frechet, 2), close.frechet_ceiling],
        **{n: [round(f.value.value, 3), f.ceiling and round(f.ceiling.value, 3)] for n, f in figures.items()},
        **{
            f"close in {n.space}": [round(n.close.value, 4), round(n.close_ceiling.value, 4), round(n.nearer.value, 3)]
            for n in evidence.nearness
        },
        "identical": evidence.identical,
    }  # fmt: skip


def grid(shown: np.ndarray, labels: np.ndarray, path: Path) -> None:
    """A picture of some images of each class, a row each."""
    rows = [np.concatenate(list(shown[labels == c][:SHOWN]), 1) for c in np.unique(labels)]
    whole = np.concatenate([r for r in rows if r.shape[1] == max(x.shape[1] for x in rows)], 0)
    Image.fromarray(whole.squeeze()).resize((whole.shape[1] * 2, whole.shape[0] * 2), 0).save(path)


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.data) / "imaging"
    train, test = (load(folder, arguments.name, part) for part in ("train", "test"))
    classes = int(train[1].max()) + 1
    table, schema = table_of(*train)
    began, busy = time.perf_counter(), time.process_time()
    if arguments.epsilon:
        sample = privately(table, schema, arguments)
    else:
        model = synth.fit(
            table, arguments.synthesizer, schema=schema, seed=arguments.seed, threads=arguments.threads,
            options=json.loads(arguments.options),
        )  # fmt: skip
        sample = functools.partial(model.sample, seed=arguments.seed)
    fitted, fitted_busy = time.perf_counter(), time.process_time()
    drawn = sample(arguments.rows or len(table))
    ended, ended_busy = time.perf_counter(), time.process_time()
    print(
        f"fitted in {fitted_busy - busy:.0f} s, drawn in {ended_busy - fitted_busy:.0f} s of processor time",
        file=sys.stderr,
    )
    shown = pixels(drawn["image"].combine_chunks(), schema["image"].image)
    labels = drawn["label"].to_numpy()
    if arguments.grid:
        grid(shown, labels, Path(arguments.grid))
    rng = np.random.default_rng(arguments.seed)
    some, others = (x[rng.permutation(len(x))[: arguments.distances]] for x in (shown, test[0]))
    of_drawn, of_test = nearest(some, train[0]), nearest(others, train[0])
    steps = arguments.epochs * len(train[0]) // 256
    settings = {"steps": max(steps, 300), "seed": arguments.seed, "classes": classes}
    found: dict[str, object] = {
        "data": arguments.name, "synthesizer": arguments.synthesizer, "options": arguments.options,
        "epsilon": arguments.epsilon, "seed": arguments.seed, "rows": len(drawn),
        "fit_seconds": round(fitted - began, 1), "fit_processor_seconds": round(fitted_busy - busy, 1),
        "draw_seconds": round(ended - fitted, 1), "draw_processor_seconds": round(ended_busy - fitted_busy, 1),
        "images_per_second": round(len(drawn) / (ended - fitted)),
        "synthetic": score(classifier(shown, labels, **settings), *test),
        "nearest_synthetic": np.quantile(of_drawn, [0, 0.01, 0.05, 0.5]).round(3).tolist(),
        "nearest_test": np.quantile(of_test, [0, 0.01, 0.05, 0.5]).round(3).tolist(),
        "nearer_than_5_percent_of_test": round(float((of_drawn < np.quantile(of_test, 0.05)).mean()), 4),
    }  # fmt: skip
    if arguments.evidence:
        pixels_by_side = {"train": train[0], "holdout": test[0], "synthetic": shown}
        labels_by_side = {"train": train[1], "holdout": test[1], "synthetic": labels}
        found["evidence"] = told(image_evidence(pixels_by_side, labels_by_side, seed=arguments.seed))
    if arguments.real:
        found["real"] = score(classifier(*train, **settings), *test)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder of the benchmark data")
    parser.add_argument("name", choices=["mnist", "pneumoniamnist", "cifar10_jpeg"])
    parser.add_argument("--synthesizer", default="image-mixture")
    parser.add_argument("--options", default="{}", help="JSON")
    parser.add_argument("--epsilon", type=float, help="differential privacy; none: no guarantee")
    parser.add_argument("--rows", type=int, default=0, help="0: as many as the training images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3, help="of the network that is tested")
    parser.add_argument(
        "--distances", type=int, default=2000, help="images whose nearest neighbours are looked for"
    )
    parser.add_argument("--real", action="store_true", help="also learn from real images, for comparison")
    parser.add_argument(
        "--evidence", action="store_true", help="also precision, recall and what else a report has"
    )
    parser.add_argument("--grid", help="a picture of synthetic images goes there")
    print(json.dumps(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
