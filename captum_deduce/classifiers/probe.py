"""What a model does that would make every answer of a search wrong without a word."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from captum_deduce.classifiers.frozen import FrozenModel

_OTHERS = 6
"""Noise images that a model is shown besides, where its scores look like sigmoids."""

_SAME = 0.02
"""Scores that differ by less of their largest size are the same: half precision rounds so much."""


def check_behaviour(
    model: FrozenModel,
    images: Tensor,
    arguments: tuple[Any, ...],
    scores: Tensor,
    bounds: tuple[Tensor, Tensor],
    *,
    first_arguments: tuple[Any, ...] | None = None,
    stacklevel: int = 2,
) -> None:
    """Refuse what a search can't use, and warn of what makes its answers doubtful.

    Args:
        model (FrozenModel): The model, ready to be called.
        images (Tensor): A few inputs, N x ..., a leaf that requires a gradient.
        arguments (tuple): What the model takes besides, for these images.
        scores (Tensor): What the model returned for them, N x C, with its graph.
        bounds (tuple[Tensor, Tensor]): Smallest and largest inputs, of the shape of one, or N of
            them, of which these images have the first.
        first_arguments (tuple, optional): Those of the first image alone. Default: None
            (``arguments``)
        stacklevel (int, optional): Of the warnings. Default: 2

    Raises:
        ValueError: Scores that no gradient leads from to the inputs, or that lie between 0 and 1
            for any image, as sigmoids do.

    Warns:
        UserWarning: The gradient is zero everywhere, or an image's scores depend on the images
            beside it or on chance.
    """
    _check_gradient(images, scores, stacklevel + 1)
    first = arguments if first_arguments is None else first_arguments
    alone = _scores_alone(model, images[:1].detach().clone(), first)
    if alone is not None:
        _check_rows(scores.detach()[:1], alone, stacklevel + 1)
    if _unit(scores.detach()) and scores.shape[1] > 1:
        _refuse_sigmoids(model, images, arguments, bounds)


def _check_gradient(images: Tensor, scores: Tensor, stacklevel: int) -> None:
    # One sum of all scores, each with a weight of its own: those of a softmax have a constant sum.
    weights = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype).cos()
    gradient = None
    if scores.requires_grad:
        (gradient,) = torch.autograd.grad((scores * weights).sum(), images, allow_unused=True)
    if gradient is None:
        raise ValueError(
            "forward_func's scores do not depend on the inputs by operations that can be "
            "differentiated: does it detach them, run under torch.no_grad, or compute in NumPy, "
            "PIL or integers (quantised layers)?"
        )
    if not gradient.any():
        warnings.warn(
            "the gradient of forward_func's scores is zero everywhere for inputs[:2], and a search "
            "has nothing to follow: does the model round its inputs, or are its units all dead or "
            "saturated?",
            stacklevel=stacklevel,
        )


def _scores_alone(model: FrozenModel, image: Tensor, arguments: tuple[Any, ...]) -> Tensor | None:
    """The scores of one image; None of a model that takes no batch of one."""
    try:
        with torch.no_grad():
            return model(image, arguments)[0]
    except (RuntimeError, ValueError, TypeError, AssertionError):
        return None


def _check_rows(together: Tensor, alone: Tensor, stacklevel: int) -> None:
    largest = together.abs().max()
    if torch.isfinite(alone).all() and (together - alone).abs().max() > _SAME * largest:
        warnings.warn(
            "forward_func gives an image other scores when it sees it again, alone: it draws "
            "random numbers, or batch norm or the like couples the images of a batch. Results then "
            "depend on chance or on their neighbours; is a part of the model in train mode that "
            "is never called itself?",
            stacklevel=stacklevel,
        )


def _refuse_sigmoids(
    model: FrozenModel, images: Tensor, arguments: tuple[Any, ...], bounds: tuple[Tensor, Tensor]
) -> None:
    """Show the model other images: logits leave the unit interval somewhere, sigmoids never."""
    lower, upper = (b[0] if b.dim() == images.dim() else b for b in bounds)
    source = torch.Generator().manual_seed(0)
    noise = torch.rand(_OTHERS, *images.shape[1:], generator=source).to(images)
    span = upper - lower
    with torch.no_grad():
        # Far beyond the bounds, too, where small logits of an untrained model grow.
        for image in (lower, upper, *(lower + (200 * noise - 100) * span), *(lower + noise * span)):
            others = image.expand_as(images).contiguous()
            if not _unit(model(others, arguments)[0]):
                return
    raise ValueError(
        "forward_func must return logits or log-probabilities, got scores between 0 and 1 for "
        "every image it was shown, that do not sum to one: sigmoids of independent labels? Pass "
        "BinaryClassifier(model, label) of the model's logits, which asks about one label "
        "(docs: Your model)"
    )


def _unit(scores: Tensor) -> bool:
    # No sigmoid is 0, as the scores of units that are off are.
    return bool(((scores > 0) & (scores <= 1)).all())
