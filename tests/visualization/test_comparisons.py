from __future__ import annotations

import dataclasses
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import same_color
from PIL import Image

from captum_deduce.visualization import (
    plot_counterfactuals,
    plot_grid,
    plot_images,
    plot_trajectory,
    save_animation,
    visualize_attribution,
)
from captum_deduce.visualization.sheet import FAILED_COLOR
from tests.visualization import stored
from tests.visualization.samples import (
    ONE,
    SEVEN,
    assert_readable,
    changed,
    grey_result,
    make_result,
    raster,
    texts,
)

NORMALISED = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.5)}


def _rows(figure, rows, columns):
    """The axes of a sheet's images, row by row."""
    return np.array(figure.axes[: rows * columns]).reshape(rows, columns)


def _array(axes):
    return np.asarray(axes.images[0].get_array())


def _words(figure):
    return [text.get_text() for text in texts(figure)]


def _is_framed(axes):
    return all(same_color(s.get_edgecolor(), FAILED_COLOR) for s in axes.spines.values())


# --- plot_counterfactuals ---


def test_each_row_shows_original_counterfactual_and_change():
    result = grey_result()
    figure = plot_counterfactuals(result)
    for pair, (left, middle, right) in enumerate(_rows(figure, 4, 3)):
        for channel in range(3):
            np.testing.assert_array_equal(_array(left)[..., channel], result.inputs[pair, 0])
            np.testing.assert_array_equal(
                _array(middle)[..., channel], result.counterfactuals[pair, 0]
            )
        difference = (result.counterfactuals - result.inputs)[pair, 0]
        np.testing.assert_allclose(_array(right), difference, atol=1e-7)


def test_a_known_change_has_its_colour_at_its_place():
    rows = _rows(plot_counterfactuals(grey_result()), 4, 3)
    drawn = rows[0, 2].images[0]
    shown = drawn.to_rgba(drawn.get_array())
    darker, brighter, same = shown[1, 1], shown[5, 4], shown[0, 0]
    assert darker[2] > darker[0]  # blue: the pixel went out
    assert brighter[0] > brighter[2]  # red: it was lit
    assert same[:3].min() > 0.95
    assert drawn.origin == "upper"


def test_all_rows_share_one_symmetric_scale_with_a_legend():
    result = grey_result()
    figure = plot_counterfactuals(result)
    rows = _rows(figure, 4, 3)
    largest = float((result.counterfactuals - result.inputs).abs().max())
    for axes in rows[:, 2]:
        assert axes.images[0].get_clim() == pytest.approx((-largest, largest))
    (bar,) = figure.axes[12:]
    assert bar.get_ylim() == pytest.approx((-largest, largest))
    assert bar.get_ylabel() == "change of the pixel's value"


def test_titles_say_classes_probabilities_and_what_changed():
    result = grey_result()
    figure = plot_counterfactuals(
        result,
        class_names=stored.NAMES,
        labels=torch.tensor([7, 1, 2, 1]),
        original_confidence=torch.tensor([0.99, 0.5, 0.75, 1.0]),
    )
    titles = [[axes.get_title() for axes in row] for row in _rows(figure, 4, 3)]
    assert titles == [
        ["label: seven\nseen as seven (99.0%)", "seen as 1 (62.5%)", "3 entries changed"],
        ["label: 1\nseen as 1 (50.0%)", "seen as seven (51.2%)", "2 entries changed"],
        ["label: 2\nseen as seven (75.0%)", "failed: 4 at 12.5%", "1 entry changed"],
        ["label: 1\nseen as 1 (100.0%)", "seen as 1 (100.0%)", "0 entries changed"],
    ]
    assert {"original", "counterfactual", "change"} <= set(_words(figure))


def test_a_failed_pair_is_marked_and_no_other():
    rows = _rows(plot_counterfactuals(grey_result()), 4, 3)
    assert [_is_framed(axes) for axes in rows[:, 1]] == [False, False, True, False]
    assert [same_color(a.title.get_color(), FAILED_COLOR) for a in rows[:, 1]] == [
        *(False, False, True, False)
    ]


def test_the_first_rows_are_drawn_and_a_note_says_so():
    result = grey_result()[[0, 1, 2, 3, 0, 1]]
    figure = plot_counterfactuals(result, max_rows=2)
    assert len(figure.axes) == 2 * 3 + 1
    assert "the first 2 of 6 pairs" in _words(figure)
    assert not any("of 6 pairs" in words for words in _words(plot_counterfactuals(result)))


def test_the_scale_is_of_the_rows_that_are_drawn():
    inputs = torch.stack([ONE, ONE])
    ones = make_result(inputs, torch.stack([changed(ONE, (0, 0, 0.25)), changed(ONE, (0, 0, 1.0))]))
    figure = plot_counterfactuals(ones, max_rows=1)
    assert figure.axes[2].images[0].get_clim() == (-0.25, 0.25)


def _normalised_rgb():
    pixels = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.2
    after = pixels.clone()
    after[0, :, 1, 2] += torch.tensor([0.2, -0.2, 0.0])  # cancels in a sum over channels
    after[0, :, 3, 3] += torch.tensor([0.1, -0.15, 0.05])
    mean, std = (torch.tensor(NORMALISED[name]).view(3, 1, 1) for name in ("mean", "std"))
    return pixels, after, make_result((pixels - mean) / std, (after - mean) / std)


def test_normalised_colour_images_are_shown_in_their_colours():
    pixels, after, result = _normalised_rgb()
    rows = _rows(plot_counterfactuals(result, **NORMALISED), 2, 3)
    for pair, (left, middle, right) in enumerate(rows):
        np.testing.assert_allclose(_array(left), pixels[pair].permute(1, 2, 0), atol=1e-6)
        np.testing.assert_allclose(_array(middle), after[pair].permute(1, 2, 0), atol=1e-6)
        assert _array(right).shape == (5, 7)
    change = _array(rows[0, 2])
    assert change[1, 2] == pytest.approx(0.2, abs=1e-6)
    assert change[3, 3] == pytest.approx(-0.15, abs=1e-6)
    change[1, 2] = change[3, 3] = 0
    np.testing.assert_allclose(change, 0, atol=1e-6)


def test_without_mean_and_std_normalised_images_are_refused():
    _, _, result = _normalised_rgb()
    with pytest.raises(ValueError, match=r"result\.inputs .*mean and std"):
        plot_counterfactuals(result)


def test_every_dtype_and_gradient_state_is_drawn():
    result = grey_result()
    double = replace(
        result,
        inputs=result.inputs.double().requires_grad_(),
        counterfactuals=result.counterfactuals.double().requires_grad_(),
    )
    np.testing.assert_allclose(
        raster(plot_counterfactuals(double)), raster(plot_counterfactuals(result)), atol=1e-9
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_results_on_a_gpu_are_drawn():
    result = grey_result()
    tensors = {name: value.cuda() for name, value in vars(result).items() if value is not None}
    there = type(result)(**tensors)
    expected = raster(plot_counterfactuals(result))
    np.testing.assert_array_equal(raster(plot_counterfactuals(there)), expected)


def test_a_result_without_any_change_is_drawn():
    inputs = torch.stack([ONE, SEVEN])
    figure = plot_counterfactuals(make_result(inputs, inputs.clone()))
    assert figure.axes[2].images[0].get_clim() == (-1, 1)
    assert np.isfinite(raster(figure)).all()


def test_long_names_stay_apart():
    names = ["a very long $class$ name that nobody can read"] * 8
    figure = plot_counterfactuals(
        grey_result(),
        class_names=names,
        labels=[0, 1, 2, 3],
        original_confidence=[1.0] * 4,
        max_rows=3,
    )
    assert_readable(figure)
    names = ["automobile"] * 8
    assert "seen as automobile (100.0%)" in _words(
        plot_counterfactuals(grey_result(), class_names=names)
    )


@pytest.mark.parametrize("size", [0.3, 0.8, 1.5, 3.0])
def test_every_size_can_be_read(size):
    figure = plot_counterfactuals(grey_result(), image_size=size, labels=[1, 2, 3, 4])
    assert_readable(figure)


def test_nothing_is_left_in_pyplot():
    before = plt.get_fignums()
    plot_counterfactuals(grey_result())
    assert plt.get_fignums() == before


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"class_names": ["a", "b"]}, ValueError, "class_names .*at least 8"),
        ({"labels": [1, 2]}, ValueError, r"labels .*per pair \(4\).*\(2,\)"),
        ({"labels": [0.5, 1, 2, 3]}, ValueError, "labels .*class indices"),
        ({"labels": [-1, 1, 2, 3]}, ValueError, "labels .*class indices"),
        ({"labels": "1234"}, TypeError, "labels .*one number per pair"),
        ({"labels": [1, 2, 3, 9], "class_names": ["x"] * 8}, ValueError, "class_names .*least 10"),
        ({"original_confidence": torch.ones(3)}, ValueError, "original_confidence .*per pair"),
        ({"max_rows": 0}, ValueError, "max_rows"),
        ({"max_rows": 2.5}, TypeError, "max_rows"),
        ({"image_size": 0}, ValueError, "image_size"),
        ({"mean": (0.1, 0.2)}, ValueError, "mean .*per channel"),
        ({"std": 0}, ValueError, "std"),
        ({"std": 2.0}, ValueError, r"result\.inputs .*from 0 to 1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        plot_counterfactuals(grey_result(), **arguments)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 64), r"grey.*RGB.*\(1, 64\)"), ((2, 2, 8, 8), r"1 \(grey\) or 3 \(RGB\)")],
)
def test_what_is_no_image_is_refused(shape, words):
    vectors = make_result(torch.zeros(shape), torch.ones(shape))
    with pytest.raises(ValueError, match=rf"result\.inputs .*{words}"):
        plot_counterfactuals(vectors)


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="no pairs"):
        plot_counterfactuals(grey_result()[:0])
    with pytest.raises(TypeError, match="result must be Counterfactuals, got dict"):
        plot_counterfactuals({})


# --- against the stored pictures ---


def test_the_picture_is_the_stored_one():
    figure = stored.counterfactuals()
    assert_readable(figure)
    assert stored.distance(figure, "plot_counterfactuals") < stored.TOLERANCE


def test_the_comparison_with_stored_pictures_notices_what_matters():
    result = grey_result()
    arguments = {"class_names": stored.NAMES, "labels": [7, 1, 7, 1]}
    unmarked = replace(result, success=torch.ones(4, dtype=torch.bool))
    swapped = replace(result, inputs=result.counterfactuals, counterfactuals=result.inputs)
    for other in (unmarked, swapped, result[[1, 0, 2, 3]]):
        figure = plot_counterfactuals(other, **arguments)
        assert stored.distance(figure, "plot_counterfactuals") > stored.TOLERANCE


def satellite_result():
    """Two pairs of images of five channels, of which the last is far from a colour."""
    inputs = torch.rand(2, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs[:, 4] = 5.0
    counterfactuals = inputs.clone()
    counterfactuals[:, :3, 2, 2:5] = 1 - inputs[:, :3, 2, 2:5]
    counterfactuals[:, 4, 6, 6] = 4.5  # in a channel that is not drawn
    path = [torch.stack(images) for images in zip(inputs, counterfactuals, strict=True)]
    return make_result(inputs, counterfactuals, trajectory=path)


def test_bands_of_many_channels_are_drawn_in_every_picture(tmp_path):
    result, bands = satellite_result(), (3, 2, 1)
    figures = [
        result.plot(bands=bands),
        plot_grid({"JSMA": result}, changes=True, bands=bands),
        plot_trajectory(result, bands=bands),
        plot_images({"original": result.inputs}, bands=bands),
        visualize_attribution(
            result.attributions[0], result.inputs[0], methods="original_image", bands=bands
        ),
    ]
    expected = result.inputs[0, [3, 2, 1]].permute(1, 2, 0).double().numpy()
    for figure in figures:
        drawn = np.asarray(figure.axes[0].images[0].get_array())
        drawn = drawn / 255 if drawn.dtype == np.uint8 else drawn  # as Captum draws
        np.testing.assert_allclose(drawn, expected, atol=1 / 255 + 1e-6)
    for figure in figures[:3]:
        assert_readable(figure)
    assert figures[0].axes[2].get_title() == "10 entries in 4 places"
    assert "L0 10\nin 4 places" in [axes.get_title() for axes in figures[1].axes]
    assert "10 in 4 places" in [axes.get_title() for axes in figures[2].axes]
    change = np.asarray(figures[0].axes[2].images[0].get_array())
    assert change[6, 6] == pytest.approx(-0.5)
    assert np.count_nonzero(change) == 4
    with Image.open(save_animation(result, 0, tmp_path / "a.gif", bands=bands)) as film:
        assert film.n_frames > 1


def test_without_bands_the_error_names_them(tmp_path):
    result = satellite_result()
    for draw in (
        result.plot,
        lambda: plot_grid({"JSMA": result}),
        lambda: plot_trajectory(result),
        lambda: plot_images({"original": result.inputs}),
        lambda: save_animation(result, 0, tmp_path / "a.gif"),
    ):
        with pytest.raises(ValueError, match=r"\(\d, 5, 8, 8\).*pass bands"):
            draw()
    assert "pass bands" in result._repr_html_()


@pytest.mark.parametrize(
    ("shape", "view"),
    [
        ((2, 30), lambda images: images[:, None, None]),
        ((2, 3, 30), lambda images: images[:, :, None]),
        ((2, 1, 5, 8, 8), lambda images: images[:, :, 3]),
    ],
)
def test_signals_and_volumes_are_drawn_as_the_error_says(shape, view):
    inputs = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    result = make_result(inputs, 1 - inputs)
    with pytest.raises(ValueError, match=r"dataclasses\.replace\(result") as caught:
        result.plot()
    advice = re.search(r"dataclasses\.replace\(.*?\)", str(caught.value)).group()
    seen = eval(advice, {"dataclasses": dataclasses, "result": result, "depth": 3})
    assert torch.equal(seen.inputs, view(inputs))
    assert torch.equal(seen.counterfactuals, view(1 - inputs))
    assert_readable(seen.plot())
