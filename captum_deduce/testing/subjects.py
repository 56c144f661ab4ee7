"""The classifier that checks explain: of digits, trained in a second, made to misbehave at will."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce.datasets import Splits, load_digits
from captum_deduce.spectral import remove_spectral_normalization, spectral_normalize

PAIRS = 6
"""How many images the checks explain at once."""

_EPOCHS = 8


class _Network(nn.Module):
    """The layers, with weights by chance."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.relu = nn.ReLU(inplace=True)
        self.strided = nn.Conv2d(12, 16, 3, stride=2, padding=1)
        self.maps = nn.LeakyReLU(0.1)
        self.pool = nn.AvgPool2d(2)
        self.dropout = nn.Dropout(0.1)
        self.features = nn.Flatten()
        self.fc = nn.Linear(64, 10)
        self.double()

    def forward(self, inputs: Tensor) -> Tensor:
        maps = self.maps(self.strided(self.relu(self.norm(self.conv(inputs)))))
        scores: Tensor = self.fc(self.features(self.dropout(self.pool(maps))))
        return scores


class Subject(_Network):
    r"""A small classifier of scikit-learn's digits, in float64, which every check explains.

    A factory of explainers is called with one, and finds in it what explainers are built with. In
    one check it is called with a function instead, which has the same attributes (but for ``fc``
    and ``pool``).

    Args:
        channels (int, optional): Of the images: 1, or more of which each is the digit, weaker from
            channel to channel. Default: 1

    Attributes:
        features (nn.Module): Outputs the features, N x 64, that ``fc``, the last layer, takes.
        maps (nn.Module): A layer with a grid, which outputs N x 16 x 4 x 4.
        training_images (Tensor): 1,000 x channels x 8 x 8 images from 0 to 1, of the model's dtype
            and on its device.
        training_labels (Tensor): Their 1,000 classes, from 0 to 9.
        images (Tensor): 6 other images, which are explained.
        target (Tensor): A class for each of them, which is not the predicted one.
        before (Callable or None): Applied to the inputs first, by a check.
        after (Callable or None): Applied to the scores (and the arguments after the inputs) last.
    """

    def __init__(self, channels: int = 1) -> None:
        with torch.random.fork_rng([]):  # layers draw weights, which are then replaced
            super().__init__(channels)
        self.before: Callable[[Tensor], Tensor] | None = None
        self.after: Callable[..., Any] | None = None
        self.channels = channels
        state = dict(_trained_state())
        shades = _shades(channels)
        # Of channels that are shades of one image it sees what it sees of that image.
        state["conv.weight"] = state["conv.weight"] * (shades / shades.square().sum())
        self.load_state_dict(state)
        self.eval()

    def forward(self, inputs: Tensor, *arguments: Any) -> Any:
        """Classify images.

        Args:
            inputs (Tensor): N x channels x 8 x 8.
            *arguments (Any): For ``after``.

        Returns:
            Any: N x 10 logits, or what ``after`` makes of them.
        """
        if self.before is not None:
            inputs = self.before(inputs)
        scores = super().forward(inputs)
        return scores if self.after is None else self.after(scores, *arguments)

    @property
    def training_images(self) -> Tensor:
        """Images that it was trained on."""
        return self._placed(_digits().train.images)

    @property
    def training_labels(self) -> Tensor:
        """Their classes."""
        return _digits().train.target.to(self.fc.bias.device)

    @property
    def images(self) -> Tensor:
        """Images that it was not trained on."""
        return self._placed(_digits().test.images[:PAIRS])

    @property
    def target(self) -> Tensor:
        """A class for each of them, another one than a fresh one of its kind predicts."""
        return ((self.predicted + torch.arange(1, PAIRS + 1)) % 10).to(self.fc.bias.device)

    @property
    def predicted(self) -> Tensor:
        """What a fresh one predicts for them, on the CPU."""
        return _predictions().clone()

    @torch.no_grad()
    def confidence(self, images: Tensor, target: Tensor) -> Tensor:
        """Find the probability of classes.

        Args:
            images (Tensor): N x channels x 8 x 8.
            target (Tensor): N classes.

        Returns:
            Tensor: N probabilities.
        """
        probabilities: Tensor = self(images).softmax(1)
        return probabilities.gather(1, target.unsqueeze(1)).squeeze(1)

    def _placed(self, images: Tensor) -> Tensor:
        return (images.double() * _shades(self.channels)).to(self.fc.bias)


def as_function(subject: Subject) -> Callable[..., Any]:
    """Hide a subject in a function, which has what a factory needs of it.

    Args:
        subject (Subject): What it calls.

    Returns:
        Callable: The function.
    """

    def classify(inputs: Tensor, *arguments: Any) -> Any:
        return subject(inputs, *arguments)

    for name in ("features", "maps", "training_images", "training_labels", "images", "target"):
        setattr(classify, name, getattr(subject, name))
    return classify


@functools.cache
def _digits() -> Splits:
    return load_digits()


def _shades(channels: int) -> Tensor:
    return torch.linspace(1.0, 0.6, channels, dtype=torch.float64).view(-1, 1, 1)


@functools.cache
def _predictions() -> Tensor:
    subject = Subject()
    with torch.no_grad():
        predicted: Tensor = subject(subject.images).argmax(1)
    return predicted


@functools.cache
def _trained_state() -> dict[str, Tensor]:
    """Train the network, smooth as spectral normalisation makes it, then plain."""
    images, labels = _digits().train.images.double(), _digits().train.target
    # Whatever a user's program does with gradients and generators around the checks.
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(7)
        model = _Network()
        spectral_normalize(model, coeff=3.0, example_input=images[:1])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(_EPOCHS):
            for rows in torch.split(torch.randperm(len(images)), 100):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        model.eval()
        remove_spectral_normalization(model)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
