"""JSMA beside the one of ART, the Adversarial Robustness Toolbox.

On 8x8 digits with a tiny convolutional network: the same weights, images and targets, 100 images at
once, steps of .2 upwards with two pixels a step, until the target is the most likely class, in at
most as many pixels as there are (theta .2, gamma 1). What can't be made equal is the saliency: ART
takes the two pixels with the largest gradient of the target's logit, we Papernot's map, exactly
over all pairs. Our other variants stand beside it, with the same step and the same end.

ART needs numpy < 2.3, so that it lives in an environment of its own, which this package need not be
installed in:

    python -m venv art
    art/bin/pip install adversarial-robustness-toolbox==1.20.1 "numpy<2.3" packaging torch
    python benchmarks/jsma_art.py --art-python art/bin/python

The script runs itself with both interpreters, in turns, so that what else the machine does falls on
both. The table has the median over the turns, each of which takes the fastest of several searches.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measuring import tiny_cnn

STEP = 0.2
OURS: dict[str, dict[str, Any]] = {
    "papernot, pairs": {"saliency": "papernot", "pixels_per_step": 2},
    "papernot, one pixel": {"saliency": "papernot"},
    "gradient, two pixels": {"pixels_per_step": 2},
    "gradient, one pixel": {},
}
ART = "ART"


def prepare(path: Path, count: int, seed: int) -> None:
    """Train the classifier, and store it with images and targets for both sides to read."""
    from captum_deduce.datasets import load_digits
    from captum_deduce.training import accuracy, train_classifier

    torch.manual_seed(seed)
    train, _, test = load_digits(seed)
    model = tiny_cnn()
    train_classifier(model, train, epochs=15, batch_size=64)
    print(f"classifier: {accuracy(model, test):.1%} of the test digits right")
    images = test.images[:count]
    target = (model(images).argmax(1) + 1 + torch.arange(len(images)) % 9) % 10
    weights = {f"model.{name}": value.numpy() for name, value in model.state_dict().items()}
    np.savez(path, images=images.numpy(), target=target.numpy(), **weights)


def our_searches(
    model: torch.nn.Module, images: np.ndarray, target: np.ndarray, batch_size: int
) -> dict[str, Callable[[], np.ndarray]]:
    from captum_deduce import JSMA

    inputs, classes = torch.from_numpy(images), torch.from_numpy(target)

    def search(settings: dict[str, Any]) -> Callable[[], np.ndarray]:
        # Below .5, success also takes the target to be the most likely class: only that is left.
        explainer = JSMA(model, step_size=STEP, confidence=1e-9, **settings)
        return lambda: explainer.perturb(inputs, classes, internal_batch_size=batch_size).numpy()

    return {name: search(settings) for name, settings in OURS.items()}


def arts_search(
    model: torch.nn.Module, images: np.ndarray, target: np.ndarray, batch_size: int
) -> dict[str, Callable[[], np.ndarray]]:
    from art.attacks.evasion import SaliencyMapMethod
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=images.shape[1:],
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    attack = SaliencyMapMethod(
        classifier, theta=STEP, gamma=1.0, batch_size=batch_size, verbose=False
    )
    return {ART: lambda: attack.generate(images, target)}


def measure(side: str, path: Path, batch_size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Run the searches of one side: what they cost and what they find."""
    stored = dict(np.load(path))
    model = tiny_cnn().eval()
    model.load_state_dict(
        {
            name.removeprefix("model."): torch.from_numpy(value)
            for name, value in stored.items()
            if name.startswith("model.")
        }
    )
    images, target = stored["images"], stored["target"]
    searches_of = arts_search if side == ART else our_searches
    figures = {}
    for name, search in searches_of(model, images, target, batch_size).items():
        found = search()  # the first one also warms up
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            search()
            seconds.append(time.perf_counter() - started)
        with torch.no_grad():
            success = (model(torch.from_numpy(found)).argmax(1).numpy() == target).astype(bool)
        change = (found - images)[success].reshape(success.sum(), -1)
        figures[name] = {
            "milliseconds": 1000 * min(seconds) / len(images),
            "found": int(success.sum()),
            "l0": float((change != 0).sum(1).mean()),
            "l1": float(np.abs(change).sum(1).mean()),
        }
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--art-python", help="the interpreter of ART's environment")
    parser.add_argument("--images", type=int, default=300, help="at most 500 (default: 300)")
    parser.add_argument("--batch-size", type=int, default=100, help="at once (default: 100)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--turns", type=int, default=5, help="of both sides (default: 5)")
    parser.add_argument("--repeats", type=int, default=3, help="in each turn (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    if given.measure:
        side, path = given.measure
        print(json.dumps(measure(side, Path(path), given.batch_size, given.repeats)))
        return
    sides = {"ours": sys.executable} | ({ART: given.art_python} if given.art_python else {})
    print(
        f"torch {torch.__version__}, {given.threads} threads, {platform.machine()}, seed "
        f"{given.seed}; {given.images} images, {given.batch_size} at once"
    )
    turns: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.npz"
        prepare(path, given.images, given.seed)
        options = [f"--{name}={getattr(given, name)}" for name in ("threads", "repeats")]
        options.append(f"--batch-size={given.batch_size}")
        for _ in range(given.turns):
            turn: dict[str, dict[str, float]] = {}
            for side, python in sides.items():
                command = [python, __file__, *options, "--measure", side, str(path)]
                run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                turn |= json.loads(run.stdout)
            turns.append(turn)
    print("search                 found    L0     L1  ms/example  ART / this")
    for name, shown in turns[0].items():
        milliseconds = median(turn[name]["milliseconds"] for turn in turns)
        ratio = median(
            turn[ART]["milliseconds"] / turn[name]["milliseconds"] if ART in turn else float("nan")
            for turn in turns
        )
        print(
            f"{name:20s} {shown['found']:3d}/{given.images} {shown['l0']:5.1f} {shown['l1']:6.2f} "
            f"{milliseconds:11.3f} {ratio:11.1f}"
        )


if __name__ == "__main__":
    main()
