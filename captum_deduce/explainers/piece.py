"""PIECE: images whose exceptional features have become what the target class would have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel, layer_named
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.density import ClassHurdles
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.explainers.latent_space import LatentSpace
from captum_deduce.search import AdamStep, Problem, confidence_of, is_success, losses

PIECE_SELECTIONS = ("closest", "first")
"""Which success :class:`PIECE` may return."""

# Entries of the running sums of scores that a semi-factual is cut by.
_BLOCK = 2**22


class PIECE(CounterfactualExplainer):
    r"""Images whose exceptional features have become what the target class would have.

    The features :math:`\mathbf x = f(I)` are what the classifier's last linear layer takes. For the
    target class c', a hurdle model of each of them (:class:`~captum_deduce.ClassHurdles`) says how
    probable its value is. Those whose probability is below :math:`\alpha` are exceptional: they are
    set to their expectation in that class, :math:`x'_i = E[x_i \mid x_i > 0, c']`, unless that
    lowers the score of c', whose weights are W: a feature is left alone where
    :math:`W_{c'i}\,(x'_i - x_i) < 0`. What has these features is looked for in the latent space of
    a generative model G, by Adam from the original's own code:

    .. math::
        \mathbf z' = \arg\min_{\mathbf z} \|f(G(\mathbf z)) - \mathbf x'\|_2^2

    and :math:`G(\mathbf z')` is the counterfactual.

    Source: Kenny and Keane, "On Generating Plausible Counterfactual and Semi-Factual Explanations
    for Deep Learning", AAAI 2021. Deviations and choices:

    * A counterfactual is one only if the classifier puts the image into c', which the original
      method does not check: of the images on the way that it does, the one with the nearest
      features is returned (``select="closest"``), or the first. Where there is none, the pair has
      ``success=False`` and the attempt with the highest confidence.
    * Hurdle models are chosen by likelihood, and features that can be negative have none; see
      :class:`~captum_deduce.ClassHurdles`.
    * ``target=None`` takes the runner-up; the paper takes the true class of
      mistakes, and else the class that a gradient ascent away from c reaches first.
    * The first image evaluated is the original; one that is of the target class already is returned
      as it is. The first step replaces it by :math:`G(\mathbf z_0)`, all further ones descend.
    * With a mask, what is evaluated and returned is :math:`G(\mathbf z)` where pixels may change
      and the original elsewhere. What the decoder draws is clipped to the bounds.

    The image is drawn by G: it differs from the original in nearly every pixel, and features that
    no image of G has are not reached. A search whose gradient is not finite, or 0 in all latent
    dimensions, ends there.

    Examples::

        >>> from captum_deduce.models import VAE
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> images = torch.rand(30, 1, 8, 8)
        >>> hurdles = ClassHurdles.fit_loader(model, model[2], [(images, torch.zeros(30))])
        >>> target = int(hurdles.counts.argmax())
        >>> explainer = PIECE(model, model[2], hurdles, VAE(image_size=8), max_iterations=20)
        >>> explainer.generate(images[:4], target).counterfactuals.shape
        torch.Size([4, 1, 8, 8])
    """

    _keeps_class = False
    """Whether the features stop before the prediction changes, for :meth:`semi_factual`."""

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        hurdles: ClassHurdles,
        vae: Any,
        *,
        head: nn.Module | str | None = None,
        encoder: Callable[..., Any] | None = None,
        initial_latent: Tensor | None = None,
        alpha: float = 0.05,
        confidence: float = 0.5,
        learning_rate: float = 0.01,
        max_iterations: int = 300,
        select: str = "closest",
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Bring the classifier, the hurdle models and the generative model together.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            layer (nn.Module or str): The layer whose output, flattened to N x D, is the features
                that the last linear layer takes; a module of the classifier or its dotted name.
            hurdles (ClassHurdles): Hurdle models of these features, on the inputs' device.
            vae (object or Callable): The generative model: an object with the methods ``encode``
                and ``decode``, or a decoder, which needs ``encoder`` or ``initial_latent``; as for
                :class:`~captum_deduce.REVISE`.
            head (nn.Module or str, optional): The last linear layer, whose weight is C x D; a
                module or its dotted name. Default: None (the last of that size in the classifier)
            encoder (Callable, optional): Inputs to latents. Default: None (``vae.encode``)
            initial_latent (Tensor, optional): Where the descent begins, instead of an encoder's
                answer: one latent for all images, or N. Default: None
            alpha (float, optional): A feature is exceptional when its probability is below it, from
                0 to 1. Probabilities are of one tail, at most 0.5 for an active feature.
                Default: 0.05
            confidence (float, optional): An image is a success when the target's softmax
                probability exceeds it; where it is below 0.5 the target must also be the argmax.
                Default: 0.5
            learning_rate (float, optional): Size of a step in latent space. Default: 0.01
            max_iterations (int, optional): Most steps of an image. Default: 300
            select (str, optional): ``"closest"`` goes on for all ``max_iterations`` and returns the
                success with the nearest features; ``"first"`` ends at the first success.
                Default: "closest"
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A decoder without a place to begin, or a number out of its range.
        """
        super().__init__(forward_func)
        self.layer = layer
        self.hurdles = hurdles
        self.vae = vae
        self.head = head
        self.encoder = encoder
        self.initial_latent = initial_latent
        self.alpha = alpha
        self.confidence = confidence
        self.learning_rate = learning_rate
        self.max_iterations = max_iterations
        self.select = select
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._check_settings()

    def semi_factual(
        self,
        inputs: Tensor,
        target: int | list[int] | Tensor | None = None,
        **arguments: Any,
    ) -> Counterfactuals:
        """Show how far an image can go towards another class and yet stay what it is.

        "Even if it looked like this, it would be the same class": exceptional features are set to
        their expectation in the target class one after the other, the least probable first, for as
        long as the classifier's last layer does not change its mind; the one with which it would is
        left as it was. Of the images on the way that are classified as the original, the one with
        the nearest features is returned.

        Args:
            inputs (Tensor): N x channels x height x width, as for :meth:`generate`.
            target (int, list, Tensor or None, optional): The class to go towards. Default: None
                (the classifier's second class)
            **arguments (Any): As :meth:`generate` takes them by keyword.

        Returns:
            Counterfactuals: ``target`` and ``confidence`` are those of the class that was *kept*,
            and ``success`` says that it was.

        Raises:
            TypeError: As :meth:`generate`.
            ValueError: As :meth:`generate`.
        """
        towards = copy.copy(self)
        towards._keeps_class = True
        return towards.generate(inputs, target, **arguments)

    def _check_settings(self) -> None:
        if not isinstance(self.hurdles, ClassHurdles):
            raise TypeError(f"hurdles must be ClassHurdles, got {type(self.hurdles).__name__}")
        if self.head is not None and not isinstance(self.head, nn.Module | str):
            raise TypeError(
                f"head must be an nn.Module, its name or None, got {type(self.head).__name__}"
            )
        self._space()
        checks.number("alpha", self.alpha, minimum=0, maximum=1)
        checks.number("confidence", self.confidence, minimum=0, maximum=1, exclusive=True)
        checks.number("learning_rate", self.learning_rate, minimum=0, exclusive=True)
        checks.number("max_iterations", self.max_iterations, minimum=0, integer=True)
        checks.choice("select", self.select, PIECE_SELECTIONS)

    def _space(self) -> LatentSpace:
        return LatentSpace.around(self.vae, self.encoder, self.initial_latent)

    def _frozen_model(self) -> FrozenModel:
        return FrozenModel(self.forward_func, self.layer, companions=self._space().models)

    def _check_model(self, scores: Tensor, features: Tensor) -> None:
        hurdles = self.hurdles
        if hurdles.num_features != features.shape[1]:
            raise ValueError(
                f"hurdles must be of the layer's {features.shape[1]} features, got those of "
                f"{hurdles.num_features}"
            )
        if hurdles.num_classes > scores.shape[1]:
            raise ValueError(
                f"hurdles have {hurdles.num_classes} classes, more than the model's "
                f"{scores.shape[1]}"
            )
        if hurdles.device != features.device:
            raise ValueError(
                f"hurdles must be on the inputs' device, {features.device}, got {hurdles.device}"
            )

    def _targetable(self, num_classes: int) -> Tensor:
        fitted = self.hurdles.fitted_classes
        return nn.functional.pad(fitted, (0, num_classes - len(fitted)))

    def _procedure(self, problem: Problem) -> search.Procedure:
        fitted = self.hurdles.fitted_classes.nonzero().flatten().tolist()
        empty = sorted(set(problem.classes) - set(fitted))
        if empty:
            raise ValueError(
                f"target names class(es) {empty} that the hurdle models have no samples of; fit "
                "them with images that the model puts there"
            )
        space = self._space()
        space.prepare(problem.inputs)
        few = problem.rows(list(range(min(2, len(problem.inputs)))))
        with torch.no_grad():
            scores, features = problem.forward(few["original"], few)
        shape = (scores.shape[1], features.shape[1])
        head = LinearHead.of(linear_layer(self.head, problem.model.modules, shape), shape)
        return FeatureDescent(problem, self, space, head)


class LinearHead(NamedTuple):
    """The last layer of a classifier.

    Attributes:
        weight (Tensor): C x D, float64, detached.
        bias (Tensor): C.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: nn.Module, shape: tuple[int, int]) -> LinearHead:
        """Read a layer's numbers.

        Args:
            layer (nn.Module): With a weight of C x D numbers, and a bias or none.
            shape (tuple[int, int]): C and D.

        Returns:
            LinearHead: Copies of them.

        Raises:
            ValueError: Other numbers.
        """
        weight = getattr(layer, "weight", None)
        if not isinstance(weight, Tensor) or weight.flatten(1).shape != shape:
            given = tuple(weight.shape) if isinstance(weight, Tensor) else "none"
            raise ValueError(
                f"head must have a weight of {shape[0]} classes x {shape[1]} features, as the "
                f"model's scores and the layer's output say, got {given}"
            )
        values = weight.detach().flatten(1).to(torch.float64)
        bias = getattr(layer, "bias", None)
        return cls(values, values.new_zeros(shape[0]) if bias is None else bias.detach().double())


def linear_layer(
    head: nn.Module | str | None, modules: list[nn.Module], shape: tuple[int, int]
) -> nn.Module:
    """Find the last linear layer of a classifier.

    Args:
        head (nn.Module, str or None): The layer itself, its dotted name, or None.
        modules (list[nn.Module]): What the classifier runs.
        shape (tuple[int, int]): Numbers of classes and features, C and D.

    Returns:
        nn.Module: The layer; of None the last ``nn.Linear`` of that size.

    Raises:
        ValueError: There is none.
    """
    if isinstance(head, str):
        return layer_named(head, modules)
    if head is not None:
        return head
    linear = [part for root in modules for part in root.modules() if isinstance(part, nn.Linear)]
    fitting = [part for part in linear if (part.out_features, part.in_features) == shape]
    if not fitting:
        sizes = [f"{part.in_features} to {part.out_features}" for part in linear] or ["none"]
        raise ValueError(
            f"the model has no linear layer from the layer's {shape[1]} features to {shape[0]} "
            f"scores (its linear layers: {', '.join(sizes)}); pass the layer whose output the last "
            "linear layer takes, or that one as head"
        )
    return fitting[-1]


def expected_features(
    hurdles: ClassHurdles,
    weight: Tensor,
    features: Tensor,
    target: Tensor,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    """Set exceptional features to what the target class would have.

    Args:
        hurdles (ClassHurdles): Hurdle models.
        weight (Tensor): Of the last linear layer, C x D, float64.
        features (Tensor): N x D.
        target (Tensor): N classes.
        alpha (float): Below which probability a feature is exceptional.

    Returns:
        tuple[Tensor, Tensor]: By how much each feature changes, N x D, float64 (0 where it is
        usual, or would lower the target's score), and the probabilities, N x D.
    """
    probability = hurdles.probability(features, target)
    change = hurdles.expectation(target) - features.to(torch.float64)
    kept = (probability >= alpha) | (weight[target] * change < 0)
    return change.masked_fill(kept, 0.0), probability


def before_the_flip(
    head: LinearHead, features: Tensor, change: Tensor, probability: Tensor, kept: Tensor
) -> Tensor:
    """Take back the changes from the one on with which the prediction would be another.

    Args:
        head (LinearHead): The last layer.
        features (Tensor): N x D, float64.
        change (Tensor): N x D, as of :func:`expected_features`.
        probability (Tensor): N x D; changes are made in its order, the least probable first.
        kept (Tensor): The class that stays, N.

    Returns:
        Tensor: N x D, the changes that are left.
    """
    rows = max(_BLOCK // head.weight.numel(), 1)
    parts = []
    for some in range(0, len(features), rows):
        part = slice(some, some + rows)
        order = probability[part].argsort(dim=1, stable=True)
        steps = change[part].gather(1, order)
        moved = (head.weight.T[order] * steps.unsqueeze(2)).cumsum_(1)
        scores = (features[part] @ head.weight.T + head.bias).unsqueeze(1) + moved
        flipped = scores.argmax(2) != kept[part].unsqueeze(1)
        # With a change of 0 nothing flips, whatever rounding says.
        before = (flipped & (steps != 0)).cumsum(1) == 0
        parts.append(torch.zeros_like(steps).scatter_(1, order, steps * before))
    return torch.cat(parts)


class FeatureDescent(search.Procedure):
    """Descend in latent space towards an image with the features that were set.

    Args:
        problem (Problem): What the call asks for.
        settings (PIECE): The explainer, for its numbers.
        space (LatentSpace): The generative model.
        head (LinearHead): The classifier's last layer.
    """

    def __init__(
        self, problem: Problem, settings: PIECE, space: LatentSpace, head: LinearHead
    ) -> None:
        self.problem = problem
        self.settings = settings
        self.space = space
        self.head = head
        self.max_iterations = settings.max_iterations
        self.adam = AdamStep(settings.learning_rate)
        self._begun: set[int] = set()

    def start(self, pairs: list[int]) -> search.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        self._begun.difference_update(pairs)  # a number may come again for another pair
        state = self.problem.rows(pairs)
        latents = self.space.start(state["original"], pairs)
        return state | {
            "latents": latents,
            "mean": torch.zeros_like(latents),
            "square": torch.zeros_like(latents),
            "goal": latents.new_zeros(len(pairs), self.head.weight.shape[1]),
            "kept": torch.zeros_like(state["target"]),
            "iteration": torch.zeros_like(state["target"]),
        }

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """Draw and classify, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        settings, original = self.settings, state["original"]
        semi = settings._keeps_class
        latents = state["latents"].detach().requires_grad_()
        untouched = state["iteration"] == 0
        fixed = search.as_column(untouched, original)
        if "allowed" in state:
            fixed = fixed | ~state["allowed"]
        drawn = self.space.decode(latents.clone())
        images = torch.where(fixed, original, torch.clamp(drawn, *self.problem.bounds(state)))
        scores, features = self.problem.forward(images, state)
        prediction = scores.detach().argmax(1)
        new = search.beginners(pairs, self._begun, state["iteration"])
        if new:
            self._set_goals(state, new, features.detach(), prediction)
        distance = losses.squared_norm(features - state["goal"])
        (gradient,) = torch.autograd.grad(distance.sum(), latents)
        asked = state["kept"] if semi else state["target"]
        confidence = confidence_of(scores, asked)
        threshold = 0.0 if semi else settings.confidence
        success = is_success(confidence, prediction, asked, threshold)
        distance = distance.detach()
        # An original of the target class is one already; a semi-factual begins as one.
        finished = success & untouched & ((distance == 0) if semi else untouched)
        first = settings.select == "first" and not semi
        self._begun.update(pairs)
        return search.Evaluation(
            images=images.detach(),
            confidence=confidence,
            success=success,
            finished=success if first else finished,
            prediction=prediction,
            gradient=gradient,
            distance=None if first else distance,
            target=asked,
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Move the latents, see :meth:`captum_deduce.search.Procedure.step`."""
        gradient, iteration = evaluation.gradient, state["iteration"]
        # The gradient at the original is 0, so that its step is none and does not count.
        update, _ = self.adam(gradient, state["mean"], state["square"], iteration.clamp_min(1))
        state["latents"] = state["latents"] - update
        state["iteration"] = iteration + 1
        steepest = gradient.abs().flatten(1).amax(1)
        return ((steepest == 0) & (iteration > 0)) | ~steepest.isfinite()

    def _set_goals(
        self, state: search.State, slots: list[int], features: Tensor, prediction: Tensor
    ) -> None:
        """Say what the features of pairs that begin are to become."""
        index = torch.tensor(slots).to(features.device)
        some, target = features[index].to(torch.float64), state["target"][index]
        change, probability = expected_features(
            self.settings.hurdles, self.head.weight, some, target, self.settings.alpha
        )
        state["kept"] = state["kept"].index_copy(0, index, prediction[index])
        if self.settings._keeps_class:
            change = before_the_flip(self.head, some, change, probability, prediction[index])
        goal = (some + change).to(state["goal"].dtype)
        state["goal"] = state["goal"].index_copy(0, index, goal)
