"""What the benchmarks measure with: small models of 8x8 digits, bare evaluations, memory."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_deduce.search import Problem, State


def tiny_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10)
    )


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


@contextmanager
def batch_sizes(*bare: Callable[[Tensor], Tensor]) -> Iterator[tuple[list[int], list[float]]]:
    """Note how many images each evaluation of a search has within the block.

    Not by a hook: a model with hooks is searched as it is, not on a quicker copy. Before each of
    them a bare evaluation of the same images is made with every one of the given models, and the
    seconds that they take in all are noted for each: on a machine that others use, too, times that
    are to be compared must lie side by side.
    """
    sizes: list[int] = []
    seconds = [0.0] * len(bare)
    forward = Problem.forward

    def noted(self: Problem, images: Tensor, state: State) -> tuple[Tensor, Tensor]:
        sizes.append(len(images))
        for place, model in enumerate(bare):
            seconds[place] += replay(model, images.detach(), [len(images)])
        return forward(self, images, state)

    with mock.patch.object(Problem, "forward", noted):
        yield sizes, seconds


def replay(model: Callable[[Tensor], Tensor], points: Tensor, sizes: list[int]) -> float:
    """Seconds that forward passes and input gradients of these batch sizes take, and nothing else.

    What any search has to pay for as many evaluations.
    """
    started = time.perf_counter()
    for size in sizes:
        leaf = points[:size].clone().requires_grad_()
        target = torch.zeros(size, dtype=torch.int64)
        loss = cross_entropy(model(leaf), target, reduction="sum")
        torch.autograd.grad(loss, leaf)
    return time.perf_counter() - started


def extra_mebibytes(work: Callable[..., object], *arguments: Any, **settings: Any) -> float:
    """By how much more memory than before this process holds at the height of some work, on Linux.

    The peak is set back first, and what the allocator keeps of memory that was freed is returned:
    both would hide what the work takes. Call the work once before, for what is loaded at its first
    call stays.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _kibibytes("VmRSS")
    work(*arguments, **settings)
    return (_kibibytes("VmHWM") - before) / 1024


def _kibibytes(name: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(rf"{name}:\s+(\d+) kB", status)[1])
