"""Figures of private images: cells that hang on one row alone, intervals that hold, damage that is seen."""

import functools
import json
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytest

from privacy.curator import Batch, ExactCurator
from privacy.private import Account, PrivateCurator
from synth.codec import Codec, Encoded
from synth.learn import learn
from synth.rows import EncodedStore, RawRows, table_source
from synth.table import labels_of
from tests.privacy.test_private import Quiet
from tests.synth.pictures import drawings, pictured_schema, with_pictures
from tests.synth.tables import KEY
from validation.coarse import Asked, ask
from validation.gates import GateRules, verdict
from validation.noised_images import FAR, Lens, NoisedImages, _Ratio, figures_of, lens_of, render

ROWS, NOISE = 2_400, 12.0


@pytest.fixture(scope="module", autouse=True)
def _quick() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("validation.recognizer.STEPS", 80)
        yield


def pictures(rows: int, *, seed: int, missing: float = 0.0) -> pa.Table:
    rng = np.random.default_rng(seed)
    team = rng.choice(3, rows, p=[0.5, 0.3, 0.2])
    table = pa.table(
        {"team": np.array(["a", "b", "c"])[team], "side": np.array(["l", "r"])[rng.integers(0, 2, rows)]}
    )
    return with_pictures(table, seed=seed, missing=missing)


@functools.cache
def codec_of() -> Codec:
    table = pictures(ROWS, seed=0, missing=0.1)
    schema = pictured_schema(table)
    rows = RawRows(schema, table_source(table))
    return Codec(schema, learn(schema, ExactCurator(rows, key=KEY, holdout=0.0), labels_of(rows)))


@dataclass(frozen=True)
class Drawing:
    """A model that draws rows of a table over and over."""

    rows: Encoded

    def draw(self, rows: int, rng: np.random.Generator, **_: object) -> Encoded:
        return self.rows.take(rng.integers(0, len(self.rows), rows))


REAL = pictures(ROWS, seed=1, missing=0.1)


def encoded(table: pa.Table) -> Encoded:
    return codec_of().encode(table)


@functools.cache
def lens(*, damage: str = "") -> Lens:
    rows = encoded(pictures(4 * ROWS, seed=2, missing=0.1))
    assert rows.pixels is not None
    if damage == "labels":
        rng = np.random.default_rng(0)
        rows = replace(rows, pixels=rows.pixels[rng.permutation(len(rows))])
        rows.states[:, 2] = 1
    elif damage == "modes":
        rows = rows.take(np.flatnonzero(rows.states[:, 0] != rows.states[:, 0].max()))
    found = lens_of(Drawing(rows), codec_of(), targets=(), seed=4)  # type: ignore[arg-type]
    assert found is not None
    return found


def batch_of(rows: Encoded) -> Batch:
    assert rows.pixels is not None
    columns = {"states": rows.states, "scores": rows.scores, "pixels": rows.pixels}
    return Batch(unit=np.arange(len(rows), dtype=np.uint64), columns=columns)


def asked(glass: Lens, rows: Encoded, *, noise: float, seed: int, held_out: bool = True) -> Asked:
    rng = np.random.default_rng(seed)
    cells = [m.cell(batch_of(rows)) for m in glass.asked]
    counts = tuple(
        (
            np.bincount(c[c >= 0], minlength=np.prod(m.shape))
            + np.rint(noise * rng.standard_normal(np.prod(m.shape)))
        )
        .reshape(m.shape)
        .astype(np.float64)
        for c, m in zip(cells, glass.asked, strict=True)
    )
    return Asked(counts=counts, noise_std=noise, unit_rows=1, held_out=held_out)


@functools.cache
def figures(*, damage: str = "", noise: float = NOISE, seed: int = 0) -> NoisedImages:
    found = figures_of(lens(damage=damage), asked(lens(damage=damage), encoded(REAL), noise=noise, seed=seed))
    assert found is not None
    return found


def test_a_row_lies_in_one_cell_whatever_lies_beside_it() -> None:
    rows = batch_of(encoded(REAL.slice(0, 150)))
    for marginal in lens().asked:
        together = marginal.cell(rows)
        turned = marginal.cell(rows.take(np.arange(len(rows))[::-1].copy()))[::-1]
        alone = [int(marginal.cell(rows.take(np.array([i])))[0]) for i in range(len(rows))]
        assert together.tolist() == alone == turned.tolist()
        assert ((together >= 0) == (rows.columns["states"][:, 2] > 0)).all()
        assert together.max() < np.prod(marginal.shape)


def test_one_more_row_moves_the_answer_by_what_was_charged() -> None:
    codec, glass = codec_of(), lens()
    answers, charges = [], []
    for table in (
        REAL.slice(0, 200),
        pa.concat_tables([REAL.slice(0, 200), REAL.slice(int(_with_image()), 1)]),
    ):
        rows = RawRows(codec.schema, table_source(table))
        exact = ExactCurator(rows, key=KEY, holdout=0.0)
        store = EncodedStore(None, unit_is_row=True)
        source = exact.recode(lambda b, rows=rows: codec.code(b, rows.dictionaries), store).source  # type: ignore[misc]
        account = Account(rho=0.5)
        curator = PrivateCurator(source, account, key=KEY, noise=Quiet())
        recount, seen = ask(
            curator, codec.layout, [0, 1], split="train", unit_rows=1, seed=0, more=glass.asked
        )
        answers.append(np.concatenate([c.ravel() for c in (*recount.counts, *seen.counts)]))
        charges.append(account.charges)
    assert [len(c) for c in charges] == [1, 1]
    assert np.linalg.norm(answers[1] - answers[0]) == pytest.approx(charges[0][0].sensitivity)


def _with_image() -> int:
    return int(np.flatnonzero(encoded(REAL).states[:, 2] > 0)[0])


def test_without_noise_to_speak_of_figures_are_the_plain_ones() -> None:
    found, rows = figures(noise=1e-6), encoded(REAL)
    there = rows.states[:, 2] > 0
    guess, place = (m.cell(batch_of(rows)) for m in reversed(lens().asked))
    assert found.right is not None
    assert found.right.value == pytest.approx((guess[there] % 2).mean())
    assert found.far.value == pytest.approx((place[there] % 2).mean())
    assert found.rows == there.sum()
    assert found.label == "team"
    assert [c.name for c in found.classes] == ["a", "b", "c"]
    for i, known in enumerate(found.classes):
        assert known.right is not None
        assert known.right.value == pytest.approx((guess[guess // 2 == i] % 2).mean())


def test_rows_of_the_same_kind_are_known_as_well_as_drawn_ones_and_lie_where_they_do() -> None:
    found = figures()
    assert found.right is not None
    assert found.right.low <= found.right_drawn <= found.right.high
    assert found.right.value > 0.9
    assert found.far.low < 2 * FAR
    assert found.regions.high >= found.regions.ceiling - 0.02
    assert verdict(None, (), GateRules(), noised_images=found).passed
    assert [j.outcome for j in verdict(None, (), GateRules(), noised_images=found).judged] == ["pass"]


def test_images_that_do_not_go_with_their_labels_are_found_out() -> None:
    found = figures(damage="labels")
    assert found.right is not None
    assert found.chance is not None
    assert found.right.high < 0.8
    # The network knows drawn images no better, so nothing is lost on the way to real ones.
    assert found.right_drawn < 0.8


def test_a_class_that_is_never_drawn_lies_far_from_all_that_is() -> None:
    found, honest = figures(damage="modes"), figures()
    assert found.far.low > honest.far.high
    assert found.regions.high < found.regions.ceiling
    assert len(found.classes) == 2
    # Nor is it known: of its images no network of drawn ones can be right.
    rows = encoded(REAL)
    shown = rows.states[:, 2] > 0
    lost = (rows.states[shown, 0] == rows.states[:, 0].max()).mean()
    assert lost > 0.1
    assert found.right is not None
    assert found.right.low <= 1 - lost <= found.right.high < 0.95


def test_where_no_drawn_image_has_a_class_that_is_left_to_look_at_nothing_is_said_of_classes() -> None:
    rows = encoded(pictures(4 * ROWS, seed=2))
    glass = lens_of(Drawing(rows), codec_of(), targets=(), seed=4)  # type: ignore[arg-type]
    assert glass is not None
    glass.looked.states[:, 0] = 0
    found = figures_of(glass, asked(glass, encoded(REAL), noise=NOISE, seed=0))
    assert found is not None
    assert found.right is None
    assert found.right_drawn is None


def test_a_classifier_that_fails_on_real_images_is_judged_and_warns() -> None:
    bad = replace(figures(), right=replace(figures().right, value=0.5, low=0.45, high=0.55))  # type: ignore[type-var]
    found = verdict(None, (), GateRules(), noised_images=bad)
    assert found.passed
    assert [f.rule for f in found.warnings] == ["utility"]
    assert "shown real ones" in found.warnings[0].message
    unsure = replace(figures(), right=replace(figures().right, value=0.8, low=0.6, high=1.0))  # type: ignore[type-var]
    assert [j.outcome for j in verdict(None, (), GateRules(), noised_images=unsure).judged] == ["undecided"]


@pytest.mark.parametrize(("share", "unit_rows"), [(0.5, 1), (0.97, 1), (0.05, 1), (0.9, 3)])
def test_intervals_of_shares_hold_for_noise_and_sampling(share: float, unit_rows: int) -> None:
    rng = np.random.default_rng(0)
    held, hidden = 0, 0
    for _ in range(400):
        part = unit_rows * rng.binomial(600, share)
        counts = np.array([600.0 * unit_rows - part, part])
        noisy = np.concatenate([np.repeat(counts[:, None] / 5, 5, axis=1)]) + rng.normal(0, 8, (2, 5))
        found = _Ratio(noise=8.0, unit_rows=unit_rows).of(noisy[1], noisy)
        if found is None:
            hidden += 1
        else:
            held += found.low <= share <= found.high
    assert hidden == 0
    # 95 of 100 hold; of 400, fewer than 92 % would be by chance once in some hundred.
    assert held >= 0.92 * 400
    assert _Ratio(noise=400.0, unit_rows=1).of(noisy[1], noisy) is None


def test_figures_survive_json_and_are_shown() -> None:
    found = replace(figures(), sheet="QUJD")
    assert NoisedImages.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    page = render(found, verdict(None, (), GateRules(), noised_images=found).judged)
    assert "Far from what is drawn" in page
    assert 'src="data:image/png;base64,QUJD"' in page
    assert "; pass" in page


def test_without_classes_regions_are_of_random_filters() -> None:
    rows = encoded(pictures(2 * ROWS, seed=2))
    rows.states[:, :2] = 1
    glass = lens_of(Drawing(rows), codec_of(), targets=(), seed=4)  # type: ignore[arg-type]
    assert glass is not None
    assert [m.what for m in glass.asked] == ["place"]
    found = figures_of(glass, asked(glass, encoded(REAL), noise=NOISE, seed=0))
    assert found is not None
    assert found.right is None
    assert found.far.low < 2 * FAR
    assert not verdict(None, (), GateRules(), noised_images=found).judged
    brighter = encoded(REAL)
    assert brighter.pixels is not None
    upside = replace(brighter, pixels=np.uint8(255) - brighter.pixels)
    other = figures_of(glass, asked(glass, upside, noise=NOISE, seed=0))
    assert other is not None
    assert other.far.low > 0.5


def test_no_more_images_are_drawn_than_fit_into_memory() -> None:
    rows = encoded(pictures(2 * ROWS, seed=2))
    glass = lens_of(Drawing(rows), codec_of(), targets=(), seed=4, most=800)  # type: ignore[arg-type]
    assert glass is not None
    assert glass.taught == 600
    assert lens_of(Drawing(rows), codec_of(), targets=(), seed=4, most=300) is None  # type: ignore[arg-type]


def test_too_few_images_teach_nothing() -> None:
    rows = encoded(pictures(300, seed=2))
    rows.states[30:, 2] = 0
    assert lens_of(Drawing(rows), codec_of(), targets=(), seed=0) is None  # type: ignore[arg-type]
    assert drawings(np.array([0]), np.random.default_rng(0)).shape == (1, 6, 6, 1)
