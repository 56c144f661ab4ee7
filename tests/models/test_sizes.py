"""Image sizes in both of their forms."""

from __future__ import annotations

import pytest

from captum_deduce.models.sizes import image_sides


@pytest.mark.parametrize(
    ("given", "expected"), [(8, (8, 8)), ((9, 12), (9, 12)), ([28, 8], (28, 8))], ids=str
)
def test_height_and_width(given, expected):
    assert image_sides(given) == expected


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (7, ValueError, r"image_size must be a finite number in \[8, inf\], got 7"),
        ((8, 7), ValueError, "got 7"),
        ((28,), ValueError, r"image_size must be an int or \(height, width\), got \(28,\)"),
        ((28, 28, 1), ValueError, "got .*28, 28, 1"),
        (28.0, TypeError, "image_size must be an int, got float: 28.0"),
        ("28", TypeError, "image_size must be an int, got str: '2'"),
    ],
    ids=str,
)
def test_sizes_that_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        image_sides(given)
