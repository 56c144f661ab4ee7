import pytest

from captum_deduce import JSMA
from captum_deduce.testing import (
    EXPLAINER_CHECKS,
    ContractError,
    check_explainer,
    descriptions,
    explainer_checks,
)
from captum_deduce.testing.explainer import contract


def test_every_check_is_named_once_and_says_what_it_is_about():
    names = [name for name, _ in explainer_checks(JSMA)]
    assert len(set(names)) == len(names) == len(EXPLAINER_CHECKS) >= 50
    for sentence in descriptions(EXPLAINER_CHECKS).values():
        assert sentence.endswith(".")
        assert "\n" not in sentence


def test_checks_are_run_and_failures_told_together(monkeypatch):
    few = [
        check for check in EXPLAINER_CHECKS if check.__name__ in ("_check_one_tuple", "_check_gpu")
    ]

    class Bare(JSMA):
        def perturb(self, inputs, target=None, **arguments):
            return super().perturb(inputs[0], target, **arguments)

    monkeypatch.setattr(contract, "EXPLAINER_CHECKS", few)
    outcomes = check_explainer(JSMA)
    assert outcomes[0].status == "passed"
    with pytest.raises(ContractError, match="1 of 2 checks failed:\n- one_tuple: "):
        check_explainer(Bare)
    (outcome, _) = check_explainer(Bare, expected_failures={"one_tuple": "not needed"})
    assert outcome.status == "expected failure"
    assert outcome.reason.startswith("not needed (raised ")


def test_what_can_not_be_checked_is_refused():
    with pytest.raises(TypeError, match="make_explainer must be a class or a function"):
        check_explainer(3)
    with pytest.raises(TypeError, match="must return a CounterfactualExplainer, got Subject"):
        check_explainer(lambda model: model)
    with pytest.raises(ValueError, match="expected_failures names no check by speed"):
        check_explainer(JSMA, expected_failures={"speed": "slow"})
