"""Any data set as numbered images: read in order, item by item, whatever an item does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    default_collate,
)

from captum_deduce.datasets import ImageData

IMAGE_NAMES = ("image", "img", "pixel_values", "images")
"""Where an item that is a mapping has its image; the first that is there."""

LABEL_NAMES = ("label", "labels", "target", "fine_label")
"""Where it has its label."""

_AT_ONCE = 32


@dataclass(frozen=True)
class Item:
    """One image of a data set.

    Args:
        index (int): Its position.
        image (Tensor, optional): channels x height x width, float32 or float64. Default: None (it
            could not be read)
        label (int, optional): Its class. Default: None (it has none)
        error (str, optional): Why it could not be read. Default: None
    """

    index: int
    image: Tensor | None = None
    label: int | None = None
    error: str | None = None


class Source:
    """A data set as numbered images.

    Args:
        dataset (Dataset, DataLoader or Iterable): Map-style (``dataset[i]``, ``len(dataset)``) or
            iterable, with items (image, label), images, or mappings as Hugging Face's; or a
            ``DataLoader`` of either, whose order must be that of its data set. Images are tensors
            as the model takes them; pictures and 8-bit arrays become tensors from 0 to 1.
        transform (Callable, optional): Applied to each image. Default: None
        num_workers (int, optional): Processes that read. Default: None (a ``DataLoader``'s own,
            else 0)

    Attributes:
        length (int or None): Images; of an iterable known once it has been gone through.
        indexed (bool): Whether an image can be read without those before it.
        class_names (list[str] or None): Where the data set names its classes.

    Raises:
        TypeError: No data set.
        ValueError: A loader that shuffles or samples, or workers for what can't be read by several.
    """

    def __init__(
        self,
        dataset: Any,
        transform: Callable[[Any], Any] | None = None,
        num_workers: int | None = None,
    ) -> None:
        collate = None
        if isinstance(dataset, DataLoader):
            num_workers = dataset.num_workers if num_workers is None else num_workers
            dataset, collate = _inside(dataset)
        self.num_workers = num_workers or 0
        self.class_names = _class_names(dataset)
        if isinstance(dataset, ImageData):
            dataset = _Stacked(dataset)
        self.indexed = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
        if not self.indexed and not hasattr(dataset, "__iter__"):
            raise TypeError(
                "dataset must be a data set (map-style or iterable) or a DataLoader, got "
                f"{type(dataset).__name__}"
            )
        shared = self.indexed or isinstance(dataset, IterableDataset)
        if self.num_workers and not shared:
            raise ValueError(
                f"num_workers must be 0 for a {type(dataset).__name__}, which several processes "
                f"can't share, got {num_workers}"
            )
        self.length: int | None = len(dataset) if self.indexed else None
        self._dataset = dataset
        self._read = _Reading(transform, collate)

    def item(self, index: int) -> Item:
        """Read one image.

        Args:
            index (int): Its position.

        Returns:
            Item: The image, or why it can't be read.

        Raises:
            TypeError: Images can only be read in order.
        """
        if not self.indexed:
            raise TypeError("dataset must be map-style here, as images are asked for by position")
        return _Careful(self._dataset, self._read)[index]

    def example(self) -> Item:
        """Find the first image that can be read and is finite.

        Returns:
            Item: The image.

        Raises:
            ValueError: There is none; the message says why the first one is none.
        """
        first_error = None
        for item in self._looked_at():
            if item.image is not None and bool(item.image.isfinite().all()):
                return item
            first_error = first_error or item.error or "it is not finite"
        raise ValueError(
            "dataset must hold an image that can be read, got none"
            + (f"; the first: {first_error}" if first_error else "")
        )

    def items(self, spans: Iterable[range]) -> Iterator[Item]:
        """Read images in order.

        Args:
            spans (Iterable[range]): Ascending; what lies beyond the data set is not there.

        Yields:
            Item: The next image, or why it can't be read.

        Raises:
            Exception: What an iterable data set raises between items: nothing can be read after it.
        """
        if not self.indexed:
            yield from self._in_turn(spans)
            return
        length = self.length or 0
        places = chain.from_iterable(range(s.start, min(s.stop, length)) for s in spans)
        if not self.num_workers:
            careful = _Careful(self._dataset, self._read)
            yield from map(careful.__getitem__, places)
            return
        loader: DataLoader[Any] = DataLoader(
            _Careful(self._dataset, self._read),
            batch_size=_AT_ONCE,
            sampler=_Lazy(places),
            num_workers=self.num_workers,
            collate_fn=list,
        )
        yield from _own(chain.from_iterable(loader))

    def _looked_at(self) -> Iterator[Item]:
        """The first images, which stay there for :meth:`items`."""
        if self.indexed:
            yield from map(self.item, range(self.length or 0))
        elif not isinstance(self._dataset, Iterator):
            yield from (self._read(index, value) for index, value in enumerate(self._dataset))
        else:
            rest, taken = self._dataset, []  # it can be gone through once only
            for index, value in enumerate(rest):
                taken.append(value)
                self._dataset = chain(taken, rest)
                yield self._read(index, value)

    def _in_turn(self, spans: Iterable[range]) -> Iterator[Item]:
        raw: Iterator[Any]
        if isinstance(self._dataset, IterableDataset):
            # Batches of one size, as the order in which several workers are read depends on it.
            raw = chain.from_iterable(
                DataLoader(
                    self._dataset,
                    batch_size=_AT_ONCE,
                    num_workers=self.num_workers,
                    collate_fn=list,
                )
            )
        else:
            raw = iter(self._dataset)
        upcoming = iter(spans)
        span: range | None = range(0)
        index = 0
        for value in raw:
            while span is not None and index >= span.stop:
                span = next(upcoming, None)
            if span is not None and index in span:
                yield from _own([self._read(index, value)])
            index += 1
        self.length = index


class _Reading:
    """From what a data set holds to an :class:`Item`."""

    def __init__(
        self,
        transform: Callable[[Any], Any] | None,
        collate: Callable[[list[Any]], Any] | None,
    ) -> None:
        self.transform = transform
        self.collate = collate

    def __call__(self, index: int, value: Any) -> Item:
        label = None
        try:
            image, label = _parts(value if self.collate is None else self.collate([value]))
            if self.collate is not None:
                image, label = image[0], None if label is None else label[0]
            label = _label(label)
            image = image if self.transform is None else self.transform(image)
            return Item(index, _tensor(image), label)
        except Exception as error:  # whatever a user's data set raises
            known = label if isinstance(label, int) else None
            return Item(index, None, known, f"{type(error).__name__}: {error}")


class _Careful(Dataset[Item]):
    """A map-style data set that never raises."""

    def __init__(self, dataset: Any, read: _Reading) -> None:
        self.dataset = dataset
        self.read = read

    def __getitem__(self, index: int) -> Item:
        try:
            value = self.dataset[index]
        except Exception as error:  # whatever a user's data set raises
            return Item(index, error=f"{type(error).__name__}: {error}")
        return self.read(index, value)


class _Lazy:
    """A sampler that is gone through once, so that a billion positions need no list."""

    def __init__(self, places: Iterable[int]) -> None:
        self.places = places

    def __iter__(self) -> Iterator[int]:
        return iter(self.places)


class _Stacked:
    """Images in memory, item by item."""

    def __init__(self, data: ImageData) -> None:
        self.images, self.target = data.images, data.target

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.target[index]


def _inside(loader: DataLoader[Any]) -> tuple[Any, Callable[[list[Any]], Any] | None]:
    """The data set of a loader, and what makes a batch of its items, if that is special."""
    iterable = isinstance(loader.dataset, IterableDataset)
    if not iterable and type(loader.sampler) is not SequentialSampler:
        raise ValueError(
            "dataset must be a DataLoader that goes through its data in order, so that a run can "
            f"go on where it stopped, got one with {type(loader.sampler).__name__} (shuffle=True?);"
            " for a part of the data pass torch.utils.data.Subset"
        )
    plain = loader.collate_fn is default_collate or loader.batch_size is None
    return loader.dataset, None if plain else loader.collate_fn


def _own(items: Iterable[Item]) -> Iterator[Item]:
    """Copy what came from another process: as long as it is used it takes a file descriptor."""
    for item in items:
        yield item if item.image is None else replace(item, image=item.image.clone())


def _class_names(dataset: Any) -> list[str] | None:
    names = getattr(dataset, "classes", getattr(dataset, "class_names", None))
    features = getattr(dataset, "features", None)
    if names is None and isinstance(features, Mapping):  # Hugging Face
        found = [features[name] for name in LABEL_NAMES if name in features]
        names = getattr(found[0], "names", None) if found else None
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return list(names)
    return None


def _parts(value: Any) -> tuple[Any, Any]:
    """Image and label of an item."""
    if isinstance(value, Mapping):
        images = [value[name] for name in IMAGE_NAMES if name in value]
        labels = [value[name] for name in LABEL_NAMES if name in value]
        if not images:
            raise TypeError(
                f"an item must have its image under {', '.join(IMAGE_NAMES)}, got the keys "
                f"{', '.join(map(str, value))}"
            )
        return images[0], labels[0] if labels else None
    if isinstance(value, tuple | list) and value:
        return value[0], value[1] if len(value) > 1 else None
    return value, None


def _label(label: Any) -> int | None:
    if isinstance(label, Tensor | np.ndarray | np.generic):
        array = np.asarray(label)
        label = array.item() if array.size == 1 else label
    if label is None or (isinstance(label, int) and label < 0):  # -1: not known
        return None
    if not isinstance(label, int):
        raise TypeError(f"a label must be one integer, got {type(label).__name__}: {label!r:.80}")
    return int(label)


def _tensor(image: Any) -> Tensor:
    """An image as channels x height x width, or as the tensor that it is."""
    if not isinstance(image, Tensor):
        pixels = np.array(image)  # of a picture, too; a copy, as torch wants to own it
        if pixels.dtype == np.uint8 and pixels.ndim in (2, 3):
            pixels = np.moveaxis(np.atleast_3d(pixels), -1, 0)
        if pixels.dtype.kind not in "uif":
            raise TypeError(
                f"an image must be a tensor, a picture or an array, got {type(image).__name__}"
            )
        image = torch.from_numpy(np.ascontiguousarray(pixels))
    if image.dtype == torch.uint8:
        image = image.float() / 255
    if image.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"an image must be float32 or float64, or of 8 bits, got {image.dtype}; a transform "
            "can convert it"
        )
    found: Tensor = image.detach()
    return found
