"""Features of a loader's images, batch by batch, once or again."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from captum_deduce.classifiers import FrozenModel, device_of, scores_differ
from captum_deduce.density.kept import KeptSamples
from captum_deduce.density.samples import Samples, check_samples
from captum_deduce.progress import bar


def loader_features(
    name: str, loader: Iterable[Any], frozen: FrozenModel, show_progress: bool | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Run a loader's images through a model.

    Args:
        name (str): What the loader is called, for messages.
        loader (Iterable): Yields batches (images, target).
        frozen (FrozenModel): The model, with the layer.
        show_progress (bool or None): Draw a progress bar.

    Yields:
        tuple[Tensor, Tensor, Tensor]: Features of a batch, N x D, its target as it came, and the
        model's scores, N x C.

    Raises:
        TypeError: A loader that yields something else.
        ValueError: A loader that yields nothing.

    Warns:
        UserWarning: The first image has other features alone.
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
        # A copy, as a first layer may work in place.
        alone = images[:1].to(device, copy=True) if empty and len(images) > 1 else None
        scores, features = frozen(images.to(device))
        if alone is not None:
            _warn_of_neighbours(name, frozen, alone, features[0])
        yield features, target, scores
        empty = False
    if empty:
        raise ValueError(f"{name} must yield at least one batch, got none")


def _warn_of_neighbours(name: str, frozen: FrozenModel, image: Tensor, features: Tensor) -> None:
    again = features
    with contextlib.suppress(Exception):  # of a model that takes no single image
        again = frozen(image)[1][0]
    if torch.isfinite(features).all() and scores_differ(features, again):
        warnings.warn(
            f"the model gives the first image of {name} other features when it sees it again, "
            "alone: it draws random numbers, or batch norm or the like couples the images of a "
            "batch, and the density depends on chance or on an image's neighbours",
            stacklevel=4,
        )


class LoaderSamples:
    """Features and targets of a loader's images, pass after pass.

    The first pass keeps them where they fit into memory; then later ones need neither loader nor
    model.

    Args:
        name (str): As for :func:`loader_features`; likewise the next three.
        loader (Iterable): Yields batches (images, target).
        frozen (FrozenModel): The model, with the layer.
        show_progress (bool or None): Draw a progress bar.
        budget (int): Bytes that are kept at most.
    """

    def __init__(
        self,
        name: str,
        loader: Iterable[Any],
        frozen: FrozenModel,
        show_progress: bool | None,
        budget: int,
    ) -> None:
        self.name, self.loader, self.frozen = name, loader, frozen
        self.show_progress = show_progress
        self.kept = KeptSamples(budget)
        self.soft = False
        self._passes = 0

    def first(self) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Run through the loader for the first time.

        Yields:
            tuple[Tensor, Tensor, int]: Features, targets, and the number of the model's classes.
        """
        self._passes += 1
        for features, target, scores in loader_features(
            self.name, self.loader, self.frozen, self.show_progress
        ):
            yield features, target, scores.shape[1]
            # The loader may write the next batch's labels into the same tensor; labels may come as
            # a column.
            self.kept.add(Samples(features, target.flatten().clone(), None))
            self.soft = self.soft or target.is_floating_point() or target.dtype == torch.bool

    def samples(self, num_features: int, num_classes: int) -> Iterator[Samples]:
        """Run through the images: the first time, or again.

        Args:
            num_features (int): D.
            num_classes (int): C.

        Yields:
            Samples: Of a batch, or of several where they are kept; checked.

        Raises:
            TypeError: The loader can't be run through again, but would have to be.
            ValueError: What :func:`check_samples` refuses.
        """
        if self._passes and self.kept.complete:
            yield from self.kept.blocks()
            return
        passed: Iterator[tuple[Tensor, Tensor, object]]
        if self._passes:
            self.refuse_single_pass()
            passed = loader_features(self.name, self.loader, self.frozen, self.show_progress)
        else:
            passed = self.first()
        for features, target, _ in passed:
            yield check_samples(features, target, None, num_features, num_classes)

    def refuse_single_pass(self) -> None:
        """Refuse what can't be run through again, where features are too many to be kept.

        Raises:
            TypeError: The loader is an iterator.
        """
        if isinstance(self.loader, Iterator) and not self.kept.complete:
            raise TypeError(
                f"{self.name} must allow a second pass for the quantiles, as its features take "
                f"more than memory_budget={self.kept.budget:,} bytes; got "
                f"{type(self.loader).__name__}, which can be run through once; pass a DataLoader, "
                "a larger memory_budget, held_out_loader or quantiles=False"
            )
