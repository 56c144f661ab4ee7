"""Names of files that are made of words."""

from __future__ import annotations

import re


def file_stem(name: str) -> str:
    """Turn a class name, or any other words, into a part of a file name.

    Args:
        name (str): Any text.

    Returns:
        str: Letters, digits, ``.``, ``_`` and ``-``; others become ``-``.

    Examples::

        >>> file_stem("tabby cat (indoor)")
        'tabby-cat-indoor'
    """
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "class"
