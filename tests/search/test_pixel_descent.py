"""The search that DeDUCE, JSMA and Schut share, on linear models whose moves are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import JSMA
from captum_deduce.search import Entries, Goal, PixelDescent, PixelStep


def linear(*weights: float) -> nn.Module:
    """Two classes; the score of class 1 is a weighted sum of the pixels, that of class 0 is 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(weights), 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0] * len(weights), list(weights)]))
        model[1].bias.copy_(torch.tensor([0.0, -3.0]))
    return model


def image(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_the_heaviest_pixel_moves_until_it_is_on_its_bound_then_the_next():
    result = JSMA(linear(4.0, -1.0, 2.0, 0.0)).generate(
        image(0.0, 0.0, 0.0, 0.0), 1, return_trajectory=True
    )
    path = result.trajectory[0].flatten(1)
    expected = [[0.2 * k, 0, 0, 0] for k in range(4)]
    torch.testing.assert_close(path[:4], torch.tensor(expected).double())
    # 4 x .8 = 3.2 > 3: the decision is crossed.
    assert result.iterations.item() == 4
    assert result.success.item()
    sure = JSMA(linear(4.0, -1.0, 2.0, 0.0), confidence=0.9).generate(image(0, 0, 0, 0), 1)
    # log(9) = 2.197: 4 + 2 x .6 - 3 = 2.2 is the first above it.
    torch.testing.assert_close(sure.counterfactuals, image(1.0, 0.0, 0.6, 0.0))


def test_a_pixel_that_a_step_has_put_on_a_bound_is_out():
    """The loss pulls the first pixel to 1, beyond its optimum .9, and would then pull it back."""

    def scores(images: Tensor) -> Tensor:
        first, second = images.flatten(1).unbind(1)
        gain = -10 * (first - 0.9) ** 2 + 0.01 * second
        return torch.stack([torch.ones_like(gain), gain], 1)

    retiring = JSMA(scores, step_size=0.5).generate(
        image(0.5, 0.0), 1, return_trajectory=True, max_iterations=3
    )
    path = retiring.trajectory[0].flatten(1)
    torch.testing.assert_close(path, torch.tensor([[0.5, 0], [1, 0], [1, 0.5], [1, 1]]).double())


def test_without_an_admissible_pixel_the_pair_stops_as_failed_with_its_best():
    result = JSMA(linear(1.0, 1.0, 0.5, 0.0)).generate(image(0, 0, 0, 0.3), 1)
    assert not result.success.item()
    torch.testing.assert_close(result.counterfactuals, image(1.0, 1.0, 1.0, 0.3))
    assert result.iterations.item() == 15
    assert result.confidence.item() == pytest.approx(torch.tensor(-0.5).sigmoid().item())


def test_momentum_sums_the_whole_previous_direction():
    """With equation 6, the direction at step k of a linear model is (1 + m + ... + m^k) g."""
    model = linear(2.0, 1.9, 0.0, 0.0)
    seen: list[Tensor] = []

    class Recording(JSMA):
        def _procedure(self, problem):
            procedure = super()._procedure(problem)
            move = procedure.move

            def recorded(state, direction, allowed=None):
                seen.append(direction.clone())
                return move(state, direction, allowed)

            procedure.move = recorded
            return procedure

    explainer = Recording(model, momentum=0.5, max_iterations=3)
    result = explainer.generate(image(0, 0, 0, 0), 1, return_trajectory=True)
    direction = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    for position, found in zip(result.trajectory[0][:3], seen, strict=False):
        probability = model(position.unsqueeze(0)).softmax(1)[0, 1].item()
        gradient = -(1 - probability) * image(2.0, 1.9, 0.0, 0.0)
        direction = gradient + 0.5 * direction
        torch.testing.assert_close(found, direction)


def test_equal_ways_from_different_originals_are_equally_far():
    """.5 + .6 - .5 is not .6 in any binary precision, and a search compares distances."""
    originals = torch.linspace(0, 0.4, 41, dtype=torch.float64).view(-1, 1, 1, 1)
    moved = originals + 0.6
    assert len({float(way) for way in moved - originals}) > 1
    bounds = torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()
    step = PixelStep(0.2, None, 1, Entries(), True, *bounds)
    descent = PixelDescent(None, None, step, Goal(0.5), momentum=0, max_iterations=1)
    distances = descent.distance(moved, {"original": originals})
    assert distances.tolist() == [1.6] * 41
