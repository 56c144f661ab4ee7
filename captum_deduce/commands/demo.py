"""``captum-deduce demo``: train a classifier, find its mistakes, and explain them."""

from __future__ import annotations

from pathlib import Path

from captum_deduce import datasets
from captum_deduce.commands import compare as comparison
from captum_deduce.commands.given import make_folder, read_device
from captum_deduce.commands.hints import explain_hint
from captum_deduce.commands.pairs import Pairs, choose_pairs
from captum_deduce.reports import DPI, Explained, explain, tables
from captum_deduce.training import predict
from captum_deduce.visualization import plot_grid
from captum_deduce.zoo import (
    COMPARISON,
    RECIPES,
    SMOKE,
    SMOKE_COMPARISON,
    SMOKE_TRAINING_IMAGES,
    cache_path,
    make_explainer,
    obtain_classifier,
    plan_classifier,
    torch_threads,
)

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
    compare: bool = False,
    smoke: bool = False,
    retrain: bool = False,
    show_progress: bool = False,
) -> None:
    """Explain the test images that a small SN-ResNet-18 gets wrong, and some that it gets right.

    Prints a table; writes ``mistakes.png`` (unless there are none), ``right-1.png``,
    ``right-2.png`` and ``counterfactuals.safetensors``; with ``compare`` it does what
    :func:`captum_deduce.commands.compare.run` says instead. The classifier is cached, see
    :func:`captum_deduce.zoo.cache_path`.

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
        compare (bool, optional): Explain the same pairs with every explainer. Default: False
        smoke (bool, optional): Take the smallest settings for all that isn't given. Default: False
        retrain (bool, optional): Train even if a trained model is cached. Default: False
        show_progress (bool, optional): Draw progress bars. Default: False

    Raises:
        ValueError: There is nothing to explain, or an argument is out of its range.
    """
    place = read_device(device)
    recipe = SMOKE if smoke else RECIPES[dataset]
    recipe = recipe.overridden(width=width, epochs=epochs, images=images)
    splits, name = datasets.load(dataset, data_root, seed=seed), dataset
    if smoke and len(splits.train) > SMOKE_TRAINING_IMAGES:
        splits = splits._replace(train=splits.train[:SMOKE_TRAINING_IMAGES])
        name = f"{dataset}-{SMOKE_TRAINING_IMAGES}"
    make_folder(output)
    settings = plan_classifier(name, splits.train, "sn_resnet18", recipe, seed)
    with torch_threads(recipe.threads):
        checkpoint = obtain_classifier(
            settings, splits, recipe.batch_size, place, show_progress, retrain=retrain
        )
        prediction = predict(checkpoint.model, splits.test.images).argmax(1)
        pairs = choose_pairs(prediction, splits.test, recipe.images, recipe.right_images)
        print(f"\n{pairs.description}\n")
        if not len(pairs.index):
            raise ValueError(
                "--images 0 leaves nothing to explain, as the classifier gets no test image right"
            )
        if compare:
            how = SMOKE_COMPARISON if smoke else COMPARISON
            models = comparison.obtain_models(
                checkpoint,
                splits,
                dataset,
                recipe,
                how,
                retrain=retrain,
                show_progress=show_progress,
            )
            comparison.run(models, pairs, splits.test, how, output, show_progress=show_progress)
            return
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
    print(explain_hint(cache_path(settings)))


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
