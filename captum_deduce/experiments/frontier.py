"""Past the paper: distance and oracle agreement, with the same classifiers for all methods.

Methods explain the same classifiers, asked for the same confidences, so that what a classifier's
training does and what a method does can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.experiments.curves import Curve, Margin, error_over_originals, margins
from captum_deduce.experiments.matched import (
    CLASSIFIERS,
    LIGHTER,
    POLISHED,
    PRESETS,
    RIVALS,
    Entry,
    matched_entries,
)
from captum_deduce.experiments.methods import AGREEMENT, search
from captum_deduce.experiments.panels import Point, panels
from captum_deduce.experiments.plan import Size, every_target
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.metrics import EvaluationTable, Oracle, Summary, evaluate, l0, l1
from captum_deduce.reports import ABSENT, Column, Report, metric_column

STRICTEST = "strictest"
"""Agreement of the oracle that agrees least."""

COSTS = ("evaluations", "forward")
"""What is measured on all pairs, as failures cost, too."""


def frontier(models: Trained, store: Store) -> Report:
    """Compare methods and presets by distance and by oracle agreement.

    Args:
        models (Trained): The classifiers, the oracles and what methods need.
        store (Store): Where results are kept.

    Returns:
        Report: A row for each method, classifier and confidence; a second table with what DeDUCE's
        best preset has more than the best other method; and the curves.
    """
    size = models.size
    cases = every_target(models.splits.test, 1, size.frontier_images)
    entries = matched_entries(models)
    runs = search(store, {name: entry.explainer for name, entry in entries.items()}, cases)
    judges = oracles(models)
    table = measured(judges, runs)
    compared = {name: _margins(entries, table, name, size) for name in CLASSIFIERS}
    data = {
        "entries": {
            name: _numbers(entry, table, list(judges), runs[name])
            for name, entry in entries.items()
        },
        "margins": {
            name: [vars(each) | {"difference": each.difference} for each in found]
            for name, found in compared.items()
        },
    }
    return Report(
        "The frontier: distance against oracle agreement",
        columns(entries, table, list(judges)),
        _notes(size),
        data,
        panels(points(entries, table)),
        {name: run.result for name, run in runs.items()},
        own_columns=margin_columns(compared),
    )


def oracles(models: Trained) -> dict[str, nn.Module]:
    """Collect the oracles, of two architectures; no search knows them.

    Args:
        models (Trained): That hold them.

    Returns:
        dict[str, nn.Module]: By name.
    """
    return {
        f"{type(model).__name__} {place}": model
        for group in (models.oracles, models.vgg_oracles)
        for place, model in enumerate(group, 1)
    }


def measured(judges: Mapping[str, nn.Module], runs: Mapping[str, Run]) -> EvaluationTable:
    """Measure distances over own successes; agreement, where failures have none, and cost over all.

    Pairs whose original is at its goal as it is enter nothing.

    Args:
        judges (Mapping[str, nn.Module]): The oracles, by name.
        runs (Mapping[str, Run]): By name, of the same pairs.

    Returns:
        EvaluationTable: A row for each run; besides distances and costs :data:`AGREEMENT`, the mean
        over all oracles, and each oracle's own by its name.
    """
    agreements = {AGREEMENT: _agreement(list(judges.values()))}
    agreements |= {name: _agreement([judge]) for name, judge in judges.items()}
    metrics: dict[str, Callable[[Counterfactuals], Tensor]] = {
        "L0": lambda result: l0(result.inputs, result.counterfactuals),
        "L1": lambda result: l1(result.inputs, result.counterfactuals),
        **agreements,
        "evaluations": lambda result: result.evaluations,
        "forward": lambda result: result.forward_evaluations,
    }
    results = {name: run.result for name, run in runs.items()}
    return evaluate(results, metrics, pairs="own", on_all_pairs=(*agreements, *COSTS))


def columns(
    entries: Mapping[str, Entry], table: EvaluationTable, judges: list[str]
) -> list[Column]:
    """Write the table.

    Args:
        entries (Mapping[str, Entry]): By name.
        table (EvaluationTable): As from :func:`measured`.
        judges (list[str]): Names of the oracles.

    Returns:
        list[tuple[str, Sequence[str]]]: As :func:`captum_deduce.reports.table` takes it.
    """
    rows, every = list(entries), list(entries.values())
    found = [_found(table, row) for row in rows]
    return [
        ("method", [entry.method for entry in every]),
        ("classifier", [entry.classifier for entry in every]),
        ("confidence", [entry.setting for entry in every]),
        ("generative model", [entry.generative for entry in every]),
        ("found %", [_written(share, 1, 100.0) for share in found]),
        ("L0", metric_column(table, "L0", rows, 1)),
        ("L1", metric_column(table, "L1", rows, 1)),
        (AGREEMENT, metric_column(table, AGREEMENT, rows, 3)),
        ("error", [_written(_error(table, row, AGREEMENT), 3) for row in rows]),
        (STRICTEST, [_written(_strictest(table, row, judges)[1], 3) for row in rows]),
        *((name, metric_column(table, name, rows, 1)) for name in COSTS),
    ]


def margin_columns(compared: Mapping[str, list[Margin]]) -> list[Column]:
    """Write what the best preset has more than the best other method, for each classifier.

    Args:
        compared (Mapping[str, list[Margin]]): By classifier.

    Returns:
        list[tuple[str, Sequence[str]]]: As :func:`captum_deduce.reports.table` takes it.
    """
    rows = [(name, each) for name, found in compared.items() for each in found]
    return [
        ("classifier", [name for name, _ in rows]),
        ("at L1", [f"{each.distance:g}" for _, each in rows]),
        ("best preset", [each.method or ABSENT for _, each in rows]),
        (AGREEMENT, [_written(each.agreement, 3) for _, each in rows]),
        ("best other", [each.rival or ABSENT for _, each in rows]),
        (f"its {AGREEMENT}", [_written(each.rival_agreement, 3) for _, each in rows]),
        ("margin", [_written(each.difference, 3) for _, each in rows]),
        ("95% interval", [_interval(each) for _, each in rows]),
    ]


def points(entries: Mapping[str, Entry], table: EvaluationTable) -> list[Point]:
    """Place the entries in the picture.

    Args:
        entries (Mapping[str, Entry]): By name.
        table (EvaluationTable): As from :func:`measured`.

    Returns:
        list[Point]: In the entries' order, without those that found nothing.
    """
    placed = []
    for row, entry in entries.items():
        distance, agreement = table[row, "L1"].mean, table[row, AGREEMENT].mean
        if distance is None or agreement is None:
            continue
        placed.append(
            Point(
                method=entry.method,
                classifier=entry.classifier,
                distance=distance,
                agreement=agreement,
                distance_error=_error(table, row, "L1"),
                agreement_error=_error(table, row, AGREEMENT),
                found=_found(table, row) or 0.0,
                generative=entry.generative != ABSENT,
            )
        )
    return placed


def _margins(
    entries: Mapping[str, Entry], table: EvaluationTable, classifier: str, size: Size
) -> list[Margin]:
    def curve(method: str) -> Curve:
        rows = [
            name
            for name, entry in entries.items()
            if (entry.method, entry.classifier) == (method, classifier)
        ]
        return Curve.of(table, rows, "L1", AGREEMENT)

    return margins(
        {method: curve(method) for method in (*PRESETS, POLISHED)},
        {method: curve(method) for method in RIVALS},
        size.distances,
        size.seed,
    )


def _agreement(judges: list[nn.Module]) -> Callable[[Counterfactuals], Tensor]:
    oracle = Oracle(judges)
    return lambda result: oracle(result) * result.success


def _found(table: EvaluationTable, row: str) -> float | None:
    failed = table[row, "failure rate"].mean
    return None if failed is None else 1 - failed


def _error(table: EvaluationTable, row: str, metric: str) -> float | None:
    cell = table.measured[row][metric]
    return error_over_originals(cell.values, table.originals[cell.pairs])


def _strictest(
    table: EvaluationTable, row: str, judges: list[str]
) -> tuple[str | None, float | None]:
    means = {judge: mean for judge in judges if (mean := table[row, judge].mean) is not None}
    return min(means.items(), key=lambda each: each[1]) if means else (None, None)


def _written(value: float | None, decimals: int, scale: float = 1.0) -> str:
    return ABSENT if value is None else f"{value * scale:.{decimals}f}"


def _interval(margin: Margin) -> str:
    if margin.interval is None:
        return ABSENT
    low, high = margin.interval
    return f"{low:.3f} to {high:.3f}"


def _numbers(entry: Entry, table: EvaluationTable, judges: list[str], run: Run) -> dict[str, Any]:
    def summary(metric: str) -> dict[str, Any]:
        cell: Summary = table[entry.name, metric]
        return {"mean": cell.mean, "error": _error(table, entry.name, metric), "pairs": cell.pairs}

    judge, _ = _strictest(table, entry.name, judges)
    return {
        "method": entry.method,
        "classifier": entry.classifier,
        "setting": entry.setting,
        "generative model": entry.generative,
        "already": table.already[entry.name],
        "found": _found(table, entry.name),
        STRICTEST: judge,
        "metrics": {metric: summary(metric) for metric in table.metrics},
        "seconds": run.seconds.sum().item(),
    }


def _notes(size: Size) -> list[str]:
    return [
        f"{size.frontier_images} originals, each with every other class. L0 and L1: means over the "
        f"pairs that each found. {AGREEMENT}: the share of four classifiers, of two architectures "
        "and trained independently, that see the target class; a failure counts as 0. No search "
        f"knows them. error: standard error of that share, over originals. {STRICTEST}: the share "
        "of the oracle that agrees least. evaluations (with a gradient) and forward (without): "
        "means over all pairs, failures too.",
        f"plain: ResNet-18; SN: with spectral normalisation; noise: trained with noise up to "
        f"{size.noise:g}, too. What differs within a panel of the picture is the method's doing, "
        "what differs between panels the classifier's.",
        f"realistic, layers: with the density of an early layer's {size.grid} x {size.grid} means "
        "and of the last features. realistic, smoothed: explains the mean over "
        f"{size.smoothing_copies} copies with noise of {size.smoothing:g}; its confidence is that "
        "mean's, and an evaluation is as many passes. VLK asks for a lead of kappa over the "
        "original's class, here twice the confidence less 1; 2 x "
        f"{size.vlk_steps} steps. REVISE: lambda {LIGHTER:g}, {size.revise.label}. CEM: 9 x "
        f"{size.cem_steps} steps.",
        "margin: what the best of DeDUCE and its presets has more than the best of "
        f"{' and '.join(RIVALS)} on the same classifier at the same L1, both read between their "
        "confidences; each best is chosen on these pairs. The interval is from a bootstrap over "
        f"originals. {ABSENT}: a curve does not reach that L1.",
    ]
