"""Maps of groups: squares, superpixels, and what users pass."""

from __future__ import annotations

import sys

import pytest
import torch

from captum_deduce import feature_masks


@pytest.mark.parametrize(("height", "width", "size"), [(4, 6, 2), (5, 7, 3), (3, 2, 8), (1, 1, 1)])
def test_a_grid_is_the_squares_row_by_row(height, width, size):
    grid = feature_masks.grid(height, width, size)
    assert grid.shape == (1, height, width)
    assert grid.dtype == torch.int64
    expected = sorted({(r // size, c // size) for r in range(height) for c in range(width)})
    found = [expected.index((r // size, c // size)) for r in range(height) for c in range(width)]
    assert grid.flatten().tolist() == found


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 4, 2), ValueError, "height must be a finite number"),
        ((4, 4, 0), ValueError, "size must be a finite number"),
        ((4, 4.0, 2), TypeError, "width must be an int, got float"),
    ],
)
def test_a_grid_of_what_is_no_size_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        feature_masks.grid(*arguments)


def halves(channels: int) -> torch.Tensor:
    """Two images, dark and bright side by side, then one above the other."""
    images = torch.zeros(2, channels, 16, 16)
    images[0, :, :, 8:] = 1
    images[1, :, 8:] = 1
    return images


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_superpixels_follow_the_edges_of_each_image(channels):
    pytest.importorskip("skimage", reason="scikit-image draws superpixels")
    images = halves(channels)
    # standardised images and those in [0, 1] are cut alike
    for given in (images, images * 7 - 3):
        maps = feature_masks.superpixels(given, count=8, compactness=0.1)
        assert maps.shape == (2, 1, 16, 16)
        assert maps.dtype == torch.int64
        for image, labels in zip(images[:, 0], maps[:, 0], strict=True):
            numbers = labels.unique()
            assert numbers.tolist() == list(range(len(numbers)))
            assert len(numbers) > 1
            assert all(len(image[labels == number].unique()) == 1 for number in numbers)


@pytest.mark.parametrize(
    ("images", "settings", "error", "message"),
    [
        ([1], {}, TypeError, "inputs must be a torch.Tensor, got list"),
        (torch.zeros(3, 8, 8), {}, ValueError, r"inputs must be N x .*got shape \(3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8), {"count": 0}, ValueError, "count must be a finite number"),
        (torch.zeros(1, 3, 8, 8), {"compactness": 0.0}, ValueError, "compactness must be"),
    ],
)
def test_superpixels_of_what_has_none_are_refused(images, settings, error, message):
    with pytest.raises(error, match=message):
        feature_masks.superpixels(images, **settings)


def test_superpixels_without_scikit_image_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        feature_masks.superpixels(halves(1))


def test_groups_are_numbered_in_the_order_of_their_integers():
    inputs = torch.zeros(2, 3, 2, 2)
    given = torch.tensor([[[7, -2], [7, 1000]]], dtype=torch.int16)
    found = feature_masks.numbered(given, inputs)
    assert found.dtype == torch.int64
    assert found.shape == (3, 2, 2)
    assert found.tolist() == [[[1, 0], [1, 2]]] * 3


def test_groups_of_each_image_are_numbered_by_themselves():
    inputs = torch.zeros(2, 3, 1, 2)
    given = torch.tensor([[[[5, 6]]], [[[9, 9]]]])
    found = feature_masks.numbered(given, inputs)
    assert found.shape == inputs.shape
    assert found.tolist() == [[[[0, 1]]] * 3, [[[0, 0]]] * 3]
    copies = feature_masks.numbered(given, torch.zeros(4, 3, 1, 2), copies=True)
    assert torch.equal(copies, found.repeat_interleave(2, dim=0))


SHAPES = [(4, 5), (1, 4, 5), (3, 4, 5), (3, 1, 1), (1, 1, 4, 5), (1, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_one_map_for_all_images_broadcasts(shape):
    given = torch.randint(9, shape, generator=torch.Generator().manual_seed(0))
    found = feature_masks.numbered(given, torch.zeros(2, 3, 4, 5))
    whole = given.expand(2, 3, 4, 5)[0]
    assert found.shape == (3, 4, 5)
    assert torch.equal(found, torch.searchsorted(whole.unique(), whole.contiguous()))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([[0, 1]], TypeError, "feature_mask must be a torch.Tensor or None, got list"),
        (torch.zeros(4, 5), TypeError, "feature_mask must hold integers, .* got torch.float32"),
        (torch.ones(4, 5).bool(), TypeError, "feature_mask must hold integers, .* said by mask"),
        (
            torch.zeros(4, 4).int(),
            ValueError,
            r"feature_mask must broadcast to one input of shape \(3, 4, 5\).* \(4, 4\)",
        ),
        (torch.zeros(5, 1, 4, 5).int(), ValueError, r"got shape \(5, 1, 4, 5\)"),
        (
            torch.arange(60).view(3, 4, 5),
            ValueError,
            r"feature_mask of shape \(3, 4, 5\) may be one for each of 3 images or .* channels",
        ),
    ],
    ids=str,
)
def test_maps_that_do_not_fit_are_refused_by_name(given, error, message):
    with pytest.raises(error, match=message):
        feature_masks.numbered(given, torch.zeros(3, 3, 4, 5))
