"""Print the licences of what is needed, as Markdown: `python .ci/licences.py > LICENSES.md`.

Reads what is installed, with pip-licenses (`pip install pip-licenses`), in an environment that has
the package with its extras; what only tests and documentation need is left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("bulk", "ray", "study", "app", "superpixels")
HEAD = """# Licences

captum-deduce is under the BSD 3-Clause licence, see [LICENSE](LICENSE). What it needs is installed
beside it, under licences of its own. Made by `python .ci/licences.py`:

"""


def names(text: str) -> set[str]:
    """The distributions that a list of requirements names."""
    return {re.split(r"[^\w.-]", line)[0] for line in text.split("\n") if line}


def main() -> None:
    """Print the table."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lists = {"": config["options"]["install_requires"]}
    lists |= {extra: config["options.extras_require"][extra] for extra in EXTRAS}
    needed: dict[str, list[str]] = {}
    for extra, text in lists.items():
        for name in names(text):
            needed.setdefault(name, []).append(extra)
    words = ["--from=mixed", "--with-urls", "--format=json", "--packages", *needed]
    run = subprocess.run(
        [sys.executable, "-m", "piplicenses", *words], capture_output=True, check=True, text=True
    )
    found = {entry["Name"].lower(): entry for entry in json.loads(run.stdout)}
    print(HEAD + "| package | licence | needed by |\n|---|---|---|")
    for name, extras in sorted(needed.items()):
        entry = found[name.lower()]
        licence = entry["License"].split("\n")[0]
        by = "always" if "" in extras else ", ".join(f"`{extra}`" for extra in extras)
        print(f"| [{name}]({entry['URL']}) | {licence} | {by} |")


if __name__ == "__main__":
    main()
