"""Results made by hand, and what every picture must satisfy."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from captum_deduce import Counterfactuals


def glyph(*rows: str) -> Tensor:
    """Draw a grey image: digits are ninths of full white, dots are black."""
    values = [[0.0 if c == "." else int(c) / 9 for c in row] for row in rows]
    return torch.tensor(values, dtype=torch.float32).unsqueeze(0)


SEVEN = glyph(
    "........",
    ".999999.",
    ".....99.",
    "....99..",
    "....9...",
    "...99...",
    "...9....",
    "........",
)
ONE = glyph(
    "........",
    "....9...",
    "...99...",
    "....9...",
    "....9...",
    "....9...",
    "....9...",
    "........",
)


def changed(image: Tensor, *changes: tuple[int, int, float]) -> Tensor:
    """Set pixels of the first channel: (row, column, value)."""
    copy = image.clone()
    for row, column, value in changes:
        copy[0, row, column] = value
    return copy


def make_result(
    inputs: Tensor,
    counterfactuals: Tensor,
    *,
    target: list[int] | None = None,
    prediction: list[int] | None = None,
    success: list[bool] | None = None,
    confidence: list[float] | None = None,
    trajectory: list[Tensor] | None = None,
) -> Counterfactuals:
    count = len(inputs)
    steps = torch.arange(count) + 3
    if trajectory is not None:
        steps = torch.tensor([len(images) - 1 for images in trajectory])
    return Counterfactuals(
        inputs=inputs,
        counterfactuals=counterfactuals,
        target=torch.tensor(target if target is not None else [1] * count),
        success=torch.tensor(success if success is not None else [True] * count),
        confidence=torch.tensor(confidence if confidence is not None else [0.625] * count),
        iterations=steps,
        evaluations=steps + 1,
        forward_evaluations=torch.zeros(count, dtype=torch.int64),
        prediction=torch.tensor(prediction if prediction is not None else [0] * count),
        trajectory=trajectory,
    )


def grey_result() -> Counterfactuals:
    """Four pairs: two found, one failed, one that needed no change."""
    inputs = torch.stack([SEVEN, ONE, SEVEN, ONE])
    counterfactuals = torch.stack(
        [
            changed(SEVEN, (1, 1, 0.0), (1, 2, 0.4), (5, 6, 0.2)),
            changed(ONE, (1, 5, 1.0), (1, 6, 0.6)),
            changed(SEVEN, (6, 6, 0.5)),
            ONE,
        ]
    )
    return make_result(
        inputs,
        counterfactuals,
        target=[1, 7, 4, 1],
        prediction=[7, 1, 7, 1],
        success=[True, True, False, True],
        confidence=[0.625, 0.512, 0.125, 1.0],
    )


def raster(figure: Figure) -> np.ndarray:
    """Render a figure as it is: height x width x 3, from 0 to 1."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def texts(figure: Figure) -> list[Text]:
    """All texts that are drawn."""
    found = list(figure.texts)
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        if axes.get_legend() is not None:
            found += axes.get_legend().get_texts()
        for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted(limits)
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    found += [tick.label1, tick.label2]
    return [text for text in found if text.get_visible() and text.get_text()]


def assert_readable(figure: Figure) -> None:
    """No text is small, cut off at the figure's edge, or over another text or an image."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    boxes = {text: text.get_window_extent(renderer) for text in texts(figure)}
    edge = figure.bbox
    for text, box in boxes.items():
        what = text.get_text()
        assert text.get_fontsize() >= 8, what
        assert min(box.x0 - edge.x0, edge.x1 - box.x1) >= 0, what
        assert min(box.y0 - edge.y0, edge.y1 - box.y1) >= 0, what
    ordered = list(boxes.items())
    for place, (text, box) in enumerate(ordered):
        for other, another in ordered[place + 1 :]:
            # each bounding box holds a pixel of air
            apart = box.x1 <= another.x0 + 2 or another.x1 <= box.x0 + 2
            apart = apart or box.y1 <= another.y0 + 2 or another.y1 <= box.y0 + 2
            assert apart, (text.get_text(), other.get_text())
        for axes in figure.axes:
            if axes.images and text not in axes.texts:
                assert not axes.get_window_extent().overlaps(box), text.get_text()
