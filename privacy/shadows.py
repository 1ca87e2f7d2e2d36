"""Shadow models: membership guessed by somebody who knows how a model is made, and makes some like it.

Models of the same configuration learn from random halves of the same rows. In each of them a target was or was not;
the attacker sees of each nothing but its synthetic rows. From all shadows but one he learns what synthetic rows look
like around a target that was learned from and around one that was not, and says of the shadow that was left out which
of the two it is: a likelihood ratio for each target (Carlini et al. 2022, arXiv 2112.03570), of synthetic rows instead
of losses (Stadler, Oprisanu and Troncoso 2022, arXiv 2011.07018; Meeus et al. 2023, arXiv 2306.10308). Every shadow
is left out once, so S shadows and T targets give S · T guesses.

It is the strongest attack here, and takes S fits, so no release makes it. What it measures is a configuration on such
rows, and not one release. Results hold rates and counts, and name no row and no value.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.special import comb

from privacy.attacks import FALSE_POSITIVES, NEAR, PARTS, Attack
from privacy.estimate import auc, estimate, risk
from privacy.metric import Flags, Floats, Metric, Places, Records, nearest

AT_RANDOM, EXPOSED = "shadow models", "shadow models, most exposed"
"""What is guessed about rows at random, and about those that lie farthest from all others."""

FEWEST = 200
"""Units without which nothing is attacked: each shadow would learn from a handful."""

SIZES = (1, 2, 4, 8)
"""Numbers of attributes in which synthetic rows may be like a target; all attributes come to them."""

LIKE_ALL = 8.0
"""Shadows that what is known of all targets is worth beside a target's own variance."""

RIDGE = 0.05
"""What is added to the variance of each feature, in units of it: features are nearly the same in many tables."""

RESAMPLED = 400
"""Times that shadows and targets are drawn anew for an interval."""


def most_exposed(rows: Records, rng: np.random.Generator) -> Places:
    """All rows, those first that lie farthest from others: the mean over the nearest in each of `PARTS` parts.

    Each half of the rows is held against the other half, so that no row is its own neighbour.
    """
    points = Metric(rows, rng).of(rows)
    order = rng.permutation(len(rows))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    far = np.empty(len(rows))
    for some, others in (halves, halves[::-1]):
        far[some] = np.sqrt(nearest(points[some], points[others], parts=PARTS)[0]).mean(1)
    return np.argsort(-far, kind="stable")


def around(targets: Records, known: Records, made: Iterable[Records], rng: np.random.Generator) -> Floats:
    """What the synthetic rows of each shadow look like around each target: float64 (S, T, F).

    Of each target: how near the nearest synthetic row is, and the nearest of each of `PARTS` parts in the mean, as
    logarithms; and the logarithm of how many synthetic rows have its values in k attributes, in the mean over all sets
    of k (`SIZES`), in place of the counts for sets at random that Houssiau et al. (2022, arXiv 2211.06550) ask for.
    Numbers have the same value where a share of at most `NEAR` of the known ones lies between.

    Args:
        targets: rows that are attacked.
        known: rows like them, by which numbers are scaled.
        made: the synthetic rows of each shadow, in the same columns.
        rng: draws attributes where there are many.
    """
    metric = Metric(known, rng)
    points, least = metric.of(targets), metric.unit / 50
    shared = _Shared(targets, known)
    found = []
    for synthetic in made:
        far = np.log(np.sqrt(nearest(points, metric.of(synthetic), parts=PARTS)[0]) + least)
        counts = np.log1p(shared(synthetic))
        found.append(np.column_stack([-far.min(1), -far.mean(1), counts]))
    return np.stack(found)


class _Shared:
    """In how many attributes synthetic rows are like targets."""

    def __init__(self, targets: Records, known: Records) -> None:
        self._targets = targets
        self._low, self._high = _reach(targets.numbers, known.numbers)
        total = targets.attributes
        sizes = (*(k for k in SIZES if k < total), total)
        # A row that is like a target in a attributes is so in this share of all sets of k.
        self._sets = np.array([[comb(a, k) / comb(total, k) for k in sizes] for a in range(total + 1)])

    def __call__(self, synthetic: Records) -> Floats:
        """Rows that are like each target in k attributes, in the mean over sets of k: float64 (T, sizes)."""
        alike = np.zeros((len(self._targets), len(synthetic)), np.int16)
        for own, codes in zip(self._targets.codes.T, synthetic.codes.T, strict=True):
            alike += own[:, None] == codes
        columns = zip(self._targets.numbers.T, self._low.T, self._high.T, synthetic.numbers.T, strict=True)
        for own, low, high, numbers in columns:
            alike += (low[:, None] <= numbers) & (numbers <= high[:, None])
            alike += np.isnan(own)[:, None] & np.isnan(numbers)
        counts = np.stack([np.bincount(row, minlength=len(self._sets)) for row in alike])
        return np.asarray(counts @ self._sets)


def _reach(numbers: Floats, known: Floats) -> tuple[Floats, Floats]:
    """The ends between which a number counts as the same: float64 (T, B) each, NaN where it is missing."""
    ends = np.stack([numbers, numbers])
    for a, column in enumerate(known.T):
        ordered = np.sort(column[~np.isnan(column)])
        if len(ordered):
            reach, last = int(NEAR * len(ordered)), len(ordered) - 1
            left, right = (np.searchsorted(ordered, numbers[:, a], side) for side in ("left", "right"))
            ends[0, :, a] = np.minimum(numbers[:, a], ordered[np.clip(left - reach, 0, last)])
            ends[1, :, a] = np.maximum(numbers[:, a], ordered[np.clip(right - 1 + reach, 0, last)])
    return ends[0], ends[1]


def guess(name: str, features: Floats, member: Flags, rng: np.random.Generator) -> Attack:
    """Guesses of each shadow, by all others, which targets it learned from.

    Success and control are the shares of members and of non-members that are claimed as members when at most
    `FALSE_POSITIVES` of the latter are. Guesses about one target are alike, and so are those about one shadow: targets
    and shadows are drawn anew, each by themselves (the pigeonhole bootstrap of Owen 2007, which is wide rather than
    narrow), and intervals count as many guesses as would vary so much if each were by itself.

    Args:
        name: of the attack.
        features: of each target in the synthetic rows of each shadow, float64 (S, T, F).
        member: whether the shadow learned from the target, bool (S, T), drawn by independent fair coins.
        rng: draws for the intervals.

    Raises:
        ValueError: shapes differ, or there are fewer than four shadows.
    """
    if features.shape[:2] != member.shape or len(member) < 4:
        raise ValueError(
            f"four shadows at least must say of each target whether they learned from it, however: the shapes are "
            f"{features.shape} and {member.shape}"
        )
    scores = np.stack([_ratios(features, member, left_out) for left_out in range(len(member))])
    outsiders = np.sort(scores[~member])
    claimed = scores > outsiders[len(outsiders) - int(FALSE_POSITIVES * len(outsiders)) - 1]
    success, control = (float(claimed[side].mean()) for side in (member, ~member))
    area = auc(scores[member], scores[~member]).value
    order = np.argsort(-scores, axis=None, kind="stable")
    drawn = []
    for _ in range(RESAMPLED):
        shadows, targets = (rng.multinomial(n, np.full(n, 1 / n)) for n in member.shape)
        drawn.append(_rates(np.outer(shadows, targets), claimed, member, order))
    errors = np.std(drawn, axis=0)
    guesses = [
        _by_itself(rate, float(error), int(side.sum()), min(member.shape))
        for rate, error, side in zip((success, control), errors, (member, ~member), strict=False)
    ]
    reach = float(errors[2])
    return Attack(
        name=name, guesses=int(member.sum()), success=success, control=control,
        risk=risk(success, guesses[0], control, guesses[1]),
        auc=estimate(area, lambda z: (max(0.0, area - z * reach), min(1.0, area + z * reach))),
    )  # fmt: skip


def _rates(
    weights: NDArray[np.int64], claimed: Flags, member: Flags, order: Places
) -> tuple[float, float, float]:
    """Success, control and the area under the curve, where each guess, (S, T), counts so many times.

    `order` is that of all guesses, the most confident first.
    """
    right, wrong = weights * member, weights * ~member
    members, others = max(right.sum(), 1), max(wrong.sum(), 1)
    before = np.cumsum(right.ravel()[order])
    area = (before * wrong.ravel()[order]).sum() / (members * others)
    return float((right * claimed).sum() / members), float((wrong * claimed).sum() / others), float(area)


def _by_itself(rate: float, error: float, most: int, fewest: int) -> float:
    """How many guesses, each by itself, would have such an error."""
    return float(np.clip(rate * (1 - rate) / max(error**2, 1e-12), fewest, most))


def _ratios(features: Floats, member: Flags, left_out: int) -> Floats:
    """The logarithm of how much likelier one shadow's features are if it learned from a target: float64 (T,).

    In and out, features are taken to be normal, with one covariance. With few shadows little is known of one target:
    its variance is pulled to that of all, and what moves when it is learned from to what moves in the mean over
    targets, the more, the less targets differ in it (Carlini et al. take one variance for all, section VI-C).
    """
    others = np.arange(len(features)) != left_out
    x, inside = features[others], member[others][..., None]
    ins, outs = inside.sum(0), (~inside).sum(0)
    mean_in, mean_out = (x * inside).sum(0) / np.maximum(ins, 1), (x * ~inside).sum(0) / np.maximum(outs, 1)
    residual = x - np.where(inside, mean_in, mean_out)
    freedom = max(len(x) - 2, 1)
    common = (residual**2).sum(0).mean(0) / freedom
    scale = np.sqrt(((residual**2).sum(0) + LIKE_ALL * common) / (freedom + LIKE_ALL)) + 1e-9
    moved = _pulled((mean_in - mean_out) / scale, ins, outs)
    flat = (residual / scale).reshape(-1, x.shape[2])
    covariance = flat.T @ flat / (freedom * x.shape[1]) + RIDGE * np.eye(x.shape[2])
    # Halfway between in and out.
    middle = (x / scale - (inside - 0.5) * moved).mean(0)
    apart: Floats = np.linalg.solve(covariance, moved.T).T
    return np.asarray(((features[left_out] / scale - middle) * apart).sum(1))


def _pulled(moved: Floats, ins: NDArray[np.int64], outs: NDArray[np.int64]) -> Floats:
    """What moves around each target, float64 (T, F) in standard deviations, pulled to the mean over targets."""
    known = (ins > 0) & (outs > 0)
    error = 1 / np.maximum(ins, 1) + 1 / np.maximum(outs, 1)
    weight = np.where(known, 1 / error, 0.0)
    usual = (weight * moved).sum(0) / np.maximum(weight.sum(0), 1e-9)
    differ = np.where(known, (moved - usual) ** 2 - error, 0.0).sum(0) / max(int(known.sum()), 1)
    own = np.maximum(differ, 0.0)
    return np.asarray(usual + np.where(known, own / (own + error), 0.0) * (moved - usual))
