"""How what was trained is used: lines that commands print at their end."""

from __future__ import annotations

import shlex
from pathlib import Path

from captum_deduce.zoo import RECONSTRUCTION_MODELS


def explain_hint(path: Path) -> str:
    """Say how a checkpoint is used.

    Args:
        path (Path): The checkpoint.

    Returns:
        str: Two lines.
    """
    return (
        "Explain images of your own with it:\n"
        f"  captum-deduce explain --checkpoint {shlex.quote(str(path))} --images IMAGE.png "
        "--target CLASS"
    )


def load_hint(name: str, path: Path) -> str:
    """Say how a model's file is used.

    Args:
        name (str): One of :data:`RECONSTRUCTION_MODELS`.
        path (Path): The file.

    Returns:
        str: A line.
    """
    kind = RECONSTRUCTION_MODELS[name][0].__name__
    return f"In Python: captum_deduce.models.{kind}.load({str(path)!r})"
