"""One shard on disk, read with care: what it says of itself is checked before it is used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from captum_deduce.bulk.schema import about_shard, arrow

Read = TypeVar("Read")


@dataclass(frozen=True)
class ShardFile:
    """A shard whose words and columns are in order; its values come with :meth:`read`.

    Args:
        path (Path): The file.
        about (dict[str, Any]): What it says of itself, see
            :func:`captum_deduce.bulk.schema.about_shard`.
        group_rows (tuple[int, ...]): Rows of each of the groups that are read together.
        columns (tuple[str, ...]): Their names.
        schema (pyarrow.Schema): Their types.
    """

    path: Path
    about: dict[str, Any]
    group_rows: tuple[int, ...]
    columns: tuple[str, ...]
    schema: Any

    @classmethod
    def open(cls, path: Path) -> ShardFile:
        """Read what a shard says of itself.

        Args:
            path (Path): The file.

        Returns:
            ShardFile: None of its rows is read yet.

        Raises:
            ValueError: No file, no Parquet, or no shard of this version; the message names the
                file.
            ImportError: pyarrow is not installed.
        """
        if not path.is_file():
            raise ValueError(f"{path} can't be read: it is no file")
        parquet = arrow().parquet
        metadata = _readable(path, lambda: parquet.read_metadata(path))
        about = _readable(path, lambda: about_shard(metadata.metadata))
        schema = _readable(path, lambda: metadata.schema.to_arrow_schema())
        groups = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows:
            raise ValueError(
                f"{path} is damaged: its parts have {groups} rows, it has {metadata.num_rows}"
            )
        return cls(path, about, tuple(groups), tuple(schema.names), schema)

    def require(self, expected: Any) -> None:
        """Refuse other columns than those of the run.

        Args:
            expected (pyarrow.Schema): Of the run.

        Raises:
            ValueError: A column is missing, is too much, or has another type.
        """
        if not self.schema.remove_metadata().equals(expected.remove_metadata()):
            wrong = [
                f"{field.name}: {field.type}"
                for field in expected
                if field.name not in self.columns or self.schema.field(field.name) != field
            ]
            raise ValueError(
                f"{self.path} must have the columns of its run"
                + (f", it lacks {', '.join(wrong)}" if wrong else f" alone, got {self.columns}")
            )

    def read(self, columns: Sequence[str], groups: Sequence[int] | None = None) -> Any:
        """Read some columns; a bit that has changed since they were written is noticed.

        Args:
            columns (Sequence[str]): Their names.
            groups (Sequence[int], optional): Only these groups of rows. Default: None (all)

        Returns:
            pyarrow.Table: The rows, in their order.

        Raises:
            ValueError: The file is damaged; the message names it.
        """
        chosen = list(range(len(self.group_rows)) if groups is None else groups)

        def read() -> Any:
            with arrow().parquet.ParquetFile(self.path, page_checksum_verification=True) as file:
                table = file.read_row_groups(chosen, columns=list(columns))
            table.validate(full=True)
            return table

        table = _readable(self.path, read)
        if len(table) != sum(self.group_rows[group] for group in chosen):
            raise ValueError(f"{self.path} is damaged: it has {len(table)} rows of those it names")
        return table


def _readable(path: Path, read: Callable[[], Read]) -> Read:
    """Let pyarrow read; its errors are of many kinds, and don't name the file."""
    try:
        return read()
    except (ValueError, OSError, LookupError, TypeError, NotImplementedError) as error:
        words = str(error).strip().replace("\n", " ")
        raise ValueError(f"{path} can't be read: {words}") from error
