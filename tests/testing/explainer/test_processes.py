import os
import time

import pytest

from captum_deduce import JSMA
from captum_deduce.testing import descriptions, explainer_checks
from captum_deduce.testing.explainer import processes
from tests.testing.explainer import assert_caught


class OneAtATime(JSMA):
    def __init__(self, forward_func):
        super().__init__(forward_func)
        self.busy = False

    def generate(self, inputs, target=None, **arguments):
        if self.busy:
            raise RuntimeError("one search at a time")
        self.busy = True
        time.sleep(0.1)
        try:
            return super().generate(inputs, target, **arguments)
        finally:
            self.busy = False


class Shared(JSMA):
    def __deepcopy__(self, memo):
        return self


class AtHome(JSMA):
    """Is lazy in any process but the one that it was made in."""

    def __init__(self, forward_func):
        super().__init__(forward_func)
        self.home = os.getpid()

    def generate(self, inputs, target=None, **arguments):
        if os.getpid() != self.home:
            self.max_iterations = 0
        return super().generate(inputs, target, **arguments)


class Unpicklable(JSMA):
    def __init__(self, forward_func):
        super().__init__(forward_func)
        self.function = lambda: None


BROKEN = {
    "threads": (OneAtATime, "found RuntimeError: one search at a time"),
    "copies": (Shared, "found"),
    "forked_processes": (AtHome, "found images of a worker that differ"),
    "spawned_processes": (AtHome, "found images of a new process that differ"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_explainer_is_caught(name):
    assert_caught(name, *BROKEN[name])


def test_an_explainer_that_can_not_be_pickled_is_caught():
    assert_caught("spawned_processes", Unpicklable, "raised ")


class Deadly(JSMA):
    """Takes the process with it where it is not at home."""

    def __init__(self, forward_func):
        super().__init__(forward_func)
        self.home = os.getpid()

    def generate(self, inputs, target=None, **arguments):
        if os.getpid() != self.home:
            os._exit(1)
        return super().generate(inputs, target, **arguments)


def test_a_process_that_dies_is_told_and_replaced():
    assert_caught("spawned_processes", Deadly, "raised BrokenProcessPool")
    check = dict(explainer_checks(JSMA))["spawned_processes"]
    assert check() is None


def test_the_shared_process_can_be_ended_at_any_time():
    processes.end_other_process()
    processes.end_other_process()
    assert dict(explainer_checks(JSMA))["spawned_processes"]() is None


def test_every_check_has_a_broken_one():
    assert set(descriptions(processes.CHECKS)) == set(BROKEN)
