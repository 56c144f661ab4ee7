"""What models say of many images: batch by batch, in eval mode, without gradients."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.classifiers import (
    FrozenModel,
    find_layer,
    modules_of,
    parameter_of,
    recorded_outputs,
    refuse_probabilities,
    scores_differ,
    single_output,
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


def read_layers(
    model: Callable[..., Any],
    layers: Sequence[nn.Module | str],
    batches: Iterable[Tensor],
    read: Callable[[list[Tensor]], Tensor],
) -> Tensor:
    """Run any model over batches and keep of its layers' outputs what is asked for.

    Unlike in :func:`read_outputs` it need be no classifier: what it returns is looked at only where
    no layer is given. It is left as it was found, and images are converted as there.

    Args:
        model (Callable or nn.Module): From B images to anything.
        layers (Sequence[nn.Module or str]): Those to read; none: what the model returns.
        batches (Iterable[Tensor]): Images.
        read (Callable[[list[Tensor]], Tensor]): From the outputs of a batch, a tensor B x ... per
            layer, to B rows or fewer.

    Returns:
        Tensor: The rows of all batches, on the model's device.

    Raises:
        TypeError: A model or layer of another kind.
        ValueError: A layer that is not in the model, one that does not give each image a row once,
            or NaN or infinite outputs.
    """
    found = layers_of(model, layers)
    rows: list[Tensor] = []
    # As a companion the model is held in eval mode, and need not return class scores.
    with (
        torch.no_grad(),
        FrozenModel(model, companions=(model,)),
        recorded_outputs(found) as recorded,
    ):
        for batch in batches:
            for outputs in recorded:
                outputs.clear()
            returned = model(_as_model_takes(model, batch))
            if layers:
                read_now = [single_output(outputs, len(batch)) for outputs in recorded]
            else:
                read_now = [single_output([returned], len(batch), "what forward_func returns")]
            if not all(torch.isfinite(output).all() for output in read_now):
                raise ValueError("forward_func gave NaN or infinite features")
            rows.append(read(read_now))
    return torch.cat(rows)


def layers_of(model: Callable[..., Any], layers: Sequence[nn.Module | str]) -> list[nn.Module]:
    """Find layers before anything runs.

    Args:
        model (Callable or nn.Module): The model.
        layers (Sequence[nn.Module or str]): Modules of it, or their dotted names.

    Returns:
        list[nn.Module]: The layers.

    Raises:
        TypeError: Neither modules nor names.
        ValueError: Not in the model, or names in a function that does not say what it runs.
    """
    found = []
    for layer in layers:
        module = find_layer(model, layer)
        if module is None:
            raise ValueError(
                f"layer was given by name ({layer!r}), but forward_func is a function that does "
                "not say which modules it runs; pass the module itself"
            )
        found.append(module)
    return found


def _as_model_takes(model: Callable[..., Any], batch: Tensor) -> Tensor:
    """Convert images, always to a copy: a first layer may work in place."""
    parameter = parameter_of(modules_of(model))
    like = batch if parameter is None else parameter
    return batch.to(like.device, like.dtype, copy=True)
