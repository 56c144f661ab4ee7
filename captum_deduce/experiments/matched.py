"""Methods on the same classifiers, asked for the same confidences: what the frontier compares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from captum_deduce.experiments.methods import revise, siblings, vlk
from captum_deduce.experiments.trained import Trained
from captum_deduce.explainers import JSMA, CounterfactualExplainer, DeDUCE, Wachter
from captum_deduce.reports import ABSENT
from captum_deduce.search import Polish
from captum_deduce.zoo import Checkpoint, make_explainer, make_prototypes

PRESETS = ("DeDUCE", "closest", "sparsest", "realistic")
"""DeDUCE with its defaults, and its presets, on the classifier as it is."""

POLISHED = "realistic, polished"
"""The preset with :class:`captum_deduce.Polish` after it, at its defaults."""

RIVALS = ("JSMA", "Wachter")
"""The other methods that ask for a confidence and need no generative model."""

CLASSIFIERS = ("plain", "SN", "SN, noise")
"""A ResNet-18 without spectral normalisation; with it; with it, and trained with noise."""

LIGHTER = 0.1
"""A weight of the distance with which REVISE fails less often than with the paper's 1."""

LAYERS_BUDGET: dict[str, Any] = {"density_quantile": 0.01}
"""Of the realistic preset with a density of several layers: few images reach its upper part."""

SMOOTHED_BUDGET: dict[str, Any] = {"density_quantile": 0.01, "rounds": 8}
"""Of the realistic preset where the classifier is averaged over noise."""

GENERATIVE = {"VLK": "autoencoder", "REVISE": "VAE", "LatentShift": "VAE", "PIECE": "VAE"}
"""The generative model that a method needs; all others need none."""


@dataclass(frozen=True)
class Entry:
    """A point of the frontier.

    Args:
        method (str): The method, or preset; entries of one method and classifier make a curve.
        classifier (str): Which is explained, one of :data:`CLASSIFIERS`.
        explainer (CounterfactualExplainer): With which settings.
        setting (str, optional): The confidence that is asked for, or what stands for it.
            Default: "-" (the method has no such setting)
    """

    method: str
    classifier: str
    explainer: CounterfactualExplainer
    setting: str = ABSENT

    @property
    def name(self) -> str:
        """What tells it from all others."""
        setting = "" if self.setting == ABSENT else f", {self.setting}"
        return f"{self.method}, {self.classifier}{setting}"

    @property
    def generative(self) -> str:
        """The generative model that it needs; "-": none."""
        return GENERATIVE.get(self.method, ABSENT)


def matched_entries(models: Trained) -> dict[str, Entry]:
    """Make the methods on the classifiers.

    DeDUCE, its presets, JSMA and Wachter explain all three, each with every confidence of the size.
    VLK and REVISE, which cost many times as much, explain the two with spectral normalisation with
    a few of them; methods without a confidence are points on the one that was trained as usual.

    Args:
        models (Trained): The classifiers and what methods need besides.

    Returns:
        dict[str, Entry]: By :attr:`Entry.name`; those of a curve follow one another, by confidence.
    """
    described = {
        "plain": models.plain_described,
        "SN": models.normalised,
        "SN, noise": models.noise_trained,
    }
    entries = [
        entry
        for name, checkpoint in described.items()
        for entry in _cheap(models, name, checkpoint)
    ]
    for name in ("SN", "SN, noise"):
        entries += _costly(models, name, described[name])
    entries += [
        Entry(method, "SN", explainer)
        for method, explainer in siblings(models, described["SN"]).items()
    ]
    return {entry.name: entry for entry in entries}


def margin_of_confidence(confidence: float) -> float:
    """Find the lead of one class that goes with its probability where only two are in question.

    Args:
        confidence (float): The target's probability p, at least 0.5.

    Returns:
        float: p - (1 - p), VLK's kappa: how far the original's class must fall behind.
    """
    return 2 * confidence - 1


def _cheap(models: Trained, name: str, checkpoint: Checkpoint) -> Iterator[Entry]:
    """DeDUCE in all its forms, JSMA and Wachter, each with every confidence."""
    confidences = models.size.confidences

    def curve(method: str, make: Any) -> Iterator[Entry]:
        for confidence in confidences:
            yield Entry(method, name, make(confidence=confidence), f"{confidence:g}")

    for method in PRESETS:
        preset = None if method == "DeDUCE" else method
        yield from curve(
            method, lambda preset=preset, **asked: make_explainer(checkpoint, preset, **asked)
        )
    yield from curve(
        POLISHED, lambda **asked: make_explainer(checkpoint, "realistic", polish=Polish(), **asked)
    )
    several = {
        "plain": lambda: models.plain_multi_layer,
        "SN": lambda: models.multi_layer,
        "SN, noise": lambda: models.noise_multi_layer,
    }
    layered, density = several[name]()
    yield from curve(
        "realistic, layers",
        lambda **asked: DeDUCE.realistic(
            layered, layered.features, density, **LAYERS_BUDGET, **asked
        ),
    )
    if name == "SN, noise":
        smoothed, described = models.smoothed
        yield from curve(
            "realistic, smoothed",
            lambda **asked: DeDUCE.realistic(
                smoothed, smoothed.features, described, **SMOOTHED_BUDGET, **asked
            ),
        )
    # Wachter's loss pulls the target's probability towards 1, whatever the confidence: the weight
    # of the loss rises until the confidence is reached, so that it alone decides what is found.
    for method, kind in (("JSMA", JSMA), ("Wachter", Wachter)):
        yield from curve(method, lambda kind=kind, **asked: kind(checkpoint.model, **asked))


def _costly(models: Trained, name: str, checkpoint: Checkpoint) -> Iterator[Entry]:
    """VLK and REVISE with a few confidences."""
    encoder = models.autoencoder.encoder
    prototypes = make_prototypes(checkpoint.model, encoder, models.splits.train)
    for confidence in models.size.costly_confidences:
        kappa = margin_of_confidence(confidence)
        explainer = vlk(models, checkpoint.model, prototypes, kappa=kappa)
        yield Entry("VLK", name, explainer, f"kappa {kappa:g}")
    for confidence in models.size.costly_confidences:
        reviser = revise(
            models, models.size.revise, LIGHTER, checkpoint=checkpoint, confidence=confidence
        )
        yield Entry("REVISE", name, reviser, f"{confidence:g}")
