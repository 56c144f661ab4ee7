"""The search that moves a few pixels a step: what DeDUCE, JSMA and Schut's method share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.explainer import CounterfactualExplainer
from captum_deduce.losses import target_log_probability
from captum_deduce.problem import Problem, confidence_of, is_success
from captum_deduce.steps import PixelStep

Objective = Callable[[Tensor, Tensor, Tensor, list[int]], tuple[Tensor, Tensor | None]]
"""Scores (A x C), features (A x D), targets (A) and the same on the host, to the pairs' losses (A)
and log-densities (A or None)."""


class PixelwiseExplainer(CounterfactualExplainer):
    r"""Algorithm 1 of the DeDUCE paper, for any objective.

    A step descends on the target's cross-entropy, unless a subclass says otherwise in
    :meth:`_objective`; its constructor stores all settings named here.
    """

    step_size: float
    max_changes: int | None
    pixels_per_step: int
    momentum: float
    max_iterations: int
    skip_saturated: bool
    pixel: str

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
        checks.number("pixels_per_step", self.pixels_per_step, minimum=1, integer=True)
        checks.number("momentum", self.momentum, minimum=0)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        checks.flag("skip_saturated", self.skip_saturated)
        checks.choice("pixel", self.pixel, ("entry", "site"))

    def _step(self, problem: Problem) -> PixelStep:
        return PixelStep(
            step_size=self.step_size,
            max_changes=self.max_changes,
            pixels_per_step=self.pixels_per_step,
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
            confidence=self.confidence,
            momentum=self.momentum,
            max_iterations=self.max_iterations,
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
        retire_at_bounds (bool, optional): Whether an entry is out for good once a step has put it
            on a bound. Default: False
    """

    def __init__(
        self,
        problem: Problem,
        objective: Objective,
        step: PixelStep,
        *,
        confidence: float,
        momentum: float,
        max_iterations: int,
        retire_at_bounds: bool = False,
    ) -> None:
        self.problem = problem
        self.objective = objective
        self.step_rule = step
        self.confidence = confidence
        self.momentum = momentum
        self.max_iterations = max_iterations
        self.retire_at_bounds = retire_at_bounds

    def start(self, pairs: list[int]) -> search.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        state = self.problem.rows(pairs)
        state["images"] = state["original"].clone()
        state["changes"] = self.step_rule.initial_changes(state["images"])
        if self.momentum:
            state["direction"] = torch.zeros_like(state["images"])
        if self.retire_at_bounds and "allowed" not in state:
            state["allowed"] = torch.ones_like(state["images"], dtype=torch.bool)
        return state

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """Run the model, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        images = state["images"].detach().requires_grad_()
        target = state["target"]
        scores, features = self.problem.forward(images, state)
        classes = [self.problem.classes[pair] for pair in pairs]
        gradient, log_density = self.gradient(images, scores, features, target, classes)
        confidence = confidence_of(scores, target)
        prediction = scores.detach().argmax(1)
        success = is_success(confidence, prediction, target, self.confidence)
        return search.Evaluation(
            images=images.detach(),
            confidence=confidence,
            success=success,
            finished=success,
            prediction=prediction,
            gradient=gradient,
            log_density=None if log_density is None else log_density.detach(),
        )

    def gradient(
        self,
        images: Tensor,
        scores: Tensor,
        features: Tensor,
        target: Tensor,
        classes: list[int],
    ) -> tuple[Tensor, Tensor | None]:
        """Differentiate the pairs' losses with respect to their images.

        Args:
            images (Tensor): A x ..., the leaf that scores and features were computed from.
            scores (Tensor): A x C.
            features (Tensor): A x D.
            target (Tensor): A.
            classes (list[int]): The targets on the host.

        Returns:
            tuple[Tensor, Tensor or None]: Gradient, of the images' shape, and log-densities, A.
        """
        loss, log_density = self.objective(scores, features, target, classes)
        return torch.autograd.grad(loss.sum(), images)[0], log_density

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Move pixels, see :meth:`captum_deduce.search.Procedure.step`."""
        direction = evaluation.gradient
        if self.momentum:
            direction = direction + self.momentum * state["direction"]
            state["direction"] = direction
        return self.move(state, direction) | ~torch.isfinite(direction).flatten(1).all(1)

    def move(self, state: search.State, direction: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Apply the step rule to the state.

        Args:
            state (dict[str, Tensor]): Of the active pairs; changed in place.
            direction (Tensor): A x ..., what to move against.
            allowed (Tensor, optional): Bool, the entries that may move. Default: None (those that
                the state allows)

        Returns:
            Tensor: Whether no pixel of an image was admissible (A, bool).
        """
        images = state["images"]
        allowed = state.get("allowed") if allowed is None else allowed
        state["images"], state["changes"], stuck = self.step_rule(
            images, direction, state["changes"], state["original"], allowed
        )
        if self.retire_at_bounds:
            moved, rule = state["images"], self.step_rule
            arrived = (moved != images) & ((moved == rule.lower) | (moved == rule.upper))
            state["allowed"] = state["allowed"] & ~arrived
        return stuck
