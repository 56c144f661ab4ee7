"""Image sizes as the models here take them."""

from __future__ import annotations

from collections.abc import Sequence

from captum_deduce import checks

SMALLEST_SIDE = 8
"""Of an image, in pixels, so that something is left after its sides were halved a few times."""


def image_sides(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Read an image size.

    Args:
        image_size (int or (height, width)): At least :data:`SMALLEST_SIDE`.

    Returns:
        tuple[int, int]: Height and width.

    Raises:
        TypeError: Sides that are not whole numbers.
        ValueError: Another number of sides than two, or sides that are too small.
    """
    sides = tuple(image_size) if isinstance(image_size, Sequence) else (image_size, image_size)
    if len(sides) != 2:
        raise ValueError(f"image_size must be an int or (height, width), got {image_size!r}")
    for side in sides:
        checks.number("image_size", side, minimum=SMALLEST_SIDE, integer=True)
    return sides
