from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce.explorer.desk import PAGE


@pytest.fixture
def visitor(desk):
    return desk.visitors.of(SimpleNamespace(session_hash="ann"))


def test_a_newcomer_sees_the_first_mistake(desk, visitor):
    mistakes = (desk.collection.prediction != desk.collection.labels).nonzero().flatten()
    assert desk.first_shown == "Mistakes"
    assert visitor.rows == mistakes.tolist()
    assert visitor.chosen.row == int(mistakes[0])


def test_images_come_in_pages(desk):
    rows = list(range(PAGE + 3))
    first, pages = desk.browse(rows, 1)
    last, _ = desk.browse(rows, 2)
    assert (len(first), len(last), pages) == (PAGE, 3, 2)
    assert desk.browse([], 1) == ([], 1)


def test_explaining_ends_with_what_the_explainer_finds(desk, visitor):
    target = desk.choose(visitor, 5)
    shown = list(desk.explain(visitor, "DeDUCE", target, None))
    expected = desk.explainers["DeDUCE"].generate(desk.collection.images[5:6], target)
    assert torch.equal(visitor.search.result.counterfactuals, expected.counterfactuals)
    assert desk.stage.outcome(visitor.search) in shown[-1]
    assert f"target={target}" in desk.lines(visitor)
    assert desk.walk(visitor, 0) != desk.walk(visitor, len(visitor.search.course.images))
    assert len(desk.files(visitor)) == 4


def test_another_image_takes_the_search_with_it(desk, visitor):
    list(desk.explain(visitor, "JSMA", 3, None))
    search = visitor.search
    desk.choose(visitor, 7)
    assert visitor.search is None
    assert search.wait(5)
    assert desk.lines(visitor) == ""
    with pytest.raises(ValueError, match="nothing to keep yet"):
        desk.files(visitor)


def test_an_upload_becomes_the_image(desk, visitor, tmp_path):
    levels = (desk.collection.images[9, 0] * 255).round().byte().numpy()
    Image.fromarray(levels).save(tmp_path / "digit.png")
    target = desk.upload(visitor, tmp_path / "digit.png", invert=False)
    image = torch.from_numpy(levels / np.float32(255))[None, None]
    assert torch.equal(visitor.chosen.image, image)
    with torch.no_grad():
        expected = desk.forward_func(image)[0].argsort(descending=True)[1]
    assert target == int(expected)
    assert "uploaded, seen as" in visitor.chosen.about


def test_a_refused_upload_changes_nothing(desk, visitor, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    before = visitor.chosen
    with pytest.raises(ValueError, match="no image that can be read"):
        desk.upload(visitor, tmp_path / "text.png", invert=False)
    assert visitor.chosen is before


def test_a_comparison_has_a_row_for_each_explainer(desk, visitor):
    tables = list(desk.compare(visitor, ["DeDUCE", "JSMA"], 3, None))
    assert tables[-1].count("<tr>") == 3
    assert "itself sees" in tables[-1]
    assert "3 &lt;b&gt;&amp;" in tables[-1]
