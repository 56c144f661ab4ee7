from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from captum_deduce.study import difference, share


@pytest.mark.parametrize(("count", "total"), [(0, 20), (8, 10), (81, 263), (20, 20)])
def test_the_interval_is_that_of_wilson(count, total):
    found = share(count, total)
    expected = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == count / total


def test_the_published_example_of_a_difference():
    """Newcombe (1998), table II, example (a): 56/70 and 48/80, method 10."""
    found = difference(share(56, 70), share(48, 80))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_of_no_answers_nothing_is_known():
    none = share(0, 0)
    assert math.isnan(none.value)
    assert (none.low, none.high) == (0, 1)
    apart = difference(none, share(3, 4))
    assert math.isnan(apart.value)
    assert (apart.low, apart.high) == (-1, 1)


def test_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    for truth in (0.1, 0.5, 0.8):
        found = [share(int(n), 60) for n in rng.binomial(60, truth, 1000)]
        covered = np.mean([one.low <= truth <= one.high for one in found])
        assert 0.93 < covered < 0.975


def test_intervals_of_differences_cover_the_truth():
    rng = np.random.default_rng(0)
    counts = zip(rng.binomial(60, 0.7, 1000), rng.binomial(40, 0.9, 1000), strict=True)
    found = [difference(share(int(a), 60), share(int(b), 40)) for a, b in counts]
    assert 0.93 < np.mean([one.low <= -0.2 <= one.high for one in found]) < 0.975
