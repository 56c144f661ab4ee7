from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from captum_deduce.study import answers_needed, comparisons_needed


@pytest.mark.parametrize(("first", "second"), [(0.5, 0.7), (0.1, 0.3), (0.9, 0.8)])
def test_that_many_answers_show_the_difference_four_times_in_five(first, second):
    needed = int(answers_needed(first, second))
    assert needed == answers_needed(second, first)
    rng = np.random.default_rng(0)
    a, b = rng.binomial(needed, first, 20000), rng.binomial(needed, second, 20000)
    # Cohen's test, of the difference of arcsines
    z = 2 * (np.arcsin(np.sqrt(a / needed)) - np.arcsin(np.sqrt(b / needed))) / np.sqrt(2 / needed)
    assert np.mean(np.abs(z) > stats.norm.isf(0.025)) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("preferred", [0.6, 0.3])
def test_that_many_comparisons_show_the_preference_four_times_in_five(preferred):
    needed = int(comparisons_needed(preferred))
    won = np.random.default_rng(0).binomial(needed, preferred, 20000)
    z = 2 * (np.arcsin(np.sqrt(won / needed)) - np.pi / 4) * np.sqrt(needed)
    assert np.mean(np.abs(z) > stats.norm.isf(0.025)) == pytest.approx(0.8, abs=0.03)


def test_small_differences_need_more_and_none_is_never_seen():
    needed = [answers_needed(0.5, 0.5 + step) for step in (0.01, 0.1, 0.3, 0.5)]
    assert needed == sorted(needed, reverse=True)
    assert answers_needed(0.4, 0.4) == math.inf
    assert comparisons_needed(0.5) == math.inf
    assert answers_needed(0.0, 1.0) == 2  # where a search for the root fails
    assert answers_needed(0.5, 0.7, power=0.95) > answers_needed(0.5, 0.7)


@pytest.mark.parametrize("wrong", [(-0.1, 0.5, 0.8), (0.5, 1.1, 0.8), (0.5, 0.6, 1.0)])
def test_other_numbers_are_refused(wrong):
    first, second, power = wrong
    with pytest.raises(ValueError, match="must be a finite number in"):
        answers_needed(first, second, power=power)
