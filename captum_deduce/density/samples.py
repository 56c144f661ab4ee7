"""Features with their classes: checked, cut into blocks, taken apart by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

# Entries of a block of features, so that the work memory of a fit doesn't grow with the data.
_BLOCK = 2**22
# Beyond these the products in a scatter matrix could overflow.
_LARGEST_FEATURE = 1e100
_LARGEST_WEIGHT = 1e30


class Samples(NamedTuple):
    """Features and what classes they belong to.

    Attributes:
        features (Tensor): N x D, floating-point.
        target (Tensor): Labels (N, integers) or responsibilities (N x C).
        sample_weight (Tensor or None): N; None stands for 1 each.
    """

    features: Tensor
    target: Tensor
    sample_weight: Tensor | None

    @property
    def num_classes(self) -> int:
        """The largest label + 1, or the number of columns of the responsibilities."""
        return self.target.shape[1] if self.soft else int(self.target.max()) + 1

    @property
    def soft(self) -> bool:
        """Whether the target holds responsibilities."""
        return self.target.dim() == 2

    def counts(self) -> Tensor:
        """How many samples have a weight in each class (at least; C, int64, on the CPU)."""
        if self.soft:
            return (self.target != 0).sum(0).cpu()
        return self.target.to("cpu", torch.int64).bincount()

    def blocks(self, device: torch.device) -> Iterator[Samples]:
        """Cut the samples into blocks of limited size.

        Args:
            device (torch.device): Where the blocks go.

        Yields:
            Samples: In float64, labels in int64.
        """
        target_dtype = torch.float64 if self.soft else torch.int64
        rows = _block_rows(self.features)
        for start in range(0, len(self.features), rows):
            part = slice(start, start + rows)
            weight = self.sample_weight
            # First moved, then converted: where they come from there may be no float64.
            yield Samples(
                self.features[part].detach().to(device).to(torch.float64),
                self.target[part].to(device).to(target_dtype),
                None if weight is None else weight[part].to(device).to(torch.float64),
            )

    def by_class(self) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """Take a block apart.

        Yields:
            A class, the features of the samples that have a weight in it (at least one), and these
            weights (None where all are 1).
        """
        if self.soft:
            factor = 1.0 if self.sample_weight is None else self.sample_weight.unsqueeze(1)
            parts = [(self.features, weight) for weight in (self.target * factor).T]
        else:
            order = self.target.argsort(stable=True)
            sizes = self.target.bincount().tolist()
            members = torch.split(self.features[order], sizes)
            if self.sample_weight is None:
                yield from ((c, rows, None) for c, rows in enumerate(members) if len(rows))
                return
            parts = list(zip(members, torch.split(self.sample_weight[order], sizes), strict=True))
        for index, (rows, weight) in enumerate(parts):
            # Weights so small that their square is no number count as none.
            present = weight.square() > 0
            if present.any():
                yield index, rows[present], weight[present]


def check_samples(
    features: object,
    target: object,
    sample_weight: object,
    num_features: int,
    num_classes: int | None,
) -> Samples:
    """Refuse what can't be fitted.

    Args:
        features (object): What the user gave; likewise the next two.
        target (object): Labels (N or N x 1 integers) or responsibilities (N x C, no integers).
        sample_weight (object): Weights, or None.
        num_features (int): D of what was fitted before; 0 for nothing.
        num_classes (int or None): C where it is fixed.

    Returns:
        Samples: The three, labels with one dimension.

    Raises:
        TypeError: An argument of the wrong kind, or responsibilities that are integers.
        ValueError: A wrong shape, or values that are not finite or out of their range.
    """
    features = check_features(features, num_features)
    if len(features) == 0:
        raise ValueError(f"features must hold at least one sample, got shape {_shape(features)}")
    blocks = torch.split(features.detach(), _block_rows(features))
    usable = torch.cat(
        [(torch.isfinite(part) & (part.abs() <= _LARGEST_FEATURE)).all(1) for part in blocks]
    )
    if not usable.all():
        broken = (~usable).nonzero().flatten().tolist()
        raise ValueError(
            f"features must be finite and at most {_LARGEST_FEATURE:g} in size, got NaN, infinite "
            f"or larger values in {len(broken)} of {len(features)} rows, first in row {broken[0]}"
        )
    samples = Samples(
        features,
        _check_target(target, len(features), num_classes),
        None if sample_weight is None else _check_weight(sample_weight, len(features)),
    )
    if num_classes is not None and samples.num_classes > num_classes:
        raise ValueError(
            f"target must lie in 0 ... {num_classes - 1} (num_classes={num_classes}; fit_loader "
            f"takes it from the model's scores), got {samples.num_classes - 1}"
        )
    return samples


def check_features(features: object, num_features: int) -> Tensor:
    """Refuse what are no features of the right number.

    Args:
        features (object): What the user gave.
        num_features (int): D; 0 for any.

    Returns:
        Tensor: The features.

    Raises:
        TypeError: No tensor, or not floating-point.
        ValueError: Not N x D.
    """
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a torch.Tensor, got {type(features).__name__}")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating-point, got {features.dtype}")
    if features.dim() != 2 or features.shape[1] == 0:
        raise ValueError(f"features must have the shape N x D, got {_shape(features)}")
    if num_features and features.shape[1] != num_features:
        raise ValueError(
            f"features must have the shape N x {num_features}, as those that were fitted, got "
            f"{_shape(features)}"
        )
    return features


def check_component_class(
    component_class: object, num_components: int, num_classes: int | None
) -> tuple[int, ...]:
    """Refuse what can't be the classes of a mixture's components.

    Args:
        component_class (object): What the user gave.
        num_components (int): K.
        num_classes (int or None): C where it is fixed.

    Returns:
        tuple[int, ...]: K classes.

    Raises:
        TypeError: No integers.
        ValueError: Another number of them than K, or out of 0 ... C - 1.
    """
    classes = torch.as_tensor(component_class)
    if not _are_integers(classes):
        raise TypeError(f"component_class must hold integers, got {classes.dtype}")
    if classes.shape != (num_components,):
        raise ValueError(
            f"component_class must hold one class for each of the {num_components} components, "
            f"got shape {_shape(classes)}"
        )
    highest = torch.inf if num_classes is None else num_classes - 1
    if not ((classes >= 0) & (classes <= highest)).all():
        raise ValueError(f"component_class must lie in 0 ... {highest}, got {_range(classes)}")
    return tuple(classes.tolist())


def _block_rows(features: Tensor) -> int:
    return max(_BLOCK // features.shape[1], 1)


def _check_target(target: object, count: int, num_classes: int | None) -> Tensor:
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}")
    if target.dim() not in (1, 2) or len(target) != count or target.shape[-1] == 0:
        raise ValueError(
            f"target must hold one label per sample (shape ({count},)) or responsibilities "
            f"({count} x C), got shape {_shape(target)}"
        )
    labels = _are_integers(target)
    if labels and target.dim() == 2 and target.shape[1] == 1:
        target = target.squeeze(1)
    if target.dim() == 2:
        _check_responsibilities(target, num_classes)
        return target
    if not labels:
        raise TypeError(f"target must hold integers (labels), got {target.dtype}")
    if target.min() < 0:
        raise ValueError(f"target must not be negative, got {int(target.min())}")
    return target


def _check_responsibilities(target: Tensor, num_classes: int | None) -> None:
    count, width = target.shape
    if target.is_complex():
        raise TypeError(f"target must hold real numbers, got {target.dtype}")
    if _are_integers(target):
        raise TypeError(
            f"target must hold one label per sample (shape ({count},) or ({count}, 1)), or "
            f"responsibilities as floating-point numbers, got {target.dtype} of shape "
            f"{_shape(target)}; for a row of zeros and a one pass target.argmax(1), for "
            "responsibilities target.float()"
        )
    if width == 1 and num_classes != 1:
        raise ValueError(
            f"target must hold responsibilities of all classes ({count} x C), got shape "
            f"{_shape(target)} and {target.dtype}; if these are labels pass target.long()"
        )
    if num_classes is not None and width != num_classes:
        raise ValueError(
            f"target must hold responsibilities of {num_classes} classes ({count} x "
            f"{num_classes}), got shape {_shape(target)}"
        )
    _not_negative("target", target)


def _are_integers(values: Tensor) -> bool:
    return not (values.dtype == torch.bool or values.is_floating_point() or values.is_complex())


def _check_weight(sample_weight: object, count: int) -> Tensor:
    if not isinstance(sample_weight, Tensor):
        raise TypeError(f"sample_weight must be a torch.Tensor, got {type(sample_weight).__name__}")
    if sample_weight.shape != (count,):
        raise ValueError(
            f"sample_weight must have the shape ({count},), one weight per sample, got "
            f"{_shape(sample_weight)}"
        )
    return _not_negative("sample_weight", sample_weight)


def _not_negative(name: str, values: Tensor) -> Tensor:
    if values.is_complex():
        raise TypeError(f"{name} must hold real numbers, got {values.dtype}")
    if not (torch.isfinite(values) & (values >= 0) & (values <= _LARGEST_WEIGHT)).all():
        raise ValueError(
            f"{name} must be finite, not negative and at most {_LARGEST_WEIGHT:g}, got "
            f"{_range(values)}"
        )
    return values


def _range(values: Tensor) -> str:
    if not torch.isfinite(values).all():
        return "NaN or infinite values"
    return f"values from {values.min().item():g} to {values.max().item():g}"


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
