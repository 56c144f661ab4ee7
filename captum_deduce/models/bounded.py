"""Models that a file describes, built without taking more memory than its tensors account for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

# Entries that any model may have.
_ALLOWED = 2**20

Model = TypeVar("Model", bound=nn.Module)


def build_and_fill(make: Callable[[], Model], tensors: Mapping[str, Tensor]) -> Model:
    """Build a model and give it the tensors of a file; torch's global generator is left alone.

    Settings that ask for a larger model than the tensors fill are refused at the first layer that
    is too large, before it is drawn: a changed digit may ask for any amount of memory.

    Args:
        make (Callable): Builds the model with new weights.
        tensors (Mapping[str, Tensor]): Its state dict. The model takes them over, in their type.

    Returns:
        nn.Module: The model, with weights of one floating-point type.

    Raises:
        ValueError: Tensors of several types, or a model that is too large for them.
        Exception: What ``make`` raises of settings that it can't take.
        RuntimeError: Tensors of other names or shapes.
    """
    types = {tensor.dtype for tensor in tensors.values() if tensor.dtype != torch.int64}
    if len(types) != 1 or not all(dtype.is_floating_point for dtype in types):
        names = ", ".join(sorted(map(str, types))) or "none"
        raise ValueError(f"the weights must be of one floating-point type, got {names}")
    # What is somewhat too large is built, as torch then names the tensors that are wrong.
    most = _ALLOWED + 2 * sum(tensor.numel() for tensor in tensors.values())
    builder = threading.get_ident()
    registered: dict[int, Tensor] = {}

    def count(_: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is None or threading.get_ident() != builder:
            return  # the hook hears of every model that is built meanwhile
        registered[id(tensor)] = tensor  # once, as a parametrization takes over what is there
        if sum(each.numel() for each in registered.values()) > most:
            raise ValueError(
                f"the settings ask for a larger model than the tensors fill, by its {name} of the "
                f"shape {tuple(tensor.shape)}"
            )

    hooks = (
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    )
    try:
        with torch.random.fork_rng(devices=[]):
            model = make()
    finally:
        for hook in hooks:
            hook.remove()
    for name, tensor in model.state_dict().items():
        if name in tensors and tensor.is_floating_point() != tensors[name].is_floating_point():
            raise ValueError(
                f"{name} must be of the type {tensor.dtype}, got {tensors[name].dtype}"
            )
    # Assigned, as copying would round float64 weights to the float32 of the new model.
    model.load_state_dict(tensors, assign=True)
    return model
