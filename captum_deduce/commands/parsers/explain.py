"""``captum-deduce explain``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import add_computation, add_output
from captum_deduce.commands.parsers.subject import add_classifier, add_search, gathered

LINE = "explain images of your own"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Find counterfactuals of your own images. The classifier comes with its density
from a checkpoint that captum-deduce wrote, or it is one of torchvision's
classifiers, with a safetensors file of its weights (its state_dict, as
safetensors.torch.save_file writes it). A torchvision classifier is explained with
DeDUCE if you pass a --density, and otherwise with JSMA, which uses no training
data. Nothing is ever downloaded.

Images may be PNG, JPEG and so on, with 8 bits (or 16 bits if they are grey; of
colours with 16 bits only 8 are read). They are converted to grey or RGB for the
classifier and rotated as their orientation tag says. Images of another size are
refused unless you pass --resize. Images with transparent pixels are always
refused. The command writes these files to the --output folder. It replaces files
of the same names, and no others:
  IMAGE-to-CLASS.png             the counterfactual in its own size, rounded to
                                 8 bits
  IMAGE-to-CLASS-comparison.png  original, counterfactual and change
  counterfactuals.safetensors    all results unrounded, for Counterfactuals.load
The table shows which class the classifier sees in each image, whether a
counterfactual was found, and whether the PNG file, which is rounded to 8 bits,
is still in the target class. For colour images it counts both the entries that
changed (L0) and the places. If no counterfactual was found, the table says
FAILED, the file has the best attempt, and the exit status is 0 nevertheless. The
exit status is 2 if an argument is wrong.

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
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help="the image files to explain",
    )
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="CLASS",
        help="the class to reach, by name or number: one for all images or one per image (default: "
        "the class that the classifier finds second most likely)",
    )
    add_output(parser, "captum-deduce-explain")
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="an image that is white where pixels may change"
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="scale images and mask to the classifier's size, even if that distorts them",
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="exchange black and white when images are read, and back when they are written; for "
        "dark digits on light paper if the classifier takes light ones on dark",
    )
    add_search(parser)
    add_computation(parser)


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.explain.run`.
    """
    from captum_deduce.commands import explain

    explain.run(**gathered(arguments))
