"""Adaptive steps against a naive form that judges each step of one image by itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import JSMA, DeDUCE
from captum_deduce.search import SHORTEST_STEP
from tests import reference


class Rippled(nn.Module):
    """A linear model of three classes on waves, so that far steps mislead."""

    def __init__(self, height: float, frequency: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.height, self.frequency = height, frequency
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()

    def forward(self, images: Tensor) -> Tensor:
        phase = torch.arange(64).view(1, 1, 8, 8) * 0.7
        return self.net(images + self.height * (self.frequency * images + phase).sin()) * 4


def naive(model: nn.Module, image: Tensor, target: int, **settings):
    def loss(x: Tensor) -> Tensor:
        return -model(x.unsqueeze(0)).log_softmax(1)[0, target]

    def judge(x: np.ndarray) -> tuple[float, float]:
        with torch.no_grad():
            return float(torch.exp(-loss(torch.from_numpy(x)))), 1.0  # whose logarithm is 0

    def gradient_of(x: np.ndarray, balance: float) -> np.ndarray:
        assert balance == 1
        inputs = torch.from_numpy(x).requires_grad_()
        value = loss(inputs)
        return (torch.autograd.grad(value, inputs)[0] / value.detach().clamp_min(1e-6)).numpy()

    found = reference.adaptive_deduce(image.numpy(), judge, gradient_of, balanced=False, **settings)
    return found[:2]


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize(("height", "frequency"), [(0.0, 1.0), (0.05, 60.0), (0.1, 40.0)])
def test_equals_its_naive_form_where_steps_mislead_and_where_not(height, frequency, momentum):
    model = Rippled(height, frequency)
    images = torch.rand(12, 1, 8, 8, dtype=torch.float64)
    targets = torch.arange(12) % 3
    settings = {"confidence": 0.8, "step_size": 0.8, "momentum": momentum, "max_iterations": 40}
    explainer = JSMA(model, pixels_per_step="adaptive", max_changes=3, **settings)
    result = explainer.generate(images, targets, return_trajectory=True, internal_batch_size=5)
    shortest, returns = 1.0, 0
    for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True)):
        found, lengths = naive(model, image, target, max_changes=3, **settings)
        path = result.trajectory[i].numpy()
        np.testing.assert_allclose(path, np.stack(found.path), rtol=0, atol=1e-12)
        assert result.success[i].item() == found.success
        assert result.iterations[i].item() == found.steps
        shortest = min([shortest, *lengths])
        returns += sum(b == a / 16 for a, b in itertools.pairwise(lengths))
    if height == 0:
        assert result.success.all()
        assert returns == 0
    else:
        assert shortest < 0.1
        assert returns > 0
    assert shortest >= SHORTEST_STEP


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize(("rounds", "halving"), [(4, False), (3, True), (6, True)])
def test_rounds_equal_their_naive_form(rounds, halving, momentum):
    model = Rippled(0.1, 40.0)
    images = torch.rand(9, 1, 8, 8, dtype=torch.float64)
    targets = torch.arange(9) % 3
    settings = {"confidence": 0.8, "step_size": 0.6, "momentum": momentum, "max_iterations": 70}
    explainer = JSMA(model, pixels_per_step="adaptive", max_changes=3, **settings)
    explainer.rounds, explainer.halving = rounds, halving
    result = explainer.generate(images, targets, return_trajectory=True, internal_batch_size=4)
    settings |= {"rounds": rounds, "halving": halving, "max_changes": 3}
    for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True)):
        found, _ = naive(model, image, target, **settings)
        path = result.trajectory[i].numpy()
        np.testing.assert_allclose(path, np.stack(found.path), rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.counterfactuals[i].numpy(), found.image, atol=1e-12)
        assert result.success[i].item() == found.success
        assert result.iterations[i].item() == found.steps
    assert result.success.any()
    assert (result.iterations < 70).any()


def test_a_mask_is_law_where_rounds_take_pixels_back():
    images = torch.rand(6, 1, 8, 8, dtype=torch.float64)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :5] = 1
    explainer = JSMA(Rippled(0.05, 30.0), pixels_per_step="adaptive", step_size=0.6)
    explainer.rounds, explainer.halving = 4, True
    result = explainer.generate(images, torch.arange(6) % 3, mask=mask, max_iterations=60)
    assert result.attributions.any()
    assert not result.attributions[..., 5:].any()


def test_at_most_a_tenth_of_the_pixels_that_may_change_move_at_once():
    model = Rippled(0.0, 1.0)
    images = torch.full((2, 1, 8, 8), 0.5, dtype=torch.float64)
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :5, :] = 1
    explainer = JSMA(model, pixels_per_step="adaptive", step_size=1e-3, confidence=0.99)
    for allowed, most in ((None, 7), (mask, 4)):
        result = explainer.generate(
            images, 2, mask=allowed, return_trajectory=True, max_iterations=3
        )
        moved = [(path[1:] != path[:-1]).flatten(1).sum(1) for path in result.trajectory]
        assert torch.stack(moved).tolist() == [[most] * 3] * 2


def test_an_image_whose_gradient_is_not_finite_is_left_again():
    """A cliff: beyond .6 the score is NaN, and shorter steps lead to the goal before it."""

    class Cliff(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            total = images.flatten(1).mean(1)
            score = torch.where(total > 0.6, torch.nan, 40 * (total - 0.55))
            return torch.stack([torch.zeros_like(score), score], 1)

    image = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    explainer = JSMA(Cliff(), pixels_per_step="adaptive", step_size=0.9, pixel="entry")
    # All four may move: a tenth of four pixels is one, which alone can't shorten the steps.
    assert not explainer.generate(image, 1).success.item()
    wide = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64)
    result = explainer.generate(wide, 1)
    assert result.success.item()
    assert result.counterfactuals.mean() <= 0.6


def test_a_later_round_takes_no_longer_than_the_first(digits):
    images = digits.images[:20]
    with torch.no_grad():
        targets = digits.model(images).topk(3).indices[:, 2]
    settings = {"pixels_per_step": "adaptive", "step_size": 0.5, "max_iterations": 300}
    explainer = DeDUCE(digits.model, digits.layer, digits.density, **settings)
    first = explainer.generate(images, targets)
    explainer.rounds = 4
    several = explainer.generate(images, targets)
    most = first.iterations + 3 * (first.iterations.clamp_min(10) + 1)
    assert (several.iterations <= most).all()
    assert several.success.equal(first.success)


def test_a_group_that_moved_in_vain_moves_less_far_the_next_time():
    class Resonant(nn.Module):
        """The target's score rises with the mean for a while only, and then falls deep."""

        def forward(self, images: Tensor) -> Tensor:
            moved = images.flatten(1).mean(1) - 0.5
            score = 400 * moved.abs() * (0.02 - moved.abs())
            return torch.stack([torch.zeros_like(score), 100 * score - 1], 1)

    images = torch.full((1, 1, 8, 8), 0.5, dtype=torch.float64)
    images[..., 0, 0] = 0.501
    explainer = JSMA(
        Resonant(), saliency="gradient", pixels_per_step="adaptive", step_size=0.6, max_changes=9
    )
    everything = torch.zeros(8, 8, dtype=torch.int64)
    result = explainer.generate(images, 1, feature_mask=everything, max_iterations=40)
    assert result.success.all()
    assert 0 < result.linf().item() < 0.02
