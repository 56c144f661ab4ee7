"""The search that moves a few pixels a step: what DeDUCE, JSMA and Schut's method share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.explainer import CounterfactualExplainer, Problem, confidence_of
from captum_deduce.steps import PixelStep

Objective = Callable[[Tensor, Tensor, Tensor, list[int]], tuple[Tensor, Tensor | None]]
"""Scores (A x C), features (A x D), targets (A) and the same on the host, to the pairs'
losses (A) and log-densities (A or None)."""


class PixelwiseExplainer(CounterfactualExplainer):
    r"""Algorithm 1 of the DeDUCE paper, for any objective.

    A subclass says in :meth:`_objective` what a step descends on; its constructor stores all
    settings named here.
    """

    step_size: float
    max_changes: int
    pixels_per_step: int
    momentum: float
    max_iterations: int
    skip_saturated: bool
    pixel: str

    @abstractmethod
    def _objective(
        self, scores: Tensor, features: Tensor, target: Tensor, classes: list[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Compute each pair's loss, and its log-density where there is one (see Objective)."""

    def _check_settings(self) -> None:
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.number("step_size", self.step_size, minimum=checks.TOLERANCE, maximum=1)
        checks.number("max_changes", self.max_changes, minimum=1, integer=True)
        checks.number("pixels_per_step", self.pixels_per_step, minimum=1, integer=True)
        checks.number("momentum", self.momentum, minimum=0)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        checks.flag("skip_saturated", self.skip_saturated)
        checks.choice("pixel", self.pixel, ("entry", "site"))

    def _procedure(self, problem: Problem) -> search.Procedure:
        step = PixelStep(
            step_size=self.step_size,
            max_changes=self.max_changes,
            pixels_per_step=self.pixels_per_step,
            by_site=self.pixel == "site",
            skip_saturated=self.skip_saturated,
            lower=problem.lower,
            upper=problem.upper,
        )
        return PixelDescent(
            problem, self._objective, step, self.confidence, self.momentum, self.max_iterations
        )


class PixelDescent(search.Procedure):
    r"""Evaluate, stop above the confidence, else move the pixels that matter most.

    Args:
        problem (Problem): What the call asks for.
        objective (Objective): The pairs' losses.
        step (PixelStep): How the images move.
        confidence (float): :math:`\gamma`; where it is below .5 the target must also be the
            argmax.
        momentum (float): :math:`m` of equation 6. As there, the whole previous direction enters,
            before pixels are masked, and it takes part in selecting them.
        max_iterations (int): Most steps of a pair.
    """

    def __init__(
        self,
        problem: Problem,
        objective: Objective,
        step: PixelStep,
        confidence: float,
        momentum: float,
        max_iterations: int,
    ) -> None:
        self.problem = problem
        self.objective = objective
        self.step_rule = step
        self.confidence = confidence
        self.momentum = momentum
        self.max_iterations = max_iterations

    def start(self, pairs: list[int]) -> search.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        state = self.problem.rows(pairs)
        state["images"] = state["original"].clone()
        state["changes"] = self.step_rule.initial_changes(state["images"])
        if self.momentum:
            state["direction"] = torch.zeros_like(state["images"])
        return state

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """Run the model, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        images = state["images"].detach().requires_grad_()
        target = state["target"]
        scores, features = self.problem.forward(images, state)
        classes = [self.problem.classes[pair] for pair in pairs]
        loss, log_density = self.objective(scores, features, target, classes)
        (gradient,) = torch.autograd.grad(loss.sum(), images)
        confidence = confidence_of(scores, target)
        prediction = scores.detach().argmax(1)
        success = confidence > self.confidence
        if self.confidence < 0.5:
            success = success & (prediction == target)
        return search.Evaluation(
            images=images.detach(),
            confidence=confidence,
            success=success,
            finished=success,
            prediction=prediction,
            gradient=gradient,
            log_density=None if log_density is None else log_density.detach(),
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Move pixels, see :meth:`captum_deduce.search.Procedure.step`."""
        direction = evaluation.gradient
        if self.momentum:
            direction = direction + self.momentum * state["direction"]
            state["direction"] = direction
        state["images"], state["changes"], stuck = self.step_rule(
            state["images"], direction, state["changes"], state["original"], state.get("allowed")
        )
        return stuck | ~torch.isfinite(direction).flatten(1).all(1)
