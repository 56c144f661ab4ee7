"""How near, how real and how cheap DeDUCE's counterfactuals are, against the targets set for them.

On MNIST, with a width-16 SN-ResNet-18 trained as usual and one trained with noise (both cached, as
``captum-deduce reproduce`` does; training takes some minutes): the default, which is the paper's
algorithm without steps that change nothing, and the presets. Two small classifiers of another
architecture, which no search knows, are the oracles. Settings were chosen on validation images
(``--validation``); what is reported is measured on test images.

    python benchmarks/quality.py --data-root DIR
    python benchmarks/quality.py --data-root DIR --anogan 40
    python benchmarks/quality.py --data-root DIR --validation --images 10
    python benchmarks/quality.py --data-root DIR --dataset cifar10 --images 10 --epochs 3 \\
        --noise 0.25 --pixel site

Searches are kept in the ``--output`` folder and not run again; their times are kept with them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from captum_deduce import (
    CounterfactualExplainer,
    DeDUCE,
    MultiLayerClassifier,
    Polish,
    SmoothedClassifier,
    datasets,
)
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.experiments.frontier import measured, oracles
from captum_deduce.experiments.matched import LAYERS_BUDGET
from captum_deduce.experiments.methods import (
    AGREEMENT,
    evenly_among,
    make_anogan,
    published,
    search,
)
from captum_deduce.experiments.plan import SIZES, Cases, every_target
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.metrics import EvaluationTable, l1
from captum_deduce.reports import Column, failure_column, metric_column
from captum_deduce.reports import table as as_table
from captum_deduce.zoo import RECIPES, make_explainer

FAILURES = "failures"
STRICTEST_TWO = "strictest two"
"""Not the frontier's column, which is the one oracle that agrees least."""

VLK = "VLK"
POLISHED, WITH_PRIOR = "realistic, polished, noise", "realistic, prior, noise"

SMOOTH = Polish(variation=0.4, steps=200)
"""A polish for smoothness first, at some cost in distance."""

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

    def with_noise(preset: str | None = None, **settings: Any) -> Entry:
        return Entry("SN, noise", make_explainer(noise, preset, pixel=pixel, **settings))

    with_prior = Polish(prior=models.autoencoder, prior_weight=10)
    return {
        "DeDUCE": Entry("SN", make_explainer(usual, pixel=pixel)),
        "closest": Entry("SN", make_explainer(usual, "closest", pixel=pixel)),
        "realistic": Entry("SN", make_explainer(usual, "realistic", pixel=pixel)),
        "realistic, layers": Entry("SN", realistic(models.multi_layer, **LAYERS_BUDGET)),
        "DeDUCE, noise": with_noise(),
        "realistic, closer, noise": with_noise("realistic", **SMALL_BUDGET),
        "realistic, noise": with_noise("realistic"),
        "realistic, layers, noise": Entry(
            "SN, noise", realistic(models.noise_multi_layer, **LAYERS_BUDGET)
        ),
        "realistic, smoothed": Entry("SN, noise", realistic(models.smoothed, **SMOOTHED_BUDGET)),
        POLISHED: with_noise("realistic", polish=SMOOTH),
        WITH_PRIOR: with_noise("realistic", polish=with_prior, confidence=0.98),
    }


def columns(
    entries: Mapping[str, Entry],
    runs: Mapping[str, Run],
    table: EvaluationTable,
    judges: Sequence[str],
) -> list[Column]:
    """Write the table.

    Args:
        entries (Mapping[str, Entry]): By name.
        runs (Mapping[str, Run]): Of the same names.
        table (EvaluationTable): As from :func:`captum_deduce.experiments.frontier.measured`.
        judges (Sequence[str]): Names of the oracles.

    Returns:
        list[tuple[str, Sequence[str]]]: As :func:`captum_deduce.reports.table` takes it.
    """
    rows = list(entries)
    seconds = [f"{run.seconds.mean():.3f}" for run in runs.values()]
    return [
        ("method", rows),
        ("classifier", [entry.classifier for entry in entries.values()]),
        *((name, metric_column(table, name, rows, 1)) for name in ("L0", "L1")),
        (AGREEMENT, metric_column(table, AGREEMENT, rows, 3)),
        (STRICTEST_TWO, [f"{strictest_two(table, row, judges):.3f}" for row in rows]),
        ("failed %", failure_column(table, rows)),
        *((name, metric_column(table, name, rows, 1)) for name in ("evaluations", "forward")),
        ("s a pair", seconds),
    ]


def strictest_two(table: EvaluationTable, row: str, judges: Sequence[str]) -> float:
    """Mean agreement of the two oracles that agree least, failures counted as disagreement."""
    shares = sorted(table[row, judge].mean or 0.0 for judge in judges)
    return sum(shares[:2]) / 2


Promise = tuple[str, float, str, float]
"""What, the measured value, "<=" or ">=", and the bound."""


def targets(
    mean: Callable[[str, str], float], seconds: Mapping[str, float], done: Collection[str]
) -> list[Promise]:
    """What is promised, what was measured, and the bound, of the methods that were run."""
    promised: list[Promise] = []
    if {"closest", "DeDUCE"} <= set(done):
        for name, bound in (("L0", 0.80), ("L1", 0.93)):
            ratio = mean("closest", name) / mean("DeDUCE", name)
            promised.append((f"closest: {name} / default", ratio, "<=", bound))
        time = seconds["closest"] / seconds["DeDUCE"]
        promised.append(("closest: time / default", time, "<=", 0.5))
    for name, bounds in TARGETS.items():
        if name in done:
            promised += [
                (f"{name}: {figure}", mean(name, figure), sign, bound)
                for figure, (sign, bound) in bounds.items()
            ]
    return promised


TARGETS: Mapping[str, Mapping[str, tuple[str, float]]] = {
    "realistic, noise": {
        AGREEMENT: (">=", 0.97),
        STRICTEST_TWO: (">=", 0.93),
        "L1": ("<=", 38),
        "L0": ("<=", 60),
        FAILURES: ("<=", 0.005),
    },
    "realistic, smoothed": {AGREEMENT: (">=", 0.85), "L1": ("<=", 31), "L0": ("<=", 45)},
    "realistic": {AGREEMENT: (">=", 0.45), "L1": ("<=", 32), FAILURES: ("<=", 0.02)},
}
"""Bounds for figures of a method, of which those of one method are to be met together."""


def anogan_scores(
    models: Trained, store: Store, runs: dict[str, Run], cases: Cases, count: int
) -> dict[str, tuple[float, float]]:
    """Score pairs that "realistic, noise" and VLK found, each over those it found itself.

    Of all pairs that "realistic, noise" found, ``count`` are taken evenly; VLK tries these.

    Returns:
        dict[str, tuple[float, float]]: Mean score and mean L1 distance.
    """
    rows = evenly_among(runs["realistic, noise"].result.success, count)
    vlk = search(store, {VLK: published(models)[VLK]}, cases[rows])[VLK].result
    rows, vlk = rows[vlk.success], vlk[vlk.success]
    found = {VLK: vlk}
    for name, run in runs.items():
        result = run.result[rows]
        found[name] = result[result.success]
    images = {name: (each.inputs, each.counterfactuals) for name, each in found.items()}
    images = {"originals": (cases.inputs[rows], cases.inputs[rows]), **images}
    anogan = make_anogan(models.wgan, models.size.anogan, models.size.seed)
    scores = {}
    print("\nAnoGAN: mean, its standard error, of how many, and their mean L1")
    for name, (originals, each) in images.items():
        if len(each) < 2:
            continue
        values = store.scores(f"anogan-{name}", anogan.score, each)
        distance = l1(originals, each).mean().item()
        scores[name] = (values.mean().item(), distance)
        error = values.std().item() / len(values) ** 0.5
        print(f"{name:28} {scores[name][0]:6.1f} +- {error:3.1f}  {len(values)}  {distance:.1f}")
        sys.stdout.flush()
    return scores


def anogan_targets(scores: Mapping[str, tuple[float, float]]) -> list[Promise]:
    """What is promised of the scores, with the means of VLK beside them."""
    promised: list[Promise] = []
    if POLISHED in scores:
        promised.append((f"{POLISHED}: AnoGAN", scores[POLISHED][0], "<=", 40))
    if WITH_PRIOR in scores and VLK in scores:
        for place, figure in enumerate(("AnoGAN", "L1")):
            ours, theirs = scores[WITH_PRIOR][place], scores[VLK][place]
            promised.append((f"{WITH_PRIOR}: {figure}", ours, "<=", theirs))
    return promised


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=("mnist", "cifar10"), default="mnist")
    parser.add_argument("--data-root", help="the folder of the data")
    parser.add_argument("--images", type=int, default=100, help="each with all other classes (100)")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="rows of the table (all)")
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
    if arguments.methods is not None:
        if unknown := set(arguments.methods) - set(entries):
            parser.error(f"no rows {sorted(unknown)}, got rows {sorted(entries)}")
        entries = {name: entries[name] for name in arguments.methods}
    if arguments.anogan > 0 and "realistic, noise" not in entries:
        parser.error('--anogan takes its pairs from "realistic, noise": name it, too')
    runs = search(store, {name: entry.explainer for name, entry in entries.items()}, cases)
    judges = oracles(models)
    table = measured(judges, runs)
    print("\n" + as_table(columns(entries, runs, table, list(judges))) + "\n")
    for name, accuracy in models.accuracies().items():
        print(f"{name}: {accuracy:.2%} of the test images right")

    failed = {name: 1 - run.result.success.double().mean().item() for name, run in runs.items()}
    seconds = {name: run.seconds.sum().item() for name, run in runs.items()}

    def mean(name: str, metric: str) -> float:
        if metric == STRICTEST_TWO:
            return strictest_two(table, name, list(judges))
        return failed[name] if metric == FAILURES else table[name, metric].mean

    print()
    results = targets(mean, seconds, entries)
    scores: dict[str, tuple[float, float]] = {}
    if arguments.anogan > 0:
        scores = anogan_scores(models, store, runs, cases, arguments.anogan)
        results += anogan_targets(scores)
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
