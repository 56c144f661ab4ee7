r"""How likely a counterfactual's features are among those of its target class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.classifiers import find_layer
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.metrics.forward import BATCH_SIZE, read_outputs


class TargetDensity:
    r"""The target's log-density :math:`\log p_t(f_Z(x'))`, or where it stands in the class.

    Log-densities can be compared within one feature space. Whether one is *high* depends on the
    class: ``measure="quantile"`` compares it with the class's training images, each under the
    Gaussian fitted without it (see :meth:`captum_deduce.ClassGaussianMixture.quantile`). A typical
    image of the class has a quantile of about 0.5. Below 0.01, fewer than 1% of the training images
    have so low a log-density.

    The features may be those of any model, but must be the same for all results that are compared.
    DeDUCE raises this density of the model that it explains, so a high value there is no
    independent evidence.

    An instance is called with :class:`~captum_deduce.Counterfactuals` and gives one value a pair.
    The model runs in eval mode and is left as it was found; a pair's value does not depend on the
    other pairs.

    Args:
        forward_func (Callable or nn.Module): The model that has the features.
        layer (nn.Module or str): The layer whose output, flattened, is the features.
        density (ClassGaussianMixture): Fitted to this layer's output.
        measure (str, optional): What a call returns: ``"log_density"`` or ``"quantile"``.
            Default: "log_density"
        batch_size (int, optional): Images per forward pass. Default: 500

    Raises:
        TypeError: An argument of another kind.
        ValueError: A layer that is not in the model, or another ``measure``.

    Examples::

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
        >>> images, labels = torch.rand(4000, 1, 8, 8), torch.arange(4000) % 10
        >>> loader = [(images[:2000], labels[:2000])]
        >>> density = ClassGaussianMixture.fit_loader(model, model[1], loader)
        >>> metric = TargetDensity(model, model[1], density, measure="quantile")
        >>> 0.45 < metric.quantile(images[2000:], labels[2000:]).mean() < 0.55
        tensor(True)
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        density: ClassGaussianMixture,
        measure: str = "log_density",
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        if not isinstance(density, ClassGaussianMixture):
            raise TypeError(f"density must be a ClassGaussianMixture, got {type(density).__name__}")
        checks.choice("measure", measure, ("log_density", "quantile"))
        checks.number("batch_size", batch_size, minimum=1, integer=True)
        self.forward_func = checks.callable_model("forward_func", forward_func)
        find_layer(forward_func, layer)
        self.layer = layer
        self.density = density
        self.measure = measure
        self.batch_size = batch_size

    def log_density(self, images: Tensor, target: object) -> Tensor:
        """Evaluate each image's features under its target class.

        Args:
            images (Tensor): N x channels x height x width.
            target (int, list or Tensor): N classes, or one for all.

        Returns:
            Tensor: N log-densities in nats, float64, on the density's device.

        Raises:
            RuntimeError: The density is not fitted.
            TypeError: Images or targets of the wrong kind.
            ValueError: Images that are not finite, a target without samples, or a density of
                another number of features.
        """
        checks.images(images)
        features = read_outputs(
            self.forward_func,
            torch.split(images, self.batch_size),
            lambda _, features: features,
            self.layer,
        )
        return self.density.log_prob(features.to(self.density.device), target)

    def quantile(self, images: Tensor, target: object) -> Tensor:
        """Find the share of the target's training images whose log-density is no higher.

        Args:
            images (Tensor): As for :meth:`log_density`.
            target (int, list or Tensor): As for :meth:`log_density`.

        Returns:
            Tensor: N shares from 0 to 1, float64, on the density's device.

        Raises:
            RuntimeError: The density is not fitted.
            TypeError: As :meth:`log_density`.
            ValueError: As :meth:`log_density`, or a target class of which the density keeps no
                log-densities.
        """
        values = self.log_density(images, target)
        classes = checks.targets(target, len(images), self.density.num_classes)
        ranks = self.density.log_densities.rank(values, classes)
        missing = sorted(set(classes[ranks.isnan().cpu()].tolist()))
        if missing:
            raise ValueError(
                f"density keeps no log-densities of class(es) {missing} to compare with; call "
                "density.update_quantiles(features, labels) with its training samples, or with "
                "leave_one_out=False with others"
            )
        return ranks

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Judge counterfactuals by what ``measure`` names.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N values, as of :meth:`log_density` or :meth:`quantile`.
        """
        method = self.log_density if self.measure == "log_density" else self.quantile
        return method(result.counterfactuals, result.target)
