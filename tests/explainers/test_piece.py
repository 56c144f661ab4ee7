"""PIECE against its paper's algorithm for one image, and what it makes of features."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from captum_deduce import PIECE, ClassHurdles
from captum_deduce.explainers.piece import (
    LinearHead,
    before_the_flip,
    expected_features,
    linear_layer,
)
from captum_deduce.models import VAE
from tests.autoencoders import PrincipalComponents
from tests.conftest import Digits, train_briefly
from tests.reference_features import adam, expected, semi_factual


@pytest.fixture(scope="module")
def classifier() -> nn.Sequential:
    """With features behind a ReLU, so that there are hurdles."""
    from sklearn.datasets import load_digits

    with torch.random.fork_rng():
        torch.manual_seed(0)
        data = load_digits()
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 24),
            nn.ReLU(),
            nn.Linear(24, 10),
        ).double()
        images = torch.from_numpy(data.images).unsqueeze(1) / 16
        train_briefly(model, images[:1200], torch.from_numpy(data.target)[:1200])
    return model.requires_grad_(False)


@pytest.fixture
def hurdles(classifier, digits) -> ClassHurdles:
    batches = [(digits.train_images, digits.train_labels)]
    return ClassHurdles.fit_loader(classifier, classifier[4], batches)


@pytest.fixture
def space(digits) -> PrincipalComponents:
    return PrincipalComponents(digits.train_images)


@pytest.fixture
def images(digits) -> Tensor:
    return digits.images[:12].clone()


@pytest.fixture
def target(classifier, images) -> Tensor:
    return (classifier(images).argmax(1) + 1 + torch.arange(12) % 9) % 10


def features_of_class(classifier: nn.Sequential, digits: Digits, c: int) -> Tensor:
    predicted = classifier(digits.train_images).argmax(1)
    return classifier[:5](digits.train_images[predicted == c])


def test_expected_features_are_the_papers(classifier, digits, hurdles, images, target):
    features, weight = classifier[:5](images), classifier[5].weight
    change, probability = expected_features(hurdles, weight, features, target, 0.1)
    head = LinearHead.of(classifier[5], (10, 24))
    kept = classifier(images).argmax(1)
    cut = before_the_flip(head, features, change, probability, kept)
    changed = 0
    for i in range(12):
        training = features_of_class(classifier, digits, int(target[i])).numpy()
        goal, probabilities = expected(
            features[i].numpy(), weight[target[i]].numpy(), training, 0.1
        )
        torch.testing.assert_close(
            probability[i], torch.tensor(probabilities).double(), rtol=1e-4, atol=1e-9
        )
        torch.testing.assert_close((features + change)[i], torch.from_numpy(goal))
        changed += int((change[i] != 0).sum())
        semi = semi_factual(
            features[i].numpy(), goal, probabilities, weight.numpy(), classifier[5].bias.numpy()
        )
        torch.testing.assert_close((features + cut)[i], torch.from_numpy(semi))
    assert changed > 60
    assert ((features + cut) @ weight.T + head.bias).argmax(1).equal(kept)
    assert (cut != change).any()


def test_images_are_those_of_the_plain_descent(classifier, hurdles, space, images, target):
    """Each image alone, for all steps; of those seen the nearest that the classifier believes."""
    explainer = PIECE(
        classifier, classifier[4], hurdles, space.decoder, encoder=space.encoder,
        alpha=0.1, learning_rate=0.05, max_iterations=40,
    )  # fmt: skip
    result = explainer.generate(images, target, return_trajectory=True, internal_batch_size=5)
    weight = classifier[5].weight
    for i in range(12):
        features = classifier[:5](images[i : i + 1])
        change, _ = expected_features(hurdles, weight, features, target[i : i + 1], 0.1)
        goal = features + change

        def drawn(z: Tensor) -> Tensor:
            return space.decoder(z).clamp(0, 1)

        def gradient(z: Tensor, goal: Tensor = goal) -> Tensor:
            leaf = z.clone().requires_grad_()
            distance = (classifier[:5](drawn(leaf)) - goal).square().sum()
            return torch.autograd.grad(distance, leaf)[0]

        start = space.encoder(images[i : i + 1]).detach()
        path = result.trajectory[i]
        assert torch.equal(path[0], images[i])
        for steps in (0, 1, 7, 39):
            point = adam(gradient, start, 0.05, steps)
            torch.testing.assert_close(path[steps + 1], drawn(point)[0].detach(), atol=1e-6, rtol=0)
        distances = (classifier[:5](path) - goal).square().sum(1)
        believed = classifier(path).softmax(1)[:, target[i]] > 0.5
        assert result.success[i] == believed.any()
        if believed.any():
            best = distances.masked_fill(~believed, torch.inf).argmin()
            assert torch.equal(result.counterfactuals[i], path[best])
    assert result.success.sum() >= 10


def test_the_first_success_is_returned_where_asked_for(classifier, hurdles, space, images, target):
    explainer = PIECE(
        classifier, "4", hurdles, space.decoder, encoder=space.encoder, learning_rate=0.05,
        select="first",
    )  # fmt: skip
    result = explainer.generate(images, target, return_trajectory=True)
    for i, path in enumerate(result.trajectory):
        believed = classifier(path).softmax(1)[:, target[i]] > 0.5
        assert not believed[:-1].any()
        assert believed[-1] == result.success[i]


def test_semi_factuals_keep_their_class(classifier, hurdles, space, images, target):
    explainer = PIECE(
        classifier, classifier[4], hurdles, space.decoder, encoder=space.encoder,
        alpha=0.2, learning_rate=0.05, max_iterations=60,
    )  # fmt: skip
    result = explainer.semi_factual(images, target, internal_batch_size=5)
    kept = classifier(images).argmax(1)
    assert torch.equal(result.target, kept)
    assert result.success.all()
    assert torch.equal(classifier(result.counterfactuals).argmax(1), kept)
    before, after = (
        classifier(x).log_softmax(1).gather(1, target.unsqueeze(1))
        for x in (images, result.counterfactuals)
    )
    assert (after > before).double().mean() > 0.8
    assert explainer.generate(images, target).success.sum() >= 10


def test_the_head_is_found(classifier, digits):
    assert linear_layer(None, [classifier], (10, 24)) is classifier[5]
    assert linear_layer("5", [classifier], (10, 24)) is classifier[5]
    convolution = nn.Conv2d(24, 10, 1, bias=False)
    head = LinearHead.of(linear_layer(convolution, [classifier], (10, 24)), (10, 24))
    assert head.weight.shape == (10, 24)
    assert not head.bias.any()
    with pytest.raises(ValueError, match="no linear layer from the layer's 7 features to 10"):
        linear_layer(None, [classifier], (10, 7))


def test_colour_normalised_inputs_and_a_vae():
    """As inputs in [0, 1] with the normalisation inside."""
    torch.manual_seed(0)
    vae = VAE(3, 12, latent_size=6).double().eval()
    body = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.ReLU()
    ).double()
    model = nn.Sequential(body, nn.Linear(24, 4).double())
    mean = torch.tensor([0.4, 0.5, 0.3]).double().view(3, 1, 1)
    std = torch.tensor([0.2, 0.3, 0.25]).double().view(3, 1, 1)
    images = vae.decode(torch.randn(40, 6).double() * 3).detach()

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model((x - mean) / std)

    with torch.no_grad():  # so that every class is predicted for some
        model[1].bias.copy_(-model[1].weight @ body((images - mean) / std).mean(0))
    inside = Inside()
    hurdles = ClassHurdles.fit_loader(model, body, [((images - mean) / std, torch.zeros(40))])
    usual = {"learning_rate": 0.1, "max_iterations": 30, "alpha": 0.4, "confidence": 0.2}
    targets = hurdles.fitted_classes.nonzero().flatten()[torch.arange(5) % 3]
    expected = PIECE(inside, body, hurdles, vae, **usual).generate(images[:5], targets)
    result = PIECE(
        model, body, hurdles, lambda z: (vae.decode(z) - mean) / std,
        encoder=lambda x: vae.encode(x * std + mean)[0],
        lower_bound=(0 - mean) / std, upper_bound=(1 - mean) / std, **usual,
    ).generate((images[:5] - mean) / std, targets)  # fmt: skip
    torch.testing.assert_close(result.counterfactuals * std + mean, expected.counterfactuals)
    assert torch.equal(result.success, expected.success)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"hurdles": 3}, TypeError, "hurdles must be ClassHurdles, got int"),
        ({"head": 3}, TypeError, "head must be an nn.Module, its name or None"),
        ({"alpha": 1.2}, ValueError, "alpha must be a finite number"),
        ({"select": "last"}, ValueError, "select must be"),
        ({"vae": nn.Identity()}, ValueError, "vae has no method encode"),
        ({"learning_rate": 0}, ValueError, "learning_rate"),
    ],
)
def test_what_is_refused(classifier, hurdles, space, changed, error, message):
    given = {"hurdles": hurdles, "vae": space.decoder} | changed
    encoder = None if "vae" in changed else space.encoder
    with pytest.raises(error, match=message):
        PIECE(classifier, "4", given.pop("hurdles"), given.pop("vae"), encoder=encoder, **given)


def test_models_that_do_not_fit_are_refused(classifier, hurdles, space, images, digits):
    def made(layer: str, models: ClassHurdles, **settings: object) -> PIECE:
        return PIECE(classifier, layer, models, space.decoder, encoder=space.encoder, **settings)

    with pytest.raises(ValueError, match=r"hurdles must be of the layer's 128 .*got .* 24"):
        made("2", hurdles).generate(images, 3)
    some = ClassHurdles().fit(classifier[:5](images), torch.arange(12) % 2)
    with pytest.raises(ValueError, match=r"target names class\(es\) \[3\] that the hurdle models"):
        made("4", some).generate(images, 3)
    assert set(made("4", some).generate(images, max_iterations=1).target.tolist()) <= {0, 1}
    more = ClassHurdles().fit(classifier[:5](images), torch.arange(12))
    with pytest.raises(ValueError, match="hurdles have 12 classes, more than the model's 10"):
        made("4", more).generate(images, 3)
    with pytest.raises(ValueError, match="head must have a weight of 10 classes x 24 features"):
        made("4", hurdles, head="3").generate(images, 3)
