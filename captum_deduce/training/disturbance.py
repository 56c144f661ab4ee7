"""What is done to training images each time they are seen: augmentation, noise, adversarial steps.

All that is drawn comes from one generator, and torch's global one is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_deduce import checks
from captum_deduce.classifiers import eval_mode
from captum_deduce.datasets import ImageData

_SEEDS = 2**63 - 1


@dataclass(frozen=True)
class Disturbance:
    """How training images are disturbed, in this order.

    Args:
        augment (Callable or None): One image to one of the same shape.
        noise (float): The largest standard deviation of Gaussian noise.
        adversarial (float): The largest L2 length of a step along the loss's gradient.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A number below 0.
    """

    augment: Callable[[Tensor], Any] | None = None
    noise: float = 0.0
    adversarial: float = 0.0

    def __post_init__(self) -> None:
        if self.augment is not None and not callable(self.augment):
            raise TypeError(
                "augment must be a function of one image, or None, got "
                f"{type(self.augment).__name__}: {self.augment!r:.80}"
            )
        checks.number("noise", self.noise, minimum=0)
        checks.number("adversarial", self.adversarial, minimum=0)

    def check(self, images: Tensor) -> None:
        """Try the augmentation on the first image, and leave that as it is.

        Args:
            images (Tensor): N x channels x height x width, at least one.

        Raises:
            TypeError: It returns something other than a tensor, or another dtype.
            ValueError: It returns another shape.
        """
        if self.augment is not None:
            augmented(images[:1].clone(), self.augment, torch.Generator().manual_seed(0))

    def __call__(
        self, model: nn.Module, batch: ImageData, generator: torch.Generator, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Disturb a batch.

        Args:
            model (nn.Module): What adversarial steps are taken against.
            batch (ImageData): The images, which may be changed, and their classes.
            generator (torch.Generator): What is drawn from, on the CPU.
            device (torch.device): The model's.

        Returns:
            tuple[Tensor, Tensor]: Images, N x channels x height x width, and classes, N, there.
        """
        images = batch.images
        if self.augment is not None:
            images = augmented(images, self.augment, generator)
        if self.noise:
            images = noisy(images, self.noise, generator)
        images, target = images.to(device), batch.target.to(device)
        if self.adversarial:
            radius = self.adversarial * torch.rand(len(images), generator=generator)
            images = adversarial(model, images, target, radius)
        return images, target


def augmented(
    images: Tensor, augment: Callable[[Tensor], Any], generator: torch.Generator
) -> Tensor:
    """Augment every image of a batch.

    The function draws from torch's global generator, as torchvision's transforms do. That gets a
    seed for each batch, and is put back afterwards.

    Args:
        images (Tensor): N x channels x height x width; the function gets one after another.
        augment (Callable): One image, on the CPU, to one of the same shape.
        generator (torch.Generator): The seeds are drawn from it.

    Returns:
        Tensor: Of the images' shape, on their device.

    Raises:
        TypeError: The function returns something other than a tensor, or another dtype.
        ValueError: It returns another shape.
    """
    seed = int(torch.randint(_SEEDS, (), generator=generator))
    with _seeded(seed):
        made = [_checked(augment(image), image) for image in images.cpu()]
    return torch.stack(made).to(images.device)


def noisy(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise whose strength differs from image to image.

    Args:
        images (Tensor): N x channels x height x width.
        noise (float): The largest standard deviation; each image's is drawn uniformly from 0 to it.
        generator (torch.Generator): What is drawn from, on the CPU.

    Returns:
        Tensor: Of the images' shape, not clipped.
    """
    strength = noise * torch.rand(len(images), *[1] * (images.dim() - 1), generator=generator)
    drawn = torch.randn(images.shape, generator=generator)
    return images + (strength * drawn).to(images)


def adversarial(model: nn.Module, images: Tensor, target: Tensor, radius: Tensor) -> Tensor:
    r"""Take one step of a given length along the gradient of each image's own loss.

    .. math:: \mathbf x + r\, \frac{\nabla_{\mathbf x}\, \ell}{\|\nabla_{\mathbf x}\, \ell\|_2}

    with the cross-entropy :math:`\ell` of the image's class, in eval mode: batch norm's running
    statistics and spectral normalisation's vectors stay as they are, dropout leaves nothing out,
    and no image's step depends on the others of its batch.

    Args:
        model (nn.Module): Returns logits, N x C. Modes and gradients of parameters are left alone.
        images (Tensor): N x channels x height x width, on the model's device.
        target (Tensor): N classes, there.
        radius (Tensor): The length of each image's step, N.

    Returns:
        Tensor: Of the images' shape, not clipped. An image without a gradient stays as it is.
    """
    leaf = images.detach().clone().requires_grad_()
    with eval_mode(model):
        loss = cross_entropy(model(leaf).to(leaf.dtype), target, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    rows = gradient.flatten(1)
    # The gradients of images that the model is sure of are so small that their squares are 0.
    least = torch.finfo(rows.dtype).tiny
    rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(least)
    lengths = rows.norm(dim=1, keepdim=True).clamp_min(least)
    step = radius.to(rows).unsqueeze(1) * rows / lengths
    moved: Tensor = images + step.view_as(images)
    return moved


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds other devices, too.
        torch.default_generator.manual_seed(seed)
        yield


def _checked(made: object, image: Tensor) -> Tensor:
    if not isinstance(made, Tensor) or made.dtype != image.dtype:
        kind = made.dtype if isinstance(made, Tensor) else type(made).__name__
        raise TypeError(f"augment must return a tensor of {image.dtype}, got {kind}")
    if made.shape != image.shape:
        raise ValueError(
            "augment must return an image of the shape that it was given, "
            f"{tuple(image.shape)}, got {tuple(made.shape)}"
        )
    return made
