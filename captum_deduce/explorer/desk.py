"""What happens when a visitor does something on the page; no widget is known here."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.explorer.collection import Collection, scores_of
from captum_deduce.explorer.costs import Costs, Measurement
from captum_deduce.explorer.keeping import keep
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.masks import enlarged
from captum_deduce.explorer.python_lines import Code, python_lines
from captum_deduce.explorer.scale import Scale
from captum_deduce.explorer.side_by_side import Attempt, ask, comparison_html
from captum_deduce.explorer.stage import Stage, failure, message_html, waiting
from captum_deduce.explorer.turns import Turns
from captum_deduce.explorer.uploads import decode
from captum_deduce.explorer.visitors import Chosen, Selection, Visitor, Visitors

PAGE = 60
"""Small pictures that are shown at once."""

_HINT = "Choose a target and press Explain."


class Desk:
    """Serves all visitors of one page.

    Args:
        collection (Collection): The images to choose from.
        explainers (Mapping[str, CounterfactualExplainer]): By name, all of one classifier.
        oracles (Mapping[str, Callable]): Other classifiers, by name.
        code (Code): What all of it is called in Python.
        costs (Costs, optional): What is known of them. Default: None (nothing)
        max_searches (int, optional): Of all visitors, at once. Default: 16
    """

    def __init__(
        self,
        collection: Collection,
        explainers: Mapping[str, CounterfactualExplainer],
        oracles: Mapping[str, Callable[..., Any]],
        code: Code,
        costs: Costs | None = None,
        max_searches: int = 16,
    ) -> None:
        first = next(iter(explainers.values()))
        self.collection, self.explainers, self.oracles = collection, dict(explainers), oracles
        self.code, self.scale = code, Scale.of(first)
        self.stage = Stage(collection.class_names, self.scale)
        self.forward_func = first.forward_func
        self.costs = costs or Costs(len(collection))
        self.visitors = Visitors(self._newcomer)
        self._turns = Turns(max_searches)

    @property
    def first_shown(self) -> str:
        """Mistakes come first, where there are some."""
        shown = self.collection.shown[0]
        return shown if self.collection.select(shown) else "All"

    def select(self, visitor: Visitor, selection: Selection) -> None:
        """Find the images that a visitor wants to see.

        Args:
            visitor (Visitor): Who asks.
            selection (Selection): Which.
        """
        visitor.rows = self.collection.select(
            selection.shown,
            label=selection.label,
            prediction=selection.prediction,
            order=selection.order,
            costs=self.costs.of(selection.name),
        )
        visitor.selection = selection

    def browse(
        self, visitor: Visitor, page: int
    ) -> tuple[list[tuple[NDArray[np.uint8], str]], int]:
        """Show some of a visitor's images.

        Args:
            visitor (Visitor): Who looks.
            page (int): Which :data:`PAGE` of them, from 1.

        Returns:
            tuple[list, int]: Pictures with captions, and how many pages there are.
        """
        rows, costed = visitor.rows, visitor.selection.costed
        costs = self.costs.of(costed)
        pictures = []
        for row in rows[(page - 1) * PAGE : page * PAGE]:
            caption = self.collection.caption(row, short=True)
            if costed and not math.isnan(costs[row]):
                caption += f": {costs[row]:.3g}" if math.isfinite(costs[row]) else ": none found"
            pictures.append((enlarged(self.scale.pixels(self.collection.images[row])), caption))
        return pictures, max(-(-len(rows) // PAGE), 1)

    def known(self, visitor: Visitor) -> tuple[str, int]:
        """Say of how many of a visitor's images it is known what they cost.

        Args:
            visitor (Visitor): Who asks.

        Returns:
            tuple[str, int]: HTML, and of how many more it can be found out at once.
        """
        name, number = visitor.selection.costed, len(visitor.rows)
        missing = len(self.costs.unknown(name, visitor.rows))
        about = f"L1 to the class that suggests itself, with {name}: known of "
        count = f"all {number}" if not missing else f"{number - missing} of {number}"
        rest = " The others follow, the least confident first." if missing else ""
        return message_html("info", f"{about}{count}.{rest}"), min(missing, PAGE)

    def measure(self, visitor: Visitor) -> Iterator[str]:
        """Find out what the next of a visitor's images cost.

        Args:
            visitor (Visitor): Whose search is stopped.

        Yields:
            str: HTML, how far it has come.

        Raises:
            Exception: Whatever the explainer or the model raised.
        """
        name = visitor.selection.costed
        rows = self.costs.unknown(name, visitor.rows)[:PAGE]
        work = visitor.begin(
            Measurement(self.costs, self.collection, name, self.explainers[name], rows, self._turns)
        )
        for _ in work.looks():
            doing = f"Explained {work.done} of {len(rows)} images with {name}"
            yield message_html("busy", waiting(work.before) or doing)
        if work.error is not None and not work.was_stopped:
            raise work.error

    def choose(self, visitor: Visitor, row: int) -> int:
        """Take an image of the collection.

        Args:
            visitor (Visitor): Whose search is stopped.
            row (int): Which image.

        Returns:
            int: The class to turn it into that suggests itself.
        """
        self._take(visitor, self._of_collection(row))
        return self.collection.default_target(row)

    def upload(self, visitor: Visitor, path: str | Path, *, invert: bool) -> int:
        """Take a file that a visitor sent.

        Args:
            visitor (Visitor): Whose search is stopped, if the file is an image.
            path (str or Path): The file.
            invert (bool): Exchange black and white.

        Returns:
            int: The runner-up class.

        Raises:
            ValueError: It can't be read, see :func:`captum_deduce.explorer.uploads.decode`.
        """
        levels = decode(path, self.collection.shape, invert=invert)
        image = self.scale.inputs(levels.to(self.collection.images))
        likeliest = scores_of(self.forward_func, image)[0].softmax(0).topk(2)
        seen, target = likeliest.indices.tolist()
        about = f"uploaded, seen as {self.collection.class_names[seen]}"
        self._take(visitor, Chosen(image, None, f"{about} ({float(likeliest.values[0]):.1%})"))
        return int(target)

    def canvas(self, visitor: Visitor) -> dict[str, Any]:
        """Prepare a visitor's image for painting.

        Args:
            visitor (Visitor): Who paints.

        Returns:
            dict: What an image editor shows.
        """
        pixels = enlarged(self.scale.pixels(visitor.chosen.image[0]))
        return {"background": pixels, "layers": [], "composite": None}

    def look(self, visitor: Visitor, said: tuple[str, str] = ("info", _HINT)) -> str:
        """Show a visitor's image.

        Args:
            visitor (Visitor): Who looks.
            said (tuple[str, str], optional): A kind of message, and what it says.
                Default: what to do

        Returns:
            str: HTML.
        """
        return self.stage.still(visitor.chosen, message_html(*said))

    def explain(
        self, visitor: Visitor, name: str, target: int, mask: Tensor | None
    ) -> Iterator[str]:
        """Search, and show how it goes.

        Args:
            visitor (Visitor): Whose last search is stopped.
            name (str): The explainer's.
            target (int): The class to reach.
            mask (Tensor or None): Where the image may change.

        Yields:
            str: HTML, the last after the search has ended.
        """
        about, row = visitor.chosen.about, visitor.chosen.row
        search = visitor.begin(self._search(visitor, name, target, mask), name)
        yield self.stage.moving(search, about, self.stage.outcome(search))
        for _ in search.looks():
            yield self.stage.moving(search, about, self.stage.outcome(search))
        self._note_cost(row, search, name)

    def walk(self, visitor: Visitor, at: int) -> str:
        """Show an image on the way of a visitor's last search.

        Args:
            visitor (Visitor): Who walks.
            at (int): Which of the images that were kept; the one after the last is what was found.

        Returns:
            str: HTML.
        """
        search = visitor.search
        if search is None or not search.course.images:
            return self.look(visitor)
        chosen = at if at < len(search.course.images) else None
        about = visitor.chosen.about
        return self.stage.moving(search, about, self.stage.outcome(search), chosen)

    def compare(
        self, visitor: Visitor, names: list[str], target: int, mask: Tensor | None
    ) -> Iterator[str]:
        """Search with several explainers, one after the other.

        Args:
            visitor (Visitor): Whose last search is stopped.
            names (list[str]): The explainers'.
            target (int): The class to reach.
            mask (Tensor or None): Where the image may change.

        Yields:
            str: HTML, one row more each time.
        """
        attempts: list[Attempt] = []
        for name in names:
            said, table = "", comparison_html(attempts, self.scale, list(self.oracles))
            search = visitor.begin(self._search(visitor, name, target, mask), name)
            for _ in search.looks():
                now = waiting(search.before) or f"Searching with {name}"
                if now != said:
                    said = now
                    yield message_html("busy", said) + table
            if search.was_stopped:
                attempts.append(Attempt(name, None, search.seconds))
                break
            attempts.append(self._judged(name, search))
            if search.is_unwanted:  # stopped while the oracles were asked
                break
        yield comparison_html(attempts, self.scale, list(self.oracles))

    def lines(self, visitor: Visitor) -> str:
        """Write the Python of a visitor's last search.

        Args:
            visitor (Visitor): Who asks.

        Returns:
            str: Lines; empty where nothing was found.
        """
        search = visitor.search
        if search is None or search.result is None:
            return ""
        return python_lines(self.code, visitor.name, search, visitor.chosen)

    def files(self, visitor: Visitor) -> list[str]:
        """Write what a visitor may keep.

        Args:
            visitor (Visitor): Who keeps the files; the last ones go.

        Returns:
            list[str]: Their paths.

        Raises:
            ValueError: There is no result yet.
        """
        search, row = visitor.search, visitor.chosen.row
        if search is None or search.result is None:
            raise ValueError("there is nothing to keep yet; press Explain first")
        # Held by the visitor: the folder goes when they do.
        visitor.folder = tempfile.TemporaryDirectory(prefix="captum-deduce-")
        labels = self.collection.labels
        label = None if labels is None or row is None else int(labels[row])
        folder, names = Path(visitor.folder.name), self.collection.class_names
        written = keep(search, folder, names, self.scale, self.lines(visitor), label)
        return [str(path) for path in written]

    def _newcomer(self) -> Visitor:
        rows = self.collection.select(self.first_shown)
        return Visitor(self._of_collection(rows[0]), Selection(self.first_shown), rows)

    def _of_collection(self, row: int) -> Chosen:
        confidence = float(self.collection.confidence[row])
        about = f"{self.collection.caption(row)} ({confidence:.1%})"
        return Chosen(self.collection.images[row : row + 1], row, about)

    def _take(self, visitor: Visitor, chosen: Chosen) -> None:
        visitor.stop()
        visitor.search, visitor.chosen = None, chosen

    def _search(self, visitor: Visitor, name: str, target: int, mask: Tensor | None) -> Search:
        image = visitor.chosen.image.to(self.collection.device)
        return Search(self.explainers[name], image, int(target), mask, self._turns)

    def _note_cost(self, row: int | None, search: Search, name: str) -> None:
        if row is None or search.mask is not None or search.result is None:
            return
        if search.target == self.collection.default_target(row):
            self.costs.note(name, [row], search.result)

    def _judged(self, name: str, search: Search) -> Attempt:
        result, error, seen = search.result, search.error, None
        if result is not None:
            try:
                seen = ask(self.oracles, result, self.collection.class_names)
            except Exception as problem:  # an oracle is a user's model, too
                seen = {oracle: failure(problem) for oracle in self.oracles}
        return Attempt(name, result, search.seconds, error, seen)
