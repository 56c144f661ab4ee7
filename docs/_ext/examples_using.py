"""The directive ``examples-using``: the pages and tutorials whose code uses a class."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

FOLDERS = ("methods", "guide", "tutorials")
"""Where pages with examples are, below the folder of the documentation."""

CODE = re.compile(r"^```(?:\{code-cell\}[^\n]*|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code_of(page: Path) -> str:
    """The Python code that a page shows: in its cells and its blocks."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return "\n".join(CODE.findall(text))


def pages_using(name: str, folder: Path) -> list[Path]:
    """Find the pages whose code calls a class or one of its class methods.

    Args:
        name: Of the class, without its module.
        folder: That of the documentation.
    """
    used = re.compile(rf"\b{name}(\.\w+)?\(")
    pages = [
        page
        for part in FOLDERS
        for page in sorted((folder / part).iterdir())
        if page.suffix in (".md", ".ipynb")
    ]
    return [page for page in pages if used.search(code_of(page))]


class ExamplesUsing(SphinxDirective):
    """A list of links to the pages whose code uses the class that is the argument."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the list."""
        folder = Path(self.env.srcdir)
        found = nodes.bullet_list()
        for page in pages_using(self.arguments[0], folder):
            self.env.note_dependency(str(page))
            target = "/" + page.relative_to(folder).with_suffix("").as_posix()
            link = addnodes.pending_xref(
                "",
                nodes.inline(),
                refdomain="std",
                reftype="doc",
                reftarget=target,
                refdoc=self.env.docname,
                refexplicit=False,
                refwarn=True,
            )
            found += nodes.list_item("", nodes.paragraph("", "", link))
        return [found]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("examples-using", ExamplesUsing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
