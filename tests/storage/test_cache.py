"""What is kept, under which name, and when it is made again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from captum_deduce.storage import cache

SETTINGS = {"seed": 3, "sides": [8, 9], "kind": "a"}


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CAPTUM_DEDUCE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.directory() == tmp_path / ".cache" / "captum-deduce"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert cache.directory() == tmp_path / "other" / "captum-deduce"
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", "~/mine")
    assert cache.directory() == tmp_path / "mine"


def test_names_depend_on_every_setting_and_on_the_version(monkeypatch, tmp_path):
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path))
    path = cache.path_for("some-model", SETTINGS)
    assert path.parent == tmp_path
    assert re.fullmatch(r"some-model-[0-9a-f]{16}\.safetensors", path.name)
    assert cache.path_for("some-model", dict(reversed(SETTINGS.items()))) == path
    others = [SETTINGS | {"seed": 4}, SETTINGS | {"sides": [9, 8]}, SETTINGS | {"more": None}]
    paths = {path, *(cache.path_for("some-model", other) for other in others)}
    monkeypatch.setattr(cache, "__version__", "another")
    paths.add(cache.path_for("some-model", SETTINGS))
    assert len(paths) == len(others) + 2


@pytest.fixture
def obtain(tmp_path):
    """Obtain a text; what was called is noted."""

    def of(text, path=tmp_path / "folder" / "it", **arguments):
        called = []

        def make():
            called.append("make")
            return text

        def load(path: Path):
            called.append("load")
            kept = path.read_text()
            if kept == "damaged":
                raise ValueError("it is damaged")
            return kept

        def save(path: Path, value):
            called.append("save")
            path.write_text(value)

        found = cache.obtain(path, "text", load=load, make=make, save=save, **arguments)
        return found, called, path

    return of


def test_what_is_made_once_is_reused(obtain, capsys):
    found, called, path = obtain("first")
    assert (found, called, path.read_text()) == ("first", ["make", "save"], "first")
    assert capsys.readouterr().out == f"Kept for the next time in {path}\n"
    assert obtain("second")[:2] == ("first", ["load"])
    assert f"Reused from {path}" in capsys.readouterr().out


def test_retraining_replaces_it_unread(obtain):
    path = obtain("first")[2]
    assert obtain("second", retrain=True)[:2] == ("second", ["make", "save"])
    assert path.read_text() == "second"


def test_what_is_of_no_use_is_replaced(obtain, capsys):
    path = obtain("damaged")[2]
    assert obtain("whole")[:2] == ("whole", ["load", "make", "save"])
    assert path.read_text() == "whole"
    assert "cached text is of no use and is trained anew: it is damaged" in capsys.readouterr().out


def test_what_cannot_be_kept_is_returned_all_the_same(obtain, tmp_path, capsys):
    (tmp_path / "folder").write_text("a file")
    assert obtain("first")[:2] == ("first", ["make"])
    assert "The text could not be kept for the next time:" in capsys.readouterr().out


def test_other_errors_are_not_taken_for_a_damaged_file(obtain, tmp_path):
    folder = tmp_path / "unreadable"
    folder.mkdir()
    (folder / "it").write_bytes(b"\xff\xfe\xfa")

    def load(path):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        cache.obtain(folder / "it", "text", load=load, make=str, save=lambda path, it: None)
