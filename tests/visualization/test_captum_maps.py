from __future__ import annotations

import inspect
import warnings

import numpy as np
import pytest
import torch
from captum.attr import visualization as captum

from captum_deduce.visualization import (
    captum_attribution,
    captum_image,
    visualize_attribution,
)
from tests.visualization.samples import ONE, SEVEN, changed, raster

METHODS = ["heat_map", "blended_heat_map", "original_image", "masked_image", "alpha_scaling"]
SIGNS = ["all", "positive", "negative", "absolute_value"]
DRAWABLE = [
    (method, sign)
    for method in METHODS
    for sign in SIGNS
    if sign != "all" or method not in ("masked_image", "alpha_scaling")
]


def _brightened():
    return changed(ONE, (0, 0, 0.5), (7, 2, 1.0)) - ONE


# --- what goes wrong without these helpers ---


@pytest.mark.parametrize("sign", SIGNS)
def test_captum_itself_stops_at_empty_maps(sign):
    with pytest.raises(AssertionError, match="scale factor = 0"):
        captum.visualize_image_attr(np.zeros((8, 8, 1)), sign=sign, use_pyplot=False)


def test_captum_itself_stops_at_a_sign_that_a_map_lacks():
    raw = _brightened().permute(1, 2, 0).numpy()
    with pytest.raises(AssertionError, match="scale factor = 0"):
        captum.visualize_image_attr(raw, sign="negative", use_pyplot=False)


def test_captum_itself_loses_channels_that_cancel():
    raw = np.zeros((2, 2, 3))
    raw[0, 0] = [0.5, -0.5, 0.0]
    raw[1, 1] = 0.1
    _, axes = captum.visualize_image_attr(raw, sign="all", use_pyplot=False)
    assert axes.images[0].get_array()[0, 0] == 0


def test_captum_itself_fails_on_some_maps_without_outliers():
    total = next(x for x in np.linspace(0.1, 1, 1000) if x * 0.01 * 100.0 > x)
    raw = np.full((1, 1), total)
    with pytest.raises(IndexError):
        captum.visualize_image_attr(raw, outlier_perc=0, use_pyplot=False)
    assert captum.visualize_image_attr(raw, outlier_perc=1e-6, use_pyplot=False)


# --- captum_image ---


def test_images_have_channels_last_and_colours_from_0_to_1():
    pixels = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0))
    image = captum_image((pixels - 0.5) / 0.25, mean=0.5, std=0.25)
    np.testing.assert_allclose(image, pixels.permute(1, 2, 0), atol=1e-6)
    grey = captum_image(pixels[:1].unsqueeze(0))
    assert grey.shape == (4, 5, 3)
    np.testing.assert_array_equal(grey, pixels[0].double().unsqueeze(2).expand(-1, -1, 3))
    grey[0, 0] = 0.25  # an array of its own
    assert grey[0, 0].tolist() == [0.25] * 3


def test_captum_draws_a_grey_image_in_grey():
    _, axes = captum.visualize_image_attr(
        captum_attribution(_brightened()),
        captum_image(SEVEN),
        method="original_image",
        use_pyplot=False,
    )
    shown = axes.images[0].to_rgba(axes.images[0].get_array())[..., :3]
    assert np.ptp(shown, axis=-1).max() == 0
    np.testing.assert_allclose(shown[..., 0], SEVEN[0], atol=1 / 255)


# --- captum_attribution ---


def test_channels_that_cancel_are_kept():
    attribution = torch.zeros(3, 2, 2)
    attribution[:, 0, 0] = torch.tensor([0.5, -0.625, 0.125])
    attribution[:, 1, 1] = torch.tensor([0.25, 0.25, 0.25])
    largest = captum_attribution(attribution)
    assert largest.shape == (2, 2, 1)
    np.testing.assert_array_equal(largest[..., 0], [[-0.625, 0], [0, 0.25]])
    magnitude = captum_attribution(attribution.unsqueeze(0), channels="magnitude")
    np.testing.assert_allclose(magnitude[..., 0], [[1.25, 0], [0, 0.75]], atol=1e-300)


@pytest.mark.parametrize(("method", "sign"), DRAWABLE)
@pytest.mark.parametrize("kind", ["none", "brighter", "darker", "both"])
def test_captum_draws_every_map_with_every_method_and_sign(kind, method, sign):
    brighter, darker = _brightened(), ONE * 0 - _brightened().flip(-1)
    maps = {"none": 0 * ONE, "brighter": brighter, "darker": darker, "both": brighter + darker}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "values are all close to 0": so they are
        _, axes = captum.visualize_image_attr(
            captum_attribution(maps[kind]),
            captum_image(ONE),
            method=method,
            sign=sign,
            use_pyplot=False,
        )
    assert axes.images[-1].get_array().shape[:2] == (8, 8)


def test_what_makes_a_sign_drawable_is_no_number_to_speak_of():
    attribution = _brightened()
    map_ = captum_attribution(attribution)
    np.testing.assert_allclose(map_[..., 0], attribution[0].double(), atol=1e-300)
    assert (map_ < 0).sum() == 1
    empty = captum_attribution(0 * ONE)
    assert (np.abs(empty) < 1e-300).all()
    assert (empty > 0).sum() == (empty < 0).sum() == 1
    # a map that is positive everywhere is left as it is
    full = torch.full((1, 2, 2), 0.5)
    np.testing.assert_array_equal(captum_attribution(full), 0.5)


def test_several_panels_of_captum_take_them():
    figure, axes = captum.visualize_image_attr_multiple(
        captum_attribution(_brightened() - _brightened().flip(-1)),
        captum_image(SEVEN),
        ["original_image", "heat_map", "blended_heat_map", "masked_image"],
        ["all", "all", "absolute_value", "negative"],
        use_pyplot=False,
    )
    assert len(figure.axes) == len(axes) == 4


@pytest.mark.parametrize("function", [captum_image, captum_attribution])
def test_what_is_no_single_image_is_refused(function):
    (name,) = [p for p in inspect.signature(function).parameters if p in ("image", "attribution")]
    with pytest.raises(ValueError, match=rf"{name} must be one image.*\(2, 1, 8, 8\)"):
        function(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=rf"{name} must be one image.*\(8, 8\)"):
        function(torch.zeros(8, 8))
    with pytest.raises(TypeError, match=rf"{name} must be a torch.Tensor, got ndarray"):
        function(np.zeros((1, 8, 8)))
    with pytest.raises(TypeError, match=rf"{name} .*int64"):
        function(torch.zeros(1, 8, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"{name} must be finite"):
        function(torch.full((1, 8, 8), float("nan")))


def test_channels_are_a_known_word():
    with pytest.raises(ValueError, match="channels must be one of 'largest', 'magnitude'"):
        captum_attribution(ONE, channels="sum")


def test_attributions_of_many_channels_are_reduced():
    many = torch.randn(7, 3, 4)
    expected = many.abs().max(0).values
    np.testing.assert_allclose(np.abs(captum_attribution(many))[..., 0], expected)
    nan = many.clone()
    nan[6, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="attribution must be finite"):
        captum_attribution(nan)


# --- visualize_attribution ---


@pytest.mark.parametrize(("method", "sign"), DRAWABLE)
def test_a_map_without_the_sign_is_drawn_blank_without_a_warning(method, sign):
    attribution = 0 * ONE if sign != "negative" else _brightened()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = visualize_attribution(attribution, SEVEN, methods=method, signs=sign)
    shown = figure.axes[0].images[-1].get_array()
    if method == "original_image":
        assert shown.max() == 255
    elif method == "alpha_scaling":
        assert shown.shape == (8, 8, 4)
        assert not shown.any()
    else:
        assert not shown.any()


def test_a_known_change_has_its_sign_and_place():
    attribution = changed(ONE, (1, 6, 0.5), (1, 4, 0.0)) - ONE
    figure = visualize_attribution(attribution)
    shown = figure.axes[0].images[-1].get_array()
    expected = np.zeros((8, 8))
    expected[1, 6], expected[1, 4] = 0.5, -1
    np.testing.assert_allclose(shown, expected, atol=1e-6)
    drawn = figure.axes[0].images[-1]
    colors = drawn.to_rgba(shown)
    assert colors[1, 6, 0] > colors[1, 6, 2]  # red
    assert colors[1, 4, 2] > colors[1, 4, 0]  # blue


def test_sparse_maps_are_not_saturated():
    attribution = torch.zeros(1, 4, 4)
    attribution[0, 0] = torch.tensor([1.0, 0.99, 0.5, 0.01])
    standard = visualize_attribution(attribution, outlier_perc=2.0)
    ours = visualize_attribution(attribution)
    np.testing.assert_allclose(ours.axes[0].images[0].get_array(), attribution[0], atol=1e-7)
    assert standard.axes[0].images[0].get_array()[0, 1] >= 0.99


def test_panels_are_captums():
    attribution = _brightened() - _brightened().flip(-1)
    figure = visualize_attribution(
        attribution,
        SEVEN,
        methods=METHODS,
        signs=["all", "positive", "all", "negative", "absolute_value"],
        titles=list("abcde"),
        show_colorbar=True,
        alpha_overlay=0.75,
        panel_size=2.0,
    )
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == list("abcde")
    assert panels[1].images[-1].get_alpha() == 0.75
    for axes, sign in zip(panels[:2], ("all", "positive"), strict=True):
        _, expected = captum.visualize_image_attr(
            attribution.permute(1, 2, 0).numpy(), sign=sign, outlier_perc=1e-6, use_pyplot=False
        )
        np.testing.assert_allclose(
            axes.images[-1].get_array(), expected.images[0].get_array(), atol=1e-6
        )
    assert raster(figure).shape[:2] == pytest.approx((230, 1000), abs=1)


def test_colour_maps_can_be_chosen():
    figure = visualize_attribution(_brightened(), cmap="PuOr")
    assert figure.axes[0].images[0].get_cmap().name == "PuOr"
    assert visualize_attribution(_brightened()).axes[0].images[0].get_cmap().name == "RdBu_r"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"methods": "saliency"}, ValueError, "methods must be one of 'heat_map'"),
        ({"signs": "both"}, ValueError, "signs must be one of 'positive'"),
        ({"methods": []}, ValueError, "0 methods"),
        (
            {"methods": ["heat_map"], "signs": ["all", "all"]},
            ValueError,
            "signs .*1 methods, got 2",
        ),
        ({"titles": ["a", "b"]}, ValueError, "titles .*1 methods, got 2"),
        ({"methods": "blended_heat_map"}, ValueError, "image is None.*blended_heat_map"),
        ({"image": ONE, "methods": "masked_image"}, ValueError, "signs .*'masked_image'.*'all'"),
        ({"image": ONE[:, :4], "methods": "heat_map"}, ValueError, r"image .*\(8, 8\).*\(4, 8\)"),
        ({"outlier_perc": 0}, ValueError, "outlier_perc"),
        ({"panel_size": 0}, ValueError, "panel_size"),
        ({"channels": "sum"}, ValueError, "channels"),
        ({"image": 3 * ONE}, ValueError, "image .*mean and std"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        visualize_attribution(_brightened(), **arguments)
