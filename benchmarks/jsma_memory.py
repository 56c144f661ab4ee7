"""What memory Papernot's saliency needs on large images, against DeDUCE.

Both search for counterfactuals of random 224x224 images with three channels, on a small
convolutional network with 10 and with 1,000 classes. What counts is how much more memory than
before, with model, density and images in it, the process holds at the height of a search. A full
Jacobian of 1,000 classes alone would take 574 MiB an image.

    python benchmarks/jsma_memory.py --help
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from statistics import median

import torch
from measuring import extra_mebibytes
from torch import nn

from captum_deduce import JSMA, ClassGaussianMixture, CounterfactualExplainer, DeDUCE

FEATURES = 64
METHODS = {
    "DeDUCE": {},
    "JSMA, gradient": {},
    "JSMA, papernot": {"saliency": "papernot"},
    "JSMA, papernot, pairs": {"saliency": "papernot", "pixels_per_step": 2},
}


def network(num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = [3, 16, 32, FEATURES]
    for given, made in itertools.pairwise(channels):
        layers += [nn.Conv2d(given, made, 3, stride=2, padding=1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(FEATURES, num_classes)]
    return nn.Sequential(*layers, *head)


def explainer_of(name: str, model: nn.Sequential, num_classes: int) -> CounterfactualExplainer:
    if name != "DeDUCE":
        return JSMA(model, **METHODS[name])
    classes = torch.arange(num_classes).repeat(2 * FEATURES)
    density = ClassGaussianMixture().fit(torch.randn(len(classes), FEATURES), classes)
    return DeDUCE(model, model[-2], density)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=16, help="at once (default: 16)")
    parser.add_argument("--steps", type=int, default=5, help="of each image (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--repeats", type=int, default=5, help="the median counts (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    images = torch.rand(given.images, 3, 224, 224)
    print(
        f"torch {torch.__version__}, {given.threads} threads, seed {given.seed}; {given.images} "
        f"images at once, {given.steps} steps"
    )
    print("classes  method                 MiB  of DeDUCE's")
    for num_classes in (10, 1000):
        of_deduce = 0.0
        for name in METHODS:
            explainer = explainer_of(name, network(num_classes).eval(), num_classes)
            # The confidence is out of reach, so that every image makes all steps.
            settings = {"confidence": 1 - 1e-9, "max_iterations": given.steps}
            result = explainer.generate(images, 0, **settings)
            assert (result.iterations == given.steps).all()
            extra = median(
                extra_mebibytes(explainer.generate, images, 0, **settings)
                for _ in range(given.repeats)
            )
            of_deduce = of_deduce or extra
            print(f"{num_classes:7d}  {name:21s} {extra:5.0f} {extra / of_deduce:12.2f}")


if __name__ == "__main__":
    main()
