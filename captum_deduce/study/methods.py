"""Results of several methods, matched by what was asked: the same image, the same target."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from captum_deduce import bulk
from captum_deduce.counterfactuals import Counterfactuals

_CHUNK = 256


@dataclass(frozen=True)
class MethodResults:
    """What one method found, wherever its images are kept.

    Args:
        name (str): Of the method.
        questions (list[str]): For each of N pairs a word for its image and target, the same in
            every method's results.
        found (Tensor): Which pairs have a counterfactual, N, bool; those whose original was at the
            goal already have none.
        already (Tensor): Which originals were at the goal already, N, bool.
        labels (list[int or None]): The true class of each original, N, where it is known.
        read (Callable): Takes a list of pairs by number and returns their :class:`Counterfactuals`.
        colors (tuple[NDArray, NDArray], optional): The mean and the std with which the inputs
            become colours, ``value * std + mean``. Default: None (not known)
        class_names (list[str], optional): Names of the classes. Default: None (not known)
    """

    name: str
    questions: list[str]
    found: Tensor
    already: Tensor
    labels: list[int | None]
    read: Callable[[list[int]], Counterfactuals]
    colors: tuple[np.ndarray, np.ndarray] | None = None
    class_names: list[str] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs were found, failed, or were there already."""
        found, already = int(self.found.sum()), int(self.already.sum())
        return {
            "found": found,
            "failed": len(self.questions) - found - already,
            "already": already,
        }

    @classmethod
    def of(
        cls, name: str, result: Counterfactuals, labels: Sequence[int] | None = None
    ) -> MethodResults:
        """Take a result that is in memory.

        Args:
            name (str): Of the method.
            result (Counterfactuals): N pairs.
            labels (Sequence[int], optional): True classes of the originals, N.
                Default: None (not known)

        Returns:
            MethodResults: The same pairs.

        Raises:
            ValueError: No pairs, or another number of labels.
        """
        if not len(result):
            raise ValueError(f"the results of {name} must hold at least one pair, got none")
        if labels is not None and len(labels) != len(result):
            raise ValueError(
                f"labels must hold one class per pair of {name} ({len(result)}), got {len(labels)}"
            )
        already = result.already.cpu()
        return cls(
            name=name,
            questions=_questions(result),
            found=result.success.cpu() & ~already,
            already=already,
            labels=[None] * len(result) if labels is None else [int(label) for label in labels],
            read=lambda rows: result[rows],
        )

    @classmethod
    def of_run(cls, name: str, folder: Path) -> MethodResults:
        """Take a run over a data set, a few of its images at a time.

        Args:
            name (str): Of the method.
            folder (Path): Of the run, which has to store its images.

        Returns:
            MethodResults: Its pairs, but for images that could not be explained.

        Raises:
            FileNotFoundError: No run is there.
            ValueError: No pairs, no images stored, or a damaged file.
            ImportError: pyarrow is not installed.
        """
        run = bulk.read(folder)
        if not run.manifest.get("store_images"):
            raise ValueError(
                f"the run {folder} stores no images, so none can be shown; make it with "
                "captum-deduce explain-dataset --store-images"
            )
        table = run.table()
        rows = np.flatnonzero(table["error"].isna().to_numpy()).tolist()
        if not rows:
            raise ValueError(f"the run {folder} must hold at least one pair, got none")
        table = table.iloc[rows]
        success = torch.from_numpy(table["success"].to_numpy(bool))
        already = success & torch.from_numpy((table["l0"] == 0).to_numpy(bool))
        chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
        return cls(
            name=name,
            questions=[
                question for part in chunks for question in _questions(run.counterfactuals(part))
            ],
            found=success & ~already,
            already=already,
            labels=[None if label != label else int(label) for label in _plain(table["label"])],
            read=lambda chosen: run.counterfactuals([rows[place] for place in chosen]),
            colors=_colors(run.manifest["lower_bound"], run.manifest["upper_bound"]),
            class_names=run.class_names,
        )


def read_methods(
    paths: Sequence[str | Path], names: Sequence[str] | None = None
) -> list[MethodResults]:
    """Read results from disk.

    Args:
        paths (Sequence[str or Path]): Files that :meth:`captum_deduce.Counterfactuals.save` wrote,
            and folders of runs with their images.
        names (Sequence[str], optional): Of the methods, one per path. Default: None (the names of
            the files without their ending, and of the folders)

    Returns:
        list[MethodResults]: One per path.

    Raises:
        FileNotFoundError: Nothing there.
        ValueError: Another number of names, a name twice, or something else than results.
        ImportError: A run needs pyarrow, which is not installed.
    """
    files = [Path(path) for path in paths]
    called = [path.stem if path.is_file() else path.name for path in files]
    if names is not None:
        if len(names) != len(files):
            raise ValueError(
                f"names must hold one name per result ({len(files)}), got {len(names)}"
            )
        called = list(names)
    often = [name for name, count in Counter(called).items() if count > 1]
    if often or not all(name.strip() for name in called):
        raise ValueError(f"names must differ and say something, got {called}")
    return [
        MethodResults.of_run(name, path)
        if path.is_dir()
        else MethodResults.of(name, Counterfactuals.load(path))
        for name, path in zip(called, files, strict=True)
    ]


def shared_pairs(methods: Sequence[MethodResults]) -> list[list[int]]:
    """Find the pairs that every method has a counterfactual of.

    Args:
        methods (Sequence[MethodResults]): M of them.

    Returns:
        list[list[int]]: For each such pair its numbers in the M results, in the order of the first.
        Where a method has the same pair several times, its first success counts.
    """
    places: list[dict[str, int]] = []
    for method in methods:
        found: dict[str, int] = {}
        for row in method.found.nonzero().flatten().tolist():
            found.setdefault(method.questions[row], row)
        places.append(found)
    return [
        [place[question] for place in places]
        for question in places[0]
        if all(question in place for place in places)
    ]


def _questions(result: Counterfactuals) -> list[str]:
    images = result.inputs.detach().cpu().float().contiguous().numpy()
    targets = result.target.tolist()
    return [
        hashlib.sha256(image.tobytes() + f"{image.shape} {target}".encode()).hexdigest()
        for image, target in zip(images, targets, strict=True)
    ]


def _plain(column: object) -> list[float]:
    values: list[float] = np.asarray(
        column.astype("float64")  # type: ignore[attr-defined]
    ).tolist()
    return values


def _colors(lower: object, upper: object) -> tuple[np.ndarray, np.ndarray]:
    """The bounds as the mean and the std of inputs that would have them as black and white."""
    low, high = (np.asarray(bound, np.float64) for bound in (lower, upper))
    span = high - low
    return np.asarray(-low / span), np.asarray(1 / span)
