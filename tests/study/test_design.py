from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from captum_deduce.study.design import ORIGINAL, choose_options, plan_task


def plan(task, num_pairs=7, num_methods=3, **settings):
    return plan_task(task, num_pairs, num_methods, np.random.default_rng(3), **settings)


@pytest.mark.parametrize(
    ("task", "settings", "rounds"),
    [("name", {}, 3), ("name", {"labels": True}, 4), ("real", {}, 6), ("prefer", {}, 3)],
)
def test_each_round_has_each_pair_once_and_all_together_every_trial_once(task, settings, rounds):
    circle = plan(task, **settings)
    assert len(circle) == 7 * rounds
    assert len(set(circle)) == len(circle) or task == "real"
    for start in range(0, len(circle), 7):
        part = circle[start : start + 7]
        assert sorted(trial.pair for trial in part) == list(range(7))
        seen = Counter(trial.methods for trial in part)
        # "real" has as many originals as all methods have together
        per_column = [n for shown, n in seen.items() if shown != (ORIGINAL,)]
        assert max(per_column) - min(per_column) <= 1
    every = Counter((trial.pair, trial.methods) for trial in circle)
    expected = {1, 3} if task == "real" else {1}
    assert set(every.values()) == expected


def test_half_of_what_is_judged_is_real_and_nobody_sees_both_versions():
    circle = plan("real", num_pairs=12)
    for start in range(0, len(circle), 12):
        part = circle[start : start + 12]
        assert sum(trial.methods == (ORIGINAL,) for trial in part) == 6
        assert len({trial.pair for trial in part}) == 12


def test_every_two_methods_meet_over_every_pair():
    met = Counter(trial.methods for trial in plan("prefer", 5, 4))
    assert met == {(a, b): 5 for a in range(4) for b in range(a + 1, 4)}


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="task must be one of name, real, prefer, got 'guess'"):
        plan("guess")


def test_few_classes_are_all_offered():
    assert choose_options([(0, 1), (2, 1)], 3, np.random.default_rng(0)) == [[0, 1, 2]] * 2


def test_of_many_classes_the_own_two_are_offered_with_those_that_occur():
    pairs = [(number, 900 + number) for number in range(4)] + [(5, 5)]
    offered = choose_options(pairs, 1000, np.random.default_rng(0), most=6)
    occurring = {number for pair in pairs for number in pair}
    for pair, options in zip(pairs, offered, strict=True):
        assert set(pair) <= set(options)
        assert options == sorted(set(options))
        assert len(options) == 6
        assert set(options) <= occurring
    more = choose_options([(1, 2)], 1000, np.random.default_rng(0), most=6)[0]
    assert len(more) == 6
    assert {1, 2} < set(more)
