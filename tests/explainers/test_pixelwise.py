from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce.explainers import PixelwiseExplainer
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
