"""Gaussians of classes as a module: their state, and their densities at given features."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_deduce import checks, storage
from captum_deduce._version import __version__
from captum_deduce.density.choice import CHOICES, choose, keeps_classes
from captum_deduce.density.estimation import estimate
from captum_deduce.density.fitted_module import FittedModule, dtype_kept
from captum_deduce.density.gaussians import Gaussians
from captum_deduce.density.loaded import check_loaded
from captum_deduce.density.low_rank import low_rank_moments, tied_moments
from captum_deduce.density.moments import Moments
from captum_deduce.density.quantiles import ClassQuantiles
from captum_deduce.density.regularization import REGULARIZATIONS
from captum_deduce.density.samples import check_features

if TYPE_CHECKING:
    from typing_extensions import Self

_FORMAT = "captum-deduce density"
_FORMAT_VERSION = "1"
# What was asked for stands beside what is in force, in one number of eight digits to the base 8.
_ASKED, _TYPE, _CHOSEN = 8, 8**2, 8**3


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Record nothing, and make tensors that autograd may save later (in inference mode too)."""
    with torch.inference_mode(False), torch.no_grad():
        yield


class ClassMixture(FittedModule):
    """One or more Gaussians for each class; see ``ClassGaussianMixture``, which fits them."""

    def __init__(
        self,
        covariance_type: str = "auto",
        *,
        regularization: str = "auto",
        num_classes: int | None = None,
    ) -> None:
        r"""Choose the kind of density; the number of features comes from the data.

        Args:
            covariance_type (str, optional): ``"full"`` (the paper's), ``"low_rank"``, ``"tied"``,
                ``"diag"``, ``"spherical"``, or ``"auto"``: the first of ``"full"``,
                ``"low_rank"`` and ``"tied"`` that samples and memory allow, chosen anew when
                samples come. Default: "auto"
            regularization (str, optional): What makes covariances positive definite. ``"jitter"``:
                the first of 0, 1e-10, 1e-9, ..., 1 times trace / D with which the Cholesky
                factorisation succeeds is added to the diagonal (0 is not tried where n samples
                can't span D dimensions: rounding alone would decide). ``"oas"``, for
                ``"full"``, ``"low_rank"`` and ``"tied"``: oracle approximating shrinkage as
                :func:`sklearn.covariance.oas` defines it, of the maximum-likelihood covariance
                (divisor :math:`V_1`), with the effective number of samples :math:`V_1^2 / V_2`
                (for ``"low_rank"`` and ``"tied"``: of all samples, each centred on its class).
                ``"auto"``: ``"jitter"``, and where that leaves a class whose density says little,
                for want of samples or by its samples' leave-one-out log-densities (where
                :meth:`ClassGaussianMixture.fit` has them, or ``fit_loader`` has kept the features),
                ``"oas"`` for all of ``"full"``, ``"low_rank"`` or ``"tied"``, with a warning;
                ``"oas"`` at once where ``covariance_type="auto"`` chose another than ``"full"``.
                Default: "auto"
            num_classes (int, optional): C, where it is known. Default: None (the largest label + 1,
                or the number of columns of responsibilities; later data may have more)

        Raises:
            TypeError: ``num_classes`` is no int.
            ValueError: An unknown word, ``"oas"`` with variances only, or no class.
        """
        super().__init__()
        checks.choice("covariance_type", covariance_type, CHOICES)
        checks.choice("regularization", regularization, REGULARIZATIONS)
        if regularization == "oas" and covariance_type in ("diag", "spherical"):
            raise ValueError(
                "regularization 'oas' needs covariances: covariance_type must be 'auto', 'full', "
                f"'low_rank' or 'tied', got {covariance_type!r}"
            )
        if num_classes is not None:
            checks.number("num_classes", num_classes, minimum=1, integer=True)
        self.covariance_type = covariance_type
        self.regularization = self._asked = regularization
        self._num_classes = num_classes
        self._component_class: tuple[int, ...] | None = None
        self.moments = Moments(self._kept_type(), num_classes or 0)
        self.log_densities = ClassQuantiles()
        # Derived from the moments when first needed.
        self._gaussians: Gaussians | None = None
        # What the Gaussians were estimated from, if that is not the moments but leaner ones made of
        # them; in a list, as it is no part of the state.
        self._source: list[Moments] = []
        self._chosen: str | None = None
        self._members: list[list[int]] = []

    @property
    def chosen_covariance_type(self) -> str:
        """What ``covariance_type="auto"`` became; else what was asked for.

        Raises:
            RuntimeError: Nothing is fitted to choose by.
        """
        if self.covariance_type != "auto" or self._component_class is not None:
            return self.covariance_type
        if self._chosen is None:
            self._derived()
        return str(self._chosen)

    @property
    def num_classes(self) -> int:
        """C, classes without samples included; 0 before anything is fitted."""
        if self._component_class is None:
            return self.moments.num_classes
        return max(self._num_classes or 0, max(self._component_class) + 1)

    @property
    def num_features(self) -> int:
        """D; 0 before anything is fitted."""
        return self.moments.num_features

    @property
    def device(self) -> torch.device:
        """Where the density lives, and where the features to evaluate must be."""
        return self.moments.mean.device

    @property
    def component_class(self) -> tuple[int, ...]:
        """The class of each of the K components; one per class but after ``from_sklearn``."""
        return self._component_class or tuple(range(self.moments.num_classes))

    @property
    def counts(self) -> Tensor:
        """Samples with a weight above 0 (K, int64); 0 after ``from_sklearn``."""
        return self.moments.count

    @property
    def fitted_classes(self) -> Tensor:
        """Which classes have samples, or components (C, bool, on the CPU)."""
        fitted = torch.zeros(self.num_classes, dtype=torch.bool)
        seen = (self.moments.weight > 0).cpu()
        fitted[torch.tensor(self.component_class, dtype=torch.int64)[seen]] = True
        return fitted

    @property
    def means(self) -> Tensor:
        """Means (K x D); NaN without samples."""
        return torch.where(self.moments.weight.unsqueeze(1) > 0, self.moments.mean, torch.nan)

    @property
    def covariances(self) -> Tensor:
        """Regularised covariances, K x D x D, D x D, K x D or K as in scikit-learn.

        ``"low_rank"`` ones are K x D x D, too. NaN without samples. Computed at each access, so
        that memory holds them once only; :meth:`covariance` computes one.

        Raises:
            RuntimeError: Nothing is fitted.
            ValueError: They don't fit into memory.
        """
        covariances = self._derived().covariances(self._estimated_from())
        if self.chosen_covariance_type != "tied":
            covariances[self.moments.weight == 0] = torch.nan
        return covariances

    def covariance(self, component: int) -> Tensor:
        """Compute the regularised covariance of one component.

        Args:
            component (int): Which, from 0 to K - 1; the class's number but after ``from_sklearn``.

        Returns:
            Tensor: D x D, float64; ``"diag"``: D, ``"spherical"``: no dimension.

        Raises:
            RuntimeError: Nothing is fitted.
            TypeError: ``component`` is no int.
            ValueError: There is no such component, or it has no samples.
        """
        gaussians = self._derived()
        checks.number("component", component, minimum=0, integer=True)
        if component >= len(self.moments.weight) or self.moments.weight[component] == 0:
            raise ValueError(f"component must be one that has samples, got {component}")
        return gaussians.covariance(self._estimated_from(), component)

    @property
    def regularization_used(self) -> Tensor:
        """Jitter or OAS coefficient added to the diagonal, in units of trace / D, K values.

        Infinite where the covariance was replaced by a multiple of the identity, NaN without
        samples.
        """
        return torch.where(self.moments.weight > 0, self._derived().amount, torch.nan)

    def log_prob(self, features: Tensor, target: object) -> Tensor:
        """Evaluate each sample's density under its own target class, and no other.

        Differentiable in the features. Computed in float64; ``"full"`` with one matrix product per
        class that occurs, the others all at once; nothing of size N x D x D is made. Not checked
        for NaN, which give NaN.

        Args:
            features (Tensor): N x D, floating-point, on the density's device.
            target (int, list or Tensor): N classes, or one for all. On the CPU they cost no
                synchronisation with the device.

        Returns:
            Tensor: N log-densities in nats, float64.

        Raises:
            RuntimeError: Nothing is fitted.
            TypeError: Features or target of another kind.
            ValueError: A wrong shape or device, a class without samples, or covariances that
                don't fit into memory.
        """
        gaussians = self._evaluated(features)
        classes = checks.targets(target, len(features), len(self._members))
        sizes = classes.bincount()
        present = sizes.nonzero().flatten().tolist()
        self._refuse_empty(present)
        projected = gaussians.project(features.to(torch.float64))
        if not present:
            return projected.sum(1)
        if len(present) == 1:
            return self._class_log_prob(gaussians, projected, present[0])
        if gaussians.covariance_type != "full" and self._component_class is None:
            return gaussians.log_prob_each(projected, classes.to(self.device))
        order = classes.argsort(stable=True)
        blocks = torch.split(projected[order.to(self.device)], sizes[present].tolist())
        values = [
            self._class_log_prob(gaussians, block, index)
            for index, block in zip(present, blocks, strict=True)
        ]
        return torch.cat(values)[order.argsort().to(self.device)]

    def log_probs(self, features: Tensor) -> Tensor:
        """Evaluate each sample's density under every class.

        Args:
            features (Tensor): As in :meth:`log_prob`.

        Returns:
            Tensor: N x C log-densities in nats, float64; minus infinity for classes without
            samples.

        Raises:
            RuntimeError: Nothing is fitted.
            TypeError: Features of another kind.
            ValueError: A wrong shape or device.
        """
        gaussians = self._evaluated(features)
        projected = gaussians.project(features.to(torch.float64))
        columns = [
            self._class_log_prob(gaussians, projected, c)
            if members
            else projected.new_full((len(projected),), -torch.inf)
            for c, members in enumerate(self._members)
        ]
        return torch.stack(columns, 1)

    def log_density(self, features: Tensor) -> Tensor:
        """Evaluate the mixture of all classes that have samples, each with the same weight.

        Args:
            features (Tensor): As in :meth:`log_prob`.

        Returns:
            Tensor: N log-densities in nats, float64.

        Raises:
            RuntimeError: Nothing is fitted.
            TypeError: Features of another kind.
            ValueError: A wrong shape or device.
        """
        log_probs = self.log_probs(features)
        return log_probs.logsumexp(1) - math.log(sum(map(bool, self._members)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was fitted to one safetensors file.

        Args:
            path (path): The file, by convention ``*.safetensors``.
        """
        metadata = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "covariance_type": self.covariance_type,
        }
        storage.write(path, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Read a file that :meth:`save` wrote; nothing in it is executed.

        Args:
            path (path): The file.
            device (torch.device or str, optional): Where the density goes. Default: "cpu"

        Returns:
            ClassGaussianMixture: As it was saved.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Truncated, or not a density that this version reads.
        """
        tensors, metadata = storage.read(path, "density")
        if metadata.get("format") != _FORMAT or metadata.get("format_version") != _FORMAT_VERSION:
            raise ValueError(
                f"{path} is not a density that captum-deduce {__version__} reads (its metadata: "
                f"{metadata})"
            )
        try:
            density = cls(metadata["covariance_type"])
            density.load_state_dict(tensors)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} holds no complete density: {error}") from error
        return density.to(device)

    def get_extra_state(self) -> Tensor:
        """Encode in integers what the buffers don't say, as safetensors takes tensors only.

        Returns:
            Tensor: The regularisation and covariance type, asked for and used, the fixed number of
            classes (0: not fixed) and the components' classes (none: one component per class).
        """
        used = REGULARIZATIONS.index(self.regularization)
        asked = REGULARIZATIONS.index(self._asked)
        covariance_type = CHOICES.index(self.covariance_type)
        code = used + _ASKED * (asked + 1) + _TYPE * (covariance_type + 1)
        if self._chosen is not None:
            code += _CHOSEN * (CHOICES.index(self._chosen) + 1)
        return torch.tensor([code, self._num_classes or 0, *(self._component_class or ())])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what :meth:`get_extra_state` encoded; it wins over the constructor's arguments.

        Args:
            state (Tensor): Integers.

        Raises:
            LookupError: Numbers that encode nothing.
            ValueError: The state of another covariance type than the constructor was asked for.
        """
        code, num_classes, *component_class = state.tolist()
        chosen, rest = divmod(code, _CHOSEN)
        covariance_type, regularization = divmod(rest, _TYPE)
        asked, used = divmod(regularization, _ASKED)
        # Before there was a choice nothing said which type it was: the default was "full".
        legacy = "full" if self.covariance_type == "auto" else self.covariance_type
        stored = CHOICES[covariance_type - 1] if covariance_type else legacy
        if self.covariance_type not in ("auto", stored):
            raise ValueError(
                f"the state is that of a density of covariance_type {stored!r}, not "
                f"{self.covariance_type!r}"
            )
        self.regularization = REGULARIZATIONS[used]
        self._asked = REGULARIZATIONS[asked - 1] if asked else self.regularization
        if self._asked not in ("auto", self.regularization):
            raise LookupError(f"no regularization is numbered {regularization}")
        self.covariance_type = stored
        self._chosen = CHOICES[chosen - 1] if chosen else None
        self._num_classes = num_classes or None
        self._component_class = tuple(component_class) or None

    def extra_repr(self) -> str:
        """Say what was fitted, in one line."""
        parts = [f"covariance_type={self.covariance_type!r}"]
        if self._chosen is not None:
            parts.append(f"chosen_covariance_type={self._chosen!r}")
        used = self.regularization if self._gaussians is None else self._gaussians.regularization
        if used == "oas":
            parts.append(f"regularization={used!r}")
        if self.num_features == 0:
            return ", ".join([*parts, "not fitted"])
        parts += [f"classes={self.num_classes}", f"features={self.num_features}"]
        if self._component_class is None:
            parts.append(f"counts={int(self.counts.min())}..{int(self.counts.max())}")
        else:
            parts.append(f"components={len(self._component_class)}")
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        if self._gaussians is not None:
            self._gaussians = self._gaussians.map(dtype_kept(fn))
        for source in self._source:
            source._apply(fn)
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._gaussians, self._source = None, []
        outgrown = f"{prefix}moments.basis" in state_dict
        kind = "low_rank" if outgrown and keeps_classes(self.covariance_type) else self._kept_type()
        if self.moments.covariance_type != kind:
            self.moments = Moments(kind, device=self.device)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take over what ``state_dict`` gathered, if a fit can have left it.

        Args:
            state_dict (Mapping[str, Any]): By name.
            *args (Any): As of ``torch.nn.Module.load_state_dict``.
            **kwargs (Any): Likewise.

        Returns:
            Any: Likewise.

        Raises:
            RuntimeError: Names, shapes or types that do not fit.
            ValueError: Values that can't be; the density is of no use then.
        """
        found = super().load_state_dict(state_dict, *args, **kwargs)
        check_loaded(self)
        return found

    def _kept_type(self) -> str:
        """What moments start as: each class's own where a choice comes later."""
        return "full" if keeps_classes(self.covariance_type) else self.covariance_type

    @plain_tensors()
    def _derived(self) -> Gaussians:
        gaussians = self._gaussians
        if gaussians is not None:
            return gaussians
        seen = (self.moments.weight > 0).tolist()
        if not any(seen):
            raise RuntimeError(
                "the density is not fitted; call fit, partial_fit, fit_loader or load first"
            )
        members: list[list[int]] = [[] for _ in range(self.num_classes)]
        for component, index in enumerate(self.component_class):
            if seen[component]:
                members[index].append(component)
        classes = torch.tensor(self.component_class)
        if self.covariance_type == "auto" and self._chosen is None:
            self._chosen, reason = choose(self.moments)
            if reason:
                self._say_choice(reason)
        try:
            gaussians = estimate(self._estimated_from(), classes, self._regularization_to_use())
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise ValueError(
                "the density has a covariance without a Cholesky factor, which none has that was "
                f"fitted to finite features of moderate size; fit it anew ({error})"
            ) from error
        # Last, as another thread takes it as the sign that the members are there.
        self._members, self._gaussians = members, gaussians
        return gaussians

    def _say_choice(self, reason: str) -> None:
        shrunk = " with regularization='oas'" if self.regularization == "auto" else ""
        warnings.warn(
            f"covariance_type='auto' chose {self._chosen!r}{shrunk}: {reason}; "
            "covariance_type='full' insists on the paper's",
            UserWarning,
            stacklevel=4,
        )

    def _regularization_to_use(self) -> str:
        if self._component_class is not None:
            return "jitter"  # a mixture that was fitted elsewhere is taken as it is
        leaner = self.covariance_type == "auto" and self._chosen != "full"
        return "oas" if leaner and self.regularization == "auto" else self.regularization

    @plain_tensors()
    def _estimated_from(self) -> Moments:
        """The moments of the covariance type that was chosen; call once that is known."""
        chosen = self._chosen or self.covariance_type
        if self.moments.covariance_type == chosen:
            return self.moments
        if not self._source:
            convert = tied_moments if chosen == "tied" else low_rank_moments
            self._source = [convert(self.moments)]
        return self._source[0]

    def _evaluated(self, features: Tensor) -> Gaussians:
        gaussians = self._derived()
        check_features(features, self.num_features)
        if features.device != self.device:
            raise ValueError(
                f"features are on {features.device}, but the density is on {self.device}; move it "
                f"with density.to({str(features.device)!r})"
            )
        return gaussians

    def _refuse_empty(self, classes: list[int]) -> None:
        empty = [index for index in classes if not self._members[index]]
        if empty:
            raise ValueError(f"target names class(es) {empty} that the density has no samples of")

    def _class_log_prob(self, gaussians: Gaussians, projected: Tensor, index: int) -> Tensor:
        values = [gaussians.log_prob(projected, k) for k in self._members[index]]
        return values[0] if len(values) == 1 else torch.stack(values, 1).logsumexp(1)
