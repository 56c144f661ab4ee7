from __future__ import annotations

from pathlib import Path

import pytest

from captum_deduce.commands import main


def test_the_options_reach_the_command(recorded):
    words = "study make a.safetensors runs/b --names A B --output s.html --key k.json --pairs 30"
    words += " --tasks name prefer --trials 10 --title Pets --consent c.txt --class-names n.txt"
    words += " --mean 0.4 0.5 0.6 --std 0.2 --seed 3 --overwrite"
    assert main(words.split()) == 0
    assert main(["study", "make", "one.safetensors"]) == 0
    (name, first), (_, second) = recorded
    assert name == "study make"
    assert first.pop("results") == [Path("a.safetensors"), Path("runs/b")]
    assert first == {
        "names": ["A", "B"],
        "output": Path("s.html"),
        "key": Path("k.json"),
        "pairs": 30,
        "tasks": ["name", "prefer"],
        "trials": 10,
        "title": "Pets",
        "consent": Path("c.txt"),
        "class_names": Path("n.txt"),
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2],
        "seed": 3,
        "overwrite": True,
    }
    assert second["tasks"] == ["name", "real", "prefer"]
    assert (second["output"], second["key"], second["pairs"]) == (Path("study.html"), None, 20)
    assert not second["overwrite"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "RESULTS (see captum-deduce study make --help)"),
        (["a", "--pairs", "0"], "--pairs: must be at least 1"),
        (["a", "--tasks", "guess"], "invalid choice: 'guess'"),
    ],
)
def test_mistakes_are_said(capsys, words, said):
    assert main(["study", "make", *words]) == 2
    assert said in capsys.readouterr().err
