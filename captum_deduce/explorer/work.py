"""What takes time: done in a thread of its own, in its turn, watched, and stopped when told."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from captum_deduce.explorer.turns import StoppedError, Turns
from captum_deduce.search import Evaluation, observed

THREAD = "captum-deduce explorer"
"""What its threads are called."""

_PAUSE = 0.12
"""Seconds between two looks at it."""


class Work(ABC):
    """Calls of explainers that can be watched, and stopped after any evaluation of the model.

    Args:
        turns (Turns, optional): Where it waits for its turn. Default: None (it need not wait)

    Attributes:
        error (BaseException or None): What ended it, if something did.
        seconds (float): What it took, once it has ended, without the waiting.
    """

    def __init__(self, turns: Turns | None = None) -> None:
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._turns = turns or Turns(1)
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)

    @property
    @abstractmethod
    def progress(self) -> int:
        """A number that grows whenever there is something new to look at."""

    @abstractmethod
    def do(self) -> None:
        """Do it, in this thread."""

    @abstractmethod
    def see(self, what: str, evaluation: Evaluation) -> None:
        """Take note of an evaluation.

        Args:
            what (str): What it belongs to, see :func:`captum_deduce.search.observed`.
            evaluation (Evaluation): Of all pairs that the model saw.
        """

    def looks(self) -> Iterator[None]:
        """Start, and wait for the end, with a break whenever there is something new to look at.

        A consumer that leaves stops the work.

        Yields:
            None: A few times a second, and once after the end.
        """
        self._thread.start()
        try:
            seen = (0, 0)
            while not self._ended.wait(_PAUSE):
                now = (self.before, self.progress)
                if now != seen:
                    seen = now
                    yield
            yield
        finally:
            if not self._ended.is_set():
                self.stop()

    def stop(self) -> None:
        """Let it end: at once while it waits for its turn, then at the next evaluation."""
        self._stopped.set()
        self._turns.wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended.

        Args:
            timeout (float, optional): Seconds. Default: None (as long as it takes)

        Returns:
            bool: Whether it has ended.
        """
        return self._ended.wait(timeout)

    @property
    def before(self) -> int:
        """How much of other people's work must end before it begins; 0: nothing, or it has."""
        return self._turns.before(self)

    @property
    def is_unwanted(self) -> bool:
        """Whether somebody stopped it, be it after its end."""
        return self._stopped.is_set()

    @property
    def was_stopped(self) -> bool:
        """Whether it ended because somebody stopped it."""
        return isinstance(self.error, StoppedError)

    def _run(self) -> None:
        try:
            with self._turns.taken(self, self._stopped):
                started = time.perf_counter()
                try:
                    with observed(self._seen):
                        self.do()
                finally:
                    self.seconds = time.perf_counter() - started
        except BaseException as error:  # a user's model may raise anything; the page shows it
            self.error = error
        finally:
            self._ended.set()

    def _seen(self, what: str, evaluation: Evaluation) -> None:
        if self._stopped.is_set():
            raise StoppedError
        self.see(what, evaluation)
