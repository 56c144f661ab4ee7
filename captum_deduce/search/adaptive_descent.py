"""The pixel descent whose steps grow and shrink with what they achieve."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from captum_deduce.search import loop
from captum_deduce.search.columns import as_column
from captum_deduce.search.pixel_descent import PixelDescent
from captum_deduce.search.problem import is_success
from captum_deduce.search.steps import PixelStep

SHORTEST_STEP = 1e-3
"""The least length of an adaptive step, as a fraction of the longest."""

# Shares of the decrease that the gradient promised: below the first a step was in vain, below the
# second the next one is half as long, above the third it is twice as long.
_IN_VAIN, _POOR, _GOOD = 0.1, 0.2, 0.5
_LENGTHENED, _SHORTENED, _AFTER_RETURN = 2.0, 0.5, 1 / 16
_LEAST_ROUND = 10
_FIRST_ROUND = 1.4  # times the gain: what a first round takes too far, later ones take back

_PATIENCE = 10
_SHIFT, _MOST_BALANCE = 2.0, 1e4


class AdaptiveDescent(PixelDescent):
    r"""A pixel descent that holds each step against what the gradient promised.

    The step rule's ``step_size`` is the longest step. Each pair has a length of its own, a fraction
    of it that begins at 1. After a step the decrease of the loss is divided by the decrease that
    its gradient promised, :math:`\rho = (L_{k-1} - L_k) / (-\mathbf g_{k-1} \cdot \Delta)`, as in a
    trust-region method: for :math:`\rho` < 0.2 the length is halved, for :math:`\rho` > 0.5 it
    doubles, up to 1. A step with :math:`\rho` < 0.1 was in vain. One is forgiven; if the next is in
    vain, too, or ends above the loss before both, the pair returns to where it was before them,
    with a sixteenth of the length: the watchdog technique (Chamberlain et al., "The watchdog
    technique for forcing convergence in algorithms for constrained optimization", 1982). So does a
    pair whose gradient is not finite. A step that moved a single entry neither shortens the next
    nor counts as in vain.

    Within one step pixels move until their gains reach ``most_gain`` over the root of the length:
    on a smooth classifier of small images a few pixels far, on a jagged one of photographs many
    pixels faintly. No part of this depends on the image's size. The first of several rounds aims at
    1.4 times as much.

    The two terms of equation 5 count by their relative change, so one whose size is near 0 can hold
    the other back for ever: a log-density may be, as it has no natural origin. Where the objective
    has one, each pair has a balance, by which the classifier's weight is multiplied. It begins at
    1; until the first success, ten steps that bring no attempt nearer to the goal double it where
    the confidence is missing, and halve it where only the density is.

    A round after the first may take as many steps as the first did (at least 10): one that does
    not reach its goal by then ends the pair, which keeps its closest success.

    The arguments are those of :class:`PixelDescent`; the loss has to rise and fall as its gradient
    says, and the step rule needs a ``most_gain``.
    """

    def start(self, pairs: list[int]) -> loop.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        state = super().start(pairs)
        images = state["images"]
        state["changes"] = state["changes"].to(images.dtype)
        # Where a pair returns to, and the gradient there.
        state["base"], state["base_changes"] = images.clone(), state["changes"].clone()
        state["base_gradient"] = torch.zeros_like(images)
        numbers = {
            "loss": torch.inf,
            "base_loss": torch.inf,
            "last_loss": torch.inf,
            "promised": torch.inf,
            "length": 1.0,
            "round_steps": 0.0,
            "most_steps": torch.inf,
            "balance": 1.0,
            "waited": 0.0,
        }
        state |= {name: images.new_full((len(pairs),), value) for name, value in numbers.items()}
        for name in ("in_vain", "several"):
            state[name] = torch.zeros_like(state["target"], dtype=torch.bool)
        state["best_merit"] = torch.full_like(state["target"], -torch.inf, dtype=torch.float64)
        return state

    def rule(self, state: loop.State) -> PixelStep:
        """The step rule for the active pairs, with the length of each.

        Args:
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            PixelStep: How their images move.
        """
        rule, length = super().rule(state), state["length"]
        column = as_column(length, state["images"])
        gain = rule.most_gain
        if gain is not None:
            more = length.rsqrt()
            if self.rounds > 1:
                more = torch.where(state["rounds"] == self.rounds, _FIRST_ROUND * more, more)
            # As with the explainer's own weight, a step aims at half of the larger term.
            more = more * state["balance"].clamp_min(1.0)
            gain = gain * more.unsqueeze(1)
        return replace(rule, step_size=rule.step_size * column, change=column, most_gain=gain)

    def step(self, state: loop.State, evaluation: loop.Evaluation) -> Tensor:
        """Judge the last step and make the next, see :meth:`captum_deduce.search.Procedure.step`.

        Args:
            state (dict[str, Tensor]): Of the active pairs; changed in place.
            evaluation (Evaluation): Of the same pairs.

        Returns:
            Tensor: Whether a pair is stuck (A, bool).
        """
        gradient = self._judge(state, evaluation)
        if evaluation.log_density is not None:
            self._weigh(state, evaluation)
        direction, broken = self.directed(state, gradient)
        before, changes = state["images"], state["changes"]
        stuck = self.move(state, direction)
        moved = state["images"] - before
        state["promised"] = -(gradient * moved).flatten(1).sum(1)
        state["several"] = (moved != 0).flatten(1).sum(1) > 1
        if self.rounds == 1:
            return stuck | broken
        self._undo(state, before, changes, evaluation)
        late = self._count(state, evaluation.success)
        return (stuck & ~evaluation.success) | broken | late

    def _judge(self, state: loop.State, evaluation: loop.Evaluation) -> Tensor:
        """Set the next length, return from steps in vain, and give the gradient to go on with."""
        images, gradient = state["images"], evaluation.gradient
        judged = torch.isfinite(state["last_loss"]) & ~evaluation.success
        ratio = (state["last_loss"] - state["loss"]) / state["promised"]
        shorter = judged & state["several"] & (state["length"] > SHORTEST_STEP)
        vain = shorter & ~(ratio >= _IN_VAIN)
        unfit = ~torch.isfinite(gradient).flatten(1).all(1) & shorter
        worse = shorter & (state["loss"] > state["base_loss"])
        back = ((vain | worse) & state["in_vain"]) | unfit
        forgiven = vain & ~back

        factor = torch.where(judged & (ratio > _GOOD), _LENGTHENED, 1.0)
        factor = torch.where(shorter & ~(ratio >= _POOR), _SHORTENED, factor)
        factor = torch.where(back, _AFTER_RETURN, factor)
        state["length"] = (state["length"] * factor).clamp(SHORTEST_STEP, 1.0)
        state["in_vain"] = forgiven

        column, kept = as_column(back, images), as_column(forgiven, images)
        images = torch.where(column, state["base"], images)
        changes = torch.where(column, state["base_changes"], state["changes"])
        gradient = torch.where(column, state["base_gradient"], gradient)
        loss = torch.where(back, state["base_loss"], state["loss"])
        state |= {"images": images, "changes": changes, "last_loss": loss}
        state["base"] = torch.where(kept, state["base"], images)
        state["base_changes"] = torch.where(kept, state["base_changes"], changes)
        state["base_gradient"] = torch.where(kept, state["base_gradient"], gradient)
        state["base_loss"] = torch.where(forgiven, state["base_loss"], loss)
        if self.momentum:
            state["direction"] = state["direction"].masked_fill(column, 0.0)
        return gradient

    def _weigh(self, state: loop.State, evaluation: loop.Evaluation) -> None:
        """Give more weight to what a pair has missed for long."""
        merit = evaluation.confidence if evaluation.merit is None else evaluation.merit
        nearer = (merit > state["best_merit"]) | evaluation.success
        state["best_merit"] = torch.where(nearer, merit.double(), state["best_merit"])
        waited = torch.where(nearer, 0.0, state["waited"] + 1)
        late = (waited >= _PATIENCE) & state["most_steps"].isinf()
        state["waited"] = waited.masked_fill(late, 0.0)
        found = (evaluation.confidence, evaluation.prediction, state["target"])
        confident = is_success(*found, self.goal.confidence)
        shifted = state["balance"] * torch.where(confident, 1 / _SHIFT, _SHIFT)
        shifted = shifted.clamp(1 / _MOST_BALANCE, _MOST_BALANCE)
        state["balance"] = torch.where(late, shifted, state["balance"])
        # What was promised, and what will be found, are sums of other weights.
        state["last_loss"] = state["last_loss"].masked_fill(late, torch.inf)

    def _count(self, state: loop.State, success: Tensor) -> Tensor:
        """Begin the next round of those at their goal; say which rounds have taken too long."""
        steps = state["round_steps"]
        # What was taken back is another place, to which no promise was made.
        state["last_loss"] = state["last_loss"].masked_fill(success, torch.inf)
        first = success & state["most_steps"].isinf()
        state["most_steps"] = torch.where(first, steps.clamp_min(_LEAST_ROUND), state["most_steps"])
        state["round_steps"] = torch.where(success, 0.0, steps + 1)
        return state["round_steps"] > state["most_steps"]
