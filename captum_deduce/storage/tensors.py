"""Tensors with words about them, in one safetensors file; nothing is ever unpickled."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_deduce._version import __version__
from captum_deduce.storage.whole_files import whole_file

_CHECKSUM = "crc32"


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors, from any device, and metadata; the package's version is added to these.

    A checksum of all of it is kept, too, so that :func:`read` notices a bit that has changed. The
    file appears under its name once it is complete, so that an error or Ctrl-C leaves an older
    one as it was; others may read it as the umask says.

    Args:
        path (path): The file; its folder must exist.
        tensors (Mapping[str, Tensor]): By their names in the file.
        metadata (Mapping[str, str]): Words to keep with them.

    Raises:
        FileNotFoundError: The file's folder is missing.
        IsADirectoryError: The path names a folder.
        OSError: The file can't be written.
    """
    # Contiguous clones, as safetensors takes no others and none that share memory.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must name a file, got the folder {path}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent} to write {path.name} to; make it first")
    try:
        with whole_file(path) as unfinished:
            unfinished.touch()
            mode = unfinished.stat().st_mode  # as the user's umask wants it; safetensors makes 0600
            words = {**metadata, "captum_deduce": __version__}
            save_file(copies, unfinished, {**words, _CHECKSUM: _checksum(copies, words)})
            unfinished.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`write` wrote; whether it is what the caller wants, its metadata tell.

    Args:
        path (path): The file.
        kind (str): What the user expects there, for the message: "no {kind} at ...".

    Returns:
        tuple[dict[str, Tensor], dict[str, str]]: Tensors, on the CPU, which own their memory, so
        that the file may be replaced meanwhile; and metadata.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Truncated, not a safetensors file, or one that is not as it was written.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # Clones: safetensors hands out views of the mapped file, and a process dies of reading
            # one when the file has become shorter. They also make every bool 0 or 1.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
    # Files that were written before there were checksums have none.
    found = metadata.pop(_CHECKSUM, None)
    if found is not None and found != _checksum(tensors, metadata):
        raise ValueError(f"{path} is damaged: its content has changed since it was written")
    return tensors, metadata


def _checksum(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> str:
    """CRC-32 of names, types, shapes, values and words, whatever their order."""
    total = 0
    for name, tensor in sorted(tensors.items()):
        total = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), total)
        if tensor.numel():
            total = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, total)
    for name, word in sorted(words.items()):
        total = zlib.crc32(f"{name} {word}".encode(), total)
    return f"{total:08x}"
