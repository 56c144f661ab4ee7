"""Maps of which entries of an input move as one: a grid, superpixels, one's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from captum_deduce import checks


def grid(height: int, width: int, size: int) -> Tensor:
    """Cut images into squares; those at the lower and right edges may be smaller.

    Args:
        height (int): Of the images.
        width (int): Of the images.
        size (int): Height and width of a square, in pixels.

    Returns:
        Tensor: A ``feature_mask`` for all images and channels: the squares' numbers, row by row
        from 0, 1 x height x width, int64.

    Raises:
        TypeError: Not integers.
        ValueError: An integer below 1.

    Examples::

        >>> grid(2, 5, size=2).tolist()
        [[[0, 0, 1, 1, 2], [0, 0, 1, 1, 2]]]
    """
    for name, value in (("height", height), ("width", width), ("size", size)):
        checks.number(name, value, minimum=1, integer=True)
    rows, columns = torch.arange(height) // size, torch.arange(width) // size
    return (rows.unsqueeze(1) * -(-width // size) + columns).unsqueeze(0)


def superpixels(
    inputs: Tensor, count: int = 100, *, compactness: float = 10.0, **settings: Any
) -> Tensor:
    """Cut each image along its edges, with scikit-image's SLIC.

    Args:
        inputs (Tensor): Images, N x channels x height x width, in any units.
        count (int, optional): About how many superpixels each image gets. Default: 100
        compactness (float, optional): High for squares, low for superpixels that follow the
            colours; scikit-image advises to try powers of ten. Default: 10.0
        **settings (Any): Of ``skimage.segmentation.slic``, for example ``sigma``.

    Returns:
        Tensor: A ``feature_mask`` with a row for each image: the superpixels' numbers, from 0,
        N x 1 x height x width, int64, on the inputs' device.

    Raises:
        ImportError: scikit-image isn't installed.
        TypeError: Inputs that are no tensor of float32 or float64, or other arguments of the wrong
            kind.
        ValueError: Inputs of another shape or not finite, or a number out of its range.
    """
    images, _ = checks.single_tensor(inputs)
    checks.images(images)
    if images.dim() != 4:
        raise ValueError(
            f"inputs must be N x channels x height x width, got shape {tuple(images.shape)}"
        )
    checks.number("count", count, minimum=1, integer=True)
    checks.number("compactness", compactness, minimum=0, exclusive=True)
    try:
        from skimage.segmentation import slic
    except ImportError as error:
        raise ImportError("superpixels needs scikit-image: pip install scikit-image") from error
    given = {"n_segments": count, "compactness": compactness, "start_label": 0} | settings
    arrays = images.detach().cpu().double().movedim(1, -1).numpy()
    maps = np.stack([slic(array, channel_axis=-1, **given) for array in arrays])
    return torch.from_numpy(maps).to(images.device, torch.int64).unsqueeze(1)


def numbered(feature_mask: object, inputs: Tensor, *, copies: bool = False) -> Tensor:
    """Read a feature mask, and number each image's groups from 0 in the order of their integers.

    Args:
        feature_mask (object): An integer tensor; entries of an image with the same integer are a
            group. One for all images or with a row for each, as
            :func:`captum_deduce.checks.per_image` reads it.
        inputs (Tensor): N x ...
        copies (bool, optional): As for :func:`captum_deduce.checks.per_image`. Default: False

    Returns:
        Tensor: The groups' numbers, int64, of the shape of one input, or of the inputs' shape where
        each has its own (a view where it was broadcast), on their device.

    Raises:
        TypeError: No tensor, or none of integers.
        ValueError: A shape that does not fit or has two readings.
    """
    if not isinstance(feature_mask, Tensor):
        raise TypeError(
            f"feature_mask must be a torch.Tensor or None, got {type(feature_mask).__name__}"
        )
    kind = feature_mask.dtype
    if kind == torch.bool or kind.is_floating_point or kind.is_complex:
        raise TypeError(
            f"feature_mask must hold integers, the number of each entry's group, got {kind}; what "
            "may change at all is said by mask"
        )
    spread = checks.per_image("feature_mask", feature_mask.detach(), inputs, copies=copies)
    # Once of what was broadcast, as an integer for each entry would be twice the inputs' memory.
    values = spread[tuple(slice(None if step else 1) for step in spread.stride())]
    values = values.to(inputs.device, torch.int64)
    rows = values.flatten(1) if values.dim() == inputs.dim() else values.reshape(1, -1)
    ordered, order = rows.sort(1)
    new = torch.zeros_like(ordered)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    numbers = torch.empty_like(order).scatter_(1, order, new.cumsum(1))
    return numbers.view(values.shape).expand(spread.shape)
