"""Which pairs are shown as pictures, and the pictures of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_deduce.reports.dataset.pairs import order_by_cost
from captum_deduce.reports.dataset.pictures import (
    CRISP,
    LARGEST,
    Pixels,
    Range,
    change_pixels,
    data_uri,
)
from captum_deduce.reports.dataset.source import ExplainedRun

if TYPE_CHECKING:
    from pandas import DataFrame

CHEAPEST = 200
"""How many of the cheapest pairs are shown."""

DEAREST = 100
"""How many of the dearest are shown, those that failed being the dearest of all."""

EXAMPLES = 5
"""How many of each pair of classes are shown, the cheapest of these."""

PICTURE_BYTES = 10_000_000
"""What all pictures of pairs may take in a page, as text."""

_SIDES = (LARGEST, 192, 128, 96, CRISP)
_TRIED = 8
_CHUNK = 32


@dataclass(frozen=True)
class PairPictures:
    """A pair as the addresses of pictures.

    Args:
        change (str): What changed.
        original (str): The image; empty where originals are not known.
        counterfactual (str): The changed image, likewise.
    """

    change: str
    original: str = ""
    counterfactual: str = ""

    def __len__(self) -> int:
        return len(self.change) + len(self.original) + len(self.counterfactual)


def choose_rows(pairs: DataFrame, class_pairs: DataFrame) -> list[int]:
    """Choose the pairs to show.

    Args:
        pairs (pandas.DataFrame): Those that the report is about, of
            :func:`captum_deduce.reports.pairs_table`.
        class_pairs (pandas.DataFrame): Predictions and targets of which examples are shown.

    Returns:
        list[int]: Row labels, each once, by their importance: the cheapest; the first examples of
        all pairs of classes, then the second, and so on; the dearest.
    """
    ordered = order_by_cost(pairs)
    searched = pairs.loc[ordered]
    place = searched.groupby(["prediction", "target"]).cumcount()
    wanted = set(zip(class_pairs["prediction"], class_pairs["target"], strict=True))
    keys = zip(searched["prediction"], searched["target"], strict=True)
    place = place[[key in wanted for key in keys]]
    examples = place[place < EXAMPLES].sort_values(kind="stable").index
    rows = [*ordered[:CHEAPEST], *examples, *ordered[: -DEAREST - 1 : -1]]
    return list(dict.fromkeys(rows))


def draw_pairs(
    run: ExplainedRun,
    rows: Sequence[int],
    scale: Range,
    dataset: Any = None,
    transform: Callable[[Any], Any] | None = None,
) -> tuple[dict[int, PairPictures], str]:
    """Draw pairs, as large as :data:`PICTURE_BYTES` allow.

    Args:
        run (ExplainedRun): The run.
        rows (Sequence[int]): Rows of its table, by their importance.
        scale (Range): What is black and white.
        dataset (Any, optional): For the originals. Default: None (the run stores them, or only
            changes are drawn)
        transform (Callable, optional): As it was given to the run. Default: None

    Returns:
        tuple[dict[int, PairPictures], str]: By row, without the least important where they would
        be too much; and why there are no originals, if there are none.
    """
    reason = ""
    if dataset is None and not run.manifest.get("store_images"):
        reason = "The run stores no images, and no data set was given: only changes are shown."
    side = LARGEST
    if max(run.shape[1:]) > CRISP and rows:
        tried = rows[:: -(-len(rows) // _TRIED)]
        sizes = [
            len(drawn) for _, drawn in _drawn(run, tried, scale, side, dataset, transform, reason)
        ]
        each = PICTURE_BYTES / len(rows)
        whole = min(side, max(run.shape[1:]))
        # bytes grow with the area
        side = next(
            (s for s in _SIDES if sum(sizes) / len(sizes) * min(1, s / whole) ** 2 <= each),
            _SIDES[-1],
        )
    drawn = dict(_drawn(run, sorted(rows), scale, side, dataset, transform, reason))
    kept, total = {}, 0
    for row in rows:
        total += len(drawn[row])
        if total > PICTURE_BYTES:
            break
        kept[row] = drawn[row]
    return kept, reason


def _drawn(
    run: ExplainedRun,
    rows: Sequence[int],
    scale: Range,
    side: int,
    dataset: Any,
    transform: Callable[[Any], Any] | None,
    reason: str,
) -> Iterator[tuple[int, PairPictures]]:
    """Draw a few pairs at a time, as images of a large run don't fit into memory."""
    for start in range(0, len(rows), _CHUNK):
        chunk = list(rows[start : start + _CHUNK])
        if reason:
            changes = torch.cat([part for _, part in run.changes(chunk)])
            images: list[list[str]] = [["", ""]] * len(chunk)
        else:
            pairs = run.counterfactuals(chunk, dataset=dataset, transform=transform)
            changes = pairs.attributions
            both = (pairs.inputs, pairs.counterfactuals)
            drawn = [_uris(scale.pixels(_array(part)), side) for part in both]
            images = [list(pair) for pair in zip(*drawn, strict=True)]
        change = _uris(change_pixels(_array(changes) / scale.span), side)
        for row, uri, pair in zip(chunk, change, images, strict=True):
            yield row, PairPictures(uri, *pair)


def _uris(pictures: Pixels, side: int) -> list[str]:
    return [data_uri(pixels, side) for pixels in pictures]


def _array(images: Tensor) -> Any:
    return images.double().numpy()
