"""The result of every explainer: counterfactual images with what is known about them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_deduce import checks, storage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMAT = "captum-deduce counterfactuals"


@dataclass(frozen=True, eq=False, repr=False)
class Counterfactuals:
    r"""Counterfactuals of N (image, target) pairs.

    A pair without success holds its best attempt: the image with the highest target confidence
    seen on the way, the earliest on ties. It is no counterfactual; ``success`` says so.

    Args:
        inputs (Tensor): The originals, N x channels x height x width, in the model's units.
        counterfactuals (Tensor): The changed images, of the same shape.
        target (Tensor): Class asked for, N, int64.
        success (Tensor): Whether the search reached its goal, N, bool.
        confidence (Tensor): Softmax probability of the target for ``counterfactuals``, N.
        iterations (Tensor): Steps that the search made, N, int64.
        evaluations (Tensor): Forward passes with an input gradient, N, int64; the evaluation after
            the last step is included.
        forward_evaluations (Tensor): Further forward passes without a gradient, N, int64.
        prediction (Tensor): Class that the model gives the original, N, int64.
        log_density (Tensor, optional): Log-density in nats of the features of ``counterfactuals``
            under the target class, N. Default: None (the explainer has no density)
        trajectory (list[Tensor], optional): For each pair the images that the search evaluated,
            (steps + 1) x channels x height x width, on the CPU. Default: None (not asked for)
        settings (str, optional): The explainer with its settings, and what they came to for images
            of this size. Default: None (not known)

    Raises:
        ValueError: Tensors whose lengths or shapes do not agree.
    """

    inputs: Tensor
    counterfactuals: Tensor
    target: Tensor
    success: Tensor
    confidence: Tensor
    iterations: Tensor
    evaluations: Tensor
    forward_evaluations: Tensor
    prediction: Tensor
    log_density: Tensor | None = None
    trajectory: list[Tensor] | None = None
    settings: str | None = None

    def __post_init__(self) -> None:
        if self.inputs.shape != self.counterfactuals.shape:
            raise ValueError(
                f"counterfactuals must have the inputs' shape {tuple(self.inputs.shape)}, got "
                f"{tuple(self.counterfactuals.shape)}"
            )
        for name, value in self._per_pair().items():
            if value.shape != (len(self),):
                raise ValueError(
                    f"{name} must hold one value per pair ({len(self)}), got shape "
                    f"{tuple(value.shape)}"
                )
        if self.trajectory is not None and len(self.trajectory) != len(self):
            raise ValueError(
                f"trajectory must hold one tensor per pair ({len(self)}), got "
                f"{len(self.trajectory)}"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def __iter__(self) -> Iterator[Counterfactuals]:
        """Go through the pairs, each as a result of one pair."""
        return (self[pair] for pair in range(len(self)))

    def __repr__(self) -> str:
        shape = "x".join(str(size) for size in self.inputs.shape[1:])
        return f"Counterfactuals({self._counts('found')}, images {shape})"

    def _counts(self, found: str) -> str:
        already = int(self.already.sum())
        anew = f"{int(self.success.sum()) - already} of {len(self) - already} {found}"
        return f"{anew}, {already} there already" if already else anew

    @property
    def attributions(self) -> Tensor:
        """What changed, ``counterfactuals - inputs``, zero where a pixel stayed as it was."""
        return self.counterfactuals - self.inputs

    @property
    def already(self) -> Tensor:
        """Tell which originals reach the goal as they are, with nothing to be done (N, bool).

        Such a pair has ``success``, but its distance of 0 says nothing about the search. It enters
        no mean of :meth:`summary` and of :func:`captum_deduce.metrics.evaluate`.
        """
        unchanged = (self.inputs == self.counterfactuals).flatten(1).all(1)
        return self.success & unchanged.to(self.success.device)

    def l0(self, tolerance: float = 0.0) -> Tensor:
        """Entries that differ from the original.

        Args:
            tolerance (float, optional): Differences up to this do not count. Default: 0.0

        Returns:
            Tensor: N counts. See :func:`captum_deduce.metrics.l0`.
        """
        return _distance("l0", self, tolerance=tolerance)

    def sites(self) -> Tensor:
        """Places where some channel differs, N counts. See :func:`captum_deduce.metrics.sites`."""
        return _distance("sites", self)

    def l1(self) -> Tensor:
        """Sum of absolute differences, N values. See :func:`captum_deduce.metrics.l1`."""
        return _distance("l1", self)

    def l2(self) -> Tensor:
        """Euclidean distance, N values. See :func:`captum_deduce.metrics.l2`."""
        return _distance("l2", self)

    def linf(self) -> Tensor:
        """Largest absolute difference, N values. See :func:`captum_deduce.metrics.linf`."""
        return _distance("linf", self)

    def summary(self) -> str:
        """Say in a few lines how the search went.

        Distances are means over the pairs for which a counterfactual was found. Pairs that were
        :attr:`already` there are counted apart and enter no mean. The last line has the settings,
        with the numbers that rules came to.

        Returns:
            str: One line to four.
        """
        searched = self[~self.already]
        found = searched[searched.success]
        lines = [self._counts("counterfactuals found")]
        if len(found):
            has_channels = self.inputs.dim() > 2 and self.inputs.shape[1] > 1
            places = f" in {_mean(found.sites())} places" if has_channels else ""
            lines.append(
                f"L0 {_mean(found.l0())}{places}, L1 {_mean(found.l1())}, "
                f"confidence {_mean(found.confidence)} (means over those found)"
            )
        if len(searched):
            lines.append(
                f"{_mean(searched.iterations)} steps, {_mean(searched.evaluations)} gradient and "
                f"{_mean(searched.forward_evaluations)} forward-only evaluations per pair"
            )
        if self.settings:
            lines.append(self.settings)
        return "\n".join(lines)

    def plot(
        self,
        *,
        class_names: Sequence[str] | Mapping[int, str] | Mapping[str, str] | None = None,
        labels: Tensor | Sequence[int] | None = None,
        original_confidence: Tensor | None = None,
        max_rows: int = 10,
        image_size: float = 1.5,
        mean: float | Sequence[float] | Tensor | None = None,
        std: float | Sequence[float] | Tensor | None = None,
        bands: int | Sequence[int] | None = None,
    ) -> Figure:
        """Draw originals, counterfactuals and their differences.

        Arguments are those of :func:`captum_deduce.visualization.plot_counterfactuals`.

        Args:
            class_names (Sequence[str] or Mapping, optional): A name per class, or
                ``{index: name}``. Default: None (their numbers)
            labels (Tensor or Sequence[int], optional): The true classes, N. Default: None
            original_confidence (Tensor, optional): The model's probability of the class that it
                sees in the original, N. Default: None
            max_rows (int, optional): Most pairs to draw. Default: 10
            image_size (float, optional): Inches of an image's longer side. Default: 1.5
            mean (float, sequence or Tensor, optional): The mean with which inputs were normalised,
                a number or one per channel. Default: None (they were not)
            std (float, sequence or Tensor, optional): The standard deviation, likewise.
                Default: None
            bands (int or Sequence[int], optional): Of more than three channels those to draw as
                red, green and blue, or one as grey. Default: None (all are drawn)

        Returns:
            matplotlib.figure.Figure: The figure; it is not shown.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: No pairs, images that are neither grey nor RGB and no ``bands``, or
                arguments that do not fit.
        """
        return _picture(
            self,
            class_names=class_names,
            labels=labels,
            original_confidence=original_confidence,
            max_rows=max_rows,
            image_size=image_size,
            mean=mean,
            std=std,
            bands=bands,
        )

    @classmethod
    def concatenate(cls, results: Iterable[Counterfactuals]) -> Counterfactuals:
        """Join results, for example of calls in chunks.

        Args:
            results (Iterable[Counterfactuals]): At least one, of images of the same shape and
                dtype, on one device.

        Returns:
            Counterfactuals: Of all their pairs, in that order. ``log_density`` and ``trajectory``
            are kept where all of them have one, ``settings`` where all have the same.

        Raises:
            TypeError: Something else than results.
            ValueError: None, or images of different shapes, dtypes or devices.
        """
        if isinstance(results, cls):
            raise TypeError("results must be a list of Counterfactuals, got one")
        parts = list(results)
        if not all(isinstance(part, cls) for part in parts):
            found = [type(part).__name__ for part in parts]
            raise TypeError(f"results must be a list of Counterfactuals, got {found}")
        if not parts:
            raise ValueError("results must hold at least one, got none")
        kinds = {
            f"{tuple(part.inputs.shape[1:])} {part.inputs.dtype} on {part.inputs.device}"
            for part in parts
        }
        if len(kinds) > 1:
            raise ValueError(
                "results must be of images of one shape and dtype, on one device, got "
                f"{', '.join(sorted(kinds))}"
            )
        tensors = [part._tensors() for part in parts]
        everywhere = [name for name in tensors[0] if all(name in each for each in tensors)]
        values: dict[str, Any] = {
            name: torch.cat([each[name] for each in tensors]) for name in everywhere
        }
        if all(part.trajectory is not None for part in parts):
            values["trajectory"] = [path for part in parts for path in part.trajectory or []]
        if len({part.settings for part in parts}) == 1:
            values["settings"] = parts[0].settings
        return cls(**values)

    def _repr_html_(self) -> str:
        return _html(self)

    def __getitem__(
        self,
        index: int | np.integer[Any] | slice | Tensor | NDArray[Any] | list[int] | list[bool],
    ) -> Counterfactuals:
        """Select pairs.

        Args:
            index (int, slice, Tensor, NDArray or list): A number selects one pair; a slice, also
                with a negative step; a bool for each pair, such as ``result.success``; or indices,
                negative ones from the end.

        Returns:
            Counterfactuals: The selected pairs. A number gives a result of one pair, so that every
            field keeps its leading dimension.

        Raises:
            IndexError: A pair that is not there, a mask of another length, or several dimensions.
            TypeError: Another kind of index.
        """
        chosen = checks.rows("index", index, len(self))
        values: dict[str, Any] = {
            name: value[chosen.to(value.device)] for name, value in self._tensors().items()
        }
        if self.trajectory is not None:
            values["trajectory"] = [self.trajectory[i] for i in chosen.tolist()]
        return Counterfactuals(**values, settings=self.settings)

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file.

        Args:
            path (str or Path): The file, by convention ``*.safetensors``.
        """
        tensors = self._tensors()
        if self.trajectory is not None:
            empty = self.inputs.new_empty(0, *self.inputs.shape[1:])
            tensors["trajectory"] = torch.cat(self.trajectory or [empty])
            tensors["trajectory_lengths"] = torch.tensor(
                [len(images) for images in self.trajectory], dtype=torch.int64
            )
        words = {"format": _FORMAT, "format_version": "1"}
        if self.settings is not None:
            words["settings"] = self.settings
        storage.write(path, tensors, words)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Counterfactuals:
        """Read a file that :meth:`save` wrote.

        Args:
            path (str or Path): The file.
            device (str or torch.device, optional): Where the tensors go; trajectories stay on the
                CPU. Default: "cpu"

        Returns:
            Counterfactuals: As they were saved.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Truncated, damaged, or not a file of counterfactuals.
        """
        tensors, metadata = storage.read(path, "file of counterfactuals")
        if metadata.get("format") != _FORMAT or metadata.get("format_version") != "1":
            raise ValueError(
                f"{path} is not a file of counterfactuals that this version reads (its metadata "
                f"say {metadata!r})"
            )
        try:
            lengths = tensors.pop("trajectory_lengths", None)
            trajectory = None
            if lengths is not None:
                images = tensors.pop("trajectory")
                trajectory = list(torch.split(images, lengths.tolist())) if len(lengths) else []
            _check_types(tensors, trajectory)
            moved = {name: value.to(device) for name, value in tensors.items()}
            return cls(**moved, trajectory=trajectory, settings=metadata.get("settings"))
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} holds no complete set of counterfactuals: {error}") from error

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    def _per_pair(self) -> dict[str, Tensor]:
        tensors = self._tensors()
        return {
            name: value
            for name, value in tensors.items()
            if name not in ("inputs", "counterfactuals")
        }


def _check_types(tensors: Mapping[str, Tensor], trajectory: list[Tensor] | None) -> None:
    """Refuse tensors of a file whose shapes fit, but which a search doesn't return."""
    images = tensors["inputs"]
    expected = dict.fromkeys(("target", "iterations", "evaluations"), torch.int64)
    expected |= dict.fromkeys(("forward_evaluations", "prediction"), torch.int64)
    expected |= {"success": torch.bool, "counterfactuals": images.dtype}
    for name, tensor in tensors.items():
        if not tensor.numel():
            continue
        if name in expected and tensor.dtype != expected[name]:
            raise ValueError(f"{name} must be {expected[name]}, got {tensor.dtype}")
        if name not in expected and not tensor.is_floating_point():
            raise ValueError(f"{name} must be floating-point, got {tensor.dtype}")
    for pair, steps in enumerate(trajectory or ()):
        if steps.shape[1:] != images.shape[1:] or not steps.is_floating_point():
            raise ValueError(
                f"the trajectory of pair {pair} must be of floating-point images "
                f"{tuple(images.shape[1:])}, got {tuple(steps.shape[1:])} and {steps.dtype}"
            )


def _mean(values: Tensor) -> str:
    mean = values.double().mean().item()
    written = f"{mean:.3g}"
    return f"{mean:,.0f}" if "e+" in written else written


# The one place where a room reaches for rooms above it, and only when asked: a result measures and
# draws itself.


def _distance(name: str, result: Counterfactuals, **arguments: float) -> Tensor:
    from captum_deduce import metrics

    measured: Tensor = getattr(metrics, name)(result.inputs, result.counterfactuals, **arguments)
    return measured


def _picture(result: Counterfactuals, **arguments: Any) -> Figure:
    from captum_deduce.visualization import plot_counterfactuals

    return plot_counterfactuals(result, **arguments)


def _html(result: Counterfactuals) -> str:
    from captum_deduce.visualization import notebook_html

    return notebook_html(result)
