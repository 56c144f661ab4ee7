"""Where groups of pairs change, and which way: sums over a run, taken in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
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
    changed_entries: Iterable[tuple[Sequence[int], Tensor, Tensor, Tensor]],
    groups: Sequence[NDArray[np.int64]],
    image_shape: Sequence[int],
    span: Array | float = 1.0,
) -> ChangeMaps:
    """Add up the changes of groups of pairs.

    Memory is that of the maps and of the largest part of the changes.

    Args:
        changed_entries (Iterable[tuple[Sequence[int], Tensor, Tensor, Tensor]]): In parts: rows of
            a run's table; and of each entry that changed the position of its row in that list, its
            place in the flattened image, and its change, in input units.
        groups (Sequence[NDArray]): For each way to group the pairs the group of each row of the
            run's table, -1 where it is in none. A number stands for one group in all ways.
        image_shape (Sequence[int]): Channels, height and width.
        span (NDArray or float, optional): Upper minus lower bound of values, of a shape that
            broadcasts to an image. Default: 1.0

    Returns:
        ChangeMaps: As many groups as the largest number plus one. Pairs that changed nothing are
        in no group.

    Examples::

        >>> pair, place = torch.tensor([0, 0, 1]), torch.tensor([0, 3, 3])
        >>> entries = [0, 1], pair, place, torch.tensor([0.5, -0.5, 1.0])
        >>> maps = change_maps([entries], [np.array([0, 0])], (1, 2, 2))
        >>> maps.signed[0, 0].tolist(), maps.share[0].tolist()
        ([[0.25, 0.0], [0.0, 0.25]], [[0.25, 0.0], [0.0, 0.75]])
    """
    entries = math.prod(image_shape)
    sites = math.prod(image_shape[1:])
    total = 1 + max((int(group.max(initial=-1)) for group in groups), default=-1)
    count = np.zeros(total, np.int64)
    signed = torch.zeros(total * entries, dtype=torch.float64)
    share = torch.zeros(total * sites, dtype=torch.float64)
    spans = np.broadcast_to(np.asarray(span, np.float64), tuple(image_shape)).reshape(-1)
    reciprocals = torch.from_numpy(1 / spans)
    for rows, pair, place, change in changed_entries:
        value = change.double() * reciprocals[place]
        whole = torch.zeros(len(rows), dtype=torch.float64).index_add_(0, pair, value.abs())
        part = value.abs() / whole[pair]
        site = place % sites
        for group in groups:
            of_pair = torch.from_numpy(group[np.asarray(rows, np.int64)])
            entry = (of_pair >= 0)[pair].nonzero().flatten() if (of_pair < 0).any() else slice(None)
            number = of_pair[pair[entry]]
            signed.index_add_(0, number * entries + place[entry], value[entry])
            share.index_add_(0, number * sites + site[entry], part[entry])
            counted = of_pair[(of_pair >= 0) & (whole > 0)]
            count += counted.bincount(minlength=total).numpy()
    each = np.maximum(count, 1)[:, None]
    return ChangeMaps(
        count,
        (signed.numpy().reshape(total, entries) / each).reshape(total, *image_shape),
        (share.numpy().reshape(total, sites) / each).reshape(total, *image_shape[1:]),
    )
