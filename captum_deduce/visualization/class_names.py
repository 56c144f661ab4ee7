"""What classes and pairs are called in a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AnySet
from typing import Any

import numpy as np
from torch import Tensor

ClassNames = Sequence[str] | Mapping[int, str] | Mapping[str, str]
"""One name per class in the order of the model's scores, or names by class index; the indices may
be written as text, as JSON writes them."""


def read_class_names(class_names: ClassNames | None, num_classes: int) -> list[str]:
    """Read the names that the user gave the classes.

    Args:
        class_names (Sequence[str] or Mapping, optional): One name per class, in the order of the
            model's scores, or ``{index: name}``, where an index may be text ("0", as in JSON) and a
            class without a name is called by its number. None: all are.
        num_classes (int): How many classes there are at least.

    Returns:
        list[str]: A name for each class, in one line.

    Raises:
        TypeError: A set, whose order says nothing, ``{name: index}``, or what holds no strings.
        ValueError: Fewer names than classes in a sequence, or keys that are no class indices.
    """
    if class_names is None:
        return [str(number) for number in range(num_classes)]
    if isinstance(class_names, Mapping):
        by_index = _by_index(class_names)
        names = [by_index.get(number, str(number)) for number in range(num_classes)]
    else:
        names = _in_order(class_names)
    if len(names) < num_classes:
        raise ValueError(
            f"class_names must name every class, at least {num_classes} as class {num_classes - 1} "
            f"occurs, got {len(names)} names"
        )
    return [" ".join(name.split()) for name in names]


def _in_order(class_names: object) -> list[str]:
    if isinstance(class_names, AnySet):
        raise TypeError(
            "class_names must have an order, that of the model's scores: a list, or a dict "
            f"{{index: name}}; got a {type(class_names).__name__}, which has none: {class_names!r}"
        )
    names: list[Any] | None = None
    if isinstance(class_names, Iterable) and not isinstance(class_names, str | bytes):
        names = list(class_names)
    if names is None or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"class_names must be a sequence of strings, one per class, or a dict {{index: name}}, "
            f"got {class_names!r}"
        )
    return names


def _by_index(class_names: Mapping[Any, Any]) -> dict[int, str]:
    if not all(isinstance(name, str) for name in class_names.values()):
        swapped = all(isinstance(key, str) for key in class_names)
        hint = (
            "; of {name: index} pass {index: name for name, index in class_names.items()}"
            if swapped
            else ""
        )
        raise TypeError(f"class_names must map class indices to strings, got {class_names!r}{hint}")
    by_index = {_index(key, class_names): name for key, name in class_names.items()}
    if len(by_index) < len(class_names):
        raise ValueError(f"class_names must name a class once, got {class_names!r}")
    return by_index


def _index(key: object, class_names: Mapping[Any, Any]) -> int:
    """Read a class index, or an index written as text."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool) and key >= 0:
        return int(key)
    if isinstance(key, str) and key.isdecimal() and str(int(key)) == key:
        return int(key)
    raise ValueError(
        f"class_names must have class indices from 0 as keys, as {{0: 'cat', 1: 'dog'}}, got the "
        f"key {key!r} in {class_names!r}"
    )


def classes_seen(*classes: Tensor | None) -> int:
    """Count the classes up to the largest index that occurs.

    Args:
        *classes (Tensor or None): Class indices, of any shape.

    Returns:
        int: The largest index plus one; 0 where there are none.
    """
    largest = [int(c.max()) for c in classes if c is not None and c.numel()]
    return max(largest, default=-1) + 1


def changes_in_words(changed: Tensor, *, brief: bool = False) -> list[str]:
    """Say how much of each image changed.

    Args:
        changed (Tensor): Which entries changed, N x channels x height x width, bool.
        brief (bool, optional): Leave out the word "entries". Default: False

    Returns:
        list[str]: "4 entries changed"; of several channels "105 entries in 35 places".
    """
    entries = changed.flatten(1).sum(1).tolist()
    said = [f"{n:,}" if brief else _counted(n, "entry", "entries") for n in entries]
    if changed.shape[1] == 1:
        return [f"{count} changed" for count in said]
    sites = changed.any(1).flatten(1).sum(1).tolist()
    places = [_counted(n, "place", "places") for n in sites]
    return [f"{count} in {where}" for count, where in zip(said, places, strict=True)]


def _counted(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
