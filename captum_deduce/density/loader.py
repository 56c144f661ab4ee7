"""Features of a loader's images, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.classifiers import FrozenModel
from captum_deduce.progress import bar


def device_of(modules: list[nn.Module]) -> torch.device:
    """Find where modules have their parameters.

    Args:
        modules (list[nn.Module]): A model's.

    Returns:
        torch.device: That of the first parameter; the CPU where there is none.
    """
    parameters = (parameter for module in modules for parameter in module.parameters())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


def loader_features(
    name: str, loader: Iterable[Any], frozen: FrozenModel, show_progress: bool | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run a loader's images through a model.

    Args:
        name (str): What the loader is called, for messages.
        loader (Iterable): Yields batches (images, target).
        frozen (FrozenModel): The model, with the layer.
        show_progress (bool or None): Draw a progress bar.

    Yields:
        tuple[Tensor, Tensor]: Features of a batch, N x D, and its target as it came.

    Raises:
        TypeError: A loader that yields something else.
        ValueError: A loader that yields nothing.
    """
    device, empty = device_of(frozen.modules), True
    for batch in bar(loader, desc=f"features of {name}", show_progress=show_progress):
        pair = isinstance(batch, tuple | list) and len(batch) == 2
        if pair and (isinstance(batch[1], int) or getattr(batch[1], "shape", None) == ()):
            raise TypeError(
                f"{name} must yield batches (images, target), got a single target; wrap a Dataset, "
                "which yields single images, in a DataLoader"
            )
        if not pair or not all(isinstance(part, Tensor) for part in batch):
            found = (
                [type(part).__name__ for part in batch] if isinstance(batch, tuple | list) else ""
            )
            raise TypeError(
                f"{name} must yield batches (images, target) of two tensors, got "
                f"{type(batch).__name__} {found}".rstrip()
            )
        images, target = batch
        yield frozen(images.to(device))[1], target
        empty = False
    if empty:
        raise ValueError(f"{name} must yield at least one batch, got none")
