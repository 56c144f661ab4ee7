"""Which method people prefer: the model of Bradley and Terry, with intervals over people."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from captum_deduce import checks
from captum_deduce.study import packages

PRIOR = 0.1
"""Wins that every method is given over every other before anybody answers. Without any a method
that always wins would have no finite strength; a tenth is less than one answer says."""

RESAMPLES = 2000
"""How often people are drawn anew for an interval."""

_ITERATIONS = 10_000


@dataclass(frozen=True)
class Preference:
    """What comparisons say of M methods.

    Args:
        wins (NDArray): How often each was preferred to each other, M x M; of a comparison in which
            no difference was seen each has half.
        strength (NDArray): On the scale of log-odds, M; their mean is 0.
        low (NDArray): Lower ends of 95% intervals, M; NaN of fewer than two people.
        high (NDArray): Upper ends, M.
    """

    wins: NDArray[np.float64]
    strength: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def chances(self) -> NDArray[np.float64]:
        """How likely the method of the row is preferred to that of the column, M x M."""
        odds = self.strength[:, None] - self.strength[None]
        return np.asarray(1 / (1 + np.exp(-odds)))


def bradley_terry(wins: ArrayLike) -> NDArray[np.float64]:
    r"""Fit strengths, of which :math:`P(i \text{ preferred to } j) = 1 / (1 + e^{s_j - s_i})`.

    The likelihood is maximised with :data:`PRIOR` wins of each method over each other besides.

    Args:
        wins (NDArray or list): How often each of M methods was preferred to each other, M x M;
            fractions, such as halves of ties, are allowed, and the diagonal says nothing.

    Returns:
        NDArray: M strengths on the scale of log-odds; their mean is 0.

    Raises:
        ValueError: No square matrix of two methods or more, or wins that are negative.
        ImportError: choix is not installed.

    Examples::

        >>> bradley_terry([[0, 30], [10, 0]]).round(2)  # about half of log(3) each
        array([ 0.55, -0.55])
    """
    table = np.array(wins, np.float64)
    square = table.ndim == 2 and table.shape[0] == table.shape[1] >= 2
    if not square or not np.isfinite(table).all() or (table < 0).any():
        raise ValueError(
            "wins must be methods x methods, at least two, and finite from 0, got shape "
            f"{table.shape}"
        )
    table += PRIOR
    np.fill_diagonal(table, 0)
    found = packages.choices().ilsr_pairwise_dense(table, max_iter=_ITERATIONS)
    return np.asarray(found - np.mean(found), np.float64)


def preferences(wins: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> Preference:
    """Fit strengths to what several people prefer.

    People, not answers, are drawn anew, as answers of one person hang together. The intervals are
    percentiles of the strengths of these draws. Of few people, say less than ten, they are too
    narrow.

    Args:
        wins (NDArray or list): For each of P people how often each method was preferred to each
            other, P x M x M, see :func:`bradley_terry`.
        resamples (int, optional): How often people are drawn. Default: :data:`RESAMPLES`
        seed (int, optional): Of the draws. Default: 0

    Returns:
        Preference: Of all people.

    Raises:
        TypeError: No whole number of resamples.
        ValueError: Another shape, or no people.
        ImportError: choix is not installed.
    """
    checks.number("resamples", resamples, minimum=1, integer=True)
    own = np.asarray(wins, np.float64)
    if own.ndim != 3 or not len(own):
        raise ValueError(f"wins must be people x methods x methods, got shape {own.shape}")
    total = own.sum(0)
    strength = bradley_terry(total)
    if len(own) < 2:
        unknown = np.full(len(strength), np.nan)
        return Preference(total, strength, unknown, unknown)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples)
    drawn = np.einsum("rp,pij->rij", weights.astype(np.float64), own)
    low, high = np.percentile([bradley_terry(table) for table in drawn], [2.5, 97.5], axis=0)
    return Preference(total, strength, low, high)
