"""Distances in normalised features against a loop over places, and diversity by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce.metrics import FeatureDistance, diversity, l1
from tests import reference_metrics
from tests.visualization.samples import make_result


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Conv2d(5, 4, (2, 3)),
        nn.Flatten(), nn.Linear(4 * 3 * 3, 6),
    ).double()  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(14, 3, 6, 7, dtype=torch.float64, generator=generator)


def outputs(model: nn.Sequential, image: Tensor) -> list[Tensor]:
    """Of the batch norm, the second convolution and the last layer, as channels x h x w."""
    with torch.no_grad():
        normed = model[1](model[0](image.unsqueeze(0)))
        second = model[3](normed.relu())
        last = model[5](second.flatten(1))
    return [normed[0].numpy(), second[0].numpy(), last[0].view(-1, 1, 1).numpy()]


@pytest.mark.parametrize("batch_size", [2, 5, 500])
@pytest.mark.parametrize("weighted", [False, True])
def test_it_is_the_loop_over_places(model, images, batch_size, weighted):
    first, second = images[:7], images[7:]
    weights = [torch.arange(5), 0.3, torch.rand(6, 1, 1).double()] if weighted else None
    layers = [model[1], "3", model[5]]
    metric = FeatureDistance(model, layers, weights, batch_size=batch_size)
    found = metric.distance(first, second)
    assert all(module.training for module in model.modules())
    model.eval()
    as_rows = (
        [
            weights[0].double().numpy(),
            np.full(4, 0.3),
            weights[2].flatten().numpy(),
        ]
        if weights
        else None
    )
    for i in range(7):
        both = zip(outputs(model, first[i]), outputs(model, second[i]), strict=True)
        expected = reference_metrics.feature_distance([*both], as_rows)
        assert found[i].item() == pytest.approx(expected, rel=1e-9)


def test_it_is_a_symmetric_difference_between_0_and_4(model, images):
    metric = FeatureDistance(model, [model[3]])
    first, second = images[:7], images[7:]
    assert metric.distance(first, first).tolist() == [0.0] * 7
    forth, back = metric.distance(first, second), metric.distance(second, first)
    torch.testing.assert_close(forth, back)
    opposite = FeatureDistance(nn.Sequential(nn.Identity()), ["0"])
    torch.testing.assert_close(opposite.distance(first, -first), torch.full((7,), 4.0).double())
    assert ((forth > 0) & (forth < 4)).all()


def test_the_length_of_features_does_not_matter_and_zeros_are_no_trouble(images):
    metric = FeatureDistance(nn.Sequential(nn.Identity()), ["0"])
    distances = metric.distance(images, 3 * images)
    torch.testing.assert_close(distances, torch.zeros(14).double())
    assert metric.distance(torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)).item() == 0


def test_a_call_measures_the_distance_from_the_original(model, images):
    metric = FeatureDistance(model, ["1"])
    result = make_result(images[:7], images[7:])
    assert torch.equal(metric(result), metric.distance(images[:7], images[7:]))


def test_a_model_of_another_dtype_will_do(model, images):
    exact = FeatureDistance(model, ["3"]).distance(images[:7], images[7:])
    single = FeatureDistance(model.float(), ["3"]).distance(images[:7], images[7:])
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-3, atol=1e-5)


def test_diversity_is_the_mean_over_pairs_of_results():
    inputs = torch.zeros(3, 1, 1, 2)
    moved = [torch.tensor(m).view(3, 1, 1, 2) for m in (
        [[0.0, 1], [0, 0], [1, 1]], [[0.0, 3], [5, 0], [1, 1]], [[2.0, 1], [9, 9], [4, 4]],
    )]  # fmt: skip
    success = [[True] * 3, [True, True, False], [True, False, False]]
    results = [make_result(inputs, m, success=s) for m, s in zip(moved, success, strict=True)]
    found = diversity(results, l1)
    # (2 + 2 + 4) / 3 of the first pair; of the second only two succeeded, of the third one
    torch.testing.assert_close(found[:2], torch.tensor([8 / 3, 5.0]))
    assert found[2].isnan()
    assert diversity(results[:2], l1)[:2].tolist() == [2.0, 5.0]


def test_diversity_takes_a_feature_distance(model, images):
    metric = FeatureDistance(model, ["3"])
    inputs = images[:4]
    results = [make_result(inputs, images[start : start + 4]) for start in (4, 6, 10)]
    expected = torch.stack(
        [
            metric.distance(images[a : a + 4], images[b : b + 4])
            for a, b in ((4, 6), (4, 10), (6, 10))
        ]
    ).mean(0)
    found = diversity(results, metric.distance)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected)


def test_what_does_not_fit_is_refused(model, images):
    with pytest.raises(TypeError, match="layers must be a list of layers, got str"):
        FeatureDistance(model, "3")
    with pytest.raises(ValueError, match="layers must hold at least one layer"):
        FeatureDistance(model, [])
    with pytest.raises(ValueError, match="layer '9' is not in the model"):
        FeatureDistance(model, ["9"])
    with pytest.raises(ValueError, match=r"weights must hold one item per layer \(1\), got 2"):
        FeatureDistance(model, ["1"], [1, 1])
    with pytest.raises(ValueError, match=r"weights\[0\] must be finite and not negative"):
        FeatureDistance(model, ["1"], [torch.tensor([1.0, -1.0])])
    with pytest.raises(ValueError, match=r"weights\[0\] must hold one .*\(5\), got 2"):
        FeatureDistance(model, ["1"], [torch.ones(2)]).distance(images, images)
    with pytest.raises(ValueError, match="batch_size must be a finite number"):
        FeatureDistance(model, ["1"], batch_size=1)
    with pytest.raises(ValueError, match="images and others must have the same shape"):
        FeatureDistance(model, ["1"]).distance(images, images[:3])
    result = make_result(images[:4], images[4:8])
    with pytest.raises(TypeError, match="results must be a list of results, got Counterfactuals"):
        diversity(result, l1)
    with pytest.raises(ValueError, match="results must hold two results at least, got 1"):
        diversity([result], l1)
    with pytest.raises(ValueError, match=r"results\[1\] are not those of results\[0\]"):
        diversity([result, make_result(images[4:8], images[:4])], l1)
    with pytest.raises(ValueError, match=r"results\[1\] are not those of results\[0\]"):
        diversity([result, make_result(images[:4], images[4:8], target=[2] * 4)], l1)
    with pytest.raises(TypeError, match="distance must be a function of two tensors, got str"):
        diversity([result, result], "l1")
    with pytest.raises(ValueError, match=r"one value a pair \(4\), got shape \(\)"):
        diversity([result, result], lambda a, b: (a - b).sum())
