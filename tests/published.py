"""Where data lie that were published or recorded elsewhere; the repository does not hold them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "CAPTUM_DEDUCE_REFERENCE"


def published(name: str) -> Path:
    """A file or folder of these data; the test that asks for it is skipped where it is missing."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "reference"
    path = Path(os.environ.get(VARIABLE) or beside) / name
    if not path.exists():
        pytest.skip(f"needs {name} in the folder that {VARIABLE} names")
    return path
