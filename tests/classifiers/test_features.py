"""A frozen model reads what it should and leaves everything as it was."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import threading
import weakref

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import spectral_normalize
from captum_deduce.classifiers.features import (
    FrozenModel,
    check_placement,
    find_layer,
    modules_of,
    refuse_probabilities,
)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(144, 3),
    )


IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("by_name", [False, True])
def test_the_layers_output_of_the_same_forward_pass(by_name):
    model = network().eval()
    expected = model[:3](IMAGES).flatten(1)
    with FrozenModel(model, "2" if by_name else model[2]) as frozen:
        scores, features = frozen(IMAGES)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(scores, model(IMAGES))


def test_a_layer_whose_output_is_overwritten_in_place_is_read_before():
    model = network().eval()
    expected = model[:2](IMAGES).flatten(1)
    assert (expected < 0).any()
    with FrozenModel(model, model[1]) as frozen:
        _, features = frozen(IMAGES)
    torch.testing.assert_close(features, expected)


def test_without_a_layer_features_are_empty():
    with FrozenModel(network()) as frozen:
        _, features = frozen(IMAGES)
    assert features.shape == (5, 0)


def test_gradients_flow_through_scores_and_features():
    model = network().eval().double()
    images = IMAGES[:1].double().requires_grad_()
    with FrozenModel(model, model[3]) as frozen:
        assert torch.autograd.gradcheck(frozen, (images,))


def snapshot(model: nn.Module) -> list[object]:
    return [
        [(name, m.training) for name, m in model.named_modules()],
        [len(m._forward_hooks) for m in model.modules()],
        [(n, p.requires_grad, p.grad is None, p._version) for n, p in model.named_parameters()],
        {n: v.clone() for n, v in model.state_dict().items()},
    ]


def assert_same(before: list[object], after: list[object]) -> None:
    assert before[:3] == after[:3]
    torch.testing.assert_close(before[3], after[3], rtol=0, atol=0)


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_model_is_left_as_it_was_found(error, normalized):
    model = network().train()
    if normalized:
        spectral_normalize(model, coeff=0.5, example_input=IMAGES)
    model[1].eval()
    model[0].bias.requires_grad_(False)
    before = snapshot(model)

    def search() -> None:
        with FrozenModel(model, model[2]) as frozen:
            assert not any(m.training for m in model.modules())
            frozen(IMAGES)
            if error:
                raise error

    if error:
        with pytest.raises(error):
            search()
    else:
        search()
    assert_same(before, snapshot(model))


def test_a_model_inside_any_callable_is_set_to_eval_mode():
    model = network().train()

    class Wrapper:
        def __init__(self) -> None:
            self.inner = model

        def __call__(self, x: Tensor) -> Tensor:
            return self.inner(x)

        def scores(self, x: Tensor) -> Tensor:
            return self.inner(x)

    def scaled(x: Tensor, scale: float) -> Tensor:
        return model(x) * scale

    callables = [
        model,
        model.forward,
        lambda x: model(x),
        functools.partial(scaled, scale=2.0),
        functools.partial(model),
        Wrapper(),
        Wrapper().scores,
    ]
    for forward_func in callables:
        assert modules_of(forward_func) == [model]
        with FrozenModel(forward_func, model[3]) as frozen:
            assert not model[1].training
            frozen(IMAGES)
        assert model[1].training
    assert modules_of(torch.sum) == []


def test_layers_that_are_refused():
    model, other = network(), network()
    assert find_layer(model, "4") is model[4]
    assert find_layer(lambda x: model(x), "4") is model[4]
    with pytest.raises(ValueError, match=r"layer 'avgpool' is not in the model.*0, 1, 2, 3, 4"):
        find_layer(model, "avgpool")
    with pytest.raises(ValueError, match="layer '' is not in the model"):
        find_layer(model, "")
    with pytest.raises(ValueError, match=r"layer \(Flatten\) is not part of forward_func"):
        find_layer(model, other[3])
    with pytest.raises(ValueError, match="not part of"):
        find_layer(copy.deepcopy(model), model[3])
    with pytest.raises(TypeError, match=r"layer must be an nn\.Module or its name, got int"):
        find_layer(model, 3)
    with pytest.raises(ValueError, match="function over 2 modules"):
        find_layer(lambda x: model(x) + other(x), "4")


class Odd(nn.Module):
    """A model with layers that give no usable features."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.ReLU()
        self.never = nn.ReLU()
        self.pair = Pair()
        self.lone = Lone()
        self.integer = Integer()
        self.mixed = Mixed()
        self.fc = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.pair(x)
        self.integer(x)
        self.mixed(x)
        (x,) = self.lone(x)
        return self.fc(self.twice(self.twice(x)).flatten(1))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Lone(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x,)


class Integer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.long()


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten()


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("twice", ValueError, "layer ran 2 times"),
        ("never", ValueError, "layer ran 0 times"),
        ("pair", TypeError, "layer must output a tensor, got tuple"),
        ("integer", ValueError, "torch.int64"),
        ("mixed", ValueError, r"one per image, got shape \(320,\)"),
    ],
)
def test_layers_without_usable_output(layer, error, message):
    model = Odd()
    with FrozenModel(model, layer) as frozen, pytest.raises(error, match=message):
        frozen(IMAGES)
    assert not any(m._forward_hooks for m in model.modules())


def test_an_output_in_a_tuple_of_one_is_read():
    with FrozenModel(Odd(), "lone") as frozen:
        _, features = frozen(IMAGES)
    torch.testing.assert_close(features, IMAGES.flatten(1))


@pytest.mark.parametrize(
    ("forward_func", "error", "message"),
    [
        (lambda x: (x.flatten(1),), TypeError, r"got tuple; wrap it.*model\(x\)\[0\]"),
        (lambda x: {"logits": x}, TypeError, r"got dict; wrap it.*\.logits"),
        (lambda x: x.flatten(1).sum(1), ValueError, r"shape \(5,\) for 5.*one logit.*stack"),
        (lambda x: x.flatten(1).sum(1, keepdim=True), ValueError, r"shape \(5, 1\).*one logit"),
        (lambda x: x.sum(), ValueError, r"shape \(\) for 5"),
        (lambda x: x, ValueError, r"N x C class scores, got shape \(5, 1, 8, 8\)"),
        (lambda x: x.flatten(1).T, ValueError, r"got shape \(64, 5\)"),
        (lambda x: x.flatten(1).long(), ValueError, "floating-point scores, got torch.int64"),
    ],
)
def test_outputs_that_are_no_class_scores(forward_func, error, message):
    with FrozenModel(forward_func) as frozen, pytest.raises(error, match=message):
        frozen(IMAGES)


def test_a_part_that_spreads_over_several_devices_is_refused():
    spread = nn.DataParallel(nn.Linear(64, 4))
    inside = nn.Sequential(nn.Flatten(), spread)
    for forward_func in (spread, inside, lambda x: spread(x.flatten(1))):
        with pytest.raises(ValueError, match=r"wrapped in DataParallel.*\.module"):
            FrozenModel(forward_func)


def test_half_precision_scores_are_widened():
    with FrozenModel(lambda x: x.flatten(1).half()) as frozen:
        assert frozen(IMAGES)[0].dtype == torch.float32


def test_additional_arguments_follow_the_inputs():
    with FrozenModel(lambda x, scale, shift: x.flatten(1) * scale + shift) as frozen:
        scores, _ = frozen(IMAGES, (2.0, 1.0))
    torch.testing.assert_close(scores, IMAGES.flatten(1) * 2 + 1)


def test_two_threads_read_their_own_features_and_the_last_restores_the_mode():
    model = network().train()
    first_is_in, second_is_done = threading.Event(), threading.Event()
    read: dict[str, Tensor] = {}

    def long_search() -> None:
        with torch.no_grad(), FrozenModel(model, model[3]) as frozen:
            first_is_in.set()
            second_is_done.wait(10)
            assert not model[1].training
            read["long"] = frozen(IMAGES[:2])[1]

    thread = threading.Thread(target=long_search)
    thread.start()
    first_is_in.wait(10)
    with torch.no_grad(), FrozenModel(model, model[3]) as frozen:
        read["short"] = frozen(IMAGES[2:])[1]
    assert not model[1].training, "the other thread still searches"
    second_is_done.set()
    thread.join()
    assert model.training
    assert model[1].training
    expected = copy.deepcopy(model).eval()[:4](IMAGES)
    torch.testing.assert_close(torch.cat([read["long"], read["short"]]), expected)


@pytest.mark.parametrize("wrapper_first", [False, True])
def test_a_part_is_in_eval_mode_until_the_last_that_holds_it_is_done(wrapper_first):
    """A model, and a wrapper of it, searched at the same time."""
    model = network().train()
    model[3].eval()
    wrapper = nn.Sequential(model, nn.Identity())
    before = [part.training for part in wrapper.modules()]
    first, second = (wrapper, model) if wrapper_first else (model, wrapper)
    held, still_held = FrozenModel(first), FrozenModel(second)
    held.__enter__()
    still_held.__enter__()
    held.__exit__(None, None, None)
    assert not any(part.training for part in model.modules())
    still_held.__exit__(None, None, None)
    assert [part.training for part in wrapper.modules()] == before


def test_nothing_keeps_a_model_alive():
    model = network()
    with FrozenModel(model, model[3]) as frozen:
        frozen(IMAGES)
    gone = weakref.ref(model)
    del model, frozen
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("fails", [False, True])
def test_companions_are_frozen_and_left_as_they_were(fails):
    model, beside = nn.Linear(4, 3), nn.Sequential(nn.Dropout(), nn.Linear(4, 4)).train()
    beside[1].eval()
    spectral_normalize(beside, coeff=0.1, example_input=torch.zeros(1, 4))
    with (
        contextlib.suppress(KeyboardInterrupt),
        FrozenModel(model, companions=[lambda x: beside(x), beside[1]]) as frozen,
    ):
        assert not beside.training
        assert beside[1].weight is beside[1].weight
        assert not beside[1].weight.requires_grad
        assert frozen.modules == [model]
        if fails:
            raise KeyboardInterrupt
    assert beside.training
    assert beside[0].training
    assert not beside[1].training
    assert beside[1].weight.requires_grad


def test_models_elsewhere_than_their_inputs_are_named():
    inputs = torch.zeros(2, 4)
    for there in (nn.Linear(4, 3), nn.Flatten(), lambda x: x):
        check_placement("critic", there, inputs)
    double = nn.Sequential(nn.Flatten(), nn.Linear(4, 3).double())
    for elsewhere, what in (
        (double, "torch.float64 on cpu"),
        (lambda x: double(x), "torch.float64 on cpu"),
        (nn.Linear(4, 3, device="meta"), "torch.float32 on meta"),
    ):
        message = f"torch.float32 on cpu, but the critic's parameters are {what}"
        with pytest.raises(ValueError, match=message):
            check_placement("critic", elsewhere, inputs)


def test_probabilities_are_told_from_logits_and_log_probabilities():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    refuse_probabilities(logits)
    refuse_probabilities(logits.log_softmax(1))
    refuse_probabilities(logits.softmax(1) * 2)
    mixed = torch.cat([logits.softmax(1), logits])
    refuse_probabilities(mixed)
    with pytest.raises(ValueError, match="forward_func must return logits or log-probabilities"):
        refuse_probabilities(logits.softmax(1))
