"""What autodoc makes of docstrings and values is made readable.

A description that is a letter and a full stop ("N.", "C.") would become a list with one empty item,
and classes and functions among values and defaults stand there as they print themselves.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes

if TYPE_CHECKING:
    from sphinx.application import Sphinx

LETTER = re.compile(r"^(\s*(?::[^:]+:\s+)?)([A-Za-z])\.(?=\s|$)")
PRINTED = re.compile(r"<(?:class|function) '?(?:\w+\.)*(\w+)'?>")

LONGEST = 400
"""Characters of a value that is shown; longer ones say less than the description below them."""

LONGEST_ARGUMENT = 40
"""Characters of an argument with its default, which fit on one line on a telephone."""


def without_lists(line: str) -> str:
    """Escape a single letter at the beginning of a line, or of a field, that is no numbering.

    Args:
        line: Of a docstring, in reStructuredText.
    """
    return LETTER.sub(r"\1\\\2.", line)


def _escape_letters(
    app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = map(without_lists, lines)


def shorten_values(doctree: nodes.document) -> None:
    """Name classes and functions in signatures, and leave out values that can't be read.

    Args:
        doctree: A page; changed in place.
    """
    for signature in doctree.findall(addnodes.desc_signature):
        for text in list(signature.findall(nodes.Text)):
            named = PRINTED.sub(r"\1", text)
            if named != text:
                text.parent.replace(text, nodes.Text(named))
        for value in list(signature.findall(addnodes.desc_annotation)):
            shown = value.astext()
            is_value = shown.strip().startswith("=")
            if is_value and (len(shown) > LONGEST or re.search(r"(^|\W)_[a-z]\w+[,}\])]", shown)):
                value.parent.remove(value)
        for argument in signature.findall(addnodes.desc_parameter):
            if len(argument.astext()) > LONGEST_ARGUMENT:
                for default in argument.findall(nodes.inline):
                    if "default_value" in default["classes"]:
                        default.children = []
                        default += nodes.Text("\N{HORIZONTAL ELLIPSIS}")


def _shorten_values(app: Sphinx, doctree: nodes.document, page: str) -> None:
    shorten_values(doctree)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-docstring", _escape_letters, priority=900)  # after Napoleon
    app.connect("doctree-resolved", _shorten_values)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
