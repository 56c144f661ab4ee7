"""What models say of many images: batch by batch, in eval mode, without gradients."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.classifiers import (
    FrozenModel,
    modules_of,
    parameter_of,
    refuse_probabilities,
    scores_differ,
)

BATCH_SIZE = 500
"""Images per forward pass, where nothing else is asked for."""


def read_outputs(
    model: Callable[..., Any],
    batches: Iterable[Tensor],
    read: Callable[[Tensor, Tensor], Tensor],
    layer: nn.Module | str | None = None,
) -> Tensor:
    """Run a classifier over batches and keep of each what is asked for.

    Each module's mode is restored, also after an error. Images are converted to the model's dtype
    and device, so that one classifier can judge the images of another's search.

    Args:
        model (Callable or nn.Module): Returns class scores; a function of the inputs will do.
        batches (Iterable[Tensor]): Images.
        read (Callable[[Tensor, Tensor], Tensor]): From the scores (B x C) and the layer's output
            (B x D) of a batch to B rows.
        layer (nn.Module or str, optional): A layer to read as well. Default: None (D is 0)

    Returns:
        Tensor: The rows of all batches, on the model's device.

    Raises:
        TypeError: A model or layer of another kind.
        ValueError: NaN or infinite scores, probabilities in place of scores, or no scores at all.

    Warns:
        UserWarning: The first image has other scores alone.
    """
    rows: list[Tensor] = []
    with torch.no_grad(), FrozenModel(model, layer) as frozen:
        for batch in batches:
            scores, features = frozen(_as_model_takes(model, batch))
            if not torch.isfinite(scores).all():
                raise ValueError("forward_func returned NaN or infinite scores")
            refuse_probabilities(scores)
            first = not rows
            rows.append(read(scores, features))
            if first and len(batch) > 1:
                _warn_of_neighbours(frozen, _as_model_takes(model, batch[:1]), scores[0])
    return torch.cat(rows)


def _warn_of_neighbours(frozen: FrozenModel, image: Tensor, scores: Tensor) -> None:
    alone = scores
    with contextlib.suppress(Exception):  # of a model that takes no single image
        alone = frozen(image)[0][0]
    if scores_differ(scores, alone):
        warnings.warn(
            "forward_func gives an image other scores when it sees it again, alone: it draws "
            "random numbers, or batch norm or the like couples the images of a batch, and what is "
            "measured depends on chance or on an image's neighbours",
            stacklevel=2,
        )


def reconstructions(autoencoder: Callable[[Tensor], Tensor], images: Tensor, size: int) -> Tensor:
    """Run a model from images to images, batch by batch.

    Args:
        autoencoder (Callable or nn.Module): Left as it was found.
        images (Tensor): N x ...
        size (int): Images per forward pass.

    Returns:
        Tensor: What it makes of them, of the images' shape, dtype and device.

    Raises:
        ValueError: Images of another shape than it was given, or NaN.
    """
    made = []
    with torch.no_grad(), FrozenModel(autoencoder):
        for batch in torch.split(images, size):
            reconstruction = autoencoder(_as_model_takes(autoencoder, batch))
            if reconstruction.shape != batch.shape:
                raise ValueError(
                    "an autoencoder must return images of the shape that it was given, "
                    f"{tuple(batch.shape)}, got {tuple(reconstruction.shape)}"
                )
            if not torch.isfinite(reconstruction).all():
                raise ValueError("an autoencoder returned NaN or infinite values")
            made.append(reconstruction.to(images))
    return torch.cat(made)


def _as_model_takes(model: Callable[..., Any], batch: Tensor) -> Tensor:
    """Convert images, always to a copy: a first layer may work in place."""
    parameter = parameter_of(modules_of(model))
    like = batch if parameter is None else parameter
    return batch.to(like.device, like.dtype, copy=True)
