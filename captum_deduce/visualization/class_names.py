"""What classes and pairs are called in a picture."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def read_class_names(class_names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Read the names that the user gave the classes.

    Args:
        class_names (Sequence[str] or None): One name per class, in the order of the model's
            scores; None: their numbers.
        num_classes (int): How many classes there are at least.

    Returns:
        list[str]: A name for each class, in one line.

    Raises:
        TypeError: Not a sequence of strings.
        ValueError: Fewer names than classes.
    """
    if class_names is None:
        return [str(number) for number in range(num_classes)]
    names = None if isinstance(class_names, str) else list(class_names)
    if names is None or not all(isinstance(name, str) for name in names):
        raise TypeError(
            f"class_names must be a sequence of strings, one per class, got {class_names!r}"
        )
    if len(names) < num_classes:
        raise ValueError(
            f"class_names must name every class, at least {num_classes} as class {num_classes - 1} "
            f"occurs, got {len(names)} names"
        )
    return [" ".join(name.split()) for name in names]


def classes_seen(*classes: Tensor | None) -> int:
    """Count the classes up to the largest index that occurs.

    Args:
        *classes (Tensor or None): Class indices, of any shape.

    Returns:
        int: The largest index plus one; 0 where there are none.
    """
    largest = [int(c.max()) for c in classes if c is not None and c.numel()]
    return max(largest, default=-1) + 1
