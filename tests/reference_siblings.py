"""CEM, LatentShift and NearestExample as their formulas say, for one image in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]


@dataclass
class Contrast:
    """What one run of CEM returns, with the weights c of its rounds and all its images."""

    image: Array
    success: bool
    confidence: float
    target: int
    weights: list[float]
    path: list[Array]


def cem(
    original: Array,
    wanted: int,
    scores_of: Callable[[Tensor], Tensor],
    reconstruct: Callable[[Tensor], Tensor] | None = None,
    *,
    kind: str = "target",
    baseline: float | Array = 0.0,
    hinge: str = "logits",
    kappa: float = 0.0,
    beta: float = 0.1,
    gamma: float = 0.0,
    c_init: float = 10.0,
    c_steps: int = 9,
    max_iterations: int = 1000,
    learning_rate_init: float = 1e-2,
    clip: float = 100.0,
    lower: Array | float = 0.0,
    upper: Array | float = 1.0,
    mask: Array | None = None,
) -> Contrast:
    """A pertinent negative or positive, without ending a round before its last step.

    ``kind``: "target" (``wanted`` is the class to reach), "any" (``wanted`` is the original's, to
    be left) or "positive" (likewise, to be kept). Works in units of the range.
    """
    low = np.broadcast_to(lower, original.shape).astype(float)
    span = np.broadcast_to(upper, original.shape) - low
    start, nothing = (original - low) / span, (baseline - low) / span
    begin = start.copy()
    if kind == "positive":
        begin = np.where(mask if mask is not None else np.ones_like(start), nothing, start)

    def ahead_of_others(scores: Tensor) -> Tensor:
        values = scores if hinge == "logits" else torch.softmax(scores, 0)
        rest = torch.cat([values[:wanted], values[wanted + 1 :]]).max()
        return rest - values[wanted] if kind == "any" else values[wanted] - rest

    def gradient_at(u: Array, c: float) -> Array:
        point = torch.from_numpy(u).requires_grad_()
        x = torch.from_numpy(low) + torch.from_numpy(span) * point
        loss = c * torch.clamp(kappa - ahead_of_others(scores_of(x)), min=0)
        loss = loss + ((point - torch.from_numpy(begin)) ** 2).sum()
        if reconstruct is not None:
            loss = loss + gamma * (((reconstruct(x) - x) / torch.from_numpy(span)) ** 2).sum()
        return torch.autograd.grad(loss, point)[0].numpy()

    def projected(value: float, pixel: tuple[int, ...]) -> float:
        b, o = nothing[pixel] if np.ndim(nothing) else nothing, start[pixel]
        if kind == "positive":
            return min(max(value, min(b, o)), max(b, o))
        if o > b:
            return min(max(value, o), 1.0)
        if o < b:
            return min(max(value, 0.0), o)
        return min(max(value, 0.0), 1.0)

    failed, succeeded, c = 0.0, np.inf, c_init
    weights: list[float] = []
    path = [low + span * begin]
    best, best_distance = None, np.inf
    likeliest, most = path[0], -1.0

    def judge(u: Array) -> tuple[bool, float, int]:
        with torch.no_grad():
            scores = scores_of(torch.from_numpy(low + span * u))
        p = torch.softmax(scores, 0).numpy().copy()
        reached = wanted
        if kind == "any":
            p[wanted] = -1.0
            reached = int(p.argmax())
        return bool(ahead_of_others(scores) > kappa), float(p[reached]), reached

    success, most, reached = judge(begin)
    if success:
        return Contrast(path[0], True, most, reached, weights, path)
    likeliest_target = reached
    for _ in range(c_steps):
        weights.append(c)
        found = False
        x, y = begin.copy(), begin.copy()
        for t in range(max_iterations):
            g = np.clip(gradient_at(y, c), -clip, clip)
            following, further = begin.copy(), begin.copy()
            for pixel in np.ndindex(*start.shape):
                if mask is not None and not mask[pixel]:
                    continue
                v = y[pixel] - learning_rate_init * np.sqrt(1 - t / max_iterations) * g[pixel]
                if v - begin[pixel] > beta:
                    following[pixel] = projected(v - beta, pixel)
                elif v - begin[pixel] < -beta:
                    following[pixel] = projected(v + beta, pixel)
                k = t + 1
                momentum = k / (k + 3) * (following[pixel] - x[pixel])
                further[pixel] = projected(following[pixel] + momentum, pixel)
            x, y = following, further
            path.append(low + span * x)
            success, confidence, reached = judge(x)
            if confidence > most:
                likeliest, most, likeliest_target = path[-1], confidence, reached
            if success:
                found = True
                distance = ((x - begin) ** 2).sum() + beta * np.abs(x - begin).sum()
                if distance < best_distance:
                    best, best_distance = (path[-1], confidence, reached), distance
        if found:
            succeeded = min(succeeded, c)
        else:
            failed = max(failed, c)
        c = (failed + succeeded) / 2 if np.isfinite(succeeded) else 10 * c
    if best is not None:
        return Contrast(best[0], True, best[1], best[2], weights, path)
    return Contrast(likeliest, False, most, likeliest_target, weights, path)


@dataclass
class Shift:
    """What one line search finds: the image, how far it lies, and all images tried."""

    image: Array
    success: bool
    shift: float
    path: list[Array]


def latent_shift(
    original: Array,
    target: int | None,
    scores_of: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    code: Array,
    *,
    confidence: float = 0.5,
    score: str = "log_odds",
    first_shift: float = 0.25,
    growth: float = 1.3,
    max_shift: float = 100.0,
    tolerance: float = 0.01,
    max_iterations: int = 100,
    lower: Array | float = 0.0,
    upper: Array | float = 1.0,
    mask: Array | None = None,
) -> Shift:
    """Along one gradient; without a target the original's class is lowered."""

    def drawn(z: Tensor) -> Tensor:
        image = torch.minimum(
            torch.maximum(decode(z), torch.as_tensor(lower)), torch.as_tensor(upper)
        )
        if mask is None:
            return image
        return torch.where(torch.from_numpy(mask), image, torch.from_numpy(original))

    def probabilities(image: Array) -> Array:
        with torch.no_grad():
            return torch.softmax(scores_of(torch.from_numpy(image)), 0).numpy()

    own = int(probabilities(original).argmax())
    wanted = own if target is None else target

    z = torch.from_numpy(code).clone().requires_grad_()
    scores = scores_of(drawn(z))
    p = torch.softmax(scores, 0)[wanted]
    value = scores[wanted] if score == "score" else torch.log(p) - torch.log(1 - p)
    gradient = torch.autograd.grad(value, z)[0].numpy()
    direction = gradient / np.sqrt((gradient**2).sum())
    direction = -direction if target is None else direction

    def judge(image: Array) -> tuple[bool, float]:
        p = probabilities(image)
        if target is None:
            return bool(1 - p[own] > confidence and p.argmax() != own), 1 - p[own]
        reached = p[target] > confidence and (confidence >= 0.5 or p.argmax() == target)
        return bool(reached), p[target]

    def at(shift: float) -> Array:
        with torch.no_grad():
            return drawn(torch.from_numpy(code + shift * direction)).numpy()

    path = [original]
    success, most = judge(original)
    if success:
        return Shift(original, True, 0.0, path)
    failed, succeeded, shift = 0.0, np.inf, 0.0
    nearest, likeliest, likeliest_shift = None, original, 0.0
    for _ in range(max_iterations):
        image = at(shift)
        path.append(image)
        success, merit = judge(image)
        if success:
            nearest, succeeded = image, shift
        else:
            failed = shift
            if merit > most:
                likeliest, most, likeliest_shift = image, merit, shift
        if succeeded - failed <= tolerance * succeeded and np.isfinite(succeeded):
            break
        if np.isfinite(succeeded):
            shift = (failed + succeeded) / 2
        else:
            shift = growth * shift if shift else first_shift
        if shift > max_shift:
            break
    if nearest is not None:
        return Shift(nearest, True, succeeded, path)
    return Shift(likeliest, False, likeliest_shift, path)


def nearest_example(
    image: Array,
    target: int,
    images: Array,
    labels: npt.NDArray[np.int64],
    probabilities_of: Callable[[Array], Array],
    features_of: Callable[[Array], Array],
    *,
    confidence: float = 0.5,
    most: int = 10,
) -> tuple[Array, bool, int]:
    """The first example of the class that the classifier agrees on, and how many were tried."""
    rows = np.flatnonzero(labels == target)
    far = [float(((features_of(images[n]) - features_of(image)) ** 2).sum()) for n in rows]
    best, highest = image, probabilities_of(image)[target]
    for tried, place in enumerate(np.argsort(far, kind="stable")[:most], 1):
        p = probabilities_of(images[rows[place]])[target]
        if p > confidence:
            return images[rows[place]], True, tried
        if p > highest:
            best, highest = images[rows[place]], p
    return best, False, min(most, len(rows))
