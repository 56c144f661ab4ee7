"""Nearest rows against sorting all distances with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.prototypes.neighbours import nearest_rows


def by_sorting(queries: torch.Tensor, rows: torch.Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All distances from differences, in float64; a stable sort, so that first rows win ties."""
    a, b = queries.double().numpy(), rows.double().numpy()
    distances = np.sqrt(((a[:, None] - b[None]) ** 2).sum(2))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), order


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_size", [1, 7, 50, 4096])
@pytest.mark.parametrize("k", [1, 5, 50])
def test_equals_sorting_all_distances(dtype, chunk_size, k):
    queries, rows = torch.randn(8, 6, dtype=dtype), torch.randn(50, 6, dtype=dtype)
    distances, indices = nearest_rows(queries, rows, k, chunk_size)
    expected_distances, expected_indices = by_sorting(queries, rows, k)
    np.testing.assert_array_equal(indices.numpy(), expected_indices)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    np.testing.assert_allclose(distances.numpy(), expected_distances, rtol=tolerance)
    assert distances.dtype == dtype


@pytest.mark.parametrize("chunk_size", [2, 3, 64])
def test_the_first_rows_win_ties(chunk_size):
    """Points of a small integer grid, many of them twice: all sums are exact, ties abound."""
    points = torch.cartesian_prod(*[torch.arange(3.0)] * 3)
    rows = torch.cat([points, points.flip(0)])
    queries = torch.tensor([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
    for k in (1, 4, 9, 30):
        _, indices = nearest_rows(queries, rows, k, chunk_size)
        np.testing.assert_array_equal(indices.numpy(), by_sorting(queries, rows, k)[1])


def test_neighbours_do_not_depend_on_the_other_queries():
    queries, rows = torch.randn(40, 30), torch.randn(500, 30)
    together = nearest_rows(queries, rows, 5)
    for i in range(0, 40, 7):
        alone = nearest_rows(queries[i : i + 1], rows, 5)
        assert torch.equal(alone[1][0], together[1][i])
        torch.testing.assert_close(alone[0][0], together[0][i], rtol=1e-6, atol=0)


def test_rows_far_from_the_origin_are_told_apart():
    """Where squares in float32 would cancel: 1e4 from the origin, distances of about .01."""
    rows = (1e4 + 0.01 * torch.randn(100, 4, dtype=torch.float64)).float()
    _, indices = nearest_rows(rows[:10], rows, 3)
    assert indices[:, 0].tolist() == by_sorting(rows[:10], rows, 1)[1][:, 0].tolist()
    np.testing.assert_array_equal(indices.numpy(), by_sorting(rows[:10], rows, 3)[1])


def test_a_query_that_is_a_row_is_at_distance_0():
    rows = torch.randn(20, 9)
    distances, indices = nearest_rows(rows[4:5], rows, 2)
    assert indices[0, 0] == 4
    assert distances[0, 0] == 0
