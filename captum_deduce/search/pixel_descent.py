"""The descent that moves a few pixels a step, stops at its goal, and goes back from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from captum_deduce.search import loop
from captum_deduce.search.columns import as_column
from captum_deduce.search.problem import Goal, Problem, confidence_of
from captum_deduce.search.steps import PixelStep

Objective = Callable[
    [Tensor, Tensor, Tensor, list[int], Tensor | None], tuple[Tensor, Tensor | None]
]
"""Scores (A x C), features (A x D), targets (A), the same on the host, and what the classifier's
term counts besides its own weight (A; None: 1), to the pairs' losses (A) and log-densities (A or
None)."""


class PixelDescent(loop.Procedure):
    r"""Evaluate, stop at the goal, else move the pixels that matter most.

    With several rounds a success is not the end: the third of the changes that the loss misses
    least is undone, and the search goes on from there, since a pixel that was chosen far from the
    decision boundary is often not needed at it. The closest success counts, by the number of
    changed entries plus the sum of the changes' sizes, as fractions of the range. A pair ends after
    its last round, and as soon as an attempt that is no success has become as far as the closest
    one.

    Args:
        problem (Problem): What the call asks for.
        objective (Objective): The pairs' losses.
        step (PixelStep): How the images move; where the problem has bounds or groups for each pair,
            these count.
        goal (Goal): What ends a round.
        momentum (float): :math:`m` of equation 6. As there, the whole previous direction enters,
            before pixels are masked, and it takes part in selecting them.
        max_iterations (int): Most steps of a pair, in all rounds.
        rounds (int, optional): How many successes to look for. Default: 1
        retire_at_bounds (bool, optional): Whether an entry is out for good once a step has put it
            on a bound. Default: False
    """

    undone_share = 1 / 3

    def __init__(
        self,
        problem: Problem,
        objective: Objective,
        step: PixelStep,
        goal: Goal,
        *,
        momentum: float,
        max_iterations: int,
        rounds: int = 1,
        retire_at_bounds: bool = False,
    ) -> None:
        self.problem = problem
        self.objective = objective
        self.step_rule = step
        self.goal = goal
        self.momentum = momentum
        self.max_iterations = max_iterations
        self.rounds = rounds
        self.retire_at_bounds = retire_at_bounds

    def start(self, pairs: list[int]) -> loop.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        state = self.problem.rows(pairs)
        state["images"] = state["original"].clone()
        # A subclass's own rule may need what is not in the state yet.
        state["changes"] = PixelDescent.rule(self, state).initial_changes(state["images"])
        if self.momentum:
            state["direction"] = torch.zeros_like(state["images"])
        if self.rounds > 1:
            state["rounds"] = torch.full_like(state["target"], self.rounds)
            state["closest"] = torch.full_like(state["target"], torch.inf, dtype=torch.float64)
        if self.retire_at_bounds and "allowed" not in state:
            state["allowed"] = torch.ones_like(state["images"], dtype=torch.bool)
        return state

    def evaluate(self, state: loop.State, pairs: list[int]) -> loop.Evaluation:
        """Run the model, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        images = state["images"].detach().requires_grad_()
        target = state["target"]
        scores, features = self.problem.forward(images, state)
        classes = [self.problem.classes[pair] for pair in pairs]
        gradient, loss, log_density = self.gradient(images, scores, features, classes, state)
        if "loss" in state:
            state["loss"] = loss.detach().to(state["loss"])
        log_density = None if log_density is None else log_density.detach()
        found = (confidence_of(scores, target), scores.detach().argmax(1), target, log_density)
        success = finished = self.goal.reached(*found)
        distance = None
        if self.rounds > 1:
            distance = self.distance(images.detach(), state)
            over = (state["rounds"] == 1) | (distance == 0)
            finished = torch.where(success, over, distance >= state["closest"])
        return loop.Evaluation(
            images=images.detach(),
            confidence=found[0],
            success=success,
            finished=finished,
            prediction=found[1],
            gradient=gradient,
            distance=distance,
            log_density=log_density,
            merit=self.goal.merit(*found),
        )

    def gradient(
        self,
        images: Tensor,
        scores: Tensor,
        features: Tensor,
        classes: list[int],
        state: loop.State,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Differentiate the pairs' losses with respect to their images.

        Args:
            images (Tensor): A x ..., the leaf that scores and features were computed from.
            scores (Tensor): A x C.
            features (Tensor): A x D.
            classes (list[int]): The targets on the host.
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            tuple[Tensor, Tensor, Tensor or None]: Gradient, of the images' shape, losses, A, and
            log-densities, A.
        """
        balance = state.get("balance")
        loss, log_density = self.objective(scores, features, state["target"], classes, balance)
        return torch.autograd.grad(loss.sum(), images)[0], loss, log_density

    def step(self, state: loop.State, evaluation: loop.Evaluation) -> Tensor:
        """Move pixels, see :meth:`captum_deduce.search.Procedure.step`."""
        direction, broken = self.directed(state, evaluation.gradient)
        if self.rounds == 1:
            return self.move(state, direction) | broken
        before, changes = state["images"], state["changes"]
        stuck = self.move(state, direction)
        self._undo(state, before, changes, evaluation)
        return (stuck & ~evaluation.success) | broken

    def directed(self, state: loop.State, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Add momentum to a gradient.

        Args:
            state (dict[str, Tensor]): Of the active pairs; the direction is kept there.
            gradient (Tensor): A x ...

        Returns:
            tuple[Tensor, Tensor]: What to move against, of the same shape, and whether some of it
            is not finite (A, bool).
        """
        direction = gradient
        if self.momentum:
            direction = gradient + self.momentum * state["direction"]
            state["direction"] = direction
        return direction, ~torch.isfinite(direction).flatten(1).all(1)

    def move(self, state: loop.State, direction: Tensor, allowed: Tensor | None = None) -> Tensor:
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
        rule = self.rule(state)
        state["images"], state["changes"], stuck = rule(
            images, direction, state["changes"], state["original"], allowed
        )
        if self.retire_at_bounds:
            moved = state["images"]
            arrived = (moved != images) & ((moved == rule.lower) | (moved == rule.upper))
            state["allowed"] = state["allowed"] & ~arrived
        return stuck

    def rule(self, state: loop.State) -> PixelStep:
        """The step rule for the active pairs, with the bounds and groups that are their own.

        Args:
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            PixelStep: How their images move.
        """
        rule = self.step_rule
        return replace(
            rule,
            pixels=rule.pixels.of(state),
            lower=state.get("lower", rule.lower),
            upper=state.get("upper", rule.upper),
        )

    def undone(self, state: loop.State) -> float | Tensor:
        """What share of its changed pixels a new round takes back.

        Args:
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            float or Tensor: The share, A x 1 where each pair has its own.
        """
        return self.undone_share

    def distance(self, images: Tensor, state: loop.State) -> Tensor:
        """How far images are from the originals, as several rounds count it.

        Args:
            images (Tensor): Of the active pairs, A x ...
            state (dict[str, Tensor]): Likewise.

        Returns:
            Tensor: Changed entries plus the sizes of the changes in units of the range, A, float64,
            to six decimals: steps of one length make images that are equally far but for rounding.
        """
        original, rule = state["original"], self.rule(state)
        span = rule.upper - rule.lower
        size = ((images - original).abs() / span).double().flatten(1)
        return (size + (size > 0)).sum(1).round(decimals=6)

    def _undo(
        self, state: loop.State, before: Tensor, changes: Tensor, evaluation: loop.Evaluation
    ) -> None:
        """Begin the next round of the pairs that were at their goal, in place of their move."""
        success, rule = evaluation.success, self.rule(state)
        column = as_column(success, before)
        undone = column & rule.dispensable(
            before, evaluation.gradient, state["original"], self.undone(state)
        )
        state["images"] = torch.where(
            rule.pixels.spread(undone),
            state["original"],
            torch.where(column, before, state["images"]),
        )
        kept = torch.where(column, changes, state["changes"])
        state["changes"] = torch.where(undone, torch.zeros_like(kept), kept)
        if self.momentum:
            state["direction"] = torch.where(column, torch.zeros_like(before), state["direction"])
        state["rounds"] = state["rounds"] - success.to(state["rounds"])
        if evaluation.distance is not None:
            nearer = torch.minimum(state["closest"], evaluation.distance)
            state["closest"] = torch.where(success, nearer, state["closest"])
