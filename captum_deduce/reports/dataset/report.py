"""What a run over a data set tells about the model, computed once: tables, maps, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from captum_deduce.reports.dataset.change_maps import ChangeMaps, change_maps
from captum_deduce.reports.dataset.pairs import class_pairs, main_question, pairs_table
from captum_deduce.reports.dataset.pictures import Range
from captum_deduce.reports.dataset.selection import PairPictures, choose_rows, draw_pairs
from captum_deduce.reports.dataset.source import ExplainedRun
from captum_deduce.reports.dataset.spots import find_spot
from captum_deduce.visualization import ClassNames

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_CLASS_PAIRS = 60
"""Pairs of classes with a map and examples: those that occur most."""

MOST_CLASSES = 50
"""Classes whose spots are looked for, as targets and as predictions: those that occur most."""

_MAP_ENTRIES = 2**25
"""Entries of all maps together: a quarter of a gibibyte of sums."""


@dataclass(frozen=True, eq=False)
class RunReport:
    """What a run tells about the model.

    Args:
        run (ExplainedRun): The run.
        question (str): What the report is about, see
            :func:`captum_deduce.reports.main_question`.
        pairs (pandas.DataFrame): All pairs, see :func:`captum_deduce.reports.pairs_table`.
        class_pairs (pandas.DataFrame): By prediction and target, see
            :func:`captum_deduce.reports.class_pairs`.
        spots (pandas.DataFrame): Where changes gather, a row for each group of pairs, those first
            whose spot is surest to hold much of the change: ``way``, "towards" a class or "away
            from" it; the ``class`` and its ``name``; how many ``pairs``; and what
            :class:`captum_deduce.reports.Spot` says.
        maps (ChangeMaps): Of the groups: first the first pairs of classes in ``class_pairs``, then
            those of ``spots``, whose column ``map`` has their places.
        map_count (int): How many pairs of classes have a map.
        scale (Range): What is black and white.
        pictures (dict[int, PairPictures]): Of some rows of ``pairs``.
        without_originals (str): Why pictures show the changes only; empty: they do not.
        image_names (Sequence[str], optional): By position in the data set. Default: None
    """

    run: ExplainedRun
    question: str
    pairs: DataFrame
    class_pairs: DataFrame
    spots: DataFrame
    maps: ChangeMaps
    map_count: int
    scale: Range
    pictures: dict[int, PairPictures]
    without_originals: str
    image_names: Sequence[str] | None = None


def report_run(
    run: ExplainedRun,
    *,
    class_names: ClassNames | None = None,
    dataset: Any = None,
    transform: Callable[[Any], Any] | None = None,
    image_names: Sequence[str] | None = None,
) -> RunReport:
    """Find out what a run over a data set tells about the model.

    Args:
        run (ExplainedRun): A run that :func:`captum_deduce.bulk.read` opened, complete or not.
        class_names (Sequence[str] or Mapping, optional): A name per class, or ``{index: name}``.
            Default: None (those of the run, or numbers)
        dataset (Any, optional): The data set of the run, map-style, for pictures of originals.
            Default: None (the run stores them, or pictures show the changes only)
        transform (Callable, optional): As it was given to the run. Default: None
        image_names (Sequence[str], optional): Names of the data set's images, by position.
            Default: None (file names, of a ``dataset`` that knows them as ``samples``, as
            torchvision's ``ImageFolder`` does; else positions)

    Returns:
        RunReport: Tables for pandas, maps and pictures; :func:`captum_deduce.reports.save_report`
        writes them as a page.

    Raises:
        TypeError: ``class_names`` without an order, or something else than names.
        ValueError: No pairs, inputs that are no images, a class without a name, fewer
            ``image_names`` than images, or an image of ``dataset`` that is not one of the run's.
    """
    table = run.table()
    if not len(table):
        raise ValueError("run must hold at least one pair, got none")
    if len(run.shape) != 3:
        raise ValueError(
            f"run must be of images, channels x height x width, got inputs of the shape "
            f"{tuple(run.shape)} in {run!r}"
        )
    pairs = pairs_table(table, run.class_names if class_names is None else class_names)
    image_names = _image_names(image_names, dataset, int(pairs["index"].max()))
    question = main_question(pairs)
    about = pairs[pairs["question"] == question]
    found = about[about["state"] == "found"]
    by_classes = class_pairs(pairs, question)
    scale = Range.read(run.manifest["lower_bound"], run.manifest["upper_bound"])

    most = max(4, _MAP_ENTRIES // int(np.prod(run.shape)))
    mapped = by_classes.head(min(MOST_CLASS_PAIRS, most // 2))
    keys = list(zip(mapped["prediction"], mapped["target"], strict=True))
    groups = [_grouped(found, ["prediction", "target"], keys, 0, len(pairs))]
    spot_groups: list[tuple[str, int]] = []
    for side in ("target", "prediction"):
        classes = found[side].value_counts().index[: min(MOST_CLASSES, most // 4)]
        first = len(keys) + len(spot_groups)
        groups.append(_grouped(found, [side], [(one,) for one in classes], first, len(pairs)))
        spot_groups += [(side, int(one)) for one in classes]
    maps = change_maps(run.changed_entries(found.index.tolist()), groups, run.shape, scale.span)
    names = {
        (side, int(number)): name
        for side in ("target", "prediction")
        for number, name in zip(found[side], found[f"{side}_name"], strict=True)
    }
    pictures, reason = draw_pairs(run, choose_rows(about, mapped), scale, dataset, transform)
    return RunReport(
        run=run,
        question=question,
        pairs=pairs,
        class_pairs=by_classes,
        spots=_spots(spot_groups, names, maps, len(keys)),
        maps=maps,
        map_count=len(keys),
        scale=scale,
        pictures=pictures,
        without_originals=reason,
        image_names=image_names,
    )


def _grouped(
    found: DataFrame, columns: list[str], keys: Sequence[tuple[int, ...]], first: int, rows: int
) -> NDArray[np.int64]:
    """The group of each row: the place of its classes among the keys, counted from ``first``."""
    numbers = {key: first + place for place, key in enumerate(keys)}
    group = np.full(rows, -1, np.int64)
    of_found = zip(*(found[column] for column in columns), strict=True)
    group[found.index] = [numbers.get(key, -1) for key in of_found]
    return group


def _spots(
    groups: list[tuple[str, int]],
    names: dict[tuple[str, int], str],
    maps: ChangeMaps,
    first: int,
) -> DataFrame:
    import pandas as pd

    rows = []
    for place, (side, number) in enumerate(groups, first):
        count = int(maps.count[place])
        rows.append(
            {
                "way": "towards" if side == "target" else "away from",
                "class": number,
                "name": names[side, number],
                "pairs": count,
                **asdict(find_spot(maps.share[place], count)),
                "map": place,
            }
        )
    spots = pd.DataFrame(rows, columns=None if rows else ["way", "at_least", "share"])
    return spots.sort_values(
        ["at_least", "share"], ascending=False, kind="stable", ignore_index=True
    )


def _image_names(given: Sequence[str] | None, dataset: Any, largest: int) -> Sequence[str] | None:
    if given is None:
        samples = getattr(dataset, "samples", None)
        given = None if samples is None else [str(path) for path, _ in samples]
    if given is not None and len(given) <= largest:
        raise ValueError(
            f"image_names must name every image of the run, at least {largest + 1}, got "
            f"{len(given)}"
        )
    return given
