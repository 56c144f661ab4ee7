"""One pair's way through its trajectory: what its pictures have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import nn

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.class_names import (
    ClassNames,
    changes_in_words,
    classes_seen,
    read_class_names,
)
from captum_deduce.visualization.pixels import Bands, PerChannel, PixelScale, check_images
from captum_deduce.visualization.traces import Trace, evenly_spread, trace_at, trajectory_of

_TARGET_COLOR = "#0072B2"
_ORIGINAL_COLOR = "#E69F00"
_CURVE_POINTS = 500
_GAP = 0.12
"""Inches between the panels of curves."""
LABELS = 1.1
"""Inches left of them, for their labels."""
_NAME = 1.1
"""Inches that a class's name may take in headings and legends."""
IMAGES_WIDTH = 5.5
"""Inches that a sheet's images take at least, so that the longest heading fits above them."""
_WIDE, _LINEAR = 1e4, 1e2
"""Log-densities over a wider range, in nats, are drawn on a logarithmic axis, linear below the
second: far from the training data they are of the order of -1e9, and their rise near it would not
be seen."""


@dataclass(frozen=True)
class Journey:
    """One pair's trajectory, ready to be drawn at some steps.

    Args:
        result (Counterfactuals): Made with ``return_trajectory=True``.
        pair (int): Which of its pairs.
        steps (NDArray): The S steps to draw, ascending.
        colors (NDArray): The images at these steps, S x height x width x 3.
        changes (NDArray): Their signed changes from the original, S x height x width.
        changed (list[str]): How much differs from the original, in words, S.
        names (list[str]): A name per class.
        returned (int or None): The step whose image was returned, if it is one of the trajectory.
        final (tuple[NDArray, NDArray]): Colours and changes of the image that was returned.
    """

    result: Counterfactuals
    pair: int
    steps: NDArray[np.int64]
    colors: NDArray[np.float64]
    changes: NDArray[np.float64]
    changed: list[str]
    names: list[str]
    returned: int | None
    final: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def read(
        cls,
        result: Counterfactuals,
        pair: int,
        most: int,
        class_names: ClassNames | None,
        mean: PerChannel | None,
        std: PerChannel | None,
        bands: Bands | None,
    ) -> Journey:
        """Check what the user gave and choose the steps.

        Args:
            result (Counterfactuals): Made with ``return_trajectory=True``.
            pair (int): Which of its pairs.
            most (int): Most steps to draw, evenly spread.
            class_names (Sequence[str], Mapping or None): A name per class.
            mean (float, sequence, Tensor or None): Of the inputs' normalisation.
            std (float, sequence, Tensor or None): Likewise.
            bands (int, Sequence[int] or None): The channels to draw.

        Returns:
            Journey: Of that pair.
        """
        images = trajectory_of(result, pair)
        check_images(images[:1], "result.trajectory", bands)
        names = read_class_names(class_names, classes_seen(result.prediction, result.target))
        scale = PixelScale.read(mean, std, images.shape[1:], bands)
        steps = evenly_spread(len(images), most)
        chosen = images[torch.from_numpy(steps)]
        original = result.inputs[pair : pair + 1].cpu()
        returned = result.counterfactuals[pair : pair + 1].cpu()
        same = (images == returned).flatten(1).all(1).nonzero()
        return cls(
            result=result,
            pair=pair,
            steps=steps,
            colors=scale.colors(chosen, "result.trajectory"),
            changes=scale.changes(original, chosen),
            changed=changes_in_words(chosen != original, brief=True),
            names=names,
            returned=int(same[0]) if len(same) else None,
            final=(
                scale.colors(returned, "result.counterfactuals")[0],
                scale.changes(original, returned)[0],
            ),
        )

    def trace(
        self,
        forward_func: Callable[..., Any] | None,
        layer: nn.Module | str | None,
        density: ClassGaussianMixture | None,
    ) -> Trace | None:
        """Evaluate the model at enough steps for a curve, those that are drawn among them.

        Args:
            forward_func (Callable, nn.Module or None): The classifier, if there are to be curves.
            layer (nn.Module, str or None): The layer whose output is the density's features.
            density (ClassGaussianMixture or None): Fitted to them.

        Returns:
            Trace or None: What the model says; None without a model.

        Raises:
            ValueError: A layer or a density without a model.
        """
        if forward_func is None:
            if layer is not None or density is not None:
                raise ValueError("layer and density need the model, but forward_func is None")
            return None
        images = trajectory_of(self.result, self.pair)
        steps = np.union1d(evenly_spread(len(images), _CURVE_POINTS), self.steps)
        if self.returned is not None:
            steps = np.union1d(steps, [self.returned])
        return trace_at(steps, self.result, self.pair, forward_func, layer, density)

    @property
    def target(self) -> int:
        """The class asked for."""
        return int(self.result.target[self.pair])

    @property
    def original(self) -> int:
        """The class that the model sees in the original."""
        return int(self.result.prediction[self.pair])

    @property
    def target_name(self) -> str:
        """Its name, shortened."""
        return sheets.fitted(self.names[self.target], _NAME)

    @property
    def original_name(self) -> str:
        """Its name, shortened."""
        return sheets.fitted(self.names[self.original], _NAME)

    @property
    def title(self) -> str:
        """From which class to which."""
        return f"{self.original_name} → {self.target_name}"

    @property
    def outcome(self) -> str:
        """How the search ended."""
        steps = int(self.result.iterations[self.pair])
        confidence = float(self.result.confidence[self.pair])
        after = f"after {steps:,} {'step' if steps == 1 else 'steps'}"
        if self.result.success[self.pair]:
            return f"found {after} ({confidence:.1%})"
        return f"failed {after} (best attempt {confidence:.1%})"


def stacked(
    sheet: sheets.Sheet, panels: int, left: float, bottom: float, width: float, height: float
) -> list[Axes]:
    """Add panels one above the other.

    Args:
        sheet (Sheet): Where.
        panels (int): How many.
        left (float): Inches from the figure's left edge.
        bottom (float): Inches from its lower edge.
        width (float): Inches.
        height (float): Inches of all of them together.

    Returns:
        list[matplotlib.axes.Axes]: From top to bottom.
    """
    each = (height + _GAP) / panels
    return [
        sheets.add_axes(sheet.figure, left, bottom + each * panel, width, each - _GAP)
        for panel in reversed(range(panels))
    ]


def draw_curves(axes: list[Axes], trace: Trace, journey: Journey) -> None:
    """Draw what the model says along a trajectory.

    Args:
        axes (list[matplotlib.axes.Axes]): As many as the trace has curves, from top to bottom.
        trace (Trace): What the model says.
        journey (Journey): The trajectory, for its names.
    """
    first, last = axes[0], axes[-1]
    first.plot(
        trace.steps,
        trace.confidence,
        color=_TARGET_COLOR,
        linewidth=2,
        label=f"p({journey.target_name})",
    )
    if journey.original != journey.target:
        first.plot(
            trace.steps,
            trace.original_confidence,
            color=_ORIGINAL_COLOR,
            linewidth=1.5,
            linestyle="--",
            label=f"p({journey.original_name})",
        )
    first.set_ylim(-0.04, 1.04)
    first.set_ylabel("probability", fontsize=sheets.FONT_SIZE)
    if trace.log_density is not None:
        last.plot(trace.steps, trace.log_density, color=_TARGET_COLOR, linewidth=2)
        last.set_ylabel("log-density\n(nats)", fontsize=sheets.FONT_SIZE)
        if np.ptp(trace.log_density) > _WIDE:
            last.set_yscale("symlog", linthresh=_LINEAR)
        else:
            last.ticklabel_format(axis="y", style="plain", useOffset=False)
    for panel in axes:
        if journey.returned is not None:
            panel.axvline(
                journey.returned, color="0.4", linestyle=":", linewidth=1.5, label="returned"
            )
        panel.margins(x=0.02)
        panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        panel.tick_params(labelsize=sheets.FONT_SIZE, labelbottom=panel is last)
        inches = panel.get_window_extent().width / sheets.DPI
        panel.yaxis.set_label_coords((0.4 - LABELS) / inches, 0.5)
    last.set_xlabel("step", fontsize=sheets.FONT_SIZE)
    legend = first.legend(
        loc="lower left",
        bbox_to_anchor=(0, 0.97),
        ncols=3,
        frameon=False,
        fontsize=sheets.FONT_SIZE,
    )
    for entry in legend.get_texts():
        entry.set_parse_math(False)
