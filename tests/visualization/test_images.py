from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.visualization import plot_images


def drawn(figure):
    return [np.asarray(axes.get_images()[0].get_array()) for axes in figure.axes]


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stand_in_named_rows_below_their_titles(channels):
    rows = {"original": torch.rand(2, channels, 5, 4), "other": torch.rand(2, channels, 5, 4)}
    figure = plot_images(rows, [["a", "b"], ["c", ""]])
    assert [axes.get_title() or axes.texts[0].get_text() for axes in figure.axes[:3]] == [*"abc"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["original", "", "other", ""]
    expected = torch.cat(list(rows.values())).movedim(1, -1).expand(-1, -1, -1, 3)
    for shown, image in zip(drawn(figure), expected, strict=True):
        np.testing.assert_allclose(shown, image, atol=1e-6)


def test_titles_are_not_needed():
    figure = plot_images({"only": torch.zeros(3, 1, 4, 4)})
    assert len(drawn(figure)) == 3


@pytest.mark.parametrize("side", [8, 28, 32, 224])
def test_images_are_large_enough_to_see_single_pixels(side):
    figure = plot_images({"only": torch.zeros(2, 1, side, side)})
    assert min(round(axes.get_window_extent().width) for axes in figure.axes) >= 96


@pytest.mark.parametrize(
    ("rows", "titles", "message"),
    [
        ({}, None, "rows must hold images of one shape"),
        ({"a": torch.zeros(2, 1, 4, 4), "b": torch.zeros(3, 1, 4, 4)}, None, "of one shape"),
        ({"a": torch.zeros(2, 4, 4, 4)}, None, r"rows\['a'\]"),
        ({"a": torch.zeros(2, 1, 4, 4)}, [["x"]], r"titles must hold 1 row\(s\) of 2"),
        ({"a": torch.zeros(2, 1, 4, 4)}, [], "titles must hold"),
    ],
)
def test_what_can_not_be_drawn_is_refused(rows, titles, message):
    with pytest.raises(ValueError, match=message):
        plot_images(rows, titles)
