from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.density.estimation import estimate
from captum_deduce.density.moments import COVARIANCE_TYPES
from tests.density.test_gaussians import C, data, dense, fitted, moments_of
from tests.reference import class_covariances


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_covariances_are_the_unbiased_ones(covariance_type, weighted):
    features, labels = data()
    weight = torch.rand(len(features), dtype=torch.float64) + 0.1 if weighted else None
    gaussians, covariances = fitted(covariance_type, features, labels, weight)
    weights = np.ones(len(features)) if weight is None else weight.numpy()
    _, expected = class_covariances(features.numpy(), labels.numpy(), weights, covariance_type)
    np.testing.assert_allclose(dense(covariances, covariance_type).numpy(), expected, atol=1e-12)
    assert gaussians.amount.tolist() == [0, 0, 0]
    if covariance_type in ("full", "tied"):
        assert torch.equal(covariances, covariances.mT)


def test_a_tied_covariance_of_unit_weights_divides_by_n_less_the_classes():
    features, labels = data()
    centred = features - torch.stack([features[labels == c].mean(0) for c in range(C)])[labels]
    _, covariance = fitted("tied", features, labels)
    torch.testing.assert_close(covariance, centred.T @ centred / (len(features) - C))


@pytest.mark.parametrize("regularization", ["jitter", "oas"])
def test_components_of_a_class_share_its_weight(regularization):
    features, labels = data()
    moments = moments_of("full", features, labels, (labels + 1.0).double())
    gaussians = estimate(moments, torch.tensor([1, 0, 1]), regularization)
    counts = labels.bincount() * torch.tensor([1, 2, 3])
    shares = counts / torch.tensor([counts[0] + counts[2], counts[1], counts[0] + counts[2]])
    torch.testing.assert_close(gaussians.log_weight.exp(), shares.double())
