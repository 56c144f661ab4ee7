"""What the command writes; the experiments have tests of their own."""

from __future__ import annotations

import json

import pytest
import torch

from captum_deduce import Counterfactuals
from captum_deduce.commands import reproduce
from captum_deduce.commands.cli import main
from captum_deduce.commands.parsers import reproduce as parser
from captum_deduce.reports.experiment import Report


@pytest.fixture
def asked(monkeypatch):
    """Replace the experiments by one that trains nothing and notes what it was given."""
    noted = []

    def experiment(models, store):
        noted.append((models, store))
        data = models.splits.test
        inputs = data.images[:2]
        zeros = torch.zeros(2)
        result = Counterfactuals(
            inputs=inputs,
            counterfactuals=1 - inputs,
            target=torch.tensor([1, 2]),
            success=torch.tensor([True, False]),
            confidence=zeros,
            iterations=zeros.long(),
            evaluations=zeros.long(),
            forward_evaluations=zeros.long(),
            prediction=zeros.long(),
        )
        columns = [("algorithm", ["A"]), ("L0", ["1.50"]), ("paper", ["21.16"])]
        return Report(
            "A title",
            columns,
            ["A note."],
            {"paper": {"L0": "21.16"}},
            result.plot(),
            {"A b": result},
            own_columns=[("algorithm", ["A"]), ("pairs", ["1"])],
        )

    for name in reproduce.EXPERIMENTS:
        monkeypatch.setitem(reproduce.EXPERIMENTS, name, experiment)
    return noted


def test_everything_is_written(asked, tmp_path, capsys):
    words = ["reproduce", "table3", "--smoke", "--images", "4", "--device", "cpu"]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    text = (tmp_path / "out" / "table3.md").read_text(encoding="utf-8")
    assert text.startswith("# A title\n\nSize: smoke, 2 set(s) of 4 images of digits, ")
    assert "| algorithm | L0 | paper |\n| --- | ---: | ---: |\n| A | 1.50 | 21.16 |" in text
    assert "| algorithm | pairs |\n| --- | ---: |\n| A | 1 |\n\nA note." in text
    content = json.loads((tmp_path / "out" / "table3.json").read_text(encoding="utf-8"))
    assert content["experiment"] == "table3"
    assert content["paper"] == {"L0": "21.16"}
    assert content["size"]["images"] == 4
    assert content["size"]["seed"] == 0
    assert content["machine"]["device"] == "cpu"
    assert content["seconds of this run"] > 0
    assert (tmp_path / "out" / "table3.png").read_bytes().startswith(b"\x89PNG")
    result = Counterfactuals.load(tmp_path / "out" / "table3-A-b.safetensors")
    assert result.success.tolist() == [True, False]
    assert "A note." in printed
    assert str(tmp_path / "out" / "table3.md") in printed


@pytest.mark.parametrize("option", ["--smoke", "--full", None])
def test_sizes(asked, tmp_path, monkeypatch, option):
    from captum_deduce import datasets

    digits, loaded = datasets.load_digits(), []

    def load(name, data_root=None, *, seed=0):
        loaded.append((name, data_root, seed))
        return digits

    monkeypatch.setattr(datasets, "load", load)
    words = ["reproduce", "fig3", "--data-root", "d", "--width", "3", "--output", str(tmp_path)]
    threads = torch.get_num_threads()
    assert main([*words, *([option] if option else [])]) == 0
    assert torch.get_num_threads() == threads
    ((models, store),) = asked
    name = option.strip("-") if option else "default"
    assert (models.size.name, models.size.classifier.width) == (name, 3)
    assert loaded == [("digits" if name == "smoke" else "mnist", "d", 0)]
    assert store.folder == tmp_path / "runs"


def test_the_command_line_knows_every_experiment(asked, tmp_path, capsys):
    assert tuple(reproduce.EXPERIMENTS) == parser.EXPERIMENTS
    assert main(["reproduce", "table9"]) == 2
    assert "invalid choice: 'table9'" in capsys.readouterr().err
    assert main(["reproduce", "table1", "--smoke", "--full"]) == 2
    assert "not allowed with" in capsys.readouterr().err


def test_too_many_images(tmp_path, capsys):
    words = ["reproduce", "table4", "--smoke", "--images", "200", "--output", str(tmp_path)]
    assert main(words) == 2
    assert "--images must be at most 148" in capsys.readouterr().err
