"""Examples: training images by class, and which of them are nearest to others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, progress
from captum_deduce.classifiers import FrozenModel, device_of
from captum_deduce.prototypes.index import encode
from captum_deduce.prototypes.neighbours import nearest_rows


class Examples:
    r"""Training images with their classes, and the features by which they are near or far.

    Distances are Euclidean, and exact (:func:`~captum_deduce.prototypes.nearest_rows`): between
    the images themselves, or between features of an encoder.

    Args:
        images (Tensor): N x channels x height x width, floating-point, finite. They are kept as
            they are, on their device; so may be the rows of a memory-mapped file.
        target (Tensor): N classes, integers: labels, or what a classifier predicts.
        features (Tensor, optional): N x D, floating-point, finite, of the same images.
            Default: None (the images themselves)
        memory_budget (int, optional): Bytes that a search for neighbours may take besides images
            and features, about. Default: 2**26

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: Shapes that do not fit, or values that are not finite.

    Examples::

        >>> images = torch.tensor([0.0, 0.2, 0.9, 1.0]).view(4, 1, 1, 1)
        >>> examples = Examples(images, torch.tensor([0, 1, 1, 1]))
        >>> examples.nearest(torch.zeros(2, 1), torch.tensor([0, 1]), k=2).tolist()
        [[0, -1], [1, 2]]
    """

    def __init__(
        self,
        images: Tensor,
        target: Tensor,
        features: Tensor | None = None,
        *,
        memory_budget: int = 2**26,
    ) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a torch.Tensor, got {type(images).__name__}")
        checks.images(images)
        if not isinstance(target, Tensor):
            raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}")
        if target.shape not in ((len(images),), (len(images), 1)):
            raise ValueError(
                f"target must hold one class per image ({len(images)}), got shape "
                f"{tuple(target.shape)}"
            )
        checks.number("memory_budget", memory_budget, minimum=1, integer=True)
        if features is not None:
            _check_features(features, len(images))
        self.images = images
        self.target = checks.targets(target, len(images), torch.iinfo(torch.int64).max)
        self.features = features
        self.memory_budget = memory_budget

    @classmethod
    def from_loader(
        cls,
        loader: Iterable[Any],
        forward_func: Callable[..., Any] | None = None,
        encoder: Callable[..., Any] | None = None,
        *,
        memory_budget: int = 2**26,
        show_progress: bool | None = None,
    ) -> Examples:
        """Collect the images of a loader, in one pass; models are left as they were found.

        Args:
            loader (Iterable): Yields batches (images, target), or with ``forward_func`` also images
                alone.
            forward_func (Callable or nn.Module, optional): A classifier, whose predictions are the
                classes. Default: None (the loader's targets are)
            encoder (Callable or nn.Module, optional): N inputs to N x ... features, by which
                distances are measured. Default: None (the images themselves)
            memory_budget (int, optional): See above. Default: 2**26
            show_progress (bool, optional): Draw a progress bar.
                Default: None (after two seconds, in a terminal or a notebook)

        Returns:
            Examples: With the images on the CPU, as are the features.

        Raises:
            TypeError: A loader that yields something else.
            ValueError: An empty loader, or an encoder that returns no row for each image.
        """
        images: list[Tensor] = []
        target: list[Tensor] = []
        features: list[Tensor] = []
        run = [part for part in (forward_func, encoder) if part is not None]
        for part in run:
            checks.callable_model("forward_func or encoder", part)
        frozen = FrozenModel(run[0], companions=run[1:]) if run else None
        device = torch.device("cpu") if frozen is None else device_of(frozen.modules)
        bar = progress.bar(loader, desc="examples", unit="batch", show_progress=show_progress)
        with torch.no_grad(), frozen or nullcontext():
            for batch in bar:
                found, classes = _read(batch, forward_func is None)
                images.append(found.cpu())
                there = found.to(device)
                if frozen is not None and forward_func is not None:
                    classes = frozen(there.clone())[0].argmax(1)
                if encoder is not None:
                    features.append(encode(encoder, there).cpu())
                target.append(classes.cpu())
        if not images:
            raise ValueError("loader must yield at least one batch, got none")
        return cls(
            torch.cat(images),
            torch.cat(target),
            torch.cat(features) if features else None,
            memory_budget=memory_budget,
        )

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        by = "pixels" if self.features is None else f"{self.features.shape[1]} features"
        return f"Examples({len(self)} images, {len(set(self.target.tolist()))} classes, by {by})"

    def nearest(
        self, features: Tensor, target: Tensor, k: int = 1, *, other_classes: bool = False
    ) -> Tensor:
        """Find the images of a class that are nearest to each of A feature vectors.

        Args:
            features (Tensor): A x D, on any device; flattened images, where there are no features.
            target (Tensor): The class of each, A.
            k (int, optional): How many. Default: 1
            other_classes (bool, optional): Of all classes but that one. Default: False

        Returns:
            Tensor: Indices of the images, A x k, int64, on the CPU, nearest first, the first on
            ties; -1 where there are fewer than k.

        Raises:
            ValueError: Another number of features.
        """
        checks.number("k", k, minimum=1, integer=True)
        held = self.images.flatten(1) if self.features is None else self.features
        if features.shape[1:] != held.shape[1:]:
            raise ValueError(
                f"features must have {held.shape[1]} columns, as the examples', got shape "
                f"{tuple(features.shape)}"
            )
        found = torch.full((len(features), k), -1, dtype=torch.int64)
        classes = target.cpu()
        queries = features.detach().to(held.device, held.dtype)
        for wanted in sorted(set(classes.tolist())):
            among = (self.target != wanted) if other_classes else (self.target == wanted)
            rows = among.nonzero().flatten()
            asking = (classes == wanted).nonzero().flatten()
            if len(rows):
                places = self._nearest(queries[asking.to(held.device)], held, rows, k)
                found[asking, : places.shape[1]] = rows[places]
        return found

    def _nearest(self, queries: Tensor, held: Tensor, rows: Tensor, k: int) -> Tensor:
        """Places among some rows of what is held, a bounded part of both at a time."""
        count = min(k, len(rows))
        row_bytes = 8 * held.shape[1]
        size = max(1, self.memory_budget // (4 * row_bytes * (count + 1)))
        chunk = max(count, self.memory_budget // (4 * (row_bytes + 8 * min(size, len(queries)))))
        return torch.cat(
            [self._among(part, held, rows, count, chunk) for part in torch.split(queries, size)]
        )

    def _among(self, queries: Tensor, held: Tensor, rows: Tensor, k: int, chunk: int) -> Tensor:
        """Merge the nearest of each chunk with those of the chunks before it."""
        best: Tensor | None = None
        distances = queries.new_empty(0)
        for part in torch.split(torch.arange(len(rows)), chunk):
            values = held[rows[part].to(held.device)]
            found, places = nearest_rows(queries, values, min(k, len(part)), len(part))
            places = part[places.cpu()]
            if best is not None:
                found = torch.cat([distances, found], 1)
                places = torch.cat([best, places], 1)
            # Stable, so that of equals the earlier rows come first.
            order = found.argsort(dim=1, stable=True)[:, :k]
            distances, best = found.gather(1, order), places.gather(1, order.cpu())
        return torch.empty(0, k, dtype=torch.int64) if best is None else best


def _check_features(features: object, count: int) -> None:
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a torch.Tensor, got {type(features).__name__}")
    if features.dim() != 2 or len(features) != count or not features.is_floating_point():
        raise ValueError(
            f"features must be floating-point, a row for each of {count} images, got shape "
            f"{tuple(features.shape)} and {features.dtype}"
        )
    if not torch.isfinite(features).all():
        raise ValueError("features must be finite, got NaN or infinite values")


def _read(batch: object, labelled: bool) -> tuple[Tensor, Tensor]:
    images = batch[0] if isinstance(batch, tuple | list) and batch else batch
    target = batch[1] if isinstance(batch, tuple | list) and len(batch) > 1 else None
    if not isinstance(images, Tensor) or (labelled and not isinstance(target, Tensor)):
        expected = "(images, target)" if labelled else "of images, alone or first in a tuple"
        raise TypeError(f"loader must yield batches {expected}, got {type(batch).__name__}")
    return images, target if isinstance(target, Tensor) else images.new_empty(0)
