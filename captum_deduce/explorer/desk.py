"""What happens when a visitor does something on the page; no widget is known here."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from captum_deduce.explainers import CounterfactualExplainer
from captum_deduce.explorer.collection import Collection, scores_of
from captum_deduce.explorer.keeping import keep
from captum_deduce.explorer.live import Chosen, Search, Visitor, Visitors
from captum_deduce.explorer.masks import enlarged
from captum_deduce.explorer.python_lines import Code, python_lines
from captum_deduce.explorer.scale import Scale
from captum_deduce.explorer.side_by_side import Attempt, ask, comparison_html
from captum_deduce.explorer.stage import Stage, failure, message_html
from captum_deduce.explorer.uploads import decode

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
    """

    def __init__(
        self,
        collection: Collection,
        explainers: Mapping[str, CounterfactualExplainer],
        oracles: Mapping[str, Callable[..., Any]],
        code: Code,
    ) -> None:
        first = next(iter(explainers.values()))
        self.collection, self.explainers, self.oracles = collection, dict(explainers), oracles
        self.code, self.scale = code, Scale.of(first)
        self.stage = Stage(collection.class_names, self.scale)
        self.forward_func = first.forward_func
        self.visitors = Visitors(self._newcomer)

    @property
    def first_shown(self) -> str:
        """Mistakes come first, where there are some."""
        shown = self.collection.shown[0]
        return shown if self.collection.select(shown) else "All"

    def browse(self, rows: list[int], page: int) -> tuple[list[tuple[NDArray[np.uint8], str]], int]:
        """Show some of the images.

        Args:
            rows (list[int]): Of the collection.
            page (int): Which :data:`PAGE` of them, from 1.

        Returns:
            tuple[list, int]: Pictures with captions, and how many pages there are.
        """
        part = rows[(page - 1) * PAGE : page * PAGE]
        pictures = [
            (
                enlarged(self.scale.pixels(self.collection.images[row])),
                self.collection.caption(row, short=True),
            )
            for row in part
        ]
        return pictures, max(-(-len(rows) // PAGE), 1)

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
        about = visitor.chosen.about
        search = visitor.begin(self._search(visitor, name, target, mask), name)
        yield self.stage.moving(search, about, self.stage.outcome(search))
        for _ in search.looks():
            yield self.stage.moving(search, about, self.stage.outcome(search))

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
            busy = message_html("busy", f"Searching with {name}")
            yield busy + comparison_html(attempts, self.scale, list(self.oracles))
            search = visitor.begin(self._search(visitor, name, target, mask), name)
            for _ in search.looks():
                pass
            if search.was_stopped:
                attempts.append(Attempt(name, None, search.seconds))
                break
            attempts.append(self._judged(name, search))
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
        return Visitor(self._of_collection(rows[0]), rows)

    def _of_collection(self, row: int) -> Chosen:
        confidence = float(self.collection.confidence[row])
        about = f"{self.collection.caption(row)} ({confidence:.1%})"
        return Chosen(self.collection.images[row : row + 1], row, about)

    def _take(self, visitor: Visitor, chosen: Chosen) -> None:
        visitor.stop()
        visitor.search, visitor.chosen = None, chosen

    def _search(self, visitor: Visitor, name: str, target: int, mask: Tensor | None) -> Search:
        image = visitor.chosen.image.to(self.collection.device)
        return Search(self.explainers[name], image, int(target), mask)

    def _judged(self, name: str, search: Search) -> Attempt:
        result, error, seen = search.result, search.error, None
        if result is not None:
            try:
                seen = ask(self.oracles, result, self.collection.class_names)
            except Exception as problem:  # an oracle is a user's model, too
                seen = {oracle: failure(problem) for oracle in self.oracles}
        return Attempt(name, result, search.seconds, error, seen)
