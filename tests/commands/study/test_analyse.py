from __future__ import annotations

import json

import numpy as np
import pytest

from captum_deduce.commands import main
from tests.study import made_up


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a key and the answers of three people."""
    monkeypatch.chdir(tmp_path)
    key = made_up.study(["near", "far"], num_pairs=4).key
    key.save("study.key.json")
    rng = np.random.default_rng(0)
    for content in made_up.simulated(key, 3, [1, 0], [0.5, 0.5, 1], [2, -2], rng):
        made_up.write(tmp_path, content, f"{content['participant']}.json")
    return tmp_path


def analyse(*words):
    return main(["study", "analyse", *words])


def test_tables_are_printed_and_written(folder, capsys):
    assert analyse("1.json", "2.json", "3.json", "--resamples", "50") == 0
    printed = capsys.readouterr().out
    assert "36 answers of 3 people" in printed
    (near, far) = [line for line in printed.split("Real")[0].splitlines() if "%" in line][-2:]
    assert near.split()[:3] == ["near", "6", "100%"]
    assert far.split()[:3] == ["far", "6", "0%"]
    written = folder / "captum-deduce-study"
    assert {path.name for path in written.iterdir()} == {
        *(f"study.{kind}" for kind in ("md", "txt", "json", "png")),
        *(f"{name}.csv" for name in ("naming", "realness", "preference", "agreement", "power")),
        "answers.csv",
    }
    assert (written / "study.txt").read_text(encoding="utf-8") in printed + "\n"
    found = json.loads((written / "study.json").read_text(encoding="utf-8"))
    assert [row["correct"] for row in found["naming"]] == [1, 0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["1.json", "1.json"], "holds answers of participant '1', as 1.json does"),
        (["1.json", "--key", "other.json"], "no key of a study at other.json"),
        (["study.key.json"], "its format must be 'captum-deduce study answers'"),
        (["4.json"], "no file of answers at 4.json"),
        (["1.json", "--output", "1.json"], "--output must be a folder"),
        (["part.json"], "(--incomplete) takes those"),
    ],
)
def test_mistakes_are_said(folder, capsys, words, said):
    content = json.loads((folder / "1.json").read_text())
    del content["answers"][3:]
    made_up.write(folder, content, "part.json")
    assert analyse(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (folder / "captum-deduce-study").exists()


def test_incomplete_answers_are_taken_on_request(folder, capsys):
    content = json.loads((folder / "1.json").read_text())
    del content["answers"][3:]
    made_up.write(folder, content, "1.json")
    assert analyse("1.json", "2.json", "--incomplete", "--resamples", "5") == 0
    assert "15 answers of 2 people" in capsys.readouterr().out
