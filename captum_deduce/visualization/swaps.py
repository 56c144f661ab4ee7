"""Which part of an image came from where."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from captum_deduce import checks
from captum_deduce.explainers import PatchGrid, PatchSwaps
from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.class_names import ClassNames, classes_seen, read_class_names
from captum_deduce.visualization.comparisons import check_result
from captum_deduce.visualization.pixels import Bands, PerChannel, PixelScale

COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
"""Of the exchanges, in order and then again; told apart with every kind of colour blindness."""

_TITLE_WIDTH = 1.5


@sheets.own_style()
def plot_swaps(
    swaps: PatchSwaps,
    *,
    class_names: ClassNames | None = None,
    max_rows: int = 6,
    max_distractors: int = 2,
    image_size: float = 1.5,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    bands: Bands | None = None,
) -> sheets.Picture:
    """Draw originals, the images that parts were taken from, and what was made of them.

    Parts with the same number and colour belong together: in the original the one that goes, in a
    distractor the one that comes. An image whose pasted pixels are no counterfactual is framed and
    called failed; above it stands, too, what the rest of the model says of its features.

    Args:
        swaps (PatchSwaps): What to draw.
        class_names (Sequence[str] or Mapping, optional): A name per class in the order of the
            model's scores, or ``{index: name}``. Default: None (their numbers)
        max_rows (int, optional): The first pairs are drawn, at most this many. Default: 6
        max_distractors (int, optional): Of a pair's distractors those that its first parts come
            from, at most this many; parts of others are not outlined. Default: 2
        image_size (float, optional): Inches of an image's longer side, about. Default: 1.5
        mean (float, sequence or Tensor, optional): The mean with which inputs were normalised: a
            number or one per channel. Default: None (they were not; colours are from 0 to 1)
        std (float, sequence or Tensor, optional): The standard deviation, likewise. Default: None
        bands (int or Sequence[int], optional): Of more than three channels those to draw as red,
            green and blue, or one as grey. Default: None (all are drawn)

    Returns:
        matplotlib.figure.Figure: The figure; notebooks draw it, ``savefig`` writes it. There is no
        ``ax`` argument: each image has axes of its own.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No pairs, images that are neither grey nor RGB and no ``bands``, or colours
            outside [0, 1] (wrong ``mean`` and ``std``).
    """
    if not isinstance(swaps, PatchSwaps):
        raise TypeError(f"swaps must be PatchSwaps, got {type(swaps).__name__}")
    check_result(swaps.result, bands)
    checks.number("max_rows", max_rows, minimum=1, integer=True)
    checks.number("max_distractors", max_distractors, minimum=1, integer=True)
    checks.number("image_size", image_size, minimum=0, exclusive=True)
    shown = swaps.result[:max_rows]
    names = read_class_names(class_names, classes_seen(shown.prediction, shown.target))
    scale = PixelScale.read(mean, std, shown.inputs.shape[1:], bands)
    originals = scale.colors(shown.inputs, "swaps.result.inputs")
    made = scale.colors(shown.counterfactuals, "swaps.result.counterfactuals")
    used = [_used(swaps, row, max_distractors) for row in range(len(shown))]
    columns = max(1, *map(len, used))
    cut = len(shown) < len(swaps)
    sheet = sheets.make_sheet(
        len(shown),
        columns + 2,
        originals.shape[1:3],
        image_size=image_size,
        title_lines=2,
        least_width=_TITLE_WIDTH,
        margins=sheets.Margins(bottom=0.4 if cut else 0.15),
    )
    grid = PatchGrid(swaps.grid, (shown.inputs.shape[2], shown.inputs.shape[3]))
    for row, axes in enumerate(sheet.axes):
        edits = range(int(swaps.edits[row]))
        width = sheet.column_width
        goal = names[int(shown.target[row])]
        sheets.draw_colors(axes[0], originals[row])
        sheets.write(axes[0], sheets.fitted(names[int(shown.prediction[row])], width, "seen as {}"))
        outline(axes[0], grid, {k: int(swaps.query_cells[row, k]) for k in edits})
        for place, column in enumerate(axes[1:-1]):
            if place >= len(used[row]):
                column.set_axis_off()
                continue
            number = used[row][place]
            (picture,) = scale.colors(swaps.distractors[number : number + 1], "swaps.distractors")
            sheets.draw_colors(column, picture)
            sheets.write(column, sheets.fitted(goal, width, "parts of a {}"))
            mine = [k for k in edits if int(swaps.distractor_index[row, k]) == number]
            outline(column, grid, {k: int(swaps.distractor_cells[row, k]) for k in mine})
        sheets.draw_colors(axes[-1], made[row])
        _write_outcome(axes[-1], swaps, row, goal, width)
    if cut:
        sheets.write_note(sheet, f"the first {len(shown)} of {len(swaps):,} pairs")
    return sheet.figure


def outline(axes: Axes, grid: PatchGrid, cells: dict[int, int]) -> None:
    """Draw the frames of cells, each with its number.

    Args:
        axes (matplotlib.axes.Axes): Where the image is drawn.
        grid (PatchGrid): How cells divide it.
        cells (dict[int, int]): The cell of each exchange, by its place in the order, from 0.
    """
    for place, cell in cells.items():
        top, left, height, width = grid.box(cell)
        color = COLORS[place % len(COLORS)]
        # Inside the edge, so that neighbours do not hide one another.
        inset = 0.06 * min(height, width)
        axes.add_patch(
            Rectangle(
                (left - 0.5 + inset, top - 0.5 + inset),
                width - 2 * inset,
                height - 2 * inset,
                fill=False,
                edgecolor=color,
                linewidth=1.6,
            )
        )
        axes.text(
            left - 0.5 + 2 * inset,
            top - 0.5 + 2 * inset,
            str(place + 1),
            color=color,
            fontsize=sheets.FONT_SIZE - 1,
            fontweight="bold",
            va="top",
            ha="left",
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )


def _used(swaps: PatchSwaps, row: int, most: int) -> Sequence[int]:
    """The distractors of a pair, in the order in which they gave parts."""
    numbers = swaps.distractor_index[row, : int(swaps.edits[row])].tolist()
    return list(dict.fromkeys(numbers))[:most]


def _write_outcome(axes: Axes, swaps: PatchSwaps, row: int, goal: str, width: float) -> None:
    confidence = float(swaps.result.confidence[row])
    said = f"seen as {{}} ({confidence:.1%})"
    if not swaps.result.success[row]:
        sheets.mark_failed(axes)
        said = f"failed: {{}} ({confidence:.1%})"
    inner = float(swaps.feature_confidence[row])
    sheets.write(axes, f"{sheets.fitted(goal, width, said)}\nfeatures: {inner:.1%}")
