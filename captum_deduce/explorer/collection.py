"""The images to choose from: what the classifier makes of them, and which are shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel, device_of, modules_of
from captum_deduce.visualization import ClassNames, read_class_names

_BATCH = 128

SHOWN = ("Mistakes", "Right", "All")
"""Which images are shown, by whether the classifier gets them right."""

IN_ORDER, UNSURE, CHEAPEST = ORDERS = ("given", "unsure", "cheapest")
"""That of the data, by the confidence of the prediction, by what a counterfactual costs."""


@dataclass(frozen=True)
class Collection:
    """Images with what is known of them, all on the CPU.

    Args:
        images (Tensor): N x channels x height x width, in the model's units.
        class_names (tuple[str, ...]): One name for each of the C classes.
        prediction (Tensor): The class that the classifier sees, N, int64.
        runner_up (Tensor): The class that it thinks second most likely, N, int64.
        confidence (Tensor): Softmax probability of the prediction, N.
        labels (Tensor, optional): The true classes, N, int64. Default: None (not known)
        device (torch.device or str, optional): The classifier's. Default: "cpu"
    """

    images: Tensor
    class_names: tuple[str, ...]
    prediction: Tensor
    runner_up: Tensor
    confidence: Tensor
    labels: Tensor | None = None
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def shown(self) -> tuple[str, ...]:
        """The kinds of images that can be told apart, see :data:`SHOWN`."""
        return ("All",) if self.labels is None else SHOWN

    def default_target(self, row: int) -> int:
        """Choose a class to turn an image into.

        Args:
            row (int): Which image.

        Returns:
            int: The true class of a mistake, else the runner-up.
        """
        if self.labels is not None and self.labels[row] != self.prediction[row]:
            return int(self.labels[row])
        return int(self.runner_up[row])

    def select(
        self,
        shown: str = "All",
        *,
        label: int | None = None,
        prediction: int | None = None,
        order: str = IN_ORDER,
        costs: Tensor | None = None,
    ) -> list[int]:
        """Find images.

        Args:
            shown (str, optional): One of :attr:`shown`. Default: "All"
            label (int, optional): Only images of this true class. Default: None (of any)
            prediction (int, optional): Only images in which the classifier sees this class.
                Default: None (any)
            order (str, optional): One of :data:`ORDERS`. Default: "given"
            costs (Tensor, optional): What a counterfactual of each image costs, N; infinite where
                there is none, NaN where it is not known: these come last. Of one cost, and of those
                not known, the least confident comes first. Default: None (not known of any)

        Returns:
            list[int]: Their rows.

        Raises:
            ValueError: Another kind or order, or a true class where labels are not known.
        """
        checks.choice("shown", shown, self.shown)
        checks.choice("order", order, ORDERS)
        if label is not None and self.labels is None:
            raise ValueError(f"label must be None where labels are not known, got {label}")
        chosen = torch.ones(len(self), dtype=torch.bool)
        if self.labels is not None and shown != "All":
            chosen &= (self.labels == self.prediction) == (shown == "Right")
        if self.labels is not None and label is not None:
            chosen &= self.labels == label
        if prediction is not None:
            chosen &= self.prediction == prediction
        rows = chosen.nonzero().flatten()
        if order != IN_ORDER:
            rows = rows[self.confidence[rows].argsort(stable=True)]
        if order == CHEAPEST and costs is not None:
            rows = rows[costs[rows].argsort(stable=True)]  # NaN comes after infinity
        found: list[int] = rows.tolist()
        return found

    def caption(self, row: int, *, short: bool = False) -> str:
        """Say what an image is and what the classifier sees in it.

        Args:
            row (int): Which image.
            short (bool, optional): In as few words as it takes. Default: False

        Returns:
            str: A few words.
        """
        seen = self.class_names[int(self.prediction[row])]
        if self.labels is None:
            return seen
        label = self.class_names[int(self.labels[row])]
        return f"{label} {'as' if short else 'seen as'} {seen}" if label != seen else label


def collect(
    forward_func: Callable[..., Any],
    images: Tensor,
    labels: Tensor | list[int] | None = None,
    class_names: ClassNames | None = None,
) -> Collection:
    """Show a classifier all images.

    Args:
        forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
            log-probabilities.
        images (Tensor): N x channels x height x width, at least one, in the model's units; 1
            channel or 3.
        labels (Tensor or list[int], optional): The true classes, N. Default: None (not known)
        class_names (Sequence[str] or Mapping, optional): A name per class, or ``{index: name}``.
            Default: None (their numbers)

    Returns:
        Collection: The images with what the classifier says.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No images, images that are neither grey nor RGB, labels that are no classes,
            another number of labels than of images, or fewer names than classes.
    """
    checks.images(images)
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise ValueError(
            "images must have the shape N x channels x height x width, with 1 channel or 3 and at "
            f"least one image, got {tuple(images.shape)}"
        )
    scores = scores_of(forward_func, images)
    if labels is not None:
        labels = checks.targets(labels, len(images), scores.shape[1], "labels").cpu()
    confidence, ranked = scores.softmax(1).topk(2, dim=1)
    return Collection(
        images=images.detach().cpu(),
        class_names=tuple(read_class_names(class_names, scores.shape[1])),
        prediction=ranked[:, 0],
        runner_up=ranked[:, 1],
        confidence=confidence[:, 0],
        labels=labels,
        device=device_of(modules_of(forward_func), images.device),
    )


def scores_of(forward_func: Callable[..., Any], images: Tensor) -> Tensor:
    """Run a classifier, and leave it as it was found.

    Args:
        forward_func (Callable or nn.Module): N inputs to N x C logits or log-probabilities.
        images (Tensor): N x channels x height x width, on any device.

    Returns:
        Tensor: N x C, float64, on the CPU.
    """
    with torch.no_grad(), FrozenModel(forward_func) as model:
        device = device_of(model.modules, images.device)
        batches = torch.split(images.detach(), _BATCH)
        return torch.cat([model(batch.to(device))[0].double().cpu() for batch in batches])
