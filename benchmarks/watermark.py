"""Watermark: what a mark costs in quality, and what it survives, on images drawn from a model of MNIST.

    python benchmarks/watermark.py /path/to/data --levels 0 1 2 --threads 1

The folder holds imaging/mnist. One model is fitted and drawn from; its images are marked with each strength, and a
convolutional network learns from them and is tested on real images, as in `benchmarks/images.py`. Each line also has
the evidence of a report, and how surely the mark is found after what people do to images. A line each, in JSON.
"""

import argparse
import io
import json
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from images import classifier, load, score, table_of, told
from PIL import Image, ImageEnhance, ImageFilter

import synth
from synth.images import images, pixels
from synth.watermark import FALSE_ALARM, Detector, Key, Pattern
from validation.images import image_evidence

KEY, OTHER = Key.of("the key of the benchmark"), Key.of("some other key, as long")

Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    def packed(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return packed


def noise(image: Image.Image) -> Image.Image:
    # Another for each image: the same for all would move all of them the same way.
    rng = np.random.default_rng(zlib.crc32(image.tobytes()))
    return Image.fromarray(
        np.clip(np.asarray(image) + rng.normal(0, 5, image.size[::-1]), 0, 255).astype(np.uint8)
    )


def resized(image: Image.Image) -> Image.Image:
    w, h = image.size
    return image.resize((w * 2, h * 2), Image.Resampling.BICUBIC).resize((w, h), Image.Resampling.BICUBIC)


def halved(image: Image.Image) -> Image.Image:
    w, h = image.size
    return image.resize((w // 2, h // 2), Image.Resampling.BICUBIC).resize((w, h), Image.Resampling.BICUBIC)


CHANGES: dict[str, Change] = {
    "nothing": lambda image: image,
    "jpeg 75": jpeg(75),
    "jpeg 50": jpeg(50),
    "noise of 5 levels": noise,
    "twice the size and back": resized,
    "half the size and back": halved,
    "blur, radius 1": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "contrast + 2 %": lambda image: ImageEnhance.Brightness(image).enhance(1.02),
    "contrast + 10 %": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "moved by a pixel": lambda image: Image.fromarray(np.roll(np.asarray(image), 1, 1)),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def sighted(shown: np.ndarray, key: Key, levels: float) -> dict[str, object]:
    """How surely all images show the mark, and the share of them that are enough by themselves."""
    detector = Detector(key, levels)
    detector.look(shown)
    alone = []
    for image in shown[:200]:
        one = Detector(key, levels)
        one.look(image[None])
        alone.append(one.sighting().found)
    whole = detector.sighting()
    rate = 0.0 if whole.false_alarm == 0 else round(float(np.log10(whole.false_alarm)), 1)
    return {
        "z": round(whole.z, 1),
        "log10_false_alarm": rate,
        "found": whole.found,
        "alone": float(np.mean(alone)),
    }


def survived(shown: np.ndarray, levels: float) -> dict[str, object]:
    found = {}
    for name, change in CHANGES.items():
        changed = np.stack([np.asarray(change(Image.fromarray(x[..., 0])))[..., None] for x in shown])
        found[name] = sighted(changed, KEY, levels)
    return {**found, "another key": sighted(shown, OTHER, levels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="folder of the benchmark data")
    parser.add_argument("--levels", type=float, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=2, help="networks that learn from each")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--compared", type=int, default=10_000, help="images of each side that evidence sees")
    parser.add_argument("--changed", type=int, default=1000, help="images that are changed and searched")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.data) / "imaging"
    train, test = (load(folder, "mnist", part) for part in ("train", "test"))
    table, schema = table_of(*train)
    model = synth.fit(table, "image-mixture", schema=schema, seed=arguments.seed, threads=arguments.threads)
    drawn = model.sample(len(table), seed=arguments.seed)
    plain = pixels(drawn["image"].combine_chunks(), schema["image"].image)
    labels = drawn["label"].to_numpy()
    steps, some = arguments.epochs * len(plain) // 256, arguments.compared
    for levels in arguments.levels:
        began, shown = time.process_time(), plain
        if levels:
            shown = Pattern(key=KEY, height=28, width=28, levels=levels).mark(plain)
        seconds = time.process_time() - began
        error = ((shown.astype(float) - plain) ** 2).mean()
        sides = {"train": train, "holdout": test, "synthetic": (shown, labels)}
        evidence = image_evidence(
            {k: v[0][:some] for k, v in sides.items()}, {k: v[1][:some] for k, v in sides.items()},
            seed=arguments.seed,
        )  # fmt: skip
        found = {
            "levels": levels, "seed": arguments.seed, "images": len(shown), "mark_processor_seconds": round(seconds, 1),
            "moved_rms": round(float(np.sqrt(error)), 2),
            "bytes_of_png": round(float(np.mean([len(v["bytes"]) for v in images(shown[:1000]).to_pylist()]))),
            "accuracy": [
                score(classifier(shown, labels, steps=steps, seed=s, classes=10), *test)["accuracy"]
                for s in range(arguments.seeds)
            ],
            "evidence": told(evidence),
            "false_alarm_found": FALSE_ALARM,
            "survived": survived(shown[: arguments.changed], levels) if levels else {},
        }  # fmt: skip
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
