from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from captum_deduce import JSMA
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.scale import Scale, png_uri
from captum_deduce.explorer.stage import (
    Stage,
    distances,
    failure,
    message_html,
    picture_html,
    seconds,
    waiting,
)
from captum_deduce.explorer.visitors import Chosen

NAMES = ["<cat>", "dog & co", "fox"]


@pytest.fixture
def explainer() -> JSMA:
    return JSMA(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), confidence=0.7)


@pytest.fixture
def search(explainer) -> Search:
    found = Search(explainer, torch.rand(1, 1, 8, 8), 1)
    for _ in found.looks():
        pass
    assert found.result.success.all()
    return found


@pytest.fixture
def stage(explainer) -> Stage:
    return Stage(NAMES, Scale.of(explainer))


def test_what_was_found_is_shown_with_its_probability(stage, search):
    html = stage.moving(search, "a <b>", stage.outcome(search))
    assert png_uri(stage.scale.pixels(search.result.counterfactuals[0])) in html
    assert png_uri(stage.scale.pixels(search.image[0])) in html
    assert f"{float(search.result.confidence):.1%} dog &amp; co" in html
    assert f"Found in {int(search.result.iterations)} steps" in html
    assert "a &lt;b&gt;" in html
    assert "<b>Counterfactual</b>" in html


def test_an_image_on_the_way_is_shown_with_its_step(stage, search):
    html = stage.moving(search, "", "", at=1)
    assert png_uri(stage.scale.pixels(search.course.images[1])) in html
    assert f"step 1: {search.course.confidence[1]:.1%}" in html
    assert "<b>On the way</b>" in html


def test_the_best_attempt_is_not_called_a_counterfactual(stage, explainer):
    search = Search(explainer, torch.rand(1, 1, 8, 8), 1, torch.zeros(8, 8, dtype=torch.bool))
    search.mask[0, 0] = True
    for _ in search.looks():
        pass
    html = stage.moving(search, "", stage.outcome(search))
    assert "no counterfactual" in html
    assert "<b>Counterfactual</b>" not in html
    assert 'class="said weak"' in html


def test_names_are_escaped(stage, search):
    search.target = 0
    html = stage.moving(search, "", stage.outcome(search))
    html += stage.still(Chosen(search.image, 0, "<cat>"), message_html("info", "<script>"))
    assert "<cat>" not in html
    assert "<script>" not in html


def test_errors_are_said_in_one_line():
    assert failure(ValueError("no\n  good")) == "That did not work. no good"
    assert failure(KeyError("x")) == "That did not work. KeyError: 'x'"
    assert len(failure(RuntimeError("x" * 10_000))) < 700
    assert 'role="alert"' in message_html("error", "no")


def test_distances_are_those_of_the_result(search):
    change = (search.result.counterfactuals - search.result.inputs).flatten()
    said = distances(search.result)
    assert f"L0 {int((change != 0).sum())}, L1 {float(change.abs().sum()):.3g}" in said
    assert f"L2 {float(change.norm()):.3g}" in said


@pytest.mark.parametrize(
    ("number", "words"), [(0.0312, "0.031"), (4.27, "4.3"), (10.4, "10"), (112.0, "112")]
)
def test_times_are_numbers_that_people_write(number, words):
    assert seconds(number) == words


def test_small_images_are_shown_as_squares_and_photographs_are_not():
    small, photograph = (np.zeros((side, side, 3), np.uint8) for side in (28, 224))
    assert 'class="coarse"' in picture_html(small, "")
    assert "coarse" not in picture_html(photograph, "a <b>")
    assert 'alt="a &lt;b&gt;"' in picture_html(photograph, "a <b>")


def test_waiting_is_said_only_where_something_is_waited_for():
    assert waiting(0) == ""
    assert waiting(1) == "Waiting for 1 other search to end"
    assert waiting(2) == "Waiting for 2 other searches to end"


def test_a_search_that_was_stopped_in_line_did_not_begin(stage, explainer):
    search = Search(explainer, torch.rand(1, 1, 8, 8), 1)
    search.stop()
    list(search.looks())
    assert "Stopped before it began." in stage.outcome(search)
