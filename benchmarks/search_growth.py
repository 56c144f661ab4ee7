"""What a search costs as images grow in size and number: time and memory over the bare model.

torchvision's ResNet-18 with new weights, a thousand classes and the density of random features;
``DeDUCE.closest`` makes a given number of steps towards a confidence that is out of reach. Time is
over as many bare forward passes with input gradients of the same images, made right after; memory
is what the search takes at its height over what one bare evaluation of as many images takes, each
in a process of its own. Processor seconds are counted, so that other jobs disturb less; on a GPU,
seconds of the clock and the allocator's peak.

    python benchmarks/search_growth.py --out search.png
    python benchmarks/search_growth.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import extra_mebibytes, replay
from torch import nn
from torchvision.models import resnet18

from captum_deduce import ClassGaussianMixture, DeDUCE

SIDES = [(28, 8), (56, 8), (112, 8), (224, 8), (448, 8)]
COUNTS = [(112, count) for count in (1, 4, 16, 64)]
GROWS = {"side": SIDES, "images": COUNTS}


def peak_on_gpu(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def measure(side: int, count: int, steps: int, device: str, what: str) -> dict[str, float]:
    """Search in this process: how long or how much memory, over the bare model."""
    warnings.simplefilter("ignore")  # of failed pairs: all of them
    torch.manual_seed(0)
    model: nn.Module = resnet18().to(device).eval()
    density = ClassGaussianMixture("tied", regularization="oas").fit(
        torch.rand(4000, 512), torch.arange(4000) % 1000
    )
    explainer = DeDUCE.closest(model, model.avgpool, density.to(device), confidence=1 - 1e-9)
    images = torch.rand(count, 3, side, side, device=device)
    target = torch.arange(count) % 1000

    def search(number: int = steps) -> None:
        explainer.generate(images, target, max_iterations=number)

    def bare() -> None:
        replay(model, images, [count])

    if what == "memory":
        search(1), bare()
        measured = peak_on_gpu if device == "cuda" else extra_mebibytes
        return {"search": measured(search), "bare": measured(bare)}
    search(1)
    if device == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device == "cuda" else time.process_time
    started = clock()
    search()
    seconds = clock() - started
    started = clock()
    for _ in range(steps + 1):
        bare()
    if device == "cuda":
        torch.cuda.synchronize()
    return {"search": seconds, "bare": clock() - started, "evaluations": steps + 1}


def in_own_process(given: argparse.Namespace, side: int, count: int, what: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", json.dumps([side, count, what])]
    command += ["--threads", str(given.threads), "--steps", str(given.steps)]
    run = subprocess.run(
        [*command, "--device", given.device], capture_output=True, text=True, check=True
    )
    return dict(json.loads(run.stdout))


def plot(rows: dict[str, list[tuple[int, float, float, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    grid = figure.subplots(2, len(rows), squeeze=False)
    for column, (grows, values) in enumerate(rows.items()):
        x = [row[0] for row in values]
        for place, name in ((1, "seconds an image and evaluation"), (2, "search / bare model")):
            axes = grid[place - 1, column]
            axes.plot(x, [row[place] for row in values], "o-", label="time")
            if place == 2:
                axes.plot(x, [row[3] for row in values], "s--", label="peak memory")
                axes.axhline(1, color="0.7", linewidth=1)
                axes.set_ylim(bottom=0)
                axes.legend()
            else:
                axes.set_yscale("log")
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [str(value) for value in x])
            axes.set_xlabel("height and width" if grows == "side" else "images")
            axes.set_ylabel(name)
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4, help="of a search (default: 4)")
    parser.add_argument("--only", choices=tuple(GROWS), help="what grows (default: both)")
    parser.add_argument("--out", type=Path, help="a picture to write")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default: cpu)")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("not measured: no GPU here")
    if given.case:
        side, count, what = json.loads(given.case)
        print(json.dumps(measure(side, count, given.steps, given.device, what)))
        return
    print(f"torch {torch.__version__}, {given.threads} thread(s), {given.device}")
    print(
        "side  images  s an image and evaluation  time / bare  search MiB  bare MiB  memory / bare"
    )
    rows: dict[str, list[tuple[int, float, float, float]]] = {}
    for grows, cases in GROWS.items():
        for side, count in cases if given.only in (None, grows) else ():
            times = in_own_process(given, side, count, "time")
            peaks = in_own_process(given, side, count, "memory")
            each = times["search"] / times["evaluations"] / count
            time_ratio = times["search"] / times["bare"]
            memory_ratio = peaks["search"] / peaks["bare"]
            rows.setdefault(grows, []).append(
                (side if grows == "side" else count, each, time_ratio, memory_ratio)
            )
            print(
                f"{side:4d}  {count:6d}  {each:25.4f}  {time_ratio:11.2f}  "
                f"{peaks['search']:10.0f}  {peaks['bare']:8.0f}  {memory_ratio:13.2f}",
                flush=True,
            )
    if given.out is not None:
        plot(rows, given.out)


if __name__ == "__main__":
    main()
