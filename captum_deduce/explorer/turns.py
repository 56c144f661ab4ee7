"""Whose turn it is, where many want to search at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StoppedError(Exception):
    """Raised within what nobody wants to go on."""


class Turns:
    """Lets only so many go on at once; others wait, and come in the order in which they asked.

    Args:
        most (int): How many.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._line: list[object] = []
        self._moved = threading.Condition()

    @contextmanager
    def taken(self, one: object, unwanted: threading.Event) -> Iterator[None]:
        """Wait for a turn, which lasts as long as the ``with`` block.

        Args:
            one (object): Whose turn it is.
            unwanted (threading.Event): Ends the waiting, as soon as :meth:`wake` is called.

        Yields:
            None: When it is.

        Raises:
            StoppedError: It was no longer wanted when its turn came, or before.
        """
        with self._moved:
            self._line.append(one)
            self._moved.wait_for(lambda: unwanted.is_set() or not self._before(one))
        try:
            if unwanted.is_set():
                raise StoppedError
            yield
        finally:
            with self._moved:
                self._line.remove(one)
                self._moved.notify_all()

    def wake(self) -> None:
        """Let all who wait see whether they are still wanted."""
        with self._moved:
            self._moved.notify_all()

    def before(self, one: object) -> int:
        """Count the others that must end first.

        Args:
            one (object): Whoever waits; of others, and in their turn, 0.

        Returns:
            int: How many.
        """
        with self._moved:
            return self._before(one)

    def _before(self, one: object) -> int:
        place = self._line.index(one) if one in self._line else 0
        return max(place - self._most + 1, 0)
