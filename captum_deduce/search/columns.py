"""Numbers of pairs beside the entries of their images."""

from __future__ import annotations

from torch import Tensor


def as_column(values: Tensor, images: Tensor) -> Tensor:
    """Give the pairs' numbers the dimensions of their images, or of whatever has a row for each.

    Args:
        values (Tensor): A.
        images (Tensor): A x ...

    Returns:
        Tensor: A x 1 x ..., which broadcasts over a pair's entries.
    """
    return values.view(-1, *[1] * (images.dim() - 1))
