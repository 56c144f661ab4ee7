"""Images that somebody sends: decoded with limits, or refused in a sentence."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MOST_BYTES = 10_000_000
"""Of a file."""

MOST_PIXELS = 40_000_000
"""Of an image, more than any phone's photograph has by default."""

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
"""What is decoded; each by a decoder that Pillow has built in."""


def check_size(image: Image.Image) -> None:
    """Refuse an image that is too large, before any of its pixels is decoded.

    Args:
        image (Image): As opened.

    Raises:
        ValueError: More than :data:`MOST_PIXELS`.
    """
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise ValueError(
            f"the image has {width:,} x {height:,} pixels; up to "
            f"{MOST_PIXELS // 1_000_000} million are read. Scale it down first"
        )


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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
            with Image.open(path, formats=FORMATS) as opened:
                check_size(opened)
                upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(_unreadable(error)) from error
    white = Image.new("RGBA", upright.size, "white")
    flat = Image.alpha_composite(white, upright).convert("L" if channels == 1 else "RGB")
    fitted = ImageOps.fit(flat, (width, height), Image.Resampling.BILINEAR)
    levels = np.atleast_3d(np.asarray(fitted))
    image = torch.from_numpy(np.moveaxis(levels, -1, 0).copy()).float().unsqueeze(0) / 255
    return 1 - image if invert else image


def _unreadable(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return (
            f"the image has too many pixels; up to {MOST_PIXELS // 1_000_000} million are read. "
            "Scale it down first"
        )
    if isinstance(error, UnidentifiedImageError):
        return f"the file is no image that can be read; send one of {', '.join(FORMATS)}"
    return "the image is damaged: it can't be read to its end"
