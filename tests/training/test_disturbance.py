"""What is done to training images, against arithmetic by hand in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from captum_deduce import spectral_normalize
from captum_deduce.datasets import ImageData
from captum_deduce.training.disturbance import Disturbance, adversarial, augmented, noisy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    """All that behaves otherwise in training: batch norm, dropout, spectral normalisation."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.Softplus(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 9, 3),
    )
    spectral_normalize(model[:3], 1.5, example_input=torch.zeros(1, 2, 5, 5))
    model.train()
    for _ in range(3):
        model(torch.rand(6, 2, 5, 5))  # running statistics of their own
    return model


# --- adversarial steps ---


def test_a_step_against_the_gradient_of_softmax_regression_written_out():
    source = np.random.default_rng(3)
    weight, bias = source.normal(size=(3, 8)), source.normal(size=3)
    pixels, target = source.uniform(size=(5, 8)), np.array([0, 2, 1, 1, 0])
    radius = source.uniform(0, 2, size=5)
    scores = np.exp(pixels @ weight.T + bias)
    gradient = (scores / scores.sum(1, keepdims=True) - np.eye(3)[target]) @ weight
    unit = gradient / np.sqrt((gradient**2).sum(1, keepdims=True))
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.from_numpy(weight))
        model[1].bias.copy_(torch.from_numpy(bias))
    images = torch.from_numpy(pixels).view(5, 2, 2, 2)
    found = adversarial(model, images, torch.from_numpy(target), torch.from_numpy(radius))
    assert not found.requires_grad
    np.testing.assert_allclose(found.flatten(1), pixels + radius[:, None] * unit, rtol=1e-12)


def test_a_step_is_that_of_each_image_alone_in_eval_mode_and_raises_its_loss():
    model, images = network(), torch.rand(6, 2, 5, 5)
    target, radius = torch.arange(6) % 3, torch.linspace(0, 0.5, 6)
    alone = copy.deepcopy(model).double().eval()
    expected = []
    for image, goal, length in zip(images.double(), target, radius.double(), strict=True):
        leaf = image[None].requires_grad_()
        cross_entropy(alone(leaf), goal[None]).backward()
        expected.append(leaf.detach() + length * leaf.grad / leaf.grad.square().sum().sqrt())
    found = adversarial(model, images, target, radius)
    torch.testing.assert_close(found, torch.cat(expected).float(), rtol=1e-4, atol=1e-5)
    before, after = (
        cross_entropy(alone(each.double()), target, reduction="none") for each in (images, found)
    )
    assert (after[1:] > before[1:]).all()


@pytest.mark.parametrize("fails", [False, True])
def test_a_step_leaves_the_model_as_it_was(fails):
    model = network()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    modes = [part.training for part in model.modules()]
    images = torch.rand(4, 3 if fails else 2, 5, 5)
    kept, drawn = images.clone(), torch.get_rng_state()
    try:
        adversarial(model, images, torch.tensor([0, 1, 2, 0]), torch.ones(4))
    except RuntimeError:
        assert fails
    else:
        assert not fails
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [part.training for part in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_a_step_has_its_length_where_the_squares_of_the_gradient_vanish():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([60.0, 0.0]))
    images = torch.rand(3, 2, 2, 2)
    leaf = images.clone().requires_grad_()
    cross_entropy(model(leaf), torch.zeros(3, dtype=torch.int64), reduction="sum").backward()
    assert 0 < leaf.grad.abs().max() < 1e-23
    found = adversarial(model, images, torch.zeros(3, dtype=torch.int64), torch.full((3,), 0.7))
    lengths = (found - images).flatten(1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 0.7))


def test_an_image_without_a_gradient_stays():
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    nn.init.zeros_(model[1].weight)
    images = torch.rand(3, 2, 2, 2)
    assert torch.equal(adversarial(model, images, torch.tensor([0, 1, 0]), torch.ones(3)), images)


# --- augmentation ---


class Moved(nn.Module):
    """Counts its calls, and adds a number that it draws."""

    calls = 0

    def forward(self, image):
        self.calls += 1
        assert image.dim() == 3
        return image + torch.rand(())


def test_every_image_is_augmented_by_a_draw_of_its_own():
    images, moved = torch.zeros(50, 2, 3, 4), Moved()
    made = augmented(images, moved, seeded())
    assert moved.calls == 50
    shifts = made[:, 0, 0, 0]
    assert torch.equal(made, shifts.view(-1, 1, 1, 1).expand(50, 2, 3, 4))
    assert len(set(shifts.tolist())) == 50


def test_draws_come_from_the_seed_and_go_on_from_batch_to_batch():
    images, source = torch.rand(4, 3, 8, 8), seeded(5)
    crop = v2.Compose([v2.RandomCrop(8, padding=4), v2.RandomHorizontalFlip()])
    first, second = (augmented(images, crop, source) for _ in range(2))
    torch.rand(7)  # must not matter
    again = seeded(5)
    assert torch.equal(first, augmented(images, crop, again))
    assert torch.equal(second, augmented(images, crop, again))
    assert not torch.equal(first, second)
    assert not torch.equal(first, augmented(images, crop, seeded(6)))


def test_the_global_generator_is_put_back_after_an_error_too():
    def broken(image):
        torch.rand(3)
        raise ArithmeticError

    images, before = torch.rand(2, 1, 3, 3), torch.get_rng_state()
    augmented(images, Moved(), seeded())
    with pytest.raises(ArithmeticError):
        augmented(images, broken, seeded())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("augment", "error", "words"),
    [
        (lambda image: image.numpy(), TypeError, r"a tensor of torch\.float32, got ndarray"),
        (lambda image: image.double(), TypeError, r"torch\.float32, got torch\.float64"),
        (lambda image: image[0], ValueError, r"\(2, 3, 4\), got \(3, 4\)"),
        (v2.RandomCrop(2), ValueError, r"\(2, 3, 4\), got \(2, 2, 2\)"),
    ],
)
def test_what_is_no_such_image_is_refused(augment, error, words):
    images = torch.rand(5, 2, 3, 4)
    kept = images.clone()
    with pytest.raises(error, match=f"augment must return .*{words}"):
        Disturbance(augment).check(images)
    assert torch.equal(images, kept)


# --- all of it ---


def test_no_augmentation_draws_nothing_and_changes_nothing():
    images, source = torch.rand(5, 2, 3, 4), seeded()
    before = source.get_state()
    batch = ImageData(images, torch.tensor([0, 1, 0, 1, 1]), ("a", "b"))
    found, target = Disturbance()(nn.Flatten(), batch, source, torch.device("cpu"))
    assert torch.equal(found, images)
    assert torch.equal(target, batch.target)
    assert torch.equal(source.get_state(), before)


def test_a_step_starts_from_the_augmented_image_with_its_noise():
    def darker(image):
        return image / 2

    model, images, target = network().eval(), torch.rand(6, 2, 5, 5), torch.arange(6) % 3
    batch, cpu = ImageData(images, target, ("a", "b", "c")), torch.device("cpu")
    start, _ = Disturbance(darker, 0.3)(model, batch, seeded(2), cpu)
    end, _ = Disturbance(darker, 0.3, 0.8)(model, batch, seeded(2), cpu)
    lengths = (end - start).flatten(1).norm(dim=1)
    assert lengths.max() < 0.8
    assert len(set(lengths.tolist())) == 6
    torch.testing.assert_close(end, adversarial(model, start, target, lengths))
    source = seeded(2)
    torch.randint(2**63 - 1, (), generator=source)  # the augmentation's seed
    assert torch.equal(start, noisy(images / 2, 0.3, source))


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"augment": "flip"}, TypeError, "augment must be a function.*'flip'"),
        ({"noise": -1.0}, ValueError, "noise.*-1"),
        ({"adversarial": -0.5}, ValueError, r"adversarial.*-0\.5"),
        ({"adversarial": True}, TypeError, "adversarial.*bool"),
    ],
)
def test_other_settings_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        Disturbance(**arguments)
