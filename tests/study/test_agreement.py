"""Examples of Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011)."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from captum_deduce.study import krippendorff_alpha


def counts(*people):
    """Units x values, of a line of values for each person; a dot is no answer."""
    lines = [line.split() for line in people]
    values = sorted({value for line in lines for value in line} - {"."})
    return [[Counter(unit)[value] for value in values] for unit in zip(*lines, strict=True)]


@pytest.mark.parametrize(
    ("people", "alpha"),
    [
        # A. binary data, two observers, no missing data
        (["0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"], 0.095),
        # B. nominal data, two observers, no missing data
        (["a a b b d c c c e d d a", "b a b b b c c c e d d d"], 0.692),
        # C. nominal data, any number of observers, missing data
        (
            [
                "1 2 3 3 2 1 4 1 2 . . .",
                "1 2 3 3 2 2 4 1 2 5 . 3",
                ". 3 3 3 2 3 4 2 2 5 1 .",
                "1 2 3 3 2 4 4 1 2 5 1 .",
            ],
            0.743,
        ),
    ],
)
def test_published_examples(people, alpha):
    assert krippendorff_alpha(counts(*people)) == pytest.approx(alpha, abs=5e-4)


def naive_alpha(table):
    """All pairs of answers, one by one."""
    units = [[c for c, n in enumerate(row) for _ in range(int(n))] for row in table]
    units = [unit for unit in units if len(unit) > 1]
    everything = [value for unit in units for value in unit]
    total = len(everything)
    observed = sum(
        (a != b) / (len(unit) - 1)
        for unit in units
        for i, a in enumerate(unit)
        for j, b in enumerate(unit)
        if i != j
    )
    expected = sum(a != b for a in everything for b in everything)
    return 1 - (total - 1) * observed / expected


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_definition(seed):
    table = np.random.default_rng(seed).integers(0, 4, (9, 4))
    assert krippendorff_alpha(table) == pytest.approx(naive_alpha(table), rel=1e-12)


def test_chance_agreement_is_about_zero():
    table = np.random.default_rng(0).multinomial(4, [0.5, 0.3, 0.2], size=4000)
    assert abs(krippendorff_alpha(table)) < 0.02


def test_where_there_is_nothing_to_agree_on():
    assert math.isnan(krippendorff_alpha([[1, 0], [0, 1]]))  # one answer each
    assert math.isnan(krippendorff_alpha([[2, 0], [3, 0]]))  # one value only
    assert math.isnan(krippendorff_alpha(np.zeros((0, 3))))


@pytest.mark.parametrize("wrong", [[1, 2], [[1, -1]], []])
def test_other_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match="counts must be units x values"):
        krippendorff_alpha(wrong)
