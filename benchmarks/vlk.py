"""What a counterfactual of VLK costs.

On 8x8 digits with a tiny convolutional network, as many images as the batch holds at once: seconds
per counterfactual, over the bare cost of the same evaluations (the classifier forward at the image
and forward and backward at the point ahead of it, autoencoder and encoder likewise), and how much
more memory ten times the iterations take. Once with a linear autoencoder (also for the memory) and
once with the convolutional one of the package. The fastest of several repetitions counts.

    python benchmarks/vlk.py --help
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from measuring import extra_mebibytes, tiny_cnn
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from captum_deduce import VLK, PrototypeIndex
from captum_deduce.datasets import load_digits
from captum_deduce.models import Autoencoder
from captum_deduce.training import accuracy, train_autoencoder, train_classifier


class LinearAutoencoder(nn.Module):
    """64 pixels to 16 features and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
        self.decoder = nn.Sequential(nn.Linear(16, 64), nn.Sigmoid(), nn.Unflatten(1, (1, 8, 8)))

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct images."""
        return self.decoder(self.encoder(images))


def bare(classifier: nn.Module, autoencoder: nn.Module, images: Tensor, count: int) -> float:
    """Seconds that the evaluations of so many iterations take, with nothing around them."""
    target = torch.zeros(len(images), dtype=torch.int64)
    started = time.perf_counter()
    for _ in range(count):
        with torch.no_grad():
            classifier(images)
        leaf = images.clone().requires_grad_()
        code = autoencoder.encoder(leaf)
        loss = cross_entropy(classifier(leaf), target, reduction="sum")
        loss = loss + code.sum() + autoencoder.decoder(code).sum()
        torch.autograd.grad(loss, leaf)
    return time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100, help="at most 500 (default: 100)")
    parser.add_argument(
        "--iterations", type=int, default=1000, help="in all, of two rounds (default: 1000)"
    )
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--repeats", type=int, default=3, help="of every search (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    train, _, test = load_digits(given.seed)
    classifier = tiny_cnn()
    train_classifier(classifier, train, epochs=15, batch_size=64)
    classifier.eval()
    print(
        f"torch {torch.__version__}, {given.threads} threads, seed {given.seed}; classifier: "
        f"{accuracy(classifier, test):.1%} of the test digits right; {given.images} images at "
        f"once, {given.iterations} iterations"
    )
    images = test.images[: given.images]
    target = (classifier(images).argmax(1) + 1 + torch.arange(len(images)) % 9) % 10
    print("autoencoder    goal      found     L0     L1  s/counterfactual  wall / bare")
    for autoencoder in (LinearAutoencoder(), Autoencoder(image_size=8)):
        train_autoencoder(autoencoder, train.images, epochs=80, batch_size=64, learning_rate=3e-3)
        autoencoder.eval()
        batches = train.images.split(500)
        prototypes = PrototypeIndex.from_loader(classifier, autoencoder.encoder, batches)
        explainer = VLK(
            classifier,
            autoencoder,
            autoencoder.encoder,
            prototypes,
            max_iterations=given.iterations // 2,
        )
        for goal, classes in (("a target", target), ("any class", None)):
            seconds, without = [], []
            for _ in range(given.repeats):
                started = time.perf_counter()
                result = explainer.generate(images, classes)
                seconds.append(time.perf_counter() - started)
                iterations = int(result.iterations.max())
                without.append(bare(classifier, autoencoder, images, iterations + 1))
            found = result[result.success]
            name = "linear" if isinstance(autoencoder, LinearAutoencoder) else "convolutional"
            print(
                f"{name:14s} {goal:9s} {len(found):3d}/{len(result)} "
                f"{found.l0().float().mean():6.1f} {found.l1().mean():6.2f} "
                f"{min(seconds) / len(result):17.4f} {min(seconds) / min(without):12.2f}"
            )
        if isinstance(autoencoder, LinearAutoencoder):
            few, many = (
                extra_mebibytes(explainer.generate, images, target, max_iterations=iterations)
                for iterations in (given.iterations // 2, 5 * given.iterations)
            )
    print(f"memory: {few:.1f} MiB, and {many:.1f} MiB for 10x iterations")


if __name__ == "__main__":
    main()
