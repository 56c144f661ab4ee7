"""How far a run has come, for a person who waits."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from captum_deduce import progress
from captum_deduce.bulk.shards import Counts


class Bar:
    """A bar over the images of a data set, with pairs a second, and those found.

    Args:
        length (int or None): Images; None where it is not known.
        seen (int): Of these, gone through before.
        show_progress (bool or None): As in :func:`captum_deduce.progress.shown`.
    """

    def __init__(self, length: int | None, seen: int, show_progress: bool | None) -> None:
        self._bar: Any = progress.bar(
            total=length, desc="data set", unit="image", show_progress=show_progress
        )
        # So that the time left is that of the images of this call.
        self._bar.initial = self._bar.n = seen
        self._seen = seen
        self._started = time.perf_counter()

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.close()

    def __call__(self, counts: Counts) -> None:
        """Show what was done so far.

        Args:
            counts (Counts): Of this call.
        """
        if self._bar.disable:
            return
        rate = counts.pairs / max(time.perf_counter() - self._started, 1e-9)
        shown = {"pairs": counts.pairs, "pairs/s": f"{rate:.3g}", "found": counts.found}
        if counts.failures:
            shown["failures"] = counts.failures
        self._bar.set_postfix(shown, refresh=False)
        self._bar.miniters = 0  # the number of images may stay while pairs end
        self._bar.update(self._seen + counts.items - self._bar.n)
