"""The classifier of 3x3 convolutions: shapes, layers and training."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from captum_deduce import datasets, training
from captum_deduce.models import SmallVGG


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (1, 8), (2, (9, 15))], ids=str)
def test_any_channels_and_sizes(channels, size):
    height, width = size if isinstance(size, tuple) else (size, size)
    model = SmallVGG(channels, 7, width=3, image_size=size)
    assert model(torch.rand(5, channels, height, width)).shape == (5, 7)


def test_the_layers_written_out():
    model = SmallVGG(2, 4, width=3, image_size=(9, 12)).double()
    weights = list(model.parameters())
    hidden = images = torch.rand(5, 2, 9, 12, dtype=torch.float64)
    for stage in range(3):
        for place in (0, 1):
            kernel, bias = weights[4 * stage + 2 * place : 4 * stage + 2 * place + 2]
            hidden = functional.conv2d(hidden, kernel, bias, padding=1).clamp(min=0)
        if stage < 2:
            odd = [side % 2 for side in hidden.shape[2:]]
            padded = functional.pad(hidden, (0, odd[1], 0, odd[0]), value=-torch.inf)
            hidden = torch.stack(
                [padded[:, :, row::2, column::2] for row in (0, 1) for column in (0, 1)]
            ).amax(0)
    assert hidden.shape == (5, 12, 3, 3)
    torch.testing.assert_close(model(images), hidden.mean((2, 3)) @ weights[12].T + weights[13])
    assert len(weights) == 14


def test_it_trains():
    train, _, test = datasets.load_digits()
    torch.manual_seed(3)
    model = SmallVGG(width=8, image_size=8)
    training.train_classifier(model, train, epochs=10, batch_size=64, learning_rate=0.05, seed=3)
    assert training.accuracy(model, test) > 0.9
