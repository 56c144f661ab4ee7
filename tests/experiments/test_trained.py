"""Models are trained when they are first asked for, on what they should be, and kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from captum_deduce import training
from captum_deduce.density import ClassGaussianMixture
from captum_deduce.experiments.trained import Trained
from captum_deduce.models import SmallVGG
from captum_deduce.spectral import spectral_norms


def test_nothing_is_trained_before_it_is_asked_for(models, tiny):
    fresh = Trained(tiny, models.splits, models.device, False)
    assert fresh.accuracies() == {}


def test_deduce_gets_spectral_normalisation_and_the_baselines_do_not(models):
    assert models.normalised.settings.architecture == "sn_resnet18"
    assert models.plain.settings.architecture == "resnet18"
    images = models.splits.test.images[:1]
    assert max(spectral_norms(models.normalised.model, example_input=images).values()) < 4.5
    assert models.normalised.density is not None
    assert models.plain.density is None
    assert models.prototypes.num_classes == 10
    assert len(models.prototypes.features) == len(models.splits.train)


def test_oracles_are_independent(models):
    first, second = models.oracles
    assert type(first) is not type(models.plain.model)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert not torch.equal(one, other)
    test = models.splits.test
    named = models.accuracies()
    for place, oracle in enumerate((first, second), 1):
        share = (oracle(test.images).argmax(1) == test.target).double().mean().item()
        assert named[f"oracle {place}"] == pytest.approx(share)
        assert share > 0.3


def test_oracles_of_another_making(models):
    first, second = models.vgg_oracles
    assert isinstance(first, SmallVGG)
    assert not any(isinstance(layer, nn.Dropout | nn.BatchNorm2d) for layer in first.modules())
    kernels = {layer.kernel_size for layer in first.modules() if isinstance(layer, nn.Conv2d)}
    assert kernels == {(3, 3)}
    assert not torch.equal(next(first.parameters()), next(second.parameters()))
    test, named = models.splits.test, models.accuracies()
    for place, oracle in enumerate((first, second), 3):
        share = (oracle(test.images).argmax(1) == test.target).double().mean().item()
        assert named[f"oracle {place}"] == pytest.approx(share)
        assert share > 0.3


def test_the_plain_classifiers_density_is_kept_apart(models, tiny, capsys):
    described, plain = models.plain_described, models.plain
    assert described.model is plain.model
    assert plain.density is None
    expected = ClassGaussianMixture.fit_loader(
        plain.model,
        plain.settings.layer,
        models.splits.train.batches(),
        covariance_type="full",
        regularization=models.normalised.density.regularization,
    )
    features = torch.rand(5, expected.num_features)
    target = torch.arange(5)
    torch.testing.assert_close(
        described.density.log_prob(features, target), expected.log_prob(features, target)
    )
    capsys.readouterr()
    again = Trained(tiny, models.splits, models.device, False).plain_described
    assert "Kept for the next time" not in capsys.readouterr().out
    assert torch.equal(
        again.density.log_prob(features, target), described.density.log_prob(features, target)
    )


def test_models_are_kept_and_found_again(models, tiny, monkeypatch, capsys):
    expected = [oracle.state_dict() for oracle in models.oracles]

    def refuse(*arguments, **settings):
        raise RuntimeError("nothing is to be trained")

    monkeypatch.setattr(training, "train_classifier", refuse)
    state = torch.random.get_rng_state()
    again = Trained(tiny, models.splits, models.device, False)
    for oracle, weights in zip(again.oracles, expected, strict=True):
        assert not oracle.training
        for name, value in oracle.state_dict().items():
            assert torch.equal(value, weights[name])
    assert capsys.readouterr().out.count("Reused from") == 2
    assert torch.equal(torch.random.get_rng_state(), state)
