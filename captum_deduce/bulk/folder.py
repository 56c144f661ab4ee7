"""The folder of a run: who may write to it, what is there, what is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from captum_deduce.bulk.describe import differences
from captum_deduce.bulk.schema import FORMAT_VERSION, arrow
from captum_deduce.bulk.shard_file import ShardFile
from captum_deduce.storage import read_json, unfinished_files, whole_file

MANIFEST = "manifest.json"
"""The file of a run that says how it was made."""

_SHARDS = "shard-*.parquet"
# Seconds. Processes that read for one that was killed hold its lock until they notice, after 5 s.
_PATIENCE = 10.0
# Of the rows that are read together: whoever wants one of them reads these.
_GROUP_BYTES = 2**25
_MUTABLE = ("complete", "items_seen", "items", "versions", "failures")


def shard_name(number: int) -> str:
    """Name a shard's file.

    Args:
        number (int): From 0.

    Returns:
        str: ``shard-00000.parquet`` and so on.
    """
    return f"shard-{number:05d}.parquet"


def shard_files(folder: Path) -> dict[int, Path]:
    """List the shards of a folder.

    Args:
        folder (Path): Of a run.

    Returns:
        dict[int, Path]: By their numbers, ascending.
    """
    found = {}
    for path in folder.glob(_SHARDS):
        digits = path.stem.removeprefix("shard-")
        if digits.isdigit() and path.name == shard_name(int(digits)):
            found[int(digits)] = path
    return dict(sorted(found.items()))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read how a run was made.

    Args:
        folder (Path): Of the run.

    Returns:
        dict[str, Any]: What its ``manifest.json`` says.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, or of another version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no run of captum_deduce.bulk: no {MANIFEST}")
    manifest = read_json(path, "manifest of a run")
    if not isinstance(manifest, dict) or "format_version" not in manifest:
        raise ValueError(f"{path} is no manifest of a run: it names no format_version")
    version = manifest["format_version"]
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}; this version of the package reads "
            f"{FORMAT_VERSION}"
        )
    found: dict[str, Any] = manifest
    return found


@contextmanager
def locked(folder: Path, rank: int = 0) -> Iterator[None]:
    """Hold the folder, so that no other process of the same rank writes to it meanwhile.

    The operating system lets go of the lock when the process ends, however it does.

    Args:
        folder (Path): Made if it is missing.
        rank (int, optional): Which of the processes that share the folder. Default: 0

    Yields:
        None: While the folder is held.

    Raises:
        OSError: It can't be made or written to.
        ValueError: Another process holds it.
        ImportError: ``filelock`` is not installed.
    """
    lock = _file_lock(folder / f".lock-{rank}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=_PATIENCE, poll_interval=0.5)
    except TimeoutError as error:
        raise ValueError(
            f"out must be a folder that no other process is writing to; one is writing to {folder}"
        ) from error
    except OSError as error:
        raise OSError(f"out must be a folder that can be written to: {error}") from error
    try:
        yield
    finally:
        lock.release()


def _file_lock(path: Path) -> Any:
    try:
        from filelock import FileLock
    except ImportError as error:
        raise ImportError(
            "captum_deduce.bulk needs filelock: pip install 'captum-deduce[bulk]'"
        ) from error
    return FileLock(path)


class RunFolder:
    """The files of a run, for those who write them.

    Args:
        folder (Path): Of the run; must be there.
        rank (int, optional): Which of the processes that share it. Default: 0
        world_size (int, optional): How many they are: of this many shards one is this process's.
            Default: 1
    """

    def __init__(self, folder: Path, rank: int = 0, world_size: int = 1) -> None:
        self.folder = folder
        self.rank = rank
        self.world_size = world_size

    def delete(self) -> str | None:
        """Delete a run: its manifest, its shards, and what was being written.

        Returns:
            str or None: What was deleted; None where nothing was there.
        """
        manifest = self.folder / MANIFEST
        if not manifest.exists():
            return None  # what looks like shards here is someone else's
        shards = list(shard_files(self.folder).values())
        # The manifest last: without it shards would belong to nobody.
        for path in [*self._left(), *shards, manifest]:
            path.unlink()
        ends = f" ({shards[0].name} ... {shards[-1].name})" if shards else ""
        return f"Deleted in {self.folder}: {len(shards)} shard(s){ends} and {MANIFEST}"

    def open(self, manifest: Mapping[str, Any]) -> None:
        """Begin a run, or go on with the one that is there.

        Args:
            manifest (Mapping[str, Any]): How it is made.

        Raises:
            ValueError: What is there was made otherwise; nothing is changed.
            OSError: The manifest can't be written.
        """
        if not (self.folder / MANIFEST).exists():
            if shards := shard_files(self.folder):
                raise ValueError(
                    f"out must be an empty folder, or that of a run: {self.folder} holds "
                    f"{len(shards)} shard(s) without a {MANIFEST}"
                )
            self._write(manifest)
            return
        before = read_manifest(self.folder)
        fixed = [{k: v for k, v in m.items() if k not in _MUTABLE} for m in (before, manifest)]
        # As JSON has them, where a tuple is a list.
        found = differences(fixed[0], json.loads(json.dumps(fixed[1])))
        old, new = (_version(m) for m in (before, manifest))
        if old != new:
            found.append(f"version of captum_deduce: {old} there, {new} now")
        if found:
            raise ValueError(
                f"out must be the folder of a run with the same settings, or a new one; in "
                f"{self.folder} there is one with others (overwrite=True deletes it):\n  "
                + "\n  ".join(found)
            )

    def clean(self) -> list[str]:
        """Delete what processes of this rank that died have left, and shards that can't be read.

        Returns:
            list[str]: Why a shard was deleted, for each.
        """
        for path in self._left():
            path.unlink()
        reasons = []
        for number, path in shard_files(self.folder).items():
            error = _span(path)[1] if self._is_mine(number) else None
            if error is not None:
                path.unlink()
                reasons.append(f"{path} is made anew, as it can't be read: {error}")
        return reasons

    def missing(self, length: int | None, size: int) -> Iterator[range]:
        """Find the shards of this rank that are not there.

        Args:
            length (int or None): Images of the data set; None where it is not known: they never
                end.
            size (int): Images in a shard.

        Yields:
            range: Positions of the images of a shard.
        """
        there = shard_files(self.folder)
        numbers = count(self.rank, self.world_size)
        for number in numbers if length is None else range(-(-length // size)):
            if self._is_mine(number) and number not in there:
                stop = (number + 1) * size
                yield range(number * size, stop if length is None else min(stop, length))

    def write_shard(self, number: int, table: Any) -> None:
        """Write a shard, wholly or not at all.

        Args:
            number (int): Which.
            table (pyarrow.Table): What it holds.

        Raises:
            OSError: It can't be written.
        """
        path = self.folder / shard_name(number)
        row_group_size = max(1, _GROUP_BYTES * table.num_rows // max(1, table.nbytes))
        try:
            with whole_file(path) as unfinished:
                arrow().parquet.write_table(
                    table,
                    unfinished,
                    compression="zstd",
                    row_group_size=row_group_size,
                    write_page_checksum=True,
                )
        except OSError as error:
            raise OSError(
                f"{path} could not be written: {error}. The shards before it are complete; the "
                "same call goes on from there"
            ) from error

    def close(self, length: int | None) -> None:
        """Note in the manifest how far the run has come.

        Args:
            length (int or None): Images of the data set, if it is known.
        """
        with _file_lock(self.folder / ".lock-manifest"):
            seen = self.items_seen()
            facts = {"items": length, "items_seen": seen, "complete": seen == length}
            self._write({**read_manifest(self.folder), **facts})

    def items_seen(self) -> int:
        """Count the images that the shards are about, those that can be read.

        Returns:
            int: Images.
        """
        return sum(len(_span(path)[0]) for path in shard_files(self.folder).values())

    def _is_mine(self, number: int) -> bool:
        return number % self.world_size == self.rank

    def _left(self) -> list[Path]:
        """What was being written by processes that are dead, as this rank's lock is held."""
        shards = unfinished_files(self.folder, _SHARDS)
        mine = [path for path in shards if self._is_mine(int(re.findall(r"\d+", path.name)[0]))]
        return mine + (unfinished_files(self.folder, MANIFEST) if self.world_size == 1 else [])

    def _write(self, manifest: Mapping[str, Any]) -> None:
        path = self.folder / MANIFEST
        try:
            with whole_file(path) as unfinished:
                text = json.dumps(manifest, indent=2, ensure_ascii=False)
                unfinished.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def _span(path: Path) -> tuple[range, Exception | None]:
    """Which images a shard is about, or why that can't be read."""
    try:
        about = ShardFile.open(path).about
    except (ValueError, OSError) as error:
        return range(0), error
    return range(about["first"], about["stop"]), None


def _version(manifest: Mapping[str, Any]) -> Any:
    versions = manifest.get("versions")
    return versions.get("captum_deduce") if isinstance(versions, Mapping) else None
