"""``captum-deduce train``: a classifier with its density, or a model of images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from captum_deduce import datasets
from captum_deduce.commands.given import make_folder, read_device
from captum_deduce.commands.hints import explain_hint, load_hint
from captum_deduce.zoo import (
    RECIPES,
    RECONSTRUCTIONS,
    fit_classifier,
    fit_reconstruction,
    forget_training,
    plan_classifier,
    save_checkpoint,
    torch_threads,
)


def run(
    dataset: str,
    *,
    data_root: str | None = None,
    model: str = "classifier",
    architecture: str | None = None,
    width: int | None = None,
    epochs: int | None = None,
    augment: bool = False,
    noise: float | None = None,
    adversarial: float | None = None,
    bfloat16: bool = False,
    seed: int = 0,
    device: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> None:
    """Train a classifier, fit the density of its features, and write both to a checkpoint.

    A training that was interrupted goes on from the last whole epoch when the same is asked for
    again: until then it is kept in the cache, see :func:`captum_deduce.zoo.continue_training`.

    Or train a model that reconstructs or draws images, and write it to a file that its ``load``
    reads.

    Args:
        dataset (str): One of :data:`captum_deduce.datasets.DATASETS`.
        data_root (str, optional): The folder of the data. Default: see
            :func:`captum_deduce.datasets.load`
        model (str, optional): ``"classifier"``, or one of
            :data:`captum_deduce.zoo.RECONSTRUCTION_MODELS`. Default: "classifier"
        architecture (str, optional): Of a classifier, one of
            :data:`captum_deduce.models.ARCHITECTURES`. Default: "sn_resnet18"
        width (int, optional): Channels of a classifier's first stage. Default: the data set's
            recipe
        epochs (int, optional): Of the training. Default: the data set's recipe
        augment (bool, optional): Train a classifier on random crops, and flips where the data set
            allows for them, see :func:`captum_deduce.training.make_augmentation`. Default: False
        noise (float, optional): Of a classifier's training, see
            :func:`captum_deduce.training.train_classifier`. Default: None (none)
        adversarial (float, optional): Likewise. Default: None (none)
        bfloat16 (bool, optional): Likewise. Default: False
        seed (int, optional): Of data split, weights and training. Default: 0
        device (str, optional): Where to train. Default: CUDA where there is one, else the CPU
        output (Path, optional): The checkpoint. Default: ``<dataset>-<architecture>.safetensors``
            or ``<dataset>-<model>.safetensors`` in the current folder
        overwrite (bool, optional): Whether a file of that name may be replaced. Default: False
        show_progress (bool, optional): Draw progress bars. Default: False

    Raises:
        ValueError: The checkpoint exists, its folder is a file, or the model has no architecture,
            width or disturbance to choose.
    """
    own = (architecture, width, noise, adversarial, augment or None, bfloat16 or None)
    if model != "classifier" and any(each is not None for each in own):
        raise ValueError(
            "--architecture, --width, --augment, --noise, --adversarial and --bfloat16 are a "
            f"classifier's, not of --model {model}"
        )
    architecture = architecture or "sn_resnet18"
    place = read_device(device)
    name = architecture if model == "classifier" else model
    path = output or Path(f"{dataset}-{name}.safetensors")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"--output {path} exists; choose another name, or pass --overwrite")
    splits = datasets.load(dataset, data_root, seed=seed)
    if model == "classifier":
        recipe = RECIPES[dataset].overridden(width=width, epochs=epochs)
        settings = plan_classifier(
            dataset,
            splits.train,
            architecture,
            recipe,
            seed,
            noise or 0.0,
            augment=augment,
            adversarial=adversarial or 0.0,
            bfloat16=bfloat16,
        )
        make_folder(path.parent)
        with torch_threads(recipe.threads):
            checkpoint = fit_classifier(settings, splits, recipe.batch_size, place, show_progress)
        save_checkpoint(path, checkpoint)
        forget_training(settings, recipe.batch_size)
        print(f"Checkpoint: {path}")
        print(explain_hint(path))
    else:
        how = RECONSTRUCTIONS[model][dataset]
        how = replace(how, epochs=epochs or how.epochs)
        make_folder(path.parent)
        fit_reconstruction(model, splits, how, seed, place, show_progress).save(path)
        print(f"Saved: {path}")
        print(load_hint(model, path))
