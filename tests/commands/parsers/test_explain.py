from __future__ import annotations

import inspect
import re

from captum_deduce import DeDUCE
from captum_deduce.commands import main
from captum_deduce.explainers.deduce import PRESETS


def test_the_help_names_the_explainers_defaults(capsys):
    assert main(["explain", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    parameters = inspect.signature(DeDUCE).parameters
    for name in (
        "confidence",
        "step_size",
        "max_changes",
        "pixels_per_step",
        "max_iterations",
        "patch_size",
    ):
        option = name.replace("_", "-")
        (said,) = re.findall(rf"--{option} [XS] [^(]*\(default: ([\d.]+)\)", text)
        assert float(said) == parameters[name].default, name
    assert re.search(
        r"--pixel {entry,site,patch} [^(]*\(default: site for colour images, entry with", text
    )
    assert parameters["pixel"].default == "entry", "the paper's"


def test_only_settings_that_were_given_reach_the_explainer(recorded):
    words = ["explain", "--checkpoint", "c", "--images", "a", "--preset", "realistic"]
    assert main(words) == 0
    given = ["--confidence", "0.9", "--pixel", "patch", "--patch-size", "4"]
    assert main([*words, *given]) == 0
    (_, none), (_, some) = recorded
    parameters = inspect.signature(DeDUCE).parameters
    assert not [name for name in none if name in parameters]
    assert none["preset"] == some["preset"] == "realistic"
    assert {name: some[name] for name in some if name in parameters} == {
        "confidence": 0.9,
        "pixel": "patch",
        "patch_size": 4,
    }


def test_presets_are_the_explainers_own(recorded, capsys):
    words = ["explain", "--checkpoint", "c", "--images", "a", "--preset"]
    for name in PRESETS:
        assert main([*words, name]) == 0
        assert recorded[-1][1]["preset"] == name
    assert main([*words, "other"]) == 2
    (choices,) = re.findall(r"choose from (.*)\)", capsys.readouterr().err)
    assert set(re.findall(r"\w+", choices.split(" (see")[0])) == set(PRESETS)
