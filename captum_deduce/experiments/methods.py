"""The paper's algorithms with its settings, and what their counterfactuals are measured with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.experiments.paper import METHODS
from captum_deduce.experiments.plan import Cases, Descent, Scoring
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.experiments.trained import Trained
from captum_deduce.explainers import (
    CEM,
    JSMA,
    REVISE,
    VLK,
    CounterfactualExplainer,
    DeDUCE,
    LatentShift,
    NearestExample,
)
from captum_deduce.metrics import AnoGAN, EvaluationTable, Oracle, evaluate
from captum_deduce.models import WGAN
from captum_deduce.prototypes import Examples, PrototypeIndex
from captum_deduce.zoo import (
    NEIGHBOURS,
    PIECE_SETTINGS,
    Checkpoint,
    make_explainer,
    make_patch_swap,
    make_piece,
)

AGREEMENT = "oracle agreement"
"""Share of the oracles, over pairs and oracles, for which the target is the most likely class."""

PIECE_STEPS = 300
"""Of PIECE, unless REVISE makes fewer."""

PROBABILITY = "oracle p"
"""Mean over pairs and oracles of the target's probability."""


def deduce(models: Trained, **settings: Any) -> DeDUCE:
    """Make DeDUCE as published, or with another objective.

    Args:
        models (Trained): Of which the spectrally normalised classifier is explained.
        **settings (Any): Keyword arguments of :class:`captum_deduce.DeDUCE`.

    Returns:
        DeDUCE: On the models' device.
    """
    return make_explainer(models.normalised, **settings)


def revise(
    models: Trained,
    descent: Descent,
    distance_weight: float = 1.0,
    *,
    checkpoint: Checkpoint | None = None,
    **settings: Any,
) -> REVISE:
    """Make REVISE.

    Args:
        models (Trained): With the VAE.
        descent (Descent): How it descends.
        distance_weight (float, optional): Its lambda. Default: 1.0
        checkpoint (Checkpoint, optional): The classifier to explain. Default: None (the plain one)
        **settings (Any): More keyword arguments of :class:`captum_deduce.REVISE`.

    Returns:
        REVISE: On the models' device.
    """
    return REVISE(
        (models.plain if checkpoint is None else checkpoint).model,
        models.vae,
        distance_weight=distance_weight,
        optimizer=descent.optimizer,
        learning_rate=descent.learning_rate,
        max_iterations=descent.max_iterations,
        **settings,
    )


def vlk(models: Trained, model: nn.Module, prototypes: PrototypeIndex, **settings: Any) -> VLK:
    """Make VLK.

    Args:
        models (Trained): With the autoencoder.
        model (nn.Module): The classifier to explain.
        prototypes (PrototypeIndex): By that classifier's classes.
        **settings (Any): More keyword arguments of :class:`captum_deduce.VLK`.

    Returns:
        VLK: On the models' device.
    """
    return VLK(
        model,
        models.autoencoder,
        models.autoencoder.encoder,
        prototypes,
        k=NEIGHBOURS,
        max_iterations=models.size.vlk_steps,
        **settings,
    )


def published(models: Trained) -> dict[str, CounterfactualExplainer]:
    """Make the four algorithms of table 1.

    Args:
        models (Trained): What they need: DeDUCE explains the spectrally normalised classifier, the
            baselines the plain one.

    Returns:
        dict[str, CounterfactualExplainer]: By the names in the paper.
    """
    model = models.plain.model
    made = (
        deduce(models),
        JSMA(model),
        vlk(models, model, models.prototypes),
        revise(models, models.size.revise),
    )
    return dict(zip(METHODS, made, strict=True))


def siblings(models: Trained, checkpoint: Checkpoint) -> dict[str, CounterfactualExplainer]:
    """Make the methods that are in no table of the paper and have no confidence to ask for.

    Args:
        models (Trained): What they need.
        checkpoint (Checkpoint): The classifier to explain.

    Returns:
        dict[str, CounterfactualExplainer]: By name.
    """
    train = models.splits.train
    steps = min(PIECE_STEPS, models.size.revise.max_iterations)
    piece = make_piece(checkpoint, models.vae, train, max_iterations=steps, **PIECE_SETTINGS)
    examples = Examples(train.images, train.target)
    return {
        "CEM": CEM(checkpoint.model, baseline=0.0, max_iterations=models.size.cem_steps),
        "LatentShift": LatentShift(checkpoint.model, models.vae),
        "PIECE": piece,
        "PatchSwap": make_patch_swap(checkpoint, train),
        "NearestExample": NearestExample(checkpoint.model, examples),
    }


def search(
    store: Store,
    explainers: Mapping[str, CounterfactualExplainer],
    cases: Cases,
    *,
    alone: bool = False,
) -> dict[str, Run]:
    """Search for the counterfactuals of the same pairs with each explainer, and say how it went.

    Args:
        store (Store): Where they are kept.
        explainers (Mapping[str, CounterfactualExplainer]): By name.
        cases (Cases): The pairs.
        alone (bool, optional): Search for one pair at a time. Default: False

    Returns:
        dict[str, Run]: By name.
    """
    runs = {}
    for name, explainer in explainers.items():
        runs[name] = store.search(name, explainer, cases.inputs, cases.target, alone=alone)
        found, total = int(runs[name].result.success.sum()), len(cases)
        print(f"{name}: {found} of {total} found in {runs[name].seconds.sum():.1f} s", flush=True)
    return runs


def oracle_metrics(models: Trained) -> dict[str, Callable[[Counterfactuals], Tensor]]:
    """Measure whether classifiers that had no part in the search see the target.

    Args:
        models (Trained): With the oracles.

    Returns:
        dict[str, Callable]: :data:`AGREEMENT` and :data:`PROBABILITY`.
    """
    return {
        AGREEMENT: Oracle(models.oracles),
        PROBABILITY: Oracle(models.oracles, "probability"),
    }


def make_anogan(wgan: WGAN, scoring: Scoring, seed: int) -> AnoGAN:
    """Make AnoGAN.

    Args:
        wgan (WGAN): Its generator and feature map.
        scoring (Scoring): How it descends.
        seed (int): Of its starts.

    Returns:
        AnoGAN: On the WGAN's device.
    """
    return AnoGAN(
        wgan.generate,
        wgan.features,
        latent_size=wgan.latent_size,
        optimizer=scoring.optimizer,
        steps=scoring.steps,
        candidates=scoring.candidates,
        seed=seed,
    )


def measure(
    results: Mapping[str, Counterfactuals],
    metrics: Mapping[str, Callable[[Counterfactuals], Tensor]],
    sets: Tensor | None,
    *,
    by_all: bool = True,
) -> EvaluationTable:
    """Take means by the paper's rule, or over own pairs where there is none in common.

    Args:
        results (Mapping[str, Counterfactuals]): By name, of the same pairs.
        metrics (Mapping[str, Callable]): By name.
        sets (Tensor or None): Number of each pair's set.
        by_all (bool, optional): False: each has means over its own pairs. Default: True

    Returns:
        EvaluationTable: See :func:`captum_deduce.metrics.evaluate`.
    """
    shared = by_all and bool(found_by_all(list(results.values())).any())
    return evaluate(results, metrics, pairs="common" if shared else "own", sets=sets)


def evenly_among(mask: Tensor, count: int | None) -> Tensor:
    """Choose some of the pairs of a mask, spread evenly.

    Args:
        mask (Tensor): N, bool.
        count (int or None): How many at most; None: all.

    Returns:
        Tensor: Their places, ascending.
    """
    places = mask.nonzero().flatten()
    if count is None or count >= len(places):
        return places
    return places[torch.linspace(0, len(places) - 1, count).round().long()]


def found_by_all(results: Sequence[Counterfactuals]) -> Tensor:
    """Tell which pairs all found that found any; those that were there already count as none.

    Args:
        results (Sequence[Counterfactuals]): Of the same N pairs.

    Returns:
        Tensor: N, bool.
    """
    masks = [result.success & ~result.already for result in results]
    able = [mask for mask in masks if mask.any()]
    return torch.stack(able).all(0) if able else masks[0]
