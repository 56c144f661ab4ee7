"""Colour in earnest: CIFAR-10, classifiers that are trained to the end, and strict oracles.

Which training gives a classifier whose counterfactuals other classifiers believe, and what does it
cost in accuracy? Explained is an SN-ResNet-18 of width 16, trained on crops and flips for 30 epochs
in three ways: as usual, with noise, and on one-step adversarial images (L2). The oracles, which no
search knows, are a VGG with batch norm and a wide ResNet of three stages without spectral
normalisation. Parts of their training images are erased at random, too.

Trainings take an hour or more each on two cores. One runs at a time; each is kept in the cache
after every epoch, and the same command goes on from there:

    python benchmarks/colour.py --data-root DIR --train vgg wide --epochs-now 10
    python benchmarks/colour.py --data-root DIR --train usual noise adversarial

On processors that compute in it, ``--bfloat16`` halves the time; it has to be given each time.

Then confidence and density quantile of ``DeDUCE.realistic`` are chosen for each classifier, on
validation images, and the table is made of test images, from whatever has been trained:

    python benchmarks/colour.py --data-root DIR --tune
    python benchmarks/colour.py --data-root DIR --pictures FOLDER

Chosen is the nearest setting, by L1, that the oracles agree with as often as is aimed at and that
fails for 1% of the pairs at most. Searches are kept in the ``--output`` folder and not run again.
Pictures have 20 pairs, drawn at random, with numbers in the place of targets, so that a person can
name these, and a file with the answers beside each.

To try all of it out in minutes:

    python benchmarks/colour.py --data-root DIR --training-images 200 --width 4 --epochs 2 \\
        --train usual vgg wide
    python benchmarks/colour.py --data-root DIR --training-images 200 --width 4 --epochs 2 \\
        --images 2 --pictures FOLDER
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from gallery import Tile, tiled
from torch import nn
from torchvision.transforms import v2

from captum_deduce import JSMA, CounterfactualExplainer, Counterfactuals, Polish, datasets, storage
from captum_deduce.experiments.curves import error_over_originals
from captum_deduce.experiments.frontier import measured
from captum_deduce.experiments.methods import AGREEMENT, search
from captum_deduce.experiments.plan import Cases, every_target
from captum_deduce.experiments.runs import Run, Store
from captum_deduce.explainers.deduce import REALISTIC
from captum_deduce.metrics import EvaluationTable
from captum_deduce.models import ResNet, SmallVGG, build_and_fill
from captum_deduce.reports import Column, failure_column, metric_column
from captum_deduce.reports import table as as_table
from captum_deduce.training import accuracy, make_augmentation, train_classifier
from captum_deduce.zoo import (
    RECIPES,
    Checkpoint,
    Settings,
    cache_path,
    continue_training,
    load_checkpoint,
    make_explainer,
    obtain_classifier,
    plan_classifier,
)

Searches = dict[str, CounterfactualExplainer]

RECIPE = RECIPES["cifar10"]

EXPLAINED = ("usual", "noise", "adversarial")
"""How the explained classifier may be trained."""

ORACLES = ("vgg", "wide")
"""Of other architectures."""

ORACLE_SEEDS = {"vgg": 201, "wide": 301}
"""Of weights and training."""

ERASED = 0.5
"""How often a part of an image is blank when an oracle sees it."""

CONFIDENCES = (0.7, 0.9, 0.98, 0.9985, 0.9999)
QUANTILES = (0.01, 0.05, 0.2)
"""What ``--tune`` tries, each with each."""

AIM, MOST_FAILURES = 0.65, 0.01
"""Least agreement of the oracles, and the largest share of pairs without a counterfactual."""

PAIRS, SIDE = 20, 96
"""Of a page of pictures: how many, and how large an image is drawn, in pixels."""


@dataclass(frozen=True)
class Colour:
    """The data, and what is trained on them.

    Args:
        splits (datasets.Splits): CIFAR-10, or a part of it.
        dataset (str): What the data are called in the cache.
        given (argparse.Namespace): Width, epochs, noise, radius, precision, seed and oracle widths.
    """

    splits: datasets.Splits
    dataset: str
    given: argparse.Namespace

    def settings(self, name: str) -> Settings:
        """Describe one of :data:`EXPLAINED`."""
        given = self.given
        return plan_classifier(
            self.dataset,
            self.splits.train,
            "sn_resnet18",
            RECIPE.overridden(width=given.width, epochs=given.epochs),
            given.seed,
            given.noise if name == "noise" else 0.0,
            augment=True,
            adversarial=given.radius if name == "adversarial" else 0.0,
            bfloat16=given.bfloat16,
        )

    def explained(self, name: str) -> Checkpoint | None:
        """Read one of :data:`EXPLAINED`, if it has been trained."""
        path = cache_path(self.settings(name))
        return load_checkpoint(path) if path.is_file() else None

    def make_oracle(self, name: str) -> nn.Module:
        """Build one of :data:`ORACLES` with new weights."""
        channels, *sides = self.splits.train.images.shape[1:]
        classes, given = len(self.splits.train.class_names), self.given
        if name == "vgg":
            return SmallVGG(channels, classes, given.vgg_width, tuple(sides), batch_norm=True)
        return ResNet((2, 2, 2), channels, classes, given.wide_width)

    def oracle_path(self, name: str, part: str = "") -> Path:
        """Name the file of a trained oracle, or of its training."""
        given = self.given
        width = given.vgg_width if name == "vgg" else given.wide_width
        depends = {"data_seed": given.seed, "width": width, "epochs": given.epochs}
        depends |= {"bfloat16": given.bfloat16, "erasing": ERASED}
        return storage.path_for(f"{self.dataset}-oracle-{name}{part}", depends)

    def oracle(self, name: str) -> nn.Module | None:
        """Read one of :data:`ORACLES`, if it has been trained."""
        path = self.oracle_path(name)
        if not path.is_file():
            return None
        weights, _ = storage.read(path, "oracle")
        return build_and_fill(lambda: self.make_oracle(name), weights).eval()

    def train(self, name: str) -> None:
        """Train a classifier for as many more epochs as asked for; keep it once it is done."""
        train = self._train_explained if name in EXPLAINED else self._train_oracle
        done = train(name)
        print(f"{name}: {done} of {self.given.epochs} epochs are done", flush=True)

    def _train_explained(self, name: str) -> int:
        settings, device = self.settings(name), torch.device("cpu")
        if not cache_path(settings).is_file():
            given: tuple[Any, ...] = (
                settings,
                self.splits,
                RECIPES["cifar10"].batch_size,
                device,
                True,
            )
            _, history = continue_training(*given, epochs_now=self.given.epochs_now)
            if len(history.loss) < settings.epochs:
                return len(history.loss)
            obtain_classifier(*given)  # which adds the density
        return settings.epochs

    def _train_oracle(self, name: str) -> int:
        epochs, path = self.given.epochs, self.oracle_path(name)
        unfinished = self.oracle_path(name, "-training")
        if not path.is_file():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(ORACLE_SEEDS[name])
                model = self.make_oracle(name)
            history = train_classifier(
                model,
                self.splits.train,
                epochs=epochs,
                batch_size=RECIPE.batch_size,
                augment=v2.Compose(
                    [
                        make_augmentation("crops and flips", *self.splits.train.images.shape[2:]),
                        v2.RandomErasing(ERASED),
                    ]
                ),
                bfloat16=self.given.bfloat16,
                seed=ORACLE_SEEDS[name],
                checkpoint=unfinished,
                epochs_now=self.given.epochs_now,
                show_progress=True,
            )
            if len(history.loss) < epochs:
                return len(history.loss)
            storage.write(path, model.state_dict(), {})
            unfinished.unlink()
        return epochs


# --- what is searched ---


def realistic(checkpoint: Checkpoint, settings: Mapping[str, Any], **more: Any) -> Any:
    return make_explainer(checkpoint, "realistic", **{**settings, **more})


def searches(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> Searches:
    """What the table compares, all as sure of the target."""
    return {
        "realistic": realistic(checkpoint, settings),
        "realistic, sites": realistic(checkpoint, settings, pixel="site"),
        "realistic, patches": realistic(checkpoint, settings, pixel="patch", patch_size=4),
        "realistic, polished": realistic(checkpoint, settings, polish=Polish()),
        "JSMA, as sure": JSMA(
            checkpoint.model,
            confidence=settings["confidence"],
            step_size=REALISTIC["step_size"],
            pixels_per_step=REALISTIC["pixels_per_step"],
        ),
    }


def grid() -> dict[str, dict[str, float]]:
    """What ``--tune`` compares."""
    return {
        f"confidence {confidence:g}, quantile {quantile:g}": {
            "confidence": confidence,
            "density_quantile": quantile,
        }
        for confidence in CONFIDENCES
        for quantile in QUANTILES
    }


def chosen_path(folder: Path, name: str, checkpoint: Checkpoint) -> Path:
    """Where the choice for these very weights is kept."""
    return folder / f"chosen-{name}-{storage.fingerprint(checkpoint.model)}.json"


def settings_for(folder: Path, name: str, checkpoint: Checkpoint) -> dict[str, float]:
    """Read what was chosen, or take the preset's."""
    path = chosen_path(folder, name, checkpoint)
    if path.is_file():
        return dict(storage.read_json(path, "choice"))
    print(f"{name}: no settings were chosen (--tune); the preset's are used")
    return {key: REALISTIC[key] for key in ("confidence", "density_quantile")}


# --- what is measured ---


def mean(table: EvaluationTable, row: str, metric: str) -> float:
    found = table[row, metric].mean
    return float("nan") if found is None else found


def error(table: EvaluationTable, row: str) -> float:
    """Of the agreement, over originals."""
    cell = table.measured[row][AGREEMENT]
    found = error_over_originals(cell.values, table.originals[cell.pairs])
    return float("nan") if found is None else found


def columns(table: EvaluationTable, rows: Sequence[str], judges: Sequence[str]) -> list[Column]:
    strictest = [min(mean(table, row, judge) for judge in judges) for row in rows]
    return [
        ("classifier: method", rows),
        (AGREEMENT, metric_column(table, AGREEMENT, rows, 3)),
        ("error", [f"{error(table, row):.3f}" for row in rows]),
        ("strictest", [f"{each:.3f}" for each in strictest]),
        ("L1", metric_column(table, "L1", rows, 1)),
        ("L0", metric_column(table, "L0", rows, 1)),
        ("failed %", failure_column(table, rows)),
        ("evaluations", metric_column(table, "evaluations", rows, 1)),
    ]


def choice(table: EvaluationTable) -> str:
    """The nearest of the rows that reach the aim by a standard error and seldom fail.

    Where none does, the one that the oracles agree with most, of those that seldom fail; and where
    all fail too often, the one that fails least.
    """
    failed = {row: mean(table, row, "failure rate") for row in table.results}
    agreed = {row: mean(table, row, AGREEMENT) for row in table.results}
    seldom = [row for row in table.results if failed[row] <= MOST_FAILURES]
    if not seldom:
        return min(failed, key=lambda row: (failed[row], -agreed[row]))
    enough = [row for row in seldom if agreed[row] >= AIM + error(table, row)]
    if enough:
        return min(enough, key=lambda row: mean(table, row, "L1"))
    return max(seldom, key=lambda row: agreed[row])


def tune(
    name: str, checkpoint: Checkpoint, cases: Cases, judges: Mapping[str, nn.Module], store: Store
) -> None:
    """Choose the settings for a classifier, and keep them."""
    settings = grid()
    explainers: Searches = {row: realistic(checkpoint, each) for row, each in settings.items()}
    runs = search(store, explainers, cases)
    table = measured(judges, runs)
    best = choice(table)
    written = as_table(columns(table, list(runs), list(judges)))
    print(f"\n{name}, on validation images:\n\n{written}")
    print(f"\nchosen: {best}\n", flush=True)
    path = chosen_path(store.folder.parent, name, checkpoint)
    path.write_text(json.dumps(settings[best]) + "\n", encoding="utf-8")


def compare(
    checkpoints: Mapping[str, Checkpoint],
    cases: Cases,
    judges: Mapping[str, nn.Module],
    store: Store,
) -> dict[str, Run]:
    """Make the table; return what was found."""
    explainers: Searches = {}
    for name, checkpoint in checkpoints.items():
        settings = settings_for(store.folder.parent, name, checkpoint)
        print(f"{name}: {settings}")
        made = searches(checkpoint, settings)
        explainers |= {f"{name}: {method}": each for method, each in made.items()}
    runs = search(store, explainers, cases)
    table = measured(judges, runs)
    print("\n" + as_table(columns(table, list(runs), list(judges))) + "\n")
    for name in checkpoints:
        rows = [row for row in runs if row.startswith(f"{name}: ")]
        row = max(rows, key=lambda row: mean(table, row, AGREEMENT))
        agreed, failed = mean(table, row, AGREEMENT), mean(table, row, "failure rate")
        met = agreed >= AIM and failed <= MOST_FAILURES
        print(
            f"{name}: most agreement by {row.partition(': ')[2]}: {agreed:.3f} (target >= {AIM}), "
            f"failed {failed:.1%} (target <= {MOST_FAILURES:.0%}): {'met' if met else 'MISSED'}"
        )
    path = store.folder.parent / "colour.json"
    path.write_text(json.dumps(table.to_dict(), indent=2) + "\n", encoding="utf-8")
    return runs


# --- pictures ---


def draw(result: Counterfactuals, names: Sequence[str], seed: int, path: Path) -> None:
    """Draw pairs with numbers in the place of their targets, and write these to a file beside."""
    source = torch.Generator().manual_seed(seed)
    chosen = result[torch.randperm(len(result), generator=source)[:PAIRS]]
    pairs, answers = [], []
    for number, pair in enumerate(chosen, 1):
        images = (pair.inputs[0], pair.counterfactuals[0])
        before, after = (each.movedim(0, -1).double().numpy().clip(0, 1) for each in images)
        seen, goal = (names[int(each[0])] for each in (pair.prediction, pair.target))
        pairs.append([Tile(before, seen), Tile(after, f"{number}")])
        answers.append(f"{number}: {seen} to {goal}{'' if pair.success[0] else ' (failed)'}")
    rows = [[*chain.from_iterable(pairs[start : start + 4])] for start in range(0, len(pairs), 4)]
    figure = tiled(rows, SIDE, together=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi="figure", pil_kwargs={"optimize": True})
    path.with_suffix(".txt").write_text("\n".join(answers) + "\n", encoding="utf-8")


def draw_all(runs: Mapping[str, Run], names: Sequence[str], seed: int, folder: Path) -> None:
    for name, run in runs.items():
        path = folder / f"colour-{storage.file_stem(name)}.png"
        draw(run.result, names, seed, path)
        print(f"Written: {path}")


# --- the command ---


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole: dict[str, Any] = {"type": int, "metavar": "N"}
    parser.add_argument("--data-root", help="the folder of CIFAR-10 (CAPTUM_DEDUCE_DATA)")
    train = parser.add_argument_group("training")
    train.add_argument(
        "--train", nargs="+", choices=(*EXPLAINED, *ORACLES), help="train these, one after another"
    )
    train.add_argument("--epochs-now", help="stop each after so many more (none)", **whole)
    train.add_argument("--epochs", default=30, help="of each in all (30)", **whole)
    train.add_argument("--width", default=16, help="of the SN-ResNet-18 (16)", **whole)
    train.add_argument("--noise", type=float, default=0.5, help="largest, of 'noise' (0.5)")
    train.add_argument("--radius", type=float, default=1.0, help="largest, of 'adversarial' (1)")
    train.add_argument("--bfloat16", action="store_true", help="train in it, where it is safe")
    train.add_argument("--vgg-width", default=64, help="of the oracle (64)", **whole)
    train.add_argument("--wide-width", default=32, help="of the oracle (32)", **whole)
    train.add_argument("--training-images", help="the first so many alone, to try out", **whole)
    find = parser.add_argument_group("searching")
    find.add_argument("--tune", action="store_true", help="choose settings on validation images")
    find.add_argument("--tune-images", default=20, help="each with all other classes (20)", **whole)
    find.add_argument("--images", default=100, help="test images, likewise (100)", **whole)
    find.add_argument("--explained", nargs="+", choices=EXPLAINED, default=EXPLAINED, help="(all)")
    find.add_argument("--pictures", type=Path, metavar="DIR", help="draw pairs into this folder")
    find.add_argument("--output", type=Path, default=Path("captum-deduce-colour"), metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of split, training and draws (0)")
    parser.add_argument("--threads", default=2, help="of torch (2)", **whole)
    return parser.parse_args(argv)


def train_all(colour: Colour, names: Sequence[str]) -> None:
    """Train one after another, in one process at a time."""
    folder = storage.directory()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".colour.lock", timeout=0):
            for name in names:
                colour.train(name)
    except Timeout as error:
        raise SystemExit("another process trains for this benchmark; wait until it ends") from error


def available(what: str, names: Sequence[str], read: Callable[[str], Any]) -> dict[str, Any]:
    """Read those that have been trained, and name the others; there must be one."""
    found = {name: model for name in names if (model := read(name)) is not None}
    lacking = [name for name in names if name not in found]
    if lacking:
        print(f"not trained: {', '.join(lacking)} (--train {' '.join(lacking)})")
    if not found:
        raise SystemExit(f"no {what} has been trained with these settings")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    given = parse(argv)
    torch.set_num_threads(given.threads)
    splits, dataset = datasets.load("cifar10", given.data_root, seed=given.seed), "cifar10"
    if given.training_images is not None:
        splits = splits._replace(train=splits.train[: given.training_images])
        dataset = f"{dataset}-{given.training_images}"
    colour = Colour(splits, dataset, given)
    if given.train:
        train_all(colour, given.train)
        return
    judges = available("oracle", ORACLES, colour.oracle)
    checkpoints = available("explained classifier", given.explained, colour.explained)
    known = checkpoints | judges
    for name, model in known.items():
        right = model.settings.accuracy if name in checkpoints else accuracy(model, splits.test)
        print(f"{name}: {right:.2%} of {len(splits.test):,} test images right", flush=True)
    warnings.simplefilter("ignore", UserWarning)  # of failed pairs, which the tables count
    store = Store(given.output / "runs", torch.device("cpu"), show_progress=True)
    given.output.mkdir(parents=True, exist_ok=True)
    if given.tune:
        cases = every_target(splits.validation, 1, given.tune_images)
        for name, checkpoint in checkpoints.items():
            tune(name, checkpoint, cases, judges, store)
        return
    runs = compare(checkpoints, every_target(splits.test, 1, given.images), judges, store)
    if given.pictures is not None:
        draw_all(runs, splits.test.class_names, given.seed, given.pictures)


if __name__ == "__main__":
    main()
