"""Models run from a layer on, against the same model cut by hand."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from captum_deduce.classifiers import FrozenModel, is_cut, replaced_output


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, stride=2, padding=1),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(6 * 16, 5),
    ).double()


class Bypassed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.block = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.first(x)
        return self.head((maps + self.block(maps)).relu().mean((2, 3)))


class Reshaping(nn.Module):
    """Wants as many rows in the middle as inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).view(len(x), -1))


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("place", [0, 1, 3, 4, 5])
@pytest.mark.parametrize("quick", [False, True])
def test_the_rest_of_a_model(images, place, quick):
    model = network()
    model.train()
    with torch.no_grad(), FrozenModel(model, model[place]) as frozen:
        scores, features = frozen(images)
        if quick:
            assert frozen.use_quick_copy(images[:2]) is not None
        expected = model[place + 1 :](features.view(4, *frozen.layer_shape).clone())
        for inputs in (images[:1], images.flip(0)):
            found = frozen.from_layer(features.clone(), inputs.clone())
            torch.testing.assert_close(found, expected)
        torch.testing.assert_close(expected, scores)
        again, _ = frozen(images)
        torch.testing.assert_close(again, scores)
    assert not model[place]._forward_hooks


def test_what_can_be_cut(images):
    model = network()
    few = images[:2]
    with FrozenModel(model, model[3]) as frozen:
        frozen(few)
        assert is_cut(frozen, few)
        assert is_cut(frozen, few, one_input=True)
    reshaping = Reshaping().double()
    with FrozenModel(reshaping, "body") as frozen:
        frozen(few)
        assert is_cut(frozen, few)
        assert not is_cut(frozen, few, one_input=True)
    bypassed = Bypassed().double()
    with FrozenModel(bypassed, bypassed.block) as frozen:
        frozen(few)
        assert not is_cut(frozen, few)
        assert not is_cut(frozen, few, one_input=True)


def test_a_function_is_run_from_a_layer_on(images):
    model = network()

    def scaled(x: Tensor, factor: float) -> Tensor:
        return model(x) * factor

    with torch.no_grad(), FrozenModel(scaled, model[3]) as frozen:
        scores, features = frozen(images, (3.0,))
        found = frozen.from_layer(features, images[:1], (3.0,))
    torch.testing.assert_close(found, scores)


def test_other_threads_see_the_layer_as_it_is(images):
    layer, found = nn.Conv2d(1, 2, 3).double(), []
    expected = layer(images)
    with replaced_output(layer, torch.zeros_like(expected)):
        thread = threading.Thread(target=lambda: found.append(layer(images)))
        thread.start()
        thread.join()
        assert not layer(images).any()
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(layer(images), expected)


def test_the_hook_goes_when_the_model_fails(images):
    model = network()
    with FrozenModel(model, model[3]) as frozen:
        frozen(images)
        with pytest.raises(RuntimeError):
            frozen.from_layer(torch.zeros(2, 96).double(), images.repeat(1, 2, 1, 1))
    assert not model[3]._forward_hooks
    with FrozenModel(model) as frozen, pytest.raises(ValueError, match="layer must be given"):
        frozen.from_layer(torch.zeros(2, 96).double(), images)
