from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib import style
from PIL import Image

from captum_deduce.visualization import sheet as sheets
from tests.visualization.samples import raster


def _window(figure, axes):
    """Rows and columns of the rendered figure that axes cover, without their frame."""
    box = axes.get_window_extent()
    height = figure.bbox.height
    return round(height - box.y1), round(height - box.y0), round(box.x0), round(box.x1)


@pytest.mark.parametrize("shape", [(8, 8), (28, 28), (5, 12), (32, 32), (12, 5)])
def test_each_pixel_of_a_small_image_is_drawn_as_an_equal_square(shape):
    sheet = sheets.make_sheet(2, 3, shape, image_size=0.9, title_lines=1)
    colors = np.random.default_rng(0).integers(0, 256, (*shape, 3)) / 255
    for axes in sheet.axes.flat:
        sheets.draw_colors(axes, colors)
        for spine in axes.spines.values():
            spine.set_visible(False)
    rendered = raster(sheet.figure)
    for axes in sheet.axes.flat:
        top, bottom, left, right = _window(sheet.figure, axes)
        zoom = (right - left) // shape[1]
        assert (bottom - top, right - left) == (zoom * shape[0], zoom * shape[1])
        # [image row, row inside the square, image column, column inside it, channel]
        squares = rendered[top:bottom, left:right].reshape(shape[0], zoom, shape[1], zoom, 3)
        expected = np.broadcast_to(colors[:, None, :, None], squares.shape)
        # older versions of matplotlib draw edges a screen pixel off
        inner = np.s_[:, 1:-1, :, 1:-1]
        np.testing.assert_allclose(squares[inner], expected[inner], atol=1e-9)


def test_a_photo_is_drawn_smaller_than_its_pixels_and_keeps_its_proportions():
    sheet = sheets.make_sheet(1, 1, (600, 300), image_size=1.0)
    box = sheet.axes[0, 0].get_window_extent()
    assert box.height == pytest.approx(150)
    assert box.width == pytest.approx(75)
    photo = sheets.draw_colors(sheet.axes[0, 0], np.zeros((600, 300, 3)))
    assert photo.get_interpolation() != "nearest"


def test_columns_are_as_wide_as_asked_and_images_centred_in_them():
    sheet = sheets.make_sheet(1, 2, (10, 10), image_size=0.5, least_width=2.0)
    first, second = (axes.get_window_extent() for axes in sheet.axes[0])
    assert second.x0 - first.x0 == pytest.approx((2.0 + 0.12) * sheets.DPI)
    assert first.x0 - 0.15 * sheets.DPI == pytest.approx((200 - first.width) / 2)
    assert sheet.column_width == 2.0


def test_changes_are_drawn_around_a_neutral_zero():
    sheet = sheets.make_sheet(1, 1, (1, 3), image_size=1.0)
    image = sheets.draw_change(sheet.axes[0, 0], np.array([[-0.5, 0.0, 0.5]]), 0.5)
    assert image.get_clim() == (-0.5, 0.5)
    low, zero, high = image.to_rgba(image.get_array())[0, :, :3]
    assert zero.min() > 0.95  # near white
    assert np.ptp(zero) < 0.01
    assert low[2] - low[0] > 0.25  # blue
    assert high[0] - high[2] > 0.25  # red


def test_the_scale_of_changes_is_symmetric_and_never_empty():
    assert sheets.change_limit(np.array([[0.1, -0.4], [0.2, 0.0]])) == 0.4
    assert sheets.change_limit(np.zeros((2, 2))) == 1.0


def test_names_are_shortened_until_the_line_fits():
    assert sheets.fitted("cat", 5.0, "seen as {} (5.0%)") == "seen as cat (5.0%)"
    long = "a very long class name with {} and $dollars$"
    line = sheets.fitted(long, 1.5, "seen as {} (5.0%)")
    assert line.startswith("seen as a very")
    assert line.endswith("… (5.0%)")
    assert sheets.text_width(line) <= 1.5
    assert sheets.text_width(sheets.fitted(long, 20.0)) > 1.5
    assert sheets.fitted("cat", 0.0) == "c…"


def test_measured_widths_are_those_that_are_drawn():
    figure = sheets.Picture(figsize=(6, 1), dpi=sheets.DPI)
    words = "seen as automobile (62.5%) $x$"
    text = figure.text(0, 0.5, words, fontsize=sheets.FONT_SIZE, parse_math=False)
    raster(figure)
    drawn = text.get_window_extent().width / sheets.DPI
    assert sheets.text_width(words) == pytest.approx(drawn, rel=0.06)


def test_a_picture_shows_itself_in_notebooks_and_stays_out_of_pyplot():
    before = plt.get_fignums()
    figure = sheets.Picture(figsize=(2.0, 1.0), dpi=100)
    shown = Image.open(io.BytesIO(figure._repr_png_()))
    assert shown.format == "PNG"
    assert shown.size == (200, 100)
    assert plt.get_fignums() == before


@sheets.own_style()
def _drawing():
    sheet = sheets.make_sheet(1, 1, (2, 2), image_size=1.0, title_lines=1)
    sheets.draw_colors(sheet.axes[0, 0], np.zeros((2, 2, 3)))
    sheets.write(sheet.axes[0, 0], "title")
    return sheet.figure


def test_pictures_are_the_same_whatever_style_is_in_use(tmp_path):
    expected = raster(_drawing())
    assert expected[0, 0].tolist() == [1, 1, 1]
    settings = {"font.size": 30, "text.usetex": True, "image.interpolation": "bicubic"}
    with style.context(["dark_background", settings]):
        figure = _drawing()
        figure.savefig(tmp_path / "saved.png")
        np.testing.assert_array_equal(raster(figure), expected)
        assert plt.rcParams["font.size"] == 30
        assert plt.rcParams["text.color"] == "white"
    saved = np.asarray(Image.open(tmp_path / "saved.png").convert("RGB")) / 255
    np.testing.assert_array_equal(saved, expected)


def test_the_users_fonts_are_kept():
    with style.context({"font.family": ["DejaVu Serif"]}):
        title = _drawing().axes[0].title
        assert title.get_fontfamily() == ["DejaVu Serif"]


def test_dollar_signs_are_no_formulas():
    sheet = sheets.make_sheet(1, 1, (2, 2), image_size=1.0, title_lines=1)
    sheets.write(sheet.axes[0, 0], r"$\broken{ and $")
    heading = sheets.write_heading(sheet, r"$\broken{ and $")
    assert raster(sheet.figure).min() < 1
    assert not sheet.axes[0, 0].title.get_parse_math()
    assert not heading.get_parse_math()


def test_a_new_figure_is_drawn_by_a_notebook_and_known_to_no_window():
    before = plt.get_fignums()
    figure = sheets.new_figure(3.0, 2.0)
    assert tuple(figure.get_size_inches()) == (3.0, 2.0)
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert plt.get_fignums() == before
