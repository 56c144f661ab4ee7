"""What a shard of a run holds: a row for each pair, as Arrow and Parquet see it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.storage import parse_json

FORMAT_VERSION = 1
"""Of shards and manifest."""

SCALARS = (
    "index",
    "label",
    "prediction",
    "target",
    "success",
    "confidence",
    "log_density",
    "log_density_quantile",
    "iterations",
    "evaluations",
    "forward_evaluations",
    "l0",
    "l1",
    "error",
)
"""The columns with one number or word for each pair."""

PRECISIONS = frozenset(("float16", "bfloat16", "float32", "float64"))
"""Of confidences and log-densities, as torch names them."""

_KEY = b"captum_deduce"
_IMAGES = ("original", "counterfactual")


def arrow() -> Any:
    """Import pyarrow.

    Returns:
        module: pyarrow, with ``pyarrow.parquet`` loaded.

    Raises:
        ImportError: It is not installed; the message says how to.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "captum_deduce.bulk keeps its results as Parquet, for which it needs pyarrow: "
            "pip install 'captum-deduce[bulk]'"
        ) from error
    return pyarrow


@dataclass(frozen=True)
class Layout:
    """What the columns of a run depend on.

    Args:
        shape (tuple[int, ...]): Of an image, as channels x height x width.
        dtype (torch.dtype): Of its values, float32 or float64.
        store_images (bool, optional): Whether a row holds its two images, too. Default: False
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    store_images: bool = False

    def schema(self) -> Any:
        """Describe the columns.

        Columns of pictures are marked as those of Hugging Face's ``datasets``.

        Returns:
            pyarrow.Schema: All of them, see ``docs/guide/whole-data-sets.md``.
        """
        pa = arrow()
        entries = torch.Size(self.shape).numel()
        place = pa.int32() if entries < 2**31 else pa.int64()
        value = pa.float64() if self.dtype == torch.float64 else pa.float32()
        kinds = {
            "success": pa.bool_(),
            "confidence": pa.float64(),
            "log_density": pa.float64(),
            "log_density_quantile": pa.float64(),
            "l1": pa.float64(),
            "error": pa.string(),
        }
        fields = [pa.field(name, kinds.get(name, pa.int64())) for name in SCALARS]
        fields += [
            pa.field("change_indices", pa.list_(place)),
            pa.field("change_values", pa.list_(value)),
            pa.field("counterfactual_values", pa.list_(value)),
            pa.field("shape", pa.list_(pa.int64())),
        ]
        metadata = {}
        if self.store_images:
            picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
            fields += [pa.field(name, picture) for name in _IMAGES]
            fields.append(pa.field("original_values", pa.list_(value)))
            features = {"info": {"features": {name: {"_type": "Image"} for name in _IMAGES}}}
            metadata[b"huggingface"] = json.dumps(features).encode()
        return pa.schema(fields, metadata)


@dataclass(frozen=True)
class Failure:
    """An image that could not be explained.

    Args:
        index (int): Its position in the data set.
        error (str): Why.
        label (int, optional): Its label, where that is known. Default: None
        target (int, optional): The target, where only this one can't be reached. Default: None
        prediction (int, optional): The class that the model sees, where it is known. Default: None
    """

    index: int
    error: str
    label: int | None = None
    target: int | None = None
    prediction: int | None = None


@dataclass(frozen=True)
class Pairs:
    """Explained pairs of some images, with what a :class:`Counterfactuals` does not know.

    Args:
        index (Sequence[int]): Positions of the images in the data set, N.
        label (Sequence[int or None]): Their labels, N.
        result (Counterfactuals): Of the N pairs.
        quantile (Tensor, optional): The share of the target class's training log-densities that
            are no larger than the pair's, N. Default: None
    """

    index: Sequence[int]
    label: Sequence[int | None]
    result: Counterfactuals
    quantile: Tensor | None = None


class Rows:
    """The rows of a shard, as they come; what is kept of images is what changed.

    Args:
        layout (Layout): Of the run.
        bounds (tuple[Tensor, Tensor]): Lower and upper bound of values, of the shape of an image,
            or of one that broadcasts to it; the black and the white of pictures.
    """

    def __init__(self, layout: Layout, bounds: tuple[Tensor, Tensor]) -> None:
        self.layout = layout
        self._schema = layout.schema()
        self._bounds = bounds
        self._columns: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._precision: dict[str, str] = {}

    def add(self, pairs: Pairs) -> None:
        """Add what was explained.

        Args:
            pairs (Pairs): In any order.
        """
        _add_pairs(self._columns, pairs, self.layout, self._bounds)
        for name in ("confidence", "log_density"):
            value = getattr(pairs.result, name)
            if value is not None:
                self._precision[name] = str(value.dtype).removeprefix("torch.")

    def fail(self, failure: Failure) -> None:
        """Add what could not be explained.

        Args:
            failure (Failure): An image, or one target of it.
        """
        known = vars(failure)
        for name, values in self._columns.items():
            values.append(known.get(name))

    def table(self, span: range) -> Any:
        """Put the rows in the order of images and targets.

        Args:
            span (range): Positions of the images in the data set that the rows are about.

        Returns:
            pyarrow.Table: In :meth:`Layout.schema`; the metadata name the span and the precision of
            confidences and log-densities.
        """
        columns = self._columns
        order = sorted(
            range(len(columns["index"])),
            key=lambda row: (columns["index"][row], _first(columns["target"][row])),
        )
        about = {
            "format_version": FORMAT_VERSION,
            "first": span.start,
            "stop": span.stop,
            "precision": self._precision,
        }
        metadata = {**(self._schema.metadata or {}), _KEY: json.dumps(about).encode()}
        ordered = {name: [values[row] for row in order] for name, values in columns.items()}
        return arrow().table(ordered, schema=self._schema.with_metadata(metadata))


def about_shard(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Read what :func:`shard_table` noted about a table.

    Args:
        metadata (Mapping[bytes, bytes] or None): Of a schema.

    Returns:
        dict[str, Any]: ``format_version``, ``first``, ``stop``, ``precision``.

    Raises:
        ValueError: No metadata of a shard, or of another version.
    """
    if not metadata or _KEY not in metadata:
        raise ValueError("it is no shard of a run of captum_deduce.bulk")
    about = parse_json(metadata[_KEY])
    version = about.get("format_version") if isinstance(about, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"it has format version {version}; this version of the package reads {FORMAT_VERSION}"
        )
    first, stop, precision = (about.get(name) for name in ("first", "stop", "precision"))
    if not (type(first) is int and type(stop) is int and 0 <= first <= stop < 2**63):
        raise ValueError(f"it must name its first image and its last, got {first!r} and {stop!r}")
    known = {"confidence", "log_density"}
    if not isinstance(precision, dict) or not known.issuperset(precision):
        raise ValueError(f"it must name the precision of {sorted(known)}, got {precision!r}")
    if not PRECISIONS.issuperset(map(str, precision.values())):
        raise ValueError(f"a precision must be one of {sorted(PRECISIONS)}, got {precision!r}")
    found: dict[str, Any] = about
    return found


def _first(target: int | None) -> int:
    return -1 if target is None else target


def _add_pairs(
    columns: dict[str, list[Any]], pairs: Pairs, layout: Layout, bounds: tuple[Tensor, Tensor]
) -> None:
    result = pairs.result
    original, changed = result.inputs.cpu(), result.counterfactuals.cpu()
    columns["index"] += pairs.index
    columns["label"] += pairs.label
    columns["error"] += [None] * len(result)
    columns["shape"] += [list(layout.shape)] * len(result)
    for name in ("prediction", "target", "success", "confidence", "iterations"):
        columns[name] += getattr(result, name).tolist()
    for name in ("evaluations", "forward_evaluations"):
        columns[name] += getattr(result, name).tolist()
    for name, values in (
        ("log_density", result.log_density),
        ("log_density_quantile", pairs.quantile),
    ):
        columns[name] += [None] * len(result) if values is None else values.tolist()
    columns["l0"] += result.l0().tolist()
    columns["l1"] += result.l1().tolist()
    _add_changes(columns, original.flatten(1), changed.flatten(1))
    if layout.store_images:
        columns["original_values"] += list(original.flatten(1).numpy())
        for name, images in zip(_IMAGES, (original, changed), strict=True):
            columns[name] += [{"bytes": picture, "path": None} for picture in png(images, *bounds)]


def _add_changes(columns: dict[str, list[Any]], original: Tensor, changed: Tensor) -> None:
    """Only what differs, row after row; as arrays, which Arrow takes without a loop of its own."""
    rows, places = (original != changed).nonzero(as_tuple=True)
    counts = rows.bincount(minlength=len(original)).tolist()
    after, before = changed[rows, places], original[rows, places]
    for name, values in (
        ("change_indices", places),
        ("change_values", after - before),
        # original + difference is not always the counterfactual to the last bit
        ("counterfactual_values", after),
    ):
        columns[name] += [part.numpy() for part in torch.split(values, counts)]


def png(images: Tensor, lower: Tensor, upper: Tensor) -> list[bytes]:
    """Draw images as PNG files of 8 bits, from black at the lower bound to white at the upper.

    Args:
        images (Tensor): N x channels x height x width, 1 channel or 3.
        lower (Tensor): Of the shape of an image, or one that broadcasts to it.
        upper (Tensor): Likewise.

    Returns:
        list[bytes]: N files.
    """
    from PIL import Image

    lower, upper = lower.to(images), upper.to(images)
    levels = ((images - lower) / (upper - lower) * 255).round().clamp(0, 255).to(torch.uint8)
    files = []
    for pixels in levels.movedim(1, -1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
        files.append(file.getvalue())
    return files
