from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from captum_deduce.density import memory
from captum_deduce.density.estimation import estimate
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


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_one_covariance_is_that_of_its_component_alone(covariance_type):
    features, labels = data()
    moments = moments_of(covariance_type, features, labels)
    gaussians = estimate(moments, CLASSES, "jitter")
    arrays = features.numpy(), labels.numpy(), np.ones(len(labels))
    _, expected = class_covariances(*arrays, covariance_type)
    for c in range(C):
        found = gaussians.covariance(moments, c)
        assert found.dim() == {"diag": 1, "spherical": 0}.get(covariance_type, 2)
        one = torch.diag(found.expand(D)) if found.dim() < 2 else found
        torch.testing.assert_close(one, torch.from_numpy(expected[c]))


@pytest.mark.filterwarnings("ignore:.*regularised by a jitter")
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_what_is_added_where_a_feature_never_varies_is_in_the_covariances(covariance_type):
    features, labels = data()
    features[:, 2] = 7.0
    gaussians, covariances = fitted(covariance_type, features, labels)
    added = gaussians.added.view(C, 1, 1) * torch.eye(D)
    if covariance_type != "spherical":  # whose one variance is that of the others, too
        assert (gaussians.added > 0).all()
    arrays = features.numpy(), labels.numpy(), np.ones(len(labels))
    _, expected = class_covariances(*arrays, covariance_type)
    found = dense(covariances, covariance_type).double()
    torch.testing.assert_close(found, torch.from_numpy(expected) + added, rtol=1e-9, atol=1e-14)


def test_every_tensor_is_mapped():
    features, labels = data()
    gaussians, _ = fitted("full", features, labels)
    mapped = gaussians.map(Tensor.float)
    kinds = {value.dtype for value in vars(mapped).values() if isinstance(value, Tensor)}
    assert torch.float32 in kinds
    assert torch.float64 not in kinds
    found = mapped.log_prob(mapped.project(features.float()), 1)
    expected = gaussians.log_prob(gaussians.project(features), 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_memory_is_asked_for_as_many_bytes_as_the_covariances_have(monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "require", lambda needed, *_: asked.append(needed))
    _, covariances = fitted("full", *data())
    assert asked[-1] == covariances.nbytes
