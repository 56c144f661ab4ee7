from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from captum_deduce.reports import Range
from captum_deduce.reports.dataset.pictures import change_pixels, data_uri, framed


def decoded(uri):
    head, content = uri.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert head == f"data:image/{image.format.lower()};base64"
    return np.asarray(image)


def test_bounds_are_black_and_white_in_each_channel():
    scale = Range.read([[[[-2.0]], [[0.0]], [[1.0]]]], [[[2.0]], [[1.0]], [[5.0]]])
    np.testing.assert_array_equal(scale.span.ravel(), [4, 1, 4])
    low, high = (np.broadcast_to(bound, (1, 3, 2, 2)) for bound in (scale.lower, scale.upper))
    assert (scale.pixels(low) == 0).all()
    assert (scale.pixels(high) == 255).all()
    half = scale.pixels((low + high) / 2 + np.array([9.0, 0, -9.0]).reshape(3, 1, 1))
    np.testing.assert_array_equal(half[0, 0, 0], [255, 128, 0])
    assert half.shape == (1, 2, 2, 3)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_numbers_of_channels_are_drawn_grey(channels):
    images = np.random.default_rng(0).random((2, channels, 4, 6))
    drawn = Range.read(0.0, 1.0).pixels(images)
    np.testing.assert_array_equal(drawn, (images.mean(1) * 255).round())


def test_red_rises_blue_falls_and_the_largest_has_the_full_colour():
    change = np.zeros((2, 2, 2, 2))
    change[0, :, 0, 0] = [0.2, -0.1]
    change[0, :, 1, 1] = [0.05, -0.05]  # channels that cancel are a change all the same
    change[1, 0, 0, 1] = -1e-5
    first, second = change_pixels(change).astype(int)
    assert first[0, 0, 0] > first[0, 0, 2] + 50
    assert second[0, 1, 2] > second[0, 1, 0] + 50
    assert (first[0, 1] == 255).all()
    assert not (first[1, 1] == 255).all()
    # the ends of the colours, whatever the size of the change
    full = change_pixels(np.array([1.0, -1.0]).reshape(2, 1, 1, 1))[:, 0, 0]
    np.testing.assert_array_equal(first[0, 0], full[0])
    np.testing.assert_array_equal(second[0, 1], full[1])
    assert (change_pixels(np.zeros((1, 3, 2, 2))) == 255).all()


@pytest.mark.parametrize("shape", [(28, 28), (64, 20), (8, 8, 3)])
def test_small_pictures_lose_nothing(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.testing.assert_array_equal(decoded(data_uri(pixels)), pixels)


def test_large_pictures_are_scaled_down_and_look_alike():
    rows = np.linspace(0, 255, 600)[:, None, None]
    pixels = np.broadcast_to(rows, (600, 300, 3)).astype(np.uint8)
    found = decoded(data_uri(pixels))
    assert found.shape == (256, 128, 3)
    assert np.abs(found[..., 0].mean(1) - np.linspace(0, 255, 256)).max() < 6
    assert decoded(data_uri(pixels, 96)).shape == (96, 48, 3)
    assert len(data_uri(pixels)) < 5000


@pytest.mark.parametrize("size", [8, 28, 300])
def test_the_frame_lies_around_the_part(size):
    pixels = np.full((size, size, 3), 255, np.uint8)
    part = -(-size // 7)
    drawn = framed(pixels, 0, size - part, part, part)
    black = (drawn == 0).all(2)
    zoom = len(drawn) // size
    rows, columns = black.nonzero()
    assert (rows.min(), rows.max() + 1) == (0, part * zoom)
    assert (columns.min(), columns.max() + 1) == ((size - part) * zoom, size * zoom)
    assert not black[part * zoom // 2, -part * zoom // 2]
    assert (pixels == 255).all()
