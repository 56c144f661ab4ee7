"""From moments to Gaussians: the covariances are regularised and factored."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from captum_deduce.density import memory
from captum_deduce.density.gaussians import Gaussians, triangular_inverse
from captum_deduce.density.low_rank import shrinkage
from captum_deduce.density.moments import Moments
from captum_deduce.density.regularization import (
    SHRINKABLE,
    SHRUNK,
    CovarianceSize,
    RegularizedCovariance,
    covariance_sizes,
    few_samples,
    regularize,
)


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
    found = _regularized(moments, used)
    named = component_class
    if moments.covariance_type == "full":
        named = component_class[_fitted(moments)]
    said, advice = few_samples(found.covariances, found.sizes, moments, named, used)
    if said and regularization == "auto" and moments.covariance_type in SHRINKABLE:
        used, advice = "oas", SHRUNK
        del found
        found = _regularized(moments, used)
    if said:
        warnings.warn(said + advice, UserWarning, stacklevel=2)
    return _assemble(found, moments, component_class, used)


class _Estimate(NamedTuple):
    """Covariances of the components of :func:`_fitted`, or the pooled one, and all factors."""

    covariances: list[RegularizedCovariance]
    sizes: list[CovarianceSize]
    whitening: Tensor


def _regularized(moments: Moments, regularization: str) -> _Estimate:
    sizes, fitted = covariance_sizes(moments, regularization), _fitted(moments)
    matrices: Iterable[Tensor]
    if moments.covariance_type == "full":
        _require(moments, len(fitted))
        sizes = [sizes[index] for index in fitted]
        # One after the other: the matrix of a class that is kept as samples is made for this only.
        matrices = (moments.class_scatter(index) for index in fitted)
    elif moments.pooled:
        _require(moments, 1)
        matrices = moments.scatter.unsqueeze(0)
    else:
        whole = moments.covariance_type == "diag"
        matrices = moments.scatter if whole else moments.scatter / moments.num_features
    whitening, covariances = None, []
    for place, (matrix, size) in enumerate(zip(matrices, sizes, strict=True)):
        covariance = regularize(matrix, size, regularization, moments.num_features)
        if whitening is None and len(sizes) == 1:
            whitening = covariance.whitening.unsqueeze(0)
        else:
            if whitening is None:
                whitening = covariance.whitening.new_empty(len(sizes), *matrix.shape)
            whitening[place] = covariance.whitening
        covariances.append(covariance._replace(whitening=whitening[place]))
    return _Estimate(covariances, sizes, moments.mean if whitening is None else whitening)


def _fitted(moments: Moments) -> list[int]:
    """Components that have a covariance: those with samples where each takes a matrix."""
    if moments.covariance_type in ("full", "low_rank"):
        return (moments.weight > 0).nonzero().flatten().tolist()
    return list(range(moments.num_classes))


def _require(moments: Moments, count: int) -> None:
    # Beside the factors a few matrices of work space.
    needed = 8 * (count + 4) * moments.num_features**2
    what = (
        f"{moments.covariance_type!r} covariances of {count:,} classes of "
        f"{moments.num_features:,} features"
    )
    remedy = "pass covariance_type='auto', 'tied' or 'diag'"
    if moments.pooled:
        what = f"a {moments.covariance_type!r} covariance of {moments.num_features:,} features"
        remedy = "pass covariance_type='diag', or choose a layer with fewer features"
    memory.require(needed, moments.mean.device, what, remedy)


def _assemble(
    found: _Estimate, moments: Moments, component_class: Tensor, regularization: str
) -> Gaussians:
    covariances, sizes, whitening = found
    num_components = moments.num_classes
    fitted = _fitted(moments)
    places = torch.full((num_components,), -1)
    places[fitted] = torch.arange(len(fitted))

    def spread(known: Tensor) -> Tensor:
        if moments.pooled:
            return known.expand(num_components)
        spread_out = known.new_zeros(num_components)
        spread_out[fitted] = known
        return spread_out

    def column(values: list[float]) -> Tensor:
        return spread(moments.mean.new_tensor(values))

    origin, center = torch.zeros_like(moments.mean[0]), moments.mean
    block_whitening = moments.mean.new_zeros(0, 0, 0)
    log_determinant = spread(torch.stack([c.log_determinant for c in covariances]))
    if moments.pooled:
        whitening = whitening[0]
        if moments.covariance_type == "low_rank":
            directions = _unit_directions(moments, covariances[0], sizes[0])
            block_whitening, volume = _blocks(moments, directions, fitted)
            log_determinant = log_determinant.index_add(
                0, torch.tensor(fitted, device=volume.device), volume
            )
            whitening = torch.cat([whitening, moments.basis @ directions], 1)
        # Near the data, so that no digits are lost where means are large beside deviations.
        origin = moments.mean[moments.weight > 0].mean(0)
        center = (moments.mean - origin) @ whitening
    classes = component_class.to(moments.weight.device)
    class_weight = torch.zeros_like(moments.weight).index_add(0, classes, moments.weight)
    return Gaussians(
        covariance_type=moments.covariance_type,
        regularization=regularization,
        origin=origin,
        center=center,
        whitening=whitening,
        block_whitening=block_whitening,
        places=tuple(places.tolist()),
        log_determinant=log_determinant,
        log_weight=(moments.weight / class_weight[classes]).log(),
        divisor=column([size.divisor for size in sizes]),
        kept=column([covariance.kept for covariance in covariances]),
        added=column([covariance.added for covariance in covariances]),
        amount=column([covariance.amount for covariance in covariances]),
    )


def _unit_directions(
    moments: Moments, covariance: RegularizedCovariance, size: CovarianceSize
) -> Tensor:
    r""":math:`R^{-1}` (r x r): in the directions times it the tied covariance is the identity."""
    basis = moments.basis
    # Nothing was scaled where nothing varies.
    factor = covariance.kept / size.divisor if covariance.kept else 0.0
    within = factor * (basis.T @ moments.scatter @ basis) + covariance.added * (basis.T @ basis)
    cholesky = torch.linalg.cholesky((within + within.T) / 2)
    return triangular_inverse(cholesky).T


def _blocks(moments: Moments, directions: Tensor, fitted: list[int]) -> tuple[Tensor, Tensor]:
    """Whitening (M x r x r) and log-determinant (M) of classes' covariances in unit directions."""
    whitening = directions.new_empty(len(fitted), *directions.shape)
    identity = torch.eye(len(directions), dtype=directions.dtype, device=directions.device)
    drawn = shrinkage(moments.effective_count(), len(directions))
    factor = ((1 - drawn) / moments.normalizer()).nan_to_num(0.0, posinf=0.0)
    volumes = []
    for place, index in enumerate(fitted):
        own = directions.T @ moments.class_scatter(index) @ directions
        cholesky = torch.linalg.cholesky(factor[index] * own + drawn[index] * identity)
        whitening[place] = triangular_inverse(cholesky).T
        volumes.append(2 * cholesky.diagonal().log().sum())
    return whitening, torch.stack(volumes)
