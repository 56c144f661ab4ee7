"""``captum-deduce train``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import add_computation, add_training, per_dataset
from captum_deduce.zoo import RECIPES, RECONSTRUCTIONS

LINE = "train a classifier or a model of images"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Train a classifier, fit the density of its features, and write both with their
settings to one safetensors file. This file is the checkpoint that captum-deduce
explain takes. If the training is interrupted, the same command continues after
the last complete epoch. With --model, train another model for use from Python:
an autoencoder for the explainer VLK, a VAE for REVISE, LatentShift and PIECE, or
a Wasserstein GAN for the metric AnoGAN.

Examples:
  captum-deduce train --dataset mnist --data-root ~/data --output mnist.safetensors
  captum-deduce train --dataset mnist --data-root ~/data --noise 1.5 --epochs 7
  captum-deduce train --dataset cifar10 --data-root ~/data --epochs 30 \\
    --augment --adversarial 0.5
  captum-deduce train --dataset digits --model autoencoder
  captum-deduce train --dataset mnist --data-root ~/data --model wgan
"""
"""What it does, in its own help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    parser.add_argument(
        "--dataset", choices=RECIPES, required=True, help="the data set to train on"
    )
    add_training(parser)
    others = {
        model: per_dataset({name: recipe.epochs for name, recipe in recipes.items()})
        for model, recipes in RECONSTRUCTIONS.items()
    }
    parser.add_argument(
        "--model",
        choices=("classifier", *RECONSTRUCTIONS),
        default="classifier",
        help="the model to train (default: %(default)s). Number of epochs of an autoencoder "
        "{autoencoder}, of a VAE {vae}, of a GAN {wgan}".format(**others),
    )
    parser.add_argument(
        "--augment",
        action="store_true",
        help="train a classifier on random crops, shifted by up to an eighth of the side, and for "
        "CIFAR-10 also on mirrored images",
    )
    parser.add_argument(
        "--noise",
        type=float,
        metavar="S",
        help="train a classifier on images with Gaussian noise, whose standard deviation is drawn "
        "from 0 to S for each image; 1.5 suits MNIST. Other models then see the target class in "
        "far more of its counterfactuals (default: no noise)",
    )
    parser.add_argument(
        "--adversarial",
        type=float,
        metavar="RADIUS",
        help="train a classifier on adversarial images: each image is moved along the gradient of "
        "its loss by an L2 length drawn from 0 to RADIUS. An epoch takes up to twice as long "
        "(default: none)",
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="train a classifier in bfloat16 where that is safe; about twice as fast on processors "
        "and GPUs that compute in it",
    )
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        help="the network of a classifier: sn_resnet18 or sn_resnet50, or without spectral "
        "normalisation resnet18 or resnet50 (default: sn_resnet18)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write (default: DATASET-NAME.safetensors in the current folder, with the "
        "name of the architecture or the model)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the checkpoint if it exists"
    )
    add_computation(parser)


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.train.run`.
    """
    from captum_deduce.commands import train

    train.run(**arguments)
