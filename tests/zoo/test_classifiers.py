from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.covariance import oas

from captum_deduce import datasets
from captum_deduce.zoo import classifiers
from captum_deduce.zoo.checkpoint import cache_path, training_path
from captum_deduce.zoo.classifiers import (
    continue_training,
    describe_classifier,
    fit_classifier,
    forget_training,
    obtain_classifier,
    plan_classifier,
)
from captum_deduce.zoo.recipes import RECIPES, SMOKE
from captum_deduce.zoo.threads import torch_threads


@pytest.fixture(scope="module")
def splits():
    return datasets.load_digits()


@pytest.fixture(scope="module")
def fitted(splits):
    settings = plan_classifier("digits", splits.train, "sn_resnet18", SMOKE.overridden(epochs=2), 3)
    with torch_threads(1):
        before = torch.get_rng_state()
        checkpoint = fit_classifier(settings, splits, 100, torch.device("cpu"), show_progress=False)
        assert torch.equal(torch.get_rng_state(), before)
    return checkpoint


def test_a_plan_fits_the_data():
    data = datasets.ImageData(
        torch.zeros(4, 3, 12, 10), torch.tensor([0, 1, 2, 1]), ("a", "b", "c")
    )
    settings = plan_classifier("made up", data, "resnet50", SMOKE.overridden(width=2), 5)
    assert (settings.dataset, settings.epochs, settings.seed) == ("made up", SMOKE.epochs, 5)
    assert settings.class_names == data.class_names
    model = settings.build().eval()
    assert model(data.images).shape == (4, 3)
    assert model.avgpool(torch.zeros(1, 64, 2, 2)).shape == (1, 64, 1, 1)
    assert model.fc.in_features == 32 * 2


@pytest.mark.parametrize(
    ("dataset", "augment", "expected"),
    [
        ("digits", False, None),
        ("digits", True, "crops"),
        ("mnist", True, "crops"),
        ("cifar10", True, "crops and flips"),
    ],
)
def test_a_plan_flips_where_the_data_set_allows(splits, dataset, augment, expected):
    settings = plan_classifier(
        dataset, splits.train, "resnet18", RECIPES[dataset], 5, 0.5, augment=augment, adversarial=2
    )
    assert (settings.augmentation, settings.noise, settings.adversarial) == (expected, 0.5, 2)


def test_the_measured_accuracy_is_that_of_the_test_images(fitted, splits):
    with torch.no_grad():
        seen = fitted.model(splits.test.images).argmax(1)
    assert fitted.settings.accuracy == pytest.approx((seen == splits.test.target).numpy().mean())
    assert fitted.settings.accuracy > 0.2


@pytest.mark.parametrize(("count", "expected"), [(79, "oas"), (80, "jitter")])
def test_covariances_are_shrunk_below_five_images_for_each_feature(count, expected):
    target = torch.cat([torch.zeros(200), torch.ones(count)]).long()
    data = datasets.ImageData(torch.rand(len(target), 1, 8, 8), target, ("a", "b"))
    settings = plan_classifier("made up", data, "sn_resnet18", SMOKE.overridden(width=2), 5)
    assert classifiers._regularization(settings.build(), settings.layer, data) == expected


def test_the_density_is_that_of_the_training_features(fitted, splits):
    model = fitted.model
    with torch.no_grad():
        features = model.avgpool(model.stages(model.stem(splits.train.images))).flatten(1)
    own = features[splits.train.target == 4].double().numpy()
    mean, (covariance, _) = own.mean(0), oas(own)
    query = features[:1].double().numpy()[0]
    _, log_determinant = np.linalg.slogdet(2 * np.pi * covariance)
    squared = (query - mean) @ np.linalg.solve(covariance, query - mean)
    expected = -0.5 * (log_determinant + squared)
    found = fitted.density.log_prob(features[:1], torch.tensor([4]))
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_the_same_seed_trains_the_same_classifier(fitted, splits):
    torch.manual_seed(99)  # must not matter
    with torch_threads(1):
        again = fit_classifier(
            fitted.settings, splits, 100, torch.device("cpu"), show_progress=False
        )
    assert again.settings == fitted.settings
    for name, value in again.model.state_dict().items():
        assert torch.equal(value, fitted.model.state_dict()[name]), name


def test_the_summary_says_what_was_trained_and_how_well(fitted):
    accuracy = fitted.settings.accuracy
    assert describe_classifier(fitted.settings, 10000) == (
        f"Classifier: sn_resnet18 of width 4, 2 epochs on digits: {accuracy:.2%} of 10,000 test "
        "images right"
    )


def test_the_summary_says_what_disturbed_the_training(fitted):
    def said(**changes) -> str:
        return describe_classifier(replace(fitted.settings, **changes), 500).split(": ")[1]

    assert said(noise=0.5).endswith("on digits with noise up to 0.5")
    assert said(augmentation="crops", noise=0.5, adversarial=1).endswith(
        "on digits with crops, noise up to 0.5, adversarial steps up to 1"
    )


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def small_plan(splits, **changes):
    recipe = SMOKE.overridden(width=2, epochs=3)
    settings = plan_classifier("digits", splits.train, "sn_resnet18", recipe, 0, augment=True)
    return replace(settings, **changes)


def test_an_interrupted_training_goes_on_from_the_cache(splits, cache, monkeypatch, capsys):
    settings, cpu = small_plan(splits, noise=0.2, adversarial=0.3), torch.device("cpu")
    whole = fit_classifier(settings, splits, 200, cpu, False, with_density=False)
    forget_training(settings, 200)
    assert not list(cache.iterdir())
    _, history = continue_training(settings, splits, 200, cpu, False, epochs_now=2)
    assert len(history.loss) == 2
    (path,) = cache.iterdir()
    assert path == training_path(settings, 200)
    capsys.readouterr()
    found = obtain_classifier(settings, splits, 200, cpu, False, with_density=False)
    assert f"The training goes on from {path}" in capsys.readouterr().out
    for name, value in found.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name]), name
    assert [file.name for file in cache.iterdir()] == [cache_path(settings).name]


def test_a_classifier_that_cannot_be_kept_keeps_its_training(splits, cache, monkeypatch, capsys):
    def full(*_):
        raise OSError("no space left")

    settings = small_plan(splits)
    monkeypatch.setattr(classifiers, "save_checkpoint", full)
    obtain_classifier(settings, splits, 200, torch.device("cpu"), False, with_density=False)
    assert "no space left" in capsys.readouterr().out
    assert [file.name for file in cache.iterdir()] == [training_path(settings, 200).name]


def test_to_retrain_is_to_begin_anew(splits, cache, capsys):
    settings, cpu = small_plan(splits), torch.device("cpu")
    continue_training(settings, splits, 200, cpu, False, epochs_now=1)
    obtain_classifier(settings, splits, 200, cpu, False, with_density=False, retrain=True)
    assert "goes on" not in capsys.readouterr().out


def test_where_there_can_be_no_cache_nothing_is_kept_and_nothing_warned_of(
    splits, tmp_path, monkeypatch, recwarn
):
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path / "file"))
    settings = replace(small_plan(splits), epochs=1)
    continue_training(settings, splits, 200, torch.device("cpu"), False)
    forget_training(settings, 200)
    assert not [each for each in recwarn if "kept" in str(each.message)]


def test_a_classifier_is_fitted_without_a_density_where_none_is_asked_for(splits, capsys):
    settings = plan_classifier(
        "digits", splits.train, "resnet18", SMOKE.overridden(width=2, epochs=1), 0
    )
    found = fit_classifier(settings, splits, 200, torch.device("cpu"), False, with_density=False)
    assert found.density is None
    assert "density" not in capsys.readouterr().out


def test_a_kept_classifier_is_reused_unless_a_density_is_missing(
    splits, fitted, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(tmp_path))
    asked = []

    def note(settings, *arguments, with_density):
        asked.append(with_density)
        return fitted if with_density else replace(fitted, density=None)

    monkeypatch.setattr(classifiers, "fit_classifier", note)

    def obtain(**arguments):
        return obtain_classifier(
            fitted.settings, splits, 100, torch.device("cpu"), False, **arguments
        )

    assert obtain(with_density=False).density is None
    assert obtain(with_density=False).density is None
    assert asked == [False]
    assert describe_classifier(fitted.settings, 500) in capsys.readouterr().out
    assert obtain().density is not None
    assert "holds no density" in capsys.readouterr().out
    assert obtain(with_density=False).density is not None
    assert asked == [False, True]
    obtain(retrain=True)
    assert asked == [False, True, True]
