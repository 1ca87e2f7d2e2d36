"""Associations: how strongly each two columns hang together."""

import itertools

import numpy as np

from validation.cells import DRAWN, SIDES, Cells, Codes, Floats, groups_of

COMMON = 50
"""Categories of a column that associations tell apart; rarer ones are one group."""

COUNTED = 12_000_000
"""Rows times pairs of columns that shared information is counted over; of more, fewer rows are drawn."""

FEWEST = 50
"""Rows of a side that shared information is counted of, at least."""


def associations(learned: list[Cells], *, at_least: int, seed: int) -> dict[str, Floats]:
    """How strongly each two columns hang together, by side, float64 (columns, columns) in [0, 1].

    Two continuous columns: |Spearman|, a missing value at the mean rank. A continuous and a categorical one:
    the correlation ratio of the ranks, as ε², corrected for the number of categories (Kelley 1935). Two
    categorical ones: Cramér's V, corrected for bias (Bergsma 2013). Categories beyond the 50 commonest of the
    drawn training rows, and those of fewer than `at_least` of them, are one group, and if that has fewer, too, it
    counts for the commonest; missing is a category of its own. Numbers are cut at the value of rank
    `at_least`. So what disclosure control keeps back is not asked of a release. A constant has no
    association: 0.

    All pairs come from one Gram matrix of [standardized ranks | one-hots]. It has at most some 4,000 columns
    (fewer categories are told apart on very wide tables), and on wide tables it is summed over fewer rows,
    drawn by `seed`, so that the work is bounded.
    """
    categorical = sum(c.numbers is None for c in learned)
    common = int(np.clip(4_000 // max(categorical, 1), 6, COMMON))
    maps = [
        keep_common(c.counts(DRAWN), common, at_least=at_least) if c.numbers is None else None
        for c in learned
    ]
    ends = [ends_of(c, at_least=at_least) for c in learned]
    return {side: _strength(learned, maps, ends, side, seed=seed) for side in SIDES}


def ends_of(cells: Cells, *, at_least: int) -> tuple[float, float]:
    """The drawn training values of rank `at_least` from either end; they cut ranks and are not shown."""
    if cells.numbers is None:
        return -np.inf, np.inf
    present = np.sort(cells.numbers[DRAWN][~np.isnan(cells.numbers[DRAWN])])
    if not len(present):
        return -np.inf, np.inf
    rank = min(max(at_least, 1), len(present)) - 1
    low, high = float(present[rank]), float(present[len(present) - 1 - rank])
    return min(low, high), high


def keep_common(counts: Codes, common: int, *, at_least: int = 0) -> Codes:
    """Code → group, int64 (codes,): the commonest keep a group of their own, the others share one."""
    order = np.argsort(-counts, kind="stable")[:common]
    order = order[counts[order] >= max(at_least, 1)]
    pooled = int(counts.sum() - counts[order].sum())
    groups = np.full(len(counts), len(order) if pooled >= at_least else 0, np.int64)
    groups[order] = np.arange(len(order))
    return groups


def _strength(
    learned: list[Cells], maps: list[Codes | None], ends: list[tuple[float, float]], side: str, *, seed: int
) -> Floats:
    """Associations of one side; see `associations`."""
    k = len(learned)
    if k == 0 or len(learned[0].codes[side]) < 3:
        return np.zeros((k, k))
    numeric = [i for i in range(k) if maps[i] is None]
    categorical = [i for i in range(k) if maps[i] is not None]
    widths = np.array([int(maps[i].max(initial=-1)) + 3 for i in categorical], np.int64)  # type: ignore[union-attr]
    starts = np.concatenate([[0], np.cumsum(widths)[:-1]]).astype(np.int64) if len(widths) else widths
    width = int(widths.sum()) + len(numeric)
    rows = _rows_within(len(learned[0].codes[side]), width, seed=seed)
    n = len(rows)

    ranks = np.zeros((n, len(numeric)))
    for at, i in enumerate(numeric):
        ranks[:, at] = _ranks(learned[i], side, rows, ends[i])
    hot = np.zeros((n, len(categorical)), np.int64)
    for at, i in enumerate(categorical):
        hot[:, at] = _positions(learned[i].codes[side][rows], maps[i])
    gram = _gram(ranks, hot + starts, width)

    d = len(numeric)
    out = np.zeros((k, k))
    out[np.ix_(numeric, numeric)] = np.abs(gram[:d, :d]) / n
    if categorical:
        counts = np.diag(gram)[d:]
        varied = np.add.reduceat((counts > 0).astype(np.int64), starts)
        ratio = _correlation_ratio(gram[:d, d:], counts, starts, varied, n)
        ratio[gram.diagonal()[:d] == 0] = 0
        out[np.ix_(numeric, categorical)] = ratio
        out[np.ix_(categorical, numeric)] = ratio.T
        out[np.ix_(categorical, categorical)] = _cramer(gram[d:, d:], counts, starts, varied, n)
    np.fill_diagonal(out, 0.0)
    return np.clip(out, 0.0, 1.0)


def _rows_within(rows: int, width: int, *, seed: int) -> Codes:
    """Numbers of the rows that the Gram matrix is summed over: all, up to 10¹¹ products."""
    most = max(2_000, int(1e11 / max(width, 1) ** 2))
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _ranks(cells: Cells, side: str, rows: Codes, ends: tuple[float, float]) -> Floats:
    """Mid-ranks, mean 0 and variance 1, missing at the mean; zeros for a constant."""
    assert cells.numbers is not None
    values = np.clip(cells.numbers[side][rows], *ends)
    present = ~np.isnan(values)
    ranks = np.zeros(len(values))
    if present.any():
        _, place, count = np.unique(values[present], return_inverse=True, return_counts=True)
        middle = np.cumsum(count) - (count - 1) / 2
        ranks[present] = middle[place] - middle[place].mean()
    spread = ranks.std()
    return ranks / spread if spread > 0 else ranks


def _positions(codes: Codes, groups: Codes | None) -> Codes:
    """Position of each row's category in its block: the groups, the shared one, missing last."""
    assert groups is not None
    common = int(groups.max(initial=-1))
    return np.append(groups, common + 2)[codes] if len(groups) else np.full(len(codes), common + 2)


def _gram(ranks: Floats, hot: Codes, width: int) -> Floats:
    """Xᵀ X for X = [ranks | one-hots of hot], in blocks of rows."""
    n, d = ranks.shape
    gram = np.zeros((width, width))
    for start in range(0, n, 4096):
        block = np.zeros((min(4096, n - start), width), np.float32)
        block[:, :d] = ranks[start : start + 4096]
        positions = hot[start : start + 4096]
        block[np.arange(len(block))[:, None], d + positions] = 1.0
        gram += block.T @ block
    return gram


def _correlation_ratio(sums: Floats, counts: Floats, starts: Codes, varied: Codes, n: int) -> Floats:
    """√ε² of each (numeric, categorical) pair; sums: Σ rank by category."""
    explained = np.add.reduceat(sums**2 / np.maximum(counts, 1), starts, axis=1) / n
    free = n - varied
    corrected = 1 - (1 - explained) * (n - 1) / np.maximum(free, 1)
    return np.sqrt(np.where((varied > 1) & (free > 0), np.clip(corrected, 0, 1), 0.0))


def _cramer(both: Floats, counts: Floats, starts: Codes, varied: Codes, n: int) -> Floats:
    """Bias-corrected Cramér's V of each two categorical columns (Bergsma 2013, eq. 4–6)."""
    share = both**2 / np.maximum(np.outer(counts, counts), 1)
    phi2 = np.add.reduceat(np.add.reduceat(share, starts, axis=0), starts, axis=1) - 1
    r, c = varied[:, None], varied[None, :]
    phi2 = np.maximum(0, phi2 - (r - 1) * (c - 1) / (n - 1))
    least = np.minimum(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
    usable = (r > 1) & (c > 1) & (least > 0)
    return np.sqrt(np.where(usable, phi2 / np.where(usable, least, 1.0), 0.0))


# ── shared information ──────────────────────────────────────────────────────────────────────────────────────


def information(learned: list[Cells], *, seed: int) -> dict[str, dict[tuple[int, int], float]]:
    """What each two columns tell of each other, by side and by two columns (the smaller first), in [0, 1].

    Mutual information over the mean entropy of both, 2 I / (H₁ + H₂), which sees any dependence, also one without a
    direction. Of categories the 50 commonest of the training rows are told apart, numbers by 20 bins, missing is a
    value of its own. Counts of few rows make up information: what the same rows give where one column is shuffled is
    taken off, and sides are counted over equally many rows. On tables of more than `WIDE` columns pairs are measured
    within groups.
    """
    groups = groups_of(len(learned), seed=seed)
    pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
    sides = {s: len(learned[0].codes[s]) if learned else 0 for s in SIDES}
    most = max(2_000, COUNTED // max(len(pairs), 1))
    rows = min(most, *(n for n in sides.values() if n >= FEWEST), most)
    return {s: _shared(learned, pairs, s, rows, seed=seed) if n >= FEWEST else {} for s, n in sides.items()}


def _shared(
    learned: list[Cells], pairs: list[tuple[int, int]], side: str, rows: int, *, seed: int
) -> dict[tuple[int, int], float]:
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(learned[0].codes[side]), rows, replace=False))
    codes = [np.unique(told(c, side)[chosen], return_inverse=True)[1] for c in learned]
    widths = [int(c.max(initial=-1)) + 1 for c in codes]
    alone = [_entropy(np.bincount(c), rows) for c in codes]
    # One order for every pair: each second column is shuffled against each first one.
    order = rng.permutation(rows)
    out = {}
    for i, j in pairs:
        whole = (alone[i] + alone[j]) / 2
        if whole == 0:
            out[i, j] = 0.0
            continue
        first, size = codes[i] * widths[j], widths[i] * widths[j]
        both, apart = (np.bincount(first + second, minlength=size) for second in (codes[j], codes[j][order]))
        # H₁ + H₂ is the same in both, so that only the joint entropies differ.
        out[i, j] = float(np.clip((_entropy(apart, rows) - _entropy(both, rows)) / whole, 0.0, 1.0))
    return out


def told(cells: Cells, side: str) -> Codes:
    """Categories as far as they are told apart, or bins of a number: int64 (rows,), −1 is missing."""
    codes = binned(cells, side)
    if cells.numbers is not None or len(cells.values) <= COMMON:
        return codes
    return np.append(keep_common(cells.counts("train"), COMMON), -1)[codes]


def _entropy(counts: Codes, n: int) -> float:
    p = counts[counts > 0] / n
    return float(-(p * np.log(p)).sum())


def binned(cells: Cells, side: str) -> Codes:
    """Categories, or bins of a number by quantiles of the training rows: int64 (rows,), −1 is missing."""
    if cells.numbers is None:
        return cells.codes[side]
    values = cells.numbers[side]
    return np.where(np.isnan(values), -1, np.searchsorted(cells.edges, values, side="right")).astype(np.int64)
