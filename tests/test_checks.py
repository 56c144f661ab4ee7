"""Every message names the argument, what came and what was expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from captum_deduce import checks

IMAGES = torch.zeros(4, 3, 5, 6)


@pytest.mark.parametrize(
    ("value", "limits", "error", "message"),
    [
        ("1", {}, TypeError, "width must be a number, got str: '1'"),
        (True, {}, TypeError, "width must be a number, got bool"),
        (1.0, {"integer": True}, TypeError, "width must be an int, got float: 1.0"),
        (float("nan"), {}, ValueError, "width must be a finite number"),
        (float("inf"), {}, ValueError, "width must be a finite number"),
        (0, {"minimum": 1}, ValueError, r"in \[1, inf\], got 0"),
        (10**400, {"minimum": 1, "integer": True}, ValueError, "width must be a finite number"),
        (1.0, {"minimum": 0, "maximum": 1, "exclusive": True}, ValueError, r"in \(0, 1\), got 1.0"),
    ],
)
def test_numbers_that_are_refused(value, limits, error, message):
    with pytest.raises(error, match=message):
        checks.number("width", value, **limits)


@pytest.mark.parametrize("value", [1, 0.5, np.float32(0.5), np.int64(1)])
def test_numbers_that_pass(value):
    assert checks.number("width", value, minimum=0, maximum=1) is None


def test_flags_and_choices():
    checks.flag("verbose", True)
    with pytest.raises(TypeError, match="verbose must be True or False, got int: 1"):
        checks.flag("verbose", 1)
    checks.choice("pixel", "site", ("entry", "site"))
    with pytest.raises(ValueError, match="pixel must be one of 'entry', 'site', got 'sites'"):
        checks.choice("pixel", "sites", ("entry", "site"))


def test_one_tensor_alone_or_in_a_tuple():
    assert checks.single_tensor(IMAGES) == (IMAGES, False)
    assert checks.single_tensor((IMAGES,)) == (IMAGES, True)
    with pytest.raises(ValueError, match="got a tuple of 2"):
        checks.single_tensor((IMAGES, IMAGES))
    with pytest.raises(TypeError, match=r"inputs must be a torch.Tensor, got ndarray"):
        checks.single_tensor(IMAGES.numpy())
    with pytest.raises(TypeError, match=r"inputs must be a torch.Tensor, got list"):
        checks.single_tensor([IMAGES])


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (IMAGES.to(torch.uint8), TypeError, "float32 or float64, got torch.uint8.*/ 255"),
        (IMAGES.half(), TypeError, "got torch.float16"),
        (torch.zeros(4), ValueError, r"N x channels x height x width.*got \(4,\)"),
        (torch.zeros(0, 1, 8, 8), ValueError, r"N at least 1, got \(0, 1, 8, 8\)"),
        (torch.tensor([[0.0], [float("nan")]]), ValueError, r"NaN or infinite.*image\(s\) 1"),
        (torch.full((9, 1), float("inf")), ValueError, r"0, 1, 2, 3, 4, \.\.\. \(9 in all\)"),
    ],
)
def test_images_that_are_refused(inputs, error, message):
    with pytest.raises(error, match=message):
        checks.images(inputs)


@pytest.mark.parametrize(
    "target",
    [
        2,
        np.int64(2),
        [2] * 4,
        (2,) * 4,
        [2],
        [np.int64(2)] * 4,
        torch.tensor(2),
        torch.tensor([2]),
        torch.tensor([2] * 4, dtype=torch.int32),
        torch.tensor([[2]] * 4),
        np.array([2] * 4),
        [torch.tensor(2)] * 4,
    ],
)
def test_all_forms_of_a_target(target):
    found = checks.targets(target, 4, 3)
    assert found.dtype == torch.int64
    assert found.tolist() == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (3, ValueError, r"target must lie in 0 ... 2 \(the model has 3 classes\), got 3"),
        ([0, -1, 2, 7], ValueError, "got -1, 7"),
        ([0, 1], ValueError, r"one per image \(4\), got shape \(2,\)"),
        (torch.zeros(1, 4, dtype=torch.long), ValueError, r"got shape \(1, 4\)"),
        (1.0, TypeError, "integers.*float"),
        (torch.zeros(4), TypeError, "integers"),
        (True, TypeError, "integers"),
        ("three", TypeError, "target must be an int"),
        ([[0], [1, 2]], TypeError, "target must be an int"),
    ],
)
def test_targets_that_are_refused(target, error, message):
    with pytest.raises(error, match=message):
        checks.targets(target, 4, 3)
    with pytest.raises(error, match=r"^original must"):
        checks.targets(target, 4, 3, "original")


def test_bounds_spread_over_one_input():
    lower, upper = checks.bounds(-1, torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1), IMAGES)
    assert lower.shape == upper.shape == (3, 5, 6)
    assert (lower == -1).all()
    assert (upper[2] == 3).all()
    lower, _ = checks.bounds(torch.zeros(1, 3, 1, 1), 1.0, IMAGES.double())
    assert lower.dtype == torch.float64


@pytest.mark.parametrize(
    ("lower", "upper", "error", "message"),
    [
        (1.0, 0.0, ValueError, "lower_bound must be below upper_bound everywhere, got 1.0 and 0.0"),
        (0.0, 0.0, ValueError, "must be below"),
        ("0", 1.0, TypeError, "lower_bound must be a float or a tensor, got str"),
        (
            0.0,
            torch.ones(3),
            ValueError,
            r"upper_bound must broadcast.*\(3, 5, 6\).*got shape \(3,\)",
        ),
        (0.0, torch.ones(2, 3, 5, 6), ValueError, r"upper_bound must broadcast"),
        (0.0, torch.tensor([1.0, 1, 0, 1]).view(4, 1, 1, 1), ValueError, "must be below"),
        (float("-inf"), 1.0, ValueError, "lower_bound must be finite, got -inf"),
    ],
)
def test_bounds_that_are_refused(lower, upper, error, message):
    with pytest.raises(error, match=message):
        checks.bounds(lower, upper, IMAGES)


def test_inputs_outside_the_bounds_are_described():
    lower, upper = checks.bounds(0.0, 1.0, IMAGES)
    assert checks.outside_bounds(IMAGES, lower, upper) is None
    assert checks.outside_bounds(IMAGES - 5e-7, lower, upper) is None
    outside = IMAGES.clone()
    outside[2, 0, 0, 0] = 1.5
    message = checks.outside_bounds(outside, lower, upper)
    assert "0 to 1" in message
    assert "values from 0 to 1.5" in message
    assert "image(s) 2" in message


def test_masks():
    assert checks.masks(None, IMAGES) is None
    for mask in (torch.ones(5, 6), torch.ones(4, 1, 5, 6, dtype=torch.bool), torch.ones(3, 1, 1)):
        found = checks.masks(mask, IMAGES)
        assert found.dtype == torch.bool
        assert found.shape == IMAGES.shape
        assert found.all()
    with pytest.raises(
        ValueError, match=r"mask must broadcast .*\(4, 3, 5, 6\), got shape \(2, 5, 6\)"
    ):
        checks.masks(torch.ones(2, 5, 6), IMAGES)
    for wrong in (0.5, float("nan")):
        with pytest.raises(ValueError, match=r"only 0 \(keep\) and 1"):
            checks.masks(torch.full((5, 6), wrong), IMAGES)
    # lines of pixels, or a number for each of the images or the channels?
    for several in (torch.zeros(6, 3, 5, 6), torch.zeros(4, 6, 5, 6)):
        with pytest.raises(ValueError, match=r"mask must broadcast .*got shape \(6,\)"):
            checks.masks(torch.ones(6), several)
    assert checks.masks(torch.tensor([1.0]), IMAGES).all()
    assert (
        checks.masks(torch.tensor([1, 0, 1]), torch.zeros(4, 3)).tolist()
        == [[True, False, True]] * 4
    )
    with pytest.raises(TypeError, match=r"mask must be a torch.Tensor or None, got ndarray"):
        checks.masks(np.ones((5, 6)), IMAGES)


def one_at_a_time(value: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Row i for image i, written out."""
    return torch.stack([value[i] + torch.zeros_like(inputs[i]) for i in range(len(inputs))])


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 1, 5, 6), (4, 3, 1, 1), (4, 5, 6), (4, 5, 1)])
def test_what_begins_with_n_has_a_row_for_each_image(shape):
    value = torch.rand(shape)
    expected = one_at_a_time(value, IMAGES)
    assert torch.equal(checks.per_image("mask", value, IMAGES), expected)
    assert torch.equal(checks.masks(value > 0.5, IMAGES), one_at_a_time(value > 0.5, IMAGES) > 0)
    lower, upper = checks.bounds(value - 1, 2.0, IMAGES)
    assert torch.equal(lower, expected - 1)
    assert upper.shape == IMAGES.shape


@pytest.mark.parametrize("shape", [(), (6,), (5, 6), (3, 1, 1), (3, 5, 6), (1, 5, 6), (1, 3, 5, 1)])
def test_what_does_not_is_one_for_all(shape):
    value = torch.rand(shape)
    found = checks.per_image("mask", value, IMAGES)
    assert found.shape == (3, 5, 6)
    assert torch.equal(found.expand(IMAGES.shape), IMAGES * 0 + value)


@pytest.mark.parametrize("copies", [False, True])
def test_what_could_be_for_images_or_for_channels_is_refused(copies):
    three, six = IMAGES[:3], IMAGES[:3].repeat_interleave(2, 0)
    masks = torch.zeros(3, 5, 6)
    masks[range(3), range(3), range(3)] = 1
    message = (
        r"mask of shape \(3, 5, 6\) may be one for each of 3 images or one for each of 3 channels; "
        r"pass mask.unsqueeze\(1\), 3 x 1 x 5 x 6, for images, or mask.unsqueeze\(0\), "
        r"1 x 3 x 5 x 6, for channels"
    )
    with pytest.raises(ValueError, match=message):
        checks.masks(masks, three, copies=copies)
    with pytest.raises(ValueError, match=message.replace("mask", "upper_bound")):
        checks.bounds(-1.0, masks, three, copies=copies)
    # Both readings say the same, or only one is left.
    assert checks.masks(torch.ones(3, 5, 6), three, copies=copies).all()
    channels = torch.tensor([1, 0, 1]).view(3, 1, 1)
    assert torch.equal(
        checks.masks(channels, three, copies=copies), channels.expand(3, 3, 5, 6) > 0
    )
    assert torch.equal(
        checks.masks(masks.unsqueeze(1), three, copies=copies), one_at_a_time(masks, three) > 0
    )
    assert torch.equal(
        checks.masks(masks.unsqueeze(0), three, copies=copies), masks.expand(3, 3, 5, 6) > 0
    )
    if copies:
        with pytest.raises(ValueError, match=message):
            checks.masks(masks, six, copies=True)
    else:
        assert torch.equal(checks.masks(masks, six), masks.expand(6, 3, 5, 6) > 0)


def test_copies_of_an_image_share_its_row():
    rows = torch.rand(2, 1, 5, 6)
    expected = torch.stack([rows[0], rows[0], rows[1], rows[1]]).expand(IMAGES.shape)
    assert torch.equal(checks.per_image("mask", rows, IMAGES, copies=True), expected)
    assert torch.equal(checks.bounds(rows - 1, 1.0, IMAGES, copies=True)[0], expected - 1)
    for value in (rows, torch.rand(0, 1, 5, 6)):
        with pytest.raises(ValueError, match="mask must broadcast"):
            checks.per_image("mask", value, IMAGES)
    for count in (0, 3, 8):
        with pytest.raises(ValueError, match="mask must broadcast"):
            checks.per_image("mask", torch.rand(count, 1, 5, 6), IMAGES, copies=True)


def test_models():
    model = nn.Linear(2, 2)
    assert checks.callable_model("forward_func", model) is model
    with pytest.raises(TypeError, match=r"forward_func must be an nn\.Module .* function.*got int"):
        checks.callable_model("forward_func", 3)
    with pytest.raises(ValueError, match=r"wrapped in DataParallel.*\.module"):
        checks.callable_model("forward_func", nn.DataParallel(model))
    checks.one_device("a module", model)
    with pytest.raises(ValueError, match=r"a module is wrapped in DataParallel"):
        checks.one_device("a module", nn.DataParallel(model))


def test_rows_are_counted_from_both_ends():
    for index in (slice(None, None, -2), [3, -3], np.array([-1, 1]), [False, True, False, True]):
        expected = torch.arange(4).numpy()[index].tolist()
        rows = checks.rows("index", index, 4)
        assert (rows.tolist(), rows.dtype) == (expected, torch.int64)
    assert checks.rows("index", -1, 4).tolist() == [3]
    with pytest.raises(IndexError, match=r"pairs must lie in -4 \.\.\. 3, got -5"):
        checks.rows("pairs", -5, 4)
    with pytest.raises(TypeError, match=r"pairs must be an integer, .* got Tensor torch\.float32"):
        checks.rows("pairs", torch.zeros(2), 4)


def test_some_of_many_numbers():
    assert checks.some([3, 1]) == "3, 1"
    assert checks.some(list(range(9)), most=2) == "0, 1, ... (9 in all)"


def test_numbers_are_read_in_the_precision_of_the_inputs():
    inputs = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    assert checks.per_input("baseline", 0.1, inputs).unique().tolist() == [0.1]
    assert checks.bounds(0.1, 0.7, inputs)[1].unique().tolist() == [0.7]
