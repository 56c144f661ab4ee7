r"""Descent in a generator's latent space towards many images at once, from several starts each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from captum_deduce import progress
from captum_deduce.search.steps import AdamStep

# A start whose mean loss in a window of steps is so many times its image's best is given up, but
# not in the first half: some that end best begin far behind.
_WINDOW = 100
_HOPELESS = 2.0
_GRACE = 0.5


class Objective:
    r"""What is descended on: :math:`\|G(z) - x\|_1 + \lambda \|f(G(z)) - f(x)\|_1`, sums.

    Args:
        generator (Callable): G, latents to images.
        feature_map (Callable): f, images to features.
        feature_weight (float): :math:`\lambda`.
    """

    def __init__(
        self,
        generator: Callable[[Tensor], Tensor],
        feature_map: Callable[[Tensor], Tensor],
        feature_weight: float,
    ) -> None:
        self.generator = generator
        self.feature_map = feature_map
        self.feature_weight = feature_weight

    def features(self, images: Tensor) -> Tensor:
        """Features as rows.

        Args:
            images (Tensor): N x ...

        Returns:
            Tensor: N x F.
        """
        # A clone, as a first layer may work in place.
        return self.feature_map(images.clone()).flatten(1)

    def losses(self, latents: Tensor, images: Tensor, features: Tensor) -> Tensor:
        """Evaluate one latent for each image.

        Args:
            latents (Tensor): N x ...
            images (Tensor): N x ...
            features (Tensor): Of these images, N x F.

        Returns:
            Tensor: N.
        """
        drawn = self.generator(latents.clone())
        distance = (drawn - images).abs().flatten(1).sum(1)
        return distance + self.feature_weight * (self.features(drawn) - features).abs().sum(1)

    @torch.no_grad()
    def nearest(self, images: Tensor, latents: Tensor, count: int, batch_size: int) -> Tensor:
        """Choose for each image those of the same latents that have the smallest losses.

        Args:
            images (Tensor): N x ...
            latents (Tensor): P x ...
            count (int): How many, at most P.
            batch_size (int): Images to draw at once.

        Returns:
            Tensor: N x count x ..., the smallest loss first.
        """
        rows, features = images.flatten(1), self.features(images)
        losses = []
        for batch in torch.split(latents, batch_size):
            drawn = self.generator(batch.clone())
            distance = torch.cdist(features, self.features(drawn), p=1)
            losses.append(
                torch.cdist(rows, drawn.flatten(1), p=1).add_(distance, alpha=self.feature_weight)
            )
        return latents[torch.cat(losses, 1).topk(count, largest=False).indices]


@dataclass(frozen=True)
class Schedule:
    """How the starts move.

    Args:
        optimizer (str): ``"sgd"``: plain gradient steps, a tenth as long in the last fifth; or
            ``"adam"``, with steps that shrink along half a cosine.
        steps (int): Of each start.
        step_size (float): At the beginning.
        keep_small_step (bool): Whether "sgd" leaves the step at the tenth for an image's second
            and later starts.
    """

    optimizer: str
    steps: int
    step_size: float
    keep_small_step: bool = False

    def rates(self, step: Tensor, start: Tensor) -> Tensor:
        """Find how long the steps of some starts are.

        Args:
            step (Tensor): Steps that they have made, R, int64.
            start (Tensor): Which start of its image each is, R, int64.

        Returns:
            Tensor: R, float64.
        """
        done = step.double() / self.steps
        if self.optimizer == "adam":
            return self.step_size * (0.5 + 0.5 * torch.cos(math.pi * done))
        small = step >= self.steps - self.steps // 5
        if self.keep_small_step:
            small = small | (start > 0)
        return self.step_size * torch.ones_like(done).masked_fill(small, 0.1)


@dataclass
class _Rows:
    """The starts under way: whose they are and what they have done (on the CPU), and their state.

    The gradient's moving averages, ``mean`` and ``square``, are Adam's; ``recent`` sums the losses
    of a window of steps.
    """

    image: Tensor
    start: Tensor
    step: Tensor
    latents: Tensor
    originals: Tensor
    features: Tensor
    mean: Tensor
    square: Tensor
    recent: Tensor

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, kept: Tensor) -> _Rows:
        values = (getattr(self, field.name) for field in fields(self))
        return _Rows(*(value[kept.to(value.device)] for value in values))

    def followed_by(self, new: _Rows) -> _Rows:
        names = [field.name for field in fields(self)]
        return _Rows(*(torch.cat([getattr(self, n), getattr(new, n)]) for n in names))


class LatentDescent:
    """Descends from all starts of many images, a limited number of them together.

    An image's starts enter together; as soon as there is room for another image's, they follow.

    Args:
        objective (Objective): What to descend on.
        schedule (Schedule): How.
        batch_size (int): Most starts under way, but for an image that has more.
        early_stop (bool): Give up a start once its loss, averaged over 100 steps, is twice that of
            its image's best; after half the steps.
        show_progress (bool): Draw a progress bar over the steps.
    """

    def __init__(
        self,
        objective: Objective,
        schedule: Schedule,
        *,
        batch_size: int,
        early_stop: bool,
        show_progress: bool,
    ) -> None:
        self.objective = objective
        self.schedule = schedule
        self.batch_size = batch_size
        self.early_stop = early_stop
        self.show_progress = show_progress
        self.adam = AdamStep(1.0, decay=0.7, square_decay=0.95)

    def final_losses(self, images: Tensor, starts: Tensor) -> Tensor:
        """Descend.

        Args:
            images (Tensor): N x ...
            starts (Tensor): Latents to begin at, N x K x ...

        Returns:
            Tensor: N x K losses after the last step; infinite for a start that was given up.
        """
        count, restarts = starts.shape[:2]
        room = max(self.batch_size // restarts, 1)
        final = images.new_full((count, restarts), torch.inf)
        entered = min(room, count)
        rows = self._enter(images, starts, 0, entered)
        total = count * restarts * (self.schedule.steps + 1)
        with progress.bar(
            total=total, desc="AnoGAN", unit="step", show_progress=self.show_progress
        ) as bar:
            while len(rows):
                losses, gradient = self._evaluate(rows)
                over = rows.step == self.schedule.steps
                if over.any():
                    place = over.to(losses.device)
                    final[rows.image[over], rows.start[over]] = losses[place]
                if self.early_stop:
                    over |= self._hopeless(rows, losses)
                bar.update(len(rows) + int((self.schedule.steps - rows.step)[over].sum()))
                self._step(rows, gradient)
                if over.any():
                    rows = rows[~over]
                    new = min((room * restarts - len(rows)) // restarts, count - entered)
                    if new:
                        rows = rows.followed_by(self._enter(images, starts, entered, new))
                        entered += new
        return final

    def _enter(self, images: Tensor, starts: Tensor, first: int, count: int) -> _Rows:
        restarts = starts.shape[1]
        latents = starts[first : first + count].flatten(0, 1)
        originals = images[first : first + count]
        with torch.no_grad():
            features = self.objective.features(originals)
        image = torch.arange(first, first + count).repeat_interleave(restarts)
        return _Rows(
            image=image,
            start=torch.arange(restarts).repeat(count),
            step=torch.zeros_like(image),
            latents=latents.clone(),
            originals=originals.repeat_interleave(restarts, 0),
            features=features.repeat_interleave(restarts, 0),
            mean=torch.zeros_like(latents),
            square=torch.zeros_like(latents),
            recent=latents.new_zeros(len(latents)),
        )

    def _evaluate(self, rows: _Rows) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            latents = rows.latents.detach().requires_grad_()
            losses = self.objective.losses(latents, rows.originals, rows.features)
            (gradient,) = torch.autograd.grad(losses.sum(), latents)
        return losses.detach(), gradient

    def _step(self, rows: _Rows, gradient: Tensor) -> None:
        if self.schedule.optimizer == "adam":
            count = (rows.step + 1).to(gradient.device)
            gradient, _ = self.adam(gradient, rows.mean, rows.square, count)
        rates = self.schedule.rates(rows.step, rows.start).to(gradient)
        rows.latents -= rates.view(-1, *[1] * (gradient.dim() - 1)) * gradient
        rows.step += 1

    def _hopeless(self, rows: _Rows, losses: Tensor) -> Tensor:
        """Add up a window's losses; at its end find the starts that are far behind."""
        rows.recent += losses
        done = rows.step + 1
        ends = done % _WINDOW == 0
        if not ends.any():
            return ends
        recent = rows.recent.cpu().nan_to_num(nan=torch.inf)
        best = torch.full((int(rows.image.max()) + 1,), torch.inf, dtype=recent.dtype)
        best = best.scatter_reduce(0, rows.image, recent, "amin")
        rows.recent[ends.to(losses.device)] = 0
        judged = ends & (done >= _GRACE * self.schedule.steps)
        return judged & (recent > _HOPELESS * best[rows.image])
