from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from captum_deduce.spectral import remove_spectral_normalization, spectral_normalize, spectral_norms
from tests.spectral.networks import (
    IMAGES,
    buffers_of,
    largest_singular_value,
    normalized_network,
    original_of,
    same,
    small_network,
    snapshot,
)

SIZES = {0: (5, 5), 3: (5, 5), 5: (100,)}


def trained():
    """A plain network with weights, biases and statistics unlike those of a new one."""
    network = small_network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_()
    network(torch.rand(8, 1, 5, 5))
    return network


@pytest.mark.parametrize("training", [True, False])
def test_a_plain_state_dict_gives_the_bounded_weights_of_the_plain_model(training):
    plain, model = trained(), normalized_network(coeff=0.5)
    state = plain.state_dict()
    keys, random_state = list(state), torch.get_rng_state()
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    assert list(state) == keys
    assert torch.equal(torch.get_rng_state(), random_state)
    model.train(training)
    for index, size in SIZES.items():
        weight = plain[index].weight.detach()
        assert torch.equal(original_of(model[index]), weight)
        expected = weight * (0.5 / largest_singular_value(plain[index], weight, size))
        torch.testing.assert_close(model[index].weight.detach(), expected, rtol=3e-3, atol=1e-7)
        assert torch.equal(model[index].bias, plain[index].bias)
    assert torch.equal(model[1].running_var, plain[1].running_var)


def test_weights_within_the_bound_give_the_plain_models_outputs_exactly():
    plain = small_network().eval()
    norms = spectral_norms(plain, example_input=IMAGES)
    model = normalized_network(coeff=1.1 * max(norms.values())).eval()
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model(IMAGES), plain(IMAGES))


def test_a_model_below_another_loads_too():
    plain = nn.ModuleDict({"body": trained(), "head": nn.Linear(5, 2)})
    model = nn.ModuleDict({"body": normalized_network(), "head": nn.Linear(5, 2)})
    model.load_state_dict(plain.state_dict())
    assert torch.equal(original_of(model["body"][5]), plain["body"][5].weight)
    assert torch.equal(model["head"].weight, plain["head"].weight)


def test_the_state_of_a_model_whose_normalisation_was_removed_loads():
    model = normalized_network()
    model(IMAGES)
    model.eval()
    expected = model(IMAGES)
    state = remove_spectral_normalization(copy.deepcopy(model)).state_dict()
    model.load_state_dict(state)
    torch.testing.assert_close(model(IMAGES), expected, rtol=2e-3, atol=1e-4)


def test_assigning_loads_the_given_tensors():
    plain, model = trained().double(), normalized_network()
    model.load_state_dict(plain.state_dict(), assign=True)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float64}
    assert {buffer.dtype for buffer in buffers_of(model).values()} == {torch.float64}
    assert torch.equal(original_of(model[0]), plain[0].weight)


def test_a_copy_loads_into_itself():
    plain, model = trained(), normalized_network()
    before = original_of(model[0]).detach().clone()
    duplicate = copy.deepcopy(model)
    duplicate.load_state_dict(plain.state_dict())
    assert torch.equal(original_of(duplicate[0]), plain[0].weight)
    assert torch.equal(original_of(model[0]), before)


@pytest.mark.parametrize("copied", [True, False])
def test_nothing_of_it_stays_after_removal(copied):
    model = normalized_network()
    if copied:
        model = copy.deepcopy(model)
    remove_spectral_normalization(model)
    assert not any(module._load_state_dict_pre_hooks for module in model.modules())
    pickle.dumps(model)
    plain = trained()
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model[0].weight, plain[0].weight)


def test_a_missing_weight_is_missing_and_another_shape_is_reported():
    model = normalized_network()
    before = snapshot(model)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\).*5\.parametrizations\.weight"):
        model[5:].load_state_dict({"0.bias": torch.zeros(5)})
    report = model.load_state_dict({}, strict=False)
    assert "5.parametrizations.weight.original" in report.missing_keys
    with pytest.raises(RuntimeError, match=r"size mismatch for parametrizations\.weight\.original"):
        model[5].load_state_dict(nn.Linear(99, 5, bias=False).state_dict(), strict=False)
    assert same(snapshot(model), before)


def test_a_weight_that_others_parametrize_too_is_left_to_torch():
    class Doubled(nn.Module):
        def forward(self, value):
            return 2 * value

    layer = spectral_normalize(nn.Linear(4, 3))
    parametrize.register_parametrization(layer, "weight", Doubled())
    with pytest.raises(RuntimeError, match="Unexpected key"):
        layer.load_state_dict(nn.Linear(4, 3).state_dict())


def test_a_layer_from_which_torch_removed_the_bound_loads_as_a_plain_one():
    layer, plain = spectral_normalize(nn.Linear(4, 3)), nn.Linear(4, 3)
    parametrize.remove_parametrizations(layer, "weight")
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)
    pickle.dumps(layer)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_state_of_another_dtype_is_converted_as_ever(dtype):
    plain, model = nn.Linear(6, 4).to(dtype), spectral_normalize(nn.Linear(6, 4), 0.1).eval()
    model.load_state_dict(plain.state_dict())
    assert model.weight.dtype == torch.float32
    assert torch.equal(original_of(model), plain.weight.float())
    largest = torch.linalg.svdvals(model.weight.detach())[0].item()
    assert largest == pytest.approx(0.1, rel=1e-3)
