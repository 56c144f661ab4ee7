"""Training of Wasserstein GANs: single steps against formulas, and what digits they lead to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import datasets
from captum_deduce.models import WGAN, Autoencoder
from captum_deduce.training import gans
from captum_deduce.training.gans import train_wgan


def small(seed: int = 0, **settings) -> WGAN:
    torch.manual_seed(seed)
    return WGAN(**{"image_size": 8, "latent_size": 4, "hidden_channels": 2} | settings)


class Steep(WGAN):
    """Its critic is a linear function of the pixels with a given slope; it draws grey images."""

    def __init__(self, slope: float) -> None:
        super().__init__(image_size=8, latent_size=4, hidden_channels=2)
        self.head.register_parameter("slope", nn.Parameter(torch.tensor(slope)))

    def judge(self, images: Tensor) -> Tensor:
        # 64 pixels with weight 1/8 each have a slope of length 1.
        return self.head.slope * images.flatten(1).sum(1) / 8

    def generate(self, latents: Tensor) -> Tensor:
        grey = latents.mean(1).view(-1, 1, 1, 1) * 0 + 0.25
        return grey.expand(-1, 1, 8, 8) + 0 * sum(p.sum() for p in self.generator.parameters())


@pytest.mark.parametrize("slope", [0.5, 1.0, 3.0])
def test_the_critic_descends_on_distance_and_penalty(slope, monkeypatch):
    """Real images of .75 against .25: the distance is 4 s, the penalty 10 (|s| - 1)^2."""
    gradients, descend = [], gans._descend

    def note(optimizer, loss):
        descend(optimizer, loss)
        gradients.extend(p.grad.item() for p in optimizer.param_groups[0]["params"] if p.dim() == 0)

    monkeypatch.setattr(gans, "_descend", note)
    model = Steep(slope)
    distances = train_wgan(model, torch.full((4, 1, 8, 8), 0.75), epochs=1, batch_size=4)
    assert distances == pytest.approx([4 * slope])
    assert gradients == pytest.approx([-4 + 20 * (slope - 1)], abs=1e-4)


def test_the_penalty_is_taken_between_real_and_drawn_images(monkeypatch):
    model, seen = Steep(1.0), []
    judge = model.judge
    monkeypatch.setattr(model, "judge", lambda images: (seen.append(images), judge(images))[1])
    train_wgan(model, torch.full((400, 1, 8, 8), 0.75), epochs=1, batch_size=400)
    between = seen[2].detach()
    # One share for all pixels of an image, evenly distributed.
    assert (between.flatten(1).std(1) < 1e-6).all()
    share = (between[:, 0, 0, 0] - 0.25) / 0.5
    assert share.min() > 0
    assert share.max() < 1
    quartiles = share.quantile(torch.tensor([0.25, 0.5, 0.75]))
    torch.testing.assert_close(quartiles, torch.tensor([0.25, 0.5, 0.75]), rtol=0, atol=0.08)


def test_the_generator_follows_every_few_steps_of_the_critic(monkeypatch):
    kinds = []
    monkeypatch.setattr(gans, "_train_critic", lambda *arguments: kinds.append("critic") or 1.0)
    monkeypatch.setattr(gans, "_train_generator", lambda *_: kinds.append("generator"))
    images = torch.rand(13, 1, 8, 8)
    assert train_wgan(small(), images, epochs=2, batch_size=4, critic_steps=2) == [1.0, 1.0]
    assert kinds == ["critic", "critic", "generator"] * 3


def test_a_step_of_the_generator_leaves_the_critic_alone_and_makes_it_judge_better():
    model = small().train()
    gans._judge_alone(model)
    critic = [*model.feature_map.parameters(), *model.head.parameters()]
    before = [parameter.detach().clone() for parameter in critic]
    optimizer = torch.optim.Adam(model.generator.parameters(), lr=1e-2, betas=(0.0, 0.9))
    latents = torch.randn(200, 4)
    verdicts = [model.judge(model.generate(latents)).mean().item()]
    for _ in range(5):
        gans._train_generator(model, optimizer, 200, torch.Generator().manual_seed(0))
    verdicts.append(model.judge(model.generate(latents)).mean().item())
    assert verdicts[1] > verdicts[0]
    assert all(torch.equal(new, old) for new, old in zip(critic, before, strict=True))


def test_the_critic_judges_each_image_alone():
    """Its batch norms keep their first statistics, the generator's learn theirs."""
    model = small()
    train_wgan(model, torch.rand(20, 1, 8, 8), epochs=2, batch_size=10, critic_steps=1)
    for module in [*model.feature_map, *model.head]:
        if isinstance(module, nn.BatchNorm2d):
            assert (module.running_mean == 0).all()
            assert (module.running_var == 1).all()
            assert not (module.weight == 1).all()
    assert (model.generator[2].running_mean != 0).all()


def test_learning_rates_fall_to_zero(monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def note(optimizer, *arguments, **keywords):
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.Adam, "step", note)
    train_wgan(small(), torch.rand(8, 1, 8, 8), epochs=2, batch_size=4, learning_rate=0.4)
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])


def test_it_learns_to_draw_digits():
    """What it draws is far nearer to real digits than noise with their pixels' moments is."""
    images = datasets.load_digits().train.images
    model = small(latent_size=16, hidden_channels=8)
    distances = train_wgan(
        model, images, epochs=25, batch_size=50, learning_rate=2e-3, critic_steps=1
    )
    assert len(distances) == 25
    assert distances[-1] < 0.5 * max(distances)
    with torch.no_grad():
        drawn = model.eval().generate(torch.randn(500, 16))
    noise = (images.mean(0) + images.std(0) * torch.randn(500, 1, 8, 8)).clamp(0, 1)
    real = images.flatten(1)
    off, noise_off = (torch.cdist(rows.flatten(1), real).amin(1).mean() for rows in (drawn, noise))
    assert off < 0.85 * noise_off
    # Not the same few over and over.
    assert drawn.var(0).mean() > 0.5 * images.var(0).mean()


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    images = torch.rand(30, 1, 8, 8)
    histories = []
    for seed in (1, 1, 2):
        model = small()
        state = torch.random.get_rng_state()
        histories.append(train_wgan(model, images, epochs=2, batch_size=8, seed=seed))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert histories[0] == histories[1] != histories[2]


def test_a_short_last_batch_is_left_out():
    seen: list[Tensor] = []
    model = small()
    model.feature_map.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    images = torch.arange(10.0).view(-1, 1, 1, 1).expand(-1, 1, 8, 8) / 10
    train_wgan(model, images, epochs=2, batch_size=4)
    real = torch.stack([batch[:, 0, 0, 0] for batch in seen[::3]])
    assert real.shape == (4, 4)
    assert all(len(set(real[epoch : epoch + 2].flatten().tolist())) == 8 for epoch in (0, 2))


def test_modes_are_restored_and_gradients_cleared():
    model = small().eval()
    model.generator[2].train()
    modes = [module.training for module in model.modules()]
    train_wgan(model, torch.rand(6, 1, 8, 8), epochs=1, batch_size=6, critic_steps=1)
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())


def test_progress_is_shown_when_asked_for(capsys):
    images = torch.rand(6, 1, 8, 8)
    train_wgan(small(), images, epochs=1, batch_size=3)
    assert capsys.readouterr().err == ""
    train_wgan(small(), images, epochs=2, batch_size=3, show_progress=True)
    assert "4/4" in capsys.readouterr().err


def test_a_loss_that_is_no_number_ends_the_training():
    model = Steep(torch.inf)
    with pytest.raises(RuntimeError, match=r"loss became .*learning_rate"):
        train_wgan(model, torch.rand(4, 1, 8, 8), batch_size=4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": Autoencoder(image_size=8)}, TypeError, "model must be a WGAN, got Autoencoder"),
        ({"images": torch.rand(4, 1, 9, 8)}, ValueError, r"\(1, 8, 8\), got shape \(4, 1, 9, 8\)"),
        ({"images": torch.rand(1, 1, 8, 8)}, ValueError, "at least 2"),
        ({"images": torch.full((4, 1, 8, 8), 1.5)}, ValueError, r"images must lie in \[0, 1\]"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"batch_size": 1}, ValueError, "batch_size"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"critic_steps": 0}, ValueError, "critic_steps"),
        ({"penalty_weight": -1}, ValueError, "penalty_weight"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_refused(arguments, error, message):
    given = {"model": small(), "images": torch.rand(4, 1, 8, 8)} | arguments
    with pytest.raises(error, match=message):
        train_wgan(given.pop("model"), given.pop("images"), **given)
