"""Images that somebody sends: decoded with limits, or refused in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from captum_deduce import storage

MOST_BYTES = 10_000_000
"""Of a file."""

MOST_PIXELS = 40_000_000
"""Of an image: what anyone may send takes less than what is read from one's own disk."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""What is decoded; each by a decoder that Pillow has built in."""


def check_size(image: Image.Image) -> None:
    """Refuse an image that is too large, before any of its pixels is decoded.

    Args:
        image (Image): As opened.

    Raises:
        ValueError: More than :data:`MOST_PIXELS`.
    """
    storage.check_pixels(image, MOST_PIXELS)


def decode(path: str | Path, shape: tuple[int, int, int], *, invert: bool = False) -> Tensor:
    """Read an image as a classifier takes it: upright, grey or RGB, scaled to its size.

    The middle of an image of other proportions is taken, as large as it fits. What is left are 256
    levels, so that the image can be kept in a file without loss.

    Args:
        path (str or Path): The file.
        shape (tuple[int, int, int]): Channels (1 or 3), height and width.
        invert (bool, optional): Exchange black and white. Default: False

    Returns:
        Tensor: 1 x channels x height x width, float32 in [0, 1].

    Raises:
        ValueError: A file that is too long, no image in one of :data:`FORMATS`, one that is damaged
            or has too many pixels.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(
            f"the file has {size:,} bytes; up to {MOST_BYTES // 1_000_000} million are read"
        )
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    image = storage.read_image(path, formats=FORMATS, most_pixels=MOST_PIXELS)
    if image.mode.startswith("I"):  # 16 bits, which `convert` would cut off at 255
        image = image.point(lambda level: level / 257).convert("L")
    # Scaled before all else: each step on the whole image would take as much memory again.
    image = image.convert("RGBA" if image.has_transparency_data else mode)
    fitted = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    if fitted.mode == "RGBA":
        white = Image.new("RGBA", fitted.size, "white")
        fitted = Image.alpha_composite(white, fitted).convert(mode)
    levels = np.atleast_3d(np.asarray(fitted))
    tensor = torch.from_numpy(np.moveaxis(levels, -1, 0).copy()).float().unsqueeze(0) / 255
    return 1 - tensor if invert else tensor
