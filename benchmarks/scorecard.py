"""Scorecard of one synthetic table: how close it is, what it is good for, and whether it copies.

usage: python benchmarks/scorecard.py TRAIN.parquet HOLDOUT.parquet SYNTH.parquet [--target COLUMN] [--seed 0]

Prints one JSON object. shape_err and trend_err are 100 × (1 − SDMetrics' score), 0 is best; detect_auc is how
well boosted trees tell real from synthetic rows in five folds, 0.5 is best; tstr is the AUC (or R²) on held-out
rows of a model trained on synthetic ones, trtr of one trained on real ones; dcr_share is the share of synthetic
rows that lie nearer to a training row than to a held-out row, 0.5 is best; copies is the share of synthetic
rows that equal a training row, copies_holdout the same for held-out rows. Text and identifiers are left out.
"""

import argparse
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors

AUC_ROWS = 20_000
NEIGHBOUR_ROWS = 5_000
COMMON_CATEGORIES = 40
TREE_CATEGORIES = 250


def is_number(column: pd.Series) -> bool:
    """Whether SDMetrics takes the column as numerical."""
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def is_time(column: pd.Series) -> bool:
    """Whether SDMetrics takes the column as a time."""
    return pd.api.types.is_datetime64_any_dtype(column)


def quality(train: pd.DataFrame, synthetic: pd.DataFrame) -> tuple[float, float]:
    """Column shapes and pair trends of SDMetrics, as errors in percent."""
    from sdmetrics.reports.single_table import QualityReport

    def sdtype(name: str) -> str:
        if is_number(train[name]):
            return "numerical"
        return "datetime" if is_time(train[name]) else "categorical"

    report = QualityReport()
    metadata = {"columns": {name: {"sdtype": sdtype(name)} for name in train}}
    report.generate(train, synthetic, metadata, verbose=False)
    scores = report.get_properties().set_index("Property")["Score"]
    return 100 * (1 - scores["Column Shapes"]), 100 * (1 - scores["Column Pair Trends"])


def as_numbers(column: pd.Series) -> NDArray[np.float64]:
    """Numbers and times as floats."""
    if is_time(column):
        return column.astype("int64").to_numpy(float)
    return pd.to_numeric(column, errors="coerce").to_numpy(float)


def as_words(column: pd.Series) -> NDArray[np.object_]:
    """Categories as strings; missing is one of them."""
    return column.astype(object).where(column.notna(), "\0").astype(str).to_numpy(object)


def for_trees(frames: Sequence[pd.DataFrame]) -> tuple[list[NDArray[np.float64]], NDArray[np.bool_]]:
    """One number per cell, and which columns trees may take as categories."""
    blocks, nominal = [], []
    order = [c for c in frames[0] if is_number(frames[0][c])]
    order += [c for c in frames[0] if is_time(frames[0][c])]
    order += [c for c in frames[0] if c not in order]
    for name in order:
        number = is_number(frames[0][name]) or is_time(frames[0][name])
        if number:
            blocks.append(np.concatenate([as_numbers(f[name]) for f in frames]))
        else:
            codes = np.unique(np.concatenate([as_words(f[name]) for f in frames]), return_inverse=True)[1]
            blocks.append(codes.astype(float))
        nominal.append(not number and np.nanmax(blocks[-1]) < TREE_CATEGORIES)
    ends = np.cumsum([len(f) for f in frames])[:-1]
    return np.split(np.stack(blocks, 1), ends), np.array(nominal)


def detection(train: pd.DataFrame, synthetic: pd.DataFrame, seed: int) -> float:
    """AUC of telling them apart; below one half counts as above."""
    rows = min(len(train), len(synthetic))
    chosen = [f.sample(rows, random_state=seed) for f in (train, synthetic)]
    (real, made), nominal = for_trees(chosen)
    most = min(rows, AUC_ROWS)
    x = np.concatenate([real[:most], made[:most]])
    y = np.repeat([0, 1], most)
    model = HistGradientBoostingClassifier(categorical_features=nominal, random_state=seed)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    auc = roc_auc_score(y, cross_val_predict(model, x, y, cv=folds, method="predict_proba")[:, 1])
    return max(auc, 1 - auc)


def usefulness(
    source: pd.DataFrame, holdout: pd.DataFrame, train: pd.DataFrame, target: str, seed: int
) -> float:
    """AUC or R² on held-out rows of boosted trees that were trained on `source`."""
    features = [c for c in train if c != target]
    (x, x_holdout), nominal = for_trees([source[features], holdout[features]])
    if is_number(train[target]) and train[target].nunique() > 20:
        regressor = HistGradientBoostingRegressor(categorical_features=nominal, random_state=seed)
        return r2_score(holdout[target], regressor.fit(x, source[target]).predict(x_holdout))
    labels = sorted(train[target].dropna().astype(str).unique())
    y, truth = source[target].astype(str), holdout[target].astype(str)
    if y.nunique() < len(labels):
        return 0.5
    classifier = HistGradientBoostingClassifier(categorical_features=nominal, random_state=seed).fit(x, y)
    shares = classifier.predict_proba(x_holdout)
    if len(labels) > 2:
        return roc_auc_score(truth, shares, multi_class="ovr", labels=labels)
    return roc_auc_score(truth == labels[1], shares[:, list(classifier.classes_).index(labels[1])])


def for_distances(frames: Sequence[pd.DataFrame]) -> list[NDArray[np.float64]]:
    """Numbers scaled by the central 98 % of the first frame, common categories as one-hot codes."""
    first = len(frames[0])
    blocks = []
    for name in frames[0]:
        if is_number(frames[0][name]) or is_time(frames[0][name]):
            values = np.concatenate([as_numbers(f[name]) for f in frames])
            low, high = np.nanquantile(values[:first], [0.01, 0.99])
            scaled = np.clip((values - low) / ((high - low) or 1), -1, 2)
            blocks.append(np.where(np.isnan(scaled), -1, scaled)[:, None])
        else:
            words = np.concatenate([as_words(f[name]) for f in frames])
            common = pd.Series(words[:first]).value_counts().index[:COMMON_CATEGORIES]
            blocks.append((words[:, None] == common.to_numpy()[None, :]) / np.sqrt(2))
    return np.split(np.concatenate(blocks, 1), np.cumsum([len(f) for f in frames])[:-1])


def nearness(train: pd.DataFrame, holdout: pd.DataFrame, synthetic: pd.DataFrame, seed: int) -> float:
    """Share of synthetic rows nearer to training rows than to as many held-out rows; ties count half."""
    rows = min(len(train), len(holdout), len(synthetic), NEIGHBOUR_ROWS)
    near, far, made = for_distances([f.sample(rows, random_state=seed) for f in (train, holdout, synthetic)])
    distance = [NearestNeighbors(n_neighbors=1).fit(x).kneighbors(made)[0][:, 0] for x in (near, far)]
    return float(np.mean(distance[0] < distance[1]) + np.mean(distance[0] == distance[1]) / 2)


def copies(train: pd.DataFrame, frame: pd.DataFrame) -> float:
    """Share of the frame's rows that equal a training row."""

    def keys(f: pd.DataFrame) -> pd.Series:
        return pd.util.hash_pandas_object(f.astype(str), index=False)

    return float(keys(frame).isin(set(keys(train))).mean())


def score(
    train: pd.DataFrame, holdout: pd.DataFrame, synthetic: pd.DataFrame, *, target: str | None, seed: int
) -> dict[str, float]:
    """All figures."""
    text = [c for c in train if not is_number(train[c]) and not is_time(train[c])]
    text = [c for c in text if train[c].nunique() > 0.9 * train[c].notna().sum() > 0]
    train, holdout, synthetic = (f.drop(columns=text) for f in (train, holdout, synthetic))
    shape, trend = quality(train, synthetic)
    found = {"rows": len(synthetic), "shape_err": shape, "trend_err": trend}
    found["detect_auc"] = detection(train, synthetic, seed)
    if target is not None:
        found["tstr"] = usefulness(synthetic, holdout, train, target, seed)
        found["trtr"] = usefulness(train, holdout, train, target, seed)
    found["dcr_share"] = nearness(train, holdout, synthetic, seed)
    found["copies"], found["copies_holdout"] = copies(train, synthetic), copies(train, holdout)
    return {name: round(float(value), 4) for name, value in found.items()}


def main() -> None:
    """Reads three tables and prints their figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("train", "holdout", "synthetic"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--target")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    frames = [pd.read_parquet(path) for path in (given.train, given.holdout, given.synthetic)]
    print(json.dumps(score(*frames, target=given.target, seed=given.seed)))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main()
