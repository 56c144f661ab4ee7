"""The usual augmentations against windows cut out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from captum_deduce.training.augmentation import AUGMENTATIONS, make_augmentation


def windows(image: torch.Tensor, border: tuple[int, int], flips: bool) -> list[np.ndarray]:
    """All that crops of an image with a border may be, rows first; and their mirror images."""
    rows, columns = border
    _, height, width = image.shape
    padded = np.pad(image.numpy(), ((0, 0), (rows, rows), (columns, columns)))
    cut = [
        padded[:, top : top + height, left : left + width]
        for top in range(2 * rows + 1)
        for left in range(2 * columns + 1)
    ]
    return cut + [each[:, :, ::-1] for each in cut] * flips


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize(
    ("height", "width", "border"), [(8, 8, (1, 1)), (17, 32, (2, 4)), (5, 9, (1, 1))]
)
def test_images_are_windows_of_the_image_with_an_eighth_of_its_sides_around(
    name, height, width, border
):
    image = torch.rand(3, height, width)
    known = {each.tobytes() for each in windows(image, border, flips=name == "crops and flips")}
    augment = make_augmentation(name, height, width)
    assert {augment(image).numpy().tobytes() for _ in range(15 * len(known))} == known


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("mixup", 8, 8), ValueError, "name must be one of 'crops', 'crops and flips'.*'mixup'"),
        (("crops", 0, 8), ValueError, "height.*0"),
        (("crops", 8, 2.5), TypeError, r"width.*2\.5"),
    ],
)
def test_others_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        make_augmentation(*arguments)
