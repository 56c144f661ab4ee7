"""The search that moves a few pixels a step: what DeDUCE, JSMA and Schut's method share."""

from __future__ import annotations

from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.search import Goal, PixelDescent, PixelStep, Problem, target_log_probability


class PixelwiseExplainer(CounterfactualExplainer):
    r"""Algorithm 1 of the DeDUCE paper, for any objective.

    A step descends on the target's cross-entropy, unless a subclass says otherwise in
    :meth:`_objective`; its constructor stores all settings named here.
    """

    step_size: float
    max_changes: int | None
    pixels_per_step: int | str
    momentum: float
    max_iterations: int
    skip_saturated: bool
    pixel: str
    rounds: int = 1

    def _objective(
        self, scores: Tensor, features: Tensor, target: Tensor, classes: list[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Compute each pair's loss, and its log-density where there is one (see Objective)."""
        return -target_log_probability(scores, target), None

    def _check_settings(self) -> None:
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.number("step_size", self.step_size, minimum=checks.TOLERANCE, maximum=1)
        if self.max_changes is not None:
            checks.number("max_changes", self.max_changes, minimum=1, integer=True)
        self._check_pixels_per_step()
        checks.number("momentum", self.momentum, minimum=0)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        checks.flag("skip_saturated", self.skip_saturated)
        checks.choice("pixel", self.pixel, ("entry", "site"))

    def _check_pixels_per_step(self) -> None:
        checks.number("pixels_per_step", self.pixels_per_step, minimum=1, integer=True)

    def _goal(self, problem: Problem) -> Goal:
        """What ends the search of each pair."""
        return Goal(self.confidence)

    def _step(self, problem: Problem) -> PixelStep:
        pixels = self.pixels_per_step
        return PixelStep(
            step_size=self.step_size,
            max_changes=self.max_changes,
            pixels_per_step=pixels if isinstance(pixels, int) else 1,
            by_site=self.pixel == "site",
            skip_saturated=self.skip_saturated,
            lower=problem.lower,
            upper=problem.upper,
        )

    def _procedure(self, problem: Problem) -> search.Procedure:
        return PixelDescent(
            problem,
            self._objective,
            self._step(problem),
            self._goal(problem),
            momentum=self.momentum,
            max_iterations=self.max_iterations,
            rounds=self.rounds,
        )
