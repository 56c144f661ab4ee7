from __future__ import annotations

import subprocess
import sys

import pytest

from captum_deduce.storage import unfinished_files, whole_file


def test_a_file_appears_once_it_is_complete(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("old", encoding="utf-8")
    with whole_file(path) as unfinished:
        unfinished.write_text("new", encoding="utf-8")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("old", encoding="utf-8")

    def interrupted():
        with whole_file(path) as unfinished:
            unfinished.write_text("ne", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_leaves_is_found(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from captum_deduce.storage import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as unfinished:\n"
        "    unfinished.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    (tmp_path / ".a.txt.swp").touch()  # an editor's
    (left,) = unfinished_files(tmp_path, "a.*")
    assert left.name.startswith(".a.txt.")
    assert left.read_text(encoding="utf-8") == "half"
    assert not (tmp_path / "a.txt").exists()
