from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from captum_deduce import JSMA
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.python_lines import Code, python_lines
from captum_deduce.explorer.visitors import Chosen


def ended(search: Search) -> Search:
    for _ in search.looks():
        pass
    return search


def run(lines: str, folder, monkeypatch, **known):
    monkeypatch.chdir(folder)
    exec(compile(lines, "explain.py", "exec"), known)
    return known["result"]


def test_the_lines_make_the_same_counterfactual(tmp_path, monkeypatch):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    images, explainers = torch.rand(5, 1, 8, 8), {"my 'own'": JSMA(model)}
    search = ended(Search(explainers["my 'own'"], images[3:4], 2))
    lines = python_lines(Code(), "my 'own'", search, Chosen(images[3:4], 3))
    result = run(lines, tmp_path, monkeypatch, images=images, explainers=explainers)
    assert torch.equal(result.counterfactuals, search.result.counterfactuals)


def test_an_upload_and_a_painted_mask_are_read_from_the_kept_files(tmp_path, monkeypatch):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    image, mask = torch.rand(1, 1, 8, 8), torch.rand(8, 8) > 0.5
    search = ended(Search(JSMA(model), image, 2, mask))
    search.result.save(tmp_path / "counterfactuals.safetensors")
    Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(tmp_path / "mask.png")
    code = Code(setup="answer = 42", explainers={"one": "explainer"})
    lines = python_lines(code, "one", search, Chosen(image, None))
    assert "answer = 42" in lines
    result = run(lines, tmp_path, monkeypatch, explainer=search.explainer)
    assert torch.equal(result.counterfactuals, search.result.counterfactuals)
