"""``captum-deduce explain-dataset``: its options and its help."""

from __future__ import annotations

import argparse
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT, add_computation, add_output, whole
from captum_deduce.commands.parsers.subject import add_classifier, add_search, gathered

LINE = "explain every mistake, or every image, of a data set"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Explain a whole data set. By default each image that the classifier gets wrong is
explained with its label as the target. The classifier comes with its density from
a checkpoint that captum-deduce wrote, or it is one of torchvision's classifiers,
with a safetensors file of its weights (see captum-deduce explain --help).

--data is digits, mnist or cifar10 (the test images, unless --split says
otherwise), or a folder of images. The folder has a subfolder for each class,
named like the classifier's classes, or all images directly (then pass --only all,
and --targets other than label).

The command writes to the --output folder:
  manifest.json                   how the run was made, and how far it got
  shard-00000.parquet, ...        a row for each pair of image and target; each
                                  file holds --shard-size images of the data set
A file appears when it is complete. If the command is stopped (by Ctrl-C, a
closed terminal, a full disk or kill -9), repeat it to continue the run. With
other settings it refuses to continue and names the settings that differ. To keep
a run going after you log out, start it with nohup or in tmux.

An image that can't be explained gets a row with the reason in the column
error. The exit status is 0 if all images could be explained, 1 if some could not,
2 if an argument is wrong, and 130 after Ctrl-C.

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
    parser.add_argument(
        "--data", required=True, metavar="NAME|DIR", help="the data set (see above)"
    )
    parser.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help=f"the part of digits, mnist or cifar10 {DEFAULT}",
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
        help=f"the images to explain: those that the classifier gets wrong, or all {DEFAULT}",
    )
    parser.add_argument(
        "--targets",
        choices=("label", "runner-up", "all"),
        default="label",
        help="the class to reach: that of the label, the second most likely one, or every class "
        f"but the predicted one {DEFAULT}",
    )
    add_output(parser, "captum-deduce-dataset")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="first delete the run in the output folder, and nothing else there",
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="scale images to the classifier's size, even if that distorts them",
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="exchange black and white when images are read",
    )
    parser.add_argument(
        "--shard-size",
        type=whole(1),
        default=1000,
        metavar="N",
        help=f"number of images of the data set in each file {DEFAULT}",
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
        help=f"the largest number of pairs that the classifier sees at once {DEFAULT}",
    )
    parser.add_argument(
        "--num-workers",
        type=whole(0),
        default=0,
        metavar="N",
        help=f"number of processes that read images {DEFAULT}",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help=f"search in this process or in workers of Ray {DEFAULT}",
    )
    parser.add_argument(
        "--workers",
        type=whole(1),
        default=2,
        metavar="N",
        help=f"number of processes with --engine ray {DEFAULT}",
    )
    add_search(parser)
    add_computation(parser)


def run(**arguments: Any) -> int:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.explain_dataset.run`.

    Returns:
        int: The exit status.
    """
    from captum_deduce.commands import explain_dataset

    return explain_dataset.run(**gathered(arguments))
