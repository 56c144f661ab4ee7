"""What a run says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from captum_deduce.bulk.describe import describe_explainer, versions
from captum_deduce.bulk.schema import FORMAT_VERSION
from captum_deduce.bulk.work import Work
from captum_deduce.storage import fingerprint


def describe_run(work: Work, class_names: list[str] | None) -> dict[str, Any]:
    """Make the manifest of a run that begins.

    Args:
        work (Work): What is to be done.
        class_names (list[str] or None): The classes' names.

    Returns:
        dict[str, Any]: As JSON can hold it.
    """
    explainer, source, layout = work.explainer, work.source, work.layout
    dataset: dict[str, Any] = {
        "items": source.length,
        "first image": fingerprint(work.example),
    }
    if not source.indexed:
        # The order in which several workers are read.
        dataset["num_workers"] = source.num_workers
    return {
        "format_version": FORMAT_VERSION,
        "explainer": describe_explainer(explainer),
        "dataset": dataset,
        "targets": _named(work.plan.targets),
        "only": _named(work.plan.only),
        "mask": None if work.mask is None else fingerprint(work.mask),
        "feature_mask": None if work.feature_mask is None else fingerprint(work.feature_mask),
        "shard_size": work.shard_size,
        "store_images": layout.store_images,
        "shape": list(layout.shape),
        "dtype": str(layout.dtype).removeprefix("torch."),
        "lower_bound": _numbers(explainer.lower_bound),
        "upper_bound": _numbers(explainer.upper_bound),
        "class_names": class_names,
        "versions": versions(),
        "items": source.length,
        "items_seen": 0,
        "complete": False,
    }


def _named(choice: str | Callable[..., Any]) -> str:
    if isinstance(choice, str):
        return choice
    name = getattr(choice, "__qualname__", type(choice).__qualname__)
    return f"{name}, fingerprint {fingerprint(choice)}"


def _numbers(bound: float | Tensor) -> Any:
    return bound.tolist() if isinstance(bound, Tensor) else bound
