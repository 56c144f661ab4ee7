"""Densities taken over from scikit-learn, against its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from captum_deduce import ClassGaussianMixture
from captum_deduce.density.moments import COVARIANCE_TYPES
from tests.density.test_class_gaussian_mixture import C, D, data


def mixture(kind: type, covariance_type: str):
    features, labels, _ = data(400)
    features = features + 10 * labels.unsqueeze(1)
    gmm = kind(n_components=5, covariance_type=covariance_type, max_iter=500, random_state=0).fit(
        features.numpy()
    )
    return gmm, features


@pytest.mark.parametrize("kind", [GaussianMixture, BayesianGaussianMixture])
@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_a_mixture_of_scikit_learns_keeps_its_densities(covariance_type, kind):
    gmm, features = mixture(kind, covariance_type)
    density = ClassGaussianMixture.from_sklearn(gmm, [0, 2, 1, 0, 2])
    # p(z, component) of scikit-learn, summed within each class and divided by p(class)
    joint = gmm._estimate_weighted_log_prob(features.numpy())
    if kind is BayesianGaussianMixture:
        # its log-densities are expectations over the posterior; the plain ones are wanted
        plain = GaussianMixture(5, covariance_type=covariance_type)
        for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
            setattr(plain, name, getattr(gmm, name))
        joint = plain._estimate_weighted_log_prob(features.numpy())
    for c, components in enumerate(([0, 3], [2], [1, 4])):
        share = np.log(gmm.weights_[components].sum())
        expected = np.logaddexp.reduce(joint[:, components], axis=1) - share
        np.testing.assert_allclose(density.log_probs(features)[:, c], expected, rtol=1e-8)
        np.testing.assert_allclose(density.log_prob(features, c), expected, rtol=1e-8)
    np.testing.assert_allclose(density.means, gmm.means_)
    np.testing.assert_allclose(density.covariances, gmm.covariances_, rtol=1e-10, atol=1e-12)
    assert density.component_class == (0, 2, 1, 0, 2)
    assert (density.num_classes, density.num_features) == (C, D)


@pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
def test_one_class_of_all_components_has_scikit_learns_score(covariance_type):
    gmm, features = mixture(GaussianMixture, covariance_type)
    density = ClassGaussianMixture.from_sklearn(gmm, torch.zeros(5).long())
    expected = gmm.score_samples(features.numpy())
    np.testing.assert_allclose(density.log_density(features), expected, rtol=1e-9)
    inputs = features[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: density.log_prob(z, 0), inputs)


def test_a_mixture_of_scikit_learns_is_saved_and_copied_like_any(tmp_path):
    gmm, features = mixture(GaussianMixture, "full")
    gmm.means_ = np.asfortranarray(gmm.means_)
    density = ClassGaussianMixture.from_sklearn(gmm, np.array([0, 2, 1, 0, 2]), num_classes=5)
    assert repr(density) == (
        "ClassGaussianMixture(covariance_type='full', classes=5, features=6, components=5)"
    )
    density.save(tmp_path / "density.safetensors")
    fresh = ClassGaussianMixture()
    fresh.load_state_dict(density.state_dict())
    for other in (ClassGaussianMixture.load(tmp_path / "density.safetensors"), fresh):
        assert torch.equal(other.log_probs(features), density.log_probs(features))
        assert other.component_class == density.component_class
    assert (density.log_probs(features)[:, 3:] == -torch.inf).all()
    density.update_quantiles(features, torch.arange(400) % C, leave_one_out=False)
    assert density.quantile(0.5).isnan().tolist() == [False, False, False, True, True]
    assert density.fit(features, torch.arange(400) % C).component_class == (0, 1, 2, 3, 4)


def test_a_mixture_of_scikit_learns_has_no_moments_to_add_to():
    gmm, features = mixture(GaussianMixture, "full")
    density = ClassGaussianMixture.from_sklearn(gmm, [0, 2, 1, 0, 2])
    labels = torch.arange(400) % C
    own = ClassGaussianMixture().fit(features, labels)
    for what, change in {
        "partial_fit": lambda: density.partial_fit(features, labels),
        "merge": lambda: density.merge(own),
        "leave_one_out=True": lambda: density.update_quantiles(features, labels),
    }.items():
        with pytest.raises(ValueError, match=f"{what} needs the moments of samples"):
            change()
    with pytest.raises(ValueError, match="merge needs the moments"):
        own.merge(density)


def test_what_is_no_mixture_of_scikit_learns_is_refused():
    gmm, _ = mixture(GaussianMixture, "full")
    for argument, classes, error, message in (
        ("gmm", [0], TypeError, "gmm must be a sklearn.mixture.GaussianMixture, got str"),
        (GaussianMixture(2), [0, 1], ValueError, "gmm is not fitted"),
        (gmm, [0, 1], ValueError, r"one class for each of the 5 components, got shape \(2,\)"),
        (gmm, [0, 1, 2, 3, -1], ValueError, "component_class must lie in 0"),
        (gmm, [0.5] * 5, TypeError, "component_class must hold integers"),
    ):
        with pytest.raises(error, match=message):
            ClassGaussianMixture.from_sklearn(argument, classes)
