"""VLK: counterfactuals that an autoencoder finds likely, guided by prototypes of their class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.explainers.base import CounterfactualExplainer
from captum_deduce.explainers.guidance import Guidance
from captum_deduce.prototypes import K_TYPES, PrototypeIndex
from captum_deduce.search import (
    Problem,
    ShrinkageStep,
    Verdict,
    likeliest_other,
    squared_norm,
    untargeted_hinge,
)


class VLK(CounterfactualExplainer):
    r"""The prototype-guided counterfactuals of Van Looveren and Klaise.

    For the original :math:`\mathbf x_0` of predicted class o, the search minimises (equation 2 of
    the DeDUCE paper)

    .. math::
        &c \max\bigl(0,\, p_o(\mathbf x) - \max_{j \neq o} p_j(\mathbf x) + \kappa\bigr)
        + \beta \|\mathbf x - \mathbf x_0\|_1 + \|\mathbf x - \mathbf x_0\|_2^2 \\
        &+ \gamma \|\mathrm{AE}(\mathbf x) - \mathbf x\|_2^2
        + \theta \|\mathrm{ENC}(\mathbf x) - \mathbf q\|_2^2

    with p the softmax of the classifier's scores, an autoencoder AE, an encoder ENC and a prototype
    :math:`\mathbf q`: of the admissible classes (the target, or all but o) the one whose prototype
    is nearest to :math:`\mathrm{ENC}(\mathbf x_0)`, see
    :meth:`PrototypeIndex.select <captum_deduce.PrototypeIndex.select>`. A term whose model is not
    given is left out. Descent goes by :class:`~captum_deduce.search.ShrinkageStep`, of which the L1
    term is the shrinkage, in ``c_steps`` rounds of ``max_iterations`` steps. Each round starts at
    the original, and has a weight c that is halved towards 0 or towards the last failure after a
    round with a success, and after one without is raised: tenfold, or half-way to the smallest
    weight that had one.

    An image is a success when its class is admissible and o would not be predicted even with
    :math:`\kappa` added to its probability. Of all successes the one with the smallest
    :math:`\|\mathbf x - \mathbf x_0\|_2^2 + \beta \|\mathbf x - \mathbf x_0\|_1` is returned; there
    is no early stop and no threshold for the confidence. A pair without success holds its best
    attempt, by the target's probability, with ``success=False``.

    With ``target=None`` any class but o will do. ``Counterfactuals.target`` then holds the class
    that was reached, or after a failure the one that came nearest to it: the most likely class but
    o of the image that is returned.

    Source: Van Looveren, Klaise, "Interpretable Counterfactual Explanations Guided by Prototypes",
    2020, as their package alibi computes it. Where the text in the DeDUCE paper differs, this
    follows the package: neighbours are those of the original, found once, not those of the moving
    image; the prediction loss is a hinge that ends at a margin; and it is untargeted, so that a
    requested class enters through the prototype and through what counts as a success. Deviations
    from the package: there ``k_type="point"`` with an encoder ranks classes by their k-th nearest
    row but still takes the mean of all k for the prototype, here that row is the prototype; an
    image that has the requested class already is its own counterfactual; distances, step and
    shrinkage count in units of ``upper_bound - lower_bound``; a pair stops where its gradient is
    not finite, or where its mask lets nothing change. The package updates its two images in an
    order that it leaves open, which loses the momentum at random; here the momentum is always that
    of the formula.

    In float32 the descent magnifies rounding, which depends on the size of a batch: of 50 pairs of
    8x8 digits, searched one at a time instead of together, as many were found, but the images of 42
    differed by more than 0.001 in an entry, and their L1 by 1.3 of 6.8 in the mean; without targets
    8 reached another class. In float64 entries differed by at most 2e-8
    (``benchmarks/batch_sizes.py``).

    Examples::

        >>> from torch import nn
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        >>> encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
        >>> decoder = nn.Sequential(nn.Linear(8, 64), nn.Unflatten(1, (1, 8, 8)))
        >>> images = torch.rand(90, 1, 8, 8)
        >>> prototypes = PrototypeIndex.from_loader(model, encoder, [images])
        >>> autoencoder = nn.Sequential(encoder, decoder)
        >>> explainer = VLK(model, autoencoder, encoder, prototypes, gamma=1., max_iterations=50)
        >>> result = explainer.generate(images[:4])
        >>> result.counterfactuals.shape, bool((result.target != result.prediction).all())
        (torch.Size([4, 1, 8, 8]), True)
    """

    _any_class_without_target = True

    def __init__(
        self,
        forward_func: Callable[..., Any],
        autoencoder: Callable[..., Any] | None = None,
        encoder: Callable[..., Any] | None = None,
        prototypes: PrototypeIndex | None = None,
        *,
        kappa: float = 0.0,
        beta: float = 0.1,
        gamma: float = 100.0,
        theta: float = 100.0,
        c_init: float = 1.0,
        c_steps: int = 2,
        max_iterations: int = 1000,
        learning_rate_init: float = 1e-2,
        k: int | None = 5,
        k_type: str = "mean",
        clip: float = 1000.0,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Bring the models together; defaults are those published for MNIST.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities; the search sees their softmax.
            autoencoder (Callable or nn.Module, optional): N inputs to N reconstructions, as
                :class:`~captum_deduce.models.Autoencoder`. Default: None (no reconstruction term)
            encoder (Callable or nn.Module, optional): N inputs to N x ... features, as the
                autoencoder's ``encoder``. Default: None (the image is its own features)
            prototypes (PrototypeIndex, optional): Of the training images, made with this
                ``forward_func`` and this ``encoder``. Default: None (no prototype term)
            kappa (float, optional): :math:`\kappa`, how far the original's class must fall behind.
                Default: 0.0
            beta (float, optional): :math:`\beta`, the shrinkage. Default: 0.1
            gamma (float, optional): :math:`\gamma`, weight of the reconstruction. Default: 100.0
            theta (float, optional): :math:`\theta`, weight of the prototype. Default: 100.0
            c_init (float, optional): c in the first round. Default: 1.0
            c_steps (int, optional): Rounds. Default: 2
            max_iterations (int, optional): Steps in each round; over these the step size falls to
                0. Default: 1000
            learning_rate_init (float, optional): Step size in the beginning. Default: 1e-2
            k (int or None, optional): Neighbours that make a prototype. None: the prototype is the
                mean of all images of the class. Default: 5
            k_type (str, optional): ``"mean"``: the prototype is the mean of the k neighbours;
                ``"point"``: it is the k-th nearest (without an encoder, the package's variant with
                k-d trees). Default: "mean"
            clip (float, optional): Largest entry of a gradient, on either side. Default: 1000.0
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A number out of its range, or an encoder without prototypes.
        """
        super().__init__(forward_func)
        for name, part in (("autoencoder", autoencoder), ("encoder", encoder)):
            if part is not None:
                checks.callable_model(name, part)
        if prototypes is not None and not isinstance(prototypes, PrototypeIndex):
            raise TypeError(f"prototypes must be a PrototypeIndex, got {type(prototypes).__name__}")
        if encoder is not None and prototypes is None:
            raise ValueError(
                "encoder needs prototypes to compare with: make them with "
                "PrototypeIndex.from_loader(forward_func, encoder, loader)"
            )
        self.autoencoder = autoencoder
        self.encoder = encoder
        self.prototypes = prototypes
        self.kappa = kappa
        self.beta = beta
        self.gamma = gamma
        self.theta = theta
        self.c_init = c_init
        self.c_steps = c_steps
        self.max_iterations = max_iterations
        self.learning_rate_init = learning_rate_init
        self.k = k
        self.k_type = k_type
        self.clip = clip
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._check_settings()

    def _check_settings(self) -> None:
        for name in ("kappa", "beta", "gamma", "theta", "c_init"):
            checks.number(name, getattr(self, name), minimum=0)
        for name in ("learning_rate_init", "clip"):
            checks.number(name, getattr(self, name), minimum=0, exclusive=True)
        for name in ("c_steps", "max_iterations"):
            checks.number(name, getattr(self, name), minimum=1, integer=True)
        if self.k is not None:
            checks.number("k", self.k, minimum=1, integer=True)
        checks.choice("k_type", self.k_type, K_TYPES)

    def _frozen_model(self) -> FrozenModel:
        parts = (self.autoencoder, self.encoder)
        return FrozenModel(
            self.forward_func, companions=[part for part in parts if part is not None]
        )

    def _check_model(self, scores: Tensor, features: Tensor) -> None:
        if self.prototypes is not None and self.prototypes.num_classes != scores.shape[1]:
            raise ValueError(
                f"prototypes are of {self.prototypes.num_classes} classes, but the model has "
                f"{scores.shape[1]}; make them with PrototypeIndex.from_loader on this model"
            )

    def _procedure(self, problem: Problem) -> search.Procedure:
        return PrototypeDescent(problem, self)


class PrototypeDescent(search.ShrinkageDescent):
    """Descend in rounds from the originals, guided by an autoencoder and prototypes.

    Args:
        problem (Problem): What the call asks for.
        settings (VLK): The explainer, for its models and numbers.
    """

    def __init__(self, problem: Problem, settings: VLK) -> None:
        rule = ShrinkageStep(
            learning_rate=settings.learning_rate_init,
            threshold=settings.beta,
            clip=settings.clip,
            max_iterations=settings.max_iterations,
            lower=problem.lower,
            upper=problem.upper,
        )
        super().__init__(problem, rule, rounds=settings.c_steps, weight=settings.c_init)
        self.settings = settings
        self.guidance = Guidance(
            settings.autoencoder if settings.gamma else None,
            settings.encoder,
            settings.prototypes if settings.theta else None,
        )
        self.guidance.prepare(
            problem.inputs[:2], settings.k, None if self.untargeted else problem.classes
        )

    def prepare(self, state: search.State, scores: Tensor) -> None:
        """Choose the prototypes, see :meth:`captum_deduce.search.ShrinkageDescent.prepare`."""
        classes = torch.arange(scores.shape[1], device=scores.device)
        if self.untargeted:
            admissible = classes != state["original_class"].unsqueeze(1)
        else:
            admissible = classes == state["target"].unsqueeze(1)
        settings = self.settings
        prototype = self.guidance.select(
            state["original"], admissible, k=settings.k, k_type=settings.k_type
        )
        if prototype is not None:
            state["prototype"] = prototype

    def judge(self, scores: Tensor, state: search.State) -> Verdict:
        """See :meth:`captum_deduce.search.ShrinkageDescent.judge`."""
        probabilities, original_class = scores.softmax(1), state["original_class"]
        with_margin = probabilities.scatter_add(
            1,
            original_class.unsqueeze(1),
            torch.full_like(probabilities[:, :1], self.settings.kappa),
        )
        flipped = (with_margin.argmax(1) != original_class) & (state["iteration"] > 0)
        if self.untargeted:
            confidence, target = likeliest_other(probabilities, original_class)
            return Verdict(confidence, target, flipped, torch.zeros_like(flipped))
        target = state["target"]
        confidence = probabilities.gather(1, target.unsqueeze(1)).squeeze(1)
        # Where the original is of the target class, there is nothing to search for.
        own = target == original_class
        success = (probabilities.argmax(1) == target) & (flipped | own)
        return Verdict(confidence, target, success, success & own)

    def loss(self, ahead: Tensor, state: search.State) -> Tensor:
        """See :meth:`captum_deduce.search.ShrinkageDescent.loss`."""
        settings, span = self.settings, self.span(state)
        scores, _ = self.problem.forward(ahead, state)
        hinge = untargeted_hinge(scores.softmax(1), state["original_class"], settings.kappa)
        loss = state["weight"] * hinge + squared_norm((ahead - state["original"]) / span)
        features, reconstruction = self.guidance(ahead)
        if reconstruction is not None:
            loss = loss + settings.gamma * squared_norm((reconstruction - ahead) / span)
        if features is not None:
            loss = loss + settings.theta * squared_norm(features - state["prototype"])
        return loss
