"""LatentShift: along one gradient in latent space, as far as the classifier needs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.explainers.latent_space import LatentSpace
from captum_deduce.search import (
    ANY_CLASS,
    Problem,
    confidence_of,
    is_success,
    l1_norm,
    likeliest_other,
)

DIRECTIONS = ("raise", "lower")
"""What :class:`LatentShift` may do with a class."""

SCORES = ("log_odds", "score")
"""Whose gradient :class:`LatentShift` may follow."""

HEAT_MAPS = ("mean", "max", "ends")
"""How :meth:`LatentPath.heat_map` may sum up what changes."""


@dataclass(frozen=True, eq=False, repr=False)
class LatentPath:
    r"""The images on the way from a reconstruction to a counterfactual, in even steps.

    Args:
        result (Counterfactuals): Of N pairs, as :meth:`LatentShift.generate` returns it; its
            ``trajectory`` holds the original and then the frames, so that
            :func:`~captum_deduce.visualization.save_animation` makes a film of them.
        frames (Tensor): Images along the way, N x F x channels x height x width: the first is the
            reconstruction :math:`D(E(\mathbf x))`, the last the image at ``shift``.
        shift (Tensor): How far the search went in latent space, N, as a Euclidean length: to the
            counterfactual, or for pairs that failed to their best attempt.
        reconstruction_error (Tensor): :math:`\|\mathbf x - D(E(\mathbf x))\|_1`, N, in input units:
            what of the difference to the original is the generative model's and not the shift's.
    """

    result: Counterfactuals
    frames: Tensor
    shift: Tensor
    reconstruction_error: Tensor

    def __repr__(self) -> str:
        return f"LatentPath({self.result!r}, {self.frames.shape[1]} frames)"

    def heat_map(self, kind: str = "mean") -> Tensor:
        """Say where the images change along the way.

        Args:
            kind (str, optional): ``"mean"`` or ``"max"`` of the absolute differences of successive
                frames, or ``"ends"``, the absolute difference of the first and the last.
                Default: "mean"

        Returns:
            Tensor: N x channels x height x width, not negative, in input units.

        Raises:
            ValueError: Another kind.
        """
        checks.choice("kind", kind, HEAT_MAPS)
        if kind == "ends":
            return (self.frames[:, -1] - self.frames[:, 0]).abs()
        changes = self.frames.diff(dim=1).abs()
        return changes.mean(1) if kind == "mean" else changes.amax(1)


class LatentShift(CounterfactualExplainer):
    r"""Counterfactuals on a straight line through a generative model's latent space.

    From the latent code of the original, :math:`\mathbf z_0 = E(\mathbf x)`, one gradient is
    computed, and followed as far as it takes:

    .. math::
        \mathbf g = \nabla_{\mathbf z}\, s_t(D(\mathbf z))\big|_{\mathbf z_0}, \qquad
        \mathbf x_\lambda = D\bigl(\mathbf z_0 + \lambda\, \mathbf g / \|\mathbf g\|\bigr)

    with the score s of the class t and the decoder D. It costs one gradient and some forward
    passes, about twenty. As all images lie on one line, they are easy to look at
    (:meth:`path`) and to compare other classifiers by
    (:func:`~captum_deduce.metrics.counterfactual_alignment`); and a target that this line does not
    cross is not found, where :class:`~captum_deduce.REVISE`, which asks for a new gradient at every
    step, may find it. What is explained is the reconstruction :math:`D(E(\mathbf x))`: where that
    is far from the original, so is the counterfactual.

    :math:`\lambda` grows by ``growth`` from ``first_shift`` until the image is a success, and is
    then found by bisection between the last failure and the first success, to ``tolerance`` of
    itself. So it is the smallest :math:`\lambda` with a success, unless the line touches the
    target's region between two values that were tried.

    Source: Cohen, Brooks, En, Zucker, Pareek, Lungren, Chaudhari, "Gifsplanation via Latent Shift:
    A Simple Autoencoder Approach to Counterfactual Generation for Chest X-rays", 2021. Deviations:

    * They lower the class that the model predicts (``direction="lower"`` with ``score="score"``),
      by steps of :math:`\lambda` that are in units of the gradient, until the prediction has fallen
      by a set amount or the image has changed too much. Here the gradient is normalised, so that
      :math:`\lambda` is a length in latent space, and the goal is a confidence.
    * Raising a class (the default) is a choice of this package.
    * The score is the log-odds of the class, :math:`\log p_t - \log(1 - p_t)`. A probability that
      is nearly 0 or 1 has a gradient of nearly 0, and a logit says nothing of the other classes;
      ``score="score"`` takes what the model returns for the class.
    * The first image evaluated is the original; one that is of the target class already is returned
      as it is. With a mask, what is evaluated and returned is :math:`\mathbf x_\lambda` where
      pixels may change and :math:`\mathbf x` elsewhere. What the decoder draws is clipped to the
      bounds.

    A pair that fails returns its best attempt with ``success=False``; one whose gradient is not
    finite, or 0, stops as failed. An evaluation is counted as ``evaluations`` where it has a
    gradient (one a pair), and as ``forward_evaluations`` else.

    Examples::

        >>> from torch import nn
        >>> from captum_deduce.models import VAE
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> explainer = LatentShift(model, VAE(image_size=8))
        >>> images = torch.rand(4, 1, 8, 8)
        >>> explainer.generate(images, target=2).evaluations.tolist()
        [1, 1, 1, 1]
        >>> explainer.path(images, target=2, frames=5).frames.shape
        torch.Size([4, 5, 1, 8, 8])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        vae: Any,
        *,
        encoder: Callable[..., Any] | None = None,
        confidence: float = 0.5,
        direction: str = "raise",
        score: str = "log_odds",
        first_shift: float = 0.25,
        growth: float = 1.3,
        max_shift: float = 100.0,
        tolerance: float = 0.01,
        max_iterations: int = 100,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Bring the classifier and the generative model together.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            vae (object or Callable): The generative model, in any of the forms that
                :class:`~captum_deduce.REVISE` takes: an object with ``encode`` and ``decode``, or a
                decoder.
            encoder (Callable, optional): Inputs to latents, where ``vae`` has no ``encode``.
                Default: None
            confidence (float, optional): An image is a success when the target's softmax
                probability exceeds it; where it is below 0.5 the target must also be the argmax.
                With ``direction="lower"``: when the probability of all other classes together does,
                and one of them is the argmax. Default: 0.5
            direction (str, optional): ``"raise"`` the target, or ``"lower"`` the predicted class,
                without a target: ``Counterfactuals.target`` then holds the class that was reached.
                Default: "raise"
            score (str, optional): ``"log_odds"``, or ``"score"``, what the model returns for the
                class. Default: "log_odds"
            first_shift (float, optional): The first :math:`\lambda` above 0. Default: 0.25
            growth (float, optional): By what it is multiplied until there is a success, above 1.
                Default: 1.3
            max_shift (float, optional): Where that ends. Default: 100.0
            tolerance (float, optional): How close to each other, as a share of :math:`\lambda`, the
                last failure and the success are at the end. Default: 0.01
            max_iterations (int, optional): Most images that are drawn for a pair. Default: 100
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A decoder without an encoder, or a number out of its range.
        """
        super().__init__(forward_func)
        self.vae = vae
        self.encoder = encoder
        self.confidence = confidence
        self.direction = direction
        self.score = score
        self.first_shift = first_shift
        self.growth = growth
        self.max_shift = max_shift
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._camera: _Camera | None = None
        self._check_settings()

    def path(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: int | list[int] | Tensor | None = None,
        *,
        frames: int = 10,
        additional_forward_args: Any = None,
        mask: Tensor | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool | None = None,
        **settings: Any,
    ) -> LatentPath:
        r"""Search as :meth:`generate` does, and draw the way in even steps of :math:`\lambda`.

        Args:
            inputs (Tensor or tuple[Tensor]): N x channels x height x width.
            target (int, list, Tensor or None, optional): See :meth:`generate`. Default: None
            frames (int, optional): How many images, F, at least 2. Default: 10
            additional_forward_args (Any, optional): See :meth:`generate`. Default: None
            mask (Tensor, optional): See :meth:`generate`. Default: None
            internal_batch_size (int, optional): See :meth:`generate`. Default: None
            show_progress (bool, optional): See :meth:`generate`. Default: None
            **settings (Any): Constructor arguments to override for this call.

        Returns:
            LatentPath: The result with the frames, the shifts and the reconstruction errors. The
            F passes of the decoder that it takes are no evaluations of the classifier.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: An argument that does not fit; see :meth:`generate`.
        """
        checks.number("frames", frames, minimum=2, integer=True)
        explainer = copy.copy(self)
        explainer._camera = camera = _Camera(frames)
        result = explainer.generate(
            inputs,
            target,
            additional_forward_args=additional_forward_args,
            mask=mask,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            **settings,
        )
        film = [
            torch.cat([image.unsqueeze(0), drawn]).cpu()
            for image, drawn in zip(result.inputs, camera.frames, strict=True)
        ]
        return LatentPath(
            replace(result, trajectory=film),
            camera.frames,
            camera.shift,
            l1_norm(result.inputs - camera.frames[:, 0]),
        )

    @property
    def _any_class_without_target(self) -> bool:  # type: ignore[override]
        return self.direction == "lower"

    def _check_settings(self) -> None:
        self._space()
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.choice("direction", self.direction, DIRECTIONS)
        checks.choice("score", self.score, SCORES)
        for name in ("first_shift", "max_shift", "tolerance"):
            checks.number(name, getattr(self, name), minimum=0, exclusive=True)
        checks.number("growth", self.growth, minimum=1, exclusive=True)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)

    def _space(self) -> LatentSpace:
        return LatentSpace.around(self.vae, self.encoder)

    def _frozen_model(self) -> FrozenModel:
        return FrozenModel(self.forward_func, companions=self._space().models)

    def _procedure(self, problem: Problem) -> search.Procedure:
        if self.direction == "lower" and problem.classes[0] != ANY_CLASS:
            raise ValueError(
                'target must be None where direction="lower", which lowers the class that the '
                f"model predicts, got {checks.some(problem.classes)}"
            )
        space = self._space()
        space.prepare(problem.inputs)
        procedure = LineSearch(problem, self, space)
        if self._camera is not None:
            self._camera.procedure = procedure
        return procedure

    def _finish(
        self,
        problem: Problem,
        found: search.SearchResult,
        internal_batch_size: int | None,
        show_progress: bool | None,
    ) -> search.SearchResult:
        if self._camera is not None and found.distance is not None:
            self._camera.film(found.distance, internal_batch_size or len(problem.inputs))
        return found


class LineSearch(search.Procedure):
    r"""Look along one direction in latent space for the nearest success.

    The first evaluation is of the original, and computes the direction; the second is of the
    reconstruction, at :math:`\lambda = 0`.

    Args:
        problem (Problem): What the call asks for.
        settings (LatentShift): The explainer, for its numbers.
        space (LatentSpace): The generative model.
    """

    def __init__(self, problem: Problem, settings: LatentShift, space: LatentSpace) -> None:
        self.problem = problem
        self.settings = settings
        self.space = space
        self.max_iterations = settings.max_iterations
        self.lowers = settings.direction == "lower"
        self._lines: dict[int, tuple[Tensor, Tensor]] = {}

    def start(self, pairs: list[int]) -> search.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        for pair in pairs:  # a number may come again for another pair
            self._lines.pop(pair, None)
        state = self.problem.rows(pairs)
        latents = self.space.start(state["original"], pairs)
        counts = torch.zeros_like(state["target"])
        zero = torch.zeros(len(pairs), dtype=latents.dtype, device=latents.device)
        return state | {
            "latents": latents,
            "direction": torch.zeros_like(latents),
            "steepness": zero,
            "original_class": counts,
            "step": counts.clone(),
            "shift": zero.clone(),
            "failed": zero.clone(),
            "succeeded": zero + float("inf"),
            "evaluations": counts.clone(),
            "forward_evaluations": counts.clone(),
        }

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """Draw and classify, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        new = search.beginners(pairs, self._lines, state["step"])
        with torch.no_grad():
            images = self.images(state, state["shift"])
            untouched = search.as_column(state["step"] == 0, images)
            images = torch.where(untouched, state["original"], images)
            scores, _ = self.problem.forward(images, state)
        state["forward_evaluations"] = state["forward_evaluations"] + 1
        prediction = scores.argmax(1)
        original_class = torch.where(state["step"] == 0, prediction, state["original_class"])
        state["original_class"] = original_class
        if new:
            self._direct(state, new)
        confidence, target, success, merit = self._judge(scores, state)
        for slot, pair in enumerate(pairs):
            if pair not in self._lines:
                line = state["latents"][slot].clone(), state["direction"][slot].clone()
                self._lines[pair] = line
        return search.Evaluation(
            images=images,
            confidence=confidence,
            success=success,
            finished=success & (state["shift"] == 0),
            prediction=prediction,
            gradient=state["direction"],
            distance=state["shift"],
            target=target,
            merit=merit,
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Go on, or come back half-way; see :meth:`captum_deduce.search.Procedure.step`."""
        settings, shift, success = self.settings, state["shift"], evaluation.success
        first = state["step"] == 0
        succeeded = torch.where(success & ~first, shift, state["succeeded"])
        failed = torch.where(success | first, state["failed"], shift)
        further = torch.where(shift > 0, settings.growth * shift, settings.first_shift)
        following = torch.where(succeeded.isfinite(), (failed + succeeded) / 2, further)
        state |= {
            "succeeded": succeeded,
            "failed": failed,
            "shift": torch.where(first, shift, following),
            "step": state["step"] + 1,
        }
        steepness = state["steepness"]
        nowhere = (steepness == 0) | ~steepness.isfinite()
        close = succeeded - failed <= settings.tolerance * succeeded
        found = succeeded.isfinite() & close
        return nowhere | found | (state["shift"] > settings.max_shift)

    def line(self, pairs: list[int]) -> search.State:
        """Where the lines of pairs begin, and where they lead.

        Args:
            pairs (list[int]): Indices of pairs that were evaluated.

        Returns:
            dict[str, Tensor]: ``latents`` and ``direction``, a row for each.
        """
        beginnings, directions = zip(*(self._lines[pair] for pair in pairs), strict=True)
        return {"latents": torch.stack(beginnings), "direction": torch.stack(directions)}

    def images(self, state: search.State, shift: Tensor) -> Tensor:
        r"""Draw :math:`\mathbf x_\lambda`, within the bounds and the mask.

        Args:
            state (dict[str, Tensor]): Of the active pairs.
            shift (Tensor): :math:`\lambda` of each, A.

        Returns:
            Tensor: A images.
        """
        latents = state["latents"]
        length = search.as_column(shift, latents)
        return self._drawn(latents + length * state["direction"], state)

    def _drawn(self, latents: Tensor, state: search.State) -> Tensor:
        lower, upper = self.problem.bounds(state)
        images = torch.clamp(self.space.decode(latents.clone()), lower, upper)
        if "allowed" in state:
            images = torch.where(state["allowed"], images, state["original"])
        return images

    def _direct(self, state: search.State, slots: list[int]) -> None:
        """Compute the direction of some pairs, and put it in the state."""
        rows = torch.tensor(slots, device=state["target"].device)
        part = {name: value[rows] for name, value in state.items()}
        latents = part["latents"].requires_grad_()
        scores, _ = self.problem.forward(self._drawn(latents, part), part)
        wanted = part["original_class"] if self.lowers else part["target"]
        score = scores.gather(1, wanted.unsqueeze(1)).squeeze(1)
        if self.settings.score == "log_odds":
            others = scores.scatter(1, wanted.unsqueeze(1), -torch.inf)
            score = score - others.logsumexp(1)
        (gradient,) = torch.autograd.grad(score.sum(), latents)
        # By its largest entry first, as squares may underflow.
        largest = gradient.abs().flatten(1).amax(1)
        column = (-1, *[1] * (latents.dim() - 1))
        scaled = gradient / largest.view(column)
        direction = scaled / scaled.flatten(1).norm(dim=1).view(column)
        direction = -direction if self.lowers else direction
        state["direction"] = state["direction"].index_copy(0, rows, direction.nan_to_num(0.0))
        state["steepness"] = state["steepness"].index_copy(0, rows, largest)
        one = torch.ones_like(rows)
        state["evaluations"] = state["evaluations"].index_add(0, rows, one)

    def _judge(
        self, scores: Tensor, state: search.State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Confidence, target, success and, where the confidence does not rank attempts, merit."""
        prediction, threshold = scores.argmax(1), self.settings.confidence
        if not self.lowers:
            target = state["target"]
            confidence = confidence_of(scores, target)
            success = is_success(confidence, prediction, target, threshold)
            return confidence, target, success, None
        own = state["original_class"]
        confidence, target = likeliest_other(scores.softmax(1), own)
        left = 1 - confidence_of(scores, own)
        return confidence, target, (left > threshold) & (prediction != own), left


class _Camera:
    """Draws the way of every pair once the search is over, while the models are still prepared."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.procedure: LineSearch | None = None
        self.frames = self.shift = torch.empty(0)

    def film(self, shift: Tensor, batch_size: int) -> None:
        if self.procedure is None:
            return
        batches = torch.split(torch.arange(len(shift)), batch_size)
        frames = [self._frames(self.procedure, pairs.tolist(), shift) for pairs in batches]
        self.frames, self.shift = torch.cat(frames), shift

    @torch.no_grad()
    def _frames(self, procedure: LineSearch, pairs: list[int], shift: Tensor) -> Tensor:
        state = procedure.problem.rows(pairs) | procedure.line(pairs)
        length = shift[torch.tensor(pairs, device=shift.device)]
        parts = torch.linspace(0, 1, self.count).tolist()
        return torch.stack([procedure.images(state, part * length) for part in parts], 1)
