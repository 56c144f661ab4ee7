"""Options that say which classifier is explained, and how its searches go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import whole

_OF_TORCHVISION = (
    "weights",
    "architecture",
    "class_names",
    "num_classes",
    "mean",
    "std",
    "size",
    "density",
    "layer",
)

_PRESETS = ("closest", "sparsest", "realistic", "paper")


def add_classifier(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Add what names the classifier: a checkpoint, or a file of weights and what they are.

    Args:
        parser (argparse.ArgumentParser): Of the command.
        required (bool, optional): Whether one has to be named. Default: True
    """
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="as captum-deduce train writes it"
    )
    source.add_argument(
        "--weights", type=Path, metavar="FILE", help="of the torchvision classifier, see below"
    )
    _add_torchvision(parser)


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add settings of the explainer; only those that are given are passed on.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    search = parser.add_argument_group("search")
    search.add_argument(
        "--preset",
        choices=_PRESETS,
        help="settings by purpose: closest looks for the fewest changes; realistic, best with a "
        "classifier that was trained with --noise, for images that others see as the target, too; "
        "paper is the algorithm to the letter. The options below win over the preset's (default: "
        "none)",
    )
    for name, kind, default, what in (
        ("confidence", float, 0.5, "the target's probability to exceed"),
        ("step-size", float, 0.2, "how far a pixel moves in a step"),
        ("max-changes", int, 5, "most changes of one pixel; with JSMA as many as it takes"),
        ("pixels-per-step", int, 1, "pixels that move together"),
        ("max-iterations", int, 700, "most steps of an image"),
    ):
        search.add_argument(
            f"--{name}",
            type=kind,
            default=argparse.SUPPRESS,
            metavar="X",
            help=f"{what} (default: {default})",
        )
    search.add_argument(
        "--pixel",
        choices=("entry", "site", "patch"),
        default=argparse.SUPPRESS,
        help="what moves: one channel of a pixel, all of them, or a square of pixels (default: "
        "site for colour images, entry with --preset paper)",
    )
    search.add_argument(
        "--patch-size",
        type=whole(1),
        default=argparse.SUPPRESS,
        metavar="S",
        help="with --pixel patch: squares of S x S pixels (default: 8)",
    )


def gathered(arguments: dict[str, Any]) -> dict[str, Any]:
    """Put what was said of a torchvision classifier into one argument.

    Args:
        arguments (dict[str, Any]): Of the command line.

    Returns:
        dict[str, Any]: The others, and these under ``torchvision``, as far as they were given.
    """
    said = {name: arguments[name] for name in _OF_TORCHVISION}
    others = {name: value for name, value in arguments.items() if name not in said}
    return {**others, "torchvision": {k: v for k, v in said.items() if v is not None}}


def _add_torchvision(parser: argparse.ArgumentParser) -> None:
    """Add what is said of --weights."""
    own = parser.add_argument_group("a torchvision classifier")
    own.add_argument(
        "--architecture", metavar="torchvision:NAME", help="which it is, as torchvision names it"
    )
    own.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a name in each line, or JSON: a list, or names by index (default: numbers)",
    )
    own.add_argument(
        "--num-classes", type=whole(2), metavar="C", help="(default: as many as names, or 1000)"
    )
    for moment, said in (("mean", "mean"), ("std", "standard deviation")):
        own.add_argument(
            f"--{moment}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"the {said} with which its images were normalised: a number, or one each for "
            "red, green and blue; must be given",
        )
    own.add_argument(
        "--size", type=whole(1), metavar="S", help="it takes images of S x S pixels (default: 224)"
    )
    own.add_argument(
        "--density",
        type=Path,
        metavar="FILE",
        help="of its features, as ClassGaussianMixture.save writes it (default: none, and JSMA)",
    )
    own.add_argument(
        "--layer", metavar="NAME", help="the layer of these features (default: avgpool)"
    )
