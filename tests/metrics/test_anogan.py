"""AnoGAN against naive forms in float64, the published scores, and images of other kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate

from captum_deduce import Counterfactuals, datasets
from captum_deduce.metrics import AnoGAN
from captum_deduce.models import WGAN
from tests import reference
from tests.published import published, published_wgan


class Drawing(nn.Module):
    """The reference's generator, as a module."""

    def __init__(self, machine: reference.DrawingMachine) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(machine.W))
        self.bias = nn.Parameter(torch.from_numpy(machine.b))

    def forward(self, latents: Tensor) -> Tensor:
        return (latents @ self.weight.T + self.bias).sigmoid().view(-1, 1, 3, 4)


class Seeing(nn.Module):
    """The reference's feature map, as a module."""

    def __init__(self, machine: reference.DrawingMachine) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(machine.V))

    def forward(self, images: Tensor) -> Tensor:
        seen = images.flatten(1) @ self.weight.T
        return (seen**2 + seen).view(-1, 2, 3)


@pytest.fixture
def machine() -> reference.DrawingMachine:
    generator = np.random.default_rng(0)
    return reference.DrawingMachine(
        generator.normal(size=(12, 4)),
        generator.normal(size=12),
        generator.normal(size=(6, 12)) / 3,
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 1, 3, 4, generator=torch.Generator().manual_seed(1)).double()


def metric(machine: reference.DrawingMachine, **settings) -> AnoGAN:
    return AnoGAN(Drawing(machine), Seeing(machine), **{"latent_size": 4} | settings)


class Noting(Drawing):
    """Notes the first latents that it is asked to draw in a descent."""

    def __init__(self, machine: reference.DrawingMachine) -> None:
        super().__init__(machine)
        self.asked: list[Tensor] = []

    def forward(self, latents: Tensor) -> Tensor:
        self.asked.append(latents.detach().clone())
        return super().forward(latents)


@pytest.mark.parametrize(
    ("settings", "rates", "naive"),
    [
        ({}, [0.02] * 20 + [0.002] * 5, reference.anogan_by_gradient_steps),
        (
            {"optimizer": "adam"},
            [0.01 * (1 + np.cos(np.pi * step / 25)) for step in range(25)],
            reference.anogan_by_adam,
        ),
    ],
    ids=["sgd", "adam"],
)
def test_a_score_is_the_smallest_final_loss_of_the_starts(machine, images, settings, rates, naive):
    generator = Noting(machine)
    anogan = AnoGAN(
        generator,
        Seeing(machine),
        latent_size=4,
        feature_weight=0.3,
        steps=25,
        step_size=0.02,
        candidates=0,
        **settings,
    )
    scores = anogan.score(images)
    starts = next(latents for latents in generator.asked if len(latents) == 15)
    starts = starts.view(5, 3, 4).numpy()
    for image, own_starts, score in zip(images, starts, scores, strict=True):
        losses = [naive(machine, z, image.numpy().ravel(), 0.3, rates) for z in own_starts]
        assert score.item() == pytest.approx(min(losses), rel=1e-8)
        assert max(losses) > 1.01 * min(losses)


def test_starts_are_standard_normal_and_each_images_own(machine):
    generator = Noting(machine)
    anogan = AnoGAN(
        generator, Seeing(machine), latent_size=4, restarts=50, steps=0, batch_size=5000
    )
    images = torch.rand(40, 1, 3, 4).double()
    anogan.score(images)
    starts = next(latents for latents in generator.asked if len(latents) == 2000).view(40, 200)
    assert starts.mean().abs() < 0.04
    assert abs(starts.std() - 1) < 0.03
    assert torch.corrcoef(starts).triu(1).abs().max() < 0.35
    generator.asked.clear()
    AnoGAN(generator, Seeing(machine), latent_size=4, restarts=50, steps=0, seed=1).score(
        images[:1]
    )
    other = next(latents for latents in generator.asked if len(latents) == 50).view(200)
    assert not torch.isclose(other, starts[0]).any()


def test_candidates_are_the_best_of_the_same_draws(machine, images):
    anogan = metric(machine, candidates=30, steps=0, restarts=2, seed=5)
    drawn = torch.randn(30, 4, generator=torch.Generator().manual_seed(5)).double().numpy()
    expected = [min(machine.loss(z, x, 0.1) for z in drawn) for x in images.flatten(1).numpy()]
    np.testing.assert_allclose(anogan.score(images).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adam", "candidates": 20}], ids=str)
def test_a_score_depends_on_the_image_and_the_seed_alone(machine, images, settings):
    scores = metric(machine, steps=30, batch_size=7, **settings).score(images)
    torch.manual_seed(8)
    state = torch.random.get_rng_state()
    order = torch.tensor([3, 0, 4])
    some = metric(machine, steps=30, batch_size=2, **settings).score(images[order])
    torch.testing.assert_close(some, scores[order], rtol=1e-10, atol=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    other = metric(machine, steps=30, seed=1, **settings).score(images)
    assert (other != scores).all()


def test_images_in_single_precision_have_the_same_starts(machine, images):
    images = images.float()
    double = metric(machine, steps=20).score(images.double())
    single = AnoGAN(Drawing(machine).float(), Seeing(machine).float(), latent_size=4, steps=20)
    torch.testing.assert_close(single.score(images).double(), double, rtol=1e-4, atol=0)


def test_a_call_scores_the_counterfactuals(machine, images):
    ones = torch.ones(5)
    result = Counterfactuals(
        inputs=images.flip(0),
        counterfactuals=images,
        target=ones.long(),
        success=ones.bool(),
        confidence=ones,
        iterations=ones.long(),
        evaluations=ones.long(),
        forward_evaluations=ones.long(),
        prediction=ones.long(),
    )
    anogan = metric(machine, steps=5)
    assert torch.equal(anogan(result), anogan.score(images))


def test_models_are_held_in_eval_mode_and_left_as_they_were():
    wgan = WGAN(image_size=8, hidden_channels=2, latent_size=5).train()
    wgan.generator[2].eval()
    modes = [module.training for module in wgan.modules()]
    before = {name: value.clone() for name, value in wgan.state_dict().items()}
    images = torch.rand(3, 1, 8, 8)
    settings = {"latent_size": 5, "steps": 6, "step_size": 0.01}
    scores = AnoGAN(wgan.generate, wgan.features, **settings).score(images)
    assert [module.training for module in wgan.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in wgan.state_dict().items())
    assert all(parameter.grad is None for parameter in wgan.parameters())
    wgan.eval()
    assert torch.equal(AnoGAN(wgan.generate, wgan.features, **settings).score(images), scores)


def test_latents_of_any_shape_and_models_that_work_in_place():
    generator = nn.Sequential(nn.ReLU(inplace=True), nn.ConvTranspose2d(3, 1, 4), nn.Sigmoid())
    seeing = nn.Sequential(nn.LeakyReLU(0.5, inplace=True), nn.Flatten())
    anogan = AnoGAN(generator, seeing, latent_size=(3, 2, 2), steps=5)
    apart = AnoGAN(
        nn.Sequential(nn.ReLU(), *generator[1:]), nn.LeakyReLU(0.5), latent_size=(3, 2, 2), steps=5
    )
    images = torch.rand(2, 1, 5, 5)
    before = images.clone()
    torch.testing.assert_close(anogan.score(images), apart.score(images))
    assert torch.equal(images, before)


def test_under_no_grad_it_descends_too(machine, images):
    with torch.no_grad():
        scores = metric(machine, steps=30, step_size=0.01).score(images)
    assert (scores < metric(machine, steps=0).score(images)).all()


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"generator": 3}, TypeError, "generator must be"),
        ({"feature_map": None}, TypeError, "feature_map must be"),
        ({"feature_weight": -0.1}, ValueError, "feature_weight"),
        ({"restarts": 0}, ValueError, "restarts"),
        ({"steps": 1.5}, TypeError, "steps"),
        ({"step_size": 0}, ValueError, "step_size"),
        ({"candidates": 2}, ValueError, r"candidates must be 0 or at least restarts \(3\), got 2"),
        ({"optimizer": "lbfgs"}, ValueError, "optimizer must be one of 'sgd', 'adam'"),
        ({"optimizer": "adam", "keep_small_step": True}, ValueError, "keep_small_step"),
        ({"early_stop": 1}, TypeError, "early_stop"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"latent_size": 0}, ValueError, "latent_size"),
        ({"latent_size": ()}, ValueError, "latent_size"),
    ],
    ids=str,
)
def test_settings_that_are_refused(machine, settings, error, message):
    models = {"generator": Drawing(machine), "feature_map": Seeing(machine)}
    with pytest.raises(error, match=message):
        AnoGAN(**models | settings)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.rand(2, 1, 9, 8), ValueError, "got 1 x 9 x 8, and it draws 1 x 8 x 8"),
        (torch.rand(2, 3, 8, 8), ValueError, "got 3 x 8 x 8, and it draws 1 x 8 x 8"),
        (
            torch.full((2, 1, 8, 8), torch.nan),
            ValueError,
            r"NaN or infinite values in image\(s\) 0",
        ),
        (torch.zeros(2, 1, 8, 8).long(), TypeError, "float32 or float64"),
        (torch.zeros(0, 1, 8, 8), ValueError, "N at least 1"),
        (torch.rand(2, 1, 8, 8).double(), ValueError, "generator's parameters are torch.float32"),
    ],
    ids=lambda value: tuple(value.shape) if isinstance(value, Tensor) else None,
)
def test_images_that_are_refused(images, error, message):
    wgan = WGAN(image_size=8, hidden_channels=2, latent_size=5)
    with pytest.raises(error, match=message):
        AnoGAN(wgan.generate, wgan.features, latent_size=5).score(images)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"latent_size": 6}, ValueError, r"shape \(2, 6\); is latent_size \(6\) right"),
        ({"generator": lambda z: [z]}, TypeError, "generator must return a tensor, got list"),
        (
            {"generator": lambda z: z.sum() + torch.zeros(2, 1, 8, 8, dtype=torch.float64)},
            ValueError,
            "draws torch.float64",
        ),
        ({"generator": lambda z: torch.zeros(2, 1, 8, 8)}, ValueError, "differentiated"),
        ({"generator": lambda z: torch.zeros(3, 1, 8, 8) + z.sum()}, ValueError, "3 images for 2"),
        ({"feature_map": lambda x: (x,)}, TypeError, "feature_map must return a tensor, got tuple"),
        ({"feature_map": lambda x: x.sum()}, ValueError, "feature_map must return N x"),
        ({"feature_map": lambda x: x.double()}, ValueError, "feature_map must return N x"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_models_that_are_refused(changed, error, message):
    wgan = WGAN(image_size=8, hidden_channels=2, latent_size=5)
    given = {"generator": wgan.generate, "feature_map": wgan.features, "latent_size": 5} | changed
    with pytest.raises(error, match=message):
        AnoGAN(**given).score(torch.rand(2, 1, 8, 8))


def test_a_descent_that_diverges_everywhere_is_an_error_and_no_score(machine, images):
    def explode(latents: Tensor) -> Tensor:
        return latents.square().sum(1).view(-1, 1, 1, 1).expand(-1, 1, 3, 4)

    anogan = AnoGAN(explode, nn.Identity(), latent_size=4, steps=100, step_size=1e3)
    with pytest.raises(RuntimeError, match=r"all starts of 5 image\(s\), .* than 1000"):
        anogan.score(images)


# --- with the published generator and critic ---


def published_pairs(count: int) -> tuple[Tensor, Tensor]:
    """The paper's DeDUCE counterfactuals of its first images, one each, and their scores."""
    arrays = np.load(published("paper_set1.npz"))
    rows = np.arange(count)
    target = (arrays["labels"][rows] + 1 + rows % 9) % 10
    images, scores = arrays["cf_deduce"][rows, target], arrays["agan_deduce"][rows, target]
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(scores)


@pytest.mark.slow
def test_published_scores_are_reproduced_as_far_as_they_can_be():
    """They are stochastic; the published code kept the tenth of the step for later starts."""
    wgan = published_wgan()
    images, scores = published_pairs(100)
    found = AnoGAN(wgan.generate, wgan.features, keep_small_step=True).score(images).double()
    assert found.mean().item() == pytest.approx(scores.mean().item(), rel=0.08)
    assert torch.corrcoef(torch.stack([found, scores]))[0, 1] >= 0.5


@pytest.mark.slow
def test_adam_ends_lower_and_scatters_less_than_plain_steps():
    wgan = published_wgan()
    images, _ = published_pairs(8)
    means, scatter = {}, {}
    for optimizer in ("sgd", "adam"):
        scores = torch.stack(
            [
                AnoGAN(wgan.generate, wgan.features, optimizer=optimizer, seed=seed).score(images)
                for seed in (0, 1)
            ]
        )
        means[optimizer] = scores.mean()
        scatter[optimizer] = (scores.std(0) / scores.mean(0)).mean()
    assert means["adam"] < means["sgd"]
    assert scatter["adam"] < scatter["sgd"]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"optimizer": "adam"}, {"steps": 1500}], ids=str)
def test_an_early_stop_changes_no_score_by_more_than_half_a_percent(settings):
    wgan = published_wgan()
    images, _ = published_pairs(8)
    whole, stopped = (
        AnoGAN(wgan.generate, wgan.features, early_stop=early_stop, **settings).score(images)
        for early_stop in (False, True)
    )
    torch.testing.assert_close(stopped, whole, rtol=0.005, atol=0)


def auroc(usual: Tensor, others: Tensor) -> float:
    """Share of pairs in which the other image scores higher, by ranks."""
    ranks = rankdata(torch.cat([usual, others]).numpy())[len(usual) :]
    above = ranks.sum() - len(others) * (len(others) + 1) / 2
    return float(above / (len(usual) * len(others)))


@pytest.mark.slow
def test_images_of_other_kinds_score_higher_than_test_digits():
    wgan = published_wgan()
    try:
        digits = datasets.load_mnist().test.images[:60]
        photos = datasets.load_cifar10().test.images[:30]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    grey = photos.mean(1, keepdim=True)
    small = torch.from_numpy(load_digits().images[:30]).float().unsqueeze(1) / 16
    others = {
        "CIFAR-10 in grey": interpolate(grey, 28, mode="bilinear", antialias=True),
        "inverted": 1 - digits[30:],
        "8x8 digits": interpolate(small, 28, mode="bilinear"),
    }
    anogan = AnoGAN(wgan.generate, wgan.features, optimizer="adam", steps=300)
    usual = anogan.score(digits[:30])
    found = {name: auroc(usual, anogan.score(images)) for name, images in others.items()}
    assert found["CIFAR-10 in grey"] > 0.99
    assert found["inverted"] > 0.99
    assert found["8x8 digits"] > 0.9
