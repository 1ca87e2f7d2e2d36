import base64
import io
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from validation.gates import GateRules, verdict
from validation.images import ImageEvidence, image_evidence, kernel_distance, render, sheet_of
from validation.inception import Moments, frechet
from validation.public import _images

RNG = np.random.default_rng(0)


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    order = np.random.default_rng(1).permutation(len(data.target))
    pixels = (data.images[order] * (255 / 16)).astype(np.uint8)[..., None]
    return pixels, data.target[order]


X, Y = digits()
TRAIN, HELD, FRESH = slice(0, 700), slice(700, 1250), slice(1250, 1797)


def evidence(synthetic: np.ndarray, labels: np.ndarray | None, *, train: slice = TRAIN) -> ImageEvidence:
    pixels = {"train": X[train], "holdout": X[HELD], "synthetic": synthetic}
    said = None if labels is None else {"train": Y[train], "holdout": Y[HELD], "synthetic": labels}
    found = image_evidence(pixels, said, seed=0)
    assert found is not None
    return found


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Digits of 8 × 8 pixels are learned in fewer steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("validation.recognizer.STEPS", 120)
        yield


@pytest.fixture(scope="module")
def honest() -> ImageEvidence:
    """Rows of the same distribution that nobody saw, in the synthetic rows' place."""
    return evidence(X[FRESH], Y[FRESH])


@pytest.fixture(scope="module")
def unlabelled() -> ImageEvidence:
    return evidence(X[FRESH], None)


def collapsed() -> np.ndarray:
    """Three images, with a little noise."""
    chosen = X[FRESH][RNG.integers(0, 3, 547)].astype(int) + RNG.integers(-4, 5, (547, 8, 8, 1))
    return np.clip(chosen, 0, 255).astype(np.uint8)


def test_rows_that_nobody_saw_are_as_good_as_held_out_ones(honest: ImageEvidence) -> None:
    close = honest.closeness
    assert close.features == "classifier"
    assert close.frechet_ceiling is not None
    assert close.frechet < 1.5 * close.frechet_ceiling
    for name in ("precision", "recall", "coverage", "density"):
        figure = getattr(close, name)
        assert figure.value.high >= figure.ceiling.low - 0.03, name
    assert close.kernel.value.low < close.kernel.ceiling.high
    assert close.score == pytest.approx(close.score_ceiling, rel=0.1)
    assert close.score > 7


def test_a_classifier_of_good_rows_knows_as_much_as_one_of_real_rows(honest: ImageEvidence) -> None:
    assert honest.use is not None
    assert (honest.use.taught, honest.use.tested) == (547, 550)
    assert honest.use.accuracy.value.value > 0.9
    assert honest.use.accuracy.value.high > honest.use.accuracy.ceiling.low
    assert honest.use.auc.value.value > 0.99
    assert honest.use.chance < 0.2


def test_rows_that_nobody_saw_are_no_copies(honest: ImageEvidence, unlabelled: ImageEvidence) -> None:
    for found in (*honest.nearness, *unlabelled.nearness):
        assert found.close.low <= found.close_ceiling.high
        assert found.nearer.low < 0.55
    assert honest.identical == honest.identical_ceiling == 0


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("noise", [0, 3])
def test_copies_are_found(share: float, noise: int) -> None:
    copied = RNG.random(547) < share
    synthetic = np.where(copied[:, None, None, None], X[RNG.choice(700, 547)], X[FRESH]).astype(int)
    moved = np.clip(synthetic + RNG.integers(-noise, noise + 1, synthetic.shape), 0, 255).astype(np.uint8)
    found = evidence(moved, None)
    pixels, features = found.nearness
    for space in (pixels, features):
        assert space.close.low > space.close_ceiling.high
        assert space.close.value == pytest.approx(share, abs=0.1)
    assert pixels.nearer.low > 0.5
    if noise == 0:
        assert found.identical == pytest.approx(share, abs=0.1)


def test_smooth_images_are_near_all_others_and_yet_no_copies() -> None:
    blurred = (X[FRESH].astype(float) * 0.6 + X[FRESH].mean(axis=0) * 0.4).astype(np.uint8)
    pixels = evidence(blurred, None).nearness[0]
    assert pixels.nearer.low < 0.5 < pixels.nearer.high


def test_shuffled_labels_are_good_for_nothing(honest: ImageEvidence) -> None:
    found = evidence(X[FRESH], RNG.permutation(Y[FRESH]))
    assert found.use is not None
    assert honest.use is not None
    assert found.use.accuracy.value.high < 0.5
    assert found.use.accuracy.ceiling == honest.use.accuracy.ceiling
    assert abs(found.use.auc.value.value - 0.5) < 0.2


@pytest.mark.parametrize("labelled", [True, False])
def test_a_collapsed_set_covers_little(labelled: bool) -> None:
    found = evidence(collapsed(), Y[FRESH] if labelled else None).closeness
    assert found.coverage.value.high < found.coverage.ceiling.low / 2
    assert found.recall.value.high < found.recall.ceiling.low / 2
    assert found.frechet > 2 * (found.frechet_ceiling or 0)
    assert found.kernel.value.surely > found.kernel.ceiling.high


@pytest.mark.parametrize("labelled", [True, False])
def test_noise_is_not_precise(labelled: bool) -> None:
    noise = RNG.integers(0, 256, X[FRESH].shape).astype(np.uint8)
    found = evidence(noise, Y[FRESH] if labelled else None).closeness
    assert found.precision.value.high < found.precision.ceiling.low
    assert found.density.value.high < found.density.ceiling.low
    assert found.frechet > 3 * (found.frechet_ceiling or 0)


def test_without_classes_features_are_random_and_nothing_is_said_of_use(unlabelled: ImageEvidence) -> None:
    assert unlabelled.closeness.features == "random"
    assert (unlabelled.use, unlabelled.closeness.score) == (None, None)
    one = image_evidence(
        {"train": X[TRAIN], "holdout": X[HELD], "synthetic": X[FRESH]},
        {"train": np.zeros(700), "holdout": np.zeros(550), "synthetic": np.zeros(547)},
        seed=0,
    )
    assert one == unlabelled


def test_the_same_seed_gives_the_same_figures_whatever_torch_does_elsewhere(
    unlabelled: ImageEvidence,
) -> None:
    threads = torch.get_num_threads()
    torch.rand(3)
    state = torch.get_rng_state()
    assert evidence(X[FRESH], None) == unlabelled
    assert (torch.get_rng_state() == state).all()
    assert torch.get_num_threads() == threads


def test_evidence_survives_json(honest: ImageEvidence, unlabelled: ImageEvidence) -> None:
    for found in (honest, unlabelled):
        assert ImageEvidence.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_classes_that_training_rows_lack_are_left_out() -> None:
    found = evidence(X[FRESH], np.where(Y[FRESH] == 3, 99, Y[FRESH]))
    assert found.use is not None
    assert found.use.taught == (Y[FRESH] != 3).sum()


def test_few_rows_say_nothing() -> None:
    pixels = {"train": X[:49], "holdout": X[HELD], "synthetic": X[FRESH]}
    assert image_evidence(pixels, None, seed=0) is None
    few = image_evidence({"train": X[TRAIN], "holdout": X[700:710], "synthetic": X[FRESH]}, None, seed=0)
    assert few is not None
    assert (few.nearness, few.closeness.frechet_ceiling, few.closeness.recall.ceiling) == ((), None, None)


def test_large_coloured_images_are_shrunk() -> None:
    pixels = {
        side: RNG.integers(0, 256, (60, 50, 70, 3)).astype(np.uint8)
        for side in ("train", "holdout", "synthetic")
    }
    labels = {side: np.repeat(["a", "b"], 30) for side in pixels}
    found = image_evidence(pixels, labels, seed=0)
    assert found is not None
    assert found.closeness.rows == 60


def test_frechet_is_that_of_two_normal_distributions() -> None:
    # Between N(μ, σ²) in each dimension: Σ (μ₁ − μ₂)² + (σ₁ − σ₂)².
    rows = RNG.standard_normal((200_000, 2)) * [1, 2], RNG.standard_normal((200_000, 2)) * [3, 2] + [0, 1]
    a, b = map(Moments.of, rows)
    assert frechet(a, b) == pytest.approx(4 + 1, rel=0.02)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_the_kernel_distance_is_unbiased() -> None:
    found = [kernel_distance(*RNG.standard_normal((2, 20, 3))) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    shifted = RNG.standard_normal((200, 3)) + 1
    assert kernel_distance(RNG.standard_normal((200, 3)), shifted) > 0.5


# -------------------------------------------------------------------------------------------- the gate, the pages


def refused(found: ImageEvidence) -> set[str]:
    return {f.rule for f in verdict(None, (), GateRules(), images=found).critical}


def test_the_gate_refuses_copies_and_nothing_honest(honest: ImageEvidence, unlabelled: ImageEvidence) -> None:
    assert not verdict(None, (), GateRules(), images=honest).findings
    assert not verdict(None, (), GateRules(), images=unlabelled).findings
    near_copies = np.clip(X[TRAIN][:547].astype(int) + RNG.integers(-3, 4, (547, 8, 8, 1)), 0, 255)
    for share in (0.3, 1.0):
        some = np.where(RNG.random((547, 1, 1, 1)) < share, near_copies, X[FRESH]).astype(np.uint8)
        assert refused(evidence(some, None)) == {"images"}
    rules = GateRules(warn_only=("images",))
    assert verdict(None, (), rules, images=evidence(near_copies.astype(np.uint8), None)).passed


def test_images_that_teach_nothing_are_warned_of() -> None:
    shuffled = evidence(X[FRESH], RNG.permutation(Y[FRESH]))
    found = verdict(None, (), GateRules(), images=shuffled)
    assert found.passed
    assert [f.rule for f in found.warnings] == ["images"]
    assert "one of real images knows" in found.warnings[0].message


def test_the_sheet_shows_a_row_for_each_class(honest: ImageEvidence) -> None:
    text = sheet_of(X[FRESH], Y[FRESH])
    assert text is not None
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert sheet.shape == (10 * 9 * 8, 10 * 9 * 8)
    first = X[FRESH][Y[FRESH] == 3][0, :, :, 0]
    assert (sheet[3 * 72 : 3 * 72 + 64 : 8, 0:64:8] == first).all()
    assert sheet_of(X[:0], None) is None
    page = render(replace(honest, sheet=text))
    assert f'src="data:image/png;base64,{text}"' in page
    assert render(None).count("Not compared") == 1


def test_copies_of_few_images_are_refused_though_too_few_are_held_out_to_see_how_near_they_lie() -> None:
    pixels = {"train": X[:300], "holdout": X[300:360], "synthetic": X[:300]}
    found = image_evidence(pixels, None, seed=0)
    assert found is not None
    assert not found.nearness
    judged = verdict(None, (), GateRules(), images=found)
    assert {f.rule for f in judged.critical} == {"images"}
    honest_few = image_evidence({**pixels, "synthetic": X[FRESH]}, None, seed=0)
    judged = verdict(None, (), GateRules(), images=honest_few)
    assert judged.passed
    assert "too few are held out" in judged.warnings[0].message


def test_copies_are_looked_for_among_all_images_of_a_unit() -> None:
    one_of_each = {"train": X[:100], "holdout": X[HELD], "synthetic": X[100:647]}
    assert image_evidence(one_of_each, None, seed=0).identical == 0  # type: ignore[union-attr]
    assert image_evidence(one_of_each, None, seed=0, searched=X[:700]).identical == 1  # type: ignore[union-attr]


def test_classes_that_no_synthetic_image_has_teach_nothing_and_break_nothing() -> None:
    found = evidence(X[FRESH], np.full(547, 77))
    assert found.use is None
    assert found.closeness.features == "classifier"
    assert (
        image_evidence({"train": X[TRAIN], "holdout": X[:0], "synthetic": X[FRESH]}, None, seed=0) is not None
    )


def test_what_leaves_resolves_no_fewer_held_out_images_than_ten(honest: ImageEvidence) -> None:
    shown = _images(honest, honest, 10)
    steps = 550 / 10
    for share in (shown.use.chance, shown.use.accuracy.ceiling.value, shown.use.accuracy.value.value):  # type: ignore[union-attr]
        assert share * round(steps) == pytest.approx(round(share * round(steps)), abs=1e-3)
    assert shown.use.chance != honest.use.chance  # type: ignore[union-attr]
    assert shown.closeness.recall.value.value == pytest.approx(honest.closeness.recall.value.value, abs=0.02)
    assert ImageEvidence.from_dict(json.loads(json.dumps(shown.to_dict()))) == shown
