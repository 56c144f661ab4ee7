r"""Hold explainers against one another: every metric, on the pairs that allow a comparison."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.evaluation_table import FAILURE_RATE, EvaluationTable, Measured

Metric = Callable[[Counterfactuals], Tensor]
"""From N pairs to N values: a metric's instance, ``Counterfactuals.l1``, or any function."""

PAIRS = ("common", "own")
"""Which pairs' values enter a mean, see :func:`evaluate`."""


def _evaluations(result: Counterfactuals) -> Tensor:
    return result.evaluations


DEFAULT_METRICS: Mapping[str, Metric] = {
    "L0": Counterfactuals.l0,
    "L1": Counterfactuals.l1,
    "evaluations": _evaluations,
}
"""What :func:`evaluate` measures unless it is told otherwise."""


def evaluate(
    results: Counterfactuals | Mapping[str, Counterfactuals],
    metrics: Mapping[str, Metric] | None = None,
    *,
    pairs: str = "common",
    sets: Tensor | Sequence[int] | None = None,
    on_all_pairs: Collection[str] = (),
) -> EvaluationTable:
    r"""Measure the results of one or more explainers and tabulate them.

    A search that failed returns its best attempt, which is no counterfactual and enters no mean.
    If explainers fail on different pairs, likely the harder ones, means over different pairs can't
    be compared; the rule of the DeDUCE paper (section 4.3), the default here, is to use only the
    pairs on which all of them succeeded. Failure rates, over all pairs, are always in the table:
    means over few pairs say little of an explainer that rarely succeeds. One that found nothing at
    all has a row without means and no part in that rule. A metric sees only the pairs that enter
    its mean, so that a costly one does no work in vain.

    Pairs whose original reaches an explainer's goal as it is
    (:attr:`~captum_deduce.Counterfactuals.already`) are neither a success nor a failure of its
    search: they enter no column of its row, and the table says how many there are.

    Args:
        results (Counterfactuals or Mapping[str, Counterfactuals]): One result, or several by name:
            of the same N pairs of inputs and targets, in the same order.
        metrics (Mapping[str, Callable], optional): What to measure, by name: functions from
            :class:`~captum_deduce.Counterfactuals` of n pairs to n finite numbers or bools, of
            which the mean is taken. Default: None (:data:`DEFAULT_METRICS`: L0, L1 and evaluations
            with a gradient)
        pairs (str, optional): ``"common"``: means over the pairs on which all results succeeded.
            ``"own"``: over those on which each one did, not to be compared with one another.
            Default: "common"
        sets (Tensor or Sequence[int], optional): Number of the set of each pair, N integers, such
            as the paper's five test sets; means are then given with the standard deviation of the
            sets' means, unless a set has no pair in them. Default: None
        on_all_pairs (Collection[str], optional): Names of metrics to take over all pairs, failed
            ones too (but for those that were there already): right for costs, wrong for anything
            that looks at the counterfactuals.
            Default: ()

    Returns:
        EvaluationTable: Means, standard deviations over sets, paired tests, numbers of pairs, as
        text, Markdown, JSON or a data frame.

    Raises:
        TypeError: An argument of another kind, or a metric that returns no tensor.
        ValueError: No pairs, results of different pairs, no pair that all found of which found any
            (``pairs="own"`` has means then), a metric named ``"failure rate"``, or one that returns
            another number of values, NaN or infinite ones.

    Examples::

        >>> from captum_deduce import JSMA, Wachter
        >>> from captum_deduce.datasets import load_digits
        >>> from captum_deduce.metrics import Oracle
        >>> from captum_deduce.training import train_classifier
        >>> train, _, test = load_digits()
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> histories = [train_classifier(each, train, epochs=3) for each in (model, other)]

        >>> images, target = test.images[:20], (test.target[:20] + 1) % 10
        >>> explainers = {"JSMA": JSMA(model), "Wachter": Wachter(model)}
        >>> results = {name: e.generate(images, target) for name, e in explainers.items()}
        >>> distances = {"L0": Counterfactuals.l0, "L1": Counterfactuals.l1}
        >>> table = evaluate(results, {**distances, "oracle agreement": Oracle(other)})
        >>> print(table)
        |         |  ...L0 |  ...L1 | oracle agreement | failure rate |
        ...
        Means over the ... of 20 pairs on which all succeeded; failure rate over all 20 pairs.
        >>> table["JSMA", "L0"].mean < table["Wachter", "L0"].mean
        True
    """
    named = _named_results(results)
    chosen = _named_metrics(metrics, on_all_pairs)
    checks.choice("pairs", pairs, PAIRS)
    count = _common_length(named)
    groups = None if sets is None else _set_numbers(sets, count)
    searched = {name: ~result.already.cpu() for name, result in named.items()}
    found = {name: result.success.cpu() & searched[name] for name, result in named.items()}
    used = _found_by_all(found) if pairs == "common" else found
    measured = {}
    for name, result in named.items():
        columns = {}
        for metric, function in chosen.items():
            mask = searched[name] if metric in on_all_pairs else used[name]
            columns[metric] = _measure(metric, function, name, result, mask)
        places = searched[name].nonzero().flatten()
        columns[FAILURE_RATE] = Measured((~found[name])[places].double(), places)
        measured[name] = columns
    inputs = next(iter(named.values())).inputs
    originals = torch.unique(inputs.cpu().flatten(1), dim=0, return_inverse=True)[1]
    already = {name: count - int(mask.sum()) for name, mask in searched.items()}
    return EvaluationTable(measured, pairs, originals, tuple(on_all_pairs), groups, already)


def _named_results(
    results: Counterfactuals | Mapping[str, Counterfactuals],
) -> dict[str, Counterfactuals]:
    if isinstance(results, Counterfactuals):
        return {"counterfactuals": results}
    if not isinstance(results, Mapping):
        raise TypeError(
            f"results must be Counterfactuals, or a dict of them by name, got "
            f"{type(results).__name__}"
        )
    if not results:
        raise ValueError("results must hold at least one result, got none")
    for name, result in results.items():
        if not isinstance(result, Counterfactuals):
            raise TypeError(
                f"results[{name!r}] must be Counterfactuals, got {type(result).__name__}"
            )
    return dict(results)


def _named_metrics(
    metrics: Mapping[str, Metric] | None, on_all_pairs: Collection[str]
) -> dict[str, Metric]:
    chosen = DEFAULT_METRICS if metrics is None else metrics
    if not isinstance(chosen, Mapping):
        raise TypeError(
            f"metrics must be a dict of functions by name, got {type(metrics).__name__}"
        )
    for name, function in chosen.items():
        if not callable(function):
            raise TypeError(
                f"metrics[{name!r}] must be a function of Counterfactuals, got "
                f"{type(function).__name__}"
            )
    if FAILURE_RATE in chosen:
        raise ValueError(f"metrics must not name {FAILURE_RATE!r}, which is in every table")
    unknown = [on_all_pairs] if isinstance(on_all_pairs, str) else set(on_all_pairs) - set(chosen)
    if unknown:
        raise ValueError(
            f"on_all_pairs must be a list of names in metrics ({list(chosen)}), got {list(unknown)}"
        )
    return dict(chosen)


def _common_length(named: Mapping[str, Counterfactuals]) -> int:
    """Return N, once it is sure that all results are of the same pairs."""
    (first_name, first), *others = named.items()
    for name, result in others:
        same = (
            result.inputs.shape == first.inputs.shape
            and torch.equal(result.target.cpu(), first.target.cpu())
            and torch.equal(result.inputs.cpu().double(), first.inputs.cpu().double())
        )
        if not same:
            raise ValueError(
                f"results must be of the same inputs and targets in the same order, but those of "
                f"{name!r} ({len(result)} pairs) are not those of {first_name!r} ({len(first)})"
            )
    if not len(first):
        raise ValueError("results must be of at least one pair, got none")
    return len(first)


def _set_numbers(sets: Tensor | Sequence[int], count: int) -> Tensor:
    numbers = torch.as_tensor(sets).cpu()
    if numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool:
        raise TypeError(f"sets must hold integers, got {numbers.dtype}")
    if numbers.shape != (count,):
        raise ValueError(
            f"sets must hold one number per pair ({count}), got shape {tuple(numbers.shape)}"
        )
    return numbers.long()


def _found_by_all(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the pairs that all found which found any; the others keep their none."""
    able = {name: mask for name, mask in found.items() if mask.any()}
    if not able:
        return dict(found)
    together = torch.stack(list(able.values())).all(0)
    if not together.any():
        counts = ", ".join(
            f"{name}: {int(mask.sum())} of {len(mask)}" for name, mask in able.items()
        )
        raise ValueError(
            f"there is no pair on which all succeeded, to take means over (found are {counts}); "
            "pass pairs='own' for the means of each over its own"
        )
    return {name: together if name in able else mask for name, mask in found.items()}


def _measure(
    metric: str, function: Metric, name: str, result: Counterfactuals, mask: Tensor
) -> Measured:
    """Call a metric on the pairs of a mask, and refuse what has no mean."""
    places = mask.nonzero().flatten()
    if not len(places):
        return Measured(torch.zeros(0, dtype=torch.float64), places)
    values = function(result[mask])
    if not isinstance(values, Tensor):
        raise TypeError(f"metric {metric!r} must return a tensor, got {type(values).__name__}")
    if values.shape != places.shape or values.is_complex():
        raise ValueError(
            f"metric {metric!r} must return one number per pair ({len(places)}), got shape "
            f"{tuple(values.shape)}, {values.dtype}"
        )
    values = values.detach().cpu().double()
    broken = places[~torch.isfinite(values)].tolist()
    if broken:
        shown = ", ".join(map(str, broken[:5])) + (", ..." if len(broken) > 5 else "")
        raise ValueError(
            f"metric {metric!r} is NaN or infinite for {len(broken)} of {len(places)} pairs of "
            f"{name!r} (pairs {shown}), and so would be its mean"
        )
    return Measured(values, places)
