"""Who is on the page, what they look at, and what is done for them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from torch import Tensor

from captum_deduce.explorer.collection import CHEAPEST, IN_ORDER
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.work import Work

_Work = TypeVar("_Work", bound=Work)

MOST_VISITORS = 200
"""How many are remembered."""


@dataclass
class Chosen:
    """The image that a visitor looks at.

    Args:
        image (Tensor): 1 x channels x height x width, on the CPU.
        row (int or None): Which one of the collection; None: it was uploaded.
        about (str, optional): What it is, and what the classifier sees in it. Default: ""
    """

    image: Tensor
    row: int | None
    about: str = ""


@dataclass(frozen=True)
class Selection:
    """Which images a visitor wants to see.

    Args:
        shown (str): See :meth:`~captum_deduce.explorer.collection.Collection.select`.
        label (int, optional): Likewise. Default: None
        prediction (int, optional): Likewise. Default: None
        order (str, optional): Likewise. Default: "given"
        name (str, optional): Of the explainer whose costs count. Default: ""
    """

    shown: str
    label: int | None = None
    prediction: int | None = None
    order: str = IN_ORDER
    name: str = ""

    @property
    def costed(self) -> str:
        """The explainer whose costs are to be seen; empty: of none."""
        return self.name if self.order == CHEAPEST else ""


@dataclass
class Visitor:
    """What the page knows of one visitor, and does for them: one thing at a time.

    Args:
        chosen (Chosen): The image.
        selection (Selection): Which images they want to see.
        rows (list[int]): Of the collection, these images.
        search (Search, optional): The last one. Default: None
        name (str, optional): Of its explainer. Default: ""
        folder (TemporaryDirectory, optional): Of files to keep. Default: None
    """

    chosen: Chosen
    selection: Selection
    rows: list[int]
    search: Search | None = None
    name: str = ""
    folder: TemporaryDirectory[str] | None = None
    _work: Work | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, work: _Work, name: str = "") -> _Work:
        """Put work in the place of the visitor's last one, which is stopped.

        Args:
            work (Work): Not started. A search becomes the one that the visitor looks at.
            name (str, optional): Of the search's explainer. Default: ""

        Returns:
            Work: The same.
        """
        with self._lock:
            self.stop()
            self._work = work
            if isinstance(work, Search):
                self.search, self.name = work, name
        return work

    def stop(self) -> None:
        """Stop what is going on or waits for its turn, if something does."""
        if self._work is not None:
            self._work.stop()


class Visitors:
    """Who is on the page.

    Args:
        new (Callable): Makes a visitor.
        most (int, optional): How many are remembered; beyond, those who were seen last longest ago
            are forgotten, and their searches stopped. Default: :data:`MOST_VISITORS`
    """

    def __init__(self, new: Callable[[], Visitor], most: int = MOST_VISITORS) -> None:
        self._new, self._most = new, most
        self._known: OrderedDict[str, Visitor] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def of(self, request: Any) -> Visitor:
        """Find whoever sent a request.

        Args:
            request (gradio.Request): With the ``session_hash`` of an open page.

        Returns:
            Visitor: Who was here before, or a new one.
        """
        with self._lock:
            visitor = self._known.pop(request.session_hash, None) or self._new()
            self._known[request.session_hash] = visitor
            forgotten = []
            while len(self._known) > self._most:
                forgotten.append(self._known.popitem(last=False)[1])
        for other in forgotten:
            other.stop()
        return visitor

    def leave(self, request: Any) -> None:
        """Forget a visitor whose page has closed, and stop their search.

        Args:
            request (gradio.Request): As for :meth:`of`.
        """
        with self._lock:
            visitor = self._known.pop(request.session_hash, None)
        if visitor is not None:
            visitor.stop()
