"""Agreement against distance as a curve: its errors over originals, and how far two lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from captum_deduce.metrics import EvaluationTable

RESAMPLES = 10_000
"""Draws of originals behind each interval of a margin."""

INTERVAL = (0.025, 0.975)
"""Which quantiles of the resampled margins are its interval."""


def error_over_originals(values: Tensor, originals: Tensor) -> float | None:
    r"""Estimate the standard error of a mean over pairs that share originals.

    Pairs of one original are not independent, so that originals are what was drawn. The mean is a
    ratio of two sums over originals o, of values :math:`s_o` and of numbers of pairs :math:`n_o`;
    its error, to first order, is

    .. math:: \sqrt{\frac{O}{O - 1} \sum_o (s_o - \bar v\, n_o)^2} \Big/ \sum_o n_o

    and, where all originals have as many pairs, that of the mean of their means.

    Args:
        values (Tensor): One per pair, n, float64.
        originals (Tensor): Which original each is of, n integers.

    Returns:
        float or None: The error; None with fewer than two originals.
    """
    place = torch.unique(originals, return_inverse=True)[1]
    count = int(place.max()) + 1 if len(place) else 0
    if count < 2:
        return None
    apart = torch.zeros(count, dtype=values.dtype).index_add(0, place, values - values.mean())
    return float((apart.square().sum() * count / (count - 1)).sqrt() / len(values))


@dataclass(frozen=True)
class Curve:
    """A method's points on one classifier, as sums over each original's pairs.

    Args:
        distances (Tensor): Sum of the distances of what was found, K points x O originals, float64.
        found (Tensor): Number of pairs with a counterfactual, K x O, float64.
        agreements (Tensor): Sum of the agreements, 0 for each failure, K x O, float64.
        searched (Tensor): Number of pairs that were searched for, K x O, float64.
    """

    distances: Tensor
    found: Tensor
    agreements: Tensor
    searched: Tensor

    @classmethod
    def of(
        cls, table: EvaluationTable, rows: Sequence[str], distance: str, agreement: str
    ) -> Curve:
        """Collect a curve's sums.

        Args:
            table (EvaluationTable): With means over each result's own pairs, but the agreement,
                which is 0 for a failure, over all.
            rows (Sequence[str]): Names of the curve's K results, in its order.
            distance (str): The metric across.
            agreement (str): The metric up.

        Returns:
            Curve: Of the table's originals, in ascending order.
        """
        count = int(table.originals.max()) + 1

        def sums(metric: str) -> tuple[Tensor, Tensor]:
            totals, numbers = torch.zeros(2, len(rows), count, dtype=torch.float64)
            for place, row in enumerate(rows):
                measured = table.measured[row][metric]
                groups = table.originals[measured.pairs]
                totals[place].index_add_(0, groups, measured.values)
                numbers[place] = groups.bincount(minlength=count)
            return totals, numbers

        return cls(*sums(distance), *sums(agreement))

    def at(self, distances: Tensor, weights: Tensor) -> Tensor:
        """Read the agreement at some distances, linearly between points that follow one another.

        Where several stretches of the curve pass a distance, the highest counts. A curve has no
        value beyond its points.

        Args:
            distances (Tensor): L distances, float64.
            weights (Tensor): How often each original counts, B x O, float64.

        Returns:
            Tensor: B x L; NaN where the curve doesn't reach.
        """
        across = (weights @ self.distances.T) / (weights @ self.found.T)
        up = (weights @ self.agreements.T) / (weights @ self.searched.T)
        start, end = across[:, :-1, None], across[:, 1:, None]
        low, high = up[:, :-1, None], up[:, 1:, None]
        way = (distances - start) / (end - start)
        height = low + way * (high - low)
        passed = (way >= 0) & (way <= 1)
        # The floor stands for no stretch at all, as where a curve is a single point.
        floored = pad(height.masked_fill(~passed, -torch.inf), (0, 0, 0, 1), value=-torch.inf)
        best = floored.amax(1)
        return best.masked_fill(best == -torch.inf, torch.nan)


@dataclass(frozen=True)
class Margin:
    """By how much one method's curve lies above another's at a distance.

    Args:
        distance (float): Where.
        method (str or None): The best of ours there; None where none reaches it.
        rival (str or None): The best of the others there; None where none reaches it.
        agreement (float or None): Of the method.
        rival_agreement (float or None): Of the rival.
        interval (tuple[float, float] or None): Of the difference, by :data:`INTERVAL` of the
            resamples in which both curves reach; None where there is no difference, or with
            fewer than two originals.
        reached (float): The share of such resamples.
    """

    distance: float
    method: str | None
    rival: str | None
    agreement: float | None
    rival_agreement: float | None
    interval: tuple[float, float] | None
    reached: float

    @property
    def difference(self) -> float | None:
        """The method's agreement less the rival's, if both have one."""
        if self.agreement is None or self.rival_agreement is None:
            return None
        return self.agreement - self.rival_agreement


def margins(
    ours: Mapping[str, Curve],
    others: Mapping[str, Curve],
    distances: Sequence[float],
    seed: int,
    resamples: int = RESAMPLES,
) -> list[Margin]:
    """Compare the best of our curves with the best of others, distance by distance.

    The best of each are chosen on all originals. The interval is the bootstrap's, over originals:
    both curves are drawn anew from the same resampled originals, as both searched for the same
    pairs.

    Args:
        ours (Mapping[str, Curve]): By method, at least one; all curves are of the same originals.
        others (Mapping[str, Curve]): Likewise.
        distances (Sequence[float]): Where to compare.
        seed (int): Of the resamples.
        resamples (int, optional): How many. Default: :data:`RESAMPLES`

    Returns:
        list[Margin]: One for each distance.
    """
    where = torch.tensor(distances, dtype=torch.float64)
    count = next(iter(ours.values())).searched.shape[1]
    everyone = torch.ones(1, count, dtype=torch.float64)
    weights = _resampled(count, resamples, seed)
    values = {name: curve.at(where, everyone)[0] for name, curve in {**ours, **others}.items()}
    drawn = {name: curve.at(where, weights) for name, curve in {**ours, **others}.items()}
    found = []
    for place, distance in enumerate(distances):
        method, agreement = _highest(ours, values, place)
        rival, rival_agreement = _highest(others, values, place)
        interval, reached = None, 0.0
        if method is not None and rival is not None and count > 1:
            apart = drawn[method][:, place] - drawn[rival][:, place]
            apart = apart[~apart.isnan()]
            reached = len(apart) / resamples
            if len(apart):
                low, high = torch.quantile(apart, apart.new_tensor(INTERVAL)).tolist()
                interval = (low, high)
        found.append(Margin(distance, method, rival, agreement, rival_agreement, interval, reached))
    return found


def _resampled(originals: int, resamples: int, seed: int) -> Tensor:
    """How often each original is drawn, if as many are drawn as there are: B x O."""
    source = torch.Generator().manual_seed(seed)
    drawn = torch.randint(originals, (resamples, originals), generator=source)
    weights = torch.zeros(resamples, originals, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(weights))


def _highest(
    names: Mapping[str, Curve], values: Mapping[str, Tensor], place: int
) -> tuple[str | None, float | None]:
    reaching = [name for name in names if not values[name][place].isnan()]
    if not reaching:
        return None, None
    best = max(reaching, key=lambda name: float(values[name][place]))
    return best, float(values[best][place])
