"""Substitutability against neighbours found one by one, and what is left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from captum_deduce import Counterfactuals
from captum_deduce.datasets import ImageData
from captum_deduce.metrics import FeatureExtractor, substitutability
from tests import reference_metrics
from tests.conftest import Digits
from tests.visualization.samples import make_result


@pytest.fixture
def made(digits: Digits) -> Counterfactuals:
    """Sixty noisy digits as counterfactuals; every sixth failed, one was there already."""
    images, labels = digits.train_images[:60].clone(), digits.train_labels[:60].tolist()
    noise = torch.rand(images.shape, dtype=images.dtype, generator=torch.Generator().manual_seed(0))
    changed = images + 0.6 * noise
    changed[7] = images[7]
    success = [row % 6 != 0 for row in range(60)]
    return make_result(images, changed, target=labels, success=success)


@pytest.fixture
def real(digits: Digits) -> tuple[Tensor, Tensor]:
    return digits.train_images[100:150], digits.train_labels[100:150]


@pytest.mark.parametrize("k", [1, 4])
def test_it_is_the_ratio_of_two_votes(digits, made, real, k):
    test = digits.images[:90], digits.labels[:90]
    found = substitutability(made, real, test, k=k)
    kept = [row for row in range(60) if row % 6 != 0 and row != 7]
    assert (found.used, found.failed, found.already) == (len(kept), 10, 1)
    asked, expected = test[0].flatten(1).numpy(), test[1].tolist()
    ours = reference_metrics.neighbours_accuracy(
        made.counterfactuals[kept].flatten(1).numpy(),
        made.target[kept].tolist(),
        asked,
        expected,
        k,
    )
    theirs = reference_metrics.neighbours_accuracy(
        real[0].flatten(1).numpy(), real[1].tolist(), asked, expected, k
    )
    assert found.accuracy == pytest.approx(ours)
    assert found.real_accuracy == pytest.approx(theirs)
    assert found.ratio == pytest.approx(ours / theirs)
    assert 0.2 < ours < theirs


def test_images_of_the_wrong_class_substitute_nothing(digits, made, real):
    test = digits.images[:90], digits.labels[:90]
    labels = ((made.target + 1) % 10).tolist()
    wrong = make_result(made.inputs, made.counterfactuals, target=labels)
    assert substitutability(wrong, real, test).ratio < 0.2
    noted = make_result(real[0] + 1, real[0], target=real[1].tolist())
    assert substitutability(noted, real, test).ratio == 1


def test_features_and_image_data_will_do(digits, made, real):
    names = tuple(str(c) for c in range(10))
    data = [
        ImageData(images.float(), labels, names)
        for images, labels in (real, (digits.images[:90], digits.labels[:90]))
    ]
    extractor = FeatureExtractor(digits.model, digits.layer)
    found = substitutability(made, *data, extractor=extractor)
    known, asked = (extractor(each.images.double()).numpy() for each in data)
    theirs = reference_metrics.neighbours_accuracy(
        known, real[1].tolist(), asked, data[1].target.tolist(), 1
    )
    assert found.real_accuracy == pytest.approx(theirs)


def test_what_does_not_fit_is_refused(digits, made, real):
    test = digits.images[:20], digits.labels[:20]
    with pytest.raises(TypeError, match="result must be Counterfactuals, got tuple"):
        substitutability(real, real, test)
    with pytest.raises(ValueError, match=r"must hold a counterfactual, got none in 10 pair\(s\)"):
        substitutability(made[~made.success], real, test)
    with pytest.raises(TypeError, match="real must be ImageData or a tuple of images and labels"):
        substitutability(made, real[0], test)
    with pytest.raises(TypeError, match=r"test must hold two tensors.*got Tensor and list"):
        substitutability(made, real, (test[0], [1, 2]))
    with pytest.raises(
        ValueError, match=r"test must hold images of the result's shape \(1, 8, 8\)"
    ):
        substitutability(made, real, (torch.rand(4, 3, 8, 8), torch.zeros(4).long()))
    with pytest.raises(ValueError, match=r"real must hold one label per image \(50\), got 3"):
        substitutability(made, (real[0], real[1][:3]), test)
    with pytest.raises(ValueError, match="k must be at most the number of counterfactuals, 49"):
        substitutability(made, real, test, k=50)
    with pytest.raises(ValueError, match="real must get some test image right"):
        substitutability(made, (real[0], torch.full((50,), 77)), test)
