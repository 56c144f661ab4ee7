"""A smoothed classifier is the mean over noisy copies, and any explainer takes it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from captum_deduce import (
    JSMA,
    ClassGaussianMixture,
    DeDUCE,
    SmoothedClassifier,
    spectral_normalize,
)
from captum_deduce.classifiers import FrozenModel
from tests import reference

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.rand(7, 2, 6, 6, generator=GENERATOR)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(64, 8),
            nn.ReLU(inplace=True),
            nn.Linear(8, 3),
        )


class Scaled(nn.Module):
    """Takes an argument for each image, and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, images, factors, offset):
        return self.net(images) * factors.unsqueeze(1) + offset


def naive(smoothed_model, image):
    """The reference, given the draws that the seed stands for."""
    model = copy.deepcopy(smoothed_model.model).double().eval()
    generator = torch.Generator().manual_seed(smoothed_model.seed)
    shape = (smoothed_model.copies // 2, *image.shape)
    draws = smoothed_model.noise * torch.randn(shape, generator=generator).double()

    def alone(disturbed):
        features = model[:5](disturbed.unsqueeze(0))[0]
        return model[6](features.relu()), features

    return reference.smoothed(image, draws, alone)


@pytest.mark.parametrize("copies", [2, 6])
@pytest.mark.parametrize("by_name", [False, True])
def test_scores_features_and_gradients_are_those_of_the_definition(copies, by_name):
    model = network().eval()
    smoothed = SmoothedClassifier(
        model, "4" if by_name else model[4], noise=0.4, copies=copies, seed=11
    )
    images = IMAGES.clone().requires_grad_()
    with FrozenModel(smoothed, smoothed.features) as frozen:
        scores, features = frozen(images)
    loss = (scores.cumsum(1).square().sum(1) + features.sin().sum(1)).sum()
    gradient = torch.autograd.grad(loss, images)[0]
    for place, image in enumerate(IMAGES.double()):
        image.requires_grad_()
        expected_scores, expected_features = naive(smoothed, image)
        expected = torch.autograd.grad(
            expected_scores.cumsum(0).square().sum() + expected_features.sin().sum(), image
        )[0]
        torch.testing.assert_close(scores[place].double(), expected_scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            features[place].double(), expected_features, rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(gradient[place].double(), expected, rtol=1e-4, atol=1e-5)


def test_noise_is_centred_and_as_strong_as_asked_for():
    seen = []
    model = network()
    model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    SmoothedClassifier(model, model[4], noise=0.7, copies=200)(torch.full((3, 2, 6, 6), 5.0))
    noise = torch.stack(seen, 1) - 5
    torch.testing.assert_close(noise[0], noise[2])
    torch.testing.assert_close(noise.mean(1), torch.zeros(3, 2, 6, 6), rtol=0, atol=1e-5)
    assert noise.std().item() == pytest.approx(0.7, rel=0.03)


def test_without_noise_it_is_the_classifier():
    model = network().eval()
    smoothed = SmoothedClassifier(model, model[4], noise=0.0)
    torch.testing.assert_close(smoothed(IMAGES), model(IMAGES))


def test_an_image_is_seen_alone_as_in_a_batch_and_seeds_differ():
    model = network().eval()
    smoothed = SmoothedClassifier(model, model[4], noise=0.5)
    torch.testing.assert_close(smoothed(IMAGES)[3:4], smoothed(IMAGES[3:4]))
    other = SmoothedClassifier(model, model[4], noise=0.5, seed=1)
    assert not torch.allclose(smoothed(IMAGES), other(IMAGES))


def test_arguments_with_a_row_for_each_image_follow_its_copies():
    model = Scaled().eval()
    smoothed = SmoothedClassifier(model, model.net[4], noise=0.5)
    plain = SmoothedClassifier(model.net, model.net[4], noise=0.5)
    factors, offset = torch.arange(7.0), torch.tensor([1.0, 0.0, -1.0])
    torch.testing.assert_close(
        smoothed(IMAGES, factors, offset), plain(IMAGES) * factors.unsqueeze(1) + offset
    )


@pytest.mark.parametrize("batch_size", [2, 3, 4, 7])
def test_an_argument_for_all_images_is_whole_in_every_batch_of_a_search(batch_size):
    """As many classes as images in a batch: the offset must not be taken for one row each."""
    model = Scaled().eval()
    smoothed = SmoothedClassifier(model, model.net[4], noise=0.2)
    factors, offset = torch.ones(7), torch.tensor([0.5, 0.0, -0.5])
    arguments = {"additional_forward_args": (factors, offset), "max_iterations": 5}
    batched = JSMA(smoothed).generate(IMAGES, target=2, internal_batch_size=batch_size, **arguments)
    scores = smoothed(batched.counterfactuals, factors, offset)
    torch.testing.assert_close(batched.confidence, scores.softmax(1)[:, 2].detach())


def test_making_it_leaves_the_mode_of_every_part_and_no_images_give_no_scores():
    model = network().train()
    model[1].eval()
    before = [part.training for part in model.modules()]
    smoothed = SmoothedClassifier(model, "4", noise=0.1)
    assert [part.training for part in model.modules()] == before
    assert smoothed.training
    other = SmoothedClassifier(network().eval(), "4", noise=0.1)
    assert not any(part.training for part in other.modules())
    assert smoothed.eval()(torch.empty(0, 2, 6, 6)).shape == (0, 3)


def test_a_layer_that_outputs_a_tuple_of_one_is_read():
    class InTuple(nn.Module):
        def forward(self, images):
            return (images * 2,)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = InTuple()

        def forward(self, images):
            return self.layer(images)[0]

    model = Model()
    with FrozenModel(smoothed := SmoothedClassifier(model, "layer", noise=0.0), None) as frozen:
        assert frozen(torch.rand(4, 3))[0].shape == (4, 3)
    with FrozenModel(smoothed, smoothed.features) as frozen:
        assert frozen(torch.rand(4, 3))[1].shape == (4, 3)


def test_deduce_explains_it_to_its_goal_and_leaves_the_model_as_it_was():
    model = network()
    with torch.no_grad():
        model[6].weight *= 10  # so that the untrained model can be sure of something
    spectral_normalize(model, coeff=20.0, example_input=IMAGES).train()
    smoothed = SmoothedClassifier(model, model[4], noise=0.2)
    before = copy.deepcopy(model.state_dict())
    images = torch.rand(60, 2, 6, 6, generator=GENERATOR)
    labels = torch.arange(60) % 3
    density = ClassGaussianMixture.fit_loader(
        smoothed, smoothed.features, [(images[:30], labels[:30]), (images[30:], labels[30:])]
    )
    explainer = DeDUCE(smoothed, smoothed.features, density)
    result = explainer.generate(images[:12], target=labels[:12].roll(1), internal_batch_size=5)
    assert result.success.any()
    assert model.training
    assert smoothed.training
    assert not model[4]._forward_hooks
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], msg=name)
    found = result[result.success]
    for image, target, confidence in zip(
        found.counterfactuals.double(), found.target.tolist(), found.confidence, strict=True
    ):
        scores, _ = naive(smoothed, image.detach())
        assert scores.softmax(0)[target].item() == pytest.approx(confidence.item(), abs=1e-4)
        assert confidence > 0.5


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"noise": -0.1}, ValueError, "noise must be a finite number"),
        ({"noise": "0.1"}, TypeError, "noise must be a number, got str"),
        ({"copies": 3}, ValueError, "copies must be even.*got 3"),
        ({"copies": 0}, ValueError, "copies must be"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
        ({"seed": 2**63}, ValueError, "seed must be a finite number in"),
        ({"layer": "nowhere"}, ValueError, "layer 'nowhere' is not in the model"),
        ({"layer": nn.ReLU()}, ValueError, "is not part of"),
        ({"model": len}, TypeError, "model must be an nn.Module, got builtin_function"),
    ],
)
def test_what_has_no_sense_is_refused(settings, error, words):
    arguments = {"model": network(), "layer": "4", "noise": 0.3, **settings}
    with pytest.raises(error, match=words):
        SmoothedClassifier(arguments.pop("model"), arguments.pop("layer"), **arguments)


def test_a_layer_that_runs_twice_is_refused_and_the_hook_is_gone():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(3, 3)

        def forward(self, images):
            return self.part(self.part(images))

    model = Twice()
    smoothed = SmoothedClassifier(model, model.part, noise=0.1)
    with pytest.raises(ValueError, match="layer ran 2 times"):
        smoothed(torch.rand(4, 3))
    assert not model.part._forward_hooks
