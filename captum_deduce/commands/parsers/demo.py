"""``captum-deduce demo``: its options and its help."""

from __future__ import annotations

import argparse
from typing import Any

from captum_deduce.commands.parsers.options import (
    DEFAULT,
    add_computation,
    add_output,
    add_training,
    per_dataset,
    whole,
)
from captum_deduce.zoo import RECIPES

LINE = "train, find mistakes, explain them"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Train a small SN-ResNet-18 (a ResNet-18 with spectral normalisation), fit the
density of its features, and find the test images that it gets wrong. Then
explain each of these with its true class as the target, and two images that it
gets right with every other class as the target.

The default data set, scikit-learn's digits, comes with the package. Nothing is
ever downloaded. The command prints a table and writes these files to the
--output folder. It replaces files of the same names, and no others:
  mistakes.png                 the first ten mistakes: original, counterfactual
                               and change
  right-1.png, right-2.png     right images turned into every other class
  counterfactuals.safetensors  all results, for Counterfactuals.load

With --compare, every explainer of this package (DeDUCE, JSMA, Schut, Wachter,
VLK, REVISE, CEM, LatentShift, PIECE, PatchSwap, NearestExample) explains these
same images instead. A table shows how many counterfactuals each one finds, how
many entries they change (L0) and by how much (L1), and what they cost. The other
models that the explainers need are trained first: two plain ResNets that form an
ensemble with the classifier (Schut), an autoencoder (VLK) and a VAE (REVISE,
LatentShift, PIECE). The command then writes:
  compare.png                  six of the images, with a row per explainer and
                               the changes
  compare.md                   the table, and what its columns mean
  compare-NAME.safetensors     all results of the explainer NAME

Trained models are kept in ~/.cache/captum-deduce (or the folder that
CAPTUM_DEDUCE_CACHE names), in one file for each choice of settings. The next run
with the same settings uses them again and says so.

Examples:
  captum-deduce demo
  captum-deduce demo --compare
  captum-deduce demo --dataset mnist --data-root ~/data --images 20
"""
"""What it does, in its own help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    parser.add_argument(
        "--dataset", choices=RECIPES, default="digits", help=f"the data set {DEFAULT}"
    )
    add_training(parser)
    most = per_dataset({name: recipe.images or "all" for name, recipe in RECIPES.items()})
    parser.add_argument(
        "--images",
        type=whole(0),
        metavar="N",
        help=f"the largest number of mistakes to explain; with 0 there is no mistakes.png {most}",
    )
    add_output(parser, "captum-deduce-demo")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="explain with every explainer and compare the results",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="use the smallest settings for all that isn't given: seconds, but poor accuracy",
    )
    parser.add_argument(
        "--retrain", action="store_true", help="train even if a trained model is cached"
    )
    add_computation(parser)


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.demo.run`.
    """
    from captum_deduce.commands import demo

    demo.run(**arguments)
