"""What Wachter and REVISE cost beyond the evaluations that they are made of.

Each is run on 8x8 digits with a small convolutional network. The bare cost is what any
implementation has to pay: one forward pass and the gradient with respect to the input (for REVISE
through decoder and classifier, with respect to the latents). It is measured by going through bare
evaluations of the very batch sizes that the search used, one after the other. The table gives the
wall time of the search over that of the bare evaluations, the fastest of several repetitions that
take turns, and how much more memory ten times the iterations take.

    python benchmarks/gradient_methods.py --help
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_deduce import REVISE, CounterfactualExplainer, Counterfactuals, Wachter
from captum_deduce.datasets import load_digits
from captum_deduce.models import VAE
from captum_deduce.reconstruction import train_vae
from captum_deduce.training import accuracy, train_classifier


def small_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def replay(model: Callable[[Tensor], Tensor], points: Tensor, sizes: list[int]) -> float:
    """Seconds that bare evaluations of these batch sizes take."""
    started = time.perf_counter()
    for size in sizes:
        leaf = points[:size].clone().requires_grad_()
        target = torch.zeros(size, dtype=torch.int64)
        loss = cross_entropy(model(leaf), target, reduction="sum")
        torch.autograd.grad(loss, leaf)
    return time.perf_counter() - started


def run(
    explainer: CounterfactualExplainer,
    classifier: nn.Module,
    images: Tensor,
    target: Tensor,
    batch_size: int | None,
) -> tuple[float, list[int], Counterfactuals]:
    """Time one search; note the batch size of each evaluation, but for the check before them."""
    sizes: list[int] = []
    hook = classifier.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    started = time.perf_counter()
    result = explainer.generate(images, target, internal_batch_size=batch_size)
    seconds = time.perf_counter() - started
    hook.remove()
    return seconds, sizes[1:], result


def peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1500, help="at most 1797 (default: 1500)")
    parser.add_argument("--batch-size", type=int, help="(default: all pairs at once)")
    parser.add_argument("--methods", nargs="+", default=[""], help="beginnings of their names")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="of every search (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    train, validation, test = load_digits(given.seed)
    model, vae = small_cnn(), VAE(image_size=8)
    train_classifier(model, train, epochs=15, batch_size=64)
    train_vae(vae, train.images, epochs=40, batch_size=64)
    model.eval(), vae.eval()
    print(
        f"torch {torch.__version__}, {given.threads} threads, seed {given.seed}; classifier: ",
        end="",
    )
    print(f"{accuracy(model, test):.1%} of the test digits right")

    images = torch.cat([test.images, validation.images, train.images])[: given.pairs]
    with torch.no_grad():
        latents = vae.encode(images)[0]
        target = (model(images).argmax(1) + 1 + torch.arange(len(images)) % 9) % 10
    adam = {"optimizer": "adam", "distance_weight": 0.1, "max_iterations": 300}
    cases: dict[str, tuple[CounterfactualExplainer, Callable[[Tensor], Tensor], Tensor]] = {
        "Wachter": (Wachter(model), model, images),
        "Wachter, l2": (Wachter(model, distance="l2"), model, images),
        "REVISE, sgd": (
            REVISE(model, vae, max_iterations=300, distance_weight=0.1, learning_rate=0.02),
            lambda z: model(vae.decode(z)),
            latents,
        ),
        "REVISE, adam": (REVISE(model, vae, **adam), lambda z: model(vae.decode(z)), latents),
        "REVISE, adam, closest": (
            REVISE(model, vae, select="closest", **adam),
            lambda z: model(vae.decode(z)),
            latents,
        ),
    }
    print(
        "method                 found    L0     L1  evaluations  ms/pair  wall / bare  "
        "MiB for 10x iterations"
    )
    for name, (explainer, function, points) in cases.items():
        if not name.startswith(tuple(given.methods)):
            continue
        few = (images[:100], target[:100])
        explainer.generate(*few, confidence=0.999)
        before = peak_mebibytes()
        explainer.generate(*few, confidence=0.999, max_iterations=10 * explainer.max_iterations)
        grown = peak_mebibytes() - before

        seconds, bare = [], []
        for _ in range(given.repeats):
            taken, sizes, result = run(explainer, model, images, target, given.batch_size)
            seconds.append(taken)
            bare.append(replay(function, points, sizes))
        assert sum(sizes) == int(result.evaluations.sum())

        found = result[result.success]
        print(
            f"{name:22s} {len(found):4d}/{len(result)} {found.l0().float().mean():5.1f} "
            f"{found.l1().mean():6.2f} {result.evaluations.float().mean():12.1f} "
            f"{1000 * min(seconds) / len(result):8.2f} {min(seconds) / min(bare):12.3f} "
            f"{grown:10.1f}"
        )


if __name__ == "__main__":
    main()
