"""The work of one process: some shards of a data set, explained and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from captum_deduce.bulk.folder import RunFolder
from captum_deduce.bulk.schema import Layout
from captum_deduce.bulk.shards import Counts, ShardMaker
from captum_deduce.bulk.source import Source
from captum_deduce.bulk.targets import Plan
from captum_deduce.explainers import CounterfactualExplainer, Stream


@dataclass(frozen=True)
class Work:
    """What a process has to know; it can be sent to another one.

    Args:
        explainer (CounterfactualExplainer): Of any method.
        source (Source): The data set.
        example (Tensor): An image of it, channels x height x width.
        plan (Plan): Which pairs.
        layout (Layout): Of the rows.
        folder (Path): Of the run.
        shard_size (int): Images in a shard.
        internal_batch_size (int): Most pairs that the model sees at once.
        mask (Tensor or None): 1 where pixels may change.
        feature_mask (Tensor or None): Entries that move as one.
    """

    explainer: CounterfactualExplainer
    source: Source
    example: Tensor
    plan: Plan
    layout: Layout
    folder: Path
    shard_size: int
    internal_batch_size: int
    mask: Tensor | None = None
    feature_mask: Tensor | None = None

    def stream(self) -> Stream:
        """Make the search; to be opened with ``with``.

        Returns:
            Stream: Tried with the example when it is opened.
        """
        return Stream(
            self.explainer,
            self.example.unsqueeze(0),
            internal_batch_size=self.internal_batch_size,
            mask=self.mask,
            feature_mask=self.feature_mask,
        )

    def explain(
        self,
        stream: Stream,
        spans: Iterable[range],
        report: Callable[[Counts], None] | None = None,
    ) -> Counts:
        """Explain the images of some shards, and write these.

        Args:
            stream (Stream): Open.
            spans (Iterable[range]): Of whole shards, ascending.
            report (Callable, optional): Called with the counts as they grow. Default: None

        Returns:
            Counts: What was done.

        Raises:
            OSError: A shard can't be written.
            Exception: What the model raises.
        """
        write = RunFolder(self.folder).write_shard
        maker = ShardMaker(stream, self.plan, self.layout, self.shard_size, write, report)
        maker.make(self.source.items(spans))
        return maker.counts
