"""Pages of one file, which work from disk: own style and script inside, nothing from outside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any


def render_page(
    room: str,
    name: str,
    values: Mapping[str, Any],
    filters: Mapping[str, Callable[..., Any]] | None = None,
) -> str:
    """Write a page from the templates of a room.

    Whatever stands in ``values`` gets onto the page as text, never as markup; a browser that reads
    the page loads nothing, and runs only the page's own script.

    Args:
        room (str): The package whose folder ``templates`` holds ``NAME.html``, ``NAME.css`` and
            ``NAME.js``. The first extends ``page.html`` of this room, whose ``page.css`` the
            second goes on from.
        name (str): Of the page.
        values (Mapping[str, Any]): What the template asks for, and as ``data`` what the script
            reads; all of it is there, or the page is not written.
        filters (Mapping[str, Callable], optional): The template's own. Default: None

    Returns:
        str: A whole page.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room), PackageLoader(__package__)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters or {})
    css = _template(__package__, "page.css") + _template(room, f"{name}.css")
    own = {"css": css, "js": _template(room, f"{name}.js")}
    return environment.get_template(f"{name}.html").render(
        **own, hashes={kind: _hash(text) for kind, text in own.items()}, **values
    )


def _template(room: str, file: str) -> str:
    return (files(room) / "templates" / file).read_text("utf-8")


def _hash(text: str) -> str:
    """By which the page's security policy knows its own script and style from any other."""
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
