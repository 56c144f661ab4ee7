"""Guidance: one encoding for both models where that is the same, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import PrototypeIndex
from captum_deduce.explainers.guidance import Guidance
from tests.autoencoders import PrincipalComponents


@pytest.fixture
def images() -> Tensor:
    return torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()


@pytest.fixture
def autoencoder(images) -> PrincipalComponents:
    return PrincipalComponents(images, 6)


@pytest.fixture
def prototypes(images, autoencoder) -> PrototypeIndex:
    with torch.no_grad():
        return PrototypeIndex(autoencoder.encoder(images), torch.arange(40) % 2)


def encodings(autoencoder: PrincipalComponents) -> list[int]:
    """How many images the encoder is given in each of its calls from now on."""
    counts: list[int] = []
    autoencoder.encoder.register_forward_hook(lambda _, inputs, __: counts.append(len(inputs[0])))
    return counts


def test_a_shared_encoder_runs_once_and_gives_the_same(images, autoencoder, prototypes):
    guidance = Guidance(autoencoder, autoencoder.encoder, prototypes)
    separate = guidance(images)
    guidance.prepare(images[:2], 5, None)
    calls = encodings(autoencoder)
    features, reconstruction = guidance(images)
    assert calls == [40]
    assert torch.equal(features, separate[0])
    assert torch.equal(reconstruction, separate[1])
    assert torch.equal(features, autoencoder.encoder(images))
    assert torch.equal(reconstruction, autoencoder(images))


class Centred(PrincipalComponents):
    """Has an encoder and a decoder, but does more than applying them."""

    def forward(self, images: Tensor) -> Tensor:
        return self.decoder(self.encoder(images - 0.5)) + 0.5


class Inplace(PrincipalComponents):
    """A decoder that overwrites the code, and an encoder that overwrites the images."""

    def __init__(self, images: Tensor, count: int) -> None:
        super().__init__(images, count)
        self.encoder = nn.Sequential(nn.ReLU(inplace=True), *self.encoder)
        self.decoder = nn.Sequential(nn.ReLU(inplace=True), *self.decoder)


def test_an_autoencoder_that_does_more_is_called_itself(images, prototypes):
    autoencoder = Centred(images, 6)
    guidance = Guidance(autoencoder, autoencoder.encoder, prototypes)
    guidance.prepare(images[:2], 5, None)
    calls = encodings(autoencoder)
    features, reconstruction = guidance(images)
    assert calls == [40, 40]
    assert torch.equal(features, autoencoder.encoder(images))
    assert torch.equal(reconstruction, autoencoder(images))


def test_layers_that_work_in_place_do_no_harm(images):
    autoencoder = Inplace(images, 6)
    with torch.no_grad():
        prototypes = PrototypeIndex(autoencoder.encoder(images.clone()), torch.arange(40) % 2)
    guidance = Guidance(autoencoder, autoencoder.encoder, prototypes)
    guidance.prepare(images[:2], 5, None)
    leaf = images.clone().requires_grad_()
    features, reconstruction = guidance(leaf)
    assert torch.equal(features, autoencoder.encoder(images.clone()))
    assert torch.equal(reconstruction, autoencoder(images.clone()))
    torch.autograd.grad(features.sum() + reconstruction.sum(), leaf)


def test_each_part_may_be_missing(images, autoencoder, prototypes):
    everything = torch.ones(40, 2, dtype=torch.bool)
    nothing = Guidance(None, None, None)
    nothing.prepare(images[:2], 5, None)
    assert nothing(images) == (None, None)
    assert nothing.select(images, everything, k=5, k_type="mean") is None
    features, reconstruction = Guidance(autoencoder, None, None)(images)
    assert features is None
    assert reconstruction.shape == images.shape
    features, reconstruction = Guidance(None, autoencoder.encoder, prototypes)(images)
    assert features.shape == (40, 6)
    assert reconstruction is None


def test_selection_is_that_of_the_index(images, autoencoder, prototypes):
    admissible = torch.rand(40, 2) < 0.5
    admissible[:, 0] |= ~admissible[:, 1]
    guidance = Guidance(None, autoencoder.encoder, prototypes)
    with torch.no_grad():
        found = guidance.select(images, admissible, k=3, k_type="point")
        expected, _ = prototypes.select(
            autoencoder.encoder(images), admissible, k=3, k_type="point"
        )
    assert torch.equal(found, expected)


def test_features_that_are_no_numbers_harm_no_other_image(images, prototypes, autoencoder):
    def broken(x: Tensor) -> Tensor:
        return autoencoder.encoder(x) / (x.flatten(1)[:, :1] != images[0, 0, 0, 0])

    everything = torch.ones(40, 2, dtype=torch.bool)
    with torch.no_grad():
        found = Guidance(None, broken, prototypes).select(images, everything, k=3, k_type="mean")
        expected, _ = prototypes.select(autoencoder.encoder(images), everything, k=3)
    assert torch.isfinite(found).all()
    assert torch.equal(found[1:], expected[1:])


@pytest.mark.parametrize(
    ("autoencoder", "error", "message"),
    [
        (lambda x: (x, x), TypeError, "autoencoder must return a tensor, got tuple"),
        (lambda x: x[..., :3], ValueError, r"autoencoder .*\(2, 1, 4, 4\).* got \(2, 1, 4, 3\)"),
        (lambda x: x.float(), ValueError, "autoencoder .*torch.float64, got .*torch.float32"),
        (lambda x: x.detach(), ValueError, "autoencoder's output does not depend on the inputs"),
    ],
)
def test_autoencoders_that_are_refused(images, autoencoder, error, message):
    with pytest.raises(error, match=message):
        Guidance(autoencoder, None, None).prepare(images[:2], None, None)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda e: lambda x: e(x)[:, :4], "encoder must return the 6 features .*, got 4"),
        (lambda e: lambda x: e(x).float(), "encoder returns torch.float32 .* torch.float64"),
        (lambda e: lambda x: e(x).detach(), "encoder's output does not depend on the inputs"),
        (lambda e: lambda x: e(x).sum(), "encoder must return floating-point features, a row"),
    ],
)
def test_encoders_that_are_refused(images, autoencoder, prototypes, wrap, message):
    guidance = Guidance(None, wrap(autoencoder.encoder), prototypes)
    with pytest.raises(ValueError, match=message):
        guidance.prepare(images[:2], 5, None)


def test_classes_with_too_few_images_are_refused(images, autoencoder, prototypes):
    guidance = Guidance(None, autoencoder.encoder, prototypes)
    guidance.prepare(images[:2], 20, [1])
    with pytest.raises(ValueError, match=r"k .*class 1 in the prototypes, 20, got 21"):
        guidance.prepare(images[:2], 21, [1])


def test_models_of_another_dtype_are_named(images, autoencoder, prototypes):
    single = PrincipalComponents(images.float(), 6)
    message = "but the {}'s parameters are torch.float32"
    with pytest.raises(ValueError, match=message.format("autoencoder")):
        Guidance(single, autoencoder.encoder, prototypes).prepare(images[:2], 5, None)
    with pytest.raises(ValueError, match=message.format("encoder")):
        Guidance(autoencoder, single.encoder, prototypes).prepare(images[:2], 5, None)
