"""How the command line trains its models, by data set; imported to print ``--help``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """Settings that suit a data set on two CPU cores.

    Args:
        width (int): Channels of the ResNet's first stage.
        epochs (int): Of the training.
        batch_size (int): Of the training.
        images (int or None): How many misclassified test images the demo explains at most; None:
            all.
        right_images (int): How many test images that the model gets right it explains.
        threads (int or None): How many CPU threads torch may use; None: as many as it likes.
            Threads that share the work of tiny models wait for one another more than they gain,
            and on a busy machine far more.
        flips (bool): Whether an image that is mirrored is still one of its class, so that
            augmentation may do so.
    """

    width: int
    epochs: int
    batch_size: int
    images: int | None
    right_images: int = 2
    threads: int | None = None
    flips: bool = False

    def overridden(self, **given: Any) -> Recipe:
        """Return the recipe with some settings replaced.

        Args:
            **given (Any): Settings; those that are None stay as they are.

        Returns:
            Recipe: The new one.
        """
        return replace(self, **{name: value for name, value in given.items() if value is not None})


RECIPES = {
    "digits": Recipe(width=8, epochs=12, batch_size=64, images=None, threads=1),
    "mnist": Recipe(width=16, epochs=3, batch_size=128, images=10),
    "cifar10": Recipe(width=16, epochs=10, batch_size=128, images=10, flips=True),
}
"""By the names of :data:`captum_deduce.datasets.DATASETS`."""


@dataclass(frozen=True)
class ReconstructionRecipe:
    """How a model that reconstructs or draws images is trained.

    Args:
        epochs (int): Of the training.
        batch_size (int): Of the training.
        learning_rate (float): Of the training.
        threads (int or None): As in :class:`Recipe`.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    threads: int | None = None


RECONSTRUCTIONS = {
    "autoencoder": {
        "digits": ReconstructionRecipe(80, batch_size=64, learning_rate=3e-3, threads=1),
        "mnist": ReconstructionRecipe(4),
        "cifar10": ReconstructionRecipe(10),
    },
    "vae": {
        "digits": ReconstructionRecipe(100, batch_size=64, learning_rate=3e-3, threads=1),
        "mnist": ReconstructionRecipe(10),
        "cifar10": ReconstructionRecipe(20),
    },
    "wgan": {
        "digits": ReconstructionRecipe(100, batch_size=64, learning_rate=1e-3, threads=1),
        "mnist": ReconstructionRecipe(15, batch_size=64, learning_rate=5e-4),
        "cifar10": ReconstructionRecipe(30, batch_size=64, learning_rate=5e-4),
    },
}
"""By model, then by data set."""


@dataclass(frozen=True)
class ComparisonRecipe:
    """What ``demo --compare`` trains and searches besides the classifier that it explains.

    Args:
        other_members (int): Plain ResNets beside that classifier in Schut's ensemble.
        vlk_steps (int): Of VLK, in each of its rounds.
        revise_steps (int): Most of REVISE, with Adam.
        cem_steps (int): Of CEM, in each of its rounds.
        piece_steps (int): Of PIECE.
        reconstructions (ReconstructionRecipe or None): Of autoencoder and VAE; None: those of
            :data:`RECONSTRUCTIONS`.
    """

    other_members: int = 2
    vlk_steps: int = 1000
    revise_steps: int = 500
    cem_steps: int = 100
    piece_steps: int = 300
    reconstructions: ReconstructionRecipe | None = None


COMPARISON = ComparisonRecipe()
"""What ``demo --compare`` does unless told otherwise."""

SMOKE_COMPARISON = ComparisonRecipe(
    other_members=1,
    vlk_steps=20,
    revise_steps=20,
    cem_steps=10,
    piece_steps=20,
    reconstructions=ReconstructionRecipe(3, batch_size=64, learning_rate=3e-3, threads=1),
)
"""For :data:`SMOKE`."""

SMOKE = Recipe(width=4, epochs=5, batch_size=64, images=3, right_images=1, threads=1)
"""The smallest settings with which a classifier still learns something."""

SMOKE_TRAINING_IMAGES = 1000
"""How many training images :data:`SMOKE` is for."""
