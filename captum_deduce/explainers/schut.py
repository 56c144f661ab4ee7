"""Schut et al.: one salient pixel after another, for the mean prediction of an ensemble."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel, class_scores
from captum_deduce.explainers.pixelwise import PixelwiseExplainer


class Schut(PixelwiseExplainer):
    r"""Counterfactuals that convince a whole ensemble.

    Each step moves the pixel with the largest gradient of
    :math:`-\log \frac{1}{K} \sum_k f_k(\mathbf x)_t`, until the ensemble's mean softmax probability
    of the target exceeds ``confidence``, 0.99 by default. A high mean probability means that the
    members agree (little epistemic uncertainty) and are sure (little aleatoric uncertainty).

    Source: Schut, Key, McGrath, Costabello, Sacaleanu, Corcoran, Gal, "Generating Interpretable
    Counterfactual Explanations By Implicit Minimisation of Epistemic and Aleatoric Uncertainties",
    2021. Deviations: steps that can't change the image are never taken (``skip_saturated``), and
    values within 1e-6 of the range of a bound or of the original snap to it.

    A pair that fails returns its best attempt with ``success=False``. A single model is accepted;
    its softmax then stands for the ensemble's, without a sense of epistemic uncertainty.

    Examples::

        >>> members = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(5)]
        >>> result = Schut(members, confidence=0.8).generate(torch.rand(4, 1, 8, 8), target=2)
        >>> mean = sum(member(result.counterfactuals).softmax(1) for member in members) / 5
        >>> bool((mean[result.success, 2] > 0.8).all())
        True
    """

    def __init__(
        self,
        models: Sequence[Callable[..., Any]] | Callable[..., Any],
        *,
        confidence: float = 0.99,
        step_size: float = 0.2,
        max_changes: int | None = 5,
        pixels_per_step: int | str = 1,
        momentum: float = 0.0,
        max_iterations: int = 700,
        skip_saturated: bool = True,
        pixel: str = "entry",
        patch_size: int = 8,
        lower_bound: float | Tensor = 0.0,
        upper_bound: float | Tensor = 1.0,
    ) -> None:
        r"""Take the ensemble and the settings.

        Args:
            models (sequence of Callable or nn.Module): The members: each maps N inputs to N x C
                logits or log-probabilities, with the same C. An ``nn.ModuleList`` will do.
            confidence (float, optional): The search ends when the mean softmax probability of the
                target exceeds it; where it is below 0.5 the target must also be the argmax.
                Default: 0.99
            step_size (float, optional): How far a pixel moves in a step, as a fraction of
                ``upper_bound - lower_bound``. Default: 0.2
            max_changes (int or None, optional): Most changes of one pixel; None: any number.
                Default: 5
            pixels_per_step (int or str, optional): Pixels that move together, or ``"adaptive"``, as
                in :class:`DeDUCE`. Default: 1
            momentum (float, optional): As in DeDUCE. Default: 0.0
            max_iterations (int, optional): Most steps of an image. Default: 700
            skip_saturated (bool, optional): Never choose a pixel that the move would not change.
                Default: True
            pixel (str, optional): ``"entry"``: channels move one by one; ``"site"``: a spatial
                position moves with all its channels; ``"patch"``: so does a square of positions. A
                call's ``feature_mask`` takes its place. Default: "entry"
            patch_size (int, optional): Height and width of a patch; those at the lower and right
                edges may be smaller. Default: 8
            lower_bound (float or Tensor, optional): Smallest input value; a tensor broadcasts to
                one input, or to all, as ``images - eps``. Default: 0.0
            upper_bound (float or Tensor, optional): Largest input value, likewise. Default: 1.0

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: No member, or a number out of its range.
        """
        members: list[Callable[..., Any]]
        if isinstance(models, nn.ModuleList) or not callable(models):
            members = list(models)
        else:
            members = [models]
        if not members:
            raise ValueError("models must hold at least one model, got none")
        for place, member in enumerate(members):
            checks.callable_model(f"models[{place}]", member)
        super().__init__(MeanPrediction(members))
        self.confidence = confidence
        self.step_size = step_size
        self.max_changes = max_changes
        self.pixels_per_step = pixels_per_step
        self.momentum = momentum
        self.max_iterations = max_iterations
        self.skip_saturated = skip_saturated
        self.pixel = pixel
        self.patch_size = patch_size
        self.lower_bound = lower_bound
        self.upper_bound = upper_bound
        self._check_settings()

    def _probe(
        self,
        model: FrozenModel,
        images: Tensor,
        arguments: tuple[Any, ...],
        bounds: tuple[Tensor, Tensor],
        internal_batch_size: int | None,
    ) -> int:
        counts = []
        for place, member in enumerate(self.forward_func.members):
            try:
                with FrozenModel(member) as frozen:
                    counts.append(
                        super()._probe(frozen, images, arguments, bounds, internal_batch_size)
                    )
            except (TypeError, ValueError) as error:
                raise type(error)(f"models[{place}]: {error}") from error
        if len(set(counts)) > 1:
            raise ValueError(f"models must agree on the number of classes, got {counts}")
        return counts[0]


class MeanPrediction:
    """An ensemble as one model: the log of its members' mean softmax probabilities.

    Args:
        members (list[Callable]): Each maps N inputs to N x C logits or log-probabilities.
    """

    def __init__(self, members: list[Callable[..., Any]]) -> None:
        self.members = members

    def __call__(self, *inputs: Any) -> Tensor:
        """Compute N x C log-probabilities.

        Args:
            *inputs (Any): What each member takes, the images first.

        Returns:
            Tensor: N x C.
        """
        images, *arguments = inputs
        # A clone for each, as one member's first layer may work in place.
        outputs = (member(images.clone(), *arguments) for member in self.members)
        logs = [class_scores(output, len(images)).log_softmax(1) for output in outputs]
        return torch.stack(logs).logsumexp(0) - math.log(len(logs))
