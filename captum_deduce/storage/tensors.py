"""Tensors with words about them, in one safetensors file; nothing is ever unpickled."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from captum_deduce._version import __version__
from captum_deduce.storage.whole_files import whole_file


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors, from any device, and metadata; the package's version is added to these.

    The file appears under its name once it is complete, so that an error or Ctrl-C leaves an older
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
            save_file(copies, unfinished, {**metadata, "captum_deduce": __version__})
            unfinished.chmod(mode)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def read(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`write` wrote; whether it is what the caller wants, its metadata tell.

    Args:
        path (path): The file.
        kind (str): What the user expects there, for the message: "no {kind} at ...".

    Returns:
        tuple[dict[str, Tensor], dict[str, str]]: Tensors, on the CPU, and metadata.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Truncated, or not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no {kind} at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file: {error}") from error
    return tensors, metadata
