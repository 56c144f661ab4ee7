from __future__ import annotations

import pytest
import torch

from captum_deduce import ClassGaussianMixture, datasets
from captum_deduce.bulk import fit_density
from tests.bulk.test_explain import Flow
from tests.bulk.test_ray_engine import ray  # noqa: F401


@pytest.mark.slow
@pytest.mark.parametrize("covariance_type", ["tied", "diag"])
def test_a_merged_density_is_that_of_one_fit(ray, digits, covariance_type):  # noqa: F811
    images, labels = digits.train_images[:900], digits.train_labels[:900]
    pairs = list(zip(images, labels.tolist(), strict=True))
    merged = fit_density(
        digits.model,
        digits.layer,
        pairs,
        images_per_task=250,
        batch_size=100,
        covariance_type=covariance_type,
        regularization="jitter",
    )
    alone = ClassGaussianMixture.fit_loader(
        digits.model,
        digits.layer,
        [(images, labels)],
        covariance_type=covariance_type,
        regularization="jitter",
    )
    assert merged.counts.tolist() == alone.counts.tolist()
    torch.testing.assert_close(merged.covariances, alone.covariances, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(merged.quantile(0.05), alone.quantile(0.05), rtol=1e-8, atol=1e-8)
    assert merged.num_classes == 10


def test_what_does_not_fit_is_refused_before_any_work(digits):
    with pytest.raises(ValueError, match="layer"):
        fit_density(digits.model, torch.nn.Linear(2, 2), [(digits.images[0], 1)])
    with pytest.raises(ValueError, match="map-style"):
        fit_density(digits.model, digits.layer, Flow([]))
    with pytest.raises(ValueError, match="hold images"):
        fit_density(digits.model, digits.layer, [])
    with pytest.raises(ValueError, match="covariance_type"):
        fit_density(digits.model, digits.layer, [(digits.images[0], 1)], covariance_type="round")
    with pytest.raises(ValueError, match="images_per_task"):
        fit_density(digits.model, digits.layer, [(digits.images[0], 1)], images_per_task=0)


@pytest.mark.slow
def test_an_image_without_a_label_stops_the_fit(ray, digits):  # noqa: F811
    data = datasets.load_digits().train
    with pytest.raises(Exception, match="image 3 of dataset: it has no label"):
        fit_density(
            digits.model,
            digits.layer,
            [
                (image.double(), None if place == 3 else 1)
                for place, image in enumerate(data.images[:8])
            ],
        )
