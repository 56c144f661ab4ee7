"""PIECE and PatchSwap as their papers print them: for one image, in numpy and plain loops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

Array = NDArray[np.float64]


def hurdle(values: Array) -> tuple[float, Callable[[float], float], float, str]:
    """Fit the values of one feature in one class by scipy; activity, smaller tail, mean, name."""
    positive = values[values > 0]
    activity = len(positive) / len(values)
    if len(positive) == 0:
        return activity, lambda _: 0.0, 0.0, "none"
    mean = float(positive.mean())
    scores = {}
    frozen = {}
    scale = mean
    frozen["exponential"] = stats.expon(scale=scale)
    if np.ptp(positive) > 1e-9:
        shape, _, width = stats.gamma.fit(positive, floc=0)
        frozen["gamma"] = stats.gamma(shape, scale=width)
        frozen["normal"] = stats.norm(mean, positive.std())
    for name, distribution in frozen.items():
        parameters = 1 if name == "exponential" else 2
        scores[name] = 2 * parameters - 2 * distribution.logpdf(positive).sum()
    best = min(scores, key=scores.get)
    chosen = frozen[best]
    return activity, lambda x: min(chosen.cdf(x), chosen.sf(x)), mean, best


def expected(
    features: Array, weight: Array, training: Array, alpha: float
) -> tuple[Array, list[float]]:
    """The features that PIECE aims at, and the probabilities of those of the image.

    ``training`` are the features of the training images of the target class, ``weight`` the row of
    the last layer for it.
    """
    goal, probabilities = features.copy(), []
    for i, value in enumerate(features):
        activity, tail, mean, _ = hurdle(training[:, i])
        probability = activity * tail(value) if value > 0 else 1 - activity
        probabilities.append(probability)
        if probability >= alpha:
            continue
        lowers_the_target = (
            (value == 0 and weight[i] < 0)
            or (value > mean and weight[i] > 0)
            or (0 < value < mean and weight[i] < 0)
        )
        if not lowers_the_target:
            goal[i] = mean
    return goal, probabilities


def semi_factual(
    features: Array, goal: Array, probabilities: list[float], weight: Array, bias: Array
) -> Array:
    """Change one feature after the other, the least probable first; undo the one that flips."""
    here = features.copy()
    kept = int((weight @ features + bias).argmax())
    for i in np.argsort(probabilities, kind="stable"):
        if goal[i] == features[i]:
            continue
        here[i] = goal[i]
        if int((weight @ here + bias).argmax()) != kept:
            here[i] = features[i]
            break
    return here


def adam(gradient: Callable[[Tensor], Tensor], start: Tensor, rate: float, steps: int) -> Tensor:
    """Kingma and Ba's algorithm 1."""
    point = start.clone()
    mean, square = torch.zeros_like(point), torch.zeros_like(point)
    for t in range(1, steps + 1):
        slope = gradient(point)
        mean = 0.9 * mean + 0.1 * slope
        square = 0.999 * square + 0.001 * slope**2
        point = point - rate * (mean / (1 - 0.9**t)) / ((square / (1 - 0.999**t)).sqrt() + 1e-8)
    return point


def greedy_swaps(
    query: Tensor,
    distractors: Tensor,
    head: Callable[[Tensor], Tensor],
    target: int,
    prior: Tensor | None = None,
    tried: Tensor | None = None,
    weight: float = 0.0,
) -> list[tuple[int, int, int]]:
    """Goyal's greedy search: cells of D x h x w features, until the head's argmax is the target.

    ``prior`` and ``tried`` are h w x (M h w), of the similarity. Returns (cell, distractor, cell).
    """
    depth, height, width = query.shape
    cells = height * width
    here = query.reshape(depth, cells).clone()
    donors = distractors.reshape(len(distractors), depth, cells)
    gone, used, edits = set(), set(), []
    while int(head(here.view(1, depth, height, width)).argmax()) != target:
        best, choice = -float("inf"), None
        for i in range(cells):
            for m in range(len(donors)):
                for j in range(cells):
                    place = m * cells + j
                    if i in gone or place in used:
                        continue
                    if tried is not None and not tried[i, place]:
                        continue
                    changed = here.clone()
                    changed[:, i] = donors[m, :, j]
                    scores = head(changed.view(1, depth, height, width))[0]
                    gain = float(scores.log_softmax(0)[target])
                    if prior is not None:
                        gain += weight * float(prior[i, place])
                    if gain > best + 1e-11:
                        best, choice = gain, (i, m, j)
        if choice is None:
            break
        i, m, j = choice
        here[:, i] = donors[m, :, j]
        gone.add(i)
        used.add(m * cells + j)
        edits.append(choice)
    return edits
