"""What training and fitting cost over what they rest on, as ratios within one run.

* A training step of a spectrally normalised classifier over the same step of the plain one: batch
  norm, momentum SGD, a batch of images with new values.
* ``ClassGaussianMixture.fit_loader`` of 10,000 images, quantiles included, over one bare pass of
  the same loader through the model.

Each is done by turns with what it is compared with, and the median of the ratios counts.

    python benchmarks/fitting.py --threads 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_deduce import ClassGaussianMixture, spectral_normalize
from captum_deduce.models import resnet18, sn_resnet18


def seconds_of(work: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    work()
    return clock() - started


def by_turns(
    ours: Callable[[], object],
    bare: Callable[[], object],
    turns: int,
    clock: Callable[[], float],
) -> str:
    ours(), bare()
    ratios = [seconds_of(ours, clock) / seconds_of(bare, clock) for _ in range(turns)]
    listed = ", ".join(f"{ratio:.3f}" for ratio in sorted(ratios))
    return f"median {median(ratios):.3f} of {listed}"


def steps(model: nn.Module, batch: torch.Size, count: int) -> Callable[[], None]:
    """As many training steps as asked for; the images change, as in training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    labels = torch.arange(batch[0]) % 10
    model.train()

    def run() -> None:
        for _ in range(count):
            loss = nn.functional.cross_entropy(model(torch.rand(batch)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


def training(turns: int, count: int, clock: Callable[[], float]) -> None:
    for width, channels, side, size in ((16, 1, 28, 128), (16, 3, 32, 128), (64, 3, 32, 64)):
        given = {"in_channels": channels, "width": width, "image_size": side}
        batch = torch.Size((size, channels, side, side))
        plain = resnet18(**given)
        normalised = spectral_normalize(
            resnet18(**given), coeff=4.0, example_input=torch.rand(1, *batch[1:])
        )
        few = max(1, count * 16 // width // 2)
        for name, model in (("bounded", normalised), ("sn_resnet18", sn_resnet18(**given))):
            compared = by_turns(steps(model, batch, few), steps(plain, batch, few), turns, clock)
            print(f"training step, width {width}, {tuple(batch)}, {name} / plain: {compared}")


def fitting(turns: int, samples: int, clock: Callable[[], float]) -> None:
    model = sn_resnet18(width=16).eval()
    images, labels = torch.rand(samples, 1, 28, 28), torch.arange(samples) % 10
    loader = DataLoader(TensorDataset(images, labels), batch_size=128)

    def bare() -> None:
        with torch.no_grad():
            for batch, _ in loader:
                model(batch)

    def fit() -> None:
        ClassGaussianMixture.fit_loader(model, model.avgpool, loader, show_progress=False)

    print(f"fit_loader / a bare pass, {samples} images: {by_turns(fit, bare, turns, clock)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument("--turns", type=int, default=5, help="of each pair (default: 5)")
    parser.add_argument("--steps", type=int, default=8, help="training steps a turn (default: 8)")
    parser.add_argument("--samples", type=int, default=10_000, help="images (default: 10,000)")
    parser.add_argument("--only", choices=("training", "fitting"), help="a part of it")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count seconds of the processor: for a machine that others use, with one thread",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    clock = time.process_time if arguments.processor_time else time.perf_counter
    print(f"torch {torch.__version__}, {arguments.threads} thread(s)")
    if arguments.only != "fitting":
        training(arguments.turns, arguments.steps, clock)
    if arguments.only != "training":
        fitting(arguments.turns, arguments.samples, clock)


if __name__ == "__main__":
    main()
