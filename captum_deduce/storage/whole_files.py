"""Files that are there as a whole or not at all, whenever a process or a machine dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file that appears under its name once it is complete, and on the disk.

    Args:
        path (Path): The file; an older one is replaced. Its folder must exist.

    Yields:
        Path: What to write to, in the same folder: :func:`unfinished_files` finds what a process
        that died has left.

    Raises:
        OSError: The file can't be written; an older one is as it was.

    Examples::

        >>> folder = getfixture("tmp_path")
        >>> with whole_file(folder / "numbers.txt") as unfinished:
        ...     _ = unfinished.write_text("1 2 3")
        >>> [path.name for path in folder.iterdir()]
        ['numbers.txt']
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        _to_disk(unfinished)
        unfinished.replace(path)
        _to_disk(path.parent)  # the name, too
    finally:
        unfinished.unlink(missing_ok=True)


def unfinished_files(folder: Path, pattern: str) -> list[Path]:
    """Find what processes that died while they wrote have left.

    Args:
        folder (Path): Where.
        pattern (str): Of the files' proper names, as :meth:`pathlib.Path.glob` reads it.

    Returns:
        list[Path]: To be deleted, unless another process is writing them.
    """
    return sorted(
        path for path in folder.glob(f".{pattern}.*") if path.suffix.removeprefix(".").isdigit()
    )


def _to_disk(path: Path) -> None:
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # Windows opens no folders, and flushes only what may be written to
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
