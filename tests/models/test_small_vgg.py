"""The classifier of 3x3 convolutions: shapes, layers and training."""

from __future__ import annotations

import pytest
import torch
from torch import nn
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


def test_batch_norm_stands_between_each_convolution_and_its_relu():
    model = SmallVGG(2, 4, width=3, image_size=(9, 12), batch_norm=True)
    kinds = [type(layer) for layer in model.layers]
    places = [place for place, kind in enumerate(kinds) if kind is nn.Conv2d]
    assert [kinds[place + 1 : place + 3] for place in places] == [[nn.BatchNorm2d, nn.ReLU]] * 6
    with torch.no_grad():
        model.train()(torch.rand(40, 2, 9, 12) * 7)
        normalised = model.layers[:2](torch.rand(40, 2, 9, 12) * 7)
    torch.testing.assert_close(normalised.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(normalised.var((0, 2, 3)), torch.ones(3), rtol=1e-2, atol=0)


def test_batch_norm_is_kept_in_the_file_and_files_without_a_word_of_it_have_none(tmp_path):
    path = tmp_path / "vgg.safetensors"
    for normalised in (True, False):
        model = SmallVGG(width=2, image_size=8, batch_norm=normalised)
        model.train()(torch.rand(4, 1, 8, 8))
        model.save(path)
        images = torch.rand(3, 1, 8, 8)
        assert torch.equal(SmallVGG.load(path)(images), model.eval()(images))
    del model.settings["batch_norm"]
    model.save(path)
    assert torch.equal(SmallVGG.load(path)(images), model(images))


def test_batch_norm_is_a_bool():
    with pytest.raises(TypeError, match="batch_norm must be True or False, got int: 1"):
        SmallVGG(batch_norm=1)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_it_trains(batch_norm):
    train, _, test = datasets.load_digits()
    torch.manual_seed(3)
    model = SmallVGG(width=8, image_size=8, batch_norm=batch_norm)
    training.train_classifier(model, train, epochs=10, batch_size=64, learning_rate=0.05, seed=3)
    assert training.accuracy(model, test) > 0.9
