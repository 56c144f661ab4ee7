"""What is done to counterfactuals once they are found: to which, and what is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from captum_deduce.search import loop
from captum_deduce.search.pixels import Pixels
from captum_deduce.search.problem import Goal, Problem

LogDensity = Callable[[Tensor, list[int]], Tensor]
"""Features (A x D) and targets on the host to log-densities (A)."""


class Improvement(loop.Procedure):
    """A procedure that begins at counterfactuals, and in which the goal stays true.

    Args:
        problem (Problem): What the call asks for.
        goal (Goal): What has to stay true.
        images (Tensor): The counterfactuals, one for each pair of the problem, N x ...
        pairs (list[int]): Those to improve, as indices of the problem's pairs.
        log_density (LogDensity or None): Under each target class.
        pixels (Pixels): What the search moved as one.
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
        self.problem = problem
        self.goal = goal
        self.images = images
        self.pairs = pairs
        self.log_density = log_density
        self.pixels = pixels

    def beginning(self, pairs: list[int]) -> loop.State:
        """Make the states of pairs that enter the active set.

        Args:
            pairs (list[int]): Their places among those to improve.

        Returns:
            dict[str, Tensor]: What :meth:`Problem.rows` gives, and the counterfactuals as
            ``images``.
        """
        rows = [self.pairs[pair] for pair in pairs]
        images = self.images[torch.tensor(rows).to(self.images.device)]
        return self.problem.rows(rows) | {"images": images}

    def log_densities(self, features: Tensor, pairs: list[int]) -> Tensor | None:
        """Evaluate the density, where there is one.

        Args:
            features (Tensor): Of the active pairs, A x D.
            pairs (list[int]): Their places among those to improve.

        Returns:
            Tensor or None: Under each pair's target class, A.
        """
        if self.log_density is None:
            return None
        return self.log_density(
            features, [self.problem.classes[self.pairs[pair]] for pair in pairs]
        )


def improve(
    problem: Problem,
    found: loop.SearchResult,
    make: Callable[[list[int]], Improvement],
    description: str,
    *,
    batch_size: int | None = None,
    show_progress: bool | None = None,
) -> loop.SearchResult:
    """Improve the counterfactuals that a search found.

    Args:
        problem (Problem): What the call asked for.
        found (SearchResult): Of all pairs of the problem; those without success, or whose original
            is as it was, stay as they are.
        make (Callable): Makes the procedure for these pairs.
        description (str): What the bar says.
        batch_size (int, optional): Most pairs at once. Default: None (all)
        show_progress (bool, optional): Draw a progress bar.
            Default: None (after two seconds, in a terminal or a notebook)

    Returns:
        SearchResult: With the images that the procedure reached with success, and what all of it
        took.
    """
    changed = (found.images != problem.inputs).flatten(1).any(1)
    pairs = (found.success & changed).nonzero().flatten().tolist()
    if not pairs:
        return found
    improved = loop.run(
        make(pairs),
        len(pairs),
        batch_size=batch_size,
        show_progress=show_progress,
        description=description,
    )
    rows = torch.tensor(pairs).to(found.images.device)
    better = improved.success
    chosen = rows[better]
    forward, log_density = found.forward_evaluations, found.log_density
    if improved.forward_evaluations is not None:
        forward = torch.zeros_like(found.iterations) if forward is None else forward
        forward = forward.index_add(0, rows, improved.forward_evaluations)
    if log_density is not None and improved.log_density is not None:
        log_density = log_density.index_copy(0, chosen, improved.log_density[better])
    return replace(
        found,
        images=found.images.index_copy(0, chosen, improved.images[better]),
        confidence=found.confidence.index_copy(0, chosen, improved.confidence[better]),
        log_density=log_density,
        evaluations=_evaluations(found).index_add(0, rows, _evaluations(improved)),
        forward_evaluations=forward,
    )


def _evaluations(result: loop.SearchResult) -> Tensor:
    return result.iterations + 1 if result.evaluations is None else result.evaluations
