"""The smallest demo, run once a session, and its checkpoint."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from captum_deduce import datasets
from captum_deduce.checkpoint import Checkpoint, load_checkpoint
from captum_deduce.cli import main


@dataclass
class Demo:
    """A run of the demo: what it printed and wrote, and the checkpoint that it cached."""

    printed: str
    folder: Path
    path: Path
    checkpoint: Checkpoint


@pytest.fixture(scope="session")
def _demo(tmp_path_factory, cache_of_this_run) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    cache = tmp_path_factory.mktemp("demo-cache")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as environment, contextlib.redirect_stdout(printed):
        environment.setenv("CAPTUM_DEDUCE_CACHE", str(cache))
        assert main(["demo", "--smoke", "--device", "cpu", "--output", str(folder / "out")]) == 0
    (path,) = cache.iterdir()
    return Demo(printed.getvalue(), folder / "out", path, load_checkpoint(path))


@pytest.fixture
def demo(_demo, monkeypatch) -> Demo:
    """The smallest demo; further runs find its cache."""
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(_demo.path.parent))
    return _demo


@pytest.fixture(scope="session")
def digit_images() -> datasets.ImageData:
    return datasets.load_digits().test


@pytest.fixture
def probabilities(demo):
    """The checkpoint's classifier as a function of arrays, with the softmax in numpy."""

    def of(images):
        with torch.no_grad():
            logits = demo.checkpoint.model(torch.as_tensor(images, dtype=torch.float32))
        values = logits.double().numpy()
        powers = np.exp(values - values.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    return of
