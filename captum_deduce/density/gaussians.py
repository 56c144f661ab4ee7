"""From moments to Gaussians: regularised covariances, their factors, log-densities."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.density.moments import Moments
from captum_deduce.density.regularization import (
    SHRUNK,
    CovarianceSize,
    RegularizedCovariance,
    covariance_sizes,
    few_samples,
    regularize,
)


@dataclass(frozen=True)
class Gaussians:
    r"""K Gaussians, ready to be evaluated.

    The covariance of component k is :math:`\Sigma_k = \kappa_k S_k / \nu_k + \beta_k I` with its
    scatter :math:`S_k` (the pooled one for ``"tied"``).

    Attributes:
        covariance_type (str): As in :class:`~captum_deduce.density.Moments`.
        regularization (str): One of :data:`~captum_deduce.density.REGULARIZATIONS`.
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

    Unbiased covariances :math:`S / (V_1 - V_2/V_1)` get the first jitter of
    :data:`~captum_deduce.density.JITTERS` with which the Cholesky factorisation succeeds. No jitter
    is not tried where n samples can't span D dimensions, as only rounding would let it succeed; nor
    does a pivot that is all rounding count as success. ``"oas"`` shrinks the maximum-likelihood
    covariance :math:`S / V_1` as :func:`sklearn.covariance.oas` does, with the effective number of
    samples :math:`V_1^2 / V_2`. Where there is nothing to scale (a single sample, or identical
    ones) the covariance is the identity times the mean of the other classes' trace / D (1 without
    others).

    Args:
        moments (Moments): Of K components.
        component_class (Tensor): K, the class of each component, on the CPU.
        regularization (str): One of :data:`~captum_deduce.density.REGULARIZATIONS`; ``"auto"`` is
            ``"jitter"``, and ``"oas"`` for all classes where that would name any and there are
            matrices to shrink.

    Returns:
        Gaussians: What stands for components without samples means nothing. They hold the
        regularisation that was used.
    """
    used = "jitter" if regularization == "auto" else regularization
    covariances, sizes = _regularized(moments, used)
    said, advice = few_samples(covariances, sizes, moments, component_class, used)
    if said and regularization == "auto" and moments.covariance_type in ("full", "tied"):
        used, advice = "oas", SHRUNK
        covariances, sizes = _regularized(moments, used)
    if said:
        warnings.warn(said + advice, UserWarning, stacklevel=2)
    return _assemble(covariances, sizes, moments, component_class, used)


def _regularized(
    moments: Moments, regularization: str
) -> tuple[list[RegularizedCovariance], list[CovarianceSize]]:
    sizes = covariance_sizes(moments, regularization)
    matrices = moments.scatter
    if moments.covariance_type == "tied":
        matrices = matrices.unsqueeze(0)
    if moments.covariance_type == "spherical":
        matrices = matrices / moments.num_features
    covariances = [
        regularize(matrix, size, regularization, moments.num_features)
        for matrix, size in zip(matrices, sizes, strict=False)
    ]
    return covariances, sizes


def _assemble(
    covariances: list[RegularizedCovariance],
    sizes: list[CovarianceSize],
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
