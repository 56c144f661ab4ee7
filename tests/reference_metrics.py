"""Metrics as their papers print them: one pair, float64, loops, NumPy and SciPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]


def transition(
    before: Array,
    after: Array,
    most: int,
    probabilities: Callable[[Array], Array],
    target: int,
    source: int,
) -> float:
    """Khorram and Fuxin's score of one pair; images are channels x height x width."""
    _, height, width = before.shape
    changes = []
    for row in range(height):
        for column in range(width):
            size = sum(abs(after[:, row, column] - before[:, row, column]))
            if size > 0:
                changes.append((-size, row, column))
    changes.sort()
    steps = max(1, min(most, len(changes)))
    shares, of_target, of_source = [], [], []
    for step in range(steps + 1):
        count = int(len(changes) * step / steps)
        image = before.copy()
        for _, row, column in changes[:count]:
            image[:, row, column] = after[:, row, column]
        p = probabilities(image)
        shares.append(count / len(changes) if changes else step / steps)
        of_target.append(p[target])
        of_source.append(p[source])
    return float(trapezoid(of_target, shares) - trapezoid(of_source, shares))


def nearest_distance(features: Array, training: Array) -> float:
    """Distance of one row to the nearest of many."""
    return float(cdist(features[None], training).min())


def frechet(features: Array, other: Array) -> float:
    """Heusel et al.'s distance, with SciPy's matrix square root."""
    first, second = np.cov(features, rowvar=False), np.cov(other, rowvar=False)
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    offset = features.mean(0) - other.mean(0)
    root = np.real(sqrtm(first @ second))
    return float(offset @ offset + np.trace(first) + np.trace(second) - 2 * np.trace(root))


def split_frechet(
    features: Array, originals: Array, groups: Sequence[int], halves: Sequence[Sequence[int]]
) -> float:
    """Mean over cuts of both directions; a cut is given by the groups of its first half."""
    found = []
    for half in halves:
        for inside in (set(half), set(groups) - set(half)):
            changed = [row for row, group in zip(features, groups, strict=True) if group in inside]
            others = {
                group: row
                for row, group in zip(originals, groups, strict=True)
                if group not in inside
            }
            found.append(frechet(np.array(changed), np.array(list(others.values()))))
    return float(np.mean(found))


def feature_distance(
    layers: Sequence[tuple[Array, Array]], weights: Sequence[Array] | None = None
) -> float:
    """The form of Zhang et al. for two images; outputs are channels x height x width."""
    total = 0.0
    for place, (first, second) in enumerate(layers):
        channels, height, width = first.shape
        weight = np.ones(channels) if weights is None else weights[place]
        at_places = []
        for row in range(height):
            for column in range(width):
                a, b = first[:, row, column], second[:, row, column]
                a, b = a / (np.linalg.norm(a) + 1e-10), b / (np.linalg.norm(b) + 1e-10)
                at_places.append(sum(weight * (a - b) ** 2))
        total += np.mean(at_places)
    return float(total)


def neighbours_accuracy(
    known: Array, labels: Sequence[int], asked: Array, expected: Sequence[int], k: int
) -> float:
    """Accuracy of a vote among the k nearest; the smallest class wins ties."""
    right = 0
    for row, label in zip(cdist(asked, known), expected, strict=True):
        votes = np.bincount([labels[place] for place in np.argsort(row, kind="stable")[:k]])
        right += int(np.argmax(votes) == label)
    return right / len(asked)
