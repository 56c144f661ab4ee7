"""A short training loop for classifiers of images that fit in memory."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel, device_of, modules_of
from captum_deduce.datasets import ImageData
from captum_deduce.progress import bar
from captum_deduce.training.checkpoint import (
    TrainingCheckpoint,
    TrainingState,
    describe_function,
    describe_images,
)
from captum_deduce.training.disturbance import Disturbance
from captum_deduce.training.history import TrainingHistory

SCHEDULES = ("one-cycle", "steps")
"""How the learning rate may change during a training, see :func:`train_classifier`."""

_WARM_UP = 0.2


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
    augment: Callable[[Tensor], Any] | None = None,
    noise: float = 0.0,
    adversarial: float = 0.0,
    bfloat16: bool = False,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    epochs_now: int | None = None,
    device: torch.device | str | None = None,
    show_progress: bool | None = None,
) -> TrainingHistory:
    r"""Train a classifier by stochastic gradient descent on the cross-entropy.

    With ``schedule="steps"`` the learning rate drops to a tenth after half of the training and
    again after four fifths: at 50 epochs the published 25 and 40. ``"one-cycle"`` is for few
    epochs: it rises linearly over the first fifth, then falls to 0 along half a cosine.

    Every image may be disturbed anew each time it is seen: first by ``augment``, then by ``noise``,
    then by an ``adversarial`` step from there. Neither of the last two is clipped.

    With ``noise`` Gaussian noise is added, whose standard deviation is drawn uniformly from 0 to
    ``noise`` for that image. The gradients of a classifier trained so follow what people see rather
    than what only the classifier does, and counterfactuals of it are far more often seen as the
    target class by others (Kaur, Cohen and Lipton, "Are Perceptually-Aligned Gradients a General
    Property of Robust Classifiers?", 2019).

    With ``adversarial`` each image takes one step along the gradient of its loss,

    .. math:: \mathbf x + r\, \frac{\nabla_{\mathbf x}\, \ell}{\|\nabla_{\mathbf x}\, \ell\|_2}

    (Goodfellow, Shlens and Szegedy, "Explaining and Harnessing Adversarial Examples", 2015, in the
    L2 norm, as Miyato, Dai and Goodfellow, "Adversarial Training Methods for Semi-Supervised Text
    Classification", 2017, have it), where Madry et al., "Towards Deep Learning Models Resistant to
    Adversarial Attacks", 2018, take several projected steps. Classifiers trained so have gradients
    that people can read, too (Engstrom et al., "Adversarial Robustness as a Prior for Learned
    Representations", 2019). As the noise's strength, :math:`r` is drawn uniformly from 0 to
    ``adversarial`` for each image: the classifier sees images that are all but clean, which keeps
    its accuracy on these, and no single length at which a one-step training could learn to hide its
    gradient. The step is found in eval mode, as in Engstrom et al.'s "Robustness" library. So batch
    norm counts only the images that are trained on, each of them once, power iterations of spectral
    normalisation go on once a batch, and dropout is left to the training pass. It takes up to as
    long as the training pass itself.

    With ``bfloat16`` convolutions and matrix products are computed in that type, with images that
    lie channels last, by :class:`torch.autocast`. Weights, loss, spectral normalisation and the
    accuracies stay in the model's own type. Processors and GPUs that compute in bfloat16 take about
    half the time; others may take longer.

    With ``checkpoint`` the training is kept in a file after every epoch: weights, momenta,
    generators and history. Where the file is there, the training goes on from it, to the bit as if
    it had never been interrupted, on the same machine with the same version of PyTorch and as many
    threads. The model's own weights are then replaced, and a finished training returns at once. The
    file stays when all is done. It is a safetensors file, and nothing is ever unpickled.

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
        augment (Callable, optional): From one image, channels x height x width on the CPU, to
            another of the same shape and type, drawn from torch's global generator, which is seeded
            for it and put back: a transform of torchvision's ``transforms.v2``, or one of
            :func:`make_augmentation`. Default: None
        noise (float, optional): The largest standard deviation of the noise, in the images' units.
            Default: 0.0 (none)
        adversarial (float, optional): The largest L2 length of an adversarial step, in the images'
            units. Default: 0.0 (none)
        bfloat16 (bool, optional): Compute in bfloat16 where it is safe. Default: False
        seed (int, optional): Of the shuffles and of what disturbs the images. Torch's global
            generator is left alone; what the model draws itself, as dropout does, comes from there.
            Default: 0
        checkpoint (path, optional): The file to keep the training in and to go on from, by
            convention ``*.safetensors``; a folder that is missing is made. Where it can't be
            written, a warning says so and the training goes on. Default: None
        epochs_now (int, optional): Stop after so many more epochs, of ``epochs`` in all; the next
            call goes on from the ``checkpoint``. Default: None (after the last)
        device (torch.device or str, optional): Where to train. Default: where the model is
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        TrainingHistory: Loss, accuracies and seconds per epoch, of all that are done.

    Raises:
        TypeError: A hyper-parameter of the wrong kind, or an ``augment`` that returns no tensor of
            the image's type.
        ValueError: A hyper-parameter out of its range, no parameters to train, fewer than two
            training images, an ``augment`` that returns another shape, ``epochs_now`` without
            ``checkpoint``, or a file that is damaged, or of other settings, images or another
            model; the message names both.
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
    checks.flag("bfloat16", bfloat16)
    if epochs_now is not None:
        checks.number("epochs_now", epochs_now, minimum=1, integer=True)
        if checkpoint is None:
            raise ValueError(
                f"epochs_now needs a checkpoint to go on from, got {epochs_now} and checkpoint=None"
            )
    disturbance = Disturbance(augment, noise, adversarial)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters or len(train) < 2:
        raise ValueError(
            "model must have parameters that require a gradient, and train at least 2 images, got "
            f"{len(parameters)} such parameters and {len(train)} images"
        )
    disturbance.check(train.images)
    kept = None
    if checkpoint is not None:
        settings = {
            "train": describe_images(train),
            "validation": None if validation is None else describe_images(validation),
            "epochs": int(epochs),
            "batch_size": int(batch_size),
            "learning_rate": float(learning_rate),
            "momentum": float(momentum),
            "weight_decay": float(weight_decay),
            "schedule": schedule,
            "augment": describe_function(augment),
            "noise": float(noise),
            "adversarial": float(adversarial),
            "bfloat16": bfloat16,
            "seed": int(seed),
        }
        kept = TrainingCheckpoint(checkpoint, model, settings)
    model.to(device)
    state = TrainingState(
        model,
        SGD(parameters, momentum=momentum, weight_decay=weight_decay),
        torch.Generator().manual_seed(seed),
        TrainingHistory(),
        parameters[0].device,
    )
    history, steps = state.history, max(len(train) // batch_size, 1)
    with ExitStack() as held:
        held.enter_context(training_mode(model))
        if kept is not None:
            held.enter_context(kept.resumed(state))
        done = len(history.loss)
        last = epochs if epochs_now is None else min(epochs, done + epochs_now)
        progress = bar(total=last * steps, unit="batch", show_progress=show_progress)
        # So that the time left is that of the epochs of this call.
        progress.initial = progress.n = done * steps
        held.enter_context(progress)
        for epoch in range(done, last):
            progress.set_description(f"epoch {epoch + 1}/{epochs}", refresh=False)
            started = time.perf_counter()
            rates = [
                learning_rate * _rate_factor(schedule, (step + 0.5) / (epochs * steps))
                for step in range(epoch * steps, (epoch + 1) * steps)
            ]
            loss, hits = _train_epoch(
                state, disturbance, train, batch_size, rates, bfloat16, progress
            )
            history.seconds.append(time.perf_counter() - started)
            history.loss.append(loss)
            history.accuracy.append(hits)
            if validation is not None:
                history.validation_accuracy.append(accuracy(model, validation))
            if kept is not None:
                kept.write(state)
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


def _train_epoch(
    state: TrainingState,
    disturbance: Disturbance,
    train: ImageData,
    batch_size: int,
    rates: list[float],
    bfloat16: bool,
    progress: Any,
) -> tuple[float, float]:
    """Go through the images once, a step for each learning rate; return mean loss and hits."""
    order = torch.randperm(len(train), generator=state.generator)[: len(rates) * batch_size]
    losses, hits = [], []
    for rate, rows in zip(rates, torch.split(order, batch_size), strict=True):
        state.optimizer.param_groups[0]["lr"] = rate
        # not `enabled=False`, which would end an autocast of the caller's own
        precision = torch.autocast(state.device.type, torch.bfloat16) if bfloat16 else nullcontext()
        with precision:
            images, target = disturbance(state.model, train[rows], state.generator, state.device)
            if bfloat16:
                images = images.to(memory_format=torch.channels_last)
            logits = state.model(images).to(images.dtype)
        loss, hit = _descend(state.optimizer, logits, target)
        if not math.isfinite(loss):
            raise RuntimeError(
                f"the training loss became {loss} in epoch {len(state.history.loss) + 1}, at a "
                f"learning rate of {rate:.2g}; try a smaller learning_rate"
            )
        losses.append(loss)
        hits.append(hit)
        progress.set_postfix_str(f"loss {loss:.3f}, accuracy {hit:.1%}", refresh=False)
        progress.update()
    return fmean(losses), fmean(hits)


def _descend(optimizer: Optimizer, logits: Tensor, target: Tensor) -> tuple[float, float]:
    """Take a step, unless the loss isn't finite; return the loss and the share of hits before."""
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
