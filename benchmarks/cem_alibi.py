"""What a step of CEM costs in alibi and here, on the same PyTorch classifier.

alibi's CEM runs on TensorFlow; a PyTorch classifier is a function to it, whose gradients it takes
by differences: two predictions for every pixel. Its time is linear in the steps, so that a few of
them tell what the published nine rounds of a thousand cost. It explains one image at a time; here a
batch of pairs is timed, and divided by their number. Both go by turns in one process.

    python benchmarks/cem_alibi.py --checkpoint CACHED.safetensors
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import alibi.explainers
import numpy as np
import tensorflow as tf
import torch
from torch import nn

from captum_deduce import CEM
from captum_deduce.datasets import load_mnist
from captum_deduce.zoo import load_checkpoint


def alibi_seconds(model: nn.Module, image: np.ndarray, steps: int) -> float:
    """Of one round with so many steps for one image, channels last as alibi wants them."""

    def predict(batch: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(batch).float().movedim(3, 1)
        with torch.no_grad():
            parts = [model(part).softmax(1) for part in images.split(500)]
        return torch.cat(parts).numpy()

    explainer = alibi.explainers.CEM(
        predict,
        "PN",
        shape=(1, *image.shape),
        kappa=0.0,
        beta=0.1,
        feature_range=(0.0, 1.0),
        max_iterations=steps,
        c_steps=1,
        no_info_val=0.0,
    )
    started = time.perf_counter()
    explainer.explain(image[None])
    return time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained MNIST classifier")
    parser.add_argument("--data-root", help="the folder of MNIST (default: CAPTUM_DEDUCE_DATA)")
    parser.add_argument("--pairs", type=int, default=18, help="in a batch here (default: 18)")
    parser.add_argument("--steps", type=int, default=4, help="of alibi's (default: 4)")
    parser.add_argument("--turns", type=int, default=2, help="of both (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: 1)")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    tf.compat.v1.disable_v2_behavior()
    model = load_checkpoint(given.checkpoint).model.eval()
    images = load_mnist(given.data_root).test.images[: given.pairs]
    ours = CEM(model, baseline=0.0, c_steps=1, max_iterations=50)
    ours.generate(images[:2], max_iterations=2)  # warms up
    for _ in range(given.turns):
        seconds = alibi_seconds(model, images[0].movedim(0, 2).numpy(), given.steps)
        theirs = (seconds - alibi_seconds(model, images[0].movedim(0, 2).numpy(), 1)) / (
            given.steps - 1
        )
        started = time.perf_counter()
        result = ours.generate(images)
        mine = (time.perf_counter() - started) / int(result.iterations.sum())
        print(
            f"alibi {theirs:.2f} s a step, here {1000 * mine:.2f} ms a step of a pair: "
            f"{theirs / mine:.0f} times; 9 x 1,000 steps: {9000 * theirs / 3600:.1f} h and at most "
            f"{9000 * mine:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
