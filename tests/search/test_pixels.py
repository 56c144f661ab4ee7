"""What moves as one, against loops over entries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_deduce.search.pixels import Entries, Groups, Sites

SHAPE = (3, 2, 4, 5)


@pytest.fixture
def values() -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


def index(*shape: int) -> Tensor:
    return torch.randint(7, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("own", [False, True])
def test_groups_equal_loops_over_their_entries(values, own):
    groups = index(*SHAPE) if own else index(*SHAPE[1:])
    pixels = Groups(groups, 7)
    total, found = pixels.total(values.double()), pixels.any(values > 1.0)
    spread, positive = pixels.spread(total), values > 0
    rises = pixels.total(values.double(), positive)
    assert total.shape == found.shape == (3, 7, 1, 1)
    for i, image in enumerate(values.double()):
        of_image = groups[i] if own else groups
        for group in range(7):
            members = image[of_image == group]
            torch.testing.assert_close(total[i, group, 0, 0], members.sum())
            torch.testing.assert_close(rises[i, group, 0, 0], members.clamp_min(0).sum())
            assert found[i, group, 0, 0] == (members > 1.0).any()
            assert (spread[i][of_image == group] == total[i, group, 0, 0]).all()


def test_single_entries_as_groups_are_entries_exactly(values):
    entries = Groups(torch.arange(40).view(2, 4, 5), 40)
    flags = values > 0.5
    assert torch.equal(entries.total(values).flatten(1), Entries().total(values).flatten(1))
    assert torch.equal(entries.any(flags).flatten(1), Entries().any(flags).flatten(1))
    assert torch.equal(entries.spread(entries.total(values)), values)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_channels_of_a_place_as_groups_are_sites_exactly(channels):
    values = torch.randn(3, channels, 4, 5, generator=torch.Generator().manual_seed(0))
    places, sites = Groups(torch.arange(20).view(1, 4, 5).expand(channels, -1, -1), 20), Sites()
    flags = values > 0.5
    assert torch.equal(places.total(values).flatten(1), sites.total(values).flatten(1))
    assert torch.equal(places.any(flags).flatten(1), sites.any(flags).flatten(1))
    spread = sites.spread(sites.total(values)).expand_as(values)
    assert torch.equal(places.spread(places.total(values)), spread)


def test_many_channels_of_a_place_are_a_site_but_for_rounding():
    values = torch.randn(3, 16, 4, 5, generator=torch.Generator().manual_seed(0))
    places = Groups(torch.arange(20).view(1, 4, 5).expand(16, -1, -1), 20)
    totals = Sites().total(values).view(3, 20, 1, 1)
    torch.testing.assert_close(places.total(values), totals)


def test_inputs_may_be_rows_and_groups_may_be_missing_in_an_image():
    rows = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
    pixels = Groups(torch.tensor([[0, 1, 0], [0, 0, 0]]), 2)
    assert pixels.total(rows).tolist() == [[5, 2], [7, 0]]
    assert pixels.any(rows > 1.5).tolist() == [[True, True], [True, False]]
    assert pixels.spread(pixels.total(rows)).tolist() == [[5, 2, 5], [7, 7, 7]]


def test_the_active_pairs_bring_their_own_groups(values):
    groups = index(*SHAPE)
    chosen = Groups(groups, 7).of({"groups": groups[[2, 0]]})
    expected = Groups(groups, 7).total(values)[[2, 0]]
    assert torch.equal(chosen.total(values[[2, 0]]), expected)
    shared = Groups(groups[0], 7)
    assert shared.of({}) is shared
    assert Sites().of({"groups": groups}) == Sites()
