"""The short training loop for models that reconstruct images."""

from __future__ import annotations

from statistics import fmean

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Adam
from tqdm import tqdm

from captum_deduce import checks
from captum_deduce.training import training_mode


def train_autoencoder(
    model: nn.Module,
    images: Tensor,
    *,
    epochs: int = 4,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: torch.device | str | None = None,
    show_progress: bool = False,
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
        show_progress (bool, optional): Whether to show a progress bar. Default: False

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
    generator = torch.Generator().manual_seed(seed)
    history = []
    steps = epochs * -(-len(images) // batch_size)
    with (
        tqdm(total=steps, desc="autoencoder", unit="batch", disable=not show_progress) as progress,
        training_mode(model),
    ):
        for _ in range(epochs):
            errors = []
            order = torch.randperm(len(images), generator=generator)
            for rows in torch.split(order, batch_size):
                errors.append(_descend(model, optimizer, images[rows].to(place)))
                progress.set_postfix_str(f"error {errors[-1]:.2e}", refresh=False)
                progress.update()
            history.append(fmean(errors))
    return history


def _descend(model: nn.Module, optimizer: Adam, images: Tensor) -> float:
    """Take one step; return the error before it."""
    reconstructions = model(images)
    if reconstructions.shape != images.shape:
        raise ValueError(
            f"model must return images of the shape that it was given, {tuple(images.shape)}, got "
            f"{tuple(reconstructions.shape)}"
        )
    error = mse_loss(reconstructions, images)
    if not torch.isfinite(error):
        raise RuntimeError(
            f"the reconstruction error became {error.item()}; try a smaller learning_rate than "
            f"{optimizer.param_groups[0]['lr']:g}"
        )
    optimizer.zero_grad()
    torch.autograd.backward(error)
    optimizer.step()
    return error.item()
