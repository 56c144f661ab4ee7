"""Naive forms of what the package computes: one image, float64, no batching, as printed.

Slow and plain on purpose: the tests hold the package's fast code against these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]

# --- algorithm 1 of the DeDUCE paper ---


@dataclass
class Attempt:
    """What one run of algorithm 1 returns."""

    image: Array
    confidence: float
    success: bool
    steps: int
    path: list[Array]


def cross_entropy(scores: Tensor, target: int) -> Tensor:
    """-log softmax(scores)_t, written out."""
    largest: Tensor = scores.max()
    loss: Tensor = torch.log(torch.exp(scores - largest).sum()) + largest - scores[target]
    return loss


def gaussian_log_density(z: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """log N(z; mean, covariance), with the inverse and the determinant written out."""
    offset = z - mean
    squared_distance: Tensor = offset @ torch.linalg.inv(covariance) @ offset
    log_determinant = torch.linalg.slogdet(covariance).logabsdet
    total: Tensor = squared_distance + log_determinant + len(z) * np.log(2 * np.pi)
    return -0.5 * total


def deduce_gradient(
    image: Array,
    target: int,
    model: Callable[[Tensor], tuple[Tensor, Tensor]],
    mean: Tensor,
    covariance: Tensor,
    weight: float,
    normalize_terms: bool,
) -> Array:
    """Equation 5, or equation 4: two backward passes, one for each term."""
    x = torch.from_numpy(image).requires_grad_()
    scores, features = model(x)
    loss = cross_entropy(scores, target)
    log_density = gaussian_log_density(features, mean, covariance)
    (loss_gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    (density_gradient,) = torch.autograd.grad(log_density, x)
    if not normalize_terms:
        return (weight * loss_gradient - density_gradient).numpy()
    first = loss_gradient.numpy() / max(loss.item(), 1e-6) if loss.item() > 0 else 0.0
    second = density_gradient.numpy() / max(abs(log_density.item()), 1e-6)
    return weight * first - second


def snapped(value: float, lower: float, upper: float, original: float) -> float:
    """Clip, and snap what is within 1e-6 of the range of a bound or of the original."""
    value = min(max(value, lower), upper)
    for anchor in (lower, upper, original):
        if abs(value - anchor) <= 1e-6 * (upper - lower):
            value = anchor
    return value


def algorithm_1(
    original: Array,
    target: int,
    scores_of: Callable[[Tensor], Tensor],
    gradient_of: Callable[[Array], Array],
    *,
    confidence: float = 0.5,
    step_size: float = 0.2,
    max_changes: int | None = 5,
    pixels_per_step: int = 1,
    momentum: float = 0.6,
    max_iterations: int = 700,
    skip_saturated: bool = True,
    by_site: bool = False,
    groups: npt.NDArray[np.int64] | None = None,
    retire_at_bounds: bool = False,
    lower: Array | float = 0.0,
    upper: Array | float = 1.0,
    mask: Array | None = None,
) -> Attempt:
    """Algorithm 1 with the sign of line 7 mended, for one image (channels x height x width).

    With ``skip_saturated`` a pixel is taken only if it then differs by more than 1e-6 of the range;
    with ``retire_at_bounds`` (the paper's JSMA) an entry is out once a step has put it on a bound.
    Entries with the same integer in ``groups``, of the image's shape, are one pixel.
    """
    low = np.broadcast_to(lower, original.shape)
    high = np.broadcast_to(upper, original.shape)
    image = original.copy()
    previous = np.zeros_like(original)
    changes: dict[tuple[int, ...], int] = {}
    retired: set[tuple[int, ...]] = set()
    path = [image.copy()]
    best, best_confidence = image.copy(), -1.0
    steps = 0
    while True:
        scores = scores_of(torch.from_numpy(image))
        probability = torch.exp(-cross_entropy(scores, target)).item()
        if probability > best_confidence:
            best, best_confidence = image.copy(), probability
        reached = probability > confidence
        if confidence < 0.5:
            reached = reached and int(scores.argmax()) == target
        if reached:
            return Attempt(image, probability, True, steps, path)
        if steps == max_iterations:
            return Attempt(best, best_confidence, False, steps, path)
        direction = gradient_of(image) + momentum * previous
        previous = direction

        candidates: dict[tuple[int, ...], float] = {}
        moves: dict[tuple[int, ...], list[tuple[tuple[int, ...], float]]] = {}
        for entry in np.ndindex(*original.shape):
            if entry in retired or (mask is not None and not mask[entry]):
                continue
            span = high[entry] - low[entry]
            moved = snapped(
                image[entry] - np.sign(direction[entry]) * step_size * span,
                low[entry],
                high[entry],
                original[entry],
            )
            if skip_saturated and abs(moved - image[entry]) <= 1e-6 * span:
                continue
            pixel = pixel_of(entry, by_site, groups)
            candidates[pixel] = candidates.get(pixel, 0.0) + abs(direction[entry]) * span
            moves.setdefault(pixel, []).append((entry, moved))
        admissible = [
            p for p in candidates if max_changes is None or changes.get(p, 0) < max_changes
        ]
        if not admissible:
            return Attempt(best, best_confidence, False, steps, path)
        order = sorted(admissible, key=lambda pixel: -candidates[pixel])
        for pixel in order[:pixels_per_step]:
            changes[pixel] = changes.get(pixel, 0) + 1
            for entry, moved in moves[pixel]:
                if (
                    retire_at_bounds
                    and moved != image[entry]
                    and moved in (low[entry], high[entry])
                ):
                    retired.add(entry)
                image[entry] = moved
        steps += 1
        path.append(image.copy())


def pixel_of(
    entry: tuple[int, ...], by_site: bool, groups: npt.NDArray[np.int64] | None
) -> tuple[int, ...]:
    """What moves with an entry: its group, its site, or itself alone."""
    if groups is not None:
        return (int(groups[entry]),)
    return entry[1:] if by_site else entry


# --- past the paper: density as a goal, adaptive steps, rounds, refinement ---


@dataclass
class Found(Attempt):
    """An attempt that may have looked for several counterfactuals."""

    forward_passes: int = 0


def deduce_in_rounds(
    original: Array,
    judge: Callable[[Array], tuple[float, float]],
    gradient_of: Callable[[Array], Array],
    *,
    confidence: float = 0.5,
    least_log_density: float = -np.inf,
    step_size: float = 0.2,
    max_changes: int = 5,
    momentum: float = 0.6,
    max_iterations: int = 700,
    rounds: int = 1,
    refine: bool = False,
) -> Found:
    """DeDUCE on an image in [0, 1], one entry after the other, for a confidence of at least .5.

    ``judge`` gives an image's confidence and the log-density of its features.
    """
    image = original.copy()
    previous, changes = np.zeros_like(original), np.zeros(original.shape, dtype=int)
    path = [image.copy()]
    closest: tuple[float, Array] | None = None
    best_rank, best = (-1.0, -np.inf), original
    steps = 0
    while True:
        probability, log_density = judge(image)
        # the most confident, but among those with the confidence the likeliest
        enough = probability > confidence
        rank = (1.0, log_density) if enough else (probability - 1, 0.0)
        if rank > best_rank:
            best_rank, best = rank, image.copy()
        distance = sum(abs(d) + (d != 0) for d in (image - original).flat)
        gradient = gradient_of(image)
        if enough and log_density >= least_log_density:
            if closest is None or distance < closest[0]:
                closest = (distance, image.copy())
            rounds -= 1
            if rounds == 0 or distance == 0 or steps == max_iterations:
                break
            changed = [e for e in np.ndindex(*original.shape) if image[e] != original[e]]
            changed.sort(key=lambda e: gradient[e] * (original[e] - image[e]))
            for entry in changed[: -(-len(changed) // 3)]:
                image[entry], changes[entry] = original[entry], 0
            previous = np.zeros_like(original)
        else:
            if steps == max_iterations or (closest is not None and distance >= closest[0]):
                break
            previous = direction = gradient + momentum * previous
            gains: dict[tuple[int, ...], tuple[float, float]] = {}
            for entry in np.ndindex(*original.shape):
                towards = image[entry] - np.sign(direction[entry]) * step_size
                moved = snapped(towards, 0.0, 1.0, original[entry])
                if changes[entry] < max_changes and abs(moved - image[entry]) > 1e-6:
                    gains[entry] = (abs(direction[entry]), moved)
            if not gains:
                break
            entry = max(gains, key=lambda e: gains[e][0])
            image[entry], changes[entry] = gains[entry][1], changes[entry] + 1
        steps += 1
        path.append(image.copy())

    if closest is None:
        return Found(best, judge(best)[0], False, steps, path)
    image, forward_passes = closest[1], 0
    if refine and (image != original).any():
        image, forward_passes = refined_for(
            closest[1], original, judge, confidence, least_log_density
        )
    return Found(image, judge(image)[0], True, steps, path, forward_passes)


def refined_for(
    image: Array,
    original: Array,
    judge: Callable[[Array], tuple[float, float]],
    confidence: float,
    least_log_density: float,
) -> tuple[Array, int]:
    """Take back what neither the confidence nor the log-density needs; also the forward passes."""

    def is_enough(trial: Array) -> bool:
        probability, log_density = judge(trial)
        return probability > confidence and log_density >= least_log_density

    image, trials = refined(image, original, is_enough)
    return image, 1 + trials


@dataclass
class Walk:
    """Where an adaptive search stands."""

    image: Array
    changes: Array
    gradient: Array
    loss: float


def adaptive_deduce(
    original: Array,
    judge: Callable[[Array], tuple[float, float]],
    gradient_of: Callable[[Array, float], Array],
    *,
    confidence: float = 0.5,
    least_log_density: float = -np.inf,
    step_size: float = 0.2,
    max_changes: int = 5,
    momentum: float = 0.6,
    max_iterations: int = 700,
    rounds: int = 1,
    refine: bool = False,
    halving: bool = False,
    classification_weight: float = 1.0,
    most_gain: float = 0.5,
    share: float = 0.1,
    balanced: bool = True,
) -> tuple[Found, list[float], list[float]]:
    """DeDUCE with adaptive steps on an image in [0, 1]; also lengths and balances of the steps.

    A step promises -gradient . move and is judged by what the loss really fell. Lengths are
    fractions of ``step_size``. The balance is what the classifier's term counts besides its weight;
    without a density (``balanced=False``) it stays 1.
    """
    one_round, free = rounds == 1, np.ones(original.shape, dtype=bool)
    here = Walk(original.copy(), np.zeros_like(original), np.zeros_like(original), np.inf)
    base, last_loss, promised, several, warned = here, np.inf, np.inf, False, False
    length, previous, taken_back = 1.0, np.zeros_like(original), 0.5 if halving else 1 / 3
    path = [original.copy()]
    lengths: list[float] = []
    balances: list[float] = []
    balance, waited = 1.0, 0
    all_rounds = rounds
    closest: tuple[float, Array, Array] | None = None
    best_rank, best = (-1.0, -np.inf), original
    steps, round_steps, most_steps = 0, 0, np.inf

    def distance_of(image: Array) -> float:
        return float(sum(abs(float(d)) + (d != 0) for d in (image - original).flat))

    def without(image: Array, gradient: Array, part: float) -> Array:
        changed = [e for e in np.ndindex(*original.shape) if image[e] != original[e]]
        changed.sort(key=lambda e: gradient[e] * (original[e] - image[e]))
        fewer: Array = image.copy()
        for entry in changed[: int(np.ceil(part * len(changed)))]:
            fewer[entry] = original[entry]
        return fewer

    while True:
        probability, log_density = judge(here.image)
        cross_entropy = max(-np.log(probability), 1e-6)
        loss = balance * classification_weight * np.log(cross_entropy)
        loss -= np.sign(log_density) * np.log(max(abs(log_density), 1e-6))
        here = Walk(here.image, here.changes, gradient_of(here.image, balance), float(loss))
        enough = probability > confidence
        rank = (1.0, log_density) if enough else (probability - 1, 0.0)
        waited += 1
        if rank > best_rank:
            best_rank, best, waited = rank, here.image.copy(), 0
        distance, success = distance_of(here.image), enough and log_density >= least_log_density
        if success:
            if closest is None or distance < closest[0]:
                closest = (distance, here.image.copy(), here.gradient)
            if one_round or rounds == 1 or distance == 0:
                break
        failed = not success and closest is not None and distance >= closest[0]
        if steps == max_iterations or (failed and not halving):
            break

        # what the last step was worth
        back = False
        if np.isfinite(last_loss) and not success:
            worth = (last_loss - here.loss) / promised
            shortens = several and length > 1e-3
            in_vain = shortens and worth < 0.1
            worse = shortens and here.loss > base.loss
            back = warned and (in_vain or worse)
            warned = in_vain and not back
            if back:
                length /= 16
            elif shortens and worth < 0.2:
                length /= 2
            elif worth > 0.5:
                length *= 2
            length = min(max(length, 1e-3), 1.0)
        else:
            warned = False
        if back:
            here, previous = base, np.zeros_like(original)
        if not warned:
            base = here

        # what is missing for long gets more weight: promises of before no longer count
        late = balanced and waited >= 10 and most_steps == np.inf and not success
        if late:
            balance = min(max(balance * (0.5 if enough else 2.0), 1e-4), 1e4)
            waited = 0

        # the next step
        last_loss, image, changes = here.loss, here.image.copy(), here.changes.copy()
        previous = direction = here.gradient + momentum * previous
        gains: dict[tuple[int, ...], tuple[float, float]] = {}
        for entry in np.ndindex(*original.shape):
            towards = image[entry] - np.sign(direction[entry]) * step_size * length
            moved = snapped(towards, 0.0, 1.0, original[entry])
            can_move = free[entry] and changes[entry] < max_changes
            if can_move and abs(moved - image[entry]) > 1e-6:
                gains[entry] = (abs(direction[entry]) * abs(moved - image[entry]), moved)
        stuck, gained = not gains, 0.0
        for entry in sorted(gains, key=lambda e: -gains[e][0])[: int(np.ceil(share * free.size))]:
            image[entry], changes[entry] = gains[entry][1], changes[entry] + length
            gained += gains[entry][0]
            aim = 1.4 * most_gain if rounds == all_rounds > 1 else most_gain
            aim *= max(balance, 1.0)
            if gained >= max(classification_weight, 1.0) * aim / np.sqrt(length):
                break
        move = image - here.image
        promised, several = float(-(here.gradient * move).sum()), int((move != 0).sum()) > 1
        lengths, balances = [*lengths, length], [*balances, balance]
        if late:
            last_loss = np.inf

        if success:
            image = without(here.image, here.gradient, taken_back)
            changes = np.where(image == original, 0.0, here.changes)
            changes = np.where(here.image == original, here.changes, changes)
            previous, last_loss, rounds = np.zeros_like(original), np.inf, rounds - 1
            if most_steps == np.inf:
                most_steps = max(round_steps, 10)
            round_steps = 0
            if halving:
                free &= image != original
        else:
            round_steps += not one_round
            failed |= stuck or round_steps > most_steps
            if failed and not (halving and closest and rounds > 1 and taken_back > 1 / 8):
                break
            if failed and closest is not None:
                taken_back, rounds, round_steps, last_loss = taken_back / 2, rounds - 1, 0, np.inf
                image, changes = without(*closest[1:], taken_back), np.zeros_like(original)
                free, previous = image != original, np.zeros_like(original)
        here = Walk(image, changes, here.gradient, np.inf)
        steps += 1
        path.append(image.copy())

    if closest is None:
        return Found(best, judge(best)[0], False, steps, path), lengths, balances
    image, forward_passes = closest[1], 0
    if refine and (image != original).any():
        image, forward_passes = refined_for(
            closest[1], original, judge, confidence, least_log_density
        )
    found = Found(image, judge(image)[0], True, steps, path, forward_passes)
    return found, lengths, balances


def refined(
    image: Array,
    original: Array,
    is_enough: Callable[[Array], bool],
    by_site: bool = False,
    groups: npt.NDArray[np.int64] | None = None,
) -> tuple[Array, int]:
    """Take back changes, the smallest first, in whole passes until one takes back nothing.

    Also returns how many different images were judged.
    """
    judged: dict[bytes, bool] = {}
    members: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for entry in np.ndindex(*original.shape):
        members.setdefault(pixel_of(entry, by_site, groups), []).append(entry)
    again = True
    while again:
        again = False
        sizes = {
            pixel: sum(abs(image[entry] - original[entry]) for entry in members[pixel])
            for pixel in sorted(members)
        }
        changed = [pixel for pixel in sizes if sizes[pixel] > 0]
        for pixel in sorted(changed, key=lambda pixel: sizes[pixel]):
            trial = image.copy()
            for entry in members[pixel]:
                trial[entry] = original[entry]
            if trial.tobytes() not in judged:
                judged[trial.tobytes()] = is_enough(trial)
            if judged[trial.tobytes()]:
                image, again = trial, True
    return image, len(judged)


# --- polishing ---


def variation(image: Array) -> tuple[float, Array]:
    """Rounded total variation of channels x height x width, and its gradient, pair by pair."""
    total, gradient = 0.0, np.zeros_like(image)
    for place in np.ndindex(*image.shape):
        for axis in (1, 2):
            neighbour = tuple(p + (axis == a) for a, p in enumerate(place))
            if neighbour[axis] == image.shape[axis]:
                continue
            step = image[neighbour] - image[place]
            length = np.sqrt(step**2 + 0.03**2)
            total += length - 0.03
            gradient[neighbour] += step / length
            gradient[place] -= step / length
    return total, gradient


def polished(
    image: Array,
    original: Array,
    is_enough: Callable[[Array], bool],
    shortfall_gradient: Callable[[Array], Array],
    *,
    weight: float = 0.25,
    reconstruction_loss: Callable[[Array], tuple[float, Array]] | None = None,
    most_changes: int | None = None,
    movable: npt.NDArray[np.bool_] | None = None,
    steps: int = 100,
    learning_rate: float = 0.05,
) -> tuple[Array, int]:
    """Adam on distance, variation and prior, for an image in [0, 1]; also how often it evaluated.

    ``shortfall_gradient`` is that of softplus of what the goal lacks.
    """

    def count(changed: Array) -> int:
        return int((changed != 0).sum())

    def cost(trial: Array) -> tuple[float, Array]:
        total, slope = np.abs(trial - original).sum(), np.zeros_like(trial)
        if weight:
            value, gradient = variation(trial)
            total, slope = total + weight * value, slope + weight * gradient
        if reconstruction_loss is not None:
            value, gradient = reconstruction_loss(trial)
            total, slope = total + value, slope + gradient
        return total, slope

    best, lowest = image, np.inf
    change = image - original
    first, second = np.zeros_like(image), np.zeros_like(image)
    pressure = 0.0
    for step in range(steps + 1):
        enough = is_enough(image)
        total, slope = cost(image)
        few = most_changes is None or count(image - original) <= most_changes
        if enough and few and total < lowest:
            best, lowest = image, total
        if step == steps:
            break
        pull = shortfall_gradient(image)
        if step == 0:
            pressure = count(change) / np.abs(pull[change != 0]).sum()
        else:
            pressure *= 1 / 1.3 if enough else 1.3
        gradient = pressure * pull + slope
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        rate = learning_rate * (1 - 0.9 * step / steps)
        each = rate / (np.sqrt(second / (1 - 0.99 ** (step + 1))) + 1e-8)
        moved = change - each * first / (1 - 0.9 ** (step + 1))
        moved = np.sign(moved) * np.maximum(np.abs(moved) - each, 0)
        if most_changes is not None:
            kept = round(image.size * (most_changes / image.size) ** min(2 * step / steps, 1))
            order = np.argsort(-np.abs(moved).flatten(), kind="stable")
            moved.flat[order[kept:]] = 0
        if movable is not None:
            moved = np.where(movable, moved, change)
        change = np.clip(original + moved, 0, 1) - original
        image = np.where(np.abs(change) < 1 / 255, original, original + change)
    return best, steps + 1


# --- models/resnet.py: the weightless shortcut ---


def average_pool_shortcut(image: Array, out_channels: int, stride: int) -> Array:
    """Average the stride x stride windows of a C x H x W image, cut off at its edges; add zeros."""
    channels, height, width = image.shape
    rows, columns = -(-height // stride), -(-width // stride)
    output = np.zeros((out_channels, rows, columns))
    for channel in range(channels):
        for row in range(rows):
            for column in range(columns):
                window = image[
                    channel,
                    row * stride : (row + 1) * stride,
                    column * stride : (column + 1) * stride,
                ]
                output[channel, row, column] = window.sum() / window.size
    return output


# --- training.py: stochastic gradient descent with momentum, on a linear classifier ---


@dataclass
class Descent:
    """The weights after the last step, and loss and accuracy before each."""

    weight: Array
    bias: Array
    losses: list[float]
    accuracies: list[float]


def softmax_regression(
    images: Array,
    target: npt.NDArray[np.int64],
    weight: Array,
    bias: Array,
    rates: list[float],
    momentum: float,
    weight_decay: float,
) -> Descent:
    """Take one step per rate on the mean cross-entropy of all N x D images, by its own gradient."""
    weight, bias = weight.copy(), bias.copy()
    weight_velocity, bias_velocity = np.zeros_like(weight), np.zeros_like(bias)
    wanted = np.eye(len(bias))[target]
    losses, accuracies = [], []
    for rate in rates:
        scores = images @ weight.T + bias
        probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        losses.append(float(-np.log(probabilities[wanted == 1]).mean()))
        accuracies.append(float((scores.argmax(axis=1) == target).mean()))
        errors = (probabilities - wanted) / len(images)
        weight_velocity = momentum * weight_velocity + errors.T @ images + weight_decay * weight
        bias_velocity = momentum * bias_velocity + errors.sum(axis=0) + weight_decay * bias
        weight -= rate * weight_velocity
        bias -= rate * bias_velocity
    return Descent(weight, bias, losses, accuracies)


# --- operators.py, spectral.py: convolutions written out as matrices ---


def convolution_matrix(
    weight: Array,
    size: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
    dilation: tuple[int, ...],
    groups: int = 1,
) -> Array:
    """Outputs x inputs, flattened channels x size: y[o, q] = sum w[o, c, k] x[c, qs - p + kd].

    `padding` holds the zeros before and after the signal, per dimension.
    """
    out_channels, per_group, *kernel = weight.shape
    result = tuple(
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(size, padding, dilation, kernel, stride, strict=True)
    )
    matrix = np.zeros((out_channels, *result, per_group * groups, *size))
    for o, c in np.ndindex(out_channels, per_group):
        channel = o // (out_channels // groups) * per_group + c
        for q in np.ndindex(*result):
            for k in np.ndindex(*kernel):
                at = tuple(
                    q[i] * stride[i] - padding[i][0] + k[i] * dilation[i] for i in range(len(size))
                )
                if all(0 <= at[i] < size[i] for i in range(len(size))):
                    entry, tap = (o, *q, channel, *at), (o, c, *k)
                    matrix[entry] += weight[tap]
    return matrix.reshape(out_channels * int(np.prod(result)), -1)


def transposed_convolution_matrix(
    weight: Array,
    size: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    output_padding: tuple[int, ...],
    groups: int = 1,
) -> Array:
    """Outputs x inputs: each input x[c, q] adds w[c, o, k] x[c, q] to the output at qs - p + kd."""
    in_channels, per_group, *kernel = weight.shape
    result = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(
            size, stride, padding, dilation, kernel, output_padding, strict=True
        )
    )
    matrix = np.zeros((per_group * groups, *result, in_channels, *size))
    for c, o in np.ndindex(in_channels, per_group):
        channel = c // (in_channels // groups) * per_group + o
        for q in np.ndindex(*size):
            for k in np.ndindex(*kernel):
                at = tuple(
                    q[i] * stride[i] - padding[i] + k[i] * dilation[i] for i in range(len(size))
                )
                if all(0 <= at[i] < result[i] for i in range(len(size))):
                    entry, tap = (channel, *at, c, *q), (c, o, *k)
                    matrix[entry] += weight[tap]
    return matrix.reshape(per_group * groups * int(np.prod(result)), -1)


# --- densities of classes: moments, covariances, refits without a sample ---


def class_scatter(features: Array, weights: Array) -> tuple[Array, Array]:
    """Mean and scatter of one class, one sample after the other, in two passes."""
    mean = np.zeros(features.shape[1])
    for w, z in zip(weights, features, strict=True):
        mean += w * z / weights.sum()
    scatter = np.zeros((features.shape[1], features.shape[1]))
    for w, z in zip(weights, features, strict=True):
        scatter += w * np.outer(z - mean, z - mean)
    return mean, scatter


def class_covariances(
    features: Array, labels: npt.NDArray[np.int64], weights: Array, covariance_type: str
) -> tuple[Array, Array]:
    """Means (C x D) and unbiased covariances as dense matrices (C x D x D)."""
    means, scatters, divisors = [], [], []
    for c in range(labels.max() + 1):
        w = weights[labels == c]
        mean, scatter = class_scatter(features[labels == c], w)
        means.append(mean)
        scatters.append(scatter)
        divisors.append(w.sum() - (w**2).sum() / w.sum())
    covariances = []
    for scatter, divisor in zip(scatters, divisors, strict=True):
        covariance = scatter / divisor
        if covariance_type == "tied":
            covariance = sum(scatters) / sum(divisors)
        elif covariance_type == "diag":
            covariance = np.diag(np.diag(covariance))
        elif covariance_type == "spherical":
            covariance = np.eye(len(covariance)) * np.trace(covariance) / len(covariance)
        covariances.append(covariance)
    return np.stack(means), np.stack(covariances)


def low_rank_covariances(
    features: Array,
    labels: npt.NDArray[np.int64],
    weights: Array,
    rank: int,
    basis: Array | None = None,
    tied: Array | None = None,
) -> tuple[Array, Array]:
    """Means (C x D) and covariances (C x D x D), tied but for each class's own in few directions.

    By precisions: where a class differs from all together, in its marginal density of ``A' z``, the
    inverse of the one covariance is replaced by that of the other.
    """
    means, (unbiased, *_) = class_covariances(features, labels, weights, "tied")
    tied = unbiased if tied is None else tied
    if basis is None:
        basis = np.linalg.eigh(tied)[1][:, -rank:]
    pooled = basis.T @ tied @ basis
    covariances = []
    for c in range(labels.max() + 1):
        w = weights[labels == c]
        _, scatter = class_scatter(features[labels == c] @ basis, w)
        count = w.sum() ** 2 / (w**2).sum()
        drawn = rank / (count - 1 + rank)
        own = drawn * pooled
        if count > 1 + 1e-9:
            own += (1 - drawn) * scatter / (w.sum() - (w**2).sum() / w.sum())
        precision = np.linalg.inv(tied)
        precision += basis @ (np.linalg.inv(own) - np.linalg.inv(pooled)) @ basis.T
        covariances.append(np.linalg.inv(precision))
    return means, np.stack(covariances)


def log_density(z: Array, mean: Array, covariance: Array) -> float:
    """log N(z; mean, covariance) by the eigenvalues of the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    coordinates = vectors.T @ (z - mean)
    return float(-0.5 * np.sum(coordinates**2 / values + np.log(2 * np.pi * values)))


# --- explainers/vlk.py: the prototype-guided search of Van Looveren and Klaise ---


def nearest_prototype(
    features: Array, rows: dict[int, Array], k: int | None, k_type: str
) -> tuple[int, Array]:
    """The class with the nearest prototype, and it; ``rows`` holds the admissible classes."""
    scored = []
    for c in sorted(rows):
        if len(rows[c]) == 0:
            continue
        distances = [float(np.sqrt(np.sum((row - features) ** 2))) for row in rows[c]]
        if k is None:
            prototype = rows[c].mean(0)
            score = float(np.sqrt(np.sum((prototype - features) ** 2)))
        else:
            nearest = sorted(range(len(distances)), key=lambda i: (distances[i], i))[:k]
            if k_type == "point":
                prototype, score = rows[c][nearest[-1]], distances[nearest[-1]]
            else:
                prototype = rows[c][nearest].mean(0)
                score = sum(distances[i] for i in nearest) / k
        scored.append((score, c, prototype))
    score, c, prototype = min(scored, key=lambda entry: entry[:2])
    return c, prototype


@dataclass
class GuidedAttempt:
    """What one run of the prototype-guided search returns, with the weights c of its rounds."""

    image: Array
    success: bool
    confidence: float
    target: int
    weights: list[float]
    path: list[Array]


def softmax(scores: Array) -> Array:
    """exp(s_j) / sum exp(s_i)."""
    powers = np.exp(scores - scores.max())
    probabilities: Array = powers / powers.sum()
    return probabilities


def vlk(
    original: Array,
    target: int | None,
    scores_of: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
    encode: Callable[[Tensor], Tensor],
    rows: dict[int, Array],
    *,
    kappa: float = 0.0,
    beta: float = 0.1,
    gamma: float = 100.0,
    theta: float = 100.0,
    c_init: float = 1.0,
    c_steps: int = 2,
    max_iterations: int = 1000,
    learning_rate_init: float = 1e-2,
    k: int | None = 5,
    k_type: str = "mean",
    clip: float = 1000.0,
    lower: Array | float = 0.0,
    upper: Array | float = 1.0,
    mask: Array | None = None,
) -> GuidedAttempt:
    """The search for one image of another predicted class than the target.

    ``scores_of``, ``decode`` (the reconstruction) and ``encode`` take one image. The search moves u
    with x = low + (high - low) u, so that it works in units of the range.
    """
    low = np.broadcast_to(lower, original.shape).copy()
    span = np.broadcast_to(upper, original.shape) - low
    start = (original - low) / span

    def probabilities_at(u: Array) -> Array:
        return softmax(scores_of(torch.from_numpy(low + span * u)).detach().numpy())

    own = int(probabilities_at(start).argmax())
    admissible = {c: rows[c] for c in rows if (c != own if target is None else c == target)}
    code = encode(torch.from_numpy(original)).detach().numpy()
    prototype = torch.from_numpy(nearest_prototype(code, admissible, k, k_type)[1])

    def gradient_at(u: Array, c: float) -> Array:
        point = torch.from_numpy(u).requires_grad_()
        x = torch.from_numpy(low) + torch.from_numpy(span) * point
        p = torch.softmax(scores_of(x), 0)
        rest = torch.cat([p[:own], p[own + 1 :]]).max()
        loss = c * torch.clamp(p[own] - rest + kappa, min=0)
        loss = loss + ((point - torch.from_numpy(start)) ** 2).sum()
        loss = loss + gamma * (((decode(x) - x) / torch.from_numpy(span)) ** 2).sum()
        loss = loss + theta * ((encode(x) - prototype) ** 2).sum()
        (gradient,) = torch.autograd.grad(loss, point)
        return gradient.numpy()

    failed, succeeded, c = 0.0, np.inf, c_init
    weights: list[float] = []
    path = [original.copy()]
    best, best_distance = None, np.inf

    def wanted_of(p: Array) -> int:
        if target is not None:
            return target
        return int(np.where(np.arange(len(p)) == own, -1.0, p).argmax())

    p = probabilities_at(start)
    likeliest, likeliest_target = original, wanted_of(p)
    likeliest_confidence = p[likeliest_target]
    for _ in range(c_steps):
        weights.append(c)
        found = False
        x, y = start.copy(), start.copy()
        for t in range(max_iterations):
            g = np.clip(gradient_at(y, c), -clip, clip)
            following = start.copy()
            for pixel in np.ndindex(*start.shape):
                v = y[pixel] - learning_rate_init * np.sqrt(1 - t / max_iterations) * g[pixel]
                if v - start[pixel] > beta:
                    following[pixel] = min(v - beta, 1.0)
                elif v - start[pixel] < -beta:
                    following[pixel] = max(v + beta, 0.0)
                if mask is not None and not mask[pixel]:
                    following[pixel] = start[pixel]
            y = np.clip(following + (t + 1) / (t + 4) * (following - x), 0, 1)
            x = following
            path.append(low + span * x)

            p = probabilities_at(x)
            with_margin = p.copy()
            with_margin[own] += kappa
            wanted = wanted_of(p)
            if p[wanted] > likeliest_confidence:
                likeliest, likeliest_confidence, likeliest_target = path[-1], p[wanted], wanted
            if with_margin.argmax() != own and p.argmax() == wanted:
                found = True
                distance = ((x - start) ** 2).sum() + beta * np.abs(x - start).sum()
                if distance < best_distance:
                    best, best_distance = (path[-1], float(p[wanted]), wanted), distance
        if found:
            succeeded = min(succeeded, c)
        else:
            failed = max(failed, c)
        c = (failed + succeeded) / 2 if np.isfinite(succeeded) else 10 * c
    if best is not None:
        image, confidence, wanted = best
        return GuidedAttempt(image, True, confidence, wanted, weights, path)
    return GuidedAttempt(
        likeliest, False, float(likeliest_confidence), likeliest_target, weights, path
    )


# --- reconstruction.py: Adam on a linear reconstruction, by its own gradient ---


@dataclass
class Reconstruction:
    """Weight and bias after the last step, and the mean squared error before each."""

    weight: Array
    bias: Array
    errors: list[float]


def adam_on_linear_reconstruction(
    images: Array, weight: Array, bias: Array, *, steps: int, rate: float
) -> Reconstruction:
    """Adam with decays .9 and .999 on the mean of all (x W' + b - x)^2, as its paper prints it."""
    values = [weight.copy(), bias.copy()]
    first = [np.zeros_like(value) for value in values]
    second = [np.zeros_like(value) for value in values]
    errors = []
    for t in range(1, steps + 1):
        rest = images @ values[0].T + values[1] - images
        errors.append(float((rest**2).mean()))
        slope = 2 * rest / rest.size
        for i, gradient in enumerate((slope.T @ images, slope.sum(0))):
            first[i] = 0.9 * first[i] + 0.1 * gradient
            second[i] = 0.999 * second[i] + 0.001 * gradient**2
            mean, square = first[i] / (1 - 0.9**t), second[i] / (1 - 0.999**t)
            values[i] = values[i] - rate * mean / (np.sqrt(square) + 1e-8)
    return Reconstruction(values[0], values[1], errors)


# --- explainers/wachter.py, revise.py: equations 1 and 3, descended by Adam ---


class NaiveAdam:
    """Adam as its paper prints it; gives the update and each entry's step size."""

    def __init__(self, shape: tuple[int, ...], rate: float) -> None:
        self.rate, self.t = rate, 0
        self.m, self.v = np.zeros(shape), np.zeros(shape)

    def step(self, gradient: Array) -> tuple[Array, Array]:
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        root = np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8
        return self.rate * (self.m / (1 - 0.9**self.t)) / root, self.rate / root


def is_reached(probabilities: Array, target: int, confidence: float) -> bool:
    """Above the confidence, and where that is below .5 also the most likely class."""
    enough = bool(probabilities[target] > confidence)
    return enough and (confidence >= 0.5 or int(probabilities.argmax()) == target)


def wachter(
    original: Array,
    target: int,
    probabilities_of: Callable[[Tensor], Tensor],
    *,
    confidence: float = 0.5,
    distance: str = "l1",
    mad: Array | None = None,
    target_probability: float = 1.0,
    lambda_init: float = 5.0,
    lambda_rounds: int = 10,
    learning_rate: float = 0.01,
    max_iterations: int = 100,
    lower: Array | float = 0.0,
    upper: Array | float = 1.0,
    mask: Array | None = None,
) -> Attempt:
    """Equation 1 for one image: rounds of proximal Adam, each with a lambda of its own."""
    low = np.broadcast_to(lower, original.shape)
    span = np.broadcast_to(upper, original.shape) - low
    weights = np.ones_like(original)
    if distance == "mad" and mad is not None:
        deviations = np.broadcast_to(mad, original.shape)
        weights = span / np.where(deviations == 0, deviations[deviations > 0].min(), deviations)

    path: list[Array] = []
    likeliest, likeliest_confidence = original, -1.0
    closest: tuple[Array, Array, float] | None = None  # image, pull, confidence
    closest_distance = np.inf

    def look(image: Array) -> tuple[bool, bool, Array]:
        """Whether it is a success, whether a closer one than all before, and (f - y')^2's pull."""
        nonlocal likeliest, likeliest_confidence, closest, closest_distance
        path.append(image.copy())
        x = torch.from_numpy(image).requires_grad_()
        p = probabilities_of(x)
        (gradient,) = torch.autograd.grad((p[target] - target_probability) ** 2, x)
        pull = gradient.numpy() * span
        if mask is not None:
            pull = np.where(mask, pull, 0.0)
        if p[target].item() > likeliest_confidence:
            likeliest, likeliest_confidence = image.copy(), p[target].item()
        success = is_reached(p.detach().numpy(), target, confidence)
        change = (image - original) / span
        size = (change**2).sum() if distance == "l2" else (weights * np.abs(change)).sum()
        closer = success and size < closest_distance
        if closer:
            closest, closest_distance = (image.copy(), pull, p[target].item()), size
        return success, closer, pull

    def moved(image: Array, pull: Array, weight: float, adam: NaiveAdam) -> Array:
        update, rate = adam.step(min(weight, 1e6 / np.abs(pull / weights).max()) * pull)
        result: Array = original.copy()
        for i in np.ndindex(*original.shape):
            change = (image[i] - original[i]) / span[i] - update[i]
            size = abs(change)
            size = size / (1 + 2 * rate[i]) if distance == "l2" else size - rate[i] * weights[i]
            if size > 1e-6:
                result[i] = original[i] + span[i] * np.sign(change) * size
                result[i] = min(max(result[i], low[i]), low[i] + span[i])
        return result

    image = original
    success, _, pull = look(image)
    if success:
        return Attempt(image, likeliest_confidence, True, 0, path)
    weight = lambda_init / np.abs(pull / weights).max()
    too_low, high_enough = 0.0, np.inf
    for _ in range(lambda_rounds):
        adam = NaiveAdam(original.shape, learning_rate)
        sought, first, idle = closest is None, False, 0
        if closest is not None:
            image, pull, _ = closest
        for _ in range(max_iterations):
            image = moved(image, pull, weight, adam)
            success, closer, pull = look(image)
            first = sought and success
            idle = 0 if closer else idle + 1
            if first or (not sought and idle == 20):
                break
        if first:
            weight = lambda_init / np.abs(pull / weights).max()
            continue
        if success:
            high_enough = weight
        else:
            too_low = weight
        weight = 10 * too_low if high_enough == np.inf else (too_low + high_enough) / 2
        if sought:
            too_low = 0.0
    steps = len(path) - 1
    if closest is None:
        return Attempt(likeliest, likeliest_confidence, False, steps, path)
    return Attempt(closest[0], closest[2], True, steps, path)


def revise(
    original: Array,
    target: int,
    latent: Array,
    decode: Callable[[Tensor], Tensor],
    scores_of: Callable[[Tensor], Tensor],
    *,
    confidence: float = 0.5,
    distance_weight: float = 1.0,
    learning_rate: float = 1e-5,
    max_iterations: int = 50_000,
    optimizer: str = "sgd",
    select: str = "first",
    lower: Array | float = 0.0,
    upper: Array | float = 1.0,
    mask: Array | None = None,
) -> Attempt:
    """Equation 3 for one image, from the latent of its reconstruction."""
    low, high = torch.as_tensor(lower), torch.as_tensor(upper)
    x = torch.from_numpy(original)
    may_change = torch.ones_like(x) if mask is None else torch.from_numpy(mask).to(x)
    adam = NaiveAdam(latent.shape, learning_rate)
    path = [original.copy()]
    scores = scores_of(x).detach()
    found: list[tuple[float, int, float]] = []  # distance, place in the path, confidence
    confidences = [torch.softmax(scores, 0)[target].item()]
    if is_reached(torch.softmax(scores, 0).numpy(), target, confidence):
        return Attempt(original, confidences[0], True, 0, path)
    z = latent.copy()
    for step in range(1, max_iterations + 1):
        code = torch.from_numpy(z).requires_grad_()
        drawn = decode(code)
        drawn = torch.where(drawn < low, low, torch.where(drawn > high, high, drawn))
        image = may_change * drawn + (1 - may_change) * x
        scores = scores_of(image)
        distance = ((image - x) / (high - low)).abs().sum()
        loss = cross_entropy(scores, target) + distance_weight * distance
        (gradient,) = torch.autograd.grad(loss, code)
        path.append(image.detach().numpy())
        probabilities = torch.softmax(scores.detach(), 0)
        confidences.append(probabilities[target].item())
        if is_reached(probabilities.numpy(), target, confidence):
            found.append((distance.item(), step, confidences[-1]))
            if select == "first":
                break
        if optimizer == "adam":
            z = z - adam.step(gradient.numpy())[0]
        else:
            z = z - learning_rate * gradient.numpy()
    steps = len(path) - 1
    if found:
        _, place, probability = min(found)
        return Attempt(path[place], probability, True, steps, path)
    place = int(np.argmax(confidences))
    return Attempt(path[place], confidences[place], False, steps, path)


# --- Papernot's saliency map ---


def papernot(
    original: Array,
    target: int,
    scores_of: Callable[[Tensor], Tensor],
    *,
    pixels: int,
    increase: bool = True,
    confidence: float = 0.5,
    step_size: float = 0.2,
    max_iterations: int = 700,
) -> Attempt:
    """Papernot's attack on an image in [0, 1], with its full Jacobian and every pair tried."""
    sign = 1.0 if increase else -1.0
    image = original.copy()
    retired: set[tuple[int, ...]] = set()
    path = [image.copy()]
    best, best_confidence = image.copy(), -1.0
    for steps in range(max_iterations + 1):
        scores = scores_of(torch.from_numpy(image))
        probability = torch.exp(-cross_entropy(scores, target)).item()
        if probability > best_confidence:
            best, best_confidence = image.copy(), probability
        if probability > confidence:
            return Attempt(image, probability, True, steps, path)
        x = torch.from_numpy(image).requires_grad_()
        rows = [torch.autograd.grad(score, x, retain_graph=True)[0] for score in scores_of(x)]
        jacobian = torch.stack(rows).numpy()
        others = jacobian.sum(0) - jacobian[target]
        candidates = []
        for entry in np.ndindex(*original.shape):
            moved = snapped(image[entry] + sign * step_size, 0.0, 1.0, original[entry])
            if entry not in retired and abs(moved - image[entry]) > 1e-6:
                candidates.append(entry)
        groups: list[tuple[tuple[int, ...], ...]] = [(entry,) for entry in candidates]
        if pixels == 2:
            groups = [(p, q) for i, p in enumerate(candidates) for q in candidates[i + 1 :]]
        chosen, saliency = None, 0.0
        for group in groups:
            alpha = sign * sum(jacobian[target][entry] for entry in group)
            beta = sign * sum(others[entry] for entry in group)
            if alpha > 0 > beta and alpha * abs(beta) > saliency:
                chosen, saliency = group, alpha * abs(beta)
        if chosen is None or steps == max_iterations:
            return Attempt(best, best_confidence, False, steps, path)
        for entry in chosen:
            image[entry] = snapped(image[entry] + sign * step_size, 0.0, 1.0, original[entry])
            if image[entry] in (0.0, 1.0):
                retired.add(entry)
        path.append(image.copy())
    raise AssertionError("the loop returns")


# --- metrics ---


def im1(image: Array, of_target: Array, of_original: Array, epsilon: float) -> float:
    """Van Looveren and Klaise's first metric, from the two reconstructions of one image."""
    above = sum((x - r) ** 2 for x, r in zip(image.flat, of_target.flat, strict=True))
    below = sum((x - r) ** 2 for x, r in zip(image.flat, of_original.flat, strict=True))
    return float(above / (below + epsilon))


def im2(image: Array, of_target: Array, of_all: Array, epsilon: float) -> float:
    """Their second metric, from the two reconstructions of one image."""
    above = sum((r - s) ** 2 for r, s in zip(of_target.flat, of_all.flat, strict=True))
    return float(above / (sum(abs(x) for x in image.flat) + epsilon))


def share_kept(
    image: Array, noise: Array, target: int, scores_of: Callable[[Array], Array]
) -> float:
    """How many of the perturbations of one image keep its target, one after the other."""
    kept = [int(np.argmax(scores_of(image + offset))) == target for offset in noise]
    return sum(kept) / len(kept)


def means_of_sets(values: Array, sets: npt.NDArray[np.int64]) -> dict[int, float]:
    """The mean of each set, by its number."""
    return {
        int(s): float(np.mean([v for v, t in zip(values, sets, strict=True) if t == s]))
        for s in sorted(set(sets.tolist()))
    }


# --- metrics/anogan.py: equation 7, descended from one start ---


@dataclass
class DrawingMachine:
    """A generator and a feature map small enough to differentiate by hand.

    G(z) = sigmoid(W z + b) and f(x) = (V x)^2 + V x, entry by entry.
    """

    W: Array
    b: Array
    V: Array

    def draw(self, z: Array) -> Array:
        return np.asarray(1 / (1 + np.exp(-(self.W @ z + self.b))))

    def features(self, x: Array) -> Array:
        seen = self.V @ x
        return np.asarray(seen**2 + seen)

    def loss(self, z: Array, x: Array, weight: float) -> float:
        drawn = self.draw(z)
        pixels = sum(abs(d - o) for d, o in zip(drawn, x, strict=True))
        features = zip(self.features(drawn), self.features(x), strict=True)
        return float(pixels + weight * sum(abs(d - o) for d, o in features))

    def slope(self, z: Array, x: Array, weight: float) -> Array:
        drawn = self.draw(z)
        by_feature = np.sign(self.features(drawn) - self.features(x))
        by_pixel = np.sign(drawn - x)
        by_pixel = by_pixel + weight * self.V.T @ (by_feature * (2 * self.V @ drawn + 1))
        return np.asarray(self.W.T @ (by_pixel * drawn * (1 - drawn)))


def anogan_by_gradient_steps(
    machine: DrawingMachine, z: Array, x: Array, weight: float, rates: list[float]
) -> float:
    """The loss after plain steps of these sizes."""
    for rate in rates:
        z = z - rate * machine.slope(z, x, weight)
    return machine.loss(z, x, weight)


def anogan_by_adam(
    machine: DrawingMachine, z: Array, x: Array, weight: float, rates: list[float]
) -> float:
    """The loss after steps of Adam with decays .7 and .95."""
    first, second = np.zeros_like(z), np.zeros_like(z)
    for t, rate in enumerate(rates, 1):
        g = machine.slope(z, x, weight)
        first = 0.7 * first + 0.3 * g
        second = 0.95 * second + 0.05 * g**2
        z = z - rate * (first / (1 - 0.7**t)) / (np.sqrt(second / (1 - 0.95**t)) + 1e-8)
    return machine.loss(z, x, weight)


# --- a classifier averaged over noise ---


def smoothed(
    image: Tensor, draws: Tensor, model: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Mean scores and features of one image with each draw of noise added, then subtracted."""
    scores, features = [], []
    for draw in draws:
        for disturbed in (image + draw, image - draw):
            s, z = model(disturbed)
            scores.append(s)
            features.append(z)
    return torch.stack(scores).mean(0), torch.stack(features).mean(0)


def averaged_on_grid(maps: Tensor, grid: int) -> Tensor:
    """Means of each channel over cells: cell i of g is from floor(i n / g) to ceil((i+1) n / g)."""
    height, width = maps.shape[1:]

    def cells(length: int) -> list[slice]:
        return [
            slice(place * length // grid, -(-(place + 1) * length // grid)) for place in range(grid)
        ]

    means = [
        channel[rows, columns].sum() / channel[rows, columns].numel()
        for channel in maps
        for rows in cells(height)
        for columns in cells(width)
    ]
    return torch.stack(means)
