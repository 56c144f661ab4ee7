import copy
import dataclasses

import pytest
import torch
from torch import nn

from captum_deduce import JSMA, ClassGaussianMixture, DeDUCE
from captum_deduce.testing import descriptions
from captum_deduce.testing.explainer import models
from tests.testing.explainer import assert_caught


class Mixed(JSMA):
    """Gives every image the arguments of the first."""

    def generate(self, inputs, target=None, *, additional_forward_args=None, **arguments):
        if additional_forward_args is not None:
            shift, scale = additional_forward_args
            additional_forward_args = (shift[:1].expand_as(shift).clone(), scale)
        return super().generate(
            inputs, target, additional_forward_args=additional_forward_args, **arguments
        )


class Rescaled(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        scores = self.model(inputs)
        return 9 * scores / scores.detach().abs().amax(1, keepdim=True)


class Settling(JSMA):
    """Leaves the model in eval mode."""

    def generate(self, inputs, target=None, **arguments):
        self.forward_func.eval()
        return super().generate(inputs, target, **arguments)


class Backward(JSMA):
    def generate(self, inputs, target=None, **arguments):
        self.forward_func(inputs).sum().backward()
        return super().generate(inputs, target, **arguments)


class Careless(JSMA):
    """Shows the model the caller's own images."""

    def generate(self, inputs, target=None, **arguments):
        with torch.no_grad():
            self.forward_func(inputs)
        return super().generate(inputs, target, **arguments)


class OnlyModules(JSMA):
    def __init__(self, forward_func):
        if not isinstance(forward_func, nn.Module):
            raise TypeError("modules only")
        super().__init__(forward_func)


class OnePlace(JSMA):
    """Is confused by a module in two places."""

    def generate(self, inputs, target=None, **arguments):
        model = self.forward_func
        places = len(list(model.named_modules(remove_duplicate=False)))
        few = {"max_iterations": 1} if places > len(list(model.modules())) else {}
        return super().generate(inputs, target, **arguments | few)


class Unhooking(JSMA):
    def generate(self, inputs, target=None, **arguments):
        for part in self.forward_func.modules():
            part._forward_hooks.clear()
        return super().generate(inputs, target, **arguments)


class Dividing(JSMA):
    """Divides by how far images have moved."""

    def generate(self, inputs, target=None, **arguments):
        result = super().generate(inputs, target, **arguments)
        moved = result.l1().view(-1, 1, 1, 1)
        return dataclasses.replace(result, counterfactuals=result.counterfactuals * moved / moved)


class Overflowing(JSMA):
    """Computes the softmax as it is written."""

    def generate(self, inputs, target=None, **arguments):
        result = super().generate(inputs, target, **arguments)
        with torch.no_grad():
            powers = self.forward_func(result.counterfactuals).exp()
        share = powers.gather(1, result.target.unsqueeze(1)).squeeze(1) / powers.sum(1)
        return dataclasses.replace(result, confidence=share)


class Unfloored(DeDUCE):
    """Divides by the log-density of the original."""

    def generate(self, inputs, target=None, **arguments):
        result = super().generate(inputs, target, **arguments)
        if "mask" in arguments:
            return result
        begun = super().generate(inputs, target, mask=torch.zeros(8, 8)).log_density
        small = begun.round(decimals=3).view(-1, 1, 1, 1)
        return dataclasses.replace(result, counterfactuals=result.counterfactuals * small / small)


def unfloored(model):
    samples = [(model.training_images, model.training_labels)]
    density = ClassGaussianMixture.fit_loader(model, model.features, samples)
    return Unfloored(model, model.features, density)


class Trusting(JSMA):
    """Passes on what the model says last."""

    def generate(self, inputs, target=None, **arguments):
        result = super().generate(inputs, target, **arguments)
        with torch.no_grad():
            broken = self.forward_func(result.counterfactuals).isnan().any()
        images = result.counterfactuals * torch.nan if broken else result.counterfactuals
        return dataclasses.replace(result, counterfactuals=images)


class AllOrNothing(JSMA):
    """Gives all pairs up where one is broken."""

    def generate(self, inputs, target=None, **arguments):
        broken = arguments.get("additional_forward_args")
        none = {"max_iterations": 0} if broken is not None and broken.any() else {}
        return super().generate(inputs, target, **arguments | none)


class Cleaning(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs):
        scores = self.model(inputs)
        return scores.nan_to_num() if isinstance(scores, torch.Tensor) else scores


class Unwrapping(JSMA):
    def generate(self, inputs, target=None, **arguments):
        unwrapped = copy.copy(self)
        unwrapped.forward_func = copy.deepcopy(self.forward_func)
        unwrapped.forward_func.strided = unwrapped.forward_func.strided.module
        return JSMA.generate(unwrapped, inputs, target, **arguments)


BROKEN = {
    "additional_arguments": (Mixed, "found confidence that differ"),
    "log_probabilities": (lambda model: JSMA(Rescaled(model)), "found"),
    "model_is_left_as_it_was": (Settling, "found the mode of the model afterwards: False"),
    "no_parameter_gradient": (Backward, "raised AssertionError: backward was called"),
    "in_place_operations": (Careless, "found the caller's own inputs that differ"),
    "functions": (OnlyModules, "raised TypeError: modules only"),
    "modules_used_twice": (OnePlace, "found counterfactuals that differ"),
    "users_hooks": (Unhooking, "found the hooks of strided afterwards"),
    "constant_models": (Dividing, "found NaN or infinity"),
    "saturated_softmax": (Overflowing, "found confidence that differ"),
    "log_density_near_zero": (unfloored, "found NaN or infinity"),
    "nan_later_on": (Trusting, "found NaN or infinity"),
    "slope_without_a_number": (AllOrNothing, "found counterfactuals that differ"),
    "refused_models": (lambda model: JSMA(Cleaning(model)), "found no error for a model that"),
    "spread_models": (Unwrapping, "found no error for DataParallel"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_explainer_is_caught(name):
    assert_caught(name, *BROKEN[name])


def test_every_check_but_that_of_a_gpu_has_a_broken_one():
    assert set(descriptions(models.CHECKS)) - set(BROKEN) == {"gpu"}
