"""Attacks: what somebody who holds the synthetic rows can learn of those who are in the training rows.

Each attack makes guesses about training rows, and the same guesses about held-out rows, of which the synthetic
rows know nothing. What it achieves on these is chance, correlation and luck; what it achieves beyond them is
leakage. Every attack states it in one figure, the `risk`

    R = (success − control) / (1 − control),

the share of what the control left to be won that the attack did win: 0 where the synthetic rows give nothing
away of the rows that they were learned from, 1 where they give away all. The frame, and singling out,
linkability and attribute inference in it, follow the description of Giomi, Boenisch, Wehmeyer and Tasnádi (2022,
arXiv 2211.10459); the code is our own. Held-out rows must be drawn like the training rows: beside rows of a later
month every honest model looks as if it leaked.

`attack` tries all that need no fit. An attack by shadow models needs one for each shadow, and is made on demand
(`privacy.shadows`).

Results hold rates and counts, and name no row and no value.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.estimate import Estimate, auc, estimate, risk, wilson
from privacy.metric import Flags, Floats, Metric, Places, Points, Records, nearest, two_nearest

FEWEST = 100
"""Rows of a side without which nothing is attacked: the intervals would say nothing."""

FEWEST_GUESSES = 20
"""Guesses on each side, about predicates or about exposed rows, without which an attack is left out."""

SEARCHED = 32_768
"""Synthetic rows that an attacker searches at most."""

MEMBERS = 8_192
"""Rows whose membership is guessed on each side at most."""

TARGETS = 4_000
"""Guesses of the other attacks on each side at most."""

FALSE_POSITIVES = 0.01
"""Share of the non-members that a guess of membership may take for members."""

EXPOSED = 0.05
"""Share of the rows that count as the most exposed: they lie farthest from all other real rows."""

PARTS = 8
"""Parts of the reference rows, the mean over whose nearest is a density and not one neighbour; sets of halves."""

CLOSE = 0.25
"""A near copy is at most so much as far from the nearest real row as from the next."""

NEAR = 0.05
"""A guessed number is right where so small a share of the synthetic numbers lies between it and the truth."""

TRIES = 3
"""Synthetic rows that are looked at for each predicate that is wanted."""

SECRETS = 64
"""Attributes that are inferred at most."""

NAMES = (
    "copies", "near copies", "distance", "membership", "membership, most exposed", "singling out by one value",
    "singling out by several values", "linkability", "linkability, most exposed", "inference",
    "inference, most exposed",
)  # fmt: skip
"""All quick attacks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sides:
    """What an attack is tried on, one row for each privacy unit, in the same columns on each side."""

    train: Records
    holdout: Records
    synthetic: Records

    def __post_init__(self) -> None:
        shapes = {(r.codes.shape[1], r.numbers.shape[1]) for r in (self.train, self.holdout, self.synthetic)}
        if len(shapes) > 1:
            raise ValueError(f"all sides must have the same columns, however: they have {sorted(shapes)}")


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What one attack achieved.

    Attributes:
        name: one of `NAMES`, or of the two of `privacy.shadows`.
        guesses: about training rows; of copies and distances, synthetic rows that were taken for one.
        success: share of the guesses that were right.
        control: what the same guesser achieves on held-out rows, or what chance gives.
        risk: (success − control) / (1 − control), at least −1.
        naive: what is achieved on training rows without looking at a synthetic row as a whole; None where the
            control says it. Where `success` is not above, the attack was too weak for its risk to be a comfort.
        auc: of membership: the chance that a member looks more like one than a non-member does.
        note: what else must be known of it, as how many models were fitted for it.
    """

    name: str
    guesses: int
    success: float
    control: float
    risk: Estimate
    naive: float | None = None
    auc: Estimate | None = None
    note: str | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Attack":
        """The inverse of `asdict`."""
        area = Estimate(**data["auc"]) if data["auc"] else None
        return cls(**{**data, "risk": Estimate(**data["risk"]), "auc": area})


@dataclass(frozen=True, kw_only=True)
class Attacks:
    """All attacks on one table.

    Attributes:
        done: what was tried.
        skipped: name of what could not be tried → why.
    """

    done: tuple[Attack, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        return {"done": [asdict(a) for a in self.done], "skipped": dict(self.skipped)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Attacks":
        """The inverse of `to_dict`."""
        return cls(done=tuple(map(Attack.from_dict, data["done"])), skipped=dict(data["skipped"]))


def attack(sides: Sides, rng: np.random.Generator) -> Attacks:
    """Tries every attack that needs no fit; what there are too few rows or columns for is skipped.

    Args:
        sides: the rows; their order does not matter.
        rng: the only source of randomness.
    """
    if why := _too_few(sides):
        return Attacks(skipped=dict.fromkeys(NAMES, why))
    quick: tuple[Callable[[Sides, np.random.Generator], tuple[Attack, ...]], ...] = (
        copies, distance, membership, singling_out, linkability, inference
    )  # fmt: skip
    done = [a for act, luck in zip(quick, rng.spawn(len(quick)), strict=True) for a in act(sides, luck)]
    done.sort(key=lambda a: NAMES.index(a.name))
    missing = [n for n in NAMES if all(a.name != n for a in done)]
    return Attacks(done=tuple(done), skipped=dict.fromkeys(missing, "too little to guess from"))


def _too_few(sides: Sides) -> str | None:
    if not sides.train.attributes:
        return "no column is learned"
    for name, rows in (
        ("held-out", sides.holdout),
        ("training", sides.train),
        ("synthetic", sides.synthetic),
    ):
        if len(rows) < FEWEST:
            return f"attacks need {FEWEST} {name} rows, however: there are {len(rows)}"
    return None


def _attack(
    name: str, right: Flags, control: Flags, naive: float | None = None, *, alike: float = 1.0
) -> Attack:
    """`alike` guesses count for one."""
    rates = float(right.mean()), float(control.mean())
    return Attack(
        name=name, guesses=len(right), success=rates[0], control=rates[1],
        risk=risk(rates[0], len(right) / alike, rates[1], len(control) / alike), naive=naive,
    )  # fmt: skip


# ── whose row is it? ────────────────────────────────────────────────────────────────────────────────────────


def copies(sides: Sides, rng: np.random.Generator) -> tuple[Attack, ...]:
    """Takes each synthetic row for a training row: how many equal one, beside how many held-out rows do."""
    known = np.unique(_keys(sides.train))
    right, control = (np.isin(_keys(r), known) for r in (sides.synthetic, sides.holdout))
    return (_attack("copies", right, control),)


def _keys(records: Records) -> NDArray[np.void]:
    """One value for each row, equal where rows are."""
    values = np.ascontiguousarray(records.values())
    values[np.isnan(values)] = np.nan
    return values.view(np.dtype((np.void, values.dtype.itemsize * values.shape[1]))).ravel()


def distance(sides: Sides, rng: np.random.Generator) -> tuple[Attack, ...]:
    """Takes the real row that is nearest to a synthetic row for a training row.

    Rows of both sides are searched at once, so that nothing but leakage tells them apart: without it the nearest
    is a training row as often as training rows are among all. `near copies` are the synthetic rows at most
    `CLOSE` as far from the nearest real row as from the next: success is the share of the synthetic rows that are
    so close to a training row, control what as many held-out rows would give.

    `distance`, over all synthetic rows, is a smoke test of copying and no more: distance to the closest record does
    not see most leaks (arXiv 2505.01524). One real row may be the nearest of many synthetic ones, so intervals
    count by real rows: the effective number of guesses is n² / Σ (times that a row is the nearest)².
    """
    synthetic = sides.synthetic.draw(rng, MEMBERS)
    metric = Metric(synthetic, rng)
    train, holdout = (r.draw(rng, SEARCHED) for r in (sides.train, sides.holdout))
    order = rng.permutation(len(train) + len(holdout))
    real = np.concatenate([metric.of(train), metric.of(holdout)])[order]
    gaps, places = two_nearest(metric.of(synthetic), real)
    mine, chance = order < len(train), len(train) / len(order)
    close = gaps[:, 0] < CLOSE**2 * gaps[:, 1]
    rate, beyond = _theirs(places, mine, chance)
    return (
        Attack(name="distance", guesses=len(places), success=rate, control=chance, risk=beyond),
        _near_copies(places[close], len(places), mine, chance),
    )


def _near_copies(places: Places, guesses: int, mine: Flags, chance: float) -> Attack:
    if not len(places):
        none = Estimate(value=0.0, low=0.0, high=wilson(0.0, guesses)[1], surely=0.0)
        return Attack(name="near copies", guesses=guesses, success=0.0, control=0.0, risk=none)
    part = len(places) / guesses
    rate, beyond = _theirs(places, mine, chance)
    return Attack(
        name="near copies", guesses=guesses, success=part * rate,
        control=min(1.0, part * (1 - rate) * chance / (1 - chance)),
        risk=Estimate(**{end: part * v for end, v in asdict(beyond).items()}),
    )  # fmt: skip


def _theirs(places: Places, mine: Flags, chance: float) -> tuple[float, Estimate]:
    """How often a place is a training row, and how far that is beyond chance."""
    times = np.bincount(places).astype(np.float64)
    rate, effective = float(mine[places].mean()), len(places) ** 2 / float(times @ times)

    def beyond(share: float) -> float:
        return (share - chance) / (1 - chance)

    def ends(z: float) -> tuple[float, float]:
        low, high = wilson(rate, effective, z)
        return beyond(low), beyond(high)

    return rate, estimate(beyond(rate), ends)


def membership(sides: Sides, rng: np.random.Generator) -> tuple[Attack, ...]:
    """Guesses who is a member by density: where synthetic rows lie denser than reference rows, one was learned.

    After DOMIAS (van Breugel, Sun, Qian and van der Schaar 2023, arXiv 2302.12580), p_synthetic / p_reference, with
    distances in place of its density estimators, which want numbers only: the logarithm of the distance to the
    reference rows (mean over the nearest in each of `PARTS` parts of them) less that to the nearest synthetic row.
    One half of the held-out rows is the reference, the other half are the non-members. Success and control are the
    shares of members and of non-members that are claimed as members when at most `FALSE_POSITIVES` of the latter
    are; so the interval has the error of the threshold in it.
    """
    synthetic = sides.synthetic.draw(rng, SEARCHED)
    metric = Metric(synthetic, rng)
    held = metric.of(sides.holdout.draw(rng, 2 * MEMBERS))
    reference, outsiders = held[: len(held) // 2], held[len(held) // 2 :]
    among, least = metric.of(synthetic), metric.unit / 50
    scores, isolation = [], []
    for points in (metric.of(sides.train.draw(rng, MEMBERS)), outsiders):
        far = np.sqrt(nearest(points, reference, parts=PARTS)[0])
        near = np.sqrt(nearest(points, among)[0][:, 0])
        scores.append(np.log(far + least).mean(1) - np.log(near + least))
        isolation.append(far.mean(1))
    found = [_member("membership", scores[0], scores[1])]
    edge = np.quantile(np.concatenate(isolation), 1 - EXPOSED)
    lone = [score[far >= edge] for score, far in zip(scores, isolation, strict=True)]
    if min(map(len, lone)) >= FEWEST_GUESSES:
        found.append(_member("membership, most exposed", lone[0], lone[1]))
    return tuple(found)


def _member(name: str, members: Floats, outsiders: Floats) -> Attack:
    allowed = int(FALSE_POSITIVES * len(outsiders))
    threshold = np.sort(outsiders)[len(outsiders) - allowed - 1]
    return replace(_attack(name, members > threshold, outsiders > threshold), auc=auc(members, outsiders))


# ── singling out ────────────────────────────────────────────────────────────────────────────────────────────

_EQUAL, _AT_MOST, _AT_LEAST = 0, 1, 2

Condition = tuple[int, int, float]
"""An attribute, a comparison and a value; NaN is missing."""

Predicate = tuple[Condition, ...]


def singling_out(sides: Sides, rng: np.random.Generator) -> tuple[Attack, ...]:
    """Finds predicates that one synthetic row meets, and guesses that exactly one training row does.

    By one value: one that occurs once, or the end of a numeric column. By several: attributes of a
    synthetic row in random order, as few as it takes, categories as they are, numbers as "at least" or "at most",
    away from the median. How many rows meet a predicate depends on how many there are, so training and held-out rows
    are as many: a correction by a fitted formula is not needed. Several predicates may single out one row, so the
    interval counts by rows, as in `distance`. Naive are predicates whose values come
    from synthetic rows at random.
    """
    rows = min(len(sides.train), len(sides.holdout))
    synthetic, train, control = (
        np.asfortranarray(r.draw(rng, most).values())
        for r, most in ((sides.synthetic, SEARCHED), (sides.train, rows), (sides.holdout, rows))
    )
    most, width = min(TARGETS, rows), sides.train.codes.shape[1]
    found = []
    for name, predicates in (
        ("singling out by one value", _single_values(synthetic, width, rng, most)),
        ("singling out by several values", _single_rows(synthetic, width, rng, most)),
    ):
        if len(predicates) < FEWEST_GUESSES:
            continue
        mixed = [_mixed(p, synthetic, rng) for p in predicates]
        right, held, naive = (
            _singled_out(guesses, values)
            for guesses, values in ((predicates, train), (predicates, control), (mixed, train))
        )
        times = np.concatenate([np.bincount(p[p >= 0], minlength=1) for p in (right, held)])
        alike = max(1.0, float(times @ times) / max(float(times.sum()), 1.0))
        found.append(_attack(name, right >= 0, held >= 0, float(np.mean(naive >= 0)), alike=alike))
    return tuple(found)


def _meets(condition: Condition, column: Floats) -> Flags:
    """Which values of its attribute meet a condition."""
    _, comparison, value = condition
    if math.isnan(value):
        return np.asarray(np.isnan(column))
    if comparison == _EQUAL:
        return np.asarray(column == value)
    return np.asarray(column <= value if comparison == _AT_MOST else column >= value)


def _singled_out(predicates: list[Predicate], values: Floats) -> Places:
    """The one row of float64 (n, A) that meets each predicate; −1 where none does, or several."""
    found = np.full(len(predicates), -1)
    for i, (first, *others) in enumerate(predicates):
        left = np.flatnonzero(_meets(first, values[:, first[0]]))
        for condition in others:
            left = left[_meets(condition, values[left, condition[0]])]
        if len(left) == 1:
            found[i] = left[0]
    return found


def _single_values(values: Floats, categories: int, rng: np.random.Generator, most: int) -> list[Predicate]:
    found: list[Predicate] = []
    for attribute, column in enumerate(values.T):
        seen, times = np.unique(column, return_counts=True)
        found += [((attribute, _EQUAL, float(v)),) for v in seen[times == 1]]
        ends = seen[~np.isnan(seen)][[0, -1]] if attribute >= categories and not np.isnan(seen[0]) else ()
        found += [
            ((attribute, side, float(v)),)
            for side, v in zip((_AT_MOST, _AT_LEAST), ends, strict=False)
            if np.count_nonzero(column == v) == 1
        ]
    return [found[i] for i in rng.permutation(len(found))[:most]]


def _single_rows(values: Floats, categories: int, rng: np.random.Generator, most: int) -> list[Predicate]:
    middle = [np.median(c[~np.isnan(c)]) if not np.isnan(c).all() else 0.0 for c in values.T]
    found: dict[Predicate, None] = {}
    for row in rng.permutation(len(values))[: TRIES * most]:
        predicate: list[Condition] = []
        left = np.arange(len(values))
        for a in rng.permutation(values.shape[1]):
            side = _EQUAL if a < categories else _AT_LEAST if values[row, a] >= middle[a] else _AT_MOST
            predicate.append((int(a), side, float(values[row, a])))
            left = left[_meets(predicate[-1], values[left, a] if len(left) < len(values) else values[:, a])]
            if len(left) == 1:
                break
        if len(left) == 1 and len(predicate) > 1:
            found[tuple(predicate)] = None
        if len(found) == most:
            break
    return list(found)


def _mixed(predicate: Predicate, values: Floats, rng: np.random.Generator) -> Predicate:
    """The same question about values of synthetic rows at random."""
    return tuple((a, c, float(values[rng.integers(len(values)), a])) for a, c, _ in predicate)


def linkability(sides: Sides, rng: np.random.Generator) -> tuple[Attack, ...]:
    """Knows two halves of a person's attributes apart, and guesses that they belong together.

    Right where the synthetic row that is nearest by one half is the nearest by the other, too. The halves are drawn
    anew for each of `PARTS` parts of the targets. Naive is a synthetic row at random for each half.
    """
    if sides.train.attributes < 2:
        return ()
    synthetic = sides.synthetic.draw(rng, SEARCHED)
    metric = Metric(synthetic, rng)
    among = metric.of(synthetic)
    targets = [metric.of(r.draw(rng, TARGETS)) for r in (sides.train, sides.holdout)]
    linked: list[list[Flags]] = [[], []]
    for part in range(PARTS):
        half = rng.permutation(metric.attributes)[: len(metric.attributes) // 2]
        first = np.isin(metric.owner, half)
        for side, points in enumerate(targets):
            some = points[part::PARTS]
            by_first, by_second = (nearest(some[:, f], among[:, f])[1] for f in (first, ~first))
            linked[side].append((by_first == by_second)[:, 0])
    right, control = (np.concatenate(flags) for flags in linked)
    return _with_exposed("linkability", (right, control), targets, PARTS, naive=1 / len(among))


def inference(sides: Sides, rng: np.random.Generator) -> tuple[Attack, ...]:
    """Knows all attributes of a person but one, and guesses that one from the nearest synthetic row.

    Right where the category is the same, or the number is within `NEAR` by rank, where Giomi et al. allow a share of
    the number itself; missing is a value. Each target keeps another attribute secret, so the figure is a mean over
    attributes. Naive is the value of a synthetic row at random.
    """
    if sides.train.attributes < 2:
        return ()
    synthetic = sides.synthetic.draw(rng, SEARCHED)
    metric = Metric(synthetic, rng)
    among, known = metric.of(synthetic), synthetic.values()
    drawn = [r.draw(rng, TARGETS) for r in (sides.train, sides.holdout)]
    targets = [(metric.of(r), r.values()) for r in drawn]
    secrets = rng.permutation(metric.attributes)[:SECRETS]
    right: tuple[list[Flags], ...] = ([], [], [])
    for part, secret in enumerate(secrets):
        own, mine = metric.owner == secret, slice(part, None, len(secrets))
        same = _Same(known[:, secret], number=bool(secret >= synthetic.codes.shape[1]))
        hidden = among[:, own].copy()
        among[:, own] = 0
        for flags, (points, values) in zip(right, targets, strict=False):
            some = points[mine].copy()
            some[:, own] = 0
            flags.append(same(known[nearest(some, among)[1][:, 0], secret], values[mine, secret]))
        truth = targets[0][1][mine, secret]
        right[2].append(same(known[rng.integers(len(known), size=len(truth)), secret], truth))
        among[:, own] = hidden
    success, control, naive = (np.concatenate(flags) for flags in right)
    sides_points = [points for points, _ in targets]
    return _with_exposed(
        "inference", (success, control), sides_points, len(secrets), naive=float(naive.mean())
    )


def _exposed(sides: Sequence[Points]) -> list[Flags]:
    """Of the targets of either side, which lie farthest from all others of both."""
    every = np.concatenate(sides)
    # The nearest is the row itself, or one like it.
    far = two_nearest(every, every)[0][:, 1]
    return np.split((far > 0) & (far >= np.quantile(far, 1 - EXPOSED)), [len(sides[0])])


def _with_exposed(
    name: str, guessed: tuple[Flags, Flags], targets: Sequence[Points], parts: int, *, naive: float
) -> tuple[Attack, ...]:
    """An attack on all targets, which were dealt to so many parts one by one, and on the most exposed among them."""
    right, control = guessed
    exposed = [np.concatenate([flags[i::parts] for i in range(parts)]) for flags in _exposed(targets)]
    lone = right[exposed[0]], control[exposed[1]]
    found = (_attack(name, right, control, naive=naive),)
    if min(map(len, lone)) < FEWEST_GUESSES:
        return found
    return (*found, _attack(f"{name}, most exposed", *lone))


class _Same:
    """Whether guesses of one attribute are right; numbers are compared by their ranks among the known ones."""

    def __init__(self, known: Floats, *, number: bool) -> None:
        self._ordered = np.sort(known[~np.isnan(known)]) if number else known[:0]

    def __call__(self, guess: Floats, truth: Floats) -> Flags:
        equal = np.asarray((guess == truth) | (np.isnan(guess) & np.isnan(truth)))
        if not len(self._ordered):
            return equal
        between = np.searchsorted(self._ordered, guess) - np.searchsorted(self._ordered, truth)
        present = ~np.isnan(guess) & ~np.isnan(truth)
        return np.asarray(equal | (present & (np.abs(between) <= NEAR * len(self._ordered))))
