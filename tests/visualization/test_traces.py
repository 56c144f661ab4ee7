from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import multivariate_normal
from torch import nn

from captum_deduce import ClassGaussianMixture, DeDUCE
from captum_deduce.visualization import trace_trajectory
from captum_deduce.visualization.traces import evenly_spread, trajectory_of
from tests.visualization.samples import make_result


def _setting(steps):
    """A linear model with three features and three classes, a density, and one trajectory."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 3)).double()
    features, labels = torch.randn(60, 3, dtype=torch.float64), torch.arange(60) % 3
    density = ClassGaussianMixture().fit(features + labels.unsqueeze(1), labels)
    images = torch.rand(steps + 1, 1, 2, 2, dtype=torch.float64)
    result = make_result(
        images[[0, 0]],
        images[[-1, -1]],
        target=[1, 2],
        prediction=[0, 1],
        trajectory=[images[:1], images],
    )
    return model, density, result, images


def _by_numpy(model, images):
    layers = [model[1], model[2]]
    weights = [(layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in layers]
    features = images.flatten(1).numpy() @ weights[0][0].T + weights[0][1]
    return features, softmax(features @ weights[1][0].T + weights[1][1], axis=1)


def test_a_trace_holds_what_numpy_and_scipy_compute():
    model, density, result, images = _setting(steps=9)
    trace = trace_trajectory(result, 1, model, model[1], density)
    features, probabilities = _by_numpy(model, images)
    np.testing.assert_array_equal(trace.steps, np.arange(10))
    np.testing.assert_allclose(trace.features, features, atol=1e-12)
    np.testing.assert_allclose(trace.confidence, probabilities[:, 2], atol=1e-12)
    np.testing.assert_allclose(trace.original_confidence, probabilities[:, 1], atol=1e-12)
    gaussian = multivariate_normal(density.means[2], density.covariances[2])
    np.testing.assert_allclose(trace.log_density, gaussian.logpdf(features), rtol=1e-9)


def test_without_layer_and_density_only_probabilities_are_read():
    model, _, result, _ = _setting(steps=3)
    trace = trace_trajectory(result, 1, model)
    assert trace.features is None
    assert trace.log_density is None
    assert len(trace.confidence) == 4
    named = trace_trajectory(result, 1, model, "1")
    assert named.features.shape == (4, 3)
    assert named.log_density is None


def test_a_pair_without_a_step_has_a_trace_of_one():
    model, density, result, images = _setting(steps=3)
    trace = trace_trajectory(result, 0, model, model[1], density)
    assert trace.steps.tolist() == [0]
    assert trace.confidence == pytest.approx(_by_numpy(model, images[:1])[1][:, 1])


def test_long_trajectories_are_evaluated_in_batches_at_some_steps():
    model, _, result, images = _setting(steps=900)
    sizes = []
    handle = model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    trace = trace_trajectory(result, 1, model, max_steps=400)
    handle.remove()
    assert len(trace.steps) == 400
    assert max(sizes) <= 128
    assert trace.steps[[0, -1]].tolist() == [0, 900]
    expected = _by_numpy(model, images)[1][trace.steps]
    np.testing.assert_allclose(trace.confidence, expected[:, 2], atol=1e-12)


def test_the_model_is_left_as_it_was_and_no_graph_is_kept():
    model, density, result, _ = _setting(steps=3)
    model.train()
    trace = trace_trajectory(result, 1, model, model[1], density)
    assert all(module.training for module in model.modules())
    assert not model[1]._forward_hooks
    assert not trace.features.requires_grad


def test_a_first_layer_that_works_in_place_does_not_change_the_trajectory():
    _, _, result, images = _setting(steps=3)
    before = images.clone()
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4, 3).double())
    negative = make_result(images[:1], images[-1:], trajectory=[images - 0.5])
    trace_trajectory(negative, 0, model)
    assert torch.equal(negative.trajectory[0], before - 0.5)
    trace_trajectory(result, 1, model)
    assert torch.equal(result.trajectory[1], before)


def test_the_trace_ends_at_the_results_own_confidence_and_density(digits):
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    result = explainer.generate(
        digits.images[:3], target=(digits.labels[:3] + 1) % 10, return_trajectory=True
    )
    for pair in range(3):
        trace = trace_trajectory(result, pair, digits.model, digits.layer, digits.density)
        at = -1 if result.success[pair] else int(trace.confidence.argmax())
        assert trace.confidence[at] == pytest.approx(float(result.confidence[pair]), rel=1e-9)
        assert trace.log_density[at] == pytest.approx(float(result.log_density[pair]), rel=1e-6)
        assert trace.original_confidence[0] > 1 / 10


@pytest.mark.parametrize(("count", "most"), [(1, 5), (2, 2), (7, 3), (10, 10), (10, 9), (1000, 17)])
def test_chosen_places_are_spread_evenly_between_first_and_last(count, most):
    places = evenly_spread(count, most)
    assert len(places) == min(count, most)
    assert places[0] == 0
    assert places[-1] == count - 1
    gaps = np.diff(places)
    assert len(gaps) == 0 or 1 <= gaps.min() <= gaps.max() <= gaps.min() + 1


def test_what_does_not_fit_is_refused():
    model, density, result, images = _setting(steps=2)
    plain = make_result(images[:1], images[1:2])
    with pytest.raises(ValueError, match="return_trajectory=True"):
        trajectory_of(plain, 0)
    with pytest.raises(TypeError, match="result must be Counterfactuals, got Tensor"):
        trajectory_of(images, 0)
    for pair in (-1, 2):
        with pytest.raises(ValueError, match=rf"pair .*\[0, 1\], got {pair}"):
            trace_trajectory(result, pair, model)
    with pytest.raises(TypeError, match="pair must be an int"):
        trace_trajectory(result, 0.0, model)
    with pytest.raises(ValueError, match="density needs the features of a layer"):
        trace_trajectory(result, 0, model, None, density)
    with pytest.raises(TypeError, match="density must be a ClassGaussianMixture, got Linear"):
        trace_trajectory(result, 0, model, model[1], model[2])
    with pytest.raises(ValueError, match="max_steps"):
        trace_trajectory(result, 0, model, max_steps=1)
    with pytest.raises(TypeError, match="forward_func"):
        trace_trajectory(result, 0, "model")
