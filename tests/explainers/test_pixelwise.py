from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce.explainers import JSMA, PixelwiseExplainer
from captum_deduce.search import PixelDescent, Sites

SETTINGS = {
    "confidence": 0.5,
    "step_size": 0.2,
    "max_changes": 5,
    "pixels_per_step": 1,
    "momentum": 0.0,
    "max_iterations": 20,
    "skip_saturated": True,
    "pixel": "entry",
}


class Plain(PixelwiseExplainer):
    """Nothing but what all pixelwise methods share."""

    lower_bound, upper_bound = 0.0, 1.0

    def __init__(self, forward_func, **settings) -> None:
        super().__init__(forward_func)
        for name, value in (SETTINGS | settings).items():
            setattr(self, name, value)
        self._check_settings()


def model() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0] * 4, [4.0, -1.0, 2.0, 0.0]]))
        net[1].bias.copy_(torch.tensor([0.0, -3.0]))
    return net


def test_an_explainer_without_an_objective_descends_on_the_cross_entropy():
    result = Plain(model()).generate(torch.zeros(1, 1, 2, 2, dtype=torch.float64), 1)
    # the heaviest pixel alone: 4 x .8 = 3.2 > 3
    expected = torch.tensor([[[[0.8, 0.0], [0.0, 0.0]]]], dtype=torch.float64)
    torch.testing.assert_close(result.counterfactuals, expected)
    assert result.iterations.item() == 4


def test_the_settings_reach_the_descent():
    seen = []

    class Watched(Plain):
        def _procedure(self, problem):
            seen.append(super()._procedure(problem))
            return seen[-1]

    explainer = Watched(model(), momentum=0.3, pixels_per_step=2, pixel="site", step_size=0.5)
    explainer.generate(torch.zeros(1, 1, 2, 2, dtype=torch.float64), 1)
    (descent,) = seen
    assert isinstance(descent, PixelDescent)
    assert (descent.momentum, descent.max_iterations, descent.rounds) == (0.3, 20, 1)
    rule = descent.step_rule
    assert (rule.pixels_per_step, rule.pixels, rule.step_size) == (2, Sites(), 0.5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("confidence", 1.0),
        ("step_size", 0.0),
        ("max_changes", 0),
        ("pixels_per_step", 0),
        ("momentum", -0.1),
        ("max_iterations", -1),
        ("pixel", "patchwork"),
    ],
)
def test_settings_out_of_their_ranges_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Plain(model(), **{name: value})


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({}, "at most 75 of 750 entries a step"),
        ({"pixel": "site"}, "at most 25 of 250 places a step"),
        ({"pixel": "patch", "patch_size": 10}, "at most 1 of 3 groups a step"),
        ({"mask": torch.arange(750).view(1, 3, 25, 10) < 31}, "at most 4 of 31 entries a step"),
    ],
)
def test_a_result_says_what_its_rules_came_to(settings, numbers):
    model = nn.Sequential(nn.Flatten(), nn.Linear(750, 2))
    explainer = JSMA(model, saliency="gradient", pixels_per_step="adaptive")
    call = {"mask": settings.pop("mask")} if "mask" in settings else {}
    result = explainer.generate(torch.rand(2, 3, 25, 10), max_iterations=1, **call, **settings)
    words = result.settings
    assert words.startswith("JSMA(")
    assert words.endswith(f": {numbers}")
    assert "pixels_per_step='adaptive'" in words
    assert all(f"{name}={value!r}" in words for name, value in settings.items())
    counted = explainer.generate(torch.rand(1, 3, 25, 10), pixels_per_step=2, max_iterations=1)
    assert counted.settings == repr(
        JSMA(model, saliency="gradient", pixels_per_step=2, max_iterations=1)
    )
