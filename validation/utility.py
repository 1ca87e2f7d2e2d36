"""Utility: what a synthetic table is good for: models that learn from it, tested on real rows.

Train on synthetic, test on real (TSTR; Esteban, Hyland and Rätsch 2017, arXiv 1706.02633), beside the same model
trained on as many real rows (TRTR), tested on the same held-out rows. Two kinds of model: gradient-boosted trees, which
see what there is, and a linear model, which sees what most analysts ask for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from privacy.estimate import Estimate
from validation.cells import SIDES, Cells, Floats
from validation.features import (
    LARGEST,
    Features,
    Weights,
    bounded,
    draw,
    from_resamples,
    one_thread,
    resampled,
    scale_of,
    teachable,
    weighted_auc,
    weighted_r2,
)
from validation.gauges import whiskers
from validation.markup import (
    Html,
    element,
    interval_cell,
    join,
    paragraph,
    scrolling,
    section,
    shown_name,
    signed,
    strength,
)

CLASSES = 20
"""Classes that a target has at most."""

VALUES = 20
"""Different values at most with which a target of numbers is one of classes."""

TRAIN_ROWS, TEST_ROWS, RANKED_ROWS = 50_000, 20_000, 2_000
"""Rows of each kind at most: learned from, tested on, and tested on again with each feature shuffled."""

FEWEST = 50
"""Rows of each kind without which nothing is learned."""

RANKED = 1_000_000
"""Rows that are tested on again at most, times features and trees."""

FEATURES = 100
"""Features that are ranked at most: the first ones."""

Kind = Literal["trees", "linear"]
KINDS: tuple[Kind, ...] = ("trees", "linear")
MEASURES = {"classes": "AUC", "number": "R²"}


@dataclass(frozen=True, kw_only=True)
class Score:
    """One kind of model for one target, tested on held-out rows.

    Attributes:
        model: trees or linear.
        synthetic: trained on synthetic rows.
        real: trained on as many real rows: the ceiling.
        gap: real less synthetic, on the same test rows.
    """

    model: Kind
    synthetic: Estimate
    real: Estimate
    gap: Estimate


@dataclass(frozen=True, kw_only=True)
class Task:
    """One target.

    Attributes:
        target: the column.
        measure: AUC (of several classes the mean of each against the others), or R² for numbers.
        named: whether somebody named the target; else the schema suggested it.
        rows: that each model learned from.
        scores: one for each kind of model.
        ranking: rank correlation (Spearman) of how much trees need each feature, learned from synthetic and from real
            rows; None with fewer than three features.
        ranking_ceiling: the same for trees learned from two halves of the real rows.
        features: name, what the measure loses where it is shuffled for trees from real rows, and from synthetic rows;
            those that the real rows need most.
    """

    target: str
    measure: str
    named: bool
    rows: int
    scores: tuple[Score, ...]
    ranking: float | None
    ranking_ceiling: float | None
    features: tuple[tuple[str, float, float], ...]

    @property
    def guess(self) -> float:
        """What a model scores that learned nothing."""
        return 0.5 if self.measure == "AUC" else 0.0


@dataclass(frozen=True, kw_only=True)
class Utility:
    """All targets.

    Attributes:
        tasks: those that models were trained for.
        skipped: target → why not.
    """

    tasks: tuple[Task, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, without loss."""
        tasks = [{**asdict(t), "features": [list(f) for f in t.features]} for t in self.tasks]
        return {"tasks": tasks, "skipped": dict(self.skipped)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Utility":
        """The inverse of `to_dict`."""
        return cls(tasks=tuple(_task(t) for t in data["tasks"]), skipped=dict(data["skipped"]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Guesses:
    """What trees said of held-out rows.

    Attributes:
        target: the column.
        classes: code → name; empty for numbers.
        rows: int64 (n,), which of the held-out rows.
        truth: float64 (n,): numbers, or codes of classes.
        real: the same as trees from real rows guessed it.
        synthetic: the same of trees from synthetic rows.
    """

    target: str
    classes: Mapping[float, str]
    rows: npt.NDArray[np.int64]
    truth: Floats
    real: Floats
    synthetic: Floats


def _task(data: Mapping[str, Any]) -> Task:
    scores = (
        Score(model=s["model"], **{k: Estimate(**s[k]) for k in ("synthetic", "real", "gap")})
        for s in data["scores"]
    )
    features = tuple((str(n), float(a), float(b)) for n, a, b in data["features"])
    return Task(**{**data, "scores": tuple(scores), "features": features})


def suggested(cells: Sequence[Cells]) -> tuple[str, ...]:
    """Targets where nobody named one: the last column of 2 to 20 classes, and the last of numbers: tables end so.

    A column of two numbers, as 0 and 1, is of classes.
    """
    able = [t for t in map(target_of, cells) if _why_not(t) is None]
    classes = [
        t
        for t in able
        if t.column.kind in ("categorical", "boolean")
        or (t.column.kind == "numerical" and t.numbers is None and (t.counts("train") > 0).sum() == 2)
    ]
    numbers = [t for t in able if t.column.kind == "numerical" and t.numbers is not None]
    return tuple(group[-1].column.name for group in (classes, numbers) if group)


def utility(
    cells: Sequence[Cells], features: Features, targets: Sequence[str], *, seed: int
) -> tuple[Utility, tuple[Guesses, ...]]:
    """Trains on synthetic and on real rows, and tests on held-out rows: the figures, and what was guessed.

    Args:
        cells: the learned columns of the three tables.
        features: the same columns as models read them.
        targets: names of columns; none: those that are `suggested`.
        seed: of what is drawn.
    """
    by_name = {c.column.name: i for i, c in enumerate(cells)}
    tasks, guesses, skipped = [], [], {}
    for target in targets or suggested(cells):
        if target not in by_name:
            skipped[target] = "is not learned"
            continue
        place = by_name[target]
        own = target_of(cells[place])
        why = _why_not(own) or _too_few(cells, target)
        if why is not None:
            skipped[target] = why
            continue
        trial = _Trial.of(own, features.without(place), seed)
        with one_thread():
            task, guess = trial.task(named=bool(targets), seed=seed)
        tasks.append(task)
        guesses.append(guess)
    return Utility(tasks=tuple(tasks), skipped=skipped), tuple(guesses)


def target_of(cells: Cells) -> Cells:
    """A column as a target: one of numbers that takes few values in the training rows is one of classes."""
    if cells.numbers is None or len(np.unique(cells.codes["train"][cells.codes["train"] >= 0])) > VALUES:
        return cells
    codes, numbers = (np.concatenate([by[s] for s in SIDES]) for by in (cells.codes, cells.numbers))
    known, first = np.unique(codes, return_index=True)
    names = np.full(int(codes.max(initial=-1)) + 1, "", object)
    names[known[known >= 0]] = [f"{number:.12g}" for number in numbers[first[known >= 0]]]
    return replace(cells, numbers=None, values=pa.array(names, pa.string()))


def _labels(cells: Cells) -> dict[float, str]:
    return {
        float(code): str(cells.values[code].as_py())
        for code in np.flatnonzero(cells.counts("train")).tolist()
    }


def _why_not(cells: Cells) -> str | None:
    """Why a column cannot be a target; None if it can."""
    if cells.numbers is not None:
        held = cells.numbers["holdout"]
        return "is constant in the held-out rows" if len(np.unique(held[np.isfinite(held)])) < 2 else None
    classes = [int((cells.counts(side) > 0).sum()) for side in ("train", "holdout")]
    if min(classes) < 2:
        return "has one class in the training or the held-out rows"
    if classes[0] > CLASSES:
        return f"has {classes[0]:,} classes, more than {CLASSES}"
    return None


def _too_few(cells: Sequence[Cells], target: str) -> str | None:
    own = next(c for c in cells if c.column.name == target)
    if len(cells) < 2:
        return "is the only column"
    for side in SIDES:
        if (rows := int((own.codes[side] >= 0).sum())) < FEWEST:
            return f"needs {FEWEST} {side} rows with a value, however: there are {rows}"
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """One target: features and truth by source, where `synthetic` and `train` are learned from and `holdout` is tested.

    `y` are numbers, or codes of `classes`.
    """

    target: str
    names: tuple[str, ...]
    nominal: npt.NDArray[np.bool_]
    trees: dict[str, Floats]
    linear: dict[str, Floats]
    y: dict[str, Floats]
    tested: npt.NDArray[np.int64]
    labels: Mapping[float, str]
    classes: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, cells: Cells, features: Features, seed: int) -> "_Trial":
        rng = np.random.default_rng(seed)
        known = {side: np.flatnonzero(cells.codes[side] >= 0) for side in SIDES}
        if cells.numbers is not None:
            known = {side: np.flatnonzero(np.isfinite(cells.numbers[side])) for side in SIDES}
        classes = None if cells.numbers is not None else np.flatnonzero(cells.counts("train") > 0)
        most = bounded(TRAIN_ROWS, len(features.names), 1 if classes is None else len(classes))
        most = min(len(known["train"]), len(known["synthetic"]), most)
        chosen = {
            side: rows[draw(len(rows), TEST_ROWS if side == "holdout" else most, rng)]
            for side, rows in known.items()
        }
        linear = features.linear()
        truth: Mapping[str, npt.NDArray[Any]] = cells.codes
        if cells.numbers is not None:
            # R² does not depend on the scale.
            size = scale_of(cells.numbers["train"])
            truth = {s: np.clip(v / size, -LARGEST, LARGEST) for s, v in cells.numbers.items()}
        return cls(
            target=cells.column.name,
            names=features.names,
            nominal=features.nominal,
            trees={side: features.trees[side][rows] for side, rows in chosen.items()},
            linear={side: linear[side][rows] for side, rows in chosen.items()},
            y={side: truth[side][rows].astype(np.float64) for side, rows in chosen.items()},
            tested=chosen["holdout"],
            labels={} if cells.numbers is not None else _labels(cells),
            classes=classes,
        )

    def task(self, *, named: bool, seed: int) -> tuple[Task, Guesses]:
        weights = resampled(len(self.y["holdout"]), np.random.default_rng(seed))
        scores, models = [], {}
        for kind in KINDS:
            x = self.trees if kind == "trees" else self.linear
            models[kind] = {s: self._fit(kind, x[s], self.y[s], seed) for s in ("synthetic", "train")}
            found = {s: self._measure(m(x["holdout"]), weights) for s, m in models[kind].items()}
            scores.append(
                Score(
                    model=kind,
                    synthetic=from_resamples(found["synthetic"]),
                    real=from_resamples(found["train"]),
                    gap=from_resamples(found["train"] - found["synthetic"]),
                )
            )
        ranking, ceiling, features = self._ranked(models["trees"], seed)
        task = Task(
            target=self.target, measure=MEASURES["number" if self.classes is None else "classes"],
            named=named, rows=len(self.y["train"]), scores=tuple(scores), ranking=ranking, ranking_ceiling=ceiling,
            features=features,
        )  # fmt: skip
        return task, Guesses(
            target=self.target,
            classes=self.labels,
            rows=self.tested,
            truth=self.y["holdout"],
            real=self._decided(models["trees"]["train"]),
            synthetic=self._decided(models["trees"]["synthetic"]),
        )

    def _decided(self, model: Callable[[Floats], Floats]) -> Floats:
        """Numbers, or the likeliest class: float64 (held-out rows,)."""
        found = model(self.trees["holdout"])
        return found if self.classes is None else self.classes[found.argmax(axis=1)].astype(np.float64)

    def _fit(self, kind: Kind, x: Floats, y: Floats, seed: int) -> Callable[[Floats], Floats]:
        """A function from features to guesses: numbers (rows,), or a probability of each class (rows, classes)."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
        from sklearn.linear_model import LogisticRegression, Ridge

        state = seed % 2**32
        if self.classes is None:
            regressor = (
                HistGradientBoostingRegressor(categorical_features=self.nominal, random_state=state)
                if kind == "trees"
                else Ridge()
            ).fit(teachable(x), y)
            return lambda rows: np.asarray(regressor.predict(rows), np.float64)
        classes = self.classes
        known = np.isin(y, classes)
        x, y = x[known], y[known]
        seen = np.unique(y)
        if len(seen) < 2:
            # One class, or none, teaches nothing: every row is guessed alike.
            return lambda rows: np.zeros((len(rows), len(classes)))
        classifier = (
            HistGradientBoostingClassifier(categorical_features=self.nominal, random_state=state)
            if kind == "trees"
            else LogisticRegression(max_iter=1_000, tol=1e-3)
        ).fit(teachable(x), y)
        place = np.searchsorted(classes, seen)

        def guess(rows: Floats) -> Floats:
            out = np.zeros((len(rows), len(classes)))
            out[:, place] = classifier.predict_proba(rows)
            return out

        return guess

    def _measure(
        self, guesses: Floats, weights: Weights, rows: npt.NDArray[np.int64] | None = None
    ) -> Floats:
        truth = self.y["holdout"] if rows is None else self.y["holdout"][rows]
        if self.classes is None:
            return weighted_r2(truth, guesses, weights)
        present = [i for i, c in enumerate(self.classes.tolist()) if 0 < (truth == c).sum() < len(truth)]
        if not present:
            return np.full(len(weights), 0.5)
        if len(self.classes) == 2:
            present = [1]
        areas = [weighted_auc(guesses[:, i], truth == self.classes[i], weights) for i in present]
        return np.asarray(np.mean(areas, axis=0), np.float64)

    def _ranked(
        self, models: Mapping[str, Callable[[Floats], Floats]], seed: int
    ) -> tuple[float | None, float | None, tuple[tuple[str, float, float], ...]]:
        """How alike trees from both sources rank the features, how alike those of two real halves, and the figures."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.y["train"]))
        halves = [
            self._fit("trees", self.trees["train"][part], self.y["train"][part], seed)
            for part in np.array_split(order, 2)
        ]
        needed = [self._needs(m, seed) for m in (models["train"], models["synthetic"], *halves)]
        top = np.argsort(-needed[0], kind="stable")[:10]
        features = tuple((self.names[i], float(needed[0][i]), float(needed[1][i])) for i in top.tolist())
        if len(needed[0]) < 3:
            return None, None, features
        return _alike(needed[0], needed[1]), _alike(needed[2], needed[3]), features

    def _needs(self, model: Callable[[Floats], Floats], seed: int) -> Floats:
        """What the measure loses where each feature is shuffled, float64 (features,) (Breiman 2001)."""
        rng = np.random.default_rng(seed)
        classes = 1 if self.classes is None else len(self.classes)
        most = bounded(RANKED_ROWS, min(len(self.names), FEATURES), classes, values=RANKED)
        rows = draw(len(self.y["holdout"]), most, rng)
        x, ones = self.trees["holdout"][rows], np.ones((1, len(rows)))
        whole = float(self._measure(model(x), ones, rows)[0])
        return np.array([*self._lost(model, x, rows, whole, rng)])

    def _lost(
        self, model: Callable[[Floats], Floats], x: Floats, rows: npt.NDArray[np.int64], whole: float,
        rng: np.random.Generator,
    ) -> Iterator[float]:  # fmt: skip
        ones = np.ones((1, len(rows)))
        for i in range(min(x.shape[1], FEATURES)):
            shuffled = x.copy()
            shuffled[:, i] = rng.permutation(x[:, i])
            yield whole - float(self._measure(model(shuffled), ones, rows)[0])


def _alike(first: Floats, second: Floats) -> float | None:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(stats.spearmanr(first, second).statistic)


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────

MODELS: Mapping[Kind, str] = {"trees": "Gradient-boosted trees", "linear": "Linear model"}


def render(found: Utility) -> Html:
    """The section of the report."""
    skipped = [
        paragraph("Not predicted: ", shown_name(name), f", since it {why}.")
        for name, why in found.skipped.items()
    ]
    if not found.tasks:
        return section(
            "utility", "What it is good for", paragraph("Nothing in this table can be predicted."), *skipped
        )
    lead = (
        "Models learn from the synthetic rows and from as many real ones, and both are tested on real rows that were "
        "held out. AUC is 0.5 for a model that guesses and 1 for one that is always right; R² is 0 and 1. Ranges miss "
        "the truth in 5 of 100 cases."
    )
    return section(
        "utility", "What it is good for", paragraph(lead), *(_shown(t) for t in found.tasks), *skipped
    )


def _shown(task: Task) -> Html:
    heads = ("Model", "Learned from synthetic rows", "Learned from real rows", "Lost", _drawn(task))
    table = element(
        "table",
        {"class": "plain"},
        element(
            "caption", {},
            f"{task.measure} of ", shown_name(task.target, 36), f" on held-out rows, after {task.rows:,} rows",
        ),
        element("thead", {}, element("tr", {}, *(element("th", {"scope": "col"}, h) for h in heads))),
        element("tbody", {}, *(_score_row(task, s) for s in task.scores)),
    )  # fmt: skip
    return join([scrolling(f"Models of {task.measure}", table), _ranking(task)])


def _drawn(task: Task) -> str:
    return f"From guessing ({task.guess:g}) to 1"


def _score_row(task: Task, score: Score) -> Html:
    cells = (interval_cell(e.value, e.low, e.high) for e in (score.synthetic, score.real, score.gap))
    figures = (("real", score.real), ("synthetic", score.synthetic))
    drawn = element("td", {"class": "drawn"}, whiskers(figures, low=task.guess, high=1.0, mark=None))
    return element("tr", {}, element("th", {"scope": "row"}, MODELS[score.model]), *cells, drawn)


def _ranking(task: Task) -> Html:
    if task.ranking is None:
        return Html("")
    needed = [
        element("span", {}, shown_name(n, 28), f" ({signed(a)} → {signed(b)})")
        for n, a, b in task.features[:5]
    ]
    return element(
        "p",
        {"class": "kind"},
        f"Features are ranked alike to {strength(task.ranking)} (two halves of the real rows: "
        f"{strength(task.ranking_ceiling)}). Needed most, by trees from real → from synthetic rows: ",
        join(needed, ", "),
    )
