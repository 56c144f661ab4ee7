"""From moments to Gaussians: regularised covariances, their factors, log-densities."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_deduce.density.moments import Moments

REGULARIZATIONS = ("jitter", "oas")
"""How a covariance is made positive definite."""

JITTERS = (0.0, *(10.0**exponent for exponent in range(-10, 1)))
"""The rungs of the jitter ladder, in units of trace / D."""

_MOST_NAMED = 10
# With fewer, squared distances of samples that were not fitted come out over five times too large.
_SAMPLES_PER_FEATURE = 1.25
# What single precision rounds, beside a feature's deviations, squared.
_LEAST_INDEPENDENCE = 1e-10
_ROUNDING = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Gaussians:
    r"""K Gaussians, ready to be evaluated.

    The covariance of component k is :math:`\Sigma_k = \kappa_k S_k / \nu_k + \beta_k I` with its
    scatter :math:`S_k` (the pooled one for ``"tied"``).

    Attributes:
        covariance_type (str): As in :class:`~captum_deduce.density.Moments`.
        regularization (str): One of :data:`REGULARIZATIONS`.
        origin (Tensor): D, what :meth:`project` subtracts; 0 unless ``"tied"``.
        center (Tensor): K x D, the means as :meth:`project` maps them.
        whitening (Tensor): Features times it have unit covariance: the transposed inverse of the
            covariances' Cholesky factors (K x D x D, without the last components if these have no
            samples; ``"tied"``: D x D), inverse standard deviations for ``"diag"`` (K x D) and
            ``"spherical"`` (K).
        log_determinant (Tensor): K, of the covariances.
        log_weight (Tensor): K, the component's share of its class.
        divisor (Tensor): K, :math:`\nu_k`.
        kept (Tensor): K, :math:`\kappa_k`.
        added (Tensor): K, :math:`\beta_k`.
        amount (Tensor): K, :math:`\beta_k` in units of trace / D of :math:`S_k / \nu_k`: the rung
            of the jitter ladder, or the shrinkage coefficient; infinite where there was nothing to
            scale.
    """

    covariance_type: str
    regularization: str
    origin: Tensor
    center: Tensor
    whitening: Tensor
    log_determinant: Tensor
    log_weight: Tensor
    divisor: Tensor
    kept: Tensor
    added: Tensor
    amount: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Gaussians:
        """Apply a function to every tensor.

        Args:
            function (Callable): From tensor to tensor.

        Returns:
            Gaussians: Of the function's results.
        """
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: function(value) for name, value in named.items() if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def covariances(self, moments: Moments) -> Tensor:
        """Compute the regularised covariances; they are not kept.

        Args:
            moments (Moments): What the Gaussians were estimated from.

        Returns:
            Tensor: In scikit-learn's shapes: K x D x D, ``"tied"``: D x D, ``"diag"``: K x D,
            ``"spherical"``: K.
        """
        scatter, factor = moments.scatter, (self.kept / self.divisor).nan_to_num(0.0)
        added = self.added
        if self.covariance_type == "full":
            missing = len(factor) - len(scatter)
            scatter = nn.functional.pad(scatter, (0, 0, 0, 0, 0, missing))
        if self.covariance_type == "tied":
            factor, added = factor[0], added[0]
        elif self.covariance_type == "spherical":
            scatter = scatter / moments.num_features
        dense = scatter.dim() - factor.dim()
        result = scatter * factor.view(*factor.shape, *[1] * dense)
        if dense == 2:
            result.diagonal(dim1=-2, dim2=-1).add_(added.unsqueeze(-1))
            return (result + result.mT) / 2
        return result + added.view(*added.shape, *[1] * dense)

    def project(self, features: Tensor) -> Tensor:
        """Do once per sample what all components share.

        Args:
            features (Tensor): N x D, float64.

        Returns:
            Tensor: N x D, what :meth:`log_prob` takes.
        """
        if self.covariance_type != "tied":
            return features
        return (features - self.origin) @ self.whitening

    def log_prob(self, projected: Tensor, component: int) -> Tensor:
        """Evaluate one component, its weight included.

        Args:
            projected (Tensor): N x D, from :meth:`project`.
            component (int): Which.

        Returns:
            Tensor: N log-densities, in nats.
        """
        deviations = projected - self.center[component]
        if self.covariance_type == "full":
            deviations = deviations @ self.whitening[component]
        elif self.covariance_type != "tied":
            deviations = deviations * self.whitening[component]
        constant = projected.shape[1] * math.log(2 * math.pi) + self.log_determinant[component]
        return self.log_weight[component] - 0.5 * (constant + deviations.square().sum(1))


def estimate(moments: Moments, component_class: Tensor, regularization: str) -> Gaussians:
    r"""Turn moments into Gaussians; a ``UserWarning`` names classes with too few samples.

    Too few are fewer than 1.25 for each feature, besides one for the mean, or where a feature
    doesn't vary or is determined by others but for rounding (a share of 1e-10 of its variance).
    With ``"oas"`` there is no warning unless nothing varies.

    Unbiased covariances :math:`S / (V_1 - V_2/V_1)` get the first jitter of :data:`JITTERS` with
    which the Cholesky factorisation succeeds. No jitter is not tried where n samples can't span D
    dimensions, as only rounding would let it succeed; nor does a pivot that is all rounding count
    as success. ``"oas"`` shrinks the maximum-likelihood covariance :math:`S / V_1` as
    :func:`sklearn.covariance.oas` does, with the effective number of samples
    :math:`V_1^2 / V_2`. Where there is nothing to scale (a single sample, or identical ones) the
    covariance is the identity times the mean of the other classes' trace / D (1 without others).

    Args:
        moments (Moments): Of K components.
        component_class (Tensor): K, the class of each component, on the CPU.
        regularization (str): One of :data:`REGULARIZATIONS`.

    Returns:
        Gaussians: What stands for components without samples means nothing.
    """
    sizes = _sizes(moments, regularization)
    matrices = moments.scatter
    if moments.covariance_type == "tied":
        matrices = matrices.unsqueeze(0)
    if moments.covariance_type == "spherical":
        matrices = matrices / moments.num_features
    covariances = [
        _regularize(matrix, size, regularization, moments.num_features)
        for matrix, size in zip(matrices, sizes, strict=False)
    ]
    _warn(covariances, sizes, moments, component_class, regularization)
    return _assemble(covariances, sizes, moments, component_class, regularization)


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


class _Size(NamedTuple):
    """What is known of a covariance before it is factored; ``substitute`` is a variance."""

    divisor: float
    effective_count: float
    scale: float
    substitute: float
    rank_bound: float


class _Covariance(NamedTuple):
    """A regularised covariance.

    ``independence`` is the least share of a feature's variance that others don't determine.
    """

    whitening: Tensor
    log_determinant: Tensor
    kept: float
    added: float
    amount: float
    independence: float = 1.0


def _sizes(moments: Moments, regularization: str) -> list[_Size]:
    """Of each class, or of the one tied covariance."""
    divisor = moments.weight if regularization == "oas" else moments.normalizer()
    columns = [divisor, moments.weight, moments.squared_weight, moments.count, moments.weight > 0]
    trace = moments.trace()
    if moments.covariance_type == "tied":
        columns = [column.sum(0, keepdim=True) for column in columns]
        trace = trace[:1]
    divisor, weight, squared_weight, count, num_means = columns
    effective = torch.where(weight > 0, weight.square() / squared_weight, 0.0)
    scale = torch.where(divisor > 0, trace / (moments.num_features * divisor), 0.0)
    substitute = scale[scale > 0].mean() if (scale > 0).any() else torch.ones(())
    # A population (a mixture fitted elsewhere) has weight but no samples, and any rank.
    rank_bound = torch.where(count > 0, (count - num_means.long()).double(), math.inf)
    rows = [divisor, effective, scale, substitute.expand_as(scale), rank_bound]
    return [_Size(*row) for row in torch.stack([row.double().cpu() for row in rows], 1).tolist()]


def _regularize(
    scatter: Tensor, size: _Size, regularization: str, num_features: int
) -> _Covariance:
    if size.scale == 0:
        return _isotropic(scatter, size.substitute, num_features)
    covariance = scatter / size.divisor
    if regularization == "oas":
        num_samples = covariance.new_tensor(size.effective_count)
        norm = covariance.square().sum()
        shrinkage = oas_shrinkage(norm, covariance.trace(), num_samples, num_features).item()
        candidates = [(1 - shrinkage, shrinkage)]
    else:
        full_rank = size.rank_bound >= (num_features if covariance.dim() == 2 else 1)
        candidates = [(1.0, jitter) for jitter in JITTERS[0 if full_rank else 1 :]]
    for kept, amount in candidates:
        added = amount * size.scale
        regularized = add_to_diagonal(kept * covariance, added)
        factors = _factor(regularized, num_features)
        if factors is not None:
            return _Covariance(
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


def _isotropic(scatter: Tensor, variance: float, num_features: int) -> _Covariance:
    whitening = add_to_diagonal(torch.zeros_like(scatter), variance**-0.5)
    log_determinant = scatter.new_tensor(num_features * math.log(variance))
    return _Covariance(whitening, log_determinant, 0.0, variance, math.inf)


def _assemble(
    covariances: list[_Covariance],
    sizes: list[_Size],
    moments: Moments,
    component_class: Tensor,
    regularization: str,
) -> Gaussians:
    num_components = moments.num_classes

    def spread(known: Tensor) -> Tensor:
        if moments.covariance_type == "tied":
            return known.expand(num_components)
        return nn.functional.pad(known, (0, num_components - len(known)))

    def column(values: list[float]) -> Tensor:
        return spread(moments.mean.new_tensor(values))

    origin, center = torch.zeros_like(moments.mean[0]), moments.mean
    whitening = torch.stack([covariance.whitening for covariance in covariances])
    if moments.covariance_type == "tied":
        whitening = whitening[0]
        # Near the data, so that no digits are lost where means are large beside deviations.
        origin = moments.mean[moments.weight > 0].mean(0)
        center = (moments.mean - origin) @ whitening
    classes = component_class.to(moments.weight.device)
    class_weight = torch.zeros_like(moments.weight).index_add(0, classes, moments.weight)
    log_determinant = torch.stack([covariance.log_determinant for covariance in covariances])
    return Gaussians(
        covariance_type=moments.covariance_type,
        regularization=regularization,
        origin=origin,
        center=center,
        whitening=whitening,
        log_determinant=spread(log_determinant),
        log_weight=(moments.weight / class_weight[classes]).log(),
        divisor=column([size.divisor for size in sizes]),
        kept=column([covariance.kept for covariance in covariances]),
        added=column([covariance.added for covariance in covariances]),
        amount=column([covariance.amount for covariance in covariances]),
    )


_MORE_SAMPLES = (
    ". Such a density says little; more samples, covariance_type='tied' or "
    "regularization='oas' help"
)
_SHRINKAGE = ". Such a density says little; regularization='oas' helps"


def _warn(
    covariances: list[_Covariance],
    sizes: list[_Size],
    moments: Moments,
    component_class: Tensor,
    regularization: str,
) -> None:
    """Name the classes with too few samples, or with features without variance, and the remedy."""
    tied = moments.covariance_type == "tied"
    num_means = int((moments.weight > 0).sum()) if tied else 1
    needed = 1.0
    if moments.covariance_type in ("full", "tied"):
        needed = _SAMPLES_PER_FEATURE * moments.num_features
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
        return
    more = [f"and {len(lines) - _MOST_NAMED} more"] if len(lines) > _MOST_NAMED else []
    warnings.warn(
        f"too few samples for a {moments.covariance_type!r} covariance of {moments.num_features} "
        "features, or features that don't vary or depend on one another: "
        + "; ".join(lines[:_MOST_NAMED] + more)
        + advice,
        UserWarning,
        stacklevel=2,
    )


def _remedy(covariance: _Covariance, regularization: str, free: float, num_features: int) -> str:
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
