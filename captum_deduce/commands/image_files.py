"""Images of the user's own: read as a classifier takes them, written with 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

_SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")


def read_images(
    paths: Sequence[Path], shape: Sequence[int], *, resize: bool = False, invert: bool = False
) -> Tensor:
    """Read image files, converted to grey or RGB, with 8 or 16 bits per channel.

    A picture's orientation tag is obeyed; of an animation the first frame is read. Pillow reads
    16-bit colours with 8 bits.

    Args:
        paths (Sequence[Path]): N files.
        shape (Sequence[int]): (channels, height, width) that the classifier takes; 1 channel or 3.
        resize (bool, optional): Scale images of another size, with antialiasing and without regard
            to their proportions. Default: False
        invert (bool, optional): Exchange black and white. Default: False

    Returns:
        Tensor: N x channels x height x width, float32 in [0, 1].

    Raises:
        FileNotFoundError: No such file.
        ValueError: No image, transparent or floating-point pixels, or another size.
    """
    channels, height, width = shape
    read = [_read(path, channels) for path in paths]
    other = [(p, i) for p, i in zip(paths, read, strict=True) if i.shape[:2] != (height, width)]
    if other and not resize:
        path, image = other[0]
        raise ValueError(
            f"--images must be {width} x {height} pixels (width x height), as the "
            f"classifier takes them; {path} has {image.shape[1]} x {image.shape[0]}"
            f"{f', and {len(other) - 1} more differ' if len(other) > 1 else ''}. Pass --resize to "
            "scale them"
        )
    scaled = np.stack([_resized(image, height, width) for image in read])
    images = torch.from_numpy(np.moveaxis(scaled, -1, 1).copy())
    return 1 - images if invert else images


def read_mask(path: Path, shape: Sequence[int], *, resize: bool = False) -> Tensor:
    """Read a mask: pixels brighter than half grey may change.

    Args:
        path (Path): An image file.
        shape (Sequence[int]): (channels, height, width) that the classifier takes.
        resize (bool, optional): Scale a mask of another size. Default: False

    Returns:
        Tensor: 1 x 1 x height x width, bool.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No image, another size, or a mask that lets no pixel change.
    """
    _, height, width = shape
    grey = _read(path, 1)
    if grey.shape[:2] != (height, width) and not resize:
        raise ValueError(
            f"--mask must be {width} x {height} pixels (width x height), as the images; {path} has "
            f"{grey.shape[1]} x {grey.shape[0]}. Pass --resize to scale it"
        )
    mask = torch.from_numpy(_resized(grey, height, width)[..., 0] > 0.5)
    if not mask.any():
        raise ValueError(f"--mask {path} lets no pixel change: none is brighter than half grey")
    return mask[None, None]


def to_8_bits(images: Tensor) -> Tensor:
    """Round images to the 256 levels of an 8-bit file.

    Args:
        images (Tensor): N x channels x height x width in [0, 1].

    Returns:
        Tensor: The levels, uint8, on the CPU; ``levels / 255`` is the rounded image.
    """
    return (images.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)


def write_png(path: Path, levels: Tensor) -> None:
    """Write an image without loss.

    Args:
        path (Path): The PNG file.
        levels (Tensor): channels x height x width, uint8; 1 channel or 3.
    """
    pixels = levels.movedim(0, -1).numpy()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path, format="PNG")


def _read(path: Path, channels: int) -> NDArray[np.float32]:
    """Read one image as height x width x channels in [0, 1]."""
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    try:
        with Image.open(path) as opened:
            pixels = _pixels(ImageOps.exif_transpose(opened), path, channels)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error
    return np.broadcast_to(pixels, (*pixels.shape[:2], channels))


def _pixels(image: Image.Image, path: Path, channels: int) -> NDArray[np.float32]:
    if image.mode in _SIXTEEN_BITS:
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"{path} has 32-bit pixels; save it with 8 or 16 bits")
        if (levels == image.info.get("transparency", -1)).any():
            raise _transparent(path)
        return (levels[..., None] / 65535).astype(np.float32)
    if image.mode == "F":
        raise ValueError(
            f"{path} has floating-point pixels, in a range that can't be known; save it with 8 or "
            "16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise _transparent(path)
    try:
        levels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except ValueError as error:  # such as the Lab of some TIFF files
        raise ValueError(f"{path} has pixels in {image.mode}; save it as grey or RGB") from error
    return (np.atleast_3d(levels) / 255).astype(np.float32)


def _transparent(path: Path) -> ValueError:
    return ValueError(
        f"{path} has transparent pixels, and what is behind them can't be known; save it without "
        "transparency"
    )


def _resized(image: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    if image.shape[:2] == (height, width):
        return image
    channels = [
        Image.fromarray(np.ascontiguousarray(image[..., channel])).resize(
            (width, height), Image.Resampling.BILINEAR
        )
        for channel in range(image.shape[2])
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1).clip(0, 1)
