"""Pictures as people are shown them: all made in the same way, whoever made the image."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from captum_deduce.reports import encoded
from captum_deduce.visualization import captum_image

SIDE = 256
"""Pixels of a picture's longer side, at most."""


def picture_uris(images: Tensor, mean: Any = None, std: Any = None) -> list[str]:
    """Encode images as PNG, without loss.

    Small images are enlarged, each pixel to a square of the same size, as far as :data:`SIDE`
    allows; larger ones are reduced to it.

    Args:
        images (Tensor): N x channels x height x width, grey or RGB.
        mean (float, sequence or Tensor, optional): The mean with which they were normalised, a
            number or one per channel. Default: None (they were not)
        std (float, sequence or Tensor, optional): The standard deviation, likewise. Default: None

    Returns:
        list[str]: N addresses that hold the pictures themselves.

    Raises:
        TypeError: Images of no floating-point numbers.
        ValueError: Images of another shape, or colours outside [0, 1] after ``value * std + mean``.
    """
    return [_uri(captum_image(image, mean=mean, std=std)) for image in images]


def _uri(colors: Any) -> str:
    from PIL import Image

    pixels = (np.asarray(colors) * 255).round().astype(np.uint8)
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    zoom = max(1, SIDE // max(pixels.shape[:2]))
    image = Image.fromarray(pixels.repeat(zoom, 0).repeat(zoom, 1))
    image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    return encoded(image, "png", optimize=True)
