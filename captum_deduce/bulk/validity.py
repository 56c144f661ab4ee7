"""Whether what the files of a run say can be: sizes, types, places of entries."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from captum_deduce.bulk.schema import arrow

CLASSES = ("label", "prediction", "target")
"""The columns of classes."""

MOST_CLASSES = 2**24
"""Of a model: whoever makes a list of names as long as the largest number says has it in memory."""

_KNOWN = ("index", "prediction", "target", "success", "confidence")
_COUNTS = ("iterations", "evaluations", "forward_evaluations")


def check_manifest(manifest: Mapping[str, Any], path: Path) -> None:
    """Refuse a manifest whose images can't be, before any memory is taken for them.

    Args:
        manifest (Mapping[str, Any]): What it says.
        path (Path): Its file, for the message.

    Raises:
        ValueError: A shape, a type, bounds or names that are none.
    """
    for name, expected in _wrong(manifest):
        raise ValueError(f"{path}: {name} must be {expected}, got {repr(manifest.get(name))[:80]}")


def _wrong(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong in a manifest, and what it should be."""
    shape, names = manifest.get("shape"), manifest.get("class_names")
    whole = isinstance(shape, list) and all(type(side) is int and side > 0 for side in shape)
    if not isinstance(shape, list) or not whole or not shape or math.prod(shape) >= 2**62:
        yield "shape", "a list of sizes"
        return
    if manifest.get("dtype") not in ("float32", "float64"):
        yield "dtype", "'float32' or 'float64'"
    if not isinstance(manifest.get("store_images"), bool):
        yield "store_images", "true or false"
    listed = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if names is not None and not listed:
        yield "class_names", "a list of names"
    for name in ("lower_bound", "upper_bound"):
        if not _broadcasts(manifest.get(name), tuple(shape)):
            yield name, f"numbers for images {tuple(shape)}"


def check_pairs(table: Any, shape: tuple[int, ...], path: Path) -> None:
    """Refuse rows that are not of such images, before their entries are put into them.

    Args:
        table (pyarrow.Table): Some columns, and ``shape``. Rows with an ``error`` are left out.
        shape (tuple[int, ...]): Of the run's images.
        path (Path): The shard, for the message.

    Raises:
        ValueError: Another shape, values that are missing, lists of other lengths than they must
            have, or entries beyond the image.
    """
    compute = _compute()
    if "error" in table.column_names:
        table = table.filter(compute.is_null(table["error"]))
    for name in table.column_names:
        known = name in (*_KNOWN, *_COUNTS) or arrow().types.is_list(table[name].type)
        if known and table[name].null_count:
            raise ValueError(f"{path} is damaged: its column {name} lacks values")
        if known and arrow().types.is_list(table[name].type):
            inner = compute.list_flatten(table[name])
            if inner.null_count:
                raise ValueError(f"{path} is damaged: the lists of its column {name} lack values")
    check_shape(table, shape, path)
    entries = math.prod(shape)
    if "original_values" in table.column_names:
        _check_lengths(table, "original_values", np.full(len(table), entries), path)
    if "change_indices" in table.column_names:
        lengths = _lengths(table, "change_indices")
        for name in ("change_values", "counterfactual_values"):
            if name in table.column_names:
                _check_lengths(table, name, lengths, path)
        places = compute.list_flatten(table["change_indices"]).to_numpy()
        if len(places) and (places.min() < 0 or places.max() >= entries):
            raise ValueError(
                f"{path} is damaged: changes are beyond the image of {entries} entries"
            )


def check_shape(table: Any, shape: tuple[int, ...], path: Path) -> None:
    """Refuse a shard of other images than the manifest says.

    Args:
        table (pyarrow.Table): With the column ``shape``; images that were not explained have none.
        shape (tuple[int, ...]): Of the run's images.
        path (Path): The shard, for the message.

    Raises:
        ValueError: Another shape.
    """
    column = table["shape"].drop_null()
    sides = _compute().list_flatten(column)
    expected = np.tile(shape, len(column))
    lengths = np.full(len(column), len(shape))
    same = np.array_equal(_compute().list_value_length(column).to_numpy(), lengths)
    if not same or sides.null_count or not np.array_equal(sides.to_numpy(), expected):
        raise ValueError(f"{path} holds other images than those of its run, which are {shape}")


def _check_lengths(table: Any, name: str, expected: np.ndarray, path: Path) -> None:
    if not np.array_equal(_lengths(table, name), expected):
        raise ValueError(f"{path} is damaged: the lists of its column {name} have wrong lengths")


def _lengths(table: Any, name: str) -> np.ndarray:
    lengths: np.ndarray = _compute().list_value_length(table[name]).to_numpy()
    return lengths


def _compute() -> Any:
    arrow()  # says what to install where there is none
    import pyarrow.compute

    return pyarrow.compute


def _broadcasts(bound: Any, shape: tuple[int, ...]) -> bool:
    try:
        array = np.asarray(bound, np.float64)
        if array.ndim == len(shape) + 1 and len(array) == 1:
            array = array[0]
        return not np.isnan(array).any() and np.broadcast_shapes(array.shape, shape) == shape
    except (TypeError, ValueError, OverflowError, RecursionError):
        return False
