"""Operators, norms and bounds of layers, against matrices that are written out."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from captum_deduce.spectral import (
    Convolution,
    directions,
    frozen_spectral_weights,
    layer_operators,
    remove_spectral_normalization,
    spectral_normalize,
    spectral_norms,
)
from tests.properties.strategies import normal, seeds, uniform
from tests.spectral.networks import bound_of, example, matrix_of, original_of

Layer = tuple[Any, tuple[int, ...]]


@st.composite
def layers(draw: st.DrawFn, *, dtype: torch.dtype = torch.float64) -> Layer:
    """A layer with weights in general position, and the spatial size of its input."""
    seed = draw(seeds)
    dims = draw(st.integers(0, 2))
    if dims == 0:
        layer = nn.Linear(draw(st.integers(1, 12)), draw(st.integers(1, 12)))
        size: tuple[int, ...] = (layer.in_features,)
    else:
        groups = draw(st.integers(1, 2))
        channels = [groups * draw(st.integers(1, 2)) for _ in range(2)]

        def each(low: int, high: int) -> tuple[int, ...]:
            return tuple(draw(st.integers(low, high)) for _ in range(dims))

        kernel, stride, dilation, padding = each(1, 3), each(1, 3), each(1, 2), each(0, 2)
        size = each(3, 6)
        settings: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups}
        transposed = draw(st.booleans())
        if transposed:
            settings["output_padding"] = tuple(
                draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
            )
            kind = nn.ConvTranspose1d if dims == 1 else nn.ConvTranspose2d
        else:
            mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
            settings["padding_mode"] = mode
            kind = nn.Conv1d if dims == 1 else nn.Conv2d
        layer = kind(*channels, kernel, padding=padding, **settings)
    with torch.no_grad():
        layer.weight.copy_(normal(seed, *layer.weight.shape))
    layer.to(dtype)
    try:
        outputs = layer(example(layer, size).to(dtype))
    except RuntimeError:  # a kernel that is larger than the padded signal
        assume(False)
    assume(outputs.numel() > 0)
    return layer, size


def dense(layer: Any, size: tuple[int, ...]) -> np.ndarray:
    return matrix_of(layer, layer.weight, size)


def largest(layer: Any, size: tuple[int, ...]) -> float:
    return float(np.linalg.svd(dense(layer, size), compute_uv=False)[0])


@given(layers(), seeds)
def test_an_operator_is_the_layers_matrix_and_its_adjoint_the_transposed(found, seed):
    layer, size = found
    inputs = example(layer, size).double()
    (operator,) = layer_operators(layer, {"": layer}, inputs).values()
    matrix = torch.from_numpy(dense(layer, size))
    v, u = normal(seed, *operator.domain), normal(seed + 1, *operator.range)
    image, back = operator(layer.weight, v), operator.adjoint(layer.weight, u)
    if isinstance(operator, Convolution):  # else it is the matrix of one position
        torch.testing.assert_close(image.flatten(), matrix @ v.flatten(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(back.flatten(), matrix.T @ u.flatten(), rtol=1e-9, atol=1e-9)
    assert (image * u).sum().item() == pytest.approx((back * v).sum().item(), abs=1e-9)


@given(layers(), st.integers(-30, 30))
def test_measured_norms_are_the_largest_singular_values(found, power):
    layer, size = found
    with torch.no_grad():
        layer.weight.mul_(2.0**power)
    (norm,) = spectral_norms(layer, example_input=example(layer, size).double()).values()
    assert norm == pytest.approx(largest(layer, size), rel=1e-3)


@given(layers(dtype=torch.float32), st.integers(-100, 100))
def test_norms_of_single_precision_know_no_units(found, power):
    """Products of weights leave the range of float32 long before the weights do."""
    layer, size = found
    with torch.no_grad():
        layer.weight.mul_(2.0**power)
    (norm,) = spectral_norms(layer, example_input=example(layer, size)).values()
    assert norm == pytest.approx(largest(layer, size), rel=2e-3)


@given(layers(), st.floats(0.05, 20.0))
def test_a_bound_holds_and_leaves_what_is_within_it(found, coeff):
    layer, size = found
    before, sigma = layer.weight.detach().clone(), largest(layer, size)
    spectral_normalize(layer, coeff, example_input=example(layer, size).double()).eval()
    after = layer.weight.detach()
    if sigma < coeff * (1 - 1e-3):
        assert torch.equal(after, before)
    ratio = max(1.0, sigma / coeff)
    torch.testing.assert_close(after * ratio, before, rtol=2e-3, atol=1e-9)
    # Scaled as a whole.
    assert (
        torch.linalg.matrix_rank(torch.stack([after.flatten(), before.flatten()]), rtol=1e-9) <= 1
    )
    assert largest(layer, size) <= max(coeff * (1 + 2e-3), 0)


@given(layers(dtype=torch.float32), st.integers(-100, 100))
def test_a_bound_in_single_precision_knows_no_units(found, power):
    layer, size = found
    with torch.no_grad():
        layer.weight.mul_(2.0**power)
    coeff = 0.5 * largest(layer, size)
    spectral_normalize(layer, coeff, example_input=example(layer, size)).train()
    for _ in range(3):
        layer.weight  # noqa: B018  # each access makes a power iteration
    assert largest(layer, size) == pytest.approx(coeff, rel=1e-2)


@given(layers(), seeds)
def test_training_mode_and_frozen_weights_keep_the_bound(found, seed):
    layer, size = found
    inputs = example(layer, size).double()
    coeff = 0.7 * largest(layer, size)
    spectral_normalize(layer, coeff, example_input=inputs).train()
    with torch.no_grad():
        original_of(layer).add_(normal(seed, *original_of(layer).shape))
        # From anywhere: the vectors of the weight before may be those of a symmetry of the kernel,
        # to which those of the new weight are at a right angle.
        bound = bound_of(layer)
        bound.u.copy_(directions(normal(seed + 1, *bound.u.shape), bound.u))
        bound.v.copy_(directions(normal(seed + 2, *bound.v.shape), bound.v))
    for _ in range(200):
        layer.weight  # noqa: B018  # each access makes a power iteration
    layer.eval()
    assert largest(layer, size) <= coeff * (1 + 2e-2)
    weight = layer.weight.detach()
    with frozen_spectral_weights(layer):
        assert torch.equal(layer.weight, weight)


@given(layers(), st.floats(0.05, 20.0), seeds)
def test_taking_a_bound_off_changes_no_output(found, coeff, seed):
    layer, size = found
    inputs = uniform(seed, *example(layer, size).shape)
    spectral_normalize(layer, coeff, example_input=inputs).eval()
    plain = remove_spectral_normalization(copy.deepcopy(layer))
    assert torch.equal(layer(inputs), plain(inputs))
    assert torch.equal(plain.weight, layer.weight)


@given(layers(), st.floats(0.05, 20.0))
def test_a_plain_state_dict_loads_as_if_it_had_been_normalised(found, coeff):
    layer, size = found
    inputs = example(layer, size).double()
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight.copy_(other.weight.flip(0) * 3)
    normalised = spectral_normalize(copy.deepcopy(layer), coeff, example_input=inputs).eval()
    normalised.load_state_dict(other.state_dict())
    ratio = max(1.0, largest(other, size) / coeff)
    torch.testing.assert_close(normalised.weight * ratio, other.weight, rtol=2e-3, atol=1e-9)
    stored = spectral_normalize(copy.deepcopy(layer), coeff, example_input=inputs).eval()
    stored.load_state_dict(normalised.state_dict())
    assert torch.equal(stored.weight, normalised.weight)
    assert torch.equal(bound_of(stored).u, bound_of(normalised).u)
