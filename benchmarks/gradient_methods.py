"""What Wachter and REVISE cost beyond the evaluations that they are made of.

Each is run on 8x8 digits with a small convolutional network. The bare cost is what any
implementation has to pay: one forward pass and the gradient with respect to the input (for REVISE
through decoder and classifier, with respect to the latents). It is measured by going through bare
evaluations of the very batch sizes that the search used, one after the other. The table gives the
wall time of the search over that of the bare evaluations, each right after the other, the median of
several repetitions; and the memory that a search of 100 pairs takes, also with ten times the
iterations.

    python benchmarks/gradient_methods.py --help
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from measuring import batch_sizes, extra_mebibytes, replay, small_cnn
from torch import Tensor, nn

from captum_deduce import REVISE, CounterfactualExplainer, Counterfactuals, Wachter
from captum_deduce.datasets import load_digits
from captum_deduce.models import VAE
from captum_deduce.training import accuracy, train_classifier, train_vae


def run(
    explainer: CounterfactualExplainer,
    images: Tensor,
    target: Tensor,
    batch_size: int | None,
) -> tuple[float, list[int], Counterfactuals]:
    """Time one search; note the batch size of each evaluation."""
    with batch_sizes() as (sizes, _):
        started = time.perf_counter()
        result = explainer.generate(images, target, internal_batch_size=batch_size)
        seconds = time.perf_counter() - started
    return seconds, sizes, result


def cases(
    model: nn.Module, vae: VAE, images: Tensor
) -> dict[str, tuple[CounterfactualExplainer, Callable[[Tensor], Tensor], Tensor]]:
    """The explainers, each with the function that it differentiates and where."""
    with torch.no_grad():
        latents = vae.encode(images)[0]

    def drawn(z: Tensor) -> Tensor:
        return model(vae.decode(z))

    sgd = {"distance_weight": 0.1, "max_iterations": 300, "learning_rate": 0.02}
    adam = {"distance_weight": 0.1, "max_iterations": 300, "optimizer": "adam"}
    return {
        "Wachter": (Wachter(model), model, images),
        "Wachter, l2": (Wachter(model, distance="l2"), model, images),
        "REVISE, sgd": (REVISE(model, vae, **sgd), drawn, latents),
        "REVISE, adam": (REVISE(model, vae, **adam), drawn, latents),
        "REVISE, adam, closest": (REVISE(model, vae, select="closest", **adam), drawn, latents),
    }


def memory(explainer: CounterfactualExplainer, images: Tensor, factor: int) -> float:
    """What a search with so many times the iterations takes; the confidence is out of reach."""
    return extra_mebibytes(
        explainer.generate,
        images,
        3,
        confidence=1 - 1e-9,
        max_iterations=factor * explainer.max_iterations,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=1500, help="at most 1797 (default: 1500)")
    parser.add_argument("--batch-size", type=int, help="(default: all pairs at once)")
    parser.add_argument("--methods", nargs="+", default=[""], help="beginnings of their names")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="of every search (default: 5)")
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
        f"torch {torch.__version__}, {given.threads} threads, seed {given.seed}; classifier: "
        f"{accuracy(model, test):.1%} of the test digits right"
    )
    images = torch.cat([test.images, validation.images, train.images])[: given.pairs]
    with torch.no_grad():
        target = (model(images).argmax(1) + 1 + torch.arange(len(images)) % 9) % 10
    print(
        "method                 found    L0     L1  evaluations  ms/pair  wall / bare  MiB  "
        "MiB for 10x iterations"
    )
    for name, (explainer, function, points) in cases(model, vae, images).items():
        if not name.startswith(tuple(given.methods)):
            continue
        explainer.generate(images[:100], target[:100])  # warms up
        seconds, ratios = [], []
        for _ in range(given.repeats):
            taken, sizes, result = run(explainer, images, target, given.batch_size)
            seconds.append(taken)
            ratios.append(taken / replay(function, points, sizes))
        assert sum(sizes) == int(result.evaluations.sum())
        few, many = (memory(explainer, images[:100], factor) for factor in (1, 10))
        found = result[result.success]
        print(
            f"{name:22s} {len(found):4d}/{len(result)} {found.l0().float().mean():5.1f} "
            f"{found.l1().mean():6.2f} {result.evaluations.float().mean():12.1f} "
            f"{1000 * median(seconds) / len(result):8.2f} {median(ratios):12.3f} "
            f"{few:4.1f} {many:10.1f}"
        )


if __name__ == "__main__":
    main()
