"""What a classifier must return, and probabilities that it must not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def class_scores(output: Any, count: int) -> Tensor:
    """Make sure that a classifier returned what every explainer needs.

    Args:
        output (Any): What it returned.
        count (int): The number of images it was given, N.

    Returns:
        Tensor: N x C, at least float32.

    Raises:
        TypeError: Not a tensor.
        ValueError: Not N x C with C at least 2, or integers.
    """
    if not isinstance(output, Tensor):
        raise TypeError(
            "forward_func must return a tensor of N x C class scores, got "
            f"{type(output).__name__}; wrap it so that it picks them, for example "
            "lambda x: model(x)[0] or lambda x: model(x).logits"
        )
    if output.dim() == 0 or output.shape[0] != count or output[:1].numel() == 1:
        raise ValueError(
            f"forward_func must return N x C class scores with C at least 2, got shape "
            f"{tuple(output.shape)} for {count} image(s); a model with one logit z per image has "
            "the scores lambda x: torch.stack([torch.zeros_like(z), z], 1) with z = "
            "model(x).flatten()"
        )
    if output.dim() != 2:
        raise ValueError(
            f"forward_func must return N x C class scores, got shape {tuple(output.shape)} for "
            f"{count} image(s)"
        )
    if not output.is_floating_point():
        raise ValueError(f"forward_func must return floating-point scores, got {output.dtype}")
    return output if output.dtype == torch.float64 else output.float()


def refuse_probabilities(scores: Tensor) -> None:
    """Refuse class scores that are probabilities, of which a softmax would make others.

    Args:
        scores (Tensor): N x C.

    Raises:
        ValueError: All rows are non-negative and sum to one.
    """
    # Half precision rounds each probability by up to 4e-3 of its size, and so their sum. Of one
    # image and few classes, logits may come as near to 1 as that by chance.
    halves = [scores.to(dtype).to(scores.dtype) for dtype in (torch.float16, torch.bfloat16)]
    rounded = torch.stack([(half == scores).all() for half in halves]).any()
    tolerance = torch.where(rounded, 1e-2, 1e-5)
    if ((scores >= 0).all() & ((scores.sum(1) - 1).abs() < tolerance).all()).item():
        raise ValueError(
            "forward_func must return logits or log-probabilities, got rows that are "
            "non-negative and sum to one: probabilities; leave out the softmax, or wrap the "
            "model: lambda x: model(x).log()"
        )
