"""NN-Dist against SciPy's distances, over any class and over the target's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import PrototypeIndex
from captum_deduce.metrics import FeatureExtractor, NearestFeatureDistance
from tests import reference_metrics
from tests.conftest import Digits
from tests.visualization.samples import make_result


@pytest.fixture
def extractor() -> FeatureExtractor:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).double()
    return FeatureExtractor(model, batch_size=6)


@pytest.fixture
def training() -> tuple[Tensor, Tensor]:
    images = torch.rand(
        80, 1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    return images, torch.arange(80) % 3


@pytest.mark.parametrize("chunk_size", [1, 7, 4096])
def test_it_is_the_smallest_distance(extractor, training, chunk_size):
    images, labels = training
    features, classes = extractor.from_loader([(images[:60], labels[:60])])
    index = PrototypeIndex(features, classes, chunk_size=chunk_size)
    target = torch.arange(20) % 2
    anywhere = NearestFeatureDistance(extractor, index).distance(images[60:])
    in_class = NearestFeatureDistance(extractor, index, same_class=True)
    of_target = in_class.distance(images[60:], target)
    rows, known = extractor(images[60:]).numpy(), features.numpy()
    for i in range(20):
        expected = reference_metrics.nearest_distance(rows[i], known)
        assert anywhere[i].item() == pytest.approx(expected, rel=1e-9)
        expected = reference_metrics.nearest_distance(rows[i], known[labels[:60] == target[i]])
        assert of_target[i].item() == pytest.approx(expected, rel=1e-9)
    assert (anywhere < of_target).any()


def test_a_call_measures_counterfactuals(extractor, training):
    images, _ = training
    index = PrototypeIndex(*extractor.from_loader([training]))
    result = make_result(images[:10], images[40:50] + 0.1, target=[2] * 10)
    for same_class in (False, True):
        metric = NearestFeatureDistance(extractor, index, same_class=same_class)
        assert torch.equal(metric(result), metric.distance(images[40:50] + 0.1, 2))


def test_an_index_of_predicted_classes_and_any_function_will_do(digits: Digits):
    """Real digits that the index does not hold are nearer to their own class than to the next."""
    loader = [(digits.train_images, digits.train_labels)]
    extractor = FeatureExtractor(digits.model, digits.layer)
    index = PrototypeIndex.from_loader(digits.model, extractor, loader)
    metric = NearestFeatureDistance(extractor, index, same_class=True)
    own = metric.distance(digits.images, digits.labels)
    other = metric.distance(digits.images, (digits.labels + 1) % 10)
    assert (own < other).double().mean() > 0.95
    pixels = PrototypeIndex(digits.train_images.flatten(1), digits.train_labels)
    found = NearestFeatureDistance(nn.Flatten(), pixels).distance(digits.train_images[:5])
    np.testing.assert_array_equal(found, 0)


def test_an_index_of_another_dtype_decides_that_of_the_distances(extractor, training):
    images, _ = training
    index = PrototypeIndex(*extractor.from_loader([training])).float()
    found = NearestFeatureDistance(extractor, index).distance(images + 0.1)
    assert found.dtype == torch.float32


def test_what_does_not_fit_is_refused(extractor, training):
    images, _ = training
    index = PrototypeIndex(*extractor.from_loader([training]), num_classes=5)
    with pytest.raises(TypeError, match="training must be a PrototypeIndex, got Tensor"):
        NearestFeatureDistance(extractor, index.features)
    with pytest.raises(TypeError, match=r"extractor must be an nn\.Module or a function"):
        NearestFeatureDistance(7, index)
    with pytest.raises(TypeError, match="same_class must be True or False"):
        NearestFeatureDistance(extractor, index, same_class="target")
    in_class = NearestFeatureDistance(extractor, index, same_class=True)
    with pytest.raises(TypeError, match="target must be given with same_class=True"):
        in_class.distance(images)
    with pytest.raises(ValueError, match="prototypes hold no image of class 4"):
        in_class.distance(images, 4)
    with pytest.raises(ValueError, match=r"as many features as training has, D = 36, got 25"):
        NearestFeatureDistance(nn.Flatten(), index).distance(images)
