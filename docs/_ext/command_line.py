"""The directive ``command-help``: what ``captum-deduce --help`` and each command's help print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PROGRAM = "captum-deduce"


def help_text(*command: str) -> str:
    """Run the command line and return its help, 80 columns wide and without colours."""
    run = subprocess.run(
        [sys.executable, "-m", "captum_deduce", *command, "--help"],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "PYTHON_COLORS": "0"},
    )
    return run.stdout


def commands(text: str) -> list[str]:
    """Names of the commands that a help lists, if it does."""
    listed = text.partition("\ncommands:\n")[2]
    return re.findall(r"^    ([\w-]+)", listed, re.MULTILINE)


class CommandHelp(SphinxDirective):
    """A section for the program, for each of its commands and for each of theirs."""

    def run(self) -> list[nodes.Node]:
        """Make the sections."""
        text = help_text()
        pages = [(PROGRAM, text)]
        for name in commands(text):
            own = help_text(name)
            pages.append((f"{PROGRAM} {name}", own))
            pages += [(f"{PROGRAM} {name} {part}", help_text(name, part)) for part in commands(own)]
        return [self._section(title, page) for title, page in pages]

    def _section(self, title: str, text: str) -> nodes.section:
        section = nodes.section(
            ids=[nodes.make_id(title)], names=[nodes.fully_normalize_name(title)]
        )
        section += nodes.title(title, "", nodes.literal(title, title))
        section += nodes.literal_block(text, text, language="text")
        self.state.document.note_implicit_target(section, section)
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("command-help", CommandHelp)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
