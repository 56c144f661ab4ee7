"""What properties are tried on: tensors with ties and corners, features, classifiers, results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from captum_deduce import ClassGaussianMixture, Counterfactuals

seeds = st.integers(0, 2**32 - 1)
"""Of generators, where what is drawn has to be in general position: no ties, no singular matrix."""

PRECISIONS = (torch.float32, torch.float64)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator(seed), dtype=torch.float64)


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: tuple[int, ...],
    elements: st.SearchStrategy[Any],
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Tensors of drawn entries; hypothesis makes many of them equal."""
    entries = draw(hnp.arrays(np.float64, shape, elements=elements.map(float)))
    return torch.from_numpy(entries).to(dtype)


def masks(shape: tuple[int, ...]) -> st.SearchStrategy[Tensor]:
    return hnp.arrays(np.bool_, shape).map(torch.from_numpy)


def eighths(low: int, high: int) -> st.SearchStrategy[float]:
    """Numbers of which sums and products are exact, so that equal scores are equal."""
    return st.integers(low, high).map(lambda number: number / 8)


image_shapes = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4))
"""Channels x height x width."""


def any_bits(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Every number that a file may have to hold: NaN, infinities, subnormals, both zeros."""
    return st.floats(width=32 if dtype == torch.float32 else 64)


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Equal shape, dtype and bits; NaN is like NaN, 0 not like -0."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return False
    return first.contiguous().numpy().tobytes() == second.contiguous().numpy().tobytes()


# --- features of classes ---


@dataclass(frozen=True)
class Samples:
    """Features of samples with their labels and weights, N x D, N and N."""

    features: Tensor
    labels: Tensor
    weights: Tensor

    def rows(self, rows: Any) -> Samples:
        return Samples(self.features[rows], self.labels[rows], self.weights[rows])

    @property
    def arrays(self) -> tuple[Any, Any, Any]:
        return self.features.numpy(), self.labels.numpy(), self.weights.numpy()


@st.composite
def samples(
    draw: st.DrawFn, *, least_features: int = 1, per_feature: int = 4, weighted: bool = True
) -> Samples:
    """Two to four classes with other means, scales and correlations, each with enough samples."""
    num_classes = draw(st.integers(2, 4))
    num_features = draw(st.integers(least_features, 5))
    seed = draw(seeds)
    source = generator(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source, dtype=torch.float64)

    parts, labels = [], []
    for index in range(num_classes):
        count = draw(st.integers(per_feature * num_features + 4, per_feature * num_features + 12))
        mixing = drawn(num_features, num_features) + 2 * torch.eye(num_features)
        offset, scale = 10 * drawn(num_features), 2.0 ** draw(st.integers(-3, 3))
        parts.append(scale * drawn(count, num_features) @ mixing + offset)
        labels += [index] * count
    order = torch.randperm(len(labels), generator=source)
    weights = torch.ones(len(labels), dtype=torch.float64)
    if weighted and draw(st.booleans()):
        weights = 0.2 + torch.rand(len(labels), generator=source, dtype=torch.float64)
    return Samples(torch.cat(parts)[order], torch.tensor(labels)[order], weights)


# --- classifiers and what is asked of them ---


@dataclass(frozen=True)
class Case:
    """A small classifier in float64, its density, images and targets."""

    model: nn.Sequential
    density: ClassGaussianMixture
    images: Tensor
    targets: Tensor

    @property
    def layer(self) -> nn.Module:
        return self.model[2]

    @property
    def deduce(self) -> tuple[nn.Module, nn.Module, ClassGaussianMixture]:
        return self.model, self.layer, self.density

    def probabilities(self, images: Tensor) -> Any:
        """Of all classes, N x C, written out in NumPy."""
        first, second = self.model[1], self.model[3]
        rows = images.flatten(1).numpy()
        hidden = np.tanh(rows @ first.weight.detach().numpy().T + first.bias.detach().numpy())
        scores = hidden @ second.weight.detach().numpy().T + second.bias.detach().numpy()
        powers = np.exp(scores - scores.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


_FEATURES = 4


@st.composite
def cases(draw: st.DrawFn, *, most_images: int = 4) -> Case:
    """Images in [0, 1], some entries on a bound; no two pixels weigh the same."""
    shape = draw(image_shapes)
    num_classes, count = draw(st.integers(2, 4)), draw(st.integers(1, most_images))
    source = generator(draw(seeds))
    entries = math.prod(shape)

    def drawn(*size: int) -> Tensor:
        return torch.randn(size, generator=source, dtype=torch.float64)

    model = nn.Sequential(
        nn.Flatten(), nn.Linear(entries, _FEATURES), nn.Tanh(), nn.Linear(_FEATURES, num_classes)
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(drawn(*parameter.shape))
    training = torch.rand(40 * num_classes, *shape, generator=source, dtype=torch.float64)
    with torch.no_grad():
        features = model[:3](training)
    density = ClassGaussianMixture("diag").fit(
        features + 0.1 * drawn(*features.shape), torch.arange(len(features)) % num_classes
    )
    images = torch.rand(count, *shape, generator=source, dtype=torch.float64)
    images = (images * 1.4 - 0.2).clamp(0, 1)  # some on either bound
    targets = torch.randint(num_classes, (count,), generator=source)
    return Case(model.eval(), density, images, targets)


# --- results as files hold them ---


@st.composite
def results(
    draw: st.DrawFn,
    *,
    finite: bool = False,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
    trajectories: bool = True,
) -> Counterfactuals:
    """Results of any size and precision with any numbers in them, NaN and -0 among them."""
    dtype = draw(st.sampled_from(PRECISIONS)) if dtype is None else dtype
    shape = draw(image_shapes) if shape is None else shape
    count = draw(st.integers(1, 4))
    width = 32 if dtype == torch.float32 else 64
    positive = st.floats(2.0**-126, 1e3, width=width) | st.sampled_from([0.0, 0.5, 1.0])
    entries = positive if finite else any_bits(dtype)
    inputs = draw(tensors((count, *shape), entries, dtype))
    changed = torch.where(
        draw(masks((count, *shape))), draw(tensors((count, *shape), entries, dtype)), inputs
    )

    def numbers(high: int) -> Tensor:
        return draw(tensors((count,), st.integers(0, high), torch.int64))

    lengths = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    paths = [normal(length, length, *shape).to(dtype) for length in lengths]
    return Counterfactuals(
        inputs=inputs,
        counterfactuals=changed,
        target=numbers(9),
        success=draw(masks((count,))),
        confidence=draw(tensors((count,), any_bits(dtype), dtype)),
        iterations=numbers(700),
        evaluations=numbers(700),
        forward_evaluations=numbers(2**40),
        prediction=numbers(9),
        log_density=draw(st.none() | tensors((count,), any_bits(torch.float64))),
        trajectory=draw(st.sampled_from([None, paths])) if trajectories else None,
        settings=draw(st.none() | st.text(max_size=20)),
    )
