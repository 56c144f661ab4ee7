r"""Whether classifiers that had no part in the search see the target class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.metrics.forward import BATCH_SIZE, read_outputs


class Oracle:
    r"""Oracle agreement: whether independent classifiers see the target in counterfactuals.

    A counterfactual changes the prediction of the classifier that it was made for. If it changes
    no other classifier's, it is an adversarial example. If it looks like the target class,
    classifiers that were trained independently (other weights, better another architecture) agree.
    The measure is that of Hvilshøj et al., *On Quantitative Evaluations of Counterfactuals* (2021).
    With several classifiers a pair's value is the mean over them.

    An instance is called with :class:`~captum_deduce.Counterfactuals` and gives one value a pair,
    as :func:`~captum_deduce.metrics.evaluate` wants it. The classifiers run in eval mode; each
    module's own mode is restored and no gradient is computed. A pair's value does not depend on
    the other pairs.

    Args:
        models (Callable, Sequence[Callable] or nn.ModuleList): One or more classifiers, each
            returning logits or log-probabilities (N x C) with the same classes as the explained
            one. They may have another dtype or device than the images.
        measure (str, optional): What a call returns: ``"agreement"`` or ``"probability"``.
            Default: "agreement"
        num_classes (int, optional): C, if the classifiers' own is to be held against it.
            Default: None (that of the first)
        batch_size (int, optional): Images per forward pass. Default: 500

    Raises:
        TypeError: A model that can't be called, or a number of the wrong kind.
        ValueError: No model, or another ``measure``.

    Examples::

        >>> classifiers = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10)) for _ in range(3)]
        >>> oracle = Oracle(classifiers)
        >>> images, target = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 2, 3, 4])
        >>> oracle.agreement(images, target).shape
        torch.Size([5])
    """

    def __init__(
        self,
        models: Callable[..., Any] | Sequence[Callable[..., Any]],
        measure: str = "agreement",
        *,
        num_classes: int | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.models = [*models] if isinstance(models, Sequence | nn.ModuleList) else [models]
        if not self.models:
            raise ValueError("models must hold at least one classifier, got none")
        for place, model in enumerate(self.models):
            checks.callable_model(f"models[{place}]", model)
        checks.choice("measure", measure, ("agreement", "probability"))
        if num_classes is not None:
            checks.number("num_classes", num_classes, minimum=2, integer=True)
        checks.number("batch_size", batch_size, minimum=1, integer=True)
        self.measure = measure
        self.num_classes = num_classes
        self.batch_size = batch_size

    def agreement(self, images: Tensor, target: object) -> Tensor:
        """Find the share of the classifiers whose most likely class is the target.

        Args:
            images (Tensor): N x channels x height x width.
            target (int, list or Tensor): N classes, or one for all.

        Returns:
            Tensor: N shares from 0 to 1, on the images' device; with one classifier 0 or 1.

        Raises:
            TypeError: Images or targets of the wrong kind, or a classifier that returns no tensor.
            ValueError: Classifiers with different numbers of classes, a target that they don't
                have, images that are not finite, or scores that are no logits.
        """
        scores, classes = self._scores(images, target)
        return (scores.argmax(2) == classes).to(scores.dtype).mean(0)

    def probability(self, images: Tensor, target: object) -> Tensor:
        """Find the target's softmax probability, the mean over the classifiers.

        Args:
            images (Tensor): As for :meth:`agreement`.
            target (int, list or Tensor): As for :meth:`agreement`.

        Returns:
            Tensor: N probabilities, on the images' device.

        Raises:
            TypeError: As :meth:`agreement`.
            ValueError: As :meth:`agreement`.
        """
        scores, classes = self._scores(images, target)
        place = classes.expand(len(scores), -1).unsqueeze(2)
        return scores.softmax(2).gather(2, place).squeeze(2).mean(0)

    def __call__(self, result: Counterfactuals) -> Tensor:
        """Judge counterfactuals by what ``measure`` names.

        Args:
            result (Counterfactuals): N pairs.

        Returns:
            Tensor: N values, as of :meth:`agreement` or :meth:`probability`.
        """
        method = self.agreement if self.measure == "agreement" else self.probability
        return method(result.counterfactuals, result.target)

    def _scores(self, images: Tensor, target: object) -> tuple[Tensor, Tensor]:
        """Scores of all classifiers (K x N x C) and the target classes (N), on one device."""
        checks.images(images)
        batches = torch.split(images, self.batch_size)
        rows: list[Tensor] = []
        for place, model in enumerate(self.models):
            try:
                scores = read_outputs(model, batches, lambda scores, _: scores)
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"models[{place}]: {error}") from error
            expected = self.num_classes or (rows[0].shape[1] if rows else scores.shape[1])
            if scores.shape[1] != expected:
                raise ValueError(
                    f"models must have {expected} classes each"
                    f"{'' if self.num_classes else ', as models[0] has'}, but models[{place}] has "
                    f"{scores.shape[1]}"
                )
            rows.append(scores.to(images.device))
        classes = checks.targets(target, len(images), rows[0].shape[1])
        dtype = max((scores.dtype for scores in rows), key=lambda dtype: dtype.itemsize)
        return torch.stack([scores.to(dtype) for scores in rows]), classes.to(images.device)
