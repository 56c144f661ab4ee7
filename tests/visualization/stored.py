"""Stored pictures: what the main plots must look like, within what fonts and versions may change.

``python -m tests.visualization.stored`` draws them anew; look at every one before committing it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from captum_deduce import ClassGaussianMixture, Counterfactuals
from captum_deduce.visualization import (
    plot_counterfactuals,
    plot_density,
    plot_grid,
    plot_trajectory,
)
from tests.visualization.samples import SEVEN, changed, grey_result, make_result, raster

FOLDER = Path(__file__).parent.parent / "baselines"
NAMES = [str(number) for number in range(7)] + ["seven"]
BLOCK = 32
TOLERANCE = 0.06


def counterfactuals() -> Figure:
    return plot_counterfactuals(grey_result(), class_names=NAMES, labels=[7, 1, 7, 1])


def grid() -> Figure:
    return plot_grid(_two_explainers())


def grid_with_changes() -> Figure:
    return plot_grid(
        _two_explainers(),
        changes=True,
        notes={"DeDUCE": "3 of 4 found\nL0 1.7", "mirror": "3 of 4 found\nL0 12.0"},
        caption="all pairs",
    )


def _two_explainers() -> dict[str, Counterfactuals]:
    first = grey_result()
    other = make_result(
        first.inputs,
        first.inputs.flip(-1),
        target=first.target.tolist(),
        prediction=first.prediction.tolist(),
        success=[True, False, True, True],
    )
    return {"DeDUCE": first, "mirror": other}


def trajectory() -> Figure:
    steps = [SEVEN]
    for row in range(1, 6):
        steps.append(changed(steps[-1], (row, 1, 0.2 * row), (1, row, 0.0)))
    return plot_trajectory(
        make_result(torch.stack([SEVEN]), torch.stack([steps[4]]), trajectory=[torch.stack(steps)]),
        forward_func=_ones_and_sevens,
        num_images=4,
    )


def density() -> Figure:
    features, labels = clouds()
    fitted = ClassGaussianMixture().fit(features, labels)
    way = torch.tensor([[-0.6, -1.2], [0.8, -0.9], [2.0, 0.5], [3.2, 0.3]])
    return plot_density(
        features,
        labels,
        fitted,
        path=way,
        path_target=1,
        classifier=fitted.log_probs,
        class_names=["cat", "dog", "frog"],
    )


def clouds() -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes of two features, the same numbers on every machine."""
    golden = np.arange(1, 301) * np.array([[0.754877666], [0.569840291]]) % 1
    radius, angle = np.sqrt(-2 * np.log(1 - golden[0])), 2 * np.pi * golden[1]
    normal = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    labels = np.arange(300) % 3
    shapes = np.array([[[1, 0.5], [0, 0.8]], [[1, 0], [0, 1]], [[1.5, 0], [-0.4, 0.5]]])
    centres = np.array([[0, 0], [5, 0], [2, 4.5]])
    features = np.einsum("nd,nde->ne", normal, shapes[labels]) + centres[labels]
    return torch.from_numpy(features), torch.from_numpy(labels)


def distance(figure: Figure, name: str) -> float:
    """How far a figure is from the stored one: the largest difference of a block's mean colour.

    Blocks are larger than letters, whose edges versions of matplotlib and fonts draw differently:
    3.8 and 3.11 are .03 apart, while a missing frame around one failed image makes .09.
    """
    stored = np.asarray(Image.open(FOLDER / f"{name}.png").convert("RGB")) / 255
    drawn = raster(figure)
    if drawn.shape != stored.shape:
        raise ValueError(f"{name}: {drawn.shape} drawn, {stored.shape} stored")
    return float(np.abs(_blocks(drawn) - _blocks(stored)).max())


def _blocks(image: np.ndarray) -> np.ndarray:
    height, width = (side // BLOCK for side in image.shape[:2])
    cut = image[: BLOCK * height, : BLOCK * width]
    return cut.reshape(height, BLOCK, width, BLOCK, 3).mean((1, 3))


def _ones_and_sevens(images: torch.Tensor) -> torch.Tensor:
    left, top = images[:, 0, 1:6, 1].sum(1), images[:, 0, 1, 1:6].sum(1)
    return torch.stack([top, left + 2], 1)


FIGURES: dict[str, Callable[[], Figure]] = {
    "plot_counterfactuals": counterfactuals,
    "plot_grid": grid,
    "plot_grid_changes": grid_with_changes,
    "plot_trajectory": trajectory,
    "plot_density": density,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        drawn = Image.fromarray((raster(draw()) * 255).round().astype(np.uint8))
        few = drawn.quantize(256, dither=Image.Dither.NONE)
        few.save(FOLDER / f"{name}.png", optimize=True)
