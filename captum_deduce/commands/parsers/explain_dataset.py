"""``captum-deduce explain-dataset``: its options and its help."""

from __future__ import annotations

import argparse
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT, add_output, whole
from captum_deduce.commands.parsers.subject import add_classifier, add_search, gathered

LINE = "explain every mistake, or every image, of a data set"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Generate counterfactuals for a whole data set, by default of every mistake, with
its label as the target: with the classifier and density of a checkpoint that
captum-deduce wrote, or with any of torchvision's classifiers and a safetensors
file of its weights (see captum-deduce explain --help).

--data is digits, mnist or cifar10 (its test images, unless --split says
otherwise), or a folder of images: in a folder for each class, named as the
classifier's classes, or all in one folder (then --only all, and --targets other
than label).

Writes to the --output folder:
  manifest.json                   how the run was made, and how far it has come
  shard-00000.parquet, ...        a row for each pair of image and target; each
                                  file holds --shard-size images of the data set
Files appear once they are complete. Whatever stops the command (Ctrl-C, a
closed terminal, a full disk, kill -9), the same command goes on where it
stopped; with other settings it refuses to, and names them. To leave it alone
overnight, start it with nohup or in tmux.

An image that can't be explained gets a row with the reason in the column
error. The exit status is 0 where all could be; 1 where some could not; 2 for a
mistake in what was given; 130 after Ctrl-C.

Examples:
  captum-deduce explain-dataset --checkpoint mnist.safetensors --data mnist
  captum-deduce explain-dataset --checkpoint mnist.safetensors --data mnist \\
      --only all --targets runner-up --preset closest --output runner-ups
  captum-deduce explain-dataset --architecture torchvision:resnet50 \\
      --weights resnet50.safetensors --mean 0.485 0.456 0.406 \\
      --std 0.229 0.224 0.225 --data val --resize --num-workers 4
  captum-deduce explain-dataset --checkpoint mnist.safetensors --data mnist \\
      --engine ray --workers 8
"""
"""What it does, in its own help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    add_classifier(parser)
    parser.add_argument("--data", required=True, metavar="NAME|DIR", help="the data set, see above")
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help=f"of digits, mnist or cifar10 {DEFAULT}",
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="the folder of MNIST's four IDX files or CIFAR-10's image archives (default: the "
        "environment variable CAPTUM_DEDUCE_DATA)",
    )
    parser.add_argument(
        "--only",
        choices=("errors", "all"),
        default="errors",
        help=f"which images: those that the classifier gets wrong, or all {DEFAULT}",
    )
    parser.add_argument(
        "--targets",
        choices=("label", "runner-up", "all"),
        default="label",
        help="the class to reach: the image's own, the likeliest beside the predicted one, or "
        f"every other class {DEFAULT}",
    )
    add_output(parser, "captum-deduce-dataset")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="delete the run that is in the output folder, and nothing else",
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="scale images to the classifier's size, whatever their proportions",
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="exchange black and white on reading",
    )
    parser.add_argument(
        "--shard-size",
        type=whole(1),
        default=1000,
        metavar="N",
        help=f"images of the data set in a file {DEFAULT}",
    )
    parser.add_argument(
        "--store-images",
        action="store_true",
        help="also store originals and counterfactuals as PNG, and the originals' numbers",
    )
    parser.add_argument(
        "--batch-size",
        type=whole(1),
        default=128,
        metavar="N",
        help=f"most pairs that the classifier sees at once {DEFAULT}",
    )
    parser.add_argument(
        "--num-workers",
        type=whole(0),
        default=0,
        metavar="N",
        help=f"processes that read images {DEFAULT}",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help=f"this process, or the workers of Ray {DEFAULT}",
    )
    parser.add_argument(
        "--workers",
        type=whole(1),
        default=2,
        metavar="N",
        help=f"with --engine ray: processes {DEFAULT}",
    )
    add_search(parser)


def run(**arguments: Any) -> int:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.explain_dataset.run`.

    Returns:
        int: The exit status.
    """
    from captum_deduce.commands import explain_dataset

    return explain_dataset.run(**gathered(arguments))
