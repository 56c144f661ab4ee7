"""Bring the notebooks of ``tutorials/`` in as pages, which Sphinx wants below its own folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config


def copy_notebooks(source: Path, pages: Path) -> None:
    """Make one folder hold the notebooks of another; files that are the same stay untouched.

    An untouched page is not executed again.

    Args:
        source: Where the notebooks are kept.
        pages: The folder of copies; notebooks that ``source`` lacks are removed from it.
    """
    pages.mkdir(exist_ok=True)
    notebooks = {path.name: path.read_bytes() for path in source.glob("*.ipynb")}
    for stale in {path.name for path in pages.glob("*.ipynb")} - set(notebooks):
        (pages / stale).unlink()
    for name, content in notebooks.items():
        page = pages / name
        if not page.is_file() or page.read_bytes() != content:
            page.write_bytes(content)


def _copy(app: Sphinx, config: Config) -> None:
    copy_notebooks(app.srcdir.parent / "tutorials", app.srcdir / "tutorials")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
