from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, max_pool2d
from torch.nn.utils import parametrizations, parametrize, prune, weight_norm

from captum_deduce.spectral.normalization import (
    SpectralBound,
    frozen_spectral_weights,
    remove_spectral_normalization,
    spectral_normalize,
    spectral_norms,
)
from tests.reference import convolution_matrix, transposed_convolution_matrix


@pytest.fixture(autouse=True)
def _one_thread():
    """Layers this small gain nothing from a second thread, and wait for it on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def bound_of(layer) -> SpectralBound:
    (bound,) = layer.parametrizations["weight"]
    return bound


def original_of(layer):
    return layer.parametrizations["weight"].original


def matrix_of(layer, weight, size):
    """The layer's operator on a signal of a given size, written out from the layer's settings."""
    weight = weight.detach().double().numpy()
    if isinstance(layer, nn.Linear):
        return weight
    settings = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups}
    if layer.transposed:
        settings |= {"padding": layer.padding, "output_padding": layer.output_padding}
        return transposed_convolution_matrix(weight, size, **settings)
    padding = layer.padding
    if padding == "same":  # torch puts the odd one at the end
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        settings["padding"] = tuple((t // 2, t - t // 2) for t in total)
    else:
        padding = (0,) * len(size) if padding == "valid" else padding
        settings["padding"] = tuple((p, p) for p in padding)
    return convolution_matrix(weight, size, **settings)


def largest_singular_value(layer, weight, size):
    return torch.linalg.svdvals(torch.from_numpy(matrix_of(layer, weight, size)))[0].item()


LAYERS = {
    "3x3": (lambda: nn.Conv2d(3, 4, 3, padding=1), (6, 7)),
    "stride": (lambda: nn.Conv2d(3, 4, 3, stride=(2, 3), padding=1), (7, 8)),
    "stride above the kernel": (lambda: nn.Conv2d(2, 5, 2, stride=3), (8, 8)),
    "no padding": (lambda: nn.Conv2d(3, 4, (2, 5)), (5, 7)),
    "much padding": (lambda: nn.Conv2d(2, 3, 3, padding=(4, 3)), (4, 4)),
    "dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=(2, 3), padding=(2, 1)), (7, 8)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), (5, 6)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6), (6, 6)),
    "same": (lambda: nn.Conv2d(2, 3, (4, 3), padding="same", dilation=(1, 2)), (6, 5)),
    "valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (6, 5)),
    "kernel as large as the input": (lambda: nn.Conv2d(3, 8, 5), (5, 5)),
    "one row": (lambda: nn.Conv2d(3, 4, (1, 3), padding=(0, 1)), (4, 6)),
    "one dimension": (lambda: nn.Conv1d(3, 5, 4, stride=2, padding=3), (14,)),
    "three dimensions": (
        lambda: nn.Conv3d(2, 3, (3, 2, 2), stride=(1, 2, 1), padding=1),
        (3, 4, 4),
    ),
    "1x1": (lambda: nn.Conv2d(6, 4, 1), (3, 4)),
    "1x1, groups and stride": (lambda: nn.Conv2d(6, 4, 1, groups=2, stride=2), (4, 5)),
    "linear": (lambda: nn.Linear(20, 11), (20,)),
    "large linear": (lambda: nn.Linear(180, 150), (180,)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1), (5, 4)),
    "transposed, output padding": (
        lambda: nn.ConvTranspose2d(4, 4, 3, stride=3, output_padding=(1, 2), groups=2, dilation=2),
        (3, 4),
    ),
    "transposed, output padding above the stride": (
        lambda: nn.ConvTranspose1d(2, 3, 3, dilation=3, output_padding=2),
        (6,),
    ),
    "transposed 1x1": (lambda: nn.ConvTranspose2d(4, 6, 1, stride=2, groups=2), (3, 3)),
    "transposed, three dimensions": (lambda: nn.ConvTranspose3d(2, 2, 2, stride=2), (2, 3, 2)),
}


@pytest.fixture(params=list(LAYERS))
def layer_and_size(request):
    build, size = LAYERS[request.param]
    return build(), size


def example(layer, size):
    return torch.rand(1, *(size if isinstance(layer, nn.Linear) else (layer.in_channels, *size)))


@pytest.mark.parametrize("factor", [0.3, 0.9])
def test_a_weight_above_the_bound_is_divided_by_its_singular_value_over_the_bound(
    layer_and_size, factor
):
    layer, size = layer_and_size
    weight = layer.weight.detach().clone()
    sigma = largest_singular_value(layer, weight, size)
    (measured,) = spectral_norms(layer, example_input=example(layer, size)).values()
    assert measured == pytest.approx(sigma, rel=0.002)

    coeff = factor * sigma
    assert spectral_normalize(layer, coeff, example_input=example(layer, size)) is layer
    layer.eval()
    torch.testing.assert_close(layer.weight, weight * factor, rtol=0.01, atol=0)
    assert largest_singular_value(layer, layer.weight, size) == pytest.approx(coeff, rel=0.01)
    (measured,) = spectral_norms(layer).values()
    assert measured == pytest.approx(coeff, rel=0.01)


def test_a_weight_below_the_bound_stays_bit_for_bit(layer_and_size):
    layer, size = layer_and_size
    weight = layer.weight.detach().clone()
    coeff = 1.02 * largest_singular_value(layer, weight, size)
    spectral_normalize(layer, coeff, example_input=example(layer, size))
    for mode in (True, False):
        assert torch.equal(layer.train(mode).weight, weight)
    loss = (layer.weight * torch.arange(weight.numel()).reshape(weight.shape)).sum()
    (gradient,) = torch.autograd.grad(loss, original_of(layer))
    assert torch.equal(gradient.flatten(), torch.arange(weight.numel()).float())


def test_the_gradient_goes_through_sigma(layer_and_size):
    layer, size = layer_and_size
    layer = spectral_normalize(
        layer.double(), 0.5, example_input=example(layer, size).double()
    ).eval()
    assert spectral_norms(layer)[""] > 0.49
    inputs = torch.randn(2, *example(layer, size).shape[1:], dtype=torch.float64)
    weights = torch.randn_like(layer(inputs))
    loss = (layer(inputs) * weights).sum()
    (gradient,) = torch.autograd.grad(loss, original_of(layer))

    def loss_at(weight):
        with torch.no_grad():
            original_of(layer).copy_(weight)
            return (layer(inputs) * weights).sum().item()

    weight = original_of(layer).detach().clone()
    for _ in range(3):
        step = torch.randn_like(weight)
        numerical = (loss_at(weight + 1e-6 * step) - loss_at(weight - 1e-6 * step)) / 2e-6
        assert (gradient * step).sum().item() == pytest.approx(numerical, rel=1e-6, abs=1e-7)
    # scaling a weight above the bound changes nothing
    assert (gradient * weight).sum().abs() < 1e-9 * gradient.norm() * weight.norm()


def test_gradcheck_with_the_singular_vectors_held():
    layer = nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2).double()
    spectral_normalize(layer, 0.4, example_input=torch.rand(1, 2, 5, 5).double()).eval()
    weight = original_of(layer).detach().clone().requires_grad_()
    bound = bound_of(layer)
    assert not torch.equal(bound(weight), weight)
    assert torch.autograd.gradcheck(bound, (weight,))
    assert torch.autograd.gradgradcheck(bound, (weight,))


def small_network():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.Conv2d(3, 4, 1),
        nn.Flatten(),
        nn.Linear(100, 5),
    )


def normalized_network(coeff=0.5, **options):
    images = torch.rand(1, 1, 5, 5)
    return spectral_normalize(small_network(), coeff, example_input=images, **options)


IMAGES = torch.rand(4, 1, 5, 5, generator=torch.Generator().manual_seed(1))


def buffers_of(model):
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "param" in name}


def test_training_mode_advances_the_singular_vectors_and_eval_mode_does_not():
    model = normalized_network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = buffers_of(model)
    assert len(before) == 6
    model.eval()(IMAGES).sum().backward()
    assert all(torch.equal(before[name], now) for name, now in buffers_of(model).items())
    with torch.no_grad():
        model.train()(IMAGES)
    assert not any(torch.equal(before[name], now) for name, now in buffers_of(model).items())


@pytest.mark.parametrize("steps", [1, 3])
def test_each_use_in_training_mode_makes_the_power_iterations_asked_for(steps):
    layer = nn.Conv2d(2, 3, 3, padding=1).double()
    spectral_normalize(
        layer, 0.1, example_input=torch.rand(1, 2, 4, 5).double(), n_power_iterations=steps
    )
    with torch.no_grad():
        original_of(layer).copy_(torch.randn_like(original_of(layer)))
    weight, u = original_of(layer).detach(), bound_of(layer).u.flatten().numpy().copy()
    matrix = matrix_of(layer, weight, (4, 5))
    for _ in range(steps):
        v = matrix.T @ u
        v /= np.linalg.norm(v)
        u = matrix @ v
        u /= np.linalg.norm(u)
    bounded = layer.weight
    np.testing.assert_allclose(bound_of(layer).u.flatten().numpy(), u, atol=1e-12)
    np.testing.assert_allclose(bound_of(layer).v.flatten().numpy(), v, atol=1e-12)
    torch.testing.assert_close(bounded, weight * 0.1 / (u @ matrix @ v))


def test_power_iterations_reach_the_bound_after_the_weight_has_changed():
    layer = spectral_normalize(nn.Conv2d(2, 2, 3), 1.0, example_input=torch.rand(1, 2, 6, 6))
    with torch.no_grad():
        original_of(layer).normal_()
        for _ in range(200):
            layer(torch.rand(1, 2, 6, 6))
    layer.eval()
    assert largest_singular_value(layer, layer.weight, (6, 6)) == pytest.approx(1.0, rel=0.01)


def test_several_uses_before_one_backward_pass():
    model = normalized_network()
    loss = model(IMAGES).sum() + model(IMAGES.flip(0)).square().sum() + model[0].weight.sum()
    loss.backward()
    for layer in (model[0], model[3], model[5]):
        gradient = original_of(layer).grad
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_a_graph_of_eval_mode_survives_later_training_steps():
    layer = spectral_normalize(nn.Conv2d(2, 3, 3), 0.2, example_input=torch.rand(1, 2, 6, 6))
    with torch.no_grad():
        original_of(layer).normal_()
    pattern = torch.randn_like(original_of(layer))
    losses = [(layer.eval().weight * pattern).sum() for _ in range(2)]
    (expected,) = torch.autograd.grad(losses[0], original_of(layer))
    held, before = bound_of(layer).u, bound_of(layer).u.clone()
    layer.train()(torch.rand(1, 2, 6, 6))
    assert bound_of(layer).u is held
    assert not torch.equal(held, before)
    (gradient,) = torch.autograd.grad(losses[1], original_of(layer))
    assert torch.equal(gradient, expected)


def test_a_layer_that_starts_at_zero_is_bounded_once_it_has_grown():
    layer = nn.Conv2d(1, 2, 3, padding=1)
    nn.init.zeros_(layer.weight)
    spectral_normalize(layer, 1.0, example_input=torch.rand(1, 1, 6, 6))
    assert torch.equal(layer(torch.rand(1, 1, 6, 6)).detach()[0, :, 0, 0], layer.bias)
    with torch.no_grad():
        original_of(layer).normal_()
        for _ in range(100):
            layer(torch.rand(1, 1, 6, 6))
    layer.eval()
    assert largest_singular_value(layer, layer.weight, (6, 6)) == pytest.approx(1.0, rel=0.01)


def test_the_start_follows_torchs_generator_and_the_bound_does_not():
    def normalized(seed, training):
        torch.manual_seed(0)
        layer = nn.Conv2d(4, 4, 3, padding=1).train(training)
        torch.manual_seed(seed)
        return spectral_normalize(layer, 0.5, example_input=torch.ones(1, 4, 6, 6)).eval()

    first, again, other = normalized(1, True), normalized(1, False), normalized(2, True)
    assert torch.equal(bound_of(first).u, bound_of(again).u)
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(bound_of(first).u, bound_of(other).u)
    torch.testing.assert_close(first.weight, other.weight, rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("convert_first", [True, False])
def test_other_dtypes(dtype, convert_first):
    layer, images = nn.Conv2d(2, 3, 3, padding=1), torch.rand(1, 2, 6, 6)
    weight = layer.weight.detach().to(dtype)
    if convert_first:
        spectral_normalize(layer.to(dtype), 0.4, example_input=images.to(dtype))
    else:
        spectral_normalize(layer, 0.4, example_input=images).to(dtype)
    for mode in (True, False):
        bounded = layer.train(mode).weight
        assert bounded.dtype == dtype
        sigma = largest_singular_value(layer, bounded, (6, 6))
        assert sigma == pytest.approx(0.4, rel=0.01)
        assert layer(images.to(dtype)).dtype == dtype
    expected = weight.double() * 0.4 / largest_singular_value(layer, weight, (6, 6))
    torch.testing.assert_close(bounded.double(), expected, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("build", [lambda: nn.Conv2d(2, 3, 3), lambda: nn.Linear(6, 4)])
def test_sigma_is_exact_under_autocast(build):
    images = torch.rand(1, 2, 6, 6)
    layer = spectral_normalize(build(), 0.4, example_input=images).eval()
    outside = layer.weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.weight, outside)
        assert layer(images).dtype == torch.bfloat16


class Shared(nn.Module):
    """One convolution under two names, called on two sizes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 2, 3, padding=1)
        self.second = self.first

    def forward(self, images):
        return (
            self.second(max_pool2d(self.first(images), (2, 1)))
            + self.first(images[..., :2])[..., :1].mean()
        )


def test_a_layer_called_at_several_sizes_is_bounded_at_all_of_them():
    model = spectral_normalize(Shared(), 0.3, example_input=torch.rand(1, 2, 8, 6)).eval()
    assert list(spectral_norms(model)) == ["first"]
    sigma = {
        size: largest_singular_value(model.first, model.first.weight, size)
        for size in [(8, 6), (4, 6), (8, 2)]
    }
    assert sigma[8, 6] == pytest.approx(0.3, rel=0.01)
    assert sigma[4, 6] < sigma[8, 6]
    assert sigma[8, 2] < sigma[8, 6]
    assert isinstance(remove_spectral_normalization(model).second.weight, nn.Parameter)


def test_the_example_input_may_be_a_tuple_of_arguments():
    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, images, scale):
            return self.conv(images) * scale

    model = TwoInputs()
    spectral_normalize(model, 0.2, example_input=(torch.rand(1, 1, 6, 6), 2.0))
    weight = model.eval().conv.weight
    assert largest_singular_value(model.conv, weight, (4, 6)) < 0.2
    assert largest_singular_value(model.conv, weight, (6, 6)) == pytest.approx(0.2, rel=0.01)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = torch.from_numpy(data.images).float().unsqueeze(1) / 16
    return images, torch.from_numpy(data.target)


DIGITS_SIZES = {"0": (8, 8), "3": (8, 8), "6": (4, 4), "9": (4, 4), "12": (4, 4), "17": (16,)}


def digits_network():
    norm, activation = nn.BatchNorm2d, nn.LeakyReLU
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), norm(8), activation(0.01)),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), norm(16), activation(0.01)),
        *(nn.Conv2d(16, 16, 3, padding=1, groups=2), norm(16), activation(0.01)),
        *(nn.Conv2d(16, 16, 1), norm(16), activation(0.01)),
        *(nn.Conv2d(16, 16, 3, padding=1), norm(16), activation(0.01)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )


@pytest.mark.parametrize("coeff", [1.0, 4.0])
@pytest.mark.parametrize("decay", [True, False], ids=["learning rate falls", "constant"])
def test_after_training_every_layer_keeps_its_bound(digits, coeff, decay):
    images, labels = digits
    model = spectral_normalize(digits_network(), coeff, example_input=images[:1])
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 6], 0.1 if decay else 1.0)
    for _ in range(8):
        for rows in torch.randperm(1500).split(50):
            optimizer.zero_grad()
            cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
        schedule.step()
    model.eval()
    assert (model(images[1500:]).argmax(1) == labels[1500:]).float().mean() > 0.9

    free, bounded = (
        {
            name: largest_singular_value(layer, weight_of(layer), size)
            for name, size in DIGITS_SIZES.items()
            for layer in [model.get_submodule(name)]
        }
        for weight_of in (original_of, lambda layer: layer.weight)
    )
    assert max(bounded.values()) <= coeff * 1.02
    held = [name for name, sigma in free.items() if sigma > coeff * 1.05]
    assert len(held) == 6 if coeff == 1 else 1 <= len(held) <= 3
    assert all(bounded[name] >= coeff * 0.98 for name in held)
    assert spectral_norms(model) == pytest.approx(bounded, rel=2e-3)


def test_a_state_dict_goes_into_another_model_that_was_normalised_alike():
    model, other = normalized_network(), normalized_network()
    for _ in range(3):
        model(IMAGES + torch.rand_like(IMAGES))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(IMAGES), model.eval()(IMAGES))
    # and on with the same training
    assert torch.equal(other.train()(IMAGES), model.train()(IMAGES))


def test_a_deep_copy_is_independent():
    model = normalized_network().eval()
    duplicate = copy.deepcopy(model)
    before = model(IMAGES)
    assert torch.equal(duplicate(IMAGES), before)
    with torch.no_grad():
        for parameter in duplicate.parameters():
            parameter.add_(1)
    duplicate.train()(IMAGES)
    assert torch.equal(model(IMAGES), before)
    assert not torch.equal(duplicate.eval()(IMAGES), before)


def test_a_normalised_model_moves_with_its_singular_vectors():
    model = normalized_network().double()
    assert {buffer.dtype for buffer in buffers_of(model).values()} == {torch.float64}
    assert model(IMAGES.double()).dtype == torch.float64


def test_pickling_is_refused_until_the_normalisation_is_removed():
    model = normalized_network()
    with pytest.raises(RuntimeError, match="only supported through state_dict"):
        pickle.dumps(model)
    pickle.dumps(remove_spectral_normalization(model))


@pytest.mark.parametrize("training", [True, False])
def test_removal_leaves_plain_layers_with_the_weights_of_eval_mode(training):
    plain = small_network()
    model = normalized_network()
    model(IMAGES)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    expected = model.eval()(IMAGES)
    weights = [original_of(model[index]) for index in (0, 3, 5)]
    model.train(training)
    assert remove_spectral_normalization(model) is model
    assert all(module.training is training for module in model.modules())
    assert torch.equal(model.eval()(IMAGES), expected)
    assert [type(layer) for layer in model] == [type(layer) for layer in plain]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert repr(model) == repr(plain)
    for weight, index in zip(weights, (0, 3, 5), strict=True):
        assert model[index].weight is weight
        assert any(weight is held for held in optimizer.param_groups[0]["params"])
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain.eval()(IMAGES), expected)


@pytest.mark.parametrize("remove_from_the_copy", [True, False])
def test_removal_does_not_touch_copies(remove_from_the_copy):
    model = normalized_network().eval()
    expected = model(IMAGES)
    changed, kept = copy.deepcopy(model), model
    if not remove_from_the_copy:
        changed, kept = kept, changed
    remove_spectral_normalization(changed)
    assert torch.equal(kept(IMAGES), expected)
    assert len(buffers_of(kept)) == 6
    kept.train()(IMAGES).sum().backward()
    assert original_of(kept[0]).grad is not None
    assert torch.equal(changed(IMAGES), expected)
    remove_spectral_normalization(kept)
    assert type(kept[0]) is type(changed[0]) is nn.Conv2d


class Doubled(nn.Module):
    def forward(self, value):
        return 2 * value


def test_parametrizations_of_other_tensors_stay():
    model = small_network()
    parametrize.register_parametrization(model[0], "bias", Doubled())
    expected = model.eval()(IMAGES)
    spectral_normalize(model, 1e3, example_input=IMAGES)
    assert torch.equal(model(IMAGES), expected)
    duplicate = copy.deepcopy(model)
    remove_spectral_normalization(model)
    assert parametrize.is_parametrized(model[0], "bias")
    assert not parametrize.is_parametrized(model[0], "weight")
    assert torch.equal(model(IMAGES), expected)
    assert torch.equal(duplicate(IMAGES), expected)
    parametrize.remove_parametrizations(model[0], "bias")
    assert type(model[0]) is nn.Conv2d
    assert torch.equal(duplicate(IMAGES), expected)


def test_removal_refuses_a_weight_that_others_have_parametrized_since():
    model = normalized_network()
    parametrize.register_parametrization(model[5], "weight", Doubled())
    expected = model.eval()(IMAGES)
    with pytest.raises(
        ValueError, match=r"module: layer '5' \(Linear\) has another parametrization"
    ):
        remove_spectral_normalization(model)
    assert parametrize.is_parametrized(model[0], "weight")
    assert torch.equal(model(IMAGES), expected)


def test_removal_without_any_normalisation_changes_nothing():
    model = small_network().eval()
    expected = model(IMAGES)
    assert torch.equal(remove_spectral_normalization(model)(IMAGES), expected)


@pytest.mark.parametrize(
    ("architecture", "count", "strided"),
    [("resnet18", 21, "layer4.0.conv1"), ("resnet50", 54, "layer4.0.conv2")],
)
def test_torchvision_resnets(architecture, count, strided):
    images = torch.rand(2, 3, 32, 32)
    build = getattr(torchvision.models, architecture)
    model = spectral_normalize(build(), 0.7, example_input=images[:1])
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(layers) == count
    assert all(parametrize.is_parametrized(layer, "weight") for layer in layers)
    cross_entropy(model(images), torch.tensor([3, 5])).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    expected = model.eval()(images)
    norms = spectral_norms(model)
    assert len(norms) == count
    assert max(norms.values()) <= 0.7 * 1.01
    # The last stage goes from 2 x 2 to one entry, so that few taps of a kernel meet the image.
    for name, taps in [(strided, slice(1, 3)), ("layer4.1.conv2", slice(1, 2))]:
        matrix = model.get_submodule(name).weight.detach()[:, :, taps, taps].flatten(1)
        exact = torch.linalg.svdvals(matrix)[0].item()
        assert norms[name] == pytest.approx(exact, rel=0.01)

    other = spectral_normalize(build(), 0.7, example_input=images[:1])
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images), expected)
    duplicate = copy.deepcopy(model)
    remove_spectral_normalization(duplicate)
    assert torch.equal(duplicate(images), expected)
    assert torch.equal(model(images), expected)
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(model)
    pickle.dumps(duplicate)


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


def test_norms_of_a_plain_model_say_which_layers_a_bound_would_touch():
    model = small_network()
    exact = {
        "0": largest_singular_value(model[0], model[0].weight, (5, 5)),
        "3": largest_singular_value(model[3], model[3].weight, (5, 5)),
        "5": largest_singular_value(model[5], model[5].weight, (100,)),
    }
    assert spectral_norms(model, example_input=IMAGES) == pytest.approx(exact, rel=2e-3)
    with pytest.raises(ValueError, match=r"example_input is needed .*'0' \(Conv2d\)"):
        spectral_norms(model)


def test_norms_at_another_size_than_the_one_that_is_bounded():
    model = spectral_normalize(nn.Conv2d(2, 2, 3), 0.5, example_input=torch.rand(1, 2, 4, 4))
    larger = torch.rand(1, 2, 9, 9)
    exact = largest_singular_value(model, model.eval().weight, (9, 9))
    assert exact > 0.55
    assert spectral_norms(model)[""] == pytest.approx(0.5, rel=0.01)
    assert spectral_norms(model, example_input=larger)[""] == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize("example_input", [None, IMAGES])
def test_measuring_norms_leaves_the_model_and_the_random_state_alone(example_input):
    model = normalized_network()
    model[1].eval()
    before, state = snapshot(model), torch.get_rng_state()
    norms = spectral_norms(model, example_input=example_input)
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert spectral_norms(model, example_input=example_input) == norms


def snapshot(model):
    return (
        [type(module) for module in model.modules()],
        [module.training for module in model.modules()],
        [len(module._forward_hooks) for module in model.modules()],
        [list(module._parameters) for module in model.modules()],
        [id(parameter) for parameter in model.parameters()],
        {name: value.detach().clone() for name, value in tensors(model).items()},
    )


def tensors(model):
    return {
        name: value
        for name, value in [*model.named_parameters(), *model.named_buffers()]
        if not nn.parameter.is_lazy(value) and not value.is_meta
    }


def same(one, other):
    *settings, values = one
    *other_settings, other_values = other
    return (
        settings == other_settings
        and values.keys() == other_values.keys()
        and all(
            torch.equal(values[name].nan_to_num(7), other_values[name].nan_to_num(7))
            for name in values
        )
    )


def with_second(layer, call=True):
    """A model whose first layer is fine and whose second is the given one."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.fine = nn.Conv2d(1, 1, 3, padding=1)
            self.other = layer

        def forward(self, images):
            images = self.fine(images)
            return self.other(images) if call else images

    return Model()


def tied():
    model = with_second(nn.Conv2d(1, 1, 3))
    model.other.weight = model.fine.weight
    return model


def embedding_tied():
    model = with_second(nn.Linear(5, 7))
    model.embedding = nn.Embedding(7, 5)
    model.embedding.weight = model.other.weight
    return model


def filled(value):
    layer = nn.Linear(5, 2)
    nn.init.constant_(layer.weight, value)
    return layer


def half_normalized():
    return with_second(spectral_normalize(nn.Linear(5, 2)))


def pruned():
    return with_second(prune.l1_unstructured(nn.Linear(5, 2), "weight", 0.5))


REFUSED = {
    "normalised already": (half_normalized, r"'other' \(Linear\) is spectrally normalised already"),
    "parametrized": (
        lambda: with_second(parametrizations.weight_norm(nn.Linear(5, 2))),
        r"'other' \(Linear\) has a weight that something else computes",
    ),
    "weight norm by hooks": (
        lambda: with_second(weight_norm(nn.Linear(5, 2))),
        r"'other' \(Linear\) has a weight that something else computes",
    ),
    "pruned": (pruned, r"'other' \(Linear\) has a weight that something else computes"),
    "tied": (tied, r"'fine' \(Conv2d\) shares its weight between fine\.weight and other\.weight"),
    "tied to an embedding": (
        embedding_tied,
        r"'other' \(Linear\) shares its weight between other\.weight and embedding\.weight",
    ),
    "lazy": (lambda: with_second(nn.LazyConv2d(2, 3)), r"'other\.weight' has no values yet"),
    "lazy batch norm": (
        lambda: with_second(nn.LazyBatchNorm2d()),
        r"'other\.weight' has no values yet",
    ),
    "on the meta device": (
        lambda: with_second(nn.Linear(5, 2, device="meta")),
        r"'other\.weight' has no values yet",
    ),
    "NaN": (
        lambda: with_second(filled(float("nan"))),
        r"'other' \(Linear\) must have a weight of finite real numbers.*with 10 entries",
    ),
    "infinite": (
        lambda: with_second(filled(float("inf"))),
        r"'other' \(Linear\) must have a weight of finite real numbers.*with 10 entries",
    ),
    "complex": (
        lambda: with_second(nn.Linear(5, 2, dtype=torch.complex64)),
        r"'other' \(Linear\) must have a weight of finite real numbers.*complex64",
    ),
    "empty": (
        lambda: with_second(nn.Linear(0, 2)),
        r"'other' \(Linear\) must have a weight of finite real numbers.*\(2, 0\)",
    ),
    "other padding": (
        lambda: with_second(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")),
        r"'other' \(Conv2d\) has padding_mode='circular'; expected 'zeros'",
    ),
    "never called": (
        lambda: with_second(nn.Conv2d(1, 1, 3), call=False),
        r"example_input: .* never calls layer 'other' \(Conv2d\)",
    ),
    "failing": (
        lambda: with_second(nn.Linear(9, 2)),
        "example_input: the forward pass on it failed",
    ),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", list(REFUSED))
def test_refusals_name_the_layer_and_leave_the_model_as_it_was(name):
    build, message = REFUSED[name]
    model = build()
    before, state = snapshot(model), torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        spectral_normalize(model, example_input=torch.ones(1, 1, 5, 5))
    assert same(snapshot(model), before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"coeff": 0}, ValueError, r"coeff must be a finite number in \(0, inf\), got 0"),
        ({"coeff": -1.0}, ValueError, "coeff must be"),
        ({"coeff": float("nan")}, ValueError, "coeff must be a finite number"),
        ({"coeff": float("inf")}, ValueError, "coeff must be a finite number"),
        ({"coeff": "4"}, TypeError, "coeff must be a number, got str"),
        ({"coeff": True}, TypeError, "coeff must be a number, got bool"),
        ({"n_power_iterations": 0}, ValueError, "n_power_iterations must be"),
        ({"n_power_iterations": 1.5}, TypeError, "n_power_iterations must be an int, got float"),
        ({"example_input": None}, ValueError, r"example_input is needed .*'0' \(Conv2d\)"),
        ({"example_input": [IMAGES]}, TypeError, r"example_input must be .*got list"),
        ({"module": nn.ReLU()}, ValueError, "module must hold a linear or convolutional layer"),
        ({"module": torch.relu}, TypeError, r"module must be an nn\.Module, got builtin"),
    ],
)
def test_arguments_are_checked(arguments, error, message):
    model = small_network()
    before = snapshot(model)
    arguments = {"module": model, "example_input": IMAGES} | arguments
    with pytest.raises(error, match=message):
        spectral_normalize(arguments.pop("module"), **arguments)
    assert same(snapshot(model), before)


@pytest.mark.parametrize("function", [remove_spectral_normalization, spectral_norms])
def test_other_functions_refuse_what_is_no_module(function):
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got str"):
        function("model")


def test_freezing_refuses_what_is_no_module():
    with pytest.raises(TypeError, match=r"module must be an nn\.Module, got str"):
        frozen_spectral_weights("model").__enter__()


def test_the_settings_show_in_the_printed_model():
    assert "SpectralBound(coeff=0.5, n_power_iterations=2)" in repr(
        normalized_network(n_power_iterations=2)
    )
