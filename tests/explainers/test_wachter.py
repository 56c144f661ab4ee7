"""Wachter against equation 1 written out for one image, and against known optima."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import median_abs_deviation
from torch import Tensor, nn

from captum_deduce import Wachter, median_absolute_deviation
from tests import reference
from tests.conftest import Digits

SHORT = {"lambda_rounds": 5, "max_iterations": 40, "learning_rate": 0.02}


def pairs_of(digits: Digits, count: int) -> tuple[Tensor, Tensor]:
    """Images with targets that are not the model's own prediction, all classes among them."""
    images = digits.images[:count].clone()
    with torch.no_grad():
        predicted = digits.model(images).argmax(1)
    return images, (predicted + 1 + torch.arange(count) % 9) % 10


def ball(images: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of each image's own: within a radius that differs from image to image, and [0, 1]."""
    radius = torch.linspace(0.3, 0.7, len(images), dtype=images.dtype).view(-1, 1, 1, 1)
    return (images - radius).clamp_min(0), (images + radius).clamp_max(1)


def own(bound: float | np.ndarray, i: int) -> float | np.ndarray:
    """Of one image, where each has its own."""
    return bound[i] if isinstance(bound, np.ndarray) and bound.ndim == 4 else bound


def assert_equals_reference(
    model: nn.Module, images: Tensor, targets: Tensor, **settings: object
) -> None:
    settings = SHORT | settings
    mask = settings.pop("mask", None)
    result = Wachter(model).generate(
        images,
        targets,
        mask=None if mask is None else torch.from_numpy(mask),
        return_trajectory=True,
        internal_batch_size=4,
        **{
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in settings.items()
        },
    )
    bounds = {
        name.removesuffix("_bound"): settings.pop(name)
        for name in ("lower_bound", "upper_bound")
        if name in settings
    }
    for i, (image, target) in enumerate(zip(images, targets.tolist(), strict=True)):
        expected = reference.wachter(
            image.numpy(),
            target,
            lambda x: model(x.unsqueeze(0))[0].softmax(0),
            mask=mask,
            **{name: own(bound, i) for name, bound in bounds.items()},
            **settings,
        )
        path = result.trajectory[i].numpy()
        assert len(path) == len(expected.path)
        np.testing.assert_allclose(path, np.stack(expected.path), rtol=0, atol=1e-9)
        np.testing.assert_allclose(result.counterfactuals[i].numpy(), expected.image, atol=1e-9)
        assert result.success[i].item() == expected.success
        assert result.iterations[i].item() == expected.steps
        assert result.evaluations[i].item() == len(path)
        assert result.confidence[i].item() == pytest.approx(expected.confidence, rel=1e-7)


def test_equals_the_naive_form_step_by_step(digits):
    assert_equals_reference(digits.model, *pairs_of(digits, 9))


def mostly_blank(seed: int = 0) -> np.ndarray:
    deviation = np.random.default_rng(seed).random((1, 8, 8))
    deviation[deviation < 0.5] = 0
    return deviation


@pytest.mark.parametrize(
    "settings",
    [
        {"distance": "l2"},
        {"distance": "mad", "mad": mostly_blank()},
        {"confidence": 0.9},
        {"confidence": 0.2},
        {"target_probability": 0.7},
        {"lambda_init": 0.5, "lambda_rounds": 8},
        {"lambda_init": 1e4},
        {"lambda_init": 1e8},
        {"learning_rate": 0.1},
        {"max_iterations": 7, "lambda_rounds": 6},
        {"max_iterations": 1, "lambda_rounds": 3},
        {"lambda_rounds": 1},
        {"mask": np.arange(64).reshape(1, 8, 8) % 3 > 0},
        {"lower_bound": -0.5, "upper_bound": np.linspace(1, 3, 8)},
        {"lower_bound": -1.0, "upper_bound": 3.0, "distance": "l2"},
        {"upper_bound": 2.0, "distance": "mad", "mad": np.full((1, 1, 1), 0.3)},
    ],
    ids=str,
)
def test_every_setting_equals_its_naive_form(digits, settings):
    assert_equals_reference(digits.model, *pairs_of(digits, 3), **settings)


@pytest.mark.parametrize("distance", [{}, {"distance": "mad", "mad": mostly_blank()}], ids=str)
def test_bounds_of_each_image_equal_the_naive_form_with_these(digits, distance):
    images, targets = pairs_of(digits, 9)
    lower, upper = (bound.numpy() for bound in ball(images))
    settings = distance | {"lower_bound": lower, "upper_bound": upper, "confidence": 0.9}
    assert_equals_reference(digits.model, images, targets, **settings)


# --- optima that are known otherwise ---


def logistic(weight: Tensor, bias: float) -> nn.Module:
    """Two classes, of which the second has the logit w x + b."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
        model[1].bias.copy_(torch.tensor([0.0, bias]))
    return model


def cheapest(image: Tensor, weight: Tensor, bias: float, price: Tensor) -> float:
    """The least sum of price x change that brings w x + b to 0 with pixels kept in [0, 1].

    A linear programme in a box: the pixels with most effect for their price go first, each up to
    its bound.
    """
    missing = -(float(image @ weight) + bias)
    room = torch.where(weight > 0, 1 - image, image)
    cost = 0.0
    for i in (weight.abs() / price).argsort(descending=True).tolist():
        gain = min(missing, float(room[i] * weight[i].abs()))
        cost += gain / float(weight[i].abs()) * float(price[i])
        missing -= gain
    assert missing < 1e-9
    return cost


@pytest.mark.parametrize("distance", ["l1", "mad"])
def test_of_a_linear_model_it_finds_the_optimum_of_the_linear_programme(distance):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(36, generator=generator, dtype=torch.float64)
    images = torch.rand(12, 1, 6, 6, generator=generator, dtype=torch.float64)
    mad = torch.rand(1, 6, 6, generator=generator, dtype=torch.float64) + 0.2
    bias = -3.0 - float((images.flatten(1) @ weight).max())
    explainer = Wachter(logistic(weight, bias), distance=distance, mad=mad)
    result = explainer.generate(images, 1, lambda_rounds=20, max_iterations=300, learning_rate=0.05)
    assert result.success.all()
    price = 1 / mad.flatten() if distance == "mad" else torch.ones(36, dtype=torch.float64)
    found = (result.attributions.abs().flatten(1) * price).sum(1)
    costs = [cheapest(image, weight, bias, price) for image in images.flatten(1)]
    best = torch.tensor(costs, dtype=torch.float64)
    assert (found >= best * (1 - 1e-9)).all()
    assert (found <= best * 1.1).all()
    assert (found / best).mean() < 1.02


def test_of_a_linear_model_it_finds_the_foot_of_the_perpendicular():
    """No bound is near, so the closest point of the boundary in L2 is known."""
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(36, generator=generator, dtype=torch.float64)
    images = 0.4 + 0.2 * torch.rand(12, 1, 6, 6, generator=generator, dtype=torch.float64)
    bias = -0.5 - float((images.flatten(1) @ weight).max())
    result = Wachter(logistic(weight, bias), distance="l2").generate(images, 1, lambda_rounds=20)
    shortest = -(images.flatten(1) @ weight + bias) / weight.norm()
    assert result.success.all()
    assert (result.l2() >= shortest * (1 - 1e-9)).all()
    assert (result.l2() <= shortest * 1.02).all()


def test_the_closest_success_of_all_rounds_is_returned(digits):
    images, targets = pairs_of(digits, 12)
    result = Wachter(digits.model).generate(images, targets, return_trajectory=True)
    assert result.success.all()
    later = 0
    for i, path in enumerate(result.trajectory):
        with torch.no_grad():
            confidence = digits.model(path).softmax(1)[:, targets[i]]
        successes = path[confidence > 0.5]
        distances = (successes - images[i]).abs().flatten(1).sum(1)
        assert torch.equal(result.counterfactuals[i], successes[distances.argmin()])
        later += int(distances.argmin() > 0)
    assert later == 12


def test_counterfactuals_are_sparse_and_closer_than_the_first_success(digits):
    images, targets = pairs_of(digits, 20)
    result = Wachter(digits.model).generate(images, targets)
    first = Wachter(digits.model).generate(images, targets, lambda_rounds=1)
    assert first.success.all()
    assert result.l1().mean() < 0.6 * first.l1().mean()
    assert result.l0().double().mean() < 20


@pytest.mark.parametrize(("bias", "largest"), [(100.0, 1e-13), (0.0, 0.0)])
def test_a_class_of_vanishing_probability_is_reached(bias, largest):
    """The gradient of (f - 1)^2 is of the size of f, which may be 0 in float32."""
    weight = torch.linspace(-9, 9, 64).float()
    image = (weight < 0).float().view(1, 1, 8, 8) * 0.9
    model = logistic(weight.double(), bias).float()
    assert model(image).softmax(1)[0, 1] <= largest
    result = Wachter(model).generate(image, 1)
    assert result.success.all()


def test_a_class_out_of_reach_is_a_failure_with_its_best_attempt():
    weight = torch.linspace(-1, 1, 64).double()
    image = torch.full((1, 1, 8, 8), 0.5).double()
    unreachable = logistic(weight, -20.0)
    result = Wachter(unreachable).generate(image, 1, return_trajectory=True)
    assert result.success.tolist() == [False]
    with torch.no_grad():
        seen = unreachable(result.trajectory[0]).softmax(1)[:, 1]
    assert result.confidence.item() == pytest.approx(seen.max().item(), rel=1e-12)
    assert torch.equal(result.counterfactuals[0], result.trajectory[0][seen.argmax()])
    assert result.iterations.item() <= 10 * 100
    constant = logistic(torch.zeros(64).double(), -1.0)
    stuck = Wachter(constant).generate(image, 1)
    assert stuck.success.tolist() == [False]
    assert stuck.iterations.tolist() == [0]
    assert torch.equal(stuck.counterfactuals, image)


def test_normalised_inputs_give_the_same_as_a_normalisation_inside_the_model(digits):
    mean, std = 0.3, 0.25

    class Denormalise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * std + mean

    images, targets = pairs_of(digits, 4)
    for distance in ("l1", "l2", "mad"):
        mad = median_absolute_deviation(digits.train_images)
        raw = Wachter(digits.model, distance=distance, mad=mad).generate(images, targets, **SHORT)
        own_units = Wachter(
            nn.Sequential(Denormalise(), *digits.model),
            distance=distance,
            mad=mad / std,
            lower_bound=(0 - mean) / std,
            upper_bound=(1 - mean) / std,
        ).generate((images - mean) / std, targets, **SHORT)
        assert raw.success.all()
        assert own_units.iterations.tolist() == raw.iterations.tolist()
        torch.testing.assert_close(
            own_units.counterfactuals * std + mean, raw.counterfactuals, rtol=0, atol=1e-7
        )


# --- the median absolute deviation ---


@pytest.mark.parametrize("count", [1, 2, 7, 12])
def test_the_median_absolute_deviation_is_scipys(count):
    images = torch.rand(count, 2, 3, 4, dtype=torch.float64)
    expected = median_abs_deviation(images.numpy(), axis=0)
    np.testing.assert_allclose(median_absolute_deviation(images).numpy(), expected, atol=1e-15)


def test_a_deviation_of_0_is_floored_at_the_smallest_other_one(digits):
    mad = median_absolute_deviation(digits.train_images)
    blank = mad == 0
    assert blank.any()
    floored = torch.where(blank, mad[~blank].min(), mad)
    images, targets = pairs_of(digits, 4)
    results = [
        Wachter(digits.model, distance="mad", mad=given).generate(images, targets, **SHORT)
        for given in (mad, floored)
    ]
    torch.testing.assert_close(
        results[0].counterfactuals, results[1].counterfactuals, rtol=0, atol=0
    )
    assert results[0].success.all()


def test_pixels_that_vary_little_are_changed_less(digits):
    mad = median_absolute_deviation(digits.train_images)
    rare = mad < mad[mad > 0].median()
    images, targets = pairs_of(digits, 20)
    scaled = Wachter(digits.model, distance="mad", mad=mad).generate(images, targets)
    plain = Wachter(digits.model).generate(images, targets)
    assert scaled.attributions[:, rare].abs().sum() < 0.5 * plain.attributions[:, rare].abs().sum()


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"confidence": 0.0}, ValueError, r"confidence must be .* in \(0, 1\), got 0.0"),
        ({"distance": "linf"}, ValueError, "distance must be one of 'l1', 'mad', 'l2', got 'linf'"),
        ({"distance": "mad"}, ValueError, "mad must be given where distance='mad'"),
        ({"mad": [0.1]}, TypeError, "mad must be a torch.Tensor, got list"),
        ({"mad": torch.zeros(1, 8, 8)}, ValueError, "mad must be .*above 0 somewhere"),
        ({"mad": torch.zeros(0)}, ValueError, r"mad must be .*got the extremes \(\)"),
        ({"mad": -torch.ones(1, 8, 8)}, ValueError, "mad must be finite and not negative"),
        ({"mad": torch.full((1, 8, 8), torch.nan)}, ValueError, "mad must be finite"),
        ({"target_probability": 0.5}, ValueError, r"above confidence \(0.5\), got 0.5"),
        ({"target_probability": 1.5}, ValueError, "target_probability"),
        ({"confidence": 0.95, "target_probability": 0.9}, ValueError, "above confidence"),
        ({"lambda_init": 0.0}, ValueError, "lambda_init"),
        ({"lambda_rounds": 0}, ValueError, "lambda_rounds"),
        ({"lambda_rounds": 2.0}, TypeError, "lambda_rounds must be an int, got float"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"max_iterations": -1}, ValueError, "max_iterations"),
    ],
    ids=str,
)
def test_settings_that_are_refused_at_construction_and_in_a_call(digits, settings, error, message):
    with pytest.raises(error, match=message):
        Wachter(digits.model, **settings)
    with pytest.raises(error, match=message):
        Wachter(digits.model).generate(digits.images[:1], 3, **settings)


def test_a_deviation_of_another_shape_is_refused_before_any_work(digits):
    explainer = Wachter(digits.model, distance="mad", mad=torch.ones(5, 5))
    with pytest.raises(ValueError, match=r"mad must broadcast to one input of shape \(1, 8, 8\)"):
        explainer.generate(digits.images[:1], 3)
    vanishing = torch.full((1, 8, 8), 1e-60, dtype=torch.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ValueError, match=r"mad .* above 0 somewhere, got .*\(0.0, 0.0\) .*float32"):
        Wachter(model, distance="mad", mad=vanishing).generate(torch.rand(1, 1, 8, 8), 3)
    with pytest.raises(TypeError, match="inputs must be float32 or float64"):
        median_absolute_deviation(torch.zeros(3, 1, 2, 2).long())
