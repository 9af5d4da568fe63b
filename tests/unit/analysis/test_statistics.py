"""The statistics of a comparison, against scipy, published tables and the definitions."""

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from mtl_runner.analysis import statistics

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_interval_and_test_are_scipys(n: int) -> None:
    values = RNG.normal(1, 2, n)
    known = statistics.estimate([*values, math.nan])
    low, high = stats.t.interval(0.95, n - 1, values.mean(), stats.sem(values))
    assert (known.mean - known.half, known.mean + known.half, known.n) == pytest.approx((low, high, n))
    assert statistics.t_test(values.tolist()) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_parts_that_overlap_by_hand() -> None:
    """s = 1, so that the error is √(1 / 3 + 1 / 4): Nadeau and Bengio's variance with a test part of a quarter."""
    error = math.sqrt(7 / 12)
    assert statistics.standard_error([1.0, 2.0, 3.0], 0.25) == pytest.approx(error)
    assert statistics.estimate([1.0, 2.0, 3.0], 0.25).half == pytest.approx(4.302652729911275 * error)
    assert statistics.t_test([1.0, 2.0, 3.0], 0.25) == pytest.approx(2 * stats.t.sf(2 / error, 2))


def test_what_cannot_be_computed() -> None:
    assert math.isnan(statistics.estimate([]).mean) and math.isnan(statistics.estimate([1.0]).half)
    assert math.isnan(statistics.t_test([1.0])) and math.isnan(statistics.t_test([0.0, 0.0, 0.0]))
    assert math.isnan(statistics.t_test([0.1 + 0.2, 0.3, 0.3])), "rounding is no spread"


def test_holm_by_hand() -> None:
    assert statistics.holm([0.01, 0.04, math.nan, 0.03, 0.005]) == pytest.approx([0.03, 0.06, math.nan, 0.06, 0.02], nan_ok=True)
    assert statistics.holm([0.6, 0.7]) == [1, 1] and statistics.holm([]) == []


def test_holm_rejects_what_stepping_down_rejects() -> None:
    for level in (0.01, 0.05, 0.3):
        p = RNG.uniform(0, 0.2, 7)
        rejected = set[int]()
        for place, index in enumerate(np.argsort(p)):
            if p[index] > level / (len(p) - place):
                break
            rejected.add(int(index))
        assert {index for index, value in enumerate(statistics.holm(p.tolist())) if value <= level} == rejected


def test_wilcoxon_by_all_signs() -> None:
    """p is the share of the 2ⁿ ways to give signs to the ranks whose sum is as far from its mean."""
    values = [0.3, 0.5, -0.1, 0.9, 1.4, 0.7, 2.0]
    ranks = np.arange(1, 8)
    order = np.argsort(np.argsort(np.abs(values))) + 1
    seen = abs(sum(rank for rank, value in zip(order, values, strict=True) if value > 0) - 14)
    as_far = [abs(sum(rank for rank, up in zip(ranks, ups, strict=True) if up) - 14) >= seen for ups in product((0, 1), repeat=7)]
    assert statistics.wilcoxon(values) == pytest.approx(np.mean(as_far))


def test_wilcoxon_speaks_only_where_it_can() -> None:
    six = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert statistics.wilcoxon(six) == pytest.approx(2 / 2**6) and statistics.wilcoxon(six) < 0.05
    assert statistics.wilcoxon(six[:5]) is None, "2 / 2⁵ is above 0.05"
    assert statistics.wilcoxon([*six[:5], 0.0]) is None, "a pair that does not differ says nothing"
    assert statistics.wilcoxon(six, overlap=0.25) is None


def test_ranks_by_hand() -> None:
    assert statistics.mean_ranks([[0.9, 0.8, 0.8], [0.5, 0.7, 0.6]]) == [2.0, 1.75, 2.25]


def test_friedman_is_scipys() -> None:
    blocks = RNG.normal(size=(6, 4))
    known = statistics.ranking(blocks)
    assert known and known.friedman_p == pytest.approx(stats.friedmanchisquare(*blocks.T).pvalue) and known.blocks == 6
    assert statistics.ranking(blocks[:, :2]) is None and statistics.ranking(blocks[:1]) is None
    assert known.critical_difference == statistics.critical_difference(groups=4, blocks=6)
    tied = statistics.ranking(np.ones((3, 3)))
    assert tied and math.isnan(tied.friedman_p)


@pytest.mark.parametrize("blocks", [[[1, 2, 3], [1, 2, 3]], [[1, 2, 3], [1, 2, 3], [7, 7, 7]]])
def test_friedman_by_hand(blocks: list[list[float]]) -> None:
    """χ² = 12 / (24) · (2² + 4² + 6²) − 24 = 4 with two degrees of freedom; a block that ties adds nothing."""
    known = statistics.ranking(blocks)
    assert known and known.friedman_p == pytest.approx(math.exp(-2))


@pytest.mark.parametrize(("groups", "q"), [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (10, 3.164)])
def test_critical_difference_is_demsars(groups: int, q: float) -> None:
    """Table 5 (a) of Demšar 2006; its example of four classifiers on fourteen data sets has CD = 1.25."""
    assert statistics.critical_difference(groups, 1) / math.sqrt(groups * (groups + 1) / 6) == pytest.approx(q, abs=1e-3)
    assert statistics.critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (2.0, 5)])
def test_seeds_needed_are_those_of_power_tables(effect: float, pairs: int) -> None:
    """Of a paired t test at 0.05, two-sided, with a power of 0.8 (G*Power)."""
    assert statistics.seeds_needed([effect - 1, effect, effect + 1]) == pairs
    assert statistics.seeds_needed([effect - 1, effect, effect + 1], level=0.005) > pairs


def test_seeds_needed_without_an_answer() -> None:
    assert statistics.seeds_needed([-1.0, 1.0]) is None and statistics.seeds_needed([0.5]) is None
    assert statistics.seeds_needed([-0.999, 1.001, 0.0]) is None, "more than a thousand"
