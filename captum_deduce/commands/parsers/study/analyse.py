"""``captum-deduce study analyse``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT, add_output, whole

LINE = "analyse people's answers"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Analyse the files of answers that people saved. For each method the tables show
  - the share of answers that name the target, with Wilson's intervals;
  - the share that takes its images for real, compared with that of the originals;
  - the strength of preferences by the model of Bradley and Terry, with intervals
    that come from resampling people.
They also show how far people agree (Krippendorff's alpha), and how many answers it
takes to see a difference of the size found. The command prints the tables and
writes them as text, Markdown, JSON and CSV, with a picture, study.png.

It needs the key that captum-deduce study make wrote beside the page, and
pip install "captum-deduce[study]".

Examples:
  captum-deduce study analyse answers-1.json answers-2.json answers-3.json
  captum-deduce study analyse answers-7.json --key pets.key.json --incomplete
"""
"""What it does, in its own help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    parser.add_argument(
        "answers", type=Path, nargs="+", metavar="ANSWERS", help="a file per person"
    )
    parser.add_argument(
        "--key",
        type=Path,
        default=Path("study.key.json"),
        metavar="FILE",
        help=f"the key of the study {DEFAULT}",
    )
    add_output(parser, "captum-deduce-study")
    parser.add_argument(
        "--incomplete",
        action="store_true",
        help="also use answers of people who did not get to the end",
    )
    parser.add_argument(
        "--resamples",
        type=whole(1),
        default=2000,
        metavar="N",
        help=f"how often people are resampled for the intervals of preferences {DEFAULT}",
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="S", help=f"seed of the resampling {DEFAULT}"
    )


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.study.analyse.run`.
    """
    from captum_deduce.commands.study import analyse

    analyse.run(**arguments)
