"""What a model says about every image that a search went through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel, device_of
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.density import ClassGaussianMixture

_BATCH = 128


@dataclass(frozen=True)
class Trace:
    """A trajectory seen through the model, at S of its steps.

    Args:
        steps (NDArray): Which images of the trajectory were looked at, S, ascending.
        confidence (NDArray): Softmax probability of the pair's target, S.
        original_confidence (NDArray): Softmax probability of the class that the model saw in the
            original, S.
        features (Tensor, optional): The layer's output, S x D, on the CPU. Default: None
        log_density (NDArray, optional): Log-density in nats of the features under the target
            class, S. Default: None
    """

    steps: NDArray[np.int64]
    confidence: NDArray[np.float64]
    original_confidence: NDArray[np.float64]
    features: Tensor | None = None
    log_density: NDArray[np.float64] | None = None

    @property
    def num_curves(self) -> int:
        """How many panels its curves take, one for probabilities and one for a log-density."""
        return 1 if self.log_density is None else 2


def trace_trajectory(
    result: Counterfactuals,
    pair: int,
    forward_func: Callable[..., Any],
    layer: nn.Module | str | None = None,
    density: ClassGaussianMixture | None = None,
    *,
    max_steps: int = 500,
) -> Trace:
    r"""Evaluate the images of a trajectory: confidence, features, log-density.

    Args:
        result (Counterfactuals): Made with ``return_trajectory=True``.
        pair (int): Which of its pairs.
        forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
            log-probabilities. A model that takes more arguments is wrapped in a function that
            passes them.
        layer (nn.Module or str, optional): The layer whose output is the features.
            Default: None (no features)
        density (ClassGaussianMixture, optional): Fitted to that layer's features. Default: None
        max_steps (int, optional): Of a longer trajectory this many images are evaluated, evenly
            spread, the first and the last among them. Default: 500

    Returns:
        Trace: At those steps.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A result without trajectories, a pair that is not in it, or a density without a
            layer.
    """
    checks.number("max_steps", max_steps, minimum=2, integer=True)
    images = trajectory_of(result, pair)
    return trace_at(
        evenly_spread(len(images), max_steps), result, pair, forward_func, layer, density
    )


def trace_at(
    steps: NDArray[np.int64],
    result: Counterfactuals,
    pair: int,
    forward_func: Callable[..., Any],
    layer: nn.Module | str | None,
    density: ClassGaussianMixture | None,
) -> Trace:
    """Do what :func:`trace_trajectory` does, at given steps.

    Args:
        steps (NDArray): Indices of the trajectory's images, ascending.
        result (Counterfactuals): Made with ``return_trajectory=True``.
        pair (int): Which of its pairs.
        forward_func (Callable or nn.Module): The classifier.
        layer (nn.Module or str or None): The layer whose output is the features.
        density (ClassGaussianMixture or None): Fitted to that layer's features.

    Returns:
        Trace: At those steps.

    Raises:
        TypeError: A density of another kind.
        ValueError: A density without a layer.
    """
    if density is not None and not isinstance(density, ClassGaussianMixture):
        raise TypeError(f"density must be a ClassGaussianMixture, got {type(density).__name__}")
    if density is not None and layer is None:
        raise ValueError("density needs the features of a layer, but layer is None")
    images = trajectory_of(result, pair)[torch.from_numpy(steps)]
    target, seen = int(result.target[pair]), int(result.prediction[pair])
    probabilities, features, log_densities = [], [], []
    with torch.no_grad(), FrozenModel(forward_func, layer) as model:
        device = device_of(model.modules, result.inputs.device)
        for batch in torch.split(images, _BATCH):
            scores, rows = model(batch.to(device))
            probabilities.append(scores.double().softmax(1)[:, [target, seen]].cpu())
            features.append(rows.cpu())
            if density is not None:
                log_densities.append(density.log_prob(rows, target).double().cpu())
    confidence, original_confidence = torch.cat(probabilities).T.numpy()
    return Trace(
        steps=steps,
        confidence=confidence,
        original_confidence=original_confidence,
        features=None if layer is None else torch.cat(features),
        log_density=torch.cat(log_densities).numpy() if log_densities else None,
    )


def trajectory_of(result: Counterfactuals, pair: int) -> Tensor:
    """Find the images that a pair's search went through.

    Args:
        result (Counterfactuals): Made with ``return_trajectory=True``.
        pair (int): Which of its pairs.

    Returns:
        Tensor: (steps + 1) x channels x height x width.

    Raises:
        TypeError: Not a result, or not a whole number.
        ValueError: A result without trajectories, or a pair that is not in it.
    """
    if not isinstance(result, Counterfactuals):
        raise TypeError(f"result must be Counterfactuals, got {type(result).__name__}")
    if result.trajectory is None:
        raise ValueError(
            "result holds no trajectories; make it with generate(..., return_trajectory=True)"
        )
    checks.number("pair", pair, minimum=0, maximum=len(result) - 1, integer=True)
    return result.trajectory[pair]


def evenly_spread(count: int, most: int) -> NDArray[np.int64]:
    """Choose some of a sequence's places, the first and the last among them.

    Args:
        count (int): How many places there are.
        most (int): How many to choose at most, at least 2.

    Returns:
        NDArray: The places, ascending.
    """
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))
