"""When a pair has what it asked for, and which arguments go with it."""

from __future__ import annotations

import torch
from scipy.special import softmax

from captum_deduce.classifiers import FrozenModel
from captum_deduce.search.problem import Goal, Problem, argument_rows, confidence_of, is_success


def test_confidence_is_the_softmax_probability_of_the_target():
    scores = torch.randn(5, 4, dtype=torch.float64, requires_grad=True) * 3
    target = torch.tensor([0, 3, 1, 2, 2])
    found = confidence_of(scores, target)
    expected = softmax(scores.detach().numpy(), axis=1)[range(5), target]
    torch.testing.assert_close(found, torch.from_numpy(expected))
    assert not found.requires_grad


def test_success_needs_the_confidence_and_below_a_half_the_argmax():
    confidence = torch.tensor([0.6, 0.5, 0.4, 0.4])
    prediction, target = torch.tensor([1, 1, 1, 2]), torch.tensor([1, 1, 1, 1])
    assert is_success(confidence, prediction, target, 0.5).tolist() == [True, False, False, False]
    assert is_success(confidence, prediction, target, 0.3).tolist() == [True, True, True, False]


def test_a_goal_may_ask_for_a_log_density_of_each_class():
    confidence, target = torch.tensor([0.9, 0.9, 0.9, 0.4]), torch.tensor([0, 1, 1, 1])
    log_density = torch.tensor([-3.0, -3.0, -2.0, 9.0], dtype=torch.float64)
    goal = Goal(0.5, torch.tensor([-4.0, -2.0], dtype=torch.float64))
    found = goal.reached(confidence, target, target, log_density)
    assert found.tolist() == [True, False, True, False]
    assert Goal(0.5).reached(confidence, target, target, log_density).tolist() == [True] * 3 + [
        False
    ]


def test_of_attempts_without_success_the_confident_rank_first_and_then_the_likely():
    confidence = torch.tensor([0.2, 0.5, 0.6, 0.9, float("nan")])
    target = torch.zeros(5, dtype=torch.int64)
    log_density = torch.tensor([5.0, 1e9, -1e12, -7.0, 0.0], dtype=torch.float64)
    goal = Goal(0.5, torch.zeros(1, dtype=torch.float64))
    merit = goal.merit(confidence, target, target, log_density)
    assert merit.argsort().tolist() == [4, 0, 1, 2, 3]
    assert Goal(0.5).merit(confidence, target, target, log_density) is None


def test_only_tensors_with_a_row_per_pair_are_cut():
    arguments = (torch.arange(5), torch.ones(3, 5), 2.0, torch.tensor(1.0), "word")
    cut = argument_rows(arguments, 5, slice(1, 3))
    assert cut[0].tolist() == [1, 2]
    assert cut[1].shape == (3, 5)
    assert cut[2:] == arguments[2:]
    twice = argument_rows(arguments, 5, [3, 3])
    assert (twice[0].tolist(), twice[2:]) == ([3, 3], arguments[2:])


def test_pairs_take_what_is_their_own_along():
    inputs, each = torch.rand(3, 1, 2, 2), torch.arange(12).view(3, 1, 2, 2)
    lower, upper = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)

    def rows(**changed):
        shared = {"mask": None, "lower": lower, "upper": upper, "groups": None}
        with FrozenModel(torch.nn.Flatten()) as model:
            problem = Problem(
                model, inputs, torch.tensor([1, 0, 1]), [1, 0, 1], (), **(shared | changed)
            )
        return problem.rows([2, 0])

    assert set(rows()) == set(rows(groups=each[0])) == {"original", "target"}
    own = {"groups": each, "lower": inputs - 1, "upper": inputs + 1}
    state = rows(mask=each > 5, **own)
    for name, value in (own | {"original": inputs, "allowed": each > 5}).items():
        assert torch.equal(state[name], value[[2, 0]]), name
