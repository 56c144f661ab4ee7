r"""Whether the scores of two classifiers depend on the same thing: they change together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.metrics.forward import BATCH_SIZE, read_outputs

SCALES = ("probability", "score")
"""In what :func:`counterfactual_alignment` measures changes."""


def counterfactual_alignment(
    forward_func: Callable[..., Any],
    other_func: Callable[..., Any],
    start: Tensor,
    end: Tensor,
    target: int | list[int] | Tensor,
    other_target: int | list[int] | Tensor | None = None,
    *,
    scale: str = "probability",
    batch_size: int = BATCH_SIZE,
) -> Tensor:
    r"""How much a second classifier's score moves with the first's, along the same images.

    .. math:: \frac{f_2(\mathbf x_\lambda) - f_2(\mathbf x_0)}
                   {f_1(\mathbf x_\lambda) - f_1(\mathbf x_0)}

    It is 1 where both scores change alike, 0 where the second does not change, and negative where
    they change in opposite directions. Take images that were changed for the first classifier, and
    a second classifier of something that should be unrelated: a value far from 0 then points to a
    shortcut.

    It is made for the ends of a line in latent space,
    ``path.frames[:, 0]`` and ``path.frames[:, -1]`` of ``LatentShift.path``, whose images differ by
    the shift alone; originals and counterfactuals of any explainer will do.

    Source: Cohen, Blankemeier, Chaudhari, "Identifying Spurious Correlations using Counterfactual
    Alignment", 2023.

    Args:
        forward_func (Callable or nn.Module): The first classifier: images to logits or
            log-probabilities.
        other_func (Callable or nn.Module): The second; it may have other classes, and may be the
            same one.
        start (Tensor): N x channels x height x width.
        end (Tensor): Of the same shape.
        target (int, list or Tensor): The first classifier's class whose score counts: one for all,
            or N.
        other_target (int, list, Tensor or None, optional): The second's. Default: None (all of its
            classes)
        scale (str, optional): Changes of the softmax ``"probability"``, or of the ``"score"`` that
            a classifier returns. Default: "probability"
        batch_size (int, optional): Images per forward pass. Default: 500

    Returns:
        Tensor: N, or without ``other_target`` N x the second's classes, float64, on the CPU. NaN
        where the first classifier's score does not move.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: Images of different shapes, classes that a classifier does not have, or what a
            classifier may not return (see :class:`~captum_deduce.metrics.Oracle`).

    Examples::

        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> start, end = torch.rand(4, 1, 8, 8), torch.rand(4, 1, 8, 8)
        >>> counterfactual_alignment(model, model, start, end, target=2, other_target=2)
        tensor([1., 1., 1., 1.], dtype=torch.float64)
    """
    checks.choice("scale", scale, SCALES)
    checks.number("batch_size", batch_size, minimum=1, integer=True)
    if not isinstance(start, Tensor) or not isinstance(end, Tensor):
        raise TypeError(
            f"start and end must be tensors, got {type(start).__name__} and {type(end).__name__}"
        )
    if start.shape != end.shape:
        raise ValueError(
            "start and end must have the same shape, got "
            f"{tuple(start.shape)} and {tuple(end.shape)}"
        )

    def change(model: Callable[..., Any]) -> Tensor:
        before, after = (
            read_outputs(model, torch.split(images, batch_size), lambda scores, _: scores)
            for images in (start, end)
        )
        if scale == "probability":
            before, after = before.double().softmax(1), after.double().softmax(1)
        return (after.double() - before.double()).cpu()

    first, second = change(forward_func), change(other_func)
    classes = checks.targets(target, len(start), first.shape[1])
    own = first.gather(1, classes.unsqueeze(1))
    own = own.masked_fill(own == 0, torch.nan)
    if other_target is None:
        return second / own
    others = checks.targets(other_target, len(start), second.shape[1], "other_target")
    return (second.gather(1, others.unsqueeze(1)) / own).squeeze(1)
