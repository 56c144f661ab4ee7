"""``captum-deduce explore``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT, whole
from captum_deduce.commands.parsers.subject import add_classifier, gathered

LINE = "explain images one by one, on a page in the browser"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Open a page in the browser: choose an image, mistakes first, and the class that
it should be seen as; watch it change; compare explainers; paint where it may
change; upload an image of your own; keep pictures, results and the lines of
Python that make the same. Needs gradio: pip install "captum-deduce[app]".

Without options, it trains the demo's classifier of scikit-learn's digits, once
and in seconds, and shows its test images. A checkpoint of a data set of this
package shows the test images of that; any other classifier shows the --images,
or the images of a --run, which explain-dataset kept with --store-images.

The page loads nothing from anywhere else. Only this machine can reach it; with a
--host that others can reach, a password is asked for, here and on the page (or
is read from the environment variable CAPTUM_DEDUCE_PASSWORD).

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
        help="image files, or folders of them; in a folder that is called as a class all are of it",
    )
    parser.add_argument(
        "--run", type=Path, dest="folder", metavar="FOLDER", help="that explain-dataset wrote"
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
        help="checkpoints of other classifiers of the same classes: what they see is compared",
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=DEFAULT)
    parser.add_argument(
        "--port", type=whole(1), metavar="N", help="(default: the first free one from 7860 on)"
    )
    parser.add_argument(
        "--root-path", metavar="PATH", help="of the page, behind a proxy that leaves it out"
    )
    parser.add_argument(
        "--max-searches",
        type=whole(1),
        default=16,
        metavar="N",
        help=f"of all visitors, at once; others wait for their turn {DEFAULT}",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="only print the address, open no browser"
    )


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.explore.run`.
    """
    from captum_deduce.commands import explore

    explore.run(**gathered(arguments))
