"""Models that know their own settings, in one safetensors file; nothing is ever unpickled."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from captum_deduce import storage
from captum_deduce._version import __version__
from captum_deduce.models.bounded import build_and_fill

if TYPE_CHECKING:
    from typing_extensions import Self

_FORMAT_VERSION = "1"


class StoredModel(nn.Module):
    """A module that can be saved with the constructor arguments that build it again.

    A subclass stores them in ``settings``, as values that JSON can hold.
    """

    settings: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights and settings to one safetensors file.

        Args:
            path (path): The file, by convention ``*.safetensors``.
        """
        metadata = {
            "format": _format(type(self)),
            "format_version": _FORMAT_VERSION,
            "settings": json.dumps(self.settings),
        }
        storage.write(path, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Read a file that :meth:`save` wrote; torch's global generator is left alone.

        Args:
            path (path): The file.
            device (torch.device or str, optional): Where the model goes. Default: "cpu"

        Returns:
            StoredModel: As it was saved, in eval mode.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Truncated, or no model of this class that this version reads.
        """
        tensors, metadata = storage.read(path, cls.__name__)
        if (metadata.get("format"), metadata.get("format_version")) != (
            _format(cls),
            _FORMAT_VERSION,
        ):
            raise ValueError(
                f"{path} is no {cls.__name__} that captum-deduce {__version__} reads (its "
                f"metadata: {metadata})"
            )
        try:
            settings = storage.parse_json(metadata["settings"])
            model = build_and_fill(lambda: cls(**settings), tensors)
        except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"{path} holds no complete {cls.__name__}: {error}") from error
        return model.eval().to(device)


def _format(kind: type[StoredModel]) -> str:
    return f"captum-deduce {kind.__name__}"
