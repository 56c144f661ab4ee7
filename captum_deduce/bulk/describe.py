"""What a run depends on, in words that JSON can hold and a person can compare."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce._version import __version__
from captum_deduce.classifiers import modules_of
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.storage import fingerprint

_FEW = 64
"""Numbers of a tensor that are written out; of larger ones the fingerprint."""


def describe_explainer(explainer: CounterfactualExplainer) -> dict[str, Any]:
    """Say how an explainer was made.

    Args:
        explainer (CounterfactualExplainer): Of any method.

    Returns:
        dict[str, Any]: ``class``, ``model`` (a fingerprint of its weights), and every attribute:
        numbers and words as they are, a layer by its name in the model, what else there is by its
        type and fingerprint.
    """
    model = explainer.forward_func
    modules = modules_of(model)
    found: dict[str, Any] = {
        "class": f"{type(explainer).__module__}.{type(explainer).__qualname__}",
        "model": fingerprint(model, modules),
    }
    for name, value in vars(explainer).items():
        if name != "forward_func":
            found[name] = _described(value, modules)
    # A class attribute, unless someone has set it.
    found["optimize_model"] = explainer.optimize_model
    return found


def versions() -> dict[str, str]:
    """Name the versions that results may depend on.

    Returns:
        dict[str, str]: By package.
    """
    return {
        "captum_deduce": __version__,
        "captum": metadata.version("captum"),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Compare two descriptions.

    Args:
        before (Mapping[str, Any]): Of the run that is there.
        now (Mapping[str, Any]): Of the one that was asked for.

    Returns:
        list[str]: For each entry that differs its name and both values.
    """
    first, second = (dict(_flat(each)) for each in (before, now))
    return [
        f"{name}: {_short(first.get(name))} there, {_short(second.get(name))} now"
        for name in dict.fromkeys([*first, *second])
        if first.get(name) != second.get(name)
    ]


def _described(value: Any, modules: list[nn.Module]) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Tensor):
        if value.numel() <= _FEW:
            return value.tolist()
        return f"tensor of shape {list(value.shape)}, fingerprint {fingerprint(value)}"
    if isinstance(value, nn.Module):
        for root in modules:
            for name, part in root.named_modules():
                if part is value:
                    return name
    if isinstance(value, list | tuple):
        return [_described(one, modules) for one in value]
    return f"{type(value).__name__}, fingerprint {fingerprint(value)}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
