"""Covariances made positive definite, by a ladder of jitters or by shrinkage."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from captum_deduce.density.moments import Moments

REGULARIZATIONS = ("jitter", "oas", "auto")
"""How a covariance is made positive definite. "auto" takes the first if it will do."""

JITTERS = (0.0, *(10.0**exponent for exponent in range(-10, 1)))
"""The rungs of the jitter ladder, in units of trace / D."""

SHRINKABLE = ("full", "low_rank", "tied")
"""Covariance types with matrices, which can be shrunk."""

SAMPLES_PER_FEATURE = 1.25
"""With fewer, squared distances of samples that were not fitted come out five times too large."""

_MOST_NAMED = 10
# What single precision rounds, beside a feature's deviations, squared.
_LEAST_INDEPENDENCE = 1e-10
_ROUNDING = torch.finfo(torch.float64).eps


_MORE_SAMPLES = (
    ". Such a density says little; more samples, covariance_type='tied' or "
    "regularization='oas' help"
)
_SHRINKAGE = ". Such a density says little; regularization='oas' helps"
SHRUNK = (
    ". The covariances are shrunk instead (regularization='oas'); regularization='jitter' leaves "
    "them as they are"
)
"""What follows where shrinkage was chosen."""


class CovarianceSize(NamedTuple):
    """What is known of a covariance before it is factored.

    Attributes:
        divisor (float): Of the scatter.
        effective_count (float): Kish's number of samples.
        scale (float): Trace / D of the covariance.
        substitute (float): The variance that stands in where there is nothing to scale.
        rank_bound (float): The largest rank that the samples can give.
    """

    divisor: float
    effective_count: float
    scale: float
    substitute: float
    rank_bound: float


class RegularizedCovariance(NamedTuple):
    """A regularised covariance.

    Attributes:
        whitening (Tensor): As in :class:`~captum_deduce.density.Gaussians`; likewise the next ones.
        log_determinant (Tensor): No dimension.
        kept (float): The factor of the covariance.
        added (float): What was added to its diagonal.
        amount (float): The same in units of trace / D.
        independence (float): The least share of a feature's variance that others don't determine.
    """

    whitening: Tensor
    log_determinant: Tensor
    kept: float
    added: float
    amount: float
    independence: float = 1.0


def add_to_diagonal(covariance: Tensor, value: Tensor | float) -> Tensor:
    """Add to the variances of covariances in any of scikit-learn's shapes.

    Args:
        covariance (Tensor): D x D, D, or no dimension.
        value (Tensor or float): What to add.

    Returns:
        Tensor: A new one.
    """
    added = covariance.clone()
    (added.diagonal() if added.dim() == 2 else added).add_(value)
    return added


def oas_shrinkage(
    squared_norm: Tensor, trace: Tensor, num_samples: Tensor, num_features: int
) -> Tensor:
    r"""The shrinkage coefficient of Chen et al., "Shrinkage algorithms for MMSE covariance
    estimation" (2010), equation 23 as scikit-learn has it (without the factor 2 / D).

    Args:
        squared_norm (Tensor): :math:`\|S\|_F^2` of a scatter or covariance matrix; the scale
            doesn't matter.
        trace (Tensor): Its trace.
        num_samples (Tensor): n.
        num_features (int): D.

    Returns:
        Tensor: Between 0 and 1, of the arguments' common shape.
    """
    if num_features == 1:
        return torch.zeros_like(squared_norm)
    alpha = squared_norm / num_features**2
    mean_squared = (trace / num_features).square()
    denominator = (num_samples + 1) * (alpha - mean_squared / num_features)
    shrinkage = ((alpha + mean_squared) / denominator).clamp(max=1.0)
    return torch.where(denominator > 0, shrinkage, 1.0)


def covariance_sizes(moments: Moments, regularization: str) -> list[CovarianceSize]:
    """Measure the covariance of each class, or the one tied covariance.

    Args:
        moments (Moments): Of K components.
        regularization (str): One of :data:`REGULARIZATIONS`.

    Returns:
        list[CovarianceSize]: K, or one.
    """
    divisor = moments.weight if regularization == "oas" else moments.normalizer()
    columns = [divisor, moments.weight, moments.squared_weight, moments.count, moments.weight > 0]
    trace = moments.trace()
    if moments.pooled:
        columns = [column.sum(0, keepdim=True) for column in columns]
        trace = trace[:1]
    divisor, weight, squared_weight, count, num_means = columns
    effective = torch.where(weight > 0, weight.square() / squared_weight, 0.0)
    scale = torch.where(divisor > 0, trace / (moments.num_features * divisor), 0.0)
    substitute = scale[scale > 0].mean() if (scale > 0).any() else torch.ones(())
    # A population (a mixture fitted elsewhere) has weight but no samples, and any rank.
    rank_bound = torch.where(count > 0, (count - num_means.long()).double(), math.inf)
    rows = [divisor, effective, scale, substitute.expand_as(scale), rank_bound]
    return [
        CovarianceSize(*row)
        for row in torch.stack([row.double().cpu() for row in rows], 1).tolist()
    ]


def regularize(
    scatter: Tensor, size: CovarianceSize, regularization: str, num_features: int
) -> RegularizedCovariance:
    """Make a covariance positive definite.

    Args:
        scatter (Tensor): Of one component, D x D, D or no dimension.
        size (CovarianceSize): What is known of it.
        regularization (str): One of :data:`REGULARIZATIONS`.
        num_features (int): D.

    Returns:
        RegularizedCovariance: With its factors.
    """
    if size.scale == 0:
        return _isotropic(scatter, size.substitute, num_features)
    covariance = scatter / size.divisor
    if regularization == "oas":
        num_samples = covariance.new_tensor(size.effective_count)
        norm = torch.linalg.vector_norm(covariance).square()
        shrinkage = oas_shrinkage(norm, covariance.trace(), num_samples, num_features).item()
        candidates = [(1 - shrinkage, shrinkage)]
    else:
        full_rank = size.rank_bound >= (num_features if covariance.dim() == 2 else 1)
        candidates = [(1.0, jitter) for jitter in JITTERS[0 if full_rank else 1 :]]
    for kept, amount in candidates:
        added = amount * size.scale
        regularized = kept * covariance
        (regularized.diagonal() if regularized.dim() == 2 else regularized).add_(added)
        factors = _factor(regularized, num_features)
        if factors is not None:
            return RegularizedCovariance(
                *factors, kept, added, amount, _independence(regularized, factors[0])
            )
    return _isotropic(scatter, size.scale, num_features)


def _factor(covariance: Tensor, num_features: int) -> tuple[Tensor, Tensor] | None:
    """Whitening and log-determinant; None where the covariance is not positive definite."""
    if covariance.dim() < 2:
        if not (covariance > 0).all():
            return None
        log_determinant = covariance.log().sum() * (num_features / covariance.numel())
        return covariance.rsqrt(), log_determinant
    cholesky, failed = torch.linalg.cholesky_ex(covariance)
    pivots = cholesky.diagonal().square()
    if failed or not (pivots > _ROUNDING * num_features * covariance.diagonal()).all():
        return None
    identity = torch.eye(num_features, dtype=covariance.dtype, device=covariance.device)
    inverse = torch.linalg.solve_triangular(cholesky, identity, upper=False)
    return inverse.T, pivots.log().sum()


def _independence(covariance: Tensor, whitening: Tensor) -> float:
    if covariance.dim() < 2:
        return 1.0
    return 1 / float((whitening.diagonal().square() * covariance.diagonal()).max())


def _isotropic(scatter: Tensor, variance: float, num_features: int) -> RegularizedCovariance:
    whitening = add_to_diagonal(torch.zeros_like(scatter), variance**-0.5)
    log_determinant = scatter.new_tensor(num_features * math.log(variance))
    return RegularizedCovariance(whitening, log_determinant, 0.0, variance, math.inf)


def few_samples(
    covariances: list[RegularizedCovariance],
    sizes: list[CovarianceSize],
    moments: Moments,
    component_class: Tensor,
    regularization: str,
) -> tuple[str, str]:
    """Name the classes with too few samples, or with features without variance, and the remedy.

    Args:
        covariances (list[RegularizedCovariance]): Of the components, or the one tied one.
        sizes (list[CovarianceSize]): Of the components.
        moments (Moments): Likewise.
        component_class (Tensor): The class of each of them, on the CPU.
        regularization (str): One of :data:`REGULARIZATIONS`, not "auto".

    Returns:
        tuple[str, str]: What there is to say, and what helps; both empty where there is nothing.
    """
    tied = moments.pooled
    num_means = int((moments.weight > 0).sum()) if tied else 1
    needed = 1.0
    if moments.pooled or moments.covariance_type == "full":
        needed = SAMPLES_PER_FEATURE * moments.num_features
    lines, advice = [], ""
    for index, (covariance, size) in enumerate(zip(covariances, sizes, strict=False)):
        too_few = size.effective_count - num_means < needed * (1 - 1e-9)
        repaired = covariance.amount > 0 or covariance.independence < _LEAST_INDEPENDENCE
        if regularization == "oas":
            # Shrinkage is the remedy for both; it fails only where nothing varies at all.
            too_few, repaired = False, math.isinf(covariance.amount)
        if size.effective_count > 0 and (too_few or repaired):
            if regularization == "jitter" and moments.covariance_type == "full":
                advice = _MORE_SAMPLES if too_few else advice or _SHRINKAGE
            name = "all classes" if tied else f"class {int(component_class[index])}"
            free = size.effective_count - num_means
            remedy = _remedy(covariance, regularization, free, moments.num_features)
            lines.append(f"{name} ({size.effective_count:.6g} samples): {remedy}")
    if not lines:
        return "", ""
    more = [f"and {len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
    said = (
        f"too few samples for a {moments.covariance_type!r} covariance of {moments.num_features} "
        "features, or features that don't vary or depend on one another: "
    )
    return said + "; ".join(lines[:_MOST_NAMED] + more), advice


def _remedy(
    covariance: RegularizedCovariance, regularization: str, free: float, num_features: int
) -> str:
    """What was done; ``free`` is the number of samples less that of means."""
    if math.isinf(covariance.amount):
        return f"covariance replaced by {covariance.added:.4g} x identity"
    if regularization == "oas":
        return f"OAS shrinkage {covariance.amount:.4g}"
    if covariance.amount > 0:
        return (
            f"regularised by a jitter of {covariance.amount:g} x trace/D = {covariance.added:.4g}"
        )
    if covariance.independence < _LEAST_INDEPENDENCE:
        return (
            "others determine a feature but for a share of "
            f"{covariance.independence:.1g} of its variance"
        )
    if covariance.whitening.dim() < 2 or free < num_features:
        return "no regularisation needed"
    # The mean of the inverse of a covariance of normal samples, which follows Wishart's law.
    factor = free / (free - num_features - 1) if free > num_features + 1 else math.inf
    return f"squared distances of others come out {factor:.2g} times too large"
