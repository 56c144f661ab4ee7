r"""Whether two explainers differ by more than chance, on the pairs that both were measured on."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

UNITS = ("original", "pair")
"""What counts as one observation of a paired test."""


@dataclass(frozen=True)
class PairedTest:
    """Two paired tests of one metric's values by two explainers; p-values are two-sided.

    They are not corrected for the number of tests made.

    Args:
        metric (str): The metric.
        first (str): One result.
        second (str): The other.
        difference (float or None): Mean of first less second, over the pairs; None without any.
        pairs (int): Pairs on which both were measured.
        units (int): Independent observations, as :func:`paired_tests_on` counts them.
        t_pvalue (float or None): Of Student's t-test; None with fewer than two units.
        wilcoxon_pvalue (float or None): Of Wilcoxon's signed-rank test, likewise.
    """

    metric: str
    first: str
    second: str
    difference: float | None
    pairs: int
    units: int
    t_pvalue: float | None
    wilcoxon_pvalue: float | None


def paired_tests_on(
    differences: Tensor, originals: Tensor | None = None
) -> tuple[int, float | None, float | None]:
    """Test whether differences are centred on 0.

    Pairs that share their original are not independent: an image that is far from one class is far
    from others. Their differences are averaged first, so that an original counts once.

    Args:
        differences (Tensor): One per pair, n.
        originals (Tensor, optional): Which original each is of, n integers. Default: None (each is
            an observation of its own)

    Returns:
        The number of observations, and the two-sided p-values of Student's t-test and of Wilcoxon's
        signed-rank test: None with fewer than two observations, 1 where all differences are 0.
    """
    # SciPy takes as long to import as the rest of the package, and only tests need it.
    from scipy import stats

    observed = differences if originals is None else means_by(originals, differences)
    if len(observed) < 2:
        return len(observed), None, None
    if not observed.any():
        return len(observed), 1.0, 1.0
    values = observed.numpy()
    with warnings.catch_warnings():
        # SciPy warns where all differences are nearly the same, and is right to return 0 then.
        warnings.simplefilter("ignore", RuntimeWarning)
        t_pvalue = float(stats.ttest_1samp(values, 0.0).pvalue)
    return len(observed), t_pvalue, float(stats.wilcoxon(values).pvalue)


def means_by(groups: Tensor, values: Tensor) -> Tensor:
    """Average values within groups.

    Args:
        groups (Tensor): n integers.
        values (Tensor): n, floating-point.

    Returns:
        Tensor: One mean per group that occurs, in ascending order of the groups.
    """
    place: Tensor = torch.unique(groups, return_inverse=True)[1]
    sizes = place.bincount()
    return values.new_zeros(len(sizes)).index_add(0, place, values) / sizes
