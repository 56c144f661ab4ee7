"""Where groups of pairs change, and which way: sums over a run, taken in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ChangeMaps:
    """Mean changes of G groups of pairs.

    Args:
        count (NDArray): Pairs in each group, G.
        signed (NDArray): The mean change of the group, G x channels x height x width, as a share
            of the range of values.
        share (NDArray): Where the change is, G x height x width: of each pair its magnitudes,
            summed over channels and divided by their total, so that each pair counts as much as
            any other; the mean over the group. Each map sums to 1, or is 0 for an empty group.
    """

    count: NDArray[np.int64]
    signed: Array
    share: Array


def change_maps(
    changes: Iterable[tuple[Sequence[int], Tensor]],
    groups: Sequence[NDArray[np.int64]],
    image_shape: Sequence[int],
    span: Array | float = 1.0,
) -> ChangeMaps:
    """Add up the changes of groups of pairs.

    Memory is that of the maps and of the largest part of the changes.

    Args:
        changes (Iterable[tuple[Sequence[int], Tensor]]): In parts: N rows of a run's table, and
            their changes, N x channels x height x width, in input units.
        groups (Sequence[NDArray]): For each way to group the pairs the group of each row of the
            run's table, -1 where it is in none. A number stands for one group in all ways.
        image_shape (Sequence[int]): Channels, height and width.
        span (NDArray or float, optional): Upper minus lower bound of values, of a shape that
            broadcasts to an image. Default: 1.0

    Returns:
        ChangeMaps: As many groups as the largest number plus one. Pairs that changed nothing are
        in no group.

    Examples::

        >>> import torch
        >>> two = torch.tensor([[[[0.5, 0.0], [0.0, -0.5]]], [[[0.0, 0.0], [0.0, 1.0]]]])
        >>> maps = change_maps([([0, 1], two)], [np.array([0, 0])], (1, 2, 2))
        >>> maps.signed[0, 0].tolist(), maps.share[0].tolist()
        ([[0.25, 0.0], [0.0, 0.25]], [[0.25, 0.0], [0.0, 0.75]])
    """
    entries = math.prod(image_shape)
    sites = math.prod(image_shape[1:])
    total = 1 + max((int(group.max(initial=-1)) for group in groups), default=-1)
    count = np.zeros(total, np.int64)
    signed, share = np.zeros(total * entries), np.zeros(total * sites)
    spans = np.broadcast_to(np.asarray(span, np.float64), tuple(image_shape)).reshape(-1)
    for rows, dense in changes:
        flat = dense.flatten(1).numpy()
        # of each entry that changed; few do, so that adding them up one by one is quick
        pair, place = flat.nonzero()
        value = flat[pair, place] / spans[place]
        whole = np.bincount(pair, np.abs(value), minlength=len(flat))
        part = np.abs(value) / whole[pair]
        for group in groups:
            of_pair = group[np.asarray(rows, np.int64)]
            kept = of_pair[pair] >= 0
            number, where = of_pair[pair][kept], place[kept]
            np.add.at(signed, number * entries + where, value[kept])
            np.add.at(share, number * sites + where % sites, part[kept])
            count += np.bincount(of_pair[(of_pair >= 0) & (whole > 0)], minlength=total)
    each = np.maximum(count, 1)[:, None]
    return ChangeMaps(
        count,
        (signed.reshape(total, entries) / each).reshape(total, *image_shape),
        (share.reshape(total, sites) / each).reshape(total, *image_shape[1:]),
    )
