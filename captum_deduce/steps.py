r"""How a step moves an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_deduce.checks import TOLERANCE


@dataclass(frozen=True)
class PixelStep:
    r"""Lines 7 to 10 of algorithm 1: move the most salient pixels by a fixed amount.

    A pixel is *admissible* where the mask allows it and it was changed fewer than ``max_changes``
    times. The ``pixels_per_step`` admissible ones with the largest |direction| x (upper - lower)
    move against the sign of the direction, by ``step_size`` x (upper - lower), clipped to the
    bounds. Scaling by the range makes the choice the same whether inputs are normalised outside or
    inside of the model. Ties go to the first pixel (with several pixels a step: to any).

    Deviations from the paper: line 7's sign is mended (:math:`\mathbf g` is the gradient of a loss,
    so the step goes against it), and values within 1e-6 of the range of a bound or of the original
    snap to it.

    Args:
        step_size (float): Fraction of the range, :math:`\delta`.
        max_changes (int): Most changes of one pixel, :math:`p`.
        pixels_per_step (int): Pixels that move together, :math:`m`.
        by_site (bool): Whether a pixel is a spatial site with all its channels (dimension 1): its
            score is the sum over channels, each channel moves by its own sign, and the changes of
            the site count; or one entry of the input.
        skip_saturated (bool): Whether a pixel is admissible only if the move would change it by
            more than 1e-6 of the range. False is the algorithm to the letter: a pixel on a bound
            may be chosen, and is then clipped back to where it was.
        lower (Tensor): Lower bound, of the shape of one input.
        upper (Tensor): Upper bound, likewise.
    """

    step_size: float
    max_changes: int
    pixels_per_step: int
    by_site: bool
    skip_saturated: bool
    lower: Tensor
    upper: Tensor

    def initial_changes(self, images: Tensor) -> Tensor:
        """Count no changes yet.

        Args:
            images (Tensor): A x channels x ...

        Returns:
            Tensor: Zeros, one for each pixel: of the images' shape, or with one channel by site.
        """
        return torch.zeros_like(images[:, :1] if self.by_site else images, dtype=torch.int32)

    def __call__(
        self,
        images: Tensor,
        direction: Tensor,
        changes: Tensor,
        original: Tensor,
        allowed: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Make one step with each image.

        Args:
            images (Tensor): A x channels x ...
            direction (Tensor): Gradient of the loss (with momentum), of the same shape.
            changes (Tensor): How often each pixel was changed, as from :meth:`initial_changes`.
            original (Tensor): The images that the search began with, for snapping.
            allowed (Tensor or None): Bool, the entries that the mask lets change.

        Returns:
            tuple[Tensor, Tensor, Tensor]: The moved images, their new changes, and for each image
            whether it had no admissible pixel (A, bool).
        """
        span = self.upper - self.lower
        proposal = self._move(images, direction, original, span)
        movable = torch.ones_like(images, dtype=torch.bool) if allowed is None else allowed
        if self.skip_saturated:
            movable = movable & ((proposal - images).abs() > TOLERANCE * span)
        score = direction.abs() * span
        admissible = movable
        if self.by_site:
            score = (score * movable).sum(1, keepdim=True)
            admissible = movable.any(1, keepdim=True)
        admissible = admissible & (changes < self.max_changes)
        chosen = self._most_salient(score.masked_fill(~admissible, -1.0))
        moved = torch.where(chosen & movable, proposal, images)
        return moved, changes + chosen, ~admissible.flatten(1).any(1)

    def _move(self, images: Tensor, direction: Tensor, original: Tensor, span: Tensor) -> Tensor:
        moved = images - direction.sign() * (self.step_size * span)
        moved = torch.minimum(torch.maximum(moved, self.lower), self.upper)
        for value in (self.lower, self.upper, original):
            moved = torch.where((moved - value).abs() <= TOLERANCE * span, value, moved)
        return moved

    def _most_salient(self, score: Tensor) -> Tensor:
        flat = score.flatten(1)
        if self.pixels_per_step == 1:
            # argmax returns the first maximum; topk promises no order among equals.
            best = flat.argmax(1, keepdim=True)
        else:
            best = flat.topk(min(self.pixels_per_step, flat.shape[1])).indices
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(
            1, best, flat.gather(1, best) >= 0
        )
        return chosen.view_as(score)
