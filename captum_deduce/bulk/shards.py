"""Shards in the making: images go in, in order; pairs come back in any order."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from captum_deduce import checks
from captum_deduce.bulk.schema import Failure, Layout, Pairs, Rows
from captum_deduce.bulk.source import Item
from captum_deduce.bulk.targets import Plan
from captum_deduce.explainers import Stream
from captum_deduce.search import SearchResult


@dataclass(frozen=True)
class Pair:
    """An image and its target, and where it belongs.

    Args:
        shard (int): Number of its shard.
        item (Item): The image.
        prediction (int): What the model sees in it.
        target (int): The class to reach.
    """

    shard: int
    item: Item
    prediction: int
    target: int


@dataclass
class Counts:
    """What was done so far in this call.

    Args:
        items (int): Images that are done with, explained or not. Default: 0
        pairs (int): Pairs that were searched. Default: 0
        found (int): Of these, with success. Default: 0
        failures (int): Images, or targets, that could not be explained. Default: 0
        seconds_writing (float): What shards took to be put together and written. Default: 0.0
    """

    items: int = 0
    pairs: int = 0
    found: int = 0
    failures: int = 0
    seconds_writing: float = 0.0


@dataclass
class _OpenShard:
    """A shard whose pairs have not all come back."""

    span: range
    rows: Rows
    waiting: int = 0
    complete: bool = False
    back: list[tuple[Pair, SearchResult]] = field(default_factory=list)


class ShardMaker:
    """Explain images shard by shard, with pairs of several shards in one batch.

    A shard is written as soon as its last pair has come back; those after it may be under way.

    Args:
        stream (Stream): Open.
        plan (Plan): Which pairs.
        layout (Layout): Of the rows.
        size (int): Images in a shard.
        write (Callable): Takes number and rows (``pyarrow.Table``) of a shard that is complete.
        report (Callable, optional): Called with :class:`Counts` as they grow. Default: None
    """

    def __init__(
        self,
        stream: Stream,
        plan: Plan,
        layout: Layout,
        size: int,
        write: Callable[[int, Any], None],
        report: Callable[[Counts], None] | None = None,
    ) -> None:
        self.stream = stream
        self.plan = plan
        self.layout = layout
        self.size = size
        self.write = write
        self.report = report
        self.counts = Counts()
        self._open: dict[int, _OpenShard] = {}
        self._waiting: dict[int, int] = {}  # pairs of an image that are under way
        self._warned = False
        self._bounds = stream.lower.cpu(), stream.upper.cpu()

    def make(self, items: Iterable[Item]) -> None:
        """Explain images.

        Args:
            items (Iterable[Item]): Of whole shards, in ascending order; only the last shard of the
                data set may be shorter.
        """
        found = self.stream.search(
            (pair, pair.item.image, pair.target)
            for pair in self._pairs(items)
            if pair.item.image is not None
        )
        for pairs, result in found:
            self._take_back(pairs, result)
            self._hand_out()
        self._hand_out()

    def _pairs(self, items: Iterable[Item]) -> Iterator[Pair]:
        """Classify images, a batch at a time, and draw their pairs."""
        for batch in _batches(items, self.stream.batch_size):
            for item in batch:
                self._enter(item.index)
            pairs = self._chosen(batch)
            self._waiting.update(Counter(pair.item.index for pair in pairs))
            self.counts.items += sum(item.index not in self._waiting for item in batch)
            last = batch[-1].index
            for number, shard in self._open.items():
                # Items come in order, so that earlier shards get no more of them.
                shard.complete = number < (last + 1) // self.size
            if not pairs:
                self._hand_out()  # none will come back to do it
            yield from pairs
        for shard in self._open.values():
            shard.complete = True

    def _enter(self, index: int) -> None:
        """Make an image part of its shard."""
        number = index // self.size
        if number not in self._open:
            rows = Rows(self.layout, self._bounds)
            self._open[number] = _OpenShard(range(index, index), rows)
        shard = self._open[number]
        shard.span = range(shard.span.start, index + 1)

    def _chosen(self, batch: list[Item]) -> list[Pair]:
        """Pair images with their targets; note what can't be explained."""
        readable, scores = self._classified(batch)
        if not readable:
            return []
        outcomes = self.plan.choose(readable, scores, self.stream.targetable)
        pairs = []
        for item, outcome, prediction in zip(
            readable, outcomes, scores.argmax(1).tolist(), strict=True
        ):
            if isinstance(outcome, Failure):
                self._fail(outcome)
                continue
            for target in outcome:
                why = self.stream.unreachable(target)
                if why is None:
                    pairs.append(Pair(item.index // self.size, item, prediction, target))
                else:
                    why = f"ValueError: {why}"
                    self._fail(Failure(item.index, why, item.label, target, prediction))
        for pair in pairs:
            self._open[pair.shard].waiting += 1
        return pairs

    def _classified(self, batch: list[Item]) -> tuple[list[Item], Tensor]:
        """The images that can be explained, and the model's scores of them."""
        readable, images = [], []
        for item in batch:
            error = item.error or self._unfit(item)
            if error is None and item.image is not None:
                readable.append(item)
                images.append(item.image)
            else:
                self._fail(Failure(item.index, str(error), item.label))
        if not readable:
            return [], torch.empty(0)
        scores = self.stream.scores(torch.stack(images))
        finite = scores.isfinite().all(1)
        for item, fine in zip(readable, finite.tolist(), strict=True):
            if not fine:
                error = "ValueError: forward_func returned NaN or infinite scores"
                self._fail(Failure(item.index, error, item.label))
        fine_items = [item for item, fine in zip(readable, finite.tolist(), strict=True) if fine]
        return fine_items, scores[finite]

    def _unfit(self, item: Item) -> str | None:
        """Tell why an image can't be explained with the others."""
        image = item.image
        if image is None:
            return "ValueError: there is no image"
        shape, dtype = tuple(image.shape), image.dtype
        if (shape, dtype) != (self.layout.shape, self.layout.dtype):
            return (
                f"ValueError: images must be {self.layout.shape} and {self.layout.dtype}, as the "
                f"first one, got {shape} and {dtype}"
            )
        try:
            checks.images(image.unsqueeze(0))
        except ValueError as error:
            return f"ValueError: {error}"
        outside = checks.outside_bounds(image.unsqueeze(0), *self._bounds)
        return None if outside is None else f"ValueError: {outside}"

    def _fail(self, failure: Failure) -> None:
        self.counts.failures += 1
        self._open[failure.index // self.size].rows.fail(failure)

    def _take_back(self, pairs: list[Pair], result: SearchResult) -> None:
        self.counts.pairs += len(pairs)
        for pair, found in zip(pairs, _rows(result), strict=True):
            self.counts.found += int(found.success)
            self._waiting[pair.item.index] -= 1
            if not self._waiting[pair.item.index]:
                del self._waiting[pair.item.index]
                self.counts.items += 1
            shard = self._open[pair.shard]
            shard.back.append((pair, found))
            if len(shard.back) >= self.stream.batch_size:
                self._finish(shard)

    def _hand_out(self) -> None:
        """Write the shards that are complete."""
        for number, shard in list(self._open.items()):
            if shard.complete and shard.waiting == len(shard.back):
                self._finish(shard)
                del self._open[number]
                started = time.perf_counter()
                self.write(number, shard.rows.table(shard.span))
                self.counts.seconds_writing += time.perf_counter() - started
        if self.report is not None:
            self.report(self.counts)

    def _finish(self, shard: _OpenShard) -> None:
        """Turn pairs that came back into rows, so that no whole images have to be kept."""
        if not shard.back:
            return
        pairs, found = [pair for pair, _ in shard.back], [one for _, one in shard.back]
        images = [pair.item.image for pair in pairs if pair.item.image is not None]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = self.stream.finish(images, [pair.target for pair in pairs], found)
        for warning in caught if not self._warned else ():
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
            self._warned = True
        shard.waiting -= len(pairs)
        shard.back = []
        shard.rows.add(
            Pairs(
                index=[pair.item.index for pair in pairs],
                label=[pair.item.label for pair in pairs],
                result=result,
                quantile=self._quantile(result.log_density, result.target),
            )
        )

    def _quantile(self, log_density: Tensor | None, target: Tensor) -> Tensor | None:
        density = getattr(self.stream.explainer, "density", None)
        known = getattr(density, "log_densities", None)
        if log_density is None or not known:
            return None
        ranks: Tensor = known.rank(log_density.to(known.values), target)
        return ranks


def _rows(result: SearchResult) -> Iterator[SearchResult]:
    """Each pair alone, on the CPU, as a copy: a view would keep the memory of all."""
    values = {name: value.cpu() for name, value in vars(result).items() if value is not None}
    for row in range(len(result.success)):
        own: dict[str, Any] = {name: value[row : row + 1].clone() for name, value in values.items()}
        yield SearchResult(**own)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
