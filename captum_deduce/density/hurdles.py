"""Hurdle models made of what was counted: parameters, tails and expectations."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DISTRIBUTIONS = ("normal", "gamma", "exponential", "none")
"""What the values of an active feature may follow; ``"none"`` where it never was active."""

_NORMAL, _GAMMA, _EXPONENTIAL, _NONE = range(4)
# Relative spread below which values count as equal.
_EQUAL = 1e-12
_NEWTON_STEPS = 30


class Spread(NamedTuple):
    """How many values there are of each feature in each class, and how they are spread.

    Attributes:
        counts (Tensor): C x D.
        mean (Tensor): C x D; 0 where there are none.
        scatter (Tensor): Sum of squares about the mean, C x D.
    """

    counts: Tensor
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, values: Tensor, target: Tensor, counted: Tensor, num_classes: int) -> Spread:
        """Describe some values.

        Args:
            values (Tensor): N x D, float64.
            target (Tensor): N classes.
            counted (Tensor): Which of the values count, N x D, 0 or 1, float64.
            num_classes (int): C.

        Returns:
            Spread: Of them.
        """
        count = _class_sums(counted, target, num_classes)
        mean = _class_sums(values * counted, target, num_classes) / count.clamp_min(1)
        squares = (values - mean[target]).square() * counted
        return cls(count, mean, _class_sums(squares, target, num_classes))

    def united(self, other: Spread) -> Spread:
        """Describe the values of both (Chan, Golub and LeVeque, 1979).

        Args:
            other (Spread): Of other values, of the same shape.

        Returns:
            Spread: Of all.
        """
        count = self.counts + other.counts
        share = other.counts / count.clamp_min(1)
        apart = other.mean - self.mean
        return Spread(
            count,
            self.mean + share * apart,
            self.scatter + other.scatter + self.counts * share * apart.square(),
        )


class Hurdles(NamedTuple):
    """The models of D features in C classes.

    Attributes:
        activity (Tensor): How often a feature is active, C x D.
        kind (Tensor): Which of :data:`DISTRIBUTIONS` it then has, C x D, int64.
        first (Tensor): The normal's mean or the gamma's shape (1: an exponential), C x D.
        scale (Tensor): The normal's standard deviation or the gamma's scale, C x D.
        expectation (Tensor): Mean where it is active, C x D.
        hurdle (Tensor): Which features can be silent, D, bool.
    """

    activity: Tensor
    kind: Tensor
    first: Tensor
    scale: Tensor
    expectation: Tensor
    hurdle: Tensor

    @classmethod
    def estimated(
        cls, active: Spread, log_mean: Tensor, values: Spread, negative: Tensor
    ) -> Hurdles:
        """Estimate by maximum likelihood, and choose by Akaike's criterion.

        Args:
            active (Spread): Of the positive values.
            log_mean (Tensor): Mean of their logarithms, C x D.
            values (Spread): Of all values.
            negative (Tensor): Of which features there are negative values, D, bool.

        Returns:
            Hurdles: Of these features and classes.
        """
        hurdle = ~negative
        count, mean, scatter = (
            torch.where(hurdle, *pair) for pair in zip(active, values, strict=True)
        )
        per_value = count.clamp_min(1)
        variance = scatter / per_value
        equal = variance <= _EQUAL * mean.square()

        positive = mean.clamp_min(torch.finfo(mean.dtype).tiny)
        gap = positive.log() - log_mean
        shape = gamma_shape(gap.clamp_min(_EQUAL))
        # Log-likelihoods of a value; the logarithm of its mean is what the gap is taken from.
        normal = -0.5 * ((2 * torch.pi * variance).log() + 1)
        gamma = (shape - 1) * log_mean - shape - shape * (positive / shape).log() - shape.lgamma()
        exponential = -(positive.log() + 1)
        gamma = gamma.masked_fill(gap <= _EQUAL, -torch.inf)
        normal = normal.masked_fill(equal, -torch.inf)
        # Akaike: twice the parameters less twice the log-likelihood; a common factor is left out.
        scores = torch.stack([normal - 2 / per_value, gamma - 2 / per_value])
        scores = torch.cat([scores, (exponential - 1 / per_value).unsqueeze(0)])
        kind = scores.nan_to_num(nan=-torch.inf, neginf=-torch.inf).argmax(0)
        kind = kind.masked_fill(~hurdle, _NORMAL).masked_fill(count == 0, _NONE)
        shape = torch.where(kind == _GAMMA, shape, 1.0)
        least = torch.maximum(mean.abs(), torch.ones_like(mean)) * _EQUAL**0.5
        is_normal = kind == _NORMAL
        return cls(
            activity=torch.where(hurdle, active.counts / values.counts.clamp_min(1), 1.0),
            kind=kind,
            first=torch.where(is_normal, mean, shape),
            scale=torch.where(is_normal, torch.maximum(variance.sqrt(), least), positive / shape),
            expectation=mean,
            hurdle=hurdle,
        )

    def probability(self, values: Tensor, target: Tensor) -> Tensor:
        """Tell how usual values are.

        Args:
            values (Tensor): N x D, float64.
            target (Tensor): N classes.

        Returns:
            Tensor: N x D.
        """
        first, scale, activity = (part[target] for part in (self.first, self.scale, self.activity))
        kind = self.kind[target]
        normal = torch.special.ndtr(-((values - first) / scale).abs())
        scaled = values.clamp_min(0) / scale
        shape = torch.where(kind == _NORMAL, 1.0, first)
        lower = torch.special.gammainc(shape, scaled)
        upper = torch.special.gammaincc(shape, scaled)
        tail = torch.where(kind == _NORMAL, normal, torch.minimum(lower, upper))
        active = (values > 0) | ~self.hurdle
        return torch.where(active, activity * tail, 1 - activity)


def gamma_shape(gap: Tensor) -> Tensor:
    r"""Find the shape of gamma distributions: k with :math:`\log k - \psi(k) =` ``gap``.

    By Minka's generalised Newton iteration ("Estimating a Gamma distribution", 2002, equation 10),
    which converges in four steps or so.

    Args:
        gap (Tensor): Logarithm of the mean less mean of the logarithms, positive.

    Returns:
        Tensor: Shapes, of the same shape.
    """
    shape = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
    for _ in range(_NEWTON_STEPS):
        slope = shape.square() * (1 / shape - torch.polygamma(1, shape))
        update = (shape.log() - torch.digamma(shape) - gap) / slope
        inverse = 1 / shape + update
        moved = torch.where((inverse > 0) & inverse.isfinite(), 1 / inverse, shape)
        if torch.equal(moved, shape):
            break
        shape = moved
    return shape


def _class_sums(values: Tensor, target: Tensor, num_classes: int) -> Tensor:
    sums = values.new_zeros(num_classes, values.shape[1])
    return sums.index_add_(0, target, values)
