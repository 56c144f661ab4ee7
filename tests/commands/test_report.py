from __future__ import annotations

import json
import re

import pytest
import torch

from captum_deduce import JSMA
from captum_deduce.bulk import explain_dataset
from captum_deduce.commands.cli import main
from captum_deduce.datasets import load_digits


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory):
    """A run over forty digits with a model that knows nothing."""
    pytest.importorskip("pyarrow")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    folder = tmp_path_factory.mktemp("runs") / "mistakes"
    explain_dataset(JSMA(model), load_digits().test[:40], folder, shard_size=20, store_images=True)
    return folder


def test_the_page_of_a_run_is_written(mistakes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(mistakes)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"33 pairs: \d+ found, \d+ failed\n", printed)
    assert "Report: report.html" in printed
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<dt>images seen</dt><dd>40</dd>" in text
    assert "only changes are shown" not in text


@pytest.mark.parametrize("form", ["names.txt", "names.json", "index.json"])
def test_class_names_come_from_a_file(mistakes, tmp_path, form):
    names = [f"digit {number}" for number in range(10)]
    path = tmp_path / form
    written = {
        "names.txt": "\n".join(names),
        "names.json": json.dumps(names),
        "index.json": json.dumps(dict(enumerate(names))),
    }
    path.write_text(written[form], encoding="utf-8")
    page = tmp_path / "new" / "page.html"
    assert main(["report", str(mistakes), "--output", str(page), "--class-names", str(path)]) == 0
    assert "digit 7" in page.read_text(encoding="utf-8")


def test_a_page_is_replaced_only_on_request(mistakes, tmp_path, capsys):
    page = tmp_path / "page.html"
    page.write_text("somebody's")
    assert main(["report", str(mistakes), "--output", str(page)]) == 2
    assert f"--output {page} exists" in capsys.readouterr().err
    assert page.read_text() == "somebody's"
    assert main(["report", str(mistakes), "--output", str(page), "--overwrite"]) == 0
    assert "</html>" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("folder", "options", "words"),
    [
        ("nowhere", [], "holds no run"),
        ("broken", [], "is no manifest"),
        (None, ["--class-names", "few.txt"], "--class-names must name every class"),
        (None, ["--class-names", "missing.txt"], "no file of class names"),
        (None, ["--output", "few.txt/page.html"], "--output must be a folder"),
        (None, ["--output", "broken"], "--output broken exists"),
    ],
)
def test_mistakes_are_said(mistakes, tmp_path, monkeypatch, capsys, folder, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text("{")
    assert main(["report", folder or str(mistakes), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("captum-deduce: error: ")
    assert words in line
    assert not list(tmp_path.glob("*.html"))
