"""Weighted moments of classes (count, mean, scatter), streamed and merged in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_deduce.density.samples import Samples

if TYPE_CHECKING:
    from typing_extensions import Self

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
"""What of a class's scatter matrix is kept, in scikit-learn's words."""


class FittedModule(nn.Module):
    """A module whose buffers hold what was fitted: their shapes come from data, their dtype stays.

    ``.half()``, ``.float()`` and ``.to(dtype)`` move the buffers but keep them in float64, and
    ``load_state_dict`` takes over the shapes of what it loads.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(dtype_kept(fn), recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name, buffer in self._buffers.items():
            loaded = state_dict.get(prefix + name)
            if buffer is not None and isinstance(loaded, Tensor):
                self._buffers[name] = buffer.new_empty(loaded.shape)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def dtype_kept(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap a function that moves or converts tensors so that it only moves them.

    Args:
        function (Callable): From tensor to tensor, as ``nn.Module`` applies them to its buffers.

    Returns:
        Callable: The same, with the dtype of its argument; a ``TypeError`` from a device without
        float64 says what to do.
    """

    def move(tensor: Tensor) -> Tensor:
        try:
            moved = function(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)
        except TypeError as error:
            raise TypeError(
                f"ClassGaussianMixture computes in float64 and could not be moved ({error}); where "
                "a device has no float64, leave the density on the CPU and pass it features there"
            ) from error

    return move


class _Summary(NamedTuple):
    """The moments of samples of one class; the products of ``deviations`` are their scatter."""

    class_index: int
    num_samples: Tensor | int
    weight: Tensor | float
    squared_weight: Tensor | float
    mean: Tensor
    deviations: Tensor


class Moments(FittedModule):
    r"""Count, weight, mean and scatter of each class's features, from one pass in any order.

    With the weights :math:`w_i` of a class (1, a sample weight, a responsibility or the product of
    both) it holds :math:`V_1 = \sum_i w_i`, :math:`V_2 = \sum_i w_i^2`, the mean
    :math:`\mu = \sum_i w_i z_i / V_1` and of the scatter
    :math:`S = \sum_i w_i (z_i - \mu)(z_i - \mu)^\top` what the covariance type needs: S of each
    class (``"full"``, C x D x D), their sum (``"tied"``, D x D), their diagonals (``"diag"``,
    C x D) or traces (``"spherical"``, C). Two sets of moments are united by Chan, Golub and
    LeVeque's pairwise update ("Algorithms for computing the sample variance", 1983), which loses no
    digits where means are large beside deviations.

    The scatter of ``"full"`` reaches to the last class that has had samples only. Room for new
    classes grows by halves, so that classes that come one after another are not copied each time.

    Args:
        covariance_type (str): One of :data:`COVARIANCE_TYPES`.
        num_classes (int, optional): C. Default: 0
        num_features (int, optional): D. Default: 0
        device (torch.device, optional): Where the buffers live. Default: None (the CPU)
    """

    count: Tensor
    weight: Tensor
    squared_weight: Tensor
    mean: Tensor
    scatter: Tensor

    def __init__(
        self,
        covariance_type: str,
        num_classes: int = 0,
        num_features: int = 0,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.covariance_type = covariance_type
        # What buffers are views of the first rows of.
        self._rooms: dict[str, Tensor] = {}
        for name, shape in self._shapes(num_classes, num_features).items():
            if name == "scatter" and covariance_type == "full":
                shape = (0, *shape[1:])
            dtype = torch.int64 if name == "count" else torch.float64
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device))

    @classmethod
    def of_population(
        cls, covariance_type: str, weight: Tensor, mean: Tensor, covariance: Tensor
    ) -> Moments:
        """The moments behind known Gaussians: no sample has any weight, so V_2 and counts are 0.

        Args:
            covariance_type (str): One of :data:`COVARIANCE_TYPES`.
            weight (Tensor): K, float64; likewise the others.
            mean (Tensor): K x D.
            covariance (Tensor): In scikit-learn's shapes.

        Returns:
            Moments: Of K components.
        """
        moments = cls(covariance_type, mean.shape[0], mean.shape[1])
        factor = weight.sum(0, keepdim=True) if covariance_type == "tied" else weight
        if covariance_type == "spherical":
            factor = factor * mean.shape[1]
        moments.weight, moments.mean = weight, mean
        moments.scatter = covariance * factor.view(-1, *[1] * (covariance.dim() - 1))
        return moments

    @property
    def num_classes(self) -> int:
        """C, classes without samples included."""
        return self.mean.shape[0]

    @property
    def num_features(self) -> int:
        """D; 0 before the first sample."""
        return self.mean.shape[1]

    def grow(self, num_classes: int) -> None:
        """Make room for classes that had no samples so far.

        Args:
            num_classes (int): The new C; fewer than there are changes nothing.
        """
        for name in ("count", "weight", "squared_weight", "mean"):
            self._make_rows(name, num_classes)
        if self.covariance_type in ("diag", "spherical"):
            self._make_rows("scatter", num_classes)

    def add(self, samples: Samples) -> None:
        """Add samples; work memory is a few copies of one block of them.

        Args:
            samples (Samples): N x D, on any device.
        """
        self.grow(samples.num_classes)
        if self.covariance_type == "full":
            self._make_rows("scatter", samples.num_classes)
        for block in samples.blocks(self.mean.device):
            self._unite(_summarize(*part) for part in block.by_class())

    def merge(self, other: Moments) -> None:
        """Add the moments of other samples, of the same covariance type and number of features.

        Args:
            other (Moments): Left as it is.
        """
        self.grow(other.num_classes)
        columns = (other.count, other.weight, other.squared_weight, other.mean)
        count, weight, squared_weight, mean = (column.to(self.mean.device) for column in columns)
        scatter = other.scatter.to(self.mean.device)
        if self.covariance_type == "full":
            self._make_rows("scatter", len(scatter))
        none = mean.new_zeros(0, self.num_features)
        self._unite(
            _Summary(c, count[c], weight[c], squared_weight[c], mean[c], none)
            for c in (weight > 0).nonzero().flatten().tolist()
        )
        (self.scatter if self._pooled else self.scatter[: len(scatter)]).add_(scatter)

    def effective_count(self) -> Tensor:
        r"""Kish's effective number of samples per class.

        Returns:
            Tensor: C, :math:`V_1^2 / V_2`: the count where all weights are equal, 0 without
            samples, infinite where :math:`V_2 = 0` (a population, not a sample).
        """
        effective = self.weight.square() / self.squared_weight
        return torch.where(self.weight > 0, effective, 0.0)

    def normalizer(self) -> Tensor:
        r"""The divisor of the scatter for an unbiased covariance, numpy's for ``aweights``.

        Returns:
            Tensor: C, :math:`V_1 - V_2 / V_1`: n - 1 for unit weights; 0 where a single sample
            holds the whole weight.
        """
        several = self.effective_count() > 1 + 1e-9
        return torch.where(several, self.weight - self.squared_weight / self.weight, 0.0)

    def trace(self) -> Tensor:
        """The trace of the scatter that a class's covariance is made of.

        Returns:
            Tensor: C; for ``"tied"`` the pooled one's, for each class.
        """
        if self.covariance_type == "spherical":
            return self.scatter
        if self.covariance_type == "diag":
            return self.scatter.sum(1)
        trace = self.scatter.diagonal(dim1=-2, dim2=-1).sum(-1)
        if self._pooled:
            return trace.expand(self.num_classes)
        return nn.functional.pad(trace, (0, self.num_classes - len(trace)))

    @property
    def _pooled(self) -> bool:
        return self.covariance_type == "tied"

    def _shapes(self, num_classes: int, num_features: int) -> dict[str, tuple[int, ...]]:
        scatter: dict[str, tuple[int, ...]] = {
            "full": (num_classes, num_features, num_features),
            "tied": (num_features, num_features),
            "diag": (num_classes, num_features),
            "spherical": (num_classes,),
        }
        return {
            "count": (num_classes,),
            "weight": (num_classes,),
            "squared_weight": (num_classes,),
            "mean": (num_classes, num_features),
            "scatter": scatter[self.covariance_type],
        }

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._rooms.clear()
        return super()._apply(fn, recurse)

    def _make_rows(self, name: str, rows: int) -> None:
        """Put rows of zeros below a buffer's; it is copied only where its room is used up."""
        buffer = getattr(self, name)
        if rows <= len(buffer):
            return
        room = self._rooms.get(name)
        if room is None or room.data_ptr() != buffer.data_ptr() or rows > len(room):
            room = buffer.new_zeros(max(rows, 3 * len(buffer) // 2), *buffer.shape[1:])
            room[: len(buffer)] = buffer
            self._rooms[name] = room
        setattr(self, name, room[:rows])

    def _unite(self, summaries: Iterable[_Summary]) -> None:
        pooled: list[Tensor] = []
        for summary in summaries:
            deviations = self._shift(summary)
            if not self._pooled:
                self._add_scatter(summary.class_index, deviations)
                continue
            pooled.append(deviations)
            # One product for many small classes: each would rewrite the whole D x D matrix.
            if sum(map(len, pooled)) >= self.num_features:
                self._add_scatter(0, torch.cat(pooled))
                pooled = []
        if pooled:
            self._add_scatter(0, torch.cat(pooled))

    def _shift(self, summary: _Summary) -> Tensor:
        """Take over all but the scatter; return its deviations and the one between the means."""
        index = summary.class_index
        total = self.weight[index] + summary.weight
        share = summary.weight / total
        difference = summary.mean - self.mean[index]
        between = difference * (self.weight[index] * share).sqrt()
        self.mean[index] += difference * share
        self.weight[index] = total
        self.squared_weight[index] += summary.squared_weight
        self.count[index] += summary.num_samples
        return torch.cat([summary.deviations, between.unsqueeze(0)])

    def _add_scatter(self, index: int, deviations: Tensor) -> None:
        if self.covariance_type == "spherical":
            self.scatter[index] += deviations.square().sum()
        elif self.covariance_type == "diag":
            self.scatter[index] += deviations.square().sum(0)
        else:
            matrix = self.scatter if self._pooled else self.scatter[index]
            matrix.addmm_(deviations.T, deviations)

    def _may_be(self, name: str, found: Tensor, shape: tuple[int, ...]) -> bool:
        if name == "scatter" and self.covariance_type == "full":
            return found.dim() == 3 and found.shape[1:] == shape[1:] and len(found) <= shape[0]
        return found.shape == shape

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._rooms.clear()
        given = {name: state_dict.get(prefix + name) for name in self._buffers}
        mean = given["mean"]
        if isinstance(mean, Tensor) and mean.dim() == 2:
            for name, shape in self._shapes(*mean.shape).items():
                found = given[name]
                if isinstance(found, Tensor) and not self._may_be(name, found, shape):
                    # The last of the positional arguments collects what load_state_dict raises.
                    args[-1].append(
                        f"{prefix}{name} has shape {tuple(found.shape)}; covariance_type "
                        f"{self.covariance_type!r} with means of shape {tuple(mean.shape)} has "
                        f"{shape}"
                    )
                    return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def _summarize(index: int, features: Tensor, weight: Tensor | None) -> _Summary:
    count = len(features)
    shares = features.new_full((count,), 1 / count) if weight is None else weight / weight.sum()
    mean = shares @ features
    # The mean of the deviations is what rounding took from the mean; without it a constant feature
    # far from 0 would seem to vary.
    correction = shares @ (features - mean)
    mean = mean + correction
    deviations = features - mean
    if weight is None:
        return _Summary(index, count, count, count, mean, deviations)
    scaled = deviations * weight.sqrt().unsqueeze(1)
    return _Summary(index, count, weight.sum(), weight.square().sum(), mean, scaled)
