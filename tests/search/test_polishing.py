"""Polishing against its naive form, and what it must never do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_deduce import search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.search.pixels import Entries, Groups, Pixels, Sites
from captum_deduce.search.polishing import Polish, polish
from captum_deduce.search.problem import Goal, Problem
from tests import reference

SHAPE = (2, 4, 5)
"""Channels, height and width of the images here."""

Array = NDArray[np.float64]


class Waves(nn.Module):
    """Two classes by a sum of sines; the features are the entries."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        entries = int(np.prod(SHAPE))
        self.first = 0.5 * torch.randn(entries, 12, generator=generator, dtype=torch.float64)
        self.second = 2 * torch.randn(12, generator=generator, dtype=torch.float64)
        self.entries = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        score = ((self.entries(images) - 0.5) @ self.first).sin() @ self.second
        return torch.stack([torch.zeros_like(score), score], 1)

    def score(self, image: Array) -> tuple[float, Array]:
        """Of class 1, and its gradient, by hand."""
        first, second = self.first.numpy(), self.second.numpy()
        phase = (image.reshape(-1) - 0.5) @ first
        return float(np.sin(phase) @ second), (first @ (np.cos(phase) * second)).reshape(SHAPE)


def log_density(features: Tensor, classes: list[int]) -> Tensor:
    return -3 * (features - 0.5).square().sum(1)


LEAST = torch.tensor([0.0, -10.0], dtype=torch.float64)
CONFIDENCE = 0.7


def problem_of(model: FrozenModel, inputs: Tensor) -> Problem:
    return Problem(
        model=model,
        inputs=inputs,
        target=torch.ones(len(inputs), dtype=torch.int64),
        classes=[1] * len(inputs),
        additional_forward_args=(),
        mask=None,
        lower=torch.zeros_like(inputs[0]),
        upper=torch.ones_like(inputs[0]),
    )


def found_images(net: Waves, images: Tensor) -> search.SearchResult:
    confidence = net(images).softmax(1)[:, 1]
    density = log_density(images.flatten(1), [])
    count = len(images)
    return search.SearchResult(
        images=images,
        confidence=confidence,
        success=(confidence > CONFIDENCE) & (density >= LEAST[1]),
        prediction=torch.zeros(count, dtype=torch.int64),
        iterations=torch.full((count,), 7),
        log_density=density,
    )


@pytest.fixture
def cases() -> tuple[Waves, Tensor, search.SearchResult]:
    net = Waves()
    generator = torch.Generator().manual_seed(3)
    inputs, drawn = torch.rand(2, 160, *SHAPE, generator=generator, dtype=torch.float64).unbind()
    kept = torch.rand(160, *SHAPE, generator=generator) < 0.4
    found = found_images(net, torch.where(kept, inputs, 0.5 + 0.7 * (drawn - 0.5)))
    assert 20 < found.success.sum() < 150
    return net, inputs, found


def shrinking(images: Tensor) -> Tensor:
    return 0.8 * images + 0.05


GROUPS = torch.arange(int(np.prod(SHAPE))).view(SHAPE) // 4


@pytest.mark.parametrize(
    ("settings", "pixels"),
    [
        (Polish(steps=40), Entries()),
        (Polish(variation=0.0, steps=30, learning_rate=0.02), Entries()),
        (Polish(variation=0.6, most_changes=12, steps=40), Entries()),
        (Polish(only_changed=True, steps=30), Entries()),
        (Polish(only_changed=True, steps=30), Sites()),
        (Polish(steps=30), Groups(GROUPS, int(GROUPS.max()) + 1)),
        (Polish(prior=shrinking, prior_weight=2.0, steps=30), Entries()),
    ],
    ids=["usual", "distance", "few", "changed", "changed sites", "groups", "prior"],
)
def test_every_pair_is_polished_as_the_naive_form_does(
    cases: tuple[Waves, Tensor, search.SearchResult], settings: Polish, pixels: Pixels
) -> None:
    net, inputs, found = cases
    with FrozenModel(net, net.entries) as model:
        result = polish(
            problem_of(model, inputs),
            Goal(CONFIDENCE, LEAST),
            found,
            settings,
            log_density,
            pixels=pixels,
            batch_size=7,
        )
    improved = 0
    for i in range(len(inputs)):
        original, image = inputs[i].numpy(), found.images[i].numpy()
        if not found.success[i]:
            assert torch.equal(result.images[i], found.images[i])
            assert result.evaluations[i] == 8
            continue
        expected, evaluations = reference.polished(
            image,
            original,
            lambda trial: is_enough(net, trial),
            lambda trial: shortfall_gradient(net, trial),
            weight=settings.variation,
            reconstruction_loss=shrinking_loss if settings.prior else None,
            most_changes=settings.most_changes,
            movable=movable(image != original, settings, pixels),
            steps=settings.steps,
            learning_rate=settings.learning_rate,
        )
        np.testing.assert_allclose(result.images[i].numpy(), expected, rtol=0, atol=1e-9)
        assert result.evaluations[i] == 8 + evaluations
        assert is_enough(net, result.images[i].numpy())
        improved += bool((result.images[i] != found.images[i]).any())
    assert improved > 8


def is_enough(net: Waves, image: Array) -> bool:
    density = -3 * ((image - 0.5) ** 2).sum()
    probability = 1 / (1 + np.exp(-net.score(image)[0]))
    return bool(probability > CONFIDENCE and density >= LEAST[1].item())


def shortfall_gradient(net: Waves, image: Array) -> Array:
    """Of softplus(-(odds beyond the goal)) + softplus(lack of density / 1 nat)."""
    score, slope = net.score(image)
    ahead = score - np.log(CONFIDENCE / (1 - CONFIDENCE))
    lack = LEAST[1].item() + 3 * ((image - 0.5) ** 2).sum()
    return -slope / (1 + np.exp(ahead)) + 6 * (image - 0.5) / (1 + np.exp(-lack))


def shrinking_loss(image: Array) -> tuple[float, Array]:
    missing = 0.05 - 0.2 * image
    return 2 * (missing**2).sum(), 2 * 2 * missing * -0.2


def movable(changed: NDArray[np.bool_], settings: Polish, pixels: Pixels) -> Array | None:
    if isinstance(pixels, Groups):
        return np.isin(GROUPS.numpy(), GROUPS.numpy()[changed])
    if not settings.only_changed:
        return None
    if isinstance(pixels, Sites):
        return np.broadcast_to(changed.any(0, keepdims=True), changed.shape)
    return changed


def test_it_gets_nearer_and_smoother_and_the_goal_holds(
    cases: tuple[Waves, Tensor, search.SearchResult],
) -> None:
    net, inputs, found = cases
    goal = Goal(CONFIDENCE, LEAST)
    with FrozenModel(net, net.entries) as model:
        problem = problem_of(model, inputs)
        nearer = polish(problem, goal, found, Polish(variation=0.0), log_density)
        smoother = polish(problem, goal, found, Polish(variation=1.0), log_density)
    rows = found.success

    def total(images: Tensor) -> Tensor:
        return torch.stack([search.total_variation(images), search.l1_norm(images - inputs)])[
            :, rows
        ]

    before = total(found.images)
    assert (total(nearer.images)[1] <= before[1]).all()
    assert total(nearer.images)[1].mean() < 0.8 * before[1].mean()
    assert (total(smoother.images).sum(0) <= before.sum(0)).all()
    assert total(smoother.images)[0].mean() < 0.8 * before[0].mean()
    again = found_images(net, smoother.images)
    torch.testing.assert_close(smoother.confidence[rows], again.confidence[rows])
    torch.testing.assert_close(smoother.log_density[rows], again.log_density[rows])
    assert torch.equal(smoother.success, found.success)


def test_a_pair_that_finds_none_with_so_few_changes_keeps_what_it_had(
    cases: tuple[Waves, Tensor, search.SearchResult],
) -> None:
    net, inputs, found = cases
    with FrozenModel(net, net.entries) as model:
        result = polish(
            problem_of(model, inputs),
            Goal(CONFIDENCE, LEAST),
            found,
            Polish(most_changes=3, steps=20),
            log_density,
        )
    changes = (result.images != inputs).flatten(1).sum(1)
    kept = (result.images == found.images).flatten(1).all(1)
    assert (kept | (changes <= 3)).all()
    assert kept[found.success].any()


def test_the_mask_and_bounds_of_each_image_stay_law(
    cases: tuple[Waves, Tensor, search.SearchResult],
) -> None:
    net, inputs, found = cases
    mask = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(5)) < 0.9
    images = torch.where(mask, found.images, inputs)
    found = found_images(net, images)
    lower = (torch.minimum(inputs, images) - 0.02).clamp(min=0)
    upper = (torch.maximum(inputs, images) + 0.02).clamp(max=1)
    with FrozenModel(net, net.entries) as model:
        problem = replace(problem_of(model, inputs), mask=mask, lower=lower, upper=upper)
        result = polish(problem, Goal(CONFIDENCE, LEAST), found, Polish(steps=30), log_density)
    assert ((result.images == inputs) | mask).all()
    assert (result.images >= lower).all()
    assert (result.images <= upper).all()
    assert (result.images != found.images).any()


def test_units_do_not_matter(cases: tuple[Waves, Tensor, search.SearchResult]) -> None:
    """The same images in 0 to 255, of a model that divides by it."""
    net, inputs, found = cases

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, images: Tensor) -> Tensor:
            return self.net(images / 255)

    settings, goal = Polish(steps=30), Goal(CONFIDENCE, LEAST)
    with FrozenModel(net, net.entries) as model:
        plain = polish(problem_of(model, inputs), goal, found, settings, log_density)
    with FrozenModel(Scaled(), net.entries) as model:
        problem = problem_of(model, 255 * inputs)
        scaled = polish(
            replace(problem, upper=255 * problem.upper),
            goal,
            replace(found, images=255 * found.images),
            settings,
            log_density,
        )
    torch.testing.assert_close(scaled.images / 255, plain.images, rtol=0, atol=1e-9)


def test_below_one_half_the_target_stays_the_most_likely_class() -> None:
    """Three classes: class 1 exceeds .3 long before it leads."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(3, 4))
        model[1].bias.zero_()
    inputs = torch.tensor([[0.8, 0.0, 0.0, 0.0]], dtype=torch.float64).view(1, 1, 2, 2)
    start = torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64).view(1, 1, 2, 2)
    found = search.SearchResult(
        images=start,
        confidence=model(start).softmax(1)[:, 1],
        success=torch.tensor([True]),
        prediction=torch.tensor([0]),
        iterations=torch.tensor([2]),
    )
    with FrozenModel(model) as frozen:
        result = polish(problem_of(frozen, inputs), Goal(0.3), found, Polish(variation=0.0))
    scores = model(result.images)[0]
    assert scores.argmax() == 1
    # on the way to the tie at .8 less L1 is left than at the start, and at the best half of it
    assert (result.images - inputs).abs().sum() < 1.0


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"variation": -1}, ValueError, "variation"),
        ({"prior": 3}, TypeError, "prior"),
        ({"prior_weight": -0.1}, ValueError, "prior_weight"),
        ({"most_changes": 0}, ValueError, "most_changes"),
        ({"only_changed": 1}, TypeError, "only_changed"),
        ({"steps": 0}, ValueError, "steps"),
        ({"learning_rate": 0}, ValueError, "learning_rate"),
    ],
)
def test_settings_without_sense_are_refused(
    settings: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Polish(**settings)
