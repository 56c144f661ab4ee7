"""The paper's tables 1 to 5, with its values beside ours and oracle agreement beside both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.experiments import paper
from captum_deduce.experiments.methods import (
    AGREEMENT,
    PROBABILITY,
    deduce,
    evenly_among,
    found_by_all,
    make_anogan,
    measure,
    oracle_metrics,
    published,
    revise,
    search,
)
from captum_deduce.experiments.plan import Cases, every_target, first_of_their_classes
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.metrics import EvaluationTable
from captum_deduce.reports import (
    ABSENT,
    Column,
    Report,
    caption,
    failure_column,
    metric_column,
)

ORACLE_NOTE = (
    f"{AGREEMENT}: the share of two small classifiers, trained independently, that see the target "
    f"class; {PROBABILITY}: their mean probability of it. The paper has neither."
)


def table1(models: Trained, store: Store) -> Report:
    """Compare the four algorithms, as the paper's table 1.

    Args:
        models (Trained): What is explained, and what explainers and metrics need.
        store (Store): Where results are kept.

    Returns:
        Report: Means by the rule of common pairs, AnoGAN on some of these; and means over each
        algorithm's own pairs, as one that fails often leaves few in common.
    """
    size = models.size
    cases = every_target(models.splits.test, size.sets, size.images)
    runs = search(store, published(models), cases)
    results = {name: run.result for name, run in runs.items()}
    table = measure(results, _distances_and_oracles(models), cases.sets)
    anogan = make_anogan(models.wgan, size.anogan, size.seed)

    def score(result: Counterfactuals) -> Tensor:
        return store.scores("AGAN", anogan.score, result.counterfactuals)

    chosen = evenly_among(found_by_all(list(results.values())), size.anogan.pairs)
    agan = None
    if len(chosen):
        scored = {name: result[chosen] for name, result in results.items()}
        agan = measure(scored, {"AGAN": score}, None if cases.sets is None else cases.sets[chosen])
    originals = models.splits.test.images[: size.sets * size.images]
    with torch.no_grad():
        drawn = models.vae(originals.to(store.device)).cpu()
    real = {
        "originals": store.scores("AGAN", anogan.score, originals),
        "reconstructions": store.scores("AGAN", anogan.score, drawn),
    }
    rows = list(paper.METHODS)
    columns: list[Column] = [
        ("algorithm", rows),
        ("AGAN", metric_column(agan, "AGAN", rows, 2)),
        ("paper", [paper.TABLE1[row]["AGAN"] for row in rows]),
        *_beside(table, paper.TABLE1, rows),
        *_failure(table, rows, paper.TABLE1_FAILURE),
        *_oracles(table, rows),
    ]
    own = measure(results, _distances_and_oracles(models), cases.sets, by_all=False)
    own_columns: list[Column] = [
        ("algorithm", rows),
        ("pairs", [str(own[row, "L0"].pairs) for row in rows]),
        ("L0", metric_column(own, "L0", rows, 2)),
        ("L1", metric_column(own, "L1", rows, 2)),
        *_oracles(own, rows),
    ]
    notes = [
        f"{caption(table)} The second table has means over the pairs that each found itself.",
        f"AGAN on {len(chosen)} of the common pairs ({size.anogan.optimizer}); of the "
        f"{len(originals)} originals {real['originals'].mean():.2f} (paper "
        f"{paper.ORIGINALS_AGAN}), of the VAE's reconstructions of them "
        f"{real['reconstructions'].mean():.2f} (paper {paper.RECONSTRUCTIONS_AGAN}). Scores are "
        "relative to the GAN, which is not the paper's.",
        ORACLE_NOTE,
        f"REVISE: {size.revise.label}. VLK: 2 x {size.vlk_steps} steps.",
    ]
    data: dict[str, Any] = {
        "evaluation": table.to_dict(),
        "evaluation of own pairs": own.to_dict(),
        "AGAN": None if agan is None else agan.to_dict(),
        "AGAN of images": {name: values.tolist() for name, values in real.items()},
        "seconds": _seconds(runs),
        "paper": {"table": paper.TABLE1, "failure in %": paper.TABLE1_FAILURE},
    }
    title = "Table 1: the four algorithms"
    return Report(title, columns, notes, data, results=results, own_columns=own_columns)


def table2(models: Trained, store: Store) -> Report:
    """Time the four algorithms on one pair at a time, as the paper's table 2.

    Args:
        models (Trained): What is explained, and what the explainers need.
        store (Store): Where results are kept.

    Returns:
        Report: Mean seconds, with the standard deviation over pairs.
    """
    size = models.size
    every = every_target(models.splits.test, size.sets, size.images)
    cases = every[evenly_among(torch.ones(len(every), dtype=torch.bool), size.timed_pairs)]
    runs = search(store, published(models), cases, alone=True)
    results = {name: run.result for name, run in runs.items()}
    table = measure(results, _distances_and_oracles(models), None)
    rows = list(paper.METHODS)
    deviations = [
        run.seconds.std() if len(cases) > 1 else torch.tensor(0.0) for run in runs.values()
    ]
    columns: list[Column] = [
        ("algorithm", rows),
        (
            "seconds",
            [
                f"{run.seconds.mean():.2f} ({deviation:.2f})"
                for run, deviation in zip(runs.values(), deviations, strict=True)
            ],
        ),
        ("paper, Tesla T4", [paper.TABLE2[row] for row in rows]),
        *_failure(table, rows, None),
        *_oracles(table, rows),
    ]
    notes = [
        f"Mean seconds of {len(cases)} pairs, each searched for alone; in brackets the standard "
        "deviation over pairs. Searches that were kept from an earlier run keep their time.",
        ORACLE_NOTE,
        f"REVISE: {size.revise.label}. VLK: 2 x {size.vlk_steps} steps.",
    ]
    data = {
        "seconds of each pair": {name: run.seconds.tolist() for name, run in runs.items()},
        "evaluation": table.to_dict(),
        "paper": paper.TABLE2,
    }
    return Report("Table 2: seconds for one counterfactual", columns, notes, data, results=results)


def table3(models: Trained, store: Store) -> Report:
    """Score the pairs of figure 3 one by one, as the paper's table 3.

    Args:
        models (Trained): What is explained, and what explainers and metrics need.
        store (Store): Where results are kept.

    Returns:
        Report: A row for each algorithm and metric, a column for each pair.
    """
    runs, cases = figure3_runs(models, store)
    anogan = make_anogan(models.wgan, models.size.anogan, models.size.seed)
    probability = oracle_metrics(models)[PROBABILITY]
    lines: list[tuple[str, str, list[str]]] = []
    data: dict[str, Any] = {"paper": paper.TABLE3}
    for name, run in runs.items():
        result = run.result
        values = {
            "AGAN": (store.scores("AGAN", anogan.score, result.counterfactuals), 2),
            "L0": (result.l0(), 0),
            "L1": (result.l1(), 2),
            PROBABILITY: (probability(result), 3),
        }
        data[name] = {metric: found.tolist() for metric, (found, _) in values.items()}
        data[name]["success"] = result.success.tolist()
        for metric, (found, decimals) in values.items():
            theirs = paper.TABLE3[name].get(metric, (ABSENT,) * len(cases))
            cells = [
                f"{f'{value:.{decimals}f}' if success else 'failed'} / {other}"
                for value, success, other in zip(
                    found.tolist(), result.success.tolist(), theirs, strict=True
                )
            ]
            lines.append((name, metric, cells))
    names = models.splits.test.class_names
    columns: list[Column] = [
        ("algorithm", [line[0] for line in lines]),
        ("metric", [line[1] for line in lines]),
        *(
            (
                f"{names[int(cases.labels[pair])]} → {names[int(cases.target[pair])]}",
                [line[2][pair] for line in lines],
            )
            for pair in range(len(cases))
        ),
    ]
    notes = [
        "Ours / the paper's.",
        ORACLE_NOTE,
        f"REVISE: {models.size.revise.label}. VLK: 2 x {models.size.vlk_steps} steps.",
    ]
    results = {name: run.result for name, run in runs.items()}
    return Report("Table 3: the pairs of figure 3", columns, notes, data, results=results)


def figure3_runs(models: Trained, store: Store) -> tuple[dict[str, Run], Cases]:
    """Search for the counterfactuals of the paper's figure 3 with each of the four algorithms.

    Args:
        models (Trained): What is explained, and what the explainers need.
        store (Store): Where results are kept.

    Returns:
        tuple[dict[str, Run], Cases]: By name, and the pairs.
    """
    cases = first_of_their_classes(models.splits.test, paper.TABLE3_PAIRS)
    return search(store, published(models), cases), cases


def table4(models: Trained, store: Store) -> Report:
    """Compare DeDUCE's objectives, as the paper's table 4, on validation images.

    Args:
        models (Trained): With the spectrally normalised classifier and the oracles.
        store (Store): Where results are kept.

    Returns:
        Report: A row for each objective.
    """
    weights = (0.0, 1.0, 10.0, 1e2, 1e3, 1e4, 1e5)
    objectives = [{"normalize_terms": False, "classification_weight": value} for value in weights]
    objectives += [{"classification_weight": value} for value in (0.2, 1.0, 5.0)]
    named = zip(paper.TABLE4, objectives, strict=True)
    explainers = {name: deduce(models, **settings) for name, settings in named}
    return _settings_table(
        "Table 4: DeDUCE by its objective",
        "objective",
        models,
        store,
        explainers,
        paper.TABLE4,
        paper.TABLE4_FAILURE,
        ["lambda: equation 4; mu: equation 5."],
    )


def table5(models: Trained, store: Store) -> Report:
    """Compare REVISE's settings, as the paper's table 5, on validation images.

    Args:
        models (Trained): With the plain classifier, the VAE and the oracles.
        store (Store): Where results are kept.

    Returns:
        Report: A row for each lambda and step size.
    """
    grid = models.size.revise_grid
    explainers, table, failure = {}, {}, {}
    for weight in paper.TABLE5_WEIGHTS:
        for place, descent in enumerate(grid):
            name = f"lambda = {weight:g}, {descent.label}"
            explainers[name] = revise(models, descent, weight)
            table[name] = paper.TABLE5[weight, place]
            failure[name] = paper.TABLE5_FAILURE[weight, place]
    notes = []
    if grid[0].optimizer != "sgd":
        notes.append(
            "Reduced: the paper's plain descent with steps of 1e-3, 1e-4 and 1e-5 is replaced by "
            "Adam with three steps; the paper's values stand beside ours in this order, and are "
            "of other settings."
        )
    return _settings_table(
        "Table 5: REVISE by its settings",
        "settings",
        models,
        store,
        explainers,
        table,
        failure,
        notes,
    )


def _settings_table(
    title: str,
    heading: str,
    models: Trained,
    store: Store,
    explainers: Mapping[str, CounterfactualExplainer],
    theirs: Mapping[str, Mapping[str, str]],
    their_failure: Mapping[str, str],
    notes: list[str],
) -> Report:
    """Compare settings of one explainer on validation images, as settings are chosen on these."""
    size = models.size
    cases = every_target(models.splits.validation, size.sets, size.images)
    runs = search(store, explainers, cases)
    results = {name: run.result for name, run in runs.items()}
    table = measure(results, _distances_and_oracles(models), cases.sets)
    rows = list(explainers)
    columns: list[Column] = [
        (heading, rows),
        *_beside(table, theirs, rows),
        *_failure(table, rows, their_failure),
        *_oracles(table, rows),
    ]
    data = {
        "evaluation": table.to_dict(),
        "seconds": _seconds(runs),
        "paper": {"table": dict(theirs), "failure in %": dict(their_failure)},
    }
    told = [f"Validation images. {caption(table)}", *notes, ORACLE_NOTE]
    return Report(title, columns, told, data, results=results)


def _distances_and_oracles(models: Trained) -> dict[str, Any]:
    return {"L0": Counterfactuals.l0, "L1": Counterfactuals.l1, **oracle_metrics(models)}


def _beside(
    table: EvaluationTable, theirs: Mapping[str, Mapping[str, str]], rows: Sequence[str]
) -> list[Column]:
    """Columns of L0 and L1, each with the paper's."""
    columns: list[Column] = []
    for metric in ("L0", "L1"):
        columns.append((metric, metric_column(table, metric, rows, 2)))
        columns.append(("paper", [theirs[row][metric] for row in rows]))
    return columns


def _failure(
    table: EvaluationTable, rows: Sequence[str], theirs: Mapping[str, str] | None
) -> list[Column]:
    columns: list[Column] = [("failure in %", failure_column(table, rows))]
    if theirs is not None:
        columns.append(("paper", [theirs[row] for row in rows]))
    return columns


def _oracles(table: EvaluationTable, rows: Sequence[str]) -> list[Column]:
    return [
        (f"{AGREEMENT} in %", metric_column(table, AGREEMENT, rows, 1, 100.0)),
        (PROBABILITY, metric_column(table, PROBABILITY, rows, 3)),
    ]


def _seconds(runs: Mapping[str, Run]) -> dict[str, float]:
    return {name: run.seconds.sum().item() for name, run in runs.items()}
