"""The command line: ``captum-deduce demo | train | explain | reproduce``.

Only what is needed to parse is imported here, so that ``--help`` and mistakes are answered at once.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from captum_deduce._version import __version__
from captum_deduce.commands.recipes import RECIPES, RECONSTRUCTIONS

_DESCRIPTION = """\
Counterfactual explanations for image classifiers: what would this image need
to look like to be seen as another class?

Start with
  captum-deduce demo
"""

_DEMO = """\
Train a small SN-ResNet-18, fit the density of its features, find the test
images that it gets wrong, and generate for each the counterfactual of its true
class; for two right ones, of every other class.

The default data set, scikit-learn's digits, comes with the package; nothing is
ever downloaded. Prints a table and writes to the --output folder, replacing
files of these names only:
  mistakes.png                 the first ten mistakes: original, counterfactual
                               and change
  right-1.png, right-2.png     right images turned into every other class
  counterfactuals.safetensors  all of them, for Counterfactuals.load

With --compare, all six explainers (DeDUCE, JSMA, Schut, Wachter, VLK, REVISE)
explain these same images instead, and a table says how many counterfactuals
each finds, how many entries they change (L0) and by how much (L1), and what
they cost. Trains what else they need: two plain ResNets that make an ensemble
with the classifier (Schut), an autoencoder (VLK) and a VAE (REVISE). Writes:
  compare.png                  six of the images, a row per explainer, and what
                               each changed
  compare.md                   the table, and what its columns mean
  compare-NAME.safetensors     all that the explainer NAME found

Trained models are kept in ~/.cache/captum-deduce (or the folder that
CAPTUM_DEDUCE_CACHE names), a file for each choice of settings. The next run
with the same settings reuses them and says so.

Examples:
  captum-deduce demo
  captum-deduce demo --compare
  captum-deduce demo --dataset mnist --data-root ~/data --images 20
"""

_TRAIN = """\
Train a classifier, fit the density of its features, and write both with their
settings to one safetensors file: the checkpoint that captum-deduce explain
takes. With --model, train an autoencoder, as the explainer VLK takes, a VAE, as
REVISE does, or a Wasserstein GAN, as the metric AnoGAN does, for use from
Python.

Examples:
  captum-deduce train --dataset mnist --data-root ~/data --output mnist.safetensors
  captum-deduce train --dataset mnist --data-root ~/data --noise 1.5 --epochs 7
  captum-deduce train --dataset digits --model autoencoder
  captum-deduce train --dataset mnist --data-root ~/data --model wgan
"""

_EXPLAIN = """\
Generate counterfactuals of images of your own, with the classifier and density
of a checkpoint.

Images (PNG, JPEG, ...; 8 or 16 bits) are converted to grey or RGB, as the
classifier takes them. Another size is refused unless you pass --resize; so are
transparent pixels, always. Writes to the --output folder, replacing files of
these names only:
  IMAGE-to-CLASS.png             the counterfactual in its own size, rounded to
                                 8 bits
  IMAGE-to-CLASS-comparison.png  original, counterfactual and change
  counterfactuals.safetensors    all of them unrounded, for Counterfactuals.load
The table says what the classifier sees in each image, whether a counterfactual
was found, and, of the PNG file as it was written, whether the image rounded to
8 bits still has its class. Where none was found it says FAILED, and the file
holds the best attempt; the exit status is 0 all the same. It is 2 for a mistake
in what was given.

Examples:
  captum-deduce explain --checkpoint mnist.safetensors --images a.png b.png --target 3
  captum-deduce explain --checkpoint cifar10.safetensors --images cat.png dog.png \\
      --target dog cat --pixel site
  captum-deduce explain --checkpoint noise.safetensors --images a.png --target 3 \\
      --preset realistic
"""

_REPRODUCE = """\
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
  frontier past the paper: how near and how real every method and preset is

Each also says how often two small classifiers that were trained independently
see the target class (oracle), and how probable they find it (oracle p): a
counterfactual that only the explained classifier sees is an adversarial
example. As in the paper, DeDUCE explains a classifier with spectral
normalisation and the others one without; means are over the pairs on which all
succeeded.

Three sizes, from seconds to days:
  --smoke    scikit-learn's digits: that everything runs, no more
  (neither)  MNIST, 10 images x 9 targets, width 16; for two CPU cores. Reduced:
             REVISE takes at most 2,000 steps of Adam, AnoGAN scores 40 pairs of
             each algorithm, and VAE and GAN are trained briefly
  --full     MNIST, 5 x 100 images x 9 targets, width 64, REVISE and AnoGAN as
             published; needs a GPU

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


_PRESETS = ("closest", "realistic", "paper")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``captum-deduce``.

    Args:
        argv (Sequence[str], optional): The arguments. Default: None (those of the process)

    Returns:
        int: The exit status: 0; 2 for a mistake in what was given; 130 after Ctrl-C.
    """
    try:
        arguments = vars(_parser().parse_args(argv))
        run: Callable[..., None] = arguments.pop("run")
        quiet = arguments.pop("quiet")
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            run(**arguments, show_progress=not quiet and sys.stderr.isatty())
    except SystemExit as stop:  # argparse, after --help and --version
        return stop.code if isinstance(stop.code, int) else 0
    except (ValueError, TypeError, OSError) as error:
        print(f"captum-deduce: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("captum-deduce: interrupted", file=sys.stderr)
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as every other error is reported."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning without the place in the code, which says nothing to a user."""
    print(f"captum-deduce: warning: {message}", file=sys.stderr)


def _demo(**arguments: Any) -> None:
    from captum_deduce.commands import demo

    demo.run(**arguments)


def _train(**arguments: Any) -> None:
    from captum_deduce.commands import train

    train.run(**arguments)


def _explain(**arguments: Any) -> None:
    from captum_deduce.commands import explain

    explain.run(**arguments)


def _reproduce(**arguments: Any) -> None:
    from captum_deduce.commands import reproduce

    reproduce.run(**arguments)


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="captum-deduce", description=_DESCRIPTION, formatter_class=form)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, run, add_arguments, line, description in (
        ("demo", _demo, _add_demo, "train, find mistakes, explain them", _DEMO),
        ("train", _train, _add_train, "train a classifier or a model of images", _TRAIN),
        ("explain", _explain, _add_explain, "explain images of your own", _EXPLAIN),
        (
            "reproduce",
            _reproduce,
            _add_reproduce,
            "make the paper's tables and figures anew",
            _REPRODUCE,
        ),
    ):
        command = commands.add_parser(
            name, help=line, description=description, formatter_class=form
        )
        add_arguments(command)
        command.add_argument(
            "--device", help="as torch names it (default: cuda where there is one, else cpu)"
        )
        command.add_argument(
            "--quiet",
            action="store_true",
            help="draw no progress bars (none are drawn where stderr is no terminal)",
        )
        command.set_defaults(run=run)
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=RECIPES, default="digits", help=_DEFAULT)
    _add_training(parser)
    most = _per_dataset({name: recipe.images or "all" for name, recipe in RECIPES.items()})
    parser.add_argument(
        "--images",
        type=_whole(0),
        metavar="N",
        help=f"most misclassified images to explain {most}",
    )
    _add_output(parser, "captum-deduce-demo")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="explain with all six explainers, and compare them",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="the smallest settings for all that isn't given: seconds, poor accuracy",
    )
    parser.add_argument(
        "--retrain", action="store_true", help="train even if a trained model is cached"
    )


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", choices=RECIPES, required=True)
    _add_training(parser)
    others = {
        model: _per_dataset({name: recipe.epochs for name, recipe in recipes.items()})
        for model, recipes in RECONSTRUCTIONS.items()
    }
    parser.add_argument(
        "--model",
        choices=("classifier", *RECONSTRUCTIONS),
        default="classifier",
        help="what to train (default: %(default)s); epochs of an autoencoder {autoencoder}, of a "
        "VAE {vae}, of a GAN {wgan}".format(**others),
    )
    parser.add_argument(
        "--noise",
        type=float,
        metavar="S",
        help="train a classifier on images with Gaussian noise, of a standard deviation drawn "
        "from 0 to S for each; 1.5 suits MNIST. Its counterfactuals are far more often seen as the "
        "target class by other models (default: no noise)",
    )
    parser.add_argument(
        "--architecture",
        metavar="NAME",
        help="of a classifier: sn_resnet18, sn_resnet50, or resnet18, resnet50 without spectral "
        "normalisation (default: sn_resnet18)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write (default: DATASET-NAME.safetensors in the current folder, with the "
        "name of the architecture or the model)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the checkpoint if it exists"
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="the folder of MNIST's four IDX files or CIFAR-10's image archives "
        "(default: the environment variable CAPTUM_DEDUCE_DATA)",
    )
    for option, what in (
        ("width", "channels of the ResNet's first stage"),
        ("epochs", "of the training"),
    ):
        defaults = {name: getattr(recipe, option) for name, recipe in RECIPES.items()}
        parser.add_argument(
            f"--{option}", type=_whole(1), metavar="N", help=f"{what} {_per_dataset(defaults)}"
        )
    parser.add_argument(
        "--seed",
        type=_whole(0),
        default=0,
        metavar="S",
        help=f"of data split, weights and training {_DEFAULT}",
    )


def _add_explain(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE")
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument(
        "--target",
        nargs="+",
        metavar="CLASS",
        help="the class to reach, by name or number: one for all images or one per image (default: "
        "the class that the classifier thinks second most likely)",
    )
    _add_output(parser, "captum-deduce-explain")
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
        ("max-changes", int, 5, "most changes of one pixel"),
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
        choices=("entry", "site"),
        default=argparse.SUPPRESS,
        help="what moves: one channel of a pixel, or all of them (default: entry)",
    )


def _add_reproduce(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=_EXPERIMENTS, metavar="NAME", help=f"one of {', '.join(_EXPERIMENTS)}"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--smoke", action="store_true", help="the smallest size")
    sizes.add_argument("--full", action="store_true", help="the paper's size")
    for option, what in (
        ("images", "images in each set, for the tables"),
        ("width", "channels of the classifiers' first stage"),
    ):
        parser.add_argument(
            f"--{option}", type=_whole(1), metavar="N", help=f"{what} (default: the size's)"
        )
    parser.add_argument(
        "--data-root",
        metavar="DIR",
        help="the folder of MNIST's four IDX files (default: the environment variable "
        "CAPTUM_DEDUCE_DATA)",
    )
    _add_output(parser, "captum-deduce-reproduce")


def _add_output(parser: argparse.ArgumentParser, folder: str) -> None:
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(folder),
        metavar="DIR",
        help=f"the folder to write to {_DEFAULT}",
    )


_EXPERIMENTS = (
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

_DEFAULT = "(default: %(default)s)"


def _per_dataset(defaults: dict[str, Any]) -> str:
    return f"(default: {', '.join(f'{name} {value}' for name, value in defaults.items())})"


def _whole(least: int) -> Callable[[str], int]:
    """Make a reader of whole numbers from a least one on."""

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    read.__name__ = "int"
    return read
