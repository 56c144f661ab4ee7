"""The autoencoder's shapes, files and errors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from captum_deduce.models import Autoencoder
from captum_deduce.models.resnet import resnet18


@pytest.mark.parametrize(
    ("channels", "size", "code"),
    [(1, 28, (1, 14, 14)), (3, 32, (3, 16, 16)), (1, 8, (1, 4, 4)), (2, (9, 15), (2, 5, 8))],
    ids=str,
)
def test_any_channels_and_sizes_come_back_in_their_own_shape(channels, size, code):
    height, width = size if isinstance(size, tuple) else (size, size)
    autoencoder = Autoencoder(channels, size)
    images = torch.rand(3, channels, height, width)
    assert autoencoder.encoder(images).shape == (3, *code)
    assert autoencoder(images).shape == images.shape
    assert torch.equal(autoencoder(images), autoencoder.decoder(autoencoder.encoder(images)))


def test_the_published_shape():
    """The layers that VLK's authors use on MNIST, counted by hand: 3 x 3 weights and a bias."""
    autoencoder = Autoencoder()
    per_layer = [1 * 16, 16 * 16, 16 * 1, 1 * 16, 16 * 16, 16 * 1]
    biases = [16, 16, 1, 16, 16, 1]
    found = [m for m in autoencoder.modules() if isinstance(m, nn.Conv2d)]
    assert [m.weight.numel() for m in found] == [9 * weights for weights in per_layer]
    assert [m.bias.numel() for m in found] == biases
    assert not isinstance(autoencoder.decoder[-1], nn.ReLU)


def test_wider_codes_and_layers():
    autoencoder = Autoencoder(3, 8, hidden_channels=5, code_channels=7)
    assert autoencoder.encoder(torch.rand(1, 3, 8, 8)).shape == (1, 7, 4, 4)
    assert autoencoder.encoder[0].out_channels == 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_save_and_load(tmp_path, dtype):
    autoencoder = Autoencoder(2, (9, 12), hidden_channels=4, code_channels=3).to(dtype)
    path = tmp_path / "autoencoder.safetensors"
    autoencoder.save(path)
    state = torch.random.get_rng_state()
    loaded = Autoencoder.load(path)
    assert torch.equal(torch.random.get_rng_state(), state)
    images = torch.rand(2, 2, 9, 12, dtype=dtype)
    assert torch.equal(loaded(images), autoencoder(images))
    assert not loaded.training
    assert repr(loaded) == repr(autoencoder.eval())


def test_files_that_are_no_autoencoder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Autoencoder at"):
        Autoencoder.load(tmp_path / "missing.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file(resnet18(width=2).state_dict(), foreign)
    with pytest.raises(ValueError, match=r"foreign.* is no Autoencoder"):
        Autoencoder.load(foreign)
    path = tmp_path / "autoencoder.safetensors"
    autoencoder = Autoencoder(image_size=8)
    autoencoder.save(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"autoencoder.safetensors is truncated"):
        Autoencoder.load(path)
    autoencoder.settings["hidden_channels"] = 3
    autoencoder.save(path)
    with pytest.raises(ValueError, match="holds no complete Autoencoder"):
        Autoencoder.load(path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels"),
        ({"image_size": 7}, ValueError, "image_size"),
        ({"image_size": (28, 7)}, ValueError, "image_size"),
        ({"image_size": (28, 28, 28)}, ValueError, "image_size must be an int or"),
        ({"image_size": 28.0}, TypeError, "image_size must be an int"),
        ({"hidden_channels": 0}, ValueError, "hidden_channels"),
        ({"code_channels": 0}, ValueError, "code_channels"),
    ],
    ids=str,
)
def test_sizes_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Autoencoder(**arguments)
