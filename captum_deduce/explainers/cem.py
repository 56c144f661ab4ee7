"""CEM: what has to be added to an image for another class, and what of it suffices for its own."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.explainers.guidance import Guidance
from captum_deduce.search import (
    Problem,
    ShrinkageStep,
    Verdict,
    confidence_of,
    likeliest_other,
    margin,
    squared_norm,
)

HINGES = ("logits", "probabilities")
"""Of what :class:`CEM` may ask a margin."""


class CEM(CounterfactualExplainer):
    r"""The contrastive explanations of Dhurandhar et al.: pertinent negatives and positives.

    A *pertinent negative* is what is absent: the least that has to be added to an image for another
    class. It is the counterfactual that :meth:`generate` returns. A *pertinent positive* is what
    suffices: the least of an image that is still of its class, see :meth:`pertinent_positive`. Both
    need to know what "nothing" looks like: the no-information value :math:`\mathbf b`
    (``baseline``), such as the black background of a digit.

    For the original :math:`\mathbf x_0` and the target t, with class scores Z, a pertinent negative
    minimises

    .. math::
        c \max\bigl(0,\, \max_{i \neq t} Z_i(\mathbf x) - Z_t(\mathbf x) + \kappa\bigr)
        + \beta \|\mathbf x - \mathbf x_0\|_1 + \|\mathbf x - \mathbf x_0\|_2^2
        + \gamma \|\mathbf x - \mathrm{AE}(\mathbf x)\|_2^2

    over images whose every entry is as in :math:`\mathbf x_0` or farther from :math:`\mathbf b`, on
    the same side; where the original has no information, both sides are free. An image is a success
    when the target's score is more than :math:`\kappa` ahead of all others.

    Descent goes by :class:`~captum_deduce.search.ShrinkageStep`, of which the L1 term is the
    shrinkage and the condition on the entries are the bounds, in ``c_steps`` rounds of
    ``max_iterations`` steps. Each round starts at the original with a weight c of the pair's own,
    which is searched by bisection: it falls half-way to the highest that failed (0 at first), or
    rises half-way to the lowest that succeeded, tenfold while none did. The success of all rounds
    with the smallest :math:`\|\mathbf x - \mathbf x_0\|_2^2 + \beta \|\mathbf x - \mathbf x_0\|_1`
    is returned.

    Source: Dhurandhar, Chen, Luss, Tu, Ting, Shanmugam, Das, "Explanations based on the Missing:
    Towards Contrastive Explanations with Pertinent Negatives", 2018. Deviations and choices:

    * The paper's pertinent negatives are of any class but the original's: ``untargeted=True``, with
      the hinge :math:`\max(0, Z_o - \max_{i \neq o} Z_i + \kappa)` for the predicted class o. A
      requested class is a choice of this package.
    * A pertinent positive is an image between :math:`\mathbf b` and the original, which begins as
      :math:`\mathbf b` and is shrunk to it. Where the paper gives a network the difference of two
      images, that is the same for :math:`\mathbf b = 0` and has no meaning for others.
    * An entry that a step would take out of its bounds stops at them.
    * Distances, step and shrinkage count in units of ``upper_bound - lower_bound``.
    * A round ends as soon as it can't leave the original any more: where a step from there leads
      back to it, so would all later ones, which are shorter. It saves most rounds with a small c,
      and changes no result.
    * A pair stops where its gradient is not finite, or where its mask lets nothing change.

    A pair that fails returns its best attempt, by the target's probability, with ``success=False``.
    A step costs one forward pass at the image and one with a gradient at the point ahead of it.

    Examples::

        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> images = torch.rand(4, 1, 8, 8)
        >>> explainer = CEM(model, baseline=0.0, c_steps=4, max_iterations=100)
        >>> result = explainer.generate(images, target=2)
        >>> bool((result.counterfactuals >= images).all())  # nothing was taken away
        True
        >>> kept = explainer.pertinent_positive(images)
        >>> bool((kept.counterfactuals <= images).all())  # and here nothing was added
        True
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        autoencoder: Callable[..., Any] | None = None,
        *,
        baseline: float | Tensor,
        untargeted: bool = False,
        hinge: str = "logits",
        kappa: float = 0.0,
        beta: float = 0.1,
        gamma: float = 100.0,
        c_init: float = 10.0,
        c_steps: int = 9,
        max_iterations: int = 1000,
        learning_rate_init: float = 1e-2,
        clip: float = 100.0,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Say what no information is, and how long to search.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            autoencoder (Callable or nn.Module, optional): N inputs to N reconstructions, as
                :class:`~captum_deduce.models.Autoencoder`. Default: None (no such term)
            baseline (float or Tensor): :math:`\mathbf b`, in the inputs' units: a number, or a
                tensor that broadcasts to one input, as one number per channel (channels x 1 x 1) or
                an image. For digits on black it is 0 (or what 0 is normalised to); for photographs
                the mean or median of the training data is a common choice. It has no default, as a
                wrong one gives a wrong explanation without any warning.
            untargeted (bool, optional): Without a target any class but the predicted one will do,
                and ``Counterfactuals.target`` holds the one that was reached; False: without a
                target it is the runner-up. Default: False
            hinge (str, optional): Of what the margin :math:`\kappa` is a difference: ``"logits"``,
                for which log-probabilities are as good, or ``"probabilities"``, for which it lies
                between 0 and 1. Default: "logits"
            kappa (float, optional): :math:`\kappa`. Default: 0.0
            beta (float, optional): :math:`\beta`, the shrinkage. Default: 0.1
            gamma (float, optional): :math:`\gamma`, weight of the reconstruction, where there is an
                autoencoder. Default: 100.0
            c_init (float, optional): c in the first round. Default: 10.0
            c_steps (int, optional): Rounds. Default: 9
            max_iterations (int, optional): Most steps in each round; over these the step size falls
                to 0. Default: 1000
            learning_rate_init (float, optional): Step size in the beginning. Default: 1e-2
            clip (float, optional): Largest entry of a gradient, on either side. Default: 100.0
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A number out of its range.
        """
        super().__init__(forward_func)
        if autoencoder is not None:
            checks.callable_model("autoencoder", autoencoder)
        self.autoencoder = autoencoder
        self.baseline = baseline
        self.untargeted = untargeted
        self.hinge = hinge
        self.kappa = kappa
        self.beta = beta
        self.gamma = gamma
        self.c_init = c_init
        self.c_steps = c_steps
        self.max_iterations = max_iterations
        self.learning_rate_init = learning_rate_init
        self.clip = clip
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._positive = False
        self._check_settings()

    def pertinent_positive(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        *,
        additional_forward_args: Any = None,
        mask: Tensor | None = None,
        internal_batch_size: int | None = None,
        show_progress: bool | None = None,
        return_trajectory: bool = False,
        **settings: Any,
    ) -> Counterfactuals:
        r"""Find the least of each image that is still of the class that the model sees in it.

        With the predicted class o, and images whose every entry lies between the no-information
        value :math:`\mathbf b` and the original's, it minimises

        .. math::
            c \max\bigl(0,\, \max_{i \neq o} Z_i(\mathbf x) - Z_o(\mathbf x) + \kappa\bigr)
            + \beta \|\mathbf x - \mathbf b\|_1 + \|\mathbf x - \mathbf b\|_2^2
            + \gamma \|\mathbf x - \mathrm{AE}(\mathbf x)\|_2^2

        by the same descent, from :math:`\mathbf b`. Where :math:`\mathbf b` itself is of class o,
        nothing is needed, and it is returned.

        Args:
            inputs (Tensor or tuple[Tensor]): N x channels x height x width.
            additional_forward_args (Any, optional): See :meth:`generate`. Default: None
            mask (Tensor, optional): See :meth:`generate`; what may not change stays as in the
                original. Default: None
            internal_batch_size (int, optional): See :meth:`generate`. Default: None
            show_progress (bool, optional): See :meth:`generate`. Default: None
            return_trajectory (bool, optional): See :meth:`generate`. Default: False
            **settings (Any): Constructor arguments to override for this call.

        Returns:
            Counterfactuals: ``counterfactuals`` holds what was kept of each image, ``target`` its
            predicted class. Distances are to the original: what was left out.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: An argument that does not fit; see :meth:`generate`.
        """
        explainer = copy.copy(self)
        explainer._positive = True
        return explainer.generate(
            inputs,
            additional_forward_args=additional_forward_args,
            mask=mask,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            return_trajectory=return_trajectory,
            **settings,
        )

    @property
    def _any_class_without_target(self) -> bool:  # type: ignore[override]
        return self.untargeted or self._positive

    def _check_settings(self) -> None:
        if isinstance(self.baseline, bool) or not isinstance(self.baseline, Tensor | float | int):
            raise TypeError(
                "baseline must be the value of an entry without information, a number or a "
                f"tensor, got {type(self.baseline).__name__}"
            )
        checks.flag("untargeted", self.untargeted)
        checks.choice("hinge", self.hinge, HINGES)
        for name in ("kappa", "beta", "gamma"):
            checks.number(name, getattr(self, name), minimum=0)
        for name in ("c_init", "learning_rate_init", "clip"):
            checks.number(name, getattr(self, name), minimum=0, exclusive=True)
        for name in ("c_steps", "max_iterations"):
            checks.number(name, getattr(self, name), minimum=1, integer=True)

    def _frozen_model(self) -> FrozenModel:
        beside = [] if self.autoencoder is None else [self.autoencoder]
        return FrozenModel(self.forward_func, companions=beside)

    def _procedure(self, problem: Problem) -> search.Procedure:
        baseline = checks.per_input("baseline", self.baseline, problem.inputs)
        return ContrastiveDescent(problem, self, baseline, positive=self._positive)


class ContrastiveDescent(search.ShrinkageDescent):
    """Descend in rounds among images with more, or with less, information than the original.

    Args:
        problem (Problem): What the call asks for.
        settings (CEM): The explainer, for its models and numbers.
        baseline (Tensor): The no-information value of each entry, of the shape of one input.
        positive (bool): Whether to look for the least of an image that is still of its class.
    """

    def __init__(
        self, problem: Problem, settings: CEM, baseline: Tensor, *, positive: bool
    ) -> None:
        rule = ShrinkageStep(
            learning_rate=settings.learning_rate_init,
            threshold=settings.beta,
            clip=settings.clip,
            max_iterations=settings.max_iterations,
            lower=problem.lower,
            upper=problem.upper,
        )
        super().__init__(
            problem,
            rule,
            rounds=settings.c_steps,
            weight=settings.c_init,
            skip_settled=True,
        )
        self.settings = settings
        self.baseline = baseline
        self.positive = positive
        autoencoder = settings.autoencoder if settings.gamma else None
        self.guidance = Guidance(autoencoder, None, None)
        self.guidance.prepare(problem.inputs[:2], None, None)

    def prepare(self, state: search.State, scores: Tensor) -> None:
        """Say where rounds begin, see :meth:`captum_deduce.search.ShrinkageDescent.prepare`."""
        if self.positive:
            original = state["original"]
            beginning = torch.clamp(self.baseline.expand_as(original), *self.problem.bounds(state))
            if "allowed" in state:
                beginning = torch.where(state["allowed"], beginning, original)
            state["beginning"] = beginning

    def rule(self, state: search.State) -> ShrinkageStep:
        """Keep each entry on its side, see :meth:`captum_deduce.search.ShrinkageDescent.rule`."""
        lower, upper = self.problem.bounds(state)
        # Inputs that noise took out of the bounds count as if they were on them.
        original = torch.clamp(state["original"], lower, upper)
        if self.positive:
            beginning = state["beginning"]
            lowest, highest = torch.minimum(original, beginning), torch.maximum(original, beginning)
        else:
            lowest = torch.where(original > self.baseline, original, lower)
            highest = torch.where(original < self.baseline, original, upper)
        return replace(self.step_rule, lower=lowest, upper=highest, span=upper - lower)

    def judge(self, scores: Tensor, state: search.State) -> Verdict:
        """See :meth:`captum_deduce.search.ShrinkageDescent.judge`."""
        wanted, sign = self._wanted(state)
        ahead = sign * margin(self._hinged(scores), wanted)
        success = ahead > self.settings.kappa
        confidence, target = confidence_of(scores, wanted), wanted
        if sign < 0:
            confidence, target = likeliest_other(scores.softmax(1), wanted)
        beginning = state.get("beginning", state["original"])
        unchanged = (state["images"] == beginning).flatten(1).all(1)
        return Verdict(confidence, target, success, success & unchanged)

    def loss(self, ahead: Tensor, state: search.State) -> Tensor:
        """See :meth:`captum_deduce.search.ShrinkageDescent.loss`."""
        settings, span = self.settings, self.span(state)
        scores, _ = self.problem.forward(ahead, state)
        wanted, sign = self._wanted(state)
        hinge = (settings.kappa - sign * margin(self._hinged(scores), wanted)).relu()
        beginning = state.get("beginning", state["original"])
        loss = state["weight"] * hinge + squared_norm((ahead - beginning) / span)
        _, reconstruction = self.guidance(ahead)
        if reconstruction is not None:
            loss = loss + settings.gamma * squared_norm((reconstruction - ahead) / span)
        return loss

    def _hinged(self, scores: Tensor) -> Tensor:
        return scores if self.settings.hinge == "logits" else scores.softmax(1)

    def _wanted(self, state: search.State) -> tuple[Tensor, int]:
        """The class whose margin counts, and with which sign."""
        if self.positive:
            return state["original_class"], 1
        if self.untargeted:
            return state["original_class"], -1
        return state["target"], 1
