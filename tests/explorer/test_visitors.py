from __future__ import annotations

from types import SimpleNamespace

import torch

from captum_deduce import JSMA, Wachter
from captum_deduce.explorer.collection import CHEAPEST
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.turns import Turns
from captum_deduce.explorer.visitors import Chosen, Selection, Visitor, Visitors
from tests.explorer.conftest import Slow


def newcomer() -> Visitor:
    return Visitor(Chosen(torch.zeros(1, 1, 8, 8), 0), Selection("All"), [0])


def request(name: str) -> SimpleNamespace:
    return SimpleNamespace(session_hash=name)


def test_a_visitor_has_one_search_at_a_time(model, image):
    visitor = newcomer()
    slow = Slow(model, 0.02)
    first = visitor.begin(Search(Wachter(slow, confidence=0.9999999), image, 2), "first")
    next(first.looks())
    second = visitor.begin(Search(JSMA(model), image, 2), "second")
    assert first.wait(5)
    assert first.was_stopped
    list(second.looks())
    assert second.result is not None
    assert visitor.name == "second"


def test_visitors_are_told_apart_and_forgotten(model, image):
    visitors = Visitors(newcomer, most=2)
    ann, bob = (visitors.of(request(name)) for name in ("ann", "bob"))
    assert ann is not bob
    assert visitors.of(request("ann")) is ann
    search = bob.begin(Search(Wachter(Slow(model, 0.02), confidence=0.9999999), image, 2), "")
    next(search.looks())
    visitors.of(request("cid"))  # bob was seen last longest ago
    assert search.wait(5)
    assert len(visitors) == 2
    assert visitors.of(request("ann")) is ann
    visitors.leave(request("ann"))
    visitors.leave(request("nobody"))
    assert visitors.of(request("ann")) is not ann


def test_a_visitor_who_leaves_takes_along_a_search_that_waits(model, image):
    visitors, turns = Visitors(newcomer), Turns(1)
    slow = Search(Wachter(Slow(model, 0.02), confidence=0.9999999), image, 2, turns=turns)
    ann, bob = (visitors.of(request(name)) for name in ("ann", "bob"))
    running = ann.begin(slow).looks()
    next(running)
    search = bob.begin(Search(JSMA(model), image, 2, turns=turns))
    next(search.looks())
    visitors.leave(request("bob"))
    assert search.wait(5)
    assert search.was_stopped
    assert not slow.wait(0)
    running.close()


def test_costs_belong_to_images_that_are_sorted_by_them():
    assert Selection("All", name="JSMA").costed == ""
    assert Selection("All", order=CHEAPEST, name="JSMA").costed == "JSMA"
