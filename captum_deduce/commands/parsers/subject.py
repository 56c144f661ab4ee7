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
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="a classifier with its density, as captum-deduce train writes it",
    )
    source.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="the weights of a torchvision classifier (see below)",
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
        help="settings by purpose: closest looks for few and small changes, sparsest for changes "
        "in few places, and realistic for images in which other classifiers see the target as well "
        "(best on a classifier trained with --noise); paper is exactly the paper's algorithm. "
        "The options below override those of the preset (default: none)",
    )
    for name, kind, default, what in (
        ("confidence", float, 0.5, "the probability that the target has to exceed"),
        ("step-size", float, 0.2, "how far a pixel moves in a step"),
        ("max-changes", int, 5, "how often a pixel may move; JSMA has no limit by default"),
        ("pixels-per-step", int, 1, "number of pixels that move in a step"),
        ("max-iterations", int, 700, "the largest number of steps for an image"),
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
        help="the unit that moves: one channel of a pixel, all its channels, or a square of pixels "
        "(default: site for colour images, entry with --preset paper)",
    )
    search.add_argument(
        "--patch-size",
        type=whole(1),
        default=argparse.SUPPRESS,
        metavar="S",
        help="the side of the squares with --pixel patch, in pixels (default: 8)",
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
    own.add_argument("--architecture", metavar="torchvision:NAME", help="its name in torchvision")
    own.add_argument(
        "--class-names",
        type=Path,
        metavar="FILE",
        help="a file with a class name in each line, or JSON with a list or with names by index "
        "(default: numbers)",
    )
    own.add_argument(
        "--num-classes",
        type=whole(2),
        metavar="C",
        help="the number of classes (default: as many as there are names, or 1000)",
    )
    for moment, said in (("mean", "mean"), ("std", "standard deviation")):
        own.add_argument(
            f"--{moment}",
            type=float,
            nargs="+",
            metavar="X",
            help=f"the {said} with which its images were normalised, as one number or one each "
            "for red, green and blue; required",
        )
    own.add_argument(
        "--size",
        type=whole(1),
        metavar="S",
        help="the side of the images that it takes, in pixels (default: 224)",
    )
    own.add_argument(
        "--density",
        type=Path,
        metavar="FILE",
        help="the density of its features, as ClassGaussianMixture.save writes it (default: none, "
        "and JSMA explains the classifier)",
    )
    own.add_argument(
        "--layer", metavar="NAME", help="the layer of these features (default: avgpool)"
    )
