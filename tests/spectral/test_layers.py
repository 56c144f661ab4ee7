from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn import functional

from captum_deduce.spectral.layers import as_found, chosen_layers, layer_operators
from captum_deduce.spectral.operators import Matrix


def operator_of(layer, example_input=None, module=None):
    return layer_operators(module or layer, {"the_layer": layer}, example_input)["the_layer"]


LAYERS = {
    "stride and padding": (nn.Conv2d(2, 3, (3, 2), stride=(2, 1), padding=(1, 0)), (2, 7, 5)),
    "dilation and groups": (nn.Conv2d(4, 6, 3, dilation=2, padding=2, groups=2), (4, 6, 6)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 5, 5)),
    "valid": (nn.Conv2d(2, 2, 3, padding="valid", dilation=2), (2, 7, 6)),
    "same, odd": (nn.Conv2d(2, 3, (3, 5), padding="same"), (2, 4, 6)),
    "same, uneven": (nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 3)), (2, 6, 7)),
    "same, uneven at the end": (nn.Conv2d(1, 2, (3, 2), padding="same"), (1, 4, 5)),
    "same, uneven everywhere": (nn.Conv3d(1, 2, (2, 4, 2), padding="same"), (1, 3, 5, 4)),
    "one dimension": (nn.Conv1d(3, 2, 4, stride=3, padding=2), (3, 11)),
    "one of one entry": (nn.Conv2d(4, 6, 1, groups=2), (4, 1, 1)),
    "reflect": (nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="reflect"), (2, 4, 5)),
    "reflect, stride, groups": (
        nn.Conv2d(4, 2, (3, 2), stride=2, padding=(0, 3), groups=2, padding_mode="reflect"),
        (4, 5, 6),
    ),
    "circular": (nn.Conv1d(2, 3, 4, padding=3, dilation=2, padding_mode="circular"), (2, 7)),
    "circular, same": (
        nn.Conv2d(2, 3, (4, 3), padding="same", padding_mode="circular"),
        (2, 5, 4),
    ),
    "replicate": (nn.Conv3d(1, 2, 2, padding=(1, 0, 2), padding_mode="replicate"), (1, 2, 3, 2)),
    "replicate, of one entry": (nn.Conv2d(2, 3, 1, padding=1, padding_mode="replicate"), (2, 3, 2)),
    "reflect, of one entry": (nn.Conv2d(2, 3, 1, padding_mode="reflect"), (2, 1, 1)),
    "circular, valid": (nn.Conv2d(2, 3, 2, padding="valid", padding_mode="circular"), (2, 3, 4)),
    "linear": (nn.Linear(5, 3), (5,)),
    "transposed": (nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, groups=2), (2, 4, 3)),
    "transposed, output padding": (
        nn.ConvTranspose1d(2, 3, 4, stride=3, padding=1, output_padding=2),
        (2, 5),
    ),
    "transposed, output padding above the stride": (
        nn.ConvTranspose2d(2, 1, 3, stride=1, dilation=(3, 2), output_padding=(2, 1)),
        (2, 3, 4),
    ),
    "transposed, three dimensions": (nn.ConvTranspose3d(2, 1, 2, stride=2), (2, 2, 3, 2)),
    "transposed of one entry": (nn.ConvTranspose2d(4, 6, 1, groups=2), (4, 1, 1)),
}


@pytest.mark.parametrize("name", list(LAYERS))
def test_an_operator_does_what_its_layer_does_without_the_bias(name):
    layer, shape = LAYERS[name]
    inputs = torch.randn(1, *shape)
    expected = layer(inputs) - layer(torch.zeros_like(inputs))
    operator = operator_of(layer, inputs)
    if isinstance(operator, Matrix) and isinstance(layer, nn.ConvTranspose2d):
        # singular values are the transpose's too, and a transposed layer stores that
        rows = inputs.reshape(operator.groups, -1)
        found = operator.adjoint(layer.weight, rows)
    else:
        found = operator(layer.weight, inputs.reshape(operator.domain))
    torch.testing.assert_close(found.reshape(expected.shape), expected)


@pytest.mark.parametrize("name", list(LAYERS))
def test_an_operators_adjoint_is_what_autograd_gives(name):
    layer, shape = LAYERS[name]
    if "of one entry" in name and layer.padding_mode == "zeros":
        shape = (shape[0], 1, 1)
    inputs = torch.randn(1, *shape, requires_grad=True)
    outputs = layer(inputs)
    rows = torch.randn_like(outputs)
    (expected,) = torch.autograd.grad(outputs, inputs, rows)
    operator = operator_of(layer, inputs.detach())
    apply = operator.adjoint
    if isinstance(operator, Matrix) and isinstance(layer, nn.ConvTranspose2d):
        apply = operator.__call__
    found = apply(layer.weight, rows.reshape(operator.groups, -1))
    torch.testing.assert_close(found.reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(3, 2),
        nn.Conv1d(3, 2, 1, stride=2, padding=1),
        nn.Conv2d(4, 2, (1, 1), groups=2),
        nn.ConvTranspose3d(2, 2, 1, stride=2, output_padding=1),
    ],
)
def test_linear_layers_and_kernels_of_one_entry_are_matrices_and_need_no_input(layer):
    assert isinstance(operator_of(layer), Matrix)


def test_no_forward_pass_where_every_layer_is_a_matrix():
    layer = nn.Linear(3, 2)
    assert operator_of(layer, torch.zeros(1, 99)) == Matrix(1, 2, 3)


class Calls(nn.Module):
    """Calls a layer as it is told to."""

    def __init__(self, layer, call):
        super().__init__()
        self.layer = layer
        self.call = call

    def forward(self, *inputs):
        return self.call(self.layer, *inputs)


def test_several_calls_give_the_largest_size_along_each_dimension():
    layer = nn.Conv2d(1, 2, 3, padding=1)
    module = Calls(layer, lambda layer, a, b: (layer(a), layer(b)))
    operator = operator_of(layer, (torch.zeros(1, 1, 4, 9), torch.zeros(1, 1, 6, 5)), module)
    assert operator.input_shape == (1, 6, 9)
    assert operator.output_shape == (2, 6, 9)


def test_an_output_size_chosen_by_the_call_counts():
    layer = nn.ConvTranspose2d(1, 1, 3, stride=2)
    module = Calls(layer, lambda layer, x: layer(x, output_size=(10, 9)))
    operator = operator_of(layer, torch.zeros(1, 1, 4, 4), module)
    assert operator.output_shape == (1, 10, 9)
    assert operator.output_padding == (1, 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda layer, x: layer(input=x),
        lambda layer, x: layer(x[0]),
        lambda layer, x: layer(x.repeat(3, 1, 1, 1)),
    ],
    ids=["by keyword", "without a batch", "a larger batch"],
)
def test_the_size_is_read_however_the_layer_is_called(call):
    layer = nn.Conv2d(2, 1, 3)
    operator = operator_of(layer, torch.zeros(1, 2, 5, 6), Calls(layer, call))
    assert operator.input_shape == (2, 5, 6)
    assert operator.output_shape == (1, 3, 4)


def test_the_size_is_what_the_layer_itself_sees_and_gives():
    layer = nn.Conv2d(1, 1, 3)
    layer.register_forward_pre_hook(lambda module, args: (functional.pad(args[0], (2, 2, 1, 1)),))
    layer.register_forward_hook(lambda module, args, output: output[..., :1, :1])
    operator = operator_of(layer, torch.zeros(1, 1, 4, 4))
    assert operator.input_shape == (1, 6, 8)
    assert operator.output_shape == (1, 4, 6)


class Conv2dOfStandardisedWeight(nn.Conv2d):
    def forward(self, inputs):
        return functional.conv2d(inputs, self.weight / self.weight.std(), self.bias)


class Conv2dWithOwnConvolution(nn.Conv2d):
    def _conv_forward(self, inputs, weight, bias):
        return super()._conv_forward(inputs, 2 * weight, bias)


def replaced_forward():
    layer = nn.Linear(2, 2)
    layer.forward = lambda inputs: inputs
    return layer


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            Conv2dOfStandardisedWeight(1, 1, 3),
            r"layer 'the_layer' \(Conv2dOfStandardisedWeight\) has a forward .*that of nn\.Conv2d",
        ),
        (
            Conv2dWithOwnConvolution(1, 1, 3),
            r"module: layer 'the_layer'.* has a _conv_forward of its own",
        ),
        (replaced_forward(), r"module: layer 'the_layer' \(Linear\) has a forward of its own"),
        (replaced_forward(), r"skip=\['the_layer'\]"),
    ],
)
def test_layers_whose_weight_does_not_tell_what_they_do_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        operator_of(layer, torch.zeros(1, 1, 5, 5))


def test_a_subclass_that_computes_the_same_is_taken():
    class Named(nn.Linear):
        pass

    assert operator_of(Named(3, 2)) == Matrix(1, 2, 3)


def test_a_convolution_without_an_example_input_is_refused_by_name():
    with pytest.raises(ValueError, match=r"example_input is needed .* 'the_layer' \(Conv2d\)"):
        operator_of(nn.Conv2d(1, 1, 3))


@pytest.mark.parametrize("example_input", [[torch.zeros(1, 1, 5, 5)], 3, "image"])
def test_an_example_input_of_another_kind_is_refused(example_input):
    expected = rf"example_input must be a torch\.Tensor or a tuple .*{type(example_input).__name__}"
    with pytest.raises(TypeError, match=expected):
        operator_of(nn.Conv2d(1, 1, 3), example_input)


def test_a_convolution_that_the_forward_pass_never_calls_is_refused_by_name():
    layer = nn.Conv2d(1, 1, 3)
    in_training_only = Calls(layer, lambda layer, x: layer(x) if layer.training else x)
    with pytest.raises(
        ValueError, match=r"example_input: .* never calls layer 'the_layer' \(Conv2d"
    ):
        operator_of(layer, torch.zeros(1, 1, 5, 5), in_training_only)


def test_a_failing_forward_pass_is_reported_with_its_cause():
    message = r"example_input: the forward pass on it failed: .*channels"
    with pytest.raises(ValueError, match=message) as error:
        operator_of(nn.Conv2d(1, 1, 3), torch.zeros(1, 2, 5, 5))
    assert isinstance(error.value.__cause__, RuntimeError)


class Restless(nn.Module):
    """Changes in its forward pass what a forward pass may change, also in eval mode."""

    def __init__(self, fails=None):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.frozen = nn.BatchNorm2d(2).eval()
        self.fails = fails
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("empty", None)

    def forward(self, inputs):
        self.calls += 1
        self.replaced = self.replaced + 1
        self.register_buffer("new", torch.ones(()))
        self.empty = torch.ones(())
        outputs = functional.dropout(self.frozen(self.norm(self.conv(inputs))), training=True)
        if self.fails is not None:
            raise self.fails
        return outputs


def snapshot(module):
    hooks = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_forward_hooks_with_kwargs",
        "_backward_hooks",
    )
    return (
        [each.training for each in module.modules()],
        [[list(getattr(each, kind)) for kind in hooks] for each in module.modules()],
        [(name, value.tolist()) for name, value in module.state_dict().items()],
        [id(tensor) for tensor in [*module.parameters(), *module.buffers()]],
        [list(each._buffers) for each in module.modules()],
        torch.get_rng_state().tolist(),
    )


@pytest.mark.parametrize(
    ("fails", "raised"),
    [
        (None, nullcontext()),
        (RuntimeError("no"), pytest.raises(ValueError, match="failed: no")),
        (KeyboardInterrupt(), pytest.raises(KeyboardInterrupt)),
    ],
)
def test_the_forward_pass_leaves_the_module_as_it_was(fails, raised):
    module, inputs = Restless(fails), torch.rand(1, 1, 5, 5)
    module.conv.register_forward_hook(lambda *args: None)
    before = snapshot(module)
    with raised:
        operator_of(module.conv, inputs, module)
    assert torch.is_grad_enabled()
    assert snapshot(module) == before


def test_the_forward_pass_runs_in_eval_mode_without_gradients():
    seen = []
    layer = nn.Conv2d(1, 1, 3)

    def call(layer, inputs):
        seen.append((layer.training, torch.is_grad_enabled()))
        return layer(inputs)

    operator_of(layer, torch.zeros(1, 1, 5, 5), Calls(layer, call))
    assert seen == [(False, False)]


def test_as_found_does_not_run_what_a_module_does_on_changing_its_mode():
    class MergesOnEval(nn.Linear):
        def train(self, mode=True):
            with torch.no_grad():
                self.weight.zero_()
            return super().train(mode)

    module = MergesOnEval(2, 2)
    weight = module.weight.detach().clone()
    with as_found(module):
        assert not module.training
    assert module.training
    assert torch.equal(module.weight, weight)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(3, 3))
        self.first = nn.Linear(3, 2)
        self.second = nn.Linear(3, 2)
        self.also_first = self.first


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        (None, ["body.0", "body.2", "first", "second"]),
        ([], ["body.0", "body.2", "first", "second"]),
        ("body", ["first", "second"]),
        ("body.0", ["body.2", "first", "second"]),
        (["body.2", "second"], ["body.0", "first"]),
        ("also_first", ["body.0", "body.2", "second"]),
        ("body.1", ["body.0", "body.2", "first", "second"]),
        (lambda name, layer: isinstance(layer, nn.Linear), ["body.0"]),
        (lambda name, layer: name.startswith("body"), ["first", "second"]),
    ],
)
def test_layers_are_left_out_by_name_or_by_what_a_function_says(skip, left):
    assert list(chosen_layers(TwoHeads(), skip)) == left


def test_layers_are_left_out_as_modules():
    model = TwoHeads()
    assert list(chosen_layers(model, model.body)) == ["first", "second"]
    assert list(chosen_layers(model, {model.body[0], model.first})) == ["body.2", "second"]
    assert list(chosen_layers(model, (layer for layer in [model.body, "first"]))) == ["second"]


@pytest.mark.parametrize(
    ("skip", "error", "message"),
    [
        ("head", ValueError, "skip: 'head' is not in the module; expected parts of it, .*'body.0'"),
        ([nn.Linear(3, 2)], ValueError, "skip: a Linear is not in the module"),
        ("", ValueError, "skip leaves none of the 4 layers"),
        (lambda name, layer: True, ValueError, "skip leaves none of the 4 layers"),
        (3, TypeError, "skip must be a name or a submodule, .* got int: 3"),
        ([3], TypeError, "skip must be a name or a submodule, .* got int: 3"),
        (nn.Linear, TypeError, "skip must be a name or a submodule, .* got type"),
    ],
)
def test_what_can_not_be_left_out_is_refused(skip, error, message):
    with pytest.raises(error, match=message):
        chosen_layers(TwoHeads(), skip)
