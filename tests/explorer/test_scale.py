from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from captum_deduce import JSMA
from captum_deduce.explorer.scale import Scale, png_uri


@pytest.fixture
def scale() -> Scale:
    lower = torch.tensor([-2.0, -1.0, 0.0]).view(3, 1, 1)
    upper = torch.tensor([2.0, 3.0, 0.5]).view(3, 1, 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    return Scale.of(JSMA(model, lower_bound=lower, upper_bound=upper[None]))


def test_pictures_and_inputs_are_one_anothers_inverse(scale):
    levels = torch.randint(0, 256, (1, 3, 2, 2)) / 255
    inputs = scale.inputs(levels)
    expected = levels * torch.tensor([4.0, 4.0, 0.5]).view(3, 1, 1)
    expected += torch.tensor([-2.0, -1.0, 0.0]).view(3, 1, 1)
    torch.testing.assert_close(inputs, expected)
    pixels = scale.pixels(inputs[0])
    assert np.array_equal(pixels, (levels[0] * 255).round().byte().movedim(0, -1).numpy())


def test_changes_are_drawn_in_units_of_the_range(scale):
    original = scale.inputs(torch.full((1, 3, 2, 2), 0.5))[0]
    image = original.clone()
    image[2, 0, 0] += 0.25  # half of its range, more than a quarter of the other's
    image[0, 1, 1] -= 1.0
    pixels = scale.change(image, original).astype(int)
    assert (pixels[0, 1] == 255).all()
    assert pixels[0, 0, 0] > pixels[0, 0, 2]  # red
    assert pixels[1, 1, 2] > pixels[1, 1, 0]  # blue
    assert pixels[1, 1].sum() > pixels[0, 0].sum()  # paler


@pytest.mark.parametrize("shape", [(8, 8), (5, 7, 3)])
def test_an_address_holds_the_picture_without_loss(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    kind, content = png_uri(pixels).split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as read:
        assert np.array_equal(np.asarray(read), pixels)
