r"""Features of images, to be compared with those of others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.classifiers import as_rows
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.forward import BATCH_SIZE, layers_of, read_layers


class FeatureExtractor:
    r"""From images to rows of features: of a model's layer, or what any function returns.

    What :class:`NearestFeatureDistance`, :func:`fid` and :func:`split_fid` say depends on the
    features more than on anything else: only figures of the same extractor can be compared.
    Features of the explained model are those that the search has moved; another model's are
    independent evidence.

    Args:
        forward_func (Callable or nn.Module): The model, or a function of the images. It runs in
            eval mode and is left as it was found; it need be no classifier.
        layer (nn.Module or str, optional): The layer whose output, flattened, is the features.
            Default: None (what ``forward_func`` returns, flattened)
        batch_size (int, optional): Images per forward pass. Default: 500

    Raises:
        TypeError: An argument of another kind.
        ValueError: A layer that is not in the model, or a ``batch_size`` below 1.

    Examples::

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
        >>> extractor = FeatureExtractor(model, model[2])
        >>> extractor(torch.rand(5, 1, 8, 8)).shape
        torch.Size([5, 8])
        >>> FeatureExtractor(lambda images: images.mean((2, 3)))(torch.rand(5, 3, 8, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str | None = None,
        *,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        checks.number("batch_size", batch_size, minimum=1, integer=True)
        self.forward_func = checks.callable_model("forward_func", forward_func)
        self.layers = layers_of(forward_func, [] if layer is None else [layer])
        self.batch_size = batch_size

    def __call__(self, images: Tensor) -> Tensor:
        """Extract the features of images.

        Args:
            images (Tensor): N x ...

        Returns:
            Tensor: N x D, at least float32, on the model's device.

        Raises:
            TypeError: Images of another dtype, or a layer that outputs no tensor.
            ValueError: Images that are not finite, or features that are not finite or do not hold
                one row per image.
        """
        checks.images(images)
        return self._rows(torch.split(images, self.batch_size))

    def from_loader(self, loader: Iterable[Any]) -> tuple[Tensor, Tensor | None]:
        """Extract the features of all images of a loader, in one pass.

        Args:
            loader (Iterable): Yields batches of images, alone or first in a tuple, with the labels
                (N integers) second where there are any.

        Returns:
            tuple[Tensor, Tensor or None]: Features, N x D, and labels, N, on the features' device;
            None where the loader has none.

        Raises:
            TypeError: A loader that yields something else.
            ValueError: No batch, batches with labels and others without, or as for a call.
        """
        features, labels = [], []
        for batch in loader:
            parts = batch if isinstance(batch, tuple | list) else [batch]
            if not len(parts) >= 1 or not all(isinstance(part, Tensor) for part in parts[:2]):
                raise TypeError(
                    "loader must yield batches of images, alone or in a tuple with their labels, "
                    f"got {type(batch).__name__} of {[type(part).__name__ for part in parts]}"
                )
            features.append(self(parts[0]))
            if len(parts) > 1:
                labels.append(_labels(parts[1], len(parts[0])).to(features[-1].device))
        if not features:
            raise ValueError("loader must yield at least one batch, got none")
        if labels and len(labels) != len(features):
            raise ValueError("loader must yield labels with every batch or with none")
        joined = torch.cat(features)
        return joined, torch.cat(labels) if labels else None

    def of_pairs(self, result: Counterfactuals) -> tuple[Tensor, Tensor]:
        """Extract the features of originals and counterfactuals, row by row.

        Equal originals run through the model once, so that their features are equal to the last
        digit, which tells :func:`split_fid` that they are one original.

        Args:
            result (Counterfactuals): N pairs. What failed is no counterfactual: pass
                ``result[result.success]``.

        Returns:
            tuple[Tensor, Tensor]: Features of the originals and of the counterfactuals, N x D each.

        Raises:
            TypeError: As for a call.
            ValueError: No pairs, or as for a call.
        """
        if len(result) == 0:
            raise ValueError("result must hold at least one pair, got none")
        originals = result.inputs.cpu()
        which = torch.unique(originals.flatten(1), dim=0, return_inverse=True)[1]
        of_originals = self(originals[first_rows(which)])
        return of_originals[which.to(of_originals.device)], self(result.counterfactuals)

    def _rows(self, batches: Iterable[Tensor]) -> Tensor:
        rows = read_layers(
            self.forward_func, self.layers, batches, lambda outputs: as_rows(outputs[0])
        )
        return rows if rows.dtype == torch.float64 else rows.float()


def as_extractor(extractor: Callable[[Tensor], Tensor]) -> FeatureExtractor:
    """Make an extractor of any function from images to features.

    Args:
        extractor (FeatureExtractor, Callable or nn.Module): What the user gave.

    Returns:
        FeatureExtractor: Itself, where it is one.

    Raises:
        TypeError: Not callable.
    """
    if isinstance(extractor, FeatureExtractor):
        return extractor
    return FeatureExtractor(checks.callable_model("extractor", extractor))


def first_rows(groups: Tensor) -> Tensor:
    """Find the first row of each group.

    Args:
        groups (Tensor): The group of each of N rows, of which there is at least one: integers from
            0, none left out.

    Returns:
        Tensor: One row per group, int64.
    """
    rows = torch.arange(len(groups), device=groups.device)
    first = rows.new_full((int(groups.max()) + 1,), len(groups))
    return first.scatter_reduce_(0, groups, rows, "amin")


def check_features(name: str, features: object, *, least: int = 1) -> Tensor:
    """Refuse what can't be features of several images.

    Args:
        name (str): The argument's name, for the message.
        features (object): What the user gave.
        least (int, optional): The fewest rows that will do. Default: 1

    Returns:
        Tensor: The features, N x D.

    Raises:
        TypeError: Not a floating-point tensor.
        ValueError: Another shape, too few rows, or NaN or infinite values.
    """
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(features).__name__}")
    if not features.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {features.dtype}")
    if features.dim() != 2 or len(features) < least or features.shape[1] == 0:
        raise ValueError(
            f"{name} must have the shape N x D with N at least {least} and D at least 1, got "
            f"{tuple(features.shape)}"
        )
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")
    return features


def _labels(labels: Tensor, count: int) -> Tensor:
    return checks.targets(labels.reshape(-1), count, torch.iinfo(torch.int64).max, "labels")
