from __future__ import annotations

import warnings

import pytest
import torch

from captum_deduce.classifiers import FrozenModel
from captum_deduce.search import Problem, SearchResult, runner_up, warn_of_broken_scores

SCORES = torch.tensor([[3.0, 2.0, 1.0], [0.0, 5.0, 1.0], [-1.0, -3.0, -2.0]])


def as_given(images: torch.Tensor) -> torch.Tensor:
    """Scores that are the images themselves."""
    return images


@pytest.mark.parametrize("batch_size", [None, 1, 2])
def test_the_runner_up_is_the_second_of_those_that_can_be_targets(batch_size):
    with FrozenModel(as_given) as model:
        assert runner_up(model, SCORES, (), batch_size, None).tolist() == [1, 2, 2]
        allowed = torch.tensor([True, True, False])
        assert runner_up(model, SCORES, (), batch_size, allowed).tolist() == [1, 0, 1]
        with pytest.raises(ValueError, match=r"\(\[1\]\) there is none but the predicted"):
            runner_up(model, SCORES, (), batch_size, torch.tensor([False, True, False]))
        broken = SCORES.clone()
        broken[1, 0] = torch.nan
        with pytest.raises(ValueError, match=r"target must be given .* NaN, as for inputs 1"):
            runner_up(model, broken, (), batch_size, None)


@pytest.mark.parametrize("batch_size", [None, 1])
def test_originals_without_finite_scores_are_named(batch_size):
    images = SCORES.repeat(2, 1)
    images[3, 1], images[5, 2] = torch.nan, -torch.inf
    images[4, 1] = torch.nan
    target = torch.ones(6, dtype=torch.int64)
    with FrozenModel(as_given) as model:
        problem = Problem(
            model, images, target, target.tolist(), (), None, images[0] - 9, images[0] + 9
        )

        def found(confidence: list[float]) -> SearchResult:
            values = torch.tensor(confidence)
            return SearchResult(images, values, values > 0.5, target, target)

        result = found([0.0, 0.2, 0.9, 0.0, 0.9, 0.0])
        with pytest.warns(UserWarning, match="infinite scores for inputs 3, 5: ") as caught:
            warn_of_broken_scores(problem, result, batch_size)
        assert caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warn_of_broken_scores(problem, found([0.0, 0.0, 0.0, 0.1, 0.9, 0.1]), batch_size)
