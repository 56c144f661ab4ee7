"""Whether a state that was loaded is one that a fit could have left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_deduce.density.class_scatters import ClassScatters
from captum_deduce.density.moments import Moments

if TYPE_CHECKING:
    from captum_deduce.density.mixture import ClassMixture

# Of the largest variance; and rows that are looked at at once.
_ROUNDING, _ROWS = 1e-6, 256


def check_loaded(density: ClassMixture) -> None:
    """Refuse what fits by its shapes but can't be evaluated.

    Args:
        density (ClassMixture): As it was loaded.

    Raises:
        ValueError: Sizes that do not go together, values that are not finite, negative weights, or
            classes that are none.
    """
    moments = density.moments
    count = moments.num_classes
    _check_moments(moments)
    if moments.classes is not None:
        _check_classes(moments.classes, count)
    of_component = density._component_class
    if of_component is not None and (
        len(of_component) != count or min(of_component) < 0 or max(of_component) >= 2**31
    ):
        raise ValueError(
            f"there must be a class for each of {count} components, got {of_component}"
        )
    fixed = density._num_classes
    if fixed is not None and not 0 < fixed <= max(2**31, count):
        raise ValueError(f"the number of classes must be positive, got {fixed}")
    kept = density.log_densities
    if kept.values.dim() != 1 or kept.classes.shape != kept.values.shape:
        raise ValueError(
            "log_densities must have a class for each value, got the shapes "
            f"{tuple(kept.values.shape)} and {tuple(kept.classes.shape)}"
        )
    _refuse_unknown("log_densities.classes", kept.classes, density.num_classes)
    # Values may be NaN: those of a class's only sample, which is nothing without itself.


def _check_moments(moments: Moments) -> None:
    for name, values in moments.named_buffers():
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name} must be finite, got NaN or infinite values")
    for name in ("count", "weight", "squared_weight"):
        values = getattr(moments, name)
        if len(values) and float(values.min()) < 0:
            raise ValueError(f"{name} must not be negative, got {float(values.min())}")
    if bool(((moments.count > 0) & (moments.weight <= 0)).any()):
        raise ValueError("a class with samples must have a positive weight")
    if moments.covariance_type in ("diag", "spherical"):
        if bool((moments.scatter < 0).any()):
            raise ValueError("scatter must not be negative")
    elif moments.pooled:
        _refuse_impossible(moments.scatter)
    basis = getattr(moments, "basis", None)
    if basis is not None and (basis.dim() != 2 or len(basis) != moments.num_features):
        raise ValueError(
            f"basis must have a row for each of {moments.num_features} features, got shape "
            f"{tuple(basis.shape)}"
        )


def _check_classes(classes: ClassScatters, count: int) -> None:
    for name, found in (("scatter_class", classes.matrices), ("row_class", classes.rows)):
        _refuse_unknown(name, torch.tensor(sorted(found), dtype=torch.int64), count)
    parts = [part for index in classes.rows for pair in classes.rows[index] for part in pair]
    for values in [*classes.matrices.values(), *parts]:
        if not bool(values.isfinite().all()):
            raise ValueError("a class's scatter must be finite, got NaN or infinite values")
    for matrix in classes.matrices.values():
        _refuse_impossible(matrix)


def _refuse_impossible(scatter: Tensor) -> None:
    """Refuse a matrix that isn't symmetric, or where two features vary together more than alone."""
    variation = scatter.diagonal()
    if not len(variation):
        return
    most = variation.max()
    spread = variation.clamp_min(0).sqrt()
    possible = bool((variation >= -_ROUNDING * most).all())
    for start in range(0, len(scatter), _ROWS):
        rows = slice(start, start + _ROWS)
        part = scatter[rows]
        limit = spread[rows, None] * spread * (1 + _ROUNDING) + _ROUNDING * most
        possible &= bool((part.abs() <= limit).all())
        possible &= bool(((part - scatter[:, rows].T).abs() <= _ROUNDING * most).all())
    if not possible:
        raise ValueError(
            "a scatter must be symmetric and positive semidefinite, got another matrix"
        )


def _refuse_unknown(name: str, classes: Tensor, count: int) -> None:
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < count:
        raise ValueError(f"{name} must name classes from 0 to {count - 1}, got others")
