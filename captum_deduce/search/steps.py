r"""How a step moves an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from captum_deduce.checks import TOLERANCE
from captum_deduce.search.pixels import Pixels


@dataclass(frozen=True)
class PixelStep:
    r"""Lines 7 to 10 of algorithm 1: move the most salient pixels by a fixed amount.

    A pixel is *admissible* where the mask allows it and it was changed fewer than ``max_changes``
    times. The ``pixels_per_step`` admissible ones of the largest ``|direction|`` x (upper - lower)
    move against the sign of the direction, by ``step_size`` x (upper - lower), clipped to the
    bounds. Where a pixel has several entries, those that may move add up to its score, and each
    moves by its own sign. Scaling by the range makes the choice the same whether inputs are
    normalised outside or inside of the model. Ties go to the first pixel (with several pixels a
    step: to any).

    With ``most_gain`` the number of pixels adapts to the way that is left. A pixel's *gain* is what
    its move takes off the loss by first order, ``|direction|`` x the length of the move. The pixels
    with the largest gains move, as many as together stay within ``most_gain``, and the one that
    exceeds it: many far from the decision boundary, where a relative loss is flat, one near it.

    Deviations from the paper: line 7's sign is mended (:math:`\mathbf g` is the gradient of a loss,
    so the step goes against it), and values within 1e-6 of the range of a bound or of the original
    snap to it.

    Args:
        step_size (float or Tensor): Fraction of the range, :math:`\delta`; A x 1 x ... where each
            image has its own.
        max_changes (int or None): Most changes of one pixel, :math:`p`; None for any number.
        pixels_per_step (int): Pixels that move together, :math:`m`.
        pixels (Pixels): What a pixel is: one entry of the input, a spatial site with all its
            channels, or a group of entries.
        skip_saturated (bool): Whether a pixel is admissible only if the move would change it by
            more than 1e-6 of the range. False is the algorithm to the letter: a pixel on a bound
            may be chosen, and is then clipped back to where it was.
        lower (Tensor): Lower bound, of the shape of one input, or A x ... where each image has its
            own.
        upper (Tensor): Upper bound, likewise.
        most_gain (float or Tensor, optional): See above; A x 1 where each image has its own. Then
            ``pixels_per_step`` is the most that move. Default: None (always ``pixels_per_step``,
            chosen by slope)
        change (float or Tensor, optional): What a move counts as towards ``max_changes``, like
            ``step_size``. Default: 1
    """

    step_size: float | Tensor
    max_changes: int | None
    pixels_per_step: int
    pixels: Pixels
    skip_saturated: bool
    lower: Tensor
    upper: Tensor
    most_gain: float | Tensor | None = None
    change: float | Tensor = 1

    def initial_changes(self, images: Tensor) -> Tensor:
        """Count no changes yet.

        Args:
            images (Tensor): A x channels x ...

        Returns:
            Tensor: Zeros, int32, one for each pixel, as :class:`Pixels` shapes them.
        """
        return self.pixels.any(torch.zeros_like(images, dtype=torch.bool)).to(torch.int32)

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
        proposal = self.proposal(images, direction, original)
        movable = self.movable(images, proposal, allowed)
        length = self.upper - self.lower if self.most_gain is None else (proposal - images).abs()
        score = self.pixels.total(direction.abs() * length, movable)
        admissible = self.admissible(movable, changes)
        chosen = self._most_salient(torch.where(admissible, score, -1.0))
        moved = torch.where(self.pixels.spread(chosen) & movable, proposal, images)
        return moved, changes + chosen.to(changes) * self.change, ~admissible.flatten(1).any(1)

    def proposal(self, images: Tensor, direction: Tensor, original: Tensor) -> Tensor:
        """Compute where every entry would move, clipped and snapped.

        Args:
            images (Tensor): A x channels x ...
            direction (Tensor): Of the same shape.
            original (Tensor): The images that the search began with.

        Returns:
            Tensor: Of the same shape.
        """
        span = self.upper - self.lower
        moved = images - direction.sign() * (self.step_size * span)
        moved = torch.minimum(torch.maximum(moved, self.lower), self.upper)
        for value in (self.lower, self.upper, original):
            moved = torch.where((moved - value).abs() <= TOLERANCE * span, value, moved)
        return moved

    def movable(self, images: Tensor, proposal: Tensor, allowed: Tensor | None) -> Tensor:
        """Find the entries that the mask lets move, and that would (with ``skip_saturated``).

        Args:
            images (Tensor): A x channels x ...
            proposal (Tensor): As from :meth:`proposal`.
            allowed (Tensor or None): Bool, the entries that the mask lets change.

        Returns:
            Tensor: Bool, of the images' shape.
        """
        movable = torch.ones_like(images, dtype=torch.bool) if allowed is None else allowed
        if self.skip_saturated:
            span = self.upper - self.lower
            movable = movable & ((proposal - images).abs() > TOLERANCE * span)
        return movable

    def admissible(self, movable: Tensor, changes: Tensor) -> Tensor:
        """Find the pixels with a movable entry that were not changed too often.

        Args:
            movable (Tensor): As from :meth:`movable`.
            changes (Tensor): How often each pixel was changed.

        Returns:
            Tensor: Bool, of the shape of ``changes``.
        """
        pixels = self.pixels.any(movable)
        return pixels if self.max_changes is None else pixels & (changes < self.max_changes)

    def _most_salient(self, score: Tensor) -> Tensor:
        flat = score.flatten(1)
        if self.pixels_per_step == 1:
            # argmax returns the first maximum; topk promises no order among equals.
            best = flat.argmax(1, keepdim=True)
        else:
            best = flat.topk(min(self.pixels_per_step, flat.shape[1])).indices
        highest = flat.gather(1, best)
        moves = highest >= 0
        if self.most_gain is not None:
            moves &= highest.cumsum(1) - highest < self.most_gain
        chosen = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, best, moves)
        return chosen.view_as(score)

    def dispensable(
        self, images: Tensor, direction: Tensor, original: Tensor, share: float | Tensor
    ) -> Tensor:
        """Find the changed pixels whose return to the original raises the loss least.

        By first order, that is by direction x (original - image), summed over a pixel's entries.

        Args:
            images (Tensor): A x channels x ...
            direction (Tensor): Gradient of the loss, of the same shape.
            original (Tensor): The images that the search began with.
            share (float or Tensor): How many of an image's changed pixels, rounded up; A x 1 where
                each has its own.

        Returns:
            Tensor: Bool, one for each pixel, of the shape of :meth:`initial_changes`.
        """
        rise = self.pixels.total(direction * (original - images))
        changed = self.pixels.any(images != original)
        count = (share * changed.flatten(1).sum(1, keepdim=True)).ceil()
        order = torch.where(changed, rise, torch.inf).flatten(1).argsort(dim=1, stable=True)
        rank = order.argsort(1)
        return (rank < count).view_as(changed) & changed


@dataclass(frozen=True)
class ShrinkageStep:
    r"""The step of VLK and CEM: gradient descent with shrinkage towards the original, and momentum.

    From the point :math:`\mathbf y` ahead of the image :math:`\mathbf x`, with the gradient
    :math:`\mathbf g` there, step t of T (counted from 0) makes

    .. math::
        \mathbf v &= \mathbf y - \eta \sqrt{1 - t/T}\; \mathrm{clip}(\mathbf g, \pm G) \\
        \mathbf x' &= \mathbf x_0 + S_\beta(\mathbf v - \mathbf x_0) \\
        \mathbf y' &= \mathbf x' + \tfrac{t + 1}{t + 4} (\mathbf x' - \mathbf x)

    where :math:`S_\beta` takes :math:`\beta` off the size of each entry and makes those that are no
    larger 0, and where :math:`\mathbf x'` and :math:`\mathbf y'` are clipped to the bounds. It is
    like FISTA (Beck and Teboulle, 2009), but for a threshold that does not shrink with the step
    size and another momentum.

    Images, gradient and threshold count in units of the range ``upper - lower``, so that the same
    settings suit inputs that were normalised outside of the model.

    Args:
        learning_rate (float): :math:`\eta`.
        threshold (float): :math:`\beta`.
        clip (float): G.
        max_iterations (int): T.
        lower (Tensor): Lower bound, of the shape of one input, or A x ... where each image has its
            own.
        upper (Tensor): Upper bound, likewise.
        span (Tensor, optional): The unit, likewise, where the bounds are closer than the range of
            an image. Default: None (``upper - lower``)
    """

    learning_rate: float
    threshold: float
    clip: float
    max_iterations: int
    lower: Tensor
    upper: Tensor
    span: Tensor | None = None

    def __call__(
        self,
        images: Tensor,
        ahead: Tensor,
        gradient: Tensor,
        iteration: Tensor,
        original: Tensor,
        allowed: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Make one step with each image.

        Args:
            images (Tensor): A x channels x ...
            ahead (Tensor): Of the same shape; the images themselves before the first step.
            gradient (Tensor): Of the loss at ``ahead``, in the images' own units.
            iteration (Tensor): Steps made before, A, int64.
            original (Tensor): The images that the search began with.
            allowed (Tensor or None): Bool, the entries that the mask lets change; all others stay
                those of ``original``.

        Returns:
            tuple[Tensor, Tensor]: The next images, and the next points ahead of them.
        """
        span = self.upper - self.lower if self.span is None else self.span
        column = (-1, *[1] * (images.dim() - 1))
        done = iteration.to(images.dtype).view(column)
        rate = self.learning_rate * (1 - done / self.max_iterations).sqrt()
        moved = ahead - rate * span * (span * gradient).clamp(-self.clip, self.clip)
        difference = moved - original
        threshold = self.threshold * span
        risen = torch.clamp(moved - threshold, self.lower, self.upper)
        fallen = torch.clamp(moved + threshold, self.lower, self.upper)
        following = torch.where(difference < -threshold, fallen, original)
        following = torch.where(difference > threshold, risen, following)
        if allowed is not None:
            following = torch.where(allowed, following, original)
        further = following + (done + 1) / (done + 4) * (following - images)
        further = torch.clamp(further, self.lower, self.upper)
        if allowed is not None:
            further = torch.where(allowed, further, original)
        return following, further


def refine_weight(
    weight: Tensor, highest_failure: Tensor, lowest_success: Tensor, found: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Move towards the smallest weight of a loss with which a search succeeds, after one round.

    The next weight lies half-way between the highest one that failed (0 at first) and the lowest
    that succeeded; as long as none did, it is ten times the last.

    Args:
        weight (Tensor): Of the round that is over, A.
        highest_failure (Tensor): Of the rounds before; 0 where none failed, A.
        lowest_success (Tensor): Likewise; infinite where none succeeded, A.
        found (Tensor): Whether the round succeeded, A, bool.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The next ``weight``, ``highest_failure`` and
        ``lowest_success``.
    """
    highest_failure = torch.where(found, highest_failure, weight)
    lowest_success = torch.where(found, weight, lowest_success)
    halfway = (highest_failure + lowest_success) / 2
    return (
        torch.where(torch.isfinite(lowest_success), halfway, 10 * weight),
        highest_failure,
        lowest_success,
    )


@dataclass(frozen=True)
class AdamStep:
    r"""The step of Adam (Kingma and Ba, 2015), with the count of steps of each pair's own.

    .. math::
        \mathbf m' &= \beta_1\, \mathbf m + (1 - \beta_1)\, \mathbf g,\quad
        &\mathbf v' &= \beta_2\, \mathbf v + (1 - \beta_2)\, \mathbf g^2, \\
        \mathbf r &= \frac{\eta}{\sqrt{\mathbf v' / (1 - \beta_2^t)} + 10^{-8}},\quad
        &\mathbf x' &= \mathbf x - \mathbf r \frac{\mathbf m'}{1 - \beta_1^t}

    Args:
        learning_rate (float): :math:`\eta`.
        decay (float, optional): :math:`\beta_1`. Default: 0.9
        square_decay (float, optional): :math:`\beta_2`. Default: 0.999
    """

    learning_rate: float
    decay: float = 0.9
    square_decay: float = 0.999
    _floor = 1e-8

    def __call__(
        self, gradient: Tensor, mean: Tensor, square: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute one step of each pair.

        Args:
            gradient (Tensor): A x ...
            mean (Tensor): Moving average of the gradients, of the same shape, 0 before the first
                step; changed in place.
            square (Tensor): Moving average of their squares, likewise.
            count (Tensor): Steps with the present one, at least 1, A, int64.

        Returns:
            tuple[Tensor, Tensor]: What to subtract, and each entry's step size r: the metric in
            which a proximal step shrinks.
        """
        mean.lerp_(gradient, 1 - self.decay)
        square.mul_(self.square_decay).addcmul_(gradient, gradient, value=1 - self.square_decay)
        done = count.double()
        correction = 1 / (1 - self.decay**done)
        root_correction = (1 - self.square_decay**done).rsqrt()
        column = (-1, *[1] * (gradient.dim() - 1))
        root = square.sqrt().mul_(root_correction.to(gradient.dtype).view(column))
        rate = root.add_(self._floor).reciprocal_().mul_(self.learning_rate)
        return (rate * mean).mul_(correction.to(gradient.dtype).view(column)), rate
