"""Which images of a data set are explained, and the classes to turn them into."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.bulk.schema import Failure
from captum_deduce.bulk.source import Item

TARGETS = ("label", "runner-up", "all")
"""The classes to turn an image into, by name."""

ONLY = ("errors", "all")
"""Which images to explain, by name."""

UNKNOWN = -1
"""Stands in a label's place where there is none."""

Chooser = Callable[[Tensor, Tensor, Tensor], Any]
"""From images (N x ...), labels (N, -1 where unknown) and scores (N x C), all on the CPU."""


@dataclass(frozen=True)
class Plan:
    """Which pairs a run is about.

    Args:
        targets (str or Callable): ``"label"``: the image's own label; ``"runner-up"``: the
            likeliest class beside the predicted one, of those that can be targets; ``"all"``: every
            class but the predicted one that can be a target; or a function that returns for each
            image a class, a list of classes (none: the image is left out), or one tensor of N.
        only (str or Callable): ``"errors"``: images whose label is not the prediction; ``"all"``;
            or a function that returns a bool for each image.

    Raises:
        ValueError: Another word.
    """

    targets: str | Chooser
    only: str | Chooser

    def __post_init__(self) -> None:
        for name, value, known in (("targets", self.targets, TARGETS), ("only", self.only, ONLY)):
            if not callable(value):
                checks.choice(name, value, known)

    @property
    def needs_labels(self) -> bool:
        """Whether an image without a label can't be judged."""
        return self.targets == "label" or self.only == "errors"

    def choose(
        self, items: Sequence[Item], scores: Tensor, targetable: Callable[[], Sequence[bool]]
    ) -> list[list[int] | Failure]:
        """Choose the targets of some images.

        Args:
            items (Sequence[Item]): N readable images.
            scores (Tensor): The model's, N x C, on the CPU, finite.
            targetable (Callable): Returns for each class whether it can be a target.

        Returns:
            list: For each image its targets, none where it is not to be explained; or why these
            can't be said.

        Raises:
            TypeError: A function of the user's that returns something else.
            ValueError: Likewise, of another length.
        """
        labels = torch.tensor([UNKNOWN if i.label is None else i.label for i in items])
        images = torch.stack([item.image for item in items if item.image is not None])
        prediction = scores.argmax(1)
        chosen = self._chosen(images, labels, scores)
        if self.needs_labels:
            chosen &= labels != UNKNOWN
        targets: list[list[int]] = [[] for _ in items]
        rows = chosen.nonzero().flatten()
        if len(rows):
            found = self._targets(images[rows], labels[rows], scores[rows], targetable)
            for row, own in zip(rows.tolist(), found, strict=True):
                targets[row] = own
        outcome: list[list[int] | Failure] = []
        for item, own, predicted in zip(items, targets, prediction.tolist(), strict=True):
            if self.needs_labels and item.label is None:
                failure = Failure(item.index, "ValueError: it has no label", prediction=predicted)
                outcome.append(failure)
            else:
                outcome.append(own)
        return outcome

    def _chosen(self, images: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
        if self.only == "all":
            return torch.ones(len(images), dtype=torch.bool)
        if self.only == "errors":
            return scores.argmax(1) != labels
        found = torch.as_tensor(self.only(images, labels, scores))  # type: ignore[operator]
        if found.dtype != torch.bool or found.shape != labels.shape:
            raise ValueError(
                f"only must return a bool for each of {len(images)} images, got {found.dtype} of "
                f"shape {tuple(found.shape)}"
            )
        return found.cpu().clone()

    def _targets(
        self,
        images: Tensor,
        labels: Tensor,
        scores: Tensor,
        targetable: Callable[[], Sequence[bool]],
    ) -> list[list[int]]:
        if self.targets == "label":
            return [[label] for label in labels.tolist()]
        if callable(self.targets):
            return _as_lists(self.targets(images, labels, scores), len(images))
        prediction = scores.argmax(1, keepdim=True)
        # Every class but the predicted one that can be reached.
        others = torch.tensor(targetable()).expand(scores.shape).clone()
        others.scatter_(1, prediction, False)
        if self.targets == "all":
            return [row.nonzero().flatten().tolist() for row in others]
        best = scores.masked_fill(~others, -torch.inf).argmax(1).tolist()
        return [[target] if some else [] for target, some in zip(best, others.any(1), strict=True)]


def _as_lists(found: Any, count: int) -> list[list[int]]:
    """Read what a user's function returned: a class or several for each image."""
    listed = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(listed, list | tuple) or len(listed) != count:
        raise ValueError(
            f"targets must return a class, or a list of classes, for each of {count} images, got "
            f"{found!r:.200}"
        )
    rows = [list(row) if isinstance(row, list | tuple) else [row] for row in listed]
    for target in (target for row in rows for target in row):
        if not isinstance(target, int) or isinstance(target, bool):
            raise TypeError(f"targets must return integers (class indices), got {target!r}")
    return [list(dict.fromkeys(row)) for row in rows]
