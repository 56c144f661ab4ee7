"""Pictures small enough to stand inside a page, by the hundred."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captum_deduce.visualization import CHANGE_COLORS, strongest

Array = NDArray[np.float64]
Pixels = NDArray[np.uint8]

LARGEST = 256
"""Pixels of a picture's longer side, at most."""

CRISP = 64
"""Images up to this side are kept as they are, without loss; the page enlarges their pixels."""

_QUALITY = 75


@dataclass(frozen=True)
class Range:
    """Of a model's inputs, what is black and what is white.

    Args:
        lower (NDArray): Broadcasts to one image, channels x height x width.
        upper (NDArray): Likewise; above ``lower``.
    """

    lower: Array
    upper: Array

    @classmethod
    def read(cls, lower: Any, upper: Any) -> Range:
        """Take bounds as a manifest has them: numbers, or nested lists.

        Args:
            lower (float or list): The lower bound.
            upper (float or list): The upper bound.

        Returns:
            Range: Of both, without leading dimensions of one.
        """
        bounds = [np.asarray(bound, np.float64) for bound in (lower, upper)]
        return cls(*(bound[0] if bound.ndim == 4 else bound for bound in bounds))

    @property
    def span(self) -> Array:
        """From black to white."""
        return np.asarray(self.upper - self.lower)

    def pixels(self, images: Array) -> Pixels:
        """Draw images.

        Args:
            images (NDArray): N x channels x height x width, in input units.

        Returns:
            NDArray: N x height x width (x 3 of three channels), from 0 to 255. Of any number of
            channels but three, their mean is drawn in grey.
        """
        level = ((images - self.lower) / self.span).clip(0, 1) * 255
        drawn = np.moveaxis(level, 1, -1) if images.shape[1] == 3 else level.mean(1)
        pixels: Pixels = drawn.round().astype(np.uint8)
        return pixels


def change_pixels(change: Array) -> Pixels:
    """Draw signed changes: white where there is none, red where values rise, blue where they fall.

    Of each place's channels the largest change is drawn. The largest of an image has the full
    colour, whatever its size.

    Args:
        change (NDArray): N x channels x height x width, of one unit.

    Returns:
        NDArray: N x height x width x 3, from 0 to 255.
    """
    import matplotlib

    drawn = strongest(change)
    limit = np.abs(drawn).max(axis=(1, 2), keepdims=True)
    scaled = drawn / np.where(limit > 0, limit, 1)
    colors = matplotlib.colormaps[CHANGE_COLORS]((scaled + 1) / 2, bytes=True)[..., :3].copy()
    colors[drawn == 0] = 255
    pixels: Pixels = colors
    return pixels


def framed(pixels: Pixels, top: int, left: int, height: int, width: int) -> Pixels:
    """Draw a frame around a part of a picture, enlarged so far that the frame is thin.

    Args:
        pixels (NDArray): Height x width x 3.
        top (int): The part's first row.
        left (int): Its first column.
        height (int): Its rows.
        width (int): Its columns.

    Returns:
        NDArray: The same picture, each pixel a square of several where there are few of them.
    """
    zoom = max(1, -(-96 // max(pixels.shape[:2])))
    large = pixels.repeat(zoom, 0).repeat(zoom, 1)
    line = max(1, max(large.shape[:2]) // 96)
    rows = slice(top * zoom, (top + height) * zoom)
    columns = slice(left * zoom, (left + width) * zoom)
    part = large[rows, columns]
    inside = part[line:-line, line:-line].copy()
    part[:] = 0
    part[line:-line, line:-line] = inside
    return large


def data_uri(pixels: Pixels, side: int = LARGEST) -> str:
    """Encode a picture: losslessly as PNG where it is small, as WebP where it is a photograph.

    Args:
        pixels (NDArray): Height x width (x 3), from 0 to 255.
        side (int, optional): What the longer side is scaled down to, from :data:`CRISP` on.
            Default: :data:`LARGEST`

    Returns:
        str: An address that holds the picture itself.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    if max(image.size) <= CRISP:
        return encoded(image, "png", optimize=True)
    image.thumbnail((side, side), Image.Resampling.BOX)
    return encoded(image, "webp", quality=_QUALITY)


def encoded(image: Any, kind: str, **options: Any) -> str:
    """Write a picture into an address.

    Args:
        image (Any): Pillow's.
        kind (str): Its format, as addresses call it, such as "png".
        **options (Any): Of Pillow's ``save``.

    Returns:
        str: An address that holds the picture itself.
    """
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
