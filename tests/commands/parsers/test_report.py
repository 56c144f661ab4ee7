from __future__ import annotations

from pathlib import Path

from captum_deduce.commands import main


def test_the_options_reach_the_command(recorded):
    arguments = ["report", "runs/one", "--output", "one.html", "--class-names", "names.txt"]
    assert main([*arguments, "--overwrite"]) == 0
    assert main(["report", "runs/two"]) == 0
    (_, first), (name, second) = recorded
    assert name == "report"
    assert (first["folder"], first["output"]) == (Path("runs/one"), Path("one.html"))
    assert (first["class_names"], first["overwrite"]) == (Path("names.txt"), True)
    assert (second["output"], second["class_names"]) == (Path("report.html"), None)
    assert not second["overwrite"]


def test_a_folder_must_be_named(capsys):
    assert main(["report"]) == 2
    assert "FOLDER" in capsys.readouterr().err
