from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce import JSMA, Wachter
from captum_deduce.explorer.collection import CHEAPEST
from captum_deduce.explorer.desk import PAGE, Desk
from captum_deduce.explorer.python_lines import Code
from captum_deduce.explorer.visitors import Selection
from tests.explorer.conftest import Slow


@pytest.fixture
def visitor(desk):
    return desk.visitors.of(SimpleNamespace(session_hash="ann"))


def test_a_newcomer_sees_the_first_mistake(desk, visitor):
    mistakes = (desk.collection.prediction != desk.collection.labels).nonzero().flatten()
    assert desk.first_shown == "Mistakes"
    assert visitor.rows == mistakes.tolist()
    assert visitor.chosen.row == int(mistakes[0])


def test_images_come_in_pages(desk, visitor):
    visitor.rows = list(range(PAGE + 3))
    first, pages = desk.browse(visitor, 1)
    last, _ = desk.browse(visitor, 2)
    assert (len(first), len(last), pages) == (PAGE, 3, 2)
    visitor.rows = []
    assert desk.browse(visitor, 1) == ([], 1)


def test_costs_are_found_out_and_sorted_by(desk, visitor):
    desk.select(visitor, Selection("All", label=3, order=CHEAPEST, name="JSMA"))
    number = len(visitor.rows)
    assert 1 < number < PAGE
    said, more = desk.known(visitor)
    assert f"known of 0 of {number}" in said
    assert more == number
    list(desk.measure(visitor))
    desk.select(visitor, visitor.selection)
    said, more = desk.known(visitor)
    assert f"known of all {number}" in said
    assert more == 0
    costs = desk.costs.of("JSMA")[visitor.rows]
    assert torch.equal(costs, costs.sort().values)
    captions = [caption for _, caption in desk.browse(visitor, 1)[0]]
    assert captions[0].endswith(f": {float(costs[0]):.3g}")


def test_one_explanation_makes_one_cost_known(desk, visitor):
    target = desk.choose(visitor, 5)
    list(desk.explain(visitor, "JSMA", (target + 1) % 10, None))
    mask = torch.ones(8, 8, dtype=torch.bool)
    list(desk.explain(visitor, "JSMA", target, mask))
    assert desk.costs.unknown("JSMA", [5]) == [5]
    list(desk.explain(visitor, "JSMA", target, None))
    assert desk.costs.of("JSMA")[5] == pytest.approx(float(visitor.search.result.l1()))
    assert desk.costs.of("JSMA").isnan().sum() == len(desk.collection) - 1


def test_a_comparison_ends_where_it_is_stopped_while_oracles_are_asked(desk, visitor):
    def oracle(images):
        visitor.stop()
        return desk.forward_func(images)

    desk.oracles = {"slow": oracle}
    tables = list(desk.compare(visitor, ["DeDUCE", "JSMA"], 3, None))
    assert tables[-1].count("<tr>") == 2
    assert "<th>DeDUCE</th>" in tables[-1]


def test_searches_beyond_the_most_wait_and_say_so(demo, collection):
    explainers = {
        "slow": Wachter(Slow(demo.checkpoint.model, 0.02), confidence=0.9999999),
        "JSMA": JSMA(demo.checkpoint.model),
    }
    desk = Desk(collection, explainers, {}, Code(), max_searches=1)
    ann, bob = (desk.visitors.of(SimpleNamespace(session_hash=name)) for name in ("ann", "bob"))
    slow = desk.explain(ann, "slow", desk.choose(ann, 5), None)
    next(slow)
    next(slow)
    target = desk.choose(bob, 6)
    for waiting in (
        desk.explain(bob, "JSMA", target, None),
        desk.compare(bob, ["JSMA"], target, None),
    ):
        shown = [next(waiting)]
        while "Waiting for 1 other search to end" not in shown[-1]:
            shown.append(next(waiting))
        bob.stop()
        shown += waiting
        assert "stopped" in shown[-1].lower()
    ann.stop()
    list(slow)


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
