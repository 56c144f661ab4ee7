"""REVISE: counterfactuals that a generative model can draw, by descent in its latent space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.explainers.latent_space import LatentSpace
from captum_deduce.search import AdamStep, Problem, confidence_of, is_success, losses

LEARNING_RATES = {"sgd": 1e-5, "adam": 0.05}
"""The optimizers of :class:`REVISE`, with the learning rates that they have by default."""

SELECTIONS = ("first", "closest")
"""Which success :class:`REVISE` may return."""


class REVISE(CounterfactualExplainer):
    r"""Counterfactuals that a generative model can draw, by descent in its latent space.

    From the latent code of the original, :math:`\mathbf z_0 = E(\mathbf x)`, each step descends on
    (equation 3 of the DeDUCE paper)

    .. math::
        \ell(f(G(\mathbf z)), t) + \lambda\, \|G(\mathbf z) - \mathbf x\|_1

    with the cross-entropy :math:`\ell` of the classifier f and the decoder G, until the softmax
    probability of the target exceeds ``confidence``. The counterfactual is never closer to the
    original than the generative model can draw: a reconstruction differs in nearly every pixel.

    Source: Joshi, Koyejo, Vijitbenjaronk, Kim, Ghosh, "Towards Realistic Individual Recourse and
    Actionable Explanations in Black-Box Decision Making Systems", 2019; as described and set in
    appendix B of Höltgen et al., "DeDUCE", 2021, whose settings are the defaults. They are slow and
    often fail: tens of thousands of steps, and no counterfactual for a quarter of the pairs.
    ``optimizer="adam"`` needs hundreds. Deviations and choices:

    * The first image evaluated is the original; one that is of the target class already is returned
      as it is. The first step replaces it by its reconstruction :math:`G(\mathbf z_0)`, all further
      ones descend.
    * The distance counts in units of ``upper_bound - lower_bound``, so that :math:`\lambda` suits
      inputs that were normalised outside of the model.
    * With a mask, what is evaluated and returned is :math:`G(\mathbf z)` where pixels may change
      and :math:`\mathbf x` elsewhere. What the decoder draws is clipped to the bounds.
    * ``optimizer="adam"`` and ``select="closest"`` are no part of the paper.

    A pair that fails returns its best attempt with ``success=False``; one whose gradient is not
    finite, or 0 in all latent dimensions, stops as failed. In float32 rounding depends on the size
    of a batch: of 100 pairs of 8x8 digits, searched one at a time instead of together with
    ``optimizer="adam"``, none differed by more than 1e-6 in an entry
    (``benchmarks/batch_sizes.py``).

    Examples::

        >>> from torch import nn
        >>> from captum_deduce.models import VAE
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> explainer = REVISE(model, VAE(image_size=8), optimizer="adam", distance_weight=0.01)
        >>> result = explainer.generate(torch.rand(4, 1, 8, 8), max_iterations=50)
        >>> result.counterfactuals.shape
        torch.Size([4, 1, 8, 8])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        vae: Any,
        *,
        encoder: Callable[..., Any] | None = None,
        initial_latent: Tensor | None = None,
        confidence: float = 0.5,
        distance_weight: float = 1.0,
        learning_rate: float | None = None,
        max_iterations: int = 50_000,
        optimizer: str = "sgd",
        select: str = "first",
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Bring the classifier and the generative model together.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            vae (object or Callable): The generative model. Either an object with two methods,
                ``encode`` (N inputs to N latents, or to a tuple that begins with them, such as mean
                and log-variance) and ``decode`` (N latents to N images of the inputs' shape), as
                :class:`~captum_deduce.models.VAE`. Or any decoder: a function or module from
                latents to images, which needs ``encoder`` or ``initial_latent``. Modules are held
                in eval mode during a search and left as they were found.
            encoder (Callable, optional): Where the search begins: inputs to latents, as ``encode``
                above. Default: None (``vae.encode``)
            initial_latent (Tensor, optional): Where the search begins, instead of an encoder's
                answer: one latent for all images, or N. Default: None
            confidence (float, optional): An image is a success when the target's softmax
                probability exceeds it; where it is below 0.5 the target must also be the argmax.
                Default: 0.5
            distance_weight (float, optional): :math:`\lambda`. Default: 1.0
            learning_rate (float, optional): Size of a step in latent space. Default: None, which is
                1e-5, as published, with ``optimizer="sgd"`` and 0.05 with ``"adam"``
            max_iterations (int, optional): Most steps of an image. Default: 50000
            optimizer (str, optional): ``"sgd"``, plain gradient descent, or ``"adam"``.
                Default: "sgd"
            select (str, optional): ``"first"`` ends at the first success; ``"closest"`` goes on for
                all ``max_iterations`` and returns the success with the smallest distance.
                Default: "first"
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A decoder without a place to begin, or a number out of its range.
        """
        super().__init__(forward_func)
        self.vae = vae
        self.encoder = encoder
        self.initial_latent = initial_latent
        self.confidence = confidence
        self.distance_weight = distance_weight
        self.learning_rate = learning_rate
        self.max_iterations = max_iterations
        self.optimizer = optimizer
        self.select = select
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._check_settings()

    def _check_settings(self) -> None:
        self._space()
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.number("distance_weight", self.distance_weight, minimum=0)
        if self.learning_rate is not None:
            checks.number("learning_rate", self.learning_rate, minimum=0, exclusive=True)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        checks.choice("optimizer", self.optimizer, tuple(LEARNING_RATES))
        checks.choice("select", self.select, SELECTIONS)

    def _space(self) -> LatentSpace:
        return LatentSpace.around(self.vae, self.encoder, self.initial_latent)

    def _frozen_model(self) -> FrozenModel:
        return FrozenModel(self.forward_func, companions=self._space().models)

    def _procedure(self, problem: Problem) -> search.Procedure:
        space = self._space()
        space.prepare(problem.inputs)
        return LatentDescent(problem, self, space)


class LatentDescent(search.Procedure):
    """Descend in latent space from the original's own code.

    Args:
        problem (Problem): What the call asks for.
        settings (REVISE): The explainer, for its numbers.
        space (LatentSpace): The generative model.
    """

    def __init__(self, problem: Problem, settings: REVISE, space: LatentSpace) -> None:
        self.problem = problem
        self.settings = settings
        self.space = space
        self.max_iterations = settings.max_iterations
        rate = settings.learning_rate
        self.learning_rate = LEARNING_RATES[settings.optimizer] if rate is None else rate
        self.adam = AdamStep(self.learning_rate) if settings.optimizer == "adam" else None

    def start(self, pairs: list[int]) -> search.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        state = self.problem.rows(pairs)
        latents = self.space.start(state["original"], pairs)
        state["latents"] = latents
        state["iteration"] = torch.zeros_like(state["target"])
        if self.adam is not None:
            state["mean"] = torch.zeros_like(latents)
            state["square"] = torch.zeros_like(latents)
        return state

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """Draw and classify, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        settings, target, original = self.settings, state["target"], state["original"]
        latents = state["latents"].detach().requires_grad_()
        untouched = state["iteration"] == 0
        kept = search.as_column(untouched, original)
        if "allowed" in state:
            kept = kept | ~state["allowed"]
        drawn = self.space.decode(latents.clone())
        lower, upper = self.problem.bounds(state)
        images = torch.where(kept, original, torch.clamp(drawn, lower, upper))
        scores, _ = self.problem.forward(images, state)
        distance = losses.l1_norm((images - original) / (upper - lower))
        cross_entropy = -losses.target_log_probability(scores, target)
        loss = cross_entropy + settings.distance_weight * distance
        (gradient,) = torch.autograd.grad(loss.sum(), latents)
        confidence = confidence_of(scores, target)
        prediction = scores.detach().argmax(1)
        success = is_success(confidence, prediction, target, settings.confidence)
        first = settings.select == "first"
        return search.Evaluation(
            images=images.detach(),
            confidence=confidence,
            success=success,
            finished=success if first else success & untouched,
            prediction=prediction,
            gradient=gradient,
            distance=None if first else distance.detach(),
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Move the latents, see :meth:`captum_deduce.search.Procedure.step`."""
        gradient, iteration = evaluation.gradient, state["iteration"]
        if self.adam is None:
            state["latents"] = state["latents"] - self.learning_rate * gradient
        else:
            # The gradient at the original is 0, so that its step is none and does not count.
            update, _ = self.adam(gradient, state["mean"], state["square"], iteration.clamp_min(1))
            state["latents"] = state["latents"] - update
        state["iteration"] = iteration + 1
        steepest = gradient.abs().flatten(1).amax(1)
        return ((steepest == 0) & (iteration > 0)) | ~steepest.isfinite()
