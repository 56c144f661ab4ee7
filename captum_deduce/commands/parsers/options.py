"""Options that several commands share, and readers of their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from captum_deduce.zoo import RECIPES

DEFAULT = "(default: %(default)s)"
"""In a help text: argparse writes the default in its place."""


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add what a training takes: data, width, epochs, seed.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="the folder of MNIST's four IDX files or CIFAR-10's image archives "
        "(default: the environment variable CAPTUM_DEDUCE_DATA)",
    )
    for option, what in (
        ("width", "number of channels of the ResNet's first stage"),
        ("epochs", "number of epochs of the training"),
    ):
        defaults = {name: getattr(recipe, option) for name, recipe in RECIPES.items()}
        parser.add_argument(
            f"--{option}", type=whole(1), metavar="N", help=f"{what} {per_dataset(defaults)}"
        )
    parser.add_argument(
        "--seed",
        type=whole(0),
        default=0,
        metavar="S",
        help=f"seed of the data split, the weights and the training {DEFAULT}",
    )


def add_computation(parser: argparse.ArgumentParser) -> None:
    """Add where to compute, and whether to show how far it is.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    parser.add_argument(
        "--device",
        help="the device to compute on, as torch names it (default: cuda if there is a GPU, or "
        "else cpu)",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="draw no progress bars (there are none if stderr is not a terminal)",
    )


def add_output(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the folder to write to.

    Args:
        parser (argparse.ArgumentParser): Of the command.
        folder (str): Its default.
    """
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(folder),
        metavar="DIR",
        help=f"the folder to write to {DEFAULT}",
    )


def per_dataset(defaults: dict[str, Any]) -> str:
    """Write defaults that differ between data sets, for a help text.

    Args:
        defaults (dict[str, Any]): By the data sets' names.

    Returns:
        str: In brackets.
    """
    return f"(default: {', '.join(f'{name} {value}' for name, value in defaults.items())})"


def whole(least: int) -> Callable[[str], int]:
    """Make a reader of whole numbers from a least one on.

    Args:
        least (int): The smallest number that it reads.

    Returns:
        Callable: From text to number, as ``argparse`` takes it for ``type``.
    """

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    read.__name__ = "int"
    return read
