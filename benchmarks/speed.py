"""What DeDUCE costs, as ratios within one run.

On an MNIST classifier (by default the one that ``captum-deduce demo --dataset mnist`` has cached)
and 20 test images x 9 targets:

* against the published pattern, written out below: one target a batch, everyone waits for the
  slowest image, steps that can't change an image are paid for, parameter gradients are computed;
* against the arithmetic: as many bare forward passes with input gradients of the model as its owner
  has it, in batches of the very sizes that the search used; on the quick copy that is searched by
  default, and on the model as it is;
* how far the copy's results are from the model's;
* how often the batch changes a result in float32, where near-ties may go either way;
* memory that a search takes as steps and images grow.

    python benchmarks/speed.py --data-root DIR --checkpoint mnist.safetensors
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
from pathlib import Path
from statistics import median

import torch
from measuring import batch_sizes, extra_mebibytes
from torch import Tensor, nn

from captum_deduce import (
    ClassGaussianMixture,
    Counterfactuals,
    DeDUCE,
    remove_spectral_normalization,
)
from captum_deduce.datasets import load_mnist
from captum_deduce.zoo import Checkpoint, load_checkpoint


def all_pairs(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Every image with each class but its own."""
    classes = torch.arange(10).repeat(len(images))
    kept = classes != labels.repeat_interleave(10)
    return images.repeat_interleave(10, 0)[kept], classes[kept]


def published_pattern(
    model: nn.Module,
    density: ClassGaussianMixture,
    images: Tensor,
    labels: Tensor,
    target: int,
) -> tuple[int, int, int]:
    """Algorithm 1 as it was first run, to one target; returns pairs, pairs found and evaluations.

    ``model`` is the plain network with the bounded weights, so that the cost of spectral
    normalisation, which the original paid as well, is not counted against it.
    """
    features: list[Tensor] = []
    handle = model.avgpool.register_forward_hook(lambda *args: features.append(args[2].flatten(1)))
    x = images[labels != target].clone()
    changes = torch.zeros_like(x)
    direction = torch.zeros_like(x)
    goal = torch.full((len(x),), target)
    done = torch.zeros(len(x), dtype=torch.bool)
    evaluations = 0
    for _ in range(701):
        x.requires_grad_()
        features.clear()
        scores = model(x)
        evaluations += len(x)
        loss = nn.functional.cross_entropy(scores, goal, reduction="none")
        log_density = density.log_prob(features[0], goal)
        done |= scores.softmax(1)[:, target] > 0.5
        relative = loss / loss.detach().clamp_min(1e-6)
        relative = relative - log_density / log_density.detach().abs().clamp_min(1e-6)
        model.zero_grad()
        relative.sum().backward()
        direction = x.grad + 0.6 * direction
        x = x.detach()
        if done.all():
            break
        score = direction.abs().masked_fill(changes >= 5, 0.0).flatten(1)
        pixel = score.argmax(1, keepdim=True)
        move = -0.2 * direction.sign().flatten(1).gather(1, pixel)
        move = torch.where(done[:, None], 0.0, move)
        x = x.flatten(1).scatter_add(1, pixel, move).clamp(0, 1).view_as(x)
        changes = changes.flatten(1).scatter_add(1, pixel, torch.ones_like(move)).view_as(x)
    handle.remove()
    return len(x), int(done.sum()), evaluations


def timed(
    explainer: DeDUCE, pairs: tuple[Tensor, Tensor], batch_size: int, *bare: nn.Module
) -> tuple[float, Counterfactuals, list[float]]:
    """Seconds of the search, its result, and seconds of as many bare evaluations of each model."""
    with batch_sizes(*bare) as (_, beside):
        started = time.perf_counter()
        result = explainer.generate(*pairs, internal_batch_size=batch_size)
        seconds = time.perf_counter() - started
    return seconds - sum(beside), result, beside


def difference(first: Counterfactuals, second: Counterfactuals) -> str:
    differ = (first.counterfactuals != second.counterfactuals).flatten(1).any(1)
    confidence = float((first.confidence - second.confidence)[~differ].abs().max())
    l1 = float(second.l1().mean() / first.l1().mean())
    return (
        f"{int(differ.sum())} of {len(first)} pairs differ, found or not in "
        f"{int((first.success != second.success).sum())}; confidences of the others by at most "
        f"{confidence:.1e}; mean L1 ratio {l1:.4f}"
    )


def against_bare(
    explainer: DeDUCE, plain: nn.Module, pairs: tuple[Tensor, Tensor], batch_size: int, rounds: int
) -> tuple[Counterfactuals, Counterfactuals]:
    """What the search of the copy found, and that of the model."""
    ratios: dict[str, list[tuple[float, float]]] = {"the copy": [], "the model": []}
    results: dict[str, Counterfactuals] = {}
    for _ in range(rounds):
        for searched in ratios:
            explainer.optimize_model = searched == "the copy"
            seconds, results[searched], bare = timed(
                explainer, pairs, batch_size, explainer.forward_func, plain
            )
            ratios[searched].append((seconds / bare[0], seconds / bare[1]))
    explainer.optimize_model = True
    for searched, found in ratios.items():
        for place, against in enumerate(("", ", spectral norms precomputed")):
            each = [ratio[place] for ratio in found]
            listed = ", ".join(f"{ratio:.3f}" for ratio in each)
            print(f"searching {searched} / bare{against}: median {median(each):.3f} of {listed}")
    return results["the copy"], results["the model"]


def compare(
    checkpoint: Checkpoint, images: Tensor, labels: Tensor, batch_size: int, rounds: int
) -> None:
    model, density = checkpoint.model.eval(), checkpoint.density
    plain = remove_spectral_normalization(copy.deepcopy(model)).eval()
    explainer = DeDUCE(model, model.avgpool, density)
    pairs = all_pairs(images, labels)
    few = (pairs[0][:18], pairs[1][:18])
    _, alone, _ = timed(explainer, few, 1)  # warms up, too

    result, as_it_is = against_bare(explainer, plain, pairs, batch_size, rounds)
    closest = DeDUCE.closest(model, model.avgpool, density)
    seconds: dict[str, list[float]] = {"DeDUCE": [], "DeDUCE.closest": [], "published": []}
    counted = torch.zeros(3, dtype=torch.long)
    # By turns, as no machine is equally fast for minutes.
    for target in range(10):
        seconds["DeDUCE"].append(timed(explainer, pairs, batch_size)[0])
        near_seconds, near, _ = timed(closest, pairs, batch_size)
        seconds["DeDUCE.closest"].append(near_seconds)
        started = time.perf_counter()
        counted += torch.tensor(published_pattern(plain, density, images, labels, target))
        seconds["published"].append(time.perf_counter() - started)

    count, found, evaluations = counted.tolist()
    published = sum(seconds["published"])
    print(f"published pattern: {count} pairs, {found} found, {published:.1f} s for all targets")
    print(f"  {evaluations} evaluations, {evaluations / count:.1f} a pair")
    for name, each in (("DeDUCE", result), ("DeDUCE.closest", near)):
        own = median(seconds[name])
        spread = ", ".join(f"{value:.2f}" for value in sorted(seconds[name]))
        print(f"{name}: {int(each.success.sum())} of {len(each)} found, {own:.2f} s ({spread})")
        print(f"  {each.evaluations.double().mean():.1f} evaluations a pair")
        print(f"  L0 {each.l0().double().mean():.2f}, L1 {each.l1().double().mean():.2f}")
        print(f"  published / {name}: {published / own:.2f}")
    print(f"float32, the copy against the model: {difference(as_it_is, result)}")
    print(f"float32, one at a time against batches: {difference(alone, result[:18])}")


def memory(checkpoint: Checkpoint, images: Tensor, labels: Tensor) -> None:
    """Run up to so many steps; the confidence is out of reach."""
    explainer = DeDUCE(checkpoint.model, checkpoint.model.avgpool, checkpoint.density)
    for count, steps in ((20, 10), (20, 100), (200, 10)):
        extra = extra_mebibytes(
            explainer.generate,
            images[:count],
            (labels[:count] + 1) % 10,
            internal_batch_size=20,
            max_iterations=steps,
            confidence=1 - 1e-12,
            max_changes=50,
        )
        print(f"memory of {count} images x {steps} steps, batches of 20: {extra:.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="a trained MNIST classifier")
    parser.add_argument("--data-root", help="the folder of MNIST (default: CAPTUM_DEDUCE_DATA)")
    parser.add_argument("--images", type=int, default=20, help="test images (default: 20)")
    parser.add_argument("--batch-size", type=int, default=180, help="active pairs (default: 180)")
    parser.add_argument("--rounds", type=int, default=3, help="of each search (default: 3)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    test = load_mnist(arguments.data_root).test
    checkpoint = load_checkpoint(arguments.checkpoint)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {platform.machine()}")
    print(f"classifier: {checkpoint.settings}")
    compare(
        checkpoint,
        test.images[: arguments.images],
        test.target[: arguments.images],
        arguments.batch_size,
        arguments.rounds,
    )
    memory(checkpoint, test.images, test.target)


if __name__ == "__main__":
    main()
