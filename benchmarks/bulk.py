"""What explaining a whole data set costs besides its searches, as ratios within one run.

On MNIST's test images, repeated, with the classifier that ``captum-deduce demo --dataset mnist``
has cached:

* the stream into the loop against one call of ``generate`` with all pairs, and against calls in
  chunks, whose batches run empty at their ends;
* the share of the time that shards take to be put together and written;
* bytes a pair;
* with ``--measure memory``: the peak of memory over that of a run that has started, for 1,000 to
  20,000 images of which one in fifty is explained;
* with ``--measure ray``: two workers of one thread against this process with two threads, once
  Ray's workers have started, which they do in a first run that is not timed. It takes some 2,000
  images: at the end of each task the batch runs empty. Ray gives its workers a low priority; set
  ``RAY_worker_niceness=0`` where other jobs run.

    python benchmarks/bulk.py --data-root DIR --checkpoint mnist.safetensors
    python benchmarks/bulk.py --data-root DIR --checkpoint ... --images 2000 --measure ray
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measuring import extra_mebibytes
from torch import Tensor

from captum_deduce import DeDUCE
from captum_deduce.bulk import Run, explain_dataset
from captum_deduce.bulk import work as bulk_work
from captum_deduce.bulk.shards import Counts
from captum_deduce.datasets import ImageData, load_mnist
from captum_deduce.zoo import load_checkpoint


class Repeated(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """As many images as are wanted, from few."""

    def __init__(self, data: ImageData, count: int) -> None:
        self.data, self.count = data, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        place = index % len(self.data)
        return self.data.images[place], int(self.data.target[place])


class Few:
    """Choose one image in so many, by what it looks like: the same ones in every process."""

    def __init__(self, one_in: int) -> None:
        self.one_in = one_in

    def __call__(self, images: Tensor, labels: Tensor, scores: Tensor) -> Tensor:
        """Choose, as ``only`` of ``explain_dataset`` does."""
        return (images.flatten(1).sum(1) * 1000).long() % self.one_in == 0


def explained(
    explainer: DeDUCE, dataset: Any, folder: Path, **settings: Any
) -> tuple[float, Run, Counts]:
    """Seconds, what was found, and what was counted."""
    shutil.rmtree(folder, ignore_errors=True)
    counted: list[Counts] = []
    explain = bulk_work.Work.explain

    def noted(self: bulk_work.Work, *arguments: Any) -> Counts:
        counted.append(explain(self, *arguments))
        return counted[-1]

    call = {"only": "all", "targets": "runner-up", "show_progress": False, **settings}
    with mock.patch.object(bulk_work.Work, "explain", noted):
        started = time.perf_counter()
        run = explain_dataset(explainer, dataset, folder, **call)
        seconds = time.perf_counter() - started
    return seconds, run, counted[-1] if counted else Counts()


def against_calls(explainer: DeDUCE, data: ImageData, folder: Path, batch: int, chunk: int) -> None:
    """By turns, twice: other jobs of the machine then cost all of them the same."""
    times: dict[str, float] = {"stream": 0.0, "one call": 0.0, f"chunks of {chunk}": 0.0}
    for _ in range(2):
        seconds, run, counts = explained(
            explainer, data, folder, internal_batch_size=batch, shard_size=max(len(data) // 10, 1)
        )
        times["stream"] += seconds
        started = time.perf_counter()
        explainer.generate(data.images, internal_batch_size=batch)
        times["one call"] += time.perf_counter() - started
        started = time.perf_counter()
        for images in torch.split(data.images, chunk):
            explainer.generate(images, internal_batch_size=batch)
        times[f"chunks of {chunk}"] += time.perf_counter() - started
        share = counts.seconds_writing / seconds
        print(f"writing: {share:.2%} of {seconds:.1f} s, {len(run.shards)} shards")
    for name, seconds in times.items():
        rate = 2 * len(data) / seconds
        ratio = seconds / times["one call"]
        print(f"{name}: {rate:.2f} pairs a second; {ratio:.3f} of the time of one call")
    for images in (False, True):
        _, run, _ = explained(explainer, data, folder, store_images=images)
        size = sum(path.stat().st_size for path in run.shards) / len(run)
        evaluations = run.table()["evaluations"].mean()
        l0 = run.table()["l0"].mean()
        print(
            f"{'with' if images else 'without'} images: {size:.0f} bytes a pair (L0 {l0:.1f}, "
            f"{evaluations:.1f} evaluations)"
        )


def memory(explainer: DeDUCE, data: ImageData, folder: Path) -> None:
    """How the peak grows with the data set; of the model's own the first run takes the most.

    The batch is small enough to be full with the fewest images.
    """
    settings = {"only": Few(50), "shard_size": 200, "internal_batch_size": 16}
    for count in (1000, 1000, 5000, 20000):
        extra = extra_mebibytes(explained, explainer, Repeated(data, count), folder, **settings)
        print(f"memory of {count} images: {extra:.0f} MiB over the start")


def with_ray(explainer: DeDUCE, data: ImageData, folder: Path) -> None:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    size = max(len(data) // 20, 1)
    shared_out = {"engine": "ray", "workers": 2, "shards_per_task": 10, "shard_size": size}
    # What the start of workers takes, with hardly anything to do.
    start, _, _ = explained(explainer, data[:2], folder, **{**shared_out, "shard_size": 1})
    seconds, run, _ = explained(explainer, data, folder, **shared_out)
    ray.shutdown()
    torch.set_num_threads(2)
    alone, other, _ = explained(explainer, data, folder, shard_size=size)
    same = run.table()[["index", "target", "success"]].equals(
        other.table()[["index", "target", "success"]]
    )
    print(f"Ray, 2 workers of 1 thread: {seconds:.1f} s, of which {start:.1f} s to start")
    print(f"one process of 2 threads: {alone:.1f} s; the same pairs: {same}")
    print(f"Ray / one process, pairs a second once started: {alone / (seconds - start):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained MNIST classifier")
    parser.add_argument("--data-root", help="the folder of MNIST (default: CAPTUM_DEDUCE_DATA)")
    parser.add_argument("--images", type=int, default=600, help="test images (default: 600)")
    parser.add_argument("--batch-size", type=int, default=128, help="active pairs (default: 128)")
    parser.add_argument("--chunk", type=int, default=256, help="pairs of a call (default: 256)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    parser.add_argument(
        "--measure", nargs="+", default=["calls"], choices=("calls", "memory", "ray"), help="what"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    test = load_mnist(arguments.data_root).test
    checkpoint = load_checkpoint(arguments.checkpoint)
    explainer = DeDUCE(checkpoint.model, checkpoint.model.avgpool, checkpoint.density)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        data = test[: arguments.images]
        if "calls" in arguments.measure:
            against_calls(explainer, data, path, arguments.batch_size, arguments.chunk)
        if "memory" in arguments.measure:
            memory(explainer, test, path)
        if "ray" in arguments.measure:
            with_ray(explainer, data, path)


if __name__ == "__main__":
    main()
