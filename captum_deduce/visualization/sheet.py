"""Sheets of small images: figures whose rows and columns are laid out in inches.

Exact sizes keep small images crisp (each of their pixels becomes the same number of screen pixels)
and titles apart, whatever the number of rows and columns.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rcParams, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.image import AxesImage
from matplotlib.text import Text
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

DPI = 100
FONT_SIZE = 9.0
LINE = 0.17
"""Height of a line of text, in inches."""

CHANGE_COLORS = "RdBu_r"
"""Blue where lower, white where unchanged, red where higher; distinct for the colour-blind, too."""

FAILED_COLOR = "#D55E00"
_FRAME_COLOR = "0.75"
_WIDER_GAP = 0.18


class Picture(Figure):
    """A matplotlib figure that a notebook draws.

    It is made without pyplot, so that nothing has to be closed; a plain figure of that kind would
    show in a notebook as text only, until pyplot has drawn something itself.
    """

    def savefig(self, fname: Any, **arguments: Any) -> None:
        """Write the figure on its own background, whatever style is in use.

        Args:
            fname (Any): As in :meth:`matplotlib.figure.Figure.savefig`.
            **arguments (Any): Likewise.
        """
        super().savefig(fname, **{"facecolor": "auto", **arguments})

    def _repr_png_(self) -> bytes:
        return png(self)


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure that a notebook draws and nobody has to close.

    Args:
        width (float): In inches.
        height (float): In inches.

    Returns:
        matplotlib.figure.Figure: With matplotlib's constrained layout.
    """
    return Picture(figsize=(width, height), layout="constrained")


@contextmanager
def own_style() -> Iterator[None]:
    """Draw in matplotlib's default style, as ours has a white background, but in the user's fonts.

    Yields:
        None: While the style is in force.
    """
    families = r"^font\.(family|serif|sans-serif|cursive|fantasy|monospace)$"
    fonts = {str(name): value for name, value in rcParams.find_all(families).items()}
    with style.context(["default", fonts]):
        yield


def png(figure: Figure) -> bytes:
    """Encode a figure as a PNG file, at its own resolution.

    Args:
        figure (matplotlib.figure.Figure): The figure.

    Returns:
        bytes: The file's contents.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor="auto")
    return buffer.getvalue()


def add_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place given in inches from the figure's lower left corner.

    Args:
        figure (matplotlib.figure.Figure): The figure.
        left (float): Where they begin.
        bottom (float): Where they begin.
        width (float): How wide they are.
        height (float): How high they are.

    Returns:
        matplotlib.axes.Axes: The new axes.
    """
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


@dataclass(frozen=True)
class Margins:
    """Inches around a sheet's images.

    Args:
        left (float): Left of the first column.
        right (float): Right of the last column.
        top (float): Above the first row's titles.
        bottom (float): Below the last row.
    """

    left: float = 0.15
    right: float = 0.15
    top: float = 0.15
    bottom: float = 0.15


@dataclass(frozen=True)
class Sheet:
    """A figure with a grid of axes for images.

    Args:
        figure (Picture): The figure.
        axes (NDArray): Rows x columns of :class:`matplotlib.axes.Axes`.
        column_width (float): Inches that a title may take.
    """

    figure: Picture
    axes: NDArray[np.object_]
    column_width: float


def make_sheet(
    rows: int,
    columns: int,
    image_shape: Sequence[int],
    *,
    image_size: float,
    title_lines: int = 0,
    least_width: float = 0.0,
    columns_together: int = 1,
    margins: Margins | None = None,
) -> Sheet:
    """Lay out axes for images in rows and columns.

    Args:
        rows (int): Number of rows.
        columns (int): Number of columns.
        image_shape (Sequence[int]): Height and width of an image.
        image_size (float): Inches that the longer side should take, see :func:`drawn_size`.
        title_lines (int, optional): Lines of text above each image. Default: 0
        least_width (float, optional): Inches that a column takes at least. Default: 0.0
        columns_together (int, optional): After every so many columns the gap is wider, unless it
            is 1. Default: 1
        margins (Margins, optional): Around the images. Default: ``Margins()``

    Returns:
        Sheet: The figure with its axes.
    """
    edge = Margins() if margins is None else margins
    height, width = drawn_size(image_shape, image_size)
    gap = 0.12
    column_width = max(width, least_width)
    row_height = height + title_lines * LINE + (0.08 if title_lines else 0)
    wider = 0.0 if columns_together == 1 else _WIDER_GAP
    lefts = [
        edge.left + column * (column_width + gap) + column // columns_together * wider
        for column in range(columns)
    ]
    figure_width = _snap(lefts[-1] + column_width + edge.right)
    figure_height = _snap(edge.top + rows * (row_height + gap) - gap + edge.bottom)
    figure = Picture(figsize=(figure_width, figure_height), dpi=DPI, facecolor="white")
    axes = np.empty((rows, columns), dtype=object)
    for row in range(rows):
        for column in range(columns):
            axes[row, column] = add_axes(
                figure,
                _snap(lefts[column] + (column_width - width) / 2),
                _snap(figure_height - edge.top - row * (row_height + gap) - row_height),
                width,
                height,
            )
    return Sheet(figure, axes, column_width)


def drawn_size(image_shape: Sequence[int], image_size: float) -> tuple[float, float]:
    """Find how large an image is drawn.

    Args:
        image_shape (Sequence[int]): Height and width in pixels.
        image_size (float): Inches that the longer side should take.

    Returns:
        tuple[float, float]: Height and width in inches: a whole number of screen pixels for each of
        the image's, unless it would become much larger than asked for.
    """
    longer, wanted = max(image_shape), image_size * DPI
    zoom = 1.5 * wanted / longer if longer > 1.5 * wanted else max(1, round(wanted / longer))
    height, width = (side * zoom / DPI for side in image_shape)
    return height, width


def draw_colors(axes: Axes, colors: NDArray[np.float64]) -> AxesImage:
    """Draw an image.

    Args:
        axes (matplotlib.axes.Axes): Where.
        colors (NDArray): Height x width x 3, from 0 to 1.

    Returns:
        matplotlib.image.AxesImage: What was drawn.
    """
    _bare(axes)
    return axes.imshow(colors, interpolation=_interpolation(axes, colors.shape[1]))


def draw_change(axes: Axes, change: NDArray[np.float64], limit: float) -> AxesImage:
    """Draw signed changes, white where there is none.

    Args:
        axes (matplotlib.axes.Axes): Where.
        change (NDArray): Height x width.
        limit (float): The magnitude that has the full colour.

    Returns:
        matplotlib.image.AxesImage: What was drawn.
    """
    _bare(axes)
    return axes.imshow(
        change,
        cmap=CHANGE_COLORS,
        vmin=-limit,
        vmax=limit,
        interpolation=_interpolation(axes, change.shape[1]),
    )


def change_limit(changes: NDArray[np.float64]) -> float:
    """Find the limit of a scale that is symmetric around no change.

    Args:
        changes (NDArray): All that the scale is for.

    Returns:
        float: The largest magnitude; 1 where nothing changed at all.
    """
    return float(np.abs(changes).max(initial=0.0)) or 1.0


def draw_change_scale(sheet: Sheet, image: AxesImage, right: float) -> None:
    """Add the legend of changes: a vertical bar with numbers, beside the images.

    Args:
        sheet (Sheet): The sheet.
        image (matplotlib.image.AxesImage): Drawn by :func:`draw_change`.
        right (float): Inches from the bar to the figure's right edge.
    """
    width, height = sheet.figure.get_size_inches()
    top = sheet.axes[0, 0].get_position().y1 * height
    bottom = sheet.axes[-1, 0].get_position().y0 * height
    length = min(top - bottom, 2.5)
    bar = sheet.figure.colorbar(
        image, cax=add_axes(sheet.figure, width - right, top - length, 0.12, length)
    )
    bar.ax.locator_params(axis="y", nbins=5 if length > 1 else 3)
    bar.ax.tick_params(labelsize=FONT_SIZE)
    label = "change of the pixel's value" if length > 1.8 else "change"
    bar.set_label(label, fontsize=FONT_SIZE)


def mark_failed(axes: Axes) -> None:
    """Frame an image as a failed attempt.

    Args:
        axes (matplotlib.axes.Axes): Where it was drawn.
    """
    for spine in axes.spines.values():
        spine.set(color=FAILED_COLOR, linewidth=2.5)


def write(axes: Axes, text: str, **style: Any) -> None:
    """Put a title above an image, to the letter (dollar signs are no formulas).

    Args:
        axes (matplotlib.axes.Axes): The image's.
        text (str): What to write.
        **style (Any): Of :class:`matplotlib.text.Text`.
    """
    axes.set_title(text, **{"fontsize": FONT_SIZE, "pad": 4, "parse_math": False, **style})


def write_heading(sheet: Sheet, text: str) -> Text:
    """Put a heading at the upper left of a sheet.

    Args:
        sheet (Sheet): The sheet.
        text (str): What to write.

    Returns:
        matplotlib.text.Text: What was written.
    """
    width, height = sheet.figure.get_size_inches()
    return sheet.figure.text(
        0.15 / width,
        1 - 0.1 / height,
        text,
        va="top",
        fontsize=FONT_SIZE + 1,
        fontweight="bold",
        parse_math=False,
    )


def write_note(sheet: Sheet, note: str) -> None:
    """Put a line below a sheet, which has a bottom margin of 0.4 inches for it.

    Args:
        sheet (Sheet): The sheet.
        note (str): What to write.
    """
    box = sheet.axes[-1, 0].get_position()
    height = sheet.figure.get_size_inches()[1]
    sheet.figure.text(
        box.x0, 0.12 / height, note, fontsize=FONT_SIZE, va="bottom", parse_math=False
    )


def fitted(name: str, width: float, around: str = "{}") -> str:
    """Shorten a name, so that a line of text fits.

    Args:
        name (str): What may lose its end.
        width (float): Inches that there are for the whole line.
        around (str, optional): The line, with ``{}`` where the name goes. Default: "{}"

    Returns:
        str: The line.
    """
    line = around.replace("{}", name)
    kept = len(name)
    while text_width(line) > width and kept > 1:
        kept -= 1
        line = around.replace("{}", name[:kept].rstrip() + "…")
    return line


def text_width(text: str) -> float:
    """Measure a line of text.

    Args:
        text (str): One line.

    Returns:
        float: Its width in inches.
    """
    font = FontProperties(size=FONT_SIZE)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]) / 72


def _snap(inches: float) -> float:
    """Move to the next edge between screen pixels."""
    return round(inches * DPI) / DPI


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color=_FRAME_COLOR, linewidth=0.8)


def _interpolation(axes: Axes, columns: int) -> str | None:
    """Pixels as squares, unless there are more of them than the screen has there."""
    return "nearest" if axes.get_window_extent().width >= columns else None
