from __future__ import annotations

import copy
import gc
import threading
import weakref
from contextlib import ExitStack

import pytest
import torch
from torch import nn

from captum_deduce.spectral import (
    SpectralBound,
    frozen_spectral_weights,
    spectral_normalize,
    unbounded_weights,
)
from tests.spectral.networks import (
    IMAGES,
    bound_of,
    buffers_of,
    largest_singular_value,
    normalized_network,
    original_of,
    small_network,
)


@pytest.fixture
def computed(monkeypatch):
    """The bounds that computed a weight, in order."""
    bounds = []
    compute = SpectralBound.bounded

    def counted(self, *args, **kwargs):
        bounds.append(self)
        return compute(self, *args, **kwargs)

    monkeypatch.setattr(SpectralBound, "bounded", counted)
    return bounds


@pytest.mark.parametrize("training", [True, False])
def test_frozen_weights_are_those_of_eval_mode_computed_once(computed, training):
    model = normalized_network()
    expected = model.eval()(IMAGES)
    before = buffers_of(model)
    for layer in (model[0], model[3], model[5]):
        layer.train(training)
    computed.clear()
    with frozen_spectral_weights(model):
        for _ in range(3):
            assert torch.equal(model(IMAGES), expected)
        assert not model[0].weight.requires_grad
        assert model[0].weight is model[0].weight
    assert len(computed) == 3
    assert all(torch.equal(before[name], now) for name, now in buffers_of(model).items())
    model(IMAGES)
    assert len(computed) == 6


def test_frozen_weights_take_no_gradient_and_pass_the_inputs_on():
    model = normalized_network().eval()
    images = IMAGES.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(images)[:, 2].sum(), images)
    with frozen_spectral_weights(model):
        scores = model(images)
        scores[:, 2].sum().backward()
    torch.testing.assert_close(images.grad, expected)
    assert original_of(model[0]).grad is None
    assert model[0].bias.grad is not None


def test_frozen_weights_do_not_follow_the_parameters():
    model = normalized_network().eval()
    before = model(IMAGES)
    with frozen_spectral_weights(model):
        with torch.no_grad():
            original_of(model[0]).add_(torch.randn_like(original_of(model[0])))
        assert torch.equal(model(IMAGES), before)
    assert not torch.equal(model(IMAGES), before)


def test_freezing_part_of_a_model_or_a_plain_one(computed):
    model = normalized_network().eval()
    with frozen_spectral_weights(model[3]):
        computed.clear()
        model(IMAGES)
    assert computed == [bound_of(model[0]), bound_of(model[5])]
    plain = small_network().eval()
    expected = plain(IMAGES)
    with frozen_spectral_weights(plain):
        assert torch.equal(plain(IMAGES), expected)


def test_nested_blocks_compute_nothing_again(computed):
    model = normalized_network().eval()
    with frozen_spectral_weights(model):
        held = model[0].weight
        computed.clear()
        with frozen_spectral_weights(model[0]), frozen_spectral_weights(model):
            assert model[0].weight is held
        assert model[0].weight is held
        assert not computed
    assert model[0].weight is not held


def test_blocks_that_end_in_the_order_in_which_they_began(computed):
    model = normalized_network().eval()
    first, second = ExitStack(), ExitStack()
    first.enter_context(frozen_spectral_weights(model))
    second.enter_context(frozen_spectral_weights(model[0]))
    first.close()
    computed.clear()
    model(IMAGES)
    assert computed == [bound_of(model[3]), bound_of(model[5])]
    second.close()
    computed.clear()
    model(IMAGES)
    assert len(computed) == 3


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_frozen_weights_are_gone_after_any_end_of_the_block(computed, error):
    model = normalized_network().eval()
    held = []

    def search():
        with frozen_spectral_weights(model):
            held.append(weakref.ref(model[0].weight))
            raise error

    with pytest.raises(error):
        search()
    gc.collect()
    assert held[0]() is None
    computed.clear()
    model(IMAGES)
    assert len(computed) == 3


def test_nothing_stays_where_computing_the_weights_fails(monkeypatch):
    model = normalized_network().eval()
    expected = model(IMAGES)
    compute = SpectralBound.bounded

    def interrupted(self, *args, **kwargs):
        if self is bound_of(model[3]):
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(SpectralBound, "bounded", interrupted)
        with pytest.raises(KeyboardInterrupt), frozen_spectral_weights(model):
            pass
    with torch.no_grad():
        original_of(model[0]).mul_(-1)
    assert not torch.equal(model(IMAGES), expected)


def in_a_thread(function):
    """What the function returns in another thread."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    (result,) = results
    return result


def test_each_thread_has_frozen_weights_of_its_own():
    model = normalized_network().eval()
    first = model(IMAGES)
    frozen, release = threading.Event(), threading.Event()
    seen = []

    def search():
        with frozen_spectral_weights(model):
            seen.append(model(IMAGES))
            frozen.set()
            release.wait(10)
            seen.append(model(IMAGES))
        seen.append(model(IMAGES))

    thread = threading.Thread(target=search)
    thread.start()
    assert frozen.wait(10)
    with torch.no_grad():
        original_of(model[0]).mul_(-1)
    second = model(IMAGES)
    with frozen_spectral_weights(model):
        release.set()
        thread.join()
        assert torch.equal(model(IMAGES), second)
    assert not torch.equal(first, second)
    assert [torch.equal(output, first) for output in seen] == [True, True, False]
    assert torch.equal(seen[2], second)


def test_a_block_that_another_thread_closes_leaves_nothing(computed):
    model = normalized_network().eval()
    block = frozen_spectral_weights(model)
    block.__enter__()
    computed.clear()
    in_a_thread(lambda: model(IMAGES))
    assert len(computed) == 3
    model(IMAGES)
    assert len(computed) == 3
    in_a_thread(lambda: block.__exit__(None, None, None))
    model(IMAGES)
    assert len(computed) == 6


def test_a_copy_of_a_frozen_model_computes_its_own_weights(computed):
    model = normalized_network().eval()
    with frozen_spectral_weights(model):
        duplicate = copy.deepcopy(model)
        computed.clear()
        assert torch.equal(duplicate(IMAGES), model(IMAGES))
    assert computed == [bound_of(duplicate[index]) for index in (0, 3, 5)]


def test_freezing_refuses_what_is_no_module():
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got str"):
        frozen_spectral_weights("model").__enter__()


def test_initialisers_reach_the_weights_in_an_unbounded_block():
    model = normalized_network(coeff=0.5)
    plain = small_network()
    for network in (model, plain):
        torch.manual_seed(3)
        with unbounded_weights(network):
            for index in (0, 3, 5):
                nn.init.orthogonal_(network[index].weight)
    for index, size in ((0, (5, 5)), (3, (5, 5)), (5, (100,))):
        weight = plain[index].weight.detach()
        assert torch.equal(original_of(model[index]), weight)
        sigma = largest_singular_value(plain[index], weight, size)
        assert sigma > 0.99
        expected = weight * (0.5 / sigma)
        for training in (True, False):
            bounded = model[index].train(training).weight
            torch.testing.assert_close(bounded.detach(), expected, rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize(
    "write",
    [
        lambda layer, value: layer.weight.detach().copy_(value),
        lambda layer, value: layer.weight.data.copy_(value),
        lambda layer, value: setattr(layer.weight, "data", value),
        lambda layer, value: setattr(layer, "weight", value),
        lambda layer, value: layer.load_state_dict({"weight": value}, strict=False),
    ],
)
def test_every_kind_of_write_counts_in_an_unbounded_block(write):
    model = normalized_network(coeff=0.5).eval()
    value = torch.randn(5, 100)
    value *= 0.49 / torch.linalg.svdvals(value)[0]
    parameter = original_of(model[5])
    with unbounded_weights(model):
        write(model[5], value.clone())
    assert torch.equal(model[5].weight, value)
    assert original_of(model[5]) is parameter
    # the singular vectors are those of the new weight
    with torch.no_grad():
        parameter.mul_(10)
    assert torch.linalg.svdvals(model[5].weight.detach())[0].item() == pytest.approx(0.5, rel=1e-3)


def test_weights_that_an_unbounded_block_leaves_alone_keep_their_vectors():
    model = normalized_network()
    before, state = buffers_of(model), torch.get_rng_state()
    with unbounded_weights(model), torch.no_grad():
        model[3].weight.mul_(-1)
    changed = [
        name for name, now in buffers_of(model).items() if not torch.equal(before[name], now)
    ]
    assert changed == [f"3.parametrizations.weight.0.{name}" for name in "uv"]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_bound_is_back_after_an_error_in_an_unbounded_block():
    model = normalized_network(coeff=0.5).eval()

    def initialise():
        with unbounded_weights(model):
            nn.init.eye_(model[5].weight)
            raise KeyError

    with pytest.raises(KeyError):
        initialise()
    torch.testing.assert_close(model[5].weight.detach(), 0.5 * torch.eye(5, 100))


def test_an_unbounded_block_in_a_frozen_one_and_the_other_way_round():
    model = normalized_network(coeff=0.5).eval()
    with frozen_spectral_weights(model):
        held = model[5].weight
        with unbounded_weights(model):
            nn.init.eye_(model[5].weight)
            with frozen_spectral_weights(model):
                assert not model[5].weight.requires_grad
        assert model[5].weight is held
    torch.testing.assert_close(model[5].weight.detach(), 0.5 * torch.eye(5, 100))


def test_outside_a_block_a_write_in_place_goes_nowhere():
    """What the documentation warns of: it can't be seen."""
    model = normalized_network(coeff=0.5)
    before = original_of(model[5]).detach().clone()
    nn.init.eye_(model[5].weight)
    assert torch.equal(original_of(model[5]), before)


def test_a_plain_models_weights_are_its_own_in_an_unbounded_block():
    model = small_network()
    weight = model[5].weight
    with unbounded_weights(model):
        assert model[5].weight is weight
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got str"):
        unbounded_weights("model").__enter__()


def test_weights_of_a_functional_call_are_not_those_that_a_block_holds():
    def network() -> nn.Sequential:
        return spectral_normalize(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), 0.5)

    torch.manual_seed(0)
    own, average = network().eval(), network().eval()
    given = dict(average.named_parameters()) | dict(average.named_buffers())
    inputs = torch.rand(4, 6)
    with torch.no_grad(), frozen_spectral_weights(own):
        found = torch.func.functional_call(own, given, (inputs,))
        torch.testing.assert_close(found, average(inputs))
        torch.testing.assert_close(own(inputs), own.eval()(inputs))
