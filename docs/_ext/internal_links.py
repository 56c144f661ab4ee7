"""Links between the built pages: all are checked, and those back from source code are put right."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from public_names import PACKAGE, canonical

if TYPE_CHECKING:
    from docutils.nodes import document
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

SOURCES = "_modules/"
"""Where the pages with source code are."""


class _Page(HTMLParser):
    """The links of a page and the places in it that links may point to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.append(value)
            elif value and (name == "id" or (tag, name) == ("a", "name")):
                self.anchors.add(value)


def broken_links(folder: Path) -> Iterator[tuple[str, str]]:
    """Find links from pages of a folder to files or places in it that do not exist.

    Args:
        folder: With HTML pages; those of the theme's static files are left out.

    Yields:
        The page, relative to the folder, and the link as it stands there.
    """
    folder = folder.resolve()
    paths = [
        path
        for path in sorted(folder.rglob("*.html"))
        if "_static" not in path.relative_to(folder).parts
    ]
    pages = {path: _Page(path.read_text(encoding="utf-8")) for path in paths}
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            known = pages[target].anchors if target in pages else {anchor}
            inside = target.is_relative_to(folder)
            if not inside or not target.exists() or (anchor and anchor not in known):
                yield path.relative_to(folder).as_posix(), link


def _check(app: Sphinx, error: Exception | None) -> None:
    from sphinx.util import logging

    if error is None and app.builder.format == "html":
        for page, link in broken_links(Path(app.outdir)):
            logging.getLogger(__name__).warning("%s links to %s, which does not exist", page, link)


def repaired(body: str, module: str, places: Mapping[str, str]) -> str:
    """Point each link from source code at the place where its thing is documented.

    Sphinx takes all things of a module to be documented under one name of the module; here the
    package exports some of them.

    Args:
        body: HTML of the page with the module's source.
        module: Its name.
        places: Of documented names, their addresses as seen from the page.
    """

    def repair(link: re.Match[str]) -> str:
        name = link["name"]
        own = name.removeprefix(f"{module}.").removeprefix(f"{PACKAGE}.")
        place = places.get(canonical(f"{module}.{own}") or name)
        return "" if place is None else f'<a class="viewcode-back" href="{place}">[docs]</a>'

    pattern = r'<a class="viewcode-back" href="[^"#]*#(?P<name>[^"]+)">\[docs\]</a>'
    return re.sub(pattern, repair, body)


def _repair(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: document | None
) -> None:
    if page.startswith(SOURCES) and "body" in context:
        objects = app.env.domains["py"].data["objects"]
        places = {
            name: f"{app.builder.get_relative_uri(page, entry.docname)}#{entry.node_id}"
            for name, entry in objects.items()
        }
        module = page.removeprefix(SOURCES).replace("/", ".")
        context["body"] = repaired(context["body"], module, places)


def _without_missing_sources(app: Sphinx, env: BuildEnvironment) -> None:
    """Keep modules whose source was not found out of the list of sources."""
    modules = getattr(env, "_viewcode_modules", {})
    for name in [name for name, entry in modules.items() if not entry]:
        del modules[name]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("env-updated", _without_missing_sources)
    app.connect("html-page-context", _repair)
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
