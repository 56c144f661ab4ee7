from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from captum_deduce import training
from captum_deduce.commands.cli import main
from captum_deduce.models import VAE, WGAN, Autoencoder
from captum_deduce.training.classifiers import train_classifier
from captum_deduce.zoo import classifiers
from captum_deduce.zoo.checkpoint import load_checkpoint


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Run the command for one epoch in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, status=0):
        words = ["train", "--dataset", "digits", "--width", "2", "--epochs", "1", "--device", "cpu"]
        assert main([*words, *arguments]) == status
        return capsys.readouterr()

    return run


def test_a_checkpoint_holds_classifier_density_and_settings(train, tmp_path):
    printed = train("--seed", "4", "--output", "new/folder/c.safetensors").out
    path = tmp_path / "new" / "folder" / "c.safetensors"
    assert "Checkpoint: new/folder/c.safetensors" in printed
    with safe_open(path, framework="np") as file:
        settings = json.loads(file.metadata()["settings"])
    assert settings["architecture"] == "sn_resnet18"
    assert settings["arguments"]["width"] == 2
    assert (settings["dataset"], settings["epochs"], settings["seed"]) == ("digits", 1, 4)
    loaded = load_checkpoint(path)
    assert f"{loaded.settings.accuracy:.2%} of 500 test images" in printed
    assert loaded.density.num_features == 16
    assert loaded.model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_noise_reaches_the_training_and_the_checkpoint(train, tmp_path, monkeypatch):
    given = {}

    def recorded(*arguments, **settings):
        given.update(settings)
        return train_classifier(*arguments, **settings)

    monkeypatch.setattr(training, "train_classifier", recorded)
    printed = train("--noise", "0.25", "--output", "n.safetensors").out
    assert given["noise"] == 0.25
    assert load_checkpoint(tmp_path / "n.safetensors").settings.noise == 0.25
    assert "on digits with noise up to 0.25:" in printed
    error = train("--noise", "-1", "--output", "m.safetensors", status=2).err
    assert "noise" in error
    assert not (tmp_path / "m.safetensors").exists()


def test_disturbances_reach_the_training_and_the_checkpoint(train, tmp_path, monkeypatch):
    given = {}

    def recorded(*arguments, **settings):
        given.update(settings)
        return train_classifier(*arguments, **settings)

    monkeypatch.setattr(training, "train_classifier", recorded)
    words = ["--augment", "--adversarial", "0.25", "--bfloat16", "--output", "a.safetensors"]
    printed = train(*words).out
    assert given["adversarial"] == 0.25
    crop, *flips = given["augment"].transforms
    assert (crop.size, crop.padding, flips) == ((8, 8), [1, 1, 1, 1], [])
    settings = load_checkpoint(tmp_path / "a.safetensors").settings
    assert (settings.augmentation, settings.adversarial) == ("crops", 0.25)
    assert settings.bfloat16
    assert "on digits with crops, adversarial steps up to 0.25:" in printed
    error = train("--adversarial", "-1", "--output", "m.safetensors", status=2).err
    assert "adversarial" in error


@pytest.mark.filterwarnings("ignore:a 'full' covariance")
def test_an_interrupted_training_goes_on_and_leaves_nothing_in_the_cache(
    train, tmp_path, monkeypatch
):
    cache = tmp_path / "cache"
    monkeypatch.setenv("CAPTUM_DEDUCE_CACHE", str(cache))
    train("--epochs", "3", "--output", "whole.safetensors")
    assert not list(cache.iterdir())

    def interrupted(*arguments, **settings):
        train_classifier(*arguments, **settings | {"epochs_now": 2})
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(training, "train_classifier", interrupted)
        train("--epochs", "3", "--output", "parts.safetensors", status=130)
    (kept,) = cache.iterdir()
    printed = train("--epochs", "3", "--output", "parts.safetensors").out
    assert f"The training goes on from {kept}" in printed
    assert not list(cache.iterdir())
    whole, parts = (
        load_checkpoint(tmp_path / f"{name}.safetensors") for name in ("whole", "parts")
    )
    assert whole.settings == parts.settings
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, parts.model.state_dict()[name]), name


def test_the_default_name_says_what_was_trained(train, tmp_path):
    train("--architecture", "sn_resnet50")
    assert load_checkpoint(tmp_path / "digits-sn_resnet50.safetensors").settings.epochs == 1


def test_a_checkpoint_is_replaced_only_on_request(train, tmp_path, monkeypatch):
    path = tmp_path / "digits-sn_resnet18.safetensors"
    path.write_text("somebody's")
    error = train(status=2).err
    assert f"--output {path.name} exists; choose another name, or pass --overwrite" in error
    assert path.read_text() == "somebody's"
    train("--overwrite")
    assert load_checkpoint(path).settings.dataset == "digits"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--architecture", "vgg"], "architecture must be one of"),
        (["--device", "nonsense"], "--device must be one that"),
        (["--seed", "-1"], "argument --seed: must be at least 0, got -1"),
        (["--width", "0"], "argument --width: must be at least 1, got 0"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--output", "folder", "--overwrite"], "--output folder exists"),
        (["--output", "file/c.safetensors"], "--output must be a folder"),
    ],
)
def test_mistakes_are_said_before_the_training(train, tmp_path, monkeypatch, arguments, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file")

    def refuse(*positional, **keywords):
        raise AssertionError("trained")

    monkeypatch.setattr(classifiers.training, "train_classifier", refuse)
    (line,) = train(*arguments, status=2).err.splitlines()
    assert line.startswith("captum-deduce: error: ")
    assert words in line


@pytest.mark.parametrize("dataset", ["mnist", "cifar10"])
def test_missing_data_is_said_with_the_place(dataset, tmp_path, capsys):
    arguments = ["train", "--dataset", dataset, "--data-root", str(tmp_path / "nowhere")]
    assert main([*arguments, "--output", str(tmp_path / "c.safetensors")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("captum-deduce: error: ")
    assert str(tmp_path / "nowhere") in line


@pytest.mark.parametrize(
    ("name", "kind", "takes"),
    [("autoencoder", Autoencoder, (1, 8, 8)), ("vae", VAE, (1, 8, 8)), ("wgan", WGAN, (64,))],
)
def test_models_of_images_get_files_of_their_own(name, kind, takes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "--dataset", "digits", "--model", name, "--device", "cpu"]
    assert main([*arguments, "--epochs", "2"]) == 0
    printed = capsys.readouterr().out
    path = f"digits-{name}.safetensors"
    assert f"Saved: {path}" in printed
    assert f"{kind.__name__}.load('{path}')" in printed
    model = kind.load(path)
    assert model(torch.zeros(1, *takes)).shape == (1, 1, 8, 8)
    assert main(arguments) == 2
    assert f"--output {path} exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option",
    [
        ["--width", "2"],
        ["--architecture", "2"],
        ["--adversarial", "0"],
        ["--augment"],
        ["--bfloat16"],
    ],
)
def test_other_models_have_no_settings_of_a_classifier(option, capsys):
    arguments = ["train", "--dataset", "digits", "--model", "vae"]
    assert main([*arguments, *option]) == 2
    assert "are a classifier's, not of --model vae" in capsys.readouterr().err
