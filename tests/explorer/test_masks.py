from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.explorer.masks import CANVAS, enlarged, painted_mask


def layer(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 4), np.uint8)


@pytest.mark.parametrize("editor", [None, {}, {"layers": []}, {"layers": [layer(16, 16)]}])
def test_nothing_painted_lets_all_change(editor):
    assert painted_mask(editor, (1, 8, 8)) is None


def test_pixels_painted_by_half_may_change():
    painted = layer(32, 32)
    painted[:10, :8, 3] = 255  # two rows of pixels, and half of the third, of two columns
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:3, :2] = True
    assert torch.equal(painted_mask({"layers": [painted]}, (3, 8, 8)), expected)


def test_layers_add_up_and_may_have_any_size():
    first, second = layer(8, 8), layer(16, 16)
    first[0, 0, 3] = 9
    second[14:, 14:, 3] = 255
    mask = painted_mask({"layers": [first, second]}, (1, 8, 8))
    assert mask.nonzero().tolist() == [[0, 0], [7, 7]]


def test_a_thin_stroke_counts_where_it_is():
    painted = layer(80, 80)
    painted[42, :40, 3] = 255
    mask = painted_mask({"layers": [painted]}, (1, 8, 8))
    assert mask.nonzero().tolist() == [[4, column] for column in range(4)]


@pytest.mark.parametrize("shape", [(8, 8), (28, 20, 3), (500, 3)])
def test_images_are_enlarged_by_squares(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    large = enlarged(pixels)
    zoom = large.shape[0] // pixels.shape[0]
    assert max(large.shape) >= CANVAS
    assert np.array_equal(large[::zoom, ::zoom], pixels)
    assert np.array_equal(large[zoom - 1 :: zoom, zoom - 1 :: zoom], pixels)
