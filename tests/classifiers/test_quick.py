"""A quick copy computes what the model computes, and folds only what is safe to fold."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from captum_deduce import spectral_normalize
from captum_deduce.classifiers import MultiLayerClassifier, QuickCopy, SmoothedClassifier
from captum_deduce.classifiers.quick import quick_copy, same_outputs
from captum_deduce.models import resnet18, sn_resnet18

IMAGES = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def lively(model: nn.Module) -> nn.Module:
    """In eval mode, with batch norms that do something."""
    source = torch.Generator().manual_seed(2)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
            norm.running_mean.copy_(torch.randn(norm.num_features, generator=source))
            norm.running_var.copy_(torch.rand(norm.num_features, generator=source) + 0.3)
            if norm.affine:
                norm.weight.data.copy_(torch.randn(norm.num_features, generator=source))
                norm.bias.data.copy_(torch.randn(norm.num_features, generator=source))
    return model.eval()


class Pair(nn.Module):
    """A convolution and a norm, and two scores; a subclass says how they are used."""

    def __init__(self, conv: nn.Module | None = None, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1) if conv is None else conv
        self.norm = nn.BatchNorm2d(4) if norm is None else norm

    def maps(self, inputs: Tensor) -> Tensor:
        return self.norm(self.conv(inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.maps(inputs).relu().mean((2, 3))


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2, groups=2),
        nn.BatchNorm2d(4, affine=False),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


class StaticPadding(nn.Conv2d):
    """As in several published EfficientNets."""

    def forward(self, inputs: Tensor) -> Tensor:
        padded = functional.pad(inputs, (1, 1, 1, 1))
        return functional.conv2d(padded, self.weight, self.bias, self.stride)


class Standardized(nn.Conv2d):
    """The scale of its weight does not matter."""

    def forward(self, inputs: Tensor) -> Tensor:
        spread = self.weight.flatten(1).std(1).view(-1, 1, 1, 1)
        return functional.conv2d(inputs, self.weight / spread, self.bias, padding=1)


FOLDED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "chain": (chain, ["1", "4"]),
    "resnet": (
        lambda: resnet18(2, width=2, image_size=8),
        [n for n, m in resnet18(2, width=2).named_modules() if isinstance(m, nn.BatchNorm2d)],
    ),
    "spectral": (lambda: spectral_normalize(chain(), 0.5, example_input=IMAGES), ["1", "4"]),
    "subclass": (lambda: Pair(StaticPadding(2, 4, 3)), ["norm"]),
    "smoothed": (lambda: SmoothedClassifier(chain(), "5", noise=0.1), ["model.1", "model.4"]),
    "layers": (
        lambda: MultiLayerClassifier(chain(), {"1": 2, "5": None}),
        ["model.1", "model.4"],
    ),
}


@pytest.mark.parametrize("name", FOLDED)
def test_scores_and_gradients_are_the_models(name):
    make, norms = FOLDED[name]
    model = lively(make())
    precise = copy.deepcopy(model).double()
    quick = quick_copy(model, None, IMAGES)
    assert quick.folded == norms

    def evaluated(run: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        leaf = images.clone().requires_grad_()
        scores = run(leaf)
        return scores, torch.autograd.grad(scores.tanh().sum(), leaf)[0]

    expected = [value.detach().float() for value in evaluated(precise, IMAGES.double())]
    for value, right in zip(evaluated(quick, IMAGES), expected, strict=True):
        torch.testing.assert_close(value, right, rtol=1e-4, atol=1e-4 * right.abs().max().item())
    exact = quick_copy(precise, None, IMAGES.double())
    for value, right in zip(
        evaluated(exact, IMAGES.double()), evaluated(precise, IMAGES.double()), strict=True
    ):
        torch.testing.assert_close(value, right, rtol=1e-10, atol=1e-12)


def test_a_folded_weight_is_the_formulas():
    model = lively(Pair(nn.Conv2d(2, 4, 3, padding=1, bias=False)))
    conv, norm = model.conv, model.norm
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    quick = QuickCopy(model, None, IMAGES)
    torch.testing.assert_close(quick.model.conv.weight, conv.weight * scale.view(-1, 1, 1, 1))
    torch.testing.assert_close(quick.model.conv.bias, norm.bias - norm.running_mean * scale)


def test_on_a_cpu_maps_have_their_channels_last():
    model = lively(chain())
    quick = QuickCopy(model, None, IMAGES)
    assert quick.model[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert quick.model[:3](IMAGES).is_contiguous(memory_format=torch.channels_last)
    assert model[3].weight.is_contiguous()


class Twice(Pair):
    def maps(self, inputs: Tensor) -> Tensor:
        convolved = self.conv(inputs)
        return self.norm(convolved) + convolved


class InPlace(Pair):
    def maps(self, inputs: Tensor) -> Tensor:
        return self.norm(self.conv(inputs).add_(1.0))


class Later(Pair):
    def maps(self, inputs: Tensor) -> Tensor:
        convolved = self.conv(inputs)
        normed = self.norm(convolved)
        return normed * convolved.detach().sigmoid()


class OneConvolution(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(4)

    def maps(self, inputs: Tensor) -> Tensor:
        return self.norm(self.conv(inputs)) + self.other(self.conv(inputs))


class OneNorm(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(2, 4, 3, padding=1)

    def maps(self, inputs: Tensor) -> Tensor:
        return self.norm(self.conv(inputs)) + self.norm(self.other(inputs))


class NormOfInputs(Pair):
    def maps(self, inputs: Tensor) -> Tensor:
        return self.norm(inputs.repeat(1, 2, 1, 1)) + self.norm(self.conv(inputs))


class Unused(Pair):
    def maps(self, inputs: Tensor) -> Tensor:
        return self.conv(inputs)


@pytest.mark.parametrize(
    "make",
    [
        Twice,
        InPlace,
        Later,
        OneConvolution,
        OneNorm,
        NormOfInputs,
        Unused,
        lambda: Pair(norm=nn.BatchNorm2d(4, track_running_stats=False)),
        lambda: Pair(norm=nn.InstanceNorm2d(4)),
        lambda: Pair(parametrizations.weight_norm(nn.Conv2d(2, 4, 3))),
        lambda: Pair(Standardized(2, 4, 3)),
    ],
)
def test_what_is_not_safe_is_not_folded(make):
    model = lively(make())
    quick = quick_copy(model, None, IMAGES)
    assert quick.folded == []
    torch.testing.assert_close(quick(IMAGES), model(IMAGES))


@pytest.mark.parametrize("name", ["0", "1"])
def test_the_layer_that_is_read_is_not_folded(name):
    model = lively(chain())
    layer = model.get_submodule(name)
    quick = quick_copy(model, layer, IMAGES)
    assert quick.folded == ["4"]
    assert quick.layer is quick.model.get_submodule(name)
    assert quick.layer is not layer


@pytest.mark.parametrize("hook", ["forward_pre", "forward", "full_backward", "full_backward_pre"])
def test_a_model_with_hooks_is_not_copied(hook):
    model = lively(chain())
    handle = getattr(model[2], f"register_{hook}_hook")(lambda *_: None)
    assert quick_copy(model, None, IMAGES) is None
    handle.remove()
    assert quick_copy(model, None, IMAGES) is not None


class Uncopied(Pair):
    def __deepcopy__(self, memo: object) -> None:
        raise AttributeError


@pytest.mark.parametrize(
    "model",
    [
        lambda images: chain()(images),
        chain().bfloat16(),
        nn.Sequential(nn.Flatten(), nn.Linear(128, 3)),
        torch.compile(chain()),
        Uncopied(),
    ],
)
def test_what_can_not_be_copied_is_left(model):
    assert quick_copy(model, None, IMAGES) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripts_are_left():
    assert quick_copy(torch.jit.script(chain().eval()), None, IMAGES) is None


class Switching(Pair):
    """Another norm, or another use of the convolution, for bright images."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.other = nn.BatchNorm2d(4)
        self.use = use

    def maps(self, inputs: Tensor) -> Tensor:
        convolved = self.conv(inputs)
        if inputs.mean() < 1:
            return self.norm(convolved)
        return {"norm": self.other, "none": nn.Identity()}[self.use](convolved)


@pytest.mark.parametrize("use", ["norm", "none"])
def test_a_pass_on_another_path_raises(use):
    model = lively(Switching(use))
    quick = quick_copy(model, None, IMAGES)
    assert quick.folded == ["norm"]
    with pytest.raises(RuntimeError, match="convolution"):
        quick(IMAGES + 1)
    torch.testing.assert_close(quick(IMAGES), model(IMAGES))


def test_a_norm_that_receives_something_else_raises():
    model = lively(Pair())
    quick = quick_copy(model, None, IMAGES)
    with pytest.raises(RuntimeError, match="batch norm"):
        quick.model.norm(IMAGES)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_not_touched(training):
    model = lively(sn_resnet18(2, width=2, image_size=8)).train(training)
    parts = list(model.named_modules())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    versions = {name: value._version for name, value in model.named_parameters()}
    layouts = {name: value.stride() for name, value in model.named_parameters()}
    quick_copy(model, model.avgpool, IMAGES)
    assert all(a is b for (_, a), (_, b) in zip(parts, model.named_modules(), strict=True))
    assert all(part.training == training for _, part in parts)
    assert not any(part._forward_hooks or part._forward_pre_hooks for _, part in parts)
    assert versions == {name: value._version for name, value in model.named_parameters()}
    assert layouts == {name: value.stride() for name, value in model.named_parameters()}
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert all(value.requires_grad and value.grad is None for value in model.parameters())


def test_outputs_are_the_same_but_for_rounding():
    values = torch.tensor([1.0, -1000.0])
    assert same_outputs(values, values + torch.tensor([0.1, 0.0]))
    assert not same_outputs(values, values + torch.tensor([0.2, 0.0]))
    assert same_outputs(values.double(), values.double() + 2e-10)
    assert not same_outputs(values.double(), values.double() + 3e-10)
    assert not same_outputs(values * torch.nan, values)
    assert same_outputs(values.new_zeros(2, 0), values.new_zeros(2, 0))
