"""How many answers it takes to see a difference."""

from __future__ import annotations

import math

from captum_deduce import checks
from captum_deduce.study import packages

POWER = 0.8
"""How likely a difference is to be seen, where nothing else is asked for."""


def answers_needed(
    first: float, second: float, *, power: float = POWER, alpha: float = 0.05
) -> float:
    """Count the answers that each of two methods needs for their shares to be told apart.

    For a two-sided test of two proportions, by Cohen's effect size.

    Args:
        first (float): A share of answers, such as of those that name the class.
        second (float): The share of the other method.
        power (float, optional): How likely the difference is to be seen. Default: 0.8
        alpha (float, optional): How likely one is seen where there is none. Default: 0.05

    Returns:
        float: Answers per method, a whole number; infinite where the shares are equal. As for
        intervals, answers are taken as independent.

    Raises:
        TypeError: No number.
        ValueError: A share or chance outside its range.
        ImportError: statsmodels is not installed.

    Examples::

        >>> answers_needed(0.5, 0.7)
        93.0
    """
    return _needed(first, second, 1.0, power, alpha)


def comparisons_needed(preferred: float, *, power: float = POWER, alpha: float = 0.05) -> float:
    """Count the comparisons of two methods that it takes to see that one is preferred.

    For a two-sided test of one proportion against a half, by Cohen's effect size.

    Args:
        preferred (float): The share of comparisons that one of them wins.
        power (float, optional): How likely the preference is to be seen. Default: 0.8
        alpha (float, optional): How likely one is seen where there is none. Default: 0.05

    Returns:
        float: Comparisons, a whole number; infinite where each wins half.

    Raises:
        TypeError: No number.
        ValueError: A share or chance outside its range.
        ImportError: statsmodels is not installed.

    Examples::

        >>> comparisons_needed(0.6)
        194.0
    """
    return _needed(preferred, 0.5, 0.0, power, alpha)


def _needed(first: float, second: float, ratio: float, power: float, alpha: float) -> float:
    for name, value in (("first share", first), ("second share", second)):
        checks.number(name, value, minimum=0, maximum=1)
    for name, value in (("power", power), ("alpha", alpha)):
        checks.number(name, value, minimum=0, maximum=1, exclusive=True)
    if math.isclose(first, second, abs_tol=1e-9):
        return math.inf
    effect = packages.proportions().proportion_effectsize(first, second)
    # in closed form, since statsmodels' search for the root fails where a difference is large;
    # of two samples of one size each needs twice what one sample does
    solved = packages.powers().normal_sample_size_one_tail(abs(effect), power, alpha / 2)
    return float(math.ceil(solved * (1 + ratio) - 1e-9))
