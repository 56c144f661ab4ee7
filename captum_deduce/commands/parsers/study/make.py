"""``captum-deduce study make``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT, whole

LINE = "make a page with questions for people"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Make one HTML page that shows people counterfactuals by several methods, in random
order and without naming the methods. It asks three questions: Which class is it?
Is it a real picture (half of those shown are originals)? Which of two versions
explains better? Times are kept with the answers. The page needs no server and no
network, so you can send it to people or put it on a tablet. Answers stay in the
browser, even if the page is reloaded. At the end each person saves them to a JSON
file.

Give people the numbers 1, 2, 3, ... Each of them then gets the next part of the
plan, so that all pictures are seen equally often. Nobody sees an original twice in
a task.

The command writes two files. The page names no method. The key beside it says what
each picture is. Keep the key, because captum-deduce study analyse needs it, and do
not hand it out.

RESULTS are files that Counterfactuals.save wrote (NAME.safetensors), or folders of
captum-deduce explain-dataset with --store-images, all with the same images and
targets. The page shows pairs for which every method was successful; failures are
left out and counted.

Examples:
  captum-deduce study make deduce.safetensors jsma.safetensors --consent consent.txt
  captum-deduce study make runs/a runs/b --names DeDUCE JSMA --output pets.html \\
    --class-names pets.txt --pairs 30 --tasks name prefer
  captum-deduce study make a.safetensors b.safetensors \\
    --mean 0.485 0.456 0.406 --std 0.229 0.224 0.225
"""
"""What it does, in its own help."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    parser.add_argument(
        "results", type=Path, nargs="+", metavar="RESULTS", help="one for each method"
    )
    parser.add_argument(
        "--names",
        nargs="+",
        metavar="NAME",
        help="names of the methods (default: those of the files)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("study.html"),
        metavar="FILE",
        help=f"the page to write {DEFAULT}",
    )
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="the key to write (default: a file beside the page, such as study.key.json)",
    )
    parser.add_argument(
        "--pairs",
        type=whole(1),
        default=20,
        metavar="N",
        help=f"the largest number of originals to show {DEFAULT}",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=("name", "real", "prefer"),
        default=["name", "real", "prefer"],
        help="the questions to ask (default: all three)",
    )
    parser.add_argument(
        "--trials",
        type=whole(1),
        metavar="N",
        help="the largest number of questions in a task for each person (default: that of --pairs)",
    )
    parser.add_argument(
        "--title", metavar="TEXT", help="title of the page (default: a neutral one)"
    )
    parser.add_argument(
        "--consent",
        type=Path,
        metavar="FILE",
        help="the text that people agree to, with empty lines between paragraphs (default: a few "
        "words about what happens to the answers; your review board will want more)",
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a file with a class name in each line, or JSON with a list or with names by index "
        "(default: the names of a run, or else numbers)",
    )
    for option, said in (("mean", "mean"), ("std", "standard deviation")):
        parser.add_argument(
            f"--{option}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"the {said} with which the inputs were normalised, as one number or one per "
            "channel (default: by the bounds of a run, or else no normalisation)",
        )
    parser.add_argument(
        "--seed",
        type=whole(0),
        default=0,
        metavar="S",
        help=f"seed of the pairs and their order {DEFAULT}",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace page and key if they exist"
    )


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.study.make.run`.
    """
    from captum_deduce.commands.study import make

    make.run(**arguments)
