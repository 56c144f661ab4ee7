"""What every test and every docstring example starts from."""

from __future__ import annotations

import os

# Before anything imports matplotlib: tests draw, but never open a window.
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


@pytest.fixture(autouse=True)
def reproducible_torch() -> None:
    """Seed torch, and keep it to two threads so that timings and rounding vary less by machine."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
