"""A short training loop for classifiers of images that fit in memory."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel, device_of, modules_of
from captum_deduce.datasets import ImageData
from captum_deduce.progress import bar

SCHEDULES = ("one-cycle", "steps")
"""How the learning rate may change during a training, see :func:`train_classifier`."""

_WARM_UP = 0.2


@dataclass(frozen=True)
class TrainingHistory:
    """What happened in each epoch: every list has one value per epoch.

    Args:
        loss (list[float]): Mean cross-entropy of the training batches, in nats.
        accuracy (list[float]): Share of right predictions in the training batches, with the weights
            as they were at each batch.
        validation_accuracy (list[float]): Share of right predictions on the validation images after
            the epoch, in eval mode; empty without validation images.
        seconds (list[float]): Wall time of the training, without the validation.
    """

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train_classifier(
    model: nn.Module,
    train: ImageData,
    *,
    epochs: int,
    validation: ImageData | None = None,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    schedule: str = "one-cycle",
    noise: float = 0.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    show_progress: bool | None = None,
) -> TrainingHistory:
    r"""Train a classifier by stochastic gradient descent on the cross-entropy.

    With ``schedule="steps"`` the learning rate drops to a tenth after half of the training and
    again after four fifths: at 50 epochs the published 25 and 40. ``"one-cycle"`` is for few
    epochs: it rises linearly over the first fifth, then falls to 0 along half a cosine.

    With ``noise`` every image is disturbed anew each time it is seen, by Gaussian noise whose
    standard deviation is drawn uniformly from 0 to ``noise`` for that image, and is not clipped.
    The gradients of a classifier trained so follow what people see rather than what only the
    classifier does, and counterfactuals of it are far more often seen as the target class by
    others (Kaur, Cohen and Lipton, "Are Perceptually-Aligned Gradients a General Property of Robust
    Classifiers?", 2019).

    The images are shuffled in each epoch. A last batch that would be short is left out, so that
    batch norm sees batches of one size.

    Args:
        model (nn.Module): Returns logits, N x C. Trained in place, and moved to ``device``; each
            module's mode is restored, and gradients are cleared. After an error or Ctrl-C it keeps
            the weights that it has reached.
        train (ImageData): The training images.
        epochs (int): How often the images are gone through.
        validation (ImageData, optional): Images on which to measure the accuracy after each epoch.
            Default: None
        batch_size (int, optional): Images per step. Default: 128
        learning_rate (float, optional): The highest of the schedule. Default: 0.1
        momentum (float, optional): From 0 to 1. Default: 0.9
        weight_decay (float, optional): Times each weight, added to its gradient. Default: 5e-4
        schedule (str, optional): One of :data:`SCHEDULES`. Default: ``"one-cycle"``
        noise (float, optional): The largest standard deviation of the noise, in the images' units.
            Default: 0.0 (none)
        seed (int, optional): Of the shuffles and the noise. Torch's global generator is left alone;
            what the model draws itself, as dropout does, comes from there. Default: 0
        device (torch.device or str, optional): Where to train. Default: where the model is
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        TrainingHistory: Loss, accuracies and seconds per epoch.

    Raises:
        TypeError: A hyper-parameter of the wrong kind.
        ValueError: A hyper-parameter out of its range, no parameters to train, or fewer than two
            training images.
        RuntimeError: The loss became infinite or NaN.

    Examples::

        >>> from captum_deduce.datasets import load_digits
        >>> train, validation, test = load_digits()
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> history = train_classifier(model, train, epochs=3, validation=validation)
        >>> history.validation_accuracy[-1] > 0.8
        True
    """
    checks.number("epochs", epochs, minimum=1, integer=True)
    checks.number("batch_size", batch_size, minimum=2, integer=True)
    checks.number("learning_rate", learning_rate, minimum=0)
    checks.number("momentum", momentum, minimum=0, maximum=1)
    checks.number("weight_decay", weight_decay, minimum=0)
    checks.choice("schedule", schedule, SCHEDULES)
    checks.number("noise", noise, minimum=0)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters or len(train) < 2:
        raise ValueError(
            "model must have parameters that require a gradient, and train at least 2 images, got "
            f"{len(parameters)} such parameters and {len(train)} images"
        )
    model.to(device)
    optimizer = SGD(parameters, momentum=momentum, weight_decay=weight_decay)
    steps = max(len(train) // batch_size, 1)
    generator = torch.Generator().manual_seed(seed)
    history = TrainingHistory()
    progress = bar(total=epochs * steps, unit="batch", show_progress=show_progress)
    with progress, training_mode(model):
        for epoch in range(epochs):
            progress.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
            started = time.perf_counter()
            losses, hits = [], []
            order = torch.randperm(len(train), generator=generator)[: steps * batch_size]
            for step, indices in enumerate(torch.split(order, batch_size), epoch * steps):
                rate = learning_rate * _rate_factor(schedule, (step + 0.5) / (epochs * steps))
                optimizer.param_groups[0]["lr"] = rate
                batch = train[indices]
                if noise:
                    batch = replace(batch, images=_disturbed(batch.images, noise, generator))
                loss, hit = _descend(model, optimizer, batch)
                if not math.isfinite(loss):
                    raise RuntimeError(
                        f"the training loss became {loss} in epoch {epoch + 1}, at a learning rate "
                        f"of {rate:.2g}; try a smaller learning_rate than {learning_rate:g}"
                    )
                losses.append(loss)
                hits.append(hit)
                progress.set_postfix_str(f"loss {loss:.3f}, accuracy {hit:.1%}", refresh=False)
                progress.update()
            history.seconds.append(time.perf_counter() - started)
            history.loss.append(fmean(losses))
            history.accuracy.append(fmean(hits))
            if validation is not None:
                history.validation_accuracy.append(accuracy(model, validation))
    return history


def predict(model: Callable[..., Any], images: Tensor, batch_size: int = 500) -> Tensor:
    """Return a classifier's logits in eval mode, without gradients; the model is left as it was.

    Args:
        model (Callable or nn.Module): N inputs to N x C logits: a module, or a function or learner
            object that calls one. Images go to its device where it names its modules.
        images (Tensor): N x channels x height x width, on any device.
        batch_size (int, optional): Images per forward pass. Default: 500

    Returns:
        Tensor: N x C, on the images' device.

    Raises:
        TypeError: A model that can't be called.
        ValueError: No images, or a model that returns something other than N x C scores.
    """
    checks.images(images)
    checks.callable_model("model", model)
    device = device_of(modules_of(model), images.device)
    with torch.no_grad(), FrozenModel(model) as frozen:
        logits = [frozen(batch.to(device))[0] for batch in torch.split(images, batch_size)]
    return torch.cat(logits).to(images.device)


def accuracy(model: Callable[..., Any], data: ImageData, batch_size: int = 500) -> float:
    """Return the share of images that a classifier gets right, in eval mode.

    Args:
        model (Callable or nn.Module): As for :func:`predict`; left as it was.
        data (ImageData): Images with their classes.
        batch_size (int, optional): Images per forward pass. Default: 500

    Returns:
        float: From 0 to 1.
    """
    right = predict(model, data.images, batch_size).argmax(1) == data.target
    return right.double().mean().item()


def _disturbed(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise whose strength differs from image to image."""
    strength = noise * torch.rand(len(images), *[1] * (images.dim() - 1), generator=generator)
    drawn = torch.randn(images.shape, generator=generator)
    return images + (strength * drawn).to(images)


def _descend(model: nn.Module, optimizer: SGD, batch: ImageData) -> tuple[float, float]:
    """Take a step, unless the loss isn't finite; return the loss and the share of hits before."""
    device = optimizer.param_groups[0]["params"][0].device
    target = batch.target.to(device)
    logits = model(batch.images.to(device))
    loss = cross_entropy(logits, target)
    hit = (logits.argmax(1) == target).float().mean()
    if torch.isfinite(loss):
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return loss.item(), hit.item()


def _rate_factor(schedule: str, progress: float) -> float:
    """Return the learning rate's share of its highest, for a progress between 0 and 1."""
    if schedule == "steps":
        return 1.0 if progress < 0.5 else 0.1 if progress < 0.8 else 0.01
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return 0.5 + 0.5 * math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP))


@contextmanager
def training_mode(model: nn.Module) -> Iterator[None]:
    """Train a model in the ``with`` block; then restore each module's mode and clear gradients.

    Args:
        model (nn.Module): The model.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.train()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        model.zero_grad()
