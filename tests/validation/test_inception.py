"""InceptionV3 against its layout written out in full, and what evidence says that was measured with it.

Weights are random: published ones are not here, so what is held is the network, not its figures.
"""

import hashlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from privacy.errors import InputError
from validation.card import _images as on_card
from validation.figures import _pictured
from validation.images import ImageEvidence, image_evidence, render
from validation.inception import FEATURES, SIDE, InceptionV3, Moments, Tally, Weights, load
from validation.public import _images as outside

RNG = np.random.default_rng(0)


def random(classes: int) -> dict[str, Tensor]:
    """A state dict whose features differ from image to image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        network = InceptionV3(classes)
        for name, tensor in network.state_dict().items():
            if name.endswith("conv.weight"):
                torch.nn.init.kaiming_normal_(tensor)
            elif name.endswith(("bn.weight", "running_var")):
                tensor.uniform_(0.7, 1.4)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(0, 0.1)
    return dict(network.state_dict())


@pytest.fixture(scope="module")
def ported() -> dict[str, Tensor]:
    return random(1008)


@pytest.fixture(scope="module")
def file(ported: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "pt_inception-2015-12-05.pth"
    torch.save(ported, path)
    yield path
    path.unlink()


# -------------------------------------------------------------------------------- the published layout, line by line


class Written:
    """The network as torchvision and pytorch-fid write it, from a state dict; `read` are the names that it used."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state, self.read = state, set[str]()
        self.ported = len(state["fc.bias"]) == 1008

    def of(self, name: str) -> Tensor:
        self.read.add(name)
        return self.state[name]

    def conv(
        self, x: Tensor, name: str, shape: tuple[int, ...], stride: int = 1, padding: object = 0
    ) -> Tensor:
        weight = self.of(f"{name}.conv.weight")
        assert tuple(weight.shape) == shape, name
        x = functional.conv2d(x, weight, None, stride, padding)  # type: ignore[arg-type]
        mean, var = self.of(f"{name}.bn.running_mean"), self.of(f"{name}.bn.running_var")
        weight, bias = self.of(f"{name}.bn.weight"), self.of(f"{name}.bn.bias")
        self.read.add(f"{name}.bn.num_batches_tracked")
        return functional.batch_norm(x, mean, var, weight, bias, eps=0.001).relu()

    def mean(self, x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=not self.ported)

    def a(self, x: Tensor, n: str, width: int, pooled: int) -> Tensor:
        b1 = self.conv(x, f"{n}.branch1x1", (64, width, 1, 1))
        b5 = self.conv(x, f"{n}.branch5x5_1", (48, width, 1, 1))
        b5 = self.conv(b5, f"{n}.branch5x5_2", (64, 48, 5, 5), padding=2)
        b3 = self.conv(x, f"{n}.branch3x3dbl_1", (64, width, 1, 1))
        b3 = self.conv(b3, f"{n}.branch3x3dbl_2", (96, 64, 3, 3), padding=1)
        b3 = self.conv(b3, f"{n}.branch3x3dbl_3", (96, 96, 3, 3), padding=1)
        bp = self.conv(self.mean(x), f"{n}.branch_pool", (pooled, width, 1, 1))
        return torch.cat([b1, b5, b3, bp], 1)

    def b(self, x: Tensor, n: str) -> Tensor:
        b3 = self.conv(x, f"{n}.branch3x3", (384, 288, 3, 3), 2)
        bd = self.conv(x, f"{n}.branch3x3dbl_1", (64, 288, 1, 1))
        bd = self.conv(bd, f"{n}.branch3x3dbl_2", (96, 64, 3, 3), padding=1)
        bd = self.conv(bd, f"{n}.branch3x3dbl_3", (96, 96, 3, 3), 2)
        return torch.cat([b3, bd, functional.max_pool2d(x, 3, 2)], 1)

    def c(self, x: Tensor, n: str, w: int) -> Tensor:
        b1 = self.conv(x, f"{n}.branch1x1", (192, 768, 1, 1))
        b7 = self.conv(x, f"{n}.branch7x7_1", (w, 768, 1, 1))
        b7 = self.conv(b7, f"{n}.branch7x7_2", (w, w, 1, 7), padding=(0, 3))
        b7 = self.conv(b7, f"{n}.branch7x7_3", (192, w, 7, 1), padding=(3, 0))
        bd = self.conv(x, f"{n}.branch7x7dbl_1", (w, 768, 1, 1))
        bd = self.conv(bd, f"{n}.branch7x7dbl_2", (w, w, 7, 1), padding=(3, 0))
        bd = self.conv(bd, f"{n}.branch7x7dbl_3", (w, w, 1, 7), padding=(0, 3))
        bd = self.conv(bd, f"{n}.branch7x7dbl_4", (w, w, 7, 1), padding=(3, 0))
        bd = self.conv(bd, f"{n}.branch7x7dbl_5", (192, w, 1, 7), padding=(0, 3))
        bp = self.conv(self.mean(x), f"{n}.branch_pool", (192, 768, 1, 1))
        return torch.cat([b1, b7, bd, bp], 1)

    def d(self, x: Tensor, n: str) -> Tensor:
        b3 = self.conv(x, f"{n}.branch3x3_1", (192, 768, 1, 1))
        b3 = self.conv(b3, f"{n}.branch3x3_2", (320, 192, 3, 3), 2)
        b7 = self.conv(x, f"{n}.branch7x7x3_1", (192, 768, 1, 1))
        b7 = self.conv(b7, f"{n}.branch7x7x3_2", (192, 192, 1, 7), padding=(0, 3))
        b7 = self.conv(b7, f"{n}.branch7x7x3_3", (192, 192, 7, 1), padding=(3, 0))
        b7 = self.conv(b7, f"{n}.branch7x7x3_4", (192, 192, 3, 3), 2)
        return torch.cat([b3, b7, functional.max_pool2d(x, 3, 2)], 1)

    def e(self, x: Tensor, n: str, width: int, *, largest: bool) -> Tensor:
        def cross(y: Tensor, name: str) -> Tensor:
            a = self.conv(y, f"{name}a", (384, 384, 1, 3), padding=(0, 1))
            return torch.cat([a, self.conv(y, f"{name}b", (384, 384, 3, 1), padding=(1, 0))], 1)

        b1 = self.conv(x, f"{n}.branch1x1", (320, width, 1, 1))
        b3 = cross(self.conv(x, f"{n}.branch3x3_1", (384, width, 1, 1)), f"{n}.branch3x3_2")
        bd = self.conv(x, f"{n}.branch3x3dbl_1", (448, width, 1, 1))
        bd = self.conv(bd, f"{n}.branch3x3dbl_2", (384, 448, 3, 3), padding=1)
        bd = cross(bd, f"{n}.branch3x3dbl_3")
        pooled = functional.max_pool2d(x, 3, 1, 1) if largest else self.mean(x)
        return torch.cat([b1, b3, bd, self.conv(pooled, f"{n}.branch_pool", (192, width, 1, 1))], 1)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv(x, "Conv2d_1a_3x3", (32, 3, 3, 3), 2)
        x = self.conv(x, "Conv2d_2a_3x3", (32, 32, 3, 3))
        x = self.conv(x, "Conv2d_2b_3x3", (64, 32, 3, 3), padding=1)
        x = functional.max_pool2d(x, 3, 2)
        x = self.conv(x, "Conv2d_3b_1x1", (80, 64, 1, 1))
        x = self.conv(x, "Conv2d_4a_3x3", (192, 80, 3, 3))
        x = functional.max_pool2d(x, 3, 2)
        x = self.a(x, "Mixed_5b", 192, 32)
        x = self.a(x, "Mixed_5c", 256, 64)
        x = self.a(x, "Mixed_5d", 288, 64)
        x = self.b(x, "Mixed_6a")
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = self.c(x, name, width)
        assert x.shape[2:] == (17, 17)
        x = self.d(x, "Mixed_7a")
        x = self.e(x, "Mixed_7b", 1280, largest=False)
        x = self.e(x, "Mixed_7c", 2048, largest=self.ported)
        assert x.shape[2:] == (8, 8)
        features = functional.adaptive_avg_pool2d(x, 1).flatten(1)
        logits = features @ self.of("fc.weight").T
        bias = self.of("fc.bias")
        return features, logits if self.ported else logits + bias


@pytest.mark.parametrize("classes", [1008, 1000])
def test_it_is_the_network_that_was_published(classes: int) -> None:
    state = random(classes)
    network = InceptionV3(classes).eval()
    network.load_state_dict(state)
    written = Written(state)
    x = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        found, told = network(x), written(x)
    assert found[0].shape == (2, FEATURES)
    assert found[1].shape == (2, classes)
    for ours, theirs in zip(found, told, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert written.read == set(state)
    # 27,161,264 parameters, less 3,326,696 of torchvision's second head.
    assert sum(p.numel() for p in network.parameters()) == {1000: 23_834_568, 1008: 23_850_960}[classes]


def test_the_two_kinds_of_weights_are_pooled_as_they_were_trained(ported: dict[str, Tensor]) -> None:
    x = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    body = {n: t for n, t in ported.items() if not n.startswith("fc.")}
    found = []
    for classes in (1008, 1000):
        network = InceptionV3(classes).eval()
        network.load_state_dict(body, strict=False)
        with torch.inference_mode():
            found.append(network(x)[0])
    assert not torch.allclose(*found, rtol=1e-2)


# --------------------------------------------------------------------------------------------------- files of weights


def saved(folder: Path, content: object, name: str = "weights.pth") -> Path:
    torch.save(content, folder / name)
    return folder / name


def test_files_are_read_as_people_have_them(file: Path, ported: dict[str, Tensor], tmp_path: Path) -> None:
    network = load(file)
    assert network.name == "InceptionV3 (TensorFlow port of 2015-12-05)"
    assert network.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    pixels = RNG.integers(0, 256, (3, 20, 28, 1)).astype(np.uint8)
    features, chances = network.look(pixels)
    assert features.shape == (3, FEATURES)
    assert features.std(axis=0).mean() > 1e-3
    assert chances.sum(axis=1) == pytest.approx(1)
    again = network.look(pixels.repeat(3, axis=3))
    assert np.allclose(features, again[0], rtol=1e-4, atol=1e-4)
    head = {"AuxLogits.conv0.conv.weight": torch.zeros(1)}
    uncounted = {n: t.clone() for n, t in ported.items() if "num_batches" not in n} | head
    save_file(uncounted, tmp_path / "weights.safetensors")
    other = load(tmp_path / "weights.safetensors")
    assert other.digest != network.digest
    assert (other.look(pixels)[0] == features).all()


@pytest.fixture(scope="module")
def hollow(ported: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same names and shapes in a file of a few kilobytes."""
    return {n: torch.zeros(()).expand(t.shape) for n, t in ported.items()}


def test_weights_that_do_not_fit_are_refused_by_name(hollow: dict[str, Tensor], tmp_path: Path) -> None:
    name = "Mixed_6b.branch7x7_2.conv.weight"
    spoiled = {
        "is missing": {n: t for n, t in hollow.items() if n != name},
        "is too much": {**hollow, f"{name}.more": torch.zeros(1)},
        "has shape (1,), not (128, 128, 1, 7)": {**hollow, name: torch.zeros(1)},
        "not finite": {**hollow, name: torch.tensor(torch.nan).expand(128, 128, 1, 7)},
    }
    assert load(saved(tmp_path, hollow)).name
    for said, state in spoiled.items():
        with pytest.raises(InputError, match=name) as caught:
            load(saved(tmp_path, state))
        assert said in str(caught.value)
    for classes in (10, 1001):
        with pytest.raises(InputError, match=rf"fc.weight has shape \({classes}, 2048\)"):
            load(saved(tmp_path, {**hollow, "fc.weight": torch.zeros(()).expand(classes, FEATURES)}))


def test_what_holds_no_weights_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("this must not run",)

    (tmp_path / "text.safetensors").write_text("no weights")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"fc.weight": Code()}, protocol=2))
    files = [saved(tmp_path, [1, 2]), saved(tmp_path, {"fc.weight": 3}, "b.pth")]
    for path in [*files, tmp_path / "text.safetensors", tmp_path / "code.pth"]:
        with pytest.raises(InputError, match="must be a state dict, however"):
            load(path)
    assert not capsys.readouterr().out
    with pytest.raises(InputError, match=r"it has no fc\.weight"):
        load(saved(tmp_path, {"a": torch.zeros(1)}))
    for path in (tmp_path, tmp_path / "gone.pth"):
        with pytest.raises(InputError, match="readable file"):
            load(path)


# ------------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_a_tally_is_that_of_all_images_at_once(batch: int) -> None:
    features = RNG.standard_normal((50, FEATURES)) + 100
    chances = RNG.dirichlet(np.ones(5), 50)
    tally = Tally(40)
    for start in range(0, 50, batch):
        tally.add(features[start : start + batch], chances[start : start + batch])
    found, whole = tally.moments(), Moments.of(features[:40])
    assert np.allclose(found.mean, whole.mean)
    assert np.allclose(found.covariance, whole.covariance, atol=1e-9)
    scores = []
    for part in np.split(chances[:40], 10):
        apart = [np.sum(p * np.log(p / part.mean(axis=0))) for p in part]
        scores.append(np.exp(np.mean(apart)))
    assert tally.score() == pytest.approx((np.mean(scores), np.std(scores)))


@pytest.fixture(scope="module")
def found(file: Path) -> ImageEvidence:
    """Of images of noise: the synthetic ones brighter than the real ones; the smallest that the network takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("validation.inception.SIDE", 75)
        rng = np.random.default_rng(1)
        sides = {"train": (72, 0), "holdout": (50, 0), "synthetic": (70, 100)}
        pixels = {s: rng.integers(low, 256, (n, 8, 8, 1)).astype(np.uint8) for s, (n, low) in sides.items()}
        evidence = image_evidence(pixels, None, seed=0, inception=Weights(path=file, images=50))
    assert evidence is not None
    return evidence


def test_distances_are_in_its_features_and_bear_its_name(found: ImageEvidence, file: Path) -> None:
    close, by = found.closeness, found.closeness.inception
    assert by is not None
    assert (close.features, close.rows, by.images, by.most) == ("inception", 50, 50, 50)
    assert by.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert close.frechet_ceiling is not None
    assert close.frechet > 1.5 * close.frechet_ceiling
    assert (by.most_frechet, by.most_score, by.most_score_sd) == (close.frechet, close.score, by.score_sd)
    assert close.kernel.value.value > 2 * abs(close.kernel.ceiling.value)  # type: ignore[union-attr]
    assert close.score is not None
    assert close.score_ceiling is not None
    assert 1 <= close.score < 1008
    assert ImageEvidence.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_pages_and_figures_say_of_which_weights_and_how_many_images(found: ImageEvidence) -> None:
    by = found.closeness.inception
    assert by is not None
    page = render(found)
    for said in (
        by.digest,
        by.name,
        "(FID)",
        "(KID)",
        "Inception Score",
        "of 50 images of each side",
        "50,000 images",
    ):
        assert said in page
    assert "FID of" not in page
    more = replace(
        found, closeness=replace(found.closeness, inception=replace(by, most=60, most_frechet=7.5))
    )
    assert "FID of 60 images" in render(more)
    other = replace(
        found, closeness=replace(found.closeness, inception=replace(by, name="InceptionV3 (torchvision)"))
    )
    assert "compare with none of these" in render(other)
    assert by.digest[:12] in "".join(on_card(found))
    assert _pictured(found)["inception"]["most"] == 50
    shown = outside(found, found, 10).closeness.inception
    assert shown is not None
    assert (shown.name, shown.digest) == (by.name, by.digest)
