from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from captum_deduce import JSMA, Wachter
from captum_deduce.explorer.collection import Collection, collect
from captum_deduce.explorer.desk import Desk
from captum_deduce.explorer.python_lines import Code
from captum_deduce.zoo import make_explainer

SHOWN = 120
"""Test images that the page has."""

NAMES = [f"{number} <b>&" for number in range(10)]
"""Names of classes that a page must escape."""


class Slow(torch.nn.Module):
    """A classifier that takes its time, so that a search can be stopped."""

    def __init__(self, model: torch.nn.Module, seconds: float) -> None:
        super().__init__()
        self.model, self.seconds, self.calls = model, seconds, 0

    def forward(self, images):
        import time

        time.sleep(self.seconds)
        self.calls += 1
        return self.model(images)


class Broken(torch.nn.Module):
    """A classifier that gives up on single images, as if on a device without memory for them."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.works = model, True

    def forward(self, images):
        if not self.works:
            raise RuntimeError("the <model> is out of order")
        return self.model(images)


@pytest.fixture
def model() -> torch.nn.Module:
    """A classifier of three classes that takes no time."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(1, 1, 8, 8)


@pytest.fixture
def collection(demo, digit_images) -> Collection:
    test = digit_images[:SHOWN]
    return collect(demo.checkpoint.model, test.images, test.target, NAMES)


@pytest.fixture
def desk(demo, collection) -> Desk:
    checkpoint = demo.checkpoint
    explainers = {"DeDUCE": make_explainer(checkpoint), "JSMA": JSMA(checkpoint.model)}
    return Desk(collection, explainers, {"itself": checkpoint.model}, Code())


@pytest.fixture(scope="session")
def broken(_demo) -> Broken:
    return Broken(_demo.checkpoint.model)


@pytest.fixture(scope="session")
def explorer(_demo, broken) -> Iterator[Any]:
    """The page, served."""
    pytest.importorskip("gradio", reason="needs captum-deduce[app]")
    import captum_deduce
    from captum_deduce import datasets

    checkpoint = _demo.checkpoint
    test = datasets.load_digits().test[:SHOWN]
    slow = Slow(checkpoint.model, 0.1)
    page = captum_deduce.explore(
        {
            "DeDUCE": make_explainer(checkpoint),
            "closest": make_explainer(checkpoint, "closest"),
            "Wachter": Wachter(checkpoint.model),
            "slow": Wachter(slow, max_iterations=10_000, confidence=0.999999),
            "broken": JSMA(broken),
        },
        test.images,
        test.target,
        NAMES,
        oracles={"<itself>": checkpoint.model},
    )
    page.slow = slow
    yield page
    page.close()


@pytest.fixture(scope="session")
def one_at_a_time(_demo) -> Iterator[Any]:
    """Another page, with room for one search."""
    pytest.importorskip("gradio", reason="needs captum-deduce[app]")
    import captum_deduce
    from captum_deduce import datasets

    model, test = _demo.checkpoint.model, datasets.load_digits().test[:SHOWN]
    counted = Slow(model, 0)
    page = captum_deduce.explore(
        {
            "quick": JSMA(model),
            "slow": Wachter(Slow(model, 0.1), max_iterations=10_000, confidence=0.999999),
            "counted": JSMA(counted),
        },
        test.images,
        test.target,
        max_searches=1,
    )
    page.counted = counted
    yield page
    page.close()
