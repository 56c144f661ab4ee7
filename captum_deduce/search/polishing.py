r"""Polishing: make a counterfactual that was found smoother, near, and still a counterfactual.

A search moves pixel by pixel and ends at the first image that meets its goal, often with single
bright pixels and ragged strokes. Polishing goes on from there: it descends on distance and
variation while the goal holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from captum_deduce import checks
from captum_deduce.search import loop
from captum_deduce.search.columns import as_column
from captum_deduce.search.improvement import Improvement, LogDensity, improve
from captum_deduce.search.losses import l1_norm, margin, squared_norm, total_variation
from captum_deduce.search.pixels import Entries, Groups, Pixels
from captum_deduce.search.problem import Goal, Problem, confidence_of
from captum_deduce.search.steps import AdamStep

LAST_RATE = 0.1
"""What is left of the learning rate at the last step."""

VISIBLE = 1 / 255
"""Smaller changes, in units of the range, vanish in an 8-bit image: they are not made."""

PACE = 1.3
"""What the goal's weight is multiplied with after a step outside of it, and divided by within."""

_LEAST_PULL = 1e-12
"""Slopes of the goal no smaller than this are what a weight is taken from."""


@dataclass(frozen=True)
class Polish:
    r"""How counterfactuals are polished: smoother strokes, near the original, the goal kept.

    From the image that a search found, minimises, in units of the range,

    .. math::
        \|\mathbf x - \mathbf x_0\|_1 + \tau\, \mathrm{TV}(\mathbf x)
        + \rho\, \|\mathrm{AE}(\mathbf x) - \mathbf x\|_2^2

    over images that meet the goal: the confidence, and the density quantile where there is one.
    Each step is one of Adam with the proximal step of the :math:`\ell_1` term; the goal enters as a
    penalty whose weight rises by :data:`PACE` after each step outside of it, and falls by the same
    after each step within. The best image within the goal is kept, or the first one where none is
    better.

    TV is the sum of the absolute differences of neighbours (anisotropic, rounded off at 0.03).

    Args:
        variation (float, optional): :math:`\tau`. Up to 0.25 it moves no entry that the goal does
            not need, as the differences to four neighbours can't outweigh the distance. Images must
            be N x channels x height x width unless it is 0. Default: 0.25
        prior (Callable, optional): AE, from N images to N reconstructions of the same shape: an
            autoencoder, or a generator after its encoder. Default: None
        prior_weight (float, optional): :math:`\rho`. Default: 1.0
        most_changes (int, optional): Most entries that may differ from the original; the largest
            changes stay. A pair for which no image so sparse is found keeps what it had.
            Default: None (any number)
        only_changed (bool, optional): Move only the pixels that the search has changed (always so
            where it moves patches or the groups of a ``feature_mask``). Default: False
        steps (int, optional): How many; one evaluation more. Default: 100
        learning_rate (float, optional): Of Adam, in units of the range; it falls to a tenth.
            Default: 0.05

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: A number out of its range.

    Examples::

        >>> from captum_deduce import Polish
        >>> Polish(variation=0.5, most_changes=60).steps
        100
    """

    variation: float = 0.25
    prior: Callable[..., Any] | None = None
    prior_weight: float = 1.0
    most_changes: int | None = None
    only_changed: bool = False
    steps: int = 100
    learning_rate: float = 0.05

    def __post_init__(self) -> None:
        checks.number("variation", self.variation, minimum=0)
        if self.prior is not None:
            checks.callable_model("prior", self.prior)
        checks.number("prior_weight", self.prior_weight, minimum=0)
        if self.most_changes is not None:
            checks.number("most_changes", self.most_changes, minimum=1, integer=True)
        checks.flag("only_changed", self.only_changed)
        checks.number("steps", self.steps, minimum=1, integer=True)
        checks.number("learning_rate", self.learning_rate, minimum=0, maximum=1, exclusive=True)


class Polishing(Improvement):
    """Descend from counterfactuals on distance, variation and prior, along the edge of the goal.

    Args:
        problem (Problem): What the call asks for.
        goal (Goal): What has to stay true.
        images (Tensor): The counterfactuals, one for each pair of the problem, N x ...
        pairs (list[int]): Those to polish, as indices of the problem's pairs.
        log_density (LogDensity or None): Under each target class.
        settings (Polish): What for.
        pixels (Pixels): What the search moved as one.
    """

    def __init__(
        self,
        problem: Problem,
        goal: Goal,
        images: Tensor,
        pairs: list[int],
        log_density: LogDensity | None,
        settings: Polish,
        *,
        pixels: Pixels,
    ) -> None:
        super().__init__(problem, goal, images, pairs, log_density, pixels=pixels)
        self.settings = settings
        self.max_iterations = settings.steps
        self.step_rule = AdamStep(settings.learning_rate, square_decay=0.99)

    def start(self, pairs: list[int]) -> loop.State:
        """Begin at the counterfactuals, see :meth:`captum_deduce.search.Procedure.start`."""
        state = self.beginning(pairs)
        images = state["images"]
        changed = images != state["original"]
        if self.settings.only_changed or isinstance(self.pixels, Groups):
            pixels = self.pixels.of(state)
            moved = pixels.spread(pixels.any(changed)).expand_as(changed)
            state["allowed"] = moved & state["allowed"] if "allowed" in state else moved.clone()
        none = torch.zeros_like(state["target"])
        return state | {
            "change": (images - state["original"]) / self._span(state),
            "looks": torch.zeros_like(images),
            "mean": torch.zeros_like(images),
            "square": torch.zeros_like(images),
            "weight": torch.zeros_like(none, dtype=torch.float64),
            "within": torch.ones_like(none, dtype=torch.bool),
            "iteration": none,
        }

    def evaluate(self, state: loop.State, pairs: list[int]) -> loop.Evaluation:
        """Run the model, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        images, target, span = state["images"], state["target"], self._span(state)
        moving = images.detach().requires_grad_()
        scores, features = self.problem.forward(moving, state)
        log_density = self.log_densities(features, pairs)
        log_probability = log_softmax(scores.double(), 1)
        short = _shortfall(self.goal, log_probability, target, log_density)
        (pull,) = torch.autograd.grad(short.sum(), moving)
        looks = self._looks(moving, state)
        if looks.requires_grad:
            (state["looks"],) = torch.autograd.grad(looks.sum(), moving)
        found = (confidence_of(scores, target), scores.detach().argmax(1), target)
        known = None if log_density is None else log_density.detach()
        state["within"] = self.goal.reached(*found, known)
        change = (images - state["original"]) / span
        few = self.settings.most_changes
        return loop.Evaluation(
            images=images,
            confidence=found[0],
            success=state["within"] if few is None else state["within"] & (_count(change) <= few),
            finished=torch.zeros_like(state["within"]),
            prediction=found[1],
            gradient=pull * span,
            distance=l1_norm(change) + looks.detach(),
            log_density=known,
        )

    def step(self, state: loop.State, evaluation: loop.Evaluation) -> Tensor:
        """Descend and shrink, see :meth:`captum_deduce.search.Procedure.step`."""
        pull, span = evaluation.gradient, self._span(state)
        state["weight"] = self._weight(state, pull)
        gradient = as_column(state["weight"], pull).to(pull) * pull + state["looks"] * span
        done = state["iteration"].double() / self.settings.steps
        state["iteration"] = state["iteration"] + 1
        update, rate = self.step_rule(gradient, state["mean"], state["square"], state["iteration"])
        slowed = as_column(1 - (1 - LAST_RATE) * done, pull).to(pull)
        moved = state["change"] - slowed * update
        change = moved.sign() * (moved.abs() - slowed * rate).clamp_min(0)
        if self.settings.most_changes is not None:
            change = _largest(change, _most(self.settings.most_changes, done, change[0].numel()))
        if "allowed" in state:
            change = torch.where(state["allowed"], change, state["change"])
        lower, upper = self.problem.bounds(state)
        images = state["original"] + change * span
        images = torch.minimum(torch.maximum(images, lower), upper)
        state["change"] = (images - state["original"]) / span
        state["images"] = torch.where(state["change"].abs() < VISIBLE, state["original"], images)
        return ~torch.isfinite(gradient).flatten(1).all(1)

    def _span(self, state: loop.State) -> Tensor:
        lower, upper = self.problem.bounds(state)
        return upper - lower

    def _looks(self, images: Tensor, state: loop.State) -> Tensor:
        """Variation and prior, A; both in units of the range."""
        settings, span = self.settings, self._span(state)
        total = images.new_zeros(len(images))
        if settings.variation:
            total = total + settings.variation * total_variation(images / span)
        if settings.prior is not None and settings.prior_weight:
            missing = (settings.prior(images.clone()) - images) / span
            total = total + settings.prior_weight * squared_norm(missing)
        return total

    def _weight(self, state: loop.State, pull: Tensor) -> Tensor:
        """What a nat short of the goal weighs: at first what keeps the changes where they are."""
        paced = torch.where(state["within"], state["weight"] / PACE, state["weight"] * PACE)
        changed = state["change"] != 0
        mean = (pull.abs() * changed).flatten(1).sum(1).double() / _count(state["change"])
        return torch.where(state["iteration"] == 0, 1 / mean.clamp_min(_LEAST_PULL), paced)


def polish(
    problem: Problem,
    goal: Goal,
    found: loop.SearchResult,
    settings: Polish,
    log_density: LogDensity | None = None,
    *,
    pixels: Pixels | None = None,
    batch_size: int | None = None,
    show_progress: bool | None = None,
) -> loop.SearchResult:
    """Polish the counterfactuals that a search found.

    Args:
        problem (Problem): What the call asked for.
        goal (Goal): What the search ended at.
        found (SearchResult): Of all pairs of the problem; those without success stay as they are.
        settings (Polish): What for.
        log_density (LogDensity, optional): Where the goal or the result has one. Default: None
        pixels (Pixels, optional): What the search moved as one. Default: None (each entry alone)
        batch_size (int, optional): Most pairs at once. Default: None (all)
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        SearchResult: With the polished images, and the evaluations that it took.
    """
    pixels = Entries() if pixels is None else pixels

    def make(pairs: list[int]) -> Polishing:
        return Polishing(problem, goal, found.images, pairs, log_density, settings, pixels=pixels)

    return improve(
        problem, found, make, "polishing", batch_size=batch_size, show_progress=show_progress
    )


def _shortfall(
    goal: Goal, log_probability: Tensor, target: Tensor, log_density: Tensor | None
) -> Tensor:
    """How far images are from the goal: smooth, and about 0 well within it.

    Odds count in nats, log-densities in tenths of what is asked for, at least nats.
    """
    place = target.unsqueeze(1)
    others = log_probability.scatter(1, place, -torch.inf).logsumexp(1)
    odds = log_probability.gather(1, place).squeeze(1) - others
    ahead = odds - math.log(goal.confidence / (1 - goal.confidence))
    if goal.confidence < 0.5:
        ahead = torch.minimum(ahead, margin(log_probability, target))
    short = -logsigmoid(ahead)
    if goal.log_density is not None and log_density is not None:
        least = goal.log_density[target]
        short = short - logsigmoid((log_density - least) / (least.abs() / 10).clamp_min(1.0))
    return short


def _count(change: Tensor) -> Tensor:
    return (change != 0).flatten(1).sum(1)


def _most(few: int, done: Tensor, entries: int) -> Tensor:
    """How many entries may differ: all at first, and as few as asked for from half-way on."""
    share = min(few, entries) / entries
    return (entries * share ** (2 * done).clamp_max(1.0)).round().long()


def _largest(change: Tensor, count: Tensor) -> Tensor:
    """Undo all changes of an image but its largest, as many as ``count`` (A) says."""
    flat = change.flatten(1)
    order = flat.abs().argsort(dim=1, descending=True, stable=True)
    ranks = torch.arange(flat.shape[1], device=flat.device)
    kept = torch.zeros_like(flat, dtype=torch.bool)
    kept.scatter_(1, order, ranks < count.unsqueeze(1))
    return (flat * kept).view_as(change)
