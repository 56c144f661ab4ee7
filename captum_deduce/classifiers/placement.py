"""Models whose parameters are elsewhere than their inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.classifiers.layers import modules_of


def check_placement(
    name: str, forward_func: Callable[..., Any] | Sequence[nn.Module], inputs: Tensor
) -> None:
    """Say that a model's parameters are of another dtype or on another device than the inputs.

    Some models take such inputs all the same, as they convert them: to be asked of one that failed.

    Args:
        name (str): What the model is, for the message.
        forward_func (Callable, nn.Module or Sequence[nn.Module]): The model, or the modules that it
            was seen to run.
        inputs (Tensor): What it was called with.

    Raises:
        ValueError: Another dtype or device.
    """
    modules = modules_of(forward_func) if callable(forward_func) else forward_func
    for module in modules:
        parameter = next((p for p in module.parameters() if p.is_floating_point()), None)
        if parameter is None:
            continue
        if (parameter.dtype, parameter.device) != (inputs.dtype, inputs.device):
            raise ValueError(
                f"inputs are {inputs.dtype} on {inputs.device}, but the {name}'s parameters are "
                f"{parameter.dtype} on {parameter.device}; convert one to the other"
                f"{_advice(parameter)}"
            )


def _advice(parameter: Tensor) -> str:
    if parameter.dtype in (torch.float16, torch.bfloat16):
        return ", best by model.float(): a search needs the digits that half precision lacks"
    return ""
