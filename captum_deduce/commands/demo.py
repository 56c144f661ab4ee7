"""``captum-deduce demo``: train a classifier, find its mistakes, and explain them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from captum_deduce import datasets
from captum_deduce.checkpoint import Checkpoint, cache_path, load_checkpoint, save_checkpoint
from captum_deduce.commands import tables
from captum_deduce.commands.classifiers import explain_hint, fit, plan, summary, threads
from captum_deduce.commands.explained import DPI, Explained, explain, make_explainer
from captum_deduce.commands.given import make_folder, read_device
from captum_deduce.commands.recipes import RECIPES, SMOKE, SMOKE_TRAINING_IMAGES
from captum_deduce.training import predict
from captum_deduce.visualization import plot_grid

_PICTURES = ("mistakes.png", "right-1.png", "right-2.png")


def run(
    dataset: str = "digits",
    *,
    data_root: str | None = None,
    output: Path = Path("captum-deduce-demo"),
    images: int | None = None,
    width: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str | None = None,
    smoke: bool = False,
    retrain: bool = False,
    show_progress: bool = False,
) -> None:
    """Explain the test images that a small SN-ResNet-18 gets wrong, and some that it gets right.

    Prints a table; writes ``mistakes.png``, ``right-1.png``, ``right-2.png`` and
    ``counterfactuals.safetensors``. The classifier is cached, see
    :func:`captum_deduce.checkpoint.cache_path`.

    Args:
        dataset (str, optional): One of :data:`captum_deduce.datasets.DATASETS`. Default: "digits"
        data_root (str, optional): The folder of the data. Default: see
            :func:`captum_deduce.datasets.load`
        output (Path, optional): The folder to write to. Default: ``captum-deduce-demo`` in the
            current folder
        images (int, optional): Most misclassified images to explain. Default: the data set's recipe
        width (int, optional): Channels of the classifier's first stage. Default: the recipe
        epochs (int, optional): Of its training. Default: the recipe
        seed (int, optional): Of data split, weights and training. Default: 0
        device (str, optional): Where to compute. Default: CUDA where there is one, else the CPU
        smoke (bool, optional): Take the smallest settings for all that isn't given. Default: False
        retrain (bool, optional): Train even if a trained classifier is cached. Default: False
        show_progress (bool, optional): Draw progress bars. Default: False
    """
    place = read_device(device)
    recipe = SMOKE if smoke else RECIPES[dataset]
    recipe = recipe.overridden(width=width, epochs=epochs, images=images)
    splits, name = datasets.load(dataset, data_root, seed=seed), dataset
    if smoke and len(splits.train) > SMOKE_TRAINING_IMAGES:
        splits = splits._replace(train=splits.train[:SMOKE_TRAINING_IMAGES])
        name = f"{dataset}-{SMOKE_TRAINING_IMAGES}"
    make_folder(output)
    settings = plan(name, splits.train, "sn_resnet18", recipe, seed)
    path = cache_path(settings)
    with threads(recipe.threads):
        checkpoint = None if retrain else _cached(path, place, len(splits.test))
        if checkpoint is None:
            checkpoint = fit(settings, splits, recipe.batch_size, place, show_progress)
            _keep(path, checkpoint)
        prediction = predict(checkpoint.model, splits.test.images).argmax(1)
        pairs = choose_pairs(prediction, splits.test, recipe.images, recipe.right_images)
        print(f"\n{pairs.description}\n")
        inputs = splits.test.images[pairs.index].to(place)
        explained = explain(
            make_explainer(checkpoint),
            inputs,
            pairs.target,
            splits.test.class_names,
            show_progress=show_progress,
        )
    columns = [
        ("image", [str(index) for index in pairs.index.tolist()]),
        ("class", [explained.class_names[label] for label in pairs.labels.tolist()]),
        *tables.search_columns(explained),
    ]
    print(f"{tables.table(columns)}\n\n{tables.totals(explained)}\n")
    _write(explained, pairs, output)
    print(explain_hint(path))


@dataclass(frozen=True)
class Pairs:
    """Test images and the classes to turn them into: all mistakes first.

    Args:
        index (Tensor): Which test image, N.
        labels (Tensor): Its true class, N.
        target (Tensor): The class to turn it into, N.
        num_mistakes (int): How many of the N are mistakes.
        description (str): What was chosen.
    """

    index: Tensor
    labels: Tensor
    target: Tensor
    num_mistakes: int
    description: str


def choose_pairs(
    prediction: Tensor, test: datasets.ImageData, most_mistakes: int | None, num_right: int
) -> Pairs:
    """Pair mistakes with their true class, and some right images with every other class.

    Args:
        prediction (Tensor): The classifier's, one per test image.
        test (ImageData): The test images.
        most_mistakes (int or None): The first mistakes are taken, at most this many; None: all.
        num_right (int): How many right images are taken: the first ones that differ in class.

    Returns:
        Pairs: Mistakes, then each right image with all of its targets.
    """
    classes = torch.arange(len(test.class_names))
    mistakes = (prediction != test.target).nonzero().flatten()
    right = [((prediction == test.target) & (test.target == c)).nonzero()[:1] for c in classes]
    chosen_right = torch.cat(right).flatten().sort().values[:num_right]
    chosen = mistakes[:most_mistakes]
    index = torch.cat([chosen, chosen_right.repeat_interleave(len(classes) - 1)])
    others = [classes[classes != label] for label in test.target[chosen_right]]
    if not len(mistakes):
        found = f"None of the {len(test):,} test images is misclassified."
    else:
        found = (
            f"{len(mistakes)} of {len(test):,} test images are misclassified; "
            f"{'all' if len(chosen) == len(mistakes) else f'the first {len(chosen)}'} of them are "
            "turned into their true class."
        )
    return Pairs(
        index=index,
        labels=test.target[index],
        target=torch.cat([test.target[chosen], *others]),
        num_mistakes=len(chosen),
        description=f"{found}\nRight ones turned into every other class: {len(chosen_right)}.",
    )


def _cached(path: Path, device: torch.device, num_test_images: int) -> Checkpoint | None:
    if not path.is_file():
        return None
    try:
        checkpoint = load_checkpoint(path, device)
    except ValueError as error:
        print(f"The cached classifier is of no use and is trained anew: {error}")
        return None
    print(summary(checkpoint.settings, num_test_images))
    print(f"Reused from {path} (--retrain trains it anew)")
    return checkpoint


def _keep(path: Path, checkpoint: Checkpoint) -> None:
    try:
        save_checkpoint(path, checkpoint)
    except OSError as error:
        # Hours of training are not thrown away for want of a place to keep them.
        print(f"The classifier could not be kept for the next time: {error}")
    else:
        print(f"Kept for the next time in {path}")


def _write(explained: Explained, pairs: Pairs, folder: Path) -> None:
    """Write the pictures and the file; no picture of an earlier run stays."""
    for name in _PICTURES:
        (folder / name).unlink(missing_ok=True)
    mistakes, *right = (folder / name for name in _PICTURES)
    written = []
    if pairs.num_mistakes:
        explained.save_picture(mistakes, slice(pairs.num_mistakes), pairs.labels)
        written.append(mistakes)
    per_image = len(explained.class_names) - 1
    starts = range(pairs.num_mistakes, len(pairs.index), per_image)
    for path, start in zip(right, starts, strict=False):
        rows = slice(start, start + per_image)
        figure = plot_grid(
            {"DeDUCE": explained.result[rows]},
            class_names=explained.class_names,
            labels=pairs.labels[rows],
            max_columns=per_image,
        )
        figure.savefig(path, dpi=DPI)
        written.append(path)
    written.append(folder / "counterfactuals.safetensors")
    explained.result.save(written[-1])
    print("Written:", *written, sep="\n  ")
