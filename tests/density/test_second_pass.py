from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_deduce.density.estimation import estimate
from captum_deduce.density.moments import COVARIANCE_TYPES, Moments
from captum_deduce.density.quantiles import LeaveOneOut
from captum_deduce.density.samples import Samples
from captum_deduce.density.second_pass import SecondPass

C, D, N = 3, 5, 120


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, dtype=torch.float64, generator=generator) * 3 + 10
    return features, torch.arange(N) % C


def passes(covariance_type: str) -> tuple[SecondPass, LeaveOneOut]:
    moments = Moments(covariance_type, C, D)
    moments.add(Samples(*data(), None))
    gaussians = estimate(moments, torch.arange(C), "jitter")
    return SecondPass(moments, gaussians, "Ask someone."), LeaveOneOut(moments, gaussians)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_same_samples_in_another_order_pass(covariance_type):
    features, labels = data()
    second, leave_one_out = passes(covariance_type)
    assert not second.started
    for rows in torch.randperm(N).split(17):
        assert not second.complete
        second.add(Samples(features[rows].float(), labels[rows], None))
        assert second.started
    assert second.complete
    second.finish()
    found, expected = (each.log_prob(features, None, labels) for each in (second, leave_one_out))
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_other_counts_means_and_spreads_are_named(covariance_type):
    features, labels = data()
    shifted, stretched = features.clone(), features.clone()
    shifted[labels == 1] += 0.01
    own = features[labels == 2]
    stretched[labels == 2] = own.mean(0) + (own - own.mean(0)) * 1.01
    other = "has another mean or spread than in the fit"
    named = r"\[0, 1, 2\]" if covariance_type == "tied" else r"\[2\]"
    for changed, message in (
        ((shifted, labels), rf"class\(es\) \[1\] {other}.*Ask someone\.$"),
        ((stretched, labels), rf"class\(es\) {named} {other}"),
        (
            (features, labels.where(labels > 0, 1)),
            r"\[1\] has more samples than in the fit \(class 1: 80, fitted 40\)",
        ),
    ):
        second, _ = passes(covariance_type)
        with pytest.raises(ValueError, match=message):
            second.add(Samples(*changed, None))
    second, _ = passes(covariance_type)
    second.add(Samples(features[:-1], labels[:-1], None))
    with pytest.raises(ValueError, match=r"\[2\] has fewer samples .*\(class 2: 39, fitted 40\)"):
        second.finish()


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_the_largest_leverage_is_one(covariance_type):
    """The farthest that a sample can lie, and one that lies twice as far."""
    second, _ = passes(covariance_type)
    mean = second.fitted.mean[0]
    direction = torch.zeros(D, dtype=torch.float64)
    direction[0] = 1.0
    fitted = second.fitted
    if covariance_type == "full":
        size = 1 / torch.linalg.inv(fitted.class_scatter(0))[0, 0]
    elif covariance_type == "tied":
        size = 1 / torch.linalg.inv(fitted.scatter)[0, 0]
    else:
        size = fitted.scatter[0, 0] if covariance_type == "diag" else fitted.scatter[0]
    n = N // C
    farthest = direction * (size * (n - 1) / n).sqrt()
    own = torch.zeros(1, dtype=torch.int64)
    assert torch.isfinite(second.log_prob((mean + farthest).unsqueeze(0), None, own)[0]).all()
    with pytest.raises(ValueError, match=r"of class 0 some lie farther .*Ask someone\.$"):
        second.log_prob((mean + 2 * farthest).unsqueeze(0), None, own)


def test_long_lists_of_classes_are_cut():
    moments = Moments("diag", 20, D)
    moments.add(Samples(torch.randn(40, D), torch.arange(40) % 20, None))
    second = SecondPass(moments, estimate(moments, torch.arange(20), "jitter"), "")
    with pytest.raises(ValueError, match=r"\[0, 1, 2, 3, 4, \.\.\.\] has fewer samples"):
        second.finish()


@pytest.mark.parametrize("covariance_type", ["diag", "spherical"])
def test_a_stranger_is_found_whatever_the_size_of_features_beside_it(covariance_type):
    """What float32 rounds of a class at 1e9 is no excuse for a sample of a class at 0."""
    features, labels = data()
    features[labels == 1] += 1e9
    moments = Moments(covariance_type, C, D)
    moments.add(Samples(features, labels, None))
    second = SecondPass(moments, estimate(moments, torch.arange(C), "jitter"), "Ask someone.")
    rows = torch.tensor([0, 1, 2])
    assert torch.isfinite(second.log_prob(features[rows], None, labels[rows])[0]).all()
    features[2] += 100  # 33 deviations
    with pytest.raises(ValueError, match="of class 2 some lie farther"):
        second.log_prob(features[rows], None, labels[rows])
