"""A classifier averaged over noise, whose gradients follow what people see more closely."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.classifiers.layers import feature_rows, recorded_outputs
from captum_deduce.classifiers.scores import class_scores
from captum_deduce.classifiers.wrapped import WrappedClassifier


class SmoothedClassifier(WrappedClassifier):
    r"""A classifier whose scores and features are means over noisy copies of each image.

    With draws :math:`\varepsilon_i \sim \mathcal N(0, \sigma^2 I)`, each used with both signs,

    .. math::
        \bar f(\mathbf x) = \frac 1 {2k} \sum_{i=1}^k
        \bigl[ f(\mathbf x + \varepsilon_i) + f(\mathbf x - \varepsilon_i) \bigr]

    and so for the features of ``layer``. Gradients, confidence and density, and so the end of a
    search, then describe a neighbourhood of the image. The draws follow from ``seed`` and are the
    same in every pass and for all images: results do not depend on batches. An evaluation costs
    ``copies`` of the model's, and their memory where gradients are computed.

    Source: Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized
    Smoothing", 2019, of whose classifiers Kaur, Cohen and Lipton, "Are Perceptually-Aligned
    Gradients a General Property of Robust Classifiers?", 2019, show that gradients are aligned
    with perception. Deviation: the mean of the scores in place of a vote, which has no gradient.

    Args:
        model (nn.Module): Returns scores, N x C; best one trained with noise
            (:func:`captum_deduce.training.train_classifier` with ``noise``). Not copied.
        layer (nn.Module or str): The layer whose output describes an image, or its dotted name.
        noise (float): :math:`\sigma`, in the inputs' units.
        copies (int, optional): :math:`2k`, even. Default: 4
        seed (int, optional): Of the noise. Default: 0

    Attributes:
        features (nn.Module): Outputs the mean features, N x D: the ``layer`` for explainers and
            :meth:`ClassGaussianMixture.fit_loader`.

    Raises:
        TypeError: A model that is no module, or a setting of the wrong kind.
        ValueError: A layer that is not in the model, or a setting out of its range.

    Examples::

        >>> from captum_deduce import ClassGaussianMixture, DeDUCE
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
        >>> smoothed = SmoothedClassifier(model, model[2], noise=0.3)
        >>> images, labels = torch.rand(90, 1, 8, 8), torch.arange(90) % 3
        >>> batches = [(images[:45], labels[:45]), (images[45:], labels[45:])]
        >>> density = ClassGaussianMixture.fit_loader(smoothed, smoothed.features, batches)
        >>> explainer = DeDUCE.realistic(smoothed, smoothed.features, density)
        >>> smoothed(images).shape
        torch.Size([90, 3])
    """

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module | str,
        *,
        noise: float,
        copies: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        self.layer_name = self.name_of(layer)
        checks.number("noise", noise, minimum=0)
        checks.number("copies", copies, minimum=2, integer=True)
        checks.number("seed", seed, minimum=0, maximum=2**63 - 1, integer=True)
        if copies % 2:
            raise ValueError(f"copies must be even, as each draw has its opposite, got {copies}")
        self.noise = noise
        self.copies = copies
        self.seed = seed

    def forward(self, inputs: Tensor, *additional_forward_args: Any) -> Tensor:
        """Compute mean scores, and the mean features on the way.

        Args:
            inputs (Tensor): N x ...
            *additional_forward_args: Passed on to the model with each copy.

        Returns:
            Tensor: N x C.

        Raises:
            ValueError: A model that does not return N x C scores, or a layer that did not run
                exactly once.
        """
        scores, features = [], []
        with recorded_outputs([self.model.get_submodule(self.layer_name)]) as (outputs,):
            # One by one, as arguments may belong to the images row by row, or to all of them.
            for draw in self._draws(inputs):
                outputs.clear()
                disturbed = self.model(inputs + draw, *additional_forward_args)
                scores.append(class_scores(disturbed, len(inputs)))
                features.append(feature_rows(outputs, len(inputs)))
        self.features(torch.stack(features).mean(0))
        return torch.stack(scores).mean(0)

    def extra_repr(self) -> str:
        """The settings, for ``print(model)``."""
        return (
            f"noise={self.noise!r}, copies={self.copies}, seed={self.seed}, "
            f"layer={self.layer_name!r}"
        )

    def _draws(self, inputs: Tensor) -> Tensor:
        """The noise of all copies, copies x ...; from the CPU, whatever the device."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.copies // 2, *inputs.shape[1:])
        drawn = self.noise * torch.randn(shape, generator=generator).to(inputs)
        return torch.cat([drawn, -drawn])
