"""``captum-deduce demo``: its options and its help."""

from __future__ import annotations

import argparse
from typing import Any

from captum_deduce.commands.parsers.options import (
    DEFAULT,
    add_output,
    add_training,
    per_dataset,
    whole,
)
from captum_deduce.zoo import RECIPES

LINE = "train, find mistakes, explain them"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Train a small SN-ResNet-18, fit the density of its features, find the test
images that it gets wrong, and generate for each the counterfactual of its true
class; for two right ones, of every other class.

The default data set, scikit-learn's digits, comes with the package; nothing is
ever downloaded. Prints a table and writes to the --output folder, replacing
files of these names only:
  mistakes.png                 the first ten mistakes: original, counterfactual
                               and change
  right-1.png, right-2.png     right images turned into every other class
  counterfactuals.safetensors  all of them, for Counterfactuals.load

With --compare, every explainer of this package (DeDUCE, JSMA, Schut, Wachter,
VLK, REVISE, CEM, LatentShift, PIECE, PatchSwap, NearestExample) explains these
same images instead, and a table says how many counterfactuals each finds, how
many entries they change (L0) and by how much (L1), and what they cost. Trains
what else they need: two plain ResNets that make an ensemble with the classifier
(Schut), an autoencoder (VLK) and a VAE (REVISE, LatentShift, PIECE). Writes:
  compare.png                  six of the images, a row per explainer, and what
                               each changed
  compare.md                   the table, and what its columns mean
  compare-NAME.safetensors     all that the explainer NAME found

Trained models are kept in ~/.cache/captum-deduce (or the folder that
CAPTUM_DEDUCE_CACHE names), a file for each choice of settings. The next run
with the same settings reuses them and says so.

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
    parser.add_argument("--dataset", choices=RECIPES, default="digits", help=DEFAULT)
    add_training(parser)
    most = per_dataset({name: recipe.images or "all" for name, recipe in RECIPES.items()})
    parser.add_argument(
        "--images",
        type=whole(0),
        metavar="N",
        help=f"most misclassified images to explain; with 0 there is no mistakes.png {most}",
    )
    add_output(parser, "captum-deduce-demo")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="explain with every explainer, and compare them",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="the smallest settings for all that isn't given: seconds, poor accuracy",
    )
    parser.add_argument(
        "--retrain", action="store_true", help="train even if a trained model is cached"
    )


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.demo.run`.
    """
    from captum_deduce.commands import demo

    demo.run(**arguments)
