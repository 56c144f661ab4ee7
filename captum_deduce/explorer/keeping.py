"""What a visitor may take home: pictures, the result and the lines of Python, as files."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.python_lines import MASK_FILE, RESULT_FILE
from captum_deduce.explorer.scale import Scale
from captum_deduce.visualization import save_animation

_drawing = threading.Lock()
"""matplotlib's settings, which a style changes for a while, are those of all threads."""


def keep(
    search: Search,
    folder: Path,
    class_names: Sequence[str],
    scale: Scale,
    lines: str,
    label: int | None = None,
) -> list[Path]:
    """Write all that is worth keeping of a search that has ended with a result.

    Args:
        search (Search): The search.
        folder (Path): Where to.
        class_names (Sequence[str]): One name for each class.
        scale (Scale): Of the model's inputs.
        lines (str): Of Python.
        label (int, optional): The true class. Default: None (not known)

    Returns:
        list[Path]: The picture, the animation, the
        :class:`~captum_deduce.Counterfactuals` (with the trajectory, where all of it was kept), the
        lines of Python, and the mask where there was one.

    Raises:
        ValueError: There is no result.
    """
    if search.result is None:
        raise ValueError("search must have ended with a result to be kept, got none")
    kept = search.course.images
    moved = replace(search.result, trajectory=[torch.stack(kept)] if kept else None)
    whole = len(kept) == len(search.course.confidence)
    said = {"class_names": list(class_names), **_normalisation(scale, moved)}
    paths = [folder / "counterfactual.png"]
    with _drawing:
        labels = None if label is None else [label]
        search.result.plot(labels=labels, **said).savefig(paths[0], dpi=150)
        if kept:
            paths.append(_animation(search, moved, folder, said))
    paths.append(folder / RESULT_FILE)
    (moved if whole and kept else search.result).save(paths[-1])
    paths.append(folder / "explain.py")
    paths[-1].write_text(lines + "\n", encoding="utf-8")
    if search.mask is not None:
        paths.append(folder / MASK_FILE)
        Image.fromarray(search.mask.cpu().numpy().astype(np.uint8) * 255).save(paths[-1])
    return paths


def _animation(search: Search, moved: Counterfactuals, folder: Path, said: dict[str, Any]) -> Path:
    explainer = search.explainer
    density, layer = getattr(explainer, "density", None), getattr(explainer, "layer", None)
    seen = (layer, density) if search.course.log_density else (None, None)
    path = folder / "counterfactual.gif"
    return save_animation(moved, 0, path, explainer.forward_func, *seen, **said)


def _normalisation(scale: Scale, result: Counterfactuals) -> dict[str, Any]:
    """What brings inputs to [0, 1], as the pictures take it: a number for each channel."""
    channels = result.inputs.shape[1]
    span = scale.upper - scale.lower
    shift = -scale.lower / span
    if span.numel() == 1 and float(span) == 1 and float(shift) == 0:
        return {}
    if span.numel() not in (1, channels):
        return {}
    return {
        name: value.double().flatten().expand(channels).tolist()
        for name, value in (("mean", shift), ("std", 1 / span))
    }
