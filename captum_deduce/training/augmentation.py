"""The usual augmentations of small images, by their names."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from captum_deduce import checks

AUGMENTATIONS = ("crops", "crops and flips")
"""What :func:`make_augmentation` makes."""


def make_augmentation(name: str, height: int, width: int) -> Callable[[Tensor], Tensor]:
    """Make torchvision's transform for the usual augmentation of small images.

    "Crops" puts a border of an eighth of each side around the image, black where 0 is black, and
    cuts out a part of the image's size at random. "Crops and flips" also mirrors half of the images
    from left to right. With 4 of 32 pixels that is what He et al., "Deep Residual Learning for
    Image Recognition", 2016, do to CIFAR-10. A mirrored digit is none, so digits are not flipped.

    Args:
        name (str): One of :data:`AUGMENTATIONS`.
        height (int): Of the images, in pixels.
        width (int): Likewise.

    Returns:
        Callable: One image, channels x height x width, to one of the same shape, as
        :func:`train_classifier` takes it for ``augment``.

    Raises:
        TypeError: A side that is no whole number.
        ValueError: Another name, or a side below 1.

    Examples::

        >>> import torch
        >>> augment = make_augmentation("crops", 8, 8)
        >>> augment(torch.rand(3, 8, 8)).shape
        torch.Size([3, 8, 8])
    """
    checks.choice("name", name, AUGMENTATIONS)
    checks.number("height", height, minimum=1, integer=True)
    checks.number("width", width, minimum=1, integer=True)
    from torchvision.transforms import v2

    # torchvision wants the border's width at left and right first.
    border = (max(width // 8, 1), max(height // 8, 1))
    crop = v2.RandomCrop((height, width), padding=border)
    flips = [v2.RandomHorizontalFlip()] if name == "crops and flips" else []
    transform: Callable[[Tensor], Tensor] = v2.Compose([crop, *flips])
    return transform
