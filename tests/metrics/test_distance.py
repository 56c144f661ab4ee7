"""Distances against NumPy, image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce import metrics


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    inputs = torch.rand(5, 3, 4, 6)
    changed = inputs.clone()
    changed[0, 0, 0, 0] += 0.5
    changed[1] -= torch.rand(3, 4, 6)
    changed[2, :, 1, 2] = 0.25
    changed[3, 2, 3, 5] += 1e-4
    return inputs, changed


def test_distances_are_those_of_numpy(pair):
    inputs, changed = pair
    for i, difference in enumerate((changed - inputs).numpy().reshape(5, -1)):
        assert metrics.l0(*pair)[i] == np.count_nonzero(difference)
        assert metrics.l0(*pair, tolerance=1e-3)[i] == np.sum(np.abs(difference) > 1e-3)
        assert metrics.l1(*pair)[i].item() == pytest.approx(np.abs(difference).sum(), rel=1e-5)
        assert metrics.l2(*pair)[i].item() == pytest.approx(np.linalg.norm(difference), rel=1e-5)
        assert metrics.linf(*pair)[i].item() == np.abs(difference).max()
        places = (difference.reshape(3, 4, 6) != 0).any(0)
        assert metrics.sites(*pair)[i] == places.sum()
        far = (np.abs(difference.reshape(3, 4, 6)) > 1e-3).any(0)
        assert metrics.sites(*pair, tolerance=1e-3)[i] == far.sum()
    assert metrics.sites(*pair).tolist() == [1, 24, 1, 1, 0]
    assert metrics.l0(*pair)[4] == 0


@pytest.mark.parametrize(
    "distance", [metrics.l0, metrics.sites, metrics.l1, metrics.l2, metrics.linf]
)
def test_what_does_not_fit_is_refused(distance):
    images = torch.zeros(2, 1, 3, 3)
    with pytest.raises(ValueError, match=r"same shape.*\(2, 1, 3, 3\) and \(2, 1, 3, 4\)"):
        distance(images, torch.zeros(2, 1, 3, 4))
    with pytest.raises(TypeError, match=r"counterfactuals must be a torch\.Tensor, got ndarray"):
        distance(images, images.numpy())
    with pytest.raises(ValueError, match="tolerance"):
        metrics.l0(images, images, tolerance=-1)
    with pytest.raises(ValueError, match="tolerance"):
        metrics.sites(images, images, tolerance=-1)


def test_the_failure_rate_is_the_share_without_success():
    success = torch.arange(900) % 9 != 4
    assert metrics.failure_rate(success) == np.mean(~success.numpy()) == 100 / 900
    assert metrics.failure_rate(torch.ones(3, dtype=torch.bool)) == 0.0
    with pytest.raises(TypeError, match=r"success must be a bool tensor, got torch\.float32"):
        metrics.failure_rate(torch.ones(3))
    with pytest.raises(ValueError, match=r"one value per pair, got shape \(0,\)"):
        metrics.failure_rate(torch.ones(0, dtype=torch.bool))
