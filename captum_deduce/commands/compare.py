"""``captum-deduce demo --compare``: every explainer on the same pairs, in a picture and a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from captum_deduce import datasets
from captum_deduce.commands.pairs import Pairs
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers import (
    CEM,
    JSMA,
    REVISE,
    VLK,
    CounterfactualExplainer,
    LatentShift,
    NearestExample,
    Schut,
    Wachter,
)
from captum_deduce.models import VAE, Autoencoder
from captum_deduce.prototypes import Examples, PrototypeIndex
from captum_deduce.reports import BATCH_SIZE, DPI, tables
from captum_deduce.visualization import plot_grid
from captum_deduce.zoo import (
    NEIGHBOURS,
    PIECE_SETTINGS,
    RECONSTRUCTIONS,
    Checkpoint,
    ComparisonRecipe,
    Recipe,
    describe_classifier,
    make_explainer,
    make_patch_swap,
    make_piece,
    make_prototypes,
    obtain_classifier,
    obtain_reconstruction,
    plan_classifier,
)

_PICTURE_PAIRS = 6
"""As many as the paper's figure 3 shows."""


@dataclass(frozen=True)
class Models:
    """What the explainers need, on one device.

    Args:
        checkpoint (Checkpoint): The classifier that all of them explain, with its density.
        others (list[nn.Module]): The classifiers that make an ensemble with it.
        autoencoder (Autoencoder): Of VLK.
        vae (VAE): Of REVISE, LatentShift and PIECE.
        prototypes (PrototypeIndex): The training images as the autoencoder's encoder sees them.
        examples (Examples): The training images with their labels.
        train (ImageData): The training images.
    """

    checkpoint: Checkpoint
    others: list[nn.Module]
    autoencoder: Autoencoder
    vae: VAE
    prototypes: PrototypeIndex
    examples: Examples
    train: datasets.ImageData


@dataclass(frozen=True)
class Compared:
    """What one explainer found.

    Args:
        name (str): Its name.
        settings (str): What is not its default, or else needs to be known; empty: nothing.
        result (Counterfactuals): Of all pairs.
        seconds (float): What the search for all pairs took.
    """

    name: str
    settings: str
    result: Counterfactuals
    seconds: float

    @property
    def label(self) -> str:
        """The name with the settings."""
        return f"{self.name} ({self.settings})" if self.settings else self.name

    @property
    def found(self) -> Counterfactuals:
        """The pairs with success, but for those whose original was at the goal already."""
        return self.result[self.result.success & ~self.result.already]

    @property
    def num_searched(self) -> int:
        """How many pairs were not at the goal already."""
        return int((~self.result.already).sum())

    @property
    def seconds_per_pair(self) -> float:
        """Wall time of the search divided by the number of pairs, failed ones included."""
        return self.seconds / len(self.result)


def obtain_models(
    checkpoint: Checkpoint,
    splits: datasets.Splits,
    dataset: str,
    recipe: Recipe,
    how: ComparisonRecipe,
    *,
    retrain: bool,
    show_progress: bool,
) -> Models:
    """Train what the explainers need besides a classifier, or reuse what is cached.

    Args:
        checkpoint (Checkpoint): The classifier, trained on ``splits.train``.
        splits (Splits): Its data.
        dataset (str): One of :data:`captum_deduce.datasets.DATASETS`, which names the recipes.
        recipe (Recipe): How that classifier was trained, as the others of the ensemble will be.
        how (ComparisonRecipe): How many there are, and how autoencoder and VAE are trained.
        retrain (bool): Train even what is cached.
        show_progress (bool): Draw progress bars.

    Returns:
        Models: On the classifier's device, in eval mode.
    """
    settings, model = checkpoint.settings, checkpoint.model
    device = next(model.parameters()).device
    others = []
    for number in range(1, 1 + how.other_members):
        print(f"\nFor Schut, classifier {1 + number} of an ensemble of {1 + how.other_members}:")
        # The split depends on the first classifier's seed, which must not go unnamed.
        data_name = f"{settings.dataset}-split{settings.seed}"
        seed = settings.seed + number
        member = obtain_classifier(
            plan_classifier(data_name, splits.train, "resnet18", recipe, seed),
            splits,
            recipe.batch_size,
            device,
            show_progress,
            with_density=False,
            retrain=retrain,
        )
        others.append(member.model)
    generative = {}
    for name, explainer in (("autoencoder", "VLK"), ("vae", "REVISE, LatentShift and PIECE")):
        print(f"\nFor {explainer}:")
        generative[name] = obtain_reconstruction(
            name,
            settings.dataset,
            splits,
            how.reconstructions or RECONSTRUCTIONS[name][dataset],
            settings.seed,
            device,
            show_progress,
            retrain=retrain,
        )
    autoencoder = cast(Autoencoder, generative["autoencoder"])
    prototypes = make_prototypes(model, autoencoder.encoder, splits.train)
    vae = cast(VAE, generative["vae"])
    examples = Examples(splits.train.images, splits.train.target)
    return Models(checkpoint, others, autoencoder, vae, prototypes, examples, splits.train)


def explainers(
    models: Models, how: ComparisonRecipe
) -> dict[str, tuple[str, CounterfactualExplainer]]:
    """Make every explainer, with its defaults but for how REVISE and PIECE descend, and how long.

    Args:
        models (Models): What they need.
        how (ComparisonRecipe): The numbers of steps.

    Returns:
        dict[str, tuple[str, CounterfactualExplainer]]: By name, with what to say of its settings.
    """
    model, autoencoder = models.checkpoint.model, models.autoencoder
    ensemble = [model, *models.others]
    vlk = VLK(
        model,
        autoencoder,
        autoencoder.encoder,
        models.prototypes,
        k=NEIGHBOURS,
        max_iterations=how.vlk_steps,
    )
    revise = REVISE(model, models.vae, optimizer="adam", max_iterations=how.revise_steps)
    cem = CEM(model, baseline=0.0, max_iterations=how.cem_steps)
    piece = make_piece(
        models.checkpoint,
        models.vae,
        models.train,
        max_iterations=how.piece_steps,
        **PIECE_SETTINGS,
    )
    return {
        "DeDUCE": ("", make_explainer(models.checkpoint)),
        "JSMA": ("", JSMA(model)),
        "Schut": (f"ensemble of {len(ensemble)}", Schut(ensemble)),
        "Wachter": ("", Wachter(model)),
        "VLK": (f"{vlk.c_steps} x {how.vlk_steps} steps", vlk),
        "REVISE": (f"Adam, {how.revise_steps} steps", revise),
        "CEM": (f"{cem.c_steps} x {how.cem_steps} steps", cem),
        "LatentShift": ("", LatentShift(model, models.vae)),
        "NearestExample": ("", NearestExample(model, models.examples)),
        "PIECE": (f"{how.piece_steps} steps of {piece.learning_rate:g}", piece),
        "PatchSwap": ("", make_patch_swap(models.checkpoint, models.train)),
    }


def run(
    models: Models,
    pairs: Pairs,
    test: datasets.ImageData,
    how: ComparisonRecipe,
    output: Path,
    *,
    show_progress: bool,
) -> None:
    """Explain the same pairs with every explainer; print a table, draw a picture, write the files.

    Args:
        models (Models): What the explainers need.
        pairs (Pairs): What to explain, at least one.
        test (ImageData): The test images.
        how (ComparisonRecipe): The numbers of steps.
        output (Path): The folder for ``compare.png``, ``compare.md`` and
            ``compare-EXPLAINER.safetensors``.
        show_progress (bool): Draw progress bars.
    """
    device = models.prototypes.features.device
    inputs = test.images[pairs.index].to(device)
    compared = []
    print()
    for name, (settings, explainer) in explainers(models, how).items():
        started = time.perf_counter()
        result = explainer.generate(
            inputs,
            pairs.target,
            internal_batch_size=BATCH_SIZE,
            show_progress=show_progress,
        )
        compared.append(Compared(name, settings, result, time.perf_counter() - started))
        print(f"{compared[-1].label}: {compared[-1].seconds:.1f} s")
    columns = comparison_columns(compared)
    notes = explanation(compared)
    print(f"\n{tables.table(columns)}\n\n{notes}\n")
    written = [output / "compare.png", output / "compare.md"]
    draw(compared, test.class_names, written[0])
    summary = describe_classifier(models.checkpoint.settings, len(test))
    text = [f"# {len(inputs)} pairs", summary, pairs.description, tables.markdown(columns), notes]
    written[1].write_text("\n\n".join(text) + "\n", encoding="utf-8")
    for one in compared:
        written.append(output / f"compare-{one.name}.safetensors")
        one.result.save(written[-1])
    print("Written:", *written, sep="\n  ")


def comparison_columns(compared: Sequence[Compared]) -> list[tables.Column]:
    """Say for each explainer how many it found, how close they are, and what they cost.

    Args:
        compared (Sequence[Compared]): Of the same pairs.

    Returns:
        list[tuple[str, list[str]]]: As :func:`explanation` explains them.
    """
    common = found_by_all(compared)
    shared = [one.result[common] for one in compared]
    return [
        ("explainer", [one.label for one in compared]),
        ("found", [f"{len(one.found)}/{one.num_searched}" for one in compared]),
        ("L0", [tables.mean(one.found.l0(), 1) for one in compared]),
        ("L1", [tables.mean(one.found.l1(), 2) for one in compared]),
        ("L0 common", [tables.mean(pairs.l0(), 1) for pairs in shared]),
        ("L1 common", [tables.mean(pairs.l1(), 2) for pairs in shared]),
        ("seconds", [f"{one.seconds_per_pair:.3f}" for one in compared]),
        ("evaluations", [tables.mean(one.result.evaluations, 1) for one in compared]),
        ("forward", [tables.mean(one.result.forward_evaluations, 1) for one in compared]),
    ]


def explanation(compared: Sequence[Compared]) -> str:
    """Say what the columns of :func:`comparison_columns` mean.

    Args:
        compared (Sequence[Compared]): Of the same pairs.

    Returns:
        str: A paragraph of short lines.
    """
    common = int(found_by_all(compared).sum())
    there = {one.name: len(one.result) - one.num_searched for one in compared}
    already = ", ".join(f"{name} {count}" for name, count in there.items() if count)
    return "\n".join(
        [
            "All explain the same classifier. Schut needs an ensemble: the classifier and others",
            "that were trained like it, without spectral normalisation and from other seeds.",
            "",
            "- found: pairs whose search reached its goal. For most that is a probability of the",
            "  target above 0.5; for VLK and CEM, that the target is the most likely class; for",
            "  Schut, a mean probability above 0.99 in the ensemble.",
            *([f"- there already, and not counted: {already}."] if already else []),
            "- L0, L1: entries that changed, and by how much in all; means over the pairs that the",
            "  explainer itself found. Failed pairs never count.",
            f"- common: means over the {common} pairs that every explainer found.",
            "- seconds: wall time of the search per pair, failed ones included, all in one",
            "  call; without the training of what the explainer needs.",
            "- evaluations: forward passes with an input gradient per pair; forward: those",
            "  without. One of Schut's runs every member of the ensemble; one of VLK's, REVISE's,",
            "  LatentShift's and PIECE's runs the autoencoder or the decoder too; most of",
            "  PatchSwap's forward passes are of the classifier's last layers only.",
        ]
    )


def found_by_all(compared: Sequence[Compared]) -> Tensor:
    """Tell which pairs every explainer found.

    Args:
        compared (Sequence[Compared]): Of the same N pairs.

    Returns:
        Tensor: N, bool, on the CPU.
    """
    found = [one.result.success & ~one.result.already for one in compared]
    return torch.stack([mask.cpu() for mask in found]).all(0)


def draw(compared: Sequence[Compared], class_names: tuple[str, ...], path: Path) -> None:
    """Draw some of the pairs, spread evenly over all, with each explainer's figures beside them.

    Args:
        compared (Sequence[Compared]): Of the same pairs.
        class_names (tuple[str, ...]): The classes' names.
        path (Path): The picture, a PNG file.
    """
    first = compared[0].result
    count = min(len(first), _PICTURE_PAIRS)
    rows = torch.linspace(0, len(first) - 1, count).round().to(torch.int64)
    notes = {}
    for one in compared:
        lines = [one.settings] if one.settings else []
        lines.append(f"{len(one.found)} of {one.num_searched} found")
        if len(one.found):
            l0, l1 = tables.mean(one.found.l0(), 1), tables.mean(one.found.l1(), 2)
            lines.append(f"L0 {l0}, L1 {l1}")
        lines.append(f"{one.seconds_per_pair:.3f} s")
        notes[one.name] = "\n".join(lines)
    figure = plot_grid(
        {one.name: one.result[rows] for one in compared},
        class_names=class_names,
        # What the explained classifier sees; an ensemble may see something else.
        labels=first.prediction[rows],
        changes=True,
        notes=notes,
        caption=(
            f"{count} of {len(first)} pairs, class seen → target; on the left: all pairs, mean L0 "
            "and L1 over those found, seconds per pair"
        ),
    )
    figure.savefig(path, dpi=DPI)
