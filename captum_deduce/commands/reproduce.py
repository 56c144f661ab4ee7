"""``captum-deduce reproduce``: one of the paper's tables or figures, made anew."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from captum_deduce import datasets
from captum_deduce._version import __version__
from captum_deduce.commands.given import make_folder, read_device
from captum_deduce.experiments import EXPERIMENTS, SIZES, Size, Store, Trained
from captum_deduce.reports import DPI, Report, tables
from captum_deduce.storage import file_stem
from captum_deduce.zoo import torch_threads


def run(
    what: str,
    *,
    images: int | None = None,
    width: int | None = None,
    smoke: bool = False,
    full: bool = False,
    device: str | None = None,
    data_root: str | None = None,
    output: Path = Path("captum-deduce-reproduce"),
    show_progress: bool = False,
) -> None:
    """Make one of the paper's tables or figures with models and searches of our own.

    Trains what is missing; see :class:`captum_deduce.experiments.Store` for what is kept of
    the searches.

    Args:
        what (str): One of :data:`captum_deduce.experiments.EXPERIMENTS`.
        images (int, optional): Images in each set. Default: the size's
        width (int, optional): Channels of the classifiers' first stage. Default: the size's
        smoke (bool, optional): The smallest size. Default: False
        full (bool, optional): The paper's size. Default: False
        device (str, optional): Where to compute. Default: CUDA where there is one, else the CPU
        data_root (str, optional): The folder of MNIST. Default: see
            :func:`captum_deduce.datasets.load`
        output (Path, optional): The folder to write to. Default: ``captum-deduce-reproduce`` in the
            current folder
        show_progress (bool, optional): Draw progress bars. Default: False
    """
    started = time.perf_counter()
    place = read_device(device)
    size = SIZES["smoke" if smoke else "full" if full else "default"]
    size = size.overridden(images=images, width=width)
    splits = datasets.load(size.dataset, data_root, seed=size.seed)
    make_folder(output)
    store = Store(output / "runs", place, show_progress=show_progress)
    models = Trained(size, splits, place, show_progress)
    with torch_threads(size.classifier.threads):
        report = EXPERIMENTS[what](models, store)
        accuracies = models.accuracies()
        machine = _machine(place)
    facts = {
        "experiment": what,
        "captum_deduce": __version__,
        "size": asdict(size),
        "accuracy on test images": accuracies,
        "machine": machine,
        "seconds of this run": time.perf_counter() - started,
        "parts searched or scored": store.made,
        "parts kept from earlier runs": store.reused,
    }
    _write(what, report, facts, size, output)


def _machine(device: torch.device) -> dict[str, Any]:
    known = {
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        known["device name"] = torch.cuda.get_device_name(device)
    return known


def _write(what: str, report: Report, facts: dict[str, Any], size: Size, output: Path) -> None:
    """Print the table and write what there is of table, numbers, picture and counterfactuals."""
    shown = [columns for columns in (report.columns, report.own_columns) if columns]
    for columns in shown:
        print(f"\n{tables.table(columns)}")
    print("\n" + "\n".join(report.notes) + "\n")
    written = [output / f"{what}.md", output / f"{what}.json"]
    accuracies = ", ".join(
        f"{name} {share:.2%}" for name, share in facts["accuracy on test images"].items()
    )
    sets = f"{size.sets} set(s) of {size.images}"
    images = f"{size.frontier_images}" if what == "frontier" else sets
    right = f" Right on test images: {accuracies}." if accuracies else ""
    text = [
        f"# {report.title}",
        f"Size: {size.name}, {images} images of {size.dataset}, "
        f"classifiers of width {size.classifier.width}.{right}",
        *(tables.markdown(columns) for columns in shown),
        *report.notes,
        f"captum-deduce {__version__}, seed {size.seed}, {facts['machine']['device']}, "
        f"{facts['seconds of this run']:.0f} s; parts searched or scored "
        f"{facts['parts searched or scored']}, kept from earlier runs "
        f"{facts['parts kept from earlier runs']}.",
    ]
    written[0].write_text("\n\n".join(text) + "\n", encoding="utf-8")
    content = json.dumps(facts | report.data, indent=2, ensure_ascii=False)
    written[1].write_text(content + "\n", encoding="utf-8")
    if report.figure is not None:
        written.append(output / f"{what}.png")
        report.figure.savefig(written[-1], dpi=DPI)
    for name, result in report.results.items():
        stem = f"{what}-{file_stem(name)}"
        written.append(output / f"{stem}.safetensors")
        result.save(written[-1])
    print("Written:", *written, sep="\n  ")
