"""Pages that are kept elsewhere, and places of pages that may be there or not.

The notebooks of ``tutorials/`` are copied below the folder of the documentation, where Sphinx wants
its pages, and each page links to its notebook. The patterns of the start page's contents need not
match anything.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
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


def without_empty_patterns(text: str, pages: set[str]) -> str:
    """Leave out lines of a text that are nothing but a pattern which no page matches.

    Args:
        text: The source of a page.
        pages: Names of all pages.
    """
    return "".join(
        line
        for line in text.splitlines(keepends=True)
        if not re.fullmatch(r"[\w/-]+\*", line.strip())
        or any(fnmatch(page, line.strip()) for page in pages)
    )


def with_download(notebook: str, name: str) -> str:
    """Add a link to the file below the title of a notebook's page.

    Args:
        notebook: The JSON, whose first cell begins with the title.
        name: Of the file.
    """
    content = json.loads(notebook)
    first = content["cells"][0]
    title, _, rest = "".join(first["source"]).partition("\n")
    link = f"{{download}}`Download this tutorial as a notebook <{name}>`"
    first["source"] = f"{title}\n\n{link}\n{rest}"
    return json.dumps(content)


def _link_notebooks(app: Sphinx, page: str, source: list[str]) -> None:
    if page.startswith("tutorials/"):
        source[0] = with_download(source[0], f"{page.removeprefix('tutorials/')}.ipynb")


def _drop_empty_patterns(app: Sphinx, page: str, source: list[str]) -> None:
    if page == app.config.root_doc:
        source[0] = without_empty_patterns(source[0], app.env.found_docs)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", _copy)
    app.connect("source-read", _drop_empty_patterns)
    app.connect("source-read", _link_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
