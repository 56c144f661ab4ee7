"""Rows of images, with nothing said of them but their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from captum_deduce.visualization import sheet as sheets
from captum_deduce.visualization.pixels import Bands, PixelScale, check_images


@sheets.own_style()
def plot_images(
    rows: Mapping[str, Tensor],
    titles: Sequence[Sequence[str]] | None = None,
    *,
    bands: Bands | None = None,
) -> Figure:
    """Draw named rows of images.

    Args:
        rows (Mapping[str, Tensor]): For each name as many images as for the others, N x channels x
            height x width in [0, 1]; 1 channel or 3, or more with ``bands``.
        titles (Sequence[Sequence[str]], optional): For each row N lines, one above each image.
            Default: None
        bands (int or Sequence[int], optional): Of more than three channels those to draw as red,
            green and blue, or one as grey. Default: None (all are drawn)

    Returns:
        matplotlib.figure.Figure: The figure; it is not shown. There is no ``ax``
        argument: each image has axes of its own.

    Raises:
        ValueError: No row or no image, images that are neither grey nor RGB or differ in shape, or
            another number of titles.

    Examples::

        >>> import torch
        >>> originals = torch.rand(3, 1, 8, 8)
        >>> figure = plot_images({"original": originals, "darker": originals / 2})
    """
    for name, images in rows.items():
        check_images(images, f"rows[{name!r}]", bands)
    shapes = {tuple(images.shape) for images in rows.values()}
    if len(shapes) != 1:
        raise ValueError(
            "rows must hold images of one shape, as many in each and at least one, got shapes "
            f"{sorted(shapes)}"
        )
    first = next(iter(rows.values()))
    if titles is not None and [len(line) for line in titles] != [len(first)] * len(rows):
        raise ValueError(
            f"titles must hold {len(rows)} row(s) of {len(first)}, got "
            f"{[len(line) for line in titles]}"
        )
    scale = PixelScale.read(None, None, first.shape[1:], bands)
    sheet = sheets.make_sheet(
        len(rows),
        len(first),
        first.shape[2:],
        image_size=1.0,
        title_lines=0 if titles is None else 1,
        margins=sheets.Margins(left=0.3 + max(map(sheets.text_width, rows))),
    )
    for place, (name, images) in enumerate(rows.items()):
        for column, colors in enumerate(scale.colors(images)):
            sheets.draw_colors(sheet.axes[place, column], colors)
            if titles is not None:
                sheets.write(sheet.axes[place, column], titles[place][column])
        sheet.axes[place, 0].set_ylabel(
            name, rotation=0, ha="right", va="center", fontsize=sheets.FONT_SIZE
        )
    return sheet.figure
