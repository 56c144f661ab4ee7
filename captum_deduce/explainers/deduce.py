"""DeDUCE: few changed pixels, across the decision boundary, towards likely features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks, losses
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.features import FrozenModel, find_layer
from captum_deduce.pixelwise import PixelwiseExplainer


class DeDUCE(PixelwiseExplainer):
    r"""Deep Deterministic Uncertainty-based Counterfactual Explanations.

    Starting from the original, each step moves the pixels that matter most for the target's
    cross-entropy :math:`\ell_c` and the log-density :math:`\log p_t` of the features
    :math:`f_Z(\mathbf x)` under the target class, both relative to their size (equation 6):

    .. math::
        \mathbf g_k = \mu \frac{\nabla \ell_c(f(\mathbf x_k), t)}{\ell_c(f(\mathbf x_k), t)}
        - \frac{\nabla \log p_t(f_Z(\mathbf x_k))}{|\log p_t(f_Z(\mathbf x_k))|}
        + m\, \mathbf g_{k-1}

    until the softmax probability of the target exceeds ``confidence`` (algorithm 1). The features
    should come from a model with spectral normalisation
    (:func:`~captum_deduce.spectral_normalize`): without it any model can be explained, but the
    density says less about its inputs.

    Source: Höltgen, Schut, Brauner, Gal, "DeDUCE: Generating Counterfactual Explanations At Scale",
    2021. Deviations: steps that can't change the image are never taken (``skip_saturated``); the
    step goes against the sign of the gradient (line 7 misprints it); denominators are floored at
    1e-6, and values within 1e-6 of the input range of a bound or of the original snap to it;
    a pair with no admissible pixel or with a non-finite gradient stops as failed.

    A pair that fails returns its best attempt with ``success=False``.

    Examples::

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
        >>> images, labels = torch.rand(90, 1, 8, 8), torch.arange(90) % 3
        >>> features = model[:3](images).detach()
        >>> density = ClassGaussianMixture().fit(features, labels)
        >>> explainer = DeDUCE(model, model[2], density)
        >>> result = explainer.generate(images[:4], target=2)
        >>> result.counterfactuals.shape, result.success.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4]))
        >>> bool((model(result.counterfactuals).softmax(1)[result.success, 2] > 0.5).all())
        True
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        density: ClassGaussianMixture,
        *,
        confidence: float = 0.5,
        step_size: float = 0.2,
        max_changes: int = 5,
        pixels_per_step: int = 1,
        momentum: float = 0.6,
        max_iterations: int = 700,
        classification_weight: float = 1.0,
        normalize_terms: bool = True,
        skip_saturated: bool = True,
        pixel: str = "entry",
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Bring model, layer and density together.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            layer (nn.Module or str): The layer whose output, flattened to N x D, is the features;
                in a ResNet the average pooling. A module of ``forward_func``, or its dotted name.
            density (ClassGaussianMixture): Fitted to that layer's features of the training data.
            confidence (float, optional): :math:`\gamma`: the search ends when the target's softmax
                probability exceeds it; where it is below .5 the target must also be the argmax.
                Default: 0.5
            step_size (float, optional): :math:`\delta`, how far a pixel moves in a step, as a
                fraction of ``upper_bound - lower_bound``. Default: 0.2
            max_changes (int, optional): :math:`p`, most changes of one pixel. Default: 5
            pixels_per_step (int, optional): :math:`m` of algorithm 1. Default: 1
            momentum (float, optional): :math:`m` of equation 6. Default: 0.6
            max_iterations (int, optional): Most steps of an image. Default: 700
            classification_weight (float, optional): :math:`\mu` of equation 5, or :math:`\lambda`
                of equation 4. Default: 1.0
            normalize_terms (bool, optional): Equation 5, both terms relative to their size; False:
                equation 4, :math:`\lambda \ell_c - \log p_t`. Default: True
            skip_saturated (bool, optional): Never choose a pixel that the move would not change, as
                it sits on a bound; False: algorithm 1 to the letter, where such steps count.
                Default: True
            pixel (str, optional): ``"entry"``: channels move one by one; ``"site"``: a spatial
                position moves with all its channels. Default: "entry"
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel). Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A layer that is not in the model, a density that is not fitted, or a number
                out of its range.
        """
        super().__init__(forward_func)
        find_layer(forward_func, layer)
        if not isinstance(density, ClassGaussianMixture):
            raise TypeError(f"density must be a ClassGaussianMixture, got {type(density).__name__}")
        if not density.num_classes:
            raise ValueError(
                "density is not fitted; fit it with ClassGaussianMixture.fit_loader(model, layer, "
                "loader), or with fit(features, target)"
            )
        self.layer = layer
        self.density = density
        self.confidence = confidence
        self.step_size = step_size
        self.max_changes = max_changes
        self.pixels_per_step = pixels_per_step
        self.momentum = momentum
        self.max_iterations = max_iterations
        self.classification_weight = classification_weight
        self.normalize_terms = normalize_terms
        self.skip_saturated = skip_saturated
        self.pixel = pixel
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._check_settings()

    def _check_settings(self) -> None:
        super()._check_settings()
        checks.number("classification_weight", self.classification_weight, minimum=0)
        checks.flag("normalize_terms", self.normalize_terms)

    def _frozen_model(self) -> FrozenModel:
        return FrozenModel(self.forward_func, self.layer)

    def _check_model(self, scores: Tensor, features: Tensor) -> None:
        for what, found, fitted in (
            ("features", features.shape[1], self.density.num_features),
            ("classes", scores.shape[1], self.density.num_classes),
        ):
            if found != fitted:
                raise ValueError(
                    f"density was fitted to {fitted} {what}, but the model has {found}; fit it "
                    "with ClassGaussianMixture.fit_loader on this model and layer"
                )
        if self.density.device != features.device:
            raise ValueError(
                f"density is on {self.density.device}, but the features are on {features.device}; "
                "move it with density.to(...)"
            )

    def _objective(
        self, scores: Tensor, features: Tensor, target: Tensor, classes: list[int]
    ) -> tuple[Tensor, Tensor]:
        log_density = self.density.log_prob(features, torch.tensor(classes))
        cross_entropy = -losses.target_log_probability(scores, target)
        combine = losses.relative_sum if self.normalize_terms else losses.weighted_sum
        loss = combine(cross_entropy, log_density, self.classification_weight)
        return loss, log_density
