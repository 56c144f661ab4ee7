from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.reports import change_maps

SHAPE = (3, 5, 4)


def _sparse(count, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    values = torch.randn(count, *SHAPE, generator=drawn)
    return values * (torch.rand(count, *SHAPE, generator=drawn) < 0.2)


def _part(rows, changes):
    """What changed of some rows, entry by entry."""
    flat = changes[rows].flatten(1)
    pair, place = flat.nonzero(as_tuple=True)
    return rows, pair, place, flat[pair, place]


def _naive(changes, members, span):
    """Mean change and mean share of some pairs, entry by entry in float64."""
    signed, share = np.zeros(SHAPE), np.zeros(SHAPE[1:])
    counted = [pair for pair in members if changes[pair].abs().sum() > 0]
    for pair in counted:
        scaled = np.empty(SHAPE)
        for c in range(SHAPE[0]):
            for y in range(SHAPE[1]):
                for x in range(SHAPE[2]):
                    scaled[c, y, x] = float(changes[pair, c, y, x]) / span[c, y, x]
        total = sum(abs(value) for value in scaled.flat)
        for c in range(SHAPE[0]):
            signed[c] += scaled[c] / len(counted)
            share += abs(scaled[c]) / total / len(counted)
    return len(counted), signed, share


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_maps_are_those_of_the_definition(dtype):
    changes = _sparse(30).to(dtype)
    changes[[4, 17]] = 0  # these count nowhere
    span = np.array([0.5, 2.0, 4.0]).reshape(3, 1, 1)
    first = np.arange(30) % 3  # groups 0, 1, 2
    first[20:] = -1
    second = np.where(np.arange(30) < 12, 4, -1)  # group 3 is empty
    parts = [_part(list(range(start, start + 7)), changes) for start in (0, 7, 14)]
    parts.append(_part(list(range(21, 30)), changes))
    maps = change_maps(parts, [first, second], SHAPE, span)
    whole = np.broadcast_to(span, SHAPE)
    for number in range(5):
        members = [p for p in range(30) if number in (first[p], second[p])]
        count, signed, share = _naive(changes, members, whole)
        assert maps.count[number] == count
        np.testing.assert_allclose(maps.signed[number], signed, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(maps.share[number], share, rtol=1e-6, atol=1e-12)
        assert maps.share[number].sum() == pytest.approx(1 if count else 0)


def test_rows_may_come_in_any_order_and_some_may_be_missing():
    changes = _sparse(6)
    group = np.array([0, 0, 1, 1, 0, -1])
    forward = change_maps([_part([0, 2, 3, 5], changes)], [group], SHAPE)
    parts = [_part([5, 3], changes), _part([2, 0], changes)]
    backward = change_maps(parts, [group], SHAPE)
    np.testing.assert_allclose(forward.signed, backward.signed, rtol=1e-12)
    assert forward.count.tolist() == backward.count.tolist() == [1, 2]


def test_nothing_gives_no_groups():
    maps = change_maps([], [np.full(3, -1), np.full(3, -1)], SHAPE)
    assert maps.signed.shape == (0, *SHAPE)
    assert change_maps([], [], SHAPE).share.shape == (0, *SHAPE[1:])
