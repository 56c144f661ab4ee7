"""Whether samples that are given a second time are those that were fitted."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_deduce.density.gaussians import Gaussians
from captum_deduce.density.kept import KeptSamples
from captum_deduce.density.moments import Moments
from captum_deduce.density.quantiles import LeaveOneOut
from captum_deduce.density.samples import Samples

# In units of a class's standard deviation; rounding that depends on batch-mates stays far below.
_TOLERANCE = 1e-3
# 1 but for rounding, which may show where hardly anything varies.
_LARGEST_LEVERAGE = 2.0
_MOST_NAMED = 5


class SecondPass(LeaveOneOut):
    """Leave-one-out log-densities of samples that come again, and are compared with the fit.

    They are right for samples that are part of the fit, and garbage for others: where images are
    augmented at random, or ``drop_last`` drops others than the first time.

    Args:
        fitted (Moments): Of the first pass; one component per class.
        gaussians (Gaussians): Estimated from them.
        advice (str): What the user can do, for messages.
        budget (int, optional): Bytes of samples that are kept at most. Default: 0

    Attributes:
        kept (KeptSamples): Copies of the samples.
    """

    def __init__(self, fitted: Moments, gaussians: Gaussians, advice: str, budget: int = 0) -> None:
        super().__init__(fitted, gaussians)
        self.fitted = fitted
        self.advice = advice
        self.kept = KeptSamples(budget)
        self._seen = Moments(
            "spherical", fitted.num_classes, fitted.num_features, fitted.mean.device
        )
        self._rounding = 0.0

    @property
    def started(self) -> bool:
        """Whether any samples have come."""
        return bool(self._seen.count.any())

    @property
    def complete(self) -> bool:
        """Whether as many samples of each class have come as were fitted."""
        return torch.equal(self._seen.count, self.fitted.count)

    def add(self, samples: Samples) -> None:
        """Count samples; with the last of them means and spread of all are compared.

        Args:
            samples (Samples): With labels; N x D.

        Raises:
            ValueError: More samples of a class than were fitted, or as many others.
        """
        self._seen.add(samples)
        self._rounding = max(self._rounding, 4 * torch.finfo(samples.features.dtype).eps)
        self._refuse(self._seen.count > self.fitted.count, "has more samples than")
        if self.kept.complete:
            # Copies, as the user may fill the same tensors with the next batch.
            features, target, weight = samples
            weight = None if weight is None else weight.clone()
            self.kept.add(Samples(features.detach().clone(), target.clone(), weight))
        if self.complete:
            self._refuse(self._differs(), "has another mean or spread than")

    def finish(self) -> None:
        """Make sure that nothing is missing.

        Raises:
            ValueError: Fewer samples of a class than were fitted.
        """
        self._refuse(self._seen.count < self.fitted.count, "has fewer samples than")

    def _check_leverage(self, leverage: Tensor, classes: Tensor) -> None:
        strangers = classes[leverage > _LARGEST_LEVERAGE]
        if len(strangers):
            raise ValueError(
                f"the samples given for the quantiles are not those that were fitted: of class "
                f"{int(strangers.min())} some lie farther from its mean than samples of the fit "
                f"can. {self.advice}"
            )

    def _differs(self) -> Tensor:
        """Whether a class's mean or spread does (C, bool); pooled ones know that of all."""
        seen, fitted, weight = self._seen.trace(), self.fitted.trace(), self.fitted.weight
        if self.fitted.pooled:
            seen, weight = seen.sum(), weight.sum()
        spread = (fitted / weight).nan_to_num(0.0).sqrt()
        allowed = _TOLERANCE * spread + self._rounding * self.fitted.mean.norm(dim=1)
        moved = (self._seen.mean - self.fitted.mean).norm(dim=1) > allowed
        other = (seen / weight).nan_to_num(0.0).sqrt()
        return torch.logical_or(moved, (other - spread).abs() > allowed)

    def _refuse(self, differs: Tensor, how: str) -> None:
        classes = differs.nonzero().flatten().tolist()
        if not classes:
            return
        more = ", ..." if len(classes) > _MOST_NAMED else ""
        first = classes[0]
        raise ValueError(
            f"the samples given for the quantiles are not those that were fitted: class(es) "
            f"{str(classes[:_MOST_NAMED])[:-1]}{more}] {how} in the fit (class {first}: "
            f"{int(self._seen.count[first])}, fitted {int(self.fitted.count[first])}). "
            f"{self.advice}"
        )
