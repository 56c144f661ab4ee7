"""Errors of models that ran out of memory."""

from __future__ import annotations

import re

import torch

_MESSAGES = re.compile(r"out of memory|not enough memory|can't allocate memory", re.IGNORECASE)
"""Of the errors that have no class of their own, as on a CPU."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Tell whether a model needed more memory than there was.

    Args:
        error (BaseException): What it raised.

    Returns:
        bool: On any device, as far as classes and messages of errors tell.
    """
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or bool(
        _MESSAGES.search(str(error))
    )
