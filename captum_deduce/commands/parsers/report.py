"""``captum-deduce report``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT

LINE = "show what a run over a data set tells about the model"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Write what a run over a whole data set found as one HTML file, which needs
nothing from outside: what the model's mistakes cost by classes, each of them
with filters and pictures, what the model misses on average, and places in which
changes gather. The run may still be going on. For pictures of images and
counterfactuals the run has to store them: captum-deduce explain-dataset with
--store-images.

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
        help="that captum-deduce explain-dataset wrote",
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
        help="a name in each line, or JSON: a list, or names by index (default: the run's own, "
        "else numbers)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the page if it exists")


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.report.run`.
    """
    from captum_deduce.commands import report

    report.run(**arguments)
