"""What scikit-learn's mixtures hold, as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.density.moments import COVARIANCE_TYPES


def population(gmm: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Read the parameters of a mixture that scikit-learn has fitted.

    Args:
        gmm (sklearn.mixture.GaussianMixture): Fitted, of any covariance type; a
            ``BayesianGaussianMixture`` likewise.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Weights (K), means (K x D) and covariances, as scikit-learn
        shapes them, float64, on the CPU.

    Raises:
        TypeError: ``gmm`` is no mixture of Gaussians.
        ValueError: ``gmm`` is not fitted.
    """
    if not hasattr(gmm, "covariance_type") or not hasattr(gmm, "fit"):
        raise TypeError(f"gmm must be a sklearn.mixture.GaussianMixture, got {type(gmm).__name__}")
    if not hasattr(gmm, "covariances_"):
        raise ValueError("gmm is not fitted; call gmm.fit(features) first")
    checks.choice("gmm.covariance_type", gmm.covariance_type, COVARIANCE_TYPES)
    weight, mean, covariance = (
        torch.from_numpy(np.array(value, dtype=np.float64))
        for value in (gmm.weights_, gmm.means_, gmm.covariances_)
    )
    return weight, mean, covariance
