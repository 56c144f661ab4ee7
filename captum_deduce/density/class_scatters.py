"""Scatter matrices of the classes that have samples; few samples are kept as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor


class ClassScatters:
    """A D x D scatter matrix for each class with more samples than features, or its samples.

    n samples of a class are n x D numbers, in the precision in which they came; as soon as they
    outnumber the features they are replaced by their matrix. Nothing is held for other classes,
    and a class's matrix stays where it is when others come. Where only deviations are known their
    rows are kept in the same way, as samples of mean 0.

    Attributes:
        matrices (dict[int, Tensor]): Scatter matrices, D x D, float64, by class.
        rows (dict[int, list[tuple[Tensor, Tensor]]]): Features (n x D) and weights (n, float64)
            of the other classes' samples, in parts, by class.

    Args:
        num_features (int): D.
    """

    def __init__(self, num_features: int) -> None:
        self.num_features = num_features
        self.matrices: dict[int, Tensor] = {}
        self.rows: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def __len__(self) -> int:
        return len(self.matrices) + len(self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes that samples and matrices take."""
        kept = sum(part.nbytes for parts in self.rows.values() for pair in parts for part in pair)
        return kept + sum(matrix.nbytes for matrix in self.matrices.values())

    def classes(self) -> list[int]:
        """Those that have anything, in ascending order."""
        return sorted({*self.matrices, *self.rows})

    def add_samples(
        self, index: int, features: Tensor, weight: Tensor, mean: Tensor, dtype: torch.dtype
    ) -> None:
        """Add samples of a class that has no matrix yet.

        Args:
            index (int): The class.
            features (Tensor): n x D, float64.
            weight (Tensor): n, float64.
            mean (Tensor): D, of all the class's samples, these included.
            dtype (torch.dtype): In which the features came.
        """
        parts = self.rows.get(index, [])
        if sum(part.shape[0] for part, _ in parts) + len(features) > self.num_features:
            self.rows.pop(index, None)
            self.matrices[index] = _scatter([*parts, (features, weight)], mean)
            return
        # Copies, as what came is a view of a whole block.
        kept = features.clone() if dtype == torch.float64 else features.to(dtype)
        self.rows[index] = [*parts, (kept, weight.clone())]

    def add_matrix(self, index: int, matrix: Tensor, between: Tensor, mean: Tensor) -> None:
        """Add the scatter of other samples of a class.

        Args:
            index (int): The class.
            matrix (Tensor): D x D, about these samples' own mean.
            between (Tensor): 1 x D, whose product is what the distance of the two means adds.
            mean (Tensor): D, of the samples that are here already.
        """
        own = self.matrices.get(index)
        if own is None:
            parts = self.rows.pop(index, None)
            own = torch.zeros_like(matrix) if parts is None else _scatter(parts, mean)
            self.matrices[index] = own
        own.add_(matrix).addmm_(between.T, between)

    def add_deviations(self, index: int, deviations: Tensor) -> None:
        """Add rows whose products are a scatter; for classes whose rows all are such, of mean 0.

        Args:
            index (int): The class.
            deviations (Tensor): n x D, float64; copied.
        """
        matrix = self.matrices.get(index)
        if matrix is not None:
            matrix.addmm_(deviations.T, deviations)
            return
        # In one part, as there may be a row a batch.
        joined = torch.cat([*(part for part, _ in self.rows.pop(index, [])), deviations])
        if len(joined) > self.num_features:
            self.matrices[index] = joined.T @ joined
        else:
            self.rows[index] = [(joined, joined.new_ones(len(joined)))]

    def merge_deviations(self, index: int, other: ClassScatters, device: torch.device) -> None:
        """Add a class of others that were made of deviations, too.

        Args:
            index (int): The class.
            other (ClassScatters): Left as they are.
            device (torch.device): Of what is here.
        """
        if index in other.matrices:
            # A copy, for what is merged with itself.
            matrix = other.matrices[index].to(device, copy=True)
            self.add_matrix(index, matrix, matrix[:0], matrix.new_zeros(()))
        for part, _ in other.rows.get(index, []):
            self.add_deviations(index, part.to(device))

    def deviations(self, index: int, mean: Tensor) -> Tensor:
        """Samples of a class without a matrix, so that their products are their scatter.

        Args:
            index (int): The class.
            mean (Tensor): D, its mean.

        Returns:
            Tensor: n x D, float64.
        """
        return _deviations(self.rows[index], mean)

    def scatter(self, index: int, mean: Tensor) -> Tensor:
        """Make the scatter matrix of a class, or hand out the one that is here.

        Args:
            index (int): The class.
            mean (Tensor): D, its mean.

        Returns:
            Tensor: D x D, float64; 0 without samples.
        """
        if index in self.matrices:
            return self.matrices[index]
        if index in self.rows:
            return _scatter(self.rows[index], mean)
        return mean.new_zeros(self.num_features, self.num_features)

    def trace(self, index: int, mean: Tensor) -> Tensor:
        """Find the trace of a class's scatter.

        Args:
            index (int): The class.
            mean (Tensor): D, its mean.

        Returns:
            Tensor: No dimension.
        """
        if index in self.matrices:
            return self.matrices[index].trace()
        return self.deviations(index, mean).square().sum()

    def pooled(self, means: Tensor) -> Tensor:
        """Sum the scatter matrices of all classes; those of few samples are never made.

        Args:
            means (Tensor): C x D.

        Returns:
            Tensor: D x D.
        """
        total = means.new_zeros(self.num_features, self.num_features)
        for matrix in self.matrices.values():
            total += matrix
        for deviations in self._joined(means):
            total.addmm_(deviations.T, deviations)
        return total

    def map(self, function: Callable[[Tensor], Tensor]) -> None:
        """Apply a function to every tensor.

        Args:
            function (Callable): From tensor to tensor.
        """
        self.matrices = {index: function(matrix) for index, matrix in self.matrices.items()}
        self.rows = {
            index: [(function(part), function(weight)) for part, weight in parts]
            for index, parts in self.rows.items()
        }

    def state(self, like: Tensor) -> dict[str, Tensor]:
        """Gather what is here in a few tensors.

        Args:
            like (Tensor): Of the right device, float64.

        Returns:
            dict[str, Tensor]: ``scatter`` (M x D x D) and ``scatter_class`` (M); where there are
            samples ``row`` (R x D), ``row_weight`` (R) and ``row_class`` (R), too.
        """
        size = self.num_features
        found = sorted(self.matrices)
        state = {
            "scatter": torch.stack([self.matrices[index] for index in found])
            if found
            else like.new_zeros(0, size, size),
            "scatter_class": torch.tensor(found, dtype=torch.int64, device=like.device),
        }
        parts = [(index, *pair) for index in sorted(self.rows) for pair in self.rows[index]]
        if parts:
            counts = torch.tensor([len(part) for _, part, _ in parts])
            classes = torch.tensor([index for index, _, _ in parts])
            state["row"] = torch.cat([part for _, part, _ in parts])
            state["row_weight"] = torch.cat([weight for _, _, weight in parts])
            state["row_class"] = classes.repeat_interleave(counts).to(like.device)
        return state

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gathered; without classes, matrix c is class c's.

        Args:
            state (dict[str, Tensor]): Copied.
        """
        scatter = state["scatter"]
        classes = state.get("scatter_class", torch.arange(len(scatter))).tolist()
        # A matrix that is all 0 stood for a class without samples, before classes were named.
        self.matrices = {
            index: matrix.clone()
            for index, matrix in zip(classes, scatter, strict=True)
            if "scatter_class" in state or matrix.any()
        }
        self.rows = {}
        if "row" in state:
            for index in sorted(set(state["row_class"].tolist())):
                own = state["row_class"] == index
                self.rows[index] = [(state["row"][own], state["row_weight"][own])]

    def _joined(self, means: Tensor) -> Iterator[Tensor]:
        """Deviations of many classes at once: each product would rewrite the whole matrix."""
        parts: list[Tensor] = []
        size = 0
        for index in self.rows:
            parts.append(self.deviations(index, means[index]))
            size += len(parts[-1])
            if size >= self.num_features:
                yield torch.cat(parts)
                parts, size = [], 0
        if parts:
            yield torch.cat(parts)


def check_rows(state: Mapping[str, Tensor], size: int) -> str | None:
    """Say what is wrong with the matrices and samples of classes, before they are taken over.

    Args:
        state (Mapping[str, Tensor]): As :meth:`ClassScatters.state` gathers it.
        size (int): Columns of the samples.

    Returns:
        str or None: What is wrong.
    """
    scatter = state["scatter"]
    if scatter.dtype != torch.float64:
        return f"scatter must be torch.float64, got {scatter.dtype}"
    named = state.get("scatter_class")
    if named is not None and (named.dtype != torch.int64 or named.shape != (len(scatter),)):
        return f"scatter_class must name {len(scatter)} classes, got shape {tuple(named.shape)}"
    if "row" not in state:
        return None
    row, weight, classes = (state.get(name) for name in ("row", "row_weight", "row_class"))
    if row is None or weight is None or classes is None:
        return "row needs row_weight and row_class"
    if row.dim() != 2 or row.shape[1] != size or not row.is_floating_point():
        return f"row must be floating-point, n x {size}, got {tuple(row.shape)} and {row.dtype}"
    if weight.shape != row.shape[:1] or classes.shape != row.shape[:1]:
        return f"row_weight and row_class must have {len(row)} values"
    if classes.dtype != torch.int64 or not weight.is_floating_point():
        return f"row_weight and row_class are {weight.dtype} and {classes.dtype}"
    return None


def _deviations(parts: list[tuple[Tensor, Tensor]], mean: Tensor) -> Tensor:
    features = torch.cat([part.to(mean.dtype) for part, _ in parts])
    weight = torch.cat([weight for _, weight in parts])
    return (features - mean).mul_(weight.sqrt().unsqueeze(1))


def _scatter(parts: list[tuple[Tensor, Tensor]], mean: Tensor) -> Tensor:
    deviations = _deviations(parts, mean)
    return deviations.T @ deviations
