"""Images of others: which formats are decoded, and how much of what."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
"""What is decoded. Others are refused: Pillow hands some to programs of the machine, as PostScript
to Ghostscript, and most of its rarer decoders are little used."""

MOST_PIXELS = 80_000_000
"""Of an image, more than any camera of a phone has by default."""


def check_pixels(image: Image.Image, most: int = MOST_PIXELS) -> None:
    """Refuse an image that is too large, before any of its pixels is decoded.

    Args:
        image (PIL.Image.Image): As opened.
        most (int, optional): Pixels. Default: :data:`MOST_PIXELS`

    Raises:
        ValueError: It has more.
    """
    width, height = image.size
    if width * height > most:
        raise ValueError(
            f"the image has {width:,} x {height:,} pixels; up to {most // 1_000_000} million are "
            "read. Scale it down first"
        )


def read_image(
    file: Path | IO[bytes],
    *,
    formats: Sequence[str] = IMAGE_FORMATS,
    most_pixels: int = MOST_PIXELS,
) -> Image.Image:
    """Decode an image that anybody may have made, upright; of several in a file the first.

    Args:
        file (Path or IO[bytes]): The file.
        formats (Sequence[str], optional): What may be decoded, by Pillow's names.
            Default: :data:`IMAGE_FORMATS`
        most_pixels (int, optional): What is refused before it takes memory.
            Default: :data:`MOST_PIXELS`

    Returns:
        PIL.Image.Image: All of it, in the mode of the file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No image in one of the formats, one that is damaged or has too many pixels; the
            message says which, and doesn't name the file.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if isinstance(file, Path) and not file.is_file():
        raise FileNotFoundError(f"no image at {file}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes and of odd words in a file: it is read or not
        try:
            opened = Image.open(file, formats=tuple(formats))
        except UnidentifiedImageError as error:
            raise ValueError(
                f"the file is no image that can be read; send one of {', '.join(formats)}"
            ) from error
        except Image.DecompressionBombError as error:
            raise ValueError(
                f"the image has too many pixels; up to {most_pixels // 1_000_000} million are "
                "read. Scale it down first"
            ) from error
        except Exception as error:  # decoders raise whatever a damaged file leads them to
            raise ValueError(_DAMAGED) from error
        with opened:
            check_pixels(opened, most_pixels)
            try:
                opened.load()
                ImageOps.exif_transpose(opened, in_place=True)
            except Exception as error:
                raise ValueError(_DAMAGED) from error
    if opened.mode in ("P", "PA") and opened.palette is None:
        raise ValueError(_DAMAGED)
    return opened


_DAMAGED = "the image is damaged: it can't be read to its end"
