"""The contract of a metric of counterfactuals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics import evaluate
from captum_deduce.testing.contracts import (
    Check,
    NamedCheck,
    NotApplicable,
    Outcome,
    named_checks,
    require,
    require_callable,
    require_equal,
    run_all,
)
from captum_deduce.testing.subjects import Subject

MakeMetric = Callable[[Any], Callable[[Counterfactuals], Tensor]]

_EXACT = 1e-9


def _result(subject: Subject) -> Counterfactuals:
    """Images whose middle is that of a training image of the target class, found or not."""
    inputs, target = subject.images, subject.target
    labels = subject.training_labels
    rows = torch.tensor([int((labels == label).nonzero()[0]) for label in target.tolist()])
    images = inputs.clone()
    images[..., 2:6, 2:6] = subject.training_images[rows][..., 2:6, 2:6]
    confidence = subject.confidence(images, target)
    steps = torch.arange(1, len(inputs) + 1)
    return Counterfactuals(
        inputs=inputs,
        counterfactuals=images,
        target=target,
        success=torch.tensor([True, True, False, True, True, True]),
        confidence=confidence,
        iterations=steps,
        evaluations=steps + 1,
        forward_evaluations=steps * 0,
        prediction=subject.predicted,
    )


def _values(metric: Callable[[Counterfactuals], Any], result: Counterfactuals) -> Tensor:
    """Call a metric, and make sure that it returns a number for each pair."""
    values = metric(result)
    require(isinstance(values, Tensor), type(values).__name__, "a tensor")
    require_equal("shape of values", tuple(values.shape), (len(result),))
    require(not values.is_complex(), str(values.dtype), "numbers or bools")
    finite: Tensor = values.detach().double()
    require(torch.isfinite(finite).all(), f"{values.tolist()}", "finite numbers")
    return finite


def _check_a_number_per_pair(make_metric: MakeMetric) -> None:
    """It returns one finite number or bool per pair, failed ones and single ones too."""
    subject = Subject()
    metric, result = make_metric(subject), _result(subject)
    _values(metric, result)
    _values(metric, result[2])


def _check_pairs_alone(make_metric: MakeMetric) -> None:
    """The value of a pair depends on no other pair, on no order and on no number of pairs."""
    subject = Subject()
    metric, result = make_metric(subject), _result(subject)
    together = _values(metric, result)
    order = [3, 0, 5, 1, 4, 2]
    require_equal(
        "values in another order", _values(metric, result[order]), together[order], _EXACT
    )
    for i in range(len(result)):
        require_equal("a pair alone", _values(metric, result[i]), together[i : i + 1], _EXACT)


def _check_nothing_changed(make_metric: MakeMetric) -> None:
    """Where the counterfactual is the original, the value is still a finite number."""
    subject = Subject()
    result = _result(subject)
    same = dataclasses.replace(result, counterfactuals=result.inputs.clone())
    _values(make_metric(subject), same)


def _check_same_each_time(make_metric: MakeMetric) -> None:
    """Called again it says the same, whatever torch's generator, which it leaves alone."""
    subject = Subject()
    metric, result = make_metric(subject), _result(subject)
    first = _values(metric, result)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    second = _values(metric, result)
    require_equal("values of a second call", second, first, _EXACT)
    require_equal("state of torch's generator", torch.get_rng_state(), state)


def _check_result_stays(make_metric: MakeMetric) -> None:
    """The result that it looks at is not changed."""
    subject = Subject()
    result, untouched = _result(subject), _result(subject)
    make_metric(subject)(result)
    for name, value in vars(untouched).items():
        require_equal(name, getattr(result, name), value)


def _check_no_gradient(make_metric: MakeMetric) -> None:
    """Values carry no graph, and are the same under no_grad and inference_mode."""
    subject = Subject()
    metric, result = make_metric(subject), _result(subject)
    expected = _values(metric, result)
    require(not metric(result).requires_grad, "values that require a gradient", "plain numbers")
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            found = _values(metric, _result(subject))
        require_equal(f"values under {context.__name__}", found.clone(), expected, _EXACT)


def _check_model_is_left_as_it_was(make_metric: MakeMetric) -> None:
    """A model in train mode is run in eval mode, gets no gradients, and is left as it was."""
    expected = _values(make_metric(Subject()), _result(Subject()))
    subject = Subject().train()
    metric = make_metric(subject)
    state = {name: value.clone() for name, value in subject.state_dict().items()}
    found = _values(metric, _result(Subject()))
    require_equal("values of a model in train mode", found, expected, _EXACT)
    modes = [part.training for part in subject.modules()]
    require(all(modes), f"{modes.count(False)} modules in eval mode", "all in train mode")
    for name, value in subject.state_dict().items():
        require_equal(name, value, state[name])
    filled = [name for name, p in subject.named_parameters() if p.grad is not None]
    require_equal("parameters with a gradient", filled, [])


def _check_single_precision(make_metric: MakeMetric) -> None:
    """Of images in float32 it says about what it says of the same in float64."""
    expected = _values(make_metric(Subject()), _result(Subject()))
    subject = Subject().float()
    found = _values(make_metric(subject), _result(subject))
    differs = (found - expected).abs() / expected.abs().clamp_min(1)
    require((differs < 1e-3).all(), f"{found.tolist()}", f"about {expected.tolist()}")


def _check_colour(make_metric: MakeMetric) -> None:
    """Images of three channels are measured, too."""
    subject = Subject(channels=3)
    _values(make_metric(subject), _result(subject))


def _check_evaluate(make_metric: MakeMetric) -> None:
    """The function evaluate puts it into its table."""
    subject = Subject()
    metric, result = make_metric(subject), _result(subject)
    table = evaluate(result, {"metric": metric})
    searched = result[result.success & ~result.already]
    expected = _values(metric, searched).mean().item()
    mean = table["counterfactuals", "metric"].mean
    same = mean is not None and abs(mean - expected) <= 1e-9 * max(1, abs(expected))
    require(same, mean, expected)


def _check_gpu(make_metric: MakeMetric) -> None:
    """Of images on a GPU it says about what it says of the same on the CPU."""
    if not torch.cuda.is_available():
        raise NotApplicable("needs a GPU")
    expected = _values(make_metric(Subject()), _result(Subject()))
    subject, there = Subject().cuda(), _result(Subject())
    moved: dict[str, Any] = {n: v.cuda() for n, v in vars(there).items() if isinstance(v, Tensor)}
    found = _values(make_metric(subject), dataclasses.replace(there, **moved)).cpu()
    differs = (found - expected).abs() / expected.abs().clamp_min(1)
    require((differs < 1e-3).all(), f"{found.tolist()}", f"about {expected.tolist()}")


METRIC_CHECKS: tuple[Check, ...] = (
    _check_a_number_per_pair,
    _check_pairs_alone,
    _check_nothing_changed,
    _check_same_each_time,
    _check_result_stays,
    _check_no_gradient,
    _check_model_is_left_as_it_was,
    _check_single_precision,
    _check_colour,
    _check_evaluate,
    _check_gpu,
)
"""Every check of a metric, in the order in which they run."""


def metric_checks(
    make_metric: MakeMetric, *, expected_failures: Mapping[str, str] | None = None
) -> list[NamedCheck]:
    """List the checks of :func:`check_metric`, for a test function each.

    Args:
        make_metric (Callable): As for :func:`check_metric`.
        expected_failures (Mapping[str, str], optional): Likewise. Default: None

    Returns:
        list[tuple[str, Callable]]: Names and functions, as :func:`explainer_checks` returns them.

    Raises:
        TypeError: ``make_metric`` can't be called.
        ValueError: An expected failure of a check that is not there, or without a reason.
    """
    require_callable("make_metric", "a metric of a model", make_metric)
    return named_checks(METRIC_CHECKS, make_metric, expected_failures)


def check_metric(
    make_metric: MakeMetric, *, expected_failures: Mapping[str, str] | None = None
) -> list[Outcome]:
    """Hold a metric to what :func:`~captum_deduce.metrics.evaluate` asks, and this package's keep.

    :data:`METRIC_CHECKS` are listed in the documentation.

    Args:
        make_metric (Callable): From a :class:`Subject`, a small classifier, to a metric, a function
            of :class:`~captum_deduce.Counterfactuals`. Of a metric that needs no model:
            ``lambda model: metric``.
        expected_failures (Mapping[str, str], optional): Of checks that may fail, or do not apply,
            by name, why. Default: None

    Returns:
        list[Outcome]: For each check whether it passed, did not apply, or failed as expected.

    Raises:
        ContractError: Some failed: which, what was found and what was expected.
        TypeError: ``make_metric`` can't be called.
        ValueError: An expected failure of a check that is not there, or without a reason.

    Examples::

        >>> from captum_deduce.metrics import Oracle
        >>> outcomes = check_metric(Oracle)
        >>> [outcome.name for outcome in outcomes if outcome.status == "passed"][:2]
        ['a_number_per_pair', 'pairs_alone']
    """
    checks = metric_checks(make_metric, expected_failures=expected_failures)
    return run_all(checks, expected_failures or {})
