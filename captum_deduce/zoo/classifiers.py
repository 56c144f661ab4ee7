"""Classifiers with the density of their features: planned, trained and described."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from captum_deduce import datasets, training
from captum_deduce.classifiers import FrozenModel
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.storage import cache
from captum_deduce.zoo.checkpoint import (
    Checkpoint,
    Settings,
    cache_path,
    load_checkpoint,
    save_checkpoint,
    training_path,
)
from captum_deduce.zoo.recipes import Recipe


def plan_classifier(
    dataset: str,
    train: datasets.ImageData,
    architecture: str,
    recipe: Recipe,
    seed: int,
    noise: float = 0.0,
    *,
    augment: bool = False,
    adversarial: float = 0.0,
    bfloat16: bool = False,
) -> Settings:
    """Describe a classifier that fits the data.

    Args:
        dataset (str): Its name.
        train (ImageData): The training images.
        architecture (str): One of :data:`captum_deduce.models.ARCHITECTURES`.
        recipe (Recipe): Its width and epochs, and whether images may be flipped.
        seed (int): Of weights and training.
        noise (float, optional): Of the training. Default: 0.0
        augment (bool, optional): Train on crops, and flips where the recipe has them.
            Default: False
        adversarial (float, optional): Of the training. Default: 0.0
        bfloat16 (bool, optional): Train in bfloat16. Default: False

    Returns:
        Settings: Of the classifier to train.
    """
    channels, height, columns = train.images.shape[1:]
    return Settings(
        architecture=architecture,
        arguments={
            "in_channels": channels,
            "num_classes": len(train.class_names),
            "width": recipe.width,
            "image_size": [height, columns],
        },
        class_names=train.class_names,
        dataset=dataset,
        epochs=recipe.epochs,
        seed=seed,
        noise=noise,
        augmentation=("crops and flips" if recipe.flips else "crops") if augment else None,
        adversarial=adversarial,
        bfloat16=bfloat16,
    )


def continue_training(
    settings: Settings,
    splits: datasets.Splits,
    batch_size: int,
    device: torch.device,
    show_progress: bool | None,
    *,
    epochs_now: int | None = None,
) -> tuple[nn.Module, training.TrainingHistory]:
    """Train a classifier from where the cache has it, or from the start, and keep it there.

    After every epoch the training is kept in :func:`captum_deduce.zoo.training_path`, also after
    the last one: :func:`forget_training` deletes it. Where nothing can be written there, nothing
    is kept.

    Args:
        settings (Settings): Of the classifier.
        splits (Splits): Its data; trained on are the training images alone.
        batch_size (int): Of the training.
        device (torch.device): Where to train.
        show_progress (bool or None): Draw a progress bar.
        epochs_now (int, optional): Stop after so many more epochs. Default: None (after the last)

    Returns:
        tuple[nn.Module, TrainingHistory]: The model, and a value for each epoch that is done.

    Raises:
        ValueError: The kept training is damaged, or of other images.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = settings.build()
    path = training_path(settings, batch_size)
    if path.is_file():
        print(f"The training goes on from {path}")
    augment = None
    if settings.augmentation is not None:
        sides = splits.train.images.shape[2:]
        augment = training.make_augmentation(settings.augmentation, *sides)
    history = training.train_classifier(
        model,
        splits.train,
        epochs=settings.epochs,
        batch_size=batch_size,
        augment=augment,
        noise=settings.noise,
        adversarial=settings.adversarial,
        bfloat16=settings.bfloat16,
        seed=settings.seed,
        checkpoint=path if _writable(path.parent) else None,
        epochs_now=epochs_now,
        device=device,
        show_progress=show_progress,
    )
    return model, history


def forget_training(settings: Settings, batch_size: int) -> None:
    """Delete what :func:`continue_training` has kept, as when its classifier lies elsewhere.

    Args:
        settings (Settings): Of the classifier.
        batch_size (int): Of the training.
    """
    with suppress(OSError):
        training_path(settings, batch_size).unlink(missing_ok=True)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def fit_classifier(
    settings: Settings,
    splits: datasets.Splits,
    batch_size: int,
    device: torch.device,
    show_progress: bool | None,
    *,
    with_density: bool = True,
) -> Checkpoint:
    """Train the classifier, fit the density, measure the accuracy, and say how it went.

    The training goes on from where the cache has it, see :func:`continue_training`, and stays
    there. Covariances are shrunk where a class has fewer than five images for each feature.

    Args:
        settings (Settings): Of the classifier.
        splits (Splits): Its data.
        batch_size (int): Of the training.
        device (torch.device): Where to train.
        show_progress (bool or None): Draw progress bars.
        with_density (bool, optional): Fit a density. Default: True

    Returns:
        Checkpoint: With the measured accuracy in its settings.
    """
    model, history = continue_training(settings, splits, batch_size, device, show_progress)
    report = f"Trained in {sum(history.seconds):.1f} s on {len(splits.train):,} images"
    density = None
    if with_density:
        started = time.perf_counter()
        density = ClassGaussianMixture.fit_loader(
            model,
            settings.layer,
            splits.train.batches(),
            show_progress=show_progress,
            covariance_type="full",
            regularization=_regularization(model, settings.layer, splits.train),
        )
        report += f", density fitted in {time.perf_counter() - started:.1f} s"
    measured = replace(settings, accuracy=training.accuracy(model, splits.test))
    print(report)
    print(describe_classifier(measured, len(splits.test)))
    return Checkpoint(model.eval(), density, measured)


def _regularization(model: nn.Module, layer: str, data: datasets.ImageData) -> str:
    """Shrinkage where a class has fewer than five images for each feature; else the paper's."""
    device = next(model.parameters()).device
    with torch.no_grad(), FrozenModel(model, layer) as frozen:
        _, features = frozen(data.images[:1].to(device))
    return "oas" if int(data.target.bincount().min()) < 5 * features.shape[1] else "jitter"


def obtain_classifier(
    settings: Settings,
    splits: datasets.Splits,
    batch_size: int,
    device: torch.device,
    show_progress: bool | None,
    *,
    with_density: bool = True,
    retrain: bool = False,
) -> Checkpoint:
    """Reuse the classifier that was kept for these settings, or :func:`fit_classifier` and keep it.

    Args:
        settings (Settings): Of the classifier; they name the file, see
            :func:`captum_deduce.zoo.cache_path`.
        splits (Splits): Its data. The settings' ``dataset`` and ``seed`` must tell them from any
            other.
        batch_size (int): Of the training.
        device (torch.device): Where to train, and where the classifier goes.
        show_progress (bool or None): Draw progress bars.
        with_density (bool, optional): A density is needed; a classifier that was kept without one
            is trained anew. Default: True
        retrain (bool, optional): Train even if a classifier, or a part of its training, is kept.
            Default: False

    Returns:
        Checkpoint: In eval mode.
    """
    if retrain:
        forget_training(settings, batch_size)

    def load(path: Path) -> Checkpoint:
        checkpoint = load_checkpoint(path, device)
        if with_density and checkpoint.density is None:
            raise ValueError(f"{path} holds no density")
        print(describe_classifier(checkpoint.settings, len(splits.test)))
        return checkpoint

    def make() -> Checkpoint:
        return fit_classifier(
            settings, splits, batch_size, device, show_progress, with_density=with_density
        )

    def save(path: Path, checkpoint: Checkpoint) -> None:
        save_checkpoint(path, checkpoint)
        forget_training(settings, batch_size)

    return cache.obtain(
        cache_path(settings),
        "classifier",
        load=load,
        make=make,
        save=save,
        retrain=retrain,
    )


def describe_classifier(settings: Settings, num_test_images: int) -> str:
    """Describe a trained classifier in a line.

    Args:
        settings (Settings): With the accuracy.
        num_test_images (int): On how many images it was measured.

    Returns:
        str: The line.
    """
    means = [settings.augmentation] if settings.augmentation else []
    if settings.noise:
        means.append(f"noise up to {settings.noise:g}")
    if settings.adversarial:
        means.append(f"adversarial steps up to {settings.adversarial:g}")
    return (
        f"Classifier: {settings.architecture} of width {settings.arguments['width']}, "
        f"{settings.epochs} epoch{'' if settings.epochs == 1 else 's'} on "
        f"{settings.dataset}{' with ' if means else ''}{', '.join(means)}: "
        f"{settings.accuracy:.2%} of {num_test_images:,} test images right"
    )
