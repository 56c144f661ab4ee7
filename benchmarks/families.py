"""Do the presets carry over? DeDUCE and JSMA on data and models that no setting was chosen on.

Two families are made on the spot: MNIST digits in random colours on a random ground (24 x 24 x 3),
and garments made of shapes, grey and textured (28 x 28): ten silhouettes, each turned, stretched
and shaded anew. Explained is a small plain CNN without spectral normalisation (two convolutions, 64
features), trained as usual and trained with noise; the oracles, which no search knows, are two CNNs
of the same making and other seeds, one with larger filters, and one without convolutions. Every
method explains the same test images with the same targets, drawn at random.

    python benchmarks/families.py --data-root DIR
    python benchmarks/families.py --families garments --methods realistic --pictures FOLDER
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from captum_deduce import (
    JSMA,
    ClassGaussianMixture,
    CounterfactualExplainer,
    Counterfactuals,
    DeDUCE,
)
from captum_deduce.datasets import ImageData, load_mnist
from captum_deduce.models import SmallCNN
from captum_deduce.reports.tables import markdown
from captum_deduce.training import accuracy, train_classifier

# --- data ---


def coloured_digits(data: ImageData, seed: int) -> ImageData:
    """Digits without their margin, in a colour that stands out from the colour of the ground."""
    generator = torch.Generator().manual_seed(seed)
    strokes = data.images[:, :, 2:26, 2:26]
    ground, ink = torch.rand(2, len(data), 3, 1, 1, generator=generator)
    close = (ink - ground).abs().amax(1, keepdim=True) < 0.4
    ink = torch.where(close, (ground + 0.5) % 1, ink)
    images = ground + strokes * (ink - ground)
    images += 0.03 * torch.randn(images.shape, generator=generator)
    return ImageData(images.clamp(0, 1), data.target, data.class_names)


# In a square from (-1, -1), top left, to (1, 1).
_BODY = [(-0.45, -0.7), (0.45, -0.7), (0.45, 0.8), (-0.45, 0.8)]
_SHORT = [[(-0.45, -0.7), (-0.95, -0.3), (-0.75, -0.05), (-0.4, -0.35)]]
_LONG = [[(-0.45, -0.7), (-0.95, 0.6), (-0.7, 0.7), (-0.4, -0.25)]]


def _mirrored(polygons: list[list[tuple[float, float]]]) -> list[list[tuple[float, float]]]:
    return [*polygons, *([(-x, y) for x, y in polygon] for polygon in polygons)]


GARMENTS: dict[str, list[list[tuple[float, float]]]] = {
    "T-shirt": [_BODY, *_mirrored(_SHORT)],
    "trousers": _mirrored([[(-0.45, -0.9), (0.0, -0.9), (-0.08, 0.9), (-0.4, 0.9)]]),
    "pullover": [_BODY, *_mirrored(_LONG)],
    "dress": [[(-0.2, -0.9), (0.2, -0.9), (0.18, -0.1), (0.6, 0.95), (-0.6, 0.95), (-0.18, -0.1)]],
    "coat": _mirrored([[(-0.45, -0.8), (-0.05, -0.8), (-0.08, 0.95), (-0.5, 0.95)], *_LONG]),
    "sandal": [
        [(-0.95, 0.35), (0.95, 0.35), (0.95, 0.55), (-0.95, 0.55)],
        [(-0.6, 0.35), (-0.1, -0.3), (0.05, -0.3), (-0.4, 0.35)],
        [(0.45, 0.35), (0.75, -0.3), (0.9, -0.3), (0.7, 0.35)],
    ],
    "skirt": [[(-0.4, -0.6), (0.4, -0.6), (0.9, 0.7), (-0.9, 0.7)]],
    "shoe": [
        [(-0.95, 0.5), (-0.95, 0.15), (-0.2, -0.1), (0.2, -0.45), (0.9, -0.45), (0.95, 0.5)],
    ],
    "bag": [
        [(-0.8, -0.15), (0.8, -0.15), (0.8, 0.8), (-0.8, 0.8)],
        [
            *[(-0.5, -0.15), (-0.4, -0.75), (0.4, -0.75), (0.5, -0.15)],
            *[(0.35, -0.15), (0.28, -0.6), (-0.28, -0.6), (-0.35, -0.15)],
        ],
    ],
    "boot": [
        [(-0.1, -0.9), (0.6, -0.9), (0.65, 0.8), (-0.9, 0.8), (-0.9, 0.4), (-0.2, 0.2)],
    ],
}
"""Polygons of each garment."""


def garments(count: int, seed: int, side: int = 28) -> ImageData:
    """As many images of each garment, in turn."""
    random = np.random.default_rng(seed)
    labels = torch.arange(count) % len(GARMENTS)
    polygons = list(GARMENTS.values())
    images = np.stack([_garment(polygons[label], random, side) for label in labels.tolist()])
    return ImageData(torch.from_numpy(images).unsqueeze(1).float(), labels, tuple(GARMENTS))


def _garment(
    polygons: list[list[tuple[float, float]]], random: np.random.Generator, side: int
) -> np.ndarray:
    scale = 4
    angle, stretch = random.normal(0, 0.08), random.uniform(0.7, 1.0, 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    canvas = Image.new("L", (scale * side, scale * side))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        corners = np.array(polygon) + random.normal(0, 0.04, (len(polygon), 2))
        places = ((corners * stretch) @ turn.T + random.normal(0, 0.02, 2) + 1) * scale * side / 2
        draw.polygon([tuple(place) for place in places], fill=255)
    shape = np.asarray(canvas.resize((side, side), Image.Resampling.BOX)) / 255
    y, x = np.mgrid[:side, :side] / side
    wave = random.uniform(0, 0.25) * np.sin(
        random.uniform(5, 40) * (x * random.normal() + y * random.normal()) + random.uniform(0, 6)
    )
    cloth = random.uniform(0.4, 0.9) + wave + random.normal(0, 0.03, (side, side))
    return (shape * cloth).clip(0, 1)


# --- models ---


def explained(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(),
        nn.LazyLinear(256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def trained(
    make: Callable[[], nn.Module], train: ImageData, seed: int, noise: float = 0.0
) -> nn.Module:
    torch.manual_seed(seed)
    model = make()
    model(train.images[:1])  # gives lazy layers their sizes
    train_classifier(
        model, train, epochs=12, learning_rate=0.05, noise=noise, seed=seed, show_progress=False
    )
    return model.eval().requires_grad_(False)


# --- searches ---

METHODS: dict[str, Callable[[nn.Module, ClassGaussianMixture], CounterfactualExplainer]] = {
    "DeDUCE": lambda model, density: DeDUCE(model, model[6], density),
    "closest": lambda model, density: DeDUCE.closest(model, model[6], density),
    "realistic": lambda model, density: DeDUCE.realistic(model, model[6], density),
    "realistic, no quantile": lambda model, density: DeDUCE.realistic(
        model, model[6], density, density_quantile=None
    ),
    "JSMA, as sure": lambda model, density: JSMA(model, confidence=0.9985, pixels_per_step=4),
    "JSMA, surer": lambda model, density: JSMA(model, confidence=0.99999, pixels_per_step=4),
}


def row(name: str, result: Counterfactuals, oracles: Sequence[nn.Module]) -> dict[str, str]:
    found = result[result.success]
    with torch.no_grad():
        believed = torch.stack(
            [oracle(result.counterfactuals).argmax(1) == result.target for oracle in oracles]
        )
    shares = (believed & result.success).double().mean(1)
    return {
        "method": name,
        "found": f"{len(found)}/{len(result)}",
        "oracle agreement": f"{shares.mean():.2f}",
        "strictest": f"{shares.min():.2f}",
        "L1": f"{found.l1().mean():.1f}",
        "L0": f"{found.l0().double().mean():.0f}",
        "evaluations": f"{result.evaluations.double().mean():.0f}",
    }


def draw(result: Counterfactuals, class_names: Sequence[str], path: Path) -> None:
    """Draw five pairs, chosen at random."""
    chosen = torch.randperm(len(result), generator=torch.Generator().manual_seed(0))[:5]
    figure = result[chosen].plot(class_names=class_names)
    figure.savefig(path, dpi="figure", pil_kwargs={"optimize": True})


def pairs(data: ImageData, model: nn.Module, count: int, targets: int) -> tuple[Tensor, Tensor]:
    """The first images with as many other classes each, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    images = data.images[:count]
    with torch.no_grad():
        predicted = model(images).argmax(1)
    others = torch.stack([1 + torch.randperm(9, generator=generator)[:targets] for _ in images])
    return images.repeat_interleave(targets, 0), ((predicted.unsqueeze(1) + others) % 10).flatten()


def family(name: str, given: argparse.Namespace) -> tuple[ImageData, ImageData]:
    if name == "garments":
        return garments(20_000, seed=1), garments(2_000, seed=2)
    splits = load_mnist(given.data_root)
    return coloured_digits(splits.train[:20_000], seed=1), coloured_digits(splits.test, seed=2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("coloured digits", "garments")
    parser.add_argument("--data-root", help="the folder of MNIST (default: CAPTUM_DEDUCE_DATA)")
    parser.add_argument("--families", nargs="+", choices=names, default=names)
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS))
    parser.add_argument("--images", type=int, default=20, help="test images (default: 20)")
    parser.add_argument("--targets", type=int, default=3, help="of each image (default: 3)")
    parser.add_argument(
        "--noise", type=float, default=0.5, help="largest in training (default: .5)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--pictures", type=Path, help="folder for what five of the pairs become")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    for name in given.families:
        train, test = family(name, given)
        channels, side = train.images.shape[1:3]
        small = partial(explained, channels)
        oracles = [
            trained(small, train, seed=1),
            trained(small, train, seed=2),
            trained(partial(SmallCNN, channels, image_size=side), train, seed=3),
            trained(perceptron, train, seed=4),
        ]
        rights = ", ".join(f"{accuracy(each, test):.1%}" for each in oracles)
        print(f"\n{name}: {len(train):,} training images; the oracles are right on {rights}")
        for training, noise in (("as usual", 0.0), ("with noise", given.noise)):
            model = trained(small, train, seed=0, noise=noise)
            density = ClassGaussianMixture.fit_loader(model, model[6], train.batches())
            print(f"trained {training}: right on {accuracy(model, test):.1%}", flush=True)
            images, target = pairs(test, model, given.images, given.targets)
            rows = []
            for method in given.methods:
                explainer = METHODS[method](model, density)
                result = explainer.generate(images, target, show_progress=False)
                rows.append(row(method, result, oracles))
                print(rows[-1], flush=True)
                if given.pictures is not None:
                    stem = f"{name} {training} {method}".replace(",", "").replace(" ", "-")
                    draw(result, test.class_names, given.pictures / f"{stem}.png")
            print(markdown([(key, [each[key] for each in rows]) for key in rows[0]]))


if __name__ == "__main__":
    main()
