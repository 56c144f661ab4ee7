"""What a model does that would make every answer of a search wrong without a word."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from captum_deduce.classifiers.frozen import FrozenModel

_OTHERS = 6
"""Noise images that a model is shown besides, where its scores look like sigmoids."""

_SAME = 0.02
"""Scores that differ by less of their largest size are the same: half precision rounds so much."""


Arguments = Callable[[Sequence[int]], tuple[Any, ...]]
"""What the model takes besides the images of some rows."""


def check_behaviour(
    model: FrozenModel,
    images: Tensor,
    arguments: Arguments,
    scores: Tensor,
    bounds: tuple[Tensor, Tensor],
    *,
    stacklevel: int = 2,
) -> None:
    """Refuse what a search can't use, and warn of what makes its answers doubtful.

    Args:
        model (FrozenModel): The model, ready to be called.
        images (Tensor): A few inputs, N x ..., a leaf that requires a gradient.
        arguments (Callable): From a list of rows to what the model takes besides their images.
        scores (Tensor): What the model returned for the images, N x C, with its graph.
        bounds (tuple[Tensor, Tensor]): Smallest and largest inputs, of the shape of one, or N of
            them, of which these images have the first.
        stacklevel (int, optional): Of the warnings. Default: 2

    Raises:
        ValueError: Scores that no gradient leads from to the inputs, or none that can be computed;
            that lie between 0 and 1 for any image, as sigmoids do; or a model that takes several
            images and not one.

    Warns:
        UserWarning: The gradient is zero everywhere, or an image's scores depend on the images
            beside it, on its place among them, or on chance.
    """
    _check_gradient(images, scores, stacklevel + 1)
    first = scores.detach()[0]
    again = _scores_again(model, images.detach()[:1], arguments, bounds, len(images))
    if any(scores_differ(first, other) for other in again):
        warnings.warn(
            "forward_func gives an image other scores when it sees it again, alone or beside "
            "another one: it draws random numbers, or batch norm or the like couples the images of "
            "a batch. Results then depend on chance or on their neighbours; is a part of the model "
            "in train mode that is never called itself?",
            stacklevel=stacklevel,
        )
    if _unit(scores.detach()) and scores.shape[1] > 1:
        _refuse_sigmoids(model, images, arguments(range(len(images))), bounds)


def scores_differ(scores: Tensor, other: Tensor) -> bool:
    """Tell whether an image's scores are others than they were, by more than rounding.

    Args:
        scores (Tensor): C, finite.
        other (Tensor): C.

    Returns:
        bool: Whether they are; NaN is other than all that there is.
    """
    return not (scores - other).abs().max() <= _SAME * scores.abs().max()


def taken_sizes(
    model: FrozenModel, images: Tensor, arguments: Arguments, sizes: Iterable[int]
) -> Iterator[int]:
    """Find numbers of images that a model takes, which failed for another.

    Args:
        model (FrozenModel): The model, ready to be called.
        images (Tensor): N x ...
        arguments (Callable): As for :func:`check_behaviour`.
        sizes (Iterable[int]): Numbers to try, each at least 1.

    Yields:
        int: Those that it takes.
    """
    for size in sizes:
        rows = [row % len(images) for row in range(size)]
        # Whatever a model raises: the error that it raised before is what is reported.
        with contextlib.suppress(Exception):
            model(images[rows].requires_grad_().clone(), arguments(rows))
            yield size


def fixed_size_error(
    taken: int, failed: int, error: Exception, arguments: tuple[Any, ...] = ()
) -> ValueError:
    """Say that a model takes batches of one size only, and what to do.

    Args:
        taken (int): A number of images that it takes.
        failed (int): One that it does not.
        error (Exception): What it raised then.
        arguments (tuple, optional): What it takes besides, which may have caused it. Default: ()

    Returns:
        ValueError: To be raised.
    """
    advice = "pass internal_batch_size=1"
    if taken > 1:
        advice = (
            f"pass internal_batch_size={taken} and a function that fills smaller batches up "
            "(docs: Your model)"
        )
    if arguments:
        advice += (
            "; what belongs to each image in additional_forward_args must be a tensor of N rows"
        )
    return ValueError(
        f"forward_func must take any number of images, or one; it takes {taken}, but failed for "
        f"{failed} ({_line(error)}); {advice}"
    )


def no_gradient(error: Exception) -> str | None:
    """Say what is the matter with a model of which no gradient can be computed.

    Args:
        error (Exception): What the backward pass raised.

    Returns:
        str or None: The matter and what to do; None where it is something else.
    """
    message = str(error)
    if "use_reentrant" in message:
        return (
            "activation checkpointing with use_reentrant=True allows none of the inputs alone; "
            "pass use_reentrant=False to torch.utils.checkpoint, or switch it off while you search"
        )
    if isinstance(error, NotImplementedError) and "autograd.Function" in message:
        return (
            "a torch.autograd.Function in it is without a backward; give it one, or use operations "
            "that have one"
        )
    return None


def _check_gradient(images: Tensor, scores: Tensor, stacklevel: int) -> None:
    # One sum of all scores, each with a weight of its own: those of a softmax have a constant sum.
    weights = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype).cos()
    gradient = None
    if scores.requires_grad:
        try:
            (gradient,) = torch.autograd.grad((scores * weights).sum(), images, allow_unused=True)
        except Exception as error:  # whatever the backward of a user's Function raises
            raise ValueError(
                "the gradient of forward_func's scores can't be computed: "
                f"{no_gradient(error) or _line(error)}"
            ) from error
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


def _scores_again(
    model: FrozenModel,
    image: Tensor,
    arguments: Arguments,
    bounds: tuple[Tensor, Tensor],
    together: int,
) -> list[Tensor]:
    """Scores of one image, which was shown with others before: beside another one, and alone."""
    again = []
    # A model that takes no more than one image couples none.
    with contextlib.suppress(Exception):
        pair = torch.cat([_another(image, bounds), image]).requires_grad_()
        again.append(model(pair.clone(), arguments([0, 0]))[0][1].detach())
    if together > 1 or not again:
        try:
            alone = image.clone().requires_grad_()
            again.append(model(alone.clone(), arguments([0]))[0][0].detach())
        except Exception as error:
            raise fixed_size_error(together, 1, error, arguments([0])) from error
    return again


def _another(image: Tensor, bounds: tuple[Tensor, Tensor]) -> Tensor:
    """An image of another brightness, with noise, within the bounds of the first."""
    lower, upper = _of_first(bounds, image)
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    fade = noise * (upper - lower) / 4
    return lower + fade if (image - lower > upper - image).float().mean() > 0.5 else upper - fade


def _of_first(bounds: tuple[Tensor, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    lower, upper = (b[0] if b.dim() == images.dim() else b for b in bounds)
    return lower, upper


def _line(error: Exception) -> str:
    """An error's first line."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def _refuse_sigmoids(
    model: FrozenModel, images: Tensor, arguments: tuple[Any, ...], bounds: tuple[Tensor, Tensor]
) -> None:
    """Show the model other images: logits leave the unit interval somewhere, sigmoids never."""
    lower, upper = _of_first(bounds, images)
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
