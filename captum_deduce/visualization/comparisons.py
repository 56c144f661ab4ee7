"""Originals beside their counterfactuals: for one result, and for several explainers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from torch import Tensor

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.class_names import classes_seen, read_class_names
from captum_deduce.visualization.pixels import PerChannel, PixelScale, check_images

_TITLE_WIDTH = 1.85
"""Inches, enough for "seen as automobile (100.0%)"."""


@sheets.own_style()
def plot_counterfactuals(
    result: Counterfactuals,
    *,
    class_names: Sequence[str] | None = None,
    labels: Tensor | Sequence[int] | None = None,
    original_confidence: Tensor | None = None,
    max_rows: int = 10,
    image_size: float = 1.5,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
) -> sheets.Picture:
    r"""Draw each original, its counterfactual, and what changed.

    Above an original stands the class that the model sees in it, above a counterfactual its target
    and the model's probability of it. A failed pair is framed and called failed; its image is the
    best attempt. Changes are drawn on one scale for all rows: red where a pixel rose, blue where it
    fell, near white where nothing changed. Where the channels of an RGB image change differently,
    the largest change in magnitude stands for the site, with its sign, so that channels that cancel
    are still seen.

    Args:
        result (Counterfactuals): What to draw; select pairs as ``result[[3, 7]]``.
        class_names (Sequence[str], optional): A name per class; long ones are shortened.
            Default: None (their numbers)
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

    Returns:
        matplotlib.figure.Figure: The figure; notebooks draw it, ``savefig`` writes it. It is never
        shown and takes no part in pyplot's state.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No pairs, images that are neither grey nor RGB, colours outside [0, 1] (wrong
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
    _check_result(result)
    checks.number("max_rows", max_rows, minimum=1, integer=True)
    checks.number("image_size", image_size, minimum=0, exclusive=True)
    truth = _read_per_pair("labels", labels, len(result), torch.int64)
    certainty = _read_per_pair(
        "original_confidence", original_confidence, len(result), torch.float64
    )
    names = read_class_names(class_names, classes_seen(result.prediction, result.target, truth))
    scale = PixelScale.read(mean, std, result.inputs.shape[1:])

    shown = result[:max_rows]
    originals = scale.colors(shown.inputs, "result.inputs")
    counterfactuals = scale.colors(shown.counterfactuals, "result.counterfactuals")
    changes = scale.changes(shown.inputs, shown.counterfactuals)
    limit = sheets.change_limit(changes)
    counts = shown.l0().tolist()
    cut = len(shown) < len(result)
    sheet = sheets.make_sheet(
        len(shown),
        3,
        originals.shape[1:3],
        image_size=image_size,
        title_lines=1 if truth is None else 2,
        least_width=_TITLE_WIDTH,
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
        entries = "entry" if counts[row] == 1 else "entries"
        sheets.write(right, f"{counts[row]:,} {entries} changed")
    _write_headers(sheet, ("original", "counterfactual", "change"))
    if cut:
        _write_note(sheet, f"the first {len(shown)} of {len(result):,} pairs")
    sheets.draw_change_scale(sheet, image, right=0.95)
    return sheet.figure


@sheets.own_style()
def plot_grid(
    results: Mapping[str, Counterfactuals],
    *,
    class_names: Sequence[str] | None = None,
    labels: Tensor | Sequence[int] | None = None,
    max_columns: int = 12,
    image_size: float = 1.0,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
) -> sheets.Picture:
    r"""Compare explainers in the form of the paper's figure 3.

    The first row shows the originals, each further row the counterfactuals of one explainer, and
    each column one (image, target) pair. Above a column stands "class → target"; the class of the
    original is its label, else what the models see in it, if they agree. The best attempts of
    failed pairs are crossed out (the paper leaves such images out).

    Args:
        results (Mapping[str, Counterfactuals]): By the explainers' names, in the order of the rows;
            all of the same inputs and targets.
        class_names (Sequence[str], optional): A name per class; long ones are shortened.
            Default: None (their numbers)
        labels (Tensor or Sequence[int], optional): The true classes of the originals, N.
            Default: None
        max_columns (int, optional): The first pairs are drawn, at most this many; a note says how
            many there are. Default: 12
        image_size (float, optional): Inches of an image's longer side, about. Default: 1.0
        mean (float, sequence or Tensor, optional): The mean with which inputs were normalised: a
            number or one per channel. Default: None (they were not; colours are from 0 to 1)
        std (float, sequence or Tensor, optional): The standard deviation, likewise. Default: None

    Returns:
        matplotlib.figure.Figure: The figure; it is not shown.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No results, results of different inputs or targets, images that are neither grey
            nor RGB, colours outside [0, 1], or names or labels that do not fit.
    """
    first = _check_same_pairs(results)
    checks.number("max_columns", max_columns, minimum=1, integer=True)
    checks.number("image_size", image_size, minimum=0, exclusive=True)
    truth = _read_per_pair("labels", labels, len(first), torch.int64)
    predictions = [result.prediction for result in results.values()]
    names = read_class_names(class_names, classes_seen(*predictions, first.target, truth))
    scale = PixelScale.read(mean, std, first.inputs.shape[1:])

    count = min(max_columns, len(first))
    cut = count < len(first)
    rows = {
        name: scale.colors(result[:count].counterfactuals, f"results[{name!r}]")
        for name, result in results.items()
    }
    originals = scale.colors(first[:count].inputs, "inputs")
    names_width = min(max(map(sheets.text_width, ["original", *rows])), 1.6)
    image_width = sheets.drawn_size(originals.shape[1:3], image_size)[1]
    titles = [
        _pair_title(source, goal, image_width)
        for source, goal in _sources_and_goals(first, predictions, truth, names)[:count]
    ]
    title_lines = 1 + max(title.count("\n") for title in titles)
    sheet = sheets.make_sheet(
        1 + len(rows),
        count,
        originals.shape[1:3],
        image_size=image_size,
        margins=sheets.Margins(
            left=0.3 + names_width,
            top=0.2 + title_lines * sheets.LINE,
            bottom=0.4 if cut else 0.15,
        ),
    )
    for column, axes in enumerate(sheet.axes[0]):
        sheets.draw_colors(axes, originals[column])
        sheets.write(axes, titles[column])
    for row, (name, images) in enumerate(rows.items(), 1):
        for column, axes in enumerate(sheet.axes[row]):
            sheets.draw_colors(axes, images[column])
            if not results[name].success[column]:
                sheets.mark_failed(axes)
                _cross_out(axes)
    for axes, name in zip(sheet.axes[:, 0], ["original", *rows], strict=True):
        _write_row_name(axes, sheets.fitted(name, names_width))
    if cut:
        _write_note(sheet, f"the first {count} of {len(first):,} pairs")
    return sheet.figure


def _check_result(result: object) -> None:
    if not isinstance(result, Counterfactuals):
        raise TypeError(f"result must be Counterfactuals, got {type(result).__name__}")
    if not len(result):
        raise ValueError("result holds no pairs to draw")
    check_images(result.inputs[:1], "result.inputs")


def _check_same_pairs(results: object) -> Counterfactuals:
    if not isinstance(results, Mapping):
        raise TypeError(
            "results must be a mapping from explainers' names to Counterfactuals, got "
            f"{type(results).__name__}"
        )
    if not results:
        raise ValueError("results must hold at least one explainer's result, got none")
    for name, result in results.items():
        if not isinstance(name, str) or not isinstance(result, Counterfactuals):
            raise TypeError(
                f"results must map names to Counterfactuals, got {name!r}: {type(result).__name__}"
            )
    first_name: str = next(iter(results))
    first: Counterfactuals = results[first_name]
    _check_result(first)
    for name, result in results.items():
        for what in ("inputs", "target"):
            ours, theirs = getattr(first, what).cpu(), getattr(result, what).cpu()
            if ours.shape != theirs.shape or not torch.equal(ours, theirs.to(ours.dtype)):
                raise ValueError(
                    f"results must be of the same pairs, but the {what} of {name!r} (shape "
                    f"{tuple(theirs.shape)}) differ from those of {first_name!r} (shape "
                    f"{tuple(ours.shape)})"
                )
    return first


def _read_per_pair(name: str, values: object, count: int, dtype: torch.dtype) -> Tensor | None:
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


def _sources_and_goals(
    first: Counterfactuals, predictions: list[Tensor], truth: Tensor | None, names: list[str]
) -> list[tuple[str | None, str]]:
    """Name each pair's class of the original, where there is one, and its target."""
    seen = torch.stack([prediction.cpu() for prediction in predictions])
    agreed = (seen == seen[0]).all(0)
    goals = [names[c] for c in first.target.tolist()]
    if truth is not None:
        return [(names[c], goal) for c, goal in zip(truth.tolist(), goals, strict=True)]
    return [
        (names[int(seen[0, pair])] if agreed[pair] else None, goal)
        for pair, goal in enumerate(goals)
    ]


def _pair_title(source: str | None, target: str, width: float) -> str:
    arrow = f"→ {target}"
    line = arrow if source is None else f"{source} {arrow}"
    if sheets.text_width(line) <= width:
        return line
    goal = sheets.fitted(target, width, "→ {}")
    return goal if source is None else f"{sheets.fitted(source, width)}\n{goal}"


def _cross_out(axes: Axes) -> None:
    for ends in ((0, 1), (1, 0)):
        axes.plot(
            (0, 1),
            ends,
            color=sheets.FAILED_COLOR,
            linewidth=1.5,
            transform=axes.transAxes,
            scalex=False,
            scaley=False,
        )
    axes.text(
        0.5,
        0.04,
        "failed",
        fontsize=sheets.FONT_SIZE,
        color="white",
        ha="center",
        va="bottom",
        transform=axes.transAxes,
        bbox={"facecolor": sheets.FAILED_COLOR, "edgecolor": "none", "pad": 1.5},
    )


def _write_row_name(axes: Axes, name: str) -> None:
    axes.set_ylabel(
        name, rotation=0, ha="right", va="center", fontsize=sheets.FONT_SIZE, parse_math=False
    )


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


def _write_note(sheet: sheets.Sheet, note: str) -> None:
    box = sheet.axes[-1, 0].get_position()
    height = sheet.figure.get_size_inches()[1]
    sheet.figure.text(box.x0, 0.12 / height, note, fontsize=sheets.FONT_SIZE, va="bottom")
