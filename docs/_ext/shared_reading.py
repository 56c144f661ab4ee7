"""With `-j`, pages are read by several processes, each of which gets some of every folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sphinx.util.parallel import make_chunks

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

SILENT = "sphinx-mathjax-offline"
"""It copies files after the build, and doesn't say that reading in parallel is nothing to it."""


def dealt(names: list[str], processes: int) -> list[str]:
    """Reorder pages so that slow ones, which lie in one folder, go to different processes.

    Args:
        names: Pages in alphabetical order, of which each process takes so many that follow one
            another at a time.
        processes: How many there are.
    """
    count = len(make_chunks(names, processes)) if names else 0
    return [name for first in range(count) for name in names[first::count]]


def _allow(app: Sphinx) -> None:
    app.extensions[SILENT].parallel_read_safe = True


def _deal(app: Sphinx, _: BuildEnvironment, names: list[str]) -> None:
    if app.parallel > 1:
        names[:] = dealt(names, app.parallel)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", _allow)
    app.connect("env-before-read-docs", _deal)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
