"""Files of models with their settings."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from captum_deduce.models.stored import StoredModel


class Affine(StoredModel):
    """With a buffer, and settings of several kinds."""

    def __init__(self, size: int, sides: list[int], name: str = "plain") -> None:
        super().__init__()
        self.settings = {"size": size, "sides": sides, "name": name}
        self.linear = nn.Linear(size, sides[0] * sides[1])
        self.register_buffer("count", torch.arange(size))


class Other(Affine):
    """Of the same shape, but another class."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_comes_back_in_eval_mode(tmp_path, dtype):
    model = Affine(3, [2, 4], name="wide").to(dtype).train()
    model.linear.weight.requires_grad_(False)
    path = tmp_path / "affine.safetensors"
    model.save(path)
    assert model.training
    before = torch.random.get_rng_state()
    loaded = Affine.load(str(path))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.settings == {"size": 3, "sides": [2, 4], "name": "wide"}
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype
        assert torch.equal(loaded.state_dict()[name], value)
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == {"linear.weight", "linear.bias", "count"}


def test_weights_that_share_memory_can_be_saved(tmp_path):
    model = Affine(2, [1, 2])
    model.linear.bias = nn.Parameter(model.linear.weight.detach()[0])
    model.save(tmp_path / "tied.safetensors")
    loaded = Affine.load(tmp_path / "tied.safetensors")
    assert torch.equal(loaded.linear.bias, model.linear.weight[0])


def test_files_that_are_refused(tmp_path):
    path = tmp_path / "affine.safetensors"
    with pytest.raises(FileNotFoundError, match="no Affine at"):
        Affine.load(path)
    model = Affine(3, [2, 4])
    model.save(path)
    with pytest.raises(ValueError, match=r"affine.safetensors is no Other that captum-deduce"):
        Other.load(path)
    save_file(model.state_dict(), path)
    with pytest.raises(ValueError, match=r"affine.safetensors is no Affine"):
        Affine.load(path)
    path.write_bytes(b"\x80\x04K\x00.")
    with pytest.raises(ValueError, match=r"affine.safetensors is truncated or not a safetensors"):
        Affine.load(path)
    model.settings["size"] = 4
    model.save(path)
    with pytest.raises(ValueError, match=r"affine.safetensors holds no complete Affine"):
        Affine.load(path)
    model.settings["colour"] = "red"
    model.save(path)
    with pytest.raises(ValueError, match=r"holds no complete Affine: .*colour"):
        Affine.load(path)
