"""Weighted moments of classes (count, mean, scatter), streamed and merged in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from captum_deduce.density import memory
from captum_deduce.density.class_scatters import ClassScatters, check_rows
from captum_deduce.density.fitted_module import FittedModule, dtype_kept
from captum_deduce.density.samples import Samples

if TYPE_CHECKING:
    from typing_extensions import Self

COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
"""What of a class's scatter matrix is kept, in scikit-learn's words."""

_LEANER = "pass covariance_type='tied' or 'diag', or choose a layer with fewer features"


class _Summary(NamedTuple):
    """The moments of samples of one class; the products of ``deviations`` are their scatter."""

    class_index: int
    num_samples: Tensor | int
    weight: Tensor | float
    squared_weight: Tensor | float
    mean: Tensor
    deviations: Tensor
    features: Tensor | None = None
    sample_weight: Tensor | None = None


class Moments(FittedModule):
    r"""Count, weight, mean and scatter of each class's features, from one pass in any order.

    With the weights :math:`w_i` of a class (1, a sample weight, a responsibility or the product of
    both) it holds :math:`V_1 = \sum_i w_i`, :math:`V_2 = \sum_i w_i^2`, the mean
    :math:`\mu = \sum_i w_i z_i / V_1` and of the scatter
    :math:`S = \sum_i w_i (z_i - \mu)(z_i - \mu)^\top` what the covariance type needs: S of each
    class (``"full"``, D x D), their sum (``"tied"``, D x D), their diagonals (``"diag"``,
    C x D) or traces (``"spherical"``, C). Two sets of moments are united by Chan, Golub and
    LeVeque's pairwise update ("Algorithms for computing the sample variance", 1983), which loses no
    digits where means are large beside deviations.

    ``"full"`` holds matrices of classes that have had samples only, and for as long as a class has
    no more samples than features the samples themselves, in the precision in which they came.
    ``"low_rank"`` holds the sum, and of each class that has had samples the scatter
    :math:`A^\top S A` (r x r) in the directions A, or as long as they are no more than r, rows
    whose products that is.
    Room for new classes grows by halves, so that those that come one after another are not copied
    each time.

    Args:
        covariance_type (str): One of :data:`COVARIANCE_TYPES`, or ``"low_rank"``.
        num_classes (int, optional): C. Default: 0
        num_features (int, optional): D. Default: 0
        device (torch.device, optional): Where the buffers live. Default: None (the CPU)
        basis (Tensor, optional): A, D x r, of ``"low_rank"``. Default: None
    """

    count: Tensor
    weight: Tensor
    squared_weight: Tensor
    mean: Tensor
    scatter: Tensor
    basis: Tensor

    def __init__(
        self,
        covariance_type: str,
        num_classes: int = 0,
        num_features: int = 0,
        device: torch.device | None = None,
        basis: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.covariance_type = covariance_type
        # What buffers are views of the first rows of.
        self._rooms: dict[str, Tensor] = {}
        device = device or torch.device("cpu")
        shapes = self._shapes(num_classes, num_features)
        needed = sum(8 * math.prod(shape) for shape in shapes.values())
        what = f"moments of {num_classes:,} classes and {num_features:,} features"
        memory.require(needed, device, f"{covariance_type!r} {what}", _LEANER)
        for name, shape in shapes.items():
            dtype = torch.int64 if name == "count" else torch.float64
            self.register_buffer(name, torch.zeros(shape, dtype=dtype, device=device))
        self.classes: ClassScatters | None = None
        if covariance_type == "full":
            self.classes = ClassScatters(num_features)
        elif covariance_type == "low_rank":
            if basis is None:
                basis = torch.zeros(num_features, 0, dtype=torch.float64, device=device)
            self.register_buffer("basis", basis)
            self.classes = ClassScatters(basis.shape[1])

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
        scatter = covariance * factor.view(-1, *[1] * (covariance.dim() - 1))
        if moments.classes is None:
            moments.scatter = scatter
        else:
            moments.classes.matrices = dict(enumerate(scatter))
        return moments

    @property
    def pooled(self) -> bool:
        """Whether all classes share one scatter matrix."""
        return self.covariance_type in ("tied", "low_rank")

    @property
    def num_classes(self) -> int:
        """C, classes without samples included."""
        return self.mean.shape[0]

    @property
    def num_features(self) -> int:
        """D; 0 before the first sample."""
        return self.mean.shape[1]

    @property
    def classes_nbytes(self) -> int:
        """Bytes that samples and matrices of classes take."""
        return 0 if self.classes is None else self.classes.nbytes

    def grow(self, num_classes: int) -> None:
        """Make room for classes that had no samples so far.

        Args:
            num_classes (int): The new C; fewer than there are changes nothing.
        """
        added = (num_classes - self.num_classes) * self.num_features * 8
        what = f"means of {num_classes:,} classes of {self.num_features:,} features"
        memory.require(2 * added, self.mean.device, what, "choose a layer with fewer features")
        for name in ("count", "weight", "squared_weight", "mean"):
            self._make_rows(name, num_classes)
        if self.covariance_type in ("diag", "spherical"):
            self._make_rows("scatter", num_classes)

    def add(self, samples: Samples) -> None:
        """Add samples; work memory is a few copies of one block of them.

        Args:
            samples (Samples): N x D, on any device.

        Raises:
            ValueError: What has to be kept of them doesn't fit into memory; nothing is added then.
        """
        if self.covariance_type == "full":
            self._require(self.size_with(samples) - self.classes_nbytes)
        self.grow(samples.num_classes)
        dtype = samples.features.dtype
        for block in samples.blocks(self.mean.device):
            self._unite((_summarize(*part) for part in block.by_class()), dtype)

    def merge(self, other: Moments) -> None:
        """Add the moments of other samples, of the same covariance type and number of features.

        Args:
            other (Moments): Left as it is; ``"low_rank"`` ones have the same directions.

        Raises:
            ValueError: The result doesn't fit into memory; nothing is added then.
        """
        self._require(other.classes_nbytes)
        self.grow(other.num_classes)
        columns = (other.count, other.weight, other.squared_weight, other.mean)
        count, weight, squared_weight, mean = (column.to(self.mean.device) for column in columns)
        none = mean.new_zeros(0, self.num_features)
        for c in (weight > 0).nonzero().flatten().tolist():
            own = _Summary(c, count[c], weight[c], squared_weight[c], mean[c], none)
            if self.covariance_type == "full" and other.classes is not None:
                self._merge_class(own, other.classes)
                continue
            self._unite([own])
            if self.classes is not None and other.classes is not None:
                self.classes.merge_deviations(c, other.classes, mean.device)
        if self.covariance_type != "full":
            scatter = other.scatter.to(self.mean.device)
            (self.scatter if self.pooled else self.scatter[: len(scatter)]).add_(scatter)

    def size_with(self, samples: Samples) -> int:
        """Tell what the classes' samples and matrices of ``"full"`` will take at most.

        Args:
            samples (Samples): Samples to come.

        Returns:
            int: Bytes.
        """
        count, came = self.count.cpu(), samples.counts()
        size = max(len(count), len(came))
        count = _longer(count, size) + _longer(came, size)
        size = samples.features.shape[1]
        kept = count * size * samples.features.element_size()
        return int(torch.where(count <= size, kept, 8 * size**2 * (count > 0)).sum())

    def class_scatter(self, index: int) -> Tensor:
        """Make the matrix of a class of ``"full"``, or in the directions of ``"low_rank"``.

        Args:
            index (int): The class.

        Returns:
            Tensor: D x D or r x r; 0 without samples.

        Raises:
            ValueError: Moments of another kind, which hold no such matrices.
        """
        if self.classes is None:
            raise ValueError(f"a {self.covariance_type!r} scatter has no matrices of classes")
        mean = self.mean[index] if self.covariance_type == "full" else self.basis.new_zeros(())
        return self.classes.scatter(index, mean)

    def add_in_directions(self, index: int, deviations: Tensor) -> None:
        """Add to the scatter of a class of ``"low_rank"``, and to nothing else.

        Args:
            index (int): The class.
            deviations (Tensor): n x r, rows whose products are the scatter of other samples, the
                part between their means included.
        """
        if self.classes is not None:
            self.classes.add_deviations(index, deviations)

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
        if self.pooled:
            return self.scatter.trace().expand(self.num_classes)
        traces = torch.zeros_like(self.weight)
        if self.classes is not None:
            for index in self.classes.classes():
                traces[index] = self.classes.trace(index, self.mean[index])
        return traces

    def _shapes(self, num_classes: int, num_features: int) -> dict[str, tuple[int, ...]]:
        scatter: dict[str, tuple[int, ...]] = {
            "tied": (num_features, num_features),
            "low_rank": (num_features, num_features),
            "diag": (num_classes, num_features),
            "spherical": (num_classes,),
        }
        shapes: dict[str, tuple[int, ...]] = {
            "count": (num_classes,),
            "weight": (num_classes,),
            "squared_weight": (num_classes,),
            "mean": (num_classes, num_features),
        }
        if self.covariance_type in scatter:
            shapes["scatter"] = scatter[self.covariance_type]
        return shapes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._rooms.clear()
        super()._apply(fn, recurse)
        if self.classes is not None:
            self.classes.map(dtype_kept(fn))
        return self

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

    def _require(self, needed: int) -> None:
        classes = int((self.weight > 0).sum())
        what = f"{self.covariance_type!r} scatter matrices of {self.num_features:,} features"
        seen = f"{what} (beside those of {classes:,} classes that there are)"
        memory.require(needed, self.mean.device, seen, _LEANER)

    def _unite(self, summaries: Iterable[_Summary], dtype: torch.dtype = torch.float64) -> None:
        summaries = list(summaries)
        if not summaries:
            return
        classes, parts = [], []
        for summary, between in zip(summaries, self._shift(summaries), strict=True):
            deviations = between.unsqueeze(0)
            if len(summary.deviations) != 1:  # one sample is its own mean
                deviations = torch.cat([summary.deviations, deviations])
            if self.pooled:
                classes.append(summary.class_index)
                parts.append(deviations)
            else:
                self._add_scatter(summary, deviations, dtype)
        for group in _groups(list(map(len, parts)), self.num_features):
            self._add_pooled(classes[group], parts[group])

    def _add_pooled(self, classes: list[int], deviations: list[Tensor]) -> None:
        """Add deviations of many classes: each product would rewrite the whole D x D matrix."""
        joined = torch.cat(deviations)
        self.scatter.addmm_(joined.T, joined)
        if self.covariance_type == "low_rank":
            parts = torch.split(joined @ self.basis, list(map(len, deviations)))
            for index, part in zip(classes, parts, strict=True):
                self.add_in_directions(index, part)

    def _shift(self, summaries: Sequence[_Summary]) -> Tensor:
        """Take over all but the scatter of different classes at once.

        Returns what the distance of the two means adds to each scatter: it is the product of a row.
        """
        index = torch.tensor([summary.class_index for summary in summaries]).to(self.mean.device)

        def column(values: Sequence[Tensor | float]) -> Tensor:
            return torch.stack([torch.as_tensor(value).to(self.weight) for value in values])

        weight = column([summary.weight for summary in summaries])
        before = self.weight[index]
        total = before + weight
        share = weight / total
        difference = torch.stack([summary.mean for summary in summaries]) - self.mean[index]
        self.mean[index] += difference * share.unsqueeze(1)
        self.weight[index] = total
        self.squared_weight[index] += column([summary.squared_weight for summary in summaries])
        count = column([summary.num_samples for summary in summaries])
        self.count[index] += count.to(self.count.dtype)
        return difference * (before * share).sqrt().unsqueeze(1)

    def _add_scatter(self, summary: _Summary, deviations: Tensor, dtype: torch.dtype) -> None:
        index = summary.class_index
        if self.covariance_type == "spherical":
            self.scatter[index] += deviations.square().sum()
        elif self.covariance_type == "diag":
            self.scatter[index] += deviations.square().sum(0)
        elif self.classes is not None and summary.features is not None:
            if index in self.classes.matrices:
                self.classes.matrices[index].addmm_(deviations.T, deviations)
            else:
                weight = summary.sample_weight
                if weight is None:
                    weight = self.weight.new_ones(len(summary.features))
                self.classes.add_samples(index, summary.features, weight, self.mean[index], dtype)

    def _merge_class(self, own: _Summary, classes: ClassScatters) -> None:
        """Take over a class of ``"full"`` moments, from samples or a matrix."""
        index, device = own.class_index, self.mean.device
        if index in classes.rows:
            # As the samples of one batch; there may be the same class in both.
            for features, weight in list(classes.rows[index]):
                row, kept = features.to(device), weight.to(device)
                summary = _summarize(index, row.to(torch.float64), kept)
                self._unite([summary], features.dtype)
            return
        before = self.mean[index].clone()
        between = self._shift([own])
        if self.classes is None or index not in classes.matrices:
            return
        matrix = classes.matrices[index].to(device)
        # A copy, for moments that are merged with themselves.
        self.classes.add_matrix(index, matrix.clone(), between, before)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.classes is not None:
            for name, tensor in self.classes.state(self.mean).items():
                destination[prefix + self._stored_as(name)] = tensor

    def _stored_as(self, name: str) -> str:
        # The sum of all classes' has the name already.
        return name if self.covariance_type == "full" else name.replace("scatter", "block")

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        self._rooms.clear()
        state_dict = dict(state_dict)
        mean = state_dict.get(prefix + "mean")
        problem = None
        if isinstance(mean, Tensor) and mean.dim() != 2:
            problem = f"{prefix}mean must be K x D, got shape {tuple(mean.shape)}"
        elif isinstance(mean, Tensor) and mean.dim() == 2:
            problem = self._load_classes(state_dict, prefix, mean.shape[1])
            for name, shape in self._shapes(*mean.shape).items():
                found = state_dict.get(prefix + name)
                if isinstance(found, Tensor) and found.shape != shape:
                    problem = self._mismatch(prefix + name, found, mean, shape)
        if problem is not None:
            # The last of the positional arguments collects what load_state_dict raises.
            args[-1].append(problem)
            return
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _load_classes(self, state_dict: dict[str, Any], prefix: str, size: int) -> str | None:
        """Take what belongs to classes out of a state; say what is wrong with it."""
        if self.classes is None:
            return None
        names = ("scatter", "scatter_class", "row", "row_weight", "row_class")
        state = {
            name: state_dict.pop(prefix + self._stored_as(name))
            for name in names
            if prefix + self._stored_as(name) in state_dict
        }
        basis = state_dict.get(prefix + "basis")
        if self.covariance_type == "low_rank" and isinstance(basis, Tensor):
            size = basis.shape[-1]
        stored = prefix + self._stored_as("scatter")
        if not isinstance(state.get("scatter"), Tensor):
            return f"{stored} is missing"
        if state["scatter"].dim() != 3 or state["scatter"].shape[1:] != (size, size):
            mean = state_dict[prefix + "mean"]
            return self._mismatch(stored, state["scatter"], mean, (len(mean), size, size))
        problem = check_rows(state, size)
        if problem is not None:
            return f"{prefix}{problem}"
        device = self.mean.device
        self.classes = ClassScatters(size)
        self.classes.load({name: tensor.to(device) for name, tensor in state.items()})
        return None

    def _mismatch(self, name: str, found: Tensor, mean: Tensor, shape: tuple[int, ...]) -> str:
        return (
            f"{name} has shape {tuple(found.shape)}; covariance_type {self.covariance_type!r} with "
            f"means of shape {tuple(mean.shape)} has {shape}"
        )


def _longer(counts: Tensor, size: int) -> Tensor:
    return nn.functional.pad(counts, (0, size - len(counts)))


def _groups(sizes: list[int], enough: int) -> Iterator[slice]:
    """Cut a list into parts whose sizes sum to enough, but for the last."""
    start = total = 0
    for end, size in enumerate(sizes, 1):
        total += size
        if total >= enough or end == len(sizes):
            yield slice(start, end)
            start, total = end, 0


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
        return _Summary(index, count, count, count, mean, deviations, features)
    scaled = deviations * weight.sqrt().unsqueeze(1)
    total, squared = weight.sum(), weight.square().sum()
    return _Summary(index, count, total, squared, mean, scaled, features, weight)
