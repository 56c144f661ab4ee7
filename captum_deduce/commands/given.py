"""Check and complete what was given on the command line, before any work is done."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from captum_deduce import storage


def read_device(name: str | None) -> torch.device:
    """Find a device that works.

    Args:
        name (str, optional): As torch names it, "cpu" or "cuda:1". Default: None (CUDA where there
            is one, else the CPU)

    Returns:
        torch.device: The device.

    Raises:
        ValueError: An unknown name, or a device that this machine, or this torch, does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        # The density needs float64, which not every kind of device has.
        torch.zeros(1, device=device, dtype=torch.float64)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--device must be one that this machine has and torch can use, got {name!r}: {reason}"
        ) from error
    return device


def make_folder(path: Path) -> Path:
    """Make an output folder, unless it is there.

    Args:
        path (Path): The folder.

    Returns:
        Path: The same.

    Raises:
        ValueError: There is a file of this name, or the folder can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output must be a folder, or the name of a new one: {error}") from error
    return path


def read_names(path: Path) -> list[Any] | dict[str, Any]:
    """Read a file of class names.

    Args:
        path (Path): A name in each line; or, where its name ends in ``.json``, a list or names by
            index.

    Returns:
        list or dict: What stands in it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It can't be read, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of class names at {path}")
    try:
        if path.suffix == ".json":
            names = storage.read_json(path, "file of class names")
        else:
            names = path.read_text(encoding="utf-8").strip().splitlines()
    except ValueError as error:
        raise ValueError(f"--class-names {path} can't be read: {error}") from error
    if not isinstance(names, list | dict):
        raise ValueError(f"--class-names {path} must hold a list, or names by index")
    found: list[Any] | dict[str, Any] = names
    return found


def read_targets(
    given: Sequence[str] | None, class_names: Sequence[str], num_images: int
) -> list[int] | None:
    """Read target classes, by name or by number.

    Args:
        given (Sequence[str], optional): One for all images or one per image; a name goes before a
            number. Default: None
        class_names (Sequence[str]): The classes' names.
        num_images (int): N.

    Returns:
        list[int] or None: N classes; None where none was given.

    Raises:
        ValueError: Another number of targets, or one that is no class.
    """
    if given is None:
        return None
    if len(given) not in (1, num_images):
        raise ValueError(
            f"--target must be one class for all images or one per image ({num_images}), got "
            f"{len(given)}"
        )
    classes = [_class(word, class_names) for word in given]
    return classes * num_images if len(classes) == 1 else classes


def _class(word: str, class_names: Sequence[str]) -> int:
    if word in class_names:
        return list(class_names).index(word)
    if re.fullmatch(r"\d+", word) and int(word) < len(class_names):
        return int(word)
    named = ", ".join(class_names[:20]) + (", ..." if len(class_names) > 20 else "")
    raise ValueError(
        f"--target must be one of the classifier's {len(class_names)} classes, by name ({named}) "
        f"or by number from 0 to {len(class_names) - 1}, got {word!r}"
    )
