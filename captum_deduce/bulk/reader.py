"""A run that is on disk, read: its pairs as a table, as counterfactuals, as changes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_deduce import checks
from captum_deduce.bulk.folder import MANIFEST, read_manifest, shard_files
from captum_deduce.bulk.schema import SCALARS, Layout, arrow
from captum_deduce.bulk.shard_file import ShardFile
from captum_deduce.bulk.source import Source
from captum_deduce.bulk.validity import (
    CLASSES,
    MOST_CLASSES,
    check_manifest,
    check_pairs,
    check_shape,
)
from captum_deduce.counterfactuals import Counterfactuals

if TYPE_CHECKING:
    from pandas import DataFrame


class Run:
    """The pairs of a run, those that are there so far.

    Rows are numbered from 0 in the order of :meth:`table`: by image, then by target.

    Args:
        folder (str or Path): Of the run.

    Attributes:
        folder (Path): Of the run.
        manifest (dict[str, Any]): How it was made.
        shards (list[Path]): Its files that are there, in order.

    Raises:
        FileNotFoundError: No run is there.
        ValueError: A file is damaged, or of another version.
        ImportError: pyarrow is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        check_manifest(self.manifest, self.folder / MANIFEST)
        schema = Layout(self.shape, self.dtype, self.manifest["store_images"]).schema()
        self._files: list[ShardFile] = []
        # Of the groups of rows that are read together: their shards, their numbers there, and the
        # rows of the run up to each group's end.
        groups: list[tuple[int, int]] = []
        ends: list[int] = []
        for shard, path in enumerate(shard_files(self.folder).values()):
            try:
                file = ShardFile.open(path)
                file.require(schema)
            except ValueError as error:
                raise ValueError(f"{error}; running the same call again makes it anew") from error
            self._files.append(file)
            for number, rows in enumerate(file.group_rows):
                groups.append((shard, number))
                ends.append((ends or [0])[-1] + rows)
        self.shards = [file.path for file in self._files]
        self._groups = np.array(groups, np.int64).reshape(-1, 2)
        self._ends = np.array(ends, np.int64)

    def __len__(self) -> int:
        """Rows: pairs, and images that could not be explained."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def __repr__(self) -> str:
        state = "complete" if self.complete else "not complete"
        return (
            f"Run({str(self.folder)!r}, {len(self):,} rows of {self.items_seen:,} images, {state})"
        )

    @property
    def complete(self) -> bool:
        """Whether the whole data set was gone through."""
        return bool(self.manifest.get("complete"))

    @property
    def items_seen(self) -> int:
        """Images of the data set that the shards are about, explained or not."""
        return sum(file.about["stop"] - file.about["first"] for file in self._files)

    @property
    def failures(self) -> int:
        """Rows of images, or of their targets, that could not be explained."""
        return sum(error is not None for error in self._column("error"))

    @property
    def class_names(self) -> list[str] | None:
        """The classes' names; None where they are not known."""
        names: list[str] | None = self.manifest.get("class_names")
        return names

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the images, channels x height x width."""
        return tuple(self.manifest["shape"])

    @property
    def dtype(self) -> torch.dtype:
        """Of the images."""
        found: torch.dtype = getattr(torch, self.manifest["dtype"])
        return found

    def table(self) -> DataFrame:
        """The columns with one value for each pair; what is not known is missing (NA or NaN).

        Returns:
            pandas.DataFrame: With the columns of :data:`captum_deduce.bulk.SCALARS`, a row for each
            pair, and for each image that could not be explained.

        Raises:
            ValueError: A file is damaged.
        """
        import pandas as pd

        pa = arrow()
        kinds = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
        tables = []
        for file in self._files:
            table = file.read([*SCALARS, "shape"])
            check_shape(table, self.shape, file.path)
            tables.append(table.drop_columns(["shape"]))
        if not tables:
            return pd.DataFrame(columns=list(SCALARS))
        joined = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
        frame: DataFrame = joined.to_pandas(types_mapper=kinds.get)
        for name in CLASSES:
            if not bool(frame[name].dropna().between(0, MOST_CLASSES).all()):
                raise ValueError(f"{self.folder} is damaged: its column {name} holds no classes")
        names = self.class_names
        seen = [int(frame[name].max()) for name in CLASSES if bool(frame[name].notna().any())]
        if names is not None and max(seen, default=-1) >= len(names):
            raise ValueError(
                f"{self.folder / MANIFEST} must name every class, at least {max(seen) + 1} as "
                f"class {max(seen)} occurs, got {len(names)} names"
            )
        return frame

    def changes(
        self, rows: Any = None, *, chunk_size: int = 256
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Go through what changed, ``counterfactual - original``.

        Args:
            rows (Tensor, list, slice or int, optional): Which rows. Default: None (all pairs that
                were explained, found or not)
            chunk_size (int, optional): Most of them at once; fewer where the file keeps fewer
                together. Default: 256

        Yields:
            tuple[list[int], Tensor]: Rows, and their changes, N x channels x height x width.

        Raises:
            IndexError: A row that is not there.
            TypeError: Another kind of index.
            ValueError: A row of an image that could not be explained, or a damaged file.
        """
        for chunk, pair, place, value in self.changed_entries(rows, chunk_size=chunk_size):
            changes = torch.zeros(len(chunk), *self.shape, dtype=self.dtype)
            changes.flatten(1)[pair, place] = value
            yield chunk, changes

    def changed_entries(
        self, rows: Any = None, *, chunk_size: int = 256
    ) -> Iterator[tuple[list[int], Tensor, Tensor, Tensor]]:
        """Go through the entries that changed, as they are stored: the others cost nothing.

        Args:
            rows (Tensor, list, slice or int, optional): Which rows. Default: None (all pairs that
                were explained, found or not)
            chunk_size (int, optional): Most of them at once; fewer where the file keeps fewer
                together. Default: 256

        Yields:
            tuple[list[int], Tensor, Tensor, Tensor]: Rows; and of each entry that changed the
            position of its row in that list, its place in the flattened image, and its change,
            ``counterfactual - original``.

        Raises:
            IndexError: A row that is not there.
            TypeError: Another kind of index.
            ValueError: A row of an image that could not be explained, or a damaged file.
        """
        checks.number("chunk_size", chunk_size, minimum=1, integer=True)
        chosen = self._chosen(rows)
        # Rows that are read together stay together: no group is read for each part of its rows.
        borders = np.flatnonzero(np.diff(self._group_of(chosen))) + 1
        for first, last in itertools.pairwise([0, *borders.tolist(), len(chosen)]):
            for start in range(first, last, chunk_size):
                chunk = chosen[start : min(start + chunk_size, last)]
                columns = self._read(chunk, ["change_indices", "change_values", "error"])
                yield chunk, *_entries(columns, "change_values", self.dtype)

    def counterfactuals(
        self,
        rows: Any = None,
        *,
        dataset: Any = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> Counterfactuals:
        """Read pairs as the explainer returned them, to the last bit.

        Args:
            rows (Tensor, list, slice or int, optional): Which rows, and in which order.
                Default: None (all pairs that were explained, found or not)
            dataset (Any, optional): The same data set, map-style, for the originals.
                Default: None (the run was made with ``store_images=True``)
            transform (Callable, optional): As it was given to
                :func:`captum_deduce.bulk.explain_dataset`. Default: None

        Returns:
            Counterfactuals: On the CPU, without trajectories.

        Raises:
            IndexError: A row that is not there.
            TypeError: Another kind of index, or a data set that can't be read by position.
            ValueError: No pairs, a row of an image that could not be explained, originals that are
                nowhere, or an image of the data set that can't be read or has another shape.
        """
        chosen = self._chosen(rows)
        if not chosen:
            raise ValueError("rows must choose at least one pair, got none")
        names = [name for name in SCALARS if name not in ("label", "l0", "l1")]
        names += ["change_indices", "counterfactual_values"]
        if dataset is None:
            if not self.manifest["store_images"]:
                raise ValueError(
                    "dataset must be given, as this run stores no images (store_images=True does)"
                )
            names.append("original_values")
        columns = self._read(chosen, names)
        if dataset is None:
            flat = np.stack(columns["original_values"])
            inputs = torch.from_numpy(flat).to(self.dtype).view(-1, *self.shape)
        else:
            inputs = self._originals(columns["index"], Source(dataset, transform))
        precision = self._precision()
        # Of a density, where any pair has one.
        log_density = columns["log_density"]
        known = [value is not None for value in log_density]
        counts: dict[str, Any] = {
            name: torch.tensor(columns[name], dtype=torch.int64)
            for name in (
                "prediction",
                "target",
                "iterations",
                "evaluations",
                "forward_evaluations",
            )
        }
        counterfactuals = inputs.clone()
        pair, place, value = _entries(columns, "counterfactual_values", self.dtype)
        counterfactuals.flatten(1)[pair, place] = value
        return Counterfactuals(
            inputs=inputs,
            counterfactuals=counterfactuals,
            success=torch.tensor(columns["success"], dtype=torch.bool),
            confidence=torch.tensor(columns["confidence"], dtype=precision["confidence"]),
            log_density=(
                torch.tensor(log_density, dtype=precision["log_density"]) if all(known) else None
            ),
            **counts,
        )

    def _chosen(self, rows: Any) -> list[int]:
        if rows is not None:
            return checks.rows("rows", rows, len(self)).tolist()
        errors = self._column("error")
        return [row for row, error in enumerate(errors) if error is None]

    def _column(self, name: str) -> list[Any]:
        values: list[Any] = []
        for file in self._files:
            values += file.read([name])[name].to_pylist()
        return values

    def _read(self, rows: Sequence[int], names: list[str]) -> dict[str, list[Any]]:
        """Columns of some rows, in their order; those of lists as arrays."""
        of_row = self._group_of(rows)
        columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in names}
        for shard in np.unique(self._groups[of_row, 0]).tolist():
            slots = np.flatnonzero(self._groups[of_row, 0] == shard)
            groups = np.unique(of_row[slots])
            table = self._files[shard].read([*names, "shape"], self._groups[groups, 1].tolist())
            # where each of these groups begins in the run, and in what was read
            sizes = np.diff(self._ends, prepend=0)[groups]
            begins, read_from = self._ends[groups] - sizes, np.cumsum(sizes) - sizes
            place = np.searchsorted(groups, of_row[slots])
            table = table.take(np.asarray(rows)[slots] - begins[place] + read_from[place])
            check_pairs(table, self.shape, self.shards[shard])
            for name in names:
                column = table[name]
                lists = arrow().types.is_list(column.type)
                values = column.to_numpy(zero_copy_only=False) if lists else column.to_pylist()
                for slot, value in zip(slots.tolist(), values, strict=True):
                    columns[name][slot] = value
        broken = [row for row, error in zip(rows, columns["error"], strict=True) if error]
        if broken:
            raise ValueError(
                f"rows must be of images that could be explained; row(s) {checks.some(broken)} "
                "could not, their error column says why"
            )
        return columns

    def _group_of(self, rows: Sequence[int]) -> NDArray[np.int64]:
        return np.searchsorted(self._ends, rows, side="right")

    def _originals(self, indices: list[int], source: Source) -> Tensor:
        images: dict[int, Tensor] = {}
        for index in sorted(set(indices)):
            item = source.item(index)
            if item.image is None:
                raise ValueError(f"image {index} of dataset can't be read: {item.error}")
            if tuple(item.image.shape) != self.shape or item.image.dtype != self.dtype:
                raise ValueError(
                    f"dataset must hold the images of this run, {self.shape} and {self.dtype}, got "
                    f"{tuple(item.image.shape)} and {item.image.dtype} for image {index}"
                )
            images[index] = item.image
        return torch.stack([images[index] for index in indices])

    def _precision(self) -> dict[str, torch.dtype]:
        named = {"confidence": "float64", "log_density": "float64"}
        for file in self._files:
            named |= file.about["precision"]
        return {name: getattr(torch, value) for name, value in named.items()}


def read(folder: str | os.PathLike[str]) -> Run:
    """Open the folder of a run, complete or not.

    Args:
        folder (str or Path): As it was given to :func:`captum_deduce.bulk.explain_dataset`.

    Returns:
        Run: Its pairs, those that are there so far.

    Raises:
        FileNotFoundError: No run is there.
        ValueError: A file is damaged, or of another version.
        ImportError: pyarrow is not installed.
    """
    return Run(folder)


def _entries(
    columns: dict[str, list[Any]], name: str, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each entry that changed its pair, its place and a value."""
    counts = torch.tensor([len(places) for places in columns["change_indices"]])
    pair = torch.arange(len(counts)).repeat_interleave(counts)
    place = torch.from_numpy(np.concatenate(columns["change_indices"])).long()
    return pair, place, torch.from_numpy(np.concatenate(columns[name])).to(dtype)
