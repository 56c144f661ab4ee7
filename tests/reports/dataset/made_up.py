"""Runs with made-up pairs, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from captum_deduce import Counterfactuals


@dataclass
class MadeUpRun:
    """All that a report asks of a run; rows of images with errors stand after the pairs."""

    result: Counterfactuals
    label: Sequence[int | None]
    class_names: Sequence[str] | None = None
    errors: Sequence[dict[str, Any]] = ()
    complete: bool = True
    manifest: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        known = {"lower_bound": 0.0, "upper_bound": 1.0, "store_images": True}
        self.manifest = known | self.manifest

    @property
    def items_seen(self):
        return len(self.result) + len(self.errors)

    @property
    def shape(self):
        return tuple(self.result.inputs.shape[1:])

    def table(self):
        pandas = pytest.importorskip("pandas")
        result = self.result
        columns = {
            "index": range(len(result)),
            "label": list(self.label),
            "prediction": result.prediction.tolist(),
            "target": result.target.tolist(),
            "success": result.success.tolist(),
            "confidence": result.confidence.tolist(),
            "log_density_quantile": [None] * len(result),
            "l0": result.l0().tolist(),
            "l1": result.l1().tolist(),
            "error": [None] * len(result),
        }
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return pandas.DataFrame([*rows, *self.errors], columns=list(columns))

    def changes(self, rows=None):
        rows = list(range(len(self.result))) if rows is None else list(rows)
        for start in range(0, len(rows), 13):
            part = rows[start : start + 13]
            yield part, self.result[part].attributions

    def changed_entries(self, rows=None):
        for part, changes in self.changes(rows):
            pair, place = changes.flatten(1).nonzero(as_tuple=True)
            yield part, pair, place, changes.flatten(1)[pair, place]

    def counterfactuals(self, rows=None, *, dataset=None, transform=None):
        if dataset is None and not self.manifest["store_images"]:
            raise ValueError("dataset must be given")
        pairs = self.result[rows]
        if dataset is not None:
            read = transform or (lambda image: image)
            given = torch.stack([read(dataset[row][0]) for row in rows])
            assert torch.equal(given, pairs.inputs)
        return pairs


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


def random_run(
    count: int = 60, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 4, **settings: Any
) -> MadeUpRun:
    """Mistakes towards their label, each with one to four changed entries, every seventh failed."""
    drawn = torch.Generator().manual_seed(0)
    label = torch.randint(classes, (count,), generator=drawn)
    prediction = (label + 1 + torch.randint(classes - 1, (count,), generator=drawn)) % classes
    inputs = torch.rand(count, *shape, generator=drawn)
    changed = inputs.clone()
    for pair in range(count):
        places = torch.randperm(inputs[0].numel(), generator=drawn)[: 1 + pair % 4]
        changed[pair].view(-1)[places] = torch.rand(len(places), generator=drawn)
    success = torch.arange(count) % 7 != 6
    result = make_result(inputs, changed, prediction, label, success)
    return MadeUpRun(result, label.tolist(), **settings)
