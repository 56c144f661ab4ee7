"""The commands, and files of a data set that is small enough for a test."""

from __future__ import annotations

import gzip
import inspect
import struct

import numpy as np
import pytest

from captum_deduce import datasets
from captum_deduce.commands import (
    demo,
    explain,
    explain_dataset,
    explore,
    report,
    reproduce,
    train,
)
from captum_deduce.commands.study import analyse, make

COMMANDS = {
    "demo": demo,
    "train": train,
    "explain": explain,
    "explain-dataset": explain_dataset,
    "explore": explore,
    "report": report,
    "study make": make,
    "study analyse": analyse,
    "reproduce": reproduce,
}


@pytest.fixture
def recorded(monkeypatch):
    """Replace the commands by ones that note what they are called with."""
    calls = []
    for name, module in COMMANDS.items():
        signature = inspect.signature(module.run)

        def record(*arguments, name=name, signature=signature, **keywords):
            signature.bind(*arguments, **keywords)  # as the command itself would
            calls.append((name, keywords))

        monkeypatch.setattr(module, "run", record)
    return calls


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
