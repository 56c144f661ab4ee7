"""Paired tests against SciPy's on two samples, and against the exact distribution of signs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from captum_deduce.metrics.paired_tests import means_by, paired_tests_on

RANDOM = np.random.default_rng(0)


def test_each_pair_is_an_observation_without_originals():
    first, second = RANDOM.normal(size=40), RANDOM.normal(size=40) + 0.4
    count, t, wilcoxon = paired_tests_on(torch.from_numpy(first - second))
    assert count == 40
    assert t == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=1e-9)
    assert wilcoxon == pytest.approx(stats.wilcoxon(first, second).pvalue, rel=1e-9)


def test_wilcoxons_p_value_is_the_share_of_signs_that_are_as_one_sided():
    differences = np.array([0.3, -0.1, 0.9, 1.4, -0.2, 0.7, 2.0])
    ranks = stats.rankdata(np.abs(differences))
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product([0, 1], repeat=7)]
    found = sum(ranks[differences > 0])
    share = np.mean(np.array(sums) >= max(found, ranks.sum() - found))
    _, _, p = paired_tests_on(torch.from_numpy(differences))
    assert p == pytest.approx(2 * share, rel=1e-12)


def test_an_original_counts_once():
    """Nine copies of each difference say no more than one."""
    once = torch.from_numpy(RANDOM.normal(size=12) + 0.5)
    originals = torch.arange(12).repeat_interleave(9)
    copies = once.repeat_interleave(9)
    assert paired_tests_on(copies, originals) == pytest.approx(paired_tests_on(once))
    assert paired_tests_on(copies)[1] < paired_tests_on(once)[1]
    order = torch.randperm(108)
    assert paired_tests_on(copies[order], originals[order]) == pytest.approx(paired_tests_on(once))


def test_what_cannot_be_tested_has_no_p_value():
    assert paired_tests_on(torch.ones(1)) == (1, None, None)
    assert paired_tests_on(torch.ones(5), torch.zeros(5, dtype=torch.int64)) == (1, None, None)
    assert paired_tests_on(torch.zeros(0), torch.zeros(0, dtype=torch.int64)) == (0, None, None)
    assert paired_tests_on(torch.zeros(6)) == (6, 1.0, 1.0)


def test_means_by_group():
    groups = torch.tensor([7, -2, 7, 0, -2, 7])
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 8.0], dtype=torch.float64)
    assert means_by(groups, values).tolist() == [3.5, 4.0, 4.0]
