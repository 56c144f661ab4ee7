"""Changes that gather in one place, as they do where a model has learnt a shortcut."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PARTS = 7
"""A spot's height and width are a seventh of the image's, rounded up."""

SURENESS = 0.95
"""How sure the lower limit of a spot's share is."""


@dataclass(frozen=True)
class Spot:
    """The window that holds most of the change of a group of pairs.

    Args:
        top (int): Its first row.
        left (int): Its first column.
        height (int): In pixels.
        width (int): In pixels.
        share (float): Of the change, from 0 to 1.
        at_least (float): A lower limit of the share in pairs that are yet to come, with a
            probability of :data:`SURENESS`; 0 where the pairs are too few to say. By Hoeffding's
            inequality for a mean of values from 0 to 1, for all windows at once, as the best of
            them was chosen.
        area (float): Of the image, from 0 to 1.
    """

    top: int
    left: int
    height: int
    width: int
    share: float
    at_least: float
    area: float


def find_spot(share: NDArray[np.float64], count: int) -> Spot:
    """Find the window of a seventh of the sides that holds most of the change.

    Args:
        share (NDArray): Where the change is, height x width, summing to 1; the mean over pairs, as
            :class:`ChangeMaps` has it.
        count (int): How many pairs.

    Returns:
        Spot: The first from above and left where several hold the same.

    Examples::

        >>> share = np.zeros((8, 8))
        >>> share[0, 6:] = 0.25
        >>> share[5, 2] = 0.5 - 1 / 16
        >>> spot = find_spot(share, 1000)
        >>> spot.top, spot.left, spot.height, spot.width, spot.share, spot.area
        (0, 6, 2, 2, 0.5, 0.0625)
        >>> round(spot.at_least, 3)
        0.441
    """
    height, width = (math.ceil(side / PARTS) for side in share.shape)
    # sums above and left of each corner: a window's sum takes four of them
    corner = np.pad(share, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    sums = corner[height:, width:] - corner[:-height, width:]
    sums += corner[:-height, :-width] - corner[height:, :-width]
    # windows without a difference but that of rounding count as equal
    sums = sums.round(12)
    top, left = divmod(int(sums.argmax()), sums.shape[1])
    found = float(sums[top, left])
    slack = math.sqrt(math.log(sums.size / (1 - SURENESS)) / (2 * max(count, 1)))
    area = height * width / share.size
    return Spot(top, left, height, width, found, max(0.0, found - slack), area)
