from __future__ import annotations

from pathlib import Path

from captum_deduce.commands import main


def test_the_options_reach_the_command(recorded):
    words = "study analyse 1.json 2.json --key k.json --output found --incomplete --resamples 9"
    assert main([*words.split(), "--seed", "4"]) == 0
    assert main(["study", "analyse", "3.json"]) == 0
    (name, first), (_, second) = recorded
    assert name == "study analyse"
    assert first["answers"] == [Path("1.json"), Path("2.json")]
    assert (first["key"], first["output"]) == (Path("k.json"), Path("found"))
    assert (first["incomplete"], first["resamples"], first["seed"]) == (True, 9, 4)
    assert (second["key"], second["output"]) == (
        Path("study.key.json"),
        Path("captum-deduce-study"),
    )
    assert (second["incomplete"], second["resamples"]) == (False, 2000)


def test_answers_must_be_named(capsys):
    assert main(["study", "analyse"]) == 2
    assert "ANSWERS (see captum-deduce study analyse --help)" in capsys.readouterr().err
    assert main(["study"]) == 2
    assert "COMMAND (see captum-deduce study --help)" in capsys.readouterr().err
