"""DeDUCE: few changed pixels, across the decision boundary, towards likely features."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks, search
from captum_deduce.classifiers import FrozenModel, find_layer
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.explainers.guidance import Guidance
from captum_deduce.explainers.pixelwise import ADAPTIVE, PixelwiseExplainer
from captum_deduce.search import Goal, PixelStep, Polish, Problem, losses, polish, refine

PAPER: dict[str, Any] = {"skip_saturated": False}
"""Settings of :meth:`DeDUCE.paper`."""

CLOSEST: dict[str, Any] = {
    "step_size": 0.6,
    "pixels_per_step": ADAPTIVE,
    "rounds": 4,
}
"""Settings of :meth:`DeDUCE.closest`."""

REALISTIC: dict[str, Any] = {
    "confidence": 0.9985,
    "density_quantile": 0.05,
    "step_size": 0.5,
    "pixels_per_step": ADAPTIVE,
    "rounds": 4,
}
"""Settings of :meth:`DeDUCE.realistic`."""

SPARSEST: dict[str, Any] = {
    "step_size": 0.6,
    "pixels_per_step": ADAPTIVE,
    "rounds": 8,
    "halving": True,
    "pixel": "site",
}
"""Settings of :meth:`DeDUCE.sparsest`."""

PRESETS = {"closest": CLOSEST, "sparsest": SPARSEST, "realistic": REALISTIC, "paper": PAPER}
"""By the names of the methods that make them."""


class DeDUCE(PixelwiseExplainer):
    r"""Deep Deterministic Uncertainty-based Counterfactual Explanations.

    Starting from the original, each step moves the pixels that matter most for the target's
    cross-entropy :math:`\ell_c` and the log-density :math:`\log p_t` of the features
    :math:`f_Z(\mathbf x)` under the target class, both relative to their size (equation 6):

    .. math::
        \mathbf g_k = \mu \frac{\nabla \ell_c(f(\mathbf x_k), t)}{\ell_c(f(\mathbf x_k), t)}
        - \frac{\nabla \log p_t(f_Z(\mathbf x_k))}{|\log p_t(f_Z(\mathbf x_k))|}
        + m\, \mathbf g_{k-1}

    until the softmax probability of the target exceeds ``confidence`` (algorithm 1). The features
    should come from a model with spectral normalisation
    (:func:`~captum_deduce.spectral_normalize`): without it any model can be explained, but the
    density says less about its inputs.

    Source: Höltgen, Schut, Brauner, Gal, "DeDUCE: Generating Counterfactual Explanations At Scale",
    2021. Deviations: steps that can't change the image are never taken (``skip_saturated``); the
    step goes against the sign of the gradient (line 7 misprints it); denominators are floored at
    1e-6, and values within 1e-6 of the input range of a bound or of the original snap to it;
    a pair with no admissible pixel or with a non-finite gradient stops as failed.

    A pair that fails returns its best attempt with ``success=False``. A ``UserWarning`` says when
    the density may be the reason: no step raised the target's probability above the original's,
    the density of a failed pair's target says little
    (:attr:`ClassGaussianMixture.doubtful_classes`), or pairs reached the confidence, but not the
    ``density_quantile``.

    Examples::

        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3))
        >>> images, labels = torch.rand(90, 1, 8, 8), torch.arange(90) % 3
        >>> features = model[:3](images).detach()
        >>> density = ClassGaussianMixture().fit(features, labels)
        >>> explainer = DeDUCE(model, model[2], density)
        >>> result = explainer.generate(images[:4], target=2)
        >>> result.counterfactuals.shape, result.success.shape
        (torch.Size([4, 1, 8, 8]), torch.Size([4]))
        >>> bool((model(result.counterfactuals).softmax(1)[result.success, 2] > 0.5).all())
        True
    """

    def __init__(
        self,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        density: ClassGaussianMixture,
        *,
        confidence: float = 0.5,
        step_size: float = 0.2,
        max_changes: int = 5,
        pixels_per_step: int | str = 1,
        momentum: float = 0.6,
        max_iterations: int = 700,
        classification_weight: float = 1.0,
        normalize_terms: bool = True,
        density_quantile: float | None = None,
        rounds: int = 1,
        halving: bool = False,
        refine: bool = False,
        polish: Polish | None = None,
        skip_saturated: bool = True,
        pixel: str = "entry",
        patch_size: int = 8,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Bring model, layer and density together.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C logits or
                log-probabilities.
            layer (nn.Module or str): The layer whose output, flattened to N x D, is the features;
                in a ResNet the average pooling. A module of ``forward_func``, or its dotted name.
            density (ClassGaussianMixture): Fitted to that layer's features of the training data.
                Classes of the model of which it has no samples can't be targets; a target left out
                is then the likeliest of the others.
            confidence (float, optional): :math:`\gamma`: the search ends when the target's softmax
                probability exceeds it; where it is below 0.5 the target must also be the argmax.
                Default: 0.5
            step_size (float, optional): :math:`\delta`, how far a pixel moves in a step, as a
                fraction of ``upper_bound - lower_bound``. Default: 0.2
            max_changes (int, optional): :math:`p`, most changes of one pixel. Default: 5
            pixels_per_step (int or str, optional): :math:`m` of algorithm 1, or ``"adaptive"``: in
                each step as many pixels as should halve the terms of equation 5, were these linear,
                and at most a tenth of those that may change: many far from the goal, one near it.
                Chosen are those with the largest product of slope and length of the move. Each step
                is held against what the gradient promised: where that was far from true, as on most
                classifiers of photographs, steps become shorter and move more pixels, and a pair
                returns from steps in vain. Where a pair comes no nearer to its goal, the term of
                equation 5 that is not there yet gets more weight
                (:class:`captum_deduce.search.AdaptiveDescent`). Default: 1
            momentum (float, optional): :math:`m` of equation 6. Default: 0.6
            max_iterations (int, optional): Most steps of an image. Default: 700
            classification_weight (float, optional): :math:`\mu` of equation 5, or :math:`\lambda`
                of equation 4. Default: 1.0
            normalize_terms (bool, optional): Equation 5, both terms relative to their size; False:
                equation 4, :math:`\lambda \ell_c - \log p_t`. Default: True
            density_quantile (float, optional): The search also goes on until :math:`\log p_t` is no
                lower than this quantile of the log-densities of the target class's own training
                images (:meth:`ClassGaussianMixture.quantile`). With 0.05 it lies above the lowest
                5% of them. Default: None (the paper's: the density guides the search, but does not
                end it)
            rounds (int, optional): How many counterfactuals to find for a pair, each from the one
                before, after one third of its changes, those that matter least for the objective,
                have been undone; the closest is returned (fewest changed entries plus L1, in units
                of the range). All rounds share ``max_iterations``. Default: 1
            halving (bool, optional): With ``"adaptive"`` steps: each round takes back the half of
                the changed pixels that matters least, for good, so that every counterfactual has
                about half as many changed pixels as the one before. Default: False
            refine (bool, optional): Finally undo changes that are not needed for ``confidence`` and
                ``density_quantile``, the smallest first, until no single one can be undone. Each
                trial is a forward pass, usually one or two for each changed pixel. Default: False
            polish (Polish, optional): Finally reduce the distance, the total variation and, if
                given, a prior's error of each counterfactual, while ``confidence`` and
                ``density_quantile`` hold (:class:`captum_deduce.Polish`). It removes single bright
                pixels and closes strokes. Its steps count as evaluations, and are no part of a
                trajectory. Default: None
            skip_saturated (bool, optional): Never choose a pixel that the move would not change, as
                it sits on a bound; False: algorithm 1 to the letter, where such steps count.
                Default: True
            pixel (str, optional): ``"entry"``: channels move one by one; ``"site"``: a spatial
                position moves with all its channels; ``"patch"``: so does a square of positions. A
                call's ``feature_mask`` takes its place. Default: "entry"
            patch_size (int, optional): Height and width of a patch; those at the lower and right
                edges may be smaller. Default: 8
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input (channels x 1 x 1 for inputs normalised per channel), or to all, as
                ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A layer that is not in the model, a density that is not fitted or has no
                quantiles where ``density_quantile`` asks for one, ``"adaptive"`` without
                ``normalize_terms``, ``halving`` without ``"adaptive"`` or with a single round, or a
                number out of its range.
        """
        super().__init__(forward_func)
        find_layer(forward_func, layer)
        if not isinstance(density, ClassGaussianMixture):
            raise TypeError(f"density must be a ClassGaussianMixture, got {type(density).__name__}")
        if not density.num_classes:
            raise ValueError(
                "density is not fitted; fit it with ClassGaussianMixture.fit_loader(model, layer, "
                "loader), or with fit(features, target)"
            )
        self.layer = layer
        self.density = density
        self.confidence = confidence
        self.step_size = step_size
        self.max_changes = max_changes
        self.pixels_per_step = pixels_per_step
        self.momentum = momentum
        self.max_iterations = max_iterations
        self.classification_weight = classification_weight
        self.normalize_terms = normalize_terms
        self.density_quantile = density_quantile
        self.rounds = rounds
        self.halving = halving
        self.refine = refine
        self.polish = polish
        self.skip_saturated = skip_saturated
        self.pixel = pixel
        self.patch_size = patch_size
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._check_settings()

    @classmethod
    def paper(
        cls,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        density: ClassGaussianMixture,
        **settings: Any,
    ) -> DeDUCE:
        """Algorithm 1 to the letter: the defaults, and steps that change nothing count as well.

        The setting: ``skip_saturated=False``.

        Args:
            forward_func (Callable or nn.Module): As for the constructor.
            layer (nn.Module or str): Likewise.
            density (ClassGaussianMixture): Likewise.
            **settings (Any): Keyword arguments of the constructor that win over the preset's.

        Returns:
            DeDUCE: The explainer.
        """
        return cls(forward_func, layer, density, **{**PAPER, **settings})

    @classmethod
    def closest(
        cls,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        density: ClassGaussianMixture,
        **settings: Any,
    ) -> DeDUCE:
        """Fewer and smaller changes in less time: what the model's decision depends on.

        Pixels move as far at once as the classifier's gradient can be trusted: many of them far
        from the decision boundary, few near it. Four rounds take back what was not needed. Such
        images are near, and as a rule convince the explained model alone. The settings:
        ``step_size=0.6``, ``pixels_per_step="adaptive"``, ``rounds=4``.

        Args:
            forward_func (Callable or nn.Module): As for the constructor.
            layer (nn.Module or str): Likewise.
            density (ClassGaussianMixture): Likewise.
            **settings (Any): Keyword arguments of the constructor that win over the preset's.

        Returns:
            DeDUCE: The explainer.
        """
        return cls(forward_func, layer, density, **{**CLOSEST, **settings})

    @classmethod
    def sparsest(
        cls,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        density: ClassGaussianMixture,
        **settings: Any,
    ) -> DeDUCE:
        """Changes in as few places as lead to the target: for large images.

        The first counterfactual is found as by :meth:`closest`; each round then halves the places
        that may change, until the target can't be reached any more. The changes that are left are
        large. The settings: ``step_size=0.6``, ``pixels_per_step="adaptive"``, ``rounds=8``,
        ``halving=True``, ``pixel="site"``.

        Args:
            forward_func (Callable or nn.Module): As for the constructor.
            layer (nn.Module or str): Likewise.
            density (ClassGaussianMixture): Likewise.
            **settings (Any): Keyword arguments of the constructor that win over the preset's.

        Returns:
            DeDUCE: The explainer.
        """
        return cls(forward_func, layer, density, **{**SPARSEST, **settings})

    @classmethod
    def realistic(
        cls,
        forward_func: Callable[..., Any],
        layer: nn.Module | str,
        density: ClassGaussianMixture,
        **settings: Any,
    ) -> DeDUCE:
        """Larger changes, with which other models see the target more often.

        The model has to be sure, and the log-density of the features has to lie above the lowest 5%
        of the class's training images. Further rounds then look for the closest such image.
        ``confidence`` is the dial: lower is closer, higher is more realistic.

        How realistic the images become depends on the model, which no search can make up for. The
        gradients of one trained with noise (:func:`captum_deduce.training.train_classifier` with
        ``noise``) follow what people see; on others the images stay partly adversarial. In
        ``benchmarks/README.md`` oracle agreement is 91% on MNIST and 25% on CIFAR-10 with such a
        model, and 9% on CIFAR-10 with an ordinary one: measure it on yours
        (:class:`captum_deduce.metrics.Oracle`). The settings:
        ``confidence=0.9985``, ``density_quantile=0.05``, ``step_size=0.5``,
        ``pixels_per_step="adaptive"``, ``rounds=4``.

        Args:
            forward_func (Callable or nn.Module): As for the constructor.
            layer (nn.Module or str): Likewise.
            density (ClassGaussianMixture): Likewise; with quantiles.
            **settings (Any): Keyword arguments of the constructor that win over the preset's.

        Returns:
            DeDUCE: The explainer.
        """
        return cls(forward_func, layer, density, **{**REALISTIC, **settings})

    def _check_settings(self) -> None:
        super()._check_settings()
        checks.number("classification_weight", self.classification_weight, minimum=0)
        checks.flag("normalize_terms", self.normalize_terms)
        checks.number("rounds", self.rounds, minimum=1, integer=True)
        checks.flag("refine", self.refine)
        if self.polish is not None and not isinstance(self.polish, Polish):
            raise TypeError(
                "polish must be a captum_deduce.Polish, such as Polish(), or None, got "
                f"{type(self.polish).__name__}"
            )
        if self.density_quantile is not None:
            checks.number("density_quantile", self.density_quantile, minimum=0, maximum=1)
            self.density.quantile(self.density_quantile)
        if self.pixels_per_step == ADAPTIVE and not self.normalize_terms:
            raise ValueError(
                'pixels_per_step="adaptive" needs normalize_terms=True: it counts in fractions of '
                "equation 5's terms"
            )
        checks.flag("halving", self.halving)
        if self.halving and (self.pixels_per_step != ADAPTIVE or self.rounds == 1):
            raise ValueError(
                'halving=True needs pixels_per_step="adaptive" and several rounds, got '
                f"pixels_per_step={self.pixels_per_step!r} and rounds={self.rounds}"
            )

    def _targetable(self, num_classes: int) -> Tensor:
        fitted = self.density.fitted_classes
        if self.density_quantile is not None:
            fitted &= ~self.density.quantile(self.density_quantile).isnan().cpu()
        return nn.functional.pad(fitted, (0, num_classes - len(fitted)))

    def _procedure(self, problem: Problem) -> search.Procedure:
        fitted = self.density.fitted_classes
        empty = sorted(set(problem.classes) - set(fitted.nonzero().flatten().tolist()))
        if empty:
            raise ValueError(
                f"target names class(es) {empty} that the density has no samples of (it has some "
                f"of {int(fitted.sum())} classes; num_classes adds none); fit it with images of "
                "them too, for example with density.partial_fit(features, labels), or choose other "
                "targets"
            )
        if self.polish is not None:
            _check_polish(self.polish, problem.inputs)
        return super()._procedure(problem)

    def _step(self, problem: Problem) -> PixelStep:
        step = super()._step(problem)
        if step.most_gain is None:
            return step
        # A step aims at half of the larger term, however large its weight makes it.
        return replace(step, most_gain=step.most_gain * max(1.0, self.classification_weight))

    def _goal(self, problem: Problem) -> Goal:
        if self.density_quantile is None:
            return Goal(self.confidence)
        least = self.density.quantile(self.density_quantile)
        missing = least[problem.target.to(least.device)].isnan()
        if missing.any():
            raise ValueError(
                f"density_quantile needs log-densities of every target class, got none of class "
                f"{int(problem.target[missing.to(problem.target.device)][0])}; add them with "
                "density.update_quantiles(features, labels)"
            )
        return Goal(self.confidence, least)

    def _finish(
        self,
        problem: Problem,
        found: search.SearchResult,
        internal_batch_size: int | None,
        show_progress: bool | None,
    ) -> search.SearchResult:
        goal = self._goal(problem)
        afterwards: dict[str, Any] = {
            "pixels": self._pixels(problem),
            "batch_size": internal_batch_size,
            "show_progress": show_progress,
        }
        if self.refine:
            found = refine(problem, goal, found, self._log_density, **afterwards)
        if self.polish is not None:
            found = polish(problem, goal, found, self.polish, self._log_density, **afterwards)
        self._warn_of_density(problem, found)
        return found

    def _warn_of_density(self, problem: Problem, found: search.SearchResult) -> None:
        """Say where the density may have kept pairs from their target."""
        failed = (~found.success & (found.iterations > 0)).tolist()
        if self.density_quantile is not None:
            confident = (found.confidence > self.confidence).tolist()
            _warn_of_quantile(self.density_quantile, failed, confident)
            _warn_of_confidence(self.confidence, found)
        unmoved = (found.images == problem.inputs).flatten(1).all(1).tolist()
        doubtful = set(self.density.doubtful_classes)
        stuck = sum(f and u for f, u in zip(failed, unmoved, strict=True))
        classes = sorted({c for f, c in zip(failed, problem.classes, strict=True) if f} & doubtful)
        if not (stuck or classes):
            return
        what, remedy = [], "a larger classification_weight gives the classifier more of a say"
        if stuck:
            what.append(f"in {stuck} no step raised the target's probability above the original's")
        if classes:
            what.append(f"the density of their class(es) {classes} says little")
            remedy = (
                "fit it with regularization='oas' or covariance_type='tied' (see its "
                "doubtful_classes)"
            )
        warnings.warn(
            f"{sum(failed)} of {len(failed)} pairs failed: {', and '.join(what)}. The density's "
            f"term of equation 5 may outweigh the classifier's; {remedy}",
            UserWarning,
            stacklevel=5,
        )

    def _frozen_model(self) -> FrozenModel:
        prior = None if self.polish is None else self.polish.prior
        companions = [] if prior is None else [prior]
        return FrozenModel(self.forward_func, self.layer, companions)

    def _check_model(self, scores: Tensor, features: Tensor) -> None:
        density, num_classes = self.density, scores.shape[1]
        if features.shape[1] != density.num_features:
            raise ValueError(
                f"density was fitted to {density.num_features} features, but the model has "
                f"{features.shape[1]}; fit it with ClassGaussianMixture.fit_loader on this model "
                "and layer"
            )
        if density.num_classes > num_classes:
            raise ValueError(
                f"density was fitted to {density.num_classes} classes, but the model has "
                f"{num_classes}; fit it with ClassGaussianMixture.fit_loader on this model and "
                f"layer, or with num_classes={num_classes} and labels below it"
            )
        if self.density.device != features.device:
            raise ValueError(
                f"density is on {self.density.device}, but the features are on {features.device}; "
                "move it with density.to(...)"
            )

    def _objective(
        self,
        scores: Tensor,
        features: Tensor,
        target: Tensor,
        classes: list[int],
        balance: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        log_density = self._log_density(features, classes)
        cross_entropy = -losses.target_log_probability(scores, target)
        combine = losses.relative_sum if self.normalize_terms else losses.weighted_sum
        weight: float | Tensor = self.classification_weight
        if balance is not None:
            weight = weight * balance
        loss = combine(cross_entropy, log_density, weight)
        return loss, log_density

    def _log_density(self, features: Tensor, classes: list[int]) -> Tensor:
        return self.density.log_prob(features, torch.tensor(classes))


def _warn_of_quantile(quantile: float, failed: list[bool], confident: list[bool]) -> None:
    """Say how many pairs were where they should be, but for the density."""
    count = sum(f and c for f, c in zip(failed, confident, strict=True))
    if count:
        warnings.warn(
            f"{count} of {len(failed)} pairs reached the confidence, but not density_quantile="
            f"{quantile:g}: their log-density stayed among the lowest {100 * quantile:g}% of their "
            "target class's training images. A lower density_quantile asks for less; "
            "max_iterations and rounds give more time",
            UserWarning,
            stacklevel=6,
        )


def _warn_of_confidence(confidence: float, found: search.SearchResult) -> None:
    """Say where pairs came to their target, but none was as sure of it as it should be."""
    surest = found.confidence.max().item()
    if 0.5 < surest <= confidence and not found.success.any():
        warnings.warn(
            f"none of {len(found.success)} pairs reached confidence={confidence:g}, though "
            f"{int((found.confidence > 0.5).sum())} came to their target (a probability above "
            f"0.5): the highest was {surest:.3g}. Compare it with how sure the model is of images "
            "that it gets right; a lower confidence asks for less, a larger max_iterations gives "
            "more time",
            UserWarning,
            stacklevel=6,
        )


def _check_polish(polish: Polish, inputs: Tensor) -> None:
    """Say what does not fit before any work."""
    if polish.variation and inputs.dim() < 4:
        raise ValueError(
            "polish: the total variation needs inputs of the shape N x channels x height x width, "
            f"got {tuple(inputs.shape)}; Polish(variation=0) does without it"
        )
    if polish.prior is not None:
        Guidance(polish.prior, None, None, name="polish.prior").prepare(inputs[:2], None, None)
