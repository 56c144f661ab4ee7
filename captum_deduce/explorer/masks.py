"""What somebody painted on an image, as a mask: where it may change."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

CANVAS = 384
"""Pixels of the longer side of an image that is painted on, at least."""


def enlarged(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge an image so far that it can be painted on, each pixel a square.

    Args:
        pixels (NDArray): Height x width (x 3), from 0 to 255.

    Returns:
        NDArray: The same, with a side of at least :data:`CANVAS`.
    """
    zoom = -(-CANVAS // max(pixels.shape[:2]))
    return pixels.repeat(zoom, 0).repeat(zoom, 1)


def painted_mask(editor: dict[str, Any] | None, shape: tuple[int, int, int]) -> Tensor | None:
    """Read where an image may change.

    Args:
        editor (dict or None): With ``layers``, a list of what was painted, each height x width x 4,
            from 0 to 255; of any size.
        shape (tuple[int, int, int]): Channels, height and width of the image.

    Returns:
        Tensor or None: Height x width, bool: True where at least half of a pixel was painted, or of
        strokes thinner than that, where any was. None where nothing was painted: all may change.
    """
    _, height, width = shape
    covered = np.zeros((height, width))
    for layer in (editor or {}).get("layers") or []:
        opacity = Image.fromarray((np.asarray(layer)[..., 3] > 0).astype(np.uint8) * 255)
        area = opacity.resize((width, height), Image.Resampling.BOX)
        covered = np.maximum(covered, np.asarray(area) / 255)
    if not covered.any():
        return None
    mask = covered >= 0.5
    return torch.from_numpy(mask if mask.any() else covered > 0)
