"""A classifier, the density of its features and their settings in one safetensors file.

Nothing is unpickled: the file names one of :data:`captum_deduce.models.ARCHITECTURES` and its
arguments, from which the classifier is built anew and filled with the stored tensors.
"""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks, storage
from captum_deduce._version import __version__
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.models import ARCHITECTURES, build_and_fill, image_sides
from captum_deduce.storage import cache
from captum_deduce.training import AUGMENTATIONS

_FORMAT = "captum-deduce checkpoint"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Settings:
    """How a classifier was made: what is needed to build it again and to use it.

    Args:
        architecture (str): One of :data:`captum_deduce.models.ARCHITECTURES`.
        arguments (dict[str, Any]): Its arguments; values that JSON can hold.
        class_names (tuple[str, ...]): One name per class.
        dataset (str): What the classifier was trained on.
        epochs (int): Of the training.
        seed (int): Of the weights and the training.
        layer (str, optional): Dotted name of the layer whose features the density describes.
            Default: ``"avgpool"``
        accuracy (float, optional): Share of test images that the classifier gets right.
            Default: None (not measured)
        noise (float, optional): Of the training, see
            :func:`captum_deduce.training.train_classifier`. Default: 0.0
        augmentation (str, optional): Of the training, one of
            :data:`captum_deduce.training.AUGMENTATIONS`. Default: None
        adversarial (float, optional): Of the training, as ``noise``. Default: 0.0
        bfloat16 (bool, optional): Of the training, as ``noise``. Default: False

    Raises:
        TypeError: Names in a mapping or a set, whose order says nothing, an ``adversarial`` that is
            no number, or a ``bfloat16`` that is neither true nor false.
        ValueError: An unknown architecture or augmentation, or an ``adversarial`` below 0.
    """

    architecture: str
    arguments: dict[str, Any]
    class_names: tuple[str, ...]
    dataset: str
    epochs: int
    seed: int
    layer: str = "avgpool"
    accuracy: float | None = None
    noise: float = 0.0
    augmentation: str | None = None
    adversarial: float = 0.0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        checks.choice("architecture", self.architecture, tuple(ARCHITECTURES))
        if self.augmentation is not None:
            checks.choice("augmentation", self.augmentation, AUGMENTATIONS)
        checks.number("adversarial", self.adversarial, minimum=0)
        checks.flag("bfloat16", self.bfloat16)
        if not isinstance(self.class_names, tuple | list):
            raise TypeError(
                "class_names must be a tuple of names in the order of the classes, got "
                f"{self.class_names!r}"
            )

    def build(self) -> nn.Module:
        """Build the classifier with new weights, drawn from torch's global generator.

        Returns:
            nn.Module: The architecture with these arguments.
        """
        return ARCHITECTURES[self.architecture](**self.arguments)


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        model (nn.Module): The classifier, as ``settings`` build it.
        density (ClassGaussianMixture or None): The density of its features, if one was fitted.
        settings (Settings): How it was made.
    """

    model: nn.Module
    density: ClassGaussianMixture | None
    settings: Settings


def save_checkpoint(path: str | os.PathLike[str], checkpoint: Checkpoint) -> None:
    """Write a checkpoint.

    The file appears under its name once it is complete, so that an error or Ctrl-C leaves an older
    one as it was. Folders that are missing are made.

    Args:
        path (path): The file, by convention ``*.safetensors``.
        checkpoint (Checkpoint): What to write. Tensors may be on any device.
    """
    path = Path(path)
    metadata = {
        "format": _FORMAT,
        "format_version": str(_FORMAT_VERSION),
        "settings": json.dumps(asdict(checkpoint.settings)),
    }
    tensors = _stored("classifier", checkpoint.model)
    if checkpoint.density is not None:
        metadata["covariance_type"] = checkpoint.density.covariance_type
        tensors |= _stored("density", checkpoint.density)
    path.parent.mkdir(parents=True, exist_ok=True)
    storage.write(path, tensors, metadata)


def load_checkpoint(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint that :func:`save_checkpoint` wrote; torch's global generator is left alone.

    Args:
        path (path): The file.
        device (torch.device or str, optional): Where classifier and density go. Default: ``"cpu"``

    Returns:
        Checkpoint: With the classifier in eval mode.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Truncated, not a checkpoint, of a newer format, of an unknown architecture, or
            with tensors that do not fit the architecture.
    """
    tensors, metadata = storage.read(path, "checkpoint")
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is not a checkpoint of a classifier, as captum-deduce train writes it; its "
            f"format is {metadata.get('format')!r}"
        )
    if metadata.get("format_version") != str(_FORMAT_VERSION):
        raise ValueError(
            f"{path} has format version {metadata.get('format_version')}, written by captum-deduce "
            f"{metadata.get('captum_deduce')}; this is {__version__}, which reads version "
            f"{_FORMAT_VERSION}"
        )
    try:
        stored = storage.parse_json(metadata["settings"])
        settings = Settings(**stored | {"class_names": tuple(stored["class_names"])})
        weights = _of("classifier", tensors)
        _check_settings(settings, weights)
        model = build_and_fill(settings.build, weights)
        density = None
        if "covariance_type" in metadata:
            density = ClassGaussianMixture(metadata["covariance_type"])
            density.load_state_dict(_of("density", tensors))
    except (LookupError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{path} holds no complete checkpoint: {error}") from error
    return Checkpoint(
        model.eval().to(device), None if density is None else density.to(device), settings
    )


def cache_path(settings: Settings) -> Path:
    """Name the file in :func:`captum_deduce.storage.directory` for a checkpoint of these settings.

    Args:
        settings (Settings): What the name depends on, but for the accuracy, together with the
            version of this package.

    Returns:
        Path: ``<dataset>-<architecture>-<16 hexadecimal digits>.safetensors``
    """
    return cache.path_for(f"{settings.dataset}-{settings.architecture}", _content(settings))


def training_path(settings: Settings, batch_size: int) -> Path:
    """Name the file in the cache that a training of these settings goes on from.

    Args:
        settings (Settings): As for :func:`cache_path`.
        batch_size (int): Of the training.

    Returns:
        Path: ``<dataset>-<architecture>-training-<16 hexadecimal digits>.safetensors``
    """
    content = _content(settings) | {"batch_size": batch_size}
    return cache.path_for(f"{settings.dataset}-{settings.architecture}-training", content)


def _content(settings: Settings) -> dict[str, Any]:
    """What a trained classifier depends on."""
    content = asdict(settings) | {"accuracy": None}
    for name in ("noise", "augmentation", "adversarial", "bfloat16"):
        if not content[name]:
            # So that classifiers that were kept before there was such a thing are still found.
            del content[name]
    return content


def _check_settings(settings: Settings, weights: dict[str, Tensor]) -> None:
    """Refuse what :class:`Settings` takes on trust and a file may say wrongly."""
    names = settings.class_names
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names must be words, got {names!r:.200}")
    arguments = inspect.signature(ARCHITECTURES[settings.architecture]).bind(**settings.arguments)
    arguments.apply_defaults()
    known = arguments.arguments
    if len(names) != known["num_classes"]:
        raise ValueError(f"there are {len(names)} class names for {known['num_classes']} classes")
    if "coeff" in known:
        # Spectral normalisation runs an image of this size through the first layer, which keeps a
        # vector of that layer's output.
        height, width = image_sides(known["image_size"])
        entries = sum(tensor.numel() for tensor in weights.values())
        if known["width"] * height * width > entries + 2**20:
            raise ValueError(
                f"the settings ask for images of {height} x {width}, which the tensors are too "
                "few for"
            )


def _stored(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}


def _of(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }
