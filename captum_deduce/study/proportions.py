"""Shares of answers with their intervals: classes that were named, pictures taken for real."""

from __future__ import annotations

from dataclasses import dataclass

from captum_deduce.study import packages

ALPHA = 0.05
"""Intervals hold to ``1 - ALPHA``."""


@dataclass(frozen=True)
class Share:
    """A share of answers.

    Args:
        count (int): How many answers were so.
        total (int): Of how many.
        low (float): Lower end of Wilson's 95% interval.
        high (float): Upper end.
    """

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share, from 0 to 1; NaN of no answers."""
        return self.count / self.total if self.total else float("nan")


def share(count: int, total: int) -> Share:
    """Estimate a share with Wilson's interval.

    The interval takes answers as independent. Several answers of one person, or to one picture,
    are less so, and it is too narrow by as much.

    Args:
        count (int): How many answers were so.
        total (int): Of how many.

    Returns:
        Share: With the interval; from 0 to 1 of no answers.

    Raises:
        ImportError: statsmodels is not installed.

    Examples::

        >>> found = share(8, 10)
        >>> print(f"{found.value:.2f}, {found.low:.3f} to {found.high:.3f}")
        0.80, 0.490 to 0.943
    """
    if not total:
        return Share(0, 0, 0.0, 1.0)
    low, high = packages.proportions().proportion_confint(count, total, ALPHA, method="wilson")
    return Share(count, total, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """How far one share is above another.

    Args:
        value (float): First less second; NaN where one has no answers.
        low (float): Lower end of Newcombe's 95% interval.
        high (float): Upper end.
    """

    value: float
    low: float
    high: float


def difference(first: Share, second: Share) -> Difference:
    """Compare two shares by Newcombe's interval, which is made of both Wilson intervals.

    Args:
        first (Share): One.
        second (Share): The other.

    Returns:
        Difference: First less second; from -1 to 1 where one has no answers.

    Raises:
        ImportError: statsmodels is not installed.
    """
    if not first.total or not second.total:
        return Difference(float("nan"), -1.0, 1.0)
    low, high = packages.proportions().confint_proportions_2indep(
        first.count, first.total, second.count, second.total, method="newcomb", alpha=ALPHA
    )
    return Difference(first.value - second.value, float(low), float(high))
