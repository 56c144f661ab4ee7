from __future__ import annotations

import json

import pytest

from captum_deduce.commands import main
from captum_deduce.study import StudyKey
from tests.study import made_up


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with results of two methods."""
    monkeypatch.chdir(tmp_path)
    made_up.result(8, failed=[3]).save("near.safetensors")
    made_up.result(8, change=0.5, already=[4]).save("far.safetensors")
    return tmp_path


def make(*words):
    return main(["study", "make", "near.safetensors", "far.safetensors", *words])


def test_page_and_key_are_written(folder, capsys):
    assert make("--pairs", "5") == 0
    printed = capsys.readouterr().out
    assert "near: 7 found, 1 failed, 0 there already" in printed
    assert "far: 7 found, 0 failed, 1 there already" in printed
    assert "Shown: 5 of the 6 pairs that every method found" in printed
    assert "Each person is asked: 5 name, 5 real, 5 prefer" in printed
    assert "Key, not to be handed out: study.key.json" in printed
    key = StudyKey.load("study.key.json")
    assert key.methods == ["near", "far"]
    page = (folder / "study.html").read_text(encoding="utf-8")
    assert key.study in page
    assert "near" not in page.split('id="data"')[1].split("</script>")[0]


def test_what_is_given_stands_in_the_page(folder):
    (folder / "consent.txt").write_text("We ask for science.\n\nStop when you like.", "utf-8")
    (folder / "names.json").write_text(json.dumps({str(n): f"pet {n}" for n in range(10)}))
    words = "--consent consent.txt --class-names names.json --title Pets --names A B"
    assert make(*words.split(), "--output", "new/pets.html") == 0
    page = (folder / "new" / "pets.html").read_text(encoding="utf-8")
    assert "<title>Pets</title>" in page
    assert "<p>We ask for science.</p>\n<p>Stop when you like.</p>" in page
    assert "pet 7" in page
    assert StudyKey.load("new/pets.key.json").methods == ["A", "B"]


@pytest.mark.parametrize("taken", ["study.html", "study.key.json"])
def test_page_and_key_are_replaced_only_on_request(folder, capsys, taken):
    (folder / taken).write_text("somebody's")
    assert make() == 2
    assert f"{taken} exists; choose another name, or pass --overwrite" in capsys.readouterr().err
    assert (folder / taken).read_text() == "somebody's"
    assert len(list(folder.iterdir())) == 3
    assert make("--overwrite") == 0
    assert StudyKey.load("study.key.json").methods == ["near", "far"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.safetensors"], "nowhere.safetensors"),
        (["--names", "A"], "--names must hold one name per result (2), got 1"),
        (["--consent", "missing.txt"], "no text of consent at missing.txt"),
        (["--consent", "empty.txt"], "must hold a text, it is empty"),
        (["--class-names", "empty.txt"], "--class-names must name every class"),
        (["--key", "study.html"], "--key must be another file than the page"),
        (["--mean", "0.5", "--std", "0.1"], "must have colours from 0 to 1"),
        (["--mean", "0.5", "0.5"], "--mean must be a number, one number per channel (1)"),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(folder, capsys, words, said):
    (folder / "empty.txt").write_text(" ")
    if words == ["--mean", "0.5", "--std", "0.1"]:
        made_up.result(8, change=9.0).save("far.safetensors")  # not between black and white
    assert make(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(folder.glob("study*"))
