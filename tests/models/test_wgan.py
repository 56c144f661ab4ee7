"""The GAN's shapes and judgements, and the published weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, conv_transpose2d, leaky_relu

from captum_deduce import datasets
from captum_deduce.models import WGAN
from tests.published import published, published_wgan

SIZES = [8, 9, 10, 11, 13, 14, 15, 16, 19, 28, 32, (8, 31), (23, 12), (17, 64)]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_any_channels_and_sizes_are_drawn_and_judged(channels, size):
    height, width = size if isinstance(size, tuple) else (size, size)
    wgan = WGAN(channels, size, latent_size=5, hidden_channels=2, critic_channels=3).eval()
    images = wgan.generate(torch.randn(2, 5))
    assert images.shape == (2, channels, height, width)
    assert images.min() > 0
    assert images.max() < 1
    assert wgan.features(images).shape == (2, 6, -(-height // 4), -(-width // 4))
    assert wgan.judge(images).shape == (2,)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_pixel_depends_on_the_latents_and_is_judged(size):
    """Also at the edges, where what is drawn is cut off and strides end."""
    torch.manual_seed(2)
    wgan = WGAN(1, size, latent_size=6, hidden_channels=8, critic_channels=4).double().eval()
    latents = torch.randn(1, 6).double()
    slopes = torch.autograd.functional.jacobian(wgan.generate, latents)
    assert (slopes.abs().sum(-1) > 0).all()
    image = wgan.generate(latents).detach()
    slope = torch.autograd.functional.jacobian(wgan.judge, image)
    assert (slope != 0).all()


def test_the_published_shape():
    """Weights of each layer and sides of each map as the paper's code has them, by hand."""
    wgan = WGAN()
    found = [tuple(p.shape) for p in wgan.parameters() if p.dim() > 1]
    assert found == [
        (64, 256, 3, 3),
        (256, 128, 4, 4),
        (128, 64, 3, 3),
        (64, 1, 4, 4),
        (16, 1, 5, 5),
        (32, 16, 5, 5),
        (1, 32, 5, 5),
    ]
    sides = []
    for layer in [*wgan.generator, *wgan.feature_map, *wgan.head]:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    wgan.judge(wgan.generate(torch.zeros(2, 64)))
    assert sides == [3, 6, 13, 28, 14, 7, 2]


@pytest.mark.parametrize("size", [8, 15, 32, (17, 64)], ids=str)
def test_what_is_drawn_beyond_the_image_is_less_than_three_pixels(size):
    wgan = WGAN(1, size, latent_size=4, hidden_channels=2)
    drawn = wgan.generator(torch.zeros(2, 4)).shape[-2:]
    asked = wgan.settings["image_size"]
    assert all(0 <= found - side <= 3 for found, side in zip(drawn, asked, strict=True))


def test_the_critics_weights_have_norm_one():
    """In train mode each use makes a power iteration; then no weight stretches by more than 1."""
    wgan = WGAN(3, 32, hidden_channels=2)
    images = torch.rand(2, 3, 32, 32)
    for _ in range(100):
        wgan.judge(images)
    wgan.eval()
    for layer in (wgan.feature_map[0], wgan.feature_map[3], wgan.head[3]):
        assert layer.bias is None
        stretched = np.linalg.svd(layer.weight.detach().flatten(1).numpy(), compute_uv=False)
        assert stretched[0] == pytest.approx(1, abs=1e-3)


def test_in_eval_mode_an_image_is_judged_whatever_stands_beside_it():
    wgan = WGAN(image_size=8, hidden_channels=2, latent_size=5).double().eval()
    images = wgan.generate(torch.randn(4, 5).double())
    torch.testing.assert_close(wgan.judge(images)[[2]], wgan.judge(images[[2]]))
    assert wgan.judge(images).std() > 0


def test_save_and_load(tmp_path):
    """One file holds both networks."""
    wgan = WGAN(2, (9, 12), latent_size=5, hidden_channels=3, critic_channels=4)
    wgan.judge(wgan.generate(torch.randn(6, 5)))  # moves statistics and singular vectors
    wgan.eval().save(tmp_path / "wgan.safetensors")
    state = torch.random.get_rng_state()
    loaded = WGAN.load(tmp_path / "wgan.safetensors")
    assert torch.equal(torch.random.get_rng_state(), state)
    latents = torch.randn(2, 5)
    images = wgan.generate(latents)
    assert torch.equal(loaded(latents), images)
    torch.testing.assert_close(loaded.judge(images), wgan.judge(images))
    torch.testing.assert_close(loaded.features(images), wgan.features(images))
    assert loaded.latent_size == 5
    assert repr(loaded) == repr(wgan)
    assert not loaded.training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_channels": 0}, ValueError, "in_channels"),
        ({"image_size": 7}, ValueError, "image_size"),
        ({"image_size": (28, 28, 28)}, ValueError, "image_size must be an int or"),
        ({"image_size": 28.0}, TypeError, "image_size must be an int"),
        ({"latent_size": 0}, ValueError, "latent_size"),
        ({"hidden_channels": 1.5}, TypeError, "hidden_channels"),
        ({"critic_channels": 0}, ValueError, "critic_channels"),
    ],
    ids=str,
)
def test_sizes_that_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        WGAN(**arguments)


# --- the published weights ---


def normed(values: dict[str, Tensor], name: str, inputs: Tensor) -> Tensor:
    return batch_norm(
        inputs,
        values[f"{name}.running_mean"],
        values[f"{name}.running_var"],
        values[f"{name}.weight"],
        values[f"{name}.bias"],
    )


def test_published_weights_draw_and_see_what_their_layers_written_out_do():
    wgan = published_wgan().double()
    latents = torch.randn(3, 64).double()
    values = load_file(published("wgan_generator.safetensors"))
    values = {name: value.double() for name, value in values.items()}
    drawn = latents.view(3, 64, 1, 1)
    for block, stride in enumerate((2, 1, 2)):
        weight, bias = values[f"gen.{block}.0.weight"], values[f"gen.{block}.0.bias"]
        drawn = conv_transpose2d(drawn, weight, bias, stride=stride)
        drawn = normed(values, f"gen.{block}.1", drawn).relu()
    drawn = conv_transpose2d(drawn, values["gen.3.0.weight"], values["gen.3.0.bias"], stride=2)
    torch.testing.assert_close(wgan.generate(latents), drawn.sigmoid())

    values = load_file(published("wgan_discriminator.safetensors"))
    values = {name: value.double() for name, value in values.items()}

    def weight_of(name: str) -> Tensor:
        weight = values[f"{name}.weight_orig"]
        u, v = values[f"{name}.weight_u"], values[f"{name}.weight_v"]
        return weight / (u @ weight.flatten(1) @ v)

    seen = conv2d(drawn.sigmoid(), weight_of("disc1.0"), stride=2, padding=2)
    seen = leaky_relu(normed(values, "disc1.1", seen), 0.2)
    seen = conv2d(seen, weight_of("disc1.3"), stride=2, padding=2)
    torch.testing.assert_close(wgan.features(drawn.sigmoid()), seen)
    judged = leaky_relu(normed(values, "disc2.0", seen), 0.2)
    judged = conv2d(judged, weight_of("disc2.2"), stride=2).mean((1, 2, 3))
    torch.testing.assert_close(wgan.judge(drawn.sigmoid()), judged)


def test_published_weights_draw_images_like_mnist():
    wgan = published_wgan()
    try:
        images = datasets.load_mnist().test.images[:500]
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with torch.no_grad():
        drawn = wgan.generate(torch.randn(500, 64))
    assert (drawn.mean(0) - images.mean(0)).abs().mean() < 0.03
    assert (drawn.std(0) - images.std(0)).abs().mean() < 0.05
    # Most are nearer to one of these few than to their mean, as it is with real digits.
    flat = images.flatten(1)
    nearest = torch.cdist(drawn.flatten(1), flat).amin(1)
    assert (nearest < (drawn.flatten(1) - flat.mean(0)).norm(dim=1)).double().mean() > 0.75
