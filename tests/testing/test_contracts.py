import pytest
import torch

from captum_deduce.testing import ContractError, NotApplicable, Outcome, descriptions
from captum_deduce.testing.contracts import (
    named_checks,
    require,
    require_equal,
    require_raises,
    run_all,
)


def check_good(number):
    """A number is good.

    And more is said.
    """
    require(number > 0, number, "a positive number")


def check_large(number):
    """A number is large."""
    require(number > 100, number, "more than 100")


def check_even(number):
    """A number is even."""
    if not isinstance(number, int):
        raise NotApplicable("no int")
    if number % 2:
        raise OverflowError("odd")


CHECKS = (check_good, check_large, check_even)


def test_a_check_is_described_by_its_first_sentence():
    assert descriptions(CHECKS)["good"] == "A number is good."
    assert list(descriptions(CHECKS)) == ["good", "large", "even"]


def test_outcomes_tell_how_each_check_went():
    outcomes = run_all(named_checks(CHECKS, 1000, None), ())
    assert [outcome.status for outcome in outcomes] == ["passed"] * 3
    expected = {"large": "they are small"}
    outcomes = run_all(named_checks(CHECKS, 0.5, expected), expected)
    assert outcomes == [
        Outcome("good", "passed"),
        Outcome("large", "expected failure", "they are small (found 0.5, expected more than 100)"),
        Outcome("even", "not applicable", "no int"),
    ]


def test_all_failures_are_told_at_once():
    with pytest.raises(ContractError) as caught:
        run_all(named_checks(CHECKS, 7, None), ())
    assert str(caught.value).splitlines() == [
        "2 of 3 checks failed:",
        "- large: found 7, expected more than 100 [A number is large.]",
        "- even: raised OverflowError: odd [A number is even.]",
    ]


def test_expected_failures_name_checks_and_say_why():
    with pytest.raises(ValueError, match="no check by lage; there are: good, large, even"):
        named_checks(CHECKS, 1, {"lage": "why"})
    with pytest.raises(ValueError, match=r"expected_failures\['large'\] must say why"):
        named_checks(CHECKS, 1, {"large": " "})


def test_each_check_starts_from_one_seed_and_leaves_the_generator_alone():
    drawn = []

    def check_chance(_):
        """It draws a number."""
        drawn.append(torch.rand(()).item())

    torch.manual_seed(8)
    expected = torch.rand(())
    torch.manual_seed(8)
    for _, check in named_checks([check_chance], None, None) * 2:
        check()
    assert drawn[0] == drawn[1]
    assert torch.rand(()) == expected


def test_tensors_that_differ_are_told_by_place_and_size():
    values = torch.zeros(3, 2)
    require_equal("numbers", values, values.clone())
    require_equal("numbers", values + 1e-9, values, 1e-6)
    other = values.clone()
    other[2, 1] = 0.5
    message = r"numbers that differ in rows \[2\] by up to 0.5 \(at \(2, 1\): 0\), expected 0.5"
    with pytest.raises(ContractError, match=message):
        require_equal("numbers", values, other)
    with pytest.raises(ContractError, match=r"torch.float64, on cpu, expected .*torch.float32"):
        require_equal("numbers", values.double(), values)
    with pytest.raises(ContractError, match="numbers that differ"):
        require_equal("numbers", values * torch.nan, values * torch.nan)
    with pytest.raises(ContractError, match=r"found words \[1\], expected \[2\]"):
        require_equal("words", [1], [2])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "found no error for zero, expected a ValueError that says 'zero'"),
        (TypeError("zero"), "found for zero TypeError: zero, expected a ValueError"),
        (ValueError("one"), "found for zero ValueError: one, expected a ValueError that says"),
    ],
)
def test_errors_that_are_missing_or_others_are_told(error, message):
    def refuse():
        with require_raises("zero", ValueError, "zero"):
            if error is not None:
                raise error

    with pytest.raises(ContractError, match=message):
        refuse()


def test_an_error_that_is_expected_passes():
    passed = False
    with require_raises("zero", (TypeError, ValueError), "zero", "one"):
        passed = True
        raise ValueError("zero or one")
    assert passed
