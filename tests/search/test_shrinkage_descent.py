"""Rounds of a descent with another weight in each, on a loss with a known optimum."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce import search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.search import Problem, ShrinkageDescent, ShrinkageStep, Verdict, likeliest_other


class Towards(ShrinkageDescent):
    """Pulls the only entry up; wanted are images of at least .5."""

    def judge(self, scores, state):
        value = state["images"].flatten(1)[:, 0]
        success = value >= 0.5
        return Verdict(value, state["target"], success, torch.zeros_like(success))

    def loss(self, ahead, state):
        return -state["weight"] * ahead.flatten(1)[:, 0]


def procedure(count=3, weight=1.0, rounds=4, steps=5, **settings):
    inputs = torch.zeros(count, 1, 1, 1).double()
    problem = Problem(
        model=FrozenModel(nn.Sequential(nn.Flatten(), nn.Linear(1, 2).double())),
        inputs=inputs,
        target=torch.ones(count, dtype=torch.int64),
        classes=[1] * count,
        additional_forward_args=(),
        mask=None,
        lower=torch.zeros(1, 1, 1).double(),
        upper=torch.ones(1, 1, 1).double(),
    )
    rule = ShrinkageStep(1.0, 0.1, 10.0, steps, problem.lower, problem.upper)
    return Towards(problem, rule, rounds=rounds, weight=weight, **settings)


def weights_of(made):
    """c after each round of a pair, and what the search found."""
    seen = []
    evaluate = made.evaluate

    def noted(state, pairs):
        evaluation = evaluate(state, pairs)
        seen.append(state["weight"][0].item())
        return evaluation

    made.evaluate = noted
    found = search.run(made, 3)
    return list(dict.fromkeys(seen)), found


def reaches(weight, steps=5):
    """Whether a round with this weight comes to .5: the step rule on one number."""
    x = y = 0.0
    for t in range(steps):
        moved = y + (1 - t / steps) ** 0.5 * weight
        following = min(moved - 0.1, 1.0) if moved > 0.1 else 0.0
        y = min(max(following + (t + 1) / (t + 4) * (following - x), 0.0), 1.0)
        x = following
        if x >= 0.5:
            return True
    return False


def test_the_weight_is_searched_by_bisection():
    weights, found = weights_of(procedure(weight=0.05))
    expected, failed, succeeded = [0.05], 0.0, None
    for _ in range(4):
        if reaches(expected[-1]):
            succeeded = expected[-1]
        else:
            failed = expected[-1]
        expected.append(10 * failed if succeeded is None else (failed + succeeded) / 2)
    assert weights == pytest.approx(expected)
    assert 0 < failed < succeeded < 1
    assert found.success.all()
    assert (found.images >= 0.5).all()


def test_a_round_that_cannot_leave_its_beginning_ends():
    whole = search.run(procedure(weight=0.05), 3)
    early = search.run(procedure(weight=0.05, skip_settled=True), 3)
    assert torch.equal(early.images, whole.images)
    # of the first round, in which steps are shorter than the threshold, one is made
    assert (whole.iterations - early.iterations).tolist() == [4, 4, 4]


def test_the_likeliest_other_class():
    probabilities = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]])
    confidence, target = likeliest_other(probabilities, torch.tensor([0, 0]))
    torch.testing.assert_close(confidence, torch.tensor([0.3, 0.7]))
    assert target.tolist() == [1, 2]
