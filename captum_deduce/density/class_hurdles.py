"""ClassHurdles: how usual each single feature is under each class, silent or active."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_deduce import checks
from captum_deduce.classifiers import FrozenModel, device_of
from captum_deduce.density.fitted_module import FittedModule
from captum_deduce.density.hurdles import Hurdles, Spread
from captum_deduce.density.loader import loader_features
from captum_deduce.density.mixture import plain_tensors
from captum_deduce.density.samples import check_features, check_samples

if TYPE_CHECKING:
    from typing_extensions import Self


class ClassHurdles(FittedModule):
    r"""A hurdle model of each feature in each class: silent or active, and if active, how much.

    This is what PIECE (Kenny and Keane 2021) calls a feature exceptional by. Features
    :math:`x_i \ge 0`, as after a ReLU, are 0 for many images; so each has in class c a probability
    :math:`\theta_{ci} = P(x_i > 0)` of being active, and a distribution
    :math:`F_{ci}` of its values where it is. The probability of a value is

    .. math::
        p_{ci}(x_i) = \begin{cases} 1 - \theta_{ci} & x_i = 0 \\
        \theta_{ci} \min\bigl(F_{ci}(x_i),\, 1 - F_{ci}(x_i)\bigr) & x_i > 0 \end{cases}

    with the better of a normal, a gamma and an exponential distribution as :math:`F_{ci}`.

    The fit needs one pass, in float64, and keeps for each class and feature: how many values are
    positive, their mean, their sum of squares about it and the mean of their logarithms, which is
    all that the likelihoods depend on; so batches (:meth:`partial_fit`) and other fits
    (:meth:`merge`) are added in any order. Deviations from the paper:

    * The distribution is the one of the best likelihood, by Akaike's criterion, as the exponential
      has one parameter and the others two; not the one with the best Kolmogorov-Smirnov test, which
      needs all values at once. The gamma starts at 0.
    * A feature of which a negative value was seen, in any class, has no hurdle, as behind a GELU or
      a leaky ReLU: it is always active, with a normal distribution of all its values, those that
      are not positive, too.
    * A feature that is never active in a class has the expectation 0 there, and any positive value
      the probability 0. With one positive value, or equal ones, the distribution is exponential.

    Args:
        num_classes (int, optional): C, where it is known. Default: None (the largest label + 1;
            later data may have more)

    Raises:
        TypeError: ``num_classes`` is no int.
        ValueError: No class.

    Examples::

        >>> features = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).relu()
        >>> hurdles = ClassHurdles().fit(features, torch.arange(300) % 3)
        >>> hurdles.probability(torch.tensor([[0.0, 0.5, 1.0, 9.0]]), [1]) < 0.05
        tensor([[False, False, False,  True]])
    """

    counts: Tensor
    active: Tensor
    active_mean: Tensor
    active_scatter: Tensor
    log_mean: Tensor
    mean: Tensor
    scatter: Tensor
    negative: Tensor

    def __init__(self, num_classes: int | None = None) -> None:
        super().__init__()
        if num_classes is not None:
            checks.number("num_classes", num_classes, minimum=1, integer=True)
        self._num_classes = num_classes
        self._clear(num_classes or 0, 0, torch.device("cpu"))

    @property
    def num_classes(self) -> int:
        """C, classes without samples included; 0 before anything is fitted."""
        return self.active.shape[0]

    @property
    def num_features(self) -> int:
        """D; 0 before anything is fitted."""
        return self.active.shape[1]

    @property
    def device(self) -> torch.device:
        """Where the models live, and where the features to evaluate must be."""
        return self.active.device

    @property
    def fitted_classes(self) -> Tensor:
        """Which classes have samples, C, bool, on the CPU."""
        return (self.counts > 0).cpu()

    @property
    def activity(self) -> Tensor:
        r""":math:`\theta`: how often a feature is active in a class, C x D, float64."""
        return self._derived().activity

    @property
    def distribution(self) -> Tensor:
        """Which of :data:`DISTRIBUTIONS` an active feature has, C x D, int64."""
        return self._derived().kind

    @plain_tensors()
    def fit(self, features: Tensor, target: Tensor) -> Self:
        """Fit from scratch.

        Args:
            features (Tensor): N x D, floating-point, on any device.
            target (Tensor): N labels; for PIECE the classes that the model *predicts*.

        Returns:
            ClassHurdles: This one.

        Raises:
            TypeError: An argument of the wrong kind, or soft labels.
            ValueError: A wrong shape, values that are not finite, negative labels, or labels of
                ``num_classes`` or above; nothing is changed then.
        """
        check_samples(features, target, None, 0, self._num_classes)
        _refuse_soft(target)
        self._clear(self._num_classes or 0, 0, self.device)
        return self.partial_fit(features, target)

    @plain_tensors()
    def partial_fit(self, features: Tensor, target: Tensor) -> Self:
        """Add samples.

        Args:
            features (Tensor): N x D, as in :meth:`fit`.
            target (Tensor): N labels.

        Returns:
            ClassHurdles: This one.

        Raises:
            TypeError: As :meth:`fit`.
            ValueError: As :meth:`fit`, or another number of features.
        """
        samples = check_samples(features, target, None, self.num_features, self._num_classes)
        _refuse_soft(target)
        self._grow(samples.num_classes, samples.features.shape[1])
        for block in samples.blocks(self.device):
            values, labels = block.features, block.target
            positive = (values > 0).to(values.dtype)
            logs = torch.where(values > 0, values, 1.0).log()
            self._add(
                labels.bincount(minlength=self.num_classes).to(values.dtype),
                Spread.of(values, labels, positive, self.num_classes),
                Spread.of(values, labels, torch.ones_like(values), self.num_classes),
                Spread.of(logs, labels, positive, self.num_classes).mean,
                (values < 0).any(0),
            )
        return self

    @plain_tensors()
    def merge(self, other: ClassHurdles) -> Self:
        """Add the samples of another fit.

        Args:
            other (ClassHurdles): Unchanged.

        Returns:
            ClassHurdles: This one.

        Raises:
            TypeError: Something else.
            ValueError: Another number of features, or more classes than ``num_classes``.
        """
        if not isinstance(other, ClassHurdles):
            raise TypeError(f"other must be ClassHurdles, got {type(other).__name__}")
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
        self._grow(other.num_classes, other.num_features)
        more = self.num_classes - other.num_classes

        def here(values: Tensor) -> Tensor:
            padding = (0, 0) * (values.dim() - 1) + (0, more)
            return nn.functional.pad(values.to(self.device), padding)

        counts = here(other.counts)
        self._add(
            counts,
            Spread(here(other.active), here(other.active_mean), here(other.active_scatter)),
            Spread(counts.unsqueeze(1).expand_as(self.mean), here(other.mean), here(other.scatter)),
            here(other.log_mean),
            other.negative.to(self.device),
        )
        return self

    @classmethod
    def fit_loader(
        cls,
        model: Callable[..., Any],
        layer: nn.Module | str,
        loader: Iterable[Any],
        *,
        device: torch.device | str | None = None,
        show_progress: bool | None = None,
    ) -> Self:
        """Fit to the features of all images of a loader, each in the class that the model predicts.

        One pass. The model runs in eval mode and is left as it was found.

        Args:
            model (nn.Module or Callable): The classifier.
            layer (nn.Module or str): The layer whose output, flattened, is the features: what the
                classifier's last linear layer takes. A module of the model or its dotted name.
            loader (Iterable): Yields batches (images, target); the targets are not looked at.
            device (torch.device or str, optional): Where the models are fitted and stay.
                Default: None (the model's, or the CPU where that has no float64)
            show_progress (bool, optional): Draw a progress bar.
                Default: None (after two seconds, in a terminal or a notebook)

        Returns:
            ClassHurdles: Of as many classes as the model has scores.

        Raises:
            TypeError: A loader that yields something else.
            ValueError: A layer that is not in the model, an empty loader, or what :meth:`fit`
                refuses.
        """
        with torch.no_grad(), FrozenModel(model, layer) as frozen:
            model_device = device_of(frozen.modules)
            fitted = cls()
            fitted.to(device or (model_device if model_device.type != "mps" else "cpu"))
            for features, _, scores in loader_features("loader", loader, frozen, show_progress):
                fitted._num_classes = scores.shape[1]
                fitted.partial_fit(features, scores.argmax(1))
        return fitted

    def probability(self, features: Tensor, target: object) -> Tensor:
        """Tell how usual the value of each feature is in a class.

        Args:
            features (Tensor): N x D, floating-point.
            target (int, list or Tensor): N classes, or one for all.

        Returns:
            Tensor: N x D, float64, from 0 to 1.

        Raises:
            RuntimeError: Nothing was fitted.
            TypeError: An argument of the wrong kind.
            ValueError: Shapes that do not fit, or a class without samples.
        """
        hurdles, classes = self._asked(features, target)
        return hurdles.probability(features.to(torch.float64), classes)

    def expectation(self, target: Tensor) -> Tensor:
        """Tell which value features have in classes where they are active, on average.

        Args:
            target (Tensor): N classes.

        Returns:
            Tensor: N x D, float64; 0 where a feature is never active.

        Raises:
            RuntimeError: Nothing was fitted.
        """
        return self._derived().expectation[target.to(self.device)]

    def extra_repr(self) -> str:
        """Say how much was fitted."""
        return (
            f"classes={self.num_classes}, features={self.num_features}, "
            f"samples={int(self.counts.sum())}"
        )

    def _clear(self, num_classes: int, num_features: int, device: torch.device) -> None:
        def empty(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.register_buffer("counts", empty(num_classes))
        for name in ("active", "active_mean", "active_scatter", "log_mean", "mean", "scatter"):
            self.register_buffer(name, empty(num_classes, num_features))
        self.register_buffer("negative", empty(num_features) > 0)
        self._hurdles: Hurdles | None = None

    def _grow(self, num_classes: int, num_features: int) -> None:
        """Make room for classes that are new, and for the first features."""
        if self.num_features == 0:
            most = max(num_classes, self._num_classes or 0)
            self._clear(most, num_features, self.device)
        more = num_classes - self.num_classes
        if more > 0:
            for name, buffer in self._buffers.items():
                if buffer is not None and name != "negative":
                    padding = (0, 0) * (buffer.dim() - 1) + (0, more)
                    self._buffers[name] = nn.functional.pad(buffer, padding)

    def _add(
        self, counts: Tensor, active: Spread, values: Spread, log_mean: Tensor, negative: Tensor
    ) -> None:
        share = active.counts / (self.active + active.counts).clamp_min(1)
        self.log_mean = self.log_mean + share * (log_mean - self.log_mean)
        united = self._active().united(active)
        self.active, self.active_mean, self.active_scatter = united
        _, self.mean, self.scatter = self._values().united(values)
        self.counts = self.counts + counts
        self.negative = self.negative | negative
        self._hurdles = None

    def _active(self) -> Spread:
        return Spread(self.active, self.active_mean, self.active_scatter)

    def _values(self) -> Spread:
        return Spread(self.counts.unsqueeze(1).expand_as(self.mean), self.mean, self.scatter)

    def _derived(self) -> Hurdles:
        if self.num_features == 0:
            raise RuntimeError("nothing is fitted yet; call fit, partial_fit or fit_loader first")
        if self._hurdles is None or self._hurdles.kind.device != self.device:
            with plain_tensors():
                self._hurdles = Hurdles.estimated(
                    self._active(), self.log_mean, self._values(), self.negative
                )
        return self._hurdles

    def _asked(self, features: Tensor, target: object) -> tuple[Hurdles, Tensor]:
        hurdles = self._derived()
        check_features(features, self.num_features)
        if features.device != self.device:
            raise ValueError(f"features must be on {self.device}, got {features.device}")
        classes = checks.targets(target, len(features), self.num_classes)
        fitted = self.fitted_classes
        empty = sorted({c for c in classes.tolist() if not fitted[c]})
        if empty:
            raise ValueError(f"target names class(es) {empty} that no samples were fitted of")
        return hurdles, classes.to(self.device)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._hurdles = None


def _refuse_soft(target: Tensor) -> None:
    if target.dim() == 2 and target.shape[1] > 1:
        raise TypeError(
            "target must hold one label per sample, got soft labels of shape "
            f"{tuple(target.shape)}; a hurdle model has none"
        )
