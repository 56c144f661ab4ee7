"""CEM, LatentShift and NearestExample on MNIST: what they find, and what a counterfactual costs.

The first test images with every other class as the target, on the classifier that
`captum-deduce demo --dataset mnist` caches. Wall / bare is the time of the search over that of the
model evaluations that it consists of, alone: forward passes, and forward passes with the gradient
with respect to the input (LatentShift: with the decoder before the classifier). Each is made right
before the search's own, in the same batch, as on a machine that others use, too, times that are to
be compared must lie side by side. The bare evaluations are of the model that is searched, a quick
copy where there is one.

    python benchmarks/siblings.py --method CEM --checkpoint CACHED.safetensors
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from measuring import extra_mebibytes, replay
from torch import Tensor, nn

from captum_deduce import CEM, CounterfactualExplainer, Counterfactuals, LatentShift, NearestExample
from captum_deduce.classifiers import QuickCopy
from captum_deduce.datasets import ImageData, load_mnist
from captum_deduce.models import VAE
from captum_deduce.prototypes import Examples
from captum_deduce.search import Problem, State
from captum_deduce.zoo import load_checkpoint


@contextmanager
def bare_beside(bare: Callable[[Tensor], Tensor], points: Tensor) -> Iterator[list[float]]:
    """Repeat every evaluation of a search with nothing around it; its seconds are added up."""
    seconds = [0.0]
    forward = Problem.forward

    def noted(self: Problem, images: Tensor, state: State) -> tuple[Tensor, Tensor]:
        if images.requires_grad or images.grad_fn is not None:
            seconds[0] += replay(bare, points, [len(images)])
        else:
            started = time.perf_counter()
            with torch.no_grad():
                bare(points[: len(images)].clone())
            seconds[0] += time.perf_counter() - started
        return forward(self, images, state)

    with mock.patch.object(Problem, "forward", noted):
        yield seconds


def pairs_of(model: nn.Module, images: Tensor, targets: int) -> tuple[Tensor, Tensor]:
    """Every image with each class but the predicted one, from the next on."""
    with torch.no_grad():
        predicted = model(images).argmax(1)
    goal = (predicted.unsqueeze(1) + torch.arange(1, 1 + targets)) % 10
    return images.repeat_interleave(targets, 0), goal.flatten()


def build(
    given: argparse.Namespace, model: nn.Module, train: ImageData, images: Tensor
) -> tuple[CounterfactualExplainer, Callable[[Tensor], Tensor], Tensor]:
    """An explainer, what one of its evaluations runs, and where."""
    # What a search runs in the model's place.
    bare = QuickCopy(model, None, images[:2]).eval()
    if given.method == "CEM":
        explainer = CEM(model, baseline=0.0, c_steps=given.rounds, max_iterations=given.steps)
        return explainer, bare, images
    if given.method == "NearestExample":
        return NearestExample(model, Examples(train.images, train.target)), bare, images
    vae = VAE.load(given.vae)
    with torch.no_grad():
        latents = vae.encode(images)[0]
    return LatentShift(model, vae), lambda z: bare(vae.decode(z)), latents


def report(result: Counterfactuals, seconds: float, bare: float, images: int) -> None:
    found = result[result.success]
    print(result.summary())
    print(
        f"found {len(found)}/{len(result)}; {seconds / len(result):.3f} s a pair, "
        f"{seconds / images:.3f} s an image of the {images}; wall / bare {seconds / bare:.3f}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    methods = ("CEM", "LatentShift", "NearestExample")
    parser.add_argument("--method", choices=methods, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained MNIST classifier")
    parser.add_argument("--vae", type=Path, help="a trained VAE of MNIST, for LatentShift")
    parser.add_argument("--data-root", help="the folder of MNIST (default: CAPTUM_DEDUCE_DATA)")
    parser.add_argument("--images", type=int, default=20, help="test images (default: 20)")
    parser.add_argument("--targets", type=int, default=9, help="of each image (default: 9)")
    parser.add_argument("--rounds", type=int, default=9, help="of CEM (default: 9)")
    parser.add_argument("--steps", type=int, default=1000, help="of CEM's rounds (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=100, help="active pairs (default: 100)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    parser.add_argument("--memory", action="store_true", help="only measure memory")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    splits = load_mnist(given.data_root)
    model = load_checkpoint(given.checkpoint).model.eval()
    images = splits.test.images[: given.images]
    inputs, target = pairs_of(model, images, given.targets)
    explainer, bare, points = build(given, model, splits.train, inputs)
    explainer.generate(inputs[:2], target[:2], max_iterations=2)  # warms up
    if given.memory:
        for factor in (1, 10):
            steps = factor * given.steps
            extra = extra_mebibytes(explainer.generate, inputs, target, max_iterations=steps)
            print(f"{extra:.1f} MiB for {steps} steps of {len(inputs)} pairs")
        return
    print(f"torch {torch.__version__}, {given.threads} threads; {explainer!r}")
    with bare_beside(bare, points) as beside:
        started = time.perf_counter()
        result = explainer.generate(inputs, target, internal_batch_size=given.batch_size)
        seconds = time.perf_counter() - started - beside[0]
    report(result, seconds, beside[0], given.images)


if __name__ == "__main__":
    main()
