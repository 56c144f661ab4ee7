"""The short training loop for models that reconstruct images, all classes' or one's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Adam

from captum_deduce import checks
from captum_deduce.models import VAE
from captum_deduce.progress import bar
from captum_deduce.training.classifiers import training_mode

_Losses = Callable[[Tensor, float], tuple[Tensor, Tensor]]
"""Images and the share of the training that is done, to the loss to descend on and the one to
report."""


def train_autoencoder(
    model: nn.Module,
    images: Tensor,
    *,
    epochs: int = 4,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str | None = None,
    show_progress: bool | None = None,
) -> list[float]:
    """Train an autoencoder with Adam on the mean squared error of its reconstructions.

    Defaults are those that the authors of VLK use for MNIST; few images need more epochs.

    Args:
        model (nn.Module): N images to N images of the same shape, as
            :class:`~captum_deduce.models.Autoencoder`. Trained in place, and moved to ``device``;
            each module's mode is restored, and gradients are cleared.
        images (Tensor): N x channels x height x width.
        epochs (int, optional): How often the images are gone through. Default: 4
        batch_size (int, optional): Images per step; the last batch may be smaller. Default: 128
        learning_rate (float, optional): Of Adam. Default: 1e-3
        seed (int, optional): Of the shuffles. Torch's global generator is left alone. Default: 0
        device (torch.device or str, optional): Where to train. Default: where the model is
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        list[float]: Mean squared error of the training batches in each epoch.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A number out of its range, no parameters to train, or reconstructions of another
            shape than the images.
        RuntimeError: The error became infinite or NaN.

    Examples::

        >>> from captum_deduce.datasets import load_digits
        >>> from captum_deduce.models import Autoencoder
        >>> train, _, _ = load_digits()
        >>> errors = train_autoencoder(Autoencoder(image_size=8), train.images, epochs=3)
        >>> errors[0] > errors[1] > errors[2]
        True
    """

    def error(batch: Tensor, done: float) -> tuple[Tensor, Tensor]:
        reconstructions = model(batch)
        if reconstructions.shape != batch.shape:
            raise ValueError(
                "model must return images of the shape that it was given, "
                f"{tuple(batch.shape)}, got {tuple(reconstructions.shape)}"
            )
        mean = mse_loss(reconstructions, batch)
        return mean, mean

    return _train(
        model,
        images,
        error,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        generator=torch.Generator().manual_seed(seed),
        device=device,
        description="autoencoder",
        show_progress=show_progress,
    )


def train_class_autoencoders(
    autoencoders: Sequence[nn.Module],
    images: Tensor,
    target: Tensor,
    *,
    epochs: int = 30,
    show_progress: bool | None = None,
    **settings: Any,
) -> list[list[float]]:
    """Train an autoencoder for each class on the images of that class alone.

    :class:`~captum_deduce.metrics.IM1` and :class:`~captum_deduce.metrics.IM2` need them. They live
    here as those metrics take any models from images to images and train none.

    Args:
        autoencoders (Sequence[nn.Module]): One per class, in the classes' order; each is trained
            in place, as :func:`train_autoencoder` does it.
        images (Tensor): N x channels x height x width, of all classes.
        target (Tensor): N classes, integers.
        epochs (int, optional): How often each class's images are gone through; as these are few,
            more than for an autoencoder of all classes. Default: 30
        show_progress (bool, optional): Draw a progress bar over the classes.
            Default: None (after two seconds, in a terminal or a notebook)
        **settings (Any): ``batch_size``, ``learning_rate``, ``seed`` and ``device``, as for
            :func:`train_autoencoder`.

    Returns:
        list[list[float]]: For each class the mean squared error of its batches in each epoch.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A class without images or without autoencoder, or what
            :func:`train_autoencoder` refuses.
        RuntimeError: The error became infinite or NaN.

    Examples::

        >>> from captum_deduce.datasets import load_digits
        >>> from captum_deduce.models import Autoencoder
        >>> train, _, _ = load_digits()
        >>> autoencoders = [Autoencoder(image_size=8, hidden_channels=4) for _ in range(10)]
        >>> errors = train_class_autoencoders(autoencoders, train.images, train.target, epochs=2)
        >>> len(errors), all(first > last for first, last in errors)
        (10, True)
    """
    checks.images(images)
    if not isinstance(target, Tensor) or target.shape != (len(images),):
        shape = tuple(target.shape) if isinstance(target, Tensor) else type(target).__name__
        raise ValueError(f"target must hold one class per image ({len(images)}), got {shape}")
    classes = checks.targets(target, len(images), len(autoencoders))
    empty = [index for index in range(len(autoencoders)) if not (classes == index).any()]
    if empty:
        raise ValueError(f"target must have images of every class, got none of class(es) {empty}")
    return [
        train_autoencoder(
            autoencoder,
            images[classes == index],
            epochs=epochs,
            show_progress=False,
            **settings,
        )
        for index, autoencoder in enumerate(
            bar(autoencoders, desc="class autoencoders", show_progress=show_progress)
        )
    ]


def train_vae(
    model: VAE,
    images: Tensor,
    *,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    kl_weight: float = 1.0,
    annealing: float = 0.5,
    seed: int = 0,
    device: torch.device | str | None = None,
    show_progress: bool | None = None,
) -> list[float]:
    r"""Train a variational autoencoder with Adam on its negative evidence lower bound.

    The divergence's weight rises linearly from 0 to ``kl_weight`` over the first part of the
    training (Bowman et al., *Generating Sentences from a Continuous Space*, 2016), so that the
    latents learn to say something before they are drawn towards their prior.

    Args:
        model (VAE): Trained in place, and moved to ``device``; each module's mode is restored, and
            gradients are cleared.
        images (Tensor): N x channels x height x width, in [0, 1].
        epochs (int, optional): How often the images are gone through. Default: 20
        batch_size (int, optional): Images per step; the last batch may be smaller. Default: 128
        learning_rate (float, optional): Of Adam. Default: 1e-3
        kl_weight (float, optional): What the divergence weighs in the end; above 1, images are
            drawn less sharply from smoother latents. Default: 1.0
        annealing (float, optional): The share of the training in which the weight rises; 0: it is
            ``kl_weight`` from the start. Default: 0.5
        seed (int, optional): Of the shuffles and of the latents' samples. Torch's global generator
            is left alone. Default: 0
        device (torch.device or str, optional): Where to train. Default: where the model is
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        list[float]: Negative evidence lower bound of the training batches in each epoch, in nats
        per image, with the divergence's final weight throughout.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A number out of its range, no parameters to train, or images outside [0, 1].
        RuntimeError: The loss became infinite or NaN.

    Examples::

        >>> from captum_deduce.datasets import load_digits
        >>> train, _, _ = load_digits()
        >>> vae = VAE(image_size=8, latent_size=8, hidden_channels=8)
        >>> losses = train_vae(vae, train.images, epochs=3)
        >>> losses[0] > losses[1] > losses[2]
        True
    """
    if not isinstance(model, VAE):
        raise TypeError(f"model must be a VAE, got {type(model).__name__}")
    checks.images(images)
    checks.number("kl_weight", kl_weight, minimum=0)
    checks.number("annealing", annealing, minimum=0, maximum=1)
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got values from {images.min().item():g} to "
            f"{images.max().item():g}"
        )
    generator = torch.Generator().manual_seed(seed)

    def negative_elbo(batch: Tensor, done: float) -> tuple[Tensor, Tensor]:
        reconstruction, divergence = (term.mean() for term in model.negative_elbo(batch, generator))
        weight = kl_weight * (1.0 if done >= annealing else done / annealing)
        return reconstruction + weight * divergence, reconstruction + kl_weight * divergence

    return _train(
        model,
        images,
        negative_elbo,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        generator=generator,
        device=device,
        description="VAE",
        show_progress=show_progress,
    )


def _train(
    model: nn.Module,
    images: Tensor,
    losses_of: _Losses,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    device: torch.device | str | None,
    description: str,
    show_progress: bool | None,
) -> list[float]:
    """Go through shuffled images with Adam; return the mean reported loss of each epoch."""
    checks.images(images)
    checks.number("epochs", epochs, minimum=1, integer=True)
    checks.number("batch_size", batch_size, minimum=1, integer=True)
    checks.number("learning_rate", learning_rate, minimum=0, exclusive=True)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("model must have parameters that require a gradient, got none")
    model.to(device)
    place = parameters[0].device
    optimizer = Adam(parameters, lr=learning_rate)
    history: list[float] = []
    steps = epochs * -(-len(images) // batch_size)
    done = 0
    progress = bar(total=steps, desc=description, unit="batch", show_progress=show_progress)
    with progress, training_mode(model):
        for _ in range(epochs):
            reported = []
            order = torch.randperm(len(images), generator=generator)
            for rows in torch.split(order, batch_size):
                loss, shown = losses_of(images[rows].to(place), done / steps)
                reported.append(_descend(optimizer, loss, shown))
                progress.set_postfix_str(f"loss {reported[-1]:.3g}", refresh=False)
                progress.update()
                done += 1
            history.append(fmean(reported))
    return history


def _descend(optimizer: Adam, loss: Tensor, shown: Tensor) -> float:
    """Take one step; return the loss to report."""
    if not torch.isfinite(loss):
        raise RuntimeError(
            f"the loss became {loss.item()}; try a smaller learning_rate than "
            f"{optimizer.param_groups[0]['lr']:g}"
        )
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return shown.item()
