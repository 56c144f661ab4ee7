"""``captum-deduce explain``: its options and its help."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from captum_deduce.commands.parsers.options import add_output, whole

LINE = "explain images of your own"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Generate counterfactuals of images of your own: with the classifier and density
of a checkpoint that captum-deduce wrote, or with any of torchvision's
classifiers and a safetensors file of its weights (its state_dict, as
safetensors.torch.save_file writes it). The latter is explained with DeDUCE where
you give a --density, else with JSMA, which knows nothing of the training data.
Nothing is ever downloaded.

Images (PNG, JPEG, ...; 8 bits, grey ones also 16; of colours with 16 bits 8 are
read) are converted to grey or RGB, as the classifier takes them, upright as
their orientation tag says. Another size is refused unless you pass --resize; so
are transparent pixels, always. Writes to the --output folder, replacing files of
these names only:
  IMAGE-to-CLASS.png             the counterfactual in its own size, rounded to
                                 8 bits
  IMAGE-to-CLASS-comparison.png  original, counterfactual and change
  counterfactuals.safetensors    all of them unrounded, for Counterfactuals.load
The table says what the classifier sees in each image, whether a counterfactual
was found, and, of the PNG file as it was written, whether the image rounded to
8 bits still has its class; of colour images both the entries that changed (L0)
and the places. Where none was found it says FAILED, and the file
holds the best attempt; the exit status is 0 all the same. It is 2 for a mistake
in what was given.

Examples:
  captum-deduce explain --checkpoint mnist.safetensors --images a.png b.png --target 3
  captum-deduce explain --checkpoint cifar10.safetensors --images cat.png dog.png \\
      --target dog cat
  captum-deduce explain --checkpoint noise.safetensors --images a.png --target 3 \\
      --preset realistic
  captum-deduce explain --architecture torchvision:resnet18 \\
      --weights pets.safetensors --class-names pets.txt --mean 0.485 0.456 0.406 \\
      --std 0.229 0.224 0.225 --images cat.jpg --resize --target dog
"""
"""What it does, in its own help."""

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="as captum-deduce train writes it"
    )
    source.add_argument(
        "--weights", type=Path, metavar="FILE", help="of the torchvision classifier, see below"
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="CLASS",
        help="the class to reach, by name or number: one for all images or one per image (default: "
        "the class that the classifier thinks second most likely)",
    )
    add_output(parser, "captum-deduce-explain")
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="an image: white where pixels may change"
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="scale images and mask to the classifier's size, whatever their proportions",
    )
    parser.add_argument(
        "--invert",
        action="store_true",
        help="for dark on light where the classifier takes light on dark: exchange black and white "
        "on reading, and back on writing",
    )
    _add_torchvision(parser)
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


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.explain.run`.
    """
    from captum_deduce.commands import explain

    said = {name: arguments.pop(name) for name in _OF_TORCHVISION}
    torchvision = {name: value for name, value in said.items() if value is not None}
    explain.run(**arguments, torchvision=torchvision)
