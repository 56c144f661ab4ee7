"""Refinement: take back every change that a counterfactual does not need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from captum_deduce.search import loop
from captum_deduce.search.problem import Goal, Problem, confidence_of

LogDensity = Callable[[Tensor, list[int]], Tensor]
"""Features (A x D) and targets on the host to log-densities (A)."""


class Reversal(loop.Procedure):
    """Set one changed pixel after the other back to its original, where the goal allows it.

    The smallest changes come first: they cost least to lose. Each costs a forward pass, without a
    gradient. What is reverted stays so; an image is never farther from its original than before, by
    any distance, and what remains was needed when it was tried.

    Args:
        problem (Problem): What the call asks for.
        goal (Goal): What has to stay true.
        images (Tensor): The counterfactuals, one for each pair of the problem, N x ...
        pairs (list[int]): Those to refine, as indices of the problem's pairs.
        log_density (LogDensity or None): Under each target class.
        by_site (bool): Whether all channels of a position return together.
    """

    def __init__(
        self,
        problem: Problem,
        goal: Goal,
        images: Tensor,
        pairs: list[int],
        log_density: LogDensity | None,
        *,
        by_site: bool,
    ) -> None:
        self.problem = problem
        self.goal = goal
        self.images = images
        self.pairs = pairs
        self.log_density = log_density
        self.by_site = by_site
        self.max_iterations = images[0].numel()

    def start(self, pairs: list[int]) -> loop.State:
        """Line the changes up, see :meth:`captum_deduce.search.Procedure.start`."""
        rows = [self.pairs[pair] for pair in pairs]
        state = self.problem.rows(rows)
        images = self.images[torch.tensor(rows).to(self.images.device)]
        span = self.problem.upper - self.problem.lower
        size = ((images - state["original"]).abs() / span).flatten(2)
        size = size.sum(1) if self.by_site else size.flatten(1)
        count = (size > 0).sum(1)
        order = torch.where(size > 0, size, torch.inf).argsort(dim=1, stable=True)
        return {
            **state,
            "images": images,
            "order": order,
            "place": torch.full_like(count, -1),
            "count": count,
            "forward_evaluations": torch.zeros_like(count),
        }

    def evaluate(self, state: loop.State, pairs: list[int]) -> loop.Evaluation:
        """Try the next one, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        images, target = self._trial(state), state["target"]
        with torch.no_grad():
            scores, features = self.problem.forward(images, state)
            log_density = None
            if self.log_density is not None:
                classes = [self.problem.classes[self.pairs[pair]] for pair in pairs]
                log_density = self.log_density(features, classes)
        state["forward_evaluations"] += 1
        found = (confidence_of(scores, target), scores.argmax(1), target, log_density)
        return loop.Evaluation(
            images=images,
            confidence=found[0],
            success=self.goal.reached(*found) | (state["place"] < 0),
            finished=state["place"] >= state["count"] - 1,
            prediction=found[1],
            gradient=images.new_zeros(len(images), 0),
            distance=(images != state["original"]).flatten(1).sum(1),
            log_density=log_density,
        )

    def step(self, state: loop.State, evaluation: loop.Evaluation) -> Tensor:
        """Keep what succeeded, see :meth:`captum_deduce.search.Procedure.step`."""
        column = evaluation.success.view(-1, *[1] * (evaluation.images.dim() - 1))
        state["images"] = torch.where(column, evaluation.images, state["images"])
        state["place"] = state["place"] + 1
        return torch.zeros_like(evaluation.success)

    def _trial(self, state: loop.State) -> Tensor:
        """The images with one more pixel as it was; at first the images themselves."""
        images, original = state["images"], state["original"]
        pixel = state["order"].gather(1, state["place"].clamp_min(0).unsqueeze(1))
        chosen = torch.zeros_like(state["order"], dtype=torch.bool).scatter_(1, pixel, True)
        chosen &= (state["place"] >= 0).unsqueeze(1)
        shape = (len(images), -1, *images.shape[2:])
        return torch.where(chosen.view(shape), original, images)


def refine(
    problem: Problem,
    goal: Goal,
    found: loop.SearchResult,
    log_density: LogDensity | None = None,
    *,
    by_site: bool = False,
    batch_size: int | None = None,
    show_progress: bool = False,
) -> loop.SearchResult:
    """Take back what the counterfactuals that a search found do not need.

    Args:
        problem (Problem): What the call asked for.
        goal (Goal): What the search ended at.
        found (SearchResult): Of all pairs of the problem; those without success stay as they are.
        log_density (LogDensity, optional): Where the goal or the result has one. Default: None
        by_site (bool, optional): Whether all channels of a position return together. Default: False
        batch_size (int, optional): Most pairs at once. Default: None (all)
        show_progress (bool, optional): Draw a progress bar. Default: False

    Returns:
        SearchResult: With fewer changes, and the forward passes that it took.
    """
    changed = (found.images != problem.inputs).flatten(1).any(1)
    pairs = (found.success & changed).nonzero().flatten().tolist()
    if not pairs:
        return found
    procedure = Reversal(problem, goal, found.images, pairs, log_density, by_site=by_site)
    refined = loop.run(
        procedure,
        len(pairs),
        batch_size=batch_size,
        show_progress=show_progress,
        description="refinement",
    )
    rows = torch.tensor(pairs).to(found.images.device)
    spent = found.forward_evaluations
    spent = torch.zeros_like(found.iterations) if spent is None else spent
    passes = refined.forward_evaluations
    return replace(
        found,
        images=found.images.index_copy(0, rows, refined.images),
        confidence=found.confidence.index_copy(0, rows, refined.confidence),
        log_density=_filled(found.log_density, rows, refined.log_density),
        forward_evaluations=spent if passes is None else spent.index_add(0, rows, passes),
    )


def _filled(values: Tensor | None, rows: Tensor, new: Tensor | None) -> Tensor | None:
    if values is None or new is None:
        return values
    return values.index_copy(0, rows, new)
