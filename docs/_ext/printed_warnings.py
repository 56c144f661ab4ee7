"""Warnings on executed pages say what was wrong, not in which file of which machine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PLACE = re.compile(r"^/\S+\.py:\d+: (?=\w+: )", re.MULTILINE)
"""Of a warning, as Python prints it: the path and the line."""

LINE = re.compile(r"\n  \S[^\n]*(?=\n\S|\n*\Z)")
"""Of the code that gave it, two spaces in."""


def without_place(text: str) -> str:
    """Leave out where warnings were given.

    Args:
        text: What a cell printed to stderr; text without such a place is left as it is.
    """
    return LINE.sub("", PLACE.sub("", text)) if PLACE.search(text) else text


def _shorten(app: Sphinx, doctree: nodes.document, page: str) -> None:
    for output in doctree.findall(nodes.literal_block):
        kinds = output["classes"] + (output.parent["classes"] if output.parent else [])
        if "stderr" in kinds:
            text = without_place(output.astext())
            output.rawsource = text
            output.children = []
            output += nodes.Text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", _shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
