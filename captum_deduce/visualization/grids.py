"""Several explainers on the same pairs, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from torch import Tensor

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.class_names import ClassNames, classes_seen, read_class_names
from captum_deduce.visualization.comparisons import check_result, read_per_pair
from captum_deduce.visualization.pixels import Bands, PerChannel, PixelScale

_NAMES_WIDTH = 1.6
"""Inches that the explainers' names may take."""


@sheets.own_style()
def plot_grid(
    results: Mapping[str, Counterfactuals],
    *,
    class_names: ClassNames | None = None,
    labels: Tensor | Sequence[int] | None = None,
    changes: bool = False,
    notes: Mapping[str, str] | None = None,
    caption: str | None = None,
    max_columns: int = 12,
    image_size: float = 1.0,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    bands: Bands | None = None,
) -> sheets.Picture:
    r"""Compare explainers in the form of the paper's figure 3.

    The first row shows the originals, each further row the counterfactuals of one explainer, and
    each column one (image, target) pair. Above a column stands "class → target". The class of the
    original is its label; without labels, or where the label is the target itself (a mistake to be
    put right), it is the class that all models see in it, if they agree. The best attempts of
    failed pairs are crossed out (the paper leaves such images out).

    Args:
        results (Mapping[str, Counterfactuals]): By the explainers' names, in the order of the rows;
            all of the same inputs and targets.
        class_names (Sequence[str] or Mapping, optional): A name per class in the order of the
            model's scores, or ``{index: name}``; long ones are shortened. Default: None (their
            numbers)
        labels (Tensor or Sequence[int], optional): The true classes of the originals, N.
            Default: None
        changes (bool, optional): Draw beside each counterfactual what changed, on one scale for all
            explainers, as :func:`plot_counterfactuals` does, and above the two how many entries
            changed (L0), of several channels in how many places, and by how much in all (L1).
            Default: False
        notes (Mapping[str, str], optional): Lines to write below the explainers' names; a name may
            be left out. Default: None
        caption (str, optional): A line to write below the grid. Default: None (how many of the
            pairs are drawn, unless all are)
        max_columns (int, optional): The first pairs are drawn, at most this many. Default: 12
        image_size (float, optional): Inches of an image's longer side, about. Default: 1.0
        mean (float, sequence or Tensor, optional): The mean with which inputs were normalised: a
            number or one per channel. Default: None (they were not; colours are from 0 to 1)
        std (float, sequence or Tensor, optional): The standard deviation, likewise. Default: None
        bands (int or Sequence[int], optional): Of more than three channels those to draw as red,
            green and blue, or one as grey. Default: None (all are drawn)

    Returns:
        matplotlib.figure.Figure: The figure; it is not shown. There is no ``ax``
        argument: each image has axes of its own.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No results, results of different inputs or targets, images that are neither grey
            nor RGB and no ``bands``, colours outside [0, 1], notes of an unknown explainer, or
            names or labels that do not fit.
    """
    first = _check_same_pairs(results, bands)
    checks.flag("changes", changes)
    checks.number("max_columns", max_columns, minimum=1, integer=True)
    below = _read_notes(results, notes)
    names = [sheets.fitted(name, _NAMES_WIDTH) for name in ("original", *results)]
    truth = read_per_pair("labels", labels, len(first), torch.int64)
    predictions = [result.prediction for result in results.values()]
    classes = read_class_names(class_names, classes_seen(*predictions, first.target, truth))
    scale = PixelScale.read(mean, std, first.inputs.shape[1:], bands)
    count = min(max_columns, len(first))
    if caption is None and count < len(first):
        caption = f"the first {count} of {len(first):,} pairs"

    originals = scale.colors(first[:count].inputs, "inputs")
    rows = [_Row.read(name, result[:count], scale) for name, result in results.items()]
    width = sheets.drawn_size(originals.shape[1:3], image_size)[1]
    titles = [
        _pair_title(source, goal, width)
        for source, goal in _sources_and_goals(first, predictions, truth, classes)[:count]
    ]
    has_channels = first.inputs.shape[1] > 1
    change_lines = 1 + has_channels if changes else 0
    title_lines = max(change_lines, 1 + max(title.count("\n") for title in titles))
    lines = [*names, *(line for note in below.values() for line in note.split("\n"))]
    counts = [line for row in rows for count in row.l0 for line in count.split("\n")]
    sheet = sheets.make_sheet(
        1 + len(rows),
        2 * count if changes else count,
        originals.shape[1:3],
        image_size=image_size,
        title_lines=change_lines,
        least_width=max(map(sheets.text_width, counts)) if changes else 0.0,
        columns_together=2 if changes else 1,
        margins=sheets.Margins(
            left=0.3 + min(max(map(sheets.text_width, lines)), _NAMES_WIDTH),
            right=1.05 if changes else 0.15,
            top=0.2 + (title_lines - change_lines) * sheets.LINE,
            bottom=0.15 if caption is None else 0.4,
        ),
    )
    columns = sheet.axes[:, ::2] if changes else sheet.axes
    for column, axes in enumerate(columns[0]):
        sheets.draw_colors(axes, originals[column])
        sheets.write(axes, titles[column])
    for row, axes_of_row in zip(rows, columns[1:], strict=True):
        row.draw(axes_of_row)
    if changes:
        _draw_changes(sheet, rows)
    _write_row_name(columns[0, 0], names[0])
    for axes, name, shown in zip(columns[1:, 0], results, names[1:], strict=True):
        _write_row_name(axes, shown, below.get(name))
    if caption is not None:
        sheets.write_note(sheet, caption)
    return sheet.figure


@dataclass(frozen=True)
class _Row:
    """What one explainer found, as it is drawn."""

    images: NDArray[np.float64]
    changes: NDArray[np.float64]
    success: list[bool]
    l0: list[str]
    l1: list[str]

    @classmethod
    def read(cls, name: str, result: Counterfactuals, scale: PixelScale) -> _Row:
        return cls(
            images=scale.colors(result.counterfactuals, f"results[{name!r}]"),
            changes=scale.changes(result.inputs, result.counterfactuals),
            success=result.success.tolist(),
            l0=_counts(result),
            l1=[f"L1 {distance:.2f}" for distance in result.l1().tolist()],
        )

    def draw(self, axes_of_row: Sequence[Axes]) -> None:
        for axes, image, found in zip(axes_of_row, self.images, self.success, strict=True):
            sheets.draw_colors(axes, image)
            if not found:
                sheets.mark_failed(axes)
                _cross_out(axes)


def _counts(result: Counterfactuals) -> list[str]:
    """Write how many entries changed, and below it in how many places if there are channels."""
    if result.inputs.shape[1] == 1:
        return [f"L0 {count}" for count in result.l0().tolist()]
    counts = zip(result.l0().tolist(), result.sites().tolist(), strict=True)
    return [f"L0 {entries}\nin {places} places" for entries, places in counts]


def _draw_changes(sheet: sheets.Sheet, rows: Sequence[_Row]) -> None:
    """Fill every second column; the change of a best attempt says nothing and stays blank."""
    limit = max(sheets.change_limit(row.changes[row.success]) for row in rows)
    drawn = None
    for axes in sheet.axes[0, 1::2]:
        axes.set_axis_off()
    for row, axes_of_row in zip(rows, sheet.axes[1:], strict=True):
        for pair, found in enumerate(row.success):
            image, change = axes_of_row[2 * pair : 2 * pair + 2]
            if found:
                drawn = sheets.draw_change(change, row.changes[pair], limit)
                sheets.write(image, row.l0[pair])
                sheets.write(change, row.l1[pair])
            else:
                change.set_axis_off()
    if drawn is not None:
        sheets.draw_change_scale(sheet, drawn, right=0.95)


def _check_same_pairs(results: object, bands: Bands | None) -> Counterfactuals:
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
    check_result(first, bands)
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


def _sources_and_goals(
    first: Counterfactuals, predictions: list[Tensor], truth: Tensor | None, names: list[str]
) -> list[tuple[str | None, str]]:
    """Name each pair's class of the original, where there is one, and its target.

    A label that is the target would say "1 → 1": there, what the models see stands for it.
    """
    seen = torch.stack([prediction.cpu() for prediction in predictions])
    agreed = (seen == seen[0]).all(0)
    goals = first.target.tolist()
    sources = [names[c] if same else None for c, same in zip(seen[0].tolist(), agreed, strict=True)]
    if truth is not None:
        sources = [
            source if label == goal else names[label]
            for source, label, goal in zip(sources, truth.tolist(), goals, strict=True)
        ]
    return [(source, names[goal]) for source, goal in zip(sources, goals, strict=True)]


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


def _read_notes(
    results: Mapping[str, Counterfactuals], notes: Mapping[str, str] | None
) -> dict[str, str]:
    given = {} if notes is None else dict(notes)
    unknown = [name for name in given if name not in results]
    if unknown:
        raise ValueError(f"notes must be of some of {list(results)}, got notes of {unknown}")
    return {
        name: "\n".join(sheets.fitted(line, _NAMES_WIDTH) for line in lines.split("\n"))
        for name, lines in given.items()
    }


def _write_row_name(axes: Axes, name: str, note: str | None = None) -> None:
    """Write a name at half the height of a row, or at its top in bold with a note below it."""
    style: dict[str, Any] = {
        "rotation": 0,
        "ha": "right",
        "fontsize": sheets.FONT_SIZE,
        "parse_math": False,
    }
    if note is None:
        axes.set_ylabel(name, va="center", **style)
    else:
        axes.set_ylabel(name, va="top", y=1.0, fontweight="bold", **style)
        axes.annotate(
            note,
            (0, 1),
            (-axes.yaxis.labelpad, -1.4 * sheets.FONT_SIZE),
            xycoords="axes fraction",
            textcoords="offset points",
            va="top",
            **style,
        )
