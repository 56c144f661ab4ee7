"""Features of a loader's images, batch by batch, and kept while they fit into memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.classifiers import FrozenModel
from captum_deduce.progress import bar

# Entries of the blocks that batches are joined to.
_BLOCK = 2**20


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
) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Run a loader's images through a model.

    Args:
        name (str): What the loader is called, for messages.
        loader (Iterable): Yields batches (images, target).
        frozen (FrozenModel): The model, with the layer.
        show_progress (bool or None): Draw a progress bar.

    Yields:
        tuple[Tensor, Tensor, int]: Features of a batch, N x D, its target as it came, and the
        number of classes that the model has scores of.

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
        scores, features = frozen(images.to(device))
        yield features, target, scores.shape[1]
        empty = False
    if empty:
        raise ValueError(f"{name} must yield at least one batch, got none")


class KeptFeatures:
    """Features and labels of a first pass, so that no second one is needed.

    Args:
        budget (int): Most bytes. What needs more is dropped.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.complete = budget > 0
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._size = 0

    def add(self, features: Tensor, target: Tensor) -> None:
        """Keep a batch, or drop all that is kept where it doesn't fit in.

        Args:
            features (Tensor): N x D.
            target (Tensor): N labels; soft ones are not kept.
        """
        self._size += features.nbytes + target.nbytes
        soft = target.is_floating_point() or target.dtype == torch.bool
        if not self.complete or self._size > self.budget or soft:
            self.complete = False
            self._parts.clear()
            return
        # The loader may write the next batch's labels into the same tensor.
        # Labels may come as a column.
        self._parts.append((features, target.flatten().clone()))

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Hand out what is kept, in blocks.

        Yields:
            tuple[Tensor, Tensor]: Features, N x D, and labels.
        """
        start = 0
        while start < len(self._parts):
            end, entries = start, 0
            while end < len(self._parts) and entries < _BLOCK:
                entries += self._parts[end][0].numel()
                end += 1
            features, target = zip(*self._parts[start:end], strict=True)
            yield torch.cat(features), torch.cat(target)
            start = end


def refuse_single_pass(loader: Iterable[Any], memory_budget: int) -> None:
    """Refuse what can't be run through again, where features are too many to be kept.

    Args:
        loader (Iterable): What the user gave.
        memory_budget (int): Bytes.

    Raises:
        TypeError: An iterator.
    """
    if isinstance(loader, Iterator):
        raise TypeError(
            "loader must allow a second pass for the quantiles, as its features take more than "
            f"memory_budget={memory_budget:,} bytes; got {type(loader).__name__}, which can be run "
            "through once; pass a DataLoader, a larger memory_budget, held_out_loader or "
            "quantiles=False"
        )
