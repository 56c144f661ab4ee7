"""Training of autoencoders: against Adam written out, and against principal components."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce.models import VAE, Autoencoder
from captum_deduce.training.autoencoders import (
    train_autoencoder,
    train_class_autoencoders,
    train_vae,
)
from tests import reference


class Linear(nn.Module):
    """x -> x W' + b on flattened images."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(weight.copy()))
        self.bias = nn.Parameter(torch.from_numpy(bias.copy()))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) @ self.weight.T + self.bias).view_as(images)


def test_every_step_is_adams_on_the_mean_squared_error():
    """One batch an epoch, so that the order of the images plays no part."""
    generator = np.random.default_rng(0)
    images = generator.random((6, 1, 2, 2))
    weight, bias = generator.normal(size=(4, 4)), generator.normal(size=4)
    model = Linear(weight, bias)
    errors = train_autoencoder(
        model, torch.from_numpy(images), epochs=5, batch_size=6, learning_rate=0.03
    )
    expected = reference.adam_on_linear_reconstruction(
        images.reshape(6, 4), weight, bias, steps=5, rate=0.03
    )
    np.testing.assert_allclose(errors, expected.errors, rtol=1e-9)
    np.testing.assert_allclose(model.weight.detach().numpy(), expected.weight, rtol=1e-6)
    np.testing.assert_allclose(model.bias.detach().numpy(), expected.bias, rtol=1e-6)


def test_it_learns_to_reconstruct_digits(digits):
    """Better than the 4 leading principal components, on images that it has not seen."""
    train, test = digits.train_images.float(), digits.images.float()
    torch.manual_seed(0)
    autoencoder = Autoencoder(image_size=8)
    errors = train_autoencoder(autoencoder, train, epochs=25, batch_size=50, learning_rate=4e-3)
    assert len(errors) == 25
    assert errors[-1] < errors[0] / 5
    rows, held_out = train.flatten(1), test.flatten(1)
    directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:4]
    rest = held_out - rows.mean(0)
    rest = rest - rest @ directions.T @ directions
    with torch.no_grad():
        found = (autoencoder(test) - test).square().mean()
    assert found < rest.square().mean()


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    images = torch.rand(30, 1, 8, 8)
    histories = []
    for seed in (1, 1, 2):
        torch.manual_seed(3)
        model = Autoencoder(image_size=8, hidden_channels=2)
        state = torch.random.get_rng_state()
        histories.append(train_autoencoder(model, images, epochs=2, batch_size=8, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert histories[0] == histories[1] != histories[2]


def test_all_images_are_seen_in_each_epoch():
    seen: list[float] = []
    model = Autoencoder(image_size=8, hidden_channels=2)
    model.register_forward_pre_hook(lambda _, args: seen.extend(args[0][:, 0, 0, 0].tolist()))
    images = torch.arange(10.0).view(-1, 1, 1, 1).expand(-1, 1, 8, 8) / 10
    train_autoencoder(model, images, epochs=2, batch_size=4)
    expected = (torch.arange(10.0) / 10).tolist()
    assert sorted(seen[:10]) == expected
    assert sorted(seen[10:]) == expected
    assert seen[:10] != seen[10:]


def test_modes_are_restored_and_gradients_cleared():
    model = nn.Sequential(nn.Dropout(0.1), Autoencoder(image_size=8, hidden_channels=2)).eval()
    model[0].train()
    train_autoencoder(model, torch.rand(4, 1, 8, 8), epochs=1)
    assert [module.training for module in model] == [True, False]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_is_shown_when_asked_for(capsys):
    model, images = Autoencoder(image_size=8, hidden_channels=2), torch.rand(4, 1, 8, 8)
    train_autoencoder(model, images, epochs=1)
    assert capsys.readouterr().err == ""
    train_autoencoder(model, images, epochs=3, batch_size=2, show_progress=True)
    assert "6/6" in capsys.readouterr().err


def test_an_error_that_is_no_number_ends_the_training():
    model = Linear(np.full((64, 64), 1e300), np.zeros(64))
    with pytest.raises(RuntimeError, match=r"loss became inf; .*learning_rate"):
        train_autoencoder(model, torch.rand(4, 1, 8, 8).double())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"model": nn.Identity()}, ValueError, "parameters that require a gradient"),
        ({"model": nn.Conv2d(1, 2, 1)}, ValueError, r"\(4, 1, 8, 8\), got \(4, 2, 8, 8\)"),
        ({"images": torch.zeros(4, 1, 8, 8).long()}, TypeError, "float32 or float64"),
    ],
    ids=str,
)
def test_what_is_refused(arguments, error, message):
    given = {"model": Autoencoder(image_size=8), "images": torch.rand(4, 1, 8, 8)} | arguments
    with pytest.raises(error, match=message):
        train_autoencoder(given.pop("model"), given.pop("images"), **given)


# --- variational autoencoders ---


class Weighed(VAE):
    """Its reconstruction term is 0, and its divergence a parameter, the slope of which it notes."""

    def __init__(self) -> None:
        super().__init__(image_size=8, hidden_channels=2)
        self.divergence = nn.Parameter(torch.tensor(2.0))
        self.weights: list[float] = []
        self.divergence.register_hook(lambda slope: self.weights.append(slope.item()))

    def negative_elbo(
        self, images: Tensor, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        return images.flatten(1).sum(1) * 0, self.divergence.expand(len(images))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1]),
        ({"annealing": 0.0}, [1] * 10),
        ({"annealing": 1.0, "kl_weight": 3.0}, [0.3 * step for step in range(10)]),
        ({"kl_weight": 0.0}, [0] * 10),
    ],
    ids=str,
)
def test_the_divergences_weight_rises_linearly(settings, expected):
    model = Weighed()
    losses = train_vae(
        model, torch.rand(10, 1, 8, 8), epochs=5, batch_size=5, learning_rate=1e-9, **settings
    )
    assert model.weights == pytest.approx(expected, abs=1e-6)
    assert losses == pytest.approx([2 * settings.get("kl_weight", 1.0)] * 5)


def test_a_vae_learns_to_reconstruct_digits_and_to_use_few_latents(digits):
    train, test = digits.train_images.float(), digits.images.float()
    torch.manual_seed(0)
    vae = VAE(image_size=8, latent_size=12, hidden_channels=8)
    losses = train_vae(vae, train, epochs=20, batch_size=50, learning_rate=3e-3)
    assert len(losses) == 20
    assert losses[-1] < 0.85 * losses[0]
    with torch.no_grad():
        mean, log_variance = vae.encode(test)
        error = (vae(test) - test).square().mean()
    assert error < 0.75 * (test - train.mean(0)).square().mean()
    assert 1 <= (mean.std(0) > 0.5).sum() <= 11
    assert log_variance.max() < 0.5


def test_annealing_keeps_latents_from_falling_silent(digits):
    """After the same few epochs, they tell more of the images than without it."""
    train = digits.train_images.float()
    spread = {}
    for annealing in (0.0, 1.0):
        torch.manual_seed(0)
        vae = VAE(image_size=8, latent_size=8, hidden_channels=8)
        train_vae(vae, train, epochs=8, batch_size=50, learning_rate=3e-3, annealing=annealing)
        with torch.no_grad():
            spread[annealing] = vae.encode(train)[0].std(0).sum()
    assert spread[1.0] > 1.2 * spread[0.0]


def test_a_vaes_seed_decides_and_the_global_generator_is_left_alone():
    images = torch.rand(30, 1, 8, 8)
    histories = []
    for seed in (1, 1, 2):
        torch.manual_seed(3)
        model = VAE(image_size=8, hidden_channels=2)
        state = torch.random.get_rng_state()
        histories.append(train_vae(model, images, epochs=2, batch_size=8, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert histories[0] == histories[1] != histories[2]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"kl_weight": -1.0}, ValueError, "kl_weight"),
        ({"annealing": 1.5}, ValueError, "annealing"),
        ({"model": nn.Linear(2, 2)}, TypeError, "model must be a VAE, got Linear"),
        (
            {"images": torch.full((4, 1, 8, 8), 1.5)},
            ValueError,
            r"images must lie in \[0, 1\], got",
        ),
    ],
    ids=str,
)
def test_what_is_refused_of_a_vae(arguments, error, message):
    given = {"model": VAE(image_size=8), "images": torch.rand(4, 1, 8, 8)} | arguments
    with pytest.raises(error, match=message):
        train_vae(given.pop("model"), given.pop("images"), **given)


def test_each_class_trains_its_own_autoencoder_on_its_own_images(digits):
    images, labels = digits.train_images[:300].float(), digits.train_labels[:300]

    def fresh() -> list[nn.Module]:
        torch.manual_seed(4)
        return [Autoencoder(image_size=8, hidden_channels=2) for _ in range(10)]

    together, alone = fresh(), fresh()
    settings = {"epochs": 2, "batch_size": 16, "learning_rate": 2e-3, "seed": 5}
    histories = train_class_autoencoders(together, images, labels, **settings)
    for index in (0, 4, 9):
        history = train_autoencoder(alone[index], images[labels == index], **settings)
        assert histories[index] == history
        for one, other in zip(together[index].parameters(), alone[index].parameters(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 1, 1, 3]), r"target must lie in 0 \.\.\. 2 .*got 3"),
        (torch.tensor([0, 1, 1, 0]), r"none of class\(es\) \[2\]"),
        (torch.tensor([0, 1]), r"one class per image \(4\), got \(2,\)"),
        ([0, 1, 2, 2], r"one class per image \(4\), got list"),
    ],
)
def test_classes_without_images_or_autoencoder_are_refused_before_any_training(target, message):
    autoencoders = [Autoencoder(image_size=8, hidden_channels=2) for _ in range(3)]
    before = [p.clone() for model in autoencoders for p in model.parameters()]
    with pytest.raises(ValueError, match=message):
        train_class_autoencoders(autoencoders, torch.rand(4, 1, 8, 8), target)
    after = [p for model in autoencoders for p in model.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
