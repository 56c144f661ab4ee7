import dataclasses

import pytest
import torch
from torch import Tensor

from captum_deduce import JSMA
from captum_deduce.testing import descriptions
from captum_deduce.testing.explainer import inputs
from tests.testing.explainer import assert_caught


class Picky(JSMA):
    def generate(self, inputs, target=None, **arguments):
        if not isinstance(target, int | Tensor):
            raise TypeError("numbers and tensors only")
        return super().generate(inputs, target, **arguments)


class Hasty(JSMA):
    """Makes one step with a single image."""

    def generate(self, inputs, target=None, **arguments):
        few = {"max_iterations": 1} if len(inputs) == 1 else {}
        return super().generate(inputs, target, **arguments | few)


class Indexing(JSMA):
    def generate(self, inputs, target=None, **arguments):
        inputs[0]
        return super().generate(inputs, target, **arguments)


class Raw(JSMA):
    """Reads the memory as if it were contiguous."""

    def generate(self, inputs, target=None, **arguments):
        strides = torch.empty(inputs.shape).stride()
        raw = inputs.as_strided(inputs.shape, strides).clone()
        return super().generate(raw, target, **arguments)


class Attached(JSMA):
    def generate(self, inputs, target=None, **arguments):
        result = super().generate(inputs, target, **arguments)
        return dataclasses.replace(result, counterfactuals=result.counterfactuals + 0 * inputs)


class Idle(JSMA):
    """Does nothing where gradients are switched off."""

    def generate(self, inputs, target=None, **arguments):
        none = {} if torch.is_grad_enabled() else {"max_iterations": 0}
        return super().generate(inputs, target, **arguments | none)


class Doubling(JSMA):
    def generate(self, inputs, target=None, **arguments):
        result = super().generate(inputs, target, **arguments)
        return dataclasses.replace(result, counterfactuals=result.counterfactuals.double())


class Crude(JSMA):
    def generate(self, inputs, target=None, **arguments):
        if inputs.dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return super().generate(inputs, target, **arguments)


class Bare(JSMA):
    def perturb(self, inputs, target=None, *rest, **arguments):
        (only,) = super().perturb(inputs, target, *rest, **arguments)
        return only


class Lenient(JSMA):
    def generate(self, inputs, target=None, *, mask=None, **arguments):
        mask = mask if isinstance(mask, Tensor) else None
        return super().generate(inputs, target, mask=mask, **arguments)


BROKEN = {
    "target_forms": (Picky, "raised TypeError: numbers and tensors only"),
    "one_image": (Hasty, "found"),
    "no_image": (Indexing, "raised IndexError"),
    "memory_layouts": (Raw, "images that differ in rows"),
    "inputs_that_require_grad": (Attached, "found a result with a graph"),
    "gradient_modes": (Idle, "found counterfactuals that differ"),
    "single_precision": (Doubling, "found dtype torch.float64, expected torch.float32"),
    "half_precision": (Crude, "raised RuntimeError: not implemented for 'Half'"),
    "one_tuple": (Bare, "raised ValueError"),
    "refused_arguments": (Lenient, "found no error for mask"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_explainer_is_caught(name):
    assert_caught(name, *BROKEN[name])


def test_every_check_has_a_broken_one():
    assert set(descriptions(inputs.CHECKS)) == set(BROKEN)
