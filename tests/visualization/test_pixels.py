from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.visualization.pixels import PixelScale, check_images, in_colors, strongest

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _scale(mean=None, std=None, shape=(3, 4, 5)):
    return PixelScale.read(mean, std, shape)


def test_a_grey_image_has_three_equal_channels():
    images = torch.rand(2, 1, 4, 5)
    colors = _scale(shape=(1, 4, 5)).colors(images)
    assert colors.shape == (2, 4, 5, 3)
    for channel in range(3):
        np.testing.assert_array_equal(colors[..., channel], images[:, 0].double().numpy())


@pytest.mark.parametrize(
    "form",
    [
        tuple,
        np.array,
        torch.tensor,
        lambda v: torch.tensor(v, dtype=torch.float64).view(3, 1, 1),
        lambda v: torch.tensor(v).view(1, 3, 1, 1),
        lambda v: torch.tensor(v).view(3, 1, 1).expand(3, 4, 5),
    ],
)
def test_normalised_inputs_come_back_in_their_colours(form):
    pixels = np.random.default_rng(0).random((2, 3, 4, 5))
    normalised = np.empty_like(pixels)
    for channel in range(3):
        normalised[:, channel] = (pixels[:, channel] - MEAN[channel]) / STD[channel]
    colors = _scale(form(MEAN), form(STD)).colors(torch.from_numpy(normalised).float())
    np.testing.assert_allclose(colors, pixels.transpose(0, 2, 3, 1), atol=1e-6)


def test_numbers_hold_for_every_channel():
    images = torch.full((1, 3, 4, 5), -1.0)
    images[:, 1] = 1.0
    colors = _scale(0.5, 0.5).colors(images)
    np.testing.assert_array_equal(colors[0, 0, 0], [0, 1, 0])
    np.testing.assert_array_equal(_scale(0, 1 / 255).colors(images * 0 + 255), 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_floating_point_type_is_drawn(dtype):
    images = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=dtype).view(1, 1, 2, 2).requires_grad_()
    colors = _scale(shape=(1, 2, 2)).colors(images)
    np.testing.assert_array_equal(colors[0, ..., 0], [[0, 0.25], [0.5, 1]])


def test_colours_outside_are_refused_but_rounding_is_not():
    images = torch.tensor([-0.003, 1.003]).view(1, 1, 1, 2)
    assert in_colors(images)
    np.testing.assert_array_equal(_scale(shape=(1, 1, 2)).colors(images)[0, 0, :, 0], [0, 1])
    for value in (-0.1, 1.1, 255.0):
        assert not in_colors(torch.full((1, 1, 1, 2), value))
        with pytest.raises(ValueError, match=r"photos .*mean and std"):
            _scale(shape=(1, 1, 2)).colors(torch.full((1, 1, 1, 2), value), "photos")


def test_changes_are_in_colours_not_in_normalised_units():
    inputs = torch.zeros(1, 3, 1, 2)
    counterfactuals = inputs.clone()
    counterfactuals[0, 2, 0, 1] = 2.0
    change = _scale(MEAN, STD, (3, 1, 2)).changes(inputs, counterfactuals)
    np.testing.assert_allclose(change, [[[0, 2.0 * STD[2]]]])


def test_each_site_shows_its_strongest_channel_with_its_sign():
    changes = np.random.default_rng(1).normal(size=(3, 4, 5, 6))
    changes[0, :, 0, 0] = [0.5, -0.5, 0.0, 0.0]  # channels that cancel
    changes[0, :, 0, 1] = 0.0
    naive = np.empty((3, 5, 6))
    for image in range(3):
        for row in range(5):
            for column in range(6):
                naive[image, row, column] = max(changes[image, :, row, column], key=abs)
    np.testing.assert_array_equal(strongest(changes), naive)
    assert strongest(changes)[0, 0, 0] == 0.5


def test_one_original_is_compared_with_many_images():
    original, path = torch.rand(1, 1, 2, 3), torch.rand(4, 1, 2, 3)
    change = _scale(shape=(1, 2, 3)).changes(original, path)
    np.testing.assert_array_equal(change, (path.double() - original.double())[:, 0].numpy())


def test_a_stretched_scale_goes_from_black_to_white():
    low, high = torch.full((1, 1, 2, 2), -3.0), torch.full((1, 1, 2, 2), 5.0)
    scale = PixelScale.stretched(low, high)
    assert scale.colors(low).max() == pytest.approx(0)
    assert scale.colors(high).min() == pytest.approx(1)
    assert scale.colors(low + 4).mean() == pytest.approx(0.5)
    flat = PixelScale.stretched(low)
    assert np.isfinite(flat.colors(low)).all()


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.zeros(2, 64), ValueError, r"pics .*1 \(grey\) or 3 \(RGB\).*\(2, 64\)"),
        (torch.zeros(2, 2, 4, 4), ValueError, r"pics .*\(2, 2, 4, 4\)"),
        (torch.zeros(2, 4, 4, 4), ValueError, r"pics .*\(2, 4, 4, 4\)"),
        (torch.zeros(1, 8, 8), ValueError, r"pics .*\(1, 8, 8\)"),
        (torch.zeros(2, 1, 0, 4), ValueError, r"pics .*\(2, 1, 0, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), TypeError, r"pics .*torch.uint8"),
        (np.zeros((2, 1, 4, 4)), TypeError, r"pics .*ndarray"),
        (torch.full((1, 1, 2, 2), float("nan")), ValueError, r"pics .*NaN"),
        (torch.full((1, 1, 2, 2), float("inf")), ValueError, r"pics .*infinite"),
    ],
)
def test_what_is_no_image_is_refused(images, error, words):
    with pytest.raises(error, match=words):
        check_images(images, "pics")


@pytest.mark.parametrize(
    ("mean", "std", "error", "words"),
    [
        ((0.5, 0.5), None, ValueError, r"mean .*per channel \(3\).*\(2,\)"),
        (None, (0.5, 0.5), ValueError, r"std .*per channel"),
        (torch.zeros(3, 2, 2), None, ValueError, r"mean .*\(3, 2, 2\)"),
        (None, 0.0, ValueError, r"std must be positive"),
        (None, (0.2, -0.2, 0.2), ValueError, r"std must be positive"),
        (float("nan"), None, ValueError, r"mean must be finite"),
        (None, (0.2, float("inf"), 0.2), ValueError, r"std must be finite"),
        ("imagenet", None, TypeError, r"mean must hold numbers.*imagenet"),
        (None, [None, 1, 2], ValueError, r"std must be finite"),
    ],
)
def test_a_normalisation_that_does_not_fit_is_refused(mean, std, error, words):
    with pytest.raises(error, match=words):
        _scale(mean, std)


@pytest.mark.parametrize(
    "bands", [(3, 2, 1), [3, 2, 1], np.array([3, 2, 1]), torch.tensor([3, 2, 1])]
)
def test_bands_are_drawn_as_red_green_and_blue(bands):
    images = torch.rand(2, 5, 4, 6)
    images[:, 4] = 7.0  # not drawn, and so no colour
    scale = PixelScale.read(None, None, (5, 4, 6), bands)
    expected = np.stack([images[:, band].double().numpy() for band in (3, 2, 1)], -1)
    np.testing.assert_array_equal(scale.colors(images), expected)


@pytest.mark.parametrize("band", [2, (2,), np.int64(2)])
def test_one_band_is_grey(band):
    images = torch.rand(2, 5, 4, 6)
    colors = PixelScale.read(None, None, (5, 4, 6), band).colors(images)
    for channel in range(3):
        np.testing.assert_array_equal(colors[..., channel], images[:, 2].double().numpy())


def test_bands_have_their_own_mean_and_std_and_changes_are_of_all_channels():
    mean, std = [0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 4.0, 8.0]
    scale = PixelScale.read(mean, std, (4, 1, 2), (3, 0, 1))
    images = torch.zeros(1, 4, 1, 2)
    np.testing.assert_allclose(scale.colors(images)[0, 0, 0], [0.4, 0.1, 0.2])
    changed = images.clone()
    changed[0, 2, 0, 1] = -0.5
    np.testing.assert_array_equal(scale.changes(images, changed), [[[0, -0.5 * 4]]])


@pytest.mark.parametrize(
    ("bands", "error", "words"),
    [
        ((3, 2, 4), ValueError, r"three channels of 0 ... 3.*\(3, 2, 4\)"),
        ((0, -1, 2), ValueError, "three channels of 0 ... 3"),
        ((0, 1), ValueError, "or one, got"),
        ((), ValueError, "or one, got"),
        ("rgb", TypeError, "numbers of channels, got 'rgb'"),
        ((0.5, 1, 2), TypeError, "numbers of channels"),
    ],
)
def test_bands_that_are_no_channels_are_refused(bands, error, words):
    with pytest.raises(error, match=f"bands must .*{words}"):
        PixelScale.read(None, None, (4, 8, 8), bands)


def test_without_bands_other_channels_are_refused_by_their_name():
    for channels in (2, 4, 13):
        with pytest.raises(ValueError, match=r"pass bands, .* bands=\(3, 2, 1\)"):
            check_images(torch.zeros(1, channels, 4, 4), "pics")
    check_images(torch.zeros(1, 13, 4, 4), "pics", (3, 2, 1))
