"""Runs with made-up pairs, as they lie on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from captum_deduce import Counterfactuals
from captum_deduce.bulk import read
from captum_deduce.bulk.schema import Failure, Layout, Pairs, shard_table


def make_result(
    inputs: Tensor, changed: Tensor, prediction: Tensor, target: Tensor, success: Tensor
) -> Counterfactuals:
    count = len(inputs)
    return Counterfactuals(
        inputs=inputs,
        counterfactuals=changed,
        target=target,
        success=success,
        confidence=torch.linspace(0.5, 0.9, count),
        iterations=torch.full((count,), 3),
        evaluations=torch.full((count,), 4),
        forward_evaluations=torch.zeros(count, dtype=torch.int64),
        prediction=prediction,
    )


def write_run(
    folder: Path,
    result: Counterfactuals,
    label: Sequence[int | None],
    failures: Sequence[Failure] = (),
    *,
    store_images: bool = True,
    bounds: tuple[Any, Any] = (0.0, 1.0),
    shard_size: int = 100,
    **manifest: Any,
) -> Any:
    """Write pairs as a run and open it; failures stand in the first shard."""
    parquet = pytest.importorskip("pyarrow.parquet")
    shape = tuple(result.inputs.shape[1:])
    layout = Layout(shape, result.inputs.dtype, store_images)
    known = {
        "format_version": 1,
        "shape": list(shape),
        "dtype": str(result.inputs.dtype).removeprefix("torch."),
        "store_images": store_images,
        "class_names": None,
        "lower_bound": bounds[0],
        "upper_bound": bounds[1],
        "complete": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(known | manifest), encoding="utf-8")
    tensors = tuple(torch.as_tensor(bound, dtype=result.inputs.dtype) for bound in bounds)
    for number, start in enumerate(range(0, len(result), shard_size)):
        stop = min(start + shard_size, len(result))
        table = shard_table(
            layout,
            Pairs(list(range(start, stop)), list(label[start:stop]), result[start:stop]),
            failures if number == 0 else (),
            range(start, stop),
            tensors,
        )
        parquet.write_table(table, folder / f"shard-{number:05d}.parquet")
    return read(folder)


def random_run(
    folder: Path,
    count: int = 60,
    shape: tuple[int, int, int] = (1, 8, 8),
    classes: int = 4,
    **settings: Any,
) -> tuple[Any, Counterfactuals, Tensor]:
    """Mistakes towards their label, each with one to four changed entries, every seventh failed."""
    drawn = torch.Generator().manual_seed(0)
    label = torch.randint(classes, (count,), generator=drawn)
    prediction = (label + 1 + torch.randint(classes - 1, (count,), generator=drawn)) % classes
    inputs = torch.rand(count, *shape, generator=drawn).round(decimals=1)
    changed = inputs.clone()
    for pair in range(count):
        places = torch.randperm(inputs[0].numel(), generator=drawn)[: 1 + pair % 4]
        changed[pair].view(-1)[places] = torch.rand(len(places), generator=drawn)
    success = torch.arange(count) % 7 != 6
    result = make_result(inputs, changed, prediction, label, success)
    return write_run(folder, result, label.tolist(), **settings), result, label
