"""PrototypeIndex: encoded training images by predicted class, and the nearest of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from captum_deduce import checks, progress, storage
from captum_deduce._version import __version__
from captum_deduce.classifiers import FrozenModel, device_of
from captum_deduce.prototypes.neighbours import nearest_rows

if TYPE_CHECKING:
    from typing_extensions import Self

K_TYPES = ("mean", "point")
"""What k neighbours stand for, see :meth:`PrototypeIndex.select`."""

_FORMAT = "captum-deduce prototypes"
_FORMAT_VERSION = "1"


class PrototypeIndex(nn.Module):
    r"""Features of training images, grouped by class: what prototypes are made of.

    In the method that it serves (:class:`~captum_deduce.VLK`) the class of a training image is the
    one that the classifier *predicts* for it, and its features are an encoder's output, or the
    image itself.

    Neighbours are exact (:func:`~captum_deduce.prototypes.nearest_rows`), and rows at the same
    distance rank in the order in which they were given.

    Features are a buffer, so that ``.to(device)`` and ``.to(dtype)`` work as in any module.

    Examples::

        >>> features = torch.tensor([[0., 0.], [1., 0.], [5., 5.], [6., 5.], [9., 9.]])
        >>> index = PrototypeIndex(features, target=torch.tensor([0, 0, 1, 1, 1]))
        >>> index
        PrototypeIndex(classes=2, features=2, counts=2..3)
        >>> prototypes, classes = index.select(
        ...     features[:1], admissible=torch.tensor([[False, True]]), k=2)
        >>> prototypes, classes
        (tensor([[5.5000, 5.0000]]), tensor([1]))
    """

    features: Tensor
    counts: Tensor

    def __init__(
        self,
        features: Tensor,
        target: Tensor,
        num_classes: int | None = None,
        *,
        chunk_size: int = 4096,
    ) -> None:
        """Group features by class.

        Args:
            features (Tensor): N x D, floating-point.
            target (Tensor): N (or N x 1) classes, integers; those that the classifier predicts.
            num_classes (int, optional): C. Default: None (the largest class + 1)
            chunk_size (int, optional): Most rows that a search looks at together: besides the
                features it needs memory for chunk_size x (D + queries) numbers. Default: 4096

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: Shapes that do not fit, values that are not finite, or a class out of range.
        """
        super().__init__()
        if num_classes is not None:
            checks.number("num_classes", num_classes, minimum=1, integer=True)
        checks.number("chunk_size", chunk_size, minimum=1, integer=True)
        _check_rows("features", features)
        classes = _check_classes(target, len(features), num_classes).to(features.device)
        order = classes.argsort(stable=True)
        self.chunk_size = chunk_size
        self.register_buffer("features", features.detach()[order])
        self.register_buffer("counts", classes.bincount(minlength=num_classes or 0))

    @classmethod
    def from_loader(
        cls,
        forward_func: Callable[..., Any],
        encoder: Callable[..., Any] | None,
        loader: Iterable[Any],
        *,
        device: torch.device | str | None = None,
        show_progress: bool | None = None,
        chunk_size: int = 4096,
    ) -> Self:
        """Encode all images of a loader, in one pass; models are left as they were found.

        Args:
            forward_func (Callable or nn.Module): The classifier: N inputs to N x C class scores.
                Its predictions are the classes; labels in the loader are not looked at.
            encoder (Callable, nn.Module or None): N inputs to N x ... features, which are
                flattened. None: the images themselves are the features.
            loader (Iterable): Yields batches of images, alone or first in a tuple.
            device (torch.device or str, optional): Where the index is kept. Default: None (where
                the classifier is)
            show_progress (bool, optional): Draw a progress bar.
                Default: None (after two seconds, in a terminal or a notebook)
            chunk_size (int, optional): As for the constructor. Default: 4096

        Returns:
            PrototypeIndex: With a class for each that the classifier knows; some may be empty.

        Raises:
            TypeError: A loader that yields something else.
            ValueError: An empty loader, an encoder that does not return a row per image, or
                features that are not finite.
        """
        features, classes, num_classes = [], [], 0
        companions = () if encoder is None else (checks.callable_model("encoder", encoder),)
        with torch.no_grad(), FrozenModel(forward_func, companions=companions) as frozen:
            model_device = device_of(frozen.modules)
            kept_on = torch.device(device) if device is not None else model_device
            for images in progress.bar(
                _images(loader), desc="prototypes", unit="batch", show_progress=show_progress
            ):
                images = images.to(model_device)
                scores, _ = frozen(images)
                features.append(encode(encoder, images).to(kept_on))
                classes.append(scores.argmax(1).to(kept_on))
                num_classes = scores.shape[1]
        if not features:
            raise ValueError("loader must yield at least one batch, got none")
        joined = torch.cat(features)
        # Both copies and the list's tensors would be three times the features.
        features.clear()
        return cls(joined, torch.cat(classes), num_classes, chunk_size=chunk_size)

    @property
    def num_classes(self) -> int:
        """C, empty classes included."""
        return len(self.counts)

    @property
    def num_features(self) -> int:
        """D."""
        return self.features.shape[1]

    def __len__(self) -> int:
        return len(self.features)

    def extra_repr(self) -> str:
        """Sizes, for ``repr``."""
        sizes = self.counts.tolist()
        return (
            f"classes={self.num_classes}, features={self.num_features}, "
            f"counts={min(sizes)}..{max(sizes)}"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def nearest(self, features: Tensor, target: int, k: int = 1) -> tuple[Tensor, Tensor]:
        """Find the rows of one class that are nearest to each of A feature vectors.

        Args:
            features (Tensor): A x D, of the index's dtype and on its device.
            target (int): The class.
            k (int, optional): How many. Default: 1

        Returns:
            tuple[Tensor, Tensor]: Euclidean distances, A x k, ascending, and the rows, A x k x D.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: Features that do not fit the index, a class that is empty or not there, or
                ``k`` larger than the class.
        """
        self._check_queries(features)
        checks.targets(target, 1, self.num_classes)
        self.require(k, [target])
        rows = self._by_class()[target]
        distances, indices = nearest_rows(features, rows, k, self.chunk_size)
        return distances, rows[indices]

    def select(
        self, features: Tensor, admissible: Tensor, *, k: int | None = 5, k_type: str = "mean"
    ) -> tuple[Tensor, Tensor]:
        r"""Choose for each of A feature vectors the class with the nearest prototype.

        With ``k`` and ``k_type="mean"`` the prototype of a class is the mean of its k rows nearest
        to the vector, and its score the mean of their distances; with ``k_type="point"`` prototype
        and score are those of the k-th nearest row. Without ``k`` the prototype is the mean of all
        rows, and its score the vector's distance to it. The admissible class with the smallest
        score is chosen, the first on ties. Empty classes have no prototype and are passed over.

        Args:
            features (Tensor): A x D, of the index's dtype and on its device.
            admissible (Tensor): The classes to choose from, A x C, bool.
            k (int or None, optional): Neighbours. Default: 5
            k_type (str, optional): ``"mean"`` or ``"point"``. Default: ``"mean"``

        Returns:
            tuple[Tensor, Tensor]: Prototypes, A x D, and their classes, A, int64.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: Features that do not fit the index, a row without an admissible class that
                has images, or ``k`` larger than an admissible class that is not empty.
        """
        self._check_queries(features)
        checks.choice("k_type", k_type, K_TYPES)
        if admissible.shape != (len(features), self.num_classes) or admissible.dtype != torch.bool:
            raise ValueError(
                f"admissible must be bool and {len(features)} x {self.num_classes}, got "
                f"{admissible.dtype} and {tuple(admissible.shape)}"
            )
        present = admissible & (self.counts > 0)
        if not present.any(1).all():
            row = int((~present.any(1)).nonzero()[0])
            raise ValueError(
                f"no class that is admissible for row {row} "
                f"({admissible[row].nonzero().flatten().tolist()}) has an image in the prototypes"
            )
        self.require(k, present.any(0).nonzero().flatten().tolist())
        best_score = features.new_full((len(features),), float("inf"))
        prototypes = torch.zeros_like(features)
        chosen = self.counts.new_zeros(len(features))
        for index, rows in enumerate(self._by_class()):
            asking = present[:, index].nonzero().flatten()
            if len(asking) == 0:
                continue
            score, candidate = self._prototype(features[asking], rows, k, k_type)
            nearer = score < best_score[asking]
            asking = asking[nearer]
            best_score[asking] = score[nearer]
            prototypes[asking] = candidate[nearer]
            chosen[asking] = index
        return prototypes, chosen

    def require(self, k: int | None, classes: Iterable[int] | None = None) -> None:
        """Refuse what the classes have too few images for.

        Args:
            k (int or None): Neighbours that are needed; None needs one image.
            classes (Iterable[int], optional): The classes in question. Default: None (all that are
                not empty; at least two of them are needed, so that one is left beside any)

        Raises:
            TypeError: ``k`` is no int.
            ValueError: It is below 1, or a class has too few images; the message names it.
        """
        if k is not None:
            checks.number("k", k, minimum=1, integer=True)
        sizes = self.counts.tolist()
        if classes is None:
            classes = [index for index, size in enumerate(sizes) if size]
            if len(classes) < 2:
                raise ValueError(
                    f"prototypes must hold images of two classes at least, got only {classes}"
                )
        for index in sorted(set(classes)):
            if sizes[index] == 0:
                raise ValueError(
                    f"prototypes hold no image of class {index}: the classifier predicts it for "
                    "none of the images that they were made of"
                )
            if k is not None and k > sizes[index]:
                raise ValueError(
                    f"k must be at most the number of images of class {index} in the prototypes, "
                    f"{sizes[index]}, got {k}"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one safetensors file.

        Args:
            path (path): The file, by convention ``*.safetensors``.
        """
        metadata = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "chunk_size": str(self.chunk_size),
        }
        storage.write(path, self.state_dict(), metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Self:
        """Read a file that :meth:`save` wrote; nothing in it is executed.

        Args:
            path (path): The file.
            device (torch.device or str, optional): Where the index goes. Default: "cpu"

        Returns:
            PrototypeIndex: As it was saved.

        Raises:
            FileNotFoundError: No such file.
            ValueError: Truncated, or not an index that this version reads.
        """
        tensors, metadata = storage.read(path, "prototypes")
        if metadata.get("format") != _FORMAT or metadata.get("format_version") != _FORMAT_VERSION:
            raise ValueError(
                f"{path} holds no prototypes that captum-deduce {__version__} reads (its metadata: "
                f"{metadata})"
            )
        try:
            counts = tensors["counts"]
            if int(counts.sum()) != len(tensors["features"]):
                raise ValueError(
                    f"its counts are of {int(counts.sum())} images, it has "
                    f"{len(tensors['features'])}"
                )
            target = torch.arange(len(counts)).repeat_interleave(counts)
            chunk_size = int(metadata["chunk_size"])
            index = cls(tensors["features"], target, len(counts), chunk_size=chunk_size)
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} holds no complete prototypes: {error}") from error
        return index.to(device)

    def _by_class(self) -> list[Tensor]:
        return list(torch.split(self.features, self.counts.tolist()))

    def _prototype(
        self, queries: Tensor, rows: Tensor, k: int | None, k_type: str
    ) -> tuple[Tensor, Tensor]:
        """Score (A) and prototype (A x D) of the class that has these rows."""
        if k is None:
            mean = rows.mean(0).expand_as(queries)
            return (queries - mean).norm(dim=1), mean
        distances, indices = nearest_rows(queries, rows, k, self.chunk_size)
        if k_type == "point":
            return distances[:, -1], rows[indices[:, -1]]
        return distances.mean(1), rows[indices].mean(1)

    def _check_queries(self, features: Tensor) -> None:
        _check_rows("features", features)
        for what, found, expected in (
            ("D =", features.shape[1], self.num_features),
            ("dtype", features.dtype, self.features.dtype),
            ("device", features.device, self.features.device),
        ):
            if found != expected:
                raise ValueError(
                    f"features must fit the prototypes, {what} {expected}, got {what} {found}"
                )


def encode(encoder: Callable[..., Any] | None, images: Tensor) -> Tensor:
    """Turn images into rows of features.

    Args:
        encoder (Callable or None): N inputs to N x ... features; None leaves images as they are.
        images (Tensor): N x ...

    Returns:
        Tensor: N x D.

    Raises:
        TypeError: The encoder returned no tensor.
        ValueError: Not a row of floating-point features for each image.
    """
    if encoder is None:
        return images.flatten(1)
    # A clone, as a first layer may work in place, which a leaf does not allow.
    output = encoder(images.clone())
    if not isinstance(output, Tensor):
        raise TypeError(f"encoder must return a tensor, got {type(output).__name__}")
    if output.dim() < 2 or len(output) != len(images) or not output.is_floating_point():
        raise ValueError(
            f"encoder must return floating-point features, a row for each of {len(images)} "
            f"image(s), got shape {tuple(output.shape)} and {output.dtype}"
        )
    return output.flatten(1)


def _images(loader: Iterable[Any]) -> Iterator[Tensor]:
    for batch in loader:
        images = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(images, Tensor):
            raise TypeError(
                "loader must yield batches of images, alone or first in a tuple, got "
                f"{type(batch).__name__} of {type(images).__name__}"
            )
        yield images


def _check_rows(name: str, rows: object) -> None:
    if not isinstance(rows, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(rows).__name__}")
    if not rows.is_floating_point():
        raise TypeError(f"{name} must be floating-point, got {rows.dtype}")
    if rows.dim() != 2 or rows.numel() == 0:
        raise ValueError(
            f"{name} must have the shape N x D with N and D at least 1, got {tuple(rows.shape)}"
        )
    if not torch.isfinite(rows).all():
        raise ValueError(f"{name} must be finite, got NaN or infinite values")


def _check_classes(target: object, count: int, num_classes: int | None) -> Tensor:
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a torch.Tensor, got {type(target).__name__}")
    if target.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"target must hold one class per row ({count}), got shape {tuple(target.shape)}"
        )
    most = num_classes if num_classes is not None else torch.iinfo(torch.int64).max
    return checks.targets(target, count, most)
