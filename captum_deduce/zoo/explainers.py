"""DeDUCE around a checkpoint."""

from __future__ import annotations

from typing import Any

from captum_deduce.explainers import DeDUCE
from captum_deduce.zoo.checkpoint import Checkpoint


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
