"""Inputs of a model as pictures, and pictures as its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.reports import Range, change_pixels, encoded


@dataclass(frozen=True)
class Scale:
    """Of a model's inputs, what is black and what is white.

    Args:
        lower (Tensor): Broadcasts to one image, channels x height x width, on the CPU.
        upper (Tensor): Likewise; above ``lower``.
    """

    lower: Tensor
    upper: Tensor

    @classmethod
    def of(cls, explainer: CounterfactualExplainer) -> Scale:
        """Take the bounds of an explainer.

        Args:
            explainer (CounterfactualExplainer): Of the model.

        Returns:
            Scale: Between them.
        """
        bounds = (explainer.lower_bound, explainer.upper_bound)
        lower, upper = (torch.as_tensor(bound).detach().cpu() for bound in bounds)
        return cls(*(bound[0] if bound.dim() == 4 else bound for bound in (lower, upper)))

    def inputs(self, levels: Tensor) -> Tensor:
        """Bring images in [0, 1] into the model's units.

        Args:
            levels (Tensor): N x channels x height x width.

        Returns:
            Tensor: The same shape, within the bounds.
        """
        return torch.lerp(self.lower.to(levels), self.upper.to(levels), levels)

    def pixels(self, image: Tensor) -> NDArray[np.uint8]:
        """Draw an image.

        Args:
            image (Tensor): channels x height x width, in the model's units, on the CPU.

        Returns:
            NDArray: Height x width (x 3), from 0 to 255.
        """
        pixels: NDArray[np.uint8] = self._range.pixels(image[None].double().numpy())[0]
        return pixels

    def change(self, image: Tensor, original: Tensor) -> NDArray[np.uint8]:
        """Draw what changed: red where values rose, blue where they fell.

        Args:
            image (Tensor): channels x height x width, on the CPU.
            original (Tensor): Likewise.

        Returns:
            NDArray: Height x width x 3, from 0 to 255.
        """
        change = (image - original)[None].double().numpy()
        pixels: NDArray[np.uint8] = change_pixels(change / self._range.span)[0]
        return pixels

    @property
    def _range(self) -> Range:
        return Range(self.lower.double().numpy(), self.upper.double().numpy())


def png_uri(pixels: NDArray[np.uint8]) -> str:
    """Encode a picture without loss.

    Args:
        pixels (NDArray): Height x width (x 3), from 0 to 255.

    Returns:
        str: An address that holds the picture itself.
    """
    return encoded(Image.fromarray(pixels), "png", compress_level=1)
