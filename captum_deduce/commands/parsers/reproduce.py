"""``captum-deduce reproduce``: its options and its help."""

from __future__ import annotations

import argparse
from typing import Any

from captum_deduce.commands.parsers.options import add_computation, add_output, whole

LINE = "make the paper's tables and figures again"
"""What the command does, in the list of commands."""

DESCRIPTION = """\
Make one of the tables or figures of the DeDUCE paper again. The command trains
the models that are missing, runs the searches, measures the results, and writes
the paper's values beside ours.

  table1   DeDUCE, JSMA, VLK and REVISE on the same pairs: AnoGAN score (AGAN),
           L0, L1, failures
  table2   seconds for one counterfactual
  table3   the six pairs of fig3 one by one
  table4   DeDUCE's objectives: lambda of equation 4, mu of equation 5
  table5   REVISE's lambda and step size
  fig2     the feature space, with the path of a search through it
  fig3     six pairs with each algorithm
  fig4     what the VAE behind REVISE reconstructs
  fig5     eighteen random pairs with DeDUCE
  frontier not in the paper: distance and oracle agreement of all methods but
           Schut on the same classifiers. DeDUCE, its presets, JSMA and Wachter
           explain three classifiers (plain, with spectral normalisation, and
           with both spectral normalisation and noise in training) at five
           confidences, VLK and REVISE two of them at two confidences. Each of
           the other methods is one point

Results also show the share of two small classifiers, trained independently, that
see the target class (oracle agreement), and the mean probability that they give
it (oracle p). If only the explained classifier sees the target, a counterfactual
is an adversarial example. As in the paper, DeDUCE explains a classifier with
spectral normalisation in the tables, and the other methods explain one without.
Means are over the pairs on which all methods succeeded. The frontier has four
oracles of two architectures and counts failures as disagreement.

There are three sizes, which take from seconds to days:
  --smoke    scikit-learn's digits, to see that everything runs
  (neither)  MNIST, 10 images x 9 targets (frontier: 30), width 16; for two CPU
             cores. Reduced: REVISE takes at most 2,000 steps of Adam, AnoGAN
             scores 40 pairs of each algorithm, and VAE and GAN are trained briefly
  --full     MNIST, 5 x 100 images x 9 targets (frontier: 100), width 64, REVISE
             and AnoGAN as published; needs a GPU

If the command is interrupted, the same command goes on where it stopped. Trained
models are kept in the cache (see captum-deduce demo --help). Searches and scores
are kept in the folder runs below --output, in files named by everything that they
depend on, so that no outdated result is used. The command writes these files to
--output and replaces files of the same names:
  NAME.md, NAME.json        the table, and all numbers with settings and tests
  NAME.png                  the picture of a figure
  NAME-WHO.safetensors      the results, for Counterfactuals.load

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
        ("images", "number of images in each set of a table, or of the frontier"),
        ("width", "number of channels of the classifiers' first stage"),
    ):
        parser.add_argument(
            f"--{option}", type=whole(1), metavar="N", help=f"{what} (default: that of the size)"
        )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="the folder of MNIST's four IDX files (default: the environment variable "
        "CAPTUM_DEDUCE_DATA)",
    )
    add_output(parser, "captum-deduce-reproduce")
    add_computation(parser)


def run(**arguments: Any) -> None:
    """Run the command.

    Args:
        **arguments (Any): Of :func:`captum_deduce.commands.reproduce.run`.
    """
    from captum_deduce.commands import reproduce

    reproduce.run(**arguments)
