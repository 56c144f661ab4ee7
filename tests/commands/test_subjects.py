"""Torchvision's classifiers, from their name and a file of weights, against the model itself."""

from __future__ import annotations

import json
import socket

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from captum_deduce import ClassGaussianMixture, Counterfactuals
from captum_deduce.classifiers import FrozenModel
from captum_deduce.commands import main
from captum_deduce.reports import Explained

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISED = ["--mean", *map(str, MEAN), "--std", *map(str, STD)]
NAMES = ["cat", "dog", "horse"]


def save_weights(path, name="resnet18", **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = models.get_model(name, weights=None, num_classes=3, **settings)
    save_file({key: value.clone() for key, value in model.state_dict().items()}, path)
    return model.eval()


def normalised(images):
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.fixture
def explain(tmp_path, capsys, monkeypatch):
    """Run the command offline, without drawing, on an image of 32 x 32 pixels."""

    def no_network(*_):
        raise AssertionError("nothing may be downloaded")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(Explained, "save_picture", lambda *_: None)
    levels = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "image.png")

    def run(*arguments, architecture="torchvision:resnet18", status=0):
        words = ["explain", "--device", "cpu", "--size", "32", "--architecture", architecture]
        words += ["--weights", tmp_path / "w.safetensors", "--output", tmp_path / "out"]
        words += ["--images", tmp_path / "image.png", *arguments]
        assert main([str(word) for word in words]) == status
        captured = capsys.readouterr()
        if status:
            assert not (tmp_path / "out").exists()
            return captured.err
        result = Counterfactuals.load(tmp_path / "out" / "counterfactuals.safetensors")
        pixels = torch.from_numpy(levels).permute(2, 0, 1)[None] / 255
        torch.testing.assert_close(result.inputs, pixels, rtol=0, atol=1e-7)
        return result, captured.out

    return run


@pytest.mark.parametrize("name", ["resnet18", "mnasnet0_5", "squeezenet1_1"])
def test_without_a_density_jsma_explains_the_model_with_its_normalisation(explain, tmp_path, name):
    model = save_weights(tmp_path / "w.safetensors", name)
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    settings = ["--pixels-per-step", "300", "--max-iterations", "20", "--pixel", "site"]
    result, printed = explain(
        *NORMALISED,
        *settings,
        "--target",
        "horse",
        "--class-names",
        tmp_path / "names.txt",
        architecture=f"torchvision:{name}",
    )
    assert f"torchvision's {name}, 3 classes, 32 x 32 pixels; explained with JSMA, as" in printed
    assert result.target.tolist() == [2]
    assert result.log_density is None
    with torch.no_grad():
        scores = model(normalised(torch.cat([result.inputs, result.counterfactuals])))
    assert result.prediction[0] == scores[0].argmax()
    torch.testing.assert_close(result.confidence[0], scores[1].softmax(0)[2], rtol=1e-4, atol=1e-6)
    assert result.confidence[0] >= scores[0].softmax(0)[2]
    assert (result.attributions != 0).any()
    assert f"{NAMES[int(result.prediction)]} -> horse" in printed


def test_with_a_density_deduce_explains(explain, tmp_path):
    model = save_weights(tmp_path / "w.safetensors")
    images = torch.rand(30, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    batches = [(normalised(images), torch.arange(30) % 3)]
    density = ClassGaussianMixture.fit_loader(
        model, model.avgpool, batches, covariance_type="spherical"
    )
    density.save(tmp_path / "d.safetensors")
    result, printed = explain(
        *NORMALISED,
        "--num-classes",
        "3",
        "--target",
        "1",
        "--max-iterations",
        "3",
        "--density",
        tmp_path / "d.safetensors",
    )
    assert "explained with DeDUCE" in printed
    with torch.no_grad(), FrozenModel(model, model.avgpool) as frozen:
        features = frozen(normalised(result.counterfactuals))[1]
    torch.testing.assert_close(
        result.log_density.double(), density.log_prob(features, 1).double(), rtol=1e-3, atol=1e-2
    )


def test_names_by_index_are_read_from_json(explain, tmp_path):
    save_weights(tmp_path / "w.safetensors")
    (tmp_path / "names.json").write_text(json.dumps({"2": "horse", "0": "cat"}))
    words = [*NORMALISED, "--class-names", tmp_path / "names.json", "--max-iterations", "1"]
    assert "--class-names by index need --num-classes" in explain(*words, status=2)
    result, printed = explain(*words, "--num-classes", "3", "--target", "horse")
    assert result.target.tolist() == [2]
    assert "horse" in printed


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("n.txt", "cat\ndog\n", "--class-names must hold --num-classes 3 names, got 2"),
        ("n.json", "{", "can't be read"),
        ("n.json", "3", "must hold a list, or names by index"),
        ("n.json", '{"cat": 0, "dog": 1, "horse": 2}', "--class-names must map class indices"),
    ],
)
def test_names_that_do_not_fit_are_refused(explain, tmp_path, name, text, words):
    save_weights(tmp_path / "w.safetensors")
    (tmp_path / name).write_text(text)
    given = [*NORMALISED, "--num-classes", "3", "--class-names", tmp_path / name]
    assert words in explain(*given, status=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--mean must say how the classifier's images were normalised"),
        (["--mean", "0.5"], "--std must say how"),
        (["--mean", "0", "--std", "0"], "--std must be positive"),
        (["--mean", "0", "1", "--std", "1"], "--mean must say how"),
        (NORMALISED, "w.safetensors are not of torchvision's resnet18 with its own number of"),
        ([*NORMALISED, "--num-classes", "4"], "2 tensors are missing, unknown or of another shape"),
        ([*NORMALISED, "--num-classes", "3", "--preset", "paper"], "--preset needs a --density"),
        ([*NORMALISED, "--num-classes", "3", "--target", "4"], "--target must be one of"),
        ([*NORMALISED, "--class-names", "missing.txt"], "no file of class names at missing.txt"),
        (
            [*NORMALISED, "--num-classes", "3", "--density", "missing.safetensors"],
            "missing.safetensors",
        ),
    ],
)
def test_what_does_not_fit_is_refused(explain, tmp_path, arguments, words):
    save_weights(tmp_path / "w.safetensors")
    error = explain(*arguments, status=2)
    assert words in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18", "--architecture must be torchvision:NAME"),
        ("torchvision:resnet19", "(alexnet, "),
        ("torchvision:fasterrcnn_resnet50_fpn", "--architecture must be"),
        ("torchvision:googlenet", "can't be explained from here"),
        ("torchvision:vit_b_16", "are not of torchvision's vit_b_16"),
    ],
)
def test_other_architectures_are_refused(explain, tmp_path, name, words):
    save_weights(tmp_path / "w.safetensors")
    assert words in explain(*NORMALISED, "--num-classes", "3", architecture=name, status=2)


def test_a_size_that_the_classifier_can_not_take_is_refused(explain, tmp_path):
    save_weights(tmp_path / "w.safetensors", "alexnet")
    words = [*NORMALISED, "--num-classes", "3"]
    error = explain(*words, architecture="torchvision:alexnet", status=2)
    assert "--size must be one that the classifier takes, got 32" in error


def test_the_layer_of_a_density_must_be_there(explain, tmp_path):
    model = save_weights(tmp_path / "w.safetensors")
    batches = [(torch.rand(12, 3, 32, 32), torch.arange(12) % 3)]
    density = ClassGaussianMixture.fit_loader(
        model, model.avgpool, batches, covariance_type="spherical"
    )
    density.save(tmp_path / "d.safetensors")
    words = [*NORMALISED, "--num-classes", "3", "--density", tmp_path / "d.safetensors"]
    error = explain(*words, "--layer", "pool", status=2)
    assert "--layer must name a part of the classifier (conv1, " in error


def test_a_checkpoint_needs_nothing_else(demo, tmp_path, capsys):
    words = ["explain", "--checkpoint", demo.path, "--images", "a.png", "--mean", "0"]
    assert main([str(word) for word in words]) == 2
    assert (
        "--checkpoint says all of its classifier, but --mean was given" in capsys.readouterr().err
    )
