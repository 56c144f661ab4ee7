import pytest
import torch

from captum_deduce import JSMA
from captum_deduce.testing import descriptions
from captum_deduce.testing.explainer import interruptions
from tests.testing.explainer import assert_caught


class Untidy(JSMA):
    """Leaves the model as it is when something goes wrong."""

    def generate(self, inputs, target=None, **arguments):
        try:
            return super().generate(inputs, target, **arguments)
        except BaseException:
            self.forward_func.eval()
            raise


class Swallowing(JSMA):
    def generate(self, inputs, target=None, **arguments):
        try:
            return super().generate(inputs, target, **arguments)
        except Exception:
            raise ValueError("something went wrong") from None


class Poor(JSMA):
    """Does not say that it was memory that ran out."""

    def __init__(self, forward_func, *, confidence=0.5, max_iterations=200):
        super().__init__(self.run, confidence=confidence, max_iterations=max_iterations)
        self.model = forward_func

    def run(self, inputs):
        try:
            return self.model(inputs)
        except torch.cuda.OutOfMemoryError:
            raise RuntimeError("no room") from None


class Silent(JSMA):
    def generate(self, inputs, target=None, *, show_progress=None, **arguments):
        return super().generate(inputs, target, show_progress=False, **arguments)


BROKEN = {
    "errors_in_mid_search": (Untidy, "found the mode of the model afterwards: False"),
    "ctrl_c_in_mid_search": (Untidy, "found the mode of the model afterwards: False"),
    "memory_runs_out": (Poor, "raised RuntimeError: no room"),
    "progress_bar": (Silent, "expected a bar with 6/6"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_explainer_is_caught(name):
    assert_caught(name, *BROKEN[name])


def test_an_error_that_is_replaced_is_caught():
    assert_caught("errors_in_mid_search", Swallowing, "raised ValueError: something went wrong")


def test_every_check_has_a_broken_one():
    assert set(descriptions(interruptions.CHECKS)) == set(BROKEN)
