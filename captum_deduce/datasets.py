"""Images to train on and to explain: scikit-learn's digits, MNIST and CIFAR-10.

Whole data sets in memory, as float32 images in [0, 1]. Nothing is downloaded unless asked for.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captum_deduce import checks, storage

DATASETS = ("digits", "mnist", "cifar10")
"""The names that :func:`load` knows."""

_ROOT_VARIABLE = "CAPTUM_DEDUCE_DATA"
# Of an image in a data set of small ones, and what is read of a file at once.
_MOST_BYTES, _MOST_PIXELS, _AT_ONCE = 2**20, 2**20, 2**22
_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
_MNIST_TRAINING_IMAGES = 50_000


@dataclass(frozen=True)
class ImageData:
    """Images with their classes.

    Args:
        images (Tensor): N x channels x height x width, float32 in [0, 1].
        target (Tensor): N classes, int64.
        class_names (tuple[str, ...]): One name per class.

    Raises:
        TypeError: Images that are not float32, a target that is not int64, or names in a mapping or
            a set, whose order says nothing.
        ValueError: Images that are not 4-D, another number of targets than images, or classes
            without a name.
    """

    images: Tensor
    target: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != torch.float32 or self.target.dtype != torch.int64:
            raise TypeError(
                "images must be float32 and target int64, got "
                f"{self.images.dtype} and {self.target.dtype}"
            )
        if self.images.dim() != 4 or self.target.shape != self.images.shape[:1]:
            raise ValueError(
                "images must be N x channels x height x width and target N, got the shapes "
                f"{tuple(self.images.shape)} and {tuple(self.target.shape)}"
            )
        if not isinstance(self.class_names, tuple | list):
            raise TypeError(
                "class_names must be a tuple of names in the order of the classes, got "
                f"{self.class_names!r}"
            )
        names = len(self.class_names)
        if len(self) and not 0 <= int(self.target.min()) <= int(self.target.max()) < names:
            raise ValueError(
                f"target must lie in 0 ... {names - 1} for {names} class_names, got classes from "
                f"{self.target.min()} to {self.target.max()}"
            )

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: slice | Tensor) -> ImageData:
        return ImageData(self.images[index], self.target[index], self.class_names)

    def batches(self, batch_size: int = 500) -> list[tuple[Tensor, Tensor]]:
        """Cut the data into (images, target) batches: views, to be passed wherever a loader goes.

        Args:
            batch_size (int, optional): Images per batch; the last has what is left. Default: 500

        Returns:
            list[tuple[Tensor, Tensor]]: The batches, in order.
        """
        checks.number("batch_size", batch_size, minimum=1, integer=True)
        images = torch.split(self.images, batch_size)
        return list(zip(images, torch.split(self.target, batch_size), strict=True))


class Splits(NamedTuple):
    """A data set's training, validation and test images, a tuple that can be unpacked."""

    train: ImageData
    validation: ImageData
    test: ImageData


def load(
    name: str,
    data_root: str | os.PathLike[str] | None = None,
    *,
    seed: int = 0,
    download: bool = False,
) -> Splits:
    """Load a data set by its name.

    Args:
        name (str): One of :data:`DATASETS`.
        data_root (path, optional): The folder that holds MNIST or CIFAR-10. Default: the
            environment variable ``CAPTUM_DEDUCE_DATA``
        seed (int, optional): Of the shuffle before digits and CIFAR-10 are split. Default: 0
        download (bool, optional): Whether MNIST may be downloaded. Default: False

    Returns:
        Splits: Training, validation and test images.

    Raises:
        ValueError: An unknown name, or files that are damaged or of another format.
        FileNotFoundError: The files are not there; the message says where they were looked for.
    """
    checks.choice("name", name, DATASETS)
    if name == "digits":
        return load_digits(seed)
    if name == "mnist":
        return load_mnist(data_root, download=download)
    return load_cifar10(data_root, seed)


def load_digits(seed: int = 0) -> Splits:
    """Load scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, part of the package.

    Their 17 grey levels are divided by 16. Split with equal shares of every class into 1,000 images
    for training, 297 for validation and 500 for testing.

    Args:
        seed (int, optional): Of the split. Default: 0

    Returns:
        Splits: Training, validation and test images, 1 x 8 x 8.

    Examples::

        >>> train, validation, test = load_digits()
        >>> train.images.shape, len(validation), len(test)
        (torch.Size([1000, 1, 8, 8]), 297, 500)
    """
    from sklearn.datasets import load_digits as load_bunch

    bunch = load_bunch()
    images = torch.from_numpy(bunch.images).float().div(16).unsqueeze(1)
    target = torch.from_numpy(bunch.target).long()
    data = ImageData(images, target, tuple(str(name) for name in bunch.target_names))
    rest, test = _stratified_split(data, 500, seed)
    train, validation = _stratified_split(rest, 297, seed)
    return Splits(train, validation, test)


def load_mnist(
    data_root: str | os.PathLike[str] | None = None, *, download: bool = False
) -> Splits:
    """Load MNIST from its four IDX files, gzipped or not.

    They are looked for in ``data_root``, ``data_root/mnist`` and ``data_root/MNIST/raw``, where
    torchvision puts them. The first 50,000 of the training images are for training, the last 10,000
    for validation.

    Args:
        data_root (path, optional): Where to look. Default: the environment variable
            ``CAPTUM_DEDUCE_DATA``
        download (bool, optional): Let torchvision download files that are missing into
            ``data_root``. Default: False

    Returns:
        Splits: Training, validation and test images, 1 x 28 x 28.

    Raises:
        ValueError: A file that is damaged, or is not the IDX file that its name says.
        FileNotFoundError: Files are missing; the message says where they were looked for.
    """
    root = _data_root(data_root)
    folders = (root, root / "mnist", root / "MNIST" / "raw")
    folder = _mnist_folder(folders)
    if folder is None and download:
        from torchvision.datasets import MNIST

        MNIST(str(root), download=True)
        folder = _mnist_folder(folders)
    if folder is None:
        raise FileNotFoundError(
            "MNIST's four files (train-images-idx3-ubyte, ..., gzipped or not) are in none of "
            f"{', '.join(str(path) for path in folders)}; put them there, name another data_root, "
            "or, in Python, pass download=True"
        )
    rest = _read_mnist(folder, "train")
    test = _read_mnist(folder, "t10k")
    return Splits(rest[:_MNIST_TRAINING_IMAGES], rest[_MNIST_TRAINING_IMAGES:], test)


def load_cifar10(data_root: str | os.PathLike[str] | None = None, seed: int = 0) -> Splits:
    """Load CIFAR-10 from image files in class folders, packed or not.

    Reads ``train.tar.gz`` and ``test.tar.gz``, or folders ``train`` and ``test`` as
    ``torchvision.datasets.ImageFolder`` expects them (``train/airplane/0000.jpg``), in
    ``data_root`` or ``data_root/cifar10``. As the files are sorted by class, all are shuffled; a
    tenth of the training images, with equal shares of every class, is for validation.

    Args:
        data_root (path, optional): Where to look. Default: the environment variable
            ``CAPTUM_DEDUCE_DATA``
        seed (int, optional): Of the shuffle. Default: 0

    Returns:
        Splits: Training, validation and test images, RGB.

    Raises:
        ValueError: A damaged archive or image, images of several sizes, or test images of other
            classes than the training images.
        FileNotFoundError: Files are missing; the message says where they were looked for.
    """
    root = _data_root(data_root)
    folders = (root, root / "cifar10")
    rest = _read_class_folders(_packed_or_not(folders, "train"))
    test = _read_class_folders(_packed_or_not(folders, "test"))
    if rest.class_names != test.class_names:
        raise ValueError(
            f"train and test must hold the same classes, got {', '.join(rest.class_names)} and "
            f"{', '.join(test.class_names)} in {root}"
        )
    sizes = rest.target.bincount(minlength=len(rest.class_names)).tolist()
    if len(rest) // 10 < len(sizes) or min(sizes) < 2:
        raise ValueError(
            f"train must hold ten images for each class, and two of each at least, to set some "
            f"aside for validation; got {sizes} of {', '.join(rest.class_names)} in {root}"
        )
    train, validation = _stratified_split(rest, len(rest) // 10, seed)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    return Splits(train, validation, test[order])


def read_idx(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, gzipped or not.

    The format (LeCun, Cortes, Burges, *The MNIST database*): two zero bytes, one for the type
    (8: unsigned byte), one for the number of dimensions, each dimension as a big-endian 32-bit
    integer, then the values in row-major order.

    Args:
        path (path): The file.

    Returns:
        NDArray[np.uint8]: The values, in the file's shape.

    Raises:
        ValueError: Damaged, of another type, or longer or shorter than its header says.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
        with gzip.open(path) if packed else path.open("rb") as file:
            # Only as many as its header claims: little that is packed may unpack to very much.
            return _read_values(file, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file: {error}") from error


def _read_values(file: IO[bytes] | gzip.GzipFile, path: Path) -> NDArray[np.uint8]:
    head = file.read(4)
    if head[:3] != bytes((0, 0, _UNSIGNED_BYTE)) or len(head) < 4:
        raise ValueError(
            f"{path} is not an IDX file of unsigned bytes: it should start with 00 00 08, got "
            f"{head[:3].hex(' ') or 'an empty file'}"
        )
    sides = file.read(4 * head[3])
    if len(sides) < 4 * head[3]:
        raise ValueError(f"{path} ends within its header of {4 + 4 * head[3]} bytes")
    shape = struct.unpack(f">{head[3]}I", sides)
    size = math.prod(shape)
    parts = []
    left = size + 1  # to see whether there are more
    while left and (part := file.read(min(left, _AT_ONCE))):
        parts.append(part)
        left -= len(part)
    content = b"".join(parts)
    if len(content) != size:
        more = f"{len(content)}{' or more' if len(content) > size else ''}"
        raise ValueError(f"{path} should hold {size} values for the shape {shape}, got {more}")
    try:
        return np.frombuffer(content, np.uint8).reshape(shape)
    except ValueError as error:  # more dimensions than numpy has
        raise ValueError(f"{path} has the shape {shape}: {error}") from error


def _data_root(data_root: str | os.PathLike[str] | None) -> Path:
    root = os.environ.get(_ROOT_VARIABLE) if data_root is None else data_root
    if not root:
        raise FileNotFoundError(
            "no folder to look in: name a data_root (--data-root on the command line), or set the "
            f"environment variable {_ROOT_VARIABLE}"
        )
    return Path(root).expanduser()


def _mnist_file(folder: Path, split: str, kind: str) -> Path:
    path = folder / f"{split}-{kind}-ubyte"
    return path if path.is_file() else path.with_name(f"{path.name}.gz")


def _mnist_folder(folders: tuple[Path, ...]) -> Path | None:
    for folder in folders:
        files = [
            _mnist_file(folder, split, kind)
            for split in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ]
        if all(path.is_file() for path in files):
            return folder
    return None


def _read_mnist(folder: Path, split: str) -> ImageData:
    images_path = _mnist_file(folder, split, "images-idx3")
    target_path = _mnist_file(folder, split, "labels-idx1")
    images, target = read_idx(images_path), read_idx(target_path)
    if images.ndim != 3 or target.shape != images.shape[:1] or target.max(initial=0) > 9:
        raise ValueError(
            f"{images_path} and {target_path} should hold N x height x width images and N labels "
            f"from 0 to 9, got the shapes {images.shape} and {target.shape} and labels up to "
            f"{target.max(initial=0)}"
        )
    return ImageData(
        _unit_interval(images).unsqueeze(1),
        torch.from_numpy(target.astype(np.int64)),
        tuple(str(digit) for digit in range(10)),
    )


def _unit_interval(images: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32, order="C")).div_(255)


def _packed_or_not(folders: tuple[Path, ...], split: str) -> Path:
    names = (f"{split}.tar.gz", split)
    candidates = [folder / name for folder in folders for name in names]
    for path in candidates:
        if path.exists():
            return path
    raise FileNotFoundError(
        f"CIFAR-10's {split} images are in none of {', '.join(str(path) for path in candidates)}; "
        "put them there, as image files in class folders, or name another data_root"
    )


def _image_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name (class folder/file) and content of every file in an archive or a folder."""
    if path.is_dir():
        for file in path.glob("*/*"):
            _check_length(path, file.name, file.stat().st_size)
            yield f"{file.parent.name}/{file.name}", file.read_bytes()
        return
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    _check_length(path, member.name, member.size)
                if member.isfile() and (content := archive.extractfile(member)):
                    yield "/".join(Path(member.name).parts[-2:]), content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged archive: {error}") from error


def _check_length(path: Path, name: str, size: int) -> None:
    if size > _MOST_BYTES:
        raise ValueError(
            f"{path} holds {name} of {size:,} bytes; an image has at most {_MOST_BYTES:,}"
        )


def _read_class_folders(path: Path) -> ImageData:
    named: list[tuple[str, NDArray[np.uint8]]] = []
    for name, content in _image_files(path):
        try:
            image = storage.read_image(io.BytesIO(content), most_pixels=_MOST_PIXELS)
            named.append((name, np.asarray(image.convert("RGB"))))
        except ValueError as error:
            raise ValueError(f"{path} holds {name}, which is no image: {error}") from error
    sizes = {pixels.shape[:2] for _, pixels in named}
    if len(sizes) != 1:
        raise ValueError(f"{path} should hold images of one size, got the sizes {sorted(sizes)}")
    # Archives and file systems keep no order that could be relied on.
    named.sort(key=lambda item: item[0])
    classes = [name.split("/")[0] for name, _ in named]
    class_names = tuple(sorted(set(classes)))
    index = {name: number for number, name in enumerate(class_names)}
    images = np.moveaxis(np.stack([pixels for _, pixels in named]), -1, 1)
    return ImageData(
        _unit_interval(images), torch.tensor([index[name] for name in classes]), class_names
    )


def _stratified_split(data: ImageData, size: int, seed: int) -> tuple[ImageData, ImageData]:
    """Shuffle and split off `size` images with the classes' shares as in the whole."""
    from sklearn.model_selection import train_test_split

    larger, smaller = train_test_split(
        np.arange(len(data)), test_size=size, random_state=seed, stratify=data.target.numpy()
    )
    return data[torch.from_numpy(larger)], data[torch.from_numpy(smaller)]
