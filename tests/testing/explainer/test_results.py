import dataclasses
import random

import pytest
import torch

from captum_deduce import JSMA
from captum_deduce.testing import descriptions
from captum_deduce.testing.explainer import results
from tests.testing.explainer import assert_caught


class Altered(JSMA):
    """Changes what was found."""

    def generate(self, inputs, target=None, **arguments):
        result = super().generate(inputs, target, **arguments)
        return dataclasses.replace(result, **self.altered(result))


class Boastful(Altered):
    def altered(self, result):
        return {"success": torch.ones_like(result.success), "counterfactuals": result.inputs}


class Restless(Altered):
    def altered(self, result):
        return {"counterfactuals": (result.counterfactuals + 1e-3).clamp(0, 1)}


class Forgetful(Altered):
    """Returns the originals of pairs that failed."""

    def altered(self, result):
        kept = result.success.view(-1, 1, 1, 1)
        return {"counterfactuals": torch.where(kept, result.counterfactuals, result.inputs)}


class Shortened(Altered):
    def altered(self, result):
        return {"trajectory": result.trajectory and [path[:-1] for path in result.trajectory]}


class Coupled(Altered):
    def altered(self, result):
        return {"counterfactuals": result.counterfactuals + result.inputs.mean(0) * 1e-6}


class Dicing(Altered):
    def altered(self, result):
        return {"counterfactuals": result.counterfactuals * random.uniform(0.9, 1)}


class Circular(Altered):
    """Takes the class that the image is in for the target."""

    def altered(self, result):
        return {"target": result.prediction}


class Sticky(JSMA):
    """A setting of one call stays."""

    def generate(self, inputs, target=None, **arguments):
        self.max_iterations = arguments.get("max_iterations", self.max_iterations)
        return super().generate(inputs, target, **arguments)


class Grey(JSMA):
    def generate(self, inputs, target=None, **arguments):
        if inputs.shape[1] > 1:
            raise ValueError("one channel only")
        return super().generate(inputs, target, **arguments)


BROKEN = {
    "result_is_true": (Boastful, "found confidence that differ"),
    "reached_targets_stay": (Restless, "found counterfactuals that differ in rows"),
    "failed_pairs_hold_best_attempt": (Forgetful, "found best attempt that differ"),
    "trajectories": (Shortened, "images on the way"),
    "batch_mates": (Coupled, "found counterfactuals that differ in rows"),
    "equal_seeds": (Dicing, "found counterfactuals that differ in rows"),
    "without_target": (Circular, "expected other classes"),
    "settings_of_one_call": (Sticky, "found steps of the next call that differ"),
    "colour": (Grey, "raised ValueError: one channel only"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_explainer_is_caught(name):
    assert_caught(name, *BROKEN[name])


def test_untrue_success_is_caught():
    class Optimistic(Altered):
        def altered(self, result):
            seen = self.forward_func.confidence(result.inputs, result.target)
            return {
                "success": torch.ones_like(result.success),
                "counterfactuals": result.inputs,
                "confidence": seen,
            }

    assert_caught("result_is_true", Optimistic, "expected no success without its target")


def test_every_check_has_a_broken_one():
    assert set(descriptions(results.CHECKS)) == set(BROKEN)
