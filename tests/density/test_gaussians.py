from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from captum_deduce.density.gaussians import estimate
from captum_deduce.density.moments import COVARIANCE_TYPES, Moments
from captum_deduce.density.samples import Samples
from tests.reference import class_covariances

C, D = 3, 6
CLASSES = torch.arange(C)


def data(n: int = 200, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(D, D, dtype=torch.float64, generator=generator)
    features = torch.randn(n, D, dtype=torch.float64, generator=generator) @ mixing + 5
    return features, torch.arange(n) % C


def moments_of(covariance_type, features, labels, weight=None) -> Moments:
    moments = Moments(covariance_type, C, features.shape[1])
    moments.add(Samples(features, labels, weight))
    return moments


def fitted(covariance_type, features, labels, weight=None, regularization="jitter"):
    moments = moments_of(covariance_type, features, labels, weight)
    gaussians = estimate(moments, CLASSES, regularization)
    return gaussians, gaussians.covariances(moments)


def dense(covariances: torch.Tensor, covariance_type: str) -> torch.Tensor:
    if covariance_type == "tied":
        return covariances.expand(C, D, D)
    if covariance_type == "diag":
        return torch.diag_embed(covariances)
    if covariance_type == "spherical":
        return covariances.view(C, 1, 1) * torch.eye(D)
    return covariances


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


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_log_densities_agree_with_torchs(covariance_type, offset):
    features, labels = data()
    features = features + offset
    moments = moments_of(covariance_type, features, labels)
    gaussians = estimate(moments, CLASSES, "jitter")
    covariances = dense(gaussians.covariances(moments), covariance_type)
    projected = gaussians.project(features)
    for c in range(C):
        expected = MultivariateNormal(moments.mean[c], covariances[c]).log_prob(features)
        torch.testing.assert_close(gaussians.log_prob(projected, c), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("regularization", ["jitter", "oas"])
def test_components_of_a_class_share_its_weight(regularization):
    features, labels = data()
    moments = moments_of("full", features, labels, (labels + 1.0).double())
    gaussians = estimate(moments, torch.tensor([1, 0, 1]), regularization)
    counts = labels.bincount() * torch.tensor([1, 2, 3])
    shares = counts / torch.tensor([counts[0] + counts[2], counts[1], counts[0] + counts[2]])
    torch.testing.assert_close(gaussians.log_weight.exp(), shares.double())
