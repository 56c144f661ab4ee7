from __future__ import annotations

from pathlib import Path

from captum_deduce.commands import main


def test_the_options_reach_the_command(recorded):
    arguments = ["explore", "--checkpoint", "one.safetensors", "--run", "mistakes"]
    assert main([*arguments, "--port", "7870", "--no-browser"]) == 0
    assert main(["explore"]) == 0
    (name, first), (_, second) = recorded
    assert name == "explore"
    assert (first["checkpoint"], first["folder"]) == (Path("one.safetensors"), Path("mistakes"))
    assert (first["port"], first["no_browser"]) == (7870, True)
    assert (second["checkpoint"], second["images"], second["folder"]) == (None, None, None)
    assert (second["host"], second["torchvision"]) == ("127.0.0.1", {})


def test_what_is_said_of_a_torchvision_classifier_is_gathered(recorded):
    words = ["explore", "--weights", "w.safetensors", "--architecture", "torchvision:resnet18"]
    assert main([*words, "--mean", "0", "--std", "1", "--images", "a", "b"]) == 0
    ((_, given),) = recorded
    assert given["torchvision"]["weights"] == Path("w.safetensors")
    assert given["images"] == [Path("a"), Path("b")]


def test_a_port_is_a_number(capsys):
    assert main(["explore", "--port", "http"]) == 2
    assert "--port" in capsys.readouterr().err
