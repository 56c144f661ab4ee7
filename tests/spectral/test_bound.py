from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from captum_deduce.spectral import spectral_normalize, spectral_norms
from tests.spectral.networks import (
    IMAGES,
    bound_of,
    buffers_of,
    example,
    largest_singular_value,
    matrix_of,
    normalized_network,
    original_of,
    same,
    snapshot,
)


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


def test_the_settings_show_in_the_printed_model():
    assert "SpectralBound(coeff=0.5, n_power_iterations=2)" in repr(
        normalized_network(n_power_iterations=2)
    )


def of_given_norm(layer, size, norm):
    """A weight for a layer, drawn anew, whose operator has a given norm."""
    weight = torch.randn_like(original_of(layer).detach())
    return weight * (norm / largest_singular_value(layer, weight, size))


@pytest.mark.parametrize("training", [True, False])
def test_an_assigned_weight_within_the_bound_is_kept_exactly(layer_and_size, training):
    layer, size = layer_and_size
    spectral_normalize(layer, 0.7, example_input=example(layer, size)).train(training)
    parameter = original_of(layer)
    weight = of_given_norm(layer, size, 0.69)
    layer.weight = weight
    assert torch.equal(layer.weight, weight)
    assert original_of(layer) is parameter
    assert original_of(layer).requires_grad
    # a copy, as for copy_
    expected = weight.clone()
    weight.zero_()
    assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize("training", [True, False])
def test_an_assigned_weight_above_the_bound_is_scaled_to_it(layer_and_size, training):
    layer, size = layer_and_size
    spectral_normalize(layer, 0.7, example_input=example(layer, size)).train(training)
    weight = of_given_norm(layer, size, 3.0)
    layer.weight = weight
    torch.testing.assert_close(layer.weight.detach(), weight * (0.7 / 3), rtol=2e-3, atol=0)
    assert torch.equal(original_of(layer), weight)


def test_assigning_gives_what_normalising_a_plain_layer_with_that_weight_gives():
    plain, images = nn.Conv2d(2, 3, 3), torch.rand(1, 2, 6, 6)
    layer = spectral_normalize(nn.Conv2d(2, 3, 3), 0.1, example_input=images).eval()
    weight = torch.randn_like(plain.weight)
    with torch.no_grad():
        plain.weight.copy_(weight)
    state = torch.get_rng_state()
    layer.weight = weight
    assert torch.equal(torch.get_rng_state(), state)
    expected = spectral_normalize(plain, 0.1, example_input=images).eval().weight
    torch.testing.assert_close(layer.weight, expected, rtol=2e-3, atol=0)


def test_an_optimiser_goes_on_with_an_assigned_weight():
    layer = spectral_normalize(nn.Linear(3, 2), 10.0)
    optimizer = torch.optim.SGD(layer.parameters(), 0.5)
    layer.weight = torch.zeros(2, 3)
    (layer.weight * torch.arange(6.0).reshape(2, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(layer.weight.detach(), -0.5 * torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize("convert_first", [True, False])
def test_an_assigned_weight_takes_the_dtype_of_the_layer(convert_first):
    layer = nn.Linear(5, 4)
    if convert_first:
        layer = spectral_normalize(layer.half(), 4.0)
    else:
        layer = spectral_normalize(layer, 4.0).half()
    weight = torch.randint(-1, 2, (4, 5)).double() / 4
    layer.weight = weight
    assert layer.weight.dtype == original_of(layer).dtype == torch.float16
    assert torch.equal(layer.weight.double(), weight)


@pytest.mark.parametrize(
    ("weight", "error", "message"),
    [
        (torch.zeros(3, 2), ValueError, r"weight must have the shape .* \(2, 3\), got \(3, 2\)"),
        (torch.zeros(()), ValueError, r"weight must have the shape .* \(2, 3\), got \(\)"),
        (torch.full((2, 3), torch.nan), ValueError, "weight must be finite, got 6 entries"),
        ([[1.0, 2.0, 3.0]] * 2, TypeError, r"weight must be a torch\.Tensor, got list"),
    ],
)
def test_other_weights_are_refused_and_change_nothing(weight, error, message):
    layer = spectral_normalize(nn.Linear(3, 2), 0.1).eval()
    before = snapshot(layer)
    with pytest.raises(error, match=message):
        layer.weight = weight
    assert same(snapshot(layer), before)


def trained_without_and_with(checkpointed, uses=1):
    """Loss and gradient of a network whose weights have moved since its last step."""
    torch.manual_seed(0)
    body = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 6)),
    ).double()
    images = torch.rand(uses, 4, 3, 8, 8).double().requires_grad_()
    spectral_normalize(body, 0.3, example_input=images[0, :1].detach())
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    loss = sum((checkpointed(body, batch) ** 2).sum() for batch in images)
    vectors = buffers_of(body)
    loss.backward()
    assert all(torch.equal(vectors[name], now) for name, now in buffers_of(body).items())
    return loss.item(), torch.cat([parameter.grad.flatten() for parameter in body.parameters()])


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("segments", [None, 3])
def test_gradients_under_activation_checkpointing_are_those_without_it(use_reentrant, segments):
    def checkpointed(body, images):
        if segments is None:
            return checkpoint(body, images, use_reentrant=use_reentrant)
        return checkpoint_sequential(body, segments, images, use_reentrant=use_reentrant)

    loss, gradient = trained_without_and_with(lambda body, images: body(images))
    again, under_checkpointing = trained_without_and_with(checkpointed)
    assert again == loss
    torch.testing.assert_close(under_checkpointing, gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_several_uses_under_activation_checkpointing_take_the_last_vectors(use_reentrant):
    loss, gradient = trained_without_and_with(lambda body, images: body(images), uses=2)
    again, under_checkpointing = trained_without_and_with(
        lambda body, images: checkpoint(body, images, use_reentrant=use_reentrant), uses=2
    )
    assert again == loss
    assert (under_checkpointing - gradient).norm() < 0.05 * gradient.norm()


def test_training_goes_on_after_a_checkpointed_step():
    layer = spectral_normalize(nn.Conv2d(2, 3, 3), 0.1, example_input=torch.rand(1, 2, 6, 6))
    with torch.no_grad():
        original_of(layer).normal_()
    for _ in range(3):
        before = bound_of(layer).u.clone()
        checkpoint(layer, torch.rand(1, 2, 6, 6), use_reentrant=False).sum().backward()
        assert not torch.equal(bound_of(layer).u, before)


def test_a_compiled_model_trains_as_the_model_itself():
    torch.compiler.reset()
    model = normalized_network()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    for run in (model, compiled):
        parameters = list(run.parameters())
        for _ in range(3):
            gradients = torch.autograd.grad(run(IMAGES).square().sum(), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.sub_(0.1 * gradient)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other, parameter)
    for name, vectors in buffers_of(model).items():
        torch.testing.assert_close(buffers_of(twin)[name], vectors)
