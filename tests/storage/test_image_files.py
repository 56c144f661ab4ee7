from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from captum_deduce.storage import check_pixels, read_image


def encoded(form, **options):
    levels = np.random.default_rng(0).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, form, **options)
    return levels, io.BytesIO(file.getvalue())


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_formats_without_loss_come_as_they_are(form):
    levels, file = encoded(form)
    np.testing.assert_array_equal(np.asarray(read_image(file)), levels)


def test_an_image_is_turned_as_its_tag_says():
    exif = Image.Exif()
    exif[0x0112] = 6
    levels, file = encoded("PNG", exif=exif)
    np.testing.assert_array_equal(np.asarray(read_image(file)), np.rot90(levels, -1))


def test_formats_that_go_to_other_programs_are_refused():
    postscript = encoded("EPS")[1]
    assert Image.open(postscript).format == "EPS"  # which Pillow would hand to Ghostscript
    postscript.seek(0)
    with pytest.raises(ValueError, match=r"no image that can be read; send one of PNG, JPEG"):
        read_image(postscript)
    with pytest.raises(ValueError, match=r"send one of PNG$"):
        read_image(encoded("BMP")[1], formats=("PNG",))


def test_what_is_cut_or_too_large_is_refused():
    whole = encoded("PNG")[1].getvalue()
    with pytest.raises(ValueError, match="damaged"):
        read_image(io.BytesIO(whole[:80]))
    with pytest.raises(ValueError, match=r"4 x 6 pixels; up to 0 million"):
        read_image(io.BytesIO(whole), most_pixels=23)
    image = read_image(io.BytesIO(whole), most_pixels=24)
    check_pixels(image)
    with pytest.raises(ValueError, match="Scale it down"):
        check_pixels(image, 23)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no image at {tmp_path}"):
        read_image(tmp_path)


def test_a_palette_that_is_not_there_is_missed():
    picture = Image.fromarray(np.zeros((6, 4), np.uint8)).convert("P")
    file = io.BytesIO()
    picture.save(file, "PNG")
    whole = file.getvalue()
    place = whole.index(b"PLTE") - 4
    size = int.from_bytes(whole[place : place + 4], "big") + 12
    assert read_image(io.BytesIO(whole)).mode == "P"
    with pytest.raises(ValueError, match="damaged"):
        read_image(io.BytesIO(whole[:place] + whole[place + size :]))
