"""The contract that every explainer keeps, for anyone's class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from captum_deduce.testing.contracts import (
    Check,
    NamedCheck,
    Outcome,
    named_checks,
    require_callable,
    run_all,
)
from captum_deduce.testing.explainer import (
    captum_tools,
    constraints,
    inputs,
    interruptions,
    models,
    processes,
    results,
)
from captum_deduce.testing.explainer.trial import MakeExplainer, Trial
from captum_deduce.testing.subjects import Subject

EXPLAINER_CHECKS: tuple[Check, ...] = (
    *results.CHECKS,
    *inputs.CHECKS,
    *constraints.CHECKS,
    *models.CHECKS,
    *interruptions.CHECKS,
    *processes.CHECKS,
    *captum_tools.CHECKS,
)
"""Every check of an explainer, in the order in which they run."""


def explainer_checks(
    make_explainer: MakeExplainer,
    *,
    hopeless: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[NamedCheck]:
    """List the checks of :func:`check_explainer`, for a test function each.

    Args:
        make_explainer (Callable): As for :func:`check_explainer`.
        hopeless (Mapping[str, Any], optional): Likewise. Default: None
        expected_failures (Mapping[str, str], optional): Likewise. Default: None

    Returns:
        list[tuple[str, Callable]]: Names, and functions without arguments that raise a
        :class:`ContractError` where the check fails, and a :class:`NotApplicable`, which pytest and
        unittest count as a skip, where it can't be made or fails as expected.

    Raises:
        TypeError: ``make_explainer`` can't be called, or returns no explainer.
        ValueError: An expected failure of a check that is not there, or without a reason.

    Examples::

        >>> from captum_deduce import JSMA
        >>> names = [name for name, check in explainer_checks(JSMA)]
        >>> names[:3]
        ['result_is_true', 'reached_targets_stay', 'failed_pairs_hold_best_attempt']

    As tests::

        @pytest.mark.parametrize(("name", "check"), explainer_checks(MyExplainer))
        def test_the_contract(name, check):
            check()
    """
    require_callable("make_explainer", "an explainer of a model", make_explainer)
    return named_checks(EXPLAINER_CHECKS, Trial(make_explainer, hopeless or {}), expected_failures)


def check_explainer(
    make_explainer: MakeExplainer,
    *,
    hopeless: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> list[Outcome]:
    r"""Hold an explainer to everything that this package's own explainers keep.

    Every check builds a small classifier of its own, a :class:`Subject`, and an explainer of it.
    A class whose constructor takes the model alone can be passed as it is; what needs more finds it
    in the subject. All checks of a quick method take some ten seconds; they are seeded, and leave
    torch's generator as it was. :data:`EXPLAINER_CHECKS` are listed in the documentation.

    Args:
        make_explainer (Callable): From a :class:`Subject` (in one check a function with the same
            attributes) to a :class:`~captum_deduce.CounterfactualExplainer` of it, of images from 0
            to 1: ``lambda model: Mine(model, model.features, model.training_images)``. Let it find
            most targets of an easy classifier in few steps; checks call it often.
        hopeless (Mapping[str, Any], optional): Settings of a call with which no search succeeds,
            for checks that need one that goes on. Default: None (``confidence=1 - 1e-9``, where the
            explainer has a ``confidence``)
        expected_failures (Mapping[str, str], optional): Of checks that may fail, or do not apply,
            by name, why. They are made all the same. Default: None

    Returns:
        list[Outcome]: For each check whether it passed, did not apply, or failed as expected.

    Raises:
        ContractError: Some failed: which, what was found and what was expected.
        TypeError: ``make_explainer`` can't be called, or returns no explainer.
        ValueError: An expected failure of a check that is not there, or without a reason.

    Examples::

        >>> from captum_deduce import JSMA
        >>> outcomes = check_explainer(JSMA)  # doctest: +SKIP
        >>> {outcome.name for outcome in outcomes if outcome.status != "passed"}  # doctest: +SKIP
        {'log_density_near_zero', 'gpu'}
    """
    checks = explainer_checks(
        make_explainer, hopeless=hopeless, expected_failures=expected_failures
    )
    Trial(make_explainer).build(Subject())
    try:
        return run_all(checks, expected_failures or {})
    finally:
        processes.end_other_process()
