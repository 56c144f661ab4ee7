"""Eval mode for a while, without a call of anybody's ``train`` or ``eval``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

_lock = threading.Lock()
_modes: WeakKeyDictionary[nn.Module, tuple[int, bool]] = WeakKeyDictionary()
"""Of each part that is held: by how many it is held, and its mode before the first."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Hold a model in eval mode; the last that holds a part, itself or in a wrapper, restores it.

    Each part's flag is set, and nothing is called: the ``eval`` of an exported module raises, that
    of others merges weights or does what can't be taken back by restoring the flag.

    Args:
        model (nn.Module): Parts of it without a mode, such as frozen scripts, are left alone.

    Yields:
        None: While it is held.
    """
    # The module in a compiled one is a part, too, and in torch 2.4 has the only flag that counts.
    parts = [p for p in model.modules() if hasattr(p, "training") and not _is_compiled(p)]
    held = []
    try:
        with _lock:
            # Such a flag is that of a module within, which may be held already.
            for part in sorted(parts, key=_is_borrowed):
                if _is_borrowed(part) and not part.training:
                    continue
                holders, mode = _modes.get(part, (0, part.training))
                part.training = False
                _modes[part] = (holders + 1, mode)
                held.append(part)
        yield
    finally:
        with _lock:
            for part in held:
                holders, mode = _modes.pop(part)
                if holders > 1:
                    _modes[part] = (holders - 1, mode)
                else:
                    part.training = mode


def _is_borrowed(part: nn.Module) -> bool:
    return isinstance(getattr(type(part), "training", None), property)


def _is_compiled(part: nn.Module) -> bool:
    kind = type(part)
    return kind.__module__.startswith("torch._dynamo") and kind.__name__ == "OptimizedModule"
