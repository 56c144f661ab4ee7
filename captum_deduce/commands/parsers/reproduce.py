"""``captum-deduce reproduce``: its options and its help."""

from __future__ import annotations

import argparse
from typing import Any

from captum_deduce.commands.parsers.options import add_output, whole

LINE = "make the paper's tables and figures anew"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Make one of the tables or figures of the DeDUCE paper anew: train what is
missing, search, measure, and write the paper's values beside ours.

  table1   DeDUCE, JSMA, VLK and REVISE on the same pairs: AnoGAN score (AGAN),
           L0, L1, failures
  table2   seconds for one counterfactual
  table3   the six pairs of fig3 one by one
  table4   DeDUCE's objectives: lambda of equation 4, mu of equation 5
  table5   REVISE's lambda and step size
  fig2     the feature space, with the way of a counterfactual through it
  fig3     six pairs with each algorithm
  fig4     what the VAE behind REVISE reconstructs
  fig5     eighteen random pairs with DeDUCE
  frontier beyond the paper: distance and oracle agreement of all methods but
           Schut on the same classifiers: DeDUCE, its presets, JSMA and Wachter
           on three classifiers (plain, with spectral normalisation, trained
           with noise, too) at five confidences; VLK and REVISE on two of them
           at two; others as points

Each also says how many of two small classifiers, trained independently, see the
target class (oracle agreement), and how probable they find it (oracle p): a
counterfactual that convinces only the explained classifier is an adversarial
example. As in the paper, DeDUCE explains a classifier with spectral
normalisation in the tables and the others one without; means are over the pairs
on which all succeeded. The frontier has four such classifiers, of two
architectures, and counts failures as disagreement.

Three sizes, from seconds to days:
  --smoke    scikit-learn's digits: that everything runs, no more
  (neither)  MNIST, 10 images x 9 targets (frontier: 30), width 16; for two CPU
             cores. Reduced: REVISE takes at most 2,000 steps of Adam, AnoGAN
             scores 40 pairs of each algorithm, and VAE and GAN are trained briefly
  --full     MNIST, 5 x 100 images x 9 targets (frontier: 100), width 64, REVISE
             and AnoGAN as published; needs a GPU

What was interrupted goes on where it stopped: trained models are kept in the
cache (see captum-deduce demo --help), searches and scores in the folder runs
below --output, each in a file that is named by all that it depends on, so that
nothing stale is ever reused. Writes to --output, replacing files of these names:
  NAME.md, NAME.json        the table, and all numbers with settings and tests
  NAME.png                  the picture of a figure
  NAME-WHO.safetensors      what was found, for Counterfactuals.load

Examples:
  captum-deduce reproduce table1 --smoke
  captum-deduce reproduce table4 --data-root ~/data --images 3
  captum-deduce reproduce fig3 --data-root ~/data --full --device cuda
"""
"""What it does, in its own help."""

EXPERIMENTS = (
    "table1",
    "table2",
    "table3",
    "table4",
    "table5",
    "fig2",
    "fig3",
    "fig4",
    "fig5",
    "frontier",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options.

    Args:
        parser (argparse.ArgumentParser): Of the command.
    """
    parser.add_argument(
        "what", choices=EXPERIMENTS, metavar="NAME", help=f"one of {', '.join(EXPERIMENTS)}"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--smoke", action="store_true", help="the smallest size")
    sizes.add_argument("--full", action="store_true", help="the paper's size")
    for option, what in (
        ("images", "images in each set, for the tables, and of the frontier"),
        ("width", "channels of the classifiers' first stage"),
    ):
        parser.add_argument(
            f"--{option}", type=whole(1), metavar="N", help=f"{what} (default: the size's)"
        )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="the folder of MNIST's four IDX files (default: the environment variable "
        "CAPTUM_DEDUCE_DATA)",
    )
    add_output(parser, "captum-deduce-reproduce")


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.reproduce.run`.
    """
    from captum_deduce.commands import reproduce

    reproduce.run(**arguments)
