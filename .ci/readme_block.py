"""Print the fenced block of README.md that follows the line `<!-- block: NAME -->`.

The gate and the tests run what this prints, so that what the README tells people to type is what
is tested.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def blocks(text: str) -> dict[str, str]:
    """Return the marked blocks of a README by name; a name that stands twice is an error."""
    found = re.findall(
        r"^<!-- block: ([\w-]+) -->\n+```\w+\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE
    )
    names = [name for name, _ in found]
    marked = re.findall(r"<!-- block: (.*?) -->", text)
    if names != marked or len(set(names)) != len(names):
        raise ValueError(f"marked blocks {marked}, of which {names} are followed by fenced code")
    return dict(found)


if __name__ == "__main__":
    sys.stdout.write(blocks(README.read_text(encoding="utf-8"))[sys.argv[1]])
