"""Short names in running text stay on one line: browsers would break ``--help`` at its hyphens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LONGEST = 24
"""Characters of a word that fits on a line of its own on a telephone, also in a nested list."""


def keep_whole(doctree: nodes.document) -> None:
    """Mark each literal without a long word by the class ``whole``, which the style sheet knows.

    Args:
        doctree: A page; changed in place.
    """
    for literal in doctree.findall(nodes.literal):
        words = literal.astext().split()
        if words and max(map(len, words)) <= LONGEST:
            literal["classes"].append("whole")


def _keep_whole(app: Sphinx, doctree: nodes.document, page: str) -> None:
    keep_whole(doctree)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", _keep_whole)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
