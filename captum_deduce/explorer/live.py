"""A search that can be watched, and stopped; and who searches."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.search import Evaluation, observed

_PAUSE = 0.12
"""Seconds between two looks at a search."""

_KEPT_BYTES = 64_000_000
"""What the images of one search may take; of a longer one every second is dropped, again and
again."""


class StoppedError(Exception):
    """Raised within a search that nobody wants to go on."""


@dataclass
class Course:
    """What a search went through so far.

    Args:
        confidence (list[float]): Probability of the target, at each evaluation.
        log_density (list[float]): Of the features under the target class, in nats; empty where the
            explainer has no density.
        steps (list[int]): The evaluations whose images were kept, ascending.
        images (list[Tensor]): These images, channels x height x width, on the CPU.
        refined (int): Evaluations of a refinement after the search.
    """

    confidence: list[float] = field(default_factory=list)
    log_density: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    refined: int = 0
    _stride: int = 1

    def add(self, evaluation: Evaluation) -> None:
        """Note an evaluation.

        Args:
            evaluation (Evaluation): Of one pair.
        """
        step = len(self.confidence)
        known = evaluation.log_density
        said = [evaluation.confidence, *([] if known is None else [known])]
        confidence, *density = torch.stack([value[0].double() for value in said]).tolist()
        self.confidence.append(confidence)
        self.log_density += density
        if step % self._stride:
            return
        image = evaluation.images[0].detach().cpu().clone()
        self.steps.append(step)
        self.images.append(image)
        if len(self.images) * image.numel() * image.element_size() > _KEPT_BYTES:
            self._stride *= 2
            kept = [place for place, at in enumerate(self.steps) if at % self._stride == 0]
            self.steps = [self.steps[place] for place in kept]
            self.images = [self.images[place] for place in kept]


class Search:
    """One image, one target, one explainer: a search in a thread of its own.

    Args:
        explainer (CounterfactualExplainer): Of any method.
        image (Tensor): 1 x channels x height x width, on the model's device.
        target (int): The class to reach.
        mask (Tensor, optional): Height x width, where it may change. Default: None (everywhere)

    Attributes:
        course (Course): So far.
        result (Counterfactuals or None): Of the one pair, once it is there.
        error (BaseException or None): What ended the search, if something did.
        seconds (float): What it took, once it has ended.
    """

    def __init__(
        self,
        explainer: CounterfactualExplainer,
        image: Tensor,
        target: int,
        mask: Tensor | None = None,
    ) -> None:
        self.explainer = explainer
        self.image, self.target, self.mask = image, target, mask
        self.course = Course()
        self.result: Counterfactuals | None = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def looks(self) -> Iterator[None]:
        """Start, and wait for the end, with a break whenever there is something new to look at.

        A consumer that leaves stops the search.

        Yields:
            None: A few times a second, and once after the end.
        """
        self._thread.start()
        try:
            seen = 0
            while not self._ended.wait(_PAUSE):
                now = len(self.course.confidence) + self.course.refined
                if now > seen:
                    seen = now
                    yield
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        """Let the search end at its next evaluation; after its end nothing happens."""
        self._stopped.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the search has ended.

        Args:
            timeout (float, optional): Seconds. Default: None (as long as it takes)

        Returns:
            bool: Whether it has ended.
        """
        return self._ended.wait(timeout)

    @property
    def was_stopped(self) -> bool:
        """Whether it ended because somebody stopped it."""
        return isinstance(self.error, StoppedError)

    def _run(self) -> None:
        started = time.perf_counter()
        try:
            with observed(self._see):
                self.result = self.explainer.generate(
                    self.image, self.target, mask=self.mask, show_progress=False
                )
        except BaseException as error:  # a user's model may raise anything; the page shows it
            self.error = error
        finally:
            self.seconds = time.perf_counter() - started
            self._ended.set()

    def _see(self, what: str, evaluation: Evaluation) -> None:
        if self._stopped.is_set():
            raise StoppedError
        if what == "refinement":
            self.course.refined += 1
        else:
            self.course.add(evaluation)


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


@dataclass
class Visitor:
    """What the page knows of one visitor, and runs for them: one search at a time.

    Args:
        chosen (Chosen): The image.
        rows (list[int]): Of the collection, those that are shown.
        search (Search, optional): The last one. Default: None
        name (str, optional): Of its explainer. Default: ""
        folder (TemporaryDirectory, optional): Of files to keep. Default: None
    """

    chosen: Chosen
    rows: list[int]
    search: Search | None = None
    name: str = ""
    folder: TemporaryDirectory[str] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, search: Search, name: str) -> Search:
        """Put a search in the place of the visitor's last one, which is stopped.

        Args:
            search (Search): Not started.
            name (str): Of its explainer.

        Returns:
            Search: The same.
        """
        with self._lock:
            if self.search is not None:
                self.search.stop()
            self.search, self.name = search, name
        return search

    def stop(self) -> None:
        """Stop the search, if one is going on."""
        if self.search is not None:
            self.search.stop()


class Visitors:
    """Who is on the page.

    Args:
        new (Callable): Makes a visitor.
        most (int, optional): How many are remembered; beyond, those who were seen last longest ago
            are forgotten, and their searches stopped. Default: 200
    """

    def __init__(self, new: Callable[[], Visitor], most: int = 200) -> None:
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
