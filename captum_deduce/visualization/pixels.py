r"""From tensors in a model's units to the pixels of a picture.

Pictures are drawn in colours from 0 to 1. A model's inputs often are not: they were normalised as
``(pixel - mean) / std``, per channel. Everything here undoes that the same way.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PerChannel = float | Sequence[float] | NDArray[np.floating] | Tensor
"""A number, one number per channel, or an array that broadcasts to one image."""

Bands = int | Sequence[int]
"""Which channels to draw: three, as red, green and blue, or one, as grey."""

_SLACK = 1 / 255
"""How far colours may lie outside [0, 1]: less than what an 8-bit picture can show."""


@dataclass(frozen=True)
class PixelScale:
    """How inputs become colours: ``value * std + mean``.

    Args:
        mean (NDArray): Broadcasts to one image, channels x height x width.
        std (NDArray): Likewise; positive.
        bands (list[int], optional): The channels that are drawn, three or one. Default: None (all)
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    bands: list[int] | None = None

    @classmethod
    def read(
        cls,
        mean: PerChannel | None,
        std: PerChannel | None,
        image_shape: Sequence[int],
        bands: Bands | None = None,
    ) -> PixelScale:
        """Read what the user gave as the normalisation's mean and standard deviation, and as bands.

        Args:
            mean (float, sequence, array, Tensor or None): None is 0.
            std (float, sequence, array, Tensor or None): None is 1.
            image_shape (Sequence[int]): Channels, height and width.
            bands (int or Sequence[int], optional): The channels to draw as red, green and blue, or
                one as grey. Default: None (there are no others)

        Returns:
            PixelScale: The way back to colours.

        Raises:
            TypeError: Not numbers.
            ValueError: Values that are not finite, a ``std`` that is not positive, a shape that
                does not broadcast to one image, or bands that are no channels.
        """
        scale = cls(
            _per_image("mean", 0.0 if mean is None else mean, image_shape),
            _per_image("std", 1.0 if std is None else std, image_shape),
            None if bands is None else _channels(bands, image_shape[0]),
        )
        if not (scale.std > 0).all():
            raise ValueError(f"std must be positive, got {std}")
        return scale

    @classmethod
    def stretched(cls, *images: Tensor) -> PixelScale:
        """Take the range of values that some images have as the range from black to white.

        Args:
            *images (Tensor): Any shapes.

        Returns:
            PixelScale: One for all channels: colours keep their order, not their hue.
        """
        low = min(batch.min().item() for batch in images)
        high = max(batch.max().item() for batch in images)
        span = (high - low) or 1.0
        return cls(np.array(-low / span), np.array(1 / span))

    def colors(self, images: Tensor, name: str = "images") -> NDArray[np.float64]:
        """Turn images into the colours that matplotlib draws.

        Args:
            images (Tensor): N x channels x height x width, with 1 or 3 channels, or more of which
                some are the bands.
            name (str, optional): What the images are called in an error. Default: "images"

        Returns:
            NDArray: N x height x width x 3, from 0 to 1; grey images have three equal channels.

        Raises:
            TypeError: Not a floating-point tensor.
            ValueError: Another shape or number of channels, values that are not finite, or colours
                outside [0, 1]: the mean and std are missing or are not the model's.
        """
        check_images(images, name, self.bands)
        colors = _numpy(images) * self.std + self.mean
        if self.bands is not None:
            colors = colors[:, self.bands]
        if not in_colors(torch.from_numpy(colors)):
            raise ValueError(
                f"{name} must have colours from 0 to 1 after value * std + mean, got "
                f"{colors.min():.3g} to {colors.max():.3g}; give the mean and std with which the "
                "inputs were normalised (for inputs from 0 to 255 mean=0, std=1/255)"
            )
        last = np.moveaxis(colors.clip(0, 1), 1, -1)
        return np.broadcast_to(last, (*last.shape[:-1], 3))

    def changes(self, inputs: Tensor, counterfactuals: Tensor) -> NDArray[np.float64]:
        """Signed change of each site, in colours, whether its channel is drawn or not.

        Where a site's channels change differently, the largest change in magnitude stands for it,
        with its sign: a sum would show channels that cancel as no change.

        Args:
            inputs (Tensor): N x channels x height x width.
            counterfactuals (Tensor): Of a shape that broadcasts with it.

        Returns:
            NDArray: N x height x width.
        """
        return strongest((_numpy(counterfactuals) - _numpy(inputs)) * self.std)


def check_images(images: Tensor, name: str, bands: Bands | None = None) -> None:
    """Refuse what is no batch of images that can be drawn.

    Args:
        images (Tensor): What should be N x channels x height x width.
        name (str): What it is called in an error.
        bands (int or Sequence[int], optional): Of the channels those that are drawn.
            Default: None (all)

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Another shape, without bands neither 1 nor 3 channels, or values that are not
            finite. The error says how to draw them all the same.
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"{name} must be a floating-point torch.Tensor, got {given}")
    drawable = images.dim() == 4 and (bands is not None or images.shape[1] in (1, 3))
    if not drawable or images[:1].numel() == 0:
        raise ValueError(
            f"{name} must have the shape N x channels x height x width with 1 (grey) or 3 (RGB) "
            f"channels to be drawn, got {tuple(images.shape)}{_way_out(images)}"
        )
    if not torch.isfinite(images.detach()).all():
        raise ValueError(f"{name} must be finite to be drawn, got NaN or infinite values")


def _way_out(images: Tensor) -> str:
    """Say how a picture is made all the same of images of another shape."""
    if images.dim() == 4:
        return (
            "; of other channels pass bands, those to draw as red, green and blue or one as grey, "
            "such as bands=(3, 2, 1)"
        )
    views = {
        2: ("signals N x length are drawn as images of one row", "[:, None, None]"),
        3: ("signals N x channels x length are drawn as images of one row", "[:, :, None]"),
        5: ("of volumes N x channels x depth x height x width draw a slice", "[:, :, depth]"),
    }
    if images.dim() not in views:
        return ""
    what, index = views[images.dim()]
    return (
        f"; {what}: plot dataclasses.replace(result, inputs=result.inputs{index}, "
        f"counterfactuals=result.counterfactuals{index}), and likewise each tensor of its "
        "trajectory"
    )


def in_colors(images: Tensor) -> bool:
    """Tell whether values can be drawn as colours as they are.

    Args:
        images (Tensor): Of any shape, finite.

    Returns:
        bool: Whether all lie in [0, 1], but for less than a level of an 8-bit picture.
    """
    return bool(((images >= -_SLACK) & (images <= 1 + _SLACK)).all())


def strongest(changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each site's channels, the entry of the largest magnitude, with its sign.

    Args:
        changes (NDArray): N x channels x height x width.

    Returns:
        NDArray: N x height x width.
    """
    channel = np.abs(changes).argmax(axis=1, keepdims=True)
    chosen: NDArray[np.float64] = np.take_along_axis(changes, channel, axis=1)
    return chosen[:, 0]


def _channels(bands: Bands, count: int) -> list[int]:
    try:
        channels = [operator.index(band) for band in np.atleast_1d(np.asarray(bands))]
    except (TypeError, ValueError) as error:
        raise TypeError(f"bands must hold numbers of channels, got {bands!r}") from error
    if len(channels) not in (1, 3) or not all(0 <= channel < count for channel in channels):
        raise ValueError(
            f"bands must be three channels of 0 ... {count - 1}, to be drawn as red, green and "
            f"blue, or one, got {bands!r}"
        )
    return channels


def _per_image(name: str, value: object, image_shape: Sequence[int]) -> NDArray[np.float64]:
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must hold numbers, got {value!r}") from error
    spread = array.reshape(-1, 1, 1) if array.ndim == 1 else array
    if spread.ndim == 4 and len(spread) == 1:
        spread = spread[0]
    try:
        np.broadcast_to(spread, tuple(image_shape))
    except ValueError as error:
        raise ValueError(
            f"{name} must be a number, one number per channel ({image_shape[0]}), or broadcast to "
            f"one image {tuple(image_shape)}, got shape {array.shape}"
        ) from error
    if not np.isfinite(spread).all():
        raise ValueError(f"{name} must be finite, got {value}")
    return spread


def _numpy(images: Tensor) -> NDArray[np.float64]:
    return images.detach().cpu().double().numpy()
