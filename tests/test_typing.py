"""What mypy tells a user of the package, who has it as an installed package with its types."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_users_see_types(tmp_path):
    source = (ROOT / ".ci" / "user_types.py").read_text(encoding="utf-8")
    assert source.count("assert_type(") > 10
    wrong = 'assert_type(result.summary(), int)\nexplainer.generate(images, target="3")\n'
    path = tmp_path / "user.py"
    path.write_text(source + wrong, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", path.name],
        # from elsewhere, so that the package is one that is installed, whose `py.typed` counts
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    lines = len(source.splitlines())
    assert f"user.py:{lines + 1}: error: Expression is of type" in run.stdout, run.stdout
    assert f"user.py:{lines + 2}: error: Argument" in run.stdout, run.stdout
    assert "Found 2 errors" in run.stdout, run.stdout
