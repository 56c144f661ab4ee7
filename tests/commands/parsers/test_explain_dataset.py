from __future__ import annotations

import inspect
import re

from captum_deduce.bulk import explain_dataset
from captum_deduce.commands import main


def test_every_option_reaches_the_command(recorded):
    words = "explain-dataset --checkpoint c --data d --split train --data-root r --only all"
    words += " --targets runner-up --output o --overwrite --resize --invert --shard-size 7"
    words += " --store-images --batch-size 3 --num-workers 2 --engine ray --workers 4"
    words += " --preset closest --confidence 0.9 --device cpu"
    assert main(words.split()) == 0
    ((name, given),) = recorded
    assert name == "explain-dataset"
    assert str(given["output"]) == "o"
    expected = {"data": "d", "split": "train", "data_root": "r", "only": "all", "shard_size": 7}
    expected |= {"targets": "runner-up", "overwrite": True, "resize": True, "invert": True}
    expected |= {"store_images": True, "batch_size": 3, "num_workers": 2, "engine": "ray"}
    expected |= {"workers": 4, "preset": "closest", "confidence": 0.9, "device": "cpu"}
    assert given | expected == given


def test_the_help_names_the_defaults_of_the_function(capsys):
    assert main(["explain-dataset", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    parameters = inspect.signature(explain_dataset).parameters
    for option, name in (
        ("only", "only"),
        ("targets", "targets"),
        ("shard-size", "shard_size"),
        ("batch-size", "internal_batch_size"),
        ("engine", "engine"),
    ):
        (said,) = re.findall(rf" --{option} [{{A-Z][^(]*\(default: ([\w-]+)\)", text)
        assert said == str(parameters[name].default), name


def test_the_commands_status_is_the_programs(monkeypatch):
    from captum_deduce.commands import explain_dataset as command

    monkeypatch.setattr(command, "run", lambda *arguments, **keywords: 1)
    assert main(["explain-dataset", "--checkpoint", "c", "--data", "d"]) == 1
