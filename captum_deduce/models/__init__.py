"""Classifiers with and without spectral normalisation; models that reconstruct or draw images."""

from __future__ import annotations

from collections.abc import Callable

from captum_deduce.models.autoencoder import Autoencoder
from captum_deduce.models.bounded import build_and_fill
from captum_deduce.models.resnet import (
    ResNet,
    resnet18,
    resnet50,
    sn_resnet18,
    sn_resnet50,
)
from captum_deduce.models.sizes import image_sides
from captum_deduce.models.small_classifier import SmallClassifier
from captum_deduce.models.small_cnn import SmallCNN
from captum_deduce.models.small_vgg import SmallVGG
from captum_deduce.models.stored import StoredModel
from captum_deduce.models.vae import VAE
from captum_deduce.models.wgan import WGAN

ARCHITECTURES: dict[str, Callable[..., ResNet]] = {
    "resnet18": resnet18,
    "resnet50": resnet50,
    "sn_resnet18": sn_resnet18,
    "sn_resnet50": sn_resnet50,
}
"""The classifiers by the names that checkpoints store."""

__all__ = [
    "ARCHITECTURES",
    "VAE",
    "WGAN",
    "Autoencoder",
    "ResNet",
    "SmallCNN",
    "SmallClassifier",
    "SmallVGG",
    "StoredModel",
    "build_and_fill",
    "image_sides",
    "resnet18",
    "resnet50",
    "sn_resnet18",
    "sn_resnet50",
]
