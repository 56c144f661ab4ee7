"""Prototypes of a trained classifier and encoder, for VLK."""

from __future__ import annotations

import torch
from torch import nn

from captum_deduce.datasets import ImageData
from captum_deduce.prototypes import PrototypeIndex

NEIGHBOURS = 5
"""Training images that make a prototype of VLK."""


def make_prototypes(model: nn.Module, encoder: nn.Module, train: ImageData) -> PrototypeIndex:
    """Encode the training images by the class that the classifier sees in them.

    If it sees a class in fewer than :data:`NEIGHBOURS` of them, as after the shortest training, all
    go by their labels instead, and a line says so.

    Args:
        model (nn.Module): The classifier.
        encoder (nn.Module): Of images.
        train (ImageData): The training images.

    Returns:
        PrototypeIndex: On the classifier's device.
    """
    index = PrototypeIndex.from_loader(model, encoder, train.batches())
    if index.counts.min() >= NEIGHBOURS:
        return index
    print(
        f"The classifier sees some class in fewer than {NEIGHBOURS} training images: prototypes "
        "are of labels instead"
    )
    device = index.features.device
    with torch.no_grad():
        encoded = [encoder(images.to(device)).flatten(1) for images, _ in train.batches()]
    return PrototypeIndex(torch.cat(encoded), train.target, len(train.class_names))
