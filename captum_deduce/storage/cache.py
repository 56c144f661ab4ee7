"""Trained models that are kept for the next time, in files named by what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from captum_deduce._version import __version__

_VARIABLE = "CAPTUM_DEDUCE_CACHE"

Model = TypeVar("Model")


def directory() -> Path:
    """Name the folder for files that can be made again; it need not exist.

    Returns:
        Path: The environment variable ``CAPTUM_DEDUCE_CACHE``, or else ``captum-deduce`` in the
        user's cache folder (``XDG_CACHE_HOME``, ``~/.cache``).
    """
    if own := os.environ.get(_VARIABLE):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "captum-deduce"


def path_for(name: str, settings: Mapping[str, Any]) -> Path:
    """Name the file in :func:`directory` for a model that was made with these settings.

    Args:
        name (str): How the file's name begins.
        settings (Mapping[str, Any]): All that the model depends on, as values that JSON can hold;
            their order does not matter. The version of this package is added, as another one may
            train otherwise.

    Returns:
        Path: ``<name>-<16 hexadecimal digits>.safetensors``
    """
    content = {**settings, "captum_deduce": __version__}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return directory() / f"{name}-{digest}.safetensors"


def obtain(
    path: Path,
    what: str,
    *,
    load: Callable[[Path], Model],
    make: Callable[[], Model],
    save: Callable[[Path, Model], None],
    retrain: bool = False,
) -> Model:
    """Reuse what is kept in a file, or make it and keep it there; print which of them was done.

    A file that can't be read is replaced. One that can't be written is no error, so that hours of
    training are not thrown away for want of a place to keep their result.

    Args:
        path (Path): The file, as :func:`path_for` names it; its folder is made if it is missing.
        what (str): What it holds, for the messages.
        load (Callable): Reads the file. A :class:`ValueError` says that it is of no use.
        make (Callable): Makes what the file should hold.
        save (Callable): Writes that to the file.
        retrain (bool, optional): Make it even if it is kept. Default: False

    Returns:
        Model: What ``load`` or ``make`` returned.

    Examples::

        >>> from captum_deduce.models import VAE
        >>> path = path_for("example-vae", {"seed": 0})
        >>> first = obtain(path, "VAE", load=VAE.load, make=VAE, save=lambda to, it: it.save(to))
        Kept for the next time in ...
        >>> again = obtain(path, "VAE", load=VAE.load, make=VAE, save=lambda to, it: it.save(to))
        Reused from ... (--retrain trains it anew)
    """
    if path.is_file() and not retrain:
        try:
            model = load(path)
        except ValueError as error:
            print(f"The cached {what} is of no use and is trained anew: {error}")
        else:
            print(f"Reused from {path} (--retrain trains it anew)")
            return model
    model = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, model)
    except OSError as error:
        print(f"The {what} could not be kept for the next time: {error}")
    else:
        print(f"Kept for the next time in {path}")
    return model
