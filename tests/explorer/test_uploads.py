from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce.explorer import uploads


def huge_png(side: int = 50_000) -> bytes:
    """The head of a PNG, which says that it is large, and too little data for it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><rect width="8" height="8"/></svg>'
)


@pytest.fixture
def photograph(tmp_path):
    levels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / "photograph.png"
    Image.fromarray(levels).save(path)
    return path, levels


def test_an_image_of_the_size_comes_as_it_is(photograph):
    path, levels = photograph
    image = uploads.decode(path, (3, 40, 60))
    assert torch.equal(image[0], torch.from_numpy(levels).movedim(-1, 0) / 255)
    assert torch.equal(uploads.decode(path, (3, 40, 60), invert=True), 1 - image)


def test_the_middle_of_other_proportions_is_taken(photograph):
    path, levels = photograph
    square = uploads.decode(path, (3, 40, 40))
    assert torch.equal(square[0], torch.from_numpy(levels[:, 10:50]).movedim(-1, 0) / 255)


def test_any_size_is_scaled_to_whole_levels_of_grey(photograph):
    image = uploads.decode(photograph[0], (1, 8, 8))
    assert image.shape == (1, 1, 8, 8)
    assert image.dtype == torch.float32
    levels = image * 255
    assert torch.equal(levels.round() / 255, image)


def test_what_is_transparent_is_white(tmp_path):
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4, :, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "half.png")
    image = uploads.decode(tmp_path / "half.png", (1, 8, 8))
    assert image[0, 0, :4].max() == 0
    assert image[0, 0, 4:].min() == 1


def test_orientation_is_obeyed(tmp_path):
    levels = np.zeros((8, 8, 3), np.uint8)
    levels[0] = 255  # white above, if it were upright
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(levels).save(tmp_path / "turned.png", exif=exif)
    image = uploads.decode(tmp_path / "turned.png", (1, 8, 8))
    assert image[0, 0, 7].min() == 1
    assert image[0, 0, :7].max() == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is text", "no image that can be read; send one of PNG"),
        (b"", "no image that can be read"),
        (SVG, "no image that can be read"),
        (b"GIF89a" + bytes(100), "no image that can be read"),
        (huge_png(), "million are read"),
        (huge_png(7_000), r"7,000 x 7,000 pixels; up to 40 million"),
        (huge_png(100), "damaged"),
        (bytes(uploads.MOST_BYTES + 1), r"10,000,001 bytes; up to 10 million"),
    ],
    ids=["text", "empty", "svg", "gif", "bomb", "large", "truncated", "long"],
)
def test_what_is_no_image_is_refused_in_a_sentence(content, message, tmp_path):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        uploads.decode(path, (1, 8, 8))


def test_a_truncated_photograph_is_refused(photograph, tmp_path):
    whole = photograph[0].read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged"):
        uploads.decode(cut, (3, 8, 8))
