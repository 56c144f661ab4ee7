"""Runs in processes of their own, for tests that end them; each begins where imports are done."""

from __future__ import annotations

import multiprocessing
import signal
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from captum_deduce.bulk import explain_dataset
from captum_deduce.bulk.folder import shard_files
from tests.bulk.conftest import small_explainer


class Digits(torch.utils.data.Dataset):
    """The test images; with a pause before each, a run lasts long enough to be ended."""

    def __init__(self, count: int, dtype: torch.dtype, pause: float = 0.0) -> None:
        self.explainer, images, labels = small_explainer(dtype)
        self.images, self.labels = images[:count], labels[:count].tolist()
        self.pause = pause

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(self.pause)
        return self.images[index], self.labels[index]


def explain(digits: Digits, out: Path, **settings: Any) -> Any:
    """Explain the images with every class, nine pairs an image, few at a time: shard by shard."""
    call = {"targets": "all", "only": "all", "shard_size": 10, "internal_batch_size": 12}
    call["show_progress"] = False
    return explain_dataset(digits.explainer, digits, out, **{**call, **settings})


def _work(begins: Event, out: Path, count: int, dtype: str, pause: float, workers: int) -> None:
    # What a shell starts in the background ignores Ctrl-C, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    digits = Digits(count, getattr(torch, dtype), pause)
    begins.set()
    explain(digits, out, num_workers=workers)


class Elsewhere:
    """A run in another process, which has begun."""

    def __init__(
        self, out: Path, count: int, dtype: str = "float64", pause: float = 0.0, workers: int = 0
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.bulk.process"])
        begins = context.Event()
        self.out = out
        self.process = context.Process(
            target=_work, args=(begins, out, count, dtype, pause, workers)
        )
        self.process.start()
        assert begins.wait(timeout=300)

    def wait_for_shards(self, count: int) -> None:
        deadline = time.monotonic() + 300
        while len(shard_files(self.out)) < count:
            assert self.process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def end(self) -> int | None:
        """Wait, and return the exit status: minus the signal that ended it."""
        self.process.join(timeout=300)
        return self.process.exitcode
