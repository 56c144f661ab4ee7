"""Past the paper: how near and how real the counterfactuals of every method and preset are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from captum_deduce import MultiLayerClassifier, SmoothedClassifier
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.experiments.methods import (
    AGREEMENT,
    PROBABILITY,
    of_features,
    oracle_metrics,
    published,
    revise,
    search,
)
from captum_deduce.experiments.plan import every_target
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.explainers import CounterfactualExplainer, DeDUCE
from captum_deduce.metrics import EvaluationTable, evaluate, l0, l1
from captum_deduce.reports import Column, Report, failure_column, metric_column
from captum_deduce.visualization import new_figure, own_style
from captum_deduce.zoo import make_explainer

SMALL_BUDGET: dict[str, Any] = {"confidence": 0.98}
"""What turns :meth:`captum_deduce.DeDUCE.realistic` into its closer variant."""

SMOOTHED_BUDGET: dict[str, Any] = {"confidence": 0.9, "density_quantile": 0.01, "rounds": 8}
"""The same where the classifier is averaged over noise: means are sure of less."""

LAYERS_BUDGET: dict[str, Any] = {"density_quantile": 0.01}
"""The same where the density is that of several layers: few images reach its upper part."""

LIGHTER = 0.1
"""A weight of the distance with which REVISE fails less often than with the paper's 1."""

_MARKERS = {"plain": "s", "SN": "o", "SN, noise": "^"}
_COLORS = {"plain": "#CC79A7", "SN": "#0072B2", "SN, noise": "#D55E00"}


@dataclass(frozen=True)
class Entry:
    """A point of the frontier.

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


def frontier(models: Trained, store: Store) -> Report:
    """Compare all methods and presets by distance and by the oracles' agreement.

    Args:
        models (Trained): The classifiers, the oracles and what the baselines need.
        store (Store): Where results are kept.

    Returns:
        Report: Means of each over the pairs that it found, with the picture.
    """
    cases = every_target(models.splits.test, models.size.sets, models.size.images)
    entries = deduce_entries(models)
    entries |= {
        name: Entry("plain", explainer)
        for name, explainer in published(models).items()
        if name != "DeDUCE"
    }
    entries |= {name: Entry("plain", each) for name, each in of_features(models).items()}
    lighter = revise(models, models.size.revise, LIGHTER)
    entries[f"REVISE, lambda {LIGHTER:g}"] = Entry("plain", lighter)
    runs = search(store, {name: entry.explainer for name, entry in entries.items()}, cases)
    table = measured(models, runs)
    notes = [
        "Means over the pairs that each found. "
        f"{AGREEMENT}: the share of two small classifiers, trained independently, that see the "
        f"target class; {PROBABILITY}: their mean probability of it. No search knows them.",
        f"noise: on a classifier trained with noise up to {models.size.noise:g}; smoothed: on the "
        f"same, averaged over {models.size.smoothing_copies} copies with noise of "
        f"{models.size.smoothing:g}: an evaluation is that many passes of its own; layers: with "
        f"the density of an early layer's {models.size.grid} x {models.size.grid} means and of "
        "the last features. REVISE: "
        f"{models.size.revise.label}. VLK: 2 x {models.size.vlk_steps} steps.",
    ]
    data = {
        "evaluation": table.to_dict(),
        "seconds": {name: run.seconds.sum().item() for name, run in runs.items()},
    }
    return Report(
        "The frontier: near or real",
        columns(entries, runs, table),
        notes,
        data,
        picture(entries, table),
        {name: run.result for name, run in runs.items()},
    )


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


def _label(name: str, table: EvaluationTable) -> str:
    found = 1 - (table[name, "failure rate"].mean or 0.0)
    said = name.removesuffix(", noise")
    return said if found >= _FEW else f"{said} ({found:.0%} found)"


@own_style()
def picture(entries: Mapping[str, Entry], table: EvaluationTable) -> Figure:
    """Draw the oracles' agreement against L1: upper left is best.

    Args:
        entries (Mapping[str, Entry]): By name.
        table (EvaluationTable): As from :func:`measured`; those that found nothing have no point.

    Returns:
        Figure: One point for each.
    """
    figure = new_figure(7.2, 5.2)
    axes = figure.add_subplot()
    places = {}
    for name in entries:
        distance, agreement = table[name, "L1"].mean, table[name, AGREEMENT].mean
        if distance is not None and agreement is not None:
            places[name] = (distance, agreement)
    for name, place in places.items():
        kind = entries[name].classifier
        axes.plot(*place, _MARKERS[kind], color=_COLORS[kind], markersize=8)
    for place in set(places.values()):
        names = [name for name in places if places[name] == place]
        offset, side = _LABELS.get(names[0], ((7, 5), "left"))
        axes.annotate(
            " = ".join(_label(name, table) for name in names),
            place,
            xytext=offset,
            textcoords="offset points",
            ha=side,
            fontsize=9,
        )
    axes.set_xlabel("L1 distance to the original (smaller is nearer)")
    axes.set_ylabel("oracles that see the target class")
    axes.set_xlim(0, 1.15 * max((distance for distance, _ in places.values()), default=1.0))
    axes.set_ylim(-0.05, 1.08)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    shown = {entries[name].classifier for name in places}
    handles = [
        Line2D([], [], linestyle="", marker=_MARKERS[kind], color=_COLORS[kind], label=said)
        for kind, said in _SAID.items()
        if kind in shown
    ]
    figure.legend(
        handles=handles,
        title="What is explained: a ResNet-18 ...",
        loc="outside lower center",
        fontsize=9,
        title_fontsize=9,
        frameon=False,
    )
    return figure


_LABELS = {
    "closest": ((0, 15), "center"),
    "realistic, layers": ((-7, 5), "right"),
    "realistic, noise": ((-9, -4), "right"),
    "realistic, layers, noise": ((0, 9), "center"),
    "JSMA": ((-7, 5), "right"),
    "REVISE": ((-7, 5), "right"),
    f"REVISE, lambda {LIGHTER:g}": ((-7, -4), "right"),
}
"""Where the names of neighbours stand, so that they do not meet; all others: at the upper right."""

_FEW = 0.5
"""A point says how many of the pairs it stands for, where they are fewer than this share."""

_SAID = {
    "plain": "without spectral normalisation",
    "SN": "with spectral normalisation",
    "SN, noise": "with spectral normalisation, trained with noise",
}
