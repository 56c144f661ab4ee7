"""Validity under noise against a loop over perturbations, and against its exact value."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm, uniform
from torch import Tensor, nn

from captum_deduce.metrics import ValidityUnderNoise
from tests import reference
from tests.visualization.samples import make_result


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).double()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(11, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def scores_of(model: nn.Module):
    def scores(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(image).unsqueeze(0))[0].numpy()

    return scores


@pytest.mark.parametrize("noise", ["gaussian", "uniform"])
@pytest.mark.parametrize("bounded", [False, True])
def test_it_is_the_share_of_perturbations_that_keep_the_target(model, images, noise, bounded):
    bounds = (
        {"lower_bound": 0.1, "upper_bound": torch.tensor([[[0.8]], [[0.9]]])} if bounded else {}
    )
    metric = ValidityUnderNoise(model, 0.5, noise=noise, samples=13, batch_size=10, **bounds)
    target = torch.arange(11) % 3
    found = metric.validity(images, target)
    assert all(module.training for module in model.modules())
    drawn = metric.perturbations(images).numpy()
    assert drawn.shape == (13, 2, 4, 4)
    model.eval()
    scores = scores_of(model)
    for i, image in enumerate(images.numpy()):

        def bounded_scores(noisy: np.ndarray) -> np.ndarray:
            upper = np.array([0.8, 0.9]).reshape(2, 1, 1)
            return scores(np.clip(noisy, 0.1, upper) if bounded else noisy)

        expected = reference.share_kept(image, drawn, int(target[i]), bounded_scores)
        assert found[i].item() == pytest.approx(expected)
    assert 0 < found.mean() < 1


def test_a_linear_model_loses_its_target_as_the_normal_distribution_says():
    """Two classes, Gaussian noise: the margin over scale times the weights' length, in Phi."""
    torch.manual_seed(0)
    weight = torch.randn(2, 9, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 2, bias=False).double())
    model[1].weight = nn.Parameter(weight)
    images = 0.3 * torch.randn(8, 1, 3, 3, dtype=torch.float64)
    difference = (weight[1] - weight[0]).numpy()
    margins = images.flatten(1).numpy() @ difference
    expected = norm.cdf(margins / (0.2 * np.linalg.norm(difference)))
    found = ValidityUnderNoise(model, 0.2, samples=20_000, batch_size=20_000).validity(images, 1)
    np.testing.assert_allclose(found, expected, atol=5 * 0.5 / np.sqrt(20_000))
    assert expected.min() < 0.4 < 0.6 < expected.max()


@pytest.mark.parametrize(
    ("noise", "expected"),
    [("gaussian", norm(0, 0.3).cdf), ("uniform", uniform(-0.3, 0.6).cdf)],
)
def test_noise_has_the_distribution_that_is_asked_for(model, images, noise, expected):
    metric = ValidityUnderNoise(model, 0.3, noise=noise, samples=400)
    drawn = metric.perturbations(images).numpy()
    assert kstest(drawn.ravel(), expected).pvalue > 1e-3
    entries = np.corrcoef(drawn.reshape(400, -1).T)
    assert np.abs(entries - np.eye(32)).max() < 5 / np.sqrt(400)


def test_a_pair_has_the_same_value_alone_in_any_order_and_in_any_batch(model, images):
    target = torch.arange(11) % 3
    metric = ValidityUnderNoise(model, 0.5, samples=20)
    whole = metric.validity(images, target)
    assert torch.equal(metric.validity(images.flip(0), target.flip(0)).flip(0), whole)
    for batch_size in (1, 7, 64):
        other = ValidityUnderNoise(model, 0.5, samples=20, batch_size=batch_size)
        assert torch.equal(other.validity(images, target), whole)
    alone = [metric.validity(images[i : i + 1], int(target[i])) for i in range(11)]
    assert torch.equal(torch.cat(alone), whole)


def test_the_seed_decides_and_the_global_generator_is_left_alone(model, images):
    state = torch.random.get_rng_state()
    shares = [
        ValidityUnderNoise(model, 0.5, samples=30, seed=seed).validity(images, 1)
        for seed in (3, 3, 4)
    ]
    assert torch.equal(shares[0], shares[1])
    assert not torch.equal(shares[0], shares[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_call_perturbs_counterfactuals(model, images):
    result = make_result(images, images.flip(0), target=[2] * 11)
    metric = ValidityUnderNoise(model, 0.5, samples=10)
    assert torch.equal(metric(result), metric.validity(images.flip(0), 2))


def test_what_does_not_fit_is_refused(model, images):
    with pytest.raises(ValueError, match=r"target must lie in 0 \.\.\. 2 .*got 3"):
        ValidityUnderNoise(model).validity(images, 3)
    with pytest.raises(ValueError, match="lower_bound must broadcast to one input"):
        ValidityUnderNoise(model, lower_bound=torch.zeros(3)).validity(images, 0)
    with pytest.raises(ValueError, match="noise must be one of 'gaussian', 'uniform'"):
        ValidityUnderNoise(model, noise="salt")
    with pytest.raises(ValueError, match="scale must be a finite number"):
        ValidityUnderNoise(model, scale=-0.1)
    with pytest.raises(TypeError, match="samples must be an int"):
        ValidityUnderNoise(model, samples=2.5)
    with pytest.raises(ValueError, match="NaN or infinite values in image"):
        ValidityUnderNoise(model).validity(images / 0, 0)
