"""What a result depends on, as a few digits: the same in every process."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn


def fingerprint(*values: object) -> str:
    """Tell what a result depends on from anything else, the same in every process.

    Args:
        *values (object): Numbers, words, tensors, arrays, modules (their weights and class),
            collections of these, methods (with their object), functions (their code, and the
            numbers, tensors and modules that they close over), and objects, of which the attributes
            count.

    Returns:
        str: 16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    _add(digest, values)
    return digest.hexdigest()[:16]


def _add(digest: hashlib._Hash, value: object) -> None:
    digest.update(f"|{type(value).__qualname__}:".encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, nn.Module):
        _add(digest, repr(value))
        _add(digest, dict(value.state_dict()))
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(f"|{key}=".encode())
            _add(digest, value[key])
    elif isinstance(value, tuple | list):
        for one in value:
            _add(digest, one)
    elif value is None or isinstance(value, str | int | float | torch.device):
        digest.update(repr(value).encode())
    elif inspect.ismethod(value):
        digest.update(value.__qualname__.encode())
        _add(digest, value.__self__)
    elif inspect.isfunction(value):
        digest.update(value.__qualname__.encode() + value.__code__.co_code)
        _add(digest, [c for c in value.__code__.co_consts if isinstance(c, str | int | float)])
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        plain = (Tensor, nn.Module, str, int, float)
        _add(digest, [held for held in cells if isinstance(held, plain)])
    else:
        _add(digest, getattr(value, "__dict__", {}))
