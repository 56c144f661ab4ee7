"""Progress bars: whether to show one, and how."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # Without ipywidgets a notebook's bars are text, of which tqdm warns on import. Not tqdm.auto's
    # bar, which calls iter() twice: a DataLoader would start its workers twice.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.autonotebook import tqdm


def shown(show_progress: bool | None) -> bool:
    """Tell whether a call should show its progress.

    Args:
        show_progress (bool or None): What the caller asked for. None: where a person looks on,
            which is where standard error is a terminal or the code runs in a Jupyter kernel, unless
            the environment variable ``TQDM_DISABLE`` is set and not empty.

    Returns:
        bool: Whether to show it.

    Raises:
        TypeError: Neither a bool nor None.
    """
    if show_progress is None:
        return not os.environ.get("TQDM_DISABLE") and (_in_terminal() or in_jupyter())
    if not isinstance(show_progress, bool):
        raise TypeError(
            "show_progress must be True, False or None, "
            f"got {type(show_progress).__name__}: {show_progress!r}"
        )
    return show_progress


def bar(
    iterable: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    desc: str | None = None,
    unit: str = "it",
    show_progress: bool | None,
    delay: float = 2.0,
) -> Any:
    """Make a tqdm bar: a widget in notebooks that have ipywidgets, else text on standard error.

    Args:
        iterable (Iterable, optional): What to go through. Default: None (``update`` is called by
            hand, best in a ``with`` block)
        total (float, optional): Steps expected. Default: None (the iterable's length)
        desc (str, optional): What stands before the bar. Default: None
        unit (str, optional): What a step is called. Default: "it"
        show_progress (bool or None): As in :func:`shown`.
        delay (float, optional): Seconds before a bar appears that nobody asked for
            (``show_progress=None``), so that short calls show none; True shows it at once.
            Default: 2.0

    Returns:
        tqdm: The bar, a context manager and an iterable.

    Raises:
        TypeError: ``show_progress`` is neither a bool nor None.

    Examples::

        >>> [number ** 2 for number in bar(range(3), unit="number", show_progress=None)]
        [0, 1, 4]
    """
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        disable=not shown(show_progress),
        delay=delay if show_progress is None else 0.0,
    )


def _in_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def in_jupyter() -> bool:
    """Tell whether the code runs in a Jupyter kernel: a notebook's, of whichever program.

    Returns:
        bool: Whether it does.
    """
    # Nobody is in Jupyter who hasn't imported IPython.
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")
