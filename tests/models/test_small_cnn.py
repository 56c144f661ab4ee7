"""The small classifier's shapes and layers."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from captum_deduce.models import SmallCNN


@pytest.mark.parametrize(
    ("channels", "size", "places"), [(1, 28, 49), (3, 32, 64), (1, 8, 4), (2, (9, 15), 12)], ids=str
)
def test_any_channels_and_sizes(channels, size, places):
    height, width = size if isinstance(size, tuple) else (size, size)
    model = SmallCNN(channels, 7, width=3, image_size=size)
    assert model(torch.rand(5, channels, height, width)).shape == (5, 7)
    assert model.layers[7].in_features == 6 * places


def test_the_layers_written_out():
    model = SmallCNN(2, 4, width=3, image_size=(9, 12)).double()
    images = torch.rand(5, 2, 9, 12, dtype=torch.float64)
    weights = dict(model.layers.named_parameters())
    hidden = images
    for place in (0, 3):
        hidden = functional.conv2d(
            hidden, weights[f"{place}.weight"], weights[f"{place}.bias"], padding=2
        ).clamp(min=0)
        odd = [side % 2 for side in hidden.shape[2:]]
        padded = functional.pad(hidden, (0, odd[1], 0, odd[0]), value=-torch.inf)
        hidden = torch.stack(
            [padded[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
        ).amax(0)
    hidden = (hidden.flatten(1) @ weights["7.weight"].T + weights["7.bias"]).clamp(min=0)
    expected = hidden @ weights["9.weight"].T + weights["9.bias"]
    torch.testing.assert_close(model(images), expected)
