"""How near, how real and how cheap DeDUCE's counterfactuals are, against the targets set for them.

On MNIST, with a width-16 SN-ResNet-18 trained as usual and one trained with noise (both cached, as
``captum-deduce reproduce`` does; training takes some minutes): the default, which is the paper's
algorithm without steps that change nothing, and the presets. Two small classifiers of another
architecture, which no search knows, are the oracles. Settings were chosen on validation images
(``--validation``); what is reported is measured on test images.

    python benchmarks/quality.py --data-root DIR
    python benchmarks/quality.py --data-root DIR --anogan 40
    python benchmarks/quality.py --data-root DIR --validation --images 10
    python benchmarks/quality.py --data-root DIR --dataset cifar10 --images 10 --epochs 3 \
        --noise 0.25 --pixel site

Searches are kept in the ``--output`` folder and not run again; their times are kept with them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from captum_deduce import (
    CounterfactualExplainer,
    DeDUCE,
    MultiLayerClassifier,
    SmoothedClassifier,
    datasets,
)
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.experiments.matched import LAYERS_BUDGET
from captum_deduce.experiments.methods import (
    AGREEMENT,
    PROBABILITY,
    evenly_among,
    make_anogan,
    oracle_metrics,
    published,
    search,
)
from captum_deduce.experiments.plan import SIZES, Cases, every_target
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.metrics import EvaluationTable, evaluate, l0, l1
from captum_deduce.reports import Column, failure_column, metric_column
from captum_deduce.reports import table as as_table
from captum_deduce.zoo import RECIPES, make_explainer

FAILURES = "failures"
VLK = "VLK"

SMALL_BUDGET: dict[str, Any] = {"confidence": 0.98}
"""What turns :meth:`captum_deduce.DeDUCE.realistic` into its closer variant."""

SMOOTHED_BUDGET: dict[str, Any] = {"confidence": 0.9, "density_quantile": 0.01, "rounds": 8}
"""The same where the classifier is averaged over noise: means are sure of less."""


@dataclass(frozen=True)
class Entry:
    """What is compared.

    Args:
        classifier (str): What is explained: "plain", "SN" (spectrally normalised) or "SN, noise"
            (the same, trained with noise).
        explainer (CounterfactualExplainer): With which settings.
    """

    classifier: str
    explainer: CounterfactualExplainer


def deduce_entries(models: Trained, pixel: str = "entry") -> dict[str, Entry]:
    """Make DeDUCE and its presets, on the classifier trained as usual and on the one with noise.

    Args:
        models (Trained): The classifiers.
        pixel (str, optional): As of :class:`captum_deduce.DeDUCE`. Default: "entry"

    Returns:
        dict[str, Entry]: By name.
    """
    usual, noise = models.normalised, models.noise_trained

    def realistic(
        described: tuple[SmoothedClassifier | MultiLayerClassifier, ClassGaussianMixture],
        **settings: Any,
    ) -> DeDUCE:
        model, density = described
        return DeDUCE.realistic(model, model.features, density, pixel=pixel, **settings)

    return {
        "DeDUCE": Entry("SN", make_explainer(usual, pixel=pixel)),
        "closest": Entry("SN", make_explainer(usual, "closest", pixel=pixel)),
        "realistic": Entry("SN", make_explainer(usual, "realistic", pixel=pixel)),
        "realistic, layers": Entry("SN", realistic(models.multi_layer, **LAYERS_BUDGET)),
        "DeDUCE, noise": Entry("SN, noise", make_explainer(noise, pixel=pixel)),
        "realistic, closer, noise": Entry(
            "SN, noise", make_explainer(noise, "realistic", pixel=pixel, **SMALL_BUDGET)
        ),
        "realistic, noise": Entry("SN, noise", make_explainer(noise, "realistic", pixel=pixel)),
        "realistic, layers, noise": Entry(
            "SN, noise", realistic(models.noise_multi_layer, **LAYERS_BUDGET)
        ),
        "realistic, smoothed": Entry("SN, noise", realistic(models.smoothed, **SMOOTHED_BUDGET)),
    }


def measured(models: Trained, runs: Mapping[str, Run]) -> EvaluationTable:
    """Measure distances, evaluations and the oracles' agreement, each over its own successes.

    Args:
        models (Trained): With the oracles.
        runs (Mapping[str, Run]): By name.

    Returns:
        EvaluationTable: A row for each.
    """
    metrics = {
        "L0": lambda result: l0(result.inputs, result.counterfactuals),
        "L1": lambda result: l1(result.inputs, result.counterfactuals),
        **oracle_metrics(models),
        "evaluations": lambda result: result.evaluations,
        "forward": lambda result: result.forward_evaluations,
    }
    return evaluate({name: run.result for name, run in runs.items()}, metrics, pairs="own")


def columns(
    entries: Mapping[str, Entry], runs: Mapping[str, Run], table: EvaluationTable
) -> list[Column]:
    """Write the table.

    Args:
        entries (Mapping[str, Entry]): By name.
        runs (Mapping[str, Run]): Of the same names.
        table (EvaluationTable): As from :func:`measured`.

    Returns:
        list[tuple[str, Sequence[str]]]: As :func:`captum_deduce.reports.table` takes it.
    """
    rows = list(entries)
    seconds = [f"{run.seconds.mean():.3f}" for run in runs.values()]
    return [
        ("method", rows),
        ("classifier", [entry.classifier for entry in entries.values()]),
        *((name, metric_column(table, name, rows, 1)) for name in ("L0", "L1")),
        *((name, metric_column(table, name, rows, 3)) for name in (AGREEMENT, PROBABILITY)),
        ("failed %", failure_column(table, rows)),
        *((name, metric_column(table, name, rows, 1)) for name in ("evaluations", "forward")),
        ("s a pair", seconds),
    ]


def targets(mean: Callable[[str, str], float], seconds: dict[str, float]) -> list[tuple]:
    """What is promised, what was measured, and whether it holds."""

    def ratio(name: str) -> float:
        return mean("closest", name) / mean("DeDUCE", name)

    promised = [
        ("closest: L0 / default", ratio("L0"), "<=", 0.80),
        ("closest: L1 / default", ratio("L1"), "<=", 0.93),
        ("closest: time / default", seconds["closest"] / seconds["DeDUCE"], "<=", 0.5),
    ]
    for name, agreement, nearest, fewest in (
        ("realistic, noise", 0.90, 40, 60),
        ("realistic, smoothed", 0.70, 31, 40),
    ):
        promised += [
            (f"{name}: agreement", mean(name, AGREEMENT), ">=", agreement),
            (f"{name}: L1", mean(name, "L1"), "<=", nearest),
            (f"{name}: L0", mean(name, "L0"), "<=", fewest),
            (f"{name}: failures", mean(name, FAILURES), "<=", 0.01),
        ]
    return promised


def anogan_scores(
    models: Trained, store: Store, runs: dict[str, Run], cases: Cases, count: int
) -> dict[str, float]:
    """Mean scores of pairs that "realistic, noise" and VLK found, each over those it found itself.

    Of all pairs that "realistic, noise" found, ``count`` are taken evenly; VLK tries these.
    """
    rows = evenly_among(runs["realistic, noise"].result.success, count)
    vlk = search(store, {VLK: published(models)[VLK]}, cases[rows])[VLK].result
    rows, vlk = rows[vlk.success], vlk[vlk.success]
    images = {"originals": cases.inputs[rows], VLK: vlk.counterfactuals}
    for name, run in runs.items():
        result = run.result[rows]
        images[name] = result.counterfactuals[result.success]
    anogan = make_anogan(models.wgan, models.size.anogan, models.size.seed)
    scores = {}
    print("\nAnoGAN: mean, its standard error, and of how many")
    for name, each in images.items():
        if len(each) < 2:
            continue
        values = store.scores(f"anogan-{name}", anogan.score, each)
        scores[name] = values.mean().item()
        error = values.std().item() / len(values) ** 0.5
        print(f"{name:28} {scores[name]:6.1f} +- {error:3.1f}  {len(values)}", flush=True)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=("mnist", "cifar10"), default="mnist")
    parser.add_argument("--data-root", help="the folder of the data")
    parser.add_argument("--images", type=int, default=100, help="each with all other classes (100)")
    parser.add_argument("--validation", action="store_true", help="measure on validation images")
    parser.add_argument("--pixel", choices=("entry", "site"), default="entry", help="(entry)")
    parser.add_argument("--epochs", type=int, help="of both classifiers (default: their own)")
    parser.add_argument("--noise", type=float, help="in the second's training (reproduce's)")
    parser.add_argument(
        "--anogan", type=int, default=0, metavar="PAIRS", help="score so many, and VLK's (0)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--output", type=Path, default=Path("captum-deduce-quality"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    recipe, default = RECIPES[arguments.dataset], SIZES["default"]
    size = replace(
        default,
        dataset=arguments.dataset,
        classifier=recipe.overridden(epochs=arguments.epochs),
        noise=default.noise if arguments.noise is None else arguments.noise,
        noise_epochs=arguments.epochs or default.noise_epochs,
    )
    splits = datasets.load(size.dataset, arguments.data_root, seed=size.seed)
    device = torch.device("cpu")
    models = Trained(size, splits, device, show_progress=False)
    store = Store(arguments.output / "runs", device)
    data = splits.validation if arguments.validation else splits.test
    cases = every_target(data, 1, arguments.images)
    entries = deduce_entries(models, pixel=arguments.pixel)
    runs = search(store, {name: entry.explainer for name, entry in entries.items()}, cases)
    table = measured(models, runs)
    print("\n" + as_table(columns(entries, runs, table)) + "\n")
    for name, accuracy in models.accuracies().items():
        print(f"{name}: {accuracy:.2%} of the test images right")

    failed = {name: 1 - run.result.success.double().mean().item() for name, run in runs.items()}
    seconds = {name: run.seconds.sum().item() for name, run in runs.items()}

    def mean(name: str, metric: str) -> float:
        return failed[name] if metric == FAILURES else table[name, metric].mean

    print()
    results = targets(mean, seconds)
    scores = {}
    if arguments.anogan > 0:
        scores = anogan_scores(models, store, runs, cases, arguments.anogan)
        if VLK in scores:
            score = scores["realistic, noise"]
            results.append(("realistic, noise: AnoGAN", score, "<=", scores[VLK]))
        print()
    for what, value, sign, bound in results:
        holds = value <= bound if sign == "<=" else value >= bound
        print(f"{what:36} {value:8.3f}  target {sign} {bound:<6.3g} {'met' if holds else 'MISSED'}")
    written = arguments.output / f"quality-{arguments.dataset}-{arguments.pixel}.json"
    content = {"evaluation": table.to_dict(), "seconds": seconds, "targets": results}
    content["AnoGAN"] = scores
    written.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
