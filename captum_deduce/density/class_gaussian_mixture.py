"""ClassGaussianMixture: the density of a model's features under each class, fitted in one pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel, device_of
from captum_deduce.density.calibrated import CalibratedMixture
from captum_deduce.density.choice import choose, outgrown
from captum_deduce.density.from_sklearn import population
from captum_deduce.density.kept import KEPT, KeptSamples
from captum_deduce.density.loader import LoaderSamples
from captum_deduce.density.low_rank import (
    in_directions,
    low_rank_moments,
    principal_directions,
    rank_of,
    tied_moments,
)
from captum_deduce.density.mixture import plain_tensors
from captum_deduce.density.moments import Moments
from captum_deduce.density.regularization import SHRINKABLE
from captum_deduce.density.samples import Samples, check_component_class, check_samples
from captum_deduce.density.second_pass import SecondPass

if TYPE_CHECKING:
    from typing_extensions import Self


_MOST_FEATURES = 4096
_OTHER_IMAGES = (
    "The loader's second pass gave other images than the first (random augmentation, or shuffle "
    "with drop_last): pass a larger memory_budget, which saves the second pass, a held_out_loader, "
    "a loader that yields the same images twice, or quantiles=False"
)


class ClassGaussianMixture(CalibratedMixture):
    r"""A Gaussian for each class in a model's feature space, :math:`p(z \mid c)`.

    This is the density of DeDUCE (section 3 of the paper) and of Deep Deterministic Uncertainty
    (Mukhoti et al.): the features z of the training images of class c get a mean and a covariance,

    .. math::
        \log p(z \mid c) = -\tfrac{1}{2}\left(D \log 2\pi + \log\det\Sigma_c
        + (z - \mu_c)^\top \Sigma_c^{-1} (z - \mu_c)\right).

    The fit is exact and needs one pass: it keeps counts, means and scatter matrices in float64,
    which take the same memory for any number of samples, and to which batches
    (:meth:`partial_fit`) and other fits (:meth:`merge`) are added in any order. Only classes with
    samples have matrices, and as long as a class has no more samples than features, its samples are
    kept in place of one. Weights of samples
    and soft labels (the paper's future work: confidence weighting, ambiguous data) go in as
    weights :math:`w_i`; the covariance is the unbiased one of ``numpy.cov(..., aweights=w)``,
    with the divisor :math:`V_1 - V_2 / V_1` for :math:`V_k = \sum_i w_i^k`. Covariance types, with
    shapes as in scikit-learn:

    - ``"auto"``: ``"full"`` where every class has samples for it (n - 1 >= 1.25 D) and its
      matrices take 4 GiB and half of the free memory at most; else ``"low_rank"`` where classes
      have half as many samples as directions on average, and all together twice as many
      as features; else ``"tied"``, both with ``regularization="oas"``.
      :attr:`chosen_covariance_type` is what it became; a ``UserWarning`` says why it is not
      ``"full"``.
    - ``"full"``: one matrix per class, C x D x D (the paper's).
    - ``"low_rank"``: one for all, but for the 64 directions (or half of D) in which features vary
      most within classes: there each class has its own, drawn towards the common one where it has
      few samples. :class:`~captum_deduce.density.Gaussians` has the formula. Directions are those
      of all samples as long as these, or the classes' matrices, take less than 128 MiB, and in
      :meth:`fit` and in :meth:`fit_loader` within its ``memory_budget``; else batches that come
      later are added in the directions of the first.
    - ``"tied"``: one for all, D x D: the sum of the classes' scatter matrices over the sum of their
      divisors (n - C for unit weights).
    - ``"diag"``: variances per class and feature, C x D; covariances are never computed.
    - ``"spherical"``: one variance per class, C: the mean of the ``"diag"`` ones.

    A class with too few samples for its covariance (n - 1 < 1.25 D for ``"full"``,
    n - C < 1.25 D for ``"low_rank"`` and ``"tied"``, n < 2 for the others), or whose covariance had
    to be regularised, gives a ``UserWarning`` with its name and the regularisation used. So does,
    when quantiles are computed, one whose left-out samples are far less likely than its Gaussian
    makes one expect (:attr:`doubtful_classes`), as when a feature varies in a single sample.
    ``"full"``, ``"low_rank"`` and ``"tied"`` covariances of all classes are then shrunk
    (``regularization="oas"``), as the warning says; where samples suffice, or with
    ``regularization="jitter"``, they are the paper's. A class of one sample, or of identical ones,
    gets the identity times the other classes' mean variance, or what classes share. More than 4,096
    features give a ``UserWarning``, too, where they need matrices (``"full"`` and
    ``"tied"``). What would not fit into memory is refused with a ``ValueError`` before it is made.

    All buffers are float64 and stay so under ``.half()``, ``.float()`` and ``.to(dtype)``;
    ``.to(device)`` and ``state_dict()`` work as in any module, and a state dict loads into a fresh
    ``ClassGaussianMixture(covariance_type)``.

    Examples::

        >>> features = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
        >>> labels = torch.arange(300) % 3
        >>> density = ClassGaussianMixture().fit(features, labels)
        >>> density
        ClassGaussianMixture(covariance_type='auto', chosen_covariance_type='full', classes=3,
                             features=4, counts=100..100)
        >>> density.log_prob(features[:2], [0, 1]) > density.quantile(0.05)[:2]
        tensor([True, True])
    """

    @plain_tensors()
    def fit(
        self,
        features: Tensor,
        target: Tensor,
        sample_weight: Tensor | None = None,
        *,
        quantiles: bool = True,
    ) -> Self:
        """Fit from scratch.

        Args:
            features (Tensor): N x D, floating-point, on any device.
            target (Tensor): Labels (N or N x 1 integers), or responsibilities of the classes for
                each sample ("soft labels", N x C, no integers, not negative): a sample enters
                each class with that weight.
            sample_weight (Tensor, optional): N, not negative; multiplies responsibilities. Within a
                class only ratios matter. Default: None (1 each)
            quantiles (bool, optional): Also keep the samples' leave-one-out log-densities for
                :meth:`quantile`; not done for responsibilities, which give a sample no class of its
                own. Default: True

        Returns:
            ClassGaussianMixture: This one.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: A wrong shape, values that are not finite, negative labels or weights, more
                classes than ``num_classes``, or moments that don't fit into memory; nothing is
                changed then.
        """
        samples = check_samples(features, target, sample_weight, 0, self._num_classes)
        moments = self._with(self._no_moments(samples.features.shape[1]), samples)
        if not moments.weight.any():
            raise ValueError("sample_weight or responsibilities must not all be 0")
        self._component_class = None
        self.moments = moments
        self._forget()
        self._derived()
        if quantiles and not samples.soft:
            # One more than fit_loader, for the decorator.
            self._calibrate(lambda: [samples], self._leave_one_out, stacklevel=4)
        return self

    @plain_tensors()
    def partial_fit(
        self, features: Tensor, target: Tensor, sample_weight: Tensor | None = None
    ) -> Self:
        """Add a batch of samples; quantiles are discarded.

        Args:
            features (Tensor): N x D, as in :meth:`fit`.
            target (Tensor): Labels or responsibilities, as in :meth:`fit`.
            sample_weight (Tensor, optional): N, as in :meth:`fit`. Default: None (1 each)

        Returns:
            ClassGaussianMixture: This one.

        Raises:
            TypeError: As :meth:`fit`.
            ValueError: As :meth:`fit`, another number of features than fitted, or a density from
                scikit-learn, which has no moments to add to.
        """
        self._refuse_population("partial_fit")
        samples = check_samples(
            features, target, sample_weight, self.num_features, self._num_classes
        )
        if self.num_features == 0:
            self.moments = self._no_moments(samples.features.shape[1])
        moments = self._with(self.moments, samples)
        self._forget()
        self.moments = moments
        return self

    @plain_tensors()
    def merge(self, other: ClassGaussianMixture) -> Self:
        """Add the samples that another density was fitted to; quantiles are discarded.

        Args:
            other (ClassGaussianMixture): Of the same covariance type and number of features, on any
                device; left as it is.

        Returns:
            ClassGaussianMixture: This one.

        Raises:
            TypeError: ``other`` is no ClassGaussianMixture.
            ValueError: Another covariance type or number of features, more classes than
                ``num_classes``, a density from scikit-learn, which has no moments, or two that
                have fixed different directions of ``"low_rank"``, as too many samples came.
        """
        if not isinstance(other, ClassGaussianMixture):
            raise TypeError(f"other must be a ClassGaussianMixture, got {type(other).__name__}")
        self._refuse_population("merge")
        other._refuse_population("merge")
        if other.covariance_type != self.covariance_type:
            raise ValueError(
                f"other must have covariance_type {self.covariance_type!r}, got "
                f"{other.covariance_type!r}"
            )
        if other.num_features == 0:
            return self
        if self.num_features not in (0, other.num_features):
            raise ValueError(
                f"other must have {self.num_features} features, got {other.num_features}"
            )
        if self._num_classes is not None and other.num_classes > self._num_classes:
            raise ValueError(
                f"other has {other.num_classes} classes, more than num_classes={self._num_classes}"
            )
        if self.num_features == 0:
            self.moments = self._no_moments(other.num_features)
        moments = _united(self.moments, other.moments)
        if self._choosing(moments) and outgrown(moments, self.covariance_type):
            moments = low_rank_moments(moments)
        self._forget()
        self.moments = moments
        return self

    @classmethod
    def fit_loader(
        cls,
        model: Callable[..., Any],
        layer: nn.Module | str,
        loader: Iterable[Any],
        *,
        quantiles: bool = True,
        held_out_loader: Iterable[Any] | None = None,
        memory_budget: int = KEPT,
        device: torch.device | str | None = None,
        show_progress: bool | None = None,
        **constructor_arguments: Any,
    ) -> Self:
        """Fit a density to the features of all images of a loader.

        One pass: features are kept for the quantiles where they fit into ``memory_budget``, and
        each image is judged by the very features that were fitted. Where they don't, a second pass
        is made, which has to see the same images, and a third one if it shows that covariances
        have to be shrunk. The model runs in eval mode and is left as it was found.

        Args:
            model (nn.Module or Callable): The classifier. The density has as many classes as it has
                scores, unless ``num_classes`` says otherwise; some may have no images.
            layer (nn.Module or str): The layer whose output, flattened, is the features; a module
                of the model or its dotted name.
            loader (Iterable): Yields batches (images, target), with a target as in :meth:`fit`.
                Where a second pass is needed it must yield the same images again, in any order.
            quantiles (bool, optional): Also find the images' log-densities for :meth:`quantile`
                (not for soft labels, which have no leave-one-out ones). Default: True
            held_out_loader (Iterable, optional): Images for the quantiles that are not in
                ``loader``; where their features take more than ``memory_budget`` a second pass is
                made if covariances have to be shrunk. Default: None (leave-one-out log-densities
                of those in ``loader``)
            memory_budget (int, optional): Most bytes of features that are kept, on the model's
                device: N x D x 4 for N images in single precision. Default: 192 MiB
            device (torch.device or str, optional): Where the density is fitted and stays.
                Default: None (the model's, or the CPU where that has no float64)
            show_progress (bool, optional): Draw a progress bar.
                Default: None (after two seconds, in a terminal or a notebook)
            **constructor_arguments (Any): Of :class:`ClassGaussianMixture`.

        Returns:
            ClassGaussianMixture: The density.

        Raises:
            TypeError: A loader that yields something else, or can be run through only once though
                a second pass is needed.
            ValueError: A layer that is not in the model, an empty loader, a label beyond the
                model's classes, a second pass that differs from the first (random augmentation, or
                ``shuffle`` with ``drop_last``), or what :meth:`fit` refuses.
        """
        checks.number("memory_budget", memory_budget, minimum=0, integer=True)
        held_out = held_out_loader if quantiles else None
        leave_one_out = quantiles and held_out is None
        density = cls(**constructor_arguments)
        with torch.no_grad(), FrozenModel(model, layer) as frozen:
            model_device = device_of(frozen.modules)
            density.to(device or (model_device if model_device.type != "mps" else "cpu"))
            budget = memory_budget if leave_one_out else 0
            images = LoaderSamples("loader", loader, frozen, show_progress, budget)
            for features, target, num_classes in images.first():
                density._num_classes = density._num_classes or num_classes
                density.partial_fit(features, target)
                if leave_one_out and not images.soft:
                    images.refuse_single_pass()
            if images.kept.complete and density.moments.covariance_type == "low_rank":
                density._find_directions(images.kept)
            density._derived()
            shape = density.num_features, density.num_classes
            if held_out is not None:
                others = LoaderSamples(
                    "held_out_loader", held_out, frozen, show_progress, memory_budget
                )
                density._calibrate(lambda: others.samples(*shape), lambda: None)
            elif quantiles and not images.soft:
                judge = density._leave_one_out if images.kept.complete else density._second
                density._calibrate(lambda: images.samples(*shape), judge)
        return density

    @classmethod
    def from_sklearn(
        cls, gmm: Any, component_class: object, *, num_classes: int | None = None
    ) -> Self:
        """Take over a mixture that scikit-learn has fitted.

        A class with several components has the mixture of them as its density, with their weights
        made to sum to one. There are no moments to add to (:meth:`partial_fit`, :meth:`merge`) and
        no training samples to take quantiles of (:meth:`update_quantiles` takes others).

        Args:
            gmm (sklearn.mixture.GaussianMixture): Fitted, of any covariance type; a
                ``BayesianGaussianMixture`` likewise.
            component_class (list[int] or Tensor): The class of each component.
            num_classes (int, optional): C, if the last classes have no component. Default: None

        Returns:
            ClassGaussianMixture: The density, on the CPU.

        Raises:
            TypeError: ``gmm`` is no mixture of Gaussians, or classes are no integers.
            ValueError: ``gmm`` is not fitted, or another number of classes than components.
        """
        weight, mean, covariance = population(gmm)
        density = cls(gmm.covariance_type, num_classes=num_classes)
        density._component_class = check_component_class(component_class, len(weight), num_classes)
        density.moments = Moments.of_population(gmm.covariance_type, weight, mean, covariance)
        density._derived()
        return density

    def _choosing(self, moments: Moments) -> bool:
        """Whether what "full" needs is kept, though the choice may be another."""
        return self.covariance_type in ("auto", "low_rank") and moments.covariance_type == "full"

    def _with(self, moments: Moments, samples: Samples) -> Moments:
        """Moments with more samples: the same, or leaner ones where they would grow too large."""
        if self._choosing(moments) and outgrown(moments, self.covariance_type, samples):
            tied = tied_moments(moments)
            seen = Moments("tied", 0, tied.num_features, self.device)
            seen.merge(tied)
            seen.add(samples)
            rank = rank_of(seen.num_features)
            moments = low_rank_moments(moments, principal_directions(seen.scatter, rank), tied)
        moments.add(samples)
        return moments

    def _find_directions(self, kept: KeptSamples) -> None:
        """Replace directions that were found with the first samples by those of all."""
        moments = self.moments
        if self.covariance_type == "auto" and choose(moments).covariance_type == "tied":
            return
        basis = principal_directions(moments.scatter, rank_of(moments.num_features))
        self.moments = in_directions(moments, basis, kept.blocks())

    def _second(self) -> SecondPass:
        """What judges the images of a loader's second pass."""
        gaussians = self._derived()
        return SecondPass(self._estimated_from(), gaussians, _OTHER_IMAGES)

    def _no_moments(self, num_features: int) -> Moments:
        if self.covariance_type in ("auto", *SHRINKABLE) and num_features > _MOST_FEATURES:
            size = num_features**2 * 8 / 2**30
            each = " for each class" if self.covariance_type == "full" else ""
            least = "tied" if self.covariance_type == "auto" else self.covariance_type
            warnings.warn(
                f"a {least!r} covariance of {num_features:,} features takes "
                f"{size:.1f} GiB{each}, and long to factorise; choose a layer after the average "
                "over the image, or covariance_type='diag'",
                stacklevel=2,
            )
        return Moments(self._kept_type(), self._num_classes or 0, num_features, self.device)


def _united(moments: Moments, others: Moments) -> Moments:
    """Merge moments, of which one, both or none have outgrown the kind that they started as."""
    if moments.covariance_type == "low_rank":
        others = low_rank_moments(others, moments.basis)
    elif others.covariance_type == "low_rank":
        moments = low_rank_moments(moments, others.basis.to(moments.mean.device))
    if moments.covariance_type == "low_rank":
        same = moments.basis.shape == others.basis.shape
        if not same or not torch.equal(moments.basis, others.basis.to(moments.basis.device)):
            raise ValueError(
                "other has its own directions: too many samples have come to both densities to "
                "keep them. Merge before, pass covariance_type='tied' to both, or fit one density"
            )
    moments.merge(others)
    return moments
