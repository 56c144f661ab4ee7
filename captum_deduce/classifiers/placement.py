"""Where a model has its parameters, and that they are elsewhere than its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.classifiers.layers import modules_of


def parameter_of(modules: Sequence[nn.Module]) -> Tensor | None:
    """Find the tensor of a model that its inputs should be like.

    Args:
        modules (Sequence[nn.Module]): The model's.

    Returns:
        Tensor or None: The first floating-point parameter; without one the first such buffer.
    """
    parameters = (p for module in modules for p in module.parameters())
    buffers = (b for module in modules for b in module.buffers())
    return next((t for t in chain(parameters, buffers) if t.is_floating_point()), None)


def device_of(modules: Sequence[nn.Module], otherwise: torch.device | str = "cpu") -> torch.device:
    """Find the device of a model.

    Args:
        modules (Sequence[nn.Module]): The model's.
        otherwise (torch.device or str, optional): That of a model without any. Default: "cpu"

    Returns:
        torch.device: That of :func:`parameter_of`.
    """
    parameter = parameter_of(modules)
    return torch.device(otherwise) if parameter is None else parameter.device


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
        parameter = parameter_of([module])
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
