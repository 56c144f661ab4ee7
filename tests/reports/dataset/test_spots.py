from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from captum_deduce.reports import find_spot


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (15, 40), (3, 1), (224, 224)])
def test_the_spot_is_the_best_of_all_windows(size):
    share = np.random.default_rng(0).random(size) ** 8
    share /= share.sum()
    height, width = -(-size[0] // 7), -(-size[1] // 7)
    sums = {
        (top, left): share[top : top + height, left : left + width].sum()
        for top, left in product(range(size[0] - height + 1), range(size[1] - width + 1))
    }
    spot = find_spot(share, 100)
    assert (spot.height, spot.width) == (height, width)
    assert spot.area == pytest.approx(height * width / share.size)
    assert spot.share == pytest.approx(max(sums.values()), abs=1e-11)
    assert sums[spot.top, spot.left] == pytest.approx(max(sums.values()), abs=1e-11)


def test_the_first_of_equal_windows_is_taken():
    share = np.zeros((8, 8))
    share[0, 0] = share[7, 7] = 0.5
    spot = find_spot(share, 1000)
    assert (spot.top, spot.left, spot.share) == (0, 0, 0.5)


def test_few_pairs_say_nothing_and_many_nearly_all():
    share = np.zeros((8, 8))
    share[2, 2] = 1.0
    assert find_spot(share, 0).at_least == find_spot(share, 3).at_least == 0.0
    # Hoeffding's inequality for 49 windows: P(mean - expected >= s) <= exp(-2 n s^2)
    slack = 1.0 - find_spot(share, 200).at_least
    assert 49 * math.exp(-2 * 200 * slack**2) == pytest.approx(0.05)


def test_the_lower_limit_holds_as_often_as_it_says():
    """Pairs whose change is in one of 64 places: the limit fails in at most 5% of samples."""
    draws = np.random.default_rng(1)
    likely = np.full(64, 0.5 / 63)
    likely[27] = 0.5
    corner = np.pad(likely.reshape(8, 8), ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    too_high = 0
    for _ in range(300):
        counts = draws.multinomial(40, likely).reshape(8, 8)
        spot = find_spot(counts / 40, 40)
        bottom, right = spot.top + spot.height, spot.left + spot.width
        expected = (
            corner[bottom, right]
            - corner[spot.top, right]
            - corner[bottom, spot.left]
            + corner[spot.top, spot.left]
        )
        too_high += spot.at_least > expected
    assert too_high <= 15
