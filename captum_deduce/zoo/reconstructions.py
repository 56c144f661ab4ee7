"""``captum-deduce train --model``: models that reconstruct or draw images, each in its own file."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from captum_deduce import datasets
from captum_deduce.models import VAE, WGAN, Autoencoder, StoredModel
from captum_deduce.storage import cache
from captum_deduce.training import train_autoencoder, train_vae, train_wgan
from captum_deduce.zoo.recipes import ReconstructionRecipe
from captum_deduce.zoo.threads import torch_threads

RECONSTRUCTION_MODELS: dict[str, tuple[type[StoredModel], Callable[..., list[float]]]] = {
    "autoencoder": (Autoencoder, train_autoencoder),
    "vae": (VAE, train_vae),
    "wgan": (WGAN, train_wgan),
}
"""What can be trained, by the names of the command line, and what trains it."""


def fit_reconstruction(
    name: str,
    splits: datasets.Splits,
    recipe: ReconstructionRecipe,
    seed: int,
    device: torch.device,
    show_progress: bool | None,
) -> StoredModel:
    """Train a model, measure it on the test images, and say how it went.

    Args:
        name (str): One of :data:`RECONSTRUCTION_MODELS`.
        splits (Splits): Its data.
        recipe (ReconstructionRecipe): How to train it.
        seed (int): Of weights and training.
        device (torch.device): Where to train.
        show_progress (bool or None): Draw a progress bar.

    Returns:
        StoredModel: In eval mode.
    """
    build, train = RECONSTRUCTION_MODELS[name]
    images = splits.train.images
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(in_channels=images.shape[1], image_size=tuple(images.shape[2:])).eval()
    started = time.perf_counter()
    with torch_threads(recipe.threads):
        train(
            model,
            images,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            seed=seed,
            device=device,
            show_progress=show_progress,
        )
        print(f"Trained in {time.perf_counter() - started:.1f} s on {len(images):,} images")
        if isinstance(model, WGAN):
            quality = _distance(model, splits, seed, device)
        else:
            quality = _error(model, splits, device)
        print(f"{build.__name__}: {quality}")
    return model


def obtain_reconstruction(
    name: str,
    dataset: str,
    splits: datasets.Splits,
    recipe: ReconstructionRecipe,
    seed: int,
    device: torch.device,
    show_progress: bool | None,
    *,
    retrain: bool = False,
) -> StoredModel:
    """Reuse what was kept for this data and recipe, or :func:`fit_reconstruction` and keep it.

    Args:
        name (str): One of :data:`RECONSTRUCTION_MODELS`.
        dataset (str): What the data are called; with ``seed`` it must tell them from any other.
        splits (Splits): The data.
        recipe (ReconstructionRecipe): How to train it.
        seed (int): Of weights and training.
        device (torch.device): Where to train, and where the model goes.
        show_progress (bool or None): Draw a progress bar.
        retrain (bool, optional): Train even if a model is kept. Default: False

    Returns:
        StoredModel: In eval mode.
    """
    kind = RECONSTRUCTION_MODELS[name][0]

    def load(path: Path) -> StoredModel:
        model = kind.load(path, device)
        epochs = f"{recipe.epochs} epoch{'' if recipe.epochs == 1 else 's'}"
        print(f"{kind.__name__}: {epochs} on {dataset}")
        return model

    settings = {
        **asdict(recipe),
        "threads": None,  # they change no result but for rounding
        "model": name,
        "dataset": dataset,
        "image_shape": list(splits.train.images.shape[1:]),
        "seed": seed,
    }
    return cache.obtain(
        cache.path_for(f"{dataset}-{name}", settings),
        kind.__name__,
        load=load,
        make=lambda: fit_reconstruction(name, splits, recipe, seed, device, show_progress),
        save=lambda path, model: model.save(path),
        retrain=retrain,
    )


@torch.no_grad()
def _error(model: StoredModel, splits: datasets.Splits, device: torch.device) -> str:
    test, mean_image = splits.test.images, splits.train.images.mean(0)
    drawn = torch.cat([model(batch.to(device)).cpu() for batch in torch.split(test, 500)])
    return (
        f"mean squared error on {len(test):,} test images: {mse_loss(drawn, test):.2g} (of the "
        f"mean training image in their place: {mse_loss(mean_image.expand_as(test), test):.2g})"
    )


@torch.no_grad()
def _distance(model: WGAN, splits: datasets.Splits, seed: int, device: torch.device) -> str:
    def verdict(images: Tensor) -> float:
        parts = [model.judge(batch.to(device)).double() for batch in torch.split(images, 500)]
        return torch.cat(parts).mean().item()

    test = splits.test.images
    source = torch.Generator().manual_seed(seed)
    latents = torch.randn(len(test), model.latent_size, generator=source)
    drawn = torch.cat([model.generate(batch.to(device)) for batch in torch.split(latents, 500)])
    return (
        f"the critic's estimate of the Wasserstein distance from {len(test):,} test images: "
        f"{verdict(test) - verdict(drawn):.2g} (of training images in the drawn ones' place: "
        f"{verdict(test) - verdict(splits.train.images[: len(test)]):.2g})"
    )
