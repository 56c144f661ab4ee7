"""``captum-deduce explain-dataset``: counterfactuals of a whole data set."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from captum_deduce import datasets
from captum_deduce.bulk import Run, explain_dataset
from captum_deduce.commands.given import read_device
from captum_deduce.commands.image_files import read_images
from captum_deduce.commands.subjects import Subject, find_subject


def run(
    checkpoint: Path | None,
    data: str,
    *,
    torchvision: Mapping[str, Any] | None = None,
    split: str = "test",
    data_root: str | None = None,
    only: str = "errors",
    targets: str = "label",
    output: Path = Path("captum-deduce-dataset"),
    overwrite: bool = False,
    resize: bool = False,
    invert: bool = False,
    shard_size: int = 1000,
    store_images: bool = False,
    batch_size: int = 128,
    num_workers: int = 0,
    engine: str = "local",
    workers: int = 2,
    preset: str | None = None,
    device: str | None = None,
    show_progress: bool = False,
    **settings: Any,
) -> int:
    """Explain a data set with the classifier of a checkpoint, or with one of torchvision's.

    Args:
        checkpoint (Path or None): The checkpoint; None: it is one of torchvision's.
        data (str): One of :data:`captum_deduce.datasets.DATASETS`, or a folder of images.
        torchvision (Mapping[str, Any], optional): Fields of
            :class:`captum_deduce.commands.subjects.Weights`. Default: None (there is a checkpoint)
        split (str, optional): Of a named data set. Default: "test"
        data_root (str, optional): Its folder. Default: see :func:`captum_deduce.datasets.load`
        only (str, optional): See :func:`captum_deduce.bulk.explain_dataset`; likewise the next
            ones. Default: "errors"
        targets (str, optional): Default: "label"
        output (Path, optional): Default: ``captum-deduce-dataset`` in the current folder
        overwrite (bool, optional): Default: False
        resize (bool, optional): Scale images of another size. Default: False
        invert (bool, optional): Exchange black and white on reading. Default: False
        shard_size (int, optional): Default: 1000
        store_images (bool, optional): Default: False
        batch_size (int, optional): Most pairs that the classifier sees at once. Default: 128
        num_workers (int, optional): Processes that read. Default: 0
        engine (str, optional): Default: "local"
        workers (int, optional): Of Ray. Default: 2
        preset (str, optional): Name of one of :class:`captum_deduce.DeDUCE`'s presets.
            Default: None (its defaults)
        device (str, optional): Where to compute. Default: CUDA where there is one, else the CPU
        show_progress (bool, optional): Draw a progress bar. Default: False
        **settings (Any): Arguments of the explainer, which win over the preset's.

    Returns:
        int: The exit status: 1 where some images could not be explained, else 0.

    Raises:
        ValueError: What was given does not fit together.
    """
    subject = find_subject(checkpoint, torchvision or {}, read_device(device), preset, settings)
    labelled = only == "errors" or targets == "label"
    images = _images(
        subject, data, split, data_root, resize=resize, invert=invert, labelled=labelled
    )
    if subject.note:
        print(f"{subject.note}\n")
    shared_out: dict[str, Any] = {"workers": workers} if engine == "ray" else {}
    with _in_words_of_the_command():
        done = explain_dataset(
            subject.explainer,
            images,
            output,
            targets=targets,
            only=only,
            class_names=subject.class_names,
            shard_size=shard_size,
            store_images=store_images,
            num_workers=num_workers,
            internal_batch_size=batch_size,
            overwrite=overwrite,
            engine=engine,
            show_progress=show_progress,
            **shared_out,
        )
    return _told(done)


@contextmanager
def _in_words_of_the_command() -> Iterator[None]:
    """Call the folder and what deletes a run by their options."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        if not message.startswith("out "):
            raise
        message = message.replace("out ", "--output ", 1).replace("overwrite=True", "--overwrite")
        raise ValueError(message) from error


class _Files:
    """Image files of one folder, without labels.

    Args:
        files (Sequence[Path]): N files.
        read (_Reader): What reads them.
    """

    def __init__(self, files: Sequence[Path], read: _Reader) -> None:
        self.files = files
        self.read = read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.read(self.files[index])


class _Reader:
    """Reads image files as a classifier takes them; it can be sent to other processes.

    Args:
        shape (tuple[int, int, int]): Channels, height and width.
        resize (bool): Scale images of another size.
        invert (bool): Exchange black and white.
    """

    def __init__(self, shape: tuple[int, int, int], resize: bool, invert: bool) -> None:
        self.shape, self.resize, self.invert = shape, resize, invert

    def __call__(self, path: str | Path) -> Tensor:
        return read_images([Path(path)], self.shape, resize=self.resize, invert=self.invert)[0]


class _Renumbered:
    """A class folder's number to the classifier's class."""

    def __init__(self, classes: list[int]) -> None:
        self.classes = classes

    def __call__(self, folder: int) -> int:
        return self.classes[folder]


def _images(
    subject: Subject,
    data: str,
    split: str,
    data_root: str | None,
    *,
    resize: bool,
    invert: bool,
    labelled: bool,
) -> Any:
    """Find the images that were named."""
    if data in datasets.DATASETS:
        return getattr(datasets.load(data, data_root), split)
    folder = Path(data)
    if not folder.is_dir():
        raise ValueError(
            f"--data must be {', '.join(datasets.DATASETS)} or a folder of images, got {data}"
        )
    read = _Reader(subject.shape, resize, invert)
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    if classes:
        renumbered = _Renumbered(_numbers(classes, subject.class_names))
        return ImageFolder(str(folder), loader=read, target_transform=renumbered)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMG_EXTENSIONS)
    if labelled or not files:
        raise ValueError(
            f"--data must hold a folder of images for each class, got {data} with {len(files)} "
            "images and no folders; images without labels need --only all, and --targets other "
            "than label"
        )
    return _Files(files, read)


def _numbers(folders: list[str], class_names: Sequence[str]) -> list[int]:
    """Which class each folder holds: by its name, or by its place where classes have no names."""
    known = list(class_names)
    unknown = [folder for folder in folders if folder not in known]
    if not unknown:
        return [known.index(folder) for folder in folders]
    nameless = known == [str(number) for number in range(len(known))]
    if nameless and len(folders) == len(known):
        print("Class folders are taken as the classes in alphabetical order.\n")
        return list(range(len(folders)))
    raise ValueError(
        f"--data must hold folders that are named as the classifier's {len(known)} classes "
        f"({', '.join(known[:10])}{', ...' if len(known) > 10 else ''}), got "
        f"{', '.join(unknown[:10])}"
    )


def _told(run: Run) -> int:
    """Say what is there now."""
    table = run.table()
    explained = table[table["error"].isna()]
    found = int(explained["success"].sum())
    print(
        f"{run.items_seen:,} images: {len(explained):,} pairs, {found:,} counterfactuals found"
        + (f" ({found / len(explained):.1%})" if len(explained) else "")
    )
    if found:
        means = explained.loc[explained["success"], ["l0", "l1", "evaluations"]].mean()
        print(
            f"L0 {means['l0']:.3g}, L1 {means['l1']:.3g}, {means['evaluations']:.3g} gradient "
            "evaluations (means over those found)"
        )
    broken = table[table["error"].notna()]
    print(f"\nWritten to {run.folder}: manifest.json and {len(run.shards)} shard(s)")
    if not len(broken):
        return 0
    first = broken.iloc[0]
    print(
        f"captum-deduce: {len(broken):,} row(s) of images that could not be explained; the first, "
        f"image {first['index']}: {first['error']}",
        file=sys.stderr,
    )
    return 1
