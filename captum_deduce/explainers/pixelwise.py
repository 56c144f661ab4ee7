"""The search that moves a few pixels a step: what DeDUCE, JSMA and Schut's method share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, feature_masks, search
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.search import (
    AdaptiveDescent,
    Entries,
    Goal,
    Groups,
    HalvingDescent,
    PixelDescent,
    Pixels,
    PixelStep,
    Problem,
    Sites,
    relative_sum,
    target_log_probability,
)

PIXELS = ("entry", "site", "patch")
"""What may move as one, where no feature mask says so."""

ADAPTIVE = "adaptive"
"""As many pixels a step, and moved as far, as the way to the goal and the last steps suggest."""

MOST_MOVED = 0.1
"""The largest share of the pixels that may change that move in one adaptive step."""

MOST_GAIN = 0.5
"""The relative fall of the loss that the pixels of an adaptive step of full length aim at."""


class PixelwiseExplainer(CounterfactualExplainer):
    r"""Algorithm 1 of the DeDUCE paper, for any objective.

    A step descends on the target's cross-entropy (relative to its size, where steps are adaptive),
    unless a subclass says otherwise in :meth:`_objective`; its constructor stores all settings
    named here.
    """

    step_size: float
    max_changes: int | None
    pixels_per_step: int | str
    momentum: float
    max_iterations: int
    skip_saturated: bool
    pixel: str
    patch_size: int = 8
    rounds: int = 1
    halving: bool = False
    _retire_at_bounds = False

    def _objective(
        self,
        scores: Tensor,
        features: Tensor,
        target: Tensor,
        classes: list[int],
        balance: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute each pair's loss, and its log-density where there is one (see Objective)."""
        cross_entropy = -target_log_probability(scores, target)
        if self.pixels_per_step == ADAPTIVE:
            return relative_sum(cross_entropy, None, 1.0), None
        return cross_entropy, None

    def _check_settings(self) -> None:
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.number("step_size", self.step_size, minimum=checks.TOLERANCE, maximum=1)
        if self.max_changes is not None:
            checks.number("max_changes", self.max_changes, minimum=1, integer=True)
        self._check_pixels_per_step()
        checks.number("momentum", self.momentum, minimum=0)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        checks.flag("skip_saturated", self.skip_saturated)
        checks.choice("pixel", self.pixel, PIXELS)
        checks.number("patch_size", self.patch_size, minimum=1, integer=True)

    def _check_pixels_per_step(self) -> None:
        if isinstance(self.pixels_per_step, str):
            checks.choice("pixels_per_step", self.pixels_per_step, (ADAPTIVE,))
        else:
            checks.number("pixels_per_step", self.pixels_per_step, minimum=1, integer=True)

    def _goal(self, problem: Problem) -> Goal:
        """What ends the search of each pair."""
        return Goal(self.confidence)

    def _check_feature_mask(self) -> None:
        pass

    def _pixels(self, problem: Problem) -> Pixels:
        """What moves as one."""
        groups = problem.groups
        if groups is None and self.pixel == "patch":
            inputs = problem.inputs
            if inputs.dim() != 4:
                raise ValueError(
                    'pixel="patch" needs inputs of the shape N x channels x height x width, got '
                    f"{tuple(inputs.shape)}; a feature_mask makes groups of any inputs"
                )
            squares = feature_masks.grid(inputs.shape[2], inputs.shape[3], self.patch_size)
            groups = squares.to(inputs.device).expand(inputs.shape[1:])
        if groups is not None:
            return Groups(groups, int(groups.max()) + 1)
        return Sites() if self.pixel == "site" else Entries()

    def _resolved(self, problem: Problem) -> str:
        if self.pixels_per_step != ADAPTIVE:
            return ""
        pixels = self._pixels(problem)
        what = {Entries: "entries", Sites: "places", Groups: "groups"}[type(pixels)]
        count = _most_pixels(problem, pixels)
        return f"at most {_most_moved(count):,} of {count:,} {what} a step"

    def _step(self, problem: Problem) -> PixelStep:
        pixels, count, gain = self._pixels(problem), self.pixels_per_step, None
        if isinstance(count, str):
            count, gain = _most_moved(_most_pixels(problem, pixels)), MOST_GAIN
        return PixelStep(
            step_size=self.step_size,
            max_changes=self.max_changes,
            pixels_per_step=count,
            pixels=pixels,
            skip_saturated=self.skip_saturated,
            lower=problem.lower,
            upper=problem.upper,
            most_gain=gain,
        )

    def _procedure(self, problem: Problem) -> search.Procedure:
        arguments = (problem, self._objective, self._step(problem), self._goal(problem))
        settings: dict[str, Any] = {
            "momentum": self.momentum,
            "max_iterations": self.max_iterations,
            "rounds": self.rounds,
        }
        if self.pixels_per_step == ADAPTIVE:
            descent = HalvingDescent if self.halving else AdaptiveDescent
            return descent(*arguments, **settings)
        return PixelDescent(*arguments, **settings, retire_at_bounds=self._retire_at_bounds)


def _most_moved(pixels: int) -> int:
    """How many of the pixels that may change move in one adaptive step, at most."""
    return max(math.ceil(MOST_MOVED * pixels), 1)


def _most_pixels(problem: Problem, pixels: Pixels) -> int:
    """Count the pixels that may change, in the image with most of them."""
    mask = problem.mask
    if mask is None and isinstance(pixels, Groups):
        return pixels.count
    if mask is None:
        mask = torch.ones_like(problem.inputs[:1], dtype=torch.bool)
    return int(pixels.any(mask).flatten(1).sum(1).max())
