"""Samples that are kept while they fit into memory, so that they need not come again."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from captum_deduce.density.samples import Samples

KEPT = 3 * 2**26
"""Bytes of samples that are kept at most where nothing else is asked for."""

# Entries of the blocks that batches are joined to.
_BLOCK = 2**20


class KeptSamples:
    """Samples of a pass, or none of them where they take too much.

    Args:
        budget (int): Most bytes. What needs more is dropped.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.complete = budget > 0
        self._parts: list[Samples] = []
        self._size = 0

    def add(self, samples: Samples) -> None:
        """Keep a batch, or drop all that is kept where it doesn't fit in.

        Args:
            samples (Samples): Not copied, nor checked; soft labels are not kept.
        """
        self._size += sum(part.nbytes for part in samples if part is not None)
        soft = samples.target.is_floating_point() or samples.target.dtype == torch.bool
        if not self.complete or self._size > self.budget or soft:
            self.complete = False
            self._parts.clear()
            return
        self._parts.append(samples)

    def blocks(self) -> Iterator[Samples]:
        """Hand out what is kept, in blocks.

        Yields:
            Samples: Those of several batches.
        """
        start = 0
        while start < len(self._parts):
            end, entries = start, 0
            weighted = self._parts[start].sample_weight is not None
            while end < len(self._parts) and entries < _BLOCK:
                if (self._parts[end].sample_weight is not None) != weighted:
                    break
                entries += self._parts[end].features.numel()
                end += 1
            features, target, weights = zip(*self._parts[start:end], strict=True)
            weight = torch.cat(weights) if weighted else None
            yield Samples(torch.cat(features), torch.cat(target), weight)
            start = end
