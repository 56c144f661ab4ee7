"""Log-densities of counterfactuals against naive ones, and their place among refitted ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import percentileofscore

from captum_deduce import ClassGaussianMixture
from captum_deduce.metrics import TargetDensity
from tests.conftest import Digits
from tests.reference import class_covariances, log_density
from tests.visualization.samples import make_result


def features_of(digits: Digits, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return digits.model[:7](images)


@pytest.mark.parametrize("batch_size", [1, 9, 500])
def test_log_densities_are_those_of_each_images_features(digits, batch_size):
    images, target = digits.images[:20], torch.arange(20) % 10
    digits.model.train()
    metric = TargetDensity(digits.model, digits.layer, digits.density, batch_size=batch_size)
    found = metric.log_density(images, target)
    assert all(module.training for module in digits.model.modules())
    digits.model.eval()
    train = features_of(digits, digits.train_images).numpy()
    means, covariances = class_covariances(
        train, digits.train_labels.numpy(), np.ones(len(train)), "full"
    )
    for i, z in enumerate(features_of(digits, images).numpy()):
        c = int(target[i])
        jitter = digits.density.regularization_used[c].item()
        covariance = covariances[c] + jitter * np.trace(covariances[c]) / 64 * np.eye(64)
        assert found[i].item() == pytest.approx(log_density(z, means[c], covariance), rel=1e-6)


def test_quantiles_are_ranks_among_fits_without_each_training_image(digits):
    """Three features, so that refits need no regularisation."""
    mixing = torch.randn(64, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    few = torch.nn.Linear(64, 3, bias=False).double()
    few.weight = torch.nn.Parameter(mixing.T)
    model = torch.nn.Sequential(torch.nn.Flatten(), few, torch.nn.Linear(3, 10).double())
    rows = slice(0, 120)
    features = (digits.train_images[rows].flatten(1) @ mixing).numpy()
    labels = digits.train_labels[rows].numpy()
    density = ClassGaussianMixture().fit(torch.from_numpy(features), torch.from_numpy(labels))
    metric = TargetDensity(model, few, density)
    images, target = digits.images[:30], torch.arange(30) % 10
    found = metric.quantile(images, target)
    values = metric.log_density(images, target)
    for c in range(10):
        own = features[labels == c]
        refitted = []
        for i, z in enumerate(own):
            rest = np.delete(own, i, axis=0)
            refitted.append(log_density(z, rest.mean(0), np.cov(rest.T)))
        for i in (target == c).nonzero().flatten().tolist():
            expected = percentileofscore(refitted, values[i].item(), kind="weak") / 100
            assert found[i].item() == pytest.approx(expected, abs=1e-12)
    assert found.unique().numel() > 5


def test_images_of_the_class_are_typical_and_others_are_not(digits):
    metric = TargetDensity(digits.model, "6", digits.density, "quantile")
    own = metric.quantile(digits.images, digits.labels)
    other = metric.quantile(digits.images, (digits.labels + 3) % 10)
    assert own.mean() > 0.2
    assert (other <= 0.01).double().mean() > 0.9


def test_a_call_judges_counterfactuals_under_their_targets(digits):
    inputs, changed = digits.images[:6], digits.images[6:12]
    result = make_result(inputs, changed, target=[0, 1, 2, 3, 4, 5])
    for measure in ("log_density", "quantile"):
        metric = TargetDensity(digits.model, digits.layer, digits.density, measure)
        assert torch.equal(metric(result), getattr(metric, measure)(changed, [0, 1, 2, 3, 4, 5]))


def test_what_does_not_fit_is_refused(digits):
    images = digits.images[:4]
    features = features_of(digits, digits.train_images)
    incremental = ClassGaussianMixture().partial_fit(features, digits.train_labels)
    metric = TargetDensity(digits.model, digits.layer, incremental)
    with pytest.raises(
        ValueError, match=r"no log-densities of class\(es\) \[3\].*update_quantiles"
    ):
        metric.quantile(images, 3)
    half = digits.train_labels < 5
    incremental.update_quantiles(features[half], digits.train_labels[half])
    assert torch.isfinite(metric.quantile(images, 4)).all()
    with pytest.raises(ValueError, match=r"no log-densities of class\(es\) \[5, 9\]"):
        metric.quantile(images, [5, 9, 1, 9])
    with pytest.raises(RuntimeError, match="not fitted"):
        TargetDensity(digits.model, digits.layer, ClassGaussianMixture()).log_density(images, 0)
    with pytest.raises(ValueError, match="features"):
        TargetDensity(digits.model, digits.model[0], digits.density).log_density(images, 0)
    with pytest.raises(ValueError, match=r"target must lie in 0 \.\.\. 9"):
        TargetDensity(digits.model, digits.layer, digits.density).log_density(images, 10)
    with pytest.raises(ValueError, match="layer 'fc' is not in the model"):
        TargetDensity(digits.model, "fc", digits.density)
    with pytest.raises(TypeError, match="density must be a ClassGaussianMixture, got float"):
        TargetDensity(digits.model, digits.layer, 0.5)
    with pytest.raises(ValueError, match="measure must be one of"):
        TargetDensity(digits.model, digits.layer, digits.density, "rank")
