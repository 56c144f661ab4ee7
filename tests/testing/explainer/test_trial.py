import pytest
import torch

from captum_deduce import CEM, JSMA
from captum_deduce.testing import ContractError, NotApplicable, Subject
from captum_deduce.testing.explainer.trial import (
    Trial,
    is_reached,
    require_untouched,
    snapshot,
    takes,
)


def test_a_factory_that_makes_something_else_is_refused():
    with pytest.raises(TypeError, match="must return a CounterfactualExplainer, got int"):
        Trial(lambda model: 3).build(Subject())


def test_settings_that_make_a_search_long():
    explainer = JSMA(Subject())
    assert Trial(JSMA).long(explainer, 7) == {"confidence": 1 - 1e-9, "max_iterations": 7}
    assert Trial(CEM, {"kappa": 9.0}).long(CEM(Subject(), baseline=0.0), 7) == {
        "kappa": 9.0,
        "max_iterations": 7,
    }
    with pytest.raises(NotApplicable, match="hopeless="):
        Trial(CEM).long(CEM(Subject(), baseline=0.0), 7)


def test_what_is_reached_is_seen_by_the_model():
    subject = Subject()
    sure = subject.confidence(subject.images, subject.predicted) > 0.5
    assert torch.equal(is_reached(JSMA(subject), subject.images, subject.predicted), sure)
    low = JSMA(subject, confidence=0.01)
    assert is_reached(low, subject.images, subject.predicted).all()
    assert not is_reached(low, subject.images, subject.target).any()


def test_only_keyword_only_arguments_are_settings():
    class Wrapped(JSMA):
        def __init__(self, forward_func):
            super().__init__(forward_func)

    assert takes(JSMA(Subject()), "max_iterations")
    assert not takes(JSMA(Subject()), "forward_func")
    assert not takes(Wrapped(Subject()), "max_iterations")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.norm.train(), "the mode of norm afterwards: True, expected False"),
        (lambda model: model.fc.bias.requires_grad_(False), "requires_grad of fc.bias"),
        (lambda model: model.norm.running_mean.add_(1), "norm.running_mean"),
        (
            lambda model: model.fc(torch.ones(64).double()).sum().backward(),
            "gradient of fc.weight afterwards: a tensor of shape",
        ),
        (lambda model: model.register_forward_hook(print), "the hooks of the model"),
    ],
)
def test_what_has_changed_in_a_model_is_told(change, message):
    subject = Subject()
    before = snapshot(subject)
    require_untouched(subject, before)
    change(subject)
    with pytest.raises(ContractError, match=message):
        require_untouched(subject, before)
