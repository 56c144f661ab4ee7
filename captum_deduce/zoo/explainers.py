"""Explainers around a checkpoint, with what they need of the training images."""

from __future__ import annotations

from typing import Any

import torch

from captum_deduce.classifiers import FrozenModel
from captum_deduce.datasets import ImageData
from captum_deduce.density import ClassHurdles
from captum_deduce.explainers import PIECE, DeDUCE, PatchSwap
from captum_deduce.models import VAE
from captum_deduce.zoo.checkpoint import Checkpoint

DISTRACTORS = 20
"""Training images of each class that PatchSwap may take parts of."""

PIECE_SETTINGS = {"alpha": 0.2, "learning_rate": 0.05}
"""With which PIECE finds more than as published, in as many steps."""

_FEWEST_CELLS = 4


def make_explainer(checkpoint: Checkpoint, preset: str | None = None, **settings: Any) -> DeDUCE:
    """Bring a checkpoint's classifier, layer and density together.

    Args:
        checkpoint (Checkpoint): With a density.
        preset (str, optional): Name of one of :class:`captum_deduce.DeDUCE`'s presets.
            Default: None (its defaults)
        **settings (Any): Keyword arguments of :class:`captum_deduce.DeDUCE`.

    Returns:
        DeDUCE: The explainer.

    Raises:
        ValueError: A checkpoint without a density, or settings out of their ranges.
    """
    if checkpoint.density is None:
        raise ValueError(
            "checkpoint holds no density; write one that does with captum-deduce train, or pass a "
            "density to captum_deduce.zoo.Checkpoint"
        )
    make = DeDUCE if preset is None else getattr(DeDUCE, preset)
    explainer: DeDUCE = make(
        checkpoint.model, checkpoint.settings.layer, checkpoint.density, **settings
    )
    return explainer


def make_piece(checkpoint: Checkpoint, vae: VAE, train: ImageData, **settings: Any) -> PIECE:
    """Fit hurdle models to the training images, by the class that the classifier sees in them.

    If it sees a class in none of them, as after the shortest training, all go by their labels
    instead, and a line says so.

    Args:
        checkpoint (Checkpoint): The classifier.
        vae (VAE): Of such images, on the classifier's device.
        train (ImageData): The training images.
        **settings (Any): Keyword arguments of :class:`captum_deduce.PIECE`.

    Returns:
        PIECE: The explainer.
    """
    model, layer = checkpoint.model, checkpoint.settings.layer
    hurdles = ClassHurdles.fit_loader(model, layer, train.batches())
    if not hurdles.fitted_classes.all():
        print("The classifier sees some class in no training image: hurdle models are of labels")
        hurdles = ClassHurdles(hurdles.num_classes).to(hurdles.device)
        with torch.no_grad(), FrozenModel(model, layer) as frozen:
            for images, target in train.batches():
                hurdles.partial_fit(frozen(images.to(hurdles.device))[1], target)
    return PIECE(model, layer, hurdles, vae, **settings)


def make_patch_swap(checkpoint: Checkpoint, train: ImageData, **settings: Any) -> PatchSwap:
    """Let a checkpoint's classifier exchange parts with the first training images of each class.

    The layer is the last stage of the ResNet that has at least 4 x 4 cells.

    Args:
        checkpoint (Checkpoint): The classifier.
        train (ImageData): The training images.
        **settings (Any): Keyword arguments of :class:`captum_deduce.PatchSwap`.

    Returns:
        PatchSwap: The explainer.
    """
    device = next(checkpoint.model.parameters()).device
    classes = range(len(train.class_names))
    rows = torch.cat([(train.target == c).nonzero()[:DISTRACTORS, 0] for c in classes])
    side = min(train.images.shape[2:])
    # Each stage but the first halves the sides, and rounds up.
    fitting = [stage for stage in range(4) if -(-side // 2**stage) >= _FEWEST_CELLS]
    return PatchSwap(
        checkpoint.model,
        f"stages.{fitting[-1]}",
        train.images[rows].to(device),
        train.target[rows],
        **settings,
    )
