import pytest
import torch
from torch import Tensor

from captum_deduce import JSMA
from captum_deduce.testing import descriptions
from captum_deduce.testing.explainer import constraints
from tests.testing.explainer import assert_caught


class Unmasked(JSMA):
    def generate(self, inputs, target=None, *, mask=None, **arguments):
        return super().generate(inputs, target, **arguments)


class Filling(JSMA):
    """Takes an empty mask for none."""

    def generate(self, inputs, target=None, *, mask=None, **arguments):
        if mask is not None:
            empty = ~mask.expand(inputs.shape).flatten(1).any(1).view(-1, 1, 1, 1)
            mask = torch.where(empty, 1, mask.expand(inputs.shape))
        return super().generate(inputs, target, mask=mask, **arguments)


class Unbounded(JSMA):
    def generate(self, inputs, target=None, *, upper_bound=None, **arguments):
        return super().generate(inputs, target, **arguments)


class Widening(JSMA):
    """Makes room where bounds are equal."""

    def generate(self, inputs, target=None, **arguments):
        lower, upper = arguments["lower_bound"], arguments["upper_bound"]
        arguments["lower_bound"] = torch.where(lower == upper, 0.0, lower)
        arguments["upper_bound"] = torch.where(lower == upper, 1.0, upper)
        return super().generate(inputs, target, **arguments)


class FirstRow(JSMA):
    """Gives every image the mask of the first."""

    def generate(self, inputs, target=None, *, mask=None, **arguments):
        if isinstance(mask, Tensor) and mask.dim() == 3 and len(mask) > 1:
            mask = mask[:1]
        return super().generate(inputs, target, mask=mask, **arguments)


class Ungrouped(JSMA):
    def generate(self, inputs, target=None, *, feature_mask=None, **arguments):
        if feature_mask is not None:
            raise ValueError("Ungrouped takes no feature_mask")
        return super().generate(inputs, target, **arguments)


BROKEN = {
    "masked_pixels_stay": (Unmasked, "found number of masked entries that moved"),
    "empty_masks": (Filling, "found success of empty masks [True, True]"),
    "tighter_bounds": (Unbounded, "found values from"),
    "equal_bounds": (Widening, "found entries whose bounds are equal that differ"),
    "constraints_of_each_image": (FirstRow, "found"),
    "groups": (Ungrouped, "found refused by 2 of generate, attribute, perturb"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_explainer_is_caught(name):
    assert_caught(name, *BROKEN[name])


def test_every_check_has_a_broken_one():
    assert set(descriptions(constraints.CHECKS)) == set(BROKEN)
