from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce.study.pictures import picture_uris


def pixels(uri):
    prefix = "data:image/png;base64,"
    assert uri.startswith(prefix)
    return Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(prefix))))


def test_small_images_are_enlarged_by_whole_factors_without_loss():
    images = torch.rand(2, 1, 28, 28)
    for image, uri in zip(images, picture_uris(images), strict=True):
        shown = pixels(uri)
        assert (shown.size, shown.mode) == ((252, 252), "L")
        expected = (image[0].double().numpy() * 255).round().astype(np.uint8)
        np.testing.assert_array_equal(
            np.asarray(shown), np.kron(expected, np.ones((9, 9), "uint8"))
        )


def test_photographs_are_reduced_and_stay_coloured():
    image = torch.zeros(1, 3, 300, 512)
    image[:, 0] = 1
    shown = pixels(picture_uris(image)[0])
    assert (shown.size, shown.mode) == ((256, 150), "RGB")
    assert shown.getpixel((100, 100)) == (255, 0, 0)


def test_224_pixels_stay_as_they_are():
    image = torch.rand(1, 3, 224, 224)
    shown = np.asarray(pixels(picture_uris(image)[0]))
    expected = (image[0].permute(1, 2, 0).double().numpy() * 255).round()
    np.testing.assert_array_equal(shown, expected)


def test_normalisation_is_undone():
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    colors = torch.rand(1, 3, 4, 4, dtype=torch.float64)
    inputs = (colors - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with pytest.raises(ValueError, match="give the mean and std"):
        picture_uris(inputs)
    # undone as value * std + mean
    shown = np.asarray(pixels(picture_uris(inputs, mean, std)[0]))[::64, ::64]
    np.testing.assert_array_equal(shown, (colors[0].permute(1, 2, 0).numpy() * 255).round())


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="3 \\(RGB\\) channels"):
        picture_uris(torch.rand(1, 5, 8, 8))
