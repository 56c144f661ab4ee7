"""What the commands explain: a checkpoint, or torchvision's model and its weights."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import storage
from captum_deduce.commands.given import read_names
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.explainers import JSMA, CounterfactualExplainer, DeDUCE
from captum_deduce.models import ARCHITECTURES
from captum_deduce.visualization import read_class_names
from captum_deduce.zoo import Settings, load_checkpoint, make_explainer

_PREFIX = "torchvision:"

_UNCLEAR = ("googlenet", "inception_v3")
"""Torchvision's pretrained ones change the colours of their inputs themselves, others don't, and
weights alone do not say which they are."""


@dataclass(frozen=True)
class Subject:
    """A classifier of images from 0 to 1, and how it is explained.

    Args:
        model (nn.Module): The classifier, in eval mode.
        explainer (CounterfactualExplainer): Of that model.
        class_names (tuple[str, ...]): One name per class.
        shape (tuple[int, int, int]): Channels, height and width of its images.
        note (str, optional): What to say of it. Default: "" (nothing)
    """

    model: nn.Module
    explainer: CounterfactualExplainer
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    note: str = ""


@dataclass(frozen=True)
class Weights:
    """What was given of a torchvision model.

    Args:
        weights (Path, optional): A safetensors file of its state dict. Must be given.
        architecture (str, optional): ``torchvision:NAME``. Must be given.
        class_names (Path, optional): A file of names, one per line, or JSON: a list, or names by
            index. Default: None (their numbers)
        num_classes (int, optional): Default: None (as many as names, or 1000)
        mean (Sequence[float], optional): Of the normalisation, one number or three. Must be given.
        std (Sequence[float], optional): Likewise.
        size (int): Height and width of the images that it takes. Default: 224
        density (Path, optional): A file of a density of its features. Default: None
        layer (str): The layer of these features. Default: "avgpool"
    """

    weights: Path | None = None
    architecture: str | None = None
    class_names: Path | None = None
    num_classes: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    size: int = 224
    density: Path | None = None
    layer: str = "avgpool"


def find_subject(
    checkpoint: Path | None,
    torchvision: Mapping[str, Any],
    device: torch.device,
    preset: str | None,
    settings: dict[str, Any],
) -> Subject:
    """Find the classifier that was named on the command line.

    Args:
        checkpoint (Path or None): The checkpoint; None: it is one of torchvision's.
        torchvision (Mapping[str, Any]): Fields of :class:`Weights` that were given.
        device (torch.device): Where the classifier goes.
        preset (str or None): As for :func:`from_checkpoint`.
        settings (dict[str, Any]): Likewise.

    Returns:
        Subject: The classifier and its explainer.

    Raises:
        ValueError: Both were given, or what was does not fit.
    """
    if checkpoint is None:
        return from_weights(Weights(**torchvision), device, preset, settings)
    if torchvision:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in torchvision)
        raise ValueError(f"--checkpoint says all of its classifier, but {options} was given, too")
    return from_checkpoint(checkpoint, device, preset, settings)


def from_checkpoint(
    path: Path, device: torch.device, preset: str | None, settings: dict[str, Any]
) -> Subject:
    """Read a checkpoint of this package.

    Args:
        path (Path): The checkpoint.
        device (torch.device): Where the classifier goes.
        preset (str or None): Name of one of :class:`captum_deduce.DeDUCE`'s presets.
        settings (dict[str, Any]): Arguments of :class:`captum_deduce.DeDUCE`. Of colour images
            ``pixel`` is "site" where nothing else is said, here or by the preset "paper".

    Returns:
        Subject: Explained with DeDUCE.
    """
    loaded = load_checkpoint(path, device)
    shape = input_shape(loaded.settings)
    settings, note = _in_colour(shape, preset, settings)
    explainer = make_explainer(loaded, preset, **settings)
    return Subject(loaded.model, explainer, loaded.settings.class_names, shape, note)


def from_weights(
    given: Weights, device: torch.device, preset: str | None, settings: dict[str, Any]
) -> Subject:
    """Build one of torchvision's classifiers and fill it; nothing is downloaded.

    The normalisation becomes a part of the model, so that its images are from 0 to 1.

    Args:
        given (Weights): What is known of it.
        device (torch.device): Where the classifier goes.
        preset (str or None): Name of one of :class:`captum_deduce.DeDUCE`'s presets, which need a
            density.
        settings (dict[str, Any]): Arguments of :class:`captum_deduce.DeDUCE` that
            :class:`captum_deduce.JSMA` has, too. ``pixel`` as in :func:`from_checkpoint`.

    Returns:
        Subject: Explained with DeDUCE where there is a density, else with JSMA.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No weights, an unknown architecture, weights of another one or of another number
            of classes, no mean and std, a size that it can't take, or a preset without a density.
    """
    from torchvision import transforms  # a second and more, which checkpoints need not wait for

    if given.density is None and preset is not None:
        raise ValueError("--preset needs a --density, as DeDUCE does; without one JSMA explains")
    if given.weights is None:
        raise ValueError("--weights must name a safetensors file of the classifier's weights")
    name = _architecture(given.architecture)
    names = None if given.class_names is None else read_names(given.class_names)
    count = _num_classes(given, names)
    normalize = transforms.Normalize(_channels("mean", given.mean), _channels("std", given.std))
    classifier = _filled(name, given.weights, count)
    model = nn.Sequential(normalize, classifier).eval().to(device)
    shape = (3, given.size, given.size)
    found = _scores(model, shape, device).shape[1]
    settings, moved = _in_colour(shape, preset, settings)
    explainer: CounterfactualExplainer
    if given.density is None:
        explainer, how = JSMA(model, **settings), "JSMA, as there is no --density"
    else:
        density = ClassGaussianMixture.load(given.density).to(device)
        make = DeDUCE if preset is None else getattr(DeDUCE, preset)
        explainer, how = make(model, _layer(classifier, given.layer), density, **settings), "DeDUCE"
    note = (
        f"Classifier: torchvision's {name}, {found} classes, {given.size} x {given.size} pixels; "
        f"explained with {how}\n{moved}"
    ).rstrip()
    return Subject(model, explainer, tuple(read_class_names(names, found)), shape, note)


def input_shape(settings: Settings) -> tuple[int, int, int]:
    """Find the shape of the images that a checkpoint's classifier takes.

    Args:
        settings (Settings): Of the checkpoint.

    Returns:
        tuple[int, int, int]: Channels, height and width.

    Raises:
        ValueError: Images that are neither grey nor RGB.
    """
    bound = inspect.signature(ARCHITECTURES[settings.architecture]).bind(**settings.arguments)
    bound.apply_defaults()
    channels, size = bound.arguments["in_channels"], bound.arguments["image_size"]
    if channels not in (1, 3):
        raise ValueError(
            f"--checkpoint must hold a classifier of grey or RGB images (1 or 3 channels), got one "
            f"of {channels} channels"
        )
    height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def _in_colour(
    shape: tuple[int, int, int], preset: str | None, settings: dict[str, Any]
) -> tuple[dict[str, Any], str]:
    """Move the colours of a pixel together, unless something else was asked for; and say so."""
    if shape[0] == 1 or preset == "paper" or "pixel" in settings:
        return settings, ""
    said = "All colours of a pixel move together; --pixel entry moves them one by one"
    return {**settings, "pixel": "site"}, said


def _architecture(given: str | None) -> str:
    from torchvision import models

    known = models.list_models(module=models)
    name = (given or "").removeprefix(_PREFIX)
    if given is None or not given.startswith(_PREFIX) or name not in known:
        raise ValueError(
            f"--architecture must be {_PREFIX}NAME with one of torchvision's classifiers "
            f"({', '.join(known)}), got {given!r}"
        )
    if name in _UNCLEAR:
        raise ValueError(
            f"--architecture {name} can't be explained from here, as its weights do not say "
            "whether it transforms its inputs; build it in Python"
        )
    return name


def _num_classes(given: Weights, names: Any) -> int | None:
    if isinstance(names, dict) and given.num_classes is None:
        raise ValueError("--class-names by index need --num-classes, as some may have no name")
    if not isinstance(names, list):
        return given.num_classes
    if given.num_classes not in (None, len(names)):
        raise ValueError(
            f"--class-names must hold --num-classes {given.num_classes} names, got {len(names)}"
        )
    return len(names)


def _channels(name: str, values: Sequence[float] | None) -> list[float]:
    if values is None or len(values) not in (1, 3):
        raise ValueError(
            f"--{name} must say how the classifier's images were normalised, by one number or "
            f"three (--mean 0 --std 1: they were not), got {values}"
        )
    if name == "std" and min(values) <= 0:
        raise ValueError(f"--std must be positive, got {values}")
    return list(values) * (3 // len(values))


def _filled(name: str, path: Path, num_classes: int | None) -> nn.Module:
    from torchvision import models

    tensors, _ = storage.read(path, "file of weights")
    size = {} if num_classes is None else {"num_classes": num_classes}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a future initialisation, which is replaced
        model: nn.Module = models.get_model(name, weights=None, **size)
    state: Any = model.state_dict()
    differ = sorted(
        {*state} ^ {*tensors}
        | {key for key in tensors if key in state and _differs(state, tensors, key)}
    )
    if differ:
        raise ValueError(
            f"--weights {path} are not of torchvision's {name} with "
            f"{num_classes or 'its own number of'} classes: {len(differ)} tensors are missing, "
            f"unknown or of another shape, such as {', '.join(differ[:3])}"
        )
    state.update(tensors)  # which keeps the versions that some layers ask for
    model.load_state_dict(state)
    return model


def _differs(state: dict[str, Tensor], tensors: dict[str, Tensor], key: str) -> bool:
    return state[key].shape != tensors[key].shape


def _scores(model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> Tensor:
    try:
        with torch.no_grad():
            scores: Tensor = model(torch.zeros(1, *shape, device=device))
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--size must be one that the classifier takes, got {shape[1]}: {error}"
        ) from error
    return scores


def _layer(classifier: nn.Module, name: str) -> nn.Module:
    try:
        return classifier.get_submodule(name)
    except AttributeError as error:
        top = ", ".join(child for child, _ in classifier.named_children())
        raise ValueError(
            f"--layer must name a part of the classifier ({top}, or one of theirs), got {name!r}"
        ) from error
