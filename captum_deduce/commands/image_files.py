"""Images of the user's own: read as a classifier takes them, written with 8 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captum_deduce import storage

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
    scaled, other = [], []
    for path in paths:
        levels, most = _read(path, channels)
        if levels.shape[:2] == (height, width) or resize:
            scaled.append(_scaled(levels, most, (channels, height, width)))
        else:
            other.append((path, levels.shape))
    if other:
        path, found = other[0]
        raise ValueError(
            f"--images must be {width} x {height} pixels (width x height), as the "
            f"classifier takes them; {path} has {found[1]} x {found[0]}"
            f"{f', and {len(other) - 1} more differ' if len(other) > 1 else ''}. Pass --resize to "
            "scale them"
        )
    images = torch.from_numpy(np.stack(scaled))
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
    grey, most = _read(path, 1)
    if grey.shape[:2] != (height, width) and not resize:
        raise ValueError(
            f"--mask must be {width} x {height} pixels (width x height), as the images; {path} has "
            f"{grey.shape[1]} x {grey.shape[0]}. Pass --resize to scale it"
        )
    mask = torch.from_numpy(_scaled(grey, most, (1, height, width))[0] > 0.5)
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


Levels = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.int32]


def _read(path: Path, channels: int) -> tuple[Levels, int]:
    """Read one image, height x width x (1 or channels), and the level of white."""
    try:
        image = storage.read_image(path)
    except ValueError as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error
    return _levels(image, path, channels)


def _levels(image: Image.Image, path: Path, channels: int) -> tuple[Levels, int]:
    if image.mode in _SIXTEEN_BITS:
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"{path} has 32-bit pixels; save it with 8 or 16 bits")
        if (levels == image.info.get("transparency", -1)).any():
            raise _transparent(path)
        return levels[..., None], 65535
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
        converted = image.convert("L" if channels == 1 else "RGB")
    except ValueError as error:  # such as the Lab of some TIFF files
        raise ValueError(f"{path} has pixels in {image.mode}; save it as grey or RGB") from error
    return np.atleast_3d(np.asarray(converted)), 255


def _transparent(path: Path) -> ValueError:
    return ValueError(
        f"{path} has transparent pixels, and what is behind them can't be known; save it without "
        "transparency"
    )


def _scaled(levels: Levels, most: int, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Bring levels to channels x height x width in [0, 1]; grey is repeated for colours."""
    channels, height, width = shape
    planes = []
    for channel in range(levels.shape[2]):  # one at a time, as each takes four bytes a pixel
        plane = np.divide(levels[..., channel], most, dtype=np.float32)
        if plane.shape != (height, width):
            size = (width, height)
            resized = Image.fromarray(plane).resize(size, Image.Resampling.BILINEAR)
            plane = np.asarray(resized).clip(0, 1)
        planes.append(plane)
    return np.broadcast_to(np.stack(planes), (channels, height, width))
