"""A training in a file, from which it goes on as if it had never been interrupted."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from captum_deduce import storage
from captum_deduce.datasets import ImageData
from captum_deduce.training.history import TrainingHistory

_FORMAT = "captum-deduce training"
_FORMAT_VERSION = "1"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True)
class TrainingState:
    """What a training goes on from, besides its settings.

    Args:
        model (nn.Module): On the device of the training.
        optimizer (Optimizer): Of its parameters.
        generator (torch.Generator): Of shuffles, augmentation and disturbances, on the CPU.
        history (TrainingHistory): Of the epochs that are done.
        device (torch.device): Of the training.
    """

    model: nn.Module
    optimizer: Optimizer
    generator: torch.Generator
    history: TrainingHistory
    device: torch.device


class TrainingCheckpoint:
    """The file of one training: its settings, and the state after the last epoch that was done.

    Args:
        path (path): The file; it need not exist, nor its folder.
        model (nn.Module): The model to be trained.
        settings (Mapping[str, Any]): All else that the training depends on, as values that JSON can
            hold.

    Attributes:
        path (Path): The file.

    Raises:
        TypeError: Not a path, or a model whose state holds something other than tensors.
        ValueError: A folder, or a file that is damaged, or of another training.
    """

    def __init__(
        self, path: str | os.PathLike[str], model: nn.Module, settings: Mapping[str, Any]
    ) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"checkpoint must be a path or None, got {type(path).__name__}")
        self.path = Path(path)
        if self.path.is_dir():
            raise ValueError(f"checkpoint must name a file, got the folder {self.path}")
        for name, value in model.state_dict().items():
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"checkpoint can keep tensors alone, but the model's state holds {name}, a "
                    f"{type(value).__name__}"
                )
        self._settings = {"model": describe_model(model), **settings}
        self._found: _Kept | None = None
        if self.path.exists():
            self._found = self._read(model)

    @contextmanager
    def resumed(self, state: TrainingState) -> Iterator[None]:
        """Bring a training into the state of the file, if there was one, for a ``with`` block.

        What the model draws itself, as dropout does, then goes on from there as well, and torch's
        global generators are put back at the end of the block.

        Args:
            state (TrainingState): Filled in place.
        """
        found, self._found = self._found, None
        if found is None:
            yield
            return
        with torch.random.fork_rng(devices=_cuda(state.device)):
            state.model.load_state_dict(found.weights)
            state.optimizer.load_state_dict(
                {**state.optimizer.state_dict(), "state": found.momenta}
            )
            state.generator.set_state(found.generators["own"])
            torch.set_rng_state(found.generators["cpu"])
            if _cuda(state.device) and "cuda" in found.generators:
                torch.cuda.set_rng_state(found.generators["cuda"], state.device)
            for name, values in vars(found.history).items():
                getattr(state.history, name)[:] = values
            del found
            yield

    def write(self, state: TrainingState) -> None:
        """Replace the file; where it can't be written, warn: the training is worth more.

        Args:
            state (TrainingState): After an epoch.
        """
        tensors = {f"model.{name}": value for name, value in state.model.state_dict().items()}
        for place, values in state.optimizer.state_dict()["state"].items():
            if values.get("momentum_buffer") is not None:
                tensors[f"momentum.{place}"] = values["momentum_buffer"]
        tensors["generator.own"] = state.generator.get_state()
        tensors["generator.cpu"] = torch.get_rng_state()
        if _cuda(state.device):
            tensors["generator.cuda"] = torch.cuda.get_rng_state(state.device)
        words = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "settings": json.dumps(self._settings),
            "history": json.dumps(vars(state.history)),
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            storage.write(self.path, tensors, words)
        except OSError as error:
            warnings.warn(
                f"the training goes on, but could not be kept in {self.path}: {error}", stacklevel=3
            )

    def _read(self, model: nn.Module) -> _Kept:
        tensors, words = storage.read(self.path, "training")
        if (words.get("format"), words.get("format_version")) != (_FORMAT, _FORMAT_VERSION):
            raise ValueError(
                f"checkpoint {self.path} holds no training that this version goes on from, got "
                f"the format {words.get('format')!r}, version {words.get('format_version')!r}"
            )
        try:
            settings = storage.parse_json(words["settings"])
            if not isinstance(settings, dict):
                raise ValueError(f"its settings are {settings!r:.80}")
            if settings != self._settings:
                raise _OtherTrainingError(_differences(settings, self._settings))
            return _Kept.of(tensors, storage.parse_json(words["history"]), model, settings)
        except _OtherTrainingError as error:
            raise ValueError(
                f"checkpoint {self.path} is of another training: {error}. Name another file, or "
                "delete this one to train anew"
            ) from error
        except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise ValueError(f"checkpoint {self.path} holds no whole training: {error}") from error


class _OtherTrainingError(Exception):
    """A file of other settings, which may well be whole."""


@dataclass(frozen=True)
class _Kept:
    """What was read, and found to fit the model."""

    weights: dict[str, Tensor]
    momenta: dict[int, dict[str, Tensor]]
    generators: dict[str, Tensor]
    history: TrainingHistory

    @classmethod
    def of(
        cls,
        tensors: Mapping[str, Tensor],
        history: Any,
        model: nn.Module,
        settings: Mapping[str, Any],
    ) -> _Kept:
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "momentum": {}, "generator": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        _check_alike("model", parts["model"], model.state_dict())
        trained = [p for p in model.parameters() if p.requires_grad]
        momenta = {int(place): tensor for place, tensor in parts["momentum"].items()}
        for place, tensor in momenta.items():
            if not 0 <= place < len(trained):
                raise ValueError(f"momentum {place} is of none of {len(trained)} parameters")
            _check_alike("momentum", {f"{place}": tensor}, {f"{place}": trained[place]})
        for name in ("own", "cpu"):  # a generator takes no state that is none
            torch.Generator().set_state(parts["generator"][name])
        return cls(
            parts["model"],
            {place: {"momentum_buffer": tensor} for place, tensor in momenta.items()},
            parts["generator"],
            _history(history, settings),
        )


def _check_alike(what: str, found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    if set(found) != set(own):
        names = ", ".join(sorted(set(found) ^ set(own)))
        raise ValueError(f"{what}: {names:.200} stands in one of file and model alone")
    for name, tensor in own.items():
        if (found[name].shape, found[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(
                f"{what} {name}: {found[name].dtype} of the shape {tuple(found[name].shape)} in "
                f"the file, {tensor.dtype} of {tuple(tensor.shape)} in the model"
            )


def _history(content: Any, settings: Mapping[str, Any]) -> TrainingHistory:
    history = TrainingHistory(**content)
    done = len(history.loss)
    lengths = dict.fromkeys(vars(history), done)
    if settings.get("validation") is None:
        lengths["validation_accuracy"] = 0
    for name, values in vars(history).items():
        numbers = isinstance(values, list) and all(
            isinstance(value, int | float) and math.isfinite(value) for value in values
        )
        if not numbers or len(values) != lengths[name]:
            raise ValueError(f"its {name} is no list of a number for each of {done} epochs")
    if not 1 <= done <= settings.get("epochs", done):
        raise ValueError(f"{done} epochs are done of {settings.get('epochs')}")
    return history


def describe_model(model: nn.Module) -> str:
    """Tell a model from any other, whatever its weights.

    Args:
        model (nn.Module): The model.

    Returns:
        str: Its class, its number of parameters, and digits that depend on its parts, and on names,
        shapes, types and freezing of its tensors.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensors = [
        f"{name} {tuple(value.shape)} {value.dtype} {name in trained}"
        for name, value in model.state_dict().items()
    ]
    count = sum(parameter.numel() for parameter in model.parameters())
    digits = storage.fingerprint(_without_addresses(model), tensors)[:8]
    return f"{type(model).__name__} of {count:,} parameters ({digits})"


def describe_images(data: ImageData) -> str:
    """Tell images with their classes from any others.

    Args:
        data (ImageData): The images.

    Returns:
        str: Their number, shape and checksum.
    """
    total = 0
    for tensor in (data.images, data.target):
        total = zlib.crc32(tensor.detach().cpu().contiguous().numpy().data, total)
    shape = " x ".join(str(side) for side in data.images.shape[1:])
    return f"{len(data):,} images of {shape} ({total:08x})"


def describe_function(function: Callable[..., Any] | None) -> str | None:
    """Tell a function from others by what its ``repr`` says, which of a transform are its settings.

    Args:
        function (Callable or None): The function.

    Returns:
        str or None: In words.
    """
    return None if function is None else _without_addresses(function)


def _without_addresses(value: object) -> str:
    """A ``repr`` without what differs from one process to the next."""
    return " ".join(_ADDRESS.sub("", repr(value)).split())


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    return "; ".join(
        f"{name} {there.get(name)} there, {here.get(name)} here"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    )


def _cuda(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []
