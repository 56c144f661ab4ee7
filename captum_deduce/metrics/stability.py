r"""Whether a counterfactual stays one when noise is added to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.forward import BATCH_SIZE, read_outputs

NOISES = ("gaussian", "uniform")
"""Distributions of the entries of the noise, which are independent and have mean 0."""


class ValidityUnderNoise:
    r"""The share of small random perturbations of :math:`x'` that keep its target.

    .. math::
        \frac{1}{n} \sum_{i=1}^{n} \left[\arg\max f(x' + \varepsilon_i) = t\right]

    A counterfactual just beyond the decision boundary loses its target to noise that nobody would
    see. This is one minus the invalidation rate of Pawelczyk et al.,
    *Probabilistically Robust Recourse* (2023), which takes Gaussian noise.

    The n perturbations are drawn once from ``seed`` and added to every image, so that a pair's
    value does not depend on the other pairs, their order or the batch size, and images of several
    methods meet the same noise; torch's global generator is left alone. Errors of the values of
    different pairs are therefore not independent: take n large rather than hope that they average
    out over pairs.

    An instance is called with :class:`~captum_deduce.Counterfactuals` and gives one value a pair.

    Args:
        forward_func (Callable or nn.Module): The explained model, returning logits or
            log-probabilities. It runs in eval mode and is left as it was found.
        scale (float, optional): Standard deviation of Gaussian noise, or the largest size of
            uniform noise, in the images' units. Default: 0.05
        noise (str, optional): ``"gaussian"`` or ``"uniform"``. Default: "gaussian"
        samples (int, optional): n. Default: 100
        lower_bound (float or Tensor, optional): What perturbed images are raised to, a number or a
            tensor that broadcasts to one image. Default: None (they may leave the range)
        upper_bound (float or Tensor, optional): What they are lowered to. Default: None
        seed (int, optional): Of the noise. Default: 0
        batch_size (int, optional): Perturbed images per forward pass. Default: 500

    Raises:
        TypeError: A model that can't be called, or a number of the wrong kind.
        ValueError: A number out of its range, or another ``noise``.

    Examples::

        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> images = torch.rand(3, 1, 8, 8)
        >>> ValidityUnderNoise(model, scale=0.0).validity(images, model(images).argmax(1))
        tensor([1., 1., 1.])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        scale: float = 0.05,
        *,
        noise: str = "gaussian",
        samples: int = 100,
        lower_bound: float | Tensor | None = None,
        upper_bound: float | Tensor | None = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        checks.number("scale", scale, minimum=0)
        checks.choice("noise", noise, NOISES)
        checks.number("samples", samples, minimum=1, integer=True)
        checks.number("seed", seed, integer=True)
        checks.number("batch_size", batch_size, minimum=1, integer=True)
        self.forward_func = checks.callable_model("forward_func", forward_func)
        self.scale = scale
        self.noise = noise
        self.samples = samples
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self.seed = seed
        self.batch_size = batch_size

    def perturbations(self, images: Tensor) -> Tensor:
        """Draw the noise.

        Args:
            images (Tensor): N x ..., for the shape of one image, the dtype and the device.

        Returns:
            Tensor: n x ...
        """
        # On the CPU and in float32, so that device and dtype don't decide what is drawn.
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.samples, *images.shape[1:])
        if self.noise == "gaussian":
            drawn = torch.randn(shape, generator=generator)
        else:
            drawn = 2 * torch.rand(shape, generator=generator) - 1
        return (self.scale * drawn).to(images)

    def validity(self, images: Tensor, target: object) -> Tensor:
        """Find the share of the perturbations that keep the target.

        Args:
            images (Tensor): N x channels x height x width.
            target (int, list or Tensor): N classes, or one for all.

        Returns:
            Tensor: N shares from 0 to 1, float32, on the images' device.

        Raises:
            TypeError: Images, targets or bounds of the wrong kind.
            ValueError: Images that are not finite, a target that the model does not have, or bounds
                of another shape.
        """
        checks.images(images)
        lower, upper = (
            None if bound is None else checks.per_input(name, bound, images)
            for name, bound in (
                ("lower_bound", self.lower_bound),
                ("upper_bound", self.upper_bound),
            )
        )
        few = read_outputs(self.forward_func, [images[:2]], lambda scores, _: scores)
        classes = checks.targets(target, len(images), few.shape[1]).to(few.device)
        drawn = self.perturbations(images)

        def perturbed(places: Tensor) -> Tensor:
            noisy = images[places // self.samples] + drawn[places % self.samples]
            return noisy if lower is None and upper is None else noisy.clamp(lower, upper)

        places = torch.arange(len(images) * self.samples, device=images.device)
        batches = map(perturbed, torch.split(places, self.batch_size))
        found = read_outputs(self.forward_func, batches, lambda scores, _: scores.argmax(1))
        kept = found.view(-1, self.samples) == classes.unsqueeze(1)
        return kept.float().mean(1).to(images.device)

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Judge counterfactuals.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N values, as of :meth:`validity`.
        """
        return self.validity(result.counterfactuals, result.target)
