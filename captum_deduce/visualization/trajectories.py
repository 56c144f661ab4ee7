"""How a search changed an image: a strip of pictures with curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.class_names import ClassNames
from captum_deduce.visualization.journeys import IMAGES_WIDTH, LABELS, Journey, draw_curves, stacked
from captum_deduce.visualization.pixels import Bands, PerChannel


@sheets.own_style()
def plot_trajectory(
    result: Counterfactuals,
    pair: int = 0,
    forward_func: Callable[..., Any] | None = None,
    layer: nn.Module | str | None = None,
    density: ClassGaussianMixture | None = None,
    *,
    class_names: ClassNames | None = None,
    num_images: int = 8,
    image_size: float = 1.0,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    bands: Bands | None = None,
) -> sheets.Picture:
    r"""Draw how the search changed one image, step by step.

    Images at evenly spread steps, below them how they differ from the original (all on one scale,
    as in :func:`plot_counterfactuals`), and, where the model is given, curves of its probabilities
    of the target and of the class seen in the original; with a layer and a density also of the
    log-density under the target class (on a logarithmic axis if it spans more than 10,000 nats). A
    dotted line marks the step whose image was returned: that of a failed pair is its best attempt.

    Args:
        result (Counterfactuals): Made with ``return_trajectory=True``.
        pair (int, optional): Which of its pairs. Default: 0
        forward_func (Callable or nn.Module, optional): The classifier; a model that takes more
            arguments is wrapped in a function that passes them. Default: None (no curves)
        layer (nn.Module or str, optional): The layer whose output is the density's features.
            Default: None
        density (ClassGaussianMixture, optional): Fitted to them. Default: None (no log-density)
        class_names (Sequence[str] or Mapping, optional): A name per class, or ``{index: name}``.
            Default: None (their numbers)
        num_images (int, optional): Images to draw, the first and the last among them. Default: 8
        image_size (float, optional): Inches of an image's longer side, about. Default: 1.0
        mean (float, sequence or Tensor, optional): The mean with which inputs were normalised: a
            number or one per channel. Default: None (they were not; colours are from 0 to 1)
        std (float, sequence or Tensor, optional): The standard deviation, likewise. Default: None
        bands (int or Sequence[int], optional): Of more than three channels those to draw as red,
            green and blue, or one as grey. Default: None (all are drawn)

    Returns:
        matplotlib.figure.Figure: The figure; it is not shown. There is no ``ax``
        argument: each image and each curve has axes of its own.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A result without trajectories, a pair that is not in it, a density without a
            layer or without the model, images that are neither grey nor RGB and no ``bands``, or
            colours outside [0, 1].
    """
    checks.number("num_images", num_images, minimum=2, integer=True)
    journey = Journey.read(result, pair, num_images, class_names, mean, std, bands)
    checks.number("image_size", image_size, minimum=0, exclusive=True)
    trace = journey.trace(forward_func, layer, density)

    panels = 0 if trace is None else trace.num_curves
    columns = len(journey.steps)
    titles = [f"step {step}" for step in journey.steps]
    widest = max(map(sheets.text_width, titles + journey.changed))
    left, right, height = LABELS if panels else 0.15, 1.05, 1.2
    sheet = sheets.make_sheet(
        2,
        columns,
        journey.colors.shape[1:3],
        image_size=image_size,
        title_lines=1,
        least_width=max(widest, IMAGES_WIDTH / columns - 0.12),
        margins=sheets.Margins(
            left=left,
            right=right,
            top=0.2 + sheets.LINE,
            bottom=0.15 + (0.85 + panels * height if panels else 0),
        ),
    )
    limit = sheets.change_limit(journey.changes)
    for column in range(columns):
        above, below = sheet.axes[:, column]
        sheets.draw_colors(above, journey.colors[column])
        sheets.write(above, titles[column])
        image = sheets.draw_change(below, journey.changes[column], limit)
        sheets.write(below, journey.changed[column])
    sheets.write_heading(sheet, f"{journey.title}, {journey.outcome}")
    sheets.draw_change_scale(sheet, image, right=0.95)
    if trace is not None:
        width = float(sheet.figure.get_size_inches()[0]) - left - right
        draw_curves(stacked(sheet, panels, left, 0.5, width, panels * height), trace, journey)
    return sheet.figure
