"""Descents of many starts together, against one start at a time with slopes derived by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from captum_deduce.metrics.latent_descent import LatentDescent, Objective, Schedule
from tests import reference

WEIGHT = 0.3


@pytest.fixture
def machine() -> reference.DrawingMachine:
    generator = np.random.default_rng(0)
    return reference.DrawingMachine(
        generator.normal(size=(12, 4)),
        generator.normal(size=12),
        generator.normal(size=(6, 12)) / 3,
    )


@pytest.fixture
def objective(machine) -> Objective:
    return as_objective(machine)


def as_objective(machine: reference.DrawingMachine) -> Objective:
    W, b, V = (torch.from_numpy(value) for value in (machine.W, machine.b, machine.V))

    def draw(latents: Tensor) -> Tensor:
        return (latents @ W.T + b).sigmoid().view(-1, 1, 3, 4)

    def features(images: Tensor) -> Tensor:
        seen = images.flatten(1) @ V.T
        return (seen**2 + seen).view(-1, 2, 3)

    return Objective(draw, features, WEIGHT)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 1, 3, 4, generator=torch.Generator().manual_seed(1)).double()


@pytest.fixture
def starts() -> Tensor:
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(2)).double()


def descend(objective, schedule, images, starts, batch_size=6, early_stop=False) -> Tensor:
    descent = LatentDescent(
        objective, schedule, batch_size=batch_size, early_stop=early_stop, show_progress=False
    )
    return descent.final_losses(images, starts)


def one_by_one(descent, machine, images, starts, rates_of) -> np.ndarray:
    return np.array(
        [
            [
                descent(machine, z, x, WEIGHT, rates_of(place))
                for place, z in enumerate(starts[index].numpy())
            ]
            for index, x in enumerate(images.flatten(1).numpy())
        ]
    )


def test_losses_are_those_of_equation_7(machine, objective, images, starts):
    found = descend(objective, Schedule("sgd", 0, 0.1), images, starts)
    expected = one_by_one(
        reference.anogan_by_gradient_steps, machine, images, starts, lambda place: []
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_plain_steps_with_a_tenth_of_the_step_in_the_last_fifth(machine, objective, images, starts):
    found = descend(objective, Schedule("sgd", 25, 0.02), images, starts)
    expected = one_by_one(
        reference.anogan_by_gradient_steps,
        machine,
        images,
        starts,
        lambda place: [0.02] * 20 + [0.002] * 5,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_the_published_oversight_leaves_later_starts_the_tenth(machine, objective, images, starts):
    schedule = Schedule("sgd", 25, 0.02, keep_small_step=True)
    found = descend(objective, schedule, images, starts)
    expected = one_by_one(
        reference.anogan_by_gradient_steps,
        machine,
        images,
        starts,
        lambda place: [0.02] * 20 + [0.002] * 5 if place == 0 else [0.002] * 25,
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_adam_with_steps_along_half_a_cosine(machine, objective, images, starts):
    found = descend(objective, Schedule("adam", 30, 0.05), images, starts)
    rates = [0.05 * (1 + math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    expected = one_by_one(reference.anogan_by_adam, machine, images, starts, lambda place: rates)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8)


def test_the_tenth_begins_where_the_last_fifth_does():
    step, start = torch.arange(4000), torch.zeros(4000, dtype=torch.int64)
    rates = Schedule("sgd", 4000, 0.03).rates(step, start)
    assert (rates[:3200] == 0.03).all()
    torch.testing.assert_close(rates[3200:], torch.full((800,), 0.003).double())
    assert (Schedule("sgd", 4, 0.03).rates(step[:4], start[:4]) == 0.03).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("early_stop", [False, True])
def test_how_many_descend_together_does_not_matter(
    optimizer, early_stop, objective, images, starts, monkeypatch
):
    monkeypatch.setattr("captum_deduce.metrics.latent_descent._WINDOW", 7)
    monkeypatch.setattr("captum_deduce.metrics.latent_descent._HOPELESS", 1.2)
    schedule = Schedule(optimizer, 40, 0.05)
    whole = descend(objective, schedule, images, starts, 1000, early_stop)
    assert whole.isinf().any() == early_stop
    for size in (1, 3, 7, 8):
        again = descend(objective, schedule, images, starts, size, early_stop)
        torch.testing.assert_close(again, whole, rtol=1e-10, atol=0)
    order = torch.tensor([4, 2, 0, 1, 3])
    shuffled = descend(objective, schedule, images[order], starts[order], 7, early_stop)
    torch.testing.assert_close(shuffled, whole[order], rtol=1e-10, atol=0)


class Counting:
    """Equation 7 with a generator that notes how many rows it is given."""

    def __init__(self, objective: Objective) -> None:
        self.rows: list[int] = []
        self.objective = Objective(self.draw, objective.feature_map, WEIGHT)
        self.generator = objective.generator

    def draw(self, latents: Tensor) -> Tensor:
        self.rows.append(len(latents))
        return self.generator(latents)


def test_an_images_starts_enter_as_soon_as_there_is_room(objective, images, starts):
    counting = Counting(objective)
    descend(counting.objective, Schedule("sgd", 4, 0.01), images, starts, batch_size=7)
    # 2 images with 3 starts each at a time, for 4 steps and the evaluation after them
    assert counting.rows == [6] * 5 + [6] * 5 + [3] * 5


def test_far_starts_are_given_up_at_the_end_of_a_window(machine, images, monkeypatch):
    """One start of an image draws it, the other is where the sigmoid is flat and stays there."""
    monkeypatch.setattr("captum_deduce.metrics.latent_descent._WINDOW", 5)
    near, far = np.array([0.2, -0.1, 0.3, 0.1]), np.full(4, 60.0)
    starts = torch.from_numpy(np.stack([near, far])).unsqueeze(0)
    image = torch.from_numpy(machine.draw(near + 0.01)).view(1, 1, 3, 4)
    counting = Counting(as_objective(machine))
    losses = descend(counting.objective, Schedule("sgd", 12, 1e-3), image, starts, 8, True)
    alone = descend(as_objective(machine), Schedule("sgd", 12, 1e-3), image, starts[:, :1])
    assert losses[0, 0].item() == pytest.approx(alone.item(), rel=1e-9)
    assert losses[0, 1].isinf()
    # Half is over after 6 steps, at the second window's end it counts.
    assert counting.rows == [2] * 10 + [1] * 3
    counting.rows.clear()
    descend(counting.objective, Schedule("sgd", 24, 1e-3), image, starts, 8, True)
    assert counting.rows == [2] * 15 + [1] * 10


def test_a_start_that_is_no_number_is_given_up_for_one_that_is(
    objective, images, starts, monkeypatch
):
    monkeypatch.setattr("captum_deduce.metrics.latent_descent._WINDOW", 5)
    starts[1, 0] = torch.nan
    losses = descend(objective, Schedule("sgd", 12, 0.01), images, starts, early_stop=True)
    assert losses[1, 0].isinf()
    assert losses.isfinite().sum() == 14


def test_the_nearest_draws_are_those_with_the_smallest_losses(machine, objective, images):
    latents = torch.randn(20, 4, generator=torch.Generator().manual_seed(3)).double()
    found = objective.nearest(images, latents, 3, batch_size=7)
    for index, x in enumerate(images.flatten(1).numpy()):
        losses = [machine.loss(z, x, WEIGHT) for z in latents.numpy()]
        np.testing.assert_array_equal(found[index], latents[np.argsort(losses)[:3]])


def test_progress_counts_what_is_given_up_too(objective, images, starts, capsys, monkeypatch):
    monkeypatch.setattr("captum_deduce.metrics.latent_descent._WINDOW", 5)
    monkeypatch.setattr("captum_deduce.metrics.latent_descent._HOPELESS", 1.2)
    descent = LatentDescent(
        objective, Schedule("sgd", 19, 0.02), batch_size=6, early_stop=True, show_progress=True
    )
    assert descent.final_losses(images, starts).isinf().any()
    assert "300/300" in capsys.readouterr().err
