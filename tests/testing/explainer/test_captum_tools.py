import pytest
import torch
from captum.log import log_usage

from captum_deduce import JSMA
from captum_deduce.testing import descriptions
from captum_deduce.testing.explainer import captum_tools
from tests.testing.explainer import assert_caught


class Confused(JSMA):
    """Returns what changed in place of the images."""

    def perturb(self, inputs, target=None, *rest, **arguments):
        return self.attribute(inputs, target, *rest, **arguments)


class Undecorated(JSMA):
    """Captum's NoiseTunnel calls ``attribute.__wrapped__``."""

    def attribute(self, inputs, target=None, *rest, **arguments):
        return super().attribute(inputs, target, *rest, **arguments)


class Tiling(JSMA):
    """Has copies of the images in another order than Captum's tools make them."""

    @log_usage()
    def attribute(self, inputs, target=None, *rest, mask=None, **arguments):
        if mask is not None and len(mask) != len(inputs):
            mask = mask.repeat(len(inputs) // len(mask), 1, 1, 1)
        return JSMA.attribute.__wrapped__(self, inputs, target, *rest, mask=mask, **arguments)


class Clipping(JSMA):
    @log_usage()
    def attribute(self, inputs, target=None, *rest, **arguments):
        return super().attribute(inputs.clamp(0, 1), target, *rest, **arguments)


class Undefined(JSMA):
    @log_usage()
    def attribute(self, inputs, target=None, *rest, **arguments):
        (found,) = super().attribute(inputs, target, *rest, **arguments)
        return (found * torch.nan,)


class Reversed(JSMA):
    @log_usage()
    def attribute(self, inputs, target=None, *rest, **arguments):
        return -super().attribute(inputs, target, *rest, **arguments)


class Still(JSMA):
    def perturb(self, inputs, target=None, *rest, **arguments):
        return inputs


class Fixed(JSMA):
    def perturb(self, inputs, target=None, *rest):
        return super().perturb(inputs, target, *rest)


class Nothing(JSMA):
    @log_usage()
    def attribute(self, inputs, target=None, *rest, **arguments):
        return torch.zeros_like(inputs)


BROKEN = {
    "three_faces": (Confused, "found images of perturb that differ"),
    "noise_tunnel": (Undecorated, "raised AttributeError"),
    "constraints_of_copies": (Tiling, "found images with attributions outside their masks"),
    "noise_outside_bounds": (Clipping, "found number of warnings 0"),
    "sensitivity_max": (Undefined, "found NaN or infinity"),
    "infidelity": (Reversed, "expected lower ones"),
    "attack_comparator": (Still, "found share at the target after 0.0"),
    "min_param_perturbation": (Fixed, "raised TypeError"),
    "captum_draws": (Nothing, "raised AssertionError: Cannot normalize"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("ignore:Attempting to normalize:UserWarning")
def test_a_broken_explainer_is_caught(name):
    assert_caught(name, *BROKEN[name])


def test_every_check_has_a_broken_one():
    assert set(descriptions(captum_tools.CHECKS)) == set(BROKEN)
