"""The descent of VLK and CEM: in rounds, with a prediction loss of another weight in each."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from captum_deduce.search import loop
from captum_deduce.search.columns import as_column
from captum_deduce.search.losses import elastic_net
from captum_deduce.search.problem import ANY_CLASS, Problem
from captum_deduce.search.steps import ShrinkageStep, refine_weight


@dataclass(frozen=True)
class Verdict:
    """What a method says of images.

    Args:
        confidence (Tensor): Softmax probability of ``target``, A.
        target (Tensor): The class that each pair counts as asking for, A, int64.
        success (Tensor): Whether an image is what its pair is looking for, A, bool.
        there (Tensor): Whether nothing is left to search for, A, bool.
    """

    confidence: Tensor
    target: Tensor
    success: Tensor
    there: Tensor


class ShrinkageDescent(loop.Procedure):
    r"""Descend in rounds, each from the same image and with a prediction loss of another weight.

    A round makes ``step_rule.max_iterations`` steps of
    :class:`~captum_deduce.search.ShrinkageStep`. After it the pair's weight c is halved towards
    what failed where the round had a success, and else raised: tenfold, or half-way to the lowest
    weight that had one (:func:`~captum_deduce.search.refine_weight`). Of all successes the one with
    the smallest :math:`\|\delta\|_2^2 + \beta \|\delta\|_1` counts, with :math:`\delta` the
    difference from where rounds begin, in units of the range.

    A subclass says what images are wanted (:meth:`judge`) and what is descended on (:meth:`loss`).

    Args:
        problem (Problem): What the call asks for.
        step_rule (ShrinkageStep): How images move; :meth:`rule` fills in the bounds.
        rounds (int): How many.
        weight (float): c in the first one.
        skip_settled (bool, optional): End a round as soon as it can't leave its beginning any more:
            where a step from there led back to it, all later ones, which are shorter, would, too.
            Default: False
    """

    def __init__(
        self,
        problem: Problem,
        step_rule: ShrinkageStep,
        *,
        rounds: int,
        weight: float,
        skip_settled: bool = False,
    ) -> None:
        self.problem = problem
        self.step_rule = step_rule
        self.rounds = rounds
        self.first_weight = weight
        self.skip_settled = skip_settled
        self.max_iterations = rounds * step_rule.max_iterations
        self.untargeted = problem.classes[0] == ANY_CLASS

    @abstractmethod
    def judge(self, scores: Tensor, state: loop.State) -> Verdict:
        """Say which images are wanted.

        Args:
            scores (Tensor): Of the images, A x C, without a gradient.
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            Verdict: Of each.
        """

    @abstractmethod
    def loss(self, ahead: Tensor, state: loop.State) -> Tensor:
        """What is descended on.

        Args:
            ahead (Tensor): The points ahead of the images, A x ...
            state (dict[str, Tensor]): Of the active pairs, with their ``weight``.

        Returns:
            Tensor: A losses, without the L1 distance, of which the shrinkage is the descent.
        """

    def prepare(self, state: loop.State, scores: Tensor) -> None:
        """Add to the state of pairs that enter what the method needs.

        Args:
            state (dict[str, Tensor]): With ``original`` and ``original_class``; ``beginning`` may
                be put in it, where a round begins elsewhere than at the original.
            scores (Tensor): Of the originals, A x C.
        """

    def rule(self, state: loop.State) -> ShrinkageStep:
        """The step rule with the active pairs' own bounds.

        Args:
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            ShrinkageStep: How their images move.
        """
        lower, upper = self.problem.bounds(state)
        return replace(self.step_rule, lower=lower, upper=upper)

    def span(self, state: loop.State) -> Tensor:
        """The range that each entry of the active pairs' images has.

        Args:
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            Tensor: Of the shape of one input, or A x ...
        """
        lower, upper = self.problem.bounds(state)
        return upper - lower

    def start(self, pairs: list[int]) -> loop.State:
        """Begin where rounds begin, see :meth:`captum_deduce.search.Procedure.start`."""
        state = self.problem.rows(pairs)
        with torch.no_grad():
            scores, _ = self.problem.forward(state["original"], state)
            state["original_class"] = scores.argmax(1)
            self.prepare(state, scores)
        beginning = self._beginning(state)
        counts = torch.zeros_like(state["target"])
        none = torch.zeros_like(counts, dtype=torch.bool)
        return state | {
            "images": beginning.clone(),
            "ahead": beginning.clone(),
            "iteration": counts,
            "round": counts.clone(),
            "forward_evaluations": counts + 1,
            "found": none,
            "settled": none.clone(),
            "weight": torch.full_like(counts, self.first_weight, dtype=beginning.dtype),
            "highest_failure": torch.zeros_like(counts, dtype=beginning.dtype),
            "lowest_success": torch.full_like(counts, float("inf"), dtype=beginning.dtype),
        }

    def evaluate(self, state: loop.State, pairs: list[int]) -> loop.Evaluation:
        """Judge the images, and differentiate ahead of them.

        A pair whose round is over begins the next one here, not in :meth:`step`, as the gradient is
        for the step after: the last image of a round is judged in the same evaluation that starts
        the next one.

        Args:
            state (dict[str, Tensor]): Of the active pairs; their round is changed in place.
            pairs (list[int]): Their indices in the call.

        Returns:
            Evaluation: What it showed.
        """
        images = state["images"]
        with torch.no_grad():
            scores, _ = self.problem.forward(images, state)
        state["forward_evaluations"] = state["forward_evaluations"] + 1
        verdict = self.judge(scores, state)
        # The result's prediction is that of the first image, which is to be the original's.
        elsewhere = "beginning" in state
        distance = (images - self._beginning(state)) / self.span(state)
        finished = self._next_round(state, verdict.success)
        ahead = state["ahead"].detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.loss(ahead, state).sum(), ahead)
        return loop.Evaluation(
            images=images,
            confidence=verdict.confidence,
            success=verdict.success,
            finished=finished | verdict.there,
            prediction=state["original_class"] if elsewhere else scores.argmax(1),
            gradient=gradient,
            distance=elastic_net(distance, self.step_rule.threshold),
            target=verdict.target,
        )

    def step(self, state: loop.State, evaluation: loop.Evaluation) -> Tensor:
        """Descend and shrink, see :meth:`captum_deduce.search.Procedure.step`."""
        gradient, beginning = evaluation.gradient, self._beginning(state)
        before = state["ahead"]
        state["images"], state["ahead"] = self.rule(state)(
            state["images"],
            before,
            gradient,
            state["iteration"],
            beginning,
            state.get("allowed"),
        )
        state["iteration"] = state["iteration"] + 1
        if self.skip_settled:
            moved = (before != beginning) | (state["images"] != beginning)
            state["settled"] = ~moved.flatten(1).any(1)
        stuck = ~torch.isfinite(gradient).flatten(1).all(1)
        return stuck | ~state["allowed"].flatten(1).any(1) if "allowed" in state else stuck

    def _beginning(self, state: loop.State) -> Tensor:
        return state.get("beginning", state["original"])

    def _next_round(self, state: loop.State, success: Tensor) -> Tensor:
        """Take the pairs whose round is over to the next; tell for which it was the last."""
        over = (state["iteration"] == self.step_rule.max_iterations) | state["settled"]
        found = state["found"] | success
        refined = refine_weight(
            state["weight"], state["highest_failure"], state["lowest_success"], found
        )
        names = ("weight", "highest_failure", "lowest_success")
        for name, value in zip(names, refined, strict=True):
            state[name] = torch.where(over, value, state[name])
        pixels = as_column(over, state["images"])
        beginning = self._beginning(state)
        state |= {
            "found": found & ~over,
            "settled": state["settled"] & ~over,
            "round": state["round"] + over,
            "iteration": state["iteration"].masked_fill(over, 0),
            "images": torch.where(pixels, beginning, state["images"]),
            "ahead": torch.where(pixels, beginning, state["ahead"]),
        }
        return state["round"] == self.rounds


def likeliest_other(probabilities: Tensor, original_class: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest class but one, which stands for "any other".

    Args:
        probabilities (Tensor): A x C.
        original_class (Tensor): The one to pass over, A, int64.

    Returns:
        tuple[Tensor, Tensor]: Its probability and the class, A each.
    """
    confidence, target = probabilities.scatter(1, original_class.unsqueeze(1), -1.0).max(1)
    return confidence, target
