"""The adaptive descent that looks for ever fewer pixels to change."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from captum_deduce.search import loop
from captum_deduce.search.adaptive_descent import AdaptiveDescent
from captum_deduce.search.columns import as_column

_LEAST_SHARE = 1 / 8


class HalvingDescent(AdaptiveDescent):
    r"""An adaptive descent whose rounds take changed pixels back for good.

    After a success the half of the changed pixels that the loss misses least is taken back, and
    only the others may move in the next round. A round fails where its pair is stuck, takes too
    long, or has become as far as the closest success: the search then begins again at the closest
    success, with half as large a share taken back, down to an eighth. Each round, whether it
    succeeds or not, counts as one of ``rounds``.

    The arguments are those of :class:`AdaptiveDescent`; ``rounds`` has to be more than 1.
    """

    def start(self, pairs: list[int]) -> loop.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        state = super().start(pairs)
        images = state["images"]
        if "allowed" not in state:
            state["allowed"] = torch.ones_like(images, dtype=torch.bool)
        state["mask"] = state["allowed"].clone()
        state["closest_images"] = images.clone()
        state["closest_gradient"] = torch.zeros_like(images)
        state["share"] = images.new_full((len(pairs),), 0.5)
        state["far"] = torch.zeros_like(state["target"], dtype=torch.bool)
        return state

    def evaluate(self, state: loop.State, pairs: list[int]) -> loop.Evaluation:
        """Run the model, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        evaluation = super().evaluate(state, pairs)
        # Here an attempt that became too far begins a new round in place of ending the pair.
        state["far"] = evaluation.finished & ~evaluation.success
        return replace(evaluation, finished=evaluation.finished & evaluation.success)

    def undone(self, state: loop.State) -> Tensor:
        """What share of its changed pixels a new round takes back.

        Args:
            state (dict[str, Tensor]): Of the active pairs.

        Returns:
            Tensor: The shares, A x 1.
        """
        return state["share"].unsqueeze(1)

    def step(self, state: loop.State, evaluation: loop.Evaluation) -> Tensor:
        """Make a step or begin a round, see :meth:`captum_deduce.search.Procedure.step`.

        Args:
            state (dict[str, Tensor]): Of the active pairs; changed in place.
            evaluation (Evaluation): Of the same pairs.

        Returns:
            Tensor: Whether a pair is stuck (A, bool).
        """
        success = evaluation.success
        distance = self.distance(evaluation.images, state)
        nearer = as_column(success & (distance < state["closest"]), evaluation.images)
        for name, value in (("images", evaluation.images), ("gradient", evaluation.gradient)):
            state[f"closest_{name}"] = torch.where(nearer, value, state[f"closest_{name}"])
        far = state["far"]
        stuck = super().step(state, evaluation)
        changed = self._changed(state["images"], state)
        state["allowed"] = state["allowed"] & (changed | ~as_column(success, changed))

        failed = ~success & (stuck | far)
        again = failed & state["closest"].isfinite() & (state["rounds"] > 1)
        again &= state["share"] > _LEAST_SHARE
        self._begin_again(state, again)
        return failed & ~again

    def _begin_again(self, state: loop.State, pairs: Tensor) -> None:
        """Begin a round of some pairs at their closest success, with fewer pixels taken back."""
        state["share"] = torch.where(pairs, state["share"] / 2, state["share"])
        state["rounds"] = state["rounds"] - pairs.to(state["rounds"])
        closest, original = state["closest_images"], state["original"]
        rule = self.rule(state)
        undone = rule.dispensable(closest, state["closest_gradient"], original, self.undone(state))
        column = as_column(pairs, closest)
        images = torch.where(rule.pixels.spread(undone), original, closest)
        state["images"] = torch.where(column, images, state["images"])
        # A pixel with a changed entry may have others that the mask does not let move.
        may_move = self._changed(images, state) & state["mask"]
        state["allowed"] = torch.where(column, may_move, state["allowed"])
        state["changes"] = state["changes"].masked_fill(column, 0.0)
        if self.momentum:
            state["direction"] = state["direction"].masked_fill(column, 0.0)
        state["last_loss"] = state["last_loss"].masked_fill(pairs, torch.inf)
        state["round_steps"] = state["round_steps"].masked_fill(pairs, 0.0)

    def _changed(self, images: Tensor, state: loop.State) -> Tensor:
        pixels = self.step_rule.pixels.of(state)
        return pixels.spread(pixels.any(images != state["original"]))
