"""A run in a process of its own, for tests that end it: ``python -m tests.bulk.process OUT``."""

from __future__ import annotations

import argparse
import sys
import time

import torch

from captum_deduce.bulk import explain_dataset
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


def explain(digits: Digits, out: str, **settings: object):
    """Explain the images with every class; nine pairs an image."""
    call = {"targets": "all", "only": "all", "shard_size": 10, **settings}
    return explain_dataset(digits.explainer, digits, out, **call)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--count", type=int, default=230)
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--num-workers", type=int, default=0)
    parser.add_argument("--ranks", action="store_true", help="as torchrun starts them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.ranks:
        torch.distributed.init_process_group("gloo")
    digits = Digits(arguments.count, getattr(torch, arguments.dtype), arguments.pause)
    print("begins", flush=True)
    try:
        explain(digits, arguments.out, num_workers=arguments.num_workers, show_progress=False)
    except (ValueError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    finally:
        if arguments.ranks:
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
