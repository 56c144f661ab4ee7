"""The smallest demo, run once a session, and its checkpoint."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
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


def _write_idx(path, values):
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.fixture
def small_mnist(tmp_path):
    """MNIST's files, filled with enlarged digits: 1,200 for training, 120 for testing."""
    splits = datasets.load_digits()
    root = tmp_path / "data"
    root.mkdir()
    for split, data, count in (("train", splits.train, 1200), ("t10k", splits.test, 120)):
        rows = np.arange(count) % len(data)
        small = (data.images.numpy()[rows, 0] * 255).round().astype(np.uint8)
        large = np.pad(small.repeat(3, 1).repeat(3, 2), ((0, 0), (2, 2), (2, 2)))
        _write_idx(root / f"{split}-images-idx3-ubyte.gz", large)
        _write_idx(
            root / f"{split}-labels-idx1-ubyte.gz", data.target.numpy()[rows].astype(np.uint8)
        )
    return root
