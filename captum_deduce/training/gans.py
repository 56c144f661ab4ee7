"""The short training loop for Wasserstein GANs."""

from __future__ import annotations

import math
from statistics import fmean

import torch
from torch import Tensor, nn
from torch.optim import Adam

from captum_deduce import checks
from captum_deduce.models import WGAN
from captum_deduce.progress import bar
from captum_deduce.training.classifiers import training_mode

_BETAS = (0.0, 0.9)
"""Of Adam, for both networks, as Gulrajani et al. set them."""


def train_wgan(
    model: WGAN,
    images: Tensor,
    *,
    epochs: int = 20,
    batch_size: int = 64,
    learning_rate: float = 3e-4,
    critic_steps: int = 5,
    penalty_weight: float = 10.0,
    seed: int = 0,
    device: torch.device | str | None = None,
    show_progress: bool | None = None,
) -> list[float]:
    r"""Train generator and critic against one another, with a gradient penalty.

    The critic D descends on (Gulrajani et al., *Improved Training of Wasserstein GANs*, 2017)

    .. math::
        \mathbb E\, D(G(\mathbf z)) - \mathbb E\, D(\mathbf x)
        + \lambda\, \mathbb E\, (\|\nabla D(\hat{\mathbf x})\|_2 - 1)^2

    with :math:`\hat{\mathbf x}` evenly distributed between a real image and a drawn one; after
    every ``critic_steps`` of its steps the generator takes one, on :math:`-\mathbb E\, D(G(\mathbf
    z))`. The penalty wants a critic that judges each image alone: the critic's batch norms stay in
    eval mode throughout, as a scale and a shift for each channel that are learnt; together with the
    spectrally normalised weights they decide how steep it is. The learning rate of both falls
    linearly to 0, so that the last batches do not decide.

    Args:
        model (WGAN): Trained in place, and moved to ``device``; each module's mode is restored, and
            gradients are cleared.
        images (Tensor): N x channels x height x width, in [0, 1].
        epochs (int, optional): How often the critic goes through the images. Default: 20
        batch_size (int, optional): Images per step, real and drawn ones each. A last batch that
            would be short is left out, so that batch norm sees batches of one size. Default: 64
        learning_rate (float, optional): Of Adam, at the start. Default: 3e-4
        critic_steps (int, optional): Steps of the critic for each of the generator. Default: 5
        penalty_weight (float, optional): :math:`\lambda`. Default: 10.0
        seed (int, optional): Of the shuffles and of what is drawn. Torch's global generator is left
            alone. Default: 0
        device (torch.device or str, optional): Where to train. Default: where the model is
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        list[float]: The critic's estimate of the Wasserstein distance between real and drawn
        images, :math:`\mathbb E\, D(\mathbf x) - \mathbb E\, D(G(\mathbf z))`, as the mean over the
        batches of each epoch. It means little before the critic has learnt something, and falls
        afterwards.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A number out of its range, fewer than two images, images outside [0, 1] or of
            another shape than the model's.
        RuntimeError: A loss became infinite or NaN.

    Examples::

        >>> from captum_deduce.datasets import load_digits
        >>> train, _, _ = load_digits()
        >>> wgan = WGAN(image_size=8, latent_size=8, hidden_channels=8)
        >>> distances = train_wgan(wgan, train.images, epochs=3)
        >>> len(distances)
        3
    """
    if not isinstance(model, WGAN):
        raise TypeError(f"model must be a WGAN, got {type(model).__name__}")
    _check_images(images, model)
    checks.number("epochs", epochs, minimum=1, integer=True)
    checks.number("batch_size", batch_size, minimum=2, integer=True)
    checks.number("learning_rate", learning_rate, minimum=0, exclusive=True)
    checks.number("critic_steps", critic_steps, minimum=1, integer=True)
    checks.number("penalty_weight", penalty_weight, minimum=0)
    model.to(device)
    critic = [*model.feature_map.parameters(), *model.head.parameters()]
    critic_optimizer = Adam(critic, lr=learning_rate, betas=_BETAS)
    generator_optimizer = Adam(model.generator.parameters(), lr=learning_rate, betas=_BETAS)
    source = torch.Generator().manual_seed(seed)
    steps = max(len(images) // batch_size, 1)
    history: list[float] = []
    progress = bar(total=epochs * steps, desc="WGAN", unit="batch", show_progress=show_progress)
    with progress, training_mode(model):
        _judge_alone(model)
        for epoch in range(epochs):
            distances = []
            order = torch.randperm(len(images), generator=source)[: steps * batch_size]
            for step, rows in enumerate(torch.split(order, batch_size), epoch * steps):
                for optimizer in (critic_optimizer, generator_optimizer):
                    optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / (epochs * steps))
                real = images[rows].to(critic[0].device)
                distances.append(
                    _train_critic(model, critic_optimizer, real, penalty_weight, source)
                )
                if (step + 1) % critic_steps == 0:
                    _train_generator(model, generator_optimizer, len(rows), source)
                progress.set_postfix_str(f"distance {distances[-1]:.3g}", refresh=False)
                progress.update()
            history.append(fmean(distances))
    return history


def _check_images(images: Tensor, model: WGAN) -> None:
    checks.images(images)
    expected = (model.settings["in_channels"], model.height, model.width)
    if len(images) < 2 or tuple(images.shape[1:]) != expected:
        raise ValueError(
            "images must be at least 2 of the model's channels x height x width "
            f"{expected}, got shape {tuple(images.shape)}"
        )
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(
            f"images must lie in [0, 1], got values from {images.min().item():g} to "
            f"{images.max().item():g}"
        )


def _judge_alone(model: WGAN) -> None:
    for module in [*model.feature_map.modules(), *model.head.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _train_critic(
    model: WGAN, optimizer: Adam, real: Tensor, penalty_weight: float, source: torch.Generator
) -> float:
    """Take one step; return the estimated distance before it."""
    with torch.no_grad():
        drawn = model.generate(_latents(model, len(real), source, real))
    share = torch.rand(len(real), 1, 1, 1, generator=source).to(real)
    between = (share * real + (1 - share) * drawn).requires_grad_()
    distance = model.judge(real).mean() - model.judge(drawn).mean()
    (slope,) = torch.autograd.grad(model.judge(between).sum(), between, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    _descend(optimizer, penalty_weight * penalty - distance)
    return distance.item()


def _train_generator(model: WGAN, optimizer: Adam, count: int, source: torch.Generator) -> None:
    latents = _latents(model, count, source, next(model.parameters()))
    _descend(optimizer, -model.judge(model.generate(latents)).mean())


def _latents(model: WGAN, count: int, source: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(count, model.latent_size, generator=source).to(like)


def _descend(optimizer: Adam, loss: Tensor) -> None:
    if not math.isfinite(loss.item()):
        raise RuntimeError(f"the loss became {loss.item()}; try a smaller learning_rate")
    optimizer.zero_grad()
    parameters = optimizer.param_groups[0]["params"]
    torch.autograd.backward(loss, inputs=parameters)
    optimizer.step()
