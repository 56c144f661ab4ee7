from __future__ import annotations

import threading
import time

import pytest

from captum_deduce.explorer.turns import StoppedError, Turns


class Guest(threading.Thread):
    """Takes a turn, and keeps it until it may go."""

    def __init__(self, turns: Turns, came: list[Guest]) -> None:
        super().__init__(daemon=True)
        self.turns, self.came = turns, came
        self.unwanted, self.may_go = threading.Event(), threading.Event()
        self.stopped = False

    def run(self) -> None:
        try:
            with self.turns.taken(self, self.unwanted):
                self.came.append(self)
                self.may_go.wait(10)
        except StoppedError:
            self.stopped = True

    def leave(self) -> None:
        self.may_go.set()
        self.join(10)


def until(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@pytest.fixture
def guests():
    """Five who come one after the other, where there is room for two."""
    turns, came = Turns(2), []
    five = [Guest(turns, came) for _ in range(5)]
    for number, guest in enumerate(five):
        guest.start()
        if number < 2:  # nobody is before them, neither before they have come nor after
            until(lambda guest=guest: guest in came)
        else:
            until(lambda guest=guest, number=number: turns.before(guest) == number - 1)
    yield turns, came, five
    for guest in five:
        guest.unwanted.set()
        guest.may_go.set()
    turns.wake()


def test_so_many_have_a_turn_and_others_come_in_their_order(guests):
    turns, came, five = guests
    assert [turns.before(guest) for guest in five] == [0, 0, 1, 2, 3]
    for number in range(3):
        five[number].leave()
        until(lambda number=number: len(came) == number + 3)
    assert came[2:] == five[2:]


def test_who_is_no_longer_wanted_never_has_a_turn_and_keeps_nobody_waiting(guests):
    turns, came, five = guests
    five[2].unwanted.set()
    turns.wake()
    five[2].join(10)
    assert five[2].stopped
    assert five[2] not in came
    assert [turns.before(guest) for guest in five[3:]] == [1, 2]
    five[0].leave()
    until(lambda: five[3] in came)


def test_a_turn_ends_with_an_error(guests):
    turns = Turns(1)
    with pytest.raises(KeyError), turns.taken("first", threading.Event()):
        raise KeyError
    with turns.taken("second", threading.Event()):
        assert turns.before("second") == 0
