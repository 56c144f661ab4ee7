"""A generative model as a search sees it: a decoder, and the latents of each original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_deduce.classifiers import check_placement


class LatentSpace:
    """A decoder, and where in its latent space a search begins.

    Args:
        decoder (Callable): N latents to N images.
        beginning (Callable or Tensor): An encoder, from N images to N latents or to a tuple that
            begins with them; or latents, 1 x ... or N x ...
    """

    def __init__(self, decoder: Callable[..., Any], beginning: Callable[..., Any] | Tensor) -> None:
        self.decode = decoder
        self.beginning = beginning

    @classmethod
    def around(
        cls,
        vae: Any,
        encoder: Callable[..., Any] | None = None,
        initial_latent: Tensor | None = None,
    ) -> LatentSpace:
        """Read the forms in which users have a generative model.

        Args:
            vae (object or Callable): An object with the methods ``encode`` and ``decode``, or any
                decoder.
            encoder (Callable, optional): In the place of ``encode``. Default: None
            initial_latent (Tensor, optional): In the place of both. Default: None

        Returns:
            LatentSpace: Of the decoder, and of what says where to begin.

        Raises:
            TypeError: No decoder, or an ``initial_latent`` that is no tensor.
            ValueError: A decoder alone.
        """
        decoder = getattr(vae, "decode", vae)
        if not callable(decoder):
            raise TypeError(
                "vae must have the methods encode and decode, or be a decoder: a function from "
                f"latents to images; got {type(vae).__name__}"
            )
        if initial_latent is not None:
            if not isinstance(initial_latent, Tensor):
                raise TypeError(
                    "initial_latent must be a torch.Tensor or None, got "
                    f"{type(initial_latent).__name__}"
                )
            return cls(decoder, initial_latent)
        found = getattr(vae, "encode", None) if encoder is None else encoder
        if not callable(found):
            raise ValueError(
                "vae has no method encode: pass encoder, a function from inputs to latents, or "
                "initial_latent, so that the search has a place to begin"
            )
        return cls(decoder, found)

    @property
    def models(self) -> list[Callable[..., Any]]:
        """What runs beside the classifier."""
        parts = (self.decode, self.beginning)
        return [part for part in parts if not isinstance(part, Tensor)]

    def prepare(self, inputs: Tensor) -> None:
        """Say what does not fit before any work.

        Args:
            inputs (Tensor): All inputs, N x ...

        Raises:
            TypeError: The encoder or the decoder returns no tensor.
            ValueError: ``initial_latent`` has another number of rows, the decoder's images another
                shape, dtype or device than the inputs, or they can't be differentiated.
        """
        count = len(inputs)
        check_placement("decoder", self.decode, inputs)
        if not isinstance(self.beginning, Tensor):
            check_placement("encoder", self.beginning, inputs)
        elif self.beginning.dim() < 2 or len(self.beginning) not in (1, count):
            raise ValueError(
                "initial_latent must hold one latent for all images (1 x ...) or one per image "
                f"({count} x ...), got shape {tuple(self.beginning.shape)}"
            )
        pairs = list(range(min(2, count)))
        latents = self.start(inputs[pairs], pairs).requires_grad_()
        _check_images(self.decode(latents.clone()), latents, inputs[pairs])

    def start(self, images: Tensor, pairs: list[int]) -> Tensor:
        """Find the latents at which a search begins.

        Args:
            images (Tensor): A x ...
            pairs (list[int]): Their indices in the call.

        Returns:
            Tensor: A latents, detached, of the images' dtype.

        Raises:
            TypeError: The encoder returns no tensor, or one of integers.
            ValueError: It returns another number of rows.
        """
        if isinstance(self.beginning, Tensor):
            given = self.beginning.detach().to(images.device, images.dtype)
            return given[[0] * len(pairs) if len(given) == 1 else pairs].clone()
        with torch.no_grad():
            # A clone, as a first layer may work in place.
            encoded = self.beginning(images.clone())
        latents = encoded[0] if isinstance(encoded, tuple) else encoded
        if not isinstance(latents, Tensor):
            raise TypeError(
                "encoder must return latents, or a tuple that begins with them, got "
                f"{type(latents).__name__}"
            )
        if not latents.is_floating_point():
            raise TypeError(f"encoder must return floating-point latents, got {latents.dtype}")
        if latents.dim() == 0 or len(latents) != len(images):
            raise ValueError(
                f"encoder must return one latent per image ({len(images)}), got shape "
                f"{tuple(latents.shape)}"
            )
        return latents.detach().clone()


def _check_images(drawn: object, latents: Tensor, inputs: Tensor) -> None:
    if not isinstance(drawn, Tensor):
        raise TypeError(f"the decoder must return a tensor, got {type(drawn).__name__}")
    if drawn.shape != inputs.shape or (drawn.dtype, drawn.device) != (inputs.dtype, inputs.device):
        raise ValueError(
            f"the decoder must return images like the inputs: for {len(latents)} latents of shape "
            f"{tuple(latents.shape[1:])} that is {tuple(inputs.shape)}, {inputs.dtype} on "
            f"{inputs.device}; got {tuple(drawn.shape)}, {drawn.dtype} on {drawn.device}"
        )
    if not drawn.requires_grad:
        raise ValueError(
            "the decoder's images do not depend on the latents by operations that can be "
            "differentiated (does it detach them, or run under torch.no_grad?)"
        )
