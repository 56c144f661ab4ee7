"""The forms in which a generative model may come, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce.explainers.latent_space import LatentSpace
from captum_deduce.models import VAE


@pytest.fixture
def images():
    return torch.rand(3, 1, 8, 8)


def test_an_object_with_both_methods_and_a_decoder_with_an_encoder_are_the_same(images):
    vae = VAE(image_size=8)
    for space in (
        LatentSpace.around(vae),
        LatentSpace.around(vae.decode, lambda x: vae.encode(x)[0]),
        LatentSpace.around(vae.decode, initial_latent=vae.encode(images)[0]),
    ):
        space.prepare(images)
        latents = space.start(images, [0, 1, 2])
        torch.testing.assert_close(latents, vae.encode(images)[0].detach())
        assert not latents.requires_grad


def test_what_runs_beside_the_classifier(images):
    vae = VAE(image_size=8)
    assert LatentSpace.around(vae).models == [vae.decode, vae.encode]
    assert LatentSpace.around(vae, initial_latent=torch.zeros(1, 32)).models == [vae.decode]


def test_one_latent_serves_all(images):
    space = LatentSpace.around(VAE(image_size=8), initial_latent=torch.arange(32.0).view(1, 32))
    assert torch.equal(space.start(images[:2], [1, 2]), torch.arange(32.0).expand(2, 32))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "vae must have the methods encode and decode"),
        ((nn.Linear(4, 64),), ValueError, "vae has no method encode"),
        ((nn.Linear(4, 64), None, [0.0]), TypeError, "initial_latent must be a torch.Tensor"),
    ],
)
def test_what_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        LatentSpace.around(*arguments)


def test_a_decoder_of_other_images_is_refused(images):
    space = LatentSpace.around(VAE(image_size=9), initial_latent=torch.zeros(1, 32))
    with pytest.raises(ValueError, match="the decoder must return images like the inputs"):
        space.prepare(images)
