"""Counterfactuals made with a checkpoint, and what the commands report of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.training import predict
from captum_deduce.visualization import ClassNames, plot_counterfactuals, read_class_names

BATCH_SIZE = 128
"""Pairs that are searched for together."""

DPI = 150
"""Pixels per inch of the pictures."""


@dataclass(frozen=True)
class Explained:
    """Counterfactuals of N pairs, with what their search does not tell.

    Args:
        result (Counterfactuals): The pairs.
        before (Tensor): The classifier's probabilities of all classes for the originals, N x C.
        seconds (float): What the search took.
        class_names (tuple[str, ...]): The classes' names.
    """

    result: Counterfactuals
    before: Tensor
    seconds: float
    class_names: tuple[str, ...]

    def save_picture(self, path: Path, rows: slice, labels: Tensor | None = None) -> None:
        """Draw some of the pairs: original, counterfactual and change.

        Args:
            path (Path): The picture, a PNG file.
            rows (slice): Which pairs.
            labels (Tensor, optional): The true classes of all pairs, N. Default: None
        """
        figure = plot_counterfactuals(
            self.result[rows],
            class_names=self.class_names,
            labels=None if labels is None else labels[rows],
            original_confidence=self.before[rows].amax(1),
        )
        figure.savefig(path, dpi=DPI)


def explain(
    explainer: CounterfactualExplainer,
    images: Tensor,
    target: Tensor | list[int] | None,
    class_names: ClassNames,
    *,
    mask: Tensor | None = None,
    show_progress: bool | None = None,
) -> Explained:
    """Search for the counterfactuals of all pairs in one call.

    Args:
        explainer (CounterfactualExplainer): Of a module.
        images (Tensor): N x channels x height x width, on the classifier's device.
        target (Tensor, list or None): N classes; None: each image's runner-up class.
        class_names (Sequence[str] or Mapping): A name per class, or ``{index: name}``.
        mask (Tensor, optional): 1 where pixels may change. Default: None (all may)
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        Explained: In the order of the images.

    Raises:
        TypeError: ``class_names`` without an order, or something else than names.
        ValueError: Fewer names than classes, or keys that are no class indices.
    """
    before = predict(explainer.forward_func, images).softmax(1)
    names = tuple(read_class_names(class_names, before.shape[1]))
    started = time.perf_counter()
    result = explainer.generate(
        images,
        target,
        mask=mask,
        internal_batch_size=BATCH_SIZE,
        show_progress=show_progress,
    )
    seconds = time.perf_counter() - started
    return Explained(result, before, seconds, names)
