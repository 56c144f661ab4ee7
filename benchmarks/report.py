"""What a report of a whole run costs: seconds, memory and bytes of the page.

The run is made up: mistakes of ten classes towards their label, each with as many changed entries
as asked for, and noise for images, which no picture format makes small. It is written as
`captum-deduce explain-dataset` writes it, with its images.

    python benchmarks/report.py --help
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from measuring import extra_mebibytes

from captum_deduce import Counterfactuals
from captum_deduce.bulk import read
from captum_deduce.bulk.folder import RunFolder
from captum_deduce.bulk.schema import Layout, Pairs, Rows
from captum_deduce.reports import report_run, save_report


def write_run(folder: Path, pairs: int, shape: Sequence[int], changed: int, shard: int) -> None:
    manifest = {
        "format_version": 1,
        "shape": list(shape),
        "dtype": "float32",
        "store_images": True,
        "class_names": [f"class {number}" for number in range(10)],
        "lower_bound": 0.0,
        "upper_bound": 1.0,
        "complete": True,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    layout = Layout(tuple(shape), torch.float32, True)
    bounds = torch.tensor(0.0), torch.tensor(1.0)
    for number, start in enumerate(range(0, pairs, shard)):
        count = min(shard, pairs - start)
        label = torch.randint(10, (count,))
        prediction = (label + torch.randint(1, 10, (count,))) % 10
        inputs = torch.rand(count, *shape)
        places = torch.randint(inputs[0].numel(), (count, changed))
        values = inputs.flatten(1).scatter(1, places, torch.rand(count, changed))
        zeros = torch.zeros(count, dtype=torch.int64)
        result = Counterfactuals(
            inputs=inputs,
            counterfactuals=values.view_as(inputs),
            target=label,
            success=torch.rand(count) < 0.97,
            confidence=torch.rand(count),
            iterations=zeros,
            evaluations=zeros,
            forward_evaluations=zeros,
            prediction=prediction,
        )
        index = range(start, start + count)
        rows = Rows(layout, bounds)
        rows.add(Pairs(index, label.tolist(), result))
        RunFolder(folder).write_shard(number, rows.table(index))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 28, 28])
    parser.add_argument("--changed", type=int, default=30, help="entries of a pair")
    parser.add_argument("--shard", type=int, default=1000, help="pairs of a shard")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_run(folder, arguments.pairs, arguments.shape, arguments.changed, arguments.shard)
        page = folder / "report.html"
        seconds = 0.0

        def report() -> None:
            nonlocal seconds
            started = time.perf_counter()
            made = report_run(read(folder))
            save_report(made, page)
            seconds = time.perf_counter() - started
            print(f"{len(made.pictures)} pairs with pictures")

        memory = extra_mebibytes(report)
        print(
            f"{arguments.pairs:,} pairs of {'x'.join(map(str, arguments.shape))}: {seconds:.1f} s, "
            f"{page.stat().st_size / 1e6:.1f} MB, peak memory {memory:.0f} MiB"
        )


if __name__ == "__main__":
    main()
