"""What fitting a density costs as classes, features and samples grow: time and peak memory.

Random features go to ``ClassGaussianMixture.partial_fit`` in batches of 500, in random order or
class after class, and the density of eight of them is evaluated. Each fit has a process of its own,
whose peak memory is that of the whole process; what it holds before the first sample, torch mostly,
is given beside it. ``fit_loader``'s rows go through ``ClassGaussianMixture.fit_loader``, quantiles
included, with a model that costs nothing: images are their own features.

    python benchmarks/growth.py --out growth.png
    python benchmarks/growth.py --only fit_loader
    python benchmarks/growth.py --quick
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from captum_deduce import ClassGaussianMixture


@dataclass(frozen=True)
class Case:
    """What is fitted."""

    classes: int
    features: int
    samples: int
    order: str = "shuffled"
    covariance_type: str = "auto"
    loader: bool = False


CASES = {
    "classes": [Case(count, 512, 20 * count) for count in (10, 100, 1000, 5000, 20_000)],
    "features": [Case(1000, size, 20_000) for size in (64, 256, 512, 1024, 2048, 4096)],
    "samples": [
        Case(1000, 2048, count, order)
        for count in (64, 20_000, 100_000)
        for order in ("shuffled", "sorted")
    ],
    "fit_loader": [
        Case(1000, 2048, count, order, loader=True)
        for count in (64, 20_000, 100_000)
        for order in ("shuffled", "sorted")
    ],
}
QUICK = {
    "classes": [Case(count, 64, 20 * count) for count in (10, 100, 1000)],
    "features": [Case(100, size, 2000) for size in (64, 256)],
    "samples": [Case(1000, 256, 2000, order) for order in ("shuffled", "sorted")],
    "fit_loader": [Case(1000, 256, 2000, loader=True)],
}


class Batches:
    """Random features, the same in each pass, in batches of 500."""

    def __init__(self, labels: Tensor, num_features: int, seed: int) -> None:
        self.labels, self.num_features, self.seed = labels, num_features, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for part in torch.split(self.labels, 500):
            yield torch.randn(len(part), self.num_features, generator=generator), part


class Readout(nn.Module):
    """A classifier of features, which costs nothing."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.num_classes = num_classes

    def forward(self, features: Tensor) -> Tensor:
        """Return scores that are all the same."""
        scores: Tensor = self.features(features)[:, :1].expand(-1, self.num_classes)
        return scores


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def fit(case: Case, threads: int, seed: int) -> dict[str, float | str]:
    """Fit in this process; returns seconds, megabytes and what "auto" became."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(case.classes, (case.samples,), generator=generator)
    if case.order == "sorted":
        labels = labels.sort().values
    before = peak_megabytes()
    batches = Batches(labels, case.features, seed + 1)
    density, seconds = fit_loader(case, batches) if case.loader else fit_batches(case, batches)
    asked = torch.randn(8, case.features, generator=generator)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was chosen, which is printed
        density.log_prob(asked, labels[:8])
    return {
        "fit": seconds,
        "first": time.perf_counter() - started,
        "before": before,
        "peak": peak_megabytes(),
        "chosen": density.chosen_covariance_type,
    }


def fit_batches(case: Case, batches: Batches) -> tuple[ClassGaussianMixture, float]:
    density = ClassGaussianMixture(case.covariance_type, num_classes=case.classes)
    seconds = 0.0
    for features, part in batches:
        started = time.perf_counter()
        density.partial_fit(features, part)
        seconds += time.perf_counter() - started
    return density, seconds


def fit_loader(case: Case, batches: Batches) -> tuple[ClassGaussianMixture, float]:
    model = Readout(case.classes)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        density = ClassGaussianMixture.fit_loader(
            model, model.features, batches, covariance_type=case.covariance_type
        )
    return density, time.perf_counter() - started


def measure(case: Case, threads: int, seed: int) -> dict[str, float | str]:
    """Fit in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
    command += ["--threads", str(threads), "--seed", str(seed)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout))


def plot(found: dict[str, list[tuple[Case, dict[str, float | str]]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    grid = figure.subplots(2, len(found))
    for column, (grows, results) in enumerate(found.items()):
        for order in ("shuffled", "sorted"):
            own = [(case, values) for case, values in results if case.order == order]
            if not own:
                continue
            x = [case.samples if case.loader else getattr(case, grows) for case, _ in own]
            label = f"{order} labels"
            seconds = [float(values["fit"]) + float(values["first"]) for _, values in own]
            memory = [float(values["peak"]) - float(values["before"]) for _, values in own]
            grid[0, column].loglog(x, seconds, "o-", label=label)
            grid[1, column].loglog(x, memory, "o-", label=label)
        for axes, what in zip(grid[:, column], ("seconds", "megabytes"), strict=True):
            axes.set_xlabel("samples (fit_loader)" if grows == "fit_loader" else grows)
            axes.set_ylabel(what)
            axes.legend()
    figure.savefig(path)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few small cases")
    parser.add_argument("--only", choices=tuple(CASES), help="what grows (default: all)")
    parser.add_argument("--out", type=Path, help="a picture to write")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.case:
        print(json.dumps(fit(Case(**json.loads(given.case)), given.threads, given.seed)))
        return
    print(f"torch {torch.__version__}, {given.threads} threads, seed {given.seed}")
    print("classes  features  samples  labels    chosen    fit s  first s  peak MB  of it before")
    found: dict[str, list[tuple[Case, dict[str, float | str]]]] = {}
    for grows, cases in (QUICK if given.quick else CASES).items():
        for case in cases if given.only in (None, grows) else ():
            values = measure(case, given.threads, given.seed)
            found.setdefault(grows, []).append((case, values))
            print(
                f"{case.classes:7,d}  {case.features:8,d}  {case.samples:7,d}  {case.order:8s}  "
                f"{values['chosen']:8s}  {values['fit']:5.1f}  {values['first']:7.1f}  "
                f"{values['peak']:7,.0f}  {values['before']:12,.0f}",
                flush=True,
            )
    if given.out is not None:
        plot(found, given.out)


if __name__ == "__main__":
    main()
