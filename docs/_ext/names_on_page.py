"""Long API pages begin with links to what they describe: they are many screens high."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDER = "api/"
"""Where the pages generated from docstrings are."""


def described(doctree: nodes.document) -> Iterator[tuple[str, str]]:
    """Find the classes, functions and constants that a page describes, without classes' members.

    Args:
        doctree: The page.

    Yields:
        The name without its module, and the place on the page that links point to.
    """
    for entry in doctree.findall(addnodes.desc):
        signature = entry.next_node(addnodes.desc_signature)
        member = isinstance(entry.parent, addnodes.desc_content)
        if signature is not None and signature["ids"] and not member:
            yield signature["ids"][0].rpartition(".")[2], signature["ids"][0]


def add_links(doctree: nodes.document) -> None:
    """Put a line of links below the title of a page that describes several things.

    Args:
        doctree: The page; changed in place.
    """
    entries = list(described(doctree))
    title = doctree.next_node(nodes.title)
    if title is None or len(entries) < 2:
        return
    line = nodes.paragraph("", "On this page: ")
    for number, (name, place) in enumerate(entries):
        if number:
            line += nodes.Text(", ")
        line += nodes.reference("", "", nodes.literal(text=name), internal=True, refid=place)
    title.parent.insert(title.parent.index(title) + 1, line)


def _add_links(app: Sphinx, doctree: nodes.document, page: str) -> None:
    if page.startswith(FOLDER):
        add_links(doctree)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", _add_links, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
