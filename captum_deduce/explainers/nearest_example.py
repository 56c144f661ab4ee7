"""NearestExample: the nearest training image of the target class, a baseline for all methods."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel, check_placement
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.prototypes import Examples, encode
from captum_deduce.search import ANY_CLASS, Problem, confidence_of, is_success


class NearestExample(CounterfactualExplainer):
    r"""The nearest real image of the target class: a baseline for every other method.

    .. math::
        \mathbf x' = \operatorname*{argmin}_{\mathbf x_n :\, y_n = t}
        \|h(\mathbf x_n) - h(\mathbf x)\|_2

    among examples, such as all training images, with their classes y and features h: an encoder's,
    or the image itself. It is a real image, and usually far from the original. Examples are tried
    in this order until the classifier sees the target in one. ``max_iterations=1`` takes the very
    nearest, whatever the classifier says, and ``success`` says whether it agrees.

    Retrieving the nearest case is older than counterfactual explanations and needs no source.
    Choices made here:

    * The first image evaluated is the original; one that is of the target class already is returned
      as it is.
    * With a mask, what is evaluated and returned is the example where pixels may change and the
      original elsewhere, clipped to the bounds; distances are those of whole images.

    A pair for which no example is a success returns the one with the highest confidence, or the
    original, with ``success=False``. There are no gradients: a step is one forward pass, counted in
    ``forward_evaluations``. The classifier must have gradients all the same, so that every
    explainer accepts the same models.

    Examples::

        >>> from torch import nn
        >>> from captum_deduce import Examples
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> images = torch.rand(90, 1, 8, 8)
        >>> with torch.no_grad():
        ...     examples = Examples(images, model(images).argmax(1))
        >>> explainer = NearestExample(model, examples, confidence=0.3)
        >>> result = explainer.generate(images[:4])
        >>> result.success.tolist(), result.evaluations.tolist()
        ([True, True, True, True], [0, 0, 0, 0])
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        examples: Examples,
        encoder: Callable[..., Any] | None = None,
        *,
        confidence: float = 0.5,
        max_iterations: int = 10,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        """Bring the classifier and the examples together.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            examples (Examples): What to choose from, with labels or with the classes that the
                classifier predicts.
            encoder (Callable or nn.Module, optional): What made the examples' features.
                Default: None (they are the images)
            confidence (float, optional): An image is a success when the target's softmax
                probability exceeds it; where it is below 0.5 the target must also be the argmax.
                Default: 0.5
            max_iterations (int, optional): How many examples are tried, the nearest first.
                Default: 10
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A number out of its range, features without the encoder that made them, or
                an encoder without features.
        """
        super().__init__(forward_func)
        if not isinstance(examples, Examples):
            raise TypeError(f"examples must be Examples, got {type(examples).__name__}")
        if encoder is not None:
            checks.callable_model("encoder", encoder)
        if (encoder is None) != (examples.features is None):
            lacking = "has" if examples.features is None else "needs"
            raise ValueError(
                f"encoder must be what made the examples' features: {examples!r} {lacking} "
                f"{'none' if examples.features is None else 'one'}"
            )
        self.examples = examples
        self.encoder = encoder
        self.confidence = confidence
        self.max_iterations = max_iterations
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._same_class = False
        self._check_settings()

    def semi_factual(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        *,
        additional_forward_args: Any = None,
        mask: Tensor | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool | None = None,
        **settings: Any,
    ) -> Counterfactuals:
        """Find an image of the same class that is close to another: "even if it were this".

        Of the class that the model predicts, it is the example nearest to the original's nearest
        unlike neighbour, which is the nearest example of any other class. Examples are tried in the
        order of that distance, until the classifier sees the original's class in one.

        Source: Cummins and Bridge, "KLEOR: A Knowledge Lite Approach to Explanation Oriented
        Retrieval", 2006, its first variant.

        Args:
            inputs (Tensor or tuple[Tensor]): N x channels x height x width.
            additional_forward_args (Any, optional): See :meth:`generate`. Default: None
            mask (Tensor, optional): See :meth:`generate`. Default: None
            internal_batch_size (int, optional): See :meth:`generate`. Default: None
            show_progress (bool, optional): See :meth:`generate`. Default: None
            **settings (Any): Constructor arguments to override for this call.

        Returns:
            Counterfactuals: ``target`` is the class that the model predicts for each original,
            which its semi-factual shares. A pair that fails holds its original.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: An argument that does not fit; see :meth:`generate`.
        """
        explainer = copy.copy(self)
        explainer._same_class = True
        return explainer.generate(
            inputs,
            additional_forward_args=additional_forward_args,
            mask=mask,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            **settings,
        )

    @property
    def _any_class_without_target(self) -> bool:  # type: ignore[override]
        return self._same_class

    def _check_settings(self) -> None:
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.number("max_iterations", self.max_iterations, minimum=1, integer=True)

    def _check_model(self, scores: Tensor, features: Tensor) -> None:
        largest = int(self.examples.target.max())
        if largest >= scores.shape[1]:
            raise ValueError(
                f"examples are of classes up to {largest}, but the model has {scores.shape[1]}"
            )

    def _targetable(self, num_classes: int) -> Tensor | None:
        return self.examples.target.bincount(minlength=num_classes) > 0

    def _frozen_model(self) -> FrozenModel:
        beside = [] if self.encoder is None else [self.encoder]
        return FrozenModel(self.forward_func, companions=beside)

    def _procedure(self, problem: Problem) -> search.Procedure:
        examples, inputs = self.examples, problem.inputs
        if examples.images.shape[1:] != inputs.shape[1:]:
            raise ValueError(
                f"examples must be images like the inputs, {tuple(inputs.shape[1:])}, got "
                f"{tuple(examples.images.shape[1:])}"
            )
        if self.encoder is not None:
            check_placement("encoder", self.encoder, inputs)
        held = set(examples.target.tolist())
        missing = sorted(set(problem.classes) - held - {ANY_CLASS})
        if missing:
            raise ValueError(f"target must be a class of the examples, got {checks.some(missing)}")
        if self._same_class and len(held) < 2:
            raise ValueError(f"examples must be of two classes at least, got only {sorted(held)}")
        return Retrieval(problem, self, same_class=self._same_class)


class Retrieval(search.Procedure):
    """Try the nearest examples, one after the other.

    Args:
        problem (Problem): What the call asks for.
        settings (NearestExample): The explainer, for its examples.
        same_class (bool): Whether semi-factuals are wanted.
    """

    def __init__(self, problem: Problem, settings: NearestExample, *, same_class: bool) -> None:
        self.problem = problem
        self.settings = settings
        self.examples = settings.examples
        self.same_class = same_class
        self.max_iterations = settings.max_iterations

    def start(self, pairs: list[int]) -> search.State:
        """Rank the examples, see :meth:`captum_deduce.search.Procedure.start`."""
        state, examples, count = self.problem.rows(pairs), self.examples, self.max_iterations
        none = torch.zeros_like(state["target"])
        with torch.no_grad():
            features = encode(self.settings.encoder, state["original"])
            if self.same_class:
                scores, _ = self.problem.forward(state["original"], state)
                state["target"] = scores.argmax(1)
                unlike = examples.nearest(features, state["target"], other_classes=True)
                features = self._features(unlike[:, 0])
            ranked = examples.nearest(features, state["target"], count)
        return state | {
            "ranked": ranked.to(none.device),
            "place": none - 1,
            "evaluations": none,
            "forward_evaluations": none + int(self.same_class),
        }

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """Try the next examples, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        images, target, place = self._images(state), state["target"], state["place"]
        with torch.no_grad():
            scores, _ = self.problem.forward(images, state)
        state["forward_evaluations"] = state["forward_evaluations"] + 1
        confidence, prediction = confidence_of(scores, target), scores.argmax(1)
        success = is_success(confidence, prediction, target, self.settings.confidence)
        if self.same_class:
            success = success & (place >= 0)
        return search.Evaluation(
            images=images,
            confidence=confidence,
            success=success,
            finished=success,
            prediction=prediction,
            gradient=images.new_zeros(len(images), 0),
            target=target if self.same_class else None,
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Go to the next example, see :meth:`captum_deduce.search.Procedure.step`."""
        state["place"] = state["place"] + 1
        ranked = state["ranked"]
        last = ranked.shape[1] - 1
        following = ranked.gather(1, state["place"].clamp_max(last).unsqueeze(1)).squeeze(1)
        stuck = (state["place"] > last) | (following < 0)
        return stuck | ~state["allowed"].flatten(1).any(1) if "allowed" in state else stuck

    def _images(self, state: search.State) -> Tensor:
        """The examples whose turn it is, or the originals, within the mask and the bounds."""
        original, place = state["original"], state["place"]
        chosen = state["ranked"].gather(1, place.clamp_min(0).unsqueeze(1)).squeeze(1)
        held = self.examples.images
        found = held[chosen.clamp_min(0).to(held.device)].to(original.device, original.dtype)
        found = torch.clamp(found, *self.problem.bounds(state))
        kept = search.as_column(place < 0, original)
        if "allowed" in state:
            kept = kept | ~state["allowed"]
        return torch.where(kept, original, found)

    def _features(self, rows: Tensor) -> Tensor:
        examples = self.examples
        held = examples.images if examples.features is None else examples.features
        return held[rows.to(held.device)].flatten(1)
