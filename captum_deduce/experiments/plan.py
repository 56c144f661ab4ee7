"""How large an experiment is: data, training, searches and scores of each size."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_deduce.datasets import ImageData
from captum_deduce.explainers import LEARNING_RATES
from captum_deduce.zoo import RECIPES, RECONSTRUCTIONS, Recipe, ReconstructionRecipe


@dataclass(frozen=True)
class OracleRecipe:
    """How the oracles are trained, small classifiers that differ in their seeds.

    Args:
        epochs (int): Of the training.
        batch_size (int): Of the training.
        learning_rate (float): The highest of the training.
        width (int): Channels of the first convolution.
        seeds (tuple[int, ...]): Of weights and training, one for each oracle; none is that of an
            explained classifier.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.03
    width: int = 16
    seeds: tuple[int, ...] = (101, 102)


@dataclass(frozen=True)
class Descent:
    """How REVISE descends.

    Args:
        optimizer (str): "sgd", as published, or "adam".
        learning_rate (float): Size of a step.
        max_iterations (int): Most steps of a pair.
    """

    optimizer: str
    learning_rate: float
    max_iterations: int

    @property
    def label(self) -> str:
        """The settings in words; those that are not the paper's are called reduced."""
        steps = f"{self.max_iterations:,} steps of {self.learning_rate:g}"
        return steps if self.optimizer == "sgd" else f"reduced: Adam, {steps}"


@dataclass(frozen=True)
class Scoring:
    """How AnoGAN scores.

    Args:
        optimizer (str): "sgd", as published, or "adam".
        steps (int or None): Of each start; None: the optimizer's default.
        candidates (int or None): Draws to choose the starts from; None: the optimizer's default.
        pairs (int or None): On how many of the pairs that enter the means; None: on all.
    """

    optimizer: str = "sgd"
    steps: int | None = None
    candidates: int | None = None
    pairs: int | None = None


@dataclass(frozen=True)
class Size:
    """All that is chosen for an experiment.

    Args:
        name (str): "smoke", "default" or "full".
        dataset (str): One of :data:`captum_deduce.datasets.DATASETS`.
        sets (int): How many sets of images; means are given with the deviation over their means.
        images (int): Images in each set; each is turned into every other class.
        classifier (Recipe): Of the classifiers with and without spectral normalisation.
        oracle (OracleRecipe): Of the oracles.
        autoencoder (ReconstructionRecipe): Of VLK's autoencoder.
        vae (ReconstructionRecipe): Of REVISE's VAE.
        wgan (ReconstructionRecipe): Of AnoGAN's GAN.
        vlk_steps (int): Of VLK, in each of its two rounds.
        revise (Descent): Of REVISE.
        revise_grid (tuple[Descent, ...]): What table 5 compares, in the place of the paper's steps
            of 1e-3, 1e-4 and 1e-5.
        anogan (Scoring): Of AnoGAN.
        timed_pairs (int): How many pairs table 2 times.
        seed (int): Of data split, weights, training, and what is drawn.
        noise (float): Of the training of the classifier whose counterfactuals are more real.
        noise_epochs (int): Of that training.
        smoothing (float): Noise over which that classifier is averaged, where it is.
        smoothing_copies (int): Of each image.
        cem_steps (int): Of CEM, in each of its nine rounds.
        grid (int): Rows and columns of an early layer's features, where a density has these, too.
        vgg_oracle (OracleRecipe): Of the frontier's oracles of another architecture.
        frontier_images (int): Originals of the frontier; each is turned into every other class.
        confidences (tuple[float, ...]): What the frontier asks of every method, ascending.
        costly_confidences (tuple[float, ...]): The same of methods that cost many times as much.
        distances (tuple[float, ...]): L1 at which the frontier's curves are compared.
    """

    name: str
    dataset: str
    sets: int
    images: int
    classifier: Recipe
    oracle: OracleRecipe
    autoencoder: ReconstructionRecipe
    vae: ReconstructionRecipe
    wgan: ReconstructionRecipe
    vlk_steps: int
    revise: Descent
    revise_grid: tuple[Descent, ...]
    anogan: Scoring
    timed_pairs: int
    seed: int = 0
    noise: float = 1.5
    noise_epochs: int = 7
    smoothing: float = 0.5
    smoothing_copies: int = 4
    cem_steps: int = 100
    grid: int = 4
    vgg_oracle: OracleRecipe = OracleRecipe(3, seeds=(201, 202))
    frontier_images: int = 30
    confidences: tuple[float, ...] = (0.5, 0.9, 0.98, 0.9985, 0.9999)
    costly_confidences: tuple[float, ...] = (0.5, 0.98)
    distances: tuple[float, ...] = (30.0, 35.0, 40.0, 45.0)

    def overridden(self, images: int | None = None, width: int | None = None) -> Size:
        """Return the size with some numbers replaced.

        Args:
            images (int, optional): Images in each set, and of the frontier. Default: None (they
                stay)
            width (int, optional): Channels of the classifiers' first stage. Default: None (they
                stay)

        Returns:
            Size: The new one.
        """
        return replace(
            self,
            images=self.images if images is None else images,
            frontier_images=self.frontier_images if images is None else images,
            classifier=self.classifier.overridden(width=width),
        )


def _adam(rates: tuple[float, ...], steps: int) -> tuple[Descent, ...]:
    return tuple(Descent("adam", rate, steps) for rate in rates)


_RATES = (0.2, LEARNING_RATES["adam"], 0.0125)
_BRIEFLY = ReconstructionRecipe(20, batch_size=64, learning_rate=3e-3, threads=1)

SMOKE = Size(
    name="smoke",
    dataset="digits",
    sets=2,
    images=1,
    classifier=Recipe(width=4, epochs=8, batch_size=64, images=None, threads=1),
    oracle=OracleRecipe(20, batch_size=64, learning_rate=0.05),
    autoencoder=_BRIEFLY,
    vae=_BRIEFLY,
    wgan=ReconstructionRecipe(3, batch_size=64, threads=1),
    vlk_steps=100,
    revise=Descent("adam", LEARNING_RATES["adam"], 100),
    revise_grid=_adam(_RATES, 40),
    anogan=Scoring("adam", steps=10, candidates=20, pairs=3),
    timed_pairs=2,
    noise=0.5,
    noise_epochs=8,
    smoothing=0.25,
    cem_steps=10,
    grid=2,
    vgg_oracle=OracleRecipe(20, batch_size=64, learning_rate=0.05, seeds=(201, 202)),
    frontier_images=2,
    confidences=(0.5, 0.98),
    costly_confidences=(0.5, 0.98),
    distances=(3.0, 4.0, 6.0),
)
"""Seconds on one core: that everything runs, no more."""

DEFAULT = Size(
    name="default",
    dataset="mnist",
    sets=1,
    images=10,
    classifier=RECIPES["mnist"],
    oracle=OracleRecipe(3),
    autoencoder=RECONSTRUCTIONS["autoencoder"]["mnist"],
    vae=replace(RECONSTRUCTIONS["vae"]["mnist"], epochs=4),
    wgan=replace(RECONSTRUCTIONS["wgan"]["mnist"], epochs=3),
    vlk_steps=1000,
    revise=Descent("adam", LEARNING_RATES["adam"], 2000),
    revise_grid=_adam(_RATES, 2000),
    anogan=Scoring("adam", pairs=40),
    timed_pairs=10,
)
"""For two CPU cores."""

FULL = Size(
    name="full",
    dataset="mnist",
    sets=5,
    images=100,
    classifier=Recipe(width=64, epochs=50, batch_size=128, images=None),
    oracle=OracleRecipe(10),
    autoencoder=RECONSTRUCTIONS["autoencoder"]["mnist"],
    vae=replace(RECONSTRUCTIONS["vae"]["mnist"], epochs=50),
    wgan=replace(RECONSTRUCTIONS["wgan"]["mnist"], epochs=50),
    vlk_steps=1000,
    revise=Descent("sgd", 1e-5, 50_000),
    revise_grid=(
        Descent("sgd", 1e-3, 5_000),
        Descent("sgd", 1e-4, 10_000),
        Descent("sgd", 1e-5, 50_000),
    ),
    anogan=Scoring(),
    timed_pairs=100,
    noise_epochs=50,
    vgg_oracle=OracleRecipe(10, seeds=(201, 202)),
    frontier_images=100,
)
"""The paper's numbers; needs a GPU."""

SIZES = {size.name: size for size in (SMOKE, DEFAULT, FULL)}
"""By name."""


@dataclass(frozen=True)
class Cases:
    """Which images are to be turned into which classes.

    Args:
        inputs (Tensor): N x channels x height x width.
        labels (Tensor): True class of each, N.
        target (Tensor): The class to turn it into, N.
        sets (Tensor or None): Number of the set of each, N; None where there is only one set.
    """

    inputs: Tensor
    labels: Tensor
    target: Tensor
    sets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: Tensor | slice) -> Cases:
        return Cases(
            self.inputs[index],
            self.labels[index],
            self.target[index],
            None if self.sets is None else self.sets[index],
        )


def every_target(data: ImageData, sets: int, images: int) -> Cases:
    """Turn the first images, in sets that follow one another, into every class but their own.

    Args:
        data (ImageData): Where they are taken from.
        sets (int): How many sets.
        images (int): Images in each.

    Returns:
        Cases: By image, then by class.

    Raises:
        ValueError: The data hold fewer images.
    """
    if sets * images > len(data):
        raise ValueError(
            f"--images must be at most {len(data) // sets}, as {sets} set(s) are taken from "
            f"{len(data):,} images, got {images}"
        )
    count, classes = sets * images, len(data.class_names)
    labels = data.target[:count].repeat_interleave(classes)
    targets = torch.arange(classes).repeat(count)
    asked = targets != labels
    index = torch.arange(count).repeat_interleave(classes)[asked]
    numbers = index // images if sets > 1 else None
    return Cases(data.images[index], labels[asked], targets[asked], numbers)


def first_of_their_classes(data: ImageData, pairs: tuple[tuple[int, int], ...]) -> Cases:
    """Find images of given classes: for each pair the first one that no pair before it has taken.

    Args:
        data (ImageData): Where they are taken from.
        pairs (tuple[tuple[int, int], ...]): Class and target of each.

    Returns:
        Cases: In the order of the pairs.
    """
    places = {label: iter((data.target == label).nonzero().flatten()) for label, _ in pairs}
    index = torch.stack([next(places[label]) for label, _ in pairs])
    return Cases(data.images[index], data.target[index], torch.tensor([goal for _, goal in pairs]))


def drawn_at_random(data: ImageData, count: int, seed: int) -> Cases:
    """Draw different images, and for each a class other than its own.

    Args:
        data (ImageData): Where they are drawn from.
        count (int): How many.
        seed (int): Of the draw.

    Returns:
        Cases: In the order drawn.
    """
    source = torch.Generator().manual_seed(seed)
    index = torch.randperm(len(data), generator=source)[:count]
    classes, labels = len(data.class_names), data.target[index]
    shift = torch.randint(1, classes, (count,), generator=source)
    return Cases(data.images[index], labels, (labels + shift) % classes)
