"""Originals beside their counterfactuals and what changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.class_names import (
    ClassNames,
    changes_in_words,
    classes_seen,
    read_class_names,
)
from captum_deduce.visualization.pixels import Bands, PerChannel, PixelScale, check_images

_TITLE_WIDTH = 1.85
"""Inches, enough for "seen as automobile (100.0%)"."""


@sheets.own_style()
def plot_counterfactuals(
    result: Counterfactuals,
    *,
    class_names: ClassNames | None = None,
    labels: Tensor | Sequence[int] | None = None,
    original_confidence: Tensor | None = None,
    max_rows: int = 10,
    image_size: float = 1.5,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    bands: Bands | None = None,
) -> sheets.Picture:
    r"""Draw each original, its counterfactual, and what changed.

    Above an original stands the class that the model sees in it, above a counterfactual its target
    and the model's probability of it. A failed pair is framed and called failed; its image is the
    best attempt. Changes are drawn on one scale for all rows: red where a pixel rose, blue where it
    fell, near white where nothing changed. Where an image's channels change differently, the
    largest change in magnitude stands for the site, with its sign, so that channels that cancel are
    still seen; channels that are not drawn count, too. Above it stands how many entries changed,
    and of several channels in how many places.

    Args:
        result (Counterfactuals): What to draw; select pairs as ``result[[3, 7]]``.
        class_names (Sequence[str] or Mapping, optional): A name per class in the order of the
            model's scores, or ``{index: name}``; long ones are shortened. Default: None (their
            numbers)
        labels (Tensor or Sequence[int], optional): The true classes, N; added to the titles of the
            originals. Default: None
        original_confidence (Tensor, optional): The model's probability of the class that it sees in
            the original, N; added likewise. Default: None
        max_rows (int, optional): The first pairs are drawn, at most this many; a note says how many
            there are. Default: 10
        image_size (float, optional): Inches of an image's longer side, about. Default: 1.5
        mean (float, sequence or Tensor, optional): The mean with which inputs were normalised: a
            number or one per channel. Default: None (they were not; colours are from 0 to 1)
        std (float, sequence or Tensor, optional): The standard deviation, likewise. Default: None
        bands (int or Sequence[int], optional): Of more than three channels those to draw as red,
            green and blue, or one as grey. Default: None (all are drawn)

    Returns:
        matplotlib.figure.Figure: The figure; notebooks draw it, ``savefig`` writes it. It is never
        shown and takes no part in pyplot's state. There is no ``ax`` argument: each image has axes
        of its own.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No pairs, images that are neither grey nor RGB and no ``bands``,
            colours outside [0, 1] (wrong
            ``mean`` and ``std``), or names, labels or confidences that do not fit.

    Examples::

        >>> images = torch.zeros(2, 1, 8, 8)
        >>> changed = images.clone()
        >>> changed[:, :, 2:6, 4] = 1
        >>> ones = torch.ones(2, dtype=torch.int64)
        >>> result = Counterfactuals(
        ...     inputs=images, counterfactuals=changed, target=ones, success=ones > 0,
        ...     confidence=torch.tensor([0.6, 0.8]), iterations=ones, evaluations=ones,
        ...     forward_evaluations=0 * ones, prediction=0 * ones,
        ... )
        >>> figure = plot_counterfactuals(result, class_names=["zero", "one"])
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['seen as zero', 'seen as one (60.0%)', '4 entries changed']
    """
    check_result(result, bands)
    checks.number("max_rows", max_rows, minimum=1, integer=True)
    checks.number("image_size", image_size, minimum=0, exclusive=True)
    truth = read_per_pair("labels", labels, len(result), torch.int64)
    certainty = read_per_pair(
        "original_confidence", original_confidence, len(result), torch.float64
    )
    names = read_class_names(class_names, classes_seen(result.prediction, result.target, truth))
    scale = PixelScale.read(mean, std, result.inputs.shape[1:], bands)

    shown = result[:max_rows]
    originals = scale.colors(shown.inputs, "result.inputs")
    counterfactuals = scale.colors(shown.counterfactuals, "result.counterfactuals")
    changes = scale.changes(shown.inputs, shown.counterfactuals)
    limit = sheets.change_limit(changes)
    counts = changes_in_words(shown.inputs != shown.counterfactuals)
    cut = len(shown) < len(result)
    sheet = sheets.make_sheet(
        len(shown),
        3,
        originals.shape[1:3],
        image_size=image_size,
        title_lines=1 if truth is None else 2,
        least_width=max(_TITLE_WIDTH, *map(sheets.text_width, counts)),
        margins=sheets.Margins(right=1.05, top=0.15 + sheets.LINE, bottom=0.4 if cut else 0.15),
    )
    for row, (left, middle, right) in enumerate(sheet.axes):
        sheets.draw_colors(left, originals[row])
        title = _seen_as(
            names[int(shown.prediction[row])],
            None if certainty is None else float(certainty[row]),
            sheet.column_width,
        )
        if truth is not None:
            label = sheets.fitted(names[int(truth[row])], sheet.column_width, "label: {}")
            title = f"{label}\n{title}"
        sheets.write(left, title)
        sheets.draw_colors(middle, counterfactuals[row])
        _write_outcome(middle, shown, row, names, sheet.column_width)
        image = sheets.draw_change(right, changes[row], limit)
        sheets.write(right, counts[row])
    _write_headers(sheet, ("original", "counterfactual", "change"))
    if cut:
        sheets.write_note(sheet, f"the first {len(shown)} of {len(result):,} pairs")
    sheets.draw_change_scale(sheet, image, right=0.95)
    return sheet.figure


def check_result(result: object, bands: Bands | None) -> None:
    """Refuse what can't be drawn.

    Args:
        result (object): What should be counterfactuals of at least one pair.
        bands (int, Sequence[int] or None): The channels to draw; None: all.

    Raises:
        TypeError: Something else.
        ValueError: No pairs, or without bands images that are neither grey nor RGB.
    """
    if not isinstance(result, Counterfactuals):
        raise TypeError(f"result must be Counterfactuals, got {type(result).__name__}")
    if not len(result):
        raise ValueError("result holds no pairs to draw")
    check_images(result.inputs[:1], "result.inputs", bands)


def read_per_pair(name: str, values: object, count: int, dtype: torch.dtype) -> Tensor | None:
    """Read one number per pair.

    Args:
        name (str): What they are called in an error.
        values (Tensor, Sequence or None): What the user gave.
        count (int): How many pairs there are.
        dtype (torch.dtype): int64 for class indices.

    Returns:
        Tensor or None: N values on the CPU; None where none were given.

    Raises:
        TypeError: Not numbers.
        ValueError: Another number of them, or no class indices.
    """
    if values is None:
        return None
    try:
        tensor = torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must hold one number per pair, got {values!r}") from error
    if tensor.shape != (count,):
        raise ValueError(
            f"{name} must hold one value per pair ({count}), got shape {tuple(tensor.shape)}"
        )
    if dtype == torch.int64 and (tensor.is_floating_point() or (tensor < 0).any()):
        raise ValueError(f"{name} must hold class indices, got {values}")
    return tensor.to(dtype)


def _seen_as(name: str, confidence: float | None, width: float) -> str:
    certainty = "" if confidence is None else f" ({confidence:.1%})"
    return sheets.fitted(name, width, "seen as {}" + certainty)


def _write_outcome(
    axes: Axes, result: Counterfactuals, row: int, names: list[str], width: float
) -> None:
    name, confidence = names[int(result.target[row])], float(result.confidence[row])
    if result.success[row]:
        sheets.write(axes, _seen_as(name, confidence, width))
    else:
        failed = sheets.fitted(name, width, f"failed: {{}} at {confidence:.1%}")
        sheets.write(axes, failed, color=sheets.FAILED_COLOR)
        sheets.mark_failed(axes)


def _write_headers(sheet: sheets.Sheet, headers: Sequence[str]) -> None:
    height = sheet.figure.get_size_inches()[1]
    for axes, header in zip(sheet.axes[0], headers, strict=True):
        box = axes.get_position()
        sheet.figure.text(
            (box.x0 + box.x1) / 2,
            1 - 0.1 / height,
            header,
            ha="center",
            va="top",
            fontsize=sheets.FONT_SIZE + 1,
            fontweight="bold",
        )
