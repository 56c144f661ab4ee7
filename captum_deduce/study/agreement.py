"""How far people agree: Krippendorff's alpha for answers without an order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def krippendorff_alpha(counts: ArrayLike) -> float:
    r"""Measure the agreement of people of whom not all answered everything.

    With :math:`n_{uc}` people who gave unit :math:`u` the value :math:`c`, :math:`m_u` of them in
    all, and :math:`n_c` of all units with two answers or more,

    .. math::

        \alpha = 1 - (n - 1) \, \frac{\sum_u \frac{1}{m_u - 1} (m_u^2 - \sum_c n_{uc}^2)}
        {n^2 - \sum_c n_c^2}.

    1 is full agreement, 0 what chance would give, and less than 0 is disagreement by system.
    Units with one answer say nothing and are left out.

    Args:
        counts (NDArray or list): How many people gave each unit each value, units x values.

    Returns:
        float: Alpha; NaN where no unit has two answers, or all answers are the same.

    Raises:
        ValueError: Another shape, or counts that are negative.

    Examples::

        >>> krippendorff_alpha([[2, 0], [0, 2], [2, 0]])  # both agree on all three
        1.0
    """
    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or (table < 0).any():
        raise ValueError(
            f"counts must be units x values, from 0, got shape {table.shape} and {table.min()}"
            if table.size
            else f"counts must be units x values, got shape {table.shape}"
        )
    table = table[table.sum(1) >= 2]
    answers = table.sum(1)
    total, by_value = answers.sum(), table.sum(0)
    expected = total**2 - (by_value**2).sum()
    if not len(table) or expected == 0:
        return float("nan")
    observed = ((answers**2 - (table**2).sum(1)) / (answers - 1)).sum()
    return float(1 - (total - 1) * observed / expected)
