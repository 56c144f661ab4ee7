"""``captum-deduce study make``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import DEFAULT, whole

LINE = "make a page that asks people"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Make one HTML page that shows people counterfactuals of several methods, in
random order and without a word of the method, and asks: which class is it; is it
a real picture (half of those shown are originals); which of two versions explains
better. Times are kept with the answers. The page needs no server and no network:
send it, or put it on a tablet. Answers stay in the browser, survive a reload, and
are saved as a JSON file per person.

Give people the numbers 1, 2, 3, ...: each then gets the next part of the plan, so
that all pictures are seen equally often. Nobody sees an original twice in a task.

Two files are written. The page names no method. The key beside it says what each
picture is: keep it, captum-deduce study analyse needs it, and do not hand it out.

RESULTS are what Counterfactuals.save wrote (NAME.safetensors), or folders of
captum-deduce explain-dataset with --store-images, all of the same images and
targets. Shown are pairs for which every method was successful; failures are left
out and counted.

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
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULTS", help="one per method")
    parser.add_argument(
        "--names", nargs="+", metavar="NAME", help="of the methods (default: those of the files)"
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
        help="the key to write (default: beside the page, study.key.json of study.html)",
    )
    parser.add_argument(
        "--pairs",
        type=whole(1),
        default=20,
        metavar="N",
        help=f"how many originals are shown, at most {DEFAULT}",
    )
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=("name", "real", "prefer"),
        default=["name", "real", "prefer"],
        help="what is asked (default: all three)",
    )
    parser.add_argument(
        "--trials",
        type=whole(1),
        metavar="N",
        help="how much of each task a person is asked, at most (default: as many as --pairs)",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page (default: a neutral one)")
    parser.add_argument(
        "--consent",
        type=Path,
        metavar="FILE",
        help="the text that people agree to, paragraphs apart by an empty line (default: a few "
        "words on what becomes of the answers; your review board will want more)",
    )
    parser.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a name in each line, or JSON: a list, or names by index (default: a run's own, else "
        "numbers)",
    )
    for option in ("mean", "std"):
        parser.add_argument(
            f"--{option}",
            type=float,
            nargs="+",
            metavar="X",
            help="with which the inputs were normalised, one number or one per channel (default: "
            "the bounds of a run, else they were not)",
        )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="S", help=f"of pairs and orders {DEFAULT}"
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
