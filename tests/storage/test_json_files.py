from __future__ import annotations

import pytest

from captum_deduce.storage import json_files, parse_json, read_json


def test_json_is_read_as_it_stands(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, "\\ud83d\\ude00", null], "b": Infinity}', encoding="utf-8")
    assert read_json(path, "list") == {"a": [1, "\N{GRINNING FACE}", None], "b": float("inf")}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1, "b": {"a": 1, "a": 2}}', "the key 'a' stands twice"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'["\\ud800"]', "not text in UTF-8"),
        (b'["\xff"]', "utf-8"),
        (b"", "not JSON"),
        (b"9" * 5000, "not JSON"),
    ],
    ids=["double", "lists", "objects", "half", "bytes", "empty", "digits"],
)
def test_what_can_be_read_in_two_ways_or_in_none_is_refused(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.json is no list: .*{words}"):
        read_json(path, "list")
    with pytest.raises(ValueError, match=words):
        parse_json(content)


def test_a_file_that_is_not_there_or_too_long_is_refused(tmp_path, monkeypatch):
    for missing in (tmp_path / "a.json", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no list at {missing}"):
            read_json(missing, "list")
    monkeypatch.setattr(json_files, "MOST_BYTES", 3)
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"a\.json is no list: it has 6 bytes, at most 3"):
        read_json(tmp_path / "a.json", "list")
