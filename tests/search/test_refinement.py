"""Refinement on linear models, where what is needed can be worked out by hand."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captum_deduce import search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.search.pixels import Entries, Groups, Sites
from captum_deduce.search.problem import Goal, Problem
from captum_deduce.search.refinement import refine
from tests import reference


def linear(*weights: float) -> nn.Module:
    """The score of class 1 is a weighted sum of the entries less 2, that of class 0 is 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(weights), 2)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0] * len(weights), list(weights)]))
        model[1].bias.copy_(torch.tensor([0.0, -2.0]))
    return model


def problem_of(model: FrozenModel, inputs: Tensor, span: float = 1.0) -> Problem:
    count = len(inputs)
    return Problem(
        model=model,
        inputs=inputs,
        target=torch.ones(count, dtype=torch.int64),
        classes=[1] * count,
        additional_forward_args=(),
        mask=None,
        lower=torch.zeros_like(inputs[0]),
        upper=torch.full_like(inputs[0], span),
    )


def found_images(images: Tensor, success: list[bool], spent: list[int]) -> search.SearchResult:
    count = len(images)
    return search.SearchResult(
        images=images,
        confidence=torch.full((count,), 0.9, dtype=torch.float64),
        success=torch.tensor(success),
        prediction=torch.zeros(count, dtype=torch.int64),
        iterations=torch.full((count,), 7),
        log_density=torch.full((count,), -5.0, dtype=torch.float64),
        forward_evaluations=torch.tensor(spent),
    )


def row(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, -1)


def test_what_is_not_needed_returns_and_the_smallest_change_is_tried_first():
    """Weights 3, 2, 1, 1: 3 x .6 + 2 x .4 = 2.6 > 2 is enough; .1 and .2 are not needed."""
    inputs = row(0, 0, 0, 0)
    changed = row(0.6, 0.4, 0.1, 0.2)
    with FrozenModel(linear(3.0, 2.0, 1.0, 1.0)) as model:
        problem = problem_of(model, inputs)
        refined = refine(problem, Goal(0.5), found_images(changed, [True], [2]))
    torch.testing.assert_close(refined.images, row(0.6, 0.4, 0.0, 0.0))
    margin = torch.tensor([3 * 0.6 + 2 * 0.4 - 2], dtype=torch.float64)
    torch.testing.assert_close(refined.confidence, margin.sigmoid())
    # the image itself, and one for each of the four changes
    assert refined.forward_evaluations.tolist() == [2 + 5]


def test_a_change_that_is_not_needed_alone_stays_if_smaller_ones_left_before_it():
    """Two equal changes of which one suffices: only the first returns."""
    inputs, changed = row(0, 0), row(0.8, 0.8)
    with FrozenModel(linear(3.0, 3.0)) as model:
        refined = refine(problem_of(model, inputs), Goal(0.5), found_images(changed, [True], [0]))
    torch.testing.assert_close(refined.images, row(0, 0.8))


def test_a_change_that_was_needed_is_tried_again_once_another_has_returned():
    """10 x .05 + 3.2 x .9 - 2 x .6 = 2.18 > 2: the first is needed until the third has returned."""
    inputs, changed = row(0, 0, 0), row(0.05, 0.9, 0.6)
    with FrozenModel(linear(10.0, 3.2, -2.0)) as model:
        refined = refine(problem_of(model, inputs), Goal(0.5), found_images(changed, [True], [0]))
    assert refined.images.flatten().tolist() == [0, 0.9, 0]
    # the image; the first in vain, the third, the second in vain; the first, the second in vain
    assert refined.forward_evaluations.tolist() == [6]


class Curved(nn.Module):
    """Two classes by a sum of sines, in which the effect of a change hangs on all others."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = torch.randn(entries, 20, generator=generator, dtype=torch.float64)
        self.second = torch.randn(20, generator=generator, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        score = (images.flatten(1) @ self.first).sin() @ self.second
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.mark.parametrize("kind", ["entry", "site", "groups", "groups of each image"])
def test_no_single_change_that_remains_can_be_taken_back(kind):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.rand(240, 2, 3, 3, generator=generator, dtype=torch.float64)
    images = torch.rand(240, 2, 3, 3, generator=generator, dtype=torch.float64)
    shape = (240 if kind == "groups of each image" else 1, 2, 3, 3)
    groups = torch.randint(9, shape, generator=generator)
    given = groups if len(groups) > 1 else groups[0]
    pixels = {"entry": Entries(), "site": Sites()}.get(kind, Groups(given, 9))
    groups, by_site = groups.expand(240, -1, -1, -1), kind == "site"
    net = Curved(18)
    reached = net(images)[:, 1] > 0
    with FrozenModel(net) as model:
        refined = refine(
            replace(problem_of(model, inputs), groups=given),
            Goal(0.5),
            found_images(images, reached.tolist(), [0] * 240),
            pixels=pixels,
            batch_size=7,
        )

    def is_enough(trial: NDArray[np.float64]) -> bool:
        scores = np.sin(trial.reshape(-1) @ net.first.numpy()) @ net.second.numpy()
        return bool(scores > 0)

    assert 20 < reached.sum() < 240
    more_than_one_pass = 0
    for i in reached.nonzero().flatten().tolist():
        original = inputs[i].numpy()
        index = groups[i].numpy() if kind.startswith("groups") else None
        expected, trials = reference.refined(images[i].numpy(), original, is_enough, by_site, index)
        found = refined.images[i].numpy()
        np.testing.assert_array_equal(found, expected)
        assert refined.forward_evaluations[i].item() == 1 + trials
        own = (1, 2, 3, 3)
        changed = pixels.of({"groups": groups[i : i + 1]}).any(torch.ones(own, dtype=torch.bool))
        more_than_one_pass += trials > changed.sum()
        pixel_of = functools.partial(reference.pixel_of, by_site=by_site, groups=index)
        entries = list(np.ndindex(*original.shape))
        for pixel in {pixel_of(entry) for entry in entries if found[entry] != original[entry]}:
            trial = found.copy()
            for entry in entries:
                if pixel_of(entry) == pixel:
                    trial[entry] = original[entry]
            assert not is_enough(trial)
    assert more_than_one_pass > 10


def test_pairs_without_success_or_without_a_change_stay_and_cost_nothing():
    inputs = torch.cat([row(0, 0), row(1, 1), row(0, 0)])
    images = torch.cat([row(0.1, 0.2), row(1, 1), row(1, 1)])
    with FrozenModel(linear(3.0, 3.0)) as model:
        found = found_images(images, [False, True, True], [1, 1, 1])
        refined = refine(problem_of(model, inputs), Goal(0.5), found)
        nothing = refine(
            problem_of(model, inputs[:2]),
            Goal(0.5),
            found_images(images[:2], [False, True], [0, 0]),
        )
    assert torch.equal(refined.images[:2], images[:2])
    torch.testing.assert_close(refined.images[2:], row(0, 1))
    assert refined.forward_evaluations.tolist() == [1, 1, 4]
    assert refined.confidence[:2].tolist() == [0.9, 0.9]
    assert torch.equal(nothing.images, images[:2])


def test_the_log_density_has_to_stay_above_its_class_threshold():
    """The density asks for a first entry of at least .5, which the classifier does not need."""

    def log_density(features: Tensor, classes: list[int]) -> Tensor:
        assert classes == [1]
        return features[:, 0]

    inputs, changed = row(0, 0), row(0.5, 0.9)
    net = linear(0.0, 3.0)
    with FrozenModel(net, net[0]) as model:
        least = torch.tensor([9.0, 0.5], dtype=torch.float64)
        refined = refine(
            problem_of(model, inputs),
            Goal(0.5, least),
            found_images(changed, [True], [0]),
            log_density,
        )
        free = refine(
            problem_of(model, inputs),
            Goal(0.5),
            found_images(changed, [True], [0]),
            log_density,
        )
    torch.testing.assert_close(refined.images, changed)
    torch.testing.assert_close(refined.log_density, torch.tensor([0.5]).double())
    torch.testing.assert_close(free.images, row(0, 0.9))
    torch.testing.assert_close(free.log_density, torch.tensor([0.0]).double())


def test_by_site_all_channels_return_together():
    """Channel 0 of the first site is not needed alone, but it stays with channel 1, which is."""
    inputs = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    changed = torch.tensor([[[[0.1, 0.0]], [[0.9, 0.3]]]], dtype=torch.float64)
    with FrozenModel(linear(1.0, 0.0, 3.0, 1.0)) as model:
        problem = problem_of(model, inputs)
        found = found_images(changed, [True], [0])
        sites = refine(problem, Goal(0.5), found, pixels=Sites())
        entries = refine(problem, Goal(0.5), found)
    assert sites.images.flatten().tolist() == [0.1, 0.0, 0.9, 0.0]
    assert entries.images.flatten().tolist() == [0.0, 0.0, 0.9, 0.0]
    assert sites.forward_evaluations.tolist() == [3]


def test_sizes_count_in_the_range_of_their_entry():
    """.4 of a range of 1 is more than .5 of a range of 10, so that the second is tried first."""
    inputs, changed = row(0, 0), row(0.4, 0.5)
    upper = row(1, 10)[0]
    with FrozenModel(linear(6.0, 6.0)) as model:
        problem = problem_of(model, inputs)
        problem = Problem(**{**vars(problem), "upper": upper})
        refined = refine(problem, Goal(0.5), found_images(changed, [True], [0]))
    torch.testing.assert_close(refined.images, row(0.4, 0))


def test_pairs_are_refined_alike_in_any_batch():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(9, 1, 3, 4, generator=generator, dtype=torch.float64) / 2
    images = inputs + torch.rand(inputs.shape, generator=generator, dtype=torch.float64) / 2
    weights = (2 * torch.rand(12, generator=generator)).tolist()
    with FrozenModel(linear(*weights)) as model:
        problem, found = problem_of(model, inputs), found_images(images, [True] * 9, [0] * 9)
        together = refine(problem, Goal(0.5), found)
        in_turn = refine(problem, Goal(0.5), found, batch_size=2)
    assert torch.equal(together.images, in_turn.images)
    assert (together.images == inputs).any()
    assert (together.confidence > 0.5).all()
