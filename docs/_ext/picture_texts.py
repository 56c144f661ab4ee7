"""Every picture has an alternative text, those that code cells draw as well.

A cell gives it as ``mystnb: {image: {alt: ...}}`` among its options or in its metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def without_text(doctree: nodes.document) -> Iterator[nodes.image]:
    """Find the pictures of a page that have no alternative text.

    Args:
        doctree: The page.

    Yields:
        Nodes of pictures.
    """
    for picture in doctree.findall(nodes.image):
        if not picture.get("alt", "").strip():
            yield picture


def _check(app: Sphinx, doctree: nodes.document, page: str) -> None:
    from sphinx.util import logging

    for picture in without_text(doctree):
        logging.getLogger(__name__).warning(
            "a picture has no alternative text: %s",
            picture["uri"],
            location=(page, picture.line),
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
