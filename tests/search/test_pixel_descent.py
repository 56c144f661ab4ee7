"""The search that DeDUCE, JSMA and Schut share, on linear models whose moves are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_deduce import JSMA
from captum_deduce.classifiers import FrozenModel
from captum_deduce.search import Entries, Goal, PixelDescent, PixelStep, Problem, SearchResult, run
from tests import reference


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


# --- several rounds, against the form that takes one image at a time ---


class Curved(nn.Module):
    """Three classes of 4 x 4 images, by chance; of images in other units where they are told."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        layers = nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3)
        self.net = nn.Sequential(*layers).double()

    def forward(self, images: Tensor, lower: Tensor | None = None, span: Tensor | None = None):
        if lower is not None:
            images = (images - lower) / span
        return 4 * self.net(images)


PAIRS = 7
ROUNDS = {"step_size": 0.35, "max_changes": 3, "rounds": 4, "max_iterations": 60}


def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(PAIRS, 1, 4, 4, generator=generator).double(), torch.arange(PAIRS) % 3


def in_rounds(
    units: tuple[Tensor, ...] = (), *, momentum: float, confidence: float = 0.8, **settings
) -> SearchResult:
    """Search where each image has a lower bound and a range of its own, or all have 0 and 1."""
    images, target = pairs()
    lower, span = units or (torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double())
    problem = Problem(
        model=FrozenModel(Curved()),
        inputs=lower + span * images,
        target=target,
        classes=target.tolist(),
        additional_forward_args=units,
        mask=None,
        lower=lower,
        upper=lower + span,
    )
    settings = ROUNDS | settings
    step = PixelStep(
        step_size=settings["step_size"],
        max_changes=settings["max_changes"],
        pixels_per_step=1,
        pixels=Entries(),
        skip_saturated=True,
        lower=problem.lower,
        upper=problem.upper,
    )

    def objective(scores, features, target, classes, balance):
        assert balance is None
        return cross_entropy(scores, target, reduction="none"), scores.mean(1)

    descent = PixelDescent(
        problem,
        objective,
        step,
        Goal(confidence),
        momentum=momentum,
        max_iterations=settings["max_iterations"],
        rounds=settings["rounds"],
    )
    return run(descent, PAIRS, batch_size=3, return_trajectory=True)


def naively(image: Tensor, target: int, **settings) -> reference.Found:
    model = Curved()

    def loss(x: Tensor) -> Tensor:
        return cross_entropy(model(x.unsqueeze(0)), torch.tensor([target]))

    def judge(x: np.ndarray) -> tuple[float, float]:
        with torch.no_grad():
            return float(torch.exp(-loss(torch.from_numpy(x)))), 0.0

    def gradient_of(x: np.ndarray) -> np.ndarray:
        inputs = torch.from_numpy(x).requires_grad_()
        return torch.autograd.grad(loss(inputs), inputs)[0].numpy()

    return reference.deduce_in_rounds(image.numpy(), judge, gradient_of, **settings)


@pytest.mark.parametrize("settings", [{}, {"max_iterations": 9}, {"rounds": 2}], ids=str)
@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_rounds_equal_their_naive_form(momentum, settings):
    images, target = pairs()
    result = in_rounds(momentum=momentum, **settings)
    ended_early = 0
    for i, (image, wanted) in enumerate(zip(images, target.tolist(), strict=True)):
        naive = naively(image, wanted, confidence=0.8, momentum=momentum, **(ROUNDS | settings))
        path = result.trajectory[i].numpy()
        np.testing.assert_allclose(path, np.stack(naive.path), rtol=0, atol=1e-12)
        np.testing.assert_allclose(result.images[i].numpy(), naive.image, rtol=0, atol=1e-12)
        assert result.success[i].item() == naive.success
        assert result.iterations[i].item() == naive.steps
        # what stands in the place of the log-density
        mean = Curved()(result.images[i : i + 1]).mean()
        assert result.log_density[i].item() == pytest.approx(mean.item(), rel=1e-9)
        ended_early += naive.success and naive.steps < (ROUNDS | settings)["max_iterations"]
    assert ended_early


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_rounds_are_the_same_in_the_units_of_each_image(momentum):
    expected = in_rounds(momentum=momentum)
    generator = torch.Generator().manual_seed(5)
    lower, span = torch.rand(2, PAIRS, 1, 1, 1, generator=generator).double() * 20
    lower, span = (lower - 10).expand(-1, 1, 4, 4), (span + 0.1).expand(-1, 1, 4, 4)
    found = in_rounds((lower, span), momentum=momentum)
    assert expected.success.any()
    assert torch.equal(found.success, expected.success)
    assert torch.equal(found.iterations, expected.iterations)
    torch.testing.assert_close((found.images - lower) / span, expected.images)
    torch.testing.assert_close(found.distance, expected.distance, rtol=0, atol=2e-6)


def test_what_a_mask_holds_stays_where_pixels_retire():
    """The heaviest pixel may not move, and the next one is out once it is on its bound."""
    mask = torch.tensor([[[[0, 1, 1, 1]]]])
    result = JSMA(linear(9.0, 2.0, 1.5, 1.0)).generate(image(0, 0, 0, 0), 1, mask=mask)
    # 2 + 1.5 is more than 3, and 2 + 1.2 already
    torch.testing.assert_close(result.counterfactuals, image(0.0, 1.0, 0.8, 0.0))
    assert result.success.item()
