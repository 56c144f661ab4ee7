from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from captum_deduce.models import SmallCNN, build_and_fill, image_sides, sn_resnet18


def small(width=2, image_size=8):
    return SmallCNN(width=width, image_size=image_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [small, lambda: sn_resnet18(width=2, image_size=8)])
def test_a_model_takes_over_the_tensors_in_their_type(make, dtype):
    model = make().to(dtype).eval()
    before = torch.random.get_rng_state()
    built = build_and_fill(make, model.state_dict()).eval()
    assert torch.equal(torch.random.get_rng_state(), before)
    images = torch.rand(2, 1, 8, 8, dtype=dtype)
    assert torch.equal(built(images), model(images))


def test_settings_of_a_larger_model_are_refused_before_its_weights_are_drawn(monkeypatch):
    drawn = []
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda layer: drawn.append(layer))
    monkeypatch.setattr(nn.Conv2d, "reset_parameters", lambda layer: drawn.append(layer))
    with pytest.raises(ValueError, match=r"larger model than the tensors fill, by its weight of"):
        build_and_fill(lambda: small(width=100_000), small().state_dict())
    assert sum(layer.weight.numel() for layer in drawn[1:]) < 2**22


def test_models_that_others_build_meanwhile_are_not_counted():
    state = small().state_dict()

    def make():
        other = threading.Thread(target=lambda: nn.Linear(2000, 2000))
        other.start()
        other.join()
        return small()

    assert build_and_fill(make, state).settings["width"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor.long(), "floating-point type, got none"),
        (lambda tensor: tensor.to(torch.complex64), "floating-point type, got torch.complex64"),
    ],
)
def test_weights_that_are_no_numbers_with_a_point_are_refused(change, words):
    state = {name: change(tensor) for name, tensor in small().state_dict().items()}
    with pytest.raises(ValueError, match=words):
        build_and_fill(small, state)


def test_a_model_of_two_types_is_refused():
    state = small().state_dict()
    first, second = list(state)[:2]
    with pytest.raises(ValueError, match=r"got torch\.float16, torch\.float32"):
        build_and_fill(small, state | {first: state[first].half()})
    with pytest.raises(ValueError, match=rf"{second} must be of the type"):
        build_and_fill(small, state | {second: state[second].long()})


def test_sides_are_two():
    assert image_sides(9) == image_sides((9, 9)) == (9, 9)
