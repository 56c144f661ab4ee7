from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from captum_deduce.density.class_gaussian_mixture import ClassGaussianMixture
from captum_deduce.density.moments import COVARIANCE_TYPES
from tests.density.test_class_gaussian_mixture import C, data
from tests.reference import class_covariances, log_density


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_quantiles_are_of_leave_one_out_log_densities(covariance_type, weighted):
    features, labels, weight = data(45)
    weights = weight if weighted else torch.ones_like(weight)
    expected: list[list[float]] = [[] for _ in range(C)]
    for i in range(len(features)):
        rest = [np.delete(array.numpy(), i, axis=0) for array in (features, labels, weights)]
        means, covariances = class_covariances(*rest, covariance_type)
        own = int(labels[i])
        expected[own].append(log_density(features[i].numpy(), means[own], covariances[own]))
    density = ClassGaussianMixture(covariance_type)
    density.fit(features, labels, weight if weighted else None)
    for q in (0.0, 0.05, 0.5, 0.93):
        found = density.quantile(q)
        np.testing.assert_allclose(found, np.quantile(expected, q, axis=1), rtol=1e-9)


def test_leave_one_out_quantiles_are_calibrated_and_in_sample_ones_are_not():
    generator = torch.Generator().manual_seed(0)
    width, n = 64, 400
    mixing = torch.randn(width, width, generator=generator)
    train, test = (torch.randn(count, width, generator=generator) @ mixing for count in (n, 20_000))
    labels = torch.zeros(n, dtype=torch.int64)
    density = ClassGaussianMixture().fit(train, labels)
    held_out = density.log_prob(test, 0)
    in_sample = density.log_prob(train, labels).quantile(0.05)
    assert 0.02 < (held_out < density.quantile(0.05)[0]).double().mean() < 0.09
    assert (held_out < in_sample).double().mean() > 0.25
    # held-out samples give the same quantile, of their own number
    density.update_quantiles(test, torch.zeros(len(test)).long(), leave_one_out=False, reset=True)
    assert len(density.log_densities) == len(test)
    assert density.quantile(0.05)[0].item() == pytest.approx(np.quantile(held_out, 0.05))


@pytest.mark.parametrize("regularization", ["jitter", "oas"])
@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_quantiles_in_batches_equal_those_of_one_fit(covariance_type, regularization):
    features, labels, weight = data()
    features[:, 1] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = ClassGaussianMixture(covariance_type, regularization=regularization)
        whole.fit(features, labels, weight)
        batches = ClassGaussianMixture(covariance_type, regularization=regularization)
        batches.partial_fit(features, labels, weight)
        for rows in torch.randperm(len(features)).split(13):
            assert batches.update_quantiles(features[rows], labels[rows], weight[rows]) is batches
    for q in (0.0, 0.2, 1.0):
        torch.testing.assert_close(batches.quantile(q), whole.quantile(q), rtol=1e-6, atol=0)
    batches.update_quantiles(features, labels, weight, reset=True)
    assert len(batches.log_densities) == len(features)


def test_quantiles_are_discarded_by_whatever_changes_the_fit():
    features, labels, weight = data()
    soft = torch.eye(C)[labels]
    density = ClassGaussianMixture()
    changes = [
        lambda: density.partial_fit(features, labels),
        lambda: density.merge(ClassGaussianMixture().fit(features, labels)),
        lambda: density.fit(features, labels, quantiles=False),
        lambda: density.fit(features, soft),
    ]
    for change in changes:
        density.fit(features, labels, weight)
        assert torch.isfinite(density.quantile(0.5)).all()
        change()
        with pytest.raises(RuntimeError, match=r"call update_quantiles\(features, labels\)"):
            density.quantile(0.5)
        density.update_quantiles(features, labels, leave_one_out=False)
        assert torch.isfinite(density.quantile(0.5)).all()


def test_quantiles_follow_a_state_dict_that_was_loaded():
    features, labels, _ = data()
    density, other = ClassGaussianMixture(), ClassGaussianMixture().fit(3 * features, labels)
    density.fit(features, labels).update_quantiles(features, labels)
    density.load_state_dict(other.state_dict())
    density.update_quantiles(3 * features, labels, reset=True)
    assert torch.equal(density.quantile(0.3), other.quantile(0.3))


def test_what_gives_no_quantiles_is_refused():
    features, labels, weight = data()
    weighted = ClassGaussianMixture().fit(features, labels, weight, quantiles=False)
    soft = ClassGaussianMixture().fit(features, torch.rand(len(features), C))
    for density in (weighted, soft):
        with pytest.raises(ValueError, match=r"sample_weight is missing: .*leave_one_out=False"):
            density.update_quantiles(features, labels)
    plain = ClassGaussianMixture(num_classes=C + 1).fit(features, labels)
    for arguments, error, message in (
        ((features, torch.eye(C + 1)[labels]), ValueError, "target must hold labels for quantiles"),
        ((features, labels + 1), ValueError, r"target names class\(es\) \[3\] that"),
        ((features, labels + 2), ValueError, r"target must lie in 0 \.\.\. 3"),
        ((features[:, 1:], labels), ValueError, "features must have the shape N x 6"),
    ):
        for leave_one_out in (True, False):
            with pytest.raises(error, match=message):
                plain.update_quantiles(*arguments, leave_one_out=leave_one_out)
    for q in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="q must be"):
            plain.quantile(q)
    with pytest.raises(TypeError, match="q must be a number"):
        plain.quantile("half")
    with pytest.raises(TypeError, match="leave_one_out must be True or False"):
        plain.update_quantiles(features, labels, leave_one_out="no")
    with pytest.raises(RuntimeError, match="not fitted"):
        ClassGaussianMixture().update_quantiles(features, labels)


def test_a_class_of_two_has_no_leave_one_out_quantile():
    features, labels, _ = data()
    keep = (labels != 1) | (torch.arange(len(labels)) < 2 * C)
    with pytest.warns(UserWarning, match="class 1"):
        density = ClassGaussianMixture("full").fit(features[keep], labels[keep])
    assert density.quantile(0.5).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_samples_that_were_not_fitted_are_refused(covariance_type):
    features, labels, _ = data()
    density = ClassGaussianMixture(covariance_type).fit(features, labels)
    before, advice = density.quantile(0.3), "or leave_one_out=False for others"
    for others, message in (
        (features + torch.randn_like(features), "has another mean or spread than in the fit"),
        (features * 1.01, "has another mean or spread than in the fit"),
        (features[:30] * 100, "lie farther from its mean than samples of the fit can"),
        (features.repeat(2, 1), r"has more samples than in the fit \(class 0: 100, fitted 50\)"),
    ):
        many = torch.arange(len(others)) % C
        with pytest.raises(ValueError, match=f"not those that were fitted: .*{message}.*{advice}"):
            density.update_quantiles(others, many, reset=True)
        assert torch.equal(density.quantile(0.3), before)
    density.update_quantiles(features + 1, labels, leave_one_out=False, reset=True)
    assert not torch.equal(density.quantile(0.3), before)


def test_what_came_before_a_stranger_is_discarded():
    features, labels, _ = data()
    density = ClassGaussianMixture().fit(features, labels)
    density.update_quantiles(features[:75], labels[:75], reset=True)
    with pytest.raises(ValueError, match="another mean or spread"):
        density.update_quantiles(features[75:] + 0.5, labels[75:])
    with pytest.raises(RuntimeError, match="update_quantiles"):
        density.quantile(0.5)
    # the next call starts anew
    density.update_quantiles(features, labels)
    assert torch.isfinite(density.quantile(0.5)).all()


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
@pytest.mark.parametrize("level", [0.0, 0.1, 30.0])
def test_rounding_makes_no_strangers(covariance_type, level):
    """Features that hardly vary, and then by what the size of a batch does to the last digit."""
    features, labels, _ = data()
    features[:, 1] = level
    features[:, 2] = features[:, 3] * 2
    first = features.float()
    second = torch.nextafter(first, torch.full_like(first, torch.inf))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = ClassGaussianMixture(covariance_type).partial_fit(first, labels)
        density.update_quantiles(second, labels)
    assert torch.isfinite(density.quantile(0.0)).all()
