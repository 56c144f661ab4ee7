"""The VAE's shapes, its lower bound against torch's distributions, and the published weights."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from captum_deduce import datasets
from captum_deduce.models import VAE

REFERENCE = Path(
    os.environ.get("CAPTUM_DEDUCE_REFERENCE") or Path(__file__).parents[3] / "shared" / "reference"
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 9, 10, 11, 12, 28, 32, (8, 15), (13, 10), (17, 64)], ids=str)
def test_any_channels_and_sizes_come_back_in_their_own_shape(channels, size):
    height, width = size if isinstance(size, tuple) else (size, size)
    vae = VAE(channels, size, latent_size=5, hidden_channels=3)
    images = torch.rand(2, channels, height, width)
    mean, log_variance = vae.encode(images)
    assert mean.shape == log_variance.shape == (2, 5)
    drawn = vae.decode(mean)
    assert drawn.shape == images.shape
    assert drawn.min() > 0
    assert drawn.max() < 1
    assert torch.equal(vae(images), drawn)


@pytest.mark.parametrize("size", [8, 9, 14, 27])
def test_every_pixel_depends_on_the_latents_and_tells_of_them(size):
    """Also at the edges, where sides that are no multiples of 4 are padded or cut."""
    vae = VAE(1, size, latent_size=4, hidden_channels=3).double()
    latents = torch.randn(1, 4).double()
    slopes = torch.autograd.functional.jacobian(vae.decode, latents)
    assert (slopes.abs().sum(-1) > 0).all()
    images = torch.rand(1, 1, size, size).double()
    slopes = torch.autograd.functional.jacobian(lambda x: vae.encode(x)[0], images)
    assert (slopes.abs().sum((0, 1)) > 0).all()


def test_the_published_shape():
    """Weights of each layer as the paper's code has them, counted by hand."""
    vae = VAE()
    found = [tuple(p.shape) for p in vae.parameters() if p.dim() > 1]
    assert found == [
        (32, 1, 5, 5),
        (64, 32, 5, 5),
        (64, 3136),
        (3136, 32),
        (64, 32, 5, 5),
        (32, 32, 5, 5),
        (32, 1, 3, 3),
    ]
    assert vae.decoder[2](torch.zeros(1, 3136)).shape == (1, 64, 7, 7)


def published_vae() -> VAE:
    path = REFERENCE / "vae.safetensors"
    if not path.is_file():
        pytest.skip("needs the published weights: set CAPTUM_DEDUCE_REFERENCE to their folder")
    vae, state = VAE(), {}
    for name, value in load_file(path).items():
        part, place, kind = name.split(".")
        # Its decoder's first layers are a module of their own: a linear layer, ReLU and a reshape.
        ours = {
            "_encoder": f"encoder.{place}",
            "_decoder_linear": f"decoder.{place}",
            "_decoder": f"decoder.{int(place) + 3}",
        }[part]
        state[f"{ours}.{kind}"] = value
    vae.load_state_dict(state)
    return vae.eval()


def test_the_published_weights_reconstruct_mnist():
    vae = published_vae()
    try:
        images = datasets.load_mnist().test.images[:500]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        mean, log_variance = vae.encode(images)
        error = (vae(images) - images).square().mean().item()
        wrong = (vae.decode(log_variance) - images).square().mean().item()
    assert error < 0.015
    assert wrong > 0.1
    assert images.var(0).mean() > 0.05
    # Some latents tell of an image, the others are left to the prior; all together follow it.
    assert 5 <= (mean.std(0) > 0.5).sum() <= 20
    variance = mean.var(0) + log_variance.exp().mean(0)
    assert ((variance - 1).abs() < 0.4).all()


def written_out(vae: VAE, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_variance = vae.encode(images)
    posterior = Normal(mean, log_variance.exp().sqrt())
    drawn = vae.decode(mean + posterior.scale * noise)
    # Bernoulli.log_prob takes grey values where it need not validate them.
    likelihood = Bernoulli(drawn, validate_args=False).log_prob(images)
    divergence = kl_divergence(posterior, Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    return -likelihood.flatten(1).sum(1), divergence.sum(1)


@pytest.mark.parametrize("size", [8, (9, 14)])
def test_the_negative_lower_bound_is_that_of_torchs_distributions(size):
    vae = VAE(2, size, latent_size=6, hidden_channels=4).double()
    with torch.no_grad():
        vae.encoder[-1].weight.mul_(8)
    images = torch.rand(5, 2, *vae.settings["image_size"]).double()
    terms = vae.negative_elbo(images, torch.Generator().manual_seed(3))
    noise = torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for found, expected in zip(terms, written_out(vae, images, noise), strict=True):
        assert found.shape == (5,)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_each_call_draws_anew_from_the_generator():
    vae = VAE(image_size=8, hidden_channels=2)
    images = torch.rand(3, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    before = torch.random.get_rng_state()
    first, second = (vae.negative_elbo(images, generator)[0] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = vae.negative_elbo(images, torch.Generator().manual_seed(0))[0]
    assert torch.equal(first, again)


def test_save_and_load(tmp_path):
    vae = VAE(2, (9, 12), latent_size=5, hidden_channels=3)
    vae.save(tmp_path / "vae.safetensors")
    loaded = VAE.load(tmp_path / "vae.safetensors")
    images = torch.rand(2, 2, 9, 12)
    assert torch.equal(loaded(images), vae(images))
    assert repr(loaded) == repr(vae)


def test_no_layer_works_in_place():
    layers = list(VAE().modules())
    assert not any(layer.inplace for layer in layers if isinstance(layer, nn.ReLU))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels"),
        ({"image_size": 7}, ValueError, "image_size"),
        ({"image_size": (28, 7)}, ValueError, "image_size"),
        ({"image_size": (28, 28, 28)}, ValueError, "image_size must be an int or"),
        ({"image_size": 28.0}, TypeError, "image_size must be an int"),
        ({"latent_size": 0}, ValueError, "latent_size"),
        ({"hidden_channels": 1.5}, TypeError, "hidden_channels"),
    ],
    ids=str,
)
def test_sizes_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        VAE(**arguments)
