"""What is kept of an improvement, and what it is said to have taken."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_deduce.classifiers import FrozenModel
from captum_deduce.search import Evaluation, Problem, SearchResult, State
from captum_deduce.search.improvement import Improvement, improve
from captum_deduce.search.pixels import Entries
from captum_deduce.search.problem import Goal


class Halving(Improvement):
    """Halves the changes once; says that it succeeds with pairs whose first entry was 1."""

    max_iterations = 1

    def start(self, pairs: list[int]) -> State:
        return self.beginning(pairs)

    def evaluate(self, state: State, pairs: list[int]) -> Evaluation:
        scores, features = self.problem.forward(state["images"], state)
        first = self.images[[self.pairs[pair] for pair in pairs]].flatten(1)[:, 0]
        halved = (state["images"] != 0.5) & (state["images"] != 1)
        return Evaluation(
            images=state["images"],
            confidence=torch.full((len(pairs),), 0.25),
            success=(first == 1) & halved.flatten(1).any(1),
            finished=torch.zeros(len(pairs), dtype=torch.bool),
            prediction=scores.argmax(1),
            gradient=torch.zeros(len(pairs), 0),
            log_density=self.log_densities(features, pairs),
        )

    def step(self, state: State, evaluation: Evaluation) -> Tensor:
        state["images"] = (state["images"] + state["original"]) / 2 * 0.9
        return torch.zeros(len(evaluation.images), dtype=torch.bool)


@pytest.mark.parametrize("counted", [True, False])
def test_only_successes_are_taken_over_and_all_that_was_tried_counts(counted):
    inputs = torch.zeros(4, 1, 1, 2)
    images = torch.tensor([[1.0, 1], [0.5, 1], [0, 0], [1, 0]]).view(4, 1, 1, 2)
    found = SearchResult(
        images=images,
        confidence=torch.full((4,), 0.75),
        success=torch.tensor([True, True, True, False]),
        prediction=torch.zeros(4, dtype=torch.int64),
        iterations=torch.tensor([3, 4, 0, 5]),
        log_density=torch.zeros(4, dtype=torch.float64),
        evaluations=torch.tensor([9, 9, 9, 9]) if counted else None,
    )
    asked = []

    def log_density(features: Tensor, classes: list[int]) -> Tensor:
        asked.extend(classes)
        return features.double().sum(1)

    flat = nn.Flatten()
    with FrozenModel(flat, flat) as model:
        problem = Problem(
            model=model,
            inputs=inputs,
            target=torch.tensor([1, 0, 0, 1]),
            classes=[1, 0, 0, 1],
            additional_forward_args=(),
            mask=None,
            lower=torch.zeros(1, 1, 2),
            upper=torch.ones(1, 1, 2),
        )

        def make(pairs: list[int]) -> Halving:
            assert pairs == [0, 1]  # the third is as it was, the fourth was not found
            return Halving(problem, Goal(0.5), images, pairs, log_density, pixels=Entries())

        improved = improve(problem, found, make, "halving", batch_size=1)
    assert asked == [1, 1, 0, 0]
    torch.testing.assert_close(improved.images[0].flatten(), torch.tensor([0.45, 0.45]))
    assert torch.equal(improved.images[1:], images[1:])
    assert improved.confidence.tolist() == [0.25, 0.75, 0.75, 0.75]
    torch.testing.assert_close(improved.log_density, torch.tensor([0.9, 0, 0, 0]).double())
    before = [9, 9, 9, 9] if counted else [4, 5, 1, 6]
    assert improved.evaluations.tolist() == [before[0] + 2, before[1] + 2, *before[2:]]
    assert improved.forward_evaluations is None
    assert torch.equal(improved.iterations, found.iterations)


def test_where_nothing_was_found_nothing_is_made(digits):
    inputs = digits.images[:2]
    found = SearchResult(
        images=inputs + 0.1,
        confidence=torch.zeros(2),
        success=torch.zeros(2, dtype=torch.bool),
        prediction=torch.zeros(2, dtype=torch.int64),
        iterations=torch.ones(2, dtype=torch.int64),
    )
    with FrozenModel(digits.model) as model:
        problem = Problem(
            model=model,
            inputs=inputs,
            target=torch.zeros(2, dtype=torch.int64),
            classes=[0, 0],
            additional_forward_args=(),
            mask=None,
            lower=torch.zeros_like(inputs[0]),
            upper=torch.ones_like(inputs[0]),
        )
        assert improve(problem, found, lambda pairs: pytest.fail("made"), "none") is found
