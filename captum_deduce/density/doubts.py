"""Whether a class's density says anything: its left-out samples beside what it expects itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from captum_deduce.density.gaussians import Gaussians
from captum_deduce.density.moments import Moments

LOWEST = 0.05
"""The quantile of log-densities that is looked at: that of ``DeDUCE.realistic``."""

MOST_SURPRISE = 5.0
"""Nats per feature by which it may lie below the Gaussian's own expectation.

Normal samples that are 1.25 times as many as their features come to 4, ten times as many to 0.2;
where a feature varies in a single sample only, it is hundreds or thousands.
"""

_MOST_NAMED = 10


def expected_log_density(gaussians: Gaussians, num_features: int) -> Tensor:
    """The mean log-density of a Gaussian's own samples: less its entropy.

    Args:
        gaussians (Gaussians): K of them.
        num_features (int): D.

    Returns:
        Tensor: K, in nats.
    """
    constant = num_features * (1 + math.log(2 * math.pi))
    return -0.5 * (constant + gaussians.log_determinant)


def collapsed(gaussians: Gaussians, lowest: Tensor, num_features: int) -> Tensor:
    """Tell which classes' samples are far less likely than the Gaussian makes one expect.

    Args:
        gaussians (Gaussians): One for each class.
        lowest (Tensor): The :data:`LOWEST` quantile of log-densities of samples that were not
            fitted, C, in nats; NaN where there are none.
        num_features (int): D.

    Returns:
        Tensor: C, bool.
    """
    surprise = expected_log_density(gaussians, num_features) - lowest[: len(gaussians.amount)]
    return surprise > MOST_SURPRISE * num_features


def describe(classes: list[int], moments: Moments, gaussians: Gaussians, lowest: Tensor) -> str:
    """Say what is wrong with classes, in figures.

    Args:
        classes (list[int]): Which.
        moments (Moments): What the Gaussians were estimated from.
        gaussians (Gaussians): One for each class.
        lowest (Tensor): As for :func:`collapsed`.

    Returns:
        str: A sentence with figures for each class.
    """
    expected = expected_log_density(gaussians, moments.num_features)
    lines = [
        f"class {c} ({int(moments.count[c])} samples) {lowest[c]:,.0f}, expected {expected[c]:,.0f}"
        for c in classes[:_MOST_NAMED]
    ]
    if len(classes) > _MOST_NAMED:
        lines.append(f"and {len(classes) - _MOST_NAMED} more")
    return (
        f"a {moments.covariance_type!r} covariance of {moments.num_features} features says little "
        "about samples that were not fitted. The 5% quantile of their log-density, in nats, is far "
        f"below the mean that the Gaussian makes one expect: {'; '.join(lines)}"
    )


def remedy(covariance_type: str) -> str:
    """Say what helps.

    Args:
        covariance_type (str): Of the density that says little.

    Returns:
        str: The end of a sentence.
    """
    if covariance_type == "full":
        return "; regularization='oas', covariance_type='tied' or more samples help"
    if covariance_type in ("tied", "low_rank"):
        return "; regularization='oas' or more samples help"
    return "; covariance_type='full' or 'tied' with regularization='oas' helps"


def repaired(gaussians: Gaussians) -> Tensor:
    """Tell which covariances are positive definite only by a jitter, or replaced.

    Args:
        gaussians (Gaussians): K of them.

    Returns:
        Tensor: K, bool.
    """
    if gaussians.regularization == "oas":
        return torch.isinf(gaussians.amount)
    return gaussians.amount > 0
