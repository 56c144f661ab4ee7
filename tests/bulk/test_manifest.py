from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from captum_deduce.bulk.manifest import describe_run
from captum_deduce.bulk.schema import Layout
from captum_deduce.bulk.source import Source
from captum_deduce.bulk.targets import Plan
from captum_deduce.bulk.work import Work


def work(small):
    return Work(
        explainer=small.explainer,
        source=Source(small.pairs),
        example=small.images[0],
        plan=Plan("label", "errors"),
        layout=Layout((1, 8, 8), torch.float64),
        folder=Path("run"),
        shard_size=10,
        internal_batch_size=4,
    )


def test_a_manifest_names_all_that_results_depend_on(small):
    first = describe_run(work(small), ["a", "b"])
    assert json.loads(json.dumps(first)) == first
    assert first["dataset"]["items"] == first["items"] == 797
    assert (first["shape"], first["dtype"]) == ([1, 8, 8], "float64")
    assert (first["lower_bound"], first["upper_bound"]) == (0.0, 1.0)
    assert first["class_names"] == ["a", "b"]
    assert not first["complete"]
    for change in (
        {"plan": Plan("all", "errors")},
        {"plan": Plan("label", lambda images, labels, scores: labels == 1)},
        {"shard_size": 11},
        {"mask": torch.ones(8, 8)},
        {"feature_mask": torch.zeros(8, 8, dtype=torch.int64)},
        {"layout": Layout((1, 8, 8), torch.float64, store_images=True)},
        {"example": small.images[1]},
        {"source": Source(iter(small.pairs))},
    ):
        assert describe_run(replace(work(small), **change), ["a", "b"]) != first, change
    # Neither where nor with how many at once.
    for change in ({"folder": Path("elsewhere")}, {"internal_batch_size": 5}):
        assert describe_run(replace(work(small), **change), ["a", "b"]) == first


def test_functions_are_told_apart_by_what_they_do(small):
    def manifest(only):
        return describe_run(replace(work(small), plan=Plan("label", only)), None)["only"]

    assert manifest(lambda i, l, s: l == 1) == manifest(lambda i, l, s: l == 1)  # noqa: E741
    assert manifest(lambda i, l, s: l == 1) != manifest(lambda i, l, s: l == 2)  # noqa: E741
