from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.density.class_scatters import ClassScatters
from tests.reference import class_scatter

D = 4


def samples(n: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, D, dtype=torch.float64, generator=generator) + 7
    weight = torch.rand(n, dtype=torch.float64, generator=generator) + 0.3
    mean, scatter = class_scatter(features.numpy(), weight.numpy())
    return features, weight, torch.from_numpy(mean), scatter


@pytest.mark.parametrize("n", [1, D, D + 1, 20])
def test_scatter_is_the_same_of_samples_and_of_matrices(n):
    features, weight, mean, expected = samples(n)
    scatters = ClassScatters(D)
    scatters.add_samples(3, features, weight, mean, torch.float64)
    assert len(scatters) == 1
    assert scatters.classes() == [3]
    assert bool(scatters.matrices) == (n > D)
    np.testing.assert_allclose(scatters.scatter(3, mean), expected, atol=1e-12)
    np.testing.assert_allclose(scatters.trace(3, mean), np.trace(expected), atol=1e-12)
    assert not scatters.scatter(0, mean).any()
    if n <= D:
        deviations = scatters.deviations(3, mean)
        np.testing.assert_allclose(deviations.T @ deviations, expected, atol=1e-12)


def test_samples_are_kept_in_their_precision_and_are_copies():
    features, weight, mean, expected = samples(3)
    scatters = ClassScatters(D)
    scatters.add_samples(0, features, weight, mean, torch.float64)
    scatters.add_samples(1, features.float().double(), weight, mean, torch.float32)
    features.zero_()
    weight.zero_()
    np.testing.assert_allclose(scatters.scatter(0, mean), expected, atol=1e-12)
    np.testing.assert_allclose(scatters.scatter(1, mean), expected, atol=1e-5)
    assert scatters.nbytes == 3 * D * (8 + 4) + 2 * 3 * 8


def test_the_pooled_scatter_is_the_sum_of_all():
    scatters, means, total = ClassScatters(D), torch.zeros(9, D, dtype=torch.float64), 0
    for index, n in {0: 2, 2: 30, 3: 3, 5: 4, 7: 1, 8: 11}.items():
        features, weight, mean, scatter = samples(n, seed=index)
        means[index] = mean
        scatters.add_samples(index, features, weight, mean, torch.float64)
        total = total + scatter
    np.testing.assert_allclose(scatters.pooled(means), total, atol=1e-11)
    loaded = ClassScatters(D)
    loaded.load(scatters.state(means))
    assert loaded.classes() == scatters.classes()
    assert loaded.nbytes == scatters.nbytes
    assert torch.equal(loaded.pooled(means), scatters.pooled(means))
    loaded.map(torch.zeros_like)
    assert not loaded.pooled(means).any()
    assert scatters.pooled(means).any()


@pytest.mark.parametrize("own", [0, 2, 20])
def test_a_matrix_is_added_to_samples_or_another_matrix(own):
    features, weight, mean, expected = samples(own + 15)
    parts = [slice(0, own), slice(own, None)]
    scatters, moments = ClassScatters(D), []
    for rows in parts:
        part = weight[rows]
        moments.append((part.sum(), *class_scatter(features[rows].numpy(), part.numpy())))
    (first, own_mean, _), (second, other_mean, matrix) = moments
    if own:
        scatters.add_samples(
            0, features[:own], weight[:own], torch.from_numpy(own_mean), torch.float64
        )
        apart = torch.from_numpy(other_mean - own_mean)
    else:
        own_mean, apart = np.zeros(D), torch.zeros(D).double()
    between = (apart * (first * second / (first + second)).sqrt()).unsqueeze(0)
    scatters.add_matrix(0, torch.from_numpy(matrix), between, torch.from_numpy(own_mean))
    np.testing.assert_allclose(scatters.scatter(0, mean), expected, atol=1e-11)
    assert not scatters.rows


@pytest.mark.parametrize("n", [1, D, D + 1, 20])
@pytest.mark.parametrize("others", [0, 1, D, D + 1])
def test_deviations_are_kept_until_their_matrix_is_smaller(n, others):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n + others, D, dtype=torch.float64, generator=generator)
    none = torch.zeros((), dtype=torch.float64)
    mine, other = ClassScatters(D), ClassScatters(D)
    for part in rows[:n].split(3):
        mine.add_deviations(2, part)
    for part in rows[n:].split(1):
        other.add_deviations(2, part)
    assert bool(mine.matrices) == (n > D)
    assert mine.nbytes <= D * (D + 1) * 8
    expected = rows[:n].T @ rows[:n]
    torch.testing.assert_close(mine.scatter(2, none), expected)
    mine.merge_deviations(2, other, rows.device)
    torch.testing.assert_close(mine.scatter(2, none), rows.T @ rows)
    assert mine.nbytes <= D * (D + 1) * 8
    mine.merge_deviations(2, mine, rows.device)
    torch.testing.assert_close(mine.scatter(2, none), 2 * rows.T @ rows)
