"""REVISE: counterfactuals that a generative model can draw, by descent in its latent space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel, check_placement
from captum_deduce.explainers.base import CounterfactualExplainer
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
    find few: tens of thousands of steps, and no counterfactual of a quarter of the pairs.
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
                probability exceeds it; where it is below .5 the target must also be the argmax.
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
        if not callable(self._decoder):
            raise TypeError(
                "vae must have the methods encode and decode, or be a decoder: a function from "
                f"latents to images; got {type(self.vae).__name__}"
            )
        if self.initial_latent is not None:
            if not isinstance(self.initial_latent, Tensor):
                raise TypeError(
                    "initial_latent must be a torch.Tensor or None, got "
                    f"{type(self.initial_latent).__name__}"
                )
        elif not callable(self._encoder):
            raise ValueError(
                "vae has no method encode: pass encoder, a function from inputs to latents, or "
                "initial_latent, so that the search has a place to begin"
            )
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.number("distance_weight", self.distance_weight, minimum=0)
        if self.learning_rate is not None:
            checks.number("learning_rate", self.learning_rate, minimum=0, exclusive=True)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        checks.choice("optimizer", self.optimizer, tuple(LEARNING_RATES))
        checks.choice("select", self.select, SELECTIONS)

    @property
    def _decoder(self) -> Any:
        return getattr(self.vae, "decode", self.vae)

    @property
    def _encoder(self) -> Any:
        return getattr(self.vae, "encode", None) if self.encoder is None else self.encoder

    def _frozen_model(self) -> FrozenModel:
        parts = (self._decoder, self._encoder)
        return FrozenModel(self.forward_func, companions=[part for part in parts if callable(part)])

    def _procedure(self, problem: Problem) -> search.Procedure:
        beginning = self._encoder if self.initial_latent is None else self.initial_latent
        space = LatentSpace(self._decoder, beginning)
        space.prepare(problem.inputs)
        return LatentDescent(problem, self, space)


class LatentSpace:
    """A decoder, and where in its latent space a search begins.

    Args:
        decoder (Callable): N latents to N images.
        beginning (Callable or Tensor): An encoder, from N images to N latents or to a tuple that
            begins with them; or latents, 1 x ... or N x ...
    """

    def __init__(self, decoder: Callable[..., Any], beginning: Callable[..., Any] | Tensor) -> None:
        self.decode = decoder
        self.beginning = beginning

    def prepare(self, inputs: Tensor) -> None:
        """Say what does not fit before any work.

        Args:
            inputs (Tensor): All inputs, N x ...

        Raises:
            TypeError: The encoder or the decoder returns no tensor.
            ValueError: ``initial_latent`` has another number of rows, the decoder's images another
                shape, dtype or device than the inputs, or they can't be differentiated.
        """
        count = len(inputs)
        check_placement("decoder", self.decode, inputs)
        if not isinstance(self.beginning, Tensor):
            check_placement("encoder", self.beginning, inputs)
        elif self.beginning.dim() < 2 or len(self.beginning) not in (1, count):
            raise ValueError(
                "initial_latent must hold one latent for all images (1 x ...) or one per image "
                f"({count} x ...), got shape {tuple(self.beginning.shape)}"
            )
        pairs = list(range(min(2, count)))
        latents = self.start(inputs[pairs], pairs).requires_grad_()
        _check_images(self.decode(latents.clone()), latents, inputs[pairs])

    def start(self, images: Tensor, pairs: list[int]) -> Tensor:
        """Find the latents at which a search begins.

        Args:
            images (Tensor): A x ...
            pairs (list[int]): Their indices in the call.

        Returns:
            Tensor: A latents, detached, of the images' dtype.

        Raises:
            TypeError: The encoder returns no tensor, or one of integers.
            ValueError: It returns another number of rows.
        """
        if isinstance(self.beginning, Tensor):
            given = self.beginning.detach().to(images.device, images.dtype)
            return given[[0] * len(pairs) if len(given) == 1 else pairs].clone()
        with torch.no_grad():
            # A clone, as a first layer may work in place.
            encoded = self.beginning(images.clone())
        latents = encoded[0] if isinstance(encoded, tuple) else encoded
        if not isinstance(latents, Tensor):
            raise TypeError(
                "encoder must return latents, or a tuple that begins with them, got "
                f"{type(latents).__name__}"
            )
        if not latents.is_floating_point():
            raise TypeError(f"encoder must return floating-point latents, got {latents.dtype}")
        if latents.dim() == 0 or len(latents) != len(images):
            raise ValueError(
                f"encoder must return one latent per image ({len(images)}), got shape "
                f"{tuple(latents.shape)}"
            )
        return latents.detach().clone()


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
        kept = untouched.view(-1, *[1] * (original.dim() - 1))
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


def _check_images(drawn: object, latents: Tensor, inputs: Tensor) -> None:
    if not isinstance(drawn, Tensor):
        raise TypeError(f"the decoder must return a tensor, got {type(drawn).__name__}")
    if drawn.shape != inputs.shape or (drawn.dtype, drawn.device) != (inputs.dtype, inputs.device):
        raise ValueError(
            f"the decoder must return images like the inputs: for {len(latents)} latents of shape "
            f"{tuple(latents.shape[1:])} that is {tuple(inputs.shape)}, {inputs.dtype} on "
            f"{inputs.device}; got {tuple(drawn.shape)}, {drawn.dtype} on {drawn.device}"
        )
    if not drawn.requires_grad:
        raise ValueError(
            "the decoder's images do not depend on the latents by operations that can be "
            "differentiated (does it detach them, or run under torch.no_grad?)"
        )
