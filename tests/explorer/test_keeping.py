from __future__ import annotations

import pytest
import torch
from PIL import Image

from captum_deduce import JSMA, Counterfactuals, DeDUCE
from captum_deduce.explorer.keeping import keep
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.scale import Scale


def ended(search: Search) -> Search:
    for _ in search.looks():
        pass
    return search


def test_all_files_are_written_and_say_the_same(digits, tmp_path):
    explainer = DeDUCE(digits.model, digits.layer, digits.density)
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[:2] = False
    search = ended(Search(explainer, digits.images[:1], 3, mask))
    names = [str(number) for number in range(10)]
    paths = keep(search, tmp_path, names, Scale.of(explainer), "x = 1", label=2)
    assert [path.name for path in paths] == [
        "counterfactual.png",
        "counterfactual.gif",
        "counterfactuals.safetensors",
        "explain.py",
        "mask.png",
    ]
    result = Counterfactuals.load(paths[2])
    assert torch.equal(result.counterfactuals, search.result.counterfactuals)
    assert len(result.trajectory[0]) == int(result.iterations) + 1
    with Image.open(paths[1]) as film:
        # GIF writers join frames that look the same
        assert 2 <= film.n_frames <= len(result.trajectory[0]) + 1
    with Image.open(paths[4]) as painted:
        assert painted.size == (8, 8)
        assert painted.getpixel((0, 0)) == 0
        assert painted.getpixel((0, 7)) == 255
    assert paths[3].read_text() == "x = 1\n"


def test_normalised_inputs_are_drawn_in_their_colours(tmp_path):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    explainer = JSMA(model, lower_bound=-mean / std, upper_bound=(1 - mean) / std)
    images = (torch.rand(1, 3, 8, 8) - mean) / std
    search = ended(Search(explainer, images, 2))
    paths = keep(search, tmp_path, ["a", "b", "c"], Scale.of(explainer), "")
    assert all(path.stat().st_size for path in paths[:3])


def test_without_a_result_nothing_is_written(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    search = Search(JSMA(model), torch.rand(1, 1, 8, 8), 2)
    with pytest.raises(ValueError, match="must have ended with a result"):
        keep(search, tmp_path, ["a", "b", "c"], Scale.of(search.explainer), "")
    assert not list(tmp_path.iterdir())
