"""Rounds of a descent with another weight in each, on a loss with a known optimum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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


# --- against a form that takes one image at a time ---

DIRECTION = np.array([0.9, -0.4, 0.6, 0.2])


class Crossing(ShrinkageDescent):
    """Wanted are images above .5 in a direction, descended on is .48: steps must carry them over.

    So successes are lost again within a round. An image counts as asking for the tenth it is in.
    """

    def along(self, images):
        return images.flatten(1) @ torch.from_numpy(DIRECTION)

    def judge(self, scores, state):
        value = self.along(state["images"])
        success = value >= 0.5
        return Verdict(value, (10 * value).long(), success, torch.zeros_like(success))

    def loss(self, ahead, state):
        return state["weight"] * (self.along(ahead) - 0.48).square()


@dataclass
class Naive:
    image: np.ndarray
    value: float
    success: bool
    distance: float


def naively(original, lower, upper, allowed, *, rounds, weight, steps):
    """Rounds of the printed step, the weight halved and raised as printed; the best image."""
    rate, threshold, clip = 0.2, 0.05, 3.0
    span, best, failed, succeeded = upper - lower, None, 0.0, np.inf

    def looked_at(image):
        nonlocal best
        change = (image - original) / span
        distance = (change**2).sum() + threshold * np.abs(change).sum()
        seen = Naive(image, DIRECTION @ image, DIRECTION @ image >= 0.5, distance)
        if best is None or (seen.success, -seen.distance if seen.success else seen.value) > (
            best.success,
            -best.distance if best.success else best.value,
        ):
            best = seen
        return seen.success

    for _ in range(rounds):
        image = ahead = original
        found = looked_at(image)
        for t in range(steps):
            gradient = 2 * weight * (DIRECTION @ ahead - 0.48) * DIRECTION
            size = rate * np.sqrt(1 - t / steps) * span
            moved = ahead - size * np.clip(span * gradient, -clip, clip)
            shrunk = np.sign(moved - original) * np.maximum(
                np.abs(moved - original) - threshold * span, 0
            )
            following = np.where(shrunk == 0, original, np.clip(original + shrunk, lower, upper))
            following = np.where(allowed, following, original)
            ahead = np.clip(following + (t + 1) / (t + 4) * (following - image), lower, upper)
            ahead = np.where(allowed, ahead, original)
            image = following
            found |= looked_at(image)
        failed, succeeded = (failed, weight) if found else (weight, succeeded)
        weight = 10 * weight if np.isinf(succeeded) else (failed + succeeded) / 2
    return best


def crossing(count=8, *, masked, **settings):
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.rand(*shape, generator=generator).double()

    lower = -drawn(count, 1, 1, 4)
    upper = lower + 1 + 2 * drawn(count, 1, 1, 4)
    inputs = lower + (upper - lower) * 0.3 * drawn(count, 1, 1, 4)
    mask = drawn(count, 1, 1, 4) < 0.7
    mask[-1] = False
    problem = Problem(
        model=FrozenModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 2).double())),
        inputs=inputs,
        target=torch.ones(count, dtype=torch.int64),
        classes=[1] * count,
        additional_forward_args=(),
        mask=mask if masked else None,
        lower=lower,
        upper=upper,
    )
    rule = ShrinkageStep(0.2, 0.05, 3.0, settings.pop("steps"), lower, upper)
    return Crossing(problem, rule, **settings), (inputs, lower, upper, mask | (not masked))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("skip_settled", [False, True])
def test_rounds_equal_their_naive_form(masked, skip_settled):
    settings = {"rounds": 6, "weight": 0.05, "steps": 9}
    made, parts = crossing(masked=masked, skip_settled=skip_settled, **settings)
    result = search.run(made, 8, batch_size=3)
    for i, found in enumerate(result.images):
        expected = naively(*(part[i].flatten().numpy() for part in parts), **settings)
        np.testing.assert_allclose(found.flatten(), expected.image, rtol=0, atol=1e-12)
        assert result.success[i].item() == expected.success
        assert result.confidence[i].item() == pytest.approx(expected.value)
        assert result.distance[i].item() == pytest.approx(expected.distance)
        assert result.target[i].item() == int(10 * expected.value)
    assert result.success.any()
    if masked:  # a pair that may not move at all ends at once
        assert not result.success.all()
        assert result.iterations[-1].item() == 0
    elif not skip_settled:
        assert result.iterations.tolist() == [54] * 8


def test_a_gradient_that_is_not_finite_ends_its_own_pair_only():
    class Broken(Crossing):
        def loss(self, ahead, state):
            lost = torch.where(state["target"] == 0, torch.nan, 1.0)
            return super().loss(ahead, state) * lost

    made, _ = crossing(masked=False, rounds=2, weight=1.0, steps=4)
    whole = search.run(made, 8)
    made.problem.target[2] = 0
    broken = Broken(made.problem, made.step_rule, rounds=2, weight=1.0)
    found = search.run(broken, 8)
    others = torch.arange(8) != 2
    assert found.iterations[2].item() == 0
    assert torch.equal(found.images[2], made.problem.inputs[2])
    assert torch.equal(found.images[others], whole.images[others])
    assert torch.equal(found.iterations[others], whole.iterations[others])
