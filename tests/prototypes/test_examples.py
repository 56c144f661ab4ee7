"""Neighbours among examples against all distances written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from captum_deduce.prototypes import Examples


@pytest.fixture
def images():
    return torch.rand(60, 2, 3, 3, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def target():
    return torch.randint(4, (60,), generator=torch.Generator().manual_seed(1))


def ranked(queries, rows, allowed):
    """Indices of the allowed rows, nearest first, by distances in numpy."""
    distances = np.linalg.norm(queries[:, None] - rows[None], axis=2)
    distances[~allowed] = np.inf
    return np.argsort(distances, axis=1, kind="stable")


@pytest.mark.parametrize("memory_budget", [1, 2000, 2**26])
@pytest.mark.parametrize("other_classes", [False, True])
def test_the_nearest_of_a_class_in_any_budget(images, target, memory_budget, other_classes):
    queries = torch.rand(9, 18, generator=torch.Generator().manual_seed(2)).double()
    wanted = torch.arange(9) % 4
    examples = Examples(images, target, memory_budget=memory_budget)
    found = examples.nearest(queries, wanted, 5, other_classes=other_classes)
    same = wanted.numpy()[:, None] == target.numpy()[None]
    rows = images.flatten(1).numpy()
    expected = ranked(queries.numpy(), rows, ~same if other_classes else same)[:, :5]
    assert found.tolist() == expected.tolist()


def test_the_first_of_equals_is_the_nearest():
    images = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0]).view(5, 1, 1, 1)
    for budget in (1, 2**20):
        examples = Examples(images, torch.zeros(5, dtype=torch.int64), memory_budget=budget)
        found = examples.nearest(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), 5)
        assert found.tolist() == [[1, 3, 0, 2, 4]]


def test_a_loader_gives_the_same_as_tensors(images, target):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(18, 5), nn.Dropout(0.5)).double()
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 4)).double()
    batches = list(zip(images.split(16), target.split(16), strict=True))
    labelled = Examples.from_loader(batches)
    assert torch.equal(labelled.images, images)
    assert torch.equal(labelled.target, target)
    assert labelled.features is None
    predicted = Examples.from_loader(images.split(16), model, encoder)
    assert encoder.training
    with torch.no_grad():
        assert torch.equal(predicted.target, model(images).argmax(1))
        torch.testing.assert_close(predicted.features, encoder.eval()(images))
    by_features = Examples.from_loader(batches, encoder=encoder)
    assert torch.equal(by_features.target, target)
    torch.testing.assert_close(by_features.features, predicted.features)
    assert repr(by_features) == "Examples(60 images, 4 classes, by 5 features)"


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"images": 3}, TypeError, "images must be a torch.Tensor, got int"),
        ({"target": [0] * 60}, TypeError, "target must be a torch.Tensor, got list"),
        ({"target": torch.zeros(3)}, ValueError, r"one class per image \(60\), got shape \(3,\)"),
        ({"target": torch.zeros(60)}, TypeError, "target must hold integers"),
        ({"features": torch.zeros(59, 2)}, ValueError, "a row for each of 60 images"),
        ({"features": torch.full((60, 2), torch.nan)}, ValueError, "features must be finite"),
        ({"memory_budget": 0}, ValueError, "memory_budget must be a finite number"),
    ],
)
def test_what_is_refused(images, target, changed, error, message):
    with pytest.raises(error, match=message):
        Examples(**{"images": images, "target": target, **changed})


def test_queries_and_loaders_that_are_refused(images, target):
    with pytest.raises(ValueError, match="features must have 18 columns"):
        Examples(images, target).nearest(torch.zeros(1, 3), torch.zeros(1))
    with pytest.raises(TypeError, match=r"loader must yield batches \(images, target\)"):
        Examples.from_loader([images])
    with pytest.raises(ValueError, match="loader must yield at least one batch"):
        Examples.from_loader([])
