"""Compiled parts of a model, inside of which nobody sees what runs."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.Lock()
_running: list[Any] = []
"""The threads' calls that run eagerly now; the first one's way back to what was before."""


@contextmanager
def run_eagerly() -> Iterator[None]:
    """Run what was compiled as it was written, so that hooks see the modules in it.

    What was compiled is kept. Before PyTorch 2.6, which can't, and where nothing can have been
    compiled, nothing is done; nor within compiled code itself.

    Yields:
        None: While it lasts, in all threads.
    """
    if torch.compiler.is_compiling() or not _start():
        yield
        return
    try:
        yield
    finally:
        with _lock:
            _running.pop()
            if len(_running) == 1:
                _running.pop().__exit__(None, None, None)


def _start() -> bool:
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return False
    with _lock:
        # One after the other each would restore what it found: the other's.
        if not _running:
            try:
                _running.append(torch.compiler.set_stance("force_eager"))
            except RuntimeError:  # within what is compiled
                return False
        _running.append(None)
    return True
