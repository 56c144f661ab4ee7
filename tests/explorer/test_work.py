from __future__ import annotations

import time

from torch import Tensor, nn

from captum_deduce import JSMA, Wachter
from captum_deduce.explorer.live import Search
from captum_deduce.explorer.turns import Turns
from tests.explorer.conftest import Broken, Slow


def endless(model: nn.Module) -> Wachter:
    return Wachter(model, confidence=0.99999999, max_iterations=10**6)


def test_a_search_that_is_stopped_ends_at_once_and_leaves_the_model_as_it_was(model, image):
    slow = Slow(model, 0.02).train()
    search = Search(endless(slow), image, 2)
    looks = search.looks()
    next(looks)
    search.stop()
    assert search.wait(5)
    assert search.was_stopped
    assert search.result is None
    assert slow.training
    assert model.training


def test_whoever_leaves_stops_the_search(model, image):
    slow = Slow(model, 0.02)
    search = Search(endless(slow), image, 2)
    looks = search.looks()
    next(looks)
    looks.close()
    assert search.wait(5)
    assert search.was_stopped


def test_an_error_of_the_model_is_kept(model, image):
    broken = Broken(model)
    broken.works = False
    search = Search(JSMA(broken), image, 2)
    assert len(list(search.looks())) == 1
    assert isinstance(search.error, RuntimeError)
    assert not search.was_stopped


def one_that_runs_and_one_that_waits(model: nn.Module, image: Tensor) -> tuple[Search, Search]:
    turns = Turns(1)
    return (
        Search(endless(Slow(model, 0.02)), image, 2, turns=turns),
        Search(JSMA(model), image, 2, turns=turns),
    )


def test_work_that_waits_for_its_turn_says_so_and_begins_when_others_have_ended(model, image):
    first, second = one_that_runs_and_one_that_waits(model, image)
    running, waiting = first.looks(), second.looks()
    next(running)
    next(waiting)
    assert (first.before, second.before) == (0, 1)
    assert second.course.confidence == []
    first.stop()
    list(waiting)
    assert second.result is not None
    assert second.before == 0


def test_work_is_stopped_while_it_waits_for_its_turn(model, image):
    turns, calls = Turns(1), Slow(model, 0)
    first = Search(endless(Slow(model, 0.02)), image, 2, turns=turns)
    second = Search(JSMA(calls), image, 2, turns=turns)
    third = Search(JSMA(model), image, 2, turns=turns)
    looks = [search.looks() for search in (first, second, third)]
    for each in looks:
        next(each)
    assert (second.before, third.before) == (1, 2)
    second.stop()
    assert second.wait(5)
    assert second.was_stopped
    assert calls.calls == 0
    assert second.seconds == 0
    assert not first.wait(0)
    assert third.before == 1
    looks[2].close()  # whoever leaves while they wait is not waited for either
    assert third.wait(5)
    assert third.was_stopped
    looks[0].close()


def test_work_that_is_stopped_before_it_begins_never_does(model, image):
    calls = Slow(model, 0)
    search = Search(JSMA(calls), image, 2)
    search.stop()
    list(search.looks())
    assert search.was_stopped
    assert calls.calls == 0


def test_the_time_of_waiting_does_not_count(model, image):
    first, second = one_that_runs_and_one_that_waits(model, image)
    running, waiting = first.looks(), second.looks()
    next(running)
    next(waiting)
    began = time.perf_counter()
    time.sleep(1)
    running.close()
    list(waiting)
    assert 0 < second.seconds <= time.perf_counter() - began - 1
