"""Refinement: take back every change that a counterfactual does not need."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_deduce.search import loop
from captum_deduce.search.columns import as_column
from captum_deduce.search.improvement import Improvement, LogDensity, improve
from captum_deduce.search.pixels import Entries, Pixels
from captum_deduce.search.problem import Goal, Problem, confidence_of


class Reversal(Improvement):
    """Set one changed pixel after the other back to its original, where the goal allows it.

    The smallest changes come first: they cost least to lose. Each trial costs a forward pass,
    without a gradient. After the last one it is the first's turn again, as a change that was needed
    may no longer be so, until every change that is left has been tried in vain since the last
    return. So an image is never farther from its original than before, by any distance, and no
    single change can be taken back from what remains.

    Args:
        problem (Problem): What the call asks for.
        goal (Goal): What has to stay true.
        images (Tensor): The counterfactuals, one for each pair of the problem, N x ...
        pairs (list[int]): Those to refine, as indices of the problem's pairs.
        log_density (LogDensity or None): Under each target class.
        pixels (Pixels): Which entries return together.
    """

    def __init__(
        self,
        problem: Problem,
        goal: Goal,
        images: Tensor,
        pairs: list[int],
        log_density: LogDensity | None,
        *,
        pixels: Pixels,
    ) -> None:
        super().__init__(problem, goal, images, pairs, log_density, pixels=pixels)
        # A return after every change but one, and then the others once more.
        most = images[0].numel()
        self.max_iterations = most * (most + 1) // 2 + 1

    def start(self, pairs: list[int]) -> loop.State:
        """Line the changes up, see :meth:`captum_deduce.search.Procedure.start`."""
        state = self.beginning(pairs)
        none = torch.zeros_like(state["target"])
        return state | {
            "order": self._order(state),
            "place": none - 1,
            "in_vain": none,
            "evaluations": none.clone(),
            "forward_evaluations": none.clone(),
        }

    def evaluate(self, state: loop.State, pairs: list[int]) -> loop.Evaluation:
        """Try the next one, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        images, target = self._trial(state), state["target"]
        with torch.no_grad():
            scores, features = self.problem.forward(images, state)
            log_density = self.log_densities(features, pairs)
        state["forward_evaluations"] = state["forward_evaluations"] + 1
        found = (confidence_of(scores, target), scores.argmax(1), target, log_density)
        success = self.goal.reached(*found) | (state["place"] < 0)
        state["in_vain"] = (state["in_vain"] + 1).masked_fill(success, 0)
        kept = torch.where(as_column(success, images), images, state["images"])
        left = self._changed(kept, state).flatten(1).sum(1)
        return loop.Evaluation(
            images=images,
            confidence=found[0],
            success=success,
            finished=state["in_vain"] >= left,
            prediction=found[1],
            gradient=images.new_zeros(len(images), 0),
            distance=(images != state["original"]).flatten(1).sum(1),
            log_density=log_density,
        )

    def step(self, state: loop.State, evaluation: loop.Evaluation) -> Tensor:
        """Keep what succeeded, see :meth:`captum_deduce.search.Procedure.step`."""
        column = as_column(evaluation.success, evaluation.images)
        state["images"] = torch.where(column, evaluation.images, state["images"])
        changed = self._changed(state["images"], state).flatten(1)
        changed = changed.gather(1, state["order"])
        places = torch.arange(changed.shape[1], device=changed.device)
        ahead = (places - state["place"].unsqueeze(1) - 1) % changed.shape[1]
        state["place"] = ahead.masked_fill(~changed, changed.shape[1]).argmin(1)
        return torch.zeros_like(evaluation.success)

    def _changed(self, images: Tensor, state: loop.State) -> Tensor:
        """Which pixels differ from the original, bool, one for each pixel."""
        return self.pixels.of(state).any(images != state["original"])

    def _order(self, state: loop.State) -> Tensor:
        """All pixels, those with the smallest changes first, A x pixels."""
        lower, upper = self.problem.bounds(state)
        size = (state["images"] - state["original"]).abs() / (upper - lower)
        return self.pixels.of(state).total(size).flatten(1).argsort(dim=1, stable=True)

    def _trial(self, state: loop.State) -> Tensor:
        """The images with one more pixel as it was; at first the images themselves."""
        images, original = state["images"], state["original"]
        pixel = state["order"].gather(1, state["place"].clamp_min(0).unsqueeze(1))
        chosen = torch.zeros_like(state["order"], dtype=torch.bool).scatter_(1, pixel, True)
        chosen &= (state["place"] >= 0).unsqueeze(1)
        chosen = chosen.view_as(self._changed(images, state))
        return torch.where(self.pixels.of(state).spread(chosen), original, images)


def refine(
    problem: Problem,
    goal: Goal,
    found: loop.SearchResult,
    log_density: LogDensity | None = None,
    *,
    pixels: Pixels | None = None,
    batch_size: int | None = None,
    show_progress: bool | None = None,
) -> loop.SearchResult:
    """Take back what the counterfactuals that a search found do not need.

    Args:
        problem (Problem): What the call asked for.
        goal (Goal): What the search ended at.
        found (SearchResult): Of all pairs of the problem; those without success stay as they are.
        log_density (LogDensity, optional): Where the goal or the result has one. Default: None
        pixels (Pixels, optional): Which entries return together. Default: None (each alone)
        batch_size (int, optional): Most pairs at once. Default: None (all)
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        SearchResult: With fewer changes, and the forward passes that it took.
    """
    pixels = Entries() if pixels is None else pixels

    def make(pairs: list[int]) -> Reversal:
        return Reversal(problem, goal, found.images, pairs, log_density, pixels=pixels)

    return improve(
        problem, found, make, "refinement", batch_size=batch_size, show_progress=show_progress
    )
