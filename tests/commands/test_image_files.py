from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce.commands.image_files import read_images, read_mask, to_8_bits, write_png

GREY = (1, 4, 6)
COLOUR = (3, 4, 6)


@pytest.fixture
def save(tmp_path):
    def write(pixels, name="image.png", mode=None, **options):
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        (image if mode is None else image.convert(mode)).save(tmp_path / name, **options)
        return tmp_path / name

    return write


def random_levels(*shape, levels=256, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, levels, shape).astype(dtype)


def test_grey_and_colour_files_are_read_exactly(save):
    grey, colour = random_levels(4, 6), random_levels(4, 6, 3)
    images = read_images([save(grey, "a.png"), save(grey[::-1].copy(), "b.tiff")], GREY)
    assert images.dtype == torch.float32
    expected = np.stack([grey, grey[::-1]])[:, None] / 255
    np.testing.assert_array_equal(images.numpy(), expected.astype(np.float32))
    (image,) = read_images([save(colour, "c.png")], COLOUR)
    np.testing.assert_array_equal(image.numpy(), (colour.transpose(2, 0, 1) / 255).astype("f4"))


def test_grey_is_repeated_for_a_classifier_of_colours(save):
    grey = random_levels(4, 6)
    (image,) = read_images([save(grey)], COLOUR)
    np.testing.assert_array_equal(image.numpy(), np.stack([(grey / 255).astype("f4")] * 3))


def test_colours_become_their_luma_for_a_classifier_of_grey(save):
    colour = random_levels(4, 6, 3)
    (image,) = read_images([save(colour)], GREY)
    luma = colour @ np.array([0.299, 0.587, 0.114])  # ITU-R 601
    np.testing.assert_allclose(image[0].numpy() * 255, luma, atol=1)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_16_bits_are_kept(save, shape, name):
    levels = random_levels(4, 6, levels=65536, dtype=np.uint16)
    (image,) = read_images([save(levels, name)], shape)
    np.testing.assert_allclose(image.numpy(), np.stack([levels / 65535] * shape[0]), rtol=1e-6)
    assert len(np.unique((image[0] * 65535).round())) == len(np.unique(levels))


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_other_forms_of_opaque_files_are_converted(save, mode):
    picture = Image.fromarray(random_levels(4, 6, 3))
    path = save(picture, "a.jpg" if mode in ("CMYK", "YCbCr") else "a.png", mode)
    (image,) = read_images([path], COLOUR)
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB")).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(image.numpy(), expected, atol=1e-6)


def test_the_orientation_tag_is_obeyed(save):
    levels = random_levels(6, 4)
    exif = Image.Exif()
    exif[0x0112] = 6  # the file's first row is the picture's right side
    (image,) = read_images([save(levels, exif=exif)], GREY)
    np.testing.assert_array_equal((image[0].numpy() * 255).round(), np.rot90(levels, -1))


def test_the_first_frame_of_an_animation_is_read(save):
    frames = [Image.fromarray(np.full((4, 6), level, np.uint8)) for level in (10, 200)]
    path = save(frames[0], "a.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(read_images([path], GREY).numpy() * 255, 10, atol=1e-4)


def test_inverting_exchanges_black_and_white(save):
    levels = random_levels(4, 6)
    (image,) = read_images([save(levels)], GREY, invert=True)
    np.testing.assert_allclose(image[0].numpy() * 255, 255.0 - levels, atol=1e-4)


def test_resizing_averages_what_becomes_one_pixel(save):
    coarse = random_levels(4, 6)
    smooth = coarse.repeat(8, 0).repeat(8, 1)
    (image,) = read_images([save(smooth)], GREY, resize=True)
    # the filter is a triangle as wide as two of the new pixels: neighbours have a share in each
    assert np.corrcoef(image.numpy().ravel(), coarse.ravel())[0, 1] > 0.9
    flat = np.full((31, 17, 3), (10, 100, 250), np.uint8)
    (image,) = read_images([save(flat)], COLOUR, resize=True)
    assert image.shape == COLOUR
    expected = np.broadcast_to(np.array([10, 100, 250])[:, None, None], COLOUR)
    np.testing.assert_allclose(image.numpy() * 255, expected, atol=1e-3)


def test_an_image_of_the_right_size_is_not_touched_by_resize(save):
    path = save(random_levels(4, 6))
    assert torch.equal(read_images([path], GREY, resize=True), read_images([path], GREY))


def test_another_size_is_refused_with_both_sizes(save):
    paths = [save(random_levels(4, 6), "a.png"), save(random_levels(6, 4), "b.png")]
    with pytest.raises(ValueError, match=r"--images must be 6 x 4 .*b\.png has 4 x 6.*--resize"):
        read_images(paths, GREY)
    with pytest.raises(ValueError, match=r"b\.png has 4 x 6, and 1 more differ"):
        read_images([*paths, paths[1]], GREY)


def transparent():
    pixels = np.full((4, 6, 4), 255, np.uint8)
    pixels[2, 3, 3] = 254
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("name", "image", "words"),
    [
        ("a.png", transparent(), "transparent pixels"),
        ("a.png", transparent().convert("LA"), "transparent pixels"),
        ("a.tiff", Image.fromarray(np.ones((4, 6), np.float32)), "floating-point pixels"),
        ("a.tiff", Image.fromarray(np.full((4, 6), 70000, np.int32)), "32-bit pixels"),
    ],
)
def test_pixels_of_unknown_meaning_are_refused(save, name, image, words):
    path = save(image, name)
    with pytest.raises(ValueError, match=rf"{name} has {words}.*save it"):
        read_images([path], GREY)


def test_a_transparent_colour_of_a_palette_is_refused(save):
    image = Image.fromarray(random_levels(4, 6, levels=3)).convert("P")
    path = save(image, transparency=int(image.getpixel((0, 0))))
    with pytest.raises(ValueError, match="transparent pixels"):
        read_images([path], GREY)


def with_transparent(path, level):
    """Say in a PNG file of 16-bit grey which level is transparent; Pillow 10 can't write it."""
    whole, content = path.read_bytes(), b"tRNS" + struct.pack(">H", level)
    chunk = struct.pack(">I", 2) + content + struct.pack(">I", zlib.crc32(content))
    path.write_bytes(whole[:33] + chunk + whole[33:])  # behind the head
    return path


def test_a_transparent_level_of_16_bits_is_refused_where_it_occurs(save):
    levels = random_levels(4, 6, levels=60000, dtype=np.uint16)
    path = with_transparent(save(levels), int(levels[1, 2]))
    with pytest.raises(ValueError, match="transparent pixels"):
        read_images([path], GREY)
    (image,) = read_images([with_transparent(save(levels), 65535)], GREY)
    np.testing.assert_allclose(image[0].numpy(), levels / 65535, rtol=1e-6)


def test_16_bits_are_turned_as_their_orientation_says(save):
    levels = random_levels(6, 4, levels=65536, dtype=np.uint16)
    exif = Image.Exif()
    exif[0x0112] = 6
    (image,) = read_images([save(levels, exif=exif)], GREY)
    np.testing.assert_allclose(image[0].numpy(), np.rot90(levels, -1) / 65535, rtol=1e-6)


def test_colours_that_have_no_grey_are_refused_with_their_path(save):
    path = save(Image.fromarray(random_levels(4, 6, 3)), "lab.tiff", "LAB")
    with pytest.raises(ValueError, match=r"lab\.tiff has pixels in LAB; save it as grey or RGB"):
        read_images([path], GREY)


def test_what_is_no_image_is_refused_with_its_path(save, tmp_path):
    whole = save(random_levels(40, 60, 3)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut", "text", "empty"):
        with pytest.raises(ValueError, match=rf"{name}\.png is no image that can be read"):
            read_images([tmp_path / f"{name}.png"], COLOUR)
    for missing in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no image at {missing}"):
            read_images([missing], COLOUR)


def test_masks_let_bright_pixels_change(save):
    levels = random_levels(4, 6)
    mask = read_mask(save(levels), COLOUR)
    assert mask.shape == (1, 1, 4, 6)
    np.testing.assert_array_equal(mask[0, 0].numpy(), levels > 127)


def test_masks_of_another_size_are_scaled_only_on_request(save):
    levels = np.zeros((8, 12), np.uint8)
    levels[:, 6:] = 255
    with pytest.raises(ValueError, match=r"--mask must be 6 x 4 .* has 12 x 8"):
        read_mask(save(levels), GREY)
    mask = read_mask(save(levels), GREY, resize=True)
    np.testing.assert_array_equal(mask[0, 0].numpy(), levels[::2, ::2] > 0)


def test_a_mask_without_a_bright_pixel_is_refused(save):
    with pytest.raises(ValueError, match="lets no pixel change"):
        read_mask(save(np.full((4, 6), 127, np.uint8)), GREY)


def test_levels_are_the_nearest_ones():
    values = np.random.default_rng(0).random((2, 3, 4, 6))
    values[0, 0, 0, :4] = 0, 1, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6
    levels = to_8_bits(torch.from_numpy(values))
    assert levels.dtype == torch.uint8
    np.testing.assert_array_equal(levels.numpy(), np.floor(values * 255 + 0.5))


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_what_is_written_is_read_again(tmp_path, shape):
    levels = torch.from_numpy(random_levels(*shape))
    write_png(tmp_path / "a.png", levels)
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode) == ("PNG", "L" if shape[0] == 1 else "RGB")
        pixels = np.asarray(image)
    np.testing.assert_array_equal(np.atleast_3d(pixels).transpose(2, 0, 1), levels.numpy())
    assert torch.equal(to_8_bits(read_images([tmp_path / "a.png"], shape)), levels[None])
