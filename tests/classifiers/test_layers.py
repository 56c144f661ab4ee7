from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from captum_deduce.classifiers import MultiLayerClassifier, find_layer, layer_named
from tests.classifiers.test_frozen import IMAGES, network


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
    # which of them a function runs, and which has the name, shows when it runs
    assert find_layer(lambda x: model(x) + other(x), "4") is None
    assert find_layer(lambda x: model(x), "of another module") is None


def test_a_name_belongs_to_one_of_the_modules_that_run():
    first, second = nn.Sequential(nn.Flatten()), nn.ModuleDict({"head": nn.Linear(2, 2)})
    assert layer_named("head", [first, second]) is second["head"]
    with pytest.raises(ValueError, match=r"'body' is not in the model.*: 0, head"):
        layer_named("body", [first, second])
    with pytest.raises(ValueError, match="2 modules that have one of this name"):
        layer_named("0", [first, copy.deepcopy(first)])
    with pytest.raises(ValueError, match="outermost layers are: none"):
        layer_named("0", [])


@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, IMAGES)])
def test_layers_of_scripts_are_refused_with_the_way_out(make):
    model = make(network().eval())
    for layer in ("4", dict(model.named_modules())["4"]):
        with pytest.raises(ValueError, match=r"scripted or traced model.*before torch\.jit"):
            find_layer(model, layer)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs PyTorch 2.6")
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
def test_layers_of_compiled_models_are_read_without_a_search_around_it():
    torch.compiler.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)).eval()
    images = torch.rand(2, 1, 4, 4)
    expected = MultiLayerClassifier(model, {"1": None, "2": None})
    compiled = torch.compile(model, backend="eager")
    compiled(images)  # before there are hooks on its layers
    inside = MultiLayerClassifier(compiled, {"_orig_mod.1": None, "_orig_mod.2": None})
    around = torch.compile(expected, backend="eager")
    seen: list[torch.Tensor] = []
    for each in (expected, inside):
        each.features.register_forward_hook(lambda module, inputs, output: seen.append(output))
    scores = expected(images)
    for _ in range(2):
        torch.testing.assert_close(inside(images), scores)
    torch.testing.assert_close(seen[1:], [seen[0]] * 2)
    for _ in range(2):
        torch.testing.assert_close(around(images), scores)
