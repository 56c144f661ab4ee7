"""``captum-deduce report``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT

LINE = "make a page about a run over a data set"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Write the results of a run over a whole data set to one HTML file, which needs no
network. It shows the cost of the model's mistakes for each pair of classes, a
list of all pairs with filters and pictures, the mean change that the model needs,
and the places where changes gather. The run need not have ended. To see images
and counterfactuals, run captum-deduce explain-dataset with --store-images.

Examples:
  captum-deduce report mistakes
  captum-deduce report mistakes --output monday.html --class-names pets.txt
"""
"""What it does, in its own help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="a folder that captum-deduce explain-dataset wrote",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help=f"the page to write {DEFAULT}",
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a file with a class name in each line, or JSON with a list or with names by index "
        "(default: the run's own names, or else numbers)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it exists")


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.report.run`.
    """
    from captum_deduce.commands import report

    report.run(**arguments)
