"""Guidance: what an autoencoder and an encoder with its prototypes say about images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from captum_deduce.classifiers import check_placement
from captum_deduce.prototypes import PrototypeIndex, encode


class Guidance:
    """The models beside the classifier that draw an image towards likely ones of a class.

    Args:
        autoencoder (Callable or None): N inputs to N reconstructions.
        encoder (Callable or None): N inputs to N x ... features; None where images are their own.
        prototypes (PrototypeIndex or None): Of such features.
        name (str, optional): What errors call the autoencoder. Default: "autoencoder"
    """

    def __init__(
        self,
        autoencoder: Callable[..., Any] | None,
        encoder: Callable[..., Any] | None,
        prototypes: PrototypeIndex | None,
        *,
        name: str = "autoencoder",
    ) -> None:
        self.name = name
        self.autoencoder = autoencoder
        self.encoder = encoder
        self.prototypes = prototypes
        self.decoder: Callable[..., Any] | None = None

    def prepare(self, images: Tensor, k: int | None, classes: Iterable[int] | None) -> None:
        """Say what does not fit before any work, and see whether one encoding will serve twice.

        Where the autoencoder has an ``encoder``, the same as the prototypes', and a ``decoder``
        that together give its output, the encoder runs once for both.

        Args:
            images (Tensor): A few of the inputs.
            k (int or None): Neighbours that make a prototype.
            classes (Iterable[int] or None): The classes whose prototypes will be needed; None: any
                that has images.

        Raises:
            TypeError: The autoencoder or the encoder returns no tensor.
            ValueError: Its parameters or its output do not fit the images or the prototypes, can't
                be differentiated, or the prototypes have too few images of a class.
        """
        images = images.detach().clone().requires_grad_()
        for name, part in ((self.name, self.autoencoder), ("encoder", self.encoder)):
            if part is not None:
                check_placement(name, part, images)
        features, reconstruction = self(images)
        if reconstruction is not None:
            _check_reconstruction(self.name, reconstruction, images)
        if features is not None and self.prototypes is not None:
            _check_features(features, self.prototypes)
            self.prototypes.require(k, classes)
        shared = getattr(self.autoencoder, "encoder", None) is self.encoder
        encoder, decoder = self.encoder, getattr(self.autoencoder, "decoder", None)
        if features is None or reconstruction is None or not shared:
            return
        if encoder is not None and decoder is not None:
            with torch.no_grad():
                if torch.equal(decoder(encoder(images.clone())), reconstruction):
                    self.decoder = decoder

    def __call__(self, images: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Encode and reconstruct images.

        Args:
            images (Tensor): N x ...

        Returns:
            tuple[Tensor or None, Tensor or None]: Features, N x D, where there are prototypes, and
            reconstructions, of the images' shape, where there is an autoencoder.
        """
        # Clones, as a first layer may work in place.
        if self.decoder is not None and self.encoder is not None:
            code = self.encoder(images.clone())
            return code.flatten(1), self.decoder(code.clone())
        features = None if self.prototypes is None else encode(self.encoder, images)
        reconstruction = None if self.autoencoder is None else self.autoencoder(images.clone())
        return features, reconstruction

    def select(
        self, images: Tensor, admissible: Tensor, *, k: int | None, k_type: str
    ) -> Tensor | None:
        """Find the prototypes nearest to images.

        Args:
            images (Tensor): N x ...
            admissible (Tensor): The classes to choose from, N x C, bool.
            k (int or None): As for :meth:`PrototypeIndex.select`.
            k_type (str): Likewise.

        Returns:
            Tensor or None: N x D; None without prototypes. For an image whose features are not
            finite it is that of other features: its search ends at the first gradient.
        """
        if self.prototypes is None:
            return None
        features = encode(self.encoder, images).nan_to_num()
        return self.prototypes.select(features, admissible, k=k, k_type=k_type)[0]


def _check_reconstruction(name: str, output: object, images: Tensor) -> None:
    if not isinstance(output, Tensor):
        raise TypeError(f"{name} must return a tensor, got {type(output).__name__}")
    if output.shape != images.shape or output.dtype != images.dtype:
        raise ValueError(
            f"{name} must return images like the inputs, for inputs[:2] of shape "
            f"{tuple(images.shape)} and {images.dtype}, got {tuple(output.shape)} and "
            f"{output.dtype}"
        )
    _check_differentiable(name, output)


def _check_features(features: Tensor, prototypes: PrototypeIndex) -> None:
    if features.shape[1] != prototypes.num_features:
        raise ValueError(
            f"encoder must return the {prototypes.num_features} features that prototypes hold, got "
            f"{features.shape[1]}; make them with PrototypeIndex.from_loader on this encoder"
        )
    held = prototypes.features
    if features.dtype != held.dtype or features.device != held.device:
        raise ValueError(
            f"encoder returns {features.dtype} on {features.device}, but prototypes are "
            f"{held.dtype} on {held.device}; convert them with prototypes.to(...)"
        )
    _check_differentiable("encoder", features)


def _check_differentiable(name: str, output: Tensor) -> None:
    if not output.requires_grad:
        raise ValueError(
            f"{name}'s output does not depend on the inputs by operations that can be "
            "differentiated (does it detach them, or run under torch.no_grad?)"
        )
