"""What the batch size changes in float32, for every method.

Rounding depends on how many images a matrix product holds. A method that moves every entry at once
carries such differences from step to step, one that moves a few pixels only where two matter nearly
equally. Every pair is searched among all others and in batches of other sizes. The table gives the
largest difference of an entry, and what it comes to: how many pairs end otherwise (found or not;
another class, where any will do), and the mean L1 of both.

    python benchmarks/batch_sizes.py --help
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from measuring import small_cnn
from torch import Tensor, nn

from captum_deduce import (
    JSMA,
    REVISE,
    VLK,
    ClassGaussianMixture,
    CounterfactualExplainer,
    Counterfactuals,
    DeDUCE,
    PrototypeIndex,
    Schut,
    Wachter,
)
from captum_deduce.datasets import load_digits
from captum_deduce.models import VAE, Autoencoder
from captum_deduce.training import accuracy, train_autoencoder, train_classifier, train_vae


def explainers(
    model: nn.Sequential, vae: VAE, autoencoder: Autoencoder, images: Tensor, labels: Tensor
) -> dict[str, tuple[CounterfactualExplainer, bool]]:
    """The methods, each with whether it is given targets."""
    density = ClassGaussianMixture.fit_loader(
        model, model[6], [(images, labels)], regularization="oas"
    )
    prototypes = PrototypeIndex.from_loader(model, autoencoder.encoder, [images])
    vlk = VLK(model, autoencoder, autoencoder.encoder, prototypes, max_iterations=500)
    adam = {"distance_weight": 0.1, "max_iterations": 300, "optimizer": "adam"}
    return {
        "DeDUCE": (DeDUCE(model, model[6], density), True),
        "JSMA": (JSMA(model), True),
        "Schut": (Schut(model), True),
        "Wachter": (Wachter(model), True),
        "Wachter, l2": (Wachter(model, distance="l2"), True),
        "VLK": (vlk, True),
        "VLK, any class": (vlk, False),
        "REVISE": (REVISE(model, vae, **adam), True),
    }


def compared(name: str, size: int, found: Counterfactuals, other: Counterfactuals) -> str:
    """One line of the table."""
    difference = (found.counterfactuals - other.counterfactuals).abs().flatten(1)
    both = found.success & other.success
    l1 = found.l1()[both].mean(), other.l1()[both].mean()
    each = (found.l1() - other.l1())[both].abs().mean()
    return (
        f"{name:16s} {size:5d} {difference.max():10.1e} {(difference > 1e-3).any(1).sum():8d} "
        f"{(found.success != other.success).sum():5d} {(found.target != other.target).sum():5d} "
        f"{l1[0]:9.4f} {l1[1]:9.4f} {each:10.1e}"
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=100, help="at most 1797 (default: 100)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 25], help="(default: 1 25)")
    parser.add_argument("--methods", nargs="+", default=[""], help="beginnings of their names")
    parser.add_argument("--double", action="store_true", help="in float64")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    train, validation, test = load_digits(given.seed)
    model, vae, autoencoder = small_cnn(), VAE(image_size=8), Autoencoder(image_size=8)
    train_classifier(model, train, epochs=15, batch_size=64)
    train_vae(vae, train.images, epochs=40, batch_size=64)
    train_autoencoder(autoencoder, train.images, epochs=80, batch_size=64, learning_rate=3e-3)
    for part in (model, vae, autoencoder):
        part.eval()
    print(
        f"torch {torch.__version__}, {given.threads} threads, seed {given.seed}; classifier: "
        f"{accuracy(model, test):.1%} of the test digits right"
    )
    images = torch.cat([test.images, validation.images, train.images])[: given.pairs]
    dtype = torch.float64 if given.double else torch.float32
    images, train_images = images.to(dtype), train.images.to(dtype)
    for part in (model, vae, autoencoder):
        part.to(dtype)
    with torch.no_grad():
        predicted = model(images).argmax(1)
    target = (predicted + 1 + torch.arange(len(images)) % 9) % 10
    print(
        f"all {len(images)} at once against batches of a size\n"
        "method            size   in entry   > .001 found class   mean L1  of other  each pair"
    )
    methods = explainers(model, vae, autoencoder, train_images, train.target)
    for name, (explainer, targeted) in methods.items():
        if not name.startswith(tuple(given.methods)):
            continue
        classes: Tensor | None = target if targeted else None
        together = explainer.generate(images, classes)
        for size in given.sizes:
            other = explainer.generate(images, classes, internal_batch_size=size)
            print(compared(name, size, together, other), flush=True)


if __name__ == "__main__":
    main()
