"""Whether ``DeDUCE.realistic`` keeps its promise on a classifier of another kind, in colour.

MNIST digits in random colours on random ground, 24 x 24 x 3; a plain CNN of two convolutions, with
neither spectral normalisation nor settings chosen for it, trained as usual and with noise. Each
test image is turned into one other class. Two CNNs of the same making and other seeds are the
oracles; they and the explained ones differ in nothing else.

    python benchmarks/colour_digits.py --data-root DIR --picture docs/_static/gallery-colour.png
"""

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from captum_deduce import (
    JSMA,
    ClassGaussianMixture,
    CounterfactualExplainer,
    Counterfactuals,
    DeDUCE,
    datasets,
)
from captum_deduce.datasets import ImageData
from captum_deduce.metrics import Oracle
from captum_deduce.training import accuracy, predict, train_classifier

SURE: dict[str, Any] = {"confidence": 0.9985, "pixels_per_step": 4}
"""JSMA as sure as ``realistic``."""


def coloured(data: ImageData, count: int, seed: int) -> ImageData:
    """Paint the first digits in one random colour each, on ground of another."""
    source = torch.Generator().manual_seed(seed)
    strokes = nn.functional.interpolate(data.images[:count], (24, 24), mode="area")
    ink, ground = torch.rand(2, len(strokes), 3, 1, 1, generator=source)
    # Ink and ground differ by half of the range in every channel, or nothing could be read.
    ink = (ground + 0.5 + 0.25 * (ink - 0.5)) % 1
    images = ground + strokes * (ink - ground)
    return ImageData(images, data.target[:count], data.class_names)


def cnn() -> nn.Sequential:
    model = nn.Sequential()
    model.add_module("first", nn.Conv2d(3, 16, 3, stride=2, padding=1))
    model.add_module("second", nn.Sequential(nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1)))
    model.add_module("features", nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(1152, 64)))
    model.add_module("head", nn.Sequential(nn.ReLU(), nn.Linear(64, 10)))
    return model


def trained(train: ImageData, seed: int, epochs: int, noise: float = 0.0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = cnn()
    train_classifier(
        model, train, epochs=epochs, batch_size=128, learning_rate=0.05, seed=seed, noise=noise
    )
    return model.eval()


def explainers(model: nn.Sequential, train: ImageData) -> dict[str, CounterfactualExplainer]:
    density = ClassGaussianMixture.fit_loader(
        model, "features", train.batches(), covariance_type="full", regularization="oas"
    )
    return {
        "DeDUCE": DeDUCE(model, "features", density),
        "DeDUCE.realistic": DeDUCE.realistic(model, "features", density),
        "JSMA": JSMA(model),
        "JSMA, confidence 0.9985": JSMA(model, **SURE),
    }


def one_other_class(labels: Tensor, seed: int) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return (labels + torch.randint(1, 10, labels.shape, generator=source)) % 10


def draw(result: Counterfactuals, path: Path) -> None:
    """Draw the first pairs in 256 colours."""
    buffer = io.BytesIO()
    result.plot(max_rows=5).savefig(buffer, format="png", dpi="figure")
    Image.open(buffer).convert("RGB").quantize(256).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="the folder that holds MNIST")
    parser.add_argument("--images", type=int, default=50, help="that are explained (50)")
    parser.add_argument("--train", type=int, default=20_000, help="training images (20,000)")
    parser.add_argument("--epochs", type=int, default=6, help="of every training (6)")
    parser.add_argument("--noise", type=float, default=0.5, help="in the second training (0.5)")
    parser.add_argument("--picture", type=Path, help="of realistic's first pairs, to write")
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore", UserWarning)  # of failed pairs, which are counted

    splits = datasets.load("mnist", given.data_root, seed=0)
    train, test = coloured(splits.train, given.train, 0), coloured(splits.test, 2000, 1)
    oracles = [trained(train, seed, given.epochs) for seed in (101, 102)]
    oracle = Oracle(oracles)
    print("oracles right:", *(f"{accuracy(each, test):.1%}" for each in oracles), flush=True)
    images, labels = test.images[: given.images], test.target[: given.images]
    target = one_other_class(labels, 0)
    for name, noise in (("as usual", 0.0), ("with noise", given.noise)):
        model = trained(train, 0, given.epochs, noise)
        print(f"\ntrained {name}: {accuracy(model, test):.1%} of the test images right")
        kept = predict(model, images).argmax(1) != target
        for method, explainer in explainers(model, train).items():
            result = explainer.generate(images[kept], target[kept], show_progress=False)
            if given.picture and noise == 0 and method == "DeDUCE.realistic":
                draw(result, given.picture)
            found, agreement = result[result.success], oracle(result).double()
            print(
                f"{method:24} {len(found):3} of {len(result)} found, "
                f"oracle agreement {agreement[result.success].mean():.1%} "
                f"({(agreement * result.success).mean():.1%} with failures), "
                f"L1 {found.l1().double().mean():.1f}, L0 {found.l0().double().mean():.0f}, "
                f"{result.evaluations.double().mean():.0f} evaluations",
                flush=True,
            )
    print(f"\ntorch {torch.__version__}, {given.threads} thread(s)")


if __name__ == "__main__":
    main()
