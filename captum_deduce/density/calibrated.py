"""Densities that know how likely their own samples are: quantiles of log-densities."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.density import doubts
from captum_deduce.density.kept import KEPT
from captum_deduce.density.mixture import ClassMixture, plain_tensors
from captum_deduce.density.quantiles import ClassQuantiles, LeaveOneOut
from captum_deduce.density.regularization import SHRINKABLE, SHRUNK
from captum_deduce.density.samples import Samples, check_samples
from captum_deduce.density.second_pass import SecondPass

if TYPE_CHECKING:
    from typing_extensions import Self

_OTHERS = (
    "leave_one_out=True takes each sample out of the fit: pass all samples that were fitted, each "
    "once, or leave_one_out=False for others"
)


class CalibratedMixture(ClassMixture):
    """Gaussians of classes, and the log-densities of the samples that they were fitted to."""

    _second_pass: SecondPass | None = None

    @property
    def doubtful_classes(self) -> list[int]:
        """Classes whose density says little about other samples, in ascending order.

        Their covariance is positive definite by a jitter only, or the 5% quantile of their
        log-densities, if there are any, lies more than 5 nats per feature below what the Gaussian
        makes one expect. ``regularization="oas"`` or ``covariance_type="tied"`` helps.
        """
        if self._component_class is not None:
            return []
        repaired = doubts.repaired(self._derived()).to(self.device)
        doubtful = (repaired | self._collapsed()) & (self.moments.weight > 0)
        return doubtful.nonzero().flatten().tolist()

    def quantile(self, q: float) -> Tensor:
        """Find each class's quantile of its own samples' log-densities.

        Those of training samples are *leave-one-out*: each under the Gaussian fitted without it.
        In-sample ones are far too high where D is not small beside n (with 512 features and 5,000
        samples 58% of new samples of the class fall below the in-sample 5% quantile).

        Args:
            q (float): From 0 to 1.

        Returns:
            Tensor: C, float64, in nats, interpolated as by ``numpy.quantile``; NaN for classes of
            which no sample has such a log-density (fewer than three samples, or two if ``"tied"``).

        Raises:
            TypeError: ``q`` is no number.
            ValueError: ``q`` outside 0 ... 1.
            RuntimeError: There are none since the last change of the fit.
        """
        checks.number("q", q, minimum=0, maximum=1)
        if len(self.log_densities) == 0:
            raise RuntimeError(
                "the density has no log-densities to take quantiles of (partial_fit, merge, "
                "from_sklearn and soft labels leave none): call update_quantiles(features, labels) "
                "with the training samples, or with leave_one_out=False with others"
            )
        self._second_pass = None
        return self.log_densities.quantile(float(q), self.num_classes)

    def update_quantiles(
        self,
        features: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        *,
        leave_one_out: bool = True,
        reset: bool = False,
    ) -> Self:
        """Add samples' log-densities for :meth:`quantile`, after the last batch of the fit.

        Training samples may come in several calls. If they turn out not to be those that were
        fitted, this changes nothing in the first of these calls, and discards all log-densities in
        a later one.

        Once all of them have come, and show that a class's density says little, covariances are
        shrunk as :meth:`ClassGaussianMixture.fit` does it with ``regularization="auto"``, and
        log-densities found anew: 192 MiB of samples are kept for that. Where they take more, all
        have to come once more, as the warning says.

        Args:
            features (Tensor): N x D, as in :meth:`ClassGaussianMixture.fit`.
            target (Tensor): Labels, N integers.
            sample_weight (Tensor, optional): The weights with which training samples were fitted;
                they don't weigh in the quantiles. Default: None (1 each)
            leave_one_out (bool, optional): True for training samples, each of which is taken out
                of the fit; False for held-out ones. Default: True
            reset (bool, optional): Discard the log-densities that there are. Default: False

        Returns:
            ClassGaussianMixture: This one.

        Raises:
            RuntimeError: Nothing is fitted.
            TypeError: As :meth:`ClassGaussianMixture.fit`.
            ValueError: As :meth:`ClassGaussianMixture.fit`, responsibilities, a class without
                samples, or ``leave_one_out`` where the samples can't be those that were fitted:
                more of a class, another mean or spread, or one whose share in the fit would
                exceed 1.
        """
        checks.flag("leave_one_out", leave_one_out)
        checks.flag("reset", reset)
        self._derived()
        samples = check_samples(
            features, target, sample_weight, self.num_features, self.num_classes
        )
        self._check_quantile_samples(samples, leave_one_out)
        if not leave_one_out:
            self._add_log_densities(samples, None, reset)
            return self
        second = self._second_pass
        if reset or second is None or second.gaussians is not self._gaussians:
            budget = KEPT if self._may_shrink() else 0
            second = SecondPass(self._estimated_from(), self._derived(), _OTHERS, budget)
        first = not second.started
        self._second_pass = None
        try:
            second.add(samples)
            self._add_log_densities(samples, second, reset)
        except ValueError:
            if not first:
                self.log_densities = ClassQuantiles(self.device)
            raise
        self._second_pass = None if second.complete else second
        if second.complete:
            kept = second.kept
            self._settle(kept.blocks if kept.complete else None, self._leave_one_out)
        return self

    def _forget(self) -> None:
        self.regularization = self._asked
        self._gaussians = self._second_pass = self._chosen = None
        self._source = []
        self.log_densities = ClassQuantiles(self.device)

    def _lowest(self) -> Tensor:
        return self.log_densities.quantile(doubts.LOWEST, self.moments.num_classes)

    def _collapsed(self) -> Tensor:
        """Which classes the quantiles show to be of little use (C, bool)."""
        if self._derived().regularization == "oas" or len(self.log_densities) == 0:
            return torch.zeros_like(self.moments.weight, dtype=torch.bool)
        return doubts.collapsed(self._derived(), self._lowest(), self.num_features)

    def _warn_of_collapse(self, stacklevel: int) -> None:
        """Name classes that there was no other warning of."""
        unnamed = self._collapsed() & ~doubts.repaired(self._derived())
        classes = unnamed.nonzero().flatten().tolist()
        if classes:
            source = self._estimated_from()
            text = doubts.describe(classes, source, self._derived(), self._lowest())
            remedy = doubts.remedy(source.covariance_type)
            warnings.warn(text + remedy, UserWarning, stacklevel=stacklevel)

    def _may_shrink(self) -> bool:
        """Whether covariances are shrunk if log-densities turn out to be beyond belief."""
        shrinkable = self._derived().covariance_type in SHRINKABLE
        unshrunk = self._derived().regularization != "oas"
        return self.regularization == "auto" and shrinkable and unshrunk

    def _calibrate(
        self,
        parts: Callable[[], Iterable[Samples]],
        judge: Callable[[], LeaveOneOut | None],
        stacklevel: int = 3,
    ) -> None:
        """Add log-densities of samples; shrink where they are beyond belief.

        Args:
            parts (Callable): Returns all samples, each time it is called.
            judge (Callable): Returns what evaluates them under the Gaussians of the moment: with a
                second pass they are compared with the fit. None: they are no part of it.
            stacklevel (int, optional): Of a warning. Default: 3 (the caller's caller)
        """
        self._add_parts(parts, judge)
        self._settle(parts, judge, stacklevel + 1)

    def _settle(
        self,
        parts: Callable[[], Iterable[Samples]] | None,
        judge: Callable[[], LeaveOneOut | None],
        stacklevel: int = 3,
    ) -> None:
        """Shrink where log-densities are beyond belief, and find them anew, or warn.

        Args:
            parts (Callable or None): As for :meth:`_calibrate`; None if samples were not kept.
            judge (Callable): Likewise.
            stacklevel (int, optional): Of the warning. Default: 3 (the caller's caller)
        """
        if not self._may_shrink():
            self._warn_of_collapse(stacklevel + 1)
            return
        collapsed = self._collapsed().nonzero().flatten().tolist()
        if not collapsed:
            return
        source = self._estimated_from()
        text = doubts.describe(collapsed, source, self._derived(), self._lowest()) + SHRUNK
        if parts is None:
            text += ". Log-densities are discarded: call update_quantiles again, with all samples"
        warnings.warn(text, UserWarning, stacklevel=stacklevel)
        self._gaussians, self.log_densities = None, ClassQuantiles(self.device)
        self.regularization = "oas"
        if parts is not None:
            self._add_parts(parts, judge)

    def _leave_one_out(self) -> LeaveOneOut:
        gaussians = self._derived()
        return LeaveOneOut(self._estimated_from(), gaussians)

    def _add_parts(
        self,
        parts: Callable[[], Iterable[Samples]],
        judge: Callable[[], LeaveOneOut | None],
    ) -> None:
        judging = judge()
        for samples in parts():
            self._check_quantile_samples(samples, judging is not None)
            if isinstance(judging, SecondPass):
                judging.add(samples)
            self._add_log_densities(samples, judging)
        if isinstance(judging, SecondPass):
            judging.finish()

    def _refuse_population(self, what: str) -> None:
        if self._component_class is not None:
            raise ValueError(
                f"{what} needs the moments of samples, but this density was made by from_sklearn "
                "and has none"
            )

    def _check_quantile_samples(self, samples: Samples, leave_one_out: bool) -> None:
        if samples.soft:
            raise ValueError(
                "target must hold labels for quantiles, one class per sample, got responsibilities "
                f"of shape {tuple(samples.target.shape)}"
            )
        present = samples.target.to("cpu", torch.int64).bincount().nonzero().flatten()
        self._refuse_empty(present.tolist())
        if not leave_one_out:
            return
        self._refuse_population("leave_one_out=True")
        unit_weights = torch.equal(self.moments.weight, self.moments.count.double())
        if samples.sample_weight is None and not unit_weights:
            raise ValueError(
                "sample_weight is missing: the density was fitted with weights or soft labels; "
                "pass the same weights, or held-out samples with leave_one_out=False"
            )

    @plain_tensors()
    def _add_log_densities(
        self, samples: Samples, leave_one_out: LeaveOneOut | None, reset: bool = False
    ) -> None:
        found = []
        for block in samples.blocks(self.device):
            features, classes, weight = block
            if weight is not None:
                # Weights so small that their square is no number count as none.
                present = weight.square() > 0
                features, classes, weight = features[present], classes[present], weight[present]
            if leave_one_out is None:
                found.append((self.log_prob(features, classes), classes))
            else:
                found.append(leave_one_out.log_prob(features, weight, classes))
        # Last, so that an error changes nothing.
        if reset:
            self.log_densities = ClassQuantiles(self.device)
        for values, classes in found:
            self.log_densities.add(values, classes)
