from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.spectral.operators import (
    Convolution,
    Matrix,
    directions,
    leading_vectors,
    lengths,
    power_iteration,
)
from tests.reference import convolution_matrix, transposed_convolution_matrix


def plain(in_channels, out_channels, size, kernel, *, groups=1, stride, padding, dilation, end):
    """An operator with a random weight, and its matrix; `end` pads the last dimension first."""
    weight = torch.randn(out_channels, in_channels // groups, *kernel, dtype=torch.float64)
    before_after = tuple((p, p + e) for p, e in zip(padding, reversed(end), strict=True))
    matrix = convolution_matrix(
        weight.numpy(), size, stride=stride, padding=before_after, dilation=dilation, groups=groups
    )
    result = tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, before_after, dilation, kernel, stride, strict=True)
    )
    zeros = (0,) * len(size)
    operator = Convolution(
        groups=groups,
        input_shape=(in_channels, *size),
        output_shape=(out_channels, *result),
        stride=stride,
        padding=padding,
        dilation=dilation,
        transposed=False,
        output_padding=zeros,
        margins=tuple((0, extra) for extra in reversed(end)),
    )
    return operator, weight, matrix


def transposed(
    in_channels, out_channels, size, kernel, *, groups=1, stride, padding, dilation, extra
):
    weight = torch.randn(in_channels, out_channels // groups, *kernel, dtype=torch.float64)
    matrix = transposed_convolution_matrix(
        weight.numpy(),
        size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        output_padding=extra,
        groups=groups,
    )
    result = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(size, stride, padding, dilation, kernel, extra, strict=True)
    )
    operator = Convolution(
        groups=groups,
        input_shape=(in_channels, *size),
        output_shape=(out_channels, *result),
        stride=stride,
        padding=padding,
        dilation=dilation,
        transposed=True,
        output_padding=extra,
        margins=((0, 0),) * len(size),
    )
    return operator, weight, matrix


OPERATORS = {
    "one dimension": lambda: plain(
        2, 3, (9,), (4,), stride=(2,), padding=(1,), dilation=(1,), end=(0,)
    ),
    "two dimensions, nothing alike": lambda: plain(
        4, 6, (7, 5), (3, 2), groups=2, stride=(2, 1), padding=(2, 0), dilation=(1, 2), end=(0, 0)
    ),
    "zeros at the end only": lambda: plain(
        2, 2, (6, 5), (2, 4), stride=(1, 1), padding=(0, 1), dilation=(1, 1), end=(1, 1)
    ),
    "zeros at the end of the last dimension": lambda: plain(
        2, 3, (6, 5), (3, 4), stride=(1, 1), padding=(1, 1), dilation=(1, 1), end=(1, 0)
    ),
    "a stride that leaves inputs out": lambda: plain(
        1, 2, (7, 7), (2, 2), stride=(4, 3), padding=(0, 0), dilation=(1, 1), end=(0, 0)
    ),
    "three dimensions": lambda: plain(
        2,
        2,
        (3, 4, 3),
        (2, 3, 1),
        stride=(1, 2, 1),
        padding=(1, 1, 0),
        dilation=(1, 1, 1),
        end=(0, 0, 0),
    ),
    "transposed": lambda: transposed(
        4, 6, (3, 4), (3, 2), groups=2, stride=(2, 3), padding=(1, 0), dilation=(1, 2), extra=(1, 2)
    ),
    "transposed, longer than its stride needs": lambda: transposed(
        2, 3, (4,), (3,), stride=(1,), padding=(1,), dilation=(3,), extra=(2,)
    ),
    "transposed, three dimensions": lambda: transposed(
        2,
        1,
        (2, 3, 2),
        (2, 2, 3),
        stride=(2, 1, 2),
        padding=(0, 1, 1),
        dilation=(1, 1, 1),
        extra=(1, 0, 0),
    ),
}


@pytest.fixture(params=list(OPERATORS))
def convolution(request):
    return OPERATORS[request.param]()


def by_group(operator, matrix):
    """The matrices of the groups, after checking that nothing lies outside them."""
    (groups, rows), (_, columns) = operator.range, operator.domain
    blocks = matrix.reshape(groups, rows, groups, columns)
    outside = blocks.copy()
    outside[range(groups), :, range(groups)] = 0
    assert not outside.any()
    return blocks[range(groups), :, range(groups)]


def test_a_convolution_and_its_adjoint_are_the_matrix_written_out_and_its_transpose(convolution):
    operator, weight, matrix = convolution
    v = torch.randn(operator.domain, dtype=torch.float64)
    u = torch.randn(operator.range, dtype=torch.float64)
    torch.testing.assert_close(
        operator(weight, v).flatten(), torch.from_numpy(matrix) @ v.flatten()
    )
    torch.testing.assert_close(
        operator.adjoint(weight, u).flatten(), torch.from_numpy(matrix).T @ u.flatten()
    )


def test_a_matrix_and_its_adjoint_multiply_each_group_by_its_own_block():
    weight = torch.randn(6, 4, dtype=torch.float64)
    operator = Matrix(groups=3, rows=2, columns=4)
    v, u = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    for group in range(3):
        block = weight[2 * group : 2 * group + 2]
        torch.testing.assert_close(operator(weight, v)[group], block @ v[group])
        torch.testing.assert_close(operator.adjoint(weight, u)[group], block.T @ u[group])


def test_leading_vectors_are_those_of_the_singular_value_decomposition(convolution):
    operator, weight, matrix = convolution
    start = torch.randn(operator.domain, dtype=torch.float64)
    v = leading_vectors(operator, weight, start)
    torch.testing.assert_close(v.norm(dim=1), torch.ones(operator.groups, dtype=torch.float64))
    found = operator(weight, v).norm(dim=1).numpy()
    exact = np.linalg.svd(by_group(operator, matrix), compute_uv=False)[:, 0]
    np.testing.assert_allclose(found, exact, rtol=1e-3)
    assert (found <= exact * (1 + 1e-12)).all()


def test_leading_vectors_tell_near_ties_of_a_larger_convolution_apart():
    operator, weight, matrix = plain(
        2, 2, (16, 16), (3, 3), stride=(1, 1), padding=(1, 1), dilation=(1, 1), end=(0, 0)
    )
    exact = torch.linalg.svdvals(torch.from_numpy(matrix))
    assert exact[1] > 0.98 * exact[0]
    v = leading_vectors(operator, weight.float(), torch.randn(operator.domain))
    assert operator(weight.float(), v).norm().item() == pytest.approx(exact[0].item(), rel=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leading_vectors_of_a_space_smaller_than_the_iteration(dtype):
    # three inputs: the fourth Lanczos step has no direction left
    weight = torch.diag(torch.tensor([1.0, 5.0, 2.0], dtype=dtype))
    operator = Matrix(groups=1, rows=3, columns=3)
    v = leading_vectors(operator, weight, torch.ones(1, 3, dtype=dtype))
    expected = torch.tensor([[0.0, 1.0, 0.0]], dtype=dtype)
    torch.testing.assert_close(v.abs(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_leading_vectors_of_a_weight_without_any_are_the_start(value):
    start = torch.tensor([[3.0, 4.0]])
    v = leading_vectors(Matrix(1, 2, 2), torch.full((2, 2), value), start)
    torch.testing.assert_close(v, start / 5)


def test_a_power_iteration_of_a_convolution_is_one_product_with_either_matrix(convolution):
    operator, weight, matrix = convolution
    u = directions(torch.randn(operator.range, dtype=torch.float64), torch.zeros(()))
    v = torch.randn(operator.domain, dtype=torch.float64)
    new_u, new_v = power_iteration(operator, weight, u, v)
    for group, block in enumerate(by_group(operator, matrix)):
        expected_v = block.T @ u[group].numpy()
        expected_v /= np.linalg.norm(expected_v)
        expected_u = block @ expected_v
        expected_u /= np.linalg.norm(expected_u)
        np.testing.assert_allclose(new_v[group].numpy(), expected_v, atol=1e-12)
        np.testing.assert_allclose(new_u[group].numpy(), expected_u, atol=1e-12)


@pytest.mark.parametrize(("rows", "columns"), [(5, 300), (300, 5), (128, 128)])
def test_a_power_iteration_of_a_small_matrix_finds_a_direction_that_has_just_overtaken(
    rows, columns
):
    # orthogonal to the old leading pair but for rounding, and 5% larger
    left, _ = torch.linalg.qr(torch.randn(rows, 2, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, 2, dtype=torch.float64))
    weight = left @ torch.diag(torch.tensor([1.05, 1.0], dtype=torch.float64)) @ right.T
    u, v = left[:, 1:].T + 1e-9 * left[:, :1].T, right[:, 1:].T
    operator = Matrix(1, rows, columns)
    assert (u * operator(weight, v)).sum().item() == pytest.approx(1.0)
    u, v = power_iteration(operator, weight, u, v)
    assert (u * operator(weight, v)).sum().item() == pytest.approx(1.05, rel=1e-6)


def test_a_large_matrix_makes_one_power_iteration():
    weight = torch.randn(150, 140, dtype=torch.float64)
    u = torch.randn(1, 150, dtype=torch.float64)
    new_u, new_v = power_iteration(Matrix(1, 150, 140), weight, u, torch.randn(1, 140).double())
    expected = weight.T @ u[0]
    torch.testing.assert_close(new_v[0], expected / expected.norm())
    expected = weight @ new_v[0]
    torch.testing.assert_close(new_u[0], expected / expected.norm())


@pytest.mark.parametrize("broken", [0.0, float("nan"), float("inf")])
def test_directions_fall_back_row_by_row(broken):
    vectors = torch.tensor([[3.0, 4.0], [broken, broken]])
    fallback = torch.tensor([[9.0, 9.0], [0.6, 0.8]])
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8]])
    torch.testing.assert_close(directions(vectors, fallback), expected)


@pytest.mark.parametrize("operator", [Matrix(1, 2, 3), Matrix(1, 200, 200)])
def test_power_iterations_survive_a_weight_that_is_zero_for_a_while(operator):
    u, v = torch.randn(operator.range), torch.randn(operator.domain)
    zero = torch.zeros(operator.rows, operator.columns)
    same_u, same_v = power_iteration(operator, zero, u, v)
    assert torch.equal(same_u, u)
    assert torch.equal(same_v, v)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e9, 1e30])
def test_vectors_are_the_leading_ones_whatever_the_units_of_a_weight(scale):
    settings = {"stride": (1, 1), "padding": (0, 1), "dilation": (1, 1), "end": (0, 0)}
    operator, weight, matrix = plain(2, 3, (4, 5), (1, 3), **settings)
    weight = (weight * scale).float()
    largest = np.linalg.svd(matrix, compute_uv=False)[0] * scale
    v = leading_vectors(operator, weight, torch.randn(operator.domain))
    assert lengths(operator(weight, v)).item() == pytest.approx(largest, rel=1e-3)
    u, v = torch.randn(operator.range), torch.randn(operator.domain)
    u, v = (directions(vectors, vectors) for vectors in (u, v))
    for _ in range(200):
        u, v = power_iteration(operator, weight, u, v)
    assert (u * operator(weight, v)).sum().item() == pytest.approx(largest, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e9, 1e30])
def test_many_powers_know_no_units(scale):
    matrices, u = torch.randn(1, 6, 4), torch.randn(1, 6)
    operator = Matrix(1, 6, 4)
    v = operator.adjoint(matrices * scale, operator.many_powers(matrices * scale, u))
    expected = torch.linalg.svd(matrices.double())[2][0, 0]
    assert abs(directions(v, v)[0] @ expected.float()).item() == pytest.approx(1, rel=1e-5)
