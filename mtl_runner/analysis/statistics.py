"""The statistics of a comparison: intervals, paired tests and ranks, each as its paper has it.

Shape legend: n pairs of runs (or splits), N blocks that are ranked, k groups. ``overlap`` is 0 where all runs have the same
parts, and the rows of the test part for each training row where every value comes from another split of the same data.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from mtl_runner.analysis.comparison import Estimate, Ranking

LEVEL = 0.05
"""What p is compared with; intervals have the confidence 1 - LEVEL."""
POWER = 0.8
MOST_SEEDS = 1000
LEAST_PAIRS = math.ceil(1 - math.log2(LEVEL))
"""Of Wilcoxon's test: the smallest p of n pairs is 2 / 2ⁿ."""


def estimate(values: Sequence[float], overlap: float = 0.0) -> Estimate:
    """Mean and half of the 95 % interval by Student's t, mean ± t(0.975, n - 1) · error; values that are NaN are left out."""
    known = _known(values)
    mean = float(known.mean()) if len(known) else math.nan
    half = math.nan if len(known) < 2 else float(stats.t.ppf(1 - LEVEL / 2, len(known) - 1)) * standard_error(known, overlap)
    return Estimate(mean, half, len(known))


def standard_error(values: Sequence[float] | NDArray[np.float64], overlap: float = 0.0) -> float:
    """Of the mean: √(s² (1 / n + overlap)).

    With ``overlap`` it is that of runs whose training parts have rows in common (Nadeau and Bengio, Inference for the
    generalization error, Machine Learning 2003); without, s / √n.
    """
    return float(np.std(values, ddof=1) * math.sqrt(1 / len(values) + overlap))


def t_test(differences: Sequence[float], overlap: float = 0.0) -> float:
    """Two-sided p of the paired t test; NaN with fewer than two pairs, or where all differences are the same."""
    known = _known(differences)
    if len(known) < 2 or _same(known):
        return math.nan
    return float(2 * stats.t.sf(abs(known.mean()) / standard_error(known, overlap), len(known) - 1))


def wilcoxon(differences: Sequence[float], overlap: float = 0.0) -> float | None:
    """Two-sided p of Wilcoxon's signed-rank test, without the pairs that do not differ.

    None with fewer than six others, where it cannot fall below 0.05, and where parts overlap: no correction of it is known.
    """
    known = _known(differences)
    known = np.round(known / np.abs(known).max(initial=1e-300), 9)  # rounding makes no order among equal differences
    known = known[known != 0]
    return None if len(known) < LEAST_PAIRS or overlap else float(stats.wilcoxon(known).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p: the i-th smallest of m times m - i + 1, at least its predecessor, at most 1; NaN stays NaN and does not count.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)[: np.isfinite(values).sum()]
    steps = values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(values), math.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(value) for value in adjusted]


def mean_ranks(blocks: ArrayLike) -> list[float]:
    """Mean rank of each of k groups over N blocks, from scores [N, k]; 1 is the highest score, ties share their mean rank."""
    return [float(rank) for rank in stats.rankdata(-np.asarray(blocks, dtype=np.float64), axis=1).mean(0)]


def ranking(blocks: ArrayLike) -> Ranking | None:
    """Friedman's test and Nemenyi's critical difference, from scores [N, k]; None for fewer than three groups or two blocks.

    CD = q √(k (k + 1) / (6 N)), q the 0.95 quantile of the studentized range of k groups, without a limit of the degrees of
    freedom, / √2 (Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 2006). p is NaN where all tie.
    """
    scores = np.asarray(blocks, dtype=np.float64)
    if scores.ndim < 2 or scores.shape[0] < 2 or scores.shape[1] < 3:
        return None
    count, groups = scores.shape
    tied = bool((np.ptp(scores, axis=1) == 0).all())
    p = math.nan if tied else float(stats.friedmanchisquare(*scores.T).pvalue)
    return Ranking(p, critical_difference(groups, count), count)


def critical_difference(groups: int, blocks: int) -> float:
    """How far apart two mean ranks of ``groups`` must be to differ at 0.05."""
    q = float(stats.studentized_range.ppf(1 - LEVEL, groups, np.inf)) / math.sqrt(2)
    return q * math.sqrt(groups * (groups + 1) / (6 * blocks))


def seeds_needed(differences: Sequence[float], level: float = LEVEL) -> int | None:
    """Pairs with which a paired t test at ``level`` would tell the observed mean difference from 0 with a power of 80 %.

    With the noncentral t distribution: P(|T| > t(1 - level / 2, n - 1)), T with n - 1 degrees of freedom and noncentrality
    √n · mean / s. It takes the observed difference for the true one. None where there is none, or where a thousand pairs were
    not enough.
    """
    known = _known(differences)
    if len(known) < 2 or _same(known) or known.mean() == 0:
        return None
    effect = abs(float(known.mean())) / float(np.std(known, ddof=1))
    n = np.arange(2, MOST_SEEDS + 1)
    limit = stats.t.ppf(1 - level / 2, n - 1)
    above, below = stats.nct.sf(limit, n - 1, effect * np.sqrt(n)), stats.nct.cdf(-limit, n - 1, effect * np.sqrt(n))
    enough = np.nan_to_num(above) + np.nan_to_num(below) >= POWER
    return int(n[enough.argmax()]) if enough.any() else None


def _known(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _same(values: NDArray[np.float64]) -> bool:
    """But for rounding, which a test would take for a spread next to nothing."""
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())
