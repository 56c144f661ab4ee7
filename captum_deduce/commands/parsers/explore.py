"""``captum-deduce explore``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT, add_computation, whole
from captum_deduce.commands.parsers.subject import add_classifier, gathered

LINE = "explain images one by one, on a page in the browser"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Open a page in the browser that explains images one by one. You choose an image
(mistakes come first) and a target class, and watch the image change. You can
compare explainers, paint where the image may change, upload your own images, and
keep pictures, results and the Python code that gives the same result. The page
needs gradio: pip install "captum-deduce[app]".

Without options, the command trains the demo's classifier of scikit-learn's digits
once, in seconds, and shows its test images. For a checkpoint of one of this
package's data sets it shows the test images of that data set. For any other
classifier, pass --images, or a --run of explain-dataset with --store-images.

The page loads nothing from other machines. Only this machine can reach it. With a
--host that others can reach, the command asks you to set a password, which
visitors have to enter. It can also be in the environment variable
CAPTUM_DEDUCE_PASSWORD.

Examples:
  captum-deduce explore
  captum-deduce explore --checkpoint mnist.safetensors --data-root ~/data
  captum-deduce explore --checkpoint mnist.safetensors --run mistakes
  captum-deduce explore --architecture torchvision:resnet18 \\
      --weights pets.safetensors --class-names pets.txt --mean 0.485 0.456 0.406 \\
      --std 0.229 0.224 0.225 --images photographs
"""
"""What it does, in its own help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    add_classifier(parser, required=False)
    parser.add_argument(
        "--images",
        type=Path,
        nargs="+",
        metavar="PATH",
        help="image files, or folders of them; a folder named like a class has images of it",
    )
    parser.add_argument(
        "--run",
        type=Path,
        dest="folder",
        metavar="FOLDER",
        help="a folder that explain-dataset wrote",
    )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="the folder of the checkpoint's data set (default: the environment variable "
        "CAPTUM_DEDUCE_DATA)",
    )
    parser.add_argument(
        "--oracle",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="checkpoints of other classifiers of the same classes; the page says what they see",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help=f"the address at which the page is served {DEFAULT}",
    )
    parser.add_argument(
        "--port",
        type=whole(1),
        metavar="N",
        help="the port of the page (default: the first free one from 7860 on)",
    )
    parser.add_argument(
        "--root-path", metavar="PATH", help="the part of the page's path that a proxy removes"
    )
    parser.add_argument(
        "--max-searches",
        type=whole(1),
        default=16,
        metavar="N",
        help="the largest number of searches at once, of all visitors; others wait for their turn "
        f"{DEFAULT}",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address without opening a browser"
    )
    add_computation(parser)


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.explore.run`.
    """
    from captum_deduce.commands import explore

    explore.run(**gathered(arguments))
