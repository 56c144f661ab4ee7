from __future__ import annotations

import shlex
from pathlib import Path

from captum_deduce import models
from captum_deduce.commands.hints import explain_hint, load_hint


def test_the_hint_survives_a_shell():
    command = explain_hint(Path("my models/it's.safetensors")).splitlines()[1]
    assert shlex.split(command)[:4] == [
        "captum-deduce",
        "explain",
        "--checkpoint",
        "my models/it's.safetensors",
    ]


def test_the_hint_for_a_model_names_what_loads_it(tmp_path):
    path = tmp_path / "it's.safetensors"
    models.VAE(image_size=8).save(path)
    line = load_hint("vae", path)
    call = line.removeprefix("In Python: ")
    assert isinstance(eval(call, {"captum_deduce": __import__("captum_deduce.models")}), models.VAE)
