"""``captum-deduce explain``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import add_output
from captum_deduce.commands.parsers.subject import add_classifier, add_search, gathered

LINE = "explain images of your own"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Generate counterfactuals of images of your own: with the classifier and density
of a checkpoint that captum-deduce wrote, or with any of torchvision's
classifiers and a safetensors file of its weights (its state_dict, as
safetensors.torch.save_file writes it). The latter is explained with DeDUCE where
you give a --density, else with JSMA, which knows nothing of the training data.
Nothing is ever downloaded.

Images (PNG, JPEG, ...; 8 bits, grey ones also 16; of colours with 16 bits 8 are
read) are converted to grey or RGB, as the classifier takes them, upright as
their orientation tag says. Another size is refused unless you pass --resize; so
are transparent pixels, always. Writes to the --output folder, replacing files of
these names only:
  IMAGE-to-CLASS.png             the counterfactual in its own size, rounded to
                                 8 bits
  IMAGE-to-CLASS-comparison.png  original, counterfactual and change
  counterfactuals.safetensors    all of them unrounded, for Counterfactuals.load
The table says what the classifier sees in each image, whether a counterfactual
was found, and, of the PNG file as it was written, whether the image rounded to
8 bits still has its class; of colour images both the entries that changed (L0)
and the places. Where none was found it says FAILED, and the file
holds the best attempt; the exit status is 0 all the same. It is 2 for a mistake
in what was given.

Examples:
  captum-deduce explain --checkpoint mnist.safetensors --images a.png b.png --target 3
  captum-deduce explain --checkpoint cifar10.safetensors --images cat.png dog.png \\
      --target dog cat
  captum-deduce explain --checkpoint noise.safetensors --images a.png --target 3 \\
      --preset realistic
  captum-deduce explain --architecture torchvision:resnet18 \\
      --weights pets.safetensors --class-names pets.txt --mean 0.485 0.456 0.406 \\
      --std 0.229 0.224 0.225 --images cat.jpg --resize --target dog
"""
"""What it does, in its own help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    add_classifier(parser)
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="CLASS",
        help="the class to reach, by name or number: one for all images or one per image (default: "
        "the class that the classifier thinks second most likely)",
    )
    add_output(parser, "captum-deduce-explain")
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="an image: white where pixels may change"
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="scale images and mask to the classifier's size, whatever their proportions",
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="for dark on light where the classifier takes light on dark: exchange black and white "
        "on reading, and back on writing",
    )
    add_search(parser)


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.explain.run`.
    """
    from captum_deduce.commands import explain

    explain.run(**gathered(arguments))
